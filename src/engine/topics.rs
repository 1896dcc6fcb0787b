//! Topics: who is in which, shared by all shards and open to every thread.
//!
//! Whoever publishes walks the subscribers once: each has room for the message or not, as with a
//! send from another thread, and is counted so. The message itself then goes to each shard as one
//! command, in its place among all others of its thread, and from there to the shard's subscribers
//! in turns; see `publishing`.
//!
//! Locks are taken in this order: subscriptions, names, group, untold; and nobody is called under
//! one but a mailbox and the watcher. They are fair now and then, as the standard library's are not: a
//! thread that does nothing but publish must not keep a shard from its subscribers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

use super::Command;
use super::table::{Entry, Life, Room, Table};
use super::turn::{Message, Misuse, Sent};
use crate::config::SendLimits;
use crate::id::{ConnId, Slot};
use crate::protocol::deflate::Wish;
use crate::protocol::{Kind, WireForm};

/// All topics of a server. One that nobody is in does not exist.
pub struct Topics {
    hasher: RandomState,
    names: [Mutex<HashMap<Arc<[u8]>, Listed>>; STRIPES],
    /// For each shard what its connections are in, by slot and topic.
    subscriptions: Box<[Mutex<Subscriptions>]>,
    /// For each shard who has come and gone, until its embedder is told; nothing if nobody asks.
    /// Each connection's in their order: while it is open under the lock of the subscriptions, and at its
    /// end nobody else changes anything any more.
    untold: Option<Box<[Mutex<VecDeque<Untold>>]>>,
    topics: AtomicU64,
    /// Topics that ever were.
    numbers: AtomicU64,
    subscribers: AtomicU64,
    watcher: OnceLock<Box<dyn Watcher>>,
}

/// Told which topics this process wants to hear of, in their order, under a lock: it must neither
/// wait nor call back.
pub trait Watcher: Send + Sync {
    /// The first subscriber came.
    fn begun(&self, topic: &[u8]);

    /// The last one left.
    fn ended(&self, topic: &[u8]);
}

struct Listed {
    topic: Arc<Topic>,
    subscribers: u64,
}

/// By slot, by the topic's number, and by the place in its group.
type Subscriptions = BTreeMap<(Slot, u64, usize), Subscription>;

struct Subscription {
    topic: Arc<Topic>,
    /// It waits only for what was published before.
    has_left: bool,
}

pub struct Topic {
    number: u64,
    name: Arc<[u8]>,
    /// For each shard that ever had a subscriber.
    groups: Box<[OnceLock<Box<Mutex<Group>>>]>,
}

/// A topic's subscribers of one shard, and what they have not been sent yet.
#[derive(Default)]
pub(super) struct Group {
    members: Slab<Member>,
    /// Counts comings and goings.
    stamp: u64,
    /// Published, but still on the way through the shard's mailbox.
    underway: usize,
    /// Members that have left, and may still have something coming.
    leavers: Vec<usize>,
    log: VecDeque<Publication>,
    /// Of the log's first, counted from the beginning of time.
    log_start: u64,
    /// Of all that is under way or in the log.
    waiting_bytes: usize,
    sweep: Sweep,
    /// It stands in its shard's list of groups with something to send.
    pub(super) is_listed: bool,
}

struct Member {
    conn: ConnId,
    /// The stamps between which it was one.
    joined: u64,
    left: u64,
    /// The next of the log that it has not been sent.
    next: u64,
}

/// One round through the members.
#[derive(Default)]
struct Sweep {
    cursor: usize,
    /// What everybody has up to here can go when the round is over.
    upto: u64,
}

/// A message on its way to a shard's subscribers of a topic.
pub struct Publication {
    message: Arc<Message>,
    wish: Wish,
    /// Its place among all that the shard was given to send.
    order: u64,
    /// For the members of this moment…
    stamp: u64,
    /// … but for these, in order.
    except: Vec<u32>,
}

/// A message for one subscriber.
pub(super) struct Delivery {
    pub(super) order: u64,
    pub(super) conn: ConnId,
    pub(super) message: Arc<Message>,
    pub(super) wish: Wish,
}

/// Who has something waiting, and what.
#[derive(Default)]
pub(super) struct Found {
    pub(super) members: Vec<ConnId>,
    pub(super) deliveries: VecDeque<Delivery>,
}

