//! Many conversations: the connections of one shard, their outboxes, timers and events.
//!
//! Pure: the driver's completions and the time come in, events and writes go out, in turns of
//! `receive`, `deliver` and `flush`. Nothing is done directly in reaction to a completion that
//! a callback could see half done.

pub mod connection;
pub mod event;
pub mod routes;
pub mod table;
pub mod timers;
pub mod turn;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use log::{debug, info, warn};

use crate::buffer::Buffer;
use crate::config::Settings;
use crate::driver::outbox::Spares;
use crate::driver::{Accepted, Completion, Driver};
use crate::id::{ConnId, Generation, SLOTS_MAX, Slot, Time};
use crate::protocol::close::{CloseCode, CloseFrame, Violation};
use crate::protocol::frame::{Opcode, ServerHead};
use crate::protocol::handshake::{self, Offer};
use crate::protocol::http::{self, Refusal, Request};
use crate::protocol::{Context, Control, Failure, Flow, Incoming, Kind, Payload};
use connection::{Connection, Flags, Release, Stage, UserData};
use event::{Body, ClosedBy, Event, EventKind};
use routes::Routes;
use table::{CHUNK_SLOTS, Chunk, Entry, Life, PendingRequest, Table};
use timers::Timers;
use turn::{EventView, Handler, Message, Turn};

/// The connections of one shard.
pub struct Engine {
    shard: u8,
    settings: Arc<Settings>,
    routes: Arc<Routes>,
    table: Arc<Table>,
    /// The shard's own way to the table, without its lock.
    entries: Vec<Arc<Chunk>>,
    connections: Vec<Connection>,
    /// Slots to give out again, oldest first.
    free: VecDeque<Slot>,
    live: usize,
    generation_seed: u32,
    timers: Timers,
    spares: Spares,
    events: VecDeque<Event>,
    /// Connections that the flush must look at.
    dirty: VecDeque<Slot>,
    /// Ends that wait until the embedder has seen what came before them.
    endings: Vec<(Slot, Ending)>,
    /// Memory for the driver to read long frames into.
    lent: Vec<(Slot, Buffer, usize)>,
    /// The embedder's words that are not needed any more.
    discarded: Vec<Box<dyn Release>>,
    stopping: Option<Stopping>,
    now: Time,
    turns: u64,
    /// When there last was something to write, and is memory for it kept?
    busy_at: Time,
    has_spares: bool,
    /// The connection being worked on, should a panic have to be somebody's.
    current: Option<Slot>,
    scratch: Scratch,
}

/// Lists kept between turns for their memory.
#[derive(Default)]
struct Scratch {
    due: Vec<Slot>,
    asides: Vec<Aside>,
}

/// What a received event asks of the connection besides being told.
enum Aside {
    Request { request: Arc<Request>, offer: Result<Offer, Refusal> },
    Opened { answer: [u8; 16] },
    Ponged(Control),
    Closed(CloseFrame),
}

/// How a connection ends once its events are delivered.
enum Ending {
    /// Say this (nothing, if the dialect or the moment has no last word), then end the stream.
    Finish(Option<CloseFrame>),
    /// The connection is broken: there is nobody to say anything to.
    Drop,
}

struct Stopping {
    frame: CloseFrame,
    deadline: Time,
    /// Open connections in the order of their good-bye.
    pending: VecDeque<(Time, ConnId)>,
    /// The turn of the last good-bye.
    spoke_in: u64,
}

/// What a thread asks of a connection's shard. Everything that can be checked without the
/// shard was checked before.
pub enum Command {
    Send { conn: ConnId, kind: Kind, payload: Vec<u8> },
    SendMessage { conn: ConnId, message: Arc<Message> },
    Close { conn: ConnId, frame: Box<CloseFrame> },
    Abort { conn: ConnId, by: ClosedBy },
    Ping { conn: ConnId, payload: Box<Control> },
    SetPaused { conn: ConnId, paused: bool },
    SetData { conn: ConnId, data: UserData },
    Accept { conn: ConnId, protocol: Option<String>, headers: String },
    Answer { conn: ConnId, status: u16, headers: String, body: Vec<u8> },
    Stop { frame: Box<CloseFrame>, spread: Duration, deadline: Duration },
    Tell(Event),
}

