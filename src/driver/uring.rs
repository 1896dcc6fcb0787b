//! Many sends with one system call: a small io_uring, used for nothing else.
//!
//! All of them are submitted and answered inside one `io_uring_enter`: they must not wait
//! (MSG_DONTWAIT), so that the kernel answers each when it takes it, as `sendmsg` would. What the
//! ring has not answered was not sent. A container may forbid io_uring, old kernels have none, and
//! a ring that has failed once is closed: then each send is a system call again.
//!
//! The one file besides `ffi` that may hold `unsafe`: what is submitted has pointers to the bytes.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::thread;

use io_uring::types::Fd;
use io_uring::{IoUring, Probe, opcode};
use log::debug;
use socket2::SockRef;

use super::SENDS_MAX;

/// One thread's ring, or none.
#[derive(Default)]
pub struct SendRing(Option<Box<IoUring>>);

/// What came of each send, as the kernel says it. `None`: it was not sent.
pub type Answers = [Option<i32>; SENDS_MAX];

/// Do this kernel and those who watch over this process allow it?
pub fn is_there() -> bool {
    // In a thread of its own, for the reason that `SendRing::open` names.
    let asking = thread::Builder::new().spawn(|| open().is_ok());
    asking.is_ok_and(|asking| asking.join().unwrap_or(false))
}

impl SendRing {
    /// For the thread that calls this, and not for another: when a ring is closed the kernel
    /// interrupts whatever call its opener waits in.
    pub fn open() -> Self {
        Self(open().map_or_else(without, |ring| Some(Box::new(ring))))
    }

    pub fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Sends to each of these, [`SENDS_MAX`] at most, what it takes at once.
    pub fn send_each<'a>(
        &mut self,
        sends: impl Iterator<Item = (SockRef<'a>, &'a [IoSlice<'a>])>,
    ) -> Answers {
        let mut answers = [None; SENDS_MAX];
        // Out of it, so that a panic in the midst leaves no ring behind.
        if let Some(mut ring) = self.0.take() {
            self.0 = send_each(&mut ring, sends, &mut answers).map_or_else(without, |()| Some(ring));
        }
        answers
    }
}

fn without(error: io::Error) -> Option<Box<IoUring>> {
    debug!(target: "fullduplex::driver", "no io_uring, so each send is a system call: {error}");
    None
}

fn open() -> io::Result<IoUring> {
    let entries = SENDS_MAX as u32;
    // One thread uses it, and nothing happens behind its back: cheaper, where it can be said
    // (Linux 6.1).
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)
        .or_else(|_| IoUring::new(entries))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match probe.is_supported(opcode::SendMsg::CODE) && probe.is_supported(opcode::Send::CODE) {
        true => Ok(ring),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// An error means that what has no answer was not sent, and that the ring is not to be used again.
fn send_each<'a>(
    ring: &mut IoUring,
    sends: impl Iterator<Item = (SockRef<'a>, &'a [IoSlice<'a>])>,
    answers: &mut Answers,
) -> io::Result<()> {
    let (submitter, mut submissions, mut completions) = ring.split();
    let mut messages = [const { MaybeUninit::<libc::msghdr>::uninit() }; SENDS_MAX];
    let mut unanswered = 0;
    for ((index, (socket, chunks)), message) in sends.enumerate().zip(&mut messages) {
        let fd = Fd(socket.as_raw_fd());
        let entry = match chunks {
            [chunk] => {
                let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
                opcode::Send::new(fd, chunk.as_ptr(), len).flags(SEND_FLAGS as i32).build()
            }
            _ => {
                // "IoSlice is guaranteed to be ABI compatible with the iovec type on Unix
                // platforms"; the kernel only reads it.
                // SAFETY: a message without address, slices and control data is all zeros.
                let message = message.write(unsafe { std::mem::zeroed() });
                message.msg_iov = chunks.as_ptr().cast::<libc::iovec>().cast_mut();
                message.msg_iovlen = chunks.len() as _;
                opcode::SendMsg::new(fd, message).flags(SEND_FLAGS).build()
            }
        };
        // SAFETY: socket and bytes are borrowed for longer than this function runs, and `messages`
        // is its own. The kernel takes entries in `submit_and_wait`, from where on nothing panics
        // and nothing returns before each that it took is answered. What it has not taken it never
        // will: after an error, or a panic of `sends`, the ring is closed.
        if unsafe { submissions.push(&entry.user_data(index as u64)) }.is_err() {
            break;
        }
        unanswered += 1;
    }
    submissions.sync();
    while unanswered > 0 {
        let entered = submitter.submit_and_wait(unanswered);
        completions.sync();
        for completion in &mut completions {
            if let Some(answer) = answers.get_mut(completion.user_data() as usize) {
                *answer = Some(completion.result());
                unanswered -= 1;
            }
        }
        submissions.sync();
        let is_untaken = submissions.len() == unanswered;
        match entered {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_untaken && unanswered > 0 => return Err(error),
            Ok(0) if is_untaken && unanswered > 0 => return Err(io::ErrorKind::WriteZero.into()),
            // What the kernel has taken it answers, and until then its memory must stay.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// A host with SIGPIPE at its default would die of a peer that left.
const SEND_FLAGS: u32 = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
