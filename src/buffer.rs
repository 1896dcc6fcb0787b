//! Memory whose size a peer chooses: messages that arrive in several reads.
//!
//! Such memory grows only as bytes really arrive (a declared length sets nothing aside), its
//! growth can fail without ending the host, and large pieces are kept for the next message:
//! fresh pages for every 1 MiB message cost as much as the message itself.

use std::collections::TryReserveError;

/// Bytes in arrival. The memory behind it is always initialised, so that the kernel can be
/// given the part not filled yet as a plain slice.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Buffer {
    memory: Vec<u8>,
    filled: usize,
}

impl Buffer {
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Room for at least `len` more bytes, growing towards `expected` in all, but never past
    /// twice of what is really there.
    pub fn room(&mut self, len: usize, expected: usize) -> Result<&mut [u8], TryReserveError> {
        let wanted = self.filled.saturating_add(len);
        if wanted > self.memory.len() {
            let target = wanted.max(expected.min(wanted.saturating_mul(2)));
            self.memory.try_reserve_exact(target - self.memory.len())?;
            self.memory.resize(target, 0);
        }
        Ok(&mut self.memory[self.filled..])
    }

    /// The room of `len` bytes that [`Buffer::room`] has made.
    pub fn lent_room(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.filled..][..len]
    }

    /// Makes the first `len` bytes of the room part of the content.
    pub fn fill(&mut self, len: usize) {
        self.filled += len;
        assert!(self.filled <= self.memory.len(), "only room that was given can be filled");
    }

    pub fn append(&mut self, bytes: &[u8], expected: usize) -> Result<(), TryReserveError> {
        self.room(bytes.len(), expected)?[..bytes.len()].copy_from_slice(bytes);
        self.fill(bytes.len());
        Ok(())
    }

    /// Forgets all but the first `len` bytes; the memory stays.
    pub fn truncate(&mut self, len: usize) {
        self.filled = self.filled.min(len);
    }

    /// The last `len` bytes.
    pub fn tail_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.filled - len..self.filled]
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(memory: Vec<u8>) -> Self {
        Self { filled: memory.len(), memory }
    }
}

/// A copy, if there is memory for it.
pub fn copied(bytes: &[u8]) -> Result<Vec<u8>, TryReserveError> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Large buffers between two messages, one pool per shard.
#[derive(Default)]
pub struct BufferPool {
    free: Vec<Buffer>,
    bytes: usize,
}

impl BufferPool {
    /// A buffer for a message of which `expected` bytes are announced. What the pool has costs
    /// nothing to lend; fresh memory comes as the bytes arrive.
    pub fn take(&mut self, expected: usize) -> Buffer {
        if expected < POOLED_BYTES_MIN {
            return Buffer::default();
        }
        // The smallest that is large enough, or else the largest. What is far too large is not
        // lent: it may end in an outbox, where it counts as what is in it.
        let capacity = |index: usize| self.free[index].capacity();
        let best =
            (0..self.free.len()).filter(|&index| capacity(index) / 2 <= expected).min_by_key(|&index| {
                let capacity = capacity(index);
                if capacity >= expected { (0, capacity) } else { (1, usize::MAX - capacity) }
            });
        match best {
            Some(index) => {
                let buffer = self.free.swap_remove(index);
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Buffer::default(),
        }
    }

    /// Keeps the memory for the next message, within the pool's limit.
    pub fn give_back(&mut self, mut buffer: Buffer) {
        let capacity = buffer.capacity();
        if capacity >= POOLED_BYTES_MIN && self.bytes + capacity <= POOL_BYTES_MAX {
            buffer.filled = 0;
            self.bytes += capacity;
            self.free.push(buffer);
        }
    }

    /// Frees everything: a shard without traffic keeps no memory for traffic.
    pub fn clear(&mut self) {
        self.free = Vec::new();
        self.bytes = 0;
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Smaller buffers are as cheap from the allocator.
const POOLED_BYTES_MIN: usize = 32 * 1024;
/// Most memory that a shard keeps for messages to come.
const POOL_BYTES_MAX: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announced_length_sets_no_memory_aside() {
        let mut buffer = Buffer::default();
        buffer.append(b"x", 1 << 30).unwrap();
        assert_eq!(buffer.capacity(), 2);
        buffer.append(&[7; 1000], 1 << 30).unwrap();
        assert_eq!(buffer.capacity(), 2002);
    }

    #[test]
    fn a_size_that_cannot_be_had_is_an_error_and_not_an_end() {
        assert!(Buffer::default().room(isize::MAX as usize, 0).is_err());
    }

    #[test]
    fn the_pool_lends_the_smallest_buffer_that_is_large_enough() {
        let mut pool = BufferPool::default();
        for capacity in [1 << 20, 1 << 17, 1 << 16] {
            pool.give_back(Buffer::from(vec![0; capacity]));
        }
        assert_eq!(pool.take(100_000).capacity(), 1 << 17);
        assert_eq!(pool.take(2 << 20).capacity(), 1 << 20);
        assert_eq!(pool.take(10).capacity(), 0);
        assert_eq!(pool.bytes(), 1 << 16);
    }

    #[test]
    fn the_pool_lends_no_buffer_of_more_than_twice_what_is_expected() {
        let mut pool = BufferPool::default();
        pool.give_back(Buffer::from(vec![0; 1 << 20]));
        assert_eq!(pool.take((1 << 19) - 1).capacity(), 0);
        assert_eq!(pool.take(1 << 19).capacity(), 1 << 20);
    }

    #[test]
    fn a_buffer_from_the_pool_is_empty() {
        let mut pool = BufferPool::default();
        pool.give_back(Buffer::from(vec![9; 1 << 16]));
        assert!(pool.take(1 << 16).is_empty());
    }

    #[test]
    fn the_pool_never_holds_more_than_its_limit() {
        let mut pool = BufferPool::default();
        for _ in 0..40 {
            pool.give_back(Buffer::from(vec![0; 1 << 20]));
        }
        assert_eq!(pool.bytes(), POOL_BYTES_MAX);
    }
}
