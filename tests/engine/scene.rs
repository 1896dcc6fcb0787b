//! A shard or several, their clients, and an embedder that a test scripts.
//!
//! A scene goes on only when it is asked for something: a test says what clients do, then what
//! must be heard and told. When it ends, the promises that hold everywhere are checked: the
//! order of each connection's events, and that nothing panicked that was not meant to.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use fullduplex::config::{Config, SendLimits};
use fullduplex::driver::Driver;
use fullduplex::engine::connection::{Release, UserData};
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::limits::Gate;
use fullduplex::engine::plain::Pages;
use fullduplex::engine::routes::{Route, Routes, Wants};
use fullduplex::engine::table::{Table, charge};
use fullduplex::engine::topics::{Outcomes, Surroundings, Topics};
use fullduplex::engine::turn::{EventView, Handler, Message, Misuse, Turn};
use fullduplex::engine::{Command, Engine, Parts};
use fullduplex::id::ConnId;
use fullduplex::protocol::close::{CloseCode, CloseFrame};
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Control, Dialect, Kind};
use fullduplex::server::mailbox::{Letterbox, Mailbox};
use fullduplex::server::shard::Shard;

use crate::peer::{self, Heard, Reader};
use crate::secure::acceptor;
use crate::world::{Wire, World};

/// What differs from the usual scene: one shard, every event wanted but UPGRADE, the defaults.
#[derive(Default)]
pub struct Setup {
    config: Config,
    wants_upgrade: bool,
    http: bool,
    streams: bool,
    pages: Option<Arc<dyn Pages>>,
    shards: usize,
    buffer_bytes: Option<usize>,
}

pub struct Scene<W: World> {
    pub world: W,
    pub shards: Vec<Shard<W::Driver, Script>>,
    pub tables: Vec<Arc<Table>>,
    mailboxes: Vec<Arc<Mailbox<<W::Driver as Driver>::Socket>>>,
    topics: Arc<Topics>,
    send: SendLimits,
    clients: Vec<ClientState<W::Wire>>,
    script: Script,
    /// How many panics the test has thrown itself.
    pub panics: u64,
}

/// A client of the scene.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client(usize);

struct ClientState<W> {
    /// `None` after a reset of its own.
    wire: Option<W>,
    reader: Reader,
    heard: VecDeque<Heard>,
    outgoing: VecDeque<u8>,
    is_deaf: bool,
    has_ended: bool,
    /// Known from OPEN on, or UPGRADE.
    id: Option<ConnId>,
}

/// Something the embedder was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Upgrade,
    /// With its body.
    Http(Vec<u8>),
    Open,
    Text(String),
    Binary(Vec<u8>),
    /// So many bytes of a message that is told as it comes; `true` with the last.
    Piece(usize, bool),
    Drain,
    Ping(Vec<u8>),
    /// Does it answer a Ping of ours?
    Pong(bool),
    Closed(u16, ClosedBy),
    /// A topic, and how many are in it then.
    Joined(String, u64),
    Left(String, u64),
    Listener,
    Fault,
}

type Reaction = Box<dyn FnMut(&mut Turn<'_>, &EventView<'_>)>;

/// The embedder: writes down what it is told, then does what the test has said.
#[derive(Clone)]
pub struct Script {
    told: Rc<RefCell<Vec<(ConnId, Told)>>>,
    /// How many of each connection's the test has looked at.
    looked_at: Rc<RefCell<BTreeMap<ConnId, usize>>>,
    reaction: Rc<RefCell<Reaction>>,
}

impl Client {
    /// The scene's first.
    pub fn first() -> Self {
        Self(0)
    }
}

impl Setup {
    pub fn new(options: &[(&str, &str)]) -> Self {
        let mut setup = Self { shards: 1, ..Self::default() };
        for (key, value) in options {
            setup.config.set(key, value).expect("a test sets good options");
        }
        setup
    }

    /// The embedder decides about requests.
    pub fn wants_upgrade(self) -> Self {
        Self { wants_upgrade: true, ..self }
    }

    /// The embedder answers plain requests.
    pub fn wants_http(self) -> Self {
        Self { http: true, ..self }
    }

    /// Messages are told as they come.
    pub fn streams(self) -> Self {
        Self { streams: true, ..self }
    }

    /// The server answers some requests itself.
    pub fn pages(self, pages: impl Pages + 'static) -> Self {
        Self { pages: Some(Arc::new(pages)), ..self }
    }

