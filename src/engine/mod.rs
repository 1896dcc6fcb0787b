//! Many conversations: the connections of one shard, their outboxes, timers and events.
//!
//! Pure: the driver's completions and the time come in, events and writes go out, in turns of
//! `receive`, `deliver` and `flush`. Nothing is done directly in reaction to a completion that
//! a callback could see half done.

pub mod connection;
mod ending;
pub mod event;
mod identity;
pub mod limits;
mod opening;
pub mod plain;
mod publishing;
mod receiving;
pub mod routes;
mod sealed;
pub mod submitted;
pub mod table;
mod timeouts;
pub mod timers;
pub mod topics;
pub mod turn;
mod writing;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::config::{SendLimits, Settings, WhenFull};
use crate::driver::outbox::Spares;
use crate::driver::{Completion, Driver, Sent};
use crate::id::{ConnId, Slot, Time};
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::protocol::deflate::{Deflaters, Inflation, Wish};
use crate::protocol::frame::Opcode;
use crate::protocol::{Control, Kind};
use crate::tls::Acceptor;
use connection::{Asked, Connection, Flags, Release, Stage, UserData};
use ending::{Ending, Stopping};
use event::{Body, ClosedBy, Event, EventKind};
use limits::Gate;
use plain::{Pages, Reply};
use receiving::Aside;
use routes::{Route, Routes};
use submitted::Submitted;
use table::{CHUNK_SLOTS, Chunk, Entry, Life, Table};
use timers::Timers;
use topics::{Found, Place, Publication, Topic, Topics, Untold};
use turn::{EventView, Handler, Message, Turn};
use writing::Outgoing;

/// The connections of one shard.
pub struct Engine {
    shard: u8,
    settings: Arc<Settings>,
    routes: Arc<Routes>,
    table: Arc<Table>,
    topics: Arc<Topics>,
    gate: Arc<Gate>,
    pages: Arc<dyn Pages>,
    acceptor: Arc<Acceptor>,
    /// The shard's own way to the table, without its lock.
    entries: Vec<Arc<Chunk>>,
    connections: Vec<Connection>,
    /// Slots to give out again, oldest first.
    free: VecDeque<Slot>,
    live: usize,
    /// Of those, the ones whose request is not whole yet.
    asking: usize,
    /// Of those, the ones that the gate did not let in.
    refused_at_gate: usize,
    generation_seed: u32,
    timers: Timers,
    /// Whose time has come, as far as this turn and those before had no room for them.
    due: Vec<Slot>,
    spares: Spares,
    events: VecDeque<Event>,
    /// What is to be told before the CLOSE that is among them.
    last_changes: HashMap<ConnId, Vec<Untold>>,
    /// Connections that the flush must look at.
    dirty: Vec<Slot>,
    /// How many of those were looked at in this flush.
    flushed: usize,
    /// Sends made together whose outcome is not in the outboxes yet.
    sent: Vec<Sent>,
    /// Connections that have more to write, or more requests to answer, than one turn's share.
    unfinished: Vec<Slot>,
    /// Replies of this turn that another request has followed.
    replies_in_turn: usize,
    /// Writes of this turn that came from a download.
    downloads_in_turn: usize,
    /// Answers of this turn to a client's hello, and who waits for the next turn's.
    handshakes_in_turn: usize,
    postponed: VecDeque<ConnId>,
    /// Ends that wait until the embedder has seen what came before them.
    endings: Vec<(Slot, Ending)>,
    /// Connections whose bytes wait for a turn with inflating to spare.
    holding: VecDeque<Slot>,
    inflation: Inflation,
    deflaters: Deflaters,
    /// Memory for the driver to read long frames into.
    lent: Vec<(Slot, Buffer, usize)>,
    /// Of a command that is being obeyed: what a panic leaves of it is obeyed all the same.
    submitted: Option<Submitted>,
    /// Topics with something for this shard, how much they ever had, and what of it is on its way into
    /// the outboxes.
    publishing: VecDeque<Arc<Topic>>,
    published: u64,
    found: Found,
    /// By slot, what must happen when its word is no longer needed; as long as the last that ever
    /// had any.
    releases: Vec<Option<Box<dyn Release>>>,
    /// The embedder's words that are not needed any more.
    discarded: Vec<(ConnId, Box<dyn Release>)>,
    stopping: Option<Stopping>,
    now: Time,
    turns: u64,
    /// When there last was something to write, and is memory for it kept?
    busy_at: Time,
    has_spares: bool,
    /// The connection being worked on, should a panic have to be somebody's.
    current: Option<Slot>,
    /// The embedder is being told of a panic.
    telling_fault: bool,
    scratch: Scratch,
}

