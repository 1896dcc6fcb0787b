//! What a callback may do: the engine as an event's receiver sees it.
//!
//! Sends made here go straight into the outbox and leave with the turn's flush, all of a
//! connection's together. Nothing here calls back, and nothing logs: a call of the embedder's
//! never has a callback on its stack.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::connection::{Flags, Release, Stage};
use super::event::{ClosedBy, EventKind};
use super::table::Begun;
use super::writing::{Outgoing, SHARED_BYTES_MIN};
use super::{Command, Engine, entry_of};
use crate::buffer::Buffer;
use crate::config::WhenFull;
use crate::id::{ConnId, Time};
use crate::protocol::Kind;
use crate::protocol::close::Violation;
use crate::protocol::deflate::{WINDOW_SIZES, Wish};
use crate::protocol::frame::ServerHead;
use crate::protocol::message::SHORT_BYTES_MAX;

/// Receives events. An implementation calls the embedder.
pub trait Handler {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>);

    /// The embedder's word for a connection is not needed any more, but for what was handled
    /// before.
    fn discard(&mut self, _: ConnId, word: Box<dyn Release>) {
        word.release();
    }

    /// The turn's last event was handled.
    fn end(&mut self) {}

    /// So much waits for the embedder that nobody else should be let in.
    fn is_crowded(&self) -> bool {
        false
    }
}

/// One event as it is delivered.
pub struct EventView<'a> {
    pub conn: ConnId,
    pub kind: EventKind,
    /// The route's place in the list, and the embedder's number for it.
    pub route: usize,
    pub route_number: u32,
    /// What the embedder keeps with the connection.
    pub word: usize,
    pub payload: &'a [u8],
    pub time: Time,
}

/// The engine during one callback.
pub struct Turn<'t> {
    pub(super) engine: &'t mut Engine,
    pub(super) arena: &'t [u8],
    /// The payload being delivered, if it has memory of its own.
    pub(super) shared: Option<&'t Arc<Buffer>>,
    /// The payload being delivered, if it is a whole text: it has been checked.
    pub(super) text: &'t [u8],
}

/// A message for many: encoded and checked once, shared by reference count.
#[derive(Debug)]
pub struct Message {
    pub kind: Kind,
    pub payload: Arc<Buffer>,
    /// By size of window; `None`: it would not become smaller.
    pub(crate) deflated: [OnceLock<Option<Arc<Buffer>>>; WINDOW_SIZES],
}

/// A send that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    Queued,
    /// Queued, and DRAIN will say when the outbox is low again.
    HighWater,
}

/// The embedder called us wrongly, or too late.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Misuse {
    NoConnection,
    Closing,
    /// Over `send.limit`: not queued.
    Full,
    TooBig,
    /// One more than an option allows.
    Limit,
    NotUtf8,
    /// Binary to a Hixie client, a ping to one.
    Unsupported,
    /// Not possible now; says why.
    State(&'static str),
    Invalid(&'static str),
    NoMemory,
    Stopped,
}

impl Turn<'_> {
    pub fn shard(&self) -> u8 {
        self.engine.shard
    }

    /// Queues a message. `data` may be (part of) the payload being delivered; a long one is
    /// then passed on without a copy.
    pub fn send(&mut self, conn: ConnId, kind: Kind, data: &[u8]) -> Result<Sent, Misuse> {
        self.send_fragment(conn, kind, data, true)
    }

    /// Queues a piece of a message; the one that ends it is `last`.
    #[inline]
    pub fn send_fragment(
        &mut self,
        conn: ConnId,
        kind: Kind,
        data: &[u8],
        last: bool,
    ) -> Result<Sent, Misuse> {
        self.send_as(conn, kind, data, last, Wish::Auto)
    }

    /// The same with a wish about compression, which counts for the whole message.
    #[inline(always)]
    pub fn send_as(
        &mut self,
        conn: ConnId,
        kind: Kind,
        data: &[u8],
        last: bool,
        wish: Wish,
    ) -> Result<Sent, Misuse> {
        match last && self.engine.send_short(conn, kind, data) {
            true => Ok(Sent::Queued),
            false => self.send_any(conn, kind, data, last, wish),
        }
    }

    #[inline(never)]
    fn send_any(
        &mut self,
        conn: ConnId,
        kind: Kind,
        data: &[u8],
        last: bool,
        wish: Wish,
    ) -> Result<Sent, Misuse> {
        let outgoing = self.outgoing(data);
        let is_checked = last && kind == Kind::Text && self.is_checked(data);
        self.engine.send(conn, kind, &outgoing, wish, |begun| match is_checked {
            true => begun.then_checked(data),
            false => begun.then(kind, data, last),
        })
    }

    pub fn send_message(&mut self, conn: ConnId, message: &Message, wish: Wish) -> Result<Sent, Misuse> {
        self.engine.send(conn, message.kind, &Outgoing::Message(message), wish, Begun::then_whole)
    }

    /// The event being handled stays with the embedder until it frees it. With too many bytes of
    /// them the connection is not read.
    pub fn count_unread(&mut self, conn: ConnId, len: usize) {
        let Some(slot) = self.engine.find(conn) else { return };
        if self.engine.entry(slot).add_unread(conn, len, self.engine.settings.receive.high_water_bytes) {
            self.engine.connections[slot as usize].flags.insert(Flags::CROWDED);
            self.engine.mark_dirty(slot);
        }
    }

    /// There was no memory to keep an event of this connection: it ends.
    pub fn lack_memory(&mut self, conn: ConnId) {
        if let Some(slot) = self.engine.find(conn) {
            self.engine.violated(slot, Violation::OutOfMemory);
        }
    }

    /// Does at once what other threads ask through the mailbox.
    pub fn obey(&mut self, command: Command) {
        self.engine.obey(command);
    }

    /// Is `data` a part of the text being delivered, from the start of a character to the end of one?
    #[inline]
    fn is_checked(&self, data: &[u8]) -> bool {
        let start = (data.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let is_boundary = |at: usize| self.text.get(at).is_none_or(|byte| !(0x80..0xC0).contains(byte));
        start < self.text.len()
            && data.len() <= self.text.len() - start
            && is_boundary(start)
            && is_boundary(start + data.len())
    }

    /// Finds the cheapest way to keep `data` until the flush.
    fn outgoing<'d>(&self, data: &'d [u8]) -> Outgoing<'d> {
        if data.len() < SHARED_BYTES_MIN {
            return Outgoing::Copied(data);
        }
        let start = (data.as_ptr() as usize).wrapping_sub(self.arena.as_ptr() as usize);
        if start < self.arena.len() && data.len() <= self.arena.len() - start {
            return Outgoing::Lent { start, bytes: data };
        }
        match self.shared {
            Some(buffer) if std::ptr::eq(buffer.as_slice(), data) => Outgoing::Shared(buffer.clone()),
            _ => Outgoing::Copied(data),
        }
    }
}

