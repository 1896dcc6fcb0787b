//! A kernel invented from a seed: what the real one does on a bad day, at will, and again.
//!
//! For tests and fuzzers. Clients are driven by hand; between them and the engine lie bounded
//! socket buffers, and [`Faults`] says how often something goes wrong. Chance comes from the
//! seed alone and time passes only inside `wait` and by hand, so that the same calls after the
//! same seed are the same run. What the engine must never ask of a driver is a panic here.
//!
//! It reports what `mio` can report and, but for `Faults::ends_at_once`, nothing else: of one
//! connection a wait brings at most `Sendable` and then one outcome of one read, or, while it is
//! not read from, its failure.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::listen::ListenSocket;
use super::{Accepted, Batch, Completion, Driver, Endpoint, Wake};
use crate::buffer::Buffer;
use crate::id::{Slot, Time};

/// What all drivers and clients of one simulation share. A copy is the same kernel.
#[derive(Clone)]
pub struct Kernel(Arc<Mutex<State>>);

/// How often what goes wrong. A rate is so many times in a thousand.
#[derive(Clone, Debug)]
pub struct Faults {
    /// A read brings less than there is, often a single byte.
    pub short_reads: u32,
    /// What was said to be readable isn't, for now.
    pub empty_reads: u32,
    /// A write takes less than there is room for, or nothing.
    pub short_writes: u32,
    /// A signal comes first: the wait brings nothing, a read nothing yet, a write must be tried again.
    pub interruptions: u32,
    /// A wait fails.
    pub wait_trouble: u32,
    /// What is ready is reported with a later wait.
    pub delays: u32,
    /// A wait ends for nothing.
    pub wakes: u32,
    /// There is said to be room for a write, and there is none.
    pub false_sendables: u32,
    /// The connection breaks, instead of a read, instead of a write, or just so.
    pub resets_on_read: u32,
    pub resets_on_write: u32,
    pub resets_while_idle: u32,
    /// The kernel has no memory for a write.
    pub write_trouble: u32,
    /// The end of a connection is reported again.
    pub repeated_ends: u32,
    /// The end comes in the same wait as the bytes before it, and a failure in the same as the
    /// end. `mio` takes a wait for each, since it reads once in each; a driver that is told of
    /// completions by the kernel would not.
    pub ends_at_once: u32,
    /// The process is out of descriptors or memory.
    pub accept_trouble: u32,
    /// A connection is gone before it is accepted.
    pub accept_aborts: u32,
    /// A connection that was accepted can't be watched.
    pub adopt_trouble: u32,
    /// The clock jumps by up to `clock_jump_max`: the machine slept.
    pub clock_jumps: u32,
    pub clock_jump_max: Duration,
    /// How many bytes lie between the two at most, each way.
    pub buffer_bytes: RangeInclusive<usize>,
}

/// What a driver asks the kernel and can get a bad answer to. Of what becomes of the rest (FIN,
/// closing, an end of listening) nobody is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Call {
    Wait,
    Accept,
    Adopt,
    Read,
    Send,
}

/// How an answer is bad.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    /// A signal came first.
    Signal,
    /// Nothing now, although it was ready.
    Blocks,
    /// Less than there is.
    Part,
    /// An error of the system, by its number.
    Error(i32),
}

/// An answer that went wrong because a test ordered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed {
    pub call: Call,
    pub trouble: Trouble,
    /// There are more ways for this answer to go wrong.
    pub has_more_ways: bool,
}

/// One shard's way to the simulated kernel.
pub struct SimDriver {
    kernel: Kernel,
    number: usize,
    connections: Vec<Option<Adopted>>,
    accepting: bool,
    /// No accepting before this time, as with the real one.
    accept_after: Time,
}

/// An accepted connection without a slot. Dropped, it closes.
pub struct SimSocket {
    kernel: Kernel,
    connection: usize,
    is_adopted: bool,
}

/// The other end of a connection, as a socket that never blocks. Dropped, it closes.
pub struct SimClient {
    kernel: Kernel,
    connection: usize,
}

/// Chance from a seed (SplitMix64).
pub struct Dice(u64);

/// Where a kernel's client comes from, counted from 0. Some share an address.
pub fn address_of(client: u32) -> SocketAddr {
    let [.., high, low] = (client / CLIENTS_PER_ADDRESS).to_be_bytes();
    SocketAddr::from(([198, 18, high, low], client as u16))
}