    pub fn shards(self, shards: usize) -> Self {
        Self { shards, ..self }
    }

    /// About so many bytes lie between client and server, each way, and no more.
    pub fn narrow(self, bytes: usize) -> Self {
        Self { buffer_bytes: Some(bytes), ..self }
    }

    pub fn scene<W: World>(self) -> Scene<W> {
        let mut world = W::new(self.buffer_bytes);
        let wants = Wants {
            upgrade: self.wants_upgrade,
            open: true,
            message: true,
            close: true,
            drain: true,
            topic: true,
            other: true,
        };
        let mut routes = Routes::default();
        routes.add("/*", Route { number: 0, wants, http: self.http, streams: self.streams }).unwrap();
        let pages = self.pages.unwrap_or_else(|| Arc::new(()));
        let (settings, routes) = (Arc::new(self.config.settings().clone()), Arc::new(routes));
        let script = Script {
            told: Rc::default(),
            looked_at: Rc::default(),
            reaction: Rc::new(RefCell::new(Box::new(echo))),
        };
        let topics = Arc::new(Topics::new(self.shards, true));
        let (mut shards, mut tables, mut mailboxes) = (Vec::new(), Vec::new(), Vec::new());
        for shard in 0..self.shards {
            let driver = world.driver();
            let table = Arc::new(Table::default());
            let parts = Parts {
                shard: shard as u8,
                settings: settings.clone(),
                routes: routes.clone(),
                table: table.clone(),
                topics: topics.clone(),
                gate: Arc::new(Gate::default()),
                pages: pages.clone(),
                acceptor: acceptor(),
                generation_seed: 1,
            };
            let engine = Engine::new(parts, driver.now());
            let mailbox = Arc::new(Mailbox::new(driver.waker()));
            shards.push(Shard::new(driver, engine, mailbox.clone(), script.clone(), ARENA_BYTES));
            tables.push(table);
            mailboxes.push(mailbox);
        }
        shards.iter_mut().for_each(Shard::begin);
        if self.shards > 1 {
            shards[0].spread_over(mailboxes.clone());
        }
        let send = settings.send.clone();
        Scene { world, shards, tables, mailboxes, topics, send, clients: Vec::new(), script, panics: 0 }
    }
}

impl<W: World> Scene<W> {
    /// The usual scene with these options.
    pub fn new(options: &[(&str, &str)]) -> Self {
        Setup::new(options).scene()
    }

    // What clients do.

    /// A client connects and asks, and nobody waits for the answer yet.
    pub fn connect(&mut self, dialect: Dialect) -> Client {
        self.connect_saying(dialect, &peer::request(dialect, "/"))
    }

    /// A client connects and says these bytes instead of a good request.
    pub fn connect_saying(&mut self, dialect: Dialect, bytes: &[u8]) -> Client {
        let client = ClientState {
            wire: Some(self.world.connect()),
            reader: Reader::new(dialect),
            heard: VecDeque::new(),
            outgoing: bytes.iter().copied().collect(),
            is_deaf: false,
            has_ended: false,
            id: None,
        };
        self.clients.push(client);
        Client(self.clients.len() - 1)
    }

    /// A client that is open, with nothing left to hear or to be told of it.
    pub fn open(&mut self, dialect: Dialect) -> Client {
        let client = self.connect(dialect);
        self.opens(client);
        client
    }

    /// The connection of a client that waits for it opens.
    pub fn opens(&mut self, client: Client) {
        self.hears(client, &[Heard::Http(101)]);
        self.finds_id(client, Told::Open);
        self.is_told(client, &[Told::Open]);
    }

    /// The embedder is asked about a client.
    pub fn asks(&mut self, client: Client, asked: Told) {
        self.finds_id(client, asked.clone());
        self.is_told(client, &[asked]);
    }

    pub fn id(&self, client: Client) -> ConnId {
        self.clients[client.0].id.expect("the test has waited until it is known")
    }

    pub fn says(&mut self, client: Client, bytes: &[u8]) {
        self.clients[client.0].outgoing.extend(bytes);
        self.pump();
    }

    /// The client ends its half when all it had to say is sent.
    pub fn finishes(&mut self, client: Client) {
        self.until("all is sent", |scene| scene.clients[client.0].outgoing.is_empty());
        self.wire(client).finish();
    }

    pub fn resets(&mut self, client: Client) {
        self.clients[client.0].wire.take().expect("only once").reset();
    }

