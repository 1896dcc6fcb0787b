//! In the steady state a message that comes in one piece costs no allocation: what one has needed serves the
//! next. One that comes in several costs some small ones; its payload's memory is kept for the next, too.
//!
//! The allocator of this program counts what the library's own threads ask for, while clients on the loopback
//! hold conversations that are long under way.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fullduplex::config::Config;
use fullduplex::engine::event::EventKind;
use fullduplex::engine::routes::{Route, Routes, Wants};
use fullduplex::engine::turn::{EventView, Handler, Message, Turn};
use fullduplex::id::ConnId;
use fullduplex::protocol::Dialect;
use fullduplex::protocol::deflate::Wish;
use fullduplex::server::Server;

#[allow(dead_code, reason = "the engine's tests use the rest of it")]
#[path = "engine/peer.rs"]
mod peer;

#[test]
fn a_message_costs_no_allocation_and_one_in_pieces_four_small_ones() {
    let _alone = alone();
    let stage = Stage::new();
    let mut clients: Vec<Client> = (0..CROWD).map(|_| stage.client("/")).collect();
    for (what, frames, answer_len, most_each) in [
        ("short binary", peer::binary(&[7; 20]), 22, 0),
        ("short text", peer::text(&"x".repeat(20)), 22, 0),
        ("nothing", peer::text(""), 2, 0),
        ("16 in flight", peer::binary(&[7; 20]).repeat(16), 22 * 16, 0),
        ("text of 1 KiB", peer::text(&"x".repeat(1024)), 1028, 0),
        ("64 KiB", peer::binary(&[7; 64 * 1024]), 64 * 1024 + 10, PIECES),
        ("text of 1 MiB", peer::text(&"x".repeat(1 << 20)), (1 << 20) + 10, PIECES),
        ("in fragments", [peer::frame(0x01, b"frag"), peer::frame(0x80, b"ments")].concat(), 11, PIECES),
    ] {
        let mut converse = || {
            for client in &mut clients {
                client.says(&frames);
            }
            for client in &mut clients {
                client.hears(answer_len);
            }
        };
        let count = allocations_of(&mut converse);
        assert!(
            count <= most_each * ROUNDS * CROWD,
            "{what}: {count} allocations for {ROUNDS} × {CROWD} messages"
        );
    }
}

#[test]
fn a_publish_costs_no_allocation_for_its_subscribers() {
    let _alone = alone();
    let stage = Stage::new();
    let mut clients: Vec<Client> = (0..CROWD).map(|_| stage.client("/topic")).collect();
    let count = allocations_of(&mut || {
        clients[0].says(&peer::text("to all"));
        for client in &mut clients {
            client.hears(8);
        }
    });
    // The message, and its way to the shard.
    assert!(count <= PUBLISH_ALLOCATIONS * ROUNDS, "{count} allocations for {ROUNDS} publishes to {CROWD}");
}

/// What is counted is the whole program's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of the library in so many rounds, once it has seen the worst of them: how many come in one turn is
/// chance, and what the largest crowd needs is kept.
fn allocations_of(converse: &mut impl FnMut()) -> usize {
    let mut series = || {
        let before = ALLOCATIONS.load(SeqCst);
        (0..ROUNDS).for_each(|_| converse());
        ALLOCATIONS.load(SeqCst) - before
    };
    (0..SERIES).map(|_| series()).min().unwrap_or_default()
}

/// A server that says everything back, or to all who are in a topic.
struct Stage {
    address: SocketAddr,
}

#[derive(Clone, Default)]
struct Embedder(Arc<OnceLock<Arc<Server>>>);

impl Stage {
    fn new() -> Self {
        let mut config = Config::new();
        config.set("listen", "127.0.0.1:0").unwrap();
        let wants = Wants {
            upgrade: false,
            open: true,
            message: true,
            close: false,
            drain: false,
            topic: false,
            other: true,
        };
        let mut routes = Routes::default();
        for (number, pattern) in [(ECHO, "/"), (TOPIC, "/topic")] {
            routes.add(pattern, Route { number, wants, http: false, streams: false }).unwrap();
        }
        let server = Arc::new(Server::new(&config, routes));
        let embedder = Embedder::default();
        embedder.0.set(server.clone()).ok().expect("it is the first");
        server.start(|| embedder.clone(), |_| Err(ErrorKind::Unsupported.into()), None).unwrap();
        Self { address: SocketAddr::from(([127, 0, 0, 1], server.port(0).unwrap())) }
    }

    fn client(&self, path: &str) -> Client {
        let mut client = Client(TcpStream::connect(self.address).unwrap());
        client.0.set_nodelay(true).unwrap();
        client.0.set_read_timeout(Some(PATIENCE)).unwrap();
        client.says(&peer::request(Dialect::Rfc6455, path));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.0.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        client
    }
}

impl Handler for Embedder {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        let server = self.0.get().expect("it is set before the start");
        match event.kind {
            EventKind::ThreadStart => COUNTS.set(true),
            EventKind::Open if event.route_number == TOPIC => {
                server.subscribe(Some(turn), event.conn, b"room").unwrap();
            }
            EventKind::Message(kind) if event.route_number == TOPIC => {
                let message = Arc::new(Message::new(kind, event.payload).unwrap());
                server.publish(Some(turn), b"room", &message, Wish::Auto, ConnId::NONE).unwrap();
            }
            EventKind::Message(kind) => {
                turn.send(event.conn, kind, event.payload).unwrap();
            }
            _ => {}
        }
    }
}

/// A client that blocks.
struct Client(TcpStream);

impl Client {
    fn says(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn hears(&mut self, len: usize) {
        let mut room = [0; 64 * 1024];
        let mut left = len;
        while left > 0 {
            let most = room.len().min(left);
            let read = self.0.read(&mut room[..most]).unwrap();
            assert_ne!(read, 0, "the server goes on");
            left -= read;
        }
    }
}

/// Counts what the library's threads ask for.
struct Counter;

#[global_allocator]
static ALLOCATOR: Counter = Counter;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller, and nothing else gave the memory.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn count() {
    if COUNTS.get() {
        ALLOCATIONS.fetch_add(1, SeqCst);
    }
}

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread is the library's.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

const ECHO: u32 = 1;
const TOPIC: u32 = 2;
const CROWD: usize = 8;
const ROUNDS: usize = 20;
const SERIES: usize = 6;
/// What is half there, the message it becomes, an event that shares it and, of short fragments, the payload.
const PIECES: usize = 4;
const PUBLISH_ALLOCATIONS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(20);
