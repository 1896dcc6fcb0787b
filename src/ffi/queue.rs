//! The queue: events that the embedder takes itself, on its own threads, in its own loop.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use super::event::{FDX_EV_HTTP, FDX_EV_OPEN, FDX_EV_UPGRADE, event_of, fdx_event};
use super::server::fdx_server;
use super::status::*;
use super::{bytes, guard, guard_or, handle, struct_out};
use crate::engine::connection::Release;
use crate::engine::event::EventKind;
use crate::engine::turn::{EventView, Handler, Turn};
use crate::id::ConnId;
use crate::server::delivery::{Batch, Polled, Queue, Record};

/// Events that were polled, and the memory they lie in.
pub struct fdx_batch {
    /// Whose queue it came from: it can be given back after the last `fdx_server_unref`.
    owner: Arc<fdx_server>,
    queue: usize,
    batch: Batch<fdx_event>,
}

/// What is in a batch. Set `struct_size` to `sizeof(fdx_batch_view)`. All pointers are valid until
/// `fdx_batch_free`.
#[repr(C)]
pub struct fdx_batch_view {
    pub struct_size: u32,
    pub reserved: u32,
    /// The first event; the next is `stride` bytes further on.
    pub events: *const fdx_event,
    pub count: usize,
    /// The size of an event, which a later version may make larger.
    pub stride: usize,
    /// The `data` of every event lies in this block.
    pub block: *const u8,
    pub block_len: usize,
    /// To be given to `fdx_batch_free`.
    pub batch: *mut fdx_batch,
}

/// Takes events out of a queue, in their order. [wait] With "dispatch" = "queue" this is how all
/// events come; no callback is called. At most `max_events` come (0: as many as lie together); waits up
/// to `timeout_ms` for the first (0: not at all; negative: for ever). One thread at a time polls a
/// queue, or events of one connection are handled by two at once.
///
/// Every batch must be given back with `fdx_batch_free`: what is in it counts as unread, so that an
/// embedder that does not keep up stops its peers (option "recv.high_water"), and requests are
/// kept for it.
///
/// A queue has the events of the connections that belong to it, and FDX_EV_STOPPED as its last;
/// the server's other own events come in queue 0. FDX_EV_THREAD_START and FDX_EV_THREAD_STOP don't
/// come.
///
/// `FDX_OK`: there is at least one event; `FDX_E_TIMEOUT`: there is none; `FDX_E_INTERRUPTED` after
/// `fdx_wake`; `FDX_E_STOPPED` after FDX_EV_STOPPED was taken; `FDX_E_STATE` if "dispatch" is not
/// "queue"; `FDX_E_NOT_FOUND` for a queue that is not there; `FDX_E_DEADLOCK` for waiting on a
/// thread of the same server (in a log function); `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live, and stays so until this returns; `view` has its `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_poll(
    server: *mut fdx_server,
    queue: u32,
    max_events: usize,
    timeout_ms: i32,
    view: *mut fdx_batch_view,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        // SAFETY: promised by the caller: it begins with its size.
        let size = unsafe { view.cast::<u32>().as_ref() }.ok_or(FDX_E_INVALID_ARG)?;
        if (*size as usize) < size_of::<fdx_batch_view>() {
            // Without room for the batch it could not be given back.
            return Err(FDX_E_INVALID_ARG);
        }
        let polled = queue_of(handle, queue)?;
        if timeout_ms != 0 && handle.server.is_own_thread() {
            return Err(FDX_E_DEADLOCK);
        }
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let most = if max_events == 0 { usize::MAX } else { max_events };
        let batch = match polled.poll(most, timeout) {
            Polled::Batch(batch) => batch,
            Polled::TimedOut => return Err(FDX_E_TIMEOUT),
            Polled::Woken => return Err(FDX_E_INTERRUPTED),
            Polled::Stopped => return Err(FDX_E_STOPPED),
        };
        // SAFETY: `server` is live, as promised.
        let owner = unsafe { super::server::owner(server) };
        let mut batch = Box::new(fdx_batch { owner, queue: queue as usize, batch });
        let (events, block) = batch.batch.parts();
        for event in &mut *events {
            event.data = block.as_ptr().wrapping_add(event.data.addr());
        }
        let value = fdx_batch_view {
            struct_size: 0,
            reserved: 0,
            events: events.as_ptr(),
            count: events.len(),
            stride: size_of::<fdx_event>(),
            block: block.as_ptr(),
            block_len: block.len(),
            batch: Box::into_raw(batch),
        };
        // SAFETY: promised by the caller, and checked above.
        unsafe { struct_out(value, view) }
    })
}

