//! From a new connection to OPEN, or to a refusal.

use std::collections::TryReserveError;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use log::info;

use super::Engine;
use super::connection::{Connection, Flags, Stage};
use super::event::{Body, Event, EventKind};
use super::table::{CHUNK_SLOTS, Life, PendingRequest};
use crate::config::HttpPages;
use crate::driver::Accepted;
use crate::id::{ConnId, Generation, SLOTS_MAX, Slot, Time};
use crate::protocol::handshake::{self, Offer};
use crate::protocol::http::{self, Refusal, Request};

/// Pages that the server answers itself, before any route.
pub trait Pages: Send + Sync {
    fn page(&self, path: &str, options: &HttpPages) -> Option<Page>;
}

/// No pages at all.
impl Pages for () {
    fn page(&self, _: &str, _: &HttpPages) -> Option<Page> {
        None
    }
}

/// One such page.
pub struct Page {
    pub content_type: &'static str,
    pub body: String,
}

impl Engine {
    /// Gives a new connection a slot, if one is to be had.
    pub fn admit<S>(&mut self, accepted: &Accepted<S>) -> Option<Slot> {
        let is_full = self.free.is_empty() && self.connections.len() == SLOTS_MAX;
        if self.stopping.is_some() || is_full {
            return None;
        }
        let entered = self.gate.enter(accepted.peer.ip().to_canonical(), &self.settings.limits, self.now);
        if entered.is_err() {
            self.table.counters.rate_limited.add(1);
            // A refusal has its price, too: a storm of refused ones is only cut.
            if self.refused_at_gate >= REFUSED_AT_GATE_MAX {
                return None;
            }
            self.refused_at_gate += 1;
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
            deadline,
            heard_at: self.now,
            entered: entered.ok(),
            flags: Flags { reading: true, ..Flags::default() },
            ..Connection::vacant()
        };
        self.entry(slot).reset(generation, accepted.peer, accepted.local);
        self.timers.set(slot, deadline);
        self.live += 1;
        self.table.counters.accepted.add(1);
        if let Err(refusal) = entered {
            self.refuse(slot, refusal);
        }
        Some(slot)
    }

    /// The driver could not take the connection.
    pub fn forget_unadopted(&mut self, slot: Slot) {
        self.connections[slot as usize].stage = Stage::Ended;
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
        if self.stopping.is_some() {
            return self.refuse(slot, Refusal::Stopping);
        }
        let is_head = request.method() == b"HEAD";
        let is_plain = offer == Err(Refusal::NotUpgrade) && (request.method() == b"GET" || is_head);
        if is_plain {
            if let Some(page) = self.pages.page(request.path(), &self.settings.http) {
                let headers = format!("Content-Type: {}\r\nCache-Control: no-store\r\n", page.content_type);
                let response = http::response(200, &headers, "close", page.body.as_bytes(), !is_head);
                return self.answer(slot, response);
            }
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
        if offer.is_err() && !is_plain {
            return self.refuse(slot, Refusal::NotGet);
        }
        self.table.set_request(slot, PendingRequest { request, parameters });
        let (wants, streams) = (self.routes.get(route).wants, self.routes.get(route).streams);
        let connection = &mut self.connections[slot as usize];
        connection.route = route as u32;
        connection.flags.streams = streams;
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
                self.entry(slot).set_life(id.generation(), Life::Accepted);
                self.accept(slot, offer, None, "");
            }
            Err(_) if !wants.other => self.refuse(slot, Refusal::NotFound),
            _ => self.events.push_back(Event { conn: id, kind, body: Body::None }),
        }
    }

    pub(super) fn accept(&mut self, slot: Slot, offer: Offer, protocol: Option<String>, headers: &str) {
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
        let Ok(accepted) = connection.protocol.accept(offer, protocol.as_deref(), headers, false) else {
            return self.lose(slot);
        };
        self.set_stage(slot, Stage::Handshake);
        if self.push(slot, [&accepted.response, &[], &[]]).is_err() {
            return;
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

    /// The conversation has begun. The event itself is queued already, in its right place.
    pub(super) fn opened(&mut self, slot: Slot) {
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

    /// No WebSocket comes of this: the refusal goes out, then the stream ends.
    pub(super) fn refuse(&mut self, slot: Slot, refusal: Refusal) {
        let id = self.connections[slot as usize].id;
        info!(target: "fullduplex::handshake", conn = id.to_u64(); "refused with {}: {refusal}", refusal.status());
        self.table.counters.rejected.add(1);
        self.answer(slot, refusal.response(&self.settings.rules.versions.header()));
    }

    pub(super) fn answer(&mut self, slot: Slot, response: Result<Vec<u8>, TryReserveError>) {
        let connection = &mut self.connections[slot as usize];
        connection.protocol.refuse();
        let id = connection.id;
        self.entry(slot).set_life(id.generation(), Life::None);
        match response {
            Ok(response) => {
                if self.push(slot, [&response, &[], &[]]).is_ok() {
                    self.finish(slot);
                }
            }
            Err(_) => self.lose(slot),
        }
    }
}

/// Connections of a shard that are being told that they can't come in.
const REFUSED_AT_GATE_MAX: usize = 1024;
