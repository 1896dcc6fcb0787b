//! receive: what was read becomes events, in order; what it asks of the connection besides
//! being told follows right after.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::connection::{Connection, Flags, Stage};
use super::ending::{Ending, LINGER_BYTES_MAX};
use super::event::{Body, ClosedBy, Event, EventKind};
use super::{Engine, entry_of};
use crate::buffer::{Buffer, BufferPool};
use crate::config::Settings;
use crate::id::{ConnId, Slot, Time};
use crate::protocol::close::{CloseCode, CloseFrame, Violation};
use crate::protocol::deflate::Inflation;
use crate::protocol::frame::Opcode;
use crate::protocol::handshake::Offer;
use crate::protocol::http::{Refusal, Request};
use crate::protocol::proxy::Announced;
use crate::protocol::{Context, Control, Failure, Flow, Incoming, Payload};

impl Engine {
    /// What the driver has read lies in the arena, from `start` on.
    #[inline]
    pub(super) fn received(&mut self, slot: Slot, start: usize, bytes: &mut [u8]) {
        let (len, base) = (bytes.len(), bytes.as_ptr() as usize);
        let connection = &mut self.connections[slot as usize];
        connection.heard_at = self.now;
        let is_plain = connection.stage.is_open() && connection.is_plain();
        let (mut messages, mut rest) = (0, Ok(bytes));
        if is_plain && !connection.flags.intersects(Flags::HOLDING | Flags::STREAMS) {
            let (conn, bytes_max) = (connection.id, self.settings.message_bytes_max);
            rest = connection.protocol.receive_short(
                rest.unwrap_or_default(),
                bytes_max,
                &mut |kind, payload| {
                    messages += 1;
                    let start = start + (payload.as_ptr() as usize - base);
                    let body = Body::Arena { start, len: payload.len() };
                    self.events.push_back(Event { conn, kind: EventKind::Message(kind), body });
                },
            );
            if messages > 0 {
                connection.messaged_at = self.now;
            }
        }
        let (entry, counters) = (entry_of(&self.entries, slot), &self.table.counters);
        for counts in [(&entry.bytes_in, &entry.messages_in), (&counters.bytes_in, &counters.messages_in)] {
            counts.0.add(len as u64);
            counts.1.add(messages);
        }
        match rest {
            Ok([]) => self.check_rates(slot, messages, len),
            Ok(rest) => {
                let source = Source::Arena { start: start + len - rest.len() };
                self.received_rest(slot, source, rest, messages, len);
            }
            Err(failure) => self.after_receive(slot, Heard::default(), Err(failure)),
        }
    }

    /// The same for bytes of any meaning, in any stage; of the `len` that came some may have been
    /// taken already.
    #[inline(never)]
    fn received_rest(&mut self, slot: Slot, source: Source, bytes: &mut [u8], messages: u64, len: usize) {
        let connection = &mut self.connections[slot as usize];
        match connection.stage {
            Stage::Handshake | Stage::Deciding(_) | Stage::Replying | Stage::Open | Stage::Closing(_) => {}
            Stage::Lingering => {
                let dropped_bytes = &mut connection.rare.get_or_insert_default().dropped_bytes;
                *dropped_bytes = dropped_bytes.saturating_add(len as u32);
                if *dropped_bytes > LINGER_BYTES_MAX {
                    self.set_stage(slot, Stage::Gone { reset: false });
                }
                return;
            }
            Stage::Vacant | Stage::Finishing | Stage::Gone { .. } | Stage::Ended => return,
        }
        match connection.is_plain() {
            true => self.received_more(slot, source, bytes, messages, len),
            false => self.received_sealed(slot, source, bytes),
        }
    }

    /// What is plain, or was opened.
    pub(super) fn received_plain(&mut self, slot: Slot, source: Source, bytes: &mut [u8]) {
        let len = bytes.len();
        self.received_more(slot, source, bytes, 0, len);
    }

    /// These bytes, behind so many messages of the `len` that came.
    fn received_more(&mut self, slot: Slot, source: Source, bytes: &mut [u8], messages: u64, len: usize) {
        let connection = &mut self.connections[slot as usize];
        if connection.flags.contains(Flags::HOLDING) {
            return self.hold_more(slot, bytes);
        }
        if connection.protocol.deflate().is_some() {
            // What it takes to inflate is freed when it is quiet.
            (self.busy_at, self.has_spares) = (self.now, true);
        }
        let base = bytes.as_ptr() as usize;
        let mut inbox = Inbox::new(connection, &mut self.events, &mut self.scratch.asides, source, base);
        let streams = connection.flags.contains(Flags::STREAMS);
        let mut context = context(&self.settings, &mut self.spares.pool, &mut self.inflation, streams);
        let result =
            connection.protocol.receive(bytes, &self.settings.rules, &mut context, &mut |incoming| {
                inbox.take(incoming);
            });
        let heard = inbox.heard;
        if let Ok(Flow::Full { left }) = result {
            self.hold(slot, &bytes[bytes.len() - left..]);
        }
        let connection = &mut self.connections[slot as usize];
        // What the driver reads into lent memory must be plain.
        if connection.is_plain() {
            if let Some((buffer, len)) = connection.protocol.lend() {
                self.lent.push((slot, buffer, len));
            }
        }
        self.after_receive(slot, heard, result);
        self.check_rates(slot, messages + heard.messages, len);
    }

