//! The embedder of a simulated conversation: does whatever it likes, and remembers enough to
//! know whether what it is told can be true.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use fullduplex::config::SendLimits;
use fullduplex::driver::sim::{Dice, Kernel};
use fullduplex::engine::Command;
use fullduplex::engine::connection::UserData;
use fullduplex::engine::event::EventKind;
use fullduplex::engine::table::{Life, Table, charge};
use fullduplex::engine::topics::{Surroundings, Topics};
use fullduplex::engine::turn::{EventView, Handler, Message, Misuse, Turn};
use fullduplex::id::ConnId;
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Kind, WireForm};

use super::{Census, Plan, nobody};
use crate::scene;

/// A message as it was said: its kind and payload.
pub type Said = (Kind, Vec<u8>);

pub struct Embedder(pub Rc<RefCell<Shared>>);

/// What the embedder knows, and the test beside it.
pub struct Shared {
    pub dice: Dice,
    pub kernel: Kernel,
    pub table: Arc<Table>,
    /// Of all shards, of which there is only one.
    pub tables: Vec<Arc<Table>>,
    pub topics: Arc<Topics>,
    /// By topic: who is in it.
    pub members: BTreeMap<&'static str, BTreeSet<ConnId>>,
    /// Who has left with the end of its connection, and was not told yet.
    pub leaving: BTreeMap<&'static str, BTreeSet<ConnId>>,
    /// Who is in which topic, by the events.
    pub told_members: BTreeSet<(ConnId, Vec<u8>)>,
    pub send: SendLimits,
    pub habits: Habits,
    pub limit_bytes: u64,
    /// By client: the messages that it says as long as it is right.
    pub said: Vec<Vec<Said>>,
    pub connections: BTreeMap<ConnId, Known>,
    /// Requests without a decision, and connections that are not read.
    pub undecided: Vec<ConnId>,
    pub paused: Vec<ConnId>,
    /// Events that it keeps, with what they count, and connections that may be read on, since enough of
    /// that was freed while the shard was at work.
    pub unread: Vec<(ConnId, usize)>,
    pub read_on: Vec<ConnId>,
    pub unread_max: usize,
    /// Who had too much unread when the turn began.
    pub crowded: BTreeSet<ConnId>,
    /// By word: how often it was released.
    pub releases: Vec<Arc<AtomicUsize>>,
    /// Panics thrown on purpose.
    pub panics: u64,
    pub wrong: Vec<String>,
    pub census: Census,
    /// How many events came.
    pub told: u64,
    /// How many sends were tried; each payload is another.
    pub sends: u64,
}

/// One connection.
pub struct Known {
    pub stage: Stage,
    /// Whose it is, from OPEN on.
    pub client: Option<usize>,
    /// How many messages came.
    pub heard: usize,
    /// What was sent in callbacks and taken, in order.
    pub sent: Vec<Said>,
    /// What other threads tried to send, in order.
    pub sent_from_afar: Vec<Vec<u8>>,
    /// Every word that was ever kept with it.
    words: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// A word was given to it, but nothing was told of it.
    New,
    Asked,
    Open,
    Closed,
}

/// How often it does what, in a thousand events.
#[derive(Default)]
pub struct Habits {
    wants_upgrade: bool,
    rejects: u32,
    decides_later: u32,
    echoes: u32,
    sends_to_others: u32,
    floods: u32,
    pings: u32,
    pauses: u32,
    keeps_events: u32,
    frees: u32,
    keeps_words: u32,
    joins: u32,
    leaves: u32,
    publishes: u32,
    closes: u32,
    aborts: u32,
    panics: u32,
    stops: u32,
}

