//! Conversations: clients and an embedder who do what a script says, on a simulated kernel.
//!
//! Whatever happens, the promises hold: each connection's events come as `UPGRADE? OPEN (MESSAGE
//! …)* CLOSE`, every OPEN has one CLOSE and nothing follows it, what is told was said and what is
//! heard is well formed, no queue passes its limit, no panic had to be contained, and when the
//! server has stopped nothing is left.
//!
//! The first four numbers choose the kernel, the options, the shards, and whether the embedder
//! is asked and hears messages in pieces. Small letters are orders to clients (see `clients.rs`). Capitals are the embedder's,
//! from another thread, with a connection's number: `S0…;` it sends a text, `B0…;` bytes, `F0…;`
//! the begin of a text, `M…;` one message to all, `P0…;` a Ping, `C01` it closes with that code, `A0` aborts, `Z0` pauses,
//! `R0` resumes, `D0` keeps a word, `Y0` accepts, `N0` rejects, `H0` replies. `E3` says what it
//! does in callbacks from now on, `O2` changes options, `X1` stops the server.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use fullduplex::config::Config;
use fullduplex::driver::sim::{Kernel, SimDriver};
use fullduplex::engine::connection::{Release, UserData};
use fullduplex::engine::event::EventKind;
use fullduplex::engine::routes::{Route, Routes, Wants};
use fullduplex::engine::table::Life;
use fullduplex::engine::turn::{EventView, Handler, Message, Turn};
use fullduplex::id::ConnId;
use fullduplex::protocol::close::{CloseCode, CloseFrame};
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Control, Kind};
use fullduplex::server::shard::Shard;
use fullduplex::server::{Answer, Server};
use fullduplex_fuzz::clients::{Asked, Clients, faults};
use fullduplex_fuzz::script::Script;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let mut script = Script::new(&script[..script.len().min(SCRIPT_BYTES_MAX)]);
    let mut scene = Scene::new(&mut script);
    while let Some(order) = script.order() {
        let asked = scene.shared.borrow_mut().clients.obey(order, &mut script);
        match asked {
            Asked::Done => {}
            Asked::Turn => scene.turn(),
            Asked::Pass(time) => scene.turn_after(time),
            Asked::Unknown => scene.obey(order, &mut script),
        }
    }
    scene.turn();
    scene.end();
});

struct Scene {
    kernel: Kernel,
    server: Arc<Server>,
    shards: Vec<Shard<SimDriver, Embedder>>,
    shared: Rc<RefCell<Shared>>,
    /// Waits for nothing in a row, without news for the embedder.
    spins: u32,
}

struct Embedder(Rc<RefCell<Shared>>);

/// What the embedder knows.
struct Shared {
    server: Arc<Server>,
    clients: Clients,
    wants_upgrade: bool,
    connections: BTreeMap<ConnId, Known>,
    /// In the order in which they were first told of.
    ids: Vec<ConnId>,
    habit: usize,
    /// The highest `send.limit` there was.
    limit_bytes: u64,
    /// By word: how often it was released.
    words: Vec<Arc<AtomicUsize>>,
    told: u64,
}

struct Known {
    stage: Stage,
    client: Option<usize>,
    heard: usize,
    /// The pieces of a message that has not ended.
    begun: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Asked,
    /// A plain request: nothing follows.
    Http,
    Open,
    Closed,
}

impl Scene {
    fn new(script: &mut Script<'_>) -> Self {
        let kernel = Kernel::new(1, faults(script.number()));
        let mut config = Config::new();
        let options = script.pick(&OPTIONS);
        for (key, value) in options {
            config.set(key, value).expect("a good option");
        }
        let shards = script.pick(&[1, 1, 2]);
        config.set("threads", &shards.to_string()).expect("a good option");
        let (wants_upgrade, streams) =
            script.pick(&[(false, false), (true, false), (false, true), (true, true)]);
        let wants = Wants {
            upgrade: wants_upgrade,
            open: true,
            message: true,
            close: true,
            drain: true,
            topic: true,
            other: true,
        };
        let mut routes = Routes::default();
        routes.add("/*", Route { number: 7, wants, http: true, streams }).expect("a good pattern");
        let server = Arc::new(Server::new(&config, routes));
        let shared = Rc::new(RefCell::new(Shared {
            server: server.clone(),
            clients: Clients::new(kernel.clone()),
            wants_upgrade,
            connections: BTreeMap::new(),
            ids: Vec::new(),
            habit: 0,
            limit_bytes: limit_bytes(options),
            words: Vec::new(),
            told: 0,
        }));
        let drivers = (0..shards).map(|_| kernel.driver(true)).collect();
        let shards = server.start_on(drivers, || Embedder(shared.clone())).expect("it starts once");
        Self { kernel, server, shards, shared, spins: 0 }
    }

