//! What is to be sent goes into outboxes, and with the flush to the kernel.

use std::collections::TryReserveError;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use log::warn;

use super::connection::{Flags, Stage};
use super::event::{Body, ClosedBy, Event, EventKind};
use super::table::charge;
use super::turn::Message;
use super::{Engine, entry_of};
use crate::buffer::{Buffer, copied};
use crate::driver::outbox::{Outbox, Spares};
use crate::driver::{Driver, Sends, Sent};
use crate::id::{ConnId, Slot, Time};
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::protocol::deflate::{Agreement, Deflater, Deflaters, Wish, window_index};
use crate::protocol::frame::{Opcode, ServerHead};
use crate::protocol::{Kind, Place, WireForm};

impl Engine {
    /// Queues bytes of our own. Without memory for them the connection is lost.
    pub(super) fn push(&mut self, slot: Slot, parts: [&[u8]; 3]) -> Result<(), NoMemory> {
        self.push_with(slot, |outbox, spares| outbox.push(parts, spares))
    }

    /// The same for a head and a long payload, which is not copied.
    pub(super) fn push_shared(&mut self, slot: Slot, head: &[u8], payload: Buffer) -> Result<(), NoMemory> {
        let (len, payload) = (payload.len(), Arc::new(payload));
        self.push_with(slot, |outbox, spares| {
            outbox.push_around(head, &[], spares, |outbox| outbox.push_shared(payload, 0..len))
        })
    }

    /// The same for bytes that are sealed already.
    pub(super) fn push_sealed(&mut self, slot: Slot, sealed: &[u8]) -> Result<(), NoMemory> {
        self.push_with(slot, |outbox, _| outbox.push_sealed(sealed))
    }

    fn push_with(
        &mut self,
        slot: Slot,
        push: impl FnOnce(&mut Outbox, &mut Spares) -> Result<(), TryReserveError>,
    ) -> Result<(), NoMemory> {
        let connection = &mut self.connections[slot as usize];
        let outbox = connection.outbox.get_or_insert_with(|| self.spares.outbox());
        let pushed = push(outbox, &mut self.spares);
        entry_of(&self.entries, slot).outbox_bytes.set(outbox.bytes() as u64);
        self.mark_dirty(slot);
        pushed.map_err(|_| {
            self.lose(slot);
            NoMemory
        })
    }

    pub(super) fn push_control(&mut self, slot: Slot, opcode: Opcode, payload: &[u8]) {
        if self.connections[slot as usize].stage == Stage::Open {
            let head = ServerHead::new(opcode, true, payload.len());
            // If it fails there is nothing more to do here.
            let _ = self.push(slot, [head.as_slice(), payload, &[]]);
        }
    }

