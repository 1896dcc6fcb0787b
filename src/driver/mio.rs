//! The real kernel, by mio: epoll where it is to be had, edge-triggered.
//!
//! One read per connection and wait, into memory shared by all: a short read means the kernel
//! has no more, so that a small message costs one `recv` and one `send`.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
#[cfg(not(unix))]
use std::io::{Read, Write};
use std::net::Shutdown;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitflags::bitflags;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use once_cell::sync::Lazy;
#[cfg(unix)]
use rustix::net::{RecvFlags, SendFlags};
#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

use super::listen::ListenSocket;
use super::uring::SendRing;
use super::{Accepted, Batch, Completion, Driver, Endpoint, Sends, Sent, Wake};
use crate::buffer::Buffer;
use crate::config::DriverOptions;
use crate::id::{Slot, Time};

pub struct MioDriver {
    /// When the last wait ended. The next one begins moments later and counts from here, so
    /// that a turn reads the clock once.
    now: Time,
    /// Before it sleeps a wait keeps looking, until so long after the last news.
    spin: Duration,
    news_at: Time,
    poll: Poll,
    events: Events,
    waker: Arc<MioWaker>,
    /// By their token; a place is free again when its listener has gone.
    listeners: Vec<Option<Listener>>,
    accepting: bool,
    /// At one of the listeners somebody may wait.
    has_callers: bool,
    /// No accepting before this time: the process was out of descriptors.
    accept_after: Time,
    connections: Vec<Option<Connection>>,
    /// Memory to read the rest of long frames into: few need it at a time.
    lent: HashMap<Slot, Lent>,
    /// Connections that the kernel has something for.
    ready: VecDeque<Slot>,
    /// For many sends at once, from so many on.
    ring: SendRing,
    sends_together_min: usize,
}

struct Listener {
    id: u32,
    socket: MioListener,
    local: Endpoint,
    secure: bool,
    is_ready: bool,
}

enum MioListener {
    Tcp {
        socket: TcpListener,
        /// What it accepts has TCP_NODELAY already.
        gives_nodelay: bool,
    },
    #[cfg(unix)]
    Unix(UnixListener),
}

/// A connection of any family.
pub enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

struct Connection {
    stream: Stream,
    /// In one byte, because every connection has room for them.
    facts: Facts,
}

bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Facts: u8 {
        /// The engine has lent memory for what comes next; see `MioDriver::lent`.
        const HAS_LENT = 1 << 0;
        /// The engine wants to read.
        const READING = 1 << 1;
        /// The kernel has said that there is something, and we have not seen the end of it.
        const READABLE = 1 << 2;
        /// In `ready`.
        const QUEUED = 1 << 3;
        /// The peer's FIN is behind what can still be read.
        const READ_CLOSED = 1 << 4;
        /// A send was short; the engine waits for `Sendable`.
        const SENDING = 1 << 5;
        /// Its last message was read into lent memory, and so the next may be.
        const LONG = 1 << 6;
    }
}

struct Lent {
    buffer: Buffer,
    len: usize,
}

/// What a turn has read so far.
#[derive(Default)]
struct Share {
    arena_bytes: usize,
    lent_bytes: usize,
}

impl Share {
    /// How much may be read into the arena at once. 0: the turn has enough to do; the rest comes
    /// with the next.
    #[inline]
    fn window<S>(&self, batch: &Batch<S>) -> usize {
        let left = batch.arena.len() - self.arena_bytes;
        if left < READ_BYTES_MIN || self.lent_bytes >= LENT_BYTES_PER_TURN {
            return 0;
        }
        left.min(READ_BYTES_MAX)
    }
}