    /// An order to the embedder, on another thread than the shards'.
    fn obey(&mut self, order: u8, script: &mut Script<'_>) {
        let mut shared = self.shared.borrow_mut();
        let server = &self.server;
        match order {
            b'E' => shared.habit = script.number(),
            b'O' => {
                let options = script.pick(&OPTIONS);
                for (key, value) in options {
                    server.set(key, value).expect("an option that can change");
                }
                if options.iter().any(|(key, _)| *key == "send.limit") {
                    shared.limit_bytes = shared.limit_bytes.max(limit_bytes(options));
                }
            }
            b'X' => {
                let (spread, deadline) = script.pick(&[(0, 0), (0, 1), (5, 1), (1, 60)]);
                let [spread, deadline] = [spread, deadline].map(Duration::from_secs);
                let _ = server.stop(CloseFrame::new(CloseCode::GOING_AWAY, "bye"), spread, deadline);
            }
            b'M' => {
                let words = script.text();
                let message = Arc::new(Message::new(Kind::Text, words.as_bytes()).expect("a text"));
                for &conn in &shared.ids {
                    let _ = server.send_message(conn, &message, Wish::Auto);
                }
            }
            b'S' | b'B' | b'F' | b'P' | b'C' | b'A' | b'Z' | b'R' | b'D' | b'Y' | b'N' | b'H' => {
                let number = script.number();
                let conn = match number.checked_rem(shared.ids.len()) {
                    Some(number) => shared.ids[number],
                    None => ConnId::from_u64(u64::from(u32::MAX)),
                };
                shared.call(order, conn, script, None);
            }
            _ => {}
        }
    }

    fn turn_after(&mut self, time: Duration) {
        self.kernel.pass(time);
        // What came due meanwhile has its turn; that is no spinning.
        self.spins = 0;
        self.turn();
    }

    fn turn(&mut self) {
        let told = self.shared.borrow().told;
        self.shared.borrow_mut().clients.pump();
        for shard in &mut self.shards {
            // A loop ends with what it was for.
            if !shard.engine().is_finished() {
                shard.turn();
            }
        }
        let mut shared = self.shared.borrow_mut();
        shared.clients.pump();
        let is_alone = self.shards.len() == 1 && !self.shards[0].engine().is_finished();
        let is_idle = is_alone && self.kernel.was_for_nothing() && shared.told == told;
        self.spins = if is_idle { self.spins + 1 } else { 0 };
        assert!(self.spins <= SPINS_MAX, "the shard spins");
        for (&conn, known) in &shared.connections {
            if known.stage != Stage::Open {
                continue;
            }
            let (entry, _) = self.server.find(conn).expect("an open connection is known");
            let queued = entry.get().queued_bytes();
            assert!(
                queued <= shared.limit_bytes + ON_TOP_BYTES_MAX,
                "{queued} bytes are queued for {conn:?}"
            );
        }
    }

    /// The server stops, however much is still going on, and nothing is left of it.
    fn end(mut self) {
        let good_bye = CloseFrame::new(CloseCode::GOING_AWAY, "the end");
        let _ = self.server.stop(good_bye, Duration::ZERO, Duration::from_secs(1));
        self.kernel.set_nap_max(Duration::MAX);
        // If the script has stopped it, that is the deadline that counts.
        let cut_by = self.kernel.now().after(STOP_DEADLINE_MAX + Duration::from_secs(1));
        while self.kernel.now() < cut_by && !self.shards.iter().all(|shard| shard.engine().is_finished()) {
            match self.kernel.was_for_nothing() {
                true => self.turn(),
                // However busy the clients are, the end comes with the time.
                false => self.turn_after(Duration::from_millis(20)),
            }
        }
        let live: usize = self.shards.iter().map(|shard| shard.engine().live_connections()).sum();
        assert_eq!(live, 0, "connections that never end");
        for shard in self.shards.drain(..) {
            shard.run(|| false);
        }
        let shared = self.shared.borrow();
        let mut opened = 0;
        for (conn, known) in &shared.connections {
            assert!(known.stage != Stage::Open, "{conn:?} was opened and never closed");
            opened += u64::from(known.stage == Stage::Closed);
            assert!(self.server.find(*conn).is_err(), "{conn:?} is gone");
        }
        let mut closed = 0;
        for table in self.server.tables() {
            assert!(table.is_quiet(), "nothing is kept for nobody");
            assert_eq!(table.counters.connections.get(), 0);
            assert_eq!(table.counters.faults.get(), 0, "a panic was contained");
            closed += table.counters.closed.get();
        }
        assert_eq!(closed, opened);
        assert_eq!((self.kernel.open_sockets(), self.kernel.lent_buffers()), (0, 0));
        for (word, releases) in shared.words.iter().enumerate() {
            assert_eq!(releases.load(SeqCst), 1, "releases of word {}", word + 1);
        }
    }
}

