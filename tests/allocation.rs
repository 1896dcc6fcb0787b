//! Memory whose size a peer or the embedder chooses can be refused, and the server lives on.
//!
//! The allocator of this program refuses the n-th large piece that the library asks for, for
//! n = 1, 2, 3 and so on, while clients on the loopback hold conversations that need large
//! pieces. What then may be lost is one connection, with its CLOSE, or one call, with
//! `Misuse::NoMemory`; never the process, and never the next one's service.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use fullduplex::config::Config;
use fullduplex::engine::event::EventKind;
use fullduplex::engine::routes::{Route, Routes, Wants};
use fullduplex::engine::table::Life;
use fullduplex::engine::turn::{EventView, Handler, Message, Misuse, Turn};
use fullduplex::id::ConnId;
use fullduplex::protocol::close::{CloseCode, CloseFrame};
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};
use fullduplex::server::{Answer, Server, Waited};

use peer::{Heard, Reader, said};

#[allow(dead_code, reason = "the engine's tests use the rest of it")]
#[path = "engine/peer.rs"]
mod peer;

#[test]
fn whatever_large_memory_is_refused_costs_one_connection_or_one_call_and_not_the_server() {
    let stage = Stage::new();
    // Assembled from fragments, and read into lent memory.
    let halves = [peer::frame(0x02, &[7; 100_000]), peer::frame(0x80, &[7; 500_000])].concat();
    stage.conversation(Dialect::Rfc6455, &halves, &[Heard::Binary(vec![7; 600_000])]);
    // Hixie tells no lengths, and what is no UTF-8 is repaired.
    let long = [&[0x00], &[b'x'; 150_000][..], &[0xFF]].concat();
    stage.conversation(Dialect::Hixie76, &long, &[said(&"x".repeat(150_000))]);
    let broken = [&[0x00], &[0xF8; 20_000][..], &[0xFF]].concat();
    stage.conversation(Dialect::Hixie75, &broken, &[said(&"\u{FFFD}".repeat(20_000))]);
    // Many small answers of one turn are copied into large chunks.
    let many = peer::binary(&[7; 3000]).repeat(40);
    stage.conversation(Dialect::Rfc6455, &many, &vec![Heard::Binary(vec![7; 3000]); 40]);
    // The client reads nothing until it has said all: what was lent from the arena is copied.
    let flood = peer::binary(&[7; 60_000]).repeat(200);
    stage.conversation(Dialect::Rfc6455, &flood, &vec![Heard::Binary(vec![7; 60_000]); 200]);
    stage.requests();
    stage.calls();
    stage.ends();
}

/// A server with an embedder that says everything back, and a client that is always there.
struct Stage {
    server: Arc<Server>,
    embedder: Embedder,
    address: SocketAddr,
    bystander: Mutex<Client>,
}

