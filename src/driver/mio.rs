//! The real kernel, by mio: epoll where it is to be had, edge-triggered.
//!
//! One read per connection and wait, into memory shared by all: a short read means the kernel
//! has no more, so that a small message costs one `recv` and one `send`.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use once_cell::sync::Lazy;
use socket2::SockRef;

use super::listen::ListenSocket;
use super::{Accepted, Batch, Completion, Driver, Endpoint, Wake};
use crate::buffer::Buffer;
use crate::id::{Slot, Time};

pub struct MioDriver {
    /// When the last wait ended. The next one begins moments later and counts from here, so
    /// that a turn reads the clock once.
    now: Time,
    poll: Poll,
    events: Events,
    waker: Arc<MioWaker>,
    /// By their token; a place is free again when its listener has gone.
    listeners: Vec<Option<Listener>>,
    accepting: bool,
    /// No accepting before this time: the process was out of descriptors.
    accept_after: Time,
    connections: Vec<Option<Connection>>,
    /// Connections that the kernel has something for.
    ready: VecDeque<Slot>,
}

struct Listener {
    id: u32,
    socket: MioListener,
    local: Endpoint,
    secure: bool,
    is_ready: bool,
}

enum MioListener {
    Tcp(TcpListener),
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
    lent: Option<Box<Lent>>,
    /// The engine wants to read.
    reading: bool,
    /// The kernel has said that there is something, and we have not seen the end of it.
    readable: bool,
    /// In `ready`.
    queued: bool,
    /// The peer's FIN is behind what can still be read.
    read_closed: bool,
    /// A send was short; the engine waits for `Sendable`.
    sending: bool,
}

struct Lent {
    buffer: Buffer,
    len: usize,
}

impl MioDriver {
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(MioWaker(Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            now: clock(),
            poll,
            events: Events::with_capacity(EVENTS_MAX),
            waker,
            listeners: Vec::new(),
            accepting: true,
            accept_after: Time::default(),
            connections: Vec::new(),
            ready: VecDeque::new(),
        })
    }

    /// Takes what the kernel reports into the state of listeners and connections.
    fn note_events<S>(&mut self, batch: &mut Batch<S>) {
        for event in &self.events {
            let Token(number) = event.token();
            if event.token() == WAKER {
                continue;
            }
            if let Some(listener) =
                FIRST_LISTENER.0.checked_sub(number).and_then(|i| self.listeners.get_mut(i)?.as_mut())
            {
                listener.is_ready = true;
                continue;
            }
            let slot = number as Slot;
            let Some(Some(connection)) = self.connections.get_mut(number) else { continue };
            if event.is_writable() && connection.sending {
                connection.sending = false;
                batch.completions.push(Completion::Sendable { slot });
            }
            if event.is_error() && !connection.reading {
                // Nobody reads, so nobody would see it.
                batch.completions.push(Completion::Failed { slot, error: io::ErrorKind::ConnectionReset });
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                connection.readable = true;
                connection.read_closed |= event.is_read_closed();
                queue(connection, slot, &mut self.ready);
            }
        }
    }

    fn read_ready<S>(&mut self, batch: &mut Batch<S>) {
        let (mut start, mut lent_bytes) = (0, 0);
        for _ in 0..self.ready.len() {
            let window = (batch.arena.len() - start).min(READ_BYTES_MAX);
            if window < READ_BYTES_MIN || lent_bytes >= LENT_BYTES_PER_TURN {
                // The turn has enough to do; the rest comes with the next.
                return;
            }
            let Some(slot) = self.ready.pop_front() else { return };
            let Some(Some(connection)) = self.connections.get_mut(slot as usize) else { continue };
            connection.queued = false;
            if !connection.reading || !connection.readable {
                continue;
            }
            let (room, lent) = match &mut connection.lent {
                Some(lent) => {
                    let len = lent.len;
                    (lent.buffer.lent_room(len), true)
                }
                None => (&mut batch.arena[start..start + window], false),
            };
            let room_len = room.len();
            match connection.stream.read(room) {
                Ok(0) => {
                    connection.readable = false;
                    batch.completions.push(Completion::Finished { slot });
                }
                Ok(len) => {
                    if lent {
                        let Lent { buffer, .. } = *connection.lent.take().expect("it was there above");
                        lent_bytes += len;
                        batch.completions.push(Completion::Filled { slot, buffer, len });
                    } else {
                        batch.completions.push(Completion::Received { slot, start, len });
                        // Words are unmasked eight bytes at a time.
                        start = (start + len).next_multiple_of(8).min(batch.arena.len());
                    }
                    // "if the read(2) returns less than asked for, the I/O space is exhausted"
                    // (epoll(7)); only a FIN behind it would go unnoticed.
                    connection.readable = len == room_len || connection.read_closed;
                    queue(connection, slot, &mut self.ready);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => connection.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    queue(connection, slot, &mut self.ready);
                }
                Err(error) => {
                    connection.readable = false;
                    batch.completions.push(Completion::Failed { slot, error: error.kind() });
                }
            }
        }
    }

    fn has_somebody_to_accept(&self) -> bool {
        self.accepting && self.listeners.iter().flatten().any(|listener| listener.is_ready)
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
    }

    fn connection(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.connections.get_mut(slot as usize)?.as_mut()
    }
}