/// Lists kept between turns for their memory.
#[derive(Default)]
struct Scratch {
    asides: Vec<Aside>,
    piece: Vec<u8>,
    /// What TLS has opened, and what it has to say itself.
    plain: Vec<u8>,
    sealed: Vec<u8>,
    deflated: Buffer,
}

/// What a thread asks of a connection's shard. Everything that can be checked without the
/// shard was checked before.
pub enum Command {
    Send {
        conn: ConnId,
        kind: Kind,
        payload: Vec<u8>,
        /// No fragment of the same message follows.
        last: bool,
        wish: Wish,
    },
    SendMany(Submitted),
    SendMessage {
        conn: ConnId,
        message: Arc<Message>,
        wish: Wish,
    },
    Close {
        conn: ConnId,
        frame: Box<CloseFrame>,
    },
    Abort {
        conn: ConnId,
        by: ClosedBy,
    },
    Ping {
        conn: ConnId,
        payload: Box<Control>,
    },
    SetPaused {
        conn: ConnId,
        paused: bool,
    },
    /// The embedder has freed enough of what it polled.
    ReadOn {
        conn: ConnId,
    },
    SetData {
        conn: ConnId,
        data: UserData,
    },
    Accept {
        conn: ConnId,
        protocol: Option<String>,
        headers: String,
    },
    Answer {
        conn: ConnId,
        status: u16,
        headers: String,
        body: Vec<u8>,
    },
    /// To all who are in a topic, and were then.
    Publish {
        topic: Arc<Topic>,
        publication: Box<Publication>,
    },
    /// Somebody has left a topic: what was published before that goes out, then it is over.
    Leave {
        topic: Arc<Topic>,
        place: Place,
    },
    /// Somebody has come to a topic or gone.
    TellChanges,
    Stop {
        frame: Box<CloseFrame>,
        spread: Duration,
        deadline: Duration,
    },
    /// Someone waits for DRAIN.
    Look {
        conn: ConnId,
    },
    /// Options have changed.
    Apply(Arc<Settings>),
    Tell(Event),
}

impl Command {
    /// What follows when a connection had no room for a message.
    pub fn for_full(conn: ConnId, limits: &SendLimits, is_first: bool) -> Option<Self> {
        match limits.full {
            WhenFull::Close => Some(Self::Abort { conn, by: ClosedBy::Limit }),
            // The shard may have drained it all before it could see the wish.
            WhenFull::Drop => is_first.then_some(Self::Look { conn }),
        }
    }
}

/// What an engine is made of.
pub struct Parts {
    pub shard: u8,
    pub settings: Arc<Settings>,
    pub routes: Arc<Routes>,
    pub table: Arc<Table>,
    /// The same for all shards of a server.
    pub topics: Arc<Topics>,
    pub gate: Arc<Gate>,
    pub pages: Arc<dyn Pages>,
    pub acceptor: Arc<Acceptor>,
    /// Different for each server of a process.
    pub generation_seed: u32,
}