/// What became of a message, for each subscriber by what a send would have returned.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcomes {
    pub queued: u64,
    pub high_water: u64,
    pub dropped: u64,
}

/// Somebody has come or gone.
#[derive(Clone)]
pub struct Change {
    pub topic: Arc<Topic>,
    /// Its subscribers now.
    pub subscribers: u64,
}

pub(super) struct Untold {
    pub(super) conn: ConnId,
    pub(super) joined: bool,
    pub(super) change: Change,
}

/// Where a connection was that has left a topic.
#[derive(Clone, Copy)]
pub struct Place {
    pub(super) conn: ConnId,
    index: usize,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.deliveries.is_empty()
    }
}

impl Topic {
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn group(&self, shard: usize) -> Option<MutexGuard<'_, Group>> {
        Some(self.groups.get(shard)?.get()?.lock())
    }
}

impl Topics {
    /// With `is_told` shards hear of who comes and goes, by [`Command::TellChanges`].
    pub fn new(shards: usize, is_told: bool) -> Self {
        Self {
            hasher: RandomState::new(),
            names: Default::default(),
            subscriptions: (0..shards).map(|_| Mutex::default()).collect(),
            untold: is_told.then(|| (0..shards).map(|_| Mutex::default()).collect()),
            topics: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            subscribers: AtomicU64::new(0),
            watcher: OnceLock::new(),
        }
    }

    /// From now on tells who watches; there can be one.
    pub fn set_watcher(&self, watcher: Box<dyn Watcher>) {
        let _ = self.watcher.set(watcher);
    }

    pub fn topics(&self) -> u64 {
        self.topics.load(Relaxed)
    }

    /// Of all topics together.
    pub fn subscribers(&self) -> u64 {
        self.subscribers.load(Relaxed)
    }

    pub fn subscribers_of(&self, name: &[u8]) -> u64 {
        self.stripe(name).get(name).map_or(0, |listed| listed.subscribers)
    }

    /// `None`: it is in it already.
    pub fn subscribe(
        &self,
        conn: ConnId,
        entry: &Entry,
        name: &[u8],
        topics_max: usize,
    ) -> Result<Option<Change>, Misuse> {
        let mut subscriptions = self.subscriptions[conn.shard()].lock();
        // Under this lock: who closes takes it afterwards, and leaves all.
        entry.life_of(conn).unwrap_or(Life::None).is_open()?;
        let mut names = self.stripe(name);
        let listed = names.get_mut(name);
        if listed.as_ref().is_some_and(|listed| place_in(&subscriptions, conn, &listed.topic).is_some()) {
            return Ok(None);
        }
        if entry.topics.load(Relaxed) as usize >= topics_max {
            return Err(Misuse::Limit);
        }
        let change = match listed {
            Some(listed) => {
                listed.subscribers += 1;
                Change { topic: listed.topic.clone(), subscribers: listed.subscribers }
            }
            None => {
                let name: Arc<[u8]> = name.into();
                let groups = self.subscriptions.iter().map(|_| OnceLock::new()).collect();
                let number = self.numbers.fetch_add(1, Relaxed);
                let topic = Arc::new(Topic { number, name: name.clone(), groups });
                names.insert(name.clone(), Listed { topic: topic.clone(), subscribers: 1 });
                self.topics.fetch_add(1, Relaxed);
                if let Some(watcher) = self.watcher.get() {
                    watcher.begun(&name);
                }
                Change { topic, subscribers: 1 }
            }
        };
        drop(names);
        self.subscribers.fetch_add(1, Relaxed);
        self.note(conn, true, &change);
        let topic = change.topic.clone();
        let index = topic.groups[conn.shard()].get_or_init(Box::default).lock().join(conn);
        entry.topics.fetch_add(1, Relaxed);
        let key = (conn.slot(), topic.number, index);
        subscriptions.insert(key, Subscription { topic, has_left: false });
        Ok(Some(change))
    }