impl Shared {
    /// A call about one connection: in a callback with its turn, else from afar.
    fn call(&mut self, order: u8, conn: ConnId, script: &mut Script<'_>, turn: Option<&mut Turn<'_>>) {
        let server = self.server.clone();
        let turn = turn.filter(|turn| usize::from(turn.shard()) == conn.shard());
        match order {
            b'S' | b'B' | b'F' => {
                let kind = if order == b'B' { Kind::Binary } else { Kind::Text };
                let last = order != b'F';
                let _ = match turn {
                    Some(turn) => turn.send_fragment(conn, kind, script.words(), last),
                    None => server.send(conn, kind, script.words(), last, Wish::Auto),
                };
            }
            b'P' => {
                let words = script.words();
                let _ = server.ping(turn, conn, Control::new(&words[..words.len().min(125)]));
            }
            b'C' => {
                let code = script.pick(&[1000, 1001, 3000, 4999]);
                let _ = server.close(turn, conn, CloseFrame::new(CloseCode(code), "from the embedder"));
            }
            b'A' => {
                let _ = server.abort(turn, conn);
            }
            b'Z' | b'R' => {
                let _ = server.set_paused(turn, conn, order == b'Z');
            }
            b'D' => {
                let releases = Arc::new(AtomicUsize::new(0));
                self.words.push(releases.clone());
                let data = UserData { word: self.words.len(), release: Some(Box::new(Counted(releases))) };
                if let Err((_, data)) = server.set_data(turn, conn, data) {
                    data.release.expect("it comes back whole").release();
                }
            }
            b'Y' => {
                let _ = server.accept(turn, conn, None, "X-Own: yes\r\n");
            }
            b'N' | b'H' => {
                let awaited = if order == b'N' { Life::Deciding } else { Life::Http };
                let status = if order == b'N' { 403 } else { 200 };
                let _ = server.answer(turn, conn, awaited, &Answer { status, headers: "", body: b"words" });
            }
            _ => {}
        }
    }

    /// Can this be true?
    fn check(&mut self, event: &EventView<'_>) {
        let conn = event.conn;
        assert!(!matches!(event.kind, EventKind::Fault), "a panic was contained");
        if conn == ConnId::NONE {
            return;
        }
        assert_eq!(event.route_number, 7);
        let before = self.connections.get(&conn).map(|known| known.stage);
        let first = if self.wants_upgrade { Some(Stage::Asked) } else { None };
        let (is_allowed, after) = match event.kind {
            EventKind::Upgrade => (before.is_none() && self.wants_upgrade, Stage::Asked),
            EventKind::Http => (before.is_none(), Stage::Http),
            EventKind::Open => (before == first, Stage::Open),
            EventKind::Close { .. } => (before == Some(Stage::Open), Stage::Closed),
            _ => (before == Some(Stage::Open), Stage::Open),
        };
        assert!(is_allowed, "{conn:?} is told {:?} when it is {before:?}", event.kind);
        if before.is_none() {
            self.ids.push(conn);
        }
        let known = self.connections.entry(conn).or_insert_with(|| Known {
            stage: after,
            client: None,
            heard: 0,
            begun: Vec::new(),
        });
        known.stage = after;
        if event.word != 0 {
            assert_eq!(self.words[event.word - 1].load(SeqCst), 0, "a word that was released");
        }
        match event.kind {
            EventKind::Open => {
                let request = self.server.request(conn).expect("it is kept until OPEN is told");
                known.client = Clients::by_path(&request.get(":path").expect("it has a path"));
            }
            EventKind::Message(kind) | EventKind::Fragment { kind, .. } => {
                known.begun.extend_from_slice(event.payload);
                if matches!(event.kind, EventKind::Fragment { fin: false, .. }) {
                    return;
                }
                let message = std::mem::take(&mut known.begun);
                if kind == Kind::Text {
                    assert!(std::str::from_utf8(&message).is_ok(), "a text is UTF-8");
                }
                let said = known.client.map(|client| &self.clients.list[client]);
                if let Some(said) = said.filter(|client| client.is_good || known.heard < client.says.len()) {
                    let (said_kind, said) = &said.says[known.heard];
                    assert!(*said_kind == kind && *said == message, "what is told was said");
                }
                known.heard += 1;
            }
            EventKind::Close { code, .. } => {
                assert!(code.is_sendable() || matches!(code.0, 1005 | 1006), "code {}", code.0);
                assert!(std::str::from_utf8(event.payload).is_ok(), "a reason is UTF-8");
            }
            EventKind::Ping | EventKind::Pong { .. } => assert!(event.payload.len() <= 125),
            EventKind::Http => {}
            _ => assert!(event.payload.is_empty()),
        }
    }