impl Engine {
    pub fn new(parts: Parts, now: Time) -> Self {
        Self {
            shard: parts.shard,
            settings: parts.settings,
            routes: parts.routes,
            table: parts.table,
            topics: parts.topics,
            gate: parts.gate,
            pages: parts.pages,
            acceptor: parts.acceptor,
            entries: Vec::new(),
            connections: Vec::new(),
            free: VecDeque::new(),
            live: 0,
            asking: 0,
            refused_at_gate: 0,
            generation_seed: parts.generation_seed,
            timers: Timers::new(now),
            due: Vec::new(),
            spares: Spares::default(),
            events: VecDeque::new(),
            last_changes: HashMap::new(),
            dirty: Vec::new(),
            flushed: 0,
            sent: Vec::new(),
            unfinished: Vec::new(),
            replies_in_turn: 0,
            downloads_in_turn: 0,
            handshakes_in_turn: 0,
            postponed: VecDeque::new(),
            endings: Vec::new(),
            holding: VecDeque::new(),
            inflation: Inflation::default(),
            deflaters: Deflaters::default(),
            lent: Vec::new(),
            submitted: None,
            publishing: VecDeque::new(),
            published: 0,
            found: Found::default(),
            releases: Vec::new(),
            discarded: Vec::new(),
            stopping: None,
            now,
            turns: 0,
            busy_at: now,
            has_spares: false,
            current: None,
            telling_fault: false,
            scratch: Scratch::default(),
        }
    }

    /// When the next turn must begin at the latest.
    pub fn next_deadline(&self) -> Time {
        let is_behind = !self.unfinished.is_empty()
            || !self.holding.is_empty()
            || !self.postponed.is_empty()
            || !self.due.is_empty()
            || self.is_publishing();
        if !self.events.is_empty() || !self.discarded.is_empty() || is_behind {
            return self.now;
        }
        let good_byes = match &self.stopping {
            Some(stopping) => {
                let next = stopping.pending.front().map_or(Time::NEVER, |(at, _)| *at);
                next.min(stopping.asking_until).min(stopping.deadline)
            }
            None => Time::NEVER,
        };
        let quiet_at = if self.has_spares { self.busy_at.after(QUIET_TIME) } else { Time::NEVER };
        self.timers.next().min(good_byes).min(quiet_at)
    }

