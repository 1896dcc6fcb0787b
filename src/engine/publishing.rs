//! What was published reaches the shard's subscribers: a bounded number of them in a turn, so that
//! a topic of hundreds of thousands holds nobody up, and each with all that waits for it at once, so
//! that many messages cost one write.
//!
//! A connection that is sent something else, or is closed, gets what waits for it first: to one
//! connection the messages of a thread arrive in the order in which it sent and published them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Engine;
use super::event::{Body, Event, EventKind};
use super::topics::{Place, Publication, Topic};
use super::turn::Handler;
use super::writing::Outgoing;
use crate::id::ConnId;

impl Engine {
    pub(super) fn publish(&mut self, topic: Arc<Topic>, publication: Publication) {
        let Some(mut group) = topic.group(self.shard.into()) else { return };
        group.append(publication);
        let is_listed = std::mem::replace(&mut group.is_listed, true);
        drop(group);
        if !is_listed {
            self.publishing.push_back(topic);
        }
    }

    pub(super) fn leave(&mut self, topic: &Topic, place: Place) {
        if let Some(mut group) = topic.group(self.shard.into()) {
            group.take_last(place, &mut self.deliveries);
        }
        self.send_deliveries();
    }

    /// Is there anything that a subscriber has not been sent?
    pub(super) fn is_publishing(&self) -> bool {
        !self.publishing.is_empty() || !self.deliveries.is_empty()
    }

    /// distribute: this turn's share of what was published goes into outboxes.
    pub fn distribute(&mut self) {
        // What a panic has left.
        self.send_deliveries();
        let mut visits_left = VISITS_PER_TURN;
        while visits_left > 0 {
            let Some(topic) = self.publishing.pop_front() else { break };
            let share = VISITS_PER_SHARE.min(visits_left);
            let (visits, goes_on) = self.visit(&topic, share);
            visits_left -= visits.clamp(1, visits_left);
            if goes_on {
                self.publishing.push_back(topic);
            }
            self.send_deliveries();
        }
    }

    fn visit(&mut self, topic: &Topic, most: usize) -> (usize, bool) {
        let Some(mut group) = topic.group(self.shard.into()) else { return (0, false) };
        let (visits, goes_on) = group.visit(most, &mut self.deliveries);
        group.is_listed = goes_on;
        (visits, goes_on)
    }

    /// What was published for a connection goes before what it is sent now.
    #[inline]
    pub(super) fn settle(&mut self, conn: ConnId) {
        if !self.publishing.is_empty() {
            self.settle_now(conn);
        }
    }

    fn settle_now(&mut self, conn: ConnId) {
        let Some(slot) = self.find(conn) else { return };
        let entry = self.entry(slot);
        // What is published to it counts as bytes in the mailbox.
        if entry.topics.load(Relaxed) > 0 && entry.mailbox_bytes() > 0 {
            self.topics.take_pending(conn, &mut self.deliveries);
            self.send_deliveries();
        }
    }

    fn send_deliveries(&mut self) {
        while let Some(delivery) = self.deliveries.pop_front() {
            let message = &delivery.message;
            self.current = Some(delivery.conn.slot());
            self.send_counted(delivery.conn, message.kind, &Outgoing::Message(message), true, delivery.wish);
            self.current = None;
        }
    }

    /// A connection is in no topic any more when its CLOSE is delivered.
    pub(super) fn leave_all(&mut self, conn: ConnId, arena: &[u8], handler: &mut impl Handler) {
        let left = self.topics.leave_all(conn, self.entry(conn.slot()));
        let route = self.connections[conn.slot() as usize].route as usize;
        if !self.routes.get(route).wants.topic {
            return;
        }
        for change in left {
            let kind = EventKind::Topic { joined: false, subscribers: change.subscribers };
            let event = Event { conn, kind, body: Body::copied(change.topic.name()) };
            self.current = Some(conn.slot());
            self.hand_over(&event, route, arena, &[], handler);
            self.current = None;
        }
    }
}

/// Subscribers that get something in one turn: so many writes. A millisecond, roughly.
const VISITS_PER_TURN: usize = 512;
/// Of one topic before the next has its turn.
const VISITS_PER_SHARE: usize = 128;
