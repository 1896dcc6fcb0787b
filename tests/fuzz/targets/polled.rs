//! A program that polls its events, while clients come, talk and go: it takes them in batches of any
//! size, keeps those for a while, gives them back in any order, and submits, wakes and stops meanwhile.
//! The server runs on a simulated kernel; all else is what a C program gets.
//!
//! What is polled is what callbacks would be told: `UPGRADE? OPEN (MESSAGE …)* CLOSE` of each
//! connection, in one queue, and what was said. Until a batch is freed its bytes stay as they were,
//! its requests can be read and no word that it carries is dropped. Who has more than
//! `recv.high_water` unread is not read, and is read on when half of it is freed: so nothing is
//! lost. After STOPPED nothing comes, and in the end everything was given back.
//!
//! The first five numbers choose the kernel, the options, the queues, the shards, and what the route wants.
//! Small letters are orders to clients (see `clients.rs`). Capitals are the program's: `K03` polls
//! a queue for at most so many, `L0` gives a batch back, `U` all of them from the last to the first,
//! `W0` wakes, `T2` says what it does with each event, `S02…;` submits so many texts, `V0…;` submits
//! bytes that may be no records. With a connection's number: `B0…;` it sends a text, `C0` it closes,
//! `A0` aborts, `Z0` pauses, `R0` resumes, `D0` keeps a word. `X` stops the server.
#![no_main]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CString, c_char, c_void};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::time::Duration;

use fullduplex::driver::sim::{Kernel, SimDriver};
use fullduplex::ffi::config::*;
use fullduplex::ffi::conn::*;
use fullduplex::ffi::event::*;
use fullduplex::ffi::handshake::*;
use fullduplex::ffi::queue::*;
use fullduplex::ffi::send::*;
use fullduplex::ffi::server::*;
use fullduplex::ffi::stats::*;
use fullduplex::ffi::status::*;
use fullduplex::protocol::Kind;
use fullduplex::server::shard::Shard;
use fullduplex_fuzz::clients::{Asked, Clients, faults};
use fullduplex_fuzz::script::Script;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(prepare);
    let mut script = Script::new(&script[..script.len().min(SCRIPT_BYTES_MAX)]);
    let words = Words::default();
    let mut scene = Scene::new(&mut script, &words);
    while let Some(order) = script.order() {
        match scene.clients.obey(order, &mut script) {
            Asked::Done => {}
            Asked::Turn => scene.turn(Duration::ZERO),
            Asked::Pass(time) => scene.turn(time),
            Asked::Unknown => scene.obey(order, &mut script),
        }
    }
    scene.settle();
    scene.end();
    assert_eq!(words.routes_dropped.get(), 1, "the route's pointer is given back");
    assert!(words.list.borrow().iter().all(|word| word.is_dropped.get()), "each word is given back");
});

struct Scene<'w> {
    kernel: Kernel,
    clients: Clients,
    server: *mut fdx_server,
    shards: Vec<Shard<SimDriver, Enqueuer>>,
    queues: Vec<Polling>,
    words: &'w Words,
    wants_upgrade: bool,
    habit: usize,
    high_water: usize,
    connections: BTreeMap<fdx_conn, Known>,
    /// In the order in which they were polled.
    ids: Vec<fdx_conn>,
    /// Taken and not given back, in the order in which they were taken.
    batches: Vec<Kept>,
    stop_has_begun: bool,
    turned_at: u64,
}

/// One queue, as its poller sees it.
struct Polling {
    is_woken: bool,
    has_stopped: bool,
    lamp: isize,
    bell: UnixStream,
    /// Nothing was there at the last poll, and the bell has not rung since.
    is_asleep: bool,
}

/// A batch that was not given back.
struct Kept {
    batch: *mut fdx_batch,
    events: Vec<fdx_event>,
    /// Of each event, as they were when it was polled.
    payloads: Vec<Vec<u8>>,
}

struct Known {
    queue: usize,
    stage: Stage,
    client: Option<usize>,
    /// Messages that came, and the pieces of one that has not ended.
    heard: usize,
    begun: Vec<u8>,
    opened_at: u64,
    /// The program has ended or paused it, or may have.
    is_touched: bool,
    unread: Unread,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Asked,
    /// A plain request: nothing follows.
    Http,
    Open,
    Closed,
}

