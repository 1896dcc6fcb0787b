//! From a new connection to OPEN, or to a refusal.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use log::info;

use super::Engine;
use super::connection::{Asked, Connection, Flags, Stage};
use super::event::{Body, Event, EventKind};
use super::plain::Reply;
use super::table::{CHUNK_SLOTS, Life, PendingRequest};
use crate::driver::Accepted;
use crate::id::{ConnId, Generation, SLOTS_MAX, Slot, Time};
use crate::protocol::Protocol;
use crate::protocol::deflate::Windows;
use crate::protocol::handshake::{self, Offer};
use crate::protocol::http::{Refusal, Request};
use crate::tls::TlsSession;

impl Engine {
    /// Gives a new connection a slot, if one is to be had. Also while the server stops: it was
    /// accepted before the listeners closed.
    pub fn admit<S>(&mut self, accepted: &Accepted<S>) -> Option<Slot> {
        let is_full = self.free.is_empty() && self.connections.len() == SLOTS_MAX;
        if is_full {
            return None;
        }
        let proxies = &self.settings.proxies;
        let (is_announced, is_named_later) =
            (proxies.announces(accepted.peer), proxies.names_later(accepted.peer));
        let entered = self.gate.enter(&self.settings.limits);
        if entered.is_err() {
            self.table.counters.rate_limited.add(1);
        }
        let slot = self.free.pop_front().unwrap_or_else(|| self.new_slot());
        let generation = match self.connections[slot as usize].id {
            ConnId::NONE => Generation::first(self.generation_seed),
            last => last.generation().next(),
        };
        let id = ConnId::new(self.shard, generation, slot);
        let deadline = self.now.after(self.settings.timeouts.handshake);
        self.connections[slot as usize] = Connection {
            id,
            stage: Stage::Handshake,
            protocol: match is_announced {
                true => Protocol::behind_proxy(self.settings.proxies.versions),
                false => Protocol::new(),
            },
            due: deadline,
            heard_at: self.now,
            flags: Flags::READING | if entered.is_ok() { Flags::ENTERED } else { Flags::empty() },
            ..Connection::vacant()
        };
        let tls = accepted.secure.then(|| TlsSession::new(&self.acceptor)).transpose();
        self.entry(slot).reset(generation, accepted.peer, accepted.local.port());
        self.entry(slot).secure.store(accepted.secure, Relaxed);
        self.timers.set(slot, deadline);
        self.live += 1;
        self.asking += 1;
        self.table.counters.accepted.add(1);
        match tls {
            Ok(None) => {}
            Ok(tls) => {
                self.connections[slot as usize].rare.get_or_insert_default().tls = tls.map(Box::new);
            }
            Err(error) => {
                info!(target: "fullduplex::tls", conn = id.to_u64(); "cut {}: {error}", self.client(slot));
                self.set_stage(slot, Stage::Gone { reset: true });
                return Some(slot);
            }
        }
        match entered {
            Err(refusal) => self.refuse_at_gate(slot, refusal),
            Ok(()) if !is_named_later => {
                self.count_client(slot);
            }
            Ok(()) => {}
        }
        Some(slot)
    }

    /// The driver could not take the connection.
    pub fn forget_unadopted(&mut self, slot: Slot) {
        self.change_stage(slot, Stage::Ended);
        self.timers.cancel(slot);
        self.vacate_if_over(slot);
    }

    pub(super) fn new_slot(&mut self) -> Slot {
        let slot = self.connections.len();
        if slot % CHUNK_SLOTS == 0 {
            self.entries.push(self.table.grow());
        }
        self.connections.push(Connection::vacant());
        slot as Slot
    }

    pub(super) fn requested(&mut self, slot: Slot, request: Arc<Request>, offer: Result<Offer, Refusal>) {
        let is_head = request.method() == b"HEAD";
        self.connections[slot as usize].flags.set(Flags::HEAD_ONLY, is_head);
        let is_refused = self.connections[slot as usize].stage != Stage::Handshake;
        if is_refused || !self.learn_client(slot, &request) {
            return;
        }
        match offer {
            Err(Refusal::NotUpgrade) => self.asked_plainly(slot, request),
            Err(refusal) => {
                self.table.counters.handshake_errors.add(1);
                self.refuse(slot, refusal);
            }
            Ok(offer) => self.asked_to_open(slot, request, offer),
        }
    }

    fn asked_to_open(&mut self, slot: Slot, request: Arc<Request>, offer: Offer) {
        let Some((index, parameters)) = self.routes.find_socket(request.path()) else {
            return self.refuse(slot, Refusal::NotFound);
        };
        let route = self.routes.get(index);
        let (wants, streams, number) = (route.wants, route.streams, route.number);
        let tls = self.tls_facts(slot);
        self.table.set_request(slot, PendingRequest { request, parameters, tls });
        let connection = &mut self.connections[slot as usize];
        connection.route = index as u16;
        connection.flags.set(Flags::STREAMS, streams);
        connection.flags.insert(Flags::HAS_SIDE);
        let id = connection.id;
        let entry = self.entry(slot);
        entry.route.store(number, Relaxed);
        entry.set_dialect(offer.dialect);
        entry.set_life(id.generation(), if wants.upgrade { Life::Deciding } else { Life::Accepted });
        self.set_stage(slot, Stage::Deciding(Asked::Socket));
        match wants.upgrade {
            true => self.events.push_back(Event { conn: id, kind: EventKind::Upgrade, body: Body::None }),
            false => self.accept(slot, offer, None, ""),
        }
    }