impl Kernel {
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(State {
            dice: Dice::new(seed),
            faults,
            // As on a machine that has run for a while.
            now: Time(1_000_000),
            nap_max: NAP_MAX,
            sends_together_min: 1,
            listeners: Vec::new(),
            is_secure: false,
            next_listener: 0,
            connections: Vec::new(),
            lent: 0,
            fills: 0,
            was_for_nothing: false,
            answers: 0,
            order: None,
            failed: None,
            troubles: BTreeMap::new(),
            trace: None,
        })))
    }

    /// From now on connections are accepted as those of a listener with TLS.
    pub fn set_secure(&self) {
        self.lock().is_secure = true;
    }

    /// A driver for one shard more. Connections are spread over those that listen.
    pub fn driver(&self, listens: bool) -> SimDriver {
        let mut state = self.lock();
        state.listeners.push(Listener {
            backlog: VecDeque::new(),
            is_open: listens,
            is_ready: listens,
            woken: false,
        });
        let number = state.listeners.len() - 1;
        SimDriver {
            kernel: self.clone(),
            number,
            connections: Vec::new(),
            accepting: true,
            accept_after: Time::default(),
        }
    }

    pub fn connect(&self) -> io::Result<SimClient> {
        let mut state = self.lock();
        let count = state.listeners.len();
        let listener = (0..count)
            .map(|ahead| (state.next_listener + ahead) % count)
            .find(|&index| state.listeners[index].is_open)
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        state.next_listener = listener + 1;
        let (smallest, largest) = state.faults.buffer_bytes.clone().into_inner();
        let mut pipe = || Pipe::new(smallest + state.dice.below(largest - smallest + 1));
        let (up, down) = (pipe(), pipe());
        let connection = state.connections.len();
        state.connections.push(Connection {
            up,
            down,
            is_reset: false,
            server: Server::Backlog,
            client_gone: false,
        });
        state.listeners[listener].backlog.push_back(connection);
        state.listeners[listener].is_ready = true;
        state.note(connection, || "connects".to_string());
        Ok(SimClient { kernel: self.clone(), connection })
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        let mut state = self.lock();
        state.now = state.now.after(time);
    }

    pub fn now(&self) -> Time {
        self.lock().now
    }

    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// How long a wait lasts at most when nothing happens. `Duration::MAX`: until its time.
    pub fn set_nap_max(&self, nap_max: Duration) {
        self.lock().nap_max = nap_max;
    }

    /// From how many sends on they are made together; `usize::MAX`: never.
    pub fn set_sends_together_min(&self, sends_together_min: usize) {
        self.lock().sends_together_min = sends_together_min;
    }

    /// Connections that the server has not closed, and those it has not accepted.
    pub fn open_sockets(&self) -> usize {
        self.lock().connections.iter().filter(|connection| connection.server != Server::Gone).count()
    }

    /// Buffers that the engine has lent and not got back.
    pub fn lent_buffers(&self) -> usize {
        self.lock().lent
    }

    /// How many reads went into lent buffers.
    pub fn fills(&self) -> u64 {
        self.lock().fills
    }

    /// Was the last wait told to end at once, and had nothing to say? A shard may do so now and
    /// then, but not again and again: then it spins.
    pub fn was_for_nothing(&self) -> bool {
        self.lock().was_for_nothing
    }

    /// Of the answers from now on, counted from 1, this one goes wrong, in the `way`-th of the
    /// ways it can. Answer 0 never comes.
    pub fn fail_answer(&self, number: u64, way: usize) {
        let mut state = self.lock();
        (state.answers, state.order, state.failed) = (0, Some((number, way)), None);
    }

    /// The answer that went wrong as ordered, if it has come.
    pub fn failed(&self) -> Option<Failed> {
        self.lock().failed
    }

    /// How often which answer was bad, by chance or ordered.
    pub fn troubles(&self) -> BTreeMap<(Call, Trouble), u64> {
        self.lock().troubles.clone()
    }

    /// From now on every step is written down.
    pub fn keep_trace(&self) {
        self.lock().trace = Some(Vec::new());
    }

    /// The steps since the last call.
    pub fn take_trace(&self) -> Vec<String> {
        self.lock().trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Adds a step of the caller's own.
    pub fn note(&self, step: impl FnOnce() -> String) {
        let mut state = self.lock();
        let now = state.now;
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>12} {}", now.0, step()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    /// A kernel on its best day.
    pub fn none() -> Self {
        Self {
            short_reads: 0,
            empty_reads: 0,
            short_writes: 0,
            interruptions: 0,
            wait_trouble: 0,
            delays: 0,
            wakes: 0,
            false_sendables: 0,
            resets_on_read: 0,
            resets_on_write: 0,
            resets_while_idle: 0,
            write_trouble: 0,
            repeated_ends: 0,
            ends_at_once: 0,
            accept_trouble: 0,
            accept_aborts: 0,
            adopt_trouble: 0,
            clock_jumps: 0,
            clock_jump_max: Duration::ZERO,
            buffer_bytes: BUFFER_BYTES..=BUFFER_BYTES,
        }
    }
}