/// What the server must think of a connection's unread events. Events are known when they are polled,
/// and sorted in by their time among what was freed.
#[derive(Default)]
struct Unread {
    bytes: usize,
    /// Since when it has too many of them.
    crowded_since: Option<u64>,
    freed: VecDeque<(u64, usize)>,
}

/// What the program has given to the library. Outlives all else.
#[derive(Default)]
struct Words {
    list: RefCell<Vec<Box<Word>>>,
    routes_dropped: Cell<usize>,
}

struct Word {
    is_dropped: Cell<bool>,
    /// Events that carry it, polled and not freed.
    carried: Cell<usize>,
}

impl Unread {
    /// An event was put in the queue. False: nothing should have been read.
    fn came(&mut self, at: u64, len: usize, high_water: usize) -> bool {
        while let Some(&(_, len)) = self.freed.front().filter(|(freed_at, _)| *freed_at < at) {
            self.freed.pop_front();
            self.bytes -= len;
            if self.bytes <= high_water / 2 {
                self.crowded_since = None;
            }
        }
        let was_crowded = self.crowded_since.is_some_and(|since| since < at);
        self.bytes += len;
        if self.bytes > high_water {
            self.crowded_since.get_or_insert(at);
        }
        !was_crowded
    }
}

impl<'w> Scene<'w> {
    fn new(script: &mut Script<'_>, words: &'w Words) -> Self {
        let kernel = Kernel::new(1, faults(script.number()));
        let options = script.pick(&OPTIONS);
        let queues = script.pick(&[1, 1, 2, 3]);
        let shards = script.pick(&[1, 1, 2]);
        let wants = script.number() as u32;
        let (queues_text, shards_text) = (queues.to_string(), shards.to_string());
        let own = [("dispatch", "queue"), ("queues", &queues_text), ("threads", &shards_text)];
        let server = new_server(&own, options, wants & ROUTE_FLAGS, words);
        let drivers = (0..shards).map(|_| kernel.driver(true)).collect();
        // SAFETY: it was made just now.
        let shards = unsafe { start_polled_on(server, drivers) }.ok().expect("it starts once");
        let high_water = options.iter().find(|(key, _)| *key == "recv.high_water");
        let high_water = high_water.map_or(128 << 10, |(_, value)| value.parse().expect("a number"));
        let queues = (0..queues).map(|queue| Polling::new(server, queue)).collect();
        let scene = Self {
            clients: Clients::new(kernel.clone()),
            kernel,
            server,
            shards,
            queues,
            words,
            wants_upgrade: wants & FDX_ROUTE_UPGRADE != 0,
            habit: 0,
            high_water,
            connections: BTreeMap::new(),
            ids: Vec::new(),
            batches: Vec::new(),
            stop_has_begun: false,
            turned_at: 0,
        };
        scene.check_signs();
        scene
    }

    fn turn(&mut self, pause: Duration) {
        self.kernel.pass(pause);
        self.clients.pump();
        for shard in &mut self.shards {
            // A loop ends with what it was for.
            if !shard.engine().is_finished() {
                shard.turn();
            }
        }
        self.clients.pump();
        let now = self.kernel.now().0;
        assert!(now > self.turned_at || self.shards.iter().all(|shard| shard.engine().is_finished()));
        self.turned_at = now;
        self.check_signs();
    }