    /// There is no memory for what a connection must be sent.
    pub(super) fn lose(&mut self, slot: Slot) {
        warn!(target: "fullduplex::engine", conn = self.connections[slot as usize].id.to_u64(); "out of memory");
        self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), ClosedBy::Limit);
        self.set_stage(slot, Stage::Gone { reset: true });
    }

    /// Queues a message that has passed the limits.
    #[inline(always)]
    pub(super) fn push_message(
        &mut self,
        slot: Slot,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        last: bool,
        wish: Wish,
    ) -> Result<(), NoMemory> {
        let connection = &self.connections[slot as usize];
        let place = Place { first: !connection.flags.contains(Flags::FRAGMENTING), last };
        if connection.protocol.deflate().is_some() || connection.flags.contains(Flags::COMPRESSING) {
            return self.push_where_deflate_is_agreed(slot, kind, outgoing, place, wish);
        }
        self.push_frame(slot, kind, outgoing, place, false)
    }

    #[inline(never)]
    fn push_where_deflate_is_agreed(
        &mut self,
        slot: Slot,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        place: Place,
        wish: Wish,
    ) -> Result<(), NoMemory> {
        let connection = &self.connections[slot as usize];
        let goes_on = !place.first && connection.flags.contains(Flags::COMPRESSING);
        // The peer may have closed meanwhile: then the conversation has forgotten what was agreed on.
        let agreement = connection.protocol.deflate().or(goes_on.then_some(Agreement::SMALLEST));
        if let Some(agreement) = agreement {
            let is_wanted = match place.first {
                true => wish.is_granted(outgoing.len(), self.settings.rules.deflate.size_min),
                false => goes_on,
            };
            if is_wanted {
                return self.push_deflated(slot, kind, outgoing, place, agreement);
            }
        }
        self.push_frame(slot, kind, outgoing, place, false)
    }

    #[inline(always)]
    fn push_frame(
        &mut self,
        slot: Slot,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        place: Place,
        is_compressed: bool,
    ) -> Result<(), NoMemory> {
        let connection = &mut self.connections[slot as usize];
        let entry = entry_of(&self.entries, slot);
        let spares = &mut self.spares;
        let outbox = connection.outbox.get_or_insert_with(|| spares.outbox());
        let wire_form = if entry.is_hixie() { WireForm::Hixie } else { WireForm::HyBi };
        let (head, tail) = wire_form.around(kind, place, outgoing.len());
        let head = if is_compressed && place.first { head.compressed() } else { head };
        let pushed = match outgoing.shared() {
            Some(buffer) if buffer.len() >= SHARED_BYTES_MIN => {
                outbox.push_around(head.as_slice(), tail, spares, |outbox| {
                    outbox.push_shared(buffer.clone(), 0..buffer.len());
                })
            }
            _ => match outgoing {
                Outgoing::Lent { start, bytes } => {
                    outbox.push_around(head.as_slice(), tail, spares, |outbox| {
                        outbox.push_lent(*start..start + bytes.len());
                    })
                }
                outgoing => outbox.push([head.as_slice(), outgoing.as_slice(), tail], spares),
            },
        };
        entry.outbox_bytes.set(outbox.bytes() as u64);
        if pushed.is_err() {
            return Err(NoMemory);
        }
        connection.messaged_at = self.now;
        connection.flags.set(Flags::FRAGMENTING, !place.last);
        connection.flags.set(Flags::COMPRESSING, is_compressed);
        entry.messages_out.add(u64::from(place.last));
        self.table.counters.messages_out.add(u64::from(place.last));
        self.mark_dirty(slot);
        Ok(())
    }

    fn push_deflated(
        &mut self,
        slot: Slot,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        place: Place,
        agreement: Agreement,
    ) -> Result<(), NoMemory> {
        let mut room = std::mem::take(&mut self.scratch.deflated);
        room.truncate(0);
        let pushed = match self.deflate(slot, outgoing, place, agreement, &mut room) {
            Ok(Deflated::Not) => self.push_frame(slot, kind, outgoing, place, false),
            Ok(Deflated::InRoom) => {
                self.push_frame(slot, kind, &Outgoing::Copied(room.as_slice()), place, true)
            }
            Ok(Deflated::Shared(buffer)) => {
                self.push_frame(slot, kind, &Outgoing::Shared(buffer), place, true)
            }
            Err(_) => Err(NoMemory),
        };
        if pushed.is_err() && agreement.keeps_ours() {
            // Its history is not the peer's any more.
            if let Some(Some(windows)) = self.connections[slot as usize].protocol.windows() {
                windows.deflater = None;
            }
        }
        if room.capacity() <= DEFLATED_BYTES_KEPT {
            self.scratch.deflated = room;
        }
        pushed
    }

    /// Compresses into `room`, or finds out that it is not worth it.
    fn deflate(
        &mut self,
        slot: Slot,
        outgoing: &Outgoing<'_>,
        place: Place,
        agreement: Agreement,
        room: &mut Buffer,
    ) -> Result<Deflated, TryReserveError> {
        let (level, bits) = (self.settings.rules.deflate.level, agreement.window_bits());
        let payload = outgoing.as_slice();
        if place == Place::WHOLE && payload.is_empty() {
            return Ok(Deflated::Not);
        }
        let deflaters = &mut self.deflaters;
        let protocol = &mut self.connections[slot as usize].protocol;
        let windows = if agreement.keeps_ours() { protocol.windows() } else { None };
        let Some(windows) = windows else {
            let is_smaller = match outgoing {
                Outgoing::Message(message) => return message.deflated(level, bits, deflaters, room),
                _ if place == Place::WHOLE => deflaters.get(level, bits)?.deflate_whole(payload, room)?,
                // "raw" blocks of one stream or of several: behind each other they are one.
                _ => {
                    let deflater = deflaters.get(level, bits)?;
                    deflater.reset();
                    deflater.deflate(payload, place.last, room)?;
                    !place.first || room.len() < payload.len()
                }
            };
            return Ok(if is_smaller { Deflated::InRoom } else { Deflated::Not });
        };
        let windows = windows.get_or_insert_default();
        if let Outgoing::Message(message) = outgoing {
            let deflated = message.deflated(level, bits, deflaters, room)?;
            // The peer's window moves on by a message that this connection's own has not seen.
            if let (Deflated::Shared(_), Some(deflater)) = (&deflated, &mut windows.deflater) {
                deflater.reset();
            }
            return Ok(deflated);
        }
        let deflater = match &mut windows.deflater {
            Some(deflater) => deflater,
            place => place.insert(Deflater::new(level, bits)?),
        };
        deflater.deflate(payload, place.last, room)?;
        Ok(Deflated::InRoom)
    }

    /// A send from another thread: counted against the limits when it was made.
    pub(super) fn obey_send(
        &mut self,
        conn: ConnId,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        last: bool,
        wish: Wish,
    ) {
        self.settle(conn);
        self.send_counted(conn, kind, outgoing, last, wish);
    }

    /// What was counted for the mailbox goes to the outbox. It counts in both for a moment: in
    /// neither, others could send more than the limit.
    pub(super) fn send_counted(
        &mut self,
        conn: ConnId,
        kind: Kind,
        outgoing: &Outgoing<'_>,
        last: bool,
        wish: Wish,
    ) {
        if let Some(slot) = self.find(conn) {
            let is_open = self.connections[slot as usize].stage == Stage::Open;
            if is_open && self.push_message(slot, kind, outgoing, last, wish).is_err() {
                self.lose(slot);
            }
        }
        self.take_from_mailbox(conn, outgoing.len());
    }

    /// What another thread counted when it posted it has come out of the mailbox.
    pub(super) fn take_from_mailbox(&self, conn: ConnId, len: usize) {
        // Of a connection that never was there is nothing to take back.
        if (conn.slot() as usize) < self.connections.len() {
            self.entry(conn.slot()).take_from_mailbox(conn, charge(len));
        }
    }

    /// The same for what most connections of a turn need: the kernel takes some small messages,
    /// all of them. False: there is more to it.
    #[inline]
    pub(super) fn flush_short<D: Driver>(&mut self, slot: Slot, driver: &mut D) -> bool {
        let connection = &mut self.connections[slot as usize];
        let entry = entry_of(&self.entries, slot);
        let is_plain = connection.stage.is_open()
            && connection.is_plain()
            && connection.flags.intersection(Flags::READING | Flags::HINDER_READING | Flags::WANTS_DRAIN)
                == Flags::READING
            && !entry.wants_drain.load(Relaxed);
        let Some(bytes) = connection.outbox.as_ref().filter(|_| is_plain).and_then(|outbox| outbox.short())
        else {
            return false;
        };
        connection.flags.remove(Flags::DIRTY);
        let offered = bytes.len();
        // Perhaps it was sent together with others.
        let sent = if offered == 0 { Ok(0) } else { driver.send(slot, &[IoSlice::new(bytes)]) };
        if !matches!(sent, Ok(len) if len == offered) {
            if let Err(error) = self.take_sent(slot, sent, offered) {
                self.broken_in_flush(slot, driver, error.kind());
                return true;
            }
            return false;
        }
        if let Some(outbox) = connection.outbox.take() {
            self.spares.keep_short(outbox);
        }
        entry.outbox_bytes.set(0);
        entry.bytes_out.add(offered as u64);
        self.table.counters.bytes_out.add(offered as u64);
        true
    }

    pub(super) fn flush_connection<D: Driver>(&mut self, slot: Slot, driver: &mut D, arena: &[u8]) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.remove(Flags::DIRTY);
        match connection.stage {
            Stage::Open => {}
            Stage::Vacant | Stage::Ended => return,
            Stage::Gone { reset } => {
                if !reset {
                    self.say_good_bye_at_last(slot, driver);
                }
                return self.release(slot, driver, reset);
            }
            _ => {}
        }
        let should_read = connection.should_read();
        if should_read != connection.flags.contains(Flags::READING) {
            connection.flags.set(Flags::READING, should_read);
            driver.set_reading(slot, should_read);
        }
        if let Err(error) = self.write_outbox(slot, driver, arena) {
            return self.broken_in_flush(slot, driver, error.kind());
        }
        if self.connections[slot as usize].stage != Stage::Open {
            return self.flush_rest(slot, driver, arena);
        }
        self.tell_drain(slot);
    }

    /// What else there is to do for a connection that is answered or about to end.
    fn flush_rest<D: Driver>(&mut self, slot: Slot, driver: &mut D, arena: &[u8]) {
        if self.connections[slot as usize].stage == Stage::Replying {
            if let Err(error) = self.write_download(slot, driver, arena) {
                return self.broken_in_flush(slot, driver, error.kind());
            }
        }
        self.end_reply(slot);
        if self.says_good_bye(slot) {
            if let Err(error) = self.write_outbox(slot, driver, arena) {
                return self.broken_in_flush(slot, driver, error.kind());
            }
        }
        let connection = &mut self.connections[slot as usize];
        if connection.outbox.is_none() && connection.stage == Stage::Finishing {
            driver.finish(slot);
            if connection.flags.contains(Flags::PEER_FINISHED) {
                return self.release(slot, driver, false);
            }
            self.begin_lingering(slot);
        }
    }

    /// Sends what is in the outboxes of the next of those that the flush must look at, to many with
    /// one call; with the rest that is to be done about them the flush goes on. How many are these?
    /// 0: too few have anything to send.
    pub(super) fn send_together<D: Driver>(
        &mut self,
        driver: &mut D,
        arena: &[u8],
        together_min: usize,
    ) -> usize {
        let mut sends = Sends::default();
        let mut looked_at = 0;
        for &slot in &self.dirty[self.flushed..] {
            let connection = &self.connections[slot as usize];
            // What is to be sealed, or is not said by an open connection, has ways of its own.
            let is_plain = connection.stage.is_open() && connection.is_plain();
            let outbox = connection.outbox.as_ref().filter(|outbox| !outbox.is_blocked && !outbox.is_empty());
            if let Some(outbox) = outbox.filter(|_| is_plain) {
                if !outbox.with_slices(arena, |slices| sends.push(slot, slices)) {
                    break;
                }
            }
            looked_at += 1;
        }
        if sends.len() < together_min {
            return 0;
        }
        driver.send_each(&sends, &mut self.sent);
        self.take_sent_together(driver);
        looked_at
    }

    pub(super) fn take_sent_together<D: Driver>(&mut self, driver: &mut D) {
        while let Some(Sent { slot, offered, result }) = self.sent.pop() {
            self.current = Some(slot);
            if let Err(error) = self.take_sent(slot, result, offered) {
                self.broken_in_flush(slot, driver, error.kind());
            }
        }
    }

    /// Writes what the kernel takes.
    #[inline]
    pub(super) fn write_outbox<D: Driver>(
        &mut self,
        slot: Slot,
        driver: &mut D,
        arena: &[u8],
    ) -> io::Result<()> {
        loop {
            let connection = &mut self.connections[slot as usize];
            let Some(outbox) = &mut connection.outbox else { return Ok(()) };
            if outbox.is_blocked || outbox.is_empty() {
                break;
            }
            match connection.rare.as_mut().and_then(|rare| rare.tls.as_mut()) {
                // It has failed: the alert still goes out.
                Some(tls) if tls.is_over() => {
                    outbox.forget_plain(&mut self.spares);
                    if outbox.is_empty() {
                        break;
                    }
                }
                Some(tls) => {
                    outbox.seal(arena, &mut self.spares, |plain, sealed| tls.seal(plain, sealed))?;
                    if connection.stage == Stage::Finishing && outbox.is_all_sealed() {
                        // Its good-bye goes along with the last words. What the peer still says
                        // is dropped: the session has done its work.
                        let _ = outbox.seal_behind(|sealed| tls.close(sealed));
                        let _ = connection.rare.as_mut().and_then(|rare| rare.tls.take());
                    }
                }
                None => {}
            }
            let (sent, offered) = outbox.with_slices(arena, |slices| {
                (driver.send(slot, slices), slices.iter().map(|slice| slice.len()).sum::<usize>())
            });
            self.take_sent(slot, sent, offered)?;
        }
        let connection = &mut self.connections[slot as usize];
        let Some(outbox) = &mut connection.outbox else { return Ok(()) };
        entry_of(&self.entries, slot).outbox_bytes.set(outbox.bytes() as u64);
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

    /// What came of offering so many bytes to the kernel.
    fn take_sent(&mut self, slot: Slot, sent: io::Result<usize>, offered: usize) -> io::Result<()> {
        let len = match sent {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // It is offered again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(outbox) = &mut self.connections[slot as usize].outbox else { return Ok(()) };
        outbox.advance(len, &mut self.spares);
        outbox.progress_bytes += len;
        outbox.is_blocked = len < offered;
        entry_of(&self.entries, slot).bytes_out.add(len as u64);
        self.table.counters.bytes_out.add(len as u64);
        Ok(())
    }

    pub(super) fn broken_in_flush<D: Driver>(&mut self, slot: Slot, driver: &mut D, error: io::ErrorKind) {
        self.broken(slot, error);
        // The events of this turn are delivered: nothing to wait for.
        self.endings.retain(|(ended, _)| *ended != slot);
        self.release(slot, driver, true);
    }

    /// DRAIN, if it was promised and the outbox is low enough.
    #[inline]
    pub(super) fn tell_drain(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        let entry = entry_of(&self.entries, slot);
        let promised = connection.flags.contains(Flags::WANTS_DRAIN) || entry.wants_drain.load(Relaxed);
        if !promised || connection.stage != Stage::Open {
            return;
        }
        if entry.queued_bytes() <= self.settings.send.low_water_bytes as u64 {
            connection.flags.remove(Flags::WANTS_DRAIN);
            entry.wants_drain.store(false, SeqCst);
            self.events.push_back(Event { conn: connection.id, kind: EventKind::Drain, body: Body::None });
        }
    }
}

/// A payload on its way into an outbox.
pub(crate) enum Outgoing<'a> {
    Copied(&'a [u8]),
    Shared(Arc<Buffer>),
    /// In the turn's arena, from `start` on.
    Lent {
        start: usize,
        bytes: &'a [u8],
    },
    /// For many; it keeps its compressed forms.
    Message(&'a Message),
}

impl Outgoing<'_> {
    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Copied(payload) | Self::Lent { bytes: payload, .. } => payload,
            Self::Shared(buffer) => buffer.as_slice(),
            Self::Message(message) => message.payload.as_slice(),
        }
    }

    fn shared(&self) -> Option<&Arc<Buffer>> {
        match self {
            Self::Shared(buffer) => Some(buffer),
            Self::Message(message) => Some(&message.payload),
            Self::Copied(_) | Self::Lent { .. } => None,
        }
    }
}

