//! Bytes to write to one connection, in order, until the kernel has taken them.
//!
//! Small writes of a turn join into one chunk, so that a turn costs a connection one system
//! call. Long payloads are not copied: they are shared by reference count, or, when they lie in
//! what the turn has just read, lent until the turn's flush.

use std::collections::{TryReserveError, VecDeque};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use crate::buffer::{Buffer, copied};
use crate::id::Time;

#[derive(Default)]
pub struct Outbox {
    /// What goes before `tail`.
    chunks: VecDeque<Chunk>,
    /// The end of the queue, to which small writes are copied: most often all there is. Its memory
    /// stays with a spare outbox.
    tail: Vec<u8>,
    /// How much of the first chunk (of `tail`, if there is none) the kernel has.
    first_sent: usize,
    /// Bytes not sent yet, those in `sealed` not counted.
    bytes: usize,
    /// What TLS has sealed of the queue, or has to say itself: it goes before the rest, which is
    /// still plain.
    sealed: Vec<u8>,
    sealed_sent: usize,
    /// The kernel took less than all; the driver will say when there is room.
    pub is_blocked: bool,
    /// When the peer last took a fair amount (see `timeout.write_stall`), and how much since.
    pub progress_at: Time,
    pub progress_bytes: usize,
}

enum Chunk {
    Own(Vec<u8>),
    Shared {
        buffer: Arc<Buffer>,
        range: Range<usize>,
    },
    /// In the turn's arena. Made whole or own before the turn ends.
    Lent(Range<usize>),
}

impl Chunk {
    fn as_slice<'a>(&'a self, arena: &'a [u8]) -> &'a [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared { buffer, range } => &buffer.as_slice()[range.clone()],
            Self::Lent(range) => &arena[range.clone()],
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared { range, .. } | Self::Lent(range) => range.len(),
        }
    }
}

impl Outbox {
    pub fn bytes(&self) -> usize {
        self.bytes + self.sealed.len() - self.sealed_sent
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Copies all parts to the end, or, without memory, none.
    #[inline]
    pub fn push(&mut self, parts: [&[u8]; 3], spares: &mut Spares) -> Result<(), TryReserveError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if self.tail.capacity() - self.tail.len() < len {
            self.begin_tail(len, spares)?;
        }
        parts.iter().filter(|part| !part.is_empty()).for_each(|part| self.tail.extend_from_slice(part));
        self.bytes += len;
        Ok(())
    }

    /// The same for a payload behind a head of a known length, which needs no loop.
    #[inline(always)]
    pub fn push_behind<const N: usize>(
        &mut self,
        head: [u8; N],
        payload: &[u8],
        spares: &mut Spares,
    ) -> Result<(), TryReserveError> {
        let len = N + payload.len();
        if self.tail.capacity() - self.tail.len() < len {
            self.begin_tail(len, spares)?;
        }
        self.tail.extend(head);
        self.tail.extend_from_slice(payload);
        self.bytes += len;
        Ok(())
    }

    /// The tail has no room for so many bytes. It is never grown: a chunk has one of two sizes, so
    /// that the shard can keep it.
    fn begin_tail(&mut self, len: usize, spares: &mut Spares) -> Result<(), TryReserveError> {
        self.chunks.try_reserve(1)?;
        let chunk = spares.chunk(len, !self.tail.is_empty())?;
        self.end_tail();
        spares.keep_chunk(std::mem::replace(&mut self.tail, chunk));
        Ok(())
    }