/// Gives a batch back, with all that its events point to. [any] In any order, and also when the
/// server is gone. NULL is accepted. Connections that were not read because of it are read on.
///
/// # Safety
/// `batch` is null or comes from `fdx_poll`, and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_batch_free(batch: *mut fdx_batch) {
    guard_or((), || {
        // SAFETY: promised by the caller.
        let is_nothing = unsafe { batch.as_ref() }.is_none_or(|batch| batch.owner.is_forked());
        if is_nothing {
            // In a forked child it is a copy of the parent's, who frees it.
            return;
        }
        // SAFETY: `fdx_poll` made it, and the caller gives it back.
        let fdx_batch { owner, queue, batch } = *unsafe { Box::from_raw(batch) };
        for event in batch.events().iter().filter(|event| is_about_request(event)) {
            owner.queues[queue].forget_request(ConnId::from_u64(event.conn));
        }
        let events = batch.events().iter();
        owner.server.freed(events.map(|event| (ConnId::from_u64(event.conn), unread_bytes(event.len))));
        if owner.queues[queue].free(batch) {
            owner.server.let_in_again();
        }
    });
}

/// Makes a poll that waits, or else the next, return `FDX_E_INTERRUPTED`. [any] `fdx_queue_fd`
/// becomes readable.
///
/// `FDX_OK`; `FDX_E_STATE` if "dispatch" is not "queue"; `FDX_E_NOT_FOUND`; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_wake(server: *mut fdx_server, queue: u32) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let polled = queue_of(unsafe { handle(server) }?, queue)?;
        signs::without_sigpipe(|| polled.wake());
        Ok(FDX_OK)
    })
}

/// A descriptor that is readable while the queue is not empty, for poll, epoll, kqueue or the event
/// loop of your language. [any] Only wait for it: don't read or close it. It is the server's, up to the
/// last `fdx_server_unref`; call `fdx_poll` with a timeout of 0 when it is readable. It may be readable
/// once more than there is something: then that is `FDX_E_TIMEOUT`.
///
/// `FDX_OK`; `FDX_E_STATE` if "dispatch" is not "queue"; `FDX_E_NOT_FOUND`; `FDX_E_IO` without
/// descriptors; `FDX_E_UNSUPPORTED` elsewhere than on Linux (see `fdx_queue_notify_fd`);
/// `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `out_fd` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_queue_fd(server: *mut fdx_server, queue: u32, out_fd: *mut isize) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        if out_fd.is_null() {
            return Err(FDX_E_INVALID_ARG);
        }
        let polled = queue_of(handle, queue)?;
        let fd = polled.lamp(signs::lamp)?;
        // SAFETY: promised by the caller.
        unsafe { out_fd.write(fd) };
        Ok(FDX_OK)
    })
}