impl Connection {
    /// Reads once, if there is something and the engine wants it.
    #[inline]
    fn read<S>(
        &mut self,
        slot: Slot,
        lents: &mut HashMap<Slot, Lent>,
        batch: &mut Batch<S>,
        share: &mut Share,
    ) {
        if !self.facts.contains(Facts::READING | Facts::READABLE) {
            return;
        }
        if self.facts.contains(Facts::HAS_LENT) {
            return self.read_lent(slot, lents, batch, share);
        }
        let (start, mut room_len) = (share.arena_bytes, share.window(batch));
        if self.facts.contains(Facts::LONG) {
            // What comes before there is lent memory for it must be copied into that.
            room_len = room_len.min(LONG_BEGINNING_BYTES);
        }
        match self.stream.read(&mut batch.arena[start..start + room_len]) {
            Ok(len) if len > 0 => {
                batch.completions.push(Completion::Received { slot, start, len });
                // Words are unmasked eight bytes at a time.
                share.arena_bytes = (start + len).next_multiple_of(8).min(batch.arena.len());
                self.has_read(len, room_len);
            }
            ended => self.has_read_nothing(slot, ended, batch),
        }
    }

    fn read_lent<S>(
        &mut self,
        slot: Slot,
        lents: &mut HashMap<Slot, Lent>,
        batch: &mut Batch<S>,
        share: &mut Share,
    ) {
        let Some(mut lent) = lents.remove(&slot) else { return };
        let room_len = lent.len;
        match self.stream.read(lent.buffer.lent_room(room_len)) {
            Ok(len) if len > 0 => {
                self.facts.remove(Facts::HAS_LENT);
                batch.completions.push(Completion::Filled { slot, buffer: lent.buffer, len });
                share.lent_bytes += len;
                self.has_read(len, room_len);
                self.facts.insert(Facts::LONG);
            }
            ended => {
                lents.insert(slot, lent);
                self.has_read_nothing(slot, ended, batch);
            }
        }
    }

    /// "if the read(2) returns less than asked for, the I/O space is exhausted" (epoll(7)); only a
    /// FIN behind it would go unnoticed.
    #[inline]
    fn has_read(&mut self, len: usize, room_len: usize) {
        if len < room_len {
            self.facts.remove(Facts::LONG);
            if !self.facts.contains(Facts::READ_CLOSED) {
                self.facts.remove(Facts::READABLE);
            }
        }
    }

    fn has_read_nothing<S>(&mut self, slot: Slot, ended: io::Result<usize>, batch: &mut Batch<S>) {
        let Err(error) = ended else {
            self.facts.remove(Facts::READABLE);
            return batch.completions.push(Completion::Finished { slot });
        };
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => self.facts.remove(Facts::READABLE),
            kind => {
                self.facts.remove(Facts::READABLE);
                batch.completions.push(Completion::Failed { slot, error: kind });
            }
        }
    }
}