    /// `None`: it is not in it. With a place what is still coming must be asked for by
    /// [`Command::Leave`].
    pub fn unsubscribe(&self, conn: ConnId, entry: &Entry, name: &[u8]) -> Option<(Change, Option<Place>)> {
        let mut subscriptions = self.subscriptions[conn.shard()].lock();
        entry.life_of(conn)?;
        let topic = self.find(name)?;
        let index = place_in(&subscriptions, conn, &topic)?;
        let key = (conn.slot(), topic.number, index);
        entry.topics.fetch_sub(1, Relaxed);
        let is_waiting = topic.group(conn.shard()).is_some_and(|mut group| group.leave(index));
        if is_waiting {
            subscriptions.get_mut(&key)?.has_left = true;
        } else {
            subscriptions.remove(&key);
        }
        let change = self.uncount(topic);
        self.note(conn, false, &change);
        Some((change, is_waiting.then_some(Place { index, conn })))
    }

    fn note(&self, conn: ConnId, joined: bool, change: &Change) {
        if let Some(untold) = &self.untold {
            let untold_change = Untold { conn, joined, change: change.clone() };
            untold[conn.shard()].lock().push_back(untold_change);
        }
    }

    /// Who has come and gone since the last time.
    pub(super) fn take_untold(&self, shard: usize) -> VecDeque<Untold> {
        self.untold.as_ref().map_or_else(VecDeque::new, |untold| std::mem::take(&mut *untold[shard].lock()))
    }

    /// A connection is over: it leaves all at once, and nothing more comes.
    pub(super) fn leave_all(&self, conn: ConnId, entry: &Entry) {
        let mut subscriptions = self.subscriptions[conn.shard()].lock();
        let mut left = Vec::new();
        while let Some((&key, _)) = subscriptions.range(all_of(conn)).next() {
            left.extend(subscriptions.remove(&key).map(|subscription| (key.2, subscription)));
        }
        entry.topics.store(0, Relaxed);
        drop(subscriptions);
        // Who has left already goes with the end of the round.
        for (index, Subscription { topic, .. }) in left.into_iter().filter(|(_, of)| !of.has_left) {
            if let Some(mut group) = topic.group(conn.shard()) {
                group.remove(index);
            }
            let change = self.uncount(topic);
            self.note(conn, false, &change);
        }
    }

    /// What a connection was published and not sent, of all its topics, in no order.
    pub(super) fn take_pending(&self, conn: ConnId, deliveries: &mut VecDeque<Delivery>) {
        let subscriptions = self.subscriptions[conn.shard()].lock();
        for (&(_, _, index), subscription) in subscriptions.range(all_of(conn)) {
            if let Some(mut group) = subscription.topic.group(conn.shard()) {
                group.take_pending(Place { index, conn }, usize::MAX, deliveries);
            }
        }
    }

    /// A connection has left this topic, and got what it still had coming.
    pub(super) fn let_go(&self, topic: &Topic, place: Place) {
        let key = (place.conn.slot(), topic.number, place.index);
        let mut subscriptions = self.subscriptions[place.conn.shard()].lock();
        // It may be over meanwhile, and another have its slot and its place.
        if subscriptions.get(&key).is_some_and(|subscription| subscription.has_left) {
            subscriptions.remove(&key);
        }
    }

    /// Counts a message for every subscriber of these shards that has room for it, and leaves it
    /// with `post`, which says whether the shard is still there. `own` is the shard whose turn this
    /// is called in. What its subscribers are then sent is in their outboxes at the turn's end.
    pub fn publish(
        &self,
        name: &[u8],
        message: &Arc<Message>,
        wish: Wish,
        skipped: ConnId,
        around: &Surroundings<'_>,
        mut post: impl FnMut(usize, Command) -> bool,
    ) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let Some(topic) = self.find(name) else { return outcomes };
        let mut full = Vec::new();
        for (shard, table) in around.tables.iter().enumerate() {
            let Some(mut group) = topic.group(shard) else { continue };
            let is_for = Audience { table, limits: around.limits, skipped };
            let Some(publication) = group.publish(message, wish, &is_for, &mut outcomes, &mut full) else {
                continue;
            };
            let len = publication.bytes();
            let command = Command::Publish { topic: topic.clone(), publication: Box::new(publication) };
            if around.own == Some(shard) {
                drop(group);
                post(shard, command);
            } else if !post(shard, command) {
                // Under the group's lock, so that the order in the mailbox is that of the stamps.
                group.underway -= 1;
                group.waiting_bytes -= len;
            }
        }
        for (conn, is_first) in full {
            let command = Command::for_full(conn, around.limits, is_first);
            command.map(|command| post(conn.shard(), command));
        }
        outcomes
    }

    fn find(&self, name: &[u8]) -> Option<Arc<Topic>> {
        self.stripe(name).get(name).map(|listed| listed.topic.clone())
    }

    fn uncount(&self, topic: Arc<Topic>) -> Change {
        self.subscribers.fetch_sub(1, Relaxed);
        let mut names = self.stripe(&topic.name);
        let subscribers = names.get_mut(&topic.name).map_or(0, |listed| {
            listed.subscribers -= 1;
            listed.subscribers
        });
        if subscribers == 0 && names.remove(&topic.name).is_some() {
            self.topics.fetch_sub(1, Relaxed);
            if let Some(watcher) = self.watcher.get() {
                watcher.ended(&topic.name);
            }
        }
        drop(names);
        Change { topic, subscribers }
    }

    fn stripe(&self, name: &[u8]) -> MutexGuard<'_, HashMap<Arc<[u8]>, Listed>> {
        self.names[self.hasher.hash_one(name) as usize % STRIPES].lock()
    }
}