    /// An order to the program.
    fn obey(&mut self, order: u8, script: &mut Script<'_>) {
        match order {
            b'K' => {
                let queue = script.number() % self.queues.len();
                self.poll(queue, script.pick(&[0, 1, 2, 3, 7, 50]));
            }
            b'L' => {
                let number = script.number();
                if let Some(index) = number.checked_rem(self.batches.len()) {
                    self.free(index);
                }
            }
            b'U' => self.free_all(),
            b'W' => {
                let queue = script.number() % self.queues.len();
                // SAFETY: the server is live.
                assert_eq!(unsafe { fdx_wake(self.server, queue as u32) }, FDX_OK);
                self.queues[queue].is_woken = true;
                self.check_signs();
            }
            b'T' => self.habit = script.number(),
            b'S' => {
                let first = script.number();
                let count = script.number();
                let words = script.text();
                let mut records = Records::default();
                for number in first..first + count {
                    records.add(self.conn(number), FDX_TEXT, words.as_bytes());
                }
                let results = self.submit(&records);
                assert_eq!(results.len(), count);
            }
            b'V' => {
                let _ = script.number();
                self.submit_anything(script.words());
            }
            b'B' | b'C' | b'A' | b'Z' | b'R' | b'D' => {
                let conn = self.conn(script.number());
                let text = if order == b'B' { script.text() } else { String::new() };
                self.call(order, conn, &text);
            }
            b'X' => {
                // SAFETY: the server is live.
                let stopped = unsafe { fdx_server_stop(self.server, 1001, null(), 0, 0, 2000) };
                assert_eq!(stopped, if self.stop_has_begun { FDX_ALREADY } else { FDX_OK });
                self.stop_has_begun = true;
            }
            _ => {}
        }
    }

    fn call(&mut self, order: u8, conn: fdx_conn, text: &str) {
        let (server, data) = (self.server, text.as_ptr().cast::<c_void>());
        // SAFETY: the server is live; all pointers are good for the time of the call, a word for longer
        // than the server.
        let status = call_in(|| unsafe {
            match order {
                b'B' => fdx_send(server, conn, FDX_TEXT, data, text.len(), 0),
                b'C' => fdx_close(server, conn, 1000, null(), 0),
                b'A' => fdx_abort(server, conn),
                b'Z' => fdx_pause(server, conn),
                b'R' => fdx_resume(server, conn),
                _ => {
                    let word = self.words.add();
                    let status = fdx_conn_set_data(server, conn, word.cast_mut().cast(), Some(on_drop));
                    if status != FDX_OK {
                        // It stays ours.
                        (*word).is_dropped.set(true);
                    }
                    status
                }
            }
        });
        self.kernel.note(|| format!("{} about {conn}: {status}", char::from(order)));
        assert!(!matches!(status, FDX_E_PANIC | FDX_E_NOMEM | FDX_E_INVALID_ARG), "{status}");
        let ends = matches!(order, b'C' | b'A' | b'Z') || status == FDX_E_FULL;
        if let Some(known) = self.connections.get_mut(&conn).filter(|_| ends) {
            known.is_touched = true;
        }
        if self.connections.get(&conn).is_some_and(|known| known.stage == Stage::Closed) {
            assert_eq!(status, FDX_E_NO_CONN, "{conn} was closed before");
        }
    }

    /// Of a script's number: somebody's connection, or nobody's.
    fn conn(&self, number: usize) -> fdx_conn {
        match number.checked_rem(self.ids.len()) {
            Some(index) if number < 14 => self.ids[index],
            _ => [0, 1, u64::MAX][number % 3],
        }
    }

