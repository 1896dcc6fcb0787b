//! Thousands of conversations on a kernel with faults, each wholly decided by a seed.
//!
//! Several clients of any dialect say what is right and sometimes what is wrong, an embedder
//! does whatever it likes inside its callbacks and from other threads, the kernel misbehaves,
//! and at the end the server stops. Whatever happens, the promises of ARCHITECTURE.md hold;
//! and in peaceful conversations, where nothing may get lost, everything arrives.

mod client;
mod embedder;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use fullduplex::config::{Config, Settings};
use fullduplex::driver::Driver;
use fullduplex::driver::sim::{self, Call, Dice, Faults, Kernel, SimDriver, SimSocket, Trouble};
use fullduplex::engine::limits::Gate;
use fullduplex::engine::routes::{Route, Routes, Wants};
use fullduplex::engine::table::Table;
use fullduplex::engine::topics::Topics;
use fullduplex::engine::{Command, Engine, Parts};
use fullduplex::id::ConnId;
use fullduplex::server::mailbox::Mailbox;
use fullduplex::server::shard::Shard;

use crate::scene;
use crate::secure::acceptor;
use client::Client;
use embedder::{Embedder, Habits, Shared};

#[test]
fn ten_thousand_conversations_with_faults_keep_every_promise() {
    let first: u64 = number("SEED_BASE").unwrap_or(0);
    let count = number("SEEDS").unwrap_or(10_000);
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get()) as u64;
    let census_of = |thread: u64| {
        let mut census = Census::default();
        for seed in (first + thread..first + count).step_by(threads as usize) {
            census.add(&held(seed, Watch::No).0?);
        }
        Ok(census)
    };
    let mut all = Census::default();
    let begun = Instant::now();
    thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|thread| scope.spawn(move || census_of(thread))).collect();
        for run in runs {
            let census: Result<Census, String> = run.join().expect("what fails is caught");
            all.add(&census.unwrap_or_else(|why| panic!("{why}")));
        }
    });
    println!("{all:#?}\n{:.0} seeds a second", count as f64 / begun.elapsed().as_secs_f64());
    if count < 1000 {
        return;
    }
    // A simulation in which little happens proves little.
    let enough = count / 20;
    assert!(
        all.peaceful_secure > enough / 5
            && all.peaceful > enough
            && all.opened > 2 * count
            && all.messages > 5 * count
            && all.published > count,
        "{all:?}"
    );
    assert!(all.compressed > enough && all.crowded > count, "{all:?}");
    assert!(all.rejected > enough && all.drains > enough && all.lent > enough / 10, "{all:?}");
    assert!(all.closed_by[1..].iter().all(|&closes| closes > enough / 5), "{all:?}");
    assert!(
        all.troubles.len() == TROUBLES && all.troubles.values().all(|&times| times > enough / 5),
        "{all:?}"
    );
}

/// `make replay SEED=n` shows one conversation step by step.
#[test]
fn a_replay_is_the_same_conversation_step_by_step() {
    let (seeds, watch) = match number("SEED") {
        Some(seed) => (seed..seed + 1, Watch::Print),
        None => (0..50, Watch::Keep),
    };
    for seed in seeds {
        let (result, steps) = held(seed, watch);
        if let Err(why) = result {
            panic!("{why}");
        }
        let (_, again) = held(seed, Watch::Keep);
        let parting = steps.iter().zip(&again).find(|(step, again)| step != again);
        assert_eq!((parting, steps.len()), (None, again.len()), "seed {seed}");
    }
}

/// What happened in how many conversations.
#[derive(Default, Debug)]
pub struct Census {
    peaceful: u64,
    /// Over TLS, of those.
    peaceful_secure: u64,
    opened: u64,
    rejected: u64,
    messages: u64,
    /// That came to a client compressed.
    compressed: u64,
    arrived: u64,
    /// To how many, all together.
    published: u64,
    drains: u64,
    /// Connections with too much unread, over all turns.
    crowded: u64,
    faults: u64,
    words: u64,
    /// Waits that read into lent memory.
    lent: u64,
    turns: u64,
    /// Bad answers of the kernel.
    troubles: BTreeMap<(Call, Trouble), u64>,
    /// By [`ClosedBy`](fullduplex::engine::event::ClosedBy).
    closed_by: [u64; 8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    No,
    Keep,
    Print,
}

/// One conversation, and the steps it took.
fn held(seed: u64, watch: Watch) -> (Result<Census, String>, Vec<String>) {
    let mut steps = Vec::new();
    let mut conversation = Conversation::new(seed, watch);
    let result = catch_unwind(AssertUnwindSafe(|| conversation.hold(&mut steps)));
    conversation.take_steps(&mut steps);
    let result = match result {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref().map(|text: &&str| text.to_string())).unwrap_or_default())
        }
    };
    let result =
        result.map_err(|why| format!("seed {seed}: {why}\nto see it step by step: make replay SEED={seed}"));
    (result, steps)
}