impl MioDriver {
    pub fn new(options: &DriverOptions) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(MioWaker(Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            now: clock(),
            spin: options.spin,
            news_at: Time::default(),
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            listeners: Vec::new(),
            accepting: true,
            has_callers: false,
            accept_after: Time::default(),
            connections: Vec::new(),
            lent: HashMap::new(),
            ready: VecDeque::new(),
            ring: SendRing::default(),
            sends_together_min: options.sends_together_min,
        })
    }

    /// Asks the kernel until something happens or the time has come.
    fn poll(&mut self, until: Time) -> io::Result<()> {
        if self.spin > Duration::ZERO {
            return self.spin_and_poll(until);
        }
        let timeout = if until == Time::NEVER { None } else { Some(until.since(self.now)) };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.now = clock();
        polled
    }

    fn spin_and_poll(&mut self, until: Time) -> io::Result<()> {
        let asleep_at = self.news_at.after(self.spin);
        loop {
            let timeout = match until {
                _ if self.now < asleep_at => Some(Duration::ZERO),
                Time::NEVER => None,
                until => Some(until.since(self.now)),
            };
            let polled = self.poll.poll(&mut self.events, timeout);
            self.now = clock();
            if !self.events.is_empty() {
                self.news_at = self.now;
            }
            let is_over = !self.events.is_empty() || self.now >= until || timeout != Some(Duration::ZERO);
            if is_over || polled.is_err() {
                return polled;
            }
        }
    }

    /// Takes what the kernel reports into the state of listeners and connections. With `reads` each
    /// is read from there and then, while there is room.
    fn note_events<S>(&mut self, batch: &mut Batch<S>, share: &mut Share, reads: bool) {
        for event in &self.events {
            let Token(number) = event.token();
            let Some(Some(connection)) = self.connections.get_mut(number) else {
                // The waker's is above the listeners'.
                let place = FIRST_LISTENER.0.checked_sub(number);
                if let Some(listener) = place.and_then(|place| self.listeners.get_mut(place)?.as_mut()) {
                    listener.is_ready = true;
                    self.has_callers = true;
                }
                continue;
            };
            let slot = number as Slot;
            if event.is_writable() && connection.facts.contains(Facts::SENDING) {
                connection.facts.remove(Facts::SENDING);
                batch.completions.push(Completion::Sendable { slot });
            }
            if event.is_error() && !connection.facts.contains(Facts::READING) {
                // Nobody reads, so nobody would see it.
                batch.completions.push(Completion::Failed { slot, error: io::ErrorKind::ConnectionReset });
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                connection.facts.insert(Facts::READABLE);
                if event.is_read_closed() {
                    connection.facts.insert(Facts::READ_CLOSED);
                }
                if reads && share.window(batch) > 0 {
                    connection.read(slot, &mut self.lent, batch, share);
                }
                queue(connection, slot, &mut self.ready);
            }
        }
    }

    /// Goes on with those for whom the last turn had no room.
    fn read_ready<S>(&mut self, batch: &mut Batch<S>, share: &mut Share) {
        for _ in 0..self.ready.len() {
            if share.window(batch) == 0 {
                return;
            }
            let Some(slot) = self.ready.pop_front() else { return };
            let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { continue };
            connection.facts.remove(Facts::QUEUED);
            connection.read(slot, &mut self.lent, batch, share);
            queue(connection, slot, &mut self.ready);
        }
    }

    fn accept(&mut self, now: Time, batch: &mut Batch<Stream>) {
        if now < self.accept_after {
            return;
        }
        for listener in self.listeners.iter_mut().flatten() {
            while listener.is_ready && batch.accepted.len() < ACCEPTS_MAX {
                match listener.socket.accept() {
                    Ok((socket, peer)) => {
                        batch.accepted.push(Accepted {
                            socket,
                            peer,
                            local: listener.local,
                            secure: listener.secure,
                        });
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => listener.is_ready = false,
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                        // Out of descriptors or memory. The peers wait in the backlog; trying
                        // again at once would only spin.
                        _ => {
                            self.accept_after = now.after(ACCEPT_PAUSE);
                            batch.listener_trouble = Some(error);
                            return;
                        }
                    },
                }
            }
        }
        self.has_callers = self.listeners.iter().flatten().any(|listener| listener.is_ready);
    }

    fn connection(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.connections.get_mut(slot as usize)?.as_mut()
    }
}

impl Driver for MioDriver {
    type Socket = Stream;

    fn begin(&mut self) {
        if self.sends_together_min != usize::MAX {
            self.ring = SendRing::open();
        }
    }

    fn now(&self) -> Time {
        self.now
    }

    fn wait(&mut self, mut until: Time, batch: &mut Batch<Stream>) -> io::Result<()> {
        batch.completions.clear();
        if self.has_callers && self.accepting {
            until = until.min(self.accept_after);
        }
        if !self.ready.is_empty() {
            until = self.now;
        }
        match self.poll(until) {
            Ok(()) => {}
            // A signal, or SIGCONT after a stop.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        // Each is read once in a wait, and who has waited longest is the first.
        let (mut share, is_behind) = (Share::default(), !self.ready.is_empty());
        self.note_events(batch, &mut share, !is_behind);
        if is_behind {
            self.read_ready(batch, &mut share);
        }
        if self.has_callers && self.accepting {
            self.accept(self.now, batch);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn adopt(&mut self, slot: Slot, mut stream: Stream) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(stream.source(), Token(slot as usize), interest)?;
        let index = slot as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, || None);
        }
        self.connections[index] = Some(Connection { stream, facts: Facts::READING });
        Ok(())
    }