    /// What comes next is no part of it. There must be room for a chunk more.
    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(Chunk::Own(std::mem::take(&mut self.tail)));
        }
    }

    /// Queues a long payload, which `push` does without copying it, and what stands before and
    /// after it; or, without memory, nothing.
    pub fn push_around(
        &mut self,
        head: &[u8],
        tail: &[u8],
        spares: &mut Spares,
        push: impl FnOnce(&mut Self),
    ) -> Result<(), TryReserveError> {
        let end = match tail {
            [] => None,
            tail => {
                let mut chunk = spares.chunk(tail.len(), false)?;
                chunk.extend_from_slice(tail);
                Some(chunk)
            }
        };
        // The tail so far, the head and the payload.
        self.chunks.try_reserve(3)?;
        self.push([head, &[], &[]], spares)?;
        push(self);
        if let Some(end) = end {
            self.bytes += end.len();
            spares.keep_chunk(std::mem::replace(&mut self.tail, end));
        }
        Ok(())
    }

    /// Queues part of a shared buffer without copying it, inside of [`Outbox::push_around`].
    pub fn push_shared(&mut self, buffer: Arc<Buffer>, range: Range<usize>) {
        self.bytes += range.len();
        self.end_tail();
        self.chunks.push_back(Chunk::Shared { buffer, range });
    }

    /// Queues part of the turn's arena without copying it, inside of [`Outbox::push_around`].
    /// [`Outbox::settle`] must follow before the arena changes.
    pub fn push_lent(&mut self, range: Range<usize>) {
        self.bytes += range.len();
        self.end_tail();
        self.chunks.push_back(Chunk::Lent(range));
    }

    /// Queues bytes that are sealed already, before all that is plain.
    pub fn push_sealed(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        self.sealed.try_reserve(bytes.len())?;
        self.sealed.extend_from_slice(bytes);
        Ok(())
    }

    /// If nothing sealed is left: seals the front of the queue, with one call or several of `seal`.
    pub fn seal<E>(
        &mut self,
        arena: &[u8],
        spares: &mut Spares,
        mut seal: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.sealed.is_empty() || self.bytes == 0 {
            return Ok(());
        }
        self.sealed = std::mem::take(&mut spares.sealed);
        let mut joined = std::mem::take(&mut spares.joined);
        let mut chunks = slices(&self.chunks, &self.tail, arena).peekable();
        let mut rest = &chunks.next().expect("there are bytes")[self.first_sent..];
        let mut len = 0;
        let result = loop {
            let room = SEALED_AT_ONCE_BYTES - len;
            let sealed = if rest.len() >= RECORD_BYTES || chunks.peek().is_none() {
                let (now, later) = rest.split_at(rest.len().min(room));
                rest = later;
                len += now.len();
                seal(now, &mut self.sealed)
            } else {
                // Heads and short payloads make one record.
                joined.clear();
                loop {
                    let (now, later) = rest.split_at(rest.len().min(RECORD_BYTES.min(room) - joined.len()));
                    joined.extend_from_slice(now);
                    rest = later;
                    match chunks.peek() {
                        Some(next) if rest.is_empty() && joined.len() < RECORD_BYTES.min(room) => {
                            rest = next;
                            chunks.next();
                        }
                        _ => break,
                    }
                }
                len += joined.len();
                seal(&joined, &mut self.sealed)
            };
            if rest.is_empty() {
                rest = chunks.next().unwrap_or_default();
            }
            if sealed.is_err() || rest.is_empty() || len == SEALED_AT_ONCE_BYTES {
                break sealed;
            }
        };
        drop(chunks);
        spares.joined = joined;
        result?;
        self.advance_plain(len, spares);
        Ok(())
    }

    /// Is nothing left that is not sealed?
    pub fn is_all_sealed(&self) -> bool {
        self.bytes == 0
    }

    /// Seals something of its own behind all that is sealed.
    pub fn seal_behind<E>(&mut self, seal: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        seal(&mut self.sealed)
    }

    /// Gives the front of the queue to `send`.
    #[inline]
    pub fn with_slices<'a, R>(&'a self, arena: &'a [u8], send: impl FnOnce(&[IoSlice<'a>]) -> R) -> R {
        if !self.sealed.is_empty() {
            return send(&[IoSlice::new(&self.sealed[self.sealed_sent..])]);
        }
        if self.chunks.is_empty() {
            return send(&[IoSlice::new(&self.tail[self.first_sent..])]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(self::slices(&self.chunks, &self.tail, arena)) {
            let sent = if count == 0 { self.first_sent } else { 0 };
            *slice = IoSlice::new(&bytes[sent..]);
            count += 1;
        }
        send(&slices[..count])
    }

    /// The queue, if nothing of it has gone yet and it is in one piece of its own.
    #[inline]
    pub fn short(&self) -> Option<&[u8]> {
        // What is lent, shared or sealed is counted in one of the sums only.
        let is_short = self.bytes == self.tail.len() && self.sealed.is_empty() && !self.is_blocked;
        is_short.then_some(self.tail.as_slice())
    }

    /// The kernel took `len` bytes.
    #[inline]
    pub fn advance(&mut self, len: usize, spares: &mut Spares) {
        if self.sealed.is_empty() {
            return self.advance_plain(len, spares);
        }
        self.sealed_sent += len;
        if self.sealed_sent == self.sealed.len() {
            self.forget_sealed(spares);
        }
    }

    fn forget_sealed(&mut self, spares: &mut Spares) {
        let mut sealed = std::mem::take(&mut self.sealed);
        self.sealed_sent = 0;
        if spares.sealed.capacity() < sealed.capacity() {
            sealed.clear();
            spares.sealed = sealed;
        }
    }

    #[inline]
    fn advance_plain(&mut self, len: usize, spares: &mut Spares) {
        self.bytes -= len;
        self.first_sent += len;
        while let Some(first) = self.chunks.front() {
            let first_len = first.len();
            if first_len > self.first_sent {
                return;
            }
            self.first_sent -= first_len;
            match self.chunks.pop_front() {
                Some(Chunk::Own(bytes)) => spares.keep_chunk(bytes),
                Some(Chunk::Shared { buffer, .. }) => spares.release(buffer),
                _ => {}
            }
        }
        if self.first_sent == self.tail.len() {
            self.tail.clear();
            self.first_sent = 0;
        }
    }

    /// Nobody would understand what is not sealed yet.
    pub fn forget_plain(&mut self, spares: &mut Spares) {
        self.advance_plain(self.bytes, spares);
    }

    /// Copies what still lies in the arena: the turn is over.
    pub fn settle(&mut self, arena: &[u8]) -> Result<(), TryReserveError> {
        for chunk in &mut self.chunks {
            if let Chunk::Lent(range) = chunk {
                *chunk = Chunk::Own(copied(&arena[range.clone()])?);
            }
        }
        Ok(())
    }

    /// Forgets everything.
    pub fn clear(&mut self, spares: &mut Spares) {
        while let Some(chunk) = self.chunks.pop_front() {
            match chunk {
                Chunk::Own(bytes) => spares.keep_chunk(bytes),
                Chunk::Shared { buffer, .. } => spares.release(buffer),
                Chunk::Lent(_) => {}
            }
        }
        self.tail.clear();
        if self.tail.capacity() > SMALL_CHUNK_BYTES {
            spares.keep_chunk(std::mem::take(&mut self.tail));
        }
        if self.sealed.capacity() > 0 {
            self.forget_sealed(spares);
        }
        self.first_sent = 0;
        self.bytes = 0;
        self.is_blocked = false;
        self.progress_at = Time::default();
        self.progress_bytes = 0;
    }
}

/// All that is plain, from the front of the first chunk on.
fn slices<'a>(
    chunks: &'a VecDeque<Chunk>,
    tail: &'a [u8],
    arena: &'a [u8],
) -> impl Iterator<Item = &'a [u8]> {
    let tail = (!tail.is_empty()).then_some(tail);
    chunks.iter().map(|chunk| chunk.as_slice(arena)).chain(tail)
}