    /// While it is deaf a client reads nothing.
    pub fn set_deaf(&mut self, client: Client, is_deaf: bool) {
        self.clients[client.0].is_deaf = is_deaf;
    }

    /// A deaf client takes a few bytes all the same.
    pub fn takes(&mut self, client: Client, len: usize) -> usize {
        let mut room = vec![0; len];
        let taken = self.wire(client).read(&mut room).unwrap_or(0);
        self.hear(client.0, &room[..taken]);
        taken
    }

    /// Bytes of the client that the kernel has no room for.
    pub fn unsent(&self, client: Client) -> usize {
        let client = &self.clients[client.0];
        client.outgoing.len() + client.wire.as_ref().map_or(0, Wire::unsent)
    }

    /// The answer to the client's request, head and body.
    pub fn answer(&self, client: Client) -> &str {
        &self.clients[client.0].reader.answer
    }

    /// How many messages came to the client compressed.
    pub fn compressed(&self, client: Client) -> usize {
        self.clients[client.0].reader.compressed
    }

    pub fn wire(&mut self, client: Client) -> &mut W::Wire {
        self.clients[client.0].wire.as_mut().expect("it has not reset")
    }

    // What the embedder and other threads do.

    /// From now on the embedder does this at every event.
    pub fn on(&mut self, reaction: impl FnMut(&mut Turn<'_>, &EventView<'_>) + 'static) {
        *self.script.reaction.borrow_mut() = Box::new(reaction);
    }

    /// Another thread asks something of a connection, whether it is there or not.
    pub fn post(&mut self, command: Command) {
        let conn = match &command {
            Command::Send { conn, .. }
            | Command::SendMessage { conn, .. }
            | Command::Close { conn, .. }
            | Command::Abort { conn, .. }
            | Command::Ping { conn, .. }
            | Command::SetPaused { conn, .. }
            | Command::ReadOn { conn }
            | Command::SetData { conn, .. }
            | Command::Accept { conn, .. }
            | Command::Look { conn }
            | Command::Answer { conn, .. } => *conn,
            // The messages of a submission count nothing here: what is taken from nothing stays nothing.
            Command::SendMany(_)
            | Command::Publish { .. }
            | Command::Leave { .. }
            | Command::TellChanges
            | Command::Stop { .. }
            | Command::Apply(_)
            | Command::Tell(_) => ConnId::NONE,
        };
        let len = match &command {
            Command::Send { payload, .. } => Some(payload.len()),
            Command::SendMessage { message, .. } => Some(message.payload.len()),
            Command::Ping { payload, .. } => Some(payload.as_slice().len()),
            _ => None,
        };
        if let (Some(len), Some(entry)) = (len, self.tables[conn.shard()].entry(conn.slot())) {
            // As the server does.
            entry.get().add_to_mailbox(conn, charge(len));
        }
        assert!(self.mailboxes[conn.shard()].post(command).is_ok(), "the shard is there");
    }

    /// The way to the topics that callbacks and other threads have.
    pub fn hub(&self) -> Hub
    where
        <W::Driver as Driver>::Socket: Send + 'static,
    {
        Hub {
            topics: self.topics.clone(),
            tables: self.tables.clone(),
            send: self.send.clone(),
            letterboxes: self.mailboxes.iter().map(|mailbox| mailbox.clone() as Arc<dyn Letterbox>).collect(),
        }
    }

    /// The embedder frees so much of what it was given of a connection.
    pub fn frees(&mut self, conn: ConnId, len: usize, high_water: usize) {
        let Some((entry, _)) = self.tables[conn.shard()].find(conn) else { return };
        if entry.get().take_unread(conn, len, high_water) {
            self.post(Command::ReadOn { conn });
        }
    }

    pub fn stop(&mut self, spread: Duration, deadline: Duration) {
        for mailbox in &self.mailboxes {
            assert!(mailbox.post(stop(spread, deadline)).is_ok(), "the shard is there");
        }
    }

    // What happens.

    /// One turn of every shard. True if there was any news.
    pub fn turn(&mut self) -> bool {
        let told = self.script.told.borrow().len();
        let mut is_new = self.pump();
        for shard in &mut self.shards {
            shard.turn();
        }
        is_new |= self.pump();
        is_new || self.script.told.borrow().len() > told
    }