impl Stage {
    fn new() -> Self {
        let mut config = Config::new();
        for (key, value) in [
            ("listen", "127.0.0.1:0"),
            ("send.limit", "64m"),
            ("max.handshake", "64k"),
            ("timeout.handshake", "1h"),
            ("timeout.close", "1h"),
            ("timeout.write_stall", "1h"),
        ] {
            config.set(key, value).unwrap();
        }
        let wants = Wants {
            upgrade: true,
            open: true,
            message: true,
            close: true,
            drain: true,
            topic: true,
            other: true,
        };
        let mut routes = Routes::default();
        routes.add("/*", Route { number: 0, wants, http: true, streams: false }).unwrap();
        LazyLock::force(&LONG_HEADER);
        let server = Arc::new(Server::new(&config, routes));
        let embedder = Embedder::default();
        embedder.0.server.set(server.clone()).ok().expect("it is the first");
        server.start(|| embedder.clone(), |_| Err(ErrorKind::Unsupported.into()), None).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], server.port(0).unwrap()));
        let mut bystander = Client::connect(address, Dialect::Rfc6455);
        bystander.says(&peer::request(Dialect::Rfc6455, "/"));
        assert_eq!(bystander.hears(), Heard::Http(101));
        Self { server, embedder, address, bystander: Mutex::new(bystander) }
    }

    /// A client opens, says this, hears that, and closes.
    fn conversation(&self, dialect: Dialect, words: &[u8], answers: &[Heard]) {
        let close = match dialect {
            Dialect::Hixie75 => Vec::new(),
            Dialect::Hixie76 => vec![0xFF, 0x00],
            _ => peer::close(1000, ""),
        };
        let bytes = [words, &close].concat();
        let expected = [&[Heard::Http(101)], answers].concat();
        self.refusing_each(|| {
            let mut client = Client::connect(self.address, dialect);
            client.says(&peer::request(dialect, "/"));
            assert_eq!(client.hears(), Heard::Http(101));
            COUNTS.store(true, SeqCst);
            client.says(&bytes);
            client.finishes();
            is_fine_or_lost(&client.hears_to_the_end()[..], &expected[1..])
        });
    }

    /// Requests with much behind them, with long heads, and with long answers.
    fn requests(&self) {
        let request = |line: &str| format!("{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n");
        let backlog = [
            peer::request(Dialect::Rfc6455, "/long_headers"),
            peer::binary(&[7; 50_000]),
            peer::close(1000, ""),
        ];
        let long_head = format!("{}X: {}\r\n\r\n", request("GET /page"), "x".repeat(50_000));
        let page = format!("{}\r\n", request("GET /page"));
        let upgrade = String::from_utf8(peer::request(Dialect::Rfc6455, "/reject")).unwrap();
        for (bytes, expected) in [
            (backlog.concat(), &[Heard::Http(101), Heard::Binary(vec![7; 50_000])][..]),
            (long_head.into_bytes(), &[Heard::Http(200)]),
            (page.into_bytes(), &[Heard::Http(200)]),
            (upgrade.into_bytes(), &[Heard::Http(403)]),
        ] {
            self.refusing_each(|| {
                let mut client = Client::connect(self.address, Dialect::Rfc6455);
                COUNTS.store(true, SeqCst);
                client.says(&bytes);
                is_fine_or_lost(&client.hears_to_the_end(), expected)
            });
        }
    }

    /// Calls of another thread say that there is no memory, and can be made again.
    fn calls(&self) {
        let bytes = vec![7; 100_000];
        self.refusing_each(|| {
            let mut client = Client::connect(self.address, Dialect::Rfc6455);
            client.says(&peer::request(Dialect::Rfc6455, "/"));
            assert_eq!(client.hears(), Heard::Http(101));
            let conn = self.embedder.last_opened();
            COUNTS.store(true, SeqCst);
            again(|| self.server.send(conn, Kind::Binary, &bytes, true, Wish::Auto));
            let message = again(|| Message::new(Kind::Binary, &bytes).map(Arc::new));
            again(|| self.server.send_message(conn, &message, Wish::Auto));
            let frame = CloseFrame::new(CloseCode::NORMAL, "");
            again(|| self.server.close(None, conn, frame));
            client.says(&peer::close(1000, ""));
            client.finishes();
            is_fine_or_lost(&client.hears_to_the_end(), &vec![Heard::Binary(bytes.clone()); 2])
        });
    }

    /// Runs it with the first large piece refused, then the second, until none was.
    fn refusing_each(&self, run: impl Fn() -> bool) {
        for nth in 1..=RUNS_MAX {
            PIECES_LEFT.store(nth, SeqCst);
            let is_fine = run();
            COUNTS.store(false, SeqCst);
            let was_refused = PIECES_LEFT.load(SeqCst) == 0;
            self.embedder.wait_for_closes();
            let mut bystander = self.bystander.lock().unwrap();
            bystander.says(&peer::text("still there"));
            assert_eq!(bystander.hears(), said("still there"));
            if !was_refused {
                assert!(is_fine && nth > 1, "{} large pieces were asked for", nth - 1);
                return;
            }
        }
    }

    fn ends(self) {
        self.server.stop(CloseFrame::EMPTY, Duration::ZERO, Duration::ZERO).unwrap();
        assert_eq!(self.server.wait(Some(PATIENCE)), Waited::Stopped);
        assert!(self.server.tables()[0].is_quiet());
        assert_eq!(self.server.tables()[0].counters.faults.get(), 0);
    }
}

/// Says everything back, and keeps the order of events.
#[derive(Clone, Default)]
struct Embedder(Arc<Known>);

#[derive(Default)]
struct Known {
    server: OnceLock<Arc<Server>>,
    told: Mutex<Told>,
    /// Rings at each CLOSE.
    closed: Condvar,
}

#[derive(Default)]
struct Told {
    /// Is it open?
    connections: BTreeMap<ConnId, bool>,
    last_opened: Option<ConnId>,
    wrong: Vec<String>,
}

impl Embedder {
    fn last_opened(&self) -> ConnId {
        self.told().last_opened.expect("a client was let in")
    }

    /// Until only the bystander is open.
    fn wait_for_closes(&self) {
        let is_busy = |told: &mut Told| told.connections.values().filter(|&&is_open| is_open).count() > 1;
        let (told, waited) = self.0.closed.wait_timeout_while(self.told(), PATIENCE, is_busy).unwrap();
        assert!(!waited.timed_out(), "a connection is not closed");
        assert_eq!(told.wrong, [""; 0]);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap()
    }

