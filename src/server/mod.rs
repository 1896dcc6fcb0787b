//! Threads: the server as everyone else sees it, from any thread.
//!
//! A call looks into the shards' tables, is answered from there, and leaves a command in the
//! shard's mailbox; from inside a callback on the same shard it goes to the turn directly.

pub mod mailbox;
pub mod pages;
pub mod shard;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::config::{Config, ListenAddress, LiveError, Settings, WhenFull};
use crate::driver::Driver;
use crate::driver::listen;
use crate::driver::mio::{ARENA_BYTES, MioDriver};
use crate::engine::connection::UserData;
use crate::engine::event::ClosedBy;
use crate::engine::limits::Gate;
use crate::engine::routes::Routes;
use crate::engine::table::{Entry, EntryRef, Life, PendingRequest, Table, charge};
use crate::engine::turn::{Handler, Message, Misuse, Sent, Turn};
use crate::engine::{Command, Engine, Parts};
use crate::id::ConnId;
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::protocol::handshake;
use crate::protocol::{Control, Kind, WireForm, http};
use mailbox::{Listening, Mailbox};
use pages::ServerPages;
use shard::Shard;

/// A server. All methods may be called from any thread.
pub struct Server {
    /// As set by the embedder, and what came of it. Changed together, under the first's lock.
    config: Mutex<Config>,
    settings: RwLock<Arc<Settings>>,
    routes: Arc<Routes>,
    tables: Vec<Arc<Table>>,
    mailboxes: OnceLock<Vec<Arc<Mailbox<MioSocket>>>>,
    /// Of the configured listeners.
    ports: OnceLock<Vec<u16>>,
    /// A second handle to each address that is listened at now, by its number.
    listeners: Mutex<BTreeMap<u32, TcpListener>>,
    next_listener: AtomicU32,
    phase: Mutex<Phase>,
    /// Locked while they are joined, so that nobody's wait ends before they have.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Rings when the server has stopped.
    stopped: Condvar,
    /// Shards whose thread has not ended.
    shards_left: AtomicUsize,
    number: u32,
}

type MioSocket = <MioDriver as Driver>::Socket;

/// Shards about to start, and the ports that their listeners got.
type Made<H> = (Vec<Shard<MioDriver, H>>, Vec<u16>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    New,
    Running,
    Stopping,
    Stopped,
}

/// What a call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    Now,
    /// It was so already.
    Already,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    Phase(&'static str),
    Config(String),
    Listen { address: String, error: io::Error },
    Thread(io::Error),
    Stopped,
}

/// How waiting for the end of a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    Stopped,
    TimedOut,
    /// It would wait for the thread it was called on.
    Deadlock,
    NotStarted,
}

/// A reply or refusal of the embedder's own making.
pub struct Answer<'a> {
    pub status: u16,
    pub headers: &'a str,
    pub body: &'a [u8],
}