    #[inline(always)]
    fn send(&mut self, slot: Slot, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(connection) = self.connection(slot) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let (sent, offered) = match chunks {
            [chunk] => (connection.stream.write(chunk), chunk.len()),
            _ => {
                let sent = connection.stream.sock().send_vectored_with_flags(chunks, SEND_FLAGS);
                (sent, chunks.iter().map(|chunk| chunk.len()).sum())
            }
        };
        connection.facts.set(Facts::SENDING, is_short(&sent, offered));
        sent
    }

    fn sends_together_min(&self) -> usize {
        if self.ring.is_off() { usize::MAX } else { self.sends_together_min }
    }

    fn send_each(&mut self, sends: &Sends<'_>, sent: &mut Vec<Sent>) {
        let answers = self.ring.send_each(sends.iter().map(|(slot, chunks)| {
            let connection =
                self.connections[slot as usize].as_ref().expect("only an adopted connection sends");
            (connection.stream.sock(), chunks)
        }));
        for ((slot, chunks), answer) in sends.iter().zip(answers) {
            let result = match answer.map(|answer| usize::try_from(answer).map_err(|_| -answer)) {
                Some(Ok(len)) => Ok(len),
                Some(Err(code)) if !NOT_SENT.contains(&code) => Err(io::Error::from_raw_os_error(code)),
                _ => self.send(slot, chunks),
            };
            let one = Sent::new(slot, chunks, result);
            if let Some(connection) = self.connection(slot) {
                connection.facts.set(Facts::SENDING, is_short(&one.result, one.offered));
            }
            sent.push(one);
        }
    }

    fn lend(&mut self, slot: Slot, buffer: Buffer, len: usize) {
        if let Some(connection) = self.connection(slot) {
            connection.facts.insert(Facts::HAS_LENT);
            self.lent.insert(slot, Lent { buffer, len });
        }
    }

    fn set_reading(&mut self, slot: Slot, on: bool) {
        if let Some(Some(connection)) = self.connections.get_mut(slot as usize) {
            connection.facts.set(Facts::READING, on);
            queue(connection, slot, &mut self.ready);
        }
    }

    fn finish(&mut self, slot: Slot) {
        if let Some(connection) = self.connection(slot) {
            // A peer that is gone already needs no FIN.
            let _ = connection.stream.sock().shutdown(Shutdown::Write);
        }
    }

    fn close(&mut self, slot: Slot, reset: bool) -> Option<Buffer> {
        let mut connection = self.connections.get_mut(slot as usize)?.take()?;
        // A forked child may hold the descriptor open; the kernel would go on reporting it.
        let _ = self.poll.registry().deregister(connection.stream.source());
        if connection.facts.contains(Facts::QUEUED) {
            // The next one in this slot would be read twice in a wait, and what it says after the
            // head of a long frame belongs into memory that is lent for it between the two.
            self.ready.retain(|&queued| queued != slot);
        }
        if reset {
            let _ = connection.stream.sock().set_linger(Some(Duration::ZERO));
        }
        self.lent.remove(&slot).map(|lent| lent.buffer)
    }