impl Engine {
    /// Queues what most messages are: whole and short, to a connection that has agreed on nothing
    /// and has room. False: there is more to it, and nothing was done.
    #[inline(always)]
    fn send_short(&mut self, conn: ConnId, kind: Kind, data: &[u8]) -> bool {
        let slot = conn.slot();
        if self.is_publishing() || data.len() > SHORT_BYTES_MAX {
            return false;
        }
        let Some(connection) = self.connections.get_mut(slot as usize) else { return false };
        let is_simple = connection.id == conn
            && connection.stage.is_open()
            && !connection.flags.intersects(Flags::CLOSE_DELIVERED | Flags::FRAGMENTING | Flags::COMPRESSING)
            && connection.protocol.deflate().is_none();
        if !is_simple {
            return false;
        }
        let entry = entry_of(&self.entries, slot);
        let queued = connection.outbox_bytes() + entry.mailbox_bytes() as usize + data.len();
        let limits = &self.settings.send;
        let has_room = queued <= limits.limit_bytes.min(limits.high_water_bytes);
        if !has_room || entry.begun() != Begun::NOTHING || entry.is_hixie() {
            return false;
        }
        if kind == Kind::Text && simdutf8::basic::from_utf8(data).is_err() {
            return false;
        }
        if connection.outbox.is_none() {
            connection.outbox = Some(self.spares.outbox());
        }
        let Some(outbox) = &mut connection.outbox else { return false };
        if outbox.push_behind(ServerHead::short(kind, data.len()), data, &mut self.spares).is_err() {
            return false;
        }
        entry.outbox_bytes.set(outbox.bytes() as u64);
        entry.messages_out.add(1);
        self.table.counters.messages_out.add(1);
        connection.messaged_at = self.now;
        if !connection.flags.contains(Flags::DIRTY) {
            connection.flags.insert(Flags::DIRTY);
            self.dirty.push(slot);
        }
        true
    }

    /// `check` says what the connection has begun to say after this, or why it can't be said.
    #[inline(always)]
    fn send(
        &mut self,
        conn: ConnId,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        wish: Wish,
        check: impl FnOnce(Begun) -> Result<Begun, Misuse>,
    ) -> Result<Sent, Misuse> {
        self.settle(conn);
        let slot = conn.slot();
        let connection = self.connections.get_mut(slot as usize).filter(|connection| connection.id == conn);
        let connection = connection.ok_or(Misuse::NoConnection)?;
        match connection.stage {
            Stage::Open if !connection.flags.contains(Flags::CLOSE_DELIVERED) => {}
            // What was refused is finishing, too, but never was a connection to send to.
            Stage::Closing(_) | Stage::Finishing
                if connection.flags.contains(Flags::OPENED)
                    && !connection.flags.contains(Flags::CLOSE_DELIVERED) =>
            {
                return Err(Misuse::Closing);
            }
            Stage::Deciding(_) | Stage::Handshake => {
                return Err(Misuse::State("the connection is not open yet"));
            }
            _ => return Err(Misuse::NoConnection),
        }
        let entry = entry_of(&self.entries, slot);
        if kind == Kind::Binary && entry.is_hixie() {
            return Err(Misuse::Unsupported);
        }
        let before = entry.begun();
        let begun = check(before)?;
        let limits = &self.settings.send;
        let len = outgoing.len();
        if len > limits.limit_bytes {
            return Err(Misuse::TooBig);
        }
        let queued = connection.outbox_bytes() + entry.mailbox_bytes() as usize;
        if queued + len > limits.limit_bytes {
            connection.flags.insert(Flags::WANTS_DRAIN);
            entry.dropped.fetch_add(1, Relaxed);
            self.table.counters.dropped_messages.fetch_add(1, Relaxed);
            if limits.full == WhenFull::Close {
                self.abort(conn, ClosedBy::Limit);
            }
            return Err(Misuse::Full);
        }
        let last = begun == Begun::NOTHING;
        self.push_message(slot, kind, outgoing, last, wish).map_err(|_| Misuse::NoMemory)?;
        self.entry(slot).go_on(conn, before, begun);
        let connection = &mut self.connections[slot as usize];
        if queued + len > self.settings.send.high_water_bytes {
            connection.flags.insert(Flags::WANTS_DRAIN);
            return Ok(Sent::HighWater);
        }
        Ok(Sent::Queued)
    }
}