    /// The time of this turn.
    pub fn begin_turn(&mut self, now: Time) {
        self.now = now;
        self.turns += 1;
        (self.replies_in_turn, self.downloads_in_turn, self.handshakes_in_turn) = (0, 0, 0);
        self.inflation.begin_turn();
        if !self.unfinished.is_empty() {
            // In their order, so that who had no share last time is the first.
            let mut unfinished = std::mem::take(&mut self.unfinished);
            for slot in unfinished.drain(..) {
                self.mark_dirty(slot);
            }
            self.unfinished = unfinished;
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub fn live_connections(&self) -> usize {
        self.live
    }

    /// After a stop: is there nothing left to do?
    pub fn is_finished(&self) -> bool {
        self.stopping.is_some() && self.live == 0 && self.events.is_empty() && self.discarded.is_empty()
    }

    /// receive: what the driver read becomes events.
    pub fn receive(&mut self, completions: &mut Vec<Completion>, arena: &mut [u8]) {
        if !self.holding.is_empty() {
            self.receive_held();
        }
        if !self.postponed.is_empty() {
            self.resume_handshakes();
        }
        // Taken from the back so that after a panic the rest is still there.
        completions.reverse();
        while let Some(completion) = completions.pop() {
            match completion {
                Completion::Received { slot, start, len } => {
                    self.current = Some(slot);
                    self.received(slot, start, &mut arena[start..start + len]);
                }
                Completion::Filled { slot, buffer, len } => {
                    self.current = Some(slot);
                    self.filled(slot, buffer, len);
                }
                Completion::Sendable { slot } => {
                    self.current = Some(slot);
                    if let Some(outbox) = &mut self.connections[slot as usize].outbox {
                        outbox.is_blocked = false;
                    }
                    self.mark_dirty(slot);
                }
                Completion::Finished { slot } => {
                    self.current = Some(slot);
                    self.peer_finished(slot);
                }
                Completion::Failed { slot, error } => {
                    self.current = Some(slot);
                    self.broken(slot, error);
                }
            }
        }
        self.current = None;
    }

    /// What became due since the last turn.
    pub fn handle_timeouts(&mut self) {
        if self.has_spares && self.now >= self.busy_at.after(QUIET_TIME) {
            self.spares.clear();
            self.inflation = Inflation::default();
            self.deflaters = Deflaters::default();
            self.scratch.deflated = Buffer::default();
            self.events.shrink_to(EVENTS_KEPT);
            (self.scratch.plain, self.scratch.sealed) = (Vec::new(), Vec::new());
            self.has_spares = false;
        }
        if self.due.is_empty() {
            self.timers.expire(self.now, &mut self.due);
        }
        // Ten thousand that opened at once are pinged at once, and who speaks then shall not wait
        // for all of them.
        for _ in 0..TIMEOUTS_PER_TURN {
            let Some(slot) = self.due.pop() else { break };
            self.current = Some(slot);
            self.handle_timeout(slot);
        }
        self.current = None;
        if self.stopping.is_some() {
            self.say_good_byes();
        }
    }

    /// deliver: the embedder sees, and sends. Nothing of the engine is borrowed while it does
    /// but through the turn.
    pub fn deliver(&mut self, arena: &[u8], handler: &mut impl Handler) {
        // Held by name, so that it stays where it is whatever is called.
        let inflated = self.inflation.memory.clone();
        let inflated = inflated.as_slice();
        loop {
            // Most are such, and need not be moved out of the list.
            if let Some(&Event { conn, kind: EventKind::Message(kind), body: Body::Arena { start, len } }) =
                self.events.front()
            {
                self.events.pop_front();
                self.deliver_message(conn, kind, &arena[start..start + len], None, arena, handler);
                continue;
            }
            let Some(mut event) = self.events.pop_front() else { break };
            if let EventKind::Message(kind) = event.kind {
                let shared = event.body.shared();
                let payload = event.body.as_slice(arena, inflated);
                self.deliver_message(event.conn, kind, payload, shared, arena, handler);
                if let Body::Shared(buffer) = event.body {
                    self.spares.release(buffer);
                }
                continue;
            }
            if event.conn == ConnId::NONE {
                if let Some(route) = self.routes.for_server() {
                    self.telling_fault = event.kind == EventKind::Fault;
                    self.hand_over(&event, route, arena, inflated, handler);
                    self.telling_fault = false;
                }
                continue;
            }
            let slot = event.conn.slot();
            let connection = &mut self.connections[slot as usize];
            if connection.id != event.conn {
                continue;
            }
            let is_told = match event.kind {
                EventKind::Close { .. } => {
                    entry_of(&self.entries, slot).set_life(event.conn.generation(), Life::Closed);
                    match self.leave_all(event) {
                        Some(close) => event = close,
                        // First that, each as an event of its own.
                        None => continue,
                    }
                    self.connections[slot as usize].flags.insert(Flags::CLOSE_DELIVERED);
                    let counters = &self.table.counters;
                    counters.closed.add(1);
                    counters.connections.set(counters.connections.get() - 1);
                    true
                }
                // A decision may have come, or the connection gone, before it was asked for.
                EventKind::Upgrade | EventKind::Http => matches!(connection.stage, Stage::Deciding(_)),
                // OPEN is told even when the connection ended meanwhile: CLOSE follows.
                EventKind::Open => true,
                // Who is told of a coming shall be told of the going, too.
                EventKind::Topic { .. } => !connection.flags.contains(Flags::CLOSE_DELIVERED),
                _ => connection.stage == Stage::Open,
            };
            let route = self.connections[slot as usize].route as usize;
            match event.kind {
                EventKind::Ping if is_told => self.answer_ping(slot, event.body.as_slice(arena, inflated)),
                EventKind::Pong { .. } if is_told => {
                    let rtt_us = self.ponged(slot, event.body.as_slice(arena, inflated));
                    event.kind = EventKind::Pong { rtt_us };
                }
                _ => {}
            }
            if is_told && self.wants(route, event.kind) {
                self.current = Some(slot);
                self.hand_over(&event, route, arena, inflated, handler);
                self.current = None;
            }
            match event.kind {
                EventKind::Open => self.table.forget_request(slot),
                EventKind::Close { .. } => {
                    // The stream may still be ending, but for the embedder it is over.
                    self.entry(slot).set_life(event.conn.generation(), Life::None);
                    self.vacate_if_over(slot);
                }
                _ => {}
            }
            if let Body::Shared(buffer) = event.body {
                self.spares.release(buffer);
            }
        }
        // One by one, so that a panic in one does not cost the others.
        while let Some((conn, word)) = self.discarded.pop() {
            handler.discard(conn, word);
        }
        handler.end();
    }

    /// The most frequent event, to whom it may still be told.
    #[inline]
    fn deliver_message(
        &mut self,
        conn: ConnId,
        kind: Kind,
        payload: &[u8],
        shared: Option<&Arc<Buffer>>,
        arena: &[u8],
        handler: &mut impl Handler,
    ) {
        let connection = &self.connections[conn.slot() as usize];
        let route = connection.route as usize;
        let Route { number, wants, .. } = self.routes.get(route);
        if connection.id != conn || !connection.stage.is_open() || !wants.message {
            return;
        }
        let view = EventView {
            conn,
            kind: EventKind::Message(kind),
            route,
            route_number: *number,
            word: connection.word,
            payload,
            time: self.now,
        };
        self.current = Some(conn.slot());
        let text = if kind == Kind::Text { payload } else { &[] };
        handler.handle(&mut Turn { engine: self, arena, shared, text }, &view);
        self.current = None;
    }

    /// flush: outboxes and decisions go to the kernel.
    pub fn flush<D: Driver>(&mut self, driver: &mut D, arena: &[u8]) {
        while let Some((slot, ending)) = self.endings.pop() {
            self.current = Some(slot);
            self.end(slot, ending);
        }
        for (slot, buffer, len) in self.lent.drain(..) {
            // Between lending and now the connection may have been closed.
            match self.connections[slot as usize].stage {
                Stage::Open | Stage::Closing(_) => driver.lend(slot, buffer, len),
                _ => self.spares.pool.give_back(buffer),
            }
        }
        if !self.dirty.is_empty() {
            self.busy_at = self.now;
            self.has_spares = true;
        }
        // What a panic has left.
        self.take_sent_together(driver);
        let (mut together_min, mut sent_ahead) = (driver.sends_together_min(), 0);
        // Ever the next: a flush can make others dirty, and after a panic this goes on.
        while let Some(&slot) = self.dirty.get(self.flushed) {
            if sent_ahead == 0 && self.dirty.len() - self.flushed >= together_min {
                sent_ahead = self.send_together(driver, arena, together_min);
                if sent_ahead == 0 {
                    together_min = usize::MAX;
                }
            }
            sent_ahead = sent_ahead.saturating_sub(1);
            self.flushed += 1;
            self.current = Some(slot);
            if !self.flush_short(slot, driver) {
                self.flush_connection(slot, driver, arena);
            }
        }
        self.dirty.clear();
        self.flushed = 0;
        self.current = None;
    }

    /// Everything that other threads ask; see [`Command`].
    pub fn obey(&mut self, command: Command) {
        match command {
            Command::Send { conn, kind, payload, last, wish } => {
                let payload = Arc::new(Buffer::from(payload));
                self.obey_send(conn, kind, &Outgoing::Shared(payload), last, wish);
            }
            Command::SendMany(submitted) => {
                self.submitted = Some(submitted);
                self.obey_submitted();
            }
            Command::SendMessage { conn, message, wish } => {
                self.obey_send(conn, message.kind, &Outgoing::Message(&message), true, wish);
            }
            Command::Close { conn, frame } => self.close(conn, *frame, ClosedBy::Host),
            Command::Abort { conn, by } => self.abort(conn, by),
            Command::Ping { conn, payload } => {
                if let Some(slot) = self.find(conn) {
                    self.push_control(slot, Opcode::Ping, payload.as_slice());
                }
                self.take_from_mailbox(conn, payload.as_slice().len());
            }
            Command::SetPaused { conn, paused } => {
                let Some(slot) = self.find(conn) else { return };
                let flags = &mut self.connections[slot as usize].flags;
                let was_paused = flags.contains(Flags::PAUSED);
                flags.set(Flags::PAUSED, paused);
                if was_paused && !paused {
                    self.read_on(slot);
                }
                self.mark_dirty(slot);
            }
            Command::ReadOn { conn } => {
                let Some(slot) = self.find(conn) else { return };
                // Since it was freed more may have come; then this will be asked again.
                let is_crowded = self.entry(slot).has_too_much_unread();
                if !is_crowded && self.connections[slot as usize].flags.take(Flags::CROWDED) {
                    self.connections[slot as usize].messaged_at = self.now;
                    self.read_on(slot);
                    self.mark_dirty(slot);
                }
            }
            Command::SetData { conn, data } => {
                let Some(slot) = self.find(conn) else {
                    return self.discarded.extend(data.release.map(|word| (conn, word)));
                };
                self.discard(conn);
                self.connections[slot as usize].word = data.word;
                if let Some(release) = data.release {
                    let len = self.releases.len().max(slot as usize + 1);
                    self.releases.resize_with(len, || None);
                    self.releases[slot as usize] = Some(release);
                }
            }
            Command::Accept { conn, protocol, headers } => {
                let Some(slot) = self.find(conn) else { return };
                let connection = &self.connections[slot as usize];
                let is_awaited = connection.stage == Stage::Deciding(Asked::Socket);
                if let Some(offer) = connection.protocol.offer().filter(|_| is_awaited) {
                    self.accept(slot, offer, protocol, &headers);
                }
            }
            Command::Answer { conn, status, headers, body } => {
                let Some(slot) = self.find(conn) else { return };
                let reply = Reply::new(status, headers, body);
                match self.connections[slot as usize].stage {
                    Stage::Deciding(Asked::Socket) => self.reject(slot, reply),
                    Stage::Deciding(Asked::Page) => self.reply(slot, reply),
                    _ => {}
                }
            }
            Command::Publish { topic, publication } => self.publish(topic, *publication),
            Command::Leave { topic, place } => self.leave(&topic, place),
            Command::TellChanges => self.tell_changes(),
            Command::Stop { frame, spread, deadline } => self.stop(*frame, spread, deadline),
            Command::Look { conn } => {
                if let Some(slot) = self.find(conn) {
                    self.mark_dirty(slot);
                }
            }
            Command::Apply(settings) => self.apply(settings),
            Command::Tell(event) => self.events.push_back(event),
        }
    }

    /// After a time in which a connection was not read.
    fn read_on(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if connection.is_held_off() {
            return;
        }
        if connection.stage == Stage::Open {
            if connection.pinged_at != Time::NEVER {
                // Its answer may lie unread in the kernel: it has its full time from now.
                connection.pinged_at = self.now;
            }
            self.rearm(slot);
        }
        self.release_held(slot);
    }

    /// A panic of ours costs one connection: the one that was being worked on.
    pub fn contain_panic(&mut self) {
        self.table.counters.faults.add(1);
        let text = match self.current.take() {
            Some(slot) if self.connections[slot as usize].stage != Stage::Vacant => {
                let frame = CloseFrame::new(CloseCode::INTERNAL_ERROR, "internal error");
                let id = self.connections[slot as usize].id;
                self.tell_close(slot, &frame, ClosedBy::Protocol);
                // It gets a last word; but if that, too, makes us panic, no more.
                let connection = &mut self.connections[slot as usize];
                let is_first = !connection.flags.contains(Flags::FAULTED);
                connection.flags.insert(Flags::FAULTED);
                if is_first && matches!(connection.stage, Stage::Open | Stage::Closing(_)) {
                    self.endings.push((slot, Ending::Finish(Some(frame))));
                } else {
                    self.set_stage(slot, Stage::Gone { reset: true });
                }
                format!("a panic was contained; it cost connection {id}")
            }
            _ => "a panic was contained".to_string(),
        };
        log::error!("{text}");
        // Who panics at the news of a panic is not told of that one, too: it would never end.
        if !std::mem::take(&mut self.telling_fault) {
            self.events.push_back(Event::of_server(EventKind::Fault, &text));
        }
    }

    #[inline]
    fn entry(&self, slot: Slot) -> &Entry {
        entry_of(&self.entries, slot)
    }

    /// The slot of a connection that the embedder may still act on.
    fn find(&self, conn: ConnId) -> Option<Slot> {
        let slot = conn.slot();
        let connection = self.connections.get(slot as usize)?;
        let is_there = connection.id == conn && !matches!(connection.stage, Stage::Vacant | Stage::Ended);
        is_there.then_some(slot)
    }

    fn wants(&self, route: usize, kind: EventKind) -> bool {
        let wants = &self.routes.get(route).wants;
        match kind {
            EventKind::Upgrade => wants.upgrade,
            EventKind::Open => wants.open,
            EventKind::Message(_) | EventKind::Fragment { .. } => wants.message,
            EventKind::Close { .. } => wants.close,
            EventKind::Drain => wants.drain,
            EventKind::Topic { .. } => wants.topic,
            _ => wants.other,
        }
    }

    fn hand_over(
        &mut self,
        event: &Event,
        route: usize,
        arena: &[u8],
        inflated: &[u8],
        handler: &mut impl Handler,
    ) {
        let word = match self.connections.get(event.conn.slot() as usize) {
            Some(connection) if event.conn != ConnId::NONE => connection.word,
            _ => 0,
        };
        let protocol;
        let payload = match event.kind {
            EventKind::Open => {
                protocol = self.table.protocol(event.conn);
                protocol.as_deref().unwrap_or_default().as_bytes()
            }
            _ => event.body.as_slice(arena, inflated),
        };
        let view = EventView {
            conn: event.conn,
            kind: event.kind,
            route,
            route_number: self.routes.get(route).number,
            word,
            payload,
            time: self.now,
        };
        handler.handle(&mut Turn { engine: self, arena, shared: event.body.shared(), text: &[] }, &view);
    }

    /// What the embedder keeps with this connection is not needed any more.
    fn discard(&mut self, conn: ConnId) {
        let release = self.releases.get_mut(conn.slot() as usize).and_then(Option::take);
        self.discarded.extend(release.map(|word| (conn, word)));
    }

    fn set_stage(&mut self, slot: Slot, stage: Stage) {
        self.change_stage(slot, stage);
        self.mark_dirty(slot);
    }

    /// Without a look at it in the flush.
    fn change_stage(&mut self, slot: Slot, stage: Stage) {
        let old = std::mem::replace(&mut self.connections[slot as usize].stage, stage);
        self.asking += usize::from(stage == Stage::Handshake);
        self.asking -= usize::from(old == Stage::Handshake);
    }

    #[inline]
    fn mark_dirty(&mut self, slot: Slot) {
        let flags = &mut self.connections[slot as usize].flags;
        if !flags.contains(Flags::DIRTY) {
            flags.insert(Flags::DIRTY);
            self.dirty.push(slot);
        }
    }
}

#[inline]
fn entry_of(entries: &[Arc<Chunk>], slot: Slot) -> &Entry {
    &entries[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
}

const EVENTS_KEPT: usize = 256;
const TIMEOUTS_PER_TURN: usize = 256;
/// Memory kept for traffic is freed after so long without any.
const QUIET_TIME: Duration = Duration::from_secs(5);
