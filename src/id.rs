//! The number that stands for a connection, and the clock's reading.
//!
//! A connection is a number and never a pointer: a late call with the number of a connection
//! that is gone finds another generation in its slot and gets an error, not freed memory.

use std::fmt;
use std::time::Duration;

/// Where a connection lives inside its shard.
pub type Slot = u32;

const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 21;
const SHARD_BITS: u32 = 8;

/// Most connections that one shard can hold.
pub const SLOTS_MAX: usize = 1 << SLOT_BITS;
/// Most shards that one server can have.
pub const SHARDS_MAX: usize = 1 << SHARD_BITS;

/// One connection: its shard, its slot there, and the slot's generation, in 53 bits, so that
/// it is exact in a double and in a JavaScript Number. Never 0: a generation is never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

impl ConnId {
    /// No connection: what the server's own events carry.
    pub const NONE: ConnId = ConnId(0);

    pub fn new(shard: u8, generation: Generation, slot: Slot) -> Self {
        debug_assert!((slot as usize) < SLOTS_MAX);
        let shard = u64::from(shard) << (GENERATION_BITS + SLOT_BITS);
        Self(shard | u64::from(generation.0) << SLOT_BITS | u64::from(slot))
    }

    /// Takes any number: one that was never a connection is simply not found.
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// Numbers from 2^53 up belong to no shard.
    pub fn shard(self) -> usize {
        (self.0 >> (GENERATION_BITS + SLOT_BITS)) as usize
    }

    pub fn slot(self) -> Slot {
        (self.0 & ((1 << SLOT_BITS) - 1)) as Slot
    }

    pub fn generation(self) -> Generation {
        Generation::from_u32((self.0 >> SLOT_BITS) as u32)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conn {}:{}:{}", self.shard(), self.slot(), self.generation().0)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How often a slot was given out. Slots are reused oldest first, so a number comes back
/// only after 2^21 rounds through all free slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Generation(u32);

impl Generation {
    const MASK: u32 = (1 << GENERATION_BITS) - 1;

    /// Servers in one process start at different generations, so that a number of one is
    /// (all but surely) unknown to another.
    pub fn first(seed: u32) -> Self {
        Self((seed.wrapping_mul(0x9E37_79B1) >> (32 - GENERATION_BITS)).max(1))
    }

    pub fn next(self) -> Self {
        Self(((self.0 + 1) & Self::MASK).max(1))
    }

    pub fn to_u32(self) -> u32 {
        self.0
    }

    pub fn from_u32(number: u32) -> Self {
        Self(number & Self::MASK)
    }
}

/// Microseconds on a monotonic clock; the driver says what time it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Time(pub u64);

impl Time {
    pub const NEVER: Time = Time(u64::MAX);

    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }

    pub fn before(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }

    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_number_fits_a_double_and_keeps_its_three_parts() {
        let generation = Generation(Generation::MASK);
        let id = ConnId::new(255, generation, (SLOTS_MAX - 1) as Slot);
        assert!(id.to_u64() < 1 << 53);
        assert_eq!(id.to_u64(), id.to_u64() as f64 as u64);
        assert_eq!((id.shard(), id.generation(), id.slot()), (255, generation, (SLOTS_MAX - 1) as Slot));
    }

    #[test]
    fn a_connection_number_is_never_zero() {
        assert_ne!(ConnId::new(0, Generation::first(0), 0), ConnId::NONE);
        assert_eq!(Generation(Generation::MASK).next(), Generation(1));
    }

    #[test]
    fn a_number_past_53_bits_belongs_to_no_shard() {
        assert!(ConnId::from_u64(u64::MAX).shard() >= SHARDS_MAX);
    }
}