/// What an engine is made of.
pub struct Parts {
    pub shard: u8,
    pub settings: Arc<Settings>,
    pub routes: Arc<Routes>,
    pub table: Arc<Table>,
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
            entries: Vec::new(),
            connections: Vec::new(),
            free: VecDeque::new(),
            live: 0,
            generation_seed: parts.generation_seed,
            timers: Timers::new(now),
            spares: Spares::default(),
            events: VecDeque::new(),
            dirty: VecDeque::new(),
            endings: Vec::new(),
            lent: Vec::new(),
            discarded: Vec::new(),
            stopping: None,
            now,
            turns: 0,
            busy_at: now,
            has_spares: false,
            current: None,
            scratch: Scratch::default(),
        }
    }

    /// When the next turn must begin at the latest.
    pub fn next_deadline(&self) -> Time {
        if !self.events.is_empty() || !self.discarded.is_empty() {
            return self.now;
        }
        let good_byes = match &self.stopping {
            Some(stopping) => stopping.pending.front().map_or(stopping.deadline, |(at, _)| *at),
            None => Time::NEVER,
        };
        let quiet_at = if self.has_spares { self.busy_at.after(QUIET_TIME) } else { Time::NEVER };
        self.timers.next().min(good_byes).min(quiet_at)
    }

    /// The time of this turn.
    pub fn begin_turn(&mut self, now: Time) {
        self.now = now;
        self.turns += 1;
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

    /// Gives a new connection a slot, if one is to be had.
    pub fn admit<S>(&mut self, accepted: &Accepted<S>) -> Option<Slot> {
        if self.stopping.is_some() {
            return None;
        }
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None if self.connections.len() < SLOTS_MAX => self.new_slot(),
            None => return None,
        };
        let generation = match self.connections[slot as usize].id {
            ConnId::NONE => Generation::first(self.generation_seed),
            last => last.generation().next(),
        };
        let id = ConnId::new(self.shard, generation, slot);
        let deadline = self.now.after(self.settings.timeouts.handshake);
        self.connections[slot as usize] = Connection {
            id,
            stage: Stage::Handshake,
            deadline,
            heard_at: self.now,
            flags: Flags { reading: true, ..Flags::default() },
            ..Connection::vacant()
        };
        self.entry(slot).reset(generation, accepted.peer, accepted.local);
        self.timers.set(slot, deadline);
        self.live += 1;
        self.table.counters.accepted.add(1);
        Some(slot)
    }

    /// The driver could not take the connection.
    pub fn forget_unadopted(&mut self, slot: Slot) {
        self.connections[slot as usize].stage = Stage::Ended;
        self.timers.cancel(slot);
        self.vacate_if_over(slot);
    }

    /// receive: what the driver read becomes events.
    pub fn receive(&mut self, completions: &mut Vec<Completion>, arena: &mut [u8]) {
        // Taken from the back so that after a panic the rest is still there.
        completions.reverse();
        while let Some(completion) = completions.pop() {
            match completion {
                Completion::Received { slot, start, len } => {
                    self.current = Some(slot);
                    self.received(slot, Source::Arena { start }, &mut arena[start..start + len]);
                }
                Completion::Filled { slot, buffer, len } => {
                    self.current = Some(slot);
                    self.filled(slot, buffer, len);
                }
                Completion::Sendable { slot } => {
                    if let Some(outbox) = &mut self.connections[slot as usize].outbox {
                        outbox.is_blocked = false;
                    }
                    self.mark_dirty(slot);
                }
                Completion::Finished { slot } => self.peer_finished(slot),
                Completion::Failed { slot, error } => self.broken(slot, error),
            }
        }
        self.current = None;
    }

    /// What became due since the last turn.
    pub fn handle_timeouts(&mut self) {
        if self.has_spares && self.now >= self.busy_at.after(QUIET_TIME) {
            self.spares.clear();
            self.has_spares = false;
        }
        self.timers.expire(self.now, &mut self.scratch.due);
        while let Some(slot) = self.scratch.due.pop() {
            self.current = Some(slot);
            self.handle_timeout(slot);
        }
        self.current = None;
        self.say_good_byes();
    }

    /// deliver: the embedder sees, and sends. Nothing of the engine is borrowed while it does
    /// but through the turn.
    pub fn deliver(&mut self, arena: &[u8], handler: &mut impl Handler) {
        while let Some(event) = self.events.pop_front() {
            if event.conn == ConnId::NONE {
                if let Some(route) = self.routes.for_server() {
                    self.hand_over(&event, route, arena, handler);
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
                    connection.flags.close_delivered = true;
                    entry_of(&self.entries, slot).set_life(event.conn.generation(), Life::Closed);
                    true
                }
                // A decision may have come, or the connection gone, before it was asked for.
                EventKind::Upgrade | EventKind::Http => matches!(connection.stage, Stage::Deciding(_)),
                // OPEN is told even when the connection ended meanwhile: CLOSE follows.
                EventKind::Open => true,
                _ => connection.stage == Stage::Open,
            };
            let route = connection.route as usize;
            if is_told && event.kind == EventKind::Ping {
                self.answer_ping(slot, event.body.as_slice(arena));
            }
            if is_told && self.wants(route, event.kind) {
                self.current = Some(slot);
                self.hand_over(&event, route, arena, handler);
                self.current = None;
            }
            match event.kind {
                EventKind::Open => self.table.forget_request(slot),
                EventKind::Close { .. } => {
                    self.table.counters.closed.add(1);
                    self.table.counters.connections.set(self.table.counters.connections.get() - 1);
                    self.vacate_if_over(slot);
                }
                _ => {}
            }
            if let Body::Shared(buffer) = event.body {
                self.spares.release(buffer);
            }
        }
        for word in self.discarded.drain(..) {
            word.release();
        }
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
        while let Some(slot) = self.dirty.pop_front() {
            self.current = Some(slot);
            self.flush_connection(slot, driver, arena);
        }
        self.current = None;
    }

    /// Everything that other threads ask; see [`Command`].
    pub fn obey(&mut self, command: Command) {
        match command {
            Command::Send { conn, kind, payload } => {
                self.obey_send(conn, kind, Arc::new(Buffer::from(payload)));
            }
            Command::SendMessage { conn, message } => {
                self.obey_send(conn, message.kind, message.payload.clone());
            }
            Command::Close { conn, frame } => self.close(conn, *frame, ClosedBy::Host),
            Command::Abort { conn, by } => self.abort(conn, by),
            Command::Ping { conn, payload } => {
                let Some(slot) = self.find(conn) else { return };
                self.push_control(slot, Opcode::Ping, payload.as_slice());
            }
            Command::SetPaused { conn, paused } => {
                let Some(slot) = self.find(conn) else { return };
                self.connections[slot as usize].flags.paused = paused;
                self.mark_dirty(slot);
            }
            Command::SetData { conn, data } => {
                let old = match self.find(conn) {
                    Some(slot) => std::mem::replace(&mut self.connections[slot as usize].data, data),
                    None => data,
                };
                self.discarded.extend(old.release);
            }
            Command::Accept { conn, protocol, headers } => {
                let Some(slot) = self.find(conn) else { return };
                if let Stage::Deciding(Some(offer)) = self.connections[slot as usize].stage {
                    self.accept(slot, offer, protocol, &headers);
                }
            }
            Command::Answer { conn, status, headers, body } => {
                let Some(slot) = self.find(conn) else { return };
                let connection = &self.connections[slot as usize];
                if let Stage::Deciding(offer) = connection.stage {
                    if offer.is_some() {
                        self.table.counters.rejected.add(1);
                    }
                    let with_body = !connection.flags.head_only;
                    self.answer(slot, &http::response(status, &headers, "close", &body, with_body));
                }
            }
            Command::Stop { frame, spread, deadline } => self.stop(*frame, spread, deadline),
            Command::Tell(event) => self.events.push_back(event),
        }
    }

    /// A panic of ours costs one connection: the one that was being worked on.
    pub fn contain_panic(&mut self) {
        self.table.counters.faults.add(1);
        let text = match self.current.take() {
            Some(slot) if self.connections[slot as usize].stage != Stage::Vacant => {
                let frame = CloseFrame::new(CloseCode::INTERNAL_ERROR, "internal error");
                let id = self.connections[slot as usize].id;
                self.tell_close(slot, &frame, ClosedBy::Protocol);
                self.set_stage(slot, Stage::Gone { reset: true });
                format!("a panic was contained; it cost connection {id}")
            }
            _ => "a panic was contained".to_string(),
        };
        log::error!("{text}");
        self.events.push_back(Event::of_server(EventKind::Fault, &text));
    }

    // What follows is in the order of a connection's life.

    fn new_slot(&mut self) -> Slot {
        let slot = self.connections.len();
        if slot % CHUNK_SLOTS == 0 {
            self.entries.push(self.table.grow());
        }
        self.connections.push(Connection::vacant());
        slot as Slot
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
            EventKind::Message(_) => wants.message,
            EventKind::Close { .. } => wants.close,
            EventKind::Drain => wants.drain,
            _ => wants.other,
        }
    }

    #[inline]
    fn hand_over(&mut self, event: &Event, route: usize, arena: &[u8], handler: &mut impl Handler) {
        let word = match self.connections.get(event.conn.slot() as usize) {
            Some(connection) if event.conn != ConnId::NONE => connection.data.word,
            _ => 0,
        };
        let protocol;
        let (payload, shared) = match (&event.body, event.kind) {
            (_, EventKind::Open) => {
                protocol = self.table.protocol(event.conn);
                (protocol.as_deref().unwrap_or_default().as_bytes(), None)
            }
            (Body::Shared(buffer), _) => (buffer.as_slice(), Some(buffer)),
            (body, _) => (body.as_slice(arena), None),
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
        handler.handle(&mut Turn { engine: self, arena, shared }, &view);
    }

    #[inline]
    fn received(&mut self, slot: Slot, source: Source, bytes: &mut [u8]) {
        let len = bytes.len();
        self.entry(slot).bytes_in.add(len as u64);
        self.table.counters.bytes_in.add(len as u64);
        let connection = &mut self.connections[slot as usize];
        connection.heard_at = self.now;
        match &mut connection.stage {
            Stage::Handshake | Stage::Open | Stage::Closing(_) | Stage::Deciding(_) => {}
            Stage::Lingering { dropped_bytes } => {
                *dropped_bytes = dropped_bytes.saturating_add(len as u32);
                if *dropped_bytes > LINGER_BYTES_MAX {
                    self.set_stage(slot, Stage::Gone { reset: false });
                }
                return;
            }
            Stage::Vacant | Stage::Finishing | Stage::Gone { .. } | Stage::Ended => return,
        }
        let base = bytes.as_ptr() as usize;
        let mut inbox = Inbox::new(connection.id, &mut self.events, &mut self.scratch.asides, source, base);
        let mut context =
            Context { message_bytes_max: self.settings.message_bytes_max, pool: &mut self.spares.pool };
        let result =
            connection.protocol.receive(bytes, &self.settings.rules, &mut context, &mut |incoming| {
                inbox.take(incoming);
            });
        let messages = inbox.messages;
        if let Some((buffer, len)) = connection.protocol.lend() {
            self.lent.push((slot, buffer, len));
        }
        self.after_receive(slot, messages, result);
    }

    fn filled(&mut self, slot: Slot, buffer: Buffer, len: usize) {
        self.entry(slot).bytes_in.add(len as u64);
        self.table.counters.bytes_in.add(len as u64);
        let connection = &mut self.connections[slot as usize];
        connection.heard_at = self.now;
        if !matches!(connection.stage, Stage::Open | Stage::Closing(_)) {
            self.spares.pool.give_back(buffer);
            return;
        }
        let mut inbox =
            Inbox::new(connection.id, &mut self.events, &mut self.scratch.asides, Source::Elsewhere, 0);
        let result = connection.protocol.receive_lent(buffer, len, &mut |incoming| inbox.take(incoming));
        let messages = inbox.messages;
        if let Some((buffer, len)) = connection.protocol.lend() {
            self.lent.push((slot, buffer, len));
        }
        self.after_receive(slot, messages, result);
    }

    #[inline]
    fn after_receive(&mut self, slot: Slot, messages: u64, result: Result<Flow, Failure>) {
        if messages > 0 {
            self.connections[slot as usize].messaged_at = self.now;
            self.entry(slot).messages_in.add(messages);
            self.table.counters.messages_in.add(messages);
        }
        if !self.scratch.asides.is_empty() {
            let mut asides = std::mem::take(&mut self.scratch.asides);
            for aside in asides.drain(..) {
                self.take_aside(slot, aside);
            }
            // `accept` may have received a backlog and brought a list of its own.
            asides.append(&mut self.scratch.asides);
            self.scratch.asides = asides;
        }
        match result {
            Ok(_) => {}
            Err(Failure::Request(refusal)) => {
                self.table.counters.handshake_errors.add(1);
                self.refuse(slot, refusal);
            }
            Err(Failure::Peer(violation)) => self.violated(slot, violation),
        }
    }

    fn take_aside(&mut self, slot: Slot, aside: Aside) {
        match aside {
            Aside::Request { request, offer } => self.requested(slot, request, offer),
            Aside::Opened { answer } => {
                self.push(slot, [&answer, &[], &[]]);
                self.opened(slot);
            }
            Aside::Ponged(payload) => self.ponged(slot, payload),
            Aside::Closed(frame) => {
                let connection = &self.connections[slot as usize];
                let by = match connection.stage {
                    Stage::Closing(by) => by,
                    _ => ClosedBy::Peer,
                };
                // "the endpoint typically echos the status code it received" (5.5.1)
                let reply = match frame.code() {
                    CloseCode::NO_STATUS => CloseFrame::EMPTY,
                    code => CloseFrame::new(code, ""),
                };
                self.tell_close(slot, &frame, by);
                self.endings.push((slot, Ending::Finish(Some(reply))));
            }
        }
    }

    fn requested(&mut self, slot: Slot, request: Arc<Request>, offer: Result<Offer, Refusal>) {
        if self.stopping.is_some() {
            return self.refuse(slot, Refusal::Stopping);
        }
        let found = match &offer {
            Ok(_) => self.routes.find_socket(request.path()),
            Err(Refusal::NotUpgrade) => self.routes.find_http(request.path()),
            Err(_) => None,
        };
        let (route, parameters) = match (found, &offer) {
            (Some(found), _) => found,
            (None, Ok(_)) => return self.refuse(slot, Refusal::NotFound),
            (None, Err(refusal)) => {
                if *refusal != Refusal::NotUpgrade {
                    self.table.counters.handshake_errors.add(1);
                }
                return self.refuse(slot, *refusal);
            }
        };
        let is_head = request.method() == b"HEAD";
        if offer.is_err() && request.method() != b"GET" && !is_head {
            return self.refuse(slot, Refusal::NotGet);
        }
        self.table.set_request(slot, PendingRequest { request, parameters });
        let wants = self.routes.get(route).wants;
        let connection = &mut self.connections[slot as usize];
        connection.route = route as u32;
        connection.flags.head_only = is_head;
        connection.flags.has_side = true;
        let id = connection.id;
        let entry = self.entry(slot);
        entry.route.store(self.routes.get(route).number, Relaxed);
        let (life, kind) = match offer {
            Ok(offer) => {
                entry.set_dialect(offer.dialect);
                (Life::Deciding, EventKind::Upgrade)
            }
            Err(_) => (Life::Http, EventKind::Http),
        };
        entry.set_life(id.generation(), life);
        self.set_stage(slot, Stage::Deciding(offer.ok()));
        match offer {
            Ok(offer) if !wants.upgrade => {
                entry_of(&self.entries, slot).set_life(id.generation(), Life::Accepted);
                self.accept(slot, offer, None, "");
            }
            Err(_) if !wants.other => self.refuse(slot, Refusal::NotFound),
            _ => self.events.push_back(Event { conn: id, kind, body: Body::None }),
        }
    }

    fn accept(&mut self, slot: Slot, offer: Offer, protocol: Option<String>, headers: &str) {
        let id = self.connections[slot as usize].id;
        let Some(pending) = self.table.request(id) else { return };
        let rules = &self.settings.rules;
        let protocol =
            protocol.or_else(|| handshake::choose_protocol(&pending.request, offer.dialect, rules));
        let protocol = protocol.filter(|name| !name.is_empty());
        if let Some(name) = &protocol {
            self.table.set_protocol(slot, name);
        }
        let connection = &mut self.connections[slot as usize];
        let accepted = connection.protocol.accept(offer, protocol.as_deref(), headers, false);
        self.set_stage(slot, Stage::Handshake);
        self.push(slot, [&accepted.response, &[], &[]]);
        if accepted.is_open {
            self.events.push_back(Event { conn: id, kind: EventKind::Open, body: Body::None });
            self.opened(slot);
        }
        if !accepted.backlog.is_empty() {
            let mut backlog = accepted.backlog;
            self.received_backlog(slot, &mut backlog);
        }
    }

    /// What came behind the request, now that it has a meaning.
    fn received_backlog(&mut self, slot: Slot, backlog: &mut [u8]) {
        // Counted when it came.
        let connection = &mut self.connections[slot as usize];
        let base = backlog.as_ptr() as usize;
        let mut asides = Vec::new();
        let mut inbox = Inbox::new(connection.id, &mut self.events, &mut asides, Source::Elsewhere, base);
        let mut context =
            Context { message_bytes_max: self.settings.message_bytes_max, pool: &mut self.spares.pool };
        let result =
            connection.protocol.receive(backlog, &self.settings.rules, &mut context, &mut |incoming| {
                inbox.take(incoming);
            });
        let messages = inbox.messages;
        let outer = std::mem::replace(&mut self.scratch.asides, asides);
        self.after_receive(slot, messages, result);
        self.scratch.asides = outer;
    }

    /// The conversation has begun. The event itself is queued already, in its right place.
    fn opened(&mut self, slot: Slot) {
        let now = self.now;
        let ping_due = match self.settings.timeouts.ping_interval {
            Some(interval) => now.after(interval),
            None => Time::NEVER,
        };
        let connection = &mut self.connections[slot as usize];
        let dialect = connection.protocol.dialect();
        connection.flags.opened = true;
        connection.deadline = Time::NEVER;
        connection.messaged_at = now;
        let pings = dialect.is_some_and(|dialect| dialect.awaits_close());
        connection.ping_due = if pings { ping_due } else { Time::NEVER };
        let id = connection.id;
        self.set_stage(slot, Stage::Open);
        let entry = self.entry(slot);
        entry.opened_us.set(now.0);
        entry.set_life(id.generation(), Life::Open);
        let counters = &self.table.counters;
        counters.connections.add(1);
        counters.peak_connections.set(counters.peak_connections.get().max(counters.connections.get()));
        self.rearm(slot);
    }

    /// Answered when it is delivered, so that it stands behind the answers to what came before.
    fn answer_ping(&mut self, slot: Slot, payload: &[u8]) {
        // "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response
        // to previous Ping frame(s), the endpoint MAY elect to send a Pong frame for only the
        // most recently processed Ping frame." (5.5.3) A peer that doesn't read can't fill the
        // outbox with our answers.
        let queued = self.connections[slot as usize].outbox_bytes();
        if queued < self.settings.send.high_water_bytes.max(CONTROL_QUEUE_BYTES_MAX) {
            self.push_control(slot, Opcode::Pong, payload);
        }
    }

    fn ponged(&mut self, slot: Slot, payload: Control) {
        let connection = &mut self.connections[slot as usize];
        // Our Pings carry the time they left.
        let left_at = payload.as_slice().try_into().map(|bytes| Time(u64::from_be_bytes(bytes)));
        let answered = left_at.ok().filter(|&at| connection.pinged_at <= at && at <= self.now);
        let rtt_us = if let Some(left_at) = answered {
            connection.pinged_at = Time::NEVER;
            let rtt = (self.now.since(left_at).as_micros() as u64).max(1);
            self.entry(slot).rtt_us.store(u32::try_from(rtt).unwrap_or(u32::MAX), Relaxed);
            rtt
        } else {
            0
        };
        let connection = &self.connections[slot as usize];
        if self.routes.get(connection.route as usize).wants.other {
            let body = Body::copied(payload.as_slice());
            self.events.push_back(Event { conn: connection.id, kind: EventKind::Pong { rtt_us }, body });
        }
    }

    /// No WebSocket comes of this: the refusal goes out, then the stream ends.
    fn refuse(&mut self, slot: Slot, refusal: Refusal) {
        let id = self.connections[slot as usize].id;
        info!(target: "fullduplex::handshake", conn = id.to_u64(); "refused with {}: {refusal}", refusal.status());
        self.table.counters.rejected.add(1);
        self.answer(slot, &refusal.response(&self.settings.rules.versions.header()));
    }

    fn answer(&mut self, slot: Slot, response: &[u8]) {
        let connection = &mut self.connections[slot as usize];
        connection.protocol.refuse();
        let id = connection.id;
        self.entry(slot).set_life(id.generation(), Life::None);
        self.push(slot, [response, &[], &[]]);
        self.finish(slot);
    }

    fn violated(&mut self, slot: Slot, violation: Violation) {
        let connection = &self.connections[slot as usize];
        info!(target: "fullduplex::protocol", conn = connection.id.to_u64(); "closed with {}: {violation}",
            violation.close_code().0);
        let frame = violation.close_frame();
        let by = if violation.is_limit() { ClosedBy::Limit } else { ClosedBy::Protocol };
        self.tell_close(slot, &frame, by);
        self.endings.push((slot, Ending::Finish(Some(frame))));
    }

    fn peer_finished(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.peer_finished = true;
        match connection.stage {
            Stage::Handshake | Stage::Deciding(_) | Stage::Lingering { .. } => {
                self.set_stage(slot, Stage::Gone { reset: false });
            }
            Stage::Open | Stage::Closing(_) => {
                let by = match connection.stage {
                    Stage::Closing(by) => by,
                    // WebKit's close() of Hixie sends nothing but FIN: a normal end.
                    _ if connection.protocol.dialect().is_some_and(|dialect| !dialect.awaits_close()) => {
                        ClosedBy::Peer
                    }
                    _ => ClosedBy::Network,
                };
                let frame = match by {
                    ClosedBy::Peer => CloseFrame::EMPTY,
                    _ => CloseFrame::new(CloseCode::ABNORMAL, ""),
                };
                self.tell_close(slot, &frame, by);
                self.endings.push((slot, Ending::Finish(None)));
            }
            Stage::Vacant | Stage::Finishing | Stage::Gone { .. } | Stage::Ended => {}
        }
    }

    fn broken(&mut self, slot: Slot, error: io::ErrorKind) {
        let connection = &self.connections[slot as usize];
        match connection.stage {
            Stage::Open | Stage::Closing(_) => {
                debug!(target: "fullduplex::network", conn = connection.id.to_u64(); "connection lost: {error}");
                let by = match connection.stage {
                    Stage::Closing(by) => by,
                    _ => ClosedBy::Network,
                };
                self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), by);
                self.endings.push((slot, Ending::Drop));
            }
            Stage::Vacant | Stage::Ended => {}
            _ => self.set_stage(slot, Stage::Gone { reset: true }),
        }
    }

    /// Queues CLOSE, once, if OPEN was told.
    fn tell_close(&mut self, slot: Slot, frame: &CloseFrame, by: ClosedBy) {
        let connection = &mut self.connections[slot as usize];
        if connection.flags.opened && !connection.flags.close_queued {
            connection.flags.close_queued = true;
            self.events.push_back(Event::close(connection.id, frame, by));
        }
    }

    /// The embedder, a timeout or the end of the server closes a conversation.
    pub(crate) fn close(&mut self, conn: ConnId, frame: CloseFrame, by: ClosedBy) {
        let Some(slot) = self.find(conn) else { return };
        let connection = &mut self.connections[slot as usize];
        if connection.stage != Stage::Open || connection.flags.close_queued {
            return;
        }
        let Some(dialect) = connection.protocol.dialect() else { return };
        connection.protocol.begin_close();
        connection.deadline = self.now.after(self.settings.timeouts.close);
        self.entry(slot).begin_close(conn);
        self.push(slot, [&dialect.close_bytes(&frame), &[], &[]]);
        if dialect.awaits_close() {
            self.set_stage(slot, Stage::Closing(by));
            self.rearm(slot);
        } else {
            // A dialect without codes: what the peer will know is that it ended.
            self.tell_close(slot, &CloseFrame::EMPTY, by);
            self.finish(slot);
        }
    }

    /// Ends a connection without a word.
    pub(crate) fn abort(&mut self, conn: ConnId, by: ClosedBy) {
        let Some(slot) = self.find(conn) else { return };
        if by == ClosedBy::Limit {
            self.table.counters.slow_closed.add(1);
        }
        self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), by);
        self.set_stage(slot, Stage::Gone { reset: true });
    }

    fn end(&mut self, slot: Slot, ending: Ending) {
        if !matches!(self.connections[slot as usize].stage, Stage::Open | Stage::Closing(_)) {
            return;
        }
        match ending {
            Ending::Finish(frame) => {
                let dialect = self.entry(slot).dialect();
                // Our own Close went out before: then this was the answer to it.
                let is_first = self.connections[slot as usize].stage == Stage::Open;
                if let Some(frame) = frame.filter(|_| is_first) {
                    self.push(slot, [&dialect.close_bytes(&frame), &[], &[]]);
                }
                self.finish(slot);
            }
            Ending::Drop => self.set_stage(slot, Stage::Gone { reset: true }),
        }
    }

    /// When all is written our half ends. "Timeouts are absolute": a close that has begun
    /// keeps its deadline.
    fn finish(&mut self, slot: Slot) {
        let deadline = self.now.after(self.settings.timeouts.close);
        let connection = &mut self.connections[slot as usize];
        connection.deadline = match connection.stage {
            Stage::Closing(_) => connection.deadline.min(deadline),
            _ => deadline,
        };
        self.set_stage(slot, Stage::Finishing);
        self.rearm(slot);
    }

    fn set_stage(&mut self, slot: Slot, stage: Stage) {
        self.connections[slot as usize].stage = stage;
        self.mark_dirty(slot);
    }

    #[inline]
    fn mark_dirty(&mut self, slot: Slot) {
        let flags = &mut self.connections[slot as usize].flags;
        if !flags.dirty {
            flags.dirty = true;
            self.dirty.push_back(slot);
        }
    }

    /// Queues bytes of our own. Without memory for them the connection ends.
    fn push(&mut self, slot: Slot, parts: [&[u8]; 3]) {
        let connection = &mut self.connections[slot as usize];
        let outbox = connection.outbox.get_or_insert_with(|| self.spares.outbox());
        if outbox.push(parts, &mut self.spares).is_err() {
            self.lose(slot);
        }
        self.mark_dirty(slot);
    }

    fn push_control(&mut self, slot: Slot, opcode: Opcode, payload: &[u8]) {
        if self.connections[slot as usize].stage == Stage::Open {
            self.push(slot, [ServerHead::new(opcode, true, payload.len()).as_slice(), payload, &[]]);
        }
    }

    /// There is no memory for what a connection must be sent.
    fn lose(&mut self, slot: Slot) {
        warn!(target: "fullduplex::engine", conn = self.connections[slot as usize].id.to_u64(); "out of memory");
        self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), ClosedBy::Limit);
        self.set_stage(slot, Stage::Gone { reset: true });
    }

    /// Queues a message that has passed the limits.
    #[inline]
    fn push_message(&mut self, slot: Slot, kind: Kind, outgoing: Outgoing<'_>) -> Result<(), NoMemory> {
        let connection = &mut self.connections[slot as usize];
        let entry = entry_of(&self.entries, slot);
        let spares = &mut self.spares;
        let outbox = connection.outbox.get_or_insert_with(|| spares.outbox());
        let wire_form = entry.dialect().wire_form();
        let (head, tail) = wire_form.around(kind, outgoing.len());
        let pushed = match outgoing {
            Outgoing::Copied(payload) => outbox.push([head.as_slice(), payload, tail], spares),
            Outgoing::Shared(buffer) if buffer.len() < SHARED_BYTES_MIN => {
                outbox.push([head.as_slice(), buffer.as_slice(), tail], spares)
            }
            Outgoing::Shared(buffer) => outbox.push([head.as_slice(), &[], &[]], spares).and_then(|()| {
                let len = buffer.len();
                outbox.push_shared(buffer, 0..len);
                outbox.push([tail, &[], &[]], spares)
            }),
            Outgoing::Lent { start, len } => {
                outbox.push([head.as_slice(), &[], &[]], spares).and_then(|()| {
                    outbox.push_lent(start..start + len);
                    outbox.push([tail, &[], &[]], spares)
                })
            }
        };
        entry.outbox_bytes.set(outbox.bytes() as u64);
        if pushed.is_err() {
            return Err(NoMemory);
        }
        connection.messaged_at = self.now;
        entry.messages_out.add(1);
        self.table.counters.messages_out.add(1);
        self.mark_dirty(slot);
        Ok(())
    }

    /// A send from another thread: counted against the limits when it was made.
    fn obey_send(&mut self, conn: ConnId, kind: Kind, payload: Arc<Buffer>) {
        let Some(slot) = self.find(conn) else { return };
        self.entry(slot).take_from_mailbox(conn, payload.len() as u64);
        if self.connections[slot as usize].stage == Stage::Open
            && self.push_message(slot, kind, Outgoing::Shared(payload)).is_err()
        {
            self.lose(slot);
        }
    }

    fn flush_connection<D: Driver>(&mut self, slot: Slot, driver: &mut D, arena: &[u8]) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.dirty = false;
        match connection.stage {
            Stage::Vacant | Stage::Ended => return,
            Stage::Gone { reset } => return self.release(slot, driver, reset),
            _ => {}
        }
        let should_read = connection.should_read();
        if should_read != connection.flags.reading {
            connection.flags.reading = should_read;
            driver.set_reading(slot, should_read);
        }
        if let Err(error) = self.write(slot, driver, arena) {
            return self.broken_in_flush(slot, driver, error.kind());
        }
        let connection = &mut self.connections[slot as usize];
        if connection.outbox.is_none() && connection.stage == Stage::Finishing {
            driver.finish(slot);
            if connection.flags.peer_finished {
                return self.release(slot, driver, false);
            }
            connection.stage = Stage::Lingering { dropped_bytes: 0 };
            let linger = if self.stopping.is_some() { LINGER_TIME_STOPPING } else { LINGER_TIME_MAX };
            connection.deadline = self.now.after(linger);
            self.rearm(slot);
        }
        self.tell_drain(slot);
    }

    /// Writes what the kernel takes.
    #[inline]
    fn write<D: Driver>(&mut self, slot: Slot, driver: &mut D, arena: &[u8]) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        let Some(outbox) = &mut connection.outbox else { return Ok(()) };
        let entry = entry_of(&self.entries, slot);
        while !outbox.is_blocked && !outbox.is_empty() {
            let (sent, offered) = outbox.with_slices(arena, |slices| {
                (driver.send(slot, slices), slices.iter().map(|slice| slice.len()).sum::<usize>())
            });
            let len = match sent {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            outbox.advance(len, &mut self.spares);
            outbox.progress_bytes += len;
            outbox.is_blocked = len < offered;
            entry.bytes_out.add(len as u64);
            self.table.counters.bytes_out.add(len as u64);
        }
        entry.outbox_bytes.set(outbox.bytes() as u64);
        if outbox.is_empty() {
            let outbox = connection.outbox.take().expect("it was there above");
            self.spares.keep_outbox(outbox);
        } else {
            outbox.settle(arena).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            if outbox.progress_at == Time::default() {
                outbox.progress_at = self.now;
                outbox.progress_bytes = 0;
                self.timers.set_earlier(slot, self.now.after(self.settings.timeouts.write_stall));
            }
        }
        Ok(())
    }

    fn broken_in_flush<D: Driver>(&mut self, slot: Slot, driver: &mut D, error: io::ErrorKind) {
        self.broken(slot, error);
        // The events of this turn are delivered: nothing to wait for.
        self.endings.retain(|(ended, _)| *ended != slot);
        self.release(slot, driver, true);
    }

    /// DRAIN, if it was promised and the outbox is low enough.
    #[inline]
    fn tell_drain(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        let entry = entry_of(&self.entries, slot);
        let promised = connection.flags.wants_drain || entry.wants_drain.load(Relaxed);
        if !promised || connection.stage != Stage::Open {
            return;
        }
        if entry.queued_bytes() <= self.settings.send.low_water_bytes as u64 {
            connection.flags.wants_drain = false;
            entry.wants_drain.store(false, SeqCst);
            self.events.push_back(Event { conn: connection.id, kind: EventKind::Drain, body: Body::None });
        }
    }

    /// The driver lets go of the connection.
    fn release<D: Driver>(&mut self, slot: Slot, driver: &mut D, reset: bool) {
        if let Some(buffer) = driver.close(slot, reset) {
            self.spares.pool.give_back(buffer);
        }
        let connection = &mut self.connections[slot as usize];
        if let Some(outbox) = connection.outbox.take() {
            self.spares.keep_outbox(outbox);
        }
        connection.stage = Stage::Ended;
        connection.protocol.refuse();
        self.timers.cancel(slot);
        self.vacate_if_over(slot);
    }

    /// A slot is free when its socket is closed and its CLOSE delivered.
    fn vacate_if_over(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        let is_told = !connection.flags.opened || connection.flags.close_delivered;
        if connection.stage != Stage::Ended || !is_told {
            return;
        }
        let last = std::mem::replace(connection, Connection::vacant());
        connection.id = last.id;
        self.discarded.extend(last.data.release);
        self.entry(slot).set_life(last.id.generation(), Life::None);
        if last.flags.has_side {
            self.table.forget_side(slot);
        }
        self.free.push_back(slot);
        self.live -= 1;
    }

    fn handle_timeout(&mut self, slot: Slot) {
        let now = self.now;
        let timeouts = &self.settings.timeouts;
        let connection = &mut self.connections[slot as usize];
        let id = connection.id;
        match connection.stage {
            Stage::Handshake | Stage::Deciding(_) if now >= connection.deadline => {
                // Not before the first byte (a browser's spare connection), and not after a 101.
                let can_be_told = connection.protocol.can_be_refused() && self.entry(slot).bytes_in.get() > 0;
                return match can_be_told {
                    true => self.refuse(slot, Refusal::TimedOut),
                    false => self.set_stage(slot, Stage::Gone { reset: false }),
                };
            }
            Stage::Open => {
                if let Some(outbox) = connection.outbox.as_mut().filter(|outbox| outbox.is_blocked) {
                    if now >= outbox.progress_at.after(timeouts.write_stall) {
                        // A peer that takes a byte now and then stalls, too.
                        if outbox.progress_bytes < self.settings.send.low_water_bytes.max(1) {
                            info!(target: "fullduplex::network", conn = id.to_u64(); "cut: it does not read");
                            return self.abort(id, ClosedBy::Timeout);
                        }
                        outbox.progress_at = now;
                        outbox.progress_bytes = 0;
                    }
                }
                if let Some(wait) = timeouts.ping_timeout.filter(|_| connection.pinged_at != Time::NEVER) {
                    if connection.heard_at > connection.pinged_at || connection.flags.paused {
                        // Whoever speaks, lives; and whom we don't read can't answer.
                    } else if now >= connection.pinged_at.after(wait) {
                        info!(target: "fullduplex::network", conn = id.to_u64(); "cut: no answer to our ping");
                        return self.abort(id, ClosedBy::Timeout);
                    }
                }
                if timeouts.idle.is_some_and(|idle| now >= connection.messaged_at.after(idle)) {
                    let frame = CloseFrame::new(CloseCode::GOING_AWAY, "idle for too long");
                    return self.close(id, frame, ClosedBy::Timeout);
                }
                if now >= connection.ping_due {
                    connection.ping_due =
                        timeouts.ping_interval.map_or(Time::NEVER, |every| now.after(every));
                    // The clock of a Ping that was not answered runs on under the next one.
                    if connection.pinged_at == Time::NEVER || connection.heard_at > connection.pinged_at {
                        connection.pinged_at = now;
                    }
                    self.push_control(slot, Opcode::Ping, &now.0.to_be_bytes());
                }
            }
            Stage::Closing(by) if now >= connection.deadline => {
                self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), by);
                return self.set_stage(slot, Stage::Gone { reset: true });
            }
            Stage::Finishing if now >= connection.deadline => {
                return self.set_stage(slot, Stage::Gone { reset: true });
            }
            Stage::Lingering { .. } if now >= connection.deadline => {
                return self.set_stage(slot, Stage::Gone { reset: false });
            }
            Stage::Vacant | Stage::Gone { .. } | Stage::Ended => return,
            _ => {}
        }
        self.rearm(slot);
    }

    /// Enters the connection for the next time that one of its clocks can matter.
    fn rearm(&mut self, slot: Slot) {
        let timeouts = &self.settings.timeouts;
        let connection = &self.connections[slot as usize];
        let mut due = connection.deadline;
        if connection.stage == Stage::Open {
            due = due.min(connection.ping_due);
            if let Some(outbox) = connection.outbox.as_ref().filter(|outbox| outbox.is_blocked) {
                due = due.min(outbox.progress_at.after(timeouts.write_stall));
            }
            if let Some(wait) = timeouts.ping_timeout {
                let unanswered = connection.pinged_at != Time::NEVER
                    && connection.heard_at <= connection.pinged_at
                    && !connection.flags.paused;
                if unanswered {
                    due = due.min(connection.pinged_at.after(wait));
                }
            }
            if let Some(idle) = timeouts.idle {
                due = due.min(connection.messaged_at.after(idle));
            }
        }
        self.timers.set(slot, due);
    }

    /// Every connection is told good-bye, spread over a time; what is left at the deadline is
    /// cut.
    fn stop(&mut self, frame: CloseFrame, spread: Duration, deadline: Duration) {
        if self.stopping.is_some() {
            return;
        }
        let slots = 0..self.connections.len() as Slot;
        let mut pending = VecDeque::new();
        for slot in slots {
            let connection = &self.connections[slot as usize];
            match connection.stage {
                Stage::Open => pending.push_back((Time::NEVER, connection.id)),
                Stage::Deciding(_) => self.refuse(slot, Refusal::Stopping),
                Stage::Handshake => self.set_stage(slot, Stage::Gone { reset: false }),
                _ => {}
            }
        }
        let count = pending.len().max(1) as u32;
        for (index, (at, _)) in (0..).zip(&mut pending) {
            *at = self.now.after(spread * index / count);
        }
        let deadline = self.now.after(deadline);
        self.stopping = Some(Stopping { frame, deadline, pending, spoke_in: self.turns });
        self.say_good_byes();
    }

    fn say_good_byes(&mut self) {
        let Some(stopping) = &mut self.stopping else { return };
        let frame = stopping.frame;
        // The deadline waits for the turn after the last good-bye: it shall be flushed.
        let is_over = self.now >= stopping.deadline && stopping.spoke_in < self.turns;
        let mut leaving = Vec::new();
        while let Some(&(_, conn)) = stopping.pending.front().filter(|(at, _)| *at <= self.now) {
            stopping.pending.pop_front();
            stopping.spoke_in = self.turns;
            leaving.push(conn);
        }
        for conn in leaving {
            self.close(conn, frame, ClosedBy::Shutdown);
        }
        if is_over {
            for slot in 0..self.connections.len() as Slot {
                if !matches!(self.connections[slot as usize].stage, Stage::Vacant | Stage::Ended) {
                    self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), ClosedBy::Shutdown);
                    self.set_stage(slot, Stage::Gone { reset: false });
                }
            }
        }
    }
}

