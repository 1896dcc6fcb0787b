//! What was published reaches the shard's subscribers: a bounded number of them in a turn, so that
//! a topic of hundreds of thousands holds nobody up, and each with all that waits for it at once, so
//! that many messages cost one write.
//!
//! A connection that is sent something else, or is closed, gets what waits for it first: to one
//! connection the messages of a thread arrive in the order in which it sent and published them.

use std::sync::Arc;

use super::Engine;
use super::connection::{Flags, Stage};
use super::event::{Body, Event, EventKind};
use super::topics::{Change, Place, Publication, Topic, Untold};
use super::writing::Outgoing;
use crate::id::ConnId;

impl Engine {
    pub(super) fn publish(&mut self, topic: Arc<Topic>, publication: Publication) {
        let Some(mut group) = topic.group(self.shard.into()) else { return };
        self.published += 1;
        group.append(publication, self.published);
        let is_listed = std::mem::replace(&mut group.is_listed, true);
        drop(group);
        if !is_listed {
            self.publishing.push_back(topic);
        }
    }

    pub(super) fn leave(&mut self, topic: &Topic, place: Place) {
        self.settle(place.conn);
        self.topics.let_go(topic, place);
    }

    /// Is there anything that a subscriber has not been sent?
    #[inline(always)]
    pub(super) fn is_publishing(&self) -> bool {
        !self.publishing.is_empty() || !self.found.is_empty()
    }

    /// distribute: this turn's share of what was published goes into outboxes.
    #[inline]
    pub fn distribute(&mut self) {
        if self.is_publishing() {
            self.distribute_share();
        }
    }

    fn distribute_share(&mut self) {
        // What a panic has left.
        self.send_found();
        // As many as others are sent something, so that neither waits long for the other. With few
        // the turn is short, and who has not been visited yet gets what is published next with it.
        let mut visits_left = self.dirty.len().clamp(VISITS_PER_TURN_MIN, VISITS_PER_TURN_MAX);
        while visits_left > 0 {
            let Some(topic) = self.publishing.pop_front() else { break };
            let visits = self.visit(topic, VISITS_PER_SHARE.min(visits_left));
            visits_left -= visits.clamp(1, visits_left);
            self.send_found();
        }
    }

    /// Finds what waits for some of a topic's subscribers, and for how many.
    fn visit(&mut self, topic: Arc<Topic>, most: usize) -> usize {
        let is_alone = self.publishing.is_empty();
        let Some(mut group) = topic.group(self.shard.into()) else { return 0 };
        let (visits, goes_on) = group.visit(most, is_alone, &mut self.found);
        group.is_listed = goes_on;
        drop(group);
        if goes_on {
            self.publishing.push_back(topic);
        }
        visits
    }

    /// What was published for a connection goes before what it is sent now.
    #[inline]
    pub(super) fn settle(&mut self, conn: ConnId) {
        if self.is_publishing() {
            // What is published to it counts as bytes in the mailbox.
            let is_waiting = |slot| self.entry(slot).mailbox_bytes() > 0;
            if self.find(conn).is_some_and(is_waiting) {
                self.settle_now(conn);
            }
        }
    }

    fn settle_now(&mut self, conn: ConnId) {
        let deliveries = &mut self.found.deliveries;
        self.topics.take_pending(conn, deliveries);
        deliveries.make_contiguous().sort_unstable_by_key(|delivery| delivery.order);
        self.send_deliveries();
    }

    fn send_found(&mut self) {
        self.send_deliveries();
        while let Some(conn) = self.found.members.pop() {
            self.settle_now(conn);
        }
    }

    fn send_deliveries(&mut self) {
        while let Some(delivery) = self.found.deliveries.pop_front() {
            let message = &delivery.message;
            self.current = Some(delivery.conn.slot());
            self.send_counted(delivery.conn, message.kind, &Outgoing::Message(message), true, delivery.wish);
            self.current = None;
        }
    }

    /// Who has come to a topic and gone is told, in that order; who is over meanwhile before its CLOSE.
    pub(super) fn tell_changes(&mut self) {
        for untold in self.topics.take_untold(self.shard.into()) {
            let connection = &self.connections[untold.conn.slot() as usize];
            // Its stream may have ended long ago.
            let is_there = connection.id == untold.conn && connection.stage != Stage::Vacant;
            if !is_there || !self.routes.get(connection.route as usize).wants.topic {
                continue;
            }
            if connection.flags.contains(Flags::CLOSE_QUEUED) {
                self.last_changes.entry(untold.conn).or_default().push(untold);
            } else {
                self.events.push_back(event_of(&untold));
            }
        }
    }

    /// A connection that is over is in no topic any more. If somebody must be told of that, its
    /// CLOSE is queued behind it.
    pub(super) fn leave_all(&mut self, close: Event) -> Option<Event> {
        let conn = close.conn;
        // What was published before it ended goes out as what was sent before does.
        self.settle(conn);
        self.topics.leave_all(conn, self.entry(conn.slot()));
        self.tell_changes();
        let Some(changes) = self.last_changes.remove(&conn) else { return Some(close) };
        self.events.push_front(close);
        changes.iter().rev().for_each(|untold| self.events.push_front(event_of(untold)));
        None
    }
}

fn event_of(untold: &Untold) -> Event {
    let Untold { conn, joined, change: Change { topic, subscribers } } = untold;
    let kind = EventKind::Topic { joined: *joined, subscribers: *subscribers };
    Event { conn: *conn, kind, body: Body::copied(topic.name()) }
}

/// Subscribers that get something in one turn: so many writes, which take a quarter of a millisecond
/// here. With fewer a turn's own cost would begin to show.
const VISITS_PER_TURN_MIN: usize = 64;
const VISITS_PER_TURN_MAX: usize = 512;
/// Of one topic before the next has its turn.
const VISITS_PER_SHARE: usize = 64;