    /// Goes on until there is no news any more.
    pub fn settles(&mut self) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            quiet = if self.turn() { 0 } else { quiet + 1 };
            if quiet == W::QUIET_TURNS {
                return;
            }
        }
        panic!("there is always news");
    }

    pub fn until(&mut self, what: impl Debug, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if is_so(self) {
                return;
            }
            self.turn();
        }
        let heard: Vec<_> = self.clients.iter().map(|client| &client.heard).collect();
        panic!("waited in vain until {what:?}; heard {heard:?}; told {:?}", self.script.told.borrow());
    }

    /// The clock jumps, and what is due then happens.
    pub fn passes(&mut self, time: Duration) {
        self.settles();
        // Timers are as sharp as a tick of 16 ms.
        self.world.pass(time + Duration::from_millis(20));
        self.settles();
    }

    /// The clock jumps, and nothing more.
    pub fn jumps(&mut self, time: Duration) {
        self.world.pass(time);
    }

    // What must have happened.

    /// The client hears this next, and all of it comes.
    pub fn hears(&mut self, client: Client, expected: &[Heard]) {
        for item in expected {
            self.until(("is heard", item), |scene| !scene.clients[client.0].heard.is_empty());
            let heard = self.clients[client.0].heard.pop_front().expect("something was heard");
            assert_eq!(heard, *item);
        }
    }

    pub fn hears_nothing(&mut self, client: Client) {
        self.settles();
        assert_eq!(self.clients[client.0].heard, []);
    }

    /// The connection is gone, however it looks from the client.
    pub fn loses(&mut self, client: Client) {
        self.until("the connection is lost", |scene| scene.clients[client.0].has_ended);
        let last = self.clients[client.0].heard.pop_back();
        assert!(matches!(last, Some(Heard::Fin | Heard::Reset)), "{last:?}");
    }

    /// Takes what the client has heard so far.
    pub fn heard(&mut self, client: Client) -> Vec<Heard> {
        self.clients[client.0].heard.drain(..).collect()
    }

    /// Takes what every client has heard so far.
    pub fn take_all_heard(&mut self) -> Vec<Vec<Heard>> {
        self.clients.iter_mut().map(|client| client.heard.drain(..).collect()).collect()
    }

    /// Everything that the embedder was told, in order.
    pub fn all_told(&self) -> Vec<(ConnId, Told)> {
        self.script.told.borrow().clone()
    }

    /// The embedder is told this next about the client.
    pub fn is_told(&mut self, client: Client, expected: &[Told]) {
        self.is_told_of(self.id(client), expected);
    }

    /// The embedder is told this next about the server itself.
    pub fn is_told_by_server(&mut self, expected: &[Told]) {
        self.is_told_of(ConnId::NONE, expected);
    }

    pub fn is_told_nothing(&mut self, client: Client) {
        self.settles();
        assert_eq!(self.told_next(self.id(client)), None);
    }

    /// The last that the embedder was told about the client, in the end.
    pub fn is_told_last(&mut self, client: Client, expected: Told) {
        let id = self.id(client);
        self.until(("is told", &expected), |scene| {
            let told = scene.script.told.borrow();
            told.iter().rev().find(|(of, _)| *of == id).is_some_and(|(_, told)| *told == expected)
        });
    }

    pub fn live_connections(&self) -> usize {
        self.shards.iter().map(|shard| shard.engine().live_connections()).sum()
    }

    /// All connections end, and nothing of them is left.
    pub fn empties(&mut self) {
        self.until("no connection is left", |scene| scene.live_connections() == 0);
        for table in &self.tables {
            assert_eq!(table.counters.connections.get(), 0);
            assert!(table.is_quiet(), "nothing is kept for nobody");
        }
    }

    fn is_told_of(&mut self, id: ConnId, expected: &[Told]) {
        for item in expected {
            self.until(("is told", item), |scene| scene.told_next(id).is_some());
            assert_eq!(self.told_next(id).as_ref(), Some(item));
            *self.script.looked_at.borrow_mut().entry(id).or_default() += 1;
        }
    }

    fn told_next(&self, id: ConnId) -> Option<Told> {
        let looked_at = self.script.looked_at.borrow().get(&id).copied().unwrap_or(0);
        self.script
            .told
            .borrow()
            .iter()
            .filter(|(of, _)| *of == id)
            .nth(looked_at)
            .map(|(_, told)| told.clone())
    }

    /// Learns which connection a client is, and looks at nothing that was told about it.
    pub fn finds_by_open(&mut self, client: Client) {
        self.finds_id(client, Told::Open);
    }

    /// The connection that was told of first and belongs to no client yet is this client's.
    fn finds_id(&mut self, client: Client, first: Told) {
        if self.clients[client.0].id.is_some() {
            return;
        }
        self.until(("somebody is told", &first), |scene| {
            let known: Vec<_> = scene.clients.iter().filter_map(|client| client.id).collect();
            let told = scene.script.told.borrow();
            let found =
                told.iter().find(|(id, what)| *what == first && !known.contains(id)).map(|(id, _)| *id);
            scene.clients[client.0].id = found;
            found.is_some()
        });
    }

    /// Moves what clients have to say, and what there is to hear. True if anything moved.
    fn pump(&mut self) -> bool {
        let mut has_moved = false;
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let Some(wire) = &mut client.wire else { continue };
            while !client.outgoing.is_empty() {
                match wire.write(client.outgoing.make_contiguous()) {
                    Ok(len) => {
                        client.outgoing.drain(..len);
                        has_moved = true;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => client.outgoing.clear(),
                }
            }
            let mut room = [0; 16 * 1024];
            while !self.clients[index].is_deaf && !self.clients[index].has_ended {
                let client = &mut self.clients[index];
                let Some(wire) = &mut client.wire else { break };
                match wire.read(&mut room) {
                    Ok(0) => self.ends(index, Heard::Fin),
                    Ok(len) => self.hear(index, &room[..len]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => self.ends(index, Heard::Reset),
                }
                has_moved = true;
            }
            if let Some(wire) = &mut self.clients[index].wire {
                has_moved |= wire.go_on();
            }
        }
        has_moved
    }

    fn ends(&mut self, index: usize, how: Heard) {
        let client = &mut self.clients[index];
        client.has_ended = true;
        client.heard.push_back(how);
    }

    fn hear(&mut self, index: usize, bytes: &[u8]) {
        let client = &mut self.clients[index];
        let mut heard = Vec::new();
        client.reader.receive(bytes, &mut heard).expect("the server keeps the protocol");
        client.heard.extend(heard);
    }
}