impl Habits {
    pub fn new(dice: &mut Dice, plan: &Plan, wants_upgrade: bool) -> Self {
        let mut rate = |choices: &[u32]| *dice.pick(choices);
        let polite = Self {
            wants_upgrade,
            decides_later: rate(&[0, 500, 1000]),
            echoes: rate(&[500, 1000, 1000]),
            sends_to_others: rate(&[0, 100, 500]),
            pings: rate(&[0, 50]),
            pauses: rate(&[0, 0, 100]),
            keeps_events: rate(&[0, 0, 300, 1000]),
            frees: rate(&[0, 300]),
            keeps_words: rate(&[0, 100, 500]),
            joins: rate(&[0, 300, 1000]),
            leaves: rate(&[0, 100, 300]),
            publishes: rate(&[0, 50, 200]),
            ..Self::default()
        };
        if plan.is_peaceful {
            return polite;
        }
        Self {
            rejects: rate(&[0, 200]),
            floods: rate(&[0, 0, 200]),
            closes: rate(&[0, 0, 20, 200]),
            aborts: rate(&[0, 0, 0, 10, 100]),
            panics: rate(&[0, 0, 0, 30]),
            stops: rate(&[0, 0, 0, 0, 3]),
            ..polite
        }
    }
}

impl Shared {
    pub fn open(&self) -> impl Iterator<Item = (ConnId, &Known)> {
        self.connections
            .iter()
            .filter(|(_, known)| known.stage == Stage::Open)
            .map(|(id, known)| (*id, known))
    }

    /// The connection of a client, if it ever opened.
    pub fn of_client(&self, client: usize) -> Option<(ConnId, &Known)> {
        self.connections
            .iter()
            .find(|(_, known)| known.client == Some(client))
            .map(|(id, known)| (*id, known))
    }

    /// A connection that is there, was there, or never was.
    pub fn any_id(&self, dice: &mut Dice) -> Option<ConnId> {
        let index = dice.below(self.connections.len() + 1);
        Some(self.connections.keys().nth(index).copied().unwrap_or_else(nobody))
            .filter(|_| !self.connections.is_empty())
    }

    /// A word to be kept with a connection, and released once.
    pub fn new_word(&mut self, conn: ConnId) -> UserData {
        let releases = Arc::new(AtomicUsize::new(0));
        self.releases.push(releases.clone());
        let word = self.releases.len();
        self.known(conn).words.push(word);
        scene::counted(word, &releases)
    }

    /// Before a turn.
    pub fn note_crowded(&mut self) {
        let has_too_much = |conn: &ConnId| {
            let entry = self.table.find(*conn);
            entry.is_some_and(|(entry, _)| entry.get().has_too_much_unread())
        };
        let crowded = self.open().map(|(conn, _)| conn).filter(has_too_much).collect();
        self.crowded = crowded;
        self.census.crowded += self.crowded.len() as u64;
    }

    /// Frees some of the events that it keeps, as `Server::freed` does it.
    pub fn free_some(&mut self) {
        for _ in 0..self.dice.unevenly_up_to(self.unread.len()).min(self.unread.len()) {
            let (conn, len) = self.unread.swap_remove(self.dice.below(self.unread.len()));
            let Some((entry, _)) = self.table.find(conn) else { continue };
            if entry.get().take_unread(conn, len, self.unread_max) {
                self.read_on.push(conn);
            }
        }
    }

    /// As `Server::send` does it: counted first, then posted.
    pub fn send_from_afar(&mut self, conn: ConnId) -> Option<Command> {
        let (entry, life) = self.table.find(conn)?;
        if life != Life::Open {
            return None;
        }
        self.sends += 1;
        let payload = format!("afar {} to {conn}", self.sends).into_bytes();
        let wish = *self.dice.pick(&[Wish::Auto, Wish::Auto, Wish::Compressed, Wish::Plain]);
        let (entry, len) = (entry.get(), charge(payload.len()));
        let waiting = entry.add_to_mailbox(conn, len)?;
        if waiting + entry.outbox_bytes.get() > self.limit_bytes {
            entry.take_from_mailbox(conn, len);
            return None;
        }
        self.known(conn).sent_from_afar.push(payload.clone());
        Some(Command::Send { conn, kind: Kind::Text, payload, last: true, wish })
    }