    fn listen(&mut self, id: u32, socket: ListenSocket, secure: bool) -> io::Result<()> {
        let (mut socket, local) = match socket {
            ListenSocket::Tcp(socket) => {
                let local = Endpoint::Internet(socket.local_addr()?);
                let inherits = cfg!(any(target_os = "linux", target_os = "android"));
                let gives_nodelay = inherits && SockRef::from(&socket).tcp_nodelay().unwrap_or(false);
                (MioListener::Tcp { socket: TcpListener::from_std(socket), gives_nodelay }, local)
            }
            #[cfg(unix)]
            ListenSocket::Unix(socket) => (MioListener::Unix(UnixListener::from_std(socket)), Endpoint::Unix),
        };
        let free = self.listeners.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.listeners.push(None);
            self.listeners.len() - 1
        });
        let token = Token(FIRST_LISTENER.0 - place);
        self.poll.registry().register(socket.source(), token, Interest::READABLE)?;
        self.listeners[place] = Some(Listener { id, socket, local, secure, is_ready: true });
        self.has_callers = true;
        Ok(())
    }

    fn unlisten(&mut self, id: u32) {
        for place in &mut self.listeners {
            if let Some(mut listener) = place.take_if(|listener| listener.id == id) {
                let _ = self.poll.registry().deregister(listener.socket.source());
            }
        }
    }

    fn set_accepting(&mut self, on: bool) {
        self.accepting = on;
    }

    fn stop_listening(&mut self) {
        for mut listener in self.listeners.drain(..).flatten() {
            let _ = self.poll.registry().deregister(listener.socket.source());
        }
    }
}

impl MioListener {
    fn accept(&self) -> io::Result<(Stream, Endpoint)> {
        match self {
            Self::Tcp { socket, gives_nodelay } => {
                let (stream, peer) = socket.accept()?;
                if !gives_nodelay {
                    // Without it a peer waits 40 ms for the second of two small messages.
                    let _ = stream.set_nodelay(true);
                }
                Ok((Stream::Tcp(stream), Endpoint::Internet(peer)))
            }
            #[cfg(unix)]
            Self::Unix(socket) => Ok((Stream::Unix(socket.accept()?.0), Endpoint::Unix)),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp { socket, .. } => socket,
            #[cfg(unix)]
            Self::Unix(socket) => socket,
        }
    }
}

// By rustix, which asks the kernel itself: libc, where a thread could be cancelled in the midst of
// it, takes more instructions for that than all of ours between two messages.
#[cfg(unix)]
impl Stream {
    #[inline]
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let (len, _) = rustix::net::recv(self.as_fd(), room, RecvFlags::empty())?;
        Ok(len)
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.as_fd(), bytes, SendFlags::from_bits_retain(SEND_FLAGS as u32))?)
    }
}

#[cfg(not(unix))]
impl Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Self::Tcp(stream) = self;
        stream.read(room)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Tcp(stream) = self;
        stream.write(bytes)
    }
}

#[cfg(unix)]
impl AsFd for Stream {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    fn sock(&self) -> SockRef<'_> {
        match self {
            Self::Tcp(stream) => stream.into(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.into(),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            #[cfg(unix)]
            Self::Unix(stream) => stream,
        }
    }
}