/// Outboxes and small chunks between two uses, one set per shard: in the steady state a
/// message costs no allocation.
#[derive(Default)]
pub struct Spares {
    // They go to and from connections as pointers.
    #[expect(clippy::vec_box)]
    outboxes: Vec<Box<Outbox>>,
    small_chunks: Vec<Vec<u8>>,
    large_chunks: Vec<Vec<u8>>,
    pub pool: crate::buffer::BufferPool,
    /// Memory to seal into, and to join small chunks in.
    sealed: Vec<u8>,
    joined: Vec<u8>,
}

impl Spares {
    #[inline]
    pub fn outbox(&mut self) -> Box<Outbox> {
        self.outboxes.pop().unwrap_or_default()
    }

    #[inline]
    pub fn keep_outbox(&mut self, mut outbox: Box<Outbox>) {
        outbox.clear(self);
        self.keep_empty(outbox);
    }

    /// The same for one that was [`Outbox::short`] and is sent.
    #[inline]
    pub fn keep_short(&mut self, mut outbox: Box<Outbox>) {
        outbox.tail.clear();
        outbox.bytes = 0;
        if outbox.tail.capacity() > SMALL_CHUNK_BYTES || outbox.progress_at != Time::default() {
            outbox.clear(self);
        }
        self.keep_empty(outbox);
    }