    pub fn any_topic(dice: &mut Dice) -> &'static str {
        dice.pick::<&'static str>(&TOPICS)
    }

    /// As `Server::subscribe` does it. What the shard must be told is given back.
    pub fn join(&mut self, conn: ConnId, topic: &'static str) -> Result<Option<Command>, String> {
        let Some((entry, life)) = self.table.find(conn) else { return Ok(None) };
        let change = self.topics.subscribe(conn, entry.get(), topic.as_bytes(), TOPICS_MAX);
        let members = self.members.entry(topic).or_default();
        match change {
            Err(_) if life != Life::Open => Ok(None),
            Err(Misuse::Limit) => Ok(None),
            Ok(None) if members.contains(&conn) => Ok(None),
            Ok(Some(change)) if life == Life::Open && members.insert(conn) => {
                match change.subscribers == members.len() as u64 {
                    true => Ok(Some(Command::TellChanges)),
                    false => Err(format!("{} are in a topic of {}", change.subscribers, members.len())),
                }
            }
            change => Err(format!("{conn:?} is {life:?} and joins {topic}: {:?}", change.map(|_| ()))),
        }
    }

    /// As `Server::unsubscribe` does it.
    pub fn leave(&mut self, conn: ConnId, topic: &'static str) -> Result<Vec<Command>, String> {
        let Some((entry, life)) = self.table.find(conn) else { return Ok(Vec::new()) };
        if life == Life::Closed {
            return Ok(Vec::new());
        }
        let members = self.members.entry(topic).or_default();
        let was_in = members.remove(&conn);
        let Some((change, place)) = self.topics.unsubscribe(conn, entry.get(), topic.as_bytes()) else {
            return if was_in { Err(format!("{conn:?} was in {topic} and was not")) } else { Ok(Vec::new()) };
        };
        if !was_in || change.subscribers != members.len() as u64 {
            return Err(format!("{conn:?} was not in {topic}, and has left it"));
        }
        let last = place.map(|place| Command::Leave { topic: change.topic, place });
        Ok(last.into_iter().chain([Command::TellChanges]).collect())
    }

    /// As `Server::publish` does it, in a turn or from another thread, and remembers who it was
    /// taken for.
    pub fn publish(&mut self, topic: &'static str, is_afar: bool) -> Result<Vec<Command>, String> {
        self.sends += 1;
        let from = if is_afar { "afar publishes" } else { "callback publishes" };
        let text = format!("{from} {} {}", self.sends, "~".repeat(self.dice.unevenly_up_to(100)));
        let message = Arc::new(Message::new(Kind::Text, text.as_bytes()).expect("a good message"));
        let wish = *self.dice.pick(&[Wish::Auto, Wish::Auto, Wish::Compressed, Wish::Plain]);
        let members: Vec<_> = self.members.entry(topic).or_default().iter().copied().collect();
        let skipped = *self.dice.pick(&[&[ConnId::NONE], &members[..]].concat());
        let waiting =
            |conn: ConnId| self.table.find(conn).map_or(0, |(entry, _)| entry.get().mailbox_bytes());
        let before: Vec<_> = members.iter().map(|&conn| waiting(conn)).collect();
        let own = if is_afar { None } else { Some(self.tables.len() - 1) };
        let around = Surroundings { tables: &self.tables, limits: &self.send, own };
        let mut commands = Vec::new();
        let outcomes =
            self.topics.publish(topic.as_bytes(), &message, wish, skipped, &around, |_, command| {
                commands.push(command);
                true
            });
        let after: Vec<_> = members.iter().map(|&conn| waiting(conn)).collect();
        let mut taken = 0;
        for (conn, (before, after)) in members.into_iter().zip(before.into_iter().zip(after)) {
            if before == after {
                continue;
            }
            taken += 1;
            if conn == skipped || after != before + charge(text.len()) {
                return Err(format!("{conn:?} counts {after} after {before} and {} more", text.len()));
            }
            match is_afar {
                true => self.known(conn).sent_from_afar.push(text.clone().into_bytes()),
                false => self.known(conn).sent.push((Kind::Text, text.clone().into_bytes())),
            }
        }
        self.census.published += taken;
        match outcomes.queued + outcomes.high_water == taken {
            true => Ok(commands),
            false => Err(format!("{taken} get what was published, and not {outcomes:?}")),
        }
    }

    /// Hixie has none; `Server::ping` refuses them.
    pub fn has_pings(&self, conn: ConnId) -> bool {
        self.table.find(conn).is_some_and(|(entry, _)| entry.get().dialect().wire_form() == WireForm::HyBi)
    }

    fn known(&mut self, conn: ConnId) -> &mut Known {
        self.connections.entry(conn).or_insert_with(|| Known {
            stage: Stage::New,
            client: None,
            heard: 0,
            sent: Vec::new(),
            sent_from_afar: Vec::new(),
            words: Vec::new(),
        })
    }

    fn hits(&mut self, habit: impl Fn(&Habits) -> u32) -> bool {
        let rate = habit(&self.habits);
        self.dice.hits(rate)
    }

    /// Can this be true?
    fn check(&mut self, event: &EventView<'_>) -> Result<(), String> {
        let conn = event.conn;
        if conn == ConnId::NONE {
            return Ok(());
        }
        let was_read = matches!(event.kind, EventKind::Message(_) | EventKind::Ping | EventKind::Pong { .. });
        if was_read && self.crowded.contains(&conn) {
            return Err(format!("{conn:?} is read although too much of it is unread"));
        }
        let asks = self.habits.wants_upgrade;
        let known = self.known(conn);
        let before = known.stage;
        let (allowed, after) = match event.kind {
            EventKind::Upgrade => (before == Stage::New && asks, Stage::Asked),
            EventKind::Open => (before == if asks { Stage::Asked } else { Stage::New }, Stage::Open),
            EventKind::Close { .. } => (before == Stage::Open, Stage::Closed),
            _ => (before == Stage::Open, Stage::Open),
        };
        if !allowed {
            return Err(format!("{conn:?} is told {:?} when it is {before:?}", event.kind));
        }
        known.stage = after;
        if event.word != 0 && !known.words.contains(&event.word) {
            return Err(format!("{conn:?} has the word {} of another", event.word));
        }
        if event.word != 0 && self.releases[event.word - 1].load(SeqCst) > 0 {
            return Err(format!("{conn:?} shows the word {}, which was released", event.word));
        }
        if let EventKind::Topic { joined, .. } = event.kind {
            let place = (conn, event.payload.to_vec());
            let is_news =
                if joined { self.told_members.insert(place) } else { self.told_members.remove(&place) };
            if !is_news {
                return Err(format!("{conn:?} is told twice to have joined a topic or left it"));
            }
        }
        if let EventKind::Close { .. } = event.kind {
            if self.told_members.iter().any(|(member, _)| *member == conn) {
                return Err(format!("{conn:?} is told to have joined a topic, and never to have left it"));
            }
        }
        match event.kind {
            EventKind::Open => self.opened(conn),
            EventKind::Message(kind) => self.heard(conn, kind, event.payload),
            EventKind::Drain => {
                self.census.drains += 1;
                Ok(())
            }
            EventKind::Close { by, .. } => {
                self.census.closed_by[by as usize] += 1;
                let is_in = |topics: &BTreeMap<_, BTreeSet<ConnId>>| {
                    topics.values().any(|members| members.contains(&conn))
                };
                match is_in(&self.members) || is_in(&self.leaving) {
                    true => Err(format!("{conn:?} is closed and has not left all its topics")),
                    false => Ok(()),
                }
            }
            EventKind::Topic { joined: false, .. } => {
                let topic = TOPICS.into_iter().find(|topic| topic.as_bytes() == event.payload);
                let topic = topic.ok_or("a topic that nobody was in")?;
                if self.table.find(conn).is_none_or(|(_, life)| life == Life::Closed) {
                    // It has left all of them at once; each is told.
                    for (topic, members) in &mut self.members {
                        if members.remove(&conn) {
                            self.leaving.entry(topic).or_default().insert(conn);
                        }
                    }
                    self.leaving.entry(topic).or_default().remove(&conn);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn opened(&mut self, conn: ConnId) -> Result<(), String> {
        self.census.opened += 1;
        let pending = self.table.request(conn).ok_or_else(|| format!("the request of {conn:?} is gone"))?;
        let path = pending.get(":path").map(|path| String::from_utf8_lossy(&path).into_owned());
        let client = path.and_then(|path| path.strip_prefix("/client/")?.parse().ok());
        let client: usize = client.ok_or_else(|| format!("{conn:?} asked for nothing that was asked for"))?;
        if let Some((other, _)) = self.of_client(client) {
            return Err(format!("{conn:?} is client {client}, and so is {other:?}"));
        }
        self.known(conn).client = Some(client);
        Ok(())
    }

    fn heard(&mut self, conn: ConnId, kind: Kind, payload: &[u8]) -> Result<(), String> {
        self.census.messages += 1;
        let known = self.known(conn);
        let (client, index) = (known.client.expect("it is open"), known.heard);
        known.heard += 1;
        match self.said[client].get(index) {
            Some((said_kind, said)) if *said_kind == kind && said == payload => Ok(()),
            said => {
                let shown = String::from_utf8_lossy(&payload[..payload.len().min(40)]);
                Err(format!("{conn:?} said {:?} and not {kind:?} {shown:?}", said.map(|(kind, _)| kind)))
            }
        }
    }

    /// Sends, and remembers what was taken.
    fn send(&mut self, turn: &mut Turn<'_>, conn: ConnId, kind: Kind, payload: &[u8]) -> Result<(), String> {
        let wish = *self.dice.pick(&[Wish::Auto, Wish::Auto, Wish::Compressed, Wish::Plain]);
        let answer = match self.dice.hits(200) {
            true => Message::new(kind, payload).and_then(|message| turn.send_message(conn, &message, wish)),
            false => turn.send_as(conn, kind, payload, true, wish),
        };
        self.kernel.note(|| format!("  sends {} to {conn:?}: {answer:?}", payload.len()));
        if let (Ok(_), Some((entry, _))) = (&answer, self.table.find(conn)) {
            let queued = entry.get().queued_bytes();
            if queued > self.limit_bytes + CONTROL_BYTES_MAX {
                return Err(format!("{queued} bytes are queued for {conn:?}"));
            }
        }
        let known = self.known(conn);
        match answer {
            Ok(_) if known.stage != Stage::Open => {
                // OPEN may be told only after this event; then it is open already.
                if known.stage == Stage::Closed {
                    return Err(format!("a message is taken for {conn:?}, which is closed"));
                }
                known.sent.push((kind, payload.to_vec()));
            }
            Ok(_) => known.sent.push((kind, payload.to_vec())),
            Err(Misuse::NoMemory | Misuse::NotUtf8 | Misuse::Stopped) => {
                return Err(format!("a send to {conn:?} is refused with {answer:?}"));
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn react(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) -> Result<(), String> {
        let conn = event.conn;
        if self.hits(|habits| habits.panics) {
            self.panics += 1;
            self.kernel.note(|| "  panics".to_string());
            resume_unwind(Box::new("thrown by the test"));
        }
        if event.kind == EventKind::Upgrade {
            if self.hits(|habits| habits.rejects) {
                turn.obey(rejection(conn));
            } else if self.hits(|habits| habits.decides_later) {
                self.undecided.push(conn);
            } else {
                turn.obey(acceptance(conn));
            }
        }
        if let EventKind::Message(kind) = event.kind {
            if self.hits(|habits| habits.echoes) {
                self.send(turn, conn, kind, event.payload)?;
            }
        }
        if self.hits(|habits| habits.sends_to_others) {
            let mut dice = Dice::new(self.dice.roll());
            if let Some(other) = self.any_id(&mut dice) {
                self.sends += 1;
                let text = format!("callback {} to {other}", self.sends);
                self.send(turn, other, Kind::Text, text.as_bytes())?;
            }
        }
        if self.hits(|habits| habits.floods) {
            for _ in 0..self.dice.unevenly_up_to(50) {
                self.sends += 1;
                let text = format!("flood {} {}", self.sends, "~".repeat(self.dice.unevenly_up_to(3000)));
                self.send(turn, conn, Kind::Text, text.as_bytes())?;
            }
        }
        // What is done to the connection itself may also be done to another.
        let target = if self.dice.hits(800) {
            conn
        } else {
            let mut dice = Dice::new(self.dice.roll());
            self.any_id(&mut dice).unwrap_or(conn)
        };
        let topic = Self::any_topic(&mut Dice::new(self.dice.roll()));
        // Or one change would make another for ever.
        let may_change = !matches!(event.kind, EventKind::Topic { .. }) || self.dice.hits(100);
        if may_change && self.hits(|habits| habits.joins) {
            if let Some(command) = self.join(target, topic)? {
                turn.obey(command);
            }
        }
        if self.hits(|habits| habits.publishes) {
            for command in self.publish(topic, false)? {
                turn.obey(command);
            }
        }
        if may_change && self.hits(|habits| habits.leaves) {
            for command in self.leave(target, topic)? {
                turn.obey(command);
            }
        }
        if self.hits(|habits| habits.keeps_words) {
            let data = self.new_word(target);
            turn.obey(Command::SetData { conn: target, data });
        }
        if self.hits(|habits| habits.pings) && self.has_pings(target) {
            turn.obey(scene::ping(target, b"from the embedder"));
        }
        if self.hits(|habits| habits.pauses) {
            self.paused.push(target);
            turn.obey(Command::SetPaused { conn: target, paused: true });
        }
        if self.hits(|habits| habits.closes) {
            turn.obey(scene::close(target, 4001, "enough"));
        }
        if self.hits(|habits| habits.aborts) {
            turn.obey(scene::abort(target));
        }
        if self.hits(|habits| habits.stops) {
            turn.obey(scene::stop(Duration::ZERO, STOP_DEADLINE));
        }
        Ok(())
    }
}

impl Handler for Embedder {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        let mut shared = self.0.borrow_mut();
        let shared = &mut *shared;
        shared.told += 1;
        shared.kernel.note(|| format!("{:?}: {:?}, {} bytes", event.conn, event.kind, event.payload.len()));
        if let Err(wrong) = shared.check(event) {
            shared.wrong.push(wrong);
            return;
        }
        if event.conn != ConnId::NONE && shared.hits(|habits| habits.keeps_events) {
            let len = event.payload.len() + 64;
            turn.count_unread(event.conn, len);
            shared.unread.push((event.conn, len));
        }
        if shared.hits(|habits| habits.frees) {
            shared.free_some();
        }
        // A panic at the news of a panic is one that is counted and not told.
        if event.conn != ConnId::NONE || event.kind == EventKind::Fault {
            if let Err(wrong) = shared.react(turn, event) {
                shared.wrong.push(wrong);
            }
        }
    }
}

pub fn acceptance(conn: ConnId) -> Command {
    Command::Accept { conn, protocol: None, headers: String::new() }
}

pub fn rejection(conn: ConnId) -> Command {
    Command::Answer { conn, status: 403, headers: String::new(), body: b"no".to_vec() }
}

pub const TOPICS: [&str; 3] = ["news", "sports", "weather"];
/// Of one connection.
const TOPICS_MAX: usize = 2;
/// What may be queued on top of `send.limit` after a send: its head, and Pings since the last.
const CONTROL_BYTES_MAX: u64 = 500;
pub const STOP_DEADLINE: Duration = Duration::from_secs(2);