impl Call {
    /// The ways in which this answer can go wrong, with the rate of each group.
    fn ways(self, faults: &Faults) -> [(u32, &'static [Trouble]); 4] {
        use Trouble::{Blocks, Error, Part, Signal};
        let none: (u32, &'static [Trouble]) = (0, &[]);
        match self {
            Self::Wait => {
                [(faults.interruptions, &[Signal]), (faults.wait_trouble, &[Error(libc::ENOMEM)]), none, none]
            }
            // After a signal `mio` asks again at once, so that nobody sees it.
            Self::Accept => [
                (
                    faults.accept_trouble,
                    &[Error(libc::EMFILE), Error(libc::ENFILE), Error(libc::ENOBUFS), Error(libc::ENOMEM)],
                ),
                (faults.accept_aborts, &[Error(libc::ECONNABORTED)]),
                none,
                none,
            ],
            Self::Adopt => {
                [(faults.adopt_trouble, &[Error(libc::ENOSPC), Error(libc::ENOMEM)]), none, none, none]
            }
            Self::Read => [
                (faults.interruptions, &[Signal]),
                (faults.empty_reads, &[Blocks]),
                (faults.short_reads, &[Part]),
                (
                    faults.resets_on_read,
                    &[Error(libc::ECONNRESET), Error(libc::ETIMEDOUT), Error(libc::EHOSTUNREACH)],
                ),
            ],
            Self::Send => [
                (faults.interruptions, &[Signal]),
                (faults.short_writes, &[Part, Blocks]),
                (faults.resets_on_write, &[Error(libc::EPIPE), Error(libc::ECONNRESET)]),
                (faults.write_trouble, &[Error(libc::ENOBUFS), Error(libc::ENOMEM)]),
            ],
        }
    }
}

impl SimClient {
    /// Sends what there is room for.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.kernel.lock();
        let connection = &mut state.connections[self.connection];
        if connection.is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if connection.up.is_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if connection.server == Server::Gone {
            // Nobody is there any more; the answer is an RST.
            state.reset(self.connection);
            return Ok(bytes.len());
        }
        let taken = connection.up.write(bytes);
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.note(self.connection, || format!("the client sends {taken} of {}", bytes.len()));
        Ok(taken)
    }

    /// Takes what has come. 0 is the end of the stream.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut state = self.kernel.lock();
        let connection = &mut state.connections[self.connection];
        let len = connection.down.read(room);
        if len > 0 {
            state.note(self.connection, || format!("the client takes {len}"));
            return Ok(len);
        }
        match connection {
            Connection { is_reset: true, .. } => Err(io::ErrorKind::ConnectionReset.into()),
            Connection { down: Pipe { is_finished: true, .. }, .. } => Ok(0),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Ends the client's half of the stream (FIN).
    pub fn finish(&mut self) {
        let mut state = self.kernel.lock();
        state.connections[self.connection].up.is_finished = true;
        state.note(self.connection, || "the client ends its half".to_string());
    }

    /// Breaks the connection (RST).
    pub fn reset(&mut self) {
        let mut state = self.kernel.lock();
        state.note(self.connection, || "the client resets".to_string());
        state.reset(self.connection);
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        let mut state = self.kernel.lock();
        let connection = &mut state.connections[self.connection];
        connection.client_gone = true;
        if connection.down.bytes.is_empty() {
            connection.up.is_finished = true;
        } else {
            // "If such a host issues a CLOSE call while received data is still pending in TCP,
            // … its TCP SHOULD send a RST to show that data was lost." (RFC 1122, 4.2.2.13)
            state.reset(self.connection);
        }
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if !self.is_adopted {
            self.kernel.lock().close(self.connection, false);
        }
    }
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// 0 up to but without `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit.max(1) as u64) as usize
    }

    /// 1 to `max`, the small as often as the large: every doubling is equally likely.
    pub fn unevenly_up_to(&mut self, max: usize) -> usize {
        let doublings = max.checked_ilog2().unwrap_or(0) as usize + 1;
        let limit = 1_usize << (1 + self.below(doublings));
        1 + self.below(limit.min(max.max(1)))
    }

    /// True so many times in a thousand.
    pub fn hits(&mut self, rate: u32) -> bool {
        // What never happens takes nothing from the seed, so that a fault can be added to an
        // old run without changing it before its first time.
        rate > 0 && self.below(1000) < rate as usize
    }

    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

impl Driver for SimDriver {
    type Socket = SimSocket;

    fn begin(&mut self) {}

    fn now(&self) -> Time {
        self.kernel.now()
    }

    fn wait(&mut self, until: Time, batch: &mut Batch<SimSocket>) -> io::Result<()> {
        batch.completions.clear();
        let kernel = self.kernel.clone();
        let mut state = kernel.lock();
        let begin = state.now;
        // Even a call that does nothing takes time.
        let soon = Time(begin.0 + 1);
        if let Some(trouble) = state.trouble(Call::Wait) {
            (state.now, state.was_for_nothing) = (soon, false);
            return match trouble {
                Trouble::Error(code) => Err(io::Error::from_raw_os_error(code)),
                _ => Ok(()),
            };
        }
        let was_woken = std::mem::take(&mut state.listeners[self.number].woken);
        let mut is_ready = self.complete(&mut state, batch);
        is_ready |= self.accept(&mut state, batch);
        let faults = &state.faults;
        let (wakes, jumps, jump_max) = (faults.wakes, faults.clock_jumps, faults.clock_jump_max);
        let sleeps = !is_ready && !was_woken && !state.dice.hits(wakes);
        let is_awaited = self.accepting && state.listeners[self.number].is_ready;
        let until = if is_awaited { until.min(self.accept_after) } else { until };
        if sleeps {
            let end = until.min(begin.after(state.nap_max));
            state.now = if end == Time::NEVER { soon } else { soon.max(end) };
        } else {
            state.now = Time(begin.0 + 1 + state.dice.below(STEP_US_MAX) as u64);
        }
        state.was_for_nothing = sleeps && until <= begin;
        if state.dice.hits(jumps) {
            let jump = state.dice.unevenly_up_to(jump_max.as_micros() as usize) as u64;
            state.now = Time(state.now.0 + jump);
            state.note_any(|| format!("the clock jumps by {jump} µs"));
        }
        Ok(())
    }

    fn pause(&mut self, time: Duration) {
        self.kernel.pass(time);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(SimWaker { kernel: self.kernel.clone(), number: self.number })
    }

    fn adopt(&mut self, slot: Slot, mut socket: SimSocket) -> io::Result<()> {
        let kernel = self.kernel.clone();
        let mut state = kernel.lock();
        if let Some(Trouble::Error(code)) = state.trouble(Call::Adopt) {
            // Or else the socket's drop waits for this very lock.
            drop(state);
            return Err(io::Error::from_raw_os_error(code));
        }
        let index = slot as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, || None);
        }
        assert!(self.connections[index].is_none(), "slot {slot} is taken");
        socket.is_adopted = true;
        let connection = socket.connection;
        state.note(connection, || format!("gets slot {slot}"));
        self.connections[index] = Some(Adopted {
            connection,
            lent: None,
            reading: true,
            sending: false,
            end_is_told: false,
            failure_is_told: false,
            is_finished: false,
        });
        Ok(())
    }

