//! Threads: the server as everyone else sees it, from any thread.
//!
//! A call looks into the shards' tables, is answered from there, and leaves a command in the
//! shard's mailbox; from inside a callback on the same shard it goes to the turn directly.

pub mod calls;
pub mod delivery;
pub mod files;
mod machines;
pub mod mailbox;
pub mod pages;
mod secure;
pub mod shard;
mod topics;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::backplane::{Backplane, Carrier, Inlet, Prepared};
use crate::config::{Config, ListenAddress, LiveError, Settings, StaticFiles, TEXT_BYTES_MAX};
use crate::driver::Driver;
use crate::driver::listen::{self, Bound, Inherit, ListenSocket};
use crate::driver::mio::{ARENA_BYTES, MioDriver};
use crate::engine::limits::Gate;
use crate::engine::routes::Routes;
use crate::engine::table::Table;
use crate::engine::topics::Topics;
use crate::engine::turn::{Handler, Misuse};
use crate::engine::{Command, Engine, Parts};
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::tls::{Acceptor, CertificateError, Certificates};
use files::Files;
use mailbox::{Letterbox, Listening, Mailbox};
use pages::ServerPages;
use shard::Shard;

/// A server. All methods may be called from any thread.
pub struct Server {
    /// As set by the embedder, and what came of it. Changed together, under the first's lock.
    config: Mutex<Config>,
    settings: RwLock<Arc<Settings>>,
    routes: Arc<Routes>,
    /// What listeners with TLS show.
    certificates: Arc<Certificates>,
    tables: Vec<Arc<Table>>,
    topics: Arc<Topics>,
    backplane: Option<Arc<Backplane>>,
    gate: Arc<Gate>,
    mailboxes: OnceLock<Vec<Arc<dyn Letterbox>>>,
    /// Of the configured listeners.
    ports: OnceLock<Vec<u16>>,
    /// A second handle to each socket that listens now, by its number.
    listeners: Mutex<BTreeMap<u32, Bound>>,
    next_listener: AtomicU32,
    phase: Mutex<Phase>,
    /// Locked while they are joined, so that nobody's wait ends before they have.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Rings when the server has stopped.
    stopped: Condvar,
    /// Shards whose thread has not ended.
    shards_left: AtomicUsize,
    /// Those, and the backplane's thread.
    threads_left: AtomicUsize,
    number: u32,
}

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
    Tls(String),
    Listen {
        address: String,
        error: io::Error,
    },
    /// What waits for sockets can't be had.
    Driver(io::Error),
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
        let shards = shards.min(crate::id::SHARDS_MAX);
        let backplane = Backplane::of_options(&settings.backplane);
        let mut server = Self {
            config: Mutex::new(config.clone()),
            settings: RwLock::new(Arc::new(settings)),
            certificates: Arc::default(),
            tables: (0..shards).map(|_| Arc::default()).collect(),
            topics: Arc::new(Topics::new(shards, routes.want_topics())),
            routes: Arc::new(routes),
            backplane: None,
            gate: Arc::default(),
            mailboxes: OnceLock::new(),
            ports: OnceLock::new(),
            listeners: Mutex::default(),
            next_listener: AtomicU32::new(0),
            phase: Mutex::new(Phase::New),
            threads: Mutex::default(),
            stopped: Condvar::new(),
            shards_left: AtomicUsize::new(0),
            threads_left: AtomicUsize::new(0),
            number: SERVERS.fetch_add(1, Relaxed),
        };
        if let Some(backplane) = backplane {
            server.use_backplane(backplane);
        }
        server
    }

    /// Binds all listeners and starts all threads, or nothing. `handler` makes each shard's. `carrier`
    /// is the embedder's backplane, if it has one of its own.
    pub fn start<H: Handler + Send + 'static>(
        self: &Arc<Self>,
        handler: impl Fn() -> H,
        inherit: Inherit,
        carrier: Option<Box<dyn Carrier>>,
    ) -> Result<(), StartError> {
        let mut phase = self.lock();
        if *phase != Phase::New {
            return Err(StartError::Phase("the server was started already"));
        }
        let prepare = |backplane: &Arc<Backplane>| backplane.prepare(carrier);
        let prepared = self.backplane.as_ref().map(prepare).transpose()?;
        let (shards, ports) = self.make_shards(handler, inherit)?;
        // Before the first callback, which may ask for them.
        let _ = self.ports.set(ports);
        self.shards_left.store(shards.len(), SeqCst);
        self.threads_left.store(shards.len(), SeqCst);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = prepared {
            let spawned = self.start_backplane(prepared);
            *phase = if spawned.is_err() { Phase::Stopped } else { Phase::New };
            threads.push(spawned.map_err(StartError::Thread)?);
        }
        let others = threads.len();
        let (begun, all_begun) = mpsc::channel();
        for (index, shard) in shards.into_iter().enumerate() {
            let (server, begun) = (self.clone(), begun.clone());
            let spawned = thread::Builder::new()
                .name(format!("fullduplex-{index}"))
                .spawn(move || server.run_shard(shard, begun));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    // Shards never begun are not waited for; the others are told to end.
                    let missing = self.tables.len() - (threads.len() - others);
                    self.shards_left.fetch_sub(missing, SeqCst);
                    self.threads_left.fetch_sub(missing, SeqCst);
                    *phase = if threads.is_empty() { Phase::Stopped } else { Phase::Stopping };
                    self.post_stop(CloseFrame::EMPTY, Duration::ZERO, Duration::ZERO);
                    if let Some(backplane) = self.backplane.as_ref().filter(|_| threads.len() == others) {
                        backplane.stop();
                    }
                    return Err(StartError::Thread(error));
                }
            }
        }
        // It ends when each has dropped its sender. A server that has started has what it takes.
        drop(begun);
        all_begun.iter().for_each(drop);
        *phase = Phase::Running;
        Ok(())
    }

    /// Starts without threads: gives the shards on these drivers, one for each of the option
    /// `threads`, to a caller who takes their turns, in this thread. So a test runs a whole server on a
    /// simulated kernel.
    pub fn start_on<D: Driver, H: Handler>(
        &self,
        drivers: Vec<D>,
        handler: impl Fn() -> H,
    ) -> Result<Vec<Shard<D, H>>, StartError> {
        let mut phase = self.lock();
        if *phase != Phase::New {
            return Err(StartError::Phase("the server was started already"));
        }
        let mut shards = self.shards_on(drivers, handler, self.pages()?, self.acceptor()?);
        shards.iter_mut().for_each(Shard::begin);
        self.shards_left.store(shards.len(), SeqCst);
        *phase = Phase::Running;
        Ok(shards)
    }

    fn make_shards<H: Handler>(
        &self,
        handler: impl Fn() -> H,
        inherit: Inherit,
    ) -> Result<Made<H>, StartError> {
        let settings = self.settings();
        if settings.listen.is_empty() {
            return Err(StartError::Config("no address to listen at: set the option \"listen\"".to_string()));
        }
        let (pages, acceptor) = (self.pages()?, self.acceptor()?);
        if let Some(listen) = settings.listen.iter().find(|listen| listen.secure) {
            self.check_certificate(&listen.text)?;
        }
        let shards = self.tables.len();
        let mut drivers: Vec<MioDriver> = (0..shards)
            .map(|_| MioDriver::new(&settings.driver))
            .collect::<io::Result<_>>()
            .map_err(StartError::Driver)?;
        let (mut ports, mut open) = (Vec::new(), BTreeMap::new());
        for listen in &settings.listen {
            let failed = |error| StartError::Listen { address: listen.text.clone(), error };
            for bound in listen::bind(listen, inherit).map_err(failed)? {
                let id = ports.len() as u32;
                ports.push(bound.socket.port().map_err(failed)?);
                let socket = bound.socket.try_clone().map_err(failed)?;
                drivers[0].listen(id, socket, listen.secure).map_err(failed)?;
                open.insert(id, bound);
            }
        }
        self.next_listener.store(ports.len() as u32, SeqCst);
        let mut shards = self.shards_on(drivers, handler, pages, acceptor);
        // Now that there is a mailbox for who ends one of them.
        *self.listeners() = open;
        if shards.len() > 1 {
            // One accepts for all: each socket is one, to be handed over as a whole, and the
            // connections go round.
            let mailboxes = shards.iter().map(|shard| shard.mailbox().clone()).collect();
            shards[0].spread_over(mailboxes);
        }
        Ok((shards, ports))
    }

    /// Set aside for the windows of dedicated connections.
    pub fn deflate_bytes(&self) -> u64 {
        self.gate.windows.taken_bytes() as u64
    }

    fn pages(&self) -> Result<Arc<ServerPages>, StartError> {
        let open_files = |files: &StaticFiles| Files::open(&files.prefix, &files.directory);
        let files = self.settings().files.iter().map(open_files).collect::<io::Result<_>>();
        let files = files.map_err(|error| StartError::Config(format!("http.static: {error}")))?;
        Ok(Arc::new(ServerPages::new(
            self.tables.clone(),
            self.topics.clone(),
            self.gate.clone(),
            self.backplane.clone(),
            files,
        )))
    }

    fn acceptor(&self) -> Result<Arc<Acceptor>, StartError> {
        let acceptor = secure::acceptor(&self.settings().tls, &self.certificates);
        acceptor.map(Arc::new).map_err(StartError::Tls)
    }

    /// Is there anything to show to who connects there?
    fn check_certificate(&self, address: &str) -> Result<(), StartError> {
        match self.certificates.is_empty() {
            true => Err(StartError::Tls(format!(
                "listen = {address}: TLS needs a certificate: set the options \"tls.cert\" and \"tls.key\""
            ))),
            false => Ok(()),
        }
    }

    /// From now on shows this certificate for a name, or without one to all that have no other.
    pub fn set_certificate(
        &self,
        name: Option<&str>,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<(), CertificateError> {
        let certificate = secure::certificate(certificate, key)?;
        self.certificates.replace(name, &certificate);
        Ok(())
    }

    fn shards_on<D: Driver, H: Handler>(
        &self,
        drivers: Vec<D>,
        handler: impl Fn() -> H,
        pages: Arc<ServerPages>,
        acceptor: Arc<Acceptor>,
    ) -> Vec<Shard<D, H>> {
        let settings = self.settings();
        let mailboxes: Vec<_> = drivers.iter().map(|driver| Arc::new(Mailbox::new(driver.waker()))).collect();
        let made = drivers.into_iter().zip(&mailboxes).zip(&self.tables).enumerate();
        let shards = made
            .map(|(index, ((driver, mailbox), table))| {
                let parts = Parts {
                    shard: index as u8,
                    settings: settings.clone(),
                    routes: self.routes.clone(),
                    table: table.clone(),
                    topics: self.topics.clone(),
                    gate: self.gate.clone(),
                    pages: pages.clone(),
                    acceptor: acceptor.clone(),
                    generation_seed: self.number.wrapping_add(1),
                };
                let engine = Engine::new(parts, driver.now());
                Shard::new(driver, engine, mailbox.clone(), handler(), ARENA_BYTES)
            })
            .collect();
        let letterboxes = mailboxes.iter().map(|mailbox| mailbox.clone() as Arc<dyn Letterbox>);
        let _ = self.mailboxes.set(letterboxes.collect());
        shards
    }

    fn run_shard<H: Handler>(&self, mut shard: Shard<MioDriver, H>, begun: mpsc::Sender<()>) {
        OWN_SERVER.set(std::ptr::from_ref(self) as usize);
        shard.begin();
        drop(begun);
        shard.run(|| self.shards_left.fetch_sub(1, SeqCst) == 1);
        if self.shards_left.load(SeqCst) == 0 {
            // What was published until now is still handed over.
            if let Some(backplane) = &self.backplane {
                backplane.stop();
            }
        }
        self.end_thread();
    }

    fn start_backplane(self: &Arc<Self>, prepared: Prepared) -> io::Result<JoinHandle<()>> {
        let inlet: Arc<dyn Inlet> = self.clone();
        let server = self.clone();
        self.threads_left.fetch_add(1, SeqCst);
        prepared.start(Arc::downgrade(&inlet), move |run| {
            OWN_SERVER.set(Arc::as_ptr(&server) as usize);
            run();
            server.end_thread();
        })
    }

    /// With the last thread that has nothing more to do the server has stopped.
    fn end_thread(&self) {
        if self.threads_left.fetch_sub(1, SeqCst) == 1 {
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
    pub fn listen(&self, address: &str, inherit: Inherit) -> Result<(u32, u16), StartError> {
        if address.len() > TEXT_BYTES_MAX {
            return Err(StartError::Config(format!("an address has at most {TEXT_BYTES_MAX} bytes")));
        }
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
        if listen.secure {
            self.check_certificate(address)?;
        }
        let failed = |error| StartError::Listen { address: address.to_string(), error };
        let mut made = None;
        for bound in listen::bind(&listen, inherit).map_err(failed)? {
            let port = bound.socket.port().map_err(failed)?;
            let socket = bound.socket.try_clone().map_err(failed)?;
            let id = self.next_listener.fetch_add(1, SeqCst);
            self.listeners().insert(id, bound);
            self.change_listening(Listening::Begin { id, socket, secure: listen.secure });
            made.get_or_insert((id, port));
        }
        made.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Ends listening at an address; its connections go on. False if there is no such number.
    pub fn unlisten(&self, id: u32) -> bool {
        let is_known = self.listeners().remove(&id).is_some();
        if is_known {
            self.change_listening(Listening::End { id });
        }
        is_known
    }

    /// The first shard accepts for all.
    fn change_listening(&self, change: Listening) {
        let mailboxes = self.mailboxes.get().expect("only a server that has started listens");
        mailboxes[0].change_listening(change);
    }

    /// Runs `take` on a listening socket that is to be handed over, if there is one of this
    /// number.
    pub fn hand_over<R>(&self, id: u32, take: impl FnOnce(&ListenSocket) -> R) -> Option<R> {
        let mut listeners = self.listeners();
        let bound = listeners.get_mut(&id)?;
        bound.keep_path();
        Some(take(&bound.socket))
    }

    fn listeners(&self) -> MutexGuard<'_, BTreeMap<u32, Bound>> {
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
        if self.is_own_thread() {
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

    /// How many queues there are, should its events be polled.
    pub fn queues(&self) -> usize {
        usize::from(self.settings().queues)
    }

    /// Is this a thread of the server's own?
    pub fn is_own_thread(&self) -> bool {
        OWN_SERVER.get() == std::ptr::from_ref(self) as usize
    }

    /// The shard that accepts may let others in again.
    pub fn let_in_again(&self) {
        if let Some(mailbox) = self.mailboxes.get().and_then(|mailboxes| mailboxes.first()) {
            mailbox.wake();
        }
    }

    pub fn tables(&self) -> &[Arc<Table>] {
        &self.tables
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// On a shard's thread: the server it belongs to, as a number to compare with.
    static OWN_SERVER: Cell<usize> = const { Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::{Faults, Kernel, SimDriver};
    use crate::engine::connection::UserData;
    use crate::engine::routes::{Route, Wants};
    use crate::engine::turn::{EventView, Turn};
    use crate::protocol::Kind;
    use crate::protocol::deflate::Wish;

    struct Nobody;

    impl Handler for Nobody {
        fn handle(&mut self, _: &mut Turn<'_>, _: &EventView<'_>) {}
    }

    #[cfg(unix)]
    const NOTHING_INHERITED: Inherit = |_| Err(io::ErrorKind::Unsupported.into());
    #[cfg(not(unix))]
    const NOTHING_INHERITED: Inherit = ();

    fn server(options: &[(&str, &str)]) -> Arc<Server> {
        let mut config = Config::new();
        for (key, value) in options {
            config.set(key, value).unwrap();
        }
        Arc::new(Server::new(&config, Routes::default()))
    }

    fn start(server: &Server) -> Result<Vec<Shard<SimDriver, Nobody>>, StartError> {
        server.start_on(vec![Kernel::new(1, Faults::none()).driver(true)], || Nobody)
    }

    #[test]
    fn with_threads_0_every_core_has_a_shard() {
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(server(&[("threads", "0")]).tables().len(), cores);
        assert_eq!(server(&[("threads", "3")]).tables().len(), 3);
    }

    #[test]
    fn a_server_starts_once_on_whatever_it_runs() {
        let server = server(&[("listen", "127.0.0.1:0")]);
        let shards = start(&server).unwrap();
        assert_eq!(shards.len(), 1);
        assert!(matches!(start(&server), Err(StartError::Phase(_))));
        assert!(matches!(server.start(|| Nobody, NOTHING_INHERITED, None), Err(StartError::Phase(_))));
        assert_eq!(server.wait(Some(Duration::ZERO)), Waited::TimedOut);
    }

    #[test]
    fn where_the_kernel_can_not_listen_after_all_nobody_is_kept_waiting() {
        let server = server(&[]);
        let mut shards = start(&server).unwrap();
        // The simulated kernel takes no real socket.
        let (id, port) = server.listen("127.0.0.1:0", NOTHING_INHERITED).unwrap();
        shards[0].turn();
        assert!(server.unlisten(id));
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        shards[0].turn();
        assert!(!server.unlisten(id));
    }

    #[test]
    fn what_is_asked_of_a_shard_that_has_just_gone_is_stopped_and_data_comes_back_unused() {
        let mut routes = Routes::default();
        let wants = Wants { open: true, ..Wants::default() };
        routes.add("/*", Route { number: 0, wants, http: false, streams: false }).unwrap();
        let server = Server::new(&Config::new(), routes);
        let kernel = Kernel::new(1, Faults::none());
        let mut shards = server.start_on(vec![kernel.driver(true)], || Nobody).unwrap();
        let mut client = kernel.connect().unwrap();
        // Hixie-75, which asks for least.
        client
            .write(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n")
            .unwrap();
        let mut open = Vec::new();
        for _ in 0..100 {
            shards[0].turn();
            server.each_open(|id, _| open.push(id));
            if !open.is_empty() {
                break;
            }
        }
        let conn = open[0];
        assert!(server.set_data(None, conn, UserData { word: 6, release: None }).is_ok());
        assert!(shards[0].mailbox().close().is_some());
        let (misuse, data) = server.set_data(None, conn, UserData { word: 7, release: None }).err().unwrap();
        assert_eq!((misuse, data.word), (Misuse::Stopped, 7));
        assert_eq!(server.send(conn, Kind::Text, b"hello", true, Wish::Auto), Err(Misuse::Stopped));
        assert_eq!(server.abort(None, conn), Err(Misuse::Stopped));
    }

    #[test]
    fn an_address_that_is_too_long_is_refused_as_a_bad_option_is() {
        let server = server(&[]);
        let _shards = start(&server).unwrap();
        let address = format!("unix:/{}", "x".repeat(TEXT_BYTES_MAX));
        let refused = server.listen(&address, NOTHING_INHERITED);
        assert!(matches!(refused, Err(StartError::Config(why)) if why.contains("at most")));
    }
}