    /// Takes a batch, looks at it, and does what the program does with events.
    fn poll(&mut self, number: usize, most: usize) -> bool {
        let mut view = empty_view();
        // SAFETY: the server is live and the view has its size.
        let status = call_in(|| unsafe { fdx_poll(self.server, number as u32, most, 0, &mut view) });
        self.kernel.note(|| format!("queue {number} is polled: {status}, {} events", view.count));
        let queue = &mut self.queues[number];
        if std::mem::take(&mut queue.is_woken) {
            assert_eq!(status, FDX_E_INTERRUPTED, "it was woken");
            self.check_signs();
            return true;
        }
        if queue.has_stopped {
            assert_eq!(status, FDX_E_STOPPED, "nothing comes after STOPPED");
            return false;
        }
        if status == FDX_E_TIMEOUT {
            queue.sleep();
            self.check_signs();
            return false;
        }
        assert_eq!(status, FDX_OK);
        assert!(view.count > 0 && (most == 0 || view.count <= most), "{} of {most}", view.count);
        assert_eq!(view.stride, size_of::<fdx_event>());
        // SAFETY: so says the view.
        let events = unsafe { std::slice::from_raw_parts(view.events, view.count) }.to_vec();
        let payloads: Vec<_> = events.iter().map(|event| payload_of(event, &view).to_vec()).collect();
        for (index, (event, payload)) in events.iter().zip(&payloads).enumerate() {
            assert!(!self.queues[number].has_stopped, "STOPPED is the last");
            self.note(number, event, payload);
            let is_last = index + 1 == events.len();
            self.queues[number].has_stopped |= u32::from(event.r#type) == FDX_EV_STOPPED;
            assert!(!self.queues[number].has_stopped || is_last);
        }
        self.batches.push(Kept { batch: view.batch, events: events.clone(), payloads: payloads.clone() });
        let mut records = Records::default();
        for (event, payload) in events.iter().zip(&payloads) {
            self.react(event, payload, &mut records);
        }
        self.submit(&records);
        self.check_signs();
        true
    }

    /// Can this be told, and what is so from now on?
    fn note(&mut self, queue: usize, event: &fdx_event, payload: &[u8]) {
        let (conn, kind) = (event.conn, u32::from(event.r#type));
        self.kernel.note(|| format!("event {kind} of {conn}, {} bytes", event.len));
        assert!(!matches!(kind, FDX_EV_FAULT | FDX_EV_THREAD_START | FDX_EV_THREAD_STOP), "{kind}");
        if conn == 0 {
            assert!(kind == FDX_EV_STOPPED || queue == 0, "the server's own come in queue 0");
            return;
        }
        assert_eq!(event.route, 5);
        let before = self.connections.get(&conn).map(|known| known.stage);
        let first = if self.wants_upgrade { Some(Stage::Asked) } else { None };
        let (is_allowed, after) = match kind {
            FDX_EV_UPGRADE => (before.is_none() && self.wants_upgrade, Stage::Asked),
            FDX_EV_HTTP => (before.is_none(), Stage::Http),
            FDX_EV_OPEN => (before == first, Stage::Open),
            FDX_EV_CLOSE => (before == Some(Stage::Open), Stage::Closed),
            _ => (before == Some(Stage::Open), Stage::Open),
        };
        assert!(is_allowed, "event {kind} when it is {before:?}");
        if before.is_none() {
            self.ids.push(conn);
        }
        let known = self.connections.entry(conn).or_insert_with(|| Known::new(queue));
        assert_eq!(known.queue, queue, "a connection belongs to one queue");
        known.stage = after;
        let is_reading = matches!(kind, FDX_EV_MESSAGE | FDX_EV_FRAGMENT | FDX_EV_PING | FDX_EV_PONG);
        let was_read = known.unread.came(event.time_us, EVENT_BYTES + event.len, self.high_water);
        // What has come behind the request is heard with the decision.
        let is_behind_request = known.opened_at == event.time_us;
        assert!(was_read || is_behind_request || !is_reading, "{conn} is read with too much unread");
        match kind {
            FDX_EV_OPEN => {
                known.opened_at = event.time_us;
                known.client = request_path(self.server, conn).and_then(|path| Clients::by_path(&path));
            }
            FDX_EV_UPGRADE | FDX_EV_HTTP => drop(request_path(self.server, conn)),
            FDX_EV_MESSAGE | FDX_EV_FRAGMENT => {
                known.begun.extend_from_slice(payload);
                if kind == FDX_EV_MESSAGE || event.flags & FDX_EVF_FIN != 0 {
                    known.is_heard(event.flags & FDX_EVF_BINARY != 0, &self.clients);
                }
            }
            _ => {}
        }
        if let Some(word) = word_of(event) {
            assert!(!word.is_dropped.get(), "an event carries a word that was dropped");
            word.carried.set(word.carried.get() + 1);
        }
    }

    fn react(&mut self, event: &fdx_event, payload: &[u8], records: &mut Records) {
        let (server, conn) = (self.server, event.conn);
        match (u32::from(event.r#type), self.habit) {
            (FDX_EV_UPGRADE, 0..8) => {
                // SAFETY: the server is live, and so for the calls below.
                let status = unsafe { fdx_accept(server, conn, null(), null(), 0) };
                assert!(matches!(status, FDX_OK | FDX_E_NO_CONN | FDX_E_STATE), "{status}");
            }
            (FDX_EV_UPGRADE, 8 | 9) => {
                let status = unsafe { fdx_reject(server, conn, 403, null(), 0, null(), 0) };
                assert!(matches!(status, FDX_OK | FDX_E_NO_CONN | FDX_E_STATE), "{status}");
            }
            (FDX_EV_HTTP, 0..10) => {
                let status = unsafe { fdx_http_reply(server, conn, 200, null(), 0, null(), 0) };
                assert!(matches!(status, FDX_OK | FDX_E_NO_CONN | FDX_E_STATE), "{status}");
            }
            (FDX_EV_MESSAGE, 0..5) => {
                let is_text = event.flags & FDX_EVF_BINARY == 0;
                records.add(conn, if is_text { FDX_TEXT } else { FDX_BINARY }, payload);
                if self.habit == 2 {
                    self.call(b'D', conn, "");
                }
            }
            (FDX_EV_OPEN, 1) => self.call(b'D', conn, ""),
            (FDX_EV_MESSAGE, 5) => self.call(b'C', conn, ""),
            (FDX_EV_MESSAGE, 6) => self.call(b'A', conn, ""),
            (FDX_EV_MESSAGE, 7) => {
                self.call(b'Z', conn, "");
                self.call(b'R', conn, "");
                self.call(b'B', conn, "aside");
            }
            _ => {}
        }
    }

    fn submit(&mut self, records: &Records) -> Vec<fdx_status> {
        let mut results = vec![i32::MIN; records.conns.len() + 1];
        let (bytes, len) = (records.bytes.as_ptr().cast(), records.bytes.len());
        // SAFETY: the server is live; the pointers are good for the time of the call.
        let (room, server) = (results.as_mut_ptr(), self.server);
        let worst = call_in(|| unsafe { fdx_submit(server, bytes, len, room, results.len()) });
        assert_eq!(results.pop(), Some(i32::MIN), "it writes as many results as there are records");
        let low = results.iter().copied().min().unwrap_or(FDX_OK);
        let high = results.iter().copied().max().unwrap_or(FDX_OK);
        assert_eq!(worst, if low < 0 { low } else { high });
        for (&status, conn) in results.iter().zip(&records.conns) {
            assert!(!matches!(status, FDX_E_PANIC | FDX_E_NOMEM | FDX_E_INVALID_ARG), "{status}");
            match self.connections.get_mut(conn) {
                Some(known) if known.stage == Stage::Closed => assert_eq!(status, FDX_E_NO_CONN),
                Some(known) => known.is_touched |= status == FDX_E_FULL,
                None => assert_eq!(status, FDX_E_NO_CONN),
            }
        }
        results
    }

    /// Bytes as they are: whatever they mean, it is noticed before anything is done.
    fn submit_anything(&mut self, bytes: &[u8]) {
        let mut results = [i32::MIN; 4];
        // SAFETY: as above.
        let worst =
            unsafe { fdx_submit(self.server, bytes.as_ptr().cast(), bytes.len(), results.as_mut_ptr(), 4) };
        let is_untouched = results.iter().all(|&status| status == i32::MIN);
        assert!(worst != FDX_E_PANIC && worst != FDX_E_NOMEM, "{worst}");
        if worst == FDX_OK {
            assert_eq!(is_untouched, bytes.is_empty());
        }
        if is_untouched && !bytes.is_empty() {
            assert_eq!(worst, FDX_E_INVALID_ARG);
        }
        self.connections.values_mut().for_each(|known| known.is_touched = true);
    }

    fn free_all(&mut self) {
        while !self.batches.is_empty() {
            self.free(self.batches.len() - 1);
        }
    }

    fn free(&mut self, index: usize) {
        let kept = self.batches.remove(index);
        let now = self.kernel.now().0;
        for (event, payload) in kept.events.iter().zip(&kept.payloads) {
            if event.len > 0 {
                // SAFETY: the batch is not freed yet.
                let bytes = unsafe { std::slice::from_raw_parts(event.data, event.len) };
                assert!(bytes == payload, "what a batch holds has changed");
            }
            if let Some(known) = self.connections.get_mut(&event.conn) {
                known.unread.freed.push_back((now, EVENT_BYTES + event.len));
            }
            if !self.server.is_null() && is_about_request(event) {
                drop(request_path(self.server, event.conn));
            }
            if let Some(word) = word_of(event) {
                assert!(!word.is_dropped.get(), "a word was dropped before the events that carry it");
                word.carried.set(word.carried.get() - 1);
            }
        }
        // SAFETY: it was polled and is not used any more.
        unsafe { fdx_batch_free(kept.batch) };
        self.kernel.note(|| format!("a batch of {} is freed", kept.events.len()));
    }

    /// Event loops must see what there is, and nothing else.
    fn check_signs(&self) {
        if self.server.is_null() {
            return;
        }
        // SAFETY: an all-zero value is a good one.
        let mut stats: fdx_stats = unsafe { std::mem::zeroed() };
        stats.struct_size = size_of::<fdx_stats>() as u32;
        // SAFETY: the server is live and `stats` has its size.
        assert_eq!(unsafe { fdx_get_stats(self.server, &mut stats) }, FDX_OK);
        assert_eq!(stats.faults, 0, "a panic was contained");
        let lit = self.queues.iter().filter(|queue| queue.is_lit()).count();
        let woken = self.queues.iter().filter(|queue| queue.is_woken).count();
        assert_eq!(lit > 0, stats.event_queue_len > 0 || woken > 0, "{} wait", stats.event_queue_len);
        for queue in &self.queues {
            assert!(!queue.is_woken || queue.is_lit(), "a wake is seen");
            assert!(!queue.is_asleep || !queue.is_lit() || queue.is_rung(), "nobody wakes who sleeps");
        }
    }

    /// Whoever keeps the protocol is heard out in the end, if the program keeps up.
    fn settle(&mut self) {
        self.habit = 11;
        self.clients.speak_freely();
        let mut quiet_turns = 0;
        for _ in 0..SETTLING_TURNS_MAX {
            let unsaid_bytes = self.clients.unsaid_bytes();
            let mut is_quiet = true;
            for queue in 0..self.queues.len() {
                while self.poll(queue, 0) {
                    is_quiet = false;
                }
            }
            self.free_all();
            self.turn(Duration::ZERO);
            is_quiet &= self.clients.unsaid_bytes() == unsaid_bytes;
            quiet_turns = if is_quiet { quiet_turns + 1 } else { 0 };
            if quiet_turns == QUIET_TURNS {
                break;
            }
        }
        if quiet_turns < QUIET_TURNS || self.stop_has_begun {
            return;
        }
        for (conn, known) in &self.connections {
            let client = known.client.map(|client| &self.clients.list[client]);
            let Some(client) = client.filter(|client| client.has_said_all()) else {
                continue;
            };
            if known.stage == Stage::Open && !known.is_touched {
                assert_eq!(known.heard, client.says.len(), "what {conn} has said is lost");
            }
        }
    }

    /// The server stops while the program polls now and then; a batch outlives all of it.
    fn end(mut self) {
        // SAFETY: the server is live.
        let stopped = unsafe { fdx_server_stop(self.server, 1001, null(), 0, 0, 100) };
        assert_eq!(stopped, if self.stop_has_begun { FDX_ALREADY } else { FDX_OK });
        self.kernel.set_nap_max(Duration::MAX);
        for turn in 0..STOP_TURNS_MAX {
            if self.shards.iter().all(|shard| shard.engine().is_finished()) {
                break;
            }
            self.turn(Duration::from_millis(5));
            if turn % 16 == 0 {
                self.poll(turn / 16 % self.queues.len(), 3);
            }
        }
        let live: usize = self.shards.iter().map(|shard| shard.engine().live_connections()).sum();
        assert_eq!(live, 0, "connections that never end");
        let count = self.shards.len();
        for (index, shard) in self.shards.drain(..).enumerate() {
            shard.run(|| index + 1 == count);
        }
        for queue in 0..self.queues.len() {
            while self.poll(queue, 2) {}
            assert!(self.queues[queue].has_stopped, "STOPPED comes in every queue");
        }
        for (conn, known) in &self.connections {
            assert!(known.stage != Stage::Open, "{conn} was opened and never closed");
        }
        self.check_signs();
        // SAFETY: it is live, and this was the only reference.
        unsafe { fdx_server_unref(self.server) };
        self.server = null_mut();
        self.free_all();
        assert_eq!((self.kernel.open_sockets(), self.kernel.lent_buffers()), (0, 0));
    }
}

impl Known {
    fn new(queue: usize) -> Self {
        Self {
            queue,
            stage: Stage::Asked,
            client: None,
            heard: 0,
            begun: Vec::new(),
            opened_at: u64::MAX,
            is_touched: false,
            unread: Unread::default(),
        }
    }

    /// A message is whole: was it said?
    fn is_heard(&mut self, is_binary: bool, clients: &Clients) {
        let message = std::mem::take(&mut self.begun);
        assert!(is_binary || std::str::from_utf8(&message).is_ok(), "a text is UTF-8");
        let kind = if is_binary { Kind::Binary } else { Kind::Text };
        let client = self.client.map(|client| &clients.list[client]);
        if let Some(client) = client.filter(|client| client.is_good || self.heard < client.says.len()) {
            let (said_kind, said) = &client.says[self.heard];
            assert!(*said_kind == kind && *said == message, "what is told was said");
        }
        self.heard += 1;
    }
}

impl Polling {
    fn new(server: *mut fdx_server, queue: u32) -> Self {
        let (bell, rope) = UnixStream::pair().expect("there are descriptors");
        bell.set_nonblocking(true).and_then(|()| rope.set_nonblocking(true)).expect("sockets can be so");
        let mut lamp = -1;
        let rope = rope.as_raw_fd() as isize;
        // SAFETY: the server is live; it takes a duplicate of the descriptor.
        unsafe {
            assert_eq!(fdx_queue_notify_fd(server, queue, rope, b"!".as_ptr().cast(), 1), FDX_OK);
            assert_eq!(fdx_queue_fd(server, queue, &mut lamp), FDX_OK);
        }
        Self { is_woken: false, has_stopped: false, lamp, bell, is_asleep: true }
    }

    fn sleep(&mut self) {
        while self.bell.read(&mut [0; 16]).is_ok_and(|len| len > 0) {}
        self.is_asleep = true;
    }

    fn is_lit(&self) -> bool {
        is_readable(self.lamp as i32)
    }

    fn is_rung(&self) -> bool {
        is_readable(self.bell.as_raw_fd())
    }
}

impl Words {
    fn add(&self) -> *const Word {
        let word = Word { is_dropped: Cell::new(false), carried: Cell::new(0) };
        let mut list = self.list.borrow_mut();
        list.push(Box::new(word));
        std::ptr::from_ref(&**list.last().expect("it was pushed"))
    }
}

/// What is submitted together.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    conns: Vec<fdx_conn>,
}

impl Records {
    fn add(&mut self, conn: fdx_conn, kind: u32, payload: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.bytes.extend(conn.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((payload.len() as u32).to_ne_bytes());
        self.bytes.extend(payload);
        self.conns.push(conn);
    }
}

fn new_server(own: &[(&str, &str)], options: &[(&str, &str)], flags: u32, words: &Words) -> *mut fdx_server {
    let handlers = fdx_handlers {
        struct_size: size_of::<fdx_handlers>() as u32,
        flags,
        user_data: std::ptr::from_ref(words).cast_mut().cast(),
        drop: Some(on_drop_of_route),
        // SAFETY: without callbacks all that is left is null.
        ..unsafe { std::mem::zeroed() }
    };
    let mut server = null_mut();
    // SAFETY: all pointers are good for the time of the calls, the words until the server is gone.
    unsafe {
        let config = fdx_config_new();
        for (key, value) in own.iter().chain(options) {
            let (key, value) = (CString::new(*key).unwrap(), CString::new(*value).unwrap());
            assert_eq!(fdx_config_set(config, key.as_ptr(), value.as_ptr(), null_mut()), FDX_OK);
        }
        assert_eq!(fdx_config_route(config, c"/*".as_ptr(), 5, &handlers, null_mut()), FDX_OK);
        assert_eq!(fdx_server_new(config, &mut server, null_mut()), FDX_OK);
        fdx_config_free(config);
    }
    server
}

fn payload_of<'v>(event: &fdx_event, view: &'v fdx_batch_view) -> &'v [u8] {
    if event.len == 0 {
        return &[];
    }
    let start = (event.data as usize).wrapping_sub(view.block as usize);
    assert!(start <= view.block_len && event.len <= view.block_len - start, "data lies in the block");
    // SAFETY: the block is as long as the view says, until the batch is freed.
    let block = unsafe { std::slice::from_raw_parts(view.block, view.block_len) };
    &block[start..][..event.len]
}

fn word_of(event: &fdx_event) -> Option<&Word> {
    // SAFETY: nothing else is ever kept with a connection, and words outlive the server.
    unsafe { event.conn_data.cast::<Word>().as_ref() }
}

fn is_about_request(event: &fdx_event) -> bool {
    matches!(u32::from(event.r#type), FDX_EV_UPGRADE | FDX_EV_HTTP | FDX_EV_OPEN)
}

/// The request of an event that is not freed can be read, whatever has become of the connection.
fn request_path(server: *mut fdx_server, conn: fdx_conn) -> Option<Vec<u8>> {
    let (mut path, mut needed) = ([0; 100], 0);
    // SAFETY: the server is live; the buffer has the room.
    let status = unsafe {
        let (path, cap): (*mut c_char, _) = (path.as_mut_ptr(), path.len());
        fdx_request_get(server, conn, c":path".as_ptr(), path, cap, &mut needed)
    };
    // A path may be longer than any that a good client asks for.
    assert!(matches!(status, FDX_OK | FDX_E_BUFFER), "the request of {conn} can't be read: {status}");
    let path = path.get(..needed - 1).filter(|_| status == FDX_OK)?;
    Some(path.iter().map(|&char| char as u8).collect())
}

fn is_readable(fd: i32) -> bool {
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: it is one place, and nothing is waited for.
    unsafe { libc::poll(&mut asked, 1, 0) == 1 }
}

fn empty_view() -> fdx_batch_view {
    // SAFETY: null pointers and zeros are good values.
    let mut view: fdx_batch_view = unsafe { std::mem::zeroed() };
    view.struct_size = size_of::<fdx_batch_view>() as u32;
    view
}

unsafe extern "C-unwind" fn on_drop(word: *mut c_void) {
    // SAFETY: only words are given away, and they outlive the server.
    let word = unsafe { &*word.cast::<Word>() };
    assert!(!IN_CALL.get(), "a word is dropped on the stack of a call");
    assert!(!word.is_dropped.replace(true), "a word is dropped once");
    assert_eq!(word.carried.get(), 0, "a word is dropped while an event carries it");
}

unsafe extern "C-unwind" fn on_drop_of_route(words: *mut c_void) {
    // SAFETY: they outlive the server.
    let words = unsafe { &*words.cast::<Words>() };
    words.routes_dropped.set(words.routes_dropped.get() + 1);
}

/// No word may be dropped while this runs.
fn call_in<R>(call: impl FnOnce() -> R) -> R {
    IN_CALL.set(true);
    let result = call();
    IN_CALL.set(false);
    result
}

/// Servers silence panics, whose words a fuzzer needs.
fn prepare() {
    let hook = std::panic::take_hook();
    let words = Words::default();
    let server = new_server(&[("dispatch", "queue")], &[], 0, &words);
    // SAFETY: it was made above.
    unsafe { fdx_server_unref(server) };
    std::panic::set_hook(hook);
}

thread_local! {
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
}

const OPTIONS: [&[(&str, &str)]; 7] = [
    &[],
    &[("recv.high_water", "1000")],
    &[("recv.high_water", "0")],
    &[
        ("recv.high_water", "200"),
        ("ping.interval", "100ms"),
        ("ping.timeout", "50ms"),
        ("timeout.idle", "2s"),
    ],
    &[("send.limit", "2k"), ("send.full", "close"), ("recv.high_water", "300")],
    &[("send.high_water", "1"), ("send.low_water", "0"), ("recv.high_water", "64")],
    &[("timeout.handshake", "100ms"), ("timeout.close", "100ms"), ("timeout.write_stall", "1s")],
];
const ROUTE_FLAGS: u32 = FDX_ROUTE_STREAM | FDX_ROUTE_HTTP | FDX_ROUTE_UPGRADE | FDX_ROUTE_OTHER;
/// What an event counts beside its payload.
const EVENT_BYTES: usize = 64;
const SCRIPT_BYTES_MAX: usize = 2000;
const SETTLING_TURNS_MAX: usize = 2000;
/// With delays of the kernel a turn may bring nothing though there is something.
const QUIET_TURNS: usize = 30;
const STOP_TURNS_MAX: usize = 1000;