    fn send(&mut self, slot: Slot, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        let adopted = self.connections[slot as usize].as_mut().expect("only an adopted connection sends");
        assert!(!adopted.is_finished, "nothing can be sent after the end");
        let offered: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        assert!(offered > 0, "there is something to send");
        let mut state = self.kernel.lock();
        let trouble = state.trouble(Call::Send);
        match trouble {
            Some(Trouble::Signal) => {
                adopted.sending = false;
                return Err(io::ErrorKind::Interrupted.into());
            }
            Some(Trouble::Error(code)) => {
                adopted.sending = false;
                // Without memory for it the connection itself is as well as before.
                if code != libc::ENOBUFS && code != libc::ENOMEM {
                    state.reset(adopted.connection);
                }
                return Err(io::Error::from_raw_os_error(code));
            }
            _ => {}
        }
        let connection = &mut state.connections[adopted.connection];
        if connection.is_reset {
            adopted.sending = false;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if connection.client_gone {
            // The first write still succeeds; what it meets there comes back as an RST.
            adopted.sending = false;
            state.reset(adopted.connection);
            return Ok(offered);
        }
        let room = offered.min(connection.down.room());
        let taken = match trouble {
            Some(Trouble::Blocks) => 0,
            Some(_) => state.dice.unevenly_up_to(room + 1) - 1,
            None => room,
        };
        let mut missing = taken;
        for chunk in chunks {
            let len = missing.min(chunk.len());
            state.connections[adopted.connection].down.write(&chunk[..len]);
            missing -= len;
        }
        adopted.sending = taken < offered;
        state.note(adopted.connection, || format!("{taken} of {offered} sent"));
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn sends_together_min(&self) -> usize {
        self.kernel.lock().sends_together_min
    }

    fn lend(&mut self, slot: Slot, buffer: Buffer, len: usize) {
        let adopted =
            self.connections[slot as usize].as_mut().expect("only to an adopted connection is lent");
        assert!(adopted.lent.is_none(), "one buffer at a time");
        assert!(len > 0 && buffer.len() + len <= buffer.capacity(), "the buffer has room");
        adopted.lent = Some((buffer, len));
        let mut state = self.kernel.lock();
        state.lent += 1;
        state.note(adopted.connection, || format!("is lent room for {len}"));
    }

    fn set_reading(&mut self, slot: Slot, on: bool) {
        let adopted = self.connections[slot as usize].as_mut().expect("only an adopted connection reads");
        adopted.reading = on;
        self.kernel.lock().note(adopted.connection, || format!("reading: {on}"));
    }

    fn finish(&mut self, slot: Slot) {
        let adopted = self.connections[slot as usize].as_mut().expect("only an adopted connection ends");
        assert!(!std::mem::replace(&mut adopted.is_finished, true), "a stream ends once");
        let mut state = self.kernel.lock();
        state.connections[adopted.connection].down.is_finished = true;
        state.note(adopted.connection, || "our half ends".to_string());
    }

    fn close(&mut self, slot: Slot, reset: bool) -> Option<Buffer> {
        let adopted = self.connections.get_mut(slot as usize)?.take()?;
        let mut state = self.kernel.lock();
        state.note(adopted.connection, || if reset { "is cut".to_string() } else { "is closed".to_string() });
        state.close(adopted.connection, reset);
        let (buffer, _) = adopted.lent?;
        state.lent -= 1;
        Some(buffer)
    }

    fn listen(&mut self, _: u32, _: ListenSocket, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unlisten(&mut self, _: u32) {}

    fn set_accepting(&mut self, on: bool) {
        self.accepting = on;
    }

    fn stop_listening(&mut self) {
        let mut state = self.kernel.lock();
        let listener = &mut state.listeners[self.number];
        (listener.is_open, listener.is_ready) = (false, false);
        for connection in std::mem::take(&mut listener.backlog) {
            state.close(connection, true);
        }
    }
}

impl SimDriver {
    fn accept(&mut self, state: &mut State, batch: &mut Batch<SimSocket>) -> bool {
        if !self.accepting || !state.listeners[self.number].is_ready || state.now < self.accept_after {
            return false;
        }
        let waiting = state.listeners[self.number].backlog.len();
        let delays = state.faults.delays;
        let count = if state.dice.hits(delays) { state.dice.below(waiting + 1) } else { waiting + 1 };
        for _ in 0..count.min(ACCEPTS_MAX) {
            // Linux looks for a descriptor first, and only then whether anybody is there.
            let trouble = state.trouble(Call::Accept);
            let is_gone = trouble == Some(Trouble::Error(libc::ECONNABORTED));
            if let (Some(Trouble::Error(code)), false) = (trouble, is_gone) {
                self.accept_after = state.now.after(ACCEPT_PAUSE);
                batch.listener_trouble = Some(io::Error::from_raw_os_error(code));
                return true;
            }
            let Some(connection) = state.listeners[self.number].backlog.pop_front() else {
                state.listeners[self.number].is_ready = false;
                break;
            };
            if is_gone {
                state.close(connection, true);
                continue;
            }
            state.connections[connection].server = Server::Accepted;
            batch.accepted.push(Accepted {
                socket: SimSocket { kernel: self.kernel.clone(), connection, is_adopted: false },
                peer: Endpoint::Internet(address_of(connection as u32)),
                local: Endpoint::Internet(SocketAddr::from(([203, 0, 113, 1], 80))),
                secure: state.is_secure,
            });
        }
        waiting > 0 || state.listeners[self.number].is_ready
    }

    /// What happened to the connections, in any order. One read of each at most. False: there
    /// is nothing, not even something to be told later.
    fn complete(&mut self, state: &mut State, batch: &mut Batch<SimSocket>) -> bool {
        let mut is_ready = false;
        let mut start = 0;
        let count = self.connections.len();
        let first = state.dice.below(count);
        let faults = &state.faults;
        let (idle_resets, delays) = (faults.resets_while_idle, faults.delays);
        let (false_sendables, repeated_ends) = (faults.false_sendables, faults.repeated_ends);
        for index in (first..count).chain(0..first) {
            let Some(adopted) = &mut self.connections[index] else { continue };
            let slot = index as Slot;
            if state.dice.hits(idle_resets) && !state.connections[adopted.connection].is_reset {
                state.note(adopted.connection, || "breaks".to_string());
                state.reset(adopted.connection);
            }
            let has_ended = adopted.end_is_told || adopted.failure_is_told;
            if has_ended && state.dice.hits(repeated_ends) {
                adopted.end_is_told = false;
                adopted.failure_is_told = false;
            }
            let connection = &state.connections[adopted.connection];
            let is_reset = connection.is_reset;
            let has_room = connection.down.room() > 0 || is_reset;
            let can_read = adopted.reading && !connection.up.bytes.is_empty();
            let fails = is_reset && !adopted.failure_is_told;
            let ends = adopted.reading && connection.up.is_finished && !adopted.end_is_told;
            let can_send = adopted.sending && (has_room || state.dice.hits(false_sendables));
            if !can_send && !can_read && !fails && !ends {
                continue;
            }
            is_ready = true;
            if state.dice.hits(delays) {
                continue;
            }
            if can_send {
                adopted.sending = false;
                batch.completions.push(Completion::Sendable { slot });
                state.note(adopted.connection, || "there is said to be room".to_string());
            }
            if can_read {
                read(adopted, slot, state, &mut start, batch);
                let has_more = !state.connections[adopted.connection].up.bytes.is_empty();
                let at_once = state.faults.ends_at_once;
                if has_more || !state.dice.hits(at_once) {
                    continue;
                }
            }
            tell_end(adopted, slot, state, batch);
        }
        is_ready
    }
}

/// Reads once, into the lent buffer or, as long as there is room, into the arena.
fn read(
    adopted: &mut Adopted,
    slot: Slot,
    state: &mut State,
    start: &mut usize,
    batch: &mut Batch<SimSocket>,
) {
    // No code may count on where in the arena its bytes begin.
    let from = (*start + state.dice.below(8)).min(batch.arena.len());
    if adopted.lent.is_none() && from == batch.arena.len() {
        return;
    }
    let there = state.connections[adopted.connection].up.bytes.len();
    let mut len = match state.trouble(Call::Read) {
        Some(Trouble::Error(code)) => {
            state.reset(adopted.connection);
            state.connections[adopted.connection].up.bytes.clear();
            adopted.failure_is_told = true;
            let error = io::Error::from_raw_os_error(code).kind();
            return batch.completions.push(Completion::Failed { slot, error });
        }
        // It will be told of again.
        Some(Trouble::Blocks | Trouble::Signal) => return,
        Some(Trouble::Part) => state.dice.unevenly_up_to(there),
        None => there,
    };
    match adopted.lent.take() {
        Some((mut buffer, room)) => {
            len = len.min(room);
            state.connections[adopted.connection].up.read(&mut buffer.lent_room(len)[..]);
            state.lent -= 1;
            state.fills += 1;
            state.note(adopted.connection, || format!("{len} read into lent memory"));
            batch.completions.push(Completion::Filled { slot, buffer, len });
        }
        None => {
            len = len.min(batch.arena.len() - from);
            state.connections[adopted.connection].up.read(&mut batch.arena[from..from + len]);
            *start = from + len;
            state.note(adopted.connection, || format!("{len} read"));
            batch.completions.push(Completion::Received { slot, start: from, len });
        }
    }
}

/// Tells the end of the peer's half or of the connection, if one is to be told.
fn tell_end(adopted: &mut Adopted, slot: Slot, state: &mut State, batch: &mut Batch<SimSocket>) {
    let connection = &state.connections[adopted.connection];
    let (is_reset, is_finished) = (connection.is_reset, connection.up.is_finished);
    let at_once = state.faults.ends_at_once;
    let mut fails = is_reset && !adopted.failure_is_told;
    if adopted.reading && is_finished && !adopted.end_is_told && (!fails || state.dice.hits(at_once)) {
        adopted.end_is_told = true;
        batch.completions.push(Completion::Finished { slot });
        state.note(adopted.connection, || "the end of its half is seen".to_string());
        fails &= state.dice.hits(at_once);
    }
    if fails {
        adopted.failure_is_told = true;
        batch.completions.push(Completion::Failed { slot, error: io::ErrorKind::ConnectionReset });
        state.note(adopted.connection, || "is found broken".to_string());
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.stop_listening();
        for slot in 0..self.connections.len() as Slot {
            self.close(slot, false);
        }
    }
}

struct SimWaker {
    kernel: Kernel,
    number: usize,
}

impl Wake for SimWaker {
    fn wake(&self) {
        self.kernel.lock().listeners[self.number].woken = true;
    }
}

struct State {
    dice: Dice,
    faults: Faults,
    now: Time,
    nap_max: Duration,
    sends_together_min: usize,
    /// One for each driver.
    listeners: Vec<Listener>,
    is_secure: bool,
    next_listener: usize,
    /// All there ever were.
    connections: Vec<Connection>,
    lent: usize,
    fills: u64,
    was_for_nothing: bool,
    /// How many answers were given since one was ordered to fail.
    answers: u64,
    /// The number of the answer that is to go wrong, and how.
    order: Option<(u64, usize)>,
    failed: Option<Failed>,
    troubles: BTreeMap<(Call, Trouble), u64>,
    trace: Option<Vec<String>>,
}

struct Listener {
    backlog: VecDeque<usize>,
    is_open: bool,
    /// Somebody may be there: the last look did not find it empty.
    is_ready: bool,
    woken: bool,
}

struct Connection {
    /// From the client to the server, and back.
    up: Pipe,
    down: Pipe,
    /// An RST has passed: nothing reaches anybody any more.
    is_reset: bool,
    server: Server,
    client_gone: bool,
}

/// The server's end of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Backlog,
    Accepted,
    Gone,
}

/// One direction, with the buffers of both sockets as one.
struct Pipe {
    bytes: VecDeque<u8>,
    bytes_max: usize,
    /// A FIN is behind the bytes.
    is_finished: bool,
}

/// A connection with a slot.
struct Adopted {
    connection: usize,
    lent: Option<(Buffer, usize)>,
    reading: bool,
    /// A send was short; the engine waits for `Sendable`.
    sending: bool,
    /// `Finished`, and `Failed`, was reported.
    end_is_told: bool,
    failure_is_told: bool,
    /// Our half has ended.
    is_finished: bool,
}

impl State {
    /// Every answer passes here: is it a bad one?
    fn trouble(&mut self, call: Call) -> Option<Trouble> {
        self.answers += 1;
        let ways = call.ways(&self.faults);
        let trouble = match self.order {
            Some((number, way)) if number == self.answers => {
                let mut all = ways.iter().flat_map(|(_, troubles)| *troubles).skip(way);
                let trouble = *all.next()?;
                self.failed = Some(Failed { call, trouble, has_more_ways: all.next().is_some() });
                trouble
            }
            _ => {
                let (_, troubles) = ways.iter().find(|(rate, _)| self.dice.hits(*rate))?;
                *self.dice.pick(troubles)
            }
        };
        *self.troubles.entry((call, trouble)).or_default() += 1;
        self.note_any(|| format!("{call:?} goes wrong: {trouble:?}"));
        Some(trouble)
    }

    /// An RST passes. What was under way to the client is lost; whether the server can still
    /// read what had arrived depends on the system.
    fn reset(&mut self, connection: usize) {
        let keeps_arrived = self.dice.hits(500);
        let connection = &mut self.connections[connection];
        connection.is_reset = true;
        connection.down.bytes.clear();
        if !keeps_arrived {
            connection.up.bytes.clear();
        }
    }

    /// The server lets go of its end.
    fn close(&mut self, number: usize, reset: bool) {
        let connection = &mut self.connections[number];
        connection.server = Server::Gone;
        // Whoever closes on unread bytes sends an RST, see above.
        if reset || !connection.up.bytes.is_empty() {
            self.reset(number);
        } else {
            connection.down.is_finished = true;
        }
    }

    fn note(&mut self, connection: usize, step: impl FnOnce() -> String) {
        self.note_any(|| format!("[{connection}] {}", step()));
    }

    fn note_any(&mut self, step: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12} {}", now.0, step()));
        }
    }
}