    #[inline]
    fn keep_empty(&mut self, outbox: Box<Outbox>) {
        if self.outboxes.len() < SPARE_OUTBOXES_MAX && outbox.chunks.capacity() <= CHUNKS_KEPT {
            self.outboxes.push(outbox);
        }
    }

    /// Takes the memory of a shared buffer back if this was the last reference.
    pub fn release(&mut self, buffer: Arc<Buffer>) {
        if let Some(buffer) = Arc::into_inner(buffer) {
            self.pool.give_back(buffer);
        }
    }

    /// A quiet shard keeps no memory for traffic.
    pub fn clear(&mut self) {
        self.outboxes = Vec::new();
        self.small_chunks = Vec::new();
        self.large_chunks = Vec::new();
        (self.sealed, self.joined) = (Vec::new(), Vec::new());
        self.pool.clear();
    }

    /// Memory for `len` bytes and more: a small piece for a first write, which most often stays
    /// the only one (or is the head of a long payload), a large one when it `goes_on`.
    #[inline]
    fn chunk(&mut self, len: usize, goes_on: bool) -> Result<Vec<u8>, TryReserveError> {
        let (spares, capacity) = match len {
            0..=SMALL_CHUNK_BYTES if !goes_on => (&mut self.small_chunks, SMALL_CHUNK_BYTES),
            0..=LARGE_CHUNK_BYTES => (&mut self.large_chunks, LARGE_CHUNK_BYTES),
            _ => return fresh_chunk(len),
        };
        spares.pop().map_or_else(|| fresh_chunk(capacity), Ok)
    }

    #[inline]
    fn keep_chunk(&mut self, mut chunk: Vec<u8>) {
        let (spares, count_max) = match chunk.capacity() {
            SMALL_CHUNK_BYTES => (&mut self.small_chunks, SMALL_CHUNKS_MAX),
            LARGE_CHUNK_BYTES => (&mut self.large_chunks, LARGE_CHUNKS_MAX),
            _ => return,
        };
        if spares.len() < count_max {
            chunk.clear();
            spares.push(chunk);
        }
    }
}

fn fresh_chunk(capacity: usize) -> Result<Vec<u8>, TryReserveError> {
    let mut chunk = Vec::new();
    chunk.try_reserve_exact(capacity)?;
    Ok(chunk)
}