    /// These bytes come later: the turn has inflated enough. Meanwhile nothing is read, so they
    /// stay what one turn has read.
    fn hold(&mut self, slot: Slot, bytes: &[u8]) {
        self.connections[slot as usize].flags.insert(Flags::HOLDING);
        self.holding.push_back(slot);
        self.mark_dirty(slot);
        self.hold_more(slot, bytes);
    }

    fn hold_more(&mut self, slot: Slot, bytes: &[u8]) {
        let held = &mut self.connections[slot as usize].rare.get_or_insert_default().held;
        if held.try_reserve(bytes.len()).is_err() {
            return self.violated(slot, Violation::OutOfMemory);
        }
        held.extend_from_slice(bytes);
    }

    /// Nothing hinders any more what a pause has held back.
    pub(super) fn release_held(&mut self, slot: Slot) {
        if self.connections[slot as usize].flags.contains(Flags::HOLDING) {
            self.holding.push_back(slot);
        }
    }

    /// What an earlier turn left. Who had no share then is the first.
    pub(super) fn receive_held(&mut self) {
        for _ in 0..self.holding.len() {
            if self.inflation.is_used_up() {
                break;
            }
            let Some(slot) = self.holding.pop_front() else { break };
            let connection = &mut self.connections[slot as usize];
            if connection.stage == Stage::Open && connection.is_held_off() {
                // When it is read on, or closed.
                continue;
            }
            // The slot may have passed to another.
            if !connection.flags.take(Flags::HOLDING) {
                continue;
            }
            let rare = connection.rare.get_or_insert_default();
            let (mut held, is_finished) = (std::mem::take(&mut rare.held), rare.finished_behind);
            if !matches!(connection.stage, Stage::Open | Stage::Closing(_)) {
                continue;
            }
            self.current = Some(slot);
            self.mark_dirty(slot);
            let heard = self.receive_again(slot, &mut held);
            self.check_rates(slot, heard.messages, 0);
            if is_finished && !self.connections[slot as usize].flags.contains(Flags::HOLDING) {
                self.peer_finished(slot);
            }
        }
        self.current = None;
    }

    pub(super) fn filled(&mut self, slot: Slot, buffer: Buffer, len: usize) {
        self.entry(slot).bytes_in.add(len as u64);
        self.table.counters.bytes_in.add(len as u64);
        let connection = &mut self.connections[slot as usize];
        connection.heard_at = self.now;
        if !matches!(connection.stage, Stage::Open | Stage::Closing(_)) {
            self.spares.pool.give_back(buffer);
            return;
        }
        let mut inbox =
            Inbox::new(connection, &mut self.events, &mut self.scratch.asides, Source::Elsewhere, 0);
        let result = connection.protocol.receive_lent(buffer, len, &mut |incoming| inbox.take(incoming));
        let heard = inbox.heard;
        if let Some((buffer, len)) = connection.protocol.lend() {
            self.lent.push((slot, buffer, len));
        }
        self.after_receive(slot, heard, result);
        self.check_rates(slot, heard.messages, len);
    }

    pub(super) fn after_receive(&mut self, slot: Slot, heard: Heard, result: Result<Flow, Failure>) {
        if heard.messages > 0 || heard.pieces {
            self.connections[slot as usize].messaged_at = self.now;
            self.entry(slot).messages_in.add(heard.messages);
            self.table.counters.messages_in.add(heard.messages);
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
            Ok(_) if heard.lacks_memory => self.violated(slot, Violation::OutOfMemory),
            Ok(_) => {}
            Err(Failure::Proxy(error)) => self.misannounced(slot, error),
            Err(Failure::Request(refusal)) => {
                self.table.counters.handshake_errors.add(1);
                self.refuse(slot, refusal);
            }
            Err(Failure::Peer(violation)) => self.violated(slot, violation),
        }
    }

    /// What came was heard; but who says too much too fast is closed.
    #[inline]
    fn check_rates(&mut self, slot: Slot, messages: u64, bytes: usize) {
        if self.settings.limits.any_speech() && !self.says_within_rates(slot, messages, bytes) {
            self.said_too_much(slot);
        }
    }

