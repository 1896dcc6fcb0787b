//! One timer wheel per shard: when to look at a connection again.
//!
//! A connection has one entry. Traffic doesn't move it (that would cost every message): it
//! comes due, the connection looks at its clocks, and is entered again where it now belongs.

use crate::id::{Slot, Time};

/// Due times by slot. Entering, moving and removing cost the same however many there are.
pub struct Timers {
    nodes: Vec<Node>,
    /// The first entry of each bucket.
    buckets: Vec<Slot>,
    /// One bit a bucket: is anything in it?
    occupied: [u64; BUCKETS / 64],
    /// Everything before this tick has been handed out.
    tick: u64,
    /// No entry is due before this tick: asked every turn, so it is not searched for.
    earliest: u64,
    len: usize,
}

#[derive(Clone, Copy)]
struct Node {
    next: Slot,
    previous: Slot,
    /// `NOWHERE`: not entered. Nothing is due later than in one round, so it says when, too.
    bucket: u16,
}

impl Timers {
    pub fn new(now: Time) -> Self {
        Self {
            nodes: Vec::new(),
            buckets: vec![NONE; BUCKETS],
            occupied: [0; BUCKETS / 64],
            tick: tick_of(now),
            earliest: u64::MAX,
            len: 0,
        }
    }

    /// Enters a slot, or moves it.
    pub fn set(&mut self, slot: Slot, due: Time) {
        self.cancel(slot);
        if due == Time::NEVER {
            return;
        }
        let index = slot as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, Node { next: NONE, previous: NONE, bucket: NOWHERE });
        }
        let reach = Time((self.tick + BUCKETS as u64 - 1) << TICK_BITS);
        let due = due.clamp(Time(self.tick << TICK_BITS), reach);
        let bucket = bucket_of(tick_of(due));
        let next = self.buckets[bucket];
        if next != NONE {
            self.nodes[next as usize].previous = slot;
        }
        self.nodes[index] = Node { next, previous: NONE, bucket: bucket as u16 };
        self.buckets[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.earliest = self.earliest.min(tick_of(due));
        self.len += 1;
    }

    /// Enters a slot unless it comes due earlier anyway.
    pub fn set_earlier(&mut self, slot: Slot, due: Time) {
        if self.tick_of_entry(slot).is_none_or(|entered| tick_of(due) < entered) {
            self.set(slot, due);
        }
    }

    pub fn cancel(&mut self, slot: Slot) {
        let Some(&Node { next, previous, bucket }) = self.nodes.get(slot as usize) else { return };
        if bucket == NOWHERE {
            return;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NONE {
            self.nodes[previous as usize].next = next;
        } else {
            // Only a bucket's first entry has none before it.
            let bucket = usize::from(bucket);
            self.buckets[bucket] = next;
            if next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
        self.nodes[slot as usize].bucket = NOWHERE;
        self.len -= 1;
    }

    /// When to look again: never later than the earliest entry is due, though it may be
    /// earlier.
    #[inline]
    pub fn next(&self) -> Time {
        if self.len == 0 { Time::NEVER } else { Time(self.earliest.saturating_add(1) << TICK_BITS) }
    }

    /// Takes out everything that is due. What was entered far ahead may come early: the
    /// caller looks at its clocks and enters it again.
    #[inline]
    pub fn expire(&mut self, now: Time, due: &mut Vec<Slot>) {
        let until = tick_of(now);
        if until > self.earliest {
            self.expire_until(until, due);
        }
    }

    fn expire_until(&mut self, until: u64, due: &mut Vec<Slot>) {
        if until.saturating_sub(self.tick) >= BUCKETS as u64 {
            // The clock passed every bucket.
            (0..BUCKETS).for_each(|bucket| self.empty(bucket, due));
        } else {
            (self.tick..until).for_each(|tick| self.empty((tick % BUCKETS as u64) as usize, due));
        }
        self.tick = self.tick.max(until);
        self.earliest = self.find_earliest();
    }

    /// The tick of the first bucket that is not empty.
    fn find_earliest(&self) -> u64 {
        if self.len == 0 {
            return u64::MAX;
        }
        let start = (self.tick % BUCKETS as u64) as usize;
        let ahead = (0..BUCKETS / 64 + 1).find_map(|word| {
            let at = (start / 64 + word) % (BUCKETS / 64);
            let mut bits = self.occupied[at];
            if word == 0 {
                bits &= u64::MAX << (start % 64);
            }
            (bits != 0).then(|| (at * 64 + bits.trailing_zeros() as usize + BUCKETS - start) % BUCKETS)
        });
        self.tick + ahead.unwrap_or(0) as u64
    }

    fn empty(&mut self, bucket: usize, due: &mut Vec<Slot>) {
        let mut slot = std::mem::replace(&mut self.buckets[bucket], NONE);
        self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        while slot != NONE {
            let node = &mut self.nodes[slot as usize];
            node.bucket = NOWHERE;
            due.push(slot);
            self.len -= 1;
            slot = node.next;
        }
    }

    /// When its entry comes due, if it has one.
    fn tick_of_entry(&self, slot: Slot) -> Option<u64> {
        let node = self.nodes.get(slot as usize).filter(|node| node.bucket != NOWHERE)?;
        let ahead = (usize::from(node.bucket) + BUCKETS - bucket_of(self.tick)) % BUCKETS;
        Some(self.tick + ahead as u64)
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

fn tick_of(time: Time) -> u64 {
    time.0 >> TICK_BITS
}

const NONE: Slot = Slot::MAX;
const NOWHERE: u16 = u16::MAX;
/// A tick is 2^14 µs = 16 ms: no timeout needs to be sharper.
const TICK_BITS: u32 = 14;
/// One round is 33 s: longer waits pass by once a round.
const BUCKETS: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn every_entry_comes_due_once_and_never_late() {
        let mut random = 42_u64;
        let mut timers = Timers::new(Time(0));
        let mut expected = vec![Time::NEVER; 500];
        let mut now = Time(0);
        let mut due = Vec::new();
        for _ in 0..200_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let slot = (random % 500) as Slot;
            match random >> 32 & 7 {
                0 => {
                    timers.cancel(slot);
                    expected[slot as usize] = Time::NEVER;
                }
                1 | 2 => {
                    let time = Time(now.0 + (random >> 16) % (100 * SECOND));
                    timers.set(slot, time);
                    expected[slot as usize] = time;
                }
                _ => {
                    let earliest = expected.iter().copied().min().unwrap();
                    let next = timers.next();
                    assert!(earliest == Time::NEVER || next.0 <= earliest.0 + (1 << TICK_BITS));
                    now = Time(
                        now.0
                            + (random >> 20) % (if random & 0xF000 == 0 { 50 * SECOND } else { SECOND / 4 }),
                    );
                    timers.expire(now, &mut due);
                    for slot in due.drain(..) {
                        let time = expected[slot as usize];
                        assert_ne!(time, Time::NEVER, "came though it was cancelled");
                        if tick_of(time) >= tick_of(now) {
                            timers.set(slot, time);
                        } else {
                            expected[slot as usize] = Time::NEVER;
                        }
                    }
                    assert!(
                        expected.iter().all(|time| *time == Time::NEVER || tick_of(*time) >= tick_of(now))
                    );
                }
            }
        }
    }

    #[test]
    fn without_entries_there_is_nothing_to_wait_for() {
        let mut timers = Timers::new(Time(5 * SECOND));
        assert_eq!(timers.next(), Time::NEVER);
        timers.set(3, Time(6 * SECOND));
        assert_ne!(timers.next(), Time::NEVER);
        timers.cancel(3);
        assert_eq!(timers.next(), Time::NEVER);
    }
}
