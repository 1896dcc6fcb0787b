//! TLS between the driver and the conversation: what comes is opened before it is received, what
//! goes is sealed before it is written.

use std::io::IoSlice;
use std::sync::Arc;

use log::{debug, info};

use super::Engine;
use super::connection::{Flags, Stage};
use super::ending::Ending;
use super::event::ClosedBy;
use super::receiving::Source;
use crate::driver::Driver;
use crate::id::Slot;
use crate::protocol::Announcement;
use crate::protocol::close::{CloseCode, CloseFrame};
use crate::protocol::http::Refusal;
use crate::tls::{TlsError, TlsFacts, TlsSession};

impl Engine {
    /// What came on a connection with TLS.
    pub(super) fn received_sealed(&mut self, slot: Slot, source: Source, bytes: &mut [u8]) {
        let connection = &mut self.connections[slot as usize];
        // A proxy speaks before the client does.
        let (source, bytes) = match connection.protocol.receive_announcement(bytes) {
            Ok(Announcement::NotAwaited) => (source, bytes),
            Ok(Announcement::Partial) => return,
            Ok(Announcement::Whole(announced, taken)) => {
                self.announced(slot, announced);
                if self.connections[slot as usize].stage != Stage::Handshake {
                    return;
                }
                (source.skip(taken), &mut bytes[taken..])
            }
            Err(error) => return self.misannounced(slot, error),
        };
        let connection = &mut self.connections[slot as usize];
        let id = connection.id;
        let Some(tls) = connection.tls_mut().filter(|_| !bytes.is_empty()) else { return };
        if tls.is_untouched() && !TlsSession::begins_with(bytes) {
            connection.end_tls();
            self.table.counters.handshake_errors.add(1);
            return self.refuse(slot, Refusal::NotTls);
        }
        if !tls.is_established() && self.handshakes_in_turn >= HANDSHAKES_PER_TURN {
            // Signing takes its time, and the open connections want theirs.
            if !tls.is_postponed() {
                self.postponed.push_back(id);
            }
            match tls.postpone(bytes) {
                // Meanwhile nothing more is read from it.
                Ok(()) => self.mark_dirty(slot),
                Err(error) => self.tls_failed(slot, &error),
            }
            return;
        }
        self.open_sealed(slot, source, bytes);
    }

    /// Goes on with handshakes that the last turn had no time for.
    pub(super) fn resume_handshakes(&mut self) {
        while self.handshakes_in_turn < HANDSHAKES_PER_TURN {
            let Some(conn) = self.postponed.pop_front() else { return };
            let Some(slot) = self.find(conn) else { continue };
            self.current = Some(slot);
            let connection = &self.connections[slot as usize];
            if connection.stage == Stage::Handshake && !connection.is_plain() {
                self.mark_dirty(slot);
                self.open_sealed(slot, Source::Elsewhere, &mut []);
            }
        }
    }

    fn open_sealed(&mut self, slot: Slot, source: Source, bytes: &mut [u8]) {
        let (mut plain, mut sealed) =
            (std::mem::take(&mut self.scratch.plain), std::mem::take(&mut self.scratch.sealed));
        let connection = &mut self.connections[slot as usize];
        let tls = connection.tls_mut().expect("only what has a session is opened");
        let was_established = tls.is_established();
        let result = tls.receive(bytes, &mut plain, &mut sealed);
        let is_peer_done = tls.is_peer_done() && !connection.flags.contains(Flags::PEER_FINISHED);
        if !sealed.is_empty() {
            self.handshakes_in_turn += usize::from(!was_established);
            // If it fails the connection is lost, and what it said does not matter.
            let _ = self.push_sealed(slot, &sealed);
        }
        if !plain.is_empty() {
            // Back to where it came from: what lies in the arena is lent on without a copy.
            match bytes.get_mut(..plain.len()) {
                Some(place) => {
                    place.copy_from_slice(&plain);
                    self.received_plain(slot, source, place);
                }
                None => self.received_plain(slot, Source::Elsewhere, &mut plain),
            }
        }
        plain.clear();
        sealed.clear();
        (self.scratch.plain, self.scratch.sealed) = (plain, sealed);
        match result {
            Ok(()) if is_peer_done => self.peer_finished(slot),
            Ok(()) => {}
            Err(error) => self.tls_failed(slot, &error),
        }
    }