/// One `sendmsg` takes at most so many slices; more go with the next.
const SLICES_MAX: usize = 64;
/// A message of 1 KiB, or some smaller ones. With the allocator's word an odd number of cache
/// lines: the beginnings of many chunks don't compete for the same places in the cache.
const SMALL_CHUNK_BYTES: usize = 1200;
/// Longer writes join until a chunk is so long; then a copy costs more than a slice of its own.
const LARGE_CHUNK_BYTES: usize = 16 * 1024;
/// Together, and with what spare outboxes hold, 8 MiB at most, and freed when the shard is quiet.
const SMALL_CHUNKS_MAX: usize = 512;
const LARGE_CHUNKS_MAX: usize = 256;
/// What one record of TLS holds.
const RECORD_BYTES: usize = 16 * 1024;
/// A message of 64 KiB with its head is one write.
const SEALED_AT_ONCE_BYTES: usize = 72 * 1024;
const SPARE_OUTBOXES_MAX: usize = 2048;
const CHUNKS_KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &mut Outbox, arena: &[u8], step: usize, spares: &mut Spares) -> (Vec<u8>, usize) {
        let (mut sent, mut calls) = (Vec::new(), 0);
        while !outbox.is_empty() {
            let len = outbox.with_slices(arena, |slices| {
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let len = all.len().min(step);
                sent.extend_from_slice(&all[..len]);
                len
            });
            outbox.advance(len, spares);
            calls += 1;
        }
        (sent, calls)
    }

    #[test]
    fn what_goes_in_comes_out_in_order_however_little_the_kernel_takes() {
        let arena = b"....arena....";
        for step in [1, 2, 3, 7, 1000] {
            let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
            outbox.push([b"one ", b"", b""], &mut spares).unwrap();
            outbox.push_lent(4..9);
            outbox.push([b" two ", b"", b""], &mut spares).unwrap();
            outbox.push_shared(Arc::new(Buffer::from(b"xsharedx".to_vec())), 1..7);
            outbox.push([b" three", b"", b""], &mut spares).unwrap();
            assert_eq!(outbox.bytes(), 26);
            assert_eq!(drain(&mut outbox, arena, step, &mut spares).0, b"one arena two shared three");
            assert_eq!(outbox.bytes(), 0);
        }
    }

    #[test]
    fn small_writes_of_a_turn_cost_one_system_call() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        for _ in 0..1000 {
            outbox.push([b"small", b"", b""], &mut spares).unwrap();
        }
        assert_eq!(drain(&mut outbox, &[], usize::MAX, &mut spares).1, 1);
    }

    #[test]
    fn what_the_kernel_did_not_take_survives_the_arena() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        outbox.push_lent(0..5);
        outbox.advance(2, &mut spares);
        outbox.settle(b"hello").unwrap();
        assert_eq!(drain(&mut outbox, b"XXXXX", 1, &mut spares).0, b"llo");
    }

    #[test]
    fn more_chunks_than_one_call_takes_go_with_the_next() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        let buffer = Arc::new(Buffer::from(vec![7; 3]));
        for _ in 0..2 * SLICES_MAX {
            outbox.push_shared(buffer.clone(), 0..3);
        }
        assert_eq!(drain(&mut outbox, &[], usize::MAX, &mut spares), (vec![7; 6 * SLICES_MAX], 2));
    }

    #[test]
    fn what_is_sealed_comes_out_in_order_and_small_pieces_share_a_record() {
        let arena: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        for lens in
            [&[5, 3, 9][..], &[10, 65_536], &[10, 200_000], &[4, 5000, 4, 5000, 4, 70_000, 3], &[16_384, 1]]
        {
            let (mut outbox, mut spares, mut expected) = (Outbox::default(), Spares::default(), Vec::new());
            for &len in lens {
                expected.extend_from_slice(&arena[..len]);
                match len {
                    ..4096 => outbox.push([&arena[..len], &[], &[]], &mut spares).unwrap(),
                    _ => {
                        outbox.push_around(&[], &[], &mut spares, |outbox| outbox.push_lent(0..len)).unwrap()
                    }
                }
            }
            let (mut plain, mut calls, mut writes) = (Vec::new(), Vec::new(), 0);
            while !outbox.is_empty() {
                outbox
                    .seal::<TryReserveError>(&arena, &mut spares, |piece, sealed| {
                        calls.push(piece.len());
                        plain.extend_from_slice(piece);
                        // Longer than it was, as with TLS.
                        sealed.extend(piece.iter().chain(b"seal"));
                        Ok(())
                    })
                    .unwrap();
                let len = outbox.with_slices(&arena, |slices| slices.iter().map(|slice| slice.len()).sum());
                outbox.advance(len, &mut spares);
                writes += 1;
            }
            assert_eq!(plain, expected, "{lens:?}");
            assert_eq!(writes, expected.len().div_ceil(SEALED_AT_ONCE_BYTES), "{lens:?}");
            let shortest = calls.iter().filter(|&&len| len < RECORD_BYTES).count();
            assert!(shortest <= 2, "{lens:?}: records of {calls:?}");
        }
    }
}