impl Driver for MioDriver {
    type Socket = Stream;

    fn now(&self) -> Time {
        self.now
    }

    fn wait(&mut self, until: Time, batch: &mut Batch<Stream>) -> io::Result<()> {
        batch.completions.clear();
        let mut until = until;
        if self.has_somebody_to_accept() {
            until = until.min(self.accept_after);
        }
        let timeout = if !self.ready.is_empty() {
            Some(Duration::ZERO)
        } else if until == Time::NEVER {
            None
        } else {
            Some(until.since(self.now))
        };
        let polled = self.poll.poll(&mut self.events, timeout);
        self.now = clock();
        match polled {
            Ok(()) => {}
            // A signal, or SIGCONT after a stop.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        self.note_events(batch);
        self.read_ready(batch);
        if self.has_somebody_to_accept() {
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
        self.connections[index] = Some(Connection {
            stream,
            lent: None,
            reading: true,
            readable: false,
            queued: false,
            read_closed: false,
            sending: false,
        });
        Ok(())
    }

    fn send(&mut self, slot: Slot, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(connection) = self.connection(slot) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let sent = match chunks {
            // std sends with MSG_NOSIGNAL, too, but only a single slice.
            [chunk] => connection.stream.write(chunk),
            _ => connection.stream.sock().send_vectored_with_flags(chunks, SEND_FLAGS),
        };
        let offered = || chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
        connection.sending = match &sent {
            Ok(len) => *len < offered(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        sent
    }

    fn lend(&mut self, slot: Slot, buffer: Buffer, len: usize) {
        if let Some(connection) = self.connection(slot) {
            connection.lent = Some(Box::new(Lent { buffer, len }));
        }
    }

    fn set_reading(&mut self, slot: Slot, on: bool) {
        if let Some(Some(connection)) = self.connections.get_mut(slot as usize) {
            connection.reading = on;
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
        if connection.queued {
            // The next one in this slot would be read twice in a wait, and what it says after the
            // head of a long frame belongs into memory that is lent for it between the two.
            self.ready.retain(|&queued| queued != slot);
        }
        if reset {
            let _ = connection.stream.sock().set_linger(Some(Duration::ZERO));
        }
        connection.lent.map(|lent| lent.buffer)
    }

    fn listen(&mut self, id: u32, socket: ListenSocket, secure: bool) -> io::Result<()> {
        let (mut socket, local) = match socket {
            ListenSocket::Tcp(socket) => {
                let local = Endpoint::Internet(socket.local_addr()?);
                (MioListener::Tcp(TcpListener::from_std(socket)), local)
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
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                // Without it a peer waits 40 ms for the second of two small messages.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Endpoint::Internet(peer)))
            }
            #[cfg(unix)]
            Self::Unix(socket) => Ok((Stream::Unix(socket.accept()?.0), Endpoint::Unix)),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            #[cfg(unix)]
            Self::Unix(socket) => socket,
        }
    }
}

impl Stream {
    #[inline]
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(room),
            #[cfg(unix)]
            Self::Unix(stream) => stream.read(room),
        }
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            // std sends with MSG_NOSIGNAL only to TCP.
            #[cfg(unix)]
            Self::Unix(stream) => SockRef::from(&*stream).send_with_flags(bytes, SEND_FLAGS),
        }
    }

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

/// Enters a connection into the list of those to read from.
fn queue(connection: &mut Connection, slot: Slot, ready: &mut VecDeque<Slot>) {
    if connection.reading && connection.readable && !connection.queued {
        connection.queued = true;
        ready.push_back(slot);
    }
}

/// Microseconds since the first look; never 0, which is "not yet" in places.
fn clock() -> Time {
    static BEGIN: Lazy<Instant> = Lazy::new(Instant::now);
    Time(BEGIN.elapsed().as_micros() as u64 + 1)
}

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
/// A host with SIGPIPE at its default would die of a peer that left.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_FLAGS: i32 = 0;

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream as Peer};

    use super::*;

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
    fn each_connection_is_read_once_a_wait_also_in_the_slot_of_one_that_was_to_be_read_again() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut driver = MioDriver::new().unwrap();
        driver.listen(0, listener.into(), false).unwrap();
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
}