    /// What the embedder does in a callback.
    fn react(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        let conn = event.conn;
        let other = self.ids.iter().rev().find(|&&id| id != conn).copied().unwrap_or(conn);
        let (orders, target): (&[u8], ConnId) = match (event.kind, self.habit) {
            (EventKind::Message(kind), 0) => {
                let _ = turn.send(conn, kind, event.payload);
                return;
            }
            (EventKind::Fragment { kind, fin }, 0) => {
                let _ = turn.send_fragment(conn, kind, event.payload, fin);
                return;
            }
            (EventKind::Fragment { .. }, 1) => (b"FF;F\xC3;S\xA9;", conn),
            (EventKind::Upgrade, 0 | 2 | 4 | 5 | 6 | 7) => (b"Y", conn),
            (EventKind::Upgrade, 3) => (b"N", conn),
            (EventKind::Http, 0 | 2 | 4 | 6) => (b"H", conn),
            (EventKind::Message(_), 1) => (b"", conn),
            (EventKind::Message(_), 2) => (b"SC1", conn),
            (EventKind::Open, 3) => (b"Dhello;Swelcome;", conn),
            (EventKind::Message(_), 4) => {
                for _ in 0..20 {
                    let _ = turn.send(conn, Kind::Text, &[b'~'; 1000]);
                }
                return;
            }
            (EventKind::Message(_), 5) => (b"SA", conn),
            (EventKind::Message(_), 6) => (b"Sto another;Bbytes;Pping;", other),
            (EventKind::Message(_), 7) => (b"C0", other),
            (EventKind::Message(_), 8) => (b"Z", conn),
            (EventKind::Drain, 8) => (b"R", conn),
            (EventKind::Close { .. }, 9) => (b"Slate;C0ADY", conn),
            (EventKind::Ping, 10) => (b"A", conn),
            (EventKind::Open, 11) => (b"C0", conn),
            (EventKind::Open, 12) => (b"A", conn),
            (EventKind::Message(_), 13) => (b"A", other),
            (EventKind::Upgrade, 14) => (b"AY", conn),
            (EventKind::Message(_), 15) => (b"ZRDDP;Sthen;", conn),
            _ => return,
        };
        let mut script = Script::new(orders);
        while let Some(order) = script.order() {
            self.call(order, target, &mut script, Some(&mut *turn));
        }
    }
}

impl Handler for Embedder {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        let mut shared = self.0.borrow_mut();
        shared.told += 1;
        let (conn, kind, len) = (event.conn, event.kind, event.payload.len());
        shared.clients.kernel.note(|| format!("{conn:?}: {kind:?}, {len} bytes"));
        shared.check(event);
        if event.conn != ConnId::NONE {
            shared.react(turn, event);
        }
    }
}

fn limit_bytes(options: &[(&str, &str)]) -> u64 {
    match options.iter().find(|(key, _)| *key == "send.limit") {
        Some((_, "1k")) => 1 << 10,
        Some((_, "2k")) => 2 << 10,
        Some((_, other)) => panic!("{other} is what?"),
        None => 16 << 20,
    }
}

struct Counted(Arc<AtomicUsize>);

impl Release for Counted {
    fn release(self: Box<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Sets of options, each of which can follow each other in a running server.
const OPTIONS: [&[(&str, &str)]; 7] = [
    &[],
    &[("max.message", "100"), ("max.fragments", "2"), ("send.high_water", "1"), ("send.low_water", "0")],
    &[("send.limit", "1k"), ("send.full", "drop"), ("send.high_water", "500")],
    &[("send.limit", "2k"), ("send.full", "close"), ("timeout.write_stall", "1s")],
    &[("ping.interval", "100ms"), ("ping.timeout", "50ms"), ("timeout.idle", "2s")],
    &[("max.connections", "2"), ("rate.messages", "10/s burst 3"), ("max.connections_per_ip", "1")],
    &[("timeout.handshake", "100ms"), ("timeout.close", "100ms"), ("rate.connections_per_ip", "1/s burst 2")],
];
const SCRIPT_BYTES_MAX: usize = 2000;
/// What comes on top of `send.limit`: Pongs up to `send.high_water`, a 101, last words.
const ON_TOP_BYTES_MAX: u64 = (64 + 8) * 1024;
/// More waits for nothing in a row than any reason explains.
const SPINS_MAX: u32 = 3;
/// The longest that `X` gives.
const STOP_DEADLINE_MAX: Duration = Duration::from_secs(60);