    fn react(&self, turn: &mut Turn<'_>, event: &EventView<'_>) -> Result<(), Misuse> {
        let conn = event.conn;
        let server = self.0.server.get().expect("it was set before the start");
        match event.kind {
            EventKind::ThreadStart => IS_ASKED.set(true),
            EventKind::Upgrade => {
                let request = server.request(conn)?;
                let path = request.get(":path").unwrap_or_default();
                match &*path {
                    b"/long_headers" => again(|| server.accept(Some(&mut *turn), conn, None, &LONG_HEADER)),
                    b"/reject" => {
                        let answer = Answer { status: 403, headers: &LONG_HEADER, body: &[b'n'; 50_000] };
                        again(|| server.answer(Some(&mut *turn), conn, Life::Deciding, &answer));
                    }
                    _ => server.accept(Some(turn), conn, None, "")?,
                }
            }
            EventKind::Http => {
                let answer = Answer { status: 200, headers: "", body: &[b'p'; 300_000] };
                again(|| server.answer(Some(&mut *turn), conn, Life::Http, &answer));
            }
            EventKind::Message(kind) => match turn.send(conn, kind, event.payload) {
                // It has to be told somehow that an answer is missing.
                Err(Misuse::NoMemory) => server.abort(Some(turn), conn)?,
                Err(Misuse::NoConnection | Misuse::Closing) | Ok(_) => {}
                Err(other) => return Err(other),
            },
            _ => {}
        }
        Ok(())
    }
}

impl Handler for Embedder {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        let reacted = self.react(turn, event);
        let mut told = self.told();
        let before = told.connections.get(&event.conn).copied();
        let is_right = match event.kind {
            EventKind::Open => {
                told.last_opened = Some(event.conn);
                told.connections.insert(event.conn, true).is_none()
            }
            EventKind::Close { .. } => told.connections.insert(event.conn, false) == Some(true),
            EventKind::Message(_) | EventKind::Drain => before == Some(true),
            EventKind::Fault => false,
            _ => before.is_none(),
        };
        if !is_right || reacted.is_err() {
            told.wrong.push(format!("{:?} to {:?}, {before:?} before, {reacted:?}", event.kind, event.conn));
        }
        self.0.closed.notify_all();
    }
}

/// A client that blocks.
struct Client {
    stream: TcpStream,
    reader: Reader,
    heard: Vec<Heard>,
}

impl Client {
    fn connect(address: SocketAddr, dialect: Dialect) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, reader: Reader::new(dialect), heard: Vec::new() }
    }

    /// As far as the server is there to take it.
    fn says(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn finishes(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn hears(&mut self) -> Heard {
        while self.heard.is_empty() {
            self.reads();
        }
        self.heard.remove(0)
    }

    fn hears_to_the_end(mut self) -> Vec<Heard> {
        while !matches!(self.heard.last(), Some(Heard::Fin | Heard::Reset)) {
            self.reads();
        }
        self.heard
    }

    fn reads(&mut self) {
        let mut room = [0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => self.heard.push(Heard::Fin),
            Ok(len) => {
                self.reader.receive(&room[..len], &mut self.heard).expect("the server keeps the protocol")
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server is silent"),
            Err(_) => self.heard.push(Heard::Reset),
        }
    }
}

/// Did the client hear all? If not then a part of it, and at most why there is no more.
fn is_fine_or_lost(heard: &[Heard], expected: &[Heard]) -> bool {
    let is_end = |item: &Heard| {
        matches!(item, Heard::Close(..) | Heard::HixieClose | Heard::Http(503) | Heard::Fin | Heard::Reset)
    };
    let count = heard.iter().position(is_end).expect("it was heard to the end");
    assert!(expected.starts_with(&heard[..count]), "{count} answers, and not the right ones");
    count == expected.len()
}

/// Calls, and if there is no memory calls again: then there is.
fn again<R>(mut call: impl FnMut() -> Result<R, Misuse>) -> R {
    let was_asked = IS_ASKED.replace(true);
    let mut called = call();
    if let Err(Misuse::NoMemory) = called {
        called = call();
    }
    IS_ASKED.set(was_asked);
    called.expect("only memory was missing")
}

/// Refuses one large piece to those that are asked to do without.
struct Miser;

#[global_allocator]
static ALLOCATOR: Miser = Miser;

// SAFETY: everything is passed on to the system's allocator, or answered with null.
unsafe impl GlobalAlloc for Miser {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_refused(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: promised by the caller.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller, and nothing else gave the memory.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn is_refused(size: usize) -> bool {
    if size < LARGE_BYTES || !COUNTS.load(SeqCst) || !IS_ASKED.get() {
        return false;
    }
    PIECES_LEFT.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) == Ok(1)
}

/// Large pieces are counted now, and this one is refused when it gets to 0.
static COUNTS: AtomicBool = AtomicBool::new(false);
static PIECES_LEFT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread is the library's, or in a call of it.
    static IS_ASKED: Cell<bool> = const { Cell::new(false) };
}

static LONG_HEADER: LazyLock<String> = LazyLock::new(|| format!("X: {}\r\n", "y".repeat(50_000)));
/// As large as the largest piece that is not of a size that others choose.
const LARGE_BYTES: usize = 16 * 1024;
/// Enough to refuse each of the first pieces; a flood asks for the same ones again and again.
const RUNS_MAX: usize = 12;
const PATIENCE: Duration = Duration::from_secs(20);