    fn said_too_much(&mut self, slot: Slot) {
        let connection = &self.connections[slot as usize];
        if connection.stage == Stage::Open && !connection.flags.contains(Flags::CLOSE_QUEUED) {
            self.table.counters.rate_limited.add(1);
            self.violated(slot, Violation::TooFast);
        }
    }

    pub(super) fn says_within_rates(&mut self, slot: Slot, messages: u64, bytes: usize) -> bool {
        if !self.settings.limits.any_speech() {
            return true;
        }
        let rare = self.connections[slot as usize].rare.get_or_insert_default();
        rare.spoken.more(messages, bytes as u64, &self.settings.limits, self.now)
    }

    pub(super) fn take_aside(&mut self, slot: Slot, aside: Aside) {
        match aside {
            Aside::Announced(announced) => self.announced(slot, announced),
            Aside::Request { request, offer } => self.requested(slot, request, offer),
            Aside::Body(body) => self.ask(slot, Body::Shared(Arc::new(body))),
            Aside::Opened { answer } => {
                // OPEN is queued already: if there is no memory, CLOSE must follow it.
                self.opened(slot);
                let _ = self.push(slot, [&answer, &[], &[]]);
            }
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

    /// What came behind the request, now that it has a meaning.
    pub(super) fn received_backlog(&mut self, slot: Slot, backlog: &mut [u8]) {
        self.receive_again(slot, backlog);
    }

    /// Bytes that were counted when they came.
    fn receive_again(&mut self, slot: Slot, backlog: &mut [u8]) -> Heard {
        let connection = &mut self.connections[slot as usize];
        let base = backlog.as_ptr() as usize;
        let mut asides = Vec::new();
        let mut inbox = Inbox::new(connection, &mut self.events, &mut asides, Source::Elsewhere, base);
        let streams = connection.flags.contains(Flags::STREAMS);
        let mut context = context(&self.settings, &mut self.spares.pool, &mut self.inflation, streams);
        let result =
            connection.protocol.receive(backlog, &self.settings.rules, &mut context, &mut |incoming| {
                inbox.take(incoming);
            });
        let heard = inbox.heard;
        if let Ok(Flow::Full { left }) = result {
            self.hold(slot, &backlog[backlog.len() - left..]);
        }
        let outer = std::mem::replace(&mut self.scratch.asides, asides);
        self.after_receive(slot, heard, result);
        self.scratch.asides = outer;
        heard
    }

    /// Answered when it is delivered, so that it stands behind the answers to what came before.
    pub(super) fn answer_ping(&mut self, slot: Slot, payload: &[u8]) {
        // "If an endpoint receives a Ping frame and has not yet sent Pong frame(s) in response
        // to previous Ping frame(s), the endpoint MAY elect to send a Pong frame for only the
        // most recently processed Ping frame." (5.5.3) A peer that doesn't read can't fill the
        // outbox with our answers.
        let queued = self.connections[slot as usize].outbox_bytes();
        if queued < self.settings.send.high_water_bytes.max(CONTROL_QUEUE_BYTES_MAX) {
            self.push_control(slot, Opcode::Pong, payload);
        }
    }

    /// The round trip in microseconds, if this answers a Ping of ours; else 0.
    pub(super) fn ponged(&mut self, slot: Slot, payload: &[u8]) -> u64 {
        let entry = entry_of(&self.entries, slot);
        // Our Pings carry the time they left.
        let left_at = payload.try_into().map(|bytes| Time(u64::from_be_bytes(bytes)));
        let answered = left_at.ok().filter(|&at| entry.opened_us.get() <= at.0 && at <= self.now);
        let Some(left_at) = answered else { return 0 };
        let connection = &mut self.connections[slot as usize];
        // Another may have left after this one, and its clock run.
        if connection.pinged_at <= left_at {
            connection.pinged_at = Time::NEVER;
        }
        let rtt = (self.now.since(left_at).as_micros() as u64).max(1);
        entry.rtt_us.store(u32::try_from(rtt).unwrap_or(u32::MAX), Relaxed);
        rtt
    }
}

/// What a received event asks of the connection besides being told.
pub(super) enum Aside {
    Announced(Announced),
    Request { request: Arc<Request>, offer: Result<Offer, Refusal> },
    Body(Buffer),
    Opened { answer: [u8; 16] },
    Closed(CloseFrame),
}

fn context<'p>(
    settings: &Settings,
    pool: &'p mut BufferPool,
    inflation: &'p mut Inflation,
    streams: bool,
) -> Context<'p> {
    Context {
        streams,
        message_bytes_max: settings.message_bytes_max,
        fragments_max: settings.limits.fragments,
        pool,
        inflation,
    }
}