/// Where received bytes lie.
#[derive(Clone, Copy)]
enum Source {
    Arena {
        start: usize,
    },
    /// In memory that the turn does not keep: payloads must be copied.
    Elsewhere,
}

/// Takes what a conversation receives: events at once and in order, everything else aside.
struct Inbox<'e> {
    conn: ConnId,
    events: &'e mut VecDeque<Event>,
    asides: &'e mut Vec<Aside>,
    source: Source,
    base: usize,
    messages: u64,
}

impl<'e> Inbox<'e> {
    fn new(
        conn: ConnId,
        events: &'e mut VecDeque<Event>,
        asides: &'e mut Vec<Aside>,
        source: Source,
        base: usize,
    ) -> Self {
        Self { conn, events, asides, source, base, messages: 0 }
    }

    #[inline]
    fn take(&mut self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Message { kind, payload } => {
                self.messages += 1;
                let body = match (payload, self.source) {
                    (Payload::Borrowed(bytes), Source::Arena { start }) => {
                        // Empty slices may lie anywhere.
                        let offset = (bytes.as_ptr() as usize).wrapping_sub(self.base);
                        if bytes.is_empty() {
                            Body::None
                        } else {
                            Body::Arena { start: start + offset, len: bytes.len() }
                        }
                    }
                    (Payload::Borrowed(bytes), Source::Elsewhere) => Body::copied(bytes),
                    (Payload::Owned(buffer), _) => Body::Shared(Arc::new(buffer)),
                };
                self.events.push_back(Event { conn: self.conn, kind: EventKind::Message(kind), body });
            }
            Incoming::Request { request, offer } => self.asides.push(Aside::Request { request, offer }),
            Incoming::Opened { answer } => {
                // In its place before the first message, which may have come with the body.
                self.events.push_back(Event { conn: self.conn, kind: EventKind::Open, body: Body::None });
                self.asides.push(Aside::Opened { answer });
            }
            Incoming::Ping(payload) => {
                let body = Body::copied(payload.as_slice());
                self.events.push_back(Event { conn: self.conn, kind: EventKind::Ping, body });
            }
            Incoming::Pong(payload) => self.asides.push(Aside::Ponged(payload)),
            Incoming::Close(frame) => self.asides.push(Aside::Closed(frame)),
        }
    }
}