/// Must the engine wait for `Sendable`?
#[inline]
fn is_short(sent: &io::Result<usize>, offered: usize) -> bool {
    match sent {
        Ok(len) => *len < offered,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Enters a connection into the list of those to read from.
fn queue(connection: &mut Connection, slot: Slot, ready: &mut VecDeque<Slot>) {
    let can_be_read = Facts::READING | Facts::READABLE;
    if connection.facts.intersection(can_be_read | Facts::QUEUED) == can_be_read {
        connection.facts.insert(Facts::QUEUED);
        ready.push_back(slot);
    }
}

/// Microseconds since the first look; never 0, which is "not yet" in places. By way of libc, so that
/// what stands before libc's clocks (libfaketime) stands before this one.
fn clock() -> Time {
    Time(BEGIN.0.elapsed().as_micros() as u64 + 1)
}

/// The same some milliseconds late, and it costs next to nothing: the time of the last tick.
pub fn coarse_clock() -> Time {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Time(kernel_clock(ClockId::MonotonicCoarse).saturating_sub(BEGIN.1) + 1);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return clock();
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn kernel_clock(id: ClockId) -> u64 {
    let now = clock_gettime(id);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// The first look, also as the kernel's clock has it.
static BEGIN: Lazy<(Instant, u64)> = Lazy::new(|| {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return (Instant::now(), kernel_clock(ClockId::Monotonic));
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return (Instant::now(), 0);
});

struct MioWaker(Waker);

impl Wake for MioWaker {
    fn wake(&self) {
        // It can only fail when the eventfd's counter is full, and then a wake is pending.
        let _ = self.0.wake();
    }
}

/// One read: a message of 64 KiB with its head fits.
const READ_BYTES_MAX: usize = 128 * 1024;
/// With less room left the turn ends instead.
const READ_BYTES_MIN: usize = 16 * 1024;
/// As much as makes the engine lend.
const LONG_BEGINNING_BYTES: usize = 32 * 1024;
/// What a turn reads at most, in all.
pub const ARENA_BYTES: usize = 512 * 1024;
/// What a turn reads into lent memory.
const LENT_BYTES_PER_TURN: usize = 2 * 1024 * 1024;
/// What a turn is told at most: it bounds how long the others wait.
const EVENTS_MAX: usize = 256;
/// New connections in a turn: a storm of them must not starve the open ones.
const ACCEPTS_MAX: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const WAKER: Token = Token(usize::MAX);
const FIRST_LISTENER: Token = Token(usize::MAX - 1);
/// What io_uring says of its own: a `send` to a stream does not, or says it again.
const NOT_SENT: [i32; 6] =
    [libc::EINVAL, libc::EOPNOTSUPP, libc::ECANCELED, libc::EACCES, libc::EPERM, libc::EBADF];
/// A host with SIGPIPE at its default would die of a peer that left.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: i32 = 0;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpStream as Peer};

    use super::*;
    use crate::driver::uring;

    const OPTIONS: DriverOptions = DriverOptions { spin: Duration::ZERO, sends_together_min: usize::MAX };

    /// The driver listens here.
    fn listens(driver: &mut MioDriver) -> SocketAddr {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        driver.listen(0, listener.into(), false).unwrap();
        address
    }

    /// Connects, says this and ends its half; the driver's end of it.
    fn accepted(driver: &mut MioDriver, address: SocketAddr, bytes: &[u8]) -> (Peer, Stream) {
        let mut peer = Peer::connect(address).unwrap();
        peer.write_all(bytes).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut batch = Batch::new(ARENA_BYTES);
        waits(driver, &mut batch, |batch| !batch.accepted.is_empty());
        (peer, batch.accepted.pop().expect("it is there").socket)
    }

    fn waits(driver: &mut MioDriver, batch: &mut Batch<Stream>, is_so: impl Fn(&Batch<Stream>) -> bool) {
        let end = driver.now().after(Duration::from_secs(20));
        while !is_so(batch) {
            assert!(driver.now() < end, "waited in vain");
            driver.wait(end, batch).unwrap();
        }
    }

    #[test]
    fn a_small_message_behind_another_is_not_held_back_whoever_made_the_listener() {
        for gives in [false, true] {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            SockRef::from(&listener).set_tcp_nodelay(gives).unwrap();
            let address = listener.local_addr().unwrap();
            let mut driver = MioDriver::new(&OPTIONS).unwrap();
            driver.listen(0, listener.into(), false).unwrap();
            let (_peer, stream) = accepted(&mut driver, address, b"hello");
            assert!(stream.sock().tcp_nodelay().unwrap());
        }
    }

    #[test]
    fn each_connection_is_read_once_a_wait_also_in_the_slot_of_one_that_was_to_be_read_again() {
        let mut driver = MioDriver::new(&OPTIONS).unwrap();
        let address = listens(&mut driver);
        let (_first, stream) = accepted(&mut driver, address, &[7; 2 * READ_BYTES_MIN]);
        let (_second, next_stream) = accepted(&mut driver, address, b"hello");
        driver.adopt(0, stream).unwrap();
        let mut batch = Batch::new(READ_BYTES_MIN);
        waits(&mut driver, &mut batch, |batch| !batch.completions.is_empty());
        assert!(matches!(batch.completions[..], [Completion::Received { slot: 0, .. }]));
        driver.close(0, false);
        driver.adopt(0, next_stream).unwrap();
        let mut batch = Batch::new(ARENA_BYTES);
        let mut told = Vec::new();
        while told.len() < 2 {
            waits(&mut driver, &mut batch, |batch| !batch.completions.is_empty());
            assert!(batch.completions.len() <= 1, "one read in one wait: {:?}", batch.completions);
            told.append(&mut batch.completions);
        }
        assert!(
            matches!(told[..], [Completion::Received { len: 5, .. }, Completion::Finished { .. }]),
            "{told:?}"
        );
    }

    #[test]
    fn of_a_long_message_after_another_only_the_beginning_is_read_before_there_is_memory_for_it() {
        let mut driver = MioDriver::new(&OPTIONS).unwrap();
        let address = listens(&mut driver);
        let (_peer, stream) = accepted(&mut driver, address, &[7; 3 * LONG_BEGINNING_BYTES]);
        driver.adopt(0, stream).unwrap();
        let mut batch = Batch::new(ARENA_BYTES);
        let mut buffer = Buffer::default();
        buffer.room(1000, 1000).unwrap();
        driver.lend(0, buffer, 1000);
        waits(&mut driver, &mut batch, |batch| !batch.completions.is_empty());
        assert!(matches!(batch.completions[..], [Completion::Filled { len: 1000, .. }]));
        batch.completions.clear();
        waits(&mut driver, &mut batch, |batch| !batch.completions.is_empty());
        let told = &batch.completions;
        assert!(matches!(told[..], [Completion::Received { len: LONG_BEGINNING_BYTES, .. }]), "{told:?}");
    }

    #[test]
    fn many_sends_go_together_where_that_is_to_be_had_and_wanted() {
        let begun = |sends_together_min| {
            let mut driver = MioDriver::new(&DriverOptions { sends_together_min, ..OPTIONS }).unwrap();
            driver.begin();
            driver.sends_together_min()
        };
        assert_eq!(begun(3), if uring::is_there() { 3 } else { usize::MAX });
        assert_eq!(begun(usize::MAX), usize::MAX);
    }

    /// A driver that has just had news and keeps looking for more for an hour.
    fn looking() -> MioDriver {
        let mut driver =
            MioDriver::new(&DriverOptions { spin: Duration::from_secs(3600), ..OPTIONS }).unwrap();
        driver.waker().wake();
        driver.wait(Time::NEVER, &mut Batch::new(ARENA_BYTES)).unwrap();
        driver
    }

    #[test]
    fn who_keeps_looking_sees_a_wake_from_another_thread_and_what_has_come() {
        let mut driver = looking();
        let waker = driver.waker();
        let thread = std::thread::Builder::new().spawn(move || waker.wake()).unwrap();
        driver.wait(Time::NEVER, &mut Batch::new(ARENA_BYTES)).unwrap();
        thread.join().unwrap();

        let address = listens(&mut driver);
        let (_peer, stream) = accepted(&mut driver, address, b"hello");
        driver.adopt(0, stream).unwrap();
        let mut batch = Batch::new(ARENA_BYTES);
        driver.wait(Time::NEVER, &mut batch).unwrap();
        assert!(matches!(batch.completions[..], [Completion::Received { len: 5, .. }]));
    }

    #[test]
    fn who_keeps_looking_does_not_miss_the_time_to_stop() {
        let mut driver = looking();
        let end = driver.now().after(Duration::from_millis(5));
        driver.wait(end, &mut Batch::new(ARENA_BYTES)).unwrap();
        assert!(driver.now() >= end);
        // What is due already is due at once.
        driver.wait(Time::default(), &mut Batch::new(ARENA_BYTES)).unwrap();
    }
}