/// Topics as the server offers them, in a turn or from another thread.
#[derive(Clone)]
pub struct Hub {
    pub topics: Arc<Topics>,
    tables: Vec<Arc<Table>>,
    send: SendLimits,
    letterboxes: Vec<Arc<dyn Letterbox>>,
}

impl Hub {
    /// True: it was not in it before.
    pub fn subscribe(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, topic: &str) -> Result<bool, Misuse> {
        let (entry, _) = self.tables[conn.shard()].find(conn).ok_or(Misuse::NoConnection)?;
        let change = self.topics.subscribe(conn, entry.get(), topic.as_bytes(), TOPICS_MAX)?;
        if change.is_none() {
            return Ok(false);
        }
        self.post(turn, conn.shard(), Command::TellChanges);
        Ok(true)
    }

    /// True: it was in it.
    pub fn unsubscribe(&self, mut turn: Option<&mut Turn<'_>>, conn: ConnId, topic: &str) -> bool {
        let Some((entry, _)) = self.tables[conn.shard()].find(conn) else { return false };
        let Some((change, place)) = self.topics.unsubscribe(conn, entry.get(), topic.as_bytes()) else {
            return false;
        };
        if let Some(place) = place {
            let command = Command::Leave { topic: change.topic, place };
            self.post(turn.as_deref_mut(), conn.shard(), command);
        }
        self.post(turn, conn.shard(), Command::TellChanges);
        true
    }

    pub fn publish(&self, turn: Option<&mut Turn<'_>>, topic: &str, text: &str) -> Outcomes {
        self.publish_as(turn, topic, Kind::Text, text.as_bytes(), ConnId::NONE)
    }

    pub fn publish_as(
        &self,
        mut turn: Option<&mut Turn<'_>>,
        topic: &str,
        kind: Kind,
        payload: &[u8],
        skipped: ConnId,
    ) -> Outcomes {
        let message = Arc::new(Message::new(kind, payload).expect("a good message"));
        let own = turn.as_ref().map(|turn| usize::from(turn.shard()));
        let around = Surroundings { tables: &self.tables, limits: &self.send, own };
        self.topics.publish(topic.as_bytes(), &message, Wish::Auto, skipped, &around, |shard, command| {
            self.post(turn.as_deref_mut(), shard, command)
        })
    }

    fn post(&self, turn: Option<&mut Turn<'_>>, shard: usize, command: Command) -> bool {
        match turn.filter(|turn| usize::from(turn.shard()) == shard) {
            Some(turn) => {
                turn.obey(command);
                true
            }
            None => self.letterboxes[shard].post(command).is_ok(),
        }
    }
}