/// Where received bytes lie.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Arena {
        start: usize,
    },
    /// In memory that the turn does not keep: payloads must be copied.
    Elsewhere,
}

impl Source {
    /// Where the bytes after the first `len` lie.
    pub(super) fn skip(self, len: usize) -> Self {
        match self {
            Self::Arena { start } => Self::Arena { start: start + len },
            Self::Elsewhere => Self::Elsewhere,
        }
    }
}

/// Takes what a conversation receives: events at once and in order, everything else aside.
pub(super) struct Inbox<'e> {
    conn: ConnId,
    events: &'e mut VecDeque<Event>,
    asides: &'e mut Vec<Aside>,
    source: Source,
    base: usize,
    streams: bool,
    heard: Heard,
}

/// How much of what was received is the peer's own talk.
#[derive(Clone, Copy, Default)]
pub(super) struct Heard {
    messages: u64,
    /// Something of a message that is not whole yet.
    pieces: bool,
    /// For something there was no memory to keep it until it is delivered.
    lacks_memory: bool,
}

impl<'e> Inbox<'e> {
    fn new(
        connection: &Connection,
        events: &'e mut VecDeque<Event>,
        asides: &'e mut Vec<Aside>,
        source: Source,
        base: usize,
    ) -> Self {
        let (conn, streams) = (connection.id, connection.flags.contains(Flags::STREAMS));
        Self { conn, events, asides, source, base, streams, heard: Heard::default() }
    }

    /// Where lent bytes can be found again when they are delivered. `None`: there is no memory.
    #[inline]
    fn body(&mut self, bytes: &[u8]) -> Option<Body> {
        match self.source {
            // Empty slices may lie anywhere.
            Source::Arena { .. } if bytes.is_empty() => Some(Body::None),
            Source::Arena { start } => {
                let offset = (bytes.as_ptr() as usize).wrapping_sub(self.base);
                Some(Body::Arena { start: start + offset, len: bytes.len() })
            }
            Source::Elsewhere => self.copied(bytes),
        }
    }

    fn copied(&mut self, bytes: &[u8]) -> Option<Body> {
        let body = Body::try_copied(bytes);
        self.heard.lacks_memory |= body.is_err();
        body.ok()
    }

    #[inline(always)]
    fn body_of(&mut self, payload: Payload<'_>) -> Option<Body> {
        match payload {
            Payload::Borrowed(bytes) => self.body(bytes),
            Payload::Owned(buffer) => Some(Body::Shared(Arc::new(buffer))),
            Payload::Inflated { start, len } => Some(Body::Inflated { start, len }),
        }
    }

    fn tell_control(&mut self, kind: EventKind, payload: &Control) {
        let body = Body::copied(payload.as_slice());
        self.events.push_back(Event { conn: self.conn, kind, body });
    }

    #[inline(always)]
    fn take(&mut self, incoming: Incoming<'_>) {
        if self.heard.lacks_memory {
            // What follows a gap is not told.
            return;
        }
        match incoming {
            Incoming::Message { kind, payload } => {
                self.heard.messages += 1;
                let Some(body) = self.body_of(payload) else { return };
                let kind = match self.streams {
                    false => EventKind::Message(kind),
                    true => EventKind::Fragment { kind, fin: true },
                };
                self.events.push_back(Event { conn: self.conn, kind, body });
            }
            Incoming::Fragment { kind, payload, fin } => {
                self.heard.messages += u64::from(fin);
                self.heard.pieces = true;
                let Some(body) = self.body_of(payload) else { return };
                self.events.push_back(Event {
                    conn: self.conn,
                    kind: EventKind::Fragment { kind, fin },
                    body,
                });
            }
            Incoming::Announced(announced) => self.asides.push(Aside::Announced(announced)),
            Incoming::Request { request, offer } => self.asides.push(Aside::Request { request, offer }),
            Incoming::Body(body) => self.asides.push(Aside::Body(body)),
            Incoming::Opened { answer } => {
                // In its place before the first message, which may have come with the body.
                self.events.push_back(Event { conn: self.conn, kind: EventKind::Open, body: Body::None });
                self.asides.push(Aside::Opened { answer });
            }
            Incoming::Ping(payload) => self.tell_control(EventKind::Ping, &payload),
            Incoming::Pong(payload) => self.tell_control(EventKind::Pong { rtt_us: 0 }, &payload),
            Incoming::Close(frame) => self.asides.push(Aside::Closed(frame)),
        }
    }
}

/// Answers to Pings are queued at least so far, however low `send.high_water` is.
const CONTROL_QUEUE_BYTES_MAX: usize = 16 * 1024;