impl Server {
    pub fn new(config: &Config, routes: Routes) -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let settings = config.settings().clone();
        let shards = match settings.threads {
            0 => thread::available_parallelism().map_or(1, |cores| cores.get()),
            threads => threads,
        };
        Self {
            config: Mutex::new(config.clone()),
            settings: RwLock::new(Arc::new(settings)),
            routes: Arc::new(routes),
            tables: (0..shards.min(crate::id::SHARDS_MAX)).map(|_| Arc::default()).collect(),
            mailboxes: OnceLock::new(),
            ports: OnceLock::new(),
            listeners: Mutex::default(),
            next_listener: AtomicU32::new(0),
            phase: Mutex::new(Phase::New),
            threads: Mutex::default(),
            stopped: Condvar::new(),
            shards_left: AtomicUsize::new(0),
            number: SERVERS.fetch_add(1, Relaxed),
        }
    }

    /// Binds all listeners and starts all threads, or nothing. `handler` makes each shard's.
    pub fn start<H: Handler + Send + 'static>(
        self: &Arc<Self>,
        handler: impl Fn() -> H,
    ) -> Result<(), StartError> {
        let mut phase = self.lock();
        if *phase != Phase::New {
            return Err(StartError::Phase("the server was started already"));
        }
        let (shards, ports) = self.make_shards(handler)?;
        self.shards_left.store(shards.len(), SeqCst);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, shard) in shards.into_iter().enumerate() {
            let server = self.clone();
            let spawned = thread::Builder::new()
                .name(format!("fullduplex-{index}"))
                .spawn(move || server.run_shard(shard));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // Shards never begun are not waited for; the others are told to end.
                    let missing = self.tables.len() - threads.len();
                    self.shards_left.fetch_sub(missing, SeqCst);
                    *phase = if threads.is_empty() { Phase::Stopped } else { Phase::Stopping };
                    self.post_stop(CloseFrame::EMPTY, Duration::ZERO, Duration::ZERO);
                    return Err(StartError::Thread(error));
                }
            }
        }
        let _ = self.ports.set(ports);
        *phase = Phase::Running;
        Ok(())
    }

    fn make_shards<H: Handler>(&self, handler: impl Fn() -> H) -> Result<Made<H>, StartError> {
        let settings = self.settings();
        if settings.listen.is_empty() {
            return Err(StartError::Config("no address to listen at: set the option \"listen\"".to_string()));
        }
        let shards = self.tables.len();
        let mut drivers: Vec<MioDriver> =
            (0..shards).map(|_| MioDriver::new()).collect::<io::Result<_>>().map_err(StartError::Thread)?;
        let mut ports = Vec::new();
        let mut open = BTreeMap::new();
        for (id, listen) in (0..).zip(&settings.listen) {
            let failed = |error| StartError::Listen { address: listen.text.clone(), error };
            let sockets = listen::bind(listen, shards).map_err(failed)?;
            ports.push(sockets[0].local_addr().map_err(failed)?.port());
            open.insert(id, sockets[0].try_clone().map_err(failed)?);
            for (driver, socket) in drivers.iter_mut().zip(sockets) {
                driver.listen(id, socket).map_err(failed)?;
            }
        }
        self.next_listener.store(ports.len() as u32, SeqCst);
        *self.listeners() = open;
        let mailboxes: Vec<_> = drivers.iter().map(|driver| Arc::new(Mailbox::new(driver.waker()))).collect();
        let gate = Arc::new(Gate::default());
        let pages = Arc::new(ServerPages::new(self.tables.clone()));
        let made = drivers.into_iter().zip(&mailboxes).zip(&self.tables).enumerate();
        let mut shards: Vec<_> = made
            .map(|(index, ((driver, mailbox), table))| {
                let parts = Parts {
                    shard: index as u8,
                    settings: settings.clone(),
                    routes: self.routes.clone(),
                    table: table.clone(),
                    gate: gate.clone(),
                    pages: pages.clone(),
                    generation_seed: self.number.wrapping_add(1),
                };
                let engine = Engine::new(parts, driver.now());
                Shard::new(driver, engine, mailbox.clone(), handler(), ARENA_BYTES)
            })
            .collect();
        if shards.len() > 1 && !listen::SPREADS {
            shards[0].spread_over(mailboxes.clone());
        }
        let _ = self.mailboxes.set(mailboxes);
        Ok((shards, ports))
    }

    fn run_shard<H: Handler>(&self, shard: Shard<MioDriver, H>) {
        OWN_SERVER.set(std::ptr::from_ref(self) as usize);
        shard.run(|| self.shards_left.fetch_sub(1, SeqCst) == 1);
        if self.shards_left.load(SeqCst) == 0 {
            *self.lock() = Phase::Stopped;
            self.stopped.notify_all();
        }
    }

    /// Closes listeners, says good-bye to every connection, spread over a time, and cuts what
    /// is left at the deadline. Returns at once.
    pub fn stop(&self, frame: CloseFrame, spread: Duration, deadline: Duration) -> Result<Done, Misuse> {
        let mut phase = self.lock();
        match *phase {
            Phase::New => Err(Misuse::State("the server was not started")),
            Phase::Stopping | Phase::Stopped => Ok(Done::Already),
            Phase::Running => {
                *phase = Phase::Stopping;
                self.post_stop(frame, spread, deadline);
                Ok(Done::Now)
            }
        }
    }

    /// Listens at one address more: its number and its port.
    pub fn listen(&self, address: &str) -> Result<(u32, u16), StartError> {
        let listen: ListenAddress =
            address.parse().map_err(|why| StartError::Config(format!("listen = {address}: {why}")))?;
        // Under this lock, so that a stop sees it or comes first.
        let phase = self.lock();
        match *phase {
            Phase::New => {
                return Err(StartError::Phase("the server was not started: set the option \"listen\""));
            }
            Phase::Stopping | Phase::Stopped => return Err(StartError::Stopped),
            Phase::Running => {}
        }
        let failed = |error| StartError::Listen { address: address.to_string(), error };
        let sockets = listen::bind(&listen, self.tables.len()).map_err(failed)?;
        let port = sockets[0].local_addr().map_err(failed)?.port();
        let handle = sockets[0].try_clone().map_err(failed)?;
        let id = self.next_listener.fetch_add(1, SeqCst);
        self.listeners().insert(id, handle);
        for (mailbox, socket) in self.mailboxes.get().into_iter().flatten().zip(sockets) {
            mailbox.change_listening(Listening::Begin { id, socket });
        }
        Ok((id, port))
    }

    /// Ends listening at an address; its connections go on. False if there is no such number.
    pub fn unlisten(&self, id: u32) -> bool {
        let is_known = self.listeners().remove(&id).is_some();
        if is_known {
            for mailbox in self.mailboxes.get().into_iter().flatten() {
                mailbox.change_listening(Listening::End { id });
            }
        }
        is_known
    }

    /// Runs `look` on a listening socket, if there is one of this number.
    pub fn with_listener<R>(&self, id: u32, look: impl FnOnce(&TcpListener) -> R) -> Option<R> {
        self.listeners().get(&id).map(look)
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u32, TcpListener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post_stop(&self, frame: CloseFrame, spread: Duration, deadline: Duration) {
        self.listeners().clear();
        for mailbox in self.mailboxes.get().into_iter().flatten() {
            let _ = mailbox.post(Command::Stop { frame: Box::new(frame), spread, deadline });
        }
    }

    /// Waits until the server has stopped and its threads are gone.
    pub fn wait(&self, timeout: Option<Duration>) -> Waited {
        if OWN_SERVER.get() == std::ptr::from_ref(self) as usize {
            return Waited::Deadlock;
        }
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut phase = self.lock();
        loop {
            match *phase {
                Phase::New => return Waited::NotStarted,
                Phase::Stopped => break,
                Phase::Running | Phase::Stopping => {}
            }
            let left = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Waited::TimedOut,
                left => left,
            };
            phase = match left {
                Some(left) => {
                    self.stopped.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.stopped.wait(phase).unwrap_or_else(PoisonError::into_inner),
            };
        }
        // The threads are past their last event; what they still do takes no time and calls
        // nobody but the embedder's destructors.
        drop(phase);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
        Waited::Stopped
    }

    /// Changes an option of a server that may run already.
    pub fn set(&self, key: &str, value: &str) -> Result<(), LiveError> {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        config.set_live(key, value)?;
        let settings = Arc::new(config.settings().clone());
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings.clone();
        // Still under the lock: two changes must reach every shard in the same order.
        for mailbox in self.mailboxes.get().into_iter().flatten() {
            let _ = mailbox.post(Command::Apply(settings.clone()));
        }
        Ok(())
    }

    fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As [`Server::stop`], for a server that nobody holds any more: with a proper good-bye.
    pub fn stop_in_background(&self) {
        let frame = CloseFrame::new(CloseCode::GOING_AWAY, "");
        let _ = self.stop(frame, Duration::ZERO, self.settings().timeouts.close);
    }

    /// The port of a configured listener, in the order they were set.
    pub fn port(&self, index: usize) -> Option<u16> {
        self.ports.get()?.get(index).copied()
    }

    pub fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    // Per connection. `turn` is the turn of the connection's own shard, if the caller is in it.

    /// Queues a message; never blocks.
    pub fn send(&self, conn: ConnId, kind: Kind, data: &[u8]) -> Result<Sent, Misuse> {
        if kind == Kind::Text && simdutf8::basic::from_utf8(data).is_err() {
            return Err(Misuse::NotUtf8);
        }
        self.send_from_afar(conn, kind, data.len(), || {
            let mut payload = Vec::new();
            payload.try_reserve_exact(data.len()).map_err(|_| Misuse::NoMemory)?;
            payload.extend_from_slice(data);
            Ok(Command::Send { conn, kind, payload })
        })
    }

    pub fn send_message(&self, conn: ConnId, message: &Arc<Message>) -> Result<Sent, Misuse> {
        self.send_from_afar(conn, message.kind, message.payload.len(), || {
            Ok(Command::SendMessage { conn, message: message.clone() })
        })
    }

    /// Answers from the table, and leaves the message in the mailbox.
    fn send_from_afar(
        &self,
        conn: ConnId,
        kind: Kind,
        len: usize,
        command: impl FnOnce() -> Result<Command, Misuse>,
    ) -> Result<Sent, Misuse> {
        let (entry, life) = self.find(conn)?;
        let entry = entry.get();
        is_open(life)?;
        if kind == Kind::Binary && entry.dialect().wire_form() == WireForm::Hixie {
            return Err(Misuse::Unsupported);
        }
        let settings = self.settings();
        let limits = &settings.send;
        if len > limits.limit_bytes {
            return Err(Misuse::TooBig);
        }
        let command = command()?;
        // Added before it is compared, so that many threads together can't pass the limit.
        let waiting = entry.add_to_mailbox(conn, charge(len)).ok_or(Misuse::NoConnection)?;
        // The last head may stand over the limit, as with sends from callbacks.
        let queued = (waiting - charge(0) + entry.outbox_bytes.get()) as usize;
        if queued > limits.limit_bytes {
            entry.take_from_mailbox(conn, charge(len));
            entry.dropped.fetch_add(1, Relaxed);
            self.tables[conn.shard()].counters.dropped_messages.fetch_add(1, Relaxed);
            let is_first = !entry.wants_drain.swap(true, SeqCst);
            if limits.full == WhenFull::Close {
                self.post(None, conn, Command::Abort { conn, by: ClosedBy::Limit })?;
            } else if is_first {
                // The shard may have drained it all before it could see the wish.
                self.post(None, conn, Command::Look { conn })?;
            }
            return Err(Misuse::Full);
        }
        let sent = if queued > limits.high_water_bytes {
            entry.wants_drain.store(true, SeqCst);
            Sent::HighWater
        } else {
            Sent::Queued
        };
        self.post(None, conn, command)?;
        Ok(sent)
    }

    /// Begins the close handshake; what is queued goes first.
    pub fn close(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        frame: CloseFrame,
    ) -> Result<Done, Misuse> {
        let (entry, life) = self.find(conn)?;
        match life {
            Life::Closing => return Ok(Done::Already),
            life => is_open(life)?,
        }
        if !entry.get().begin_close(conn) {
            return Ok(Done::Already);
        }
        self.post(turn, conn, Command::Close { conn, frame: Box::new(frame) })?;
        Ok(Done::Now)
    }

    /// Ends the connection without a word.
    pub fn abort(&self, turn: Option<&mut Turn<'_>>, conn: ConnId) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        if life == Life::Closed {
            return Err(Misuse::NoConnection);
        }
        // From now on nothing more is taken for it.
        entry.get().begin_close(conn);
        self.post(turn, conn, Command::Abort { conn, by: ClosedBy::Host })
    }

    pub fn set_paused(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, paused: bool) -> Result<(), Misuse> {
        let (_, life) = self.find(conn)?;
        is_open(life)?;
        self.post(turn, conn, Command::SetPaused { conn, paused })
    }

    pub fn ping(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, payload: Control) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        is_open(life)?;
        if entry.get().dialect().wire_form() == WireForm::Hixie {
            return Err(Misuse::Unsupported);
        }
        // It counts from here on, as everything that waits for a peer does.
        let charged = charge(payload.as_slice().len());
        let entry = entry.get();
        let waiting = entry.add_to_mailbox(conn, charged).ok_or(Misuse::NoConnection)?;
        if (waiting + entry.outbox_bytes.get()) as usize > self.settings().send.limit_bytes {
            entry.take_from_mailbox(conn, charged);
            return Err(Misuse::Full);
        }
        self.post(turn, conn, Command::Ping { conn, payload: Box::new(payload) })
    }

    /// On an error `data` comes back unused.
    pub fn set_data(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        data: UserData,
    ) -> Result<(), (Misuse, UserData)> {
        match self.find(conn) {
            Ok((_, life)) if life != Life::Closed => {}
            _ => return Err((Misuse::NoConnection, data)),
        }
        let command = Command::SetData { conn, data };
        match turn {
            Some(turn) => turn.obey(command),
            None => {
                if let Err(Command::SetData { data, .. }) = self.post_or_back(conn, command) {
                    return Err((Misuse::Stopped, data));
                }
            }
        }
        Ok(())
    }

    /// The embedder agrees to a request. `protocol` `None`: what the option `protocols` says.
    pub fn accept(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        protocol: Option<&str>,
        headers: &str,
    ) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        if life != Life::Deciding {
            return Err(undecidable(life));
        }
        http::check_header_lines(headers, &handshake::OWN_HEADERS).map_err(Misuse::Invalid)?;
        if let Some(protocol) = protocol.filter(|protocol| !protocol.is_empty()) {
            let pending = self.request(conn)?;
            if !handshake::offers_protocol(&pending.request, entry.get().dialect(), protocol) {
                return Err(Misuse::Invalid("the client did not offer this subprotocol"));
            }
        }
        if !entry.get().decide(conn, Life::Deciding) {
            return Err(Misuse::State("it was decided already"));
        }
        let (protocol, headers) = (protocol.map(str::to_string), headers.to_string());
        self.post(turn, conn, Command::Accept { conn, protocol, headers })
    }

    /// The embedder refuses a request for a WebSocket (`awaited` is `Life::Deciding`), or
    /// replies to a plain one (`Life::Http`).
    pub fn answer(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        awaited: Life,
        answer: &Answer<'_>,
    ) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        if life != awaited {
            return Err(undecidable(life));
        }
        http::check_header_lines(answer.headers, &handshake::OWN_HEADERS).map_err(Misuse::Invalid)?;
        if !entry.get().decide(conn, awaited) {
            return Err(Misuse::State("it was decided already"));
        }
        let mut body = Vec::new();
        body.try_reserve_exact(answer.body.len()).map_err(|_| Misuse::NoMemory)?;
        body.extend_from_slice(answer.body);
        let command =
            Command::Answer { conn, status: answer.status, headers: answer.headers.to_string(), body };
        self.post(turn, conn, command)
    }

    /// The request of a connection, from UPGRADE until OPEN was delivered.
    pub fn request(&self, conn: ConnId) -> Result<PendingRequest, Misuse> {
        let (_, _) = self.find(conn)?;
        let table = self.tables.get(conn.shard()).ok_or(Misuse::NoConnection)?;
        table.request(conn).ok_or(Misuse::State("the request is kept only until OPEN was delivered"))
    }

    /// The subprotocol that was agreed on, or nothing.
    pub fn protocol(&self, conn: ConnId) -> String {
        let found = self.tables.get(conn.shard()).and_then(|table| table.protocol(conn));
        found.map_or_else(String::new, |protocol| protocol.to_string())
    }

    /// Calls `each` for every connection that is open or closing.
    pub fn each_open(&self, mut each: impl FnMut(ConnId, &Entry)) {
        for (shard, table) in self.tables.iter().enumerate() {
            table.ids(shard as u8, &mut each);
        }
    }

    /// A connection's entry in its shard's table, and how far it has come.
    pub fn find(&self, conn: ConnId) -> Result<(EntryRef, Life), Misuse> {
        self.tables.get(conn.shard()).and_then(|table| table.find(conn)).ok_or(Misuse::NoConnection)
    }

    fn post(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, command: Command) -> Result<(), Misuse> {
        match turn {
            Some(turn) => {
                turn.obey(command);
                Ok(())
            }
            None => self.post_or_back(conn, command).map_err(|_| Misuse::Stopped),
        }
    }

    fn post_or_back(&self, conn: ConnId, command: Command) -> Result<(), Command> {
        match self.mailboxes.get().and_then(|mailboxes| mailboxes.get(conn.shard())) {
            Some(mailbox) => mailbox.post(command),
            None => Err(command),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Message {
    /// Copies and checks a message for many connections.
    pub fn new(kind: Kind, data: &[u8]) -> Result<Self, Misuse> {
        if kind == Kind::Text && simdutf8::basic::from_utf8(data).is_err() {
            return Err(Misuse::NotUtf8);
        }
        let mut payload = Buffer::default();
        payload.append(data, data.len()).map_err(|_| Misuse::NoMemory)?;
        Ok(Self { kind, payload: Arc::new(payload) })
    }
}

fn is_open(life: Life) -> Result<(), Misuse> {
    match life {
        Life::Open => Ok(()),
        Life::Closing => Err(Misuse::Closing),
        Life::Deciding | Life::Accepted => Err(Misuse::State("the connection is not open yet")),
        Life::Http => Err(Misuse::State("this is a plain HTTP request")),
        Life::None | Life::Closed => Err(Misuse::NoConnection),
    }
}

fn undecidable(life: Life) -> Misuse {
    match life {
        Life::Deciding => Misuse::State("this is a WebSocket request: accept or reject it"),
        Life::Http => Misuse::State("this is a plain HTTP request: reply to it"),
        Life::None | Life::Closed => Misuse::NoConnection,
        _ => Misuse::State("it was decided already"),
    }
}

thread_local! {
    /// On a shard's thread: the server it belongs to, as a number to compare with.
    static OWN_SERVER: Cell<usize> = const { Cell::new(0) };
}