/// A payload on its way into an outbox.
pub(crate) enum Outgoing<'a> {
    Copied(&'a [u8]),
    Shared(Arc<Buffer>),
    /// In the turn's arena.
    Lent {
        start: usize,
        len: usize,
    },
}

impl Outgoing<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Copied(payload) => payload.len(),
            Self::Shared(buffer) => buffer.len(),
            Self::Lent { len, .. } => *len,
        }
    }
}

struct NoMemory;

#[inline]
fn entry_of(entries: &[Arc<Chunk>], slot: Slot) -> &Entry {
    &entries[slot as usize / CHUNK_SLOTS][slot as usize % CHUNK_SLOTS]
}

/// Payloads from here on are shared; below, a copy is cheaper than a slice of their own.
pub(crate) const SHARED_BYTES_MIN: usize = 4 * 1024;
/// Answers to Pings are queued at least so far, however low `send.high_water` is.
const CONTROL_QUEUE_BYTES_MAX: usize = 16 * 1024;
/// What a peer may still send after our last word before it gets an RST.
const LINGER_BYTES_MAX: u32 = 64 * 1024;
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
const LINGER_TIME_STOPPING: Duration = Duration::from_millis(100);
/// Memory kept for traffic is freed after so long without any.
const QUIET_TIME: Duration = Duration::from_secs(5);