/// Writes `len` bytes (1 to 16) of yours to a descriptor of yours whenever the queue changes from
/// empty to not empty, and at once if it is not empty: for loops that are woken by a pipe, a
/// socket or an eventfd. [any] Poll until `FDX_E_TIMEOUT` after each. The descriptor must not block
/// (O_NONBLOCK); it is duplicated. A later call replaces it, one with -1 takes it back.
///
/// `FDX_OK`; `FDX_E_INVALID_ARG`, also for a descriptor that may block; `FDX_E_STATE` if "dispatch"
/// is not "queue"; `FDX_E_NOT_FOUND`; `FDX_E_UNSUPPORTED` where there are no descriptors.
///
/// # Safety
/// `server` is live; `payload` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_queue_notify_fd(
    server: *mut fdx_server,
    queue: u32,
    fd: isize,
    payload: *const c_void,
    len: usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, payload) = unsafe { (handle(server)?, bytes(payload, len)?) };
        let polled = queue_of(handle, queue)?;
        let bell = if fd == -1 { None } else { Some(signs::bell(fd, payload)?) };
        signs::without_sigpipe(|| polled.set_bell(bell));
        Ok(FDX_OK)
    })
}

fn queue_of(handle: &fdx_server, queue: u32) -> Result<&Queue<fdx_event>, fdx_status> {
    if handle.queues.is_empty() {
        return Err(FDX_E_STATE);
    }
    handle.queues.get(queue as usize).ok_or(FDX_E_NOT_FOUND)
}

/// Puts what a shard delivers into the queues.
pub struct Enqueuer {
    owner: Arc<fdx_server>,
    /// This turn's, for each queue.
    batches: Vec<Batch<fdx_event>>,
    is_last: bool,
}

impl Enqueuer {
    pub fn new(owner: Arc<fdx_server>) -> Self {
        let batches = owner.queues.iter().map(|_| Batch::default()).collect();
        Self { owner, batches, is_last: false }
    }
}

impl Handler for Enqueuer {
    fn handle(&mut self, turn: &mut Turn<'_>, view: &EventView<'_>) {
        match view.kind {
            // Nobody is called on this thread.
            EventKind::ThreadStart | EventKind::ThreadStop => return,
            EventKind::Stopped => {
                self.is_last = true;
                for batch in &mut self.batches {
                    batch.push(&[], |start| placed(event_of(&self.owner, view), start));
                }
                return;
            }
            _ => {}
        }
        let queue = self.owner.queue_of(view.conn);
        let batch = &mut self.batches[queue];
        let mut event = event_of(&self.owner, view);
        let mut payload = view.payload;
        if !batch.has_room(payload.len()) {
            // Coming and going is told in any case; what a message says is not left out.
            if !matches!(view.kind, EventKind::Open | EventKind::Close { .. }) {
                return turn.lack_memory(view.conn);
            }
            (payload, event.len) = (&[], 0);
        }
        batch.push(payload, |start| placed(event, start));
        if view.conn == ConnId::NONE {
            return;
        }
        turn.count_unread(view.conn, unread_bytes(payload.len()));
        if is_about_request(&event) {
            if let Ok(request) = self.owner.server.request(view.conn) {
                self.owner.queues[queue].keep_request(view.conn, request);
            }
        }
    }

    fn discard(&mut self, conn: ConnId, word: Box<dyn Release>) {
        self.batches[self.owner.queue_of(conn)].keep(word);
    }

    fn end(&mut self) {
        for (batch, queue) in self.batches.iter_mut().zip(&self.owner.queues) {
            queue.put(batch, self.is_last);
        }
    }

    fn is_crowded(&self) -> bool {
        self.owner.queues.iter().any(Queue::is_crowded)
    }
}

// SAFETY: an event is plain data; what its pointers point to has rules of its own.
unsafe impl Send for fdx_event {}

/// Until it is polled, an event's `data` is its place in the block.
impl Record for fdx_event {
    fn shift(&mut self, by: usize) {
        self.data = std::ptr::without_provenance(self.data.addr() + by);
    }

    fn is_arrival(&self) -> bool {
        is_about_request(self)
    }
}

fn placed(event: fdx_event, start: usize) -> fdx_event {
    fdx_event { data: std::ptr::without_provenance(start), ..event }
}