    fn tls_failed(&mut self, slot: Slot, error: &TlsError) {
        let connection = &mut self.connections[slot as usize];
        let conn = connection.id.to_u64();
        if *error == TlsError::NoMemory {
            return self.lose(slot);
        }
        match connection.stage {
            Stage::Open | Stage::Closing(_) => {
                info!(target: "fullduplex::tls", conn = conn; "closed: {error}");
                let by = match connection.stage {
                    Stage::Closing(by) => by,
                    _ => ClosedBy::Protocol,
                };
                self.tell_close(slot, &CloseFrame::new(CloseCode::ABNORMAL, ""), by);
                self.endings.push((slot, Ending::Finish(None)));
            }
            Stage::Handshake | Stage::Deciding(_) | Stage::Replying => {
                info!(target: "fullduplex::tls", conn = conn; "refused {}: {error}", self.client(slot));
                self.table.counters.handshake_errors.add(1);
                self.begin_last_answer(slot);
                // The alert still goes out.
                self.finish(slot);
            }
            Stage::Vacant | Stage::Finishing | Stage::Lingering | Stage::Gone { .. } | Stage::Ended => {}
        }
    }

    /// The stream has ended; did the peer say that it would? Else anybody may have cut it.
    pub(super) fn is_truncated(&self, slot: Slot) -> bool {
        let connection = &self.connections[slot as usize];
        let is_truncated = connection.tls().is_some_and(|tls| !tls.is_peer_done());
        if is_truncated {
            debug!(target: "fullduplex::tls", conn = connection.id.to_u64(); "the stream ended without close_notify");
        }
        is_truncated
    }

    /// All is written: the peer hears that nothing more comes. True if that is to be written, too.
    pub(super) fn says_good_bye(&mut self, slot: Slot) -> bool {
        let connection = &mut self.connections[slot as usize];
        if connection.stage != Stage::Finishing || connection.outbox.is_some() {
            return false;
        }
        // What the peer still says is dropped: the session has done its work.
        let Some(mut tls) = connection.end_tls() else { return false };
        let mut sealed = std::mem::take(&mut self.scratch.sealed);
        let said = tls.close(&mut sealed).is_ok() && self.push_sealed(slot, &sealed).is_ok();
        sealed.clear();
        self.scratch.sealed = sealed;
        said
    }

    /// The connection is let go of without a flush. "Each party MUST send a close_notify alert
    /// before closing its write side of the connection" (RFC 8446, 6.1), if it can be sent now.
    pub(super) fn say_good_bye_at_last<D: Driver>(&mut self, slot: Slot, driver: &mut D) {
        let connection = &mut self.connections[slot as usize];
        let is_empty = connection.outbox.is_none();
        let Some(tls) = connection.tls_mut().filter(|_| is_empty) else { return };
        let mut sealed = std::mem::take(&mut self.scratch.sealed);
        if tls.is_established() && tls.close(&mut sealed).is_ok() && !sealed.is_empty() {
            let _ = driver.send(slot, &[IoSlice::new(&sealed)]);
        }
        sealed.clear();
        self.scratch.sealed = sealed;
    }

    /// What the embedder may know of the session.
    pub(super) fn tls_facts(&self, slot: Slot) -> Option<Arc<TlsFacts>> {
        self.connections[slot as usize].tls().map(|tls| Arc::new(tls.facts()))
    }

    /// Can the peer understand what we would say?
    pub(super) fn has_words(&self, slot: Slot) -> bool {
        self.connections[slot as usize].tls().is_none_or(|tls| tls.is_established())
    }
}

/// Answers to a client's hello in one turn: each takes as long as hundreds of messages.
const HANDSHAKES_PER_TURN: usize = 4;