struct Conversation {
    dice: Dice,
    kernel: Kernel,
    faults: Faults,
    watch: Watch,
    plan: Plan,
    /// Those in use first.
    settings: [Arc<Settings>; 2],
    gate: Arc<Gate>,
    shard: Shard<SimDriver, Embedder>,
    table: Arc<Table>,
    mailbox: Arc<Mailbox<SimSocket>>,
    clients: Vec<Client>,
    shared: Rc<RefCell<Shared>>,
    /// Most bytes that may be queued for one connection.
    queued_max: u64,
    turns: u64,
    /// Waits for nothing in a row, without news for the embedder.
    spins: u32,
    room: Vec<u8>,
}

/// What kind of conversation this is.
struct Plan {
    /// Faults only delay, everybody is polite, and everything must arrive.
    is_peaceful: bool,
    /// Over TLS.
    is_secure: bool,
    /// Messages of many kilobytes.
    is_large: bool,
    /// The server compresses for those who offer it.
    deflates: bool,
    /// Time may pass in leaps while nothing happens.
    leaps: u32,
    steps_max: usize,
}

impl Conversation {
    fn new(seed: u64, watch: Watch) -> Self {
        let mut dice = Dice::new(seed);
        let is_peaceful = dice.hits(250);
        let plan = Plan {
            is_peaceful,
            // A handshake takes as long as a conversation.
            is_secure: seed % 10 == 7,
            is_large: dice.hits(150),
            deflates: dice.hits(400),
            leaps: if is_peaceful { 0 } else { *dice.pick(&[0, 0, 0, 1, 30]) },
            steps_max: if is_peaceful { 300_000 } else { 500 + dice.unevenly_up_to(20_000) },
        };
        let faults = faults(&mut dice, &plan);
        let kernel = Kernel::new(dice.roll(), faults.clone());
        if watch != Watch::No {
            kernel.keep_trace();
        }
        if plan.is_secure {
            kernel.set_secure();
        }
        if seed % 2 == 0 {
            kernel.set_sends_together_min(usize::MAX);
        }
        let longest = *dice.pick(if plan.is_large { &["100k", "1m"] } else { &["100", "1k", "1m"] });
        let longest = if plan.is_peaceful { "1m" } else { longest };
        let [settings, other_settings] =
            [(); 2].map(|()| Arc::new(config(&mut dice, &plan, longest).settings().clone()));
        let wants_upgrade = dice.hits(300);
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
        routes.add("/*", Route { number: 0, wants, http: false, streams: false }).expect("a good pattern");
        let driver = kernel.driver(true);
        let (table, gate) = (Arc::new(Table::default()), Arc::new(Gate::default()));
        let topics = Arc::new(Topics::new(4, true));
        let parts = Parts {
            shard: 3,
            settings: settings.clone(),
            routes: Arc::new(routes),
            table: table.clone(),
            topics: topics.clone(),
            gate: gate.clone(),
            pages: Arc::new(()),
            acceptor: acceptor(),
            generation_seed: dice.roll() as u32,
        };
        let engine = Engine::new(parts, driver.now());
        let mailbox = Arc::new(Mailbox::new(driver.waker()));
        let count = 1 + dice.unevenly_up_to(12);
        let clients: Vec<_> = (0..count)
            .map(|number| Client::new(number, &mut dice, &plan, settings.message_bytes_max))
            .collect();
        let shared = Shared {
            dice: Dice::new(dice.roll()),
            kernel: kernel.clone(),
            table: table.clone(),
            tables: (0..3).map(|_| Arc::default()).chain([table.clone()]).collect(),
            topics: topics.clone(),
            members: BTreeMap::new(),
            leaving: BTreeMap::new(),
            told_members: BTreeSet::new(),
            send: settings.send.clone(),
            habits: Habits::new(&mut dice, &plan, wants_upgrade),
            limit_bytes: settings.send.limit_bytes.max(other_settings.send.limit_bytes) as u64,
            said: clients.iter().map(|client| client.says.clone()).collect(),
            connections: BTreeMap::new(),
            undecided: Vec::new(),
            paused: Vec::new(),
            unread: Vec::new(),
            read_on: Vec::new(),
            unread_max: settings.receive.high_water_bytes,
            crowded: BTreeSet::new(),
            releases: Vec::new(),
            panics: 0,
            wrong: Vec::new(),
            census: Census::default(),
            told: 0,
            sends: 0,
        };
        let shared = Rc::new(RefCell::new(shared));
        let arena_bytes = *dice.pick(&[64, 4096, 512 * 1024, 512 * 1024]);
        let arena_bytes = if plan.is_large { 512 * 1024 } else { arena_bytes };
        let mut shard = Shard::new(driver, engine, mailbox.clone(), Embedder(shared.clone()), arena_bytes);
        shard.begin();
        // Answers to Pings, a 101 and last words come on top of the messages.
        let high_water = settings.send.high_water_bytes.max(other_settings.send.high_water_bytes);
        let on_top = high_water.max(16 * 1024) + 8 * 1024;
        let queued_max = shared.borrow().limit_bytes + on_top as u64;
        let room = vec![0; 64 * 1024];
        Self {
            dice,
            kernel,
            faults,
            watch,
            plan,
            settings: [settings, other_settings],
            gate,
            shard,
            table,
            mailbox,
            clients,
            shared,
            queued_max,
            turns: 0,
            spins: 0,
            room,
        }
    }