/// Where somebody publishes.
pub struct Surroundings<'a> {
    /// Of all shards.
    pub tables: &'a [Arc<Table>],
    pub limits: &'a SendLimits,
    pub own: Option<usize>,
}

struct Audience<'a> {
    table: &'a Table,
    limits: &'a SendLimits,
    skipped: ConnId,
}

impl Group {
    fn join(&mut self, conn: ConnId) -> usize {
        self.stamp += 1;
        let member = Member { conn, joined: self.stamp, left: u64::MAX, next: self.log_end() };
        self.members.insert(member)
    }

    /// True: something is still coming for it.
    fn leave(&mut self, index: usize) -> bool {
        self.stamp += 1;
        let end = self.log_end();
        let Some(member) = self.members.get_mut(index) else { return false };
        member.left = self.stamp;
        if self.underway == 0 && member.next == end {
            self.remove(index);
            return false;
        }
        self.leavers.push(index);
        true
    }

    fn remove(&mut self, index: usize) {
        self.members.try_remove(index);
        if self.members.is_empty() {
            self.members = Slab::new();
        }
    }

    /// Nothing, if nobody gets it.
    fn publish(
        &mut self,
        message: &Arc<Message>,
        wish: Wish,
        audience: &Audience<'_>,
        outcomes: &mut Outcomes,
        full: &mut Vec<(ConnId, bool)>,
    ) -> Option<Publication> {
        let len = message.payload.len();
        // One slow shard must not keep any number of messages, however many connections share them.
        let is_crowded = self.waiting_bytes + len > audience.limits.limit_bytes;
        let (mut except, mut is_for_somebody) = (Vec::new(), false);
        audience.table.with_entries(|entries| {
            for (index, member) in &self.members {
                if member.left != u64::MAX {
                    continue;
                }
                let room = match entries.get(member.conn) {
                    Some(entry) if member.conn != audience.skipped => {
                        room_for(entry, member.conn, message, audience, is_crowded)
                    }
                    _ => Some(Room::Gone),
                };
                match room {
                    Some(Room::Taken(Sent::Queued)) => outcomes.queued += 1,
                    Some(Room::Taken(Sent::HighWater)) => outcomes.high_water += 1,
                    Some(Room::Full { is_first }) => {
                        outcomes.dropped += 1;
                        audience.table.counters.dropped_messages.fetch_add(1, Relaxed);
                        full.push((member.conn, is_first));
                    }
                    Some(Room::Gone) => {}
                    None => outcomes.dropped += 1,
                }
                match room {
                    Some(Room::Taken(_)) => is_for_somebody = true,
                    _ => except.push(index as u32),
                }
            }
        });
        if !is_for_somebody {
            return None;
        }
        let publication = Publication { message: message.clone(), wish, order: 0, stamp: self.stamp, except };
        self.underway += 1;
        self.waiting_bytes += publication.bytes();
        Some(publication)
    }

    /// It has come through the mailbox.
    pub(super) fn append(&mut self, publication: Publication, order: u64) {
        self.underway -= 1;
        self.log.push_back(Publication { order, ..publication });
    }