impl Pipe {
    fn new(bytes_max: usize) -> Self {
        Self { bytes: VecDeque::new(), bytes_max, is_finished: false }
    }

    fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.len())
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.room());
        self.bytes.extend(&bytes[..len]);
        len
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        let len = room.len().min(self.bytes.len());
        let (front, back) = self.bytes.as_slices();
        let from_front = len.min(front.len());
        room[..from_front].copy_from_slice(&front[..from_front]);
        room[from_front..len].copy_from_slice(&back[..len - from_front]);
        self.bytes.drain(..len);
        len
    }
}

const BUFFER_BYTES: usize = 256 * 1024;
const CLIENTS_PER_ADDRESS: u32 = 4;
const NAP_MAX: Duration = Duration::from_millis(1);
/// What a wait takes that finds something.
const STEP_US_MAX: usize = 20;
const ACCEPTS_MAX: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(kernel: &Kernel, driver: &mut SimDriver) -> SimClient {
        let client = kernel.connect().unwrap();
        let mut batch = Batch::new(1024);
        driver.wait(Time::NEVER, &mut batch).unwrap();
        let socket = batch.accepted.pop().expect("a client has connected").socket;
        driver.adopt(0, socket).unwrap();
        client
    }

    fn wait(driver: &mut SimDriver) -> Vec<Completion> {
        let mut batch = Batch::new(1024);
        driver.wait(Time::NEVER, &mut batch).unwrap();
        batch.completions
    }

    #[test]
    fn a_full_send_buffer_blocks_until_the_client_reads() {
        let kernel = Kernel::new(1, Faults { buffer_bytes: 10..=10, ..Faults::none() });
        let mut driver = kernel.driver(true);
        let mut client = accepted(&kernel, &mut driver);
        assert_eq!(driver.send(0, &[IoSlice::new(b"hello "), IoSlice::new(b"world")]).unwrap(), 10);
        assert_eq!(driver.send(0, &[IoSlice::new(b"d")]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(wait(&mut driver).is_empty());
        assert_eq!(client.read(&mut [0; 3]).unwrap(), 3);
        assert!(matches!(wait(&mut driver)[..], [Completion::Sendable { slot: 0 }]));
    }

    #[test]
    fn while_reading_is_off_the_window_of_the_client_closes() {
        let kernel = Kernel::new(1, Faults { buffer_bytes: 10..=10, ..Faults::none() });
        let mut driver = kernel.driver(true);
        let mut client = accepted(&kernel, &mut driver);
        driver.set_reading(0, false);
        assert_eq!(client.write(&[7; 20]).unwrap(), 10);
        assert_eq!(client.write(&[7; 20]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(wait(&mut driver).is_empty());
        driver.set_reading(0, true);
        assert!(matches!(wait(&mut driver)[..], [Completion::Received { len: 10, .. }]));
        assert_eq!(client.write(&[7; 20]).unwrap(), 10);
    }

    #[test]
    fn closing_on_unread_bytes_costs_the_client_what_it_has_not_read() {
        let kernel = Kernel::new(1, Faults::none());
        let mut driver = kernel.driver(true);
        let mut client = accepted(&kernel, &mut driver);
        driver.send(0, &[IoSlice::new(b"last words")]).unwrap();
        client.write(b"more").unwrap();
        driver.close(0, false);
        assert_eq!(client.read(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(kernel.open_sockets(), 0);
    }

    #[test]
    fn the_same_seed_is_the_same_chance() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            [(); 8].map(|()| dice.unevenly_up_to(1000))
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
        assert!((0..1000).all(|seed| (1..=3).contains(&Dice::new(seed).unevenly_up_to(3))));
    }
}
