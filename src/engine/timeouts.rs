//! The clocks of a connection, looked at when its entry in the wheel comes due.

use std::sync::Arc;

use log::info;

use super::Engine;
use super::connection::{Flags, Stage};
use super::event::ClosedBy;
use crate::config::Settings;
use crate::id::{Slot, Time};
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::protocol::deflate::Deflaters;
use crate::protocol::frame::Opcode;
use crate::protocol::http::Refusal;

impl Engine {
    pub(super) fn handle_timeout(&mut self, slot: Slot) {
        let now = self.now;
        let id = self.connections[slot as usize].id;
        let is_stalled = self.stalls(slot);
        let timeouts = &self.settings.timeouts;
        let connection = &mut self.connections[slot as usize];
        match connection.stage {
            Stage::Handshake | Stage::Deciding(_) if now >= connection.due => {
                // Not before the first byte (a browser's spare connection), and not after a 101.
                let can_be_told = connection.protocol.can_be_refused() && self.entry(slot).bytes_in.get() > 0;
                return match can_be_told {
                    true => self.refuse(slot, Refusal::TimedOut),
                    false => self.set_stage(slot, Stage::Gone { reset: false }),
                };
            }
            Stage::Open | Stage::Replying if is_stalled => {
                info!(target: "fullduplex::network", conn = id.to_u64(); "cut: it does not read");
                return self.abort(id, ClosedBy::Timeout);
            }
            Stage::Open => {
                if let Some(wait) = timeouts.ping_timeout.filter(|_| connection.pinged_at != Time::NEVER) {
                    if connection.heard_at > connection.pinged_at || connection.is_held_off() {
                        // Whoever speaks, lives; and whom we don't read can't answer.
                    } else if now >= connection.pinged_at.after(wait) {
                        info!(target: "fullduplex::network", conn = id.to_u64(); "cut: no answer to our ping");
                        return self.abort(id, ClosedBy::Timeout);
                    }
                }
                let is_idle = timeouts.idle.is_some_and(|idle| now >= connection.messaged_at.after(idle));
                if is_idle && !connection.flags.contains(Flags::CROWDED) {
                    let frame = CloseFrame::new(CloseCode::GOING_AWAY, "idle for too long");
                    return self.close(id, frame, ClosedBy::Timeout);
                }
                if now >= connection.due {
                    connection.due = timeouts.ping_interval.map_or(Time::NEVER, |every| now.after(every));
                    // The clock of a Ping that was not answered runs on under the next one.
                    if connection.pinged_at == Time::NEVER || connection.heard_at > connection.pinged_at {
                        connection.pinged_at = now;
                    }
                    self.push_control(slot, Opcode::Ping, &now.0.to_be_bytes());
                }
            }
            Stage::Closing(by) if now >= connection.due => {
                self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), by);
                return self.set_stage(slot, Stage::Gone { reset: true });
            }
            Stage::Finishing if now >= connection.due => {
                return self.set_stage(slot, Stage::Gone { reset: true });
            }
            Stage::Lingering if now >= connection.due => {
                return self.set_stage(slot, Stage::Gone { reset: false });
            }
            Stage::Vacant | Stage::Gone { .. } | Stage::Ended => return,
            _ => {}
        }
        self.rearm(slot);
    }

    /// Has the peer taken too little for too long? Else its time begins anew when it is over.
    fn stalls(&mut self, slot: Slot) -> bool {
        let is_crowded = self.connections[slot as usize].flags.contains(Flags::CROWDED);
        let outbox = self.connections[slot as usize].outbox.as_mut();
        let Some(outbox) = outbox.filter(|outbox| outbox.is_blocked) else { return false };
        if is_crowded {
            // It may not get to its reading before we have read what it writes.
            (outbox.progress_at, outbox.progress_bytes) = (self.now, 0);
            return false;
        }
        if self.now < outbox.progress_at.after(self.settings.timeouts.write_stall) {
            return false;
        }
        // A peer that takes a byte now and then stalls, too.
        if outbox.progress_bytes < self.settings.send.low_water_bytes.max(1) {
            return true;
        }
        outbox.progress_at = self.now;
        outbox.progress_bytes = 0;
        false
    }

    /// Options have changed while the server runs: every clock is looked at anew.
    pub(super) fn apply(&mut self, settings: Arc<Settings>) {
        let interval = settings.timeouts.ping_interval;
        let is_new_interval = interval != self.settings.timeouts.ping_interval;
        if settings.rules.deflate.level != self.settings.rules.deflate.level {
            self.deflaters = Deflaters::default();
        }
        self.settings = settings;
        self.warn_of_settings();
        for slot in 0..self.connections.len() as Slot {
            let connection = &mut self.connections[slot as usize];
            let pings = connection.protocol.dialect().is_some_and(|dialect| dialect.awaits_close());
            if is_new_interval && pings && connection.stage.is_open() {
                // Not all of them at once.
                let share = slot % PING_SHARES + 1;
                connection.due =
                    interval.map_or(Time::NEVER, |every| self.now.after(every * share / PING_SHARES));
            }
            match connection.stage {
                Stage::Vacant | Stage::Gone { .. } | Stage::Ended => {}
                _ => self.rearm(slot),
            }
        }
    }

    /// Enters the connection for the next time that one of its clocks can matter.
    pub(super) fn rearm(&mut self, slot: Slot) {
        let timeouts = &self.settings.timeouts;
        let connection = &self.connections[slot as usize];
        let mut due = connection.due;
        if matches!(connection.stage, Stage::Open | Stage::Replying) {
            if let Some(outbox) = connection.outbox.as_ref().filter(|outbox| outbox.is_blocked) {
                due = due.min(outbox.progress_at.after(timeouts.write_stall));
            }
        }
        if connection.stage == Stage::Open {
            if let Some(wait) = timeouts.ping_timeout {
                let unanswered = connection.pinged_at != Time::NEVER
                    && connection.heard_at <= connection.pinged_at
                    && !connection.is_held_off();
                if unanswered {
                    due = due.min(connection.pinged_at.after(wait));
                }
            }
            if let Some(idle) = timeouts.idle.filter(|_| !connection.flags.contains(Flags::CROWDED)) {
                due = due.min(connection.messaged_at.after(idle));
            }
        }
        self.timers.set(slot, due);
    }
}

/// Pings that begin together are spread over one interval.
const PING_SHARES: u32 = 64;