    /// What waits for some of the members, at most so many, in a round that goes on with the next
    /// call: for how many, and whether there is more. When other topics may have something for them,
    /// too, it gives only their names; what waits must then be asked for before the next call.
    pub(super) fn visit(&mut self, most: usize, is_alone: bool, found: &mut Found) -> (usize, bool) {
        let (mut visited, mut looked) = (0, 0);
        while !self.log.is_empty() {
            if self.sweep.cursor == 0 {
                self.sweep.upto = self.log_end();
            }
            // Those who have come since the round began have nothing from before its end.
            while self.sweep.cursor < self.members.capacity() {
                if visited == most || looked == LOOKS_PER_VISIT * most {
                    return (visited, true);
                }
                let index = self.sweep.cursor;
                self.sweep.cursor += 1;
                looked += 1;
                let Some(&Member { conn, next, left, .. }) = self.members.get(index) else { continue };
                // Who has left is in no list any more.
                if is_alone || left != u64::MAX {
                    let had = found.deliveries.len();
                    self.take_pending(Place { index, conn }, MESSAGES_PER_VISIT, &mut found.deliveries);
                    visited += usize::from(found.deliveries.len() > had);
                    self.sweep.upto = self.sweep.upto.min(self.members[index].next);
                } else if next < self.log_end() {
                    found.members.push(conn);
                    visited += 1;
                }
            }
            if !found.members.is_empty() {
                return (visited, true);
            }
            self.sweep.cursor = 0;
            while self.log_start < self.sweep.upto {
                let done = self.log.pop_front().expect("the log ends behind it");
                self.waiting_bytes -= done.bytes();
                self.log_start += 1;
            }
        }
        if self.underway == 0 {
            // With an empty log they have all they can get.
            for index in std::mem::take(&mut self.leavers) {
                self.remove(index);
            }
        }
        self.log.shrink_to(LOG_KEPT);
        (visited, false)
    }

    fn take_pending(&mut self, place: Place, most: usize, deliveries: &mut VecDeque<Delivery>) {
        let Place { index, conn } = place;
        let Some(member) = self.members.get_mut(index).filter(|member| member.conn == conn) else { return };
        let from = (member.next - self.log_start) as usize;
        for publication in self.log.range(from..).take(most) {
            member.next += 1;
            let was_there = member.joined <= publication.stamp && publication.stamp < member.left;
            if was_there && publication.except.binary_search(&(index as u32)).is_err() {
                let &Publication { order, wish, ref message, .. } = publication;
                deliveries.push_back(Delivery { order, conn, message: message.clone(), wish });
            }
        }
    }

    fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }
}

impl Publication {
    /// In memory, beside what its subscribers count.
    fn bytes(&self) -> usize {
        self.message.payload.len() + self.except.len() * size_of::<u32>() + size_of::<Self>()
    }
}

/// Counts a message that will be sent to a connection, if there is room. `None`: it can't be sent
/// there, whatever room there is.
fn room_for(
    entry: &Entry,
    conn: ConnId,
    message: &Message,
    audience: &Audience<'_>,
    is_crowded: bool,
) -> Option<Room> {
    if entry.life_of(conn) != Some(Life::Open) {
        return Some(Room::Gone);
    }
    let is_sayable = message.kind == Kind::Text || entry.dialect().wire_form() != WireForm::Hixie;
    if !is_sayable || entry.begun().then_whole().is_err() {
        return None;
    }
    if is_crowded {
        // The shard is behind, and not the peer: nobody is closed for it.
        entry.dropped.fetch_add(1, Relaxed);
        audience.table.counters.dropped_messages.fetch_add(1, Relaxed);
        return None;
    }
    Some(entry.take_room(conn, message.payload.len(), audience.limits))
}

/// Where a connection is in a topic, if it is.
fn place_in(subscriptions: &Subscriptions, conn: ConnId, topic: &Topic) -> Option<usize> {
    let places = (conn.slot(), topic.number, 0)..=(conn.slot(), topic.number, usize::MAX);
    let mut found = subscriptions.range(places).filter(|(_, subscription)| !subscription.has_left);
    found.next().map(|(&(_, _, index), _)| index)
}

fn all_of(conn: ConnId) -> RangeInclusive<(Slot, u64, usize)> {
    (conn.slot(), 0, 0)..=(conn.slot(), u64::MAX, usize::MAX)
}

const STRIPES: usize = 16;
/// Of one topic to one connection before the others have their turn.
const MESSAGES_PER_VISIT: usize = 64;
/// Members that have everything are passed over quickly, but not for ever.
const LOOKS_PER_VISIT: usize = 16;
const LOG_KEPT: usize = 64;