impl<W: World> Drop for Scene<W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let faults: u64 = self.tables.iter().map(|table| table.counters.faults.get()).sum();
        assert_eq!(faults, self.panics, "a panic that the test did not throw");
        let mut stages: BTreeMap<ConnId, u32> = BTreeMap::new();
        for (id, told) in self.script.told.borrow().iter().filter(|(id, _)| *id != ConnId::NONE) {
            let stage = stages.entry(*id).or_default();
            *stage = match (*stage, told) {
                (0, Told::Upgrade | Told::Http(_)) => 1,
                (0 | 1, Told::Open) => 2,
                (2, Told::Closed(..)) => 3,
                (2, Told::Text(_) | Told::Binary(_) | Told::Piece(..)) => 2,
                (2, Told::Drain | Told::Ping(_) | Told::Pong(_) | Told::Joined(..) | Told::Left(..)) => 2,
                (stage, told) => panic!("{id:?} is told {told:?} at stage {stage}"),
            };
        }
    }
}

impl Handler for Script {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        let text = || String::from_utf8(event.payload.to_vec()).expect("a text is UTF-8");
        let told = match event.kind {
            EventKind::Upgrade => Told::Upgrade,
            EventKind::Http => Told::Http(event.payload.to_vec()),
            EventKind::Open => Told::Open,
            EventKind::Message(Kind::Text) => Told::Text(text()),
            EventKind::Message(Kind::Binary) => Told::Binary(event.payload.to_vec()),
            EventKind::Fragment { fin, .. } => Told::Piece(event.payload.len(), fin),
            EventKind::Drain => Told::Drain,
            EventKind::Ping => Told::Ping(event.payload.to_vec()),
            EventKind::Pong { rtt_us } => Told::Pong(rtt_us > 0),
            EventKind::Close { code, by } => Told::Closed(code.0, by),
            EventKind::Topic { joined: true, subscribers } => Told::Joined(text(), subscribers),
            EventKind::Topic { joined: false, subscribers } => Told::Left(text(), subscribers),
            EventKind::Listener => Told::Listener,
            EventKind::Fault => Told::Fault,
            EventKind::Backplane(_) | EventKind::Stopped | EventKind::ThreadStart | EventKind::ThreadStop => {
                return;
            }
        };
        self.told.borrow_mut().push((event.conn, told));
        let reaction = self.reaction.clone();
        (reaction.borrow_mut())(turn, event);
    }
}

/// The usual embedder accepts everybody and says everything back.
pub fn echo(turn: &mut Turn<'_>, event: &EventView<'_>) {
    match event.kind {
        EventKind::Upgrade => accept(turn, event.conn),
        EventKind::Message(kind) => {
            let _ = turn.send(event.conn, kind, event.payload);
        }
        EventKind::Fragment { kind, fin } => {
            let _ = turn.send_fragment(event.conn, kind, event.payload, fin);
        }
        _ => {}
    }
}

pub fn accept(turn: &mut Turn<'_>, conn: ConnId) {
    turn.obey(Command::Accept { conn, protocol: None, headers: String::new() });
}

pub fn stop(spread: Duration, deadline: Duration) -> Command {
    Command::Stop { frame: CloseFrame::new(CloseCode::GOING_AWAY, "bye").into(), spread, deadline }
}

pub fn close(conn: ConnId, code: u16, reason: &str) -> Command {
    Command::Close { conn, frame: CloseFrame::new(CloseCode(code), reason).into() }
}

pub fn normal_close(conn: ConnId) -> Command {
    close(conn, 1000, "done")
}

pub fn ping(conn: ConnId, payload: &[u8]) -> Command {
    Command::Ping { conn, payload: Control::new(payload).into() }
}

pub fn abort(conn: ConnId) -> Command {
    Command::Abort { conn, by: ClosedBy::Host }
}

/// A word of the embedder's, and how often it was released.
pub fn counted(word: usize, releases: &Arc<AtomicUsize>) -> UserData {
    struct Counted(Arc<AtomicUsize>);
    impl Release for Counted {
        fn release(self: Box<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    UserData { word, release: Some(Box::new(Counted(releases.clone()))) }
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const ARENA_BYTES: usize = 512 * 1024;
/// Of one connection.
const TOPICS_MAX: usize = 3;
/// With waits of a millisecond: some seconds.
const TURNS_MAX: usize = 6000;