    pub(super) fn accept(&mut self, slot: Slot, mut offer: Offer, protocol: Option<String>, headers: &str) {
        let id = self.connections[slot as usize].id;
        let Some(pending) = self.table.request(id) else { return };
        let rules = &self.settings.rules;
        let protocol =
            protocol.or_else(|| handshake::choose_protocol(&pending.request, offer.dialect, rules));
        let protocol = protocol.filter(|name| !name.is_empty());
        if let Some(name) = &protocol {
            self.table.set_protocol(slot, name);
        }
        let windows = self.agree_on_deflate(&mut offer);
        let connection = &mut self.connections[slot as usize];
        let secure = !connection.is_plain();
        let Ok(accepted) = connection.protocol.accept(offer, protocol.as_deref(), headers, secure) else {
            return self.lose(slot);
        };
        self.set_stage(slot, Stage::Handshake);
        if self.push(slot, [&accepted.response, &[], &[]]).is_err() {
            return;
        }
        if offer.deflate.is_some() {
            self.entry(slot).set_deflate();
        }
        if let Some(windows) = windows {
            let place = self.connections[slot as usize].protocol.windows();
            *place.expect("what agrees on windows is open") = Some(windows);
        }
        if accepted.is_open {
            self.events.push_back(Event { conn: id, kind: EventKind::Open, body: Body::None });
            self.opened(slot);
        }
        if !accepted.backlog.is_empty() {
            let mut backlog = accepted.backlog;
            self.received_backlog(slot, &mut backlog);
        }
    }

    /// Past the budget a connection shares, and the answer says so.
    fn agree_on_deflate(&self, offer: &mut Offer) -> Option<Box<Windows>> {
        let agreement = offer.deflate.filter(|agreement| agreement.window_bytes() > 0)?;
        let windows = self.gate.windows.windows(agreement, self.settings.rules.deflate.budget_bytes);
        if windows.is_none() {
            offer.deflate = Some(agreement.shared());
        }
        windows
    }

    /// The conversation has begun. The event itself is queued already, in its right place.
    pub(super) fn opened(&mut self, slot: Slot) {
        let now = self.now;
        let ping_due = match self.settings.timeouts.ping_interval {
            Some(interval) => now.after(interval),
            None => Time::NEVER,
        };
        let connection = &mut self.connections[slot as usize];
        let dialect = connection.protocol.dialect();
        connection.flags.insert(Flags::OPENED);
        connection.messaged_at = now;
        let pings = dialect.is_some_and(|dialect| dialect.awaits_close());
        connection.due = if pings { ping_due } else { Time::NEVER };
        let id = connection.id;
        self.set_stage(slot, Stage::Open);
        let entry = self.entry(slot);
        entry.opened_us.set(now.0);
        entry.set_life(id.generation(), Life::Open);
        let counters = &self.table.counters;
        counters.connections.add(1);
        counters.peak_connections.set(counters.peak_connections.get().max(counters.connections.get()));
        if let Some(stopping) = &mut self.stopping {
            // It came before the listeners closed: it is told good-bye as the others are.
            stopping.pending.push_back((now, id));
        }
        self.rearm(slot);
    }

    /// No WebSocket comes of this: the refusal goes out, then the stream ends.
    pub(super) fn refuse(&mut self, slot: Slot, refusal: Refusal) {
        let id = self.connections[slot as usize].id;
        let status = refusal.status();
        info!(target: "fullduplex::handshake", conn = id.to_u64();
            "refused {} with {status}: {refusal}", self.client(slot));
        self.table.counters.rejected.add(1);
        if !self.has_words(slot) {
            return self.set_stage(slot, Stage::Gone { reset: false });
        }
        let with_body = !self.connections[slot as usize].flags.contains(Flags::HEAD_ONLY);
        let response = refusal.response(&self.settings.rules.versions.header(), with_body);
        self.begin_last_answer(slot);
        match response {
            Ok(response) if self.push(slot, [&response, &[], &[]]).is_ok() => self.finish(slot),
            Ok(_) => {}
            Err(_) => self.lose(slot),
        }
    }

    /// The embedder refuses a handshake in its own words.
    pub(super) fn reject(&mut self, slot: Slot, reply: Reply) {
        self.table.counters.rejected.add(1);
        self.begin_last_answer(slot);
        if self.push_reply(slot, reply, "close").is_ok() {
            self.finish(slot);
        }
    }

    pub(super) fn begin_last_answer(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        connection.protocol.refuse();
        let id = connection.id;
        self.entry(slot).set_life(id.generation(), Life::None);
    }
}
