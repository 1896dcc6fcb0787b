//! How connections end: by the peer, the network, the embedder, a clock, or with the server.
//! CLOSE is told once, after everything that came before; the last words are flushed; then the
//! slot is free.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use log::{debug, info};

use super::Engine;
use super::connection::{Asked, Connection, Flags, Stage};
use super::event::{ClosedBy, Event};
use super::table::Life;
use super::writing::NoMemory;
use crate::driver::Driver;
use crate::id::{ConnId, Slot, Time};
use crate::protocol::Dialect;
use crate::protocol::close::{CloseCode, CloseFrame, Violation};

impl Engine {
    pub(super) fn violated(&mut self, slot: Slot, violation: Violation) {
        let connection = &self.connections[slot as usize];
        info!(target: "fullduplex::protocol", conn = connection.id.to_u64(); "closed with {}: {violation}",
            violation.close_code().0);
        let frame = violation.close_frame();
        let by = if violation.is_limit() { ClosedBy::Limit } else { ClosedBy::Protocol };
        self.tell_close(slot, &frame, by);
        self.endings.push((slot, Ending::Finish(Some(frame))));
    }

    pub(super) fn peer_finished(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        connection.flags.insert(Flags::PEER_FINISHED);
        if connection.flags.contains(Flags::HOLDING) {
            // Heard after what came before it.
            connection.rare.get_or_insert_default().finished_behind = true;
            return;
        }
        let is_truncated = self.is_truncated(slot);
        let connection = &mut self.connections[slot as usize];
        match connection.stage {
            Stage::Handshake | Stage::Deciding(Asked::Socket) | Stage::Lingering => {
                self.set_stage(slot, Stage::Gone { reset: false });
            }
            Stage::Open | Stage::Closing(_) => {
                let by = match connection.stage {
                    Stage::Closing(by) => by,
                    // WebKit's close() of Hixie sends nothing but FIN: a normal end.
                    _ if !is_truncated
                        && connection.protocol.dialect().is_some_and(|dialect| !dialect.awaits_close()) =>
                    {
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
            Stage::Finishing => {}
            // Nothing is read, so the driver does not tell; TLS may, and is asked again when the reply
            // has gone out.
            Stage::Vacant
            | Stage::Deciding(Asked::Page)
            | Stage::Replying
            | Stage::Gone { .. }
            | Stage::Ended => {}
        }
    }

    pub(super) fn broken(&mut self, slot: Slot, error: io::ErrorKind) {
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
    pub(super) fn tell_close(&mut self, slot: Slot, frame: &CloseFrame, by: ClosedBy) {
        let connection = &mut self.connections[slot as usize];
        if connection.flags.contains(Flags::OPENED) && !connection.flags.contains(Flags::CLOSE_QUEUED) {
            connection.flags.insert(Flags::CLOSE_QUEUED);
            self.events.push_back(Event::close(connection.id, frame, by));
        }
    }

    /// The embedder, a timeout or the end of the server closes a conversation.
    pub(crate) fn close(&mut self, conn: ConnId, frame: CloseFrame, by: ClosedBy) {
        self.settle(conn);
        let Some(slot) = self.find(conn) else { return };
        let connection = &mut self.connections[slot as usize];
        if connection.stage != Stage::Open || connection.flags.contains(Flags::CLOSE_QUEUED) {
            return;
        }
        let Some(dialect) = connection.protocol.dialect() else { return };
        connection.protocol.begin_close();
        connection.due = self.now.after(self.settings.timeouts.close);
        self.entry(slot).begin_close(conn);
        if self.push_close(slot, dialect, &frame).is_err() {
            return;
        }
        if dialect.awaits_close() {
            self.set_stage(slot, Stage::Closing(by));
            // The peer's Close may be behind it.
            self.release_held(slot);
            self.rearm(slot);
        } else {
            // A dialect without codes: what the peer will know is that it ended.
            self.tell_close(slot, &CloseFrame::EMPTY, by);
            self.finish(slot);
        }
    }

    fn push_close(&mut self, slot: Slot, dialect: Dialect, frame: &CloseFrame) -> Result<(), NoMemory> {
        // Inside a text Hixie has no way to say anything; the end of the stream tells the peer.
        if dialect.awaits_close() || !self.connections[slot as usize].flags.contains(Flags::FRAGMENTING) {
            self.push(slot, [&dialect.close_bytes(frame), &[], &[]])?;
        }
        Ok(())
    }

    /// Ends a connection without a word.
    pub(crate) fn abort(&mut self, conn: ConnId, by: ClosedBy) {
        let Some(slot) = self.find(conn) else { return };
        // Every send that finds it full asks for this until it is gone.
        if by == ClosedBy::Limit && !self.connections[slot as usize].flags.contains(Flags::CLOSE_QUEUED) {
            self.table.counters.slow_closed.add(1);
        }
        self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), by);
        self.set_stage(slot, Stage::Gone { reset: true });
    }

    pub(super) fn end(&mut self, slot: Slot, ending: Ending) {
        if !matches!(self.connections[slot as usize].stage, Stage::Open | Stage::Closing(_)) {
            return;
        }
        match ending {
            Ending::Finish(frame) => {
                let dialect = self.entry(slot).dialect();
                // Our own Close went out before: then this was the answer to it.
                let is_first = self.connections[slot as usize].stage == Stage::Open;
                if let Some(frame) = frame.filter(|_| is_first) {
                    if self.push_close(slot, dialect, &frame).is_err() {
                        return;
                    }
                }
                self.finish(slot);
            }
            Ending::Drop => self.set_stage(slot, Stage::Gone { reset: true }),
        }
    }

    /// When all is written our half ends. "Timeouts are absolute": a close that has begun
    /// keeps its deadline.
    pub(super) fn finish(&mut self, slot: Slot) {
        let deadline = self.now.after(self.settings.timeouts.close);
        let connection = &mut self.connections[slot as usize];
        connection.due = match connection.stage {
            Stage::Closing(_) => connection.due.min(deadline),
            _ => deadline,
        };
        self.set_stage(slot, Stage::Finishing);
        self.rearm(slot);
    }

    /// Our half has ended; now the peer has a moment to end its own.
    pub(super) fn begin_lingering(&mut self, slot: Slot) {
        let linger = if self.stopping.is_some() { LINGER_TIME_STOPPING } else { LINGER_TIME_MAX };
        let connection = &mut self.connections[slot as usize];
        connection.due = self.now.after(linger);
        self.set_stage(slot, Stage::Lingering);
        self.rearm(slot);
    }

    /// The driver lets go of the connection.
    pub(super) fn release<D: Driver>(&mut self, slot: Slot, driver: &mut D, reset: bool) {
        if let Some(buffer) = driver.close(slot, reset) {
            self.spares.pool.give_back(buffer);
        }
        let connection = &mut self.connections[slot as usize];
        if let Some(outbox) = connection.outbox.take() {
            self.spares.keep_outbox(outbox);
        }
        connection.protocol.refuse();
        self.change_stage(slot, Stage::Ended);
        self.timers.cancel(slot);
        self.vacate_if_over(slot);
    }

    /// A slot is free when its socket is closed and its CLOSE delivered.
    pub(super) fn vacate_if_over(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        let is_told =
            !connection.flags.contains(Flags::OPENED) || connection.flags.contains(Flags::CLOSE_DELIVERED);
        if connection.stage != Stage::Ended || !is_told {
            return;
        }
        self.uncount_client(slot);
        let connection = &mut self.connections[slot as usize];
        let last = std::mem::replace(connection, Connection::vacant());
        connection.id = last.id;
        self.discard(last.id);
        self.entry(slot).outbox_bytes.set(0);
        self.entry(slot).forget_mailbox(last.id);
        self.entry(slot).set_life(last.id.generation(), Life::None);
        match last.flags.contains(Flags::ENTERED) {
            true => self.gate.leave(),
            false => self.refused_at_gate -= 1,
        }
        if last.flags.contains(Flags::HAS_SIDE) {
            self.table.forget_side(slot);
        }
        self.free.push_back(slot);
        self.live -= 1;
    }

    /// Every connection is told good-bye, spread over a time; what is left at the deadline is
    /// cut.
    pub(super) fn stop(&mut self, frame: CloseFrame, spread: Duration, deadline: Duration) {
        if self.stopping.is_some() {
            return;
        }
        let slots = 0..self.connections.len() as Slot;
        let mut pending = VecDeque::new();
        for slot in slots {
            let connection = &self.connections[slot as usize];
            // The others may still ask, and are answered.
            if connection.stage == Stage::Open {
                pending.push_back((Time::NEVER, connection.id));
            }
        }
        let count = pending.len().max(1) as u32;
        for (index, (at, _)) in (0..).zip(&mut pending) {
            *at = self.now.after(spread * index / count);
        }
        let deadline = self.now.after(deadline);
        let asking_until = Time::NEVER;
        self.stopping = Some(Stopping { frame, deadline, pending, asking_until, spoke_in: self.turns });
        self.say_good_byes();
    }

    pub(super) fn say_good_byes(&mut self) {
        let asking_until = self.leave_askers();
        let Some(stopping) = &mut self.stopping else { return };
        stopping.asking_until = asking_until;
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

    /// A stop does not wait for clients that may never ask for anything; only who has just come
    /// still has a moment. Returns when that is over.
    fn leave_askers(&mut self) -> Time {
        let mut last = Time::NEVER;
        if self.stopping.is_none() || self.asking == 0 || self.live > self.asking {
            return last;
        }
        let handshake = self.settings.timeouts.handshake;
        for slot in 0..self.connections.len() as Slot {
            let connection = &self.connections[slot as usize];
            if connection.stage != Stage::Handshake {
                continue;
            }
            let until = connection.due.before(handshake).after(ASKING_TIME_STOPPING);
            match until <= self.now {
                true => self.set_stage(slot, Stage::Gone { reset: false }),
                false => last = last.min(until),
            }
        }
        last
    }
}

/// How a connection ends once its events are delivered.
pub(super) enum Ending {
    /// Say this (nothing, if the dialect or the moment has no last word), then end the stream.
    Finish(Option<CloseFrame>),
    /// The connection is broken: there is nobody to say anything to.
    Drop,
}

pub(super) struct Stopping {
    pub(super) frame: CloseFrame,
    pub(super) deadline: Time,
    /// Open connections in the order of their good-bye.
    pub(super) pending: VecDeque<(Time, ConnId)>,
    /// When those must have asked who have just come.
    pub(super) asking_until: Time,
    /// The turn of the last good-bye.
    pub(super) spoke_in: u64,
}

/// What a peer may still send after our last word before it gets an RST.
pub(super) const LINGER_BYTES_MAX: u32 = 64 * 1024;
const ASKING_TIME_STOPPING: Duration = Duration::from_millis(500);
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
const LINGER_TIME_STOPPING: Duration = Duration::from_millis(100);