/// What came of compressing a payload.
enum Deflated {
    /// It goes out as it is.
    Not,
    /// It lies in the room that was given for it.
    InRoom,
    Shared(Arc<Buffer>),
}

impl Message {
    /// The compressed form for a window of this size, made by the first who needs it.
    fn deflated(
        &self,
        level: u8,
        window_bits: u8,
        deflaters: &mut Deflaters,
        room: &mut Buffer,
    ) -> Result<Deflated, TryReserveError> {
        let place = &self.deflated[window_index(window_bits)];
        let form = match place.get() {
            Some(form) => form,
            None => {
                let is_smaller =
                    deflaters.get(level, window_bits)?.deflate_whole(self.payload.as_slice(), room)?;
                let form = match is_smaller {
                    true => Some(Arc::new(copied(room.as_slice())?.into())),
                    false => None,
                };
                place.get_or_init(|| form)
            }
        };
        Ok(form.clone().map_or(Deflated::Not, Deflated::Shared))
    }
}

pub(super) struct NoMemory;

/// Payloads from here on are shared; below, a copy is cheaper than a slice of their own.
pub(crate) const SHARED_BYTES_MIN: usize = 4 * 1024;
/// The room for compressing is kept up to here.
const DEFLATED_BYTES_KEPT: usize = 1024 * 1024;