    fn hold(&mut self, steps: &mut Vec<String>) -> Result<Census, String> {
        for _ in 0..self.plan.steps_max {
            let nobody_is_left = self.clients.iter().all(Client::is_done);
            if nobody_is_left || self.shard.engine().is_stopping() {
                break;
            }
            self.step()?;
            self.take_steps(steps);
        }
        if self.plan.is_peaceful && !self.clients.iter().all(Client::is_done) {
            return Err(format!("it never ends: {:?}", self.clients));
        }
        self.stop(steps)?;
        self.check_the_end()
    }

    fn step(&mut self) -> Result<(), String> {
        match self.dice.below(10) {
            0..4 => {
                let leaps = self.plan.leaps;
                let nap = if self.dice.hits(leaps) { Duration::MAX } else { Duration::from_millis(1) };
                self.kernel.set_nap_max(nap);
                self.turn()
            }
            4..9 => {
                let first = self.dice.below(self.clients.len());
                let numbers = (first..self.clients.len()).chain(0..first);
                let busy = numbers.into_iter().find(|&number| !self.clients[number].is_done());
                busy.map_or(Ok(()), |number| self.let_act(number))
            }
            _ => self.ask_from_another_thread(),
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        self.turns += 1;
        let told = self.shared.borrow().told;
        self.shared.borrow_mut().note_crowded();
        self.shard.turn();
        let mut shared = self.shared.borrow_mut();
        self.spins = if self.kernel.was_for_nothing() && shared.told == told { self.spins + 1 } else { 0 };
        if self.spins > SPINS_MAX {
            return Err(format!("the shard spins: {} waits in a row were for nothing", self.spins));
        }
        for (id, _) in shared.open() {
            if let Some((entry, _)) = self.table.find(id) {
                let queued = entry.get().queued_bytes();
                if queued > self.queued_max {
                    return Err(format!("{queued} bytes are queued for {id:?}"));
                }
            }
        }
        match shared.wrong.pop() {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    fn let_act(&mut self, number: usize) -> Result<(), String> {
        let mut shared = self.shared.borrow_mut();
        self.clients[number].act(&mut self.dice, &self.kernel, &mut shared, &mut self.room)
    }

    /// Another thread asks something of a connection, which may be gone.
    fn ask_from_another_thread(&mut self) -> Result<(), String> {
        let mut shared = self.shared.borrow_mut();
        let is_rude = !self.plan.is_peaceful;
        if self.dice.hits(20) {
            self.settings.swap(0, 1);
            shared.unread_max = self.settings[0].receive.high_water_bytes;
            shared.send = self.settings[0].send.clone();
            self.post(Command::Apply(self.settings[0].clone()));
        }
        shared.free_some();
        for conn in shared.read_on.drain(..) {
            self.post(Command::ReadOn { conn });
        }
        if let Some(conn) = shared.undecided.pop() {
            let rejects = is_rude && self.dice.hits(300);
            self.post(if rejects { embedder::rejection(conn) } else { embedder::acceptance(conn) });
        }
        if let Some(conn) = shared.paused.pop() {
            self.post(Command::SetPaused { conn, paused: false });
        }
        let Some(conn) = shared.any_id(&mut self.dice) else { return Ok(()) };
        let topic = Shared::any_topic(&mut self.dice);
        let commands = match self.dice.below(10) {
            0 => shared.join(conn, topic)?.into_iter().collect(),
            1 => shared.leave(conn, topic)?,
            2 => shared.publish(topic, true)?,
            _ => Vec::new(),
        };
        for command in commands {
            self.post(command);
        }
        let choices = if is_rude && self.dice.hits(40) { 8 } else { 4 };
        match self.dice.below(choices) {
            0 => {
                if let Some(command) = shared.send_from_afar(conn) {
                    self.post(command);
                }
            }
            1 => {
                let data = shared.new_word(conn);
                self.post(Command::SetData { conn, data });
            }
            2 if shared.has_pings(conn) => self.post(scene::ping(conn, b"from afar")),
            2 => {}
            3 => {
                shared.paused.push(conn);
                self.post(Command::SetPaused { conn, paused: true });
            }
            4 => self.post(scene::close(conn, 4000, "from afar")),
            5 => self.post(scene::abort(conn)),
            6 => self.post(embedder::acceptance(conn)),
            _ => self.post(embedder::rejection(conn)),
        }
        Ok(())
    }

    fn post(&self, command: Command) {
        assert!(self.mailbox.post(command).is_ok(), "the shard is there");
    }

    /// The server stops, however much is still going on.
    fn stop(&mut self, steps: &mut Vec<String>) -> Result<(), String> {
        let spread = Duration::from_millis(*self.dice.pick(&[0, 0, 100, 60_000]));
        let deadline = Duration::from_millis(*self.dice.pick(&[0, 10, 3000, 100_000]));
        self.kernel.note(|| format!("stop, spread over {spread:?}, until {deadline:?}"));
        self.post(scene::stop(spread, deadline));
        // So that it can be seen whether the deadline holds.
        self.kernel.set_faults(Faults { clock_jumps: 0, wait_trouble: 0, ..self.faults.clone() });
        let begun = self.kernel.now();
        let was_stopping = self.shard.engine().is_stopping();
        for _ in 0..STOP_TURNS_MAX {
            self.kernel.set_nap_max(Duration::MAX);
            self.turn()?;
            for number in 0..self.clients.len() {
                self.let_act(number)?;
            }
            self.take_steps(steps);
            if self.shard.engine().is_finished() {
                // A stop of the embedder's own had its own deadline.
                let ends = if was_stopping { embedder::STOP_DEADLINE } else { deadline };
                let late = self.kernel.now().since(begun).saturating_sub(ends);
                return if late > LATE_MAX { Err(format!("the stop is late by {late:?}")) } else { Ok(()) };
            }
        }
        Err(format!("the stop never ends: {:?}", self.clients))
    }

    fn check_the_end(&mut self) -> Result<Census, String> {
        let mut shared = self.shared.borrow_mut();
        if let Some((id, _)) = shared.open().next() {
            return Err(format!("{id:?} was opened and never closed"));
        }
        let live = self.shard.engine().live_connections();
        let (sockets, lent) = (self.kernel.open_sockets(), self.kernel.lent_buffers());
        if (live, sockets, lent) != (0, 0, 0) {
            return Err(format!("left over: {live} connections, {sockets} sockets, {lent} lent buffers"));
        }
        let mut limits = self.settings[0].limits.clone();
        (limits.connections, limits.connections_per_ip, limits.connection_rate_per_ip) = (1, Some(1), None);
        for number in 0..self.clients.len() as u32 {
            let ip = sim::address_of(number).ip();
            let entered = self.gate.enter_from(ip, &limits, self.kernel.now());
            entered.map_err(|why| format!("the gate still counts somebody from {ip}: {why}"))?;
            self.gate.leave_from(ip);
        }
        self.gate.enter(&limits).map_err(|why| format!("the gate still counts somebody: {why}"))?;
        let counters = &self.table.counters;
        let (open, closed) = (counters.connections.get(), counters.closed.get());
        let windows = self.gate.windows.taken_bytes();
        if windows > 0 {
            return Err(format!("{windows} bytes are set aside for the windows of nobody"));
        }
        let (topics, subscribers) = (shared.topics.topics(), shared.topics.subscribers());
        if (topics, subscribers) != (0, 0) {
            return Err(format!("{subscribers} are left over in {topics} topics"));
        }
        if !self.table.is_quiet() || (open, closed) != (0, shared.census.opened) {
            return Err(format!("the table keeps something: {open} open, {closed} closed"));
        }
        let mut entries = (0..).map_while(|slot| self.table.entry(slot));
        if let Some(entry) = entries.find(|entry| entry.get().queued_bytes() > 0) {
            let queued = entry.get().queued_bytes();
            return Err(format!("{queued} bytes are queued for somebody who is gone"));
        }
        let faults = counters.faults.get();
        if faults != shared.panics {
            return Err(format!("{faults} panics, of which the embedder threw {}", shared.panics));
        }
        for (word, releases) in shared.releases.iter().enumerate() {
            let releases = releases.load(SeqCst);
            if releases != 1 {
                return Err(format!("word {} was released {releases} times", word + 1));
            }
        }
        if self.plan.is_peaceful {
            for client in &self.clients {
                client.check_that_all_arrived(&shared)?;
            }
            shared.census.peaceful = 1;
            shared.census.peaceful_secure = u64::from(self.plan.is_secure);
        }
        let mut census = std::mem::take(&mut shared.census);
        census.arrived = self.clients.iter().map(|client| client.heard_count() as u64).sum();
        census.compressed = self.clients.iter().map(|client| client.compressed() as u64).sum();
        census.turns = self.turns;
        census.words = shared.releases.len() as u64;
        census.rejected = counters.rejected.get();
        census.faults = faults;
        census.lent = self.kernel.fills();
        census.troubles = self.kernel.troubles();
        Ok(census)
    }

    fn take_steps(&mut self, steps: &mut Vec<String>) {
        for step in self.kernel.take_trace() {
            if self.watch == Watch::Print {
                println!("{step}");
            }
            steps.push(step);
        }
    }
}

impl Census {
    fn add(&mut self, other: &Self) {
        for (sum, one) in [
            (&mut self.peaceful, other.peaceful),
            (&mut self.peaceful_secure, other.peaceful_secure),
            (&mut self.opened, other.opened),
            (&mut self.rejected, other.rejected),
            (&mut self.messages, other.messages),
            (&mut self.compressed, other.compressed),
            (&mut self.arrived, other.arrived),
            (&mut self.published, other.published),
            (&mut self.drains, other.drains),
            (&mut self.crowded, other.crowded),
            (&mut self.faults, other.faults),
            (&mut self.words, other.words),
            (&mut self.lent, other.lent),
            (&mut self.turns, other.turns),
        ] {
            *sum += one;
        }
        for (sum, one) in self.closed_by.iter_mut().zip(other.closed_by) {
            *sum += one;
        }
        for (trouble, count) in &other.troubles {
            *self.troubles.entry(*trouble).or_default() += count;
        }
    }
}

fn faults(dice: &mut Dice, plan: &Plan) -> Faults {
    let mut faults = Faults::none();
    let buffers: &[usize] = match plan {
        Plan { is_large: true, .. } => &[8_000, 100_000, 300_000],
        // Each record is 22 bytes longer than its content: with less, Pings come faster than they go.
        Plan { is_secure: true, .. } => &[50, 1000, 10_000, 65_536],
        _ => &[3, 50, 1000, 10_000, 65_536],
    };
    let buffer_bytes = *dice.pick(buffers);
    faults.buffer_bytes = buffer_bytes..=buffer_bytes * 2;
    if dice.hits(250) {
        return faults;
    }
    let mut rate = |choices: &[u32]| *dice.pick(choices);
    faults.short_reads = rate(&[0, 100, 500, 900]);
    faults.short_writes = rate(&[0, 100, 500, 900]);
    faults.empty_reads = rate(&[0, 0, 200]);
    faults.interruptions = rate(&[0, 100]);
    // Each costs a pause, in which Pings come due: too many, and slow clients do nothing else.
    faults.wait_trouble = rate(if plan.is_peaceful { &[0, 0, 1] } else { &[0, 0, 10] });
    faults.delays = rate(&[0, 100, 500]);
    faults.wakes = rate(&[0, 100, 500]);
    faults.false_sendables = rate(&[0, 0, 100, 500]);
    faults.repeated_ends = rate(&[0, 0, 200]);
    faults.ends_at_once = rate(&[0, 0, 500]);
    faults.accept_trouble = rate(&[0, 0, 300]);
    if plan.is_peaceful {
        return faults;
    }
    faults.resets_on_read = rate(&[0, 0, 0, 5, 30]);
    faults.resets_on_write = rate(&[0, 0, 0, 5, 30]);
    faults.resets_while_idle = rate(&[0, 0, 0, 1, 5]);
    faults.write_trouble = rate(&[0, 0, 0, 5, 30]);
    faults.accept_aborts = rate(&[0, 0, 100]);
    faults.adopt_trouble = rate(&[0, 0, 100]);
    faults.clock_jumps = rate(&[0, 0, 0, 1, 20]);
    faults.clock_jump_max = Duration::from_secs(100);
    faults
}

fn config(dice: &mut Dice, plan: &Plan, longest: &str) -> Config {
    let mut config = Config::new();
    config.set("max.message", longest).expect("a good option");
    let mut set = |key: &str, polite: &[&str], rude: &[&str]| {
        let choices = if plan.is_peaceful { polite } else { rude };
        let choice: &str = dice.pick::<&str>(choices);
        config.set(key, choice).expect("a good option");
    };
    set("max.connections", &["100"], &["2", "100", "100", "100"]);
    set("max.connections_per_ip", &["0"], &["0", "0", "0", "1"]);
    set("rate.connections_per_ip", &["0"], &["0", "0", "0", "1/s"]);
    set("rate.messages", &["0"], &["0", "0", "0", "100/s burst 3"]);
    set("rate.bytes", &["0"], &["0", "0", "1k/s burst 512k"]);
    set("send.high_water", &["1", "1k", "64k"], &["1", "1k", "64k"]);
    set("send.low_water", &["0", "512", "16k"], &["0", "512", "16k"]);
    set("send.limit", &["1g"], &["1k", "20k", "1m"]);
    set("send.full", &["close"], &["close", "drop"]);
    set("recv.high_water", &["0", "300", "128k"], &["0", "300", "128k"]);
    set("timeout.handshake", &["1h"], &["100ms", "2s", "10s", "10s"]);
    set("timeout.close", &["1h"], &["100ms", "1s", "5s"]);
    set("timeout.idle", &["0"], &["0", "0", "200ms", "60s"]);
    set("timeout.write_stall", &["1h"], &["100ms", "1s", "30s"]);
    set("ping.interval", &["0", "100ms", "30s"], &["0", "100ms", "30s"]);
    if plan.deflates {
        for (key, choices) in [
            ("deflate", &["shared", "dedicated", "dedicated"][..]),
            ("deflate.budget", &["64m", "600k"]),
            ("deflate.min_size", &["0", "30", "128"]),
            ("deflate.level", &["1", "1", "6"]),
            ("deflate.window_bits", &["15", "15", "9", "12"]),
        ] {
            set(key, choices, choices);
        }
    }
    set("ping.timeout", &["0"], &["0", "50ms", "300ms", "20s"]);
    config
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// An id that was never given out.
fn nobody() -> ConnId {
    ConnId::from_u64(u64::from(u32::MAX))
}

/// How many kinds of bad answers the kernel gives.
const TROUBLES: usize = 22;
/// More waits for nothing in a row than any reason explains.
const SPINS_MAX: u32 = 3;
const STOP_TURNS_MAX: usize = 20_000;
/// After a stop's deadline connections are cut with the next turn, within a tick or two.
const LATE_MAX: Duration = Duration::from_millis(50);
