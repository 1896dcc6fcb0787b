//! The kernel, as the engine sees it: the contract that every driver keeps.
//!
//! It has the shape of completions: the driver reads and writes, and reports what came of it.
//! `mio` asks the real kernel, `sim` invents one from a seed. Between two waits the engine
//! owns what was read, so that payloads can be lent on without a copy.

pub mod listen;
pub mod mio;
pub mod outbox;
pub mod sim;
// The architectures that the crate io-uring knows.
#[cfg_attr(
    not(all(
        target_os = "linux",
        any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            target_arch = "riscv64",
            target_arch = "loongarch64",
            target_arch = "powerpc64"
        )
    )),
    path = "no_uring.rs"
)]
#[allow(unsafe_code)]
pub mod uring;

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use self::listen::ListenSocket;
use crate::buffer::Buffer;
use crate::id::{Slot, Time};

/// One shard's way to the kernel. A connection is known by its slot from `adopt` to `close`.
pub trait Driver {
    /// A connection that is accepted and has no slot yet. It may go to another shard's thread.
    type Socket: Send + 'static;

    fn now(&self) -> Time;

    /// Comes before the first wait, from the thread of all waits.
    fn begin(&mut self);

    /// Waits until something happens, `wake` is called or the time has come, and reads what
    /// there is to read, within the batch's memory: once from each connection, since what follows
    /// may have to go into memory that is lent for it.
    fn wait(&mut self, until: Time, batch: &mut Batch<Self::Socket>) -> io::Result<()>;

    /// Lets time pass: the last wait has failed, and trying again at once would only spin.
    fn pause(&mut self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Ends a wait from another thread.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Gives a connection its slot and begins to read from it.
    fn adopt(&mut self, slot: Slot, socket: Self::Socket) -> io::Result<()>;

    /// Writes what the kernel takes now. When that is not all, [`Completion::Sendable`] follows
    /// as soon as there is room. `chunks` is never empty.
    fn send(&mut self, slot: Slot, chunks: &[IoSlice<'_>]) -> io::Result<usize>;

    /// From so many connections on that have something to send, [`Driver::send_each`] is cheaper
    /// than a `send` to each.
    fn sends_together_min(&self) -> usize {
        usize::MAX
    }

    /// Does what `send` does for several connections, and tells in `sent` what came of each.
    fn send_each(&mut self, sends: &Sends<'_>, sent: &mut Vec<Sent>) {
        for (slot, chunks) in sends.iter() {
            sent.push(Sent::new(slot, chunks, self.send(slot, chunks)));
        }
    }

    /// The next bytes of this connection, at most `len`, go to the end of `buffer` and come
    /// back with it in [`Completion::Filled`].
    fn lend(&mut self, slot: Slot, buffer: Buffer, len: usize);

    /// While reading is off the peer's bytes stay in the kernel, and TCP slows it down.
    fn set_reading(&mut self, slot: Slot, on: bool);

    /// Ends our half of the stream (FIN). Reading goes on.
    fn finish(&mut self, slot: Slot);

    /// Ends the connection and gives back what was lent. With `reset` the peer gets an RST and
    /// the kernel forgets what it has not sent yet.
    fn close(&mut self, slot: Slot, reset: bool) -> Option<Buffer>;

    /// Accepts connections from this socket, too, under a number of the server's choice; those of
    /// a `secure` one speak TLS.
    fn listen(&mut self, id: u32, socket: ListenSocket, secure: bool) -> io::Result<()>;

    /// Ends listening at one socket. Connections accepted from it go on.
    fn unlisten(&mut self, id: u32);

    /// While accepting is off those who connect wait in the kernel.
    fn set_accepting(&mut self, on: bool);

    /// Ends all listening.
    fn stop_listening(&mut self);
}

/// What is to be sent to several connections, once to each.
pub struct Sends<'a> {
    slices: [IoSlice<'a>; SLICES_MAX],
    /// Each connection, and where its slices end.
    ends: [(Slot, usize); SENDS_MAX],
    count: usize,
}

/// What came of one of several sends.
pub struct Sent {
    pub slot: Slot,
    pub offered: usize,
    pub result: io::Result<usize>,
}

impl<'a> Sends<'a> {
    /// False: it has no room left for these.
    pub fn push(&mut self, slot: Slot, chunks: &[IoSlice<'a>]) -> bool {
        let start = self.start_of(self.count);
        let room = &mut self.slices[start..];
        if self.count == SENDS_MAX || room.len() < chunks.len() {
            return false;
        }
        room[..chunks.len()].copy_from_slice(chunks);
        self.ends[self.count] = (slot, start + chunks.len());
        self.count += 1;
        true
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (Slot, &[IoSlice<'a>])> {
        (0..self.count).map(|index| {
            let (slot, end) = self.ends[index];
            (slot, &self.slices[self.start_of(index)..end])
        })
    }

    fn start_of(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before].1)
    }
}

impl Default for Sends<'_> {
    fn default() -> Self {
        Self { slices: [IoSlice::new(&[]); SLICES_MAX], ends: [(0, 0); SENDS_MAX], count: 0 }
    }
}

impl Sent {
    fn new(slot: Slot, chunks: &[IoSlice<'_>], result: io::Result<usize>) -> Self {
        Self { slot, offered: chunks.iter().map(|chunk| chunk.len()).sum(), result }
    }
}

/// Ends a wait. Calls that come before the wait count, too.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// What one wait brought.
pub struct Batch<S> {
    /// Where the bytes just read lie until the next wait.
    pub arena: Vec<u8>,
    pub completions: Vec<Completion>,
    pub accepted: Vec<Accepted<S>>,
    /// A listener could not accept; it is tried again after a pause.
    pub listener_trouble: Option<io::Error>,
}

impl<S> Batch<S> {
    pub fn new(arena_bytes: usize) -> Self {
        Self {
            arena: vec![0; arena_bytes],
            completions: Vec::new(),
            accepted: Vec::new(),
            listener_trouble: None,
        }
    }
}

/// Something that happened to a connection.
#[derive(Debug)]
pub enum Completion {
    /// `len` bytes lie in the arena from `start` on.
    Received { slot: Slot, start: usize, len: usize },
    /// `len` more bytes lie after what the lent buffer held.
    Filled { slot: Slot, buffer: Buffer, len: usize },
    /// After a short `send`: there is room again.
    Sendable { slot: Slot },
    /// The peer has ended its half of the stream.
    Finished { slot: Slot },
    /// The connection is broken.
    Failed { slot: Slot, error: io::ErrorKind },
}

/// A new connection.
pub struct Accepted<S> {
    pub socket: S,
    pub peer: Endpoint,
    pub local: Endpoint,
    /// It begins with a TLS handshake.
    pub secure: bool,
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Endpoint {
    Internet(SocketAddr),
    /// A Unix socket: whoever is there has no address.
    Unix,
}

impl Endpoint {
    /// IPv4 in IPv6's clothes is told as IPv4.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Internet(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// 0: none, or not known.
    pub fn port(self) -> u16 {
        match self {
            Self::Internet(address) => address.port(),
            Self::Unix => 0,
        }
    }
}

/// Without the port.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(ip) => write!(f, "{ip}"),
            None => f.write_str("unix"),
        }
    }
}

/// So many sends are told of at once.
pub const SENDS_MAX: usize = 64;
/// With so many slices in all; a head and a long payload are two.
const SLICES_MAX: usize = 2 * SENDS_MAX;