fn is_about_request(event: &fdx_event) -> bool {
    matches!(u32::from(event.r#type), FDX_EV_UPGRADE | FDX_EV_OPEN | FDX_EV_HTTP)
}

/// What an event counts against "recv.high_water": it can be short and is never nothing.
fn unread_bytes(payload_len: usize) -> usize {
    size_of::<fdx_event>() + payload_len
}

/// How event loops are told of a queue.
#[cfg(unix)]
mod signs {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use socket2::SockRef;

    use crate::ffi::server::duplicate;
    use crate::ffi::status::*;
    use crate::server::delivery::{Bell, Lamp};

    /// An eventfd: readable while it counts anything.
    #[cfg(target_os = "linux")]
    struct EventFd(File);

    #[cfg(target_os = "linux")]
    impl Lamp for EventFd {
        fn light(&self) {
            let _ = (&self.0).write(&1_u64.to_ne_bytes());
        }

        fn put_out(&self) {
            let _ = (&self.0).read(&mut [0; 8]);
        }

        fn descriptor(&self) -> isize {
            self.0.as_raw_fd() as isize
        }
    }

    #[cfg(target_os = "linux")]
    pub fn lamp() -> Result<Box<dyn Lamp>, fdx_status> {
        // SAFETY: it only makes a descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(FDX_E_IO);
        }
        // SAFETY: it was made above and is nobody else's.
        Ok(Box::new(EventFd(unsafe { OwnedFd::from_raw_fd(fd) }.into())))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn lamp() -> Result<Box<dyn Lamp>, fdx_status> {
        Err(FDX_E_UNSUPPORTED)
    }

    /// The embedder's own.
    struct Notice {
        file: File,
        payload: Vec<u8>,
    }

    impl Bell for Notice {
        fn ring(&self) {
            // Full means that it was told already.
            let sent = SockRef::from(&self.file).send_with_flags(&self.payload, libc::MSG_NOSIGNAL);
            if sent.is_err_and(|error| error.raw_os_error() == Some(libc::ENOTSOCK)) {
                let _ = (&self.file).write(&self.payload);
            }
        }
    }

    pub fn bell(fd: isize, payload: &[u8]) -> Result<Box<dyn Bell>, fdx_status> {
        let fd = i32::try_from(fd).map_err(|_| FDX_E_INVALID_ARG)?;
        // SAFETY: it only asks, whatever the number is.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
        let is_usable = flags >= 0 && flags & libc::O_NONBLOCK != 0;
        if !is_usable || !(1..=NOTICE_BYTES_MAX).contains(&payload.len()) {
            return Err(FDX_E_INVALID_ARG);
        }
        let file = duplicate(fd).map_err(|_| FDX_E_IO)?.into();
        Ok(Box::new(Notice { file, payload: payload.to_vec() }))
    }

    /// Runs something that may write to a pipe which nobody reads any more: on a thread of the
    /// embedder's, whose signals are not ours to raise.
    pub fn without_sigpipe(run: impl FnOnce()) {
        // SAFETY: the sets are initialised by the calls before they are read, and the mask is put
        // back.
        unsafe {
            let (mut pipe, mut before, mut pending) = std::mem::zeroed();
            libc::sigemptyset(&mut pipe);
            libc::sigaddset(&mut pipe, libc::SIGPIPE);
            libc::sigpending(&mut pending);
            libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut before);
            run();
            let was_there = libc::sigismember(&pending, libc::SIGPIPE) == 1;
            libc::sigpending(&mut pending);
            if !was_there && libc::sigismember(&pending, libc::SIGPIPE) == 1 {
                let mut signal = 0;
                libc::sigwait(&pipe, &mut signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        }
    }

    const NOTICE_BYTES_MAX: usize = 16;
}

#[cfg(not(unix))]
mod signs {
    use crate::ffi::status::*;
    use crate::server::delivery::{Bell, Lamp};

    pub fn lamp() -> Result<Box<dyn Lamp>, fdx_status> {
        Err(FDX_E_UNSUPPORTED)
    }

    pub fn bell(_: isize, _: &[u8]) -> Result<Box<dyn Bell>, fdx_status> {
        Err(FDX_E_UNSUPPORTED)
    }

    pub fn without_sigpipe(run: impl FnOnce()) {
        run();
    }
}
