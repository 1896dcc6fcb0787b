//! Polled delivery: events wait in a queue until the embedder takes them, a batch at a time.
//!
//! A shard gathers a turn's events in a batch of its own and puts it here when the turn's
//! delivery ends; whoever polls takes whole batches out. So both meet only for a moment, and a
//! payload is copied once. What a record of an event looks like, the layer above says.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::connection::Release;
use crate::engine::table::PendingRequest;
use crate::id::ConnId;

/// One queue of events. Every shard puts in; one thread at a time should take out.
pub struct Queue<R> {
    state: Mutex<State<R>>,
    /// Rings when there is something for who waits.
    filled: Condvar,
    lamp: OnceLock<Box<dyn Lamp>>,
    bell: Mutex<Option<Box<dyn Bell>>>,
    /// So many have come unread that nobody else should be let in.
    is_crowded: AtomicBool,
    /// The requests that events not freed yet are about, each with the number of those events.
    requests: Mutex<HashMap<ConnId, (PendingRequest, usize)>>,
}

struct State<R> {
    /// Each with an event at least.
    batches: VecDeque<Batch<R>>,
    is_woken: bool,
    /// The last event of the server is in, or was taken.
    is_stopped: bool,
    /// Threads that wait for `filled`.
    waiting: usize,
    /// Events in `batches`, and arrivals that are not freed.
    queued: usize,
    arrivals: usize,
    /// How many events have ever been put in; this numbers them.
    numbered: u64,
    /// The first event of each batch that was taken and not freed, in their order.
    taken: VecDeque<u64>,
    /// Words, each with the number of the first event that can't carry it any more.
    releases: VecDeque<(u64, Box<dyn Release>)>,
    /// Memory of a batch that was freed, for the next.
    spare: Option<Batch<R>>,
}

/// An event as the embedder gets it.
pub trait Record: Copy {
    /// Its payload has moved on in its block by so many bytes.
    fn shift(&mut self, by: usize);

    /// Does it tell of somebody who comes?
    fn is_arrival(&self) -> bool;
}

/// Events in their order, with their payloads in one block.
pub struct Batch<R> {
    events: Vec<R>,
    /// Of those, how many were taken already.
    taken: usize,
    /// The number of the first.
    number: u64,
    /// Shared by the parts of a batch that was longer than who polled it wanted.
    block: Arc<Vec<u8>>,
    /// How many of the events that were not taken are arrivals.
    arrivals: usize,
    /// Words of the embedder's that no later event carries.
    releases: Vec<Box<dyn Release>>,
}

/// Shows an event loop of the embedder's whether there is something to poll.
pub trait Lamp: Send + Sync {
    /// Under no lock that a poll needs: who is woken may run at once, and in the stead of this
    /// thread. So it may come late, when there is nothing any more.
    fn light(&self);
    /// Under the queue's lock, when there is nothing. It may be out already.
    fn put_out(&self);
    fn descriptor(&self) -> isize;
}

/// Tells an event loop of the embedder's that there is something to poll now. Called under no lock
/// that a poll needs, and not any more once it was replaced.
pub trait Bell: Send {
    fn ring(&self);
}

/// What polling brought.
pub enum Polled<R> {
    Batch(Batch<R>),
    /// Nothing came in time.
    TimedOut,
    /// Somebody has called [`Queue::wake`].
    Woken,
    /// The server's last event was taken before.
    Stopped,
}

impl<R: Record> Queue<R> {
    /// Puts a turn's events in, and leaves an empty batch. With `is_last` nothing comes after.
    pub fn put(&self, batch: &mut Batch<R>, is_last: bool) {
        if batch.events.is_empty() && batch.releases.is_empty() {
            return;
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let words = std::mem::take(&mut batch.releases);
        let is_first = !batch.events.is_empty() && !state.has_news();
        if !batch.events.is_empty() {
            state.is_stopped |= is_last;
            state.put(batch);
            if state.arrivals > ARRIVALS_MAX {
                self.is_crowded.store(true, SeqCst);
            }
        }
        state.releases.extend(words.into_iter().map(|word| (state.numbered, word)));
        let due = state.due_releases();
        if is_first {
            self.tell(guard);
        } else {
            drop(guard);
        }
        release(due);
    }

    /// Takes events out, at most `most`. Waits for them: no longer than `timeout`, or for ever.
    pub fn poll(&self, most: usize, timeout: Option<Duration>) -> Polled<R> {
        let mut state = self.lock();
        let mut until = None;
        loop {
            if std::mem::take(&mut state.is_woken) {
                self.put_out_if_empty(&state);
                return Polled::Woken;
            }
            if let Some(batch) = state.take(most) {
                self.put_out_if_empty(&state);
                return Polled::Batch(batch);
            }
            if state.is_stopped {
                return Polled::Stopped;
            }
            let left = timeout.map(|timeout| {
                let now = Instant::now();
                until.get_or_insert_with(|| now + timeout).saturating_duration_since(now)
            });
            if left == Some(Duration::ZERO) {
                self.put_out_if_empty(&state);
                return Polled::TimedOut;
            }
            state.waiting += 1;
            state = match left {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
            state.waiting -= 1;
        }
    }

    /// Who polls, or does next, is told to look up.
    pub fn wake(&self) {
        let mut state = self.lock();
        let is_first = !state.has_news();
        state.is_woken = true;
        if is_first {
            self.tell(state);
        }
    }

    /// The descriptor of the queue's lamp, which is made the first time.
    pub fn lamp<E>(&self, make: impl FnOnce() -> Result<Box<dyn Lamp>, E>) -> Result<isize, E> {
        let state = self.lock();
        if let Some(lamp) = self.lamp.get() {
            return Ok(lamp.descriptor());
        }
        let made = make()?;
        let lamp = self.lamp.get_or_init(|| made);
        if state.has_news() {
            lamp.light();
        }
        Ok(lamp.descriptor())
    }

    /// From now on rings at each change from empty to not empty; at once, if it is not empty.
    pub fn set_bell(&self, bell: Option<Box<dyn Bell>>) {
        let mut place = self.bell();
        *place = bell;
        if let Some(bell) = place.as_ref().filter(|_| self.lock().has_news()) {
            bell.ring();
        }
    }

    /// Gives a batch back. True: the queue was crowded until now.
    pub fn free(&self, mut batch: Batch<R>) -> bool {
        let mut state = self.lock();
        state.arrivals -= batch.arrivals;
        state.taken.retain(|&number| number != batch.number);
        let due = state.due_releases();
        let has_room = state.arrivals <= ARRIVALS_MAX / 2;
        let lets_in_again = has_room && self.is_crowded.swap(false, SeqCst);
        if state.spare.is_none() && batch.clear() {
            state.spare = Some(batch);
        }
        drop(state);
        release(due);
        lets_in_again
    }

    /// Should nobody else be let in for now?
    pub fn is_crowded(&self) -> bool {
        self.is_crowded.load(SeqCst)
    }

    /// Events that nobody has taken.
    pub fn queued(&self) -> usize {
        self.lock().queued
    }

    /// Keeps a request for as long as an event is not freed that is about it.
    pub fn keep_request(&self, conn: ConnId, request: PendingRequest) {
        self.requests().entry(conn).or_insert((request, 0)).1 += 1;
    }

    /// One event less is about the request.
    pub fn forget_request(&self, conn: ConnId) {
        let mut requests = self.requests();
        if let Some((_, events)) = requests.get_mut(&conn) {
            *events -= 1;
            if *events == 0 {
                requests.remove(&conn);
            }
        }
    }

    pub fn request(&self, conn: ConnId) -> Option<PendingRequest> {
        self.requests().get(&conn).map(|(request, _)| request.clone())
    }

    /// That there is something now.
    fn tell(&self, state: MutexGuard<'_, State<R>>) {
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.filled.notify_all();
        }
        if let Some(lamp) = self.lamp.get() {
            lamp.light();
        }
        if let Some(bell) = &*self.bell() {
            bell.ring();
        }
    }

    fn put_out_if_empty(&self, state: &State<R>) {
        if let Some(lamp) = self.lamp.get().filter(|_| !state.has_news()) {
            lamp.put_out();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bell(&self) -> MutexGuard<'_, Option<Box<dyn Bell>>> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<ConnId, (PendingRequest, usize)>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Record> Default for Queue<R> {
    fn default() -> Self {
        let state = State {
            batches: VecDeque::new(),
            is_woken: false,
            is_stopped: false,
            waiting: 0,
            queued: 0,
            arrivals: 0,
            numbered: 0,
            taken: VecDeque::new(),
            releases: VecDeque::new(),
            spare: None,
        };
        Self {
            state: Mutex::new(state),
            filled: Condvar::new(),
            lamp: OnceLock::new(),
            bell: Mutex::default(),
            is_crowded: AtomicBool::new(false),
            requests: Mutex::default(),
        }
    }
}

impl<R: Record> State<R> {
    /// Would a poll return at once?
    fn has_news(&self) -> bool {
        self.is_woken || !self.batches.is_empty()
    }

    /// A batch with events, whose words are kept already.
    fn put(&mut self, batch: &mut Batch<R>) {
        batch.number = self.numbered;
        self.numbered += batch.events.len() as u64;
        self.queued += batch.events.len();
        self.arrivals += batch.arrivals;
        if !self.batches.back_mut().is_some_and(|last| last.append(batch)) {
            let empty = self.spare.take().unwrap_or_default();
            self.batches.push_back(std::mem::replace(batch, empty));
        }
    }

    fn take(&mut self, most: usize) -> Option<Batch<R>> {
        let first = self.batches.front_mut()?;
        let batch = match first.events.len() - first.taken > most {
            true => first.split(most),
            false => {
                let mut batch = self.batches.pop_front().expect("there was one");
                batch.number += batch.taken as u64;
                batch.events.drain(..std::mem::take(&mut batch.taken));
                batch
            }
        };
        self.queued -= batch.events.len();
        self.taken.push_back(batch.number);
        Some(batch)
    }

    /// Words that no event carries any more which is not freed.
    fn due_releases(&mut self) -> Vec<Box<dyn Release>> {
        let in_queue = self.batches.front().map(|batch| batch.number + batch.taken as u64);
        let oldest = self.taken.front().copied().or(in_queue).unwrap_or(self.numbered);
        let count = self.releases.iter().take_while(|(number, _)| *number <= oldest).count();
        self.releases.drain(..count).map(|(_, word)| word).collect()
    }
}

impl<R: Record> Batch<R> {
    /// Makes room for a payload, of which a peer chooses the size. False: there is no memory.
    pub fn has_room(&mut self, len: usize) -> bool {
        self.own_block().try_reserve(len).is_ok()
    }

    /// Takes in an event with its payload; `event` makes it from the payload's place.
    pub fn push(&mut self, payload: &[u8], event: impl FnOnce(usize) -> R) {
        let block = self.own_block();
        let start = block.len();
        block.extend_from_slice(payload);
        let event = event(start);
        self.arrivals += usize::from(event.is_arrival());
        self.events.push(event);
    }

    fn own_block(&mut self) -> &mut Vec<u8> {
        Arc::get_mut(&mut self.block).expect("what is filled has no parts yet")
    }

    /// Keeps a word of the embedder's until this is freed.
    pub fn keep(&mut self, word: Box<dyn Release>) {
        self.releases.push(word);
    }

    pub fn events(&self) -> &[R] {
        &self.events
    }

    /// The events, to be shown where the block lies.
    pub fn parts(&mut self) -> (&mut [R], &[u8]) {
        (&mut self.events, &self.block)
    }

    /// Takes all of another batch over, unless both together are too much. Else false.
    fn append(&mut self, more: &mut Self) -> bool {
        let bytes = self.block.len() + more.block.len();
        if bytes > MERGED_BYTES_MAX || self.events.len() + more.events.len() > MERGED_EVENTS_MAX {
            return false;
        }
        let Some(block) = Arc::get_mut(&mut self.block) else { return false };
        let by = block.len();
        block.extend_from_slice(&more.block);
        more.events.iter_mut().for_each(|event| event.shift(by));
        self.events.append(&mut more.events);
        self.arrivals += more.arrivals;
        more.clear();
        true
    }

    /// The next `count` events as a batch of their own, on the same block.
    fn split(&mut self, count: usize) -> Self {
        let events = self.events[self.taken..][..count].to_vec();
        let number = self.number + self.taken as u64;
        self.taken += count;
        let arrivals = events.iter().filter(|event| event.is_arrival()).count();
        self.arrivals -= arrivals;
        Self { events, taken: 0, number, block: self.block.clone(), arrivals, releases: Vec::new() }
    }

    /// Makes it empty, as new; false if its memory is not worth keeping.
    fn clear(&mut self) -> bool {
        self.events.clear();
        (self.taken, self.arrivals) = (0, 0);
        let is_small = self.events.capacity() <= MERGED_EVENTS_MAX;
        match Arc::get_mut(&mut self.block) {
            Some(block) if is_small && block.capacity() <= MERGED_BYTES_MAX => {
                block.clear();
                true
            }
            _ => {
                (self.events, self.block) = Default::default();
                false
            }
        }
    }
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            taken: 0,
            number: 0,
            block: Arc::default(),
            arrivals: 0,
            releases: Vec::new(),
        }
    }
}

/// With what was kept and never put.
impl<R> Drop for Batch<R> {
    fn drop(&mut self) {
        release(std::mem::take(&mut self.releases));
    }
}

impl<R> Drop for State<R> {
    fn drop(&mut self) {
        release(self.releases.drain(..).map(|(_, word)| word));
    }
}

/// Under no lock: it may run code of the embedder's.
fn release(words: impl IntoIterator<Item = Box<dyn Release>>) {
    words.into_iter().for_each(Release::release);
}

/// Arrivals that may be unread before the server lets nobody else in.
const ARRIVALS_MAX: usize = 4096;
/// Batches that nobody has taken are joined up to this size: polling less often is cheaper.
const MERGED_BYTES_MAX: usize = 256 * 1024;
const MERGED_EVENTS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    /// Where its payload lies, and how long it is.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Event(usize, usize);

    impl Record for Event {
        fn shift(&mut self, by: usize) {
            self.0 += by;
        }

        fn is_arrival(&self) -> bool {
            self.1 == ARRIVES.len()
        }
    }

    const ARRIVES: &[u8] = b"arrives";

    fn put(queue: &Queue<Event>, payloads: &[&[u8]]) {
        let mut batch = Batch::default();
        for payload in payloads {
            batch.push(payload, |start| Event(start, payload.len()));
        }
        queue.put(&mut batch, false);
        assert!(batch.events.is_empty() && batch.block.is_empty());
    }

    fn payloads(batch: &mut Batch<Event>) -> Vec<Vec<u8>> {
        let (events, block) = batch.parts();
        events.iter().map(|event| block[event.0..][..event.1].to_vec()).collect()
    }

    fn polled(queue: &Queue<Event>, most: usize) -> Batch<Event> {
        match queue.poll(most, Some(Duration::ZERO)) {
            Polled::Batch(batch) => batch,
            _ => panic!("there is no batch"),
        }
    }

    struct Counted(Arc<AtomicUsize>);

    impl Release for Counted {
        fn release(self: Box<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[derive(Default)]
    struct Counter {
        rings: AtomicUsize,
        is_lit: AtomicBool,
    }

    impl Bell for Arc<Counter> {
        fn ring(&self) {
            self.rings.fetch_add(1, SeqCst);
        }
    }

    impl Lamp for Arc<Counter> {
        fn light(&self) {
            assert!(!self.is_lit.swap(true, SeqCst), "it was lit already");
        }

        fn put_out(&self) {
            self.is_lit.store(false, SeqCst);
        }

        fn descriptor(&self) -> isize {
            7
        }
    }

    #[test]
    fn events_of_many_turns_come_out_in_order_however_they_are_split() {
        for most in [1, 2, 3, 7, usize::MAX] {
            let queue = Queue::default();
            let large = vec![b'L'; MERGED_BYTES_MAX];
            let all: [&[u8]; 6] = [b"a", b"", b"ccc", &large, b"d", b"ee"];
            put(&queue, &all[..2]);
            put(&queue, &all[2..3]);
            put(&queue, &all[3..4]);
            put(&queue, &all[4..]);
            assert_eq!(queue.queued(), 6);
            let (mut found, mut kept) = (Vec::new(), Vec::new());
            while queue.queued() > 0 {
                let mut batch = polled(&queue, most);
                assert!((1..=most).contains(&batch.events().len()));
                found.extend(payloads(&mut batch));
                kept.push(batch);
            }
            assert!(found == all, "in parts of {most}");
            // Freed in the other order, each part still has its bytes until then.
            while let Some(mut batch) = kept.pop() {
                let own = payloads(&mut batch);
                assert!(found.ends_with(&own));
                found.truncate(found.len() - own.len());
                queue.free(batch);
            }
            assert!(matches!(queue.poll(1, Some(Duration::ZERO)), Polled::TimedOut));
            assert!(queue.lock().taken.is_empty());
        }
    }

    #[test]
    fn the_bell_rings_and_the_lamp_is_lit_once_from_empty_to_empty() {
        let (queue, counter) = (Queue::default(), Arc::new(Counter::default()));
        put(&queue, &[b"before"]);
        queue.set_bell(Some(Box::new(counter.clone())));
        let lamp = counter.clone();
        assert_eq!(queue.lamp::<()>(|| Ok(Box::new(lamp))), Ok(7));
        assert_eq!(queue.lamp(|| Err(())), Ok(7));
        for round in 1..4 {
            assert!(counter.is_lit.load(SeqCst));
            assert_eq!(counter.rings.load(SeqCst), round);
            put(&queue, &[b"more"]);
            queue.wake();
            queue.wake();
            assert!(matches!(queue.poll(1, None), Polled::Woken));
            queue.free(polled(&queue, 1));
            assert!(counter.is_lit.load(SeqCst));
            queue.free(polled(&queue, 1));
            assert!(!counter.is_lit.load(SeqCst));
            put(&queue, &[b"again"]);
        }
        queue.free(polled(&queue, 1));
        queue.wake();
        assert!(counter.is_lit.load(SeqCst));
        assert!(matches!(queue.poll(1, None), Polled::Woken));
        assert!(!counter.is_lit.load(SeqCst));
    }

    /// Polls when it is told to, as whoever is woken in the stead of this thread.
    struct Eager(Weak<Queue<Event>>);

    impl Eager {
        fn poll(&self) {
            let queue = self.0.upgrade().expect("it tells");
            assert!(queue.state.try_lock().is_ok(), "who is told would wait for the one who tells");
        }
    }

    impl Bell for Eager {
        fn ring(&self) {
            self.poll();
        }
    }

    impl Lamp for Eager {
        fn light(&self) {
            self.poll();
        }

        fn put_out(&self) {}

        fn descriptor(&self) -> isize {
            7
        }
    }

    #[test]
    fn who_is_told_can_poll_at_once() {
        let queue = Arc::new(Queue::default());
        let eager = || Box::new(Eager(Arc::downgrade(&queue)));
        queue.set_bell(Some(eager()));
        assert_eq!(queue.lamp::<()>(|| Ok(eager())), Ok(7));
        put(&queue, &[b"news"]);
        queue.free(polled(&queue, 1));
        queue.wake();
        assert!(matches!(queue.poll(1, None), Polled::Woken));
    }

    #[test]
    fn a_lamp_that_is_lit_too_late_is_put_out_when_nothing_is_found() {
        let (queue, counter) = (Queue::<Event>::default(), Arc::new(Counter::default()));
        let lamp = counter.clone();
        assert_eq!(queue.lamp::<()>(|| Ok(Box::new(lamp))), Ok(7));
        for time in [Duration::ZERO, Duration::from_millis(1)] {
            counter.light();
            assert!(matches!(queue.poll(1, Some(time)), Polled::TimedOut));
            assert!(!counter.is_lit.load(SeqCst));
        }
    }

    #[test]
    fn whoever_waits_gets_the_next_event_or_the_end() {
        let queue = Queue::default();
        thread::scope(|scope| {
            let while_somebody_waits = |act: &dyn Fn()| {
                let waits = scope.spawn(|| queue.poll(9, None));
                while queue.lock().waiting == 0 {
                    thread::yield_now();
                }
                act();
                waits.join().unwrap()
            };
            let event = while_somebody_waits(&|| put(&queue, &[b"hello"]));
            assert!(matches!(event, Polled::Batch(_)));
            let wake = while_somebody_waits(&|| queue.wake());
            assert!(matches!(wake, Polled::Woken));
            let end = while_somebody_waits(&|| {
                let mut last = Batch::default();
                last.push(b"", |start| Event(start, 0));
                queue.put(&mut last, true);
            });
            assert!(matches!(end, Polled::Batch(_)));
        });
        assert!(matches!(queue.poll(1, None), Polled::Stopped));
    }

    #[test]
    fn a_wait_ends_with_its_time() {
        let queue = Queue::<Event>::default();
        let (begun, time) = (Instant::now(), Duration::from_millis(20));
        assert!(matches!(queue.poll(1, Some(time)), Polled::TimedOut));
        assert!(begun.elapsed() >= time);
    }

    #[test]
    fn a_word_is_kept_until_no_event_can_carry_it() {
        let (queue, released) = (Queue::default(), Arc::new(AtomicUsize::new(0)));
        let discard = || {
            let mut batch = Batch::default();
            batch.keep(Box::new(Counted(released.clone())));
            queue.put(&mut batch, false);
        };
        // Nobody has anything: at once.
        discard();
        assert_eq!(released.load(SeqCst), 1);
        // Behind an event that nobody has taken.
        put(&queue, &[b"a"]);
        discard();
        let batch = polled(&queue, 1);
        assert_eq!(released.load(SeqCst), 1);
        // Behind one that was taken, and is not freed.
        discard();
        queue.free(batch);
        assert_eq!(released.load(SeqCst), 3);
        // With the queue itself.
        put(&queue, &[b"b"]);
        discard();
        drop(queue);
        assert_eq!(released.load(SeqCst), 4);
    }

    #[test]
    fn a_word_is_kept_in_whatever_order_batches_are_freed() {
        for most in [1, 2, 3] {
            let (queue, released) = (Queue::default(), Arc::new(AtomicUsize::new(0)));
            let mut batch = Batch::default();
            for _ in 0..3 {
                batch.push(b"carries it", |start| Event(start, 10));
            }
            batch.keep(Box::new(Counted(released.clone())));
            queue.put(&mut batch, false);
            put(&queue, &[b"does not"]);
            let first = polled(&queue, most);
            let mut later = Vec::new();
            while queue.queued() > 0 {
                later.push(polled(&queue, most));
            }
            while let Some(batch) = later.pop() {
                queue.free(batch);
            }
            assert_eq!(released.load(SeqCst), 0, "in parts of {most}");
            queue.free(first);
            assert_eq!(released.load(SeqCst), 1);
        }
    }

    #[test]
    fn with_too_many_arrivals_unread_nobody_else_is_let_in() {
        let queue = Queue::default();
        put(&queue, &[b"not counted".as_slice(); 10]);
        queue.free(polled(&queue, 10));
        for _ in 0..=ARRIVALS_MAX {
            assert!(!queue.is_crowded());
            put(&queue, &[ARRIVES]);
        }
        assert!(queue.is_crowded());
        // One more than half of them leaves as many as there is room for.
        let (most, rest) = (polled(&queue, MERGED_EVENTS_MAX), polled(&queue, 1));
        assert!(!queue.free(rest));
        assert!(queue.is_crowded());
        assert!(queue.free(most));
        assert!(!queue.is_crowded());
    }

    #[test]
    fn each_part_of_a_batch_counts_its_own_arrivals() {
        let queue = Queue::default();
        put(&queue, &[ARRIVES; ARRIVALS_MAX + 1]);
        for freed in 1..=ARRIVALS_MAX + 1 {
            let lets_in_again = queue.free(polled(&queue, 1));
            assert_eq!(lets_in_again, freed == ARRIVALS_MAX / 2 + 1, "after {freed}");
        }
    }

    #[test]
    fn memory_of_a_freed_batch_serves_the_next_unless_it_is_large() {
        let queue = Queue::default();
        put(&queue, &[b"small"]);
        queue.free(polled(&queue, 1));
        assert!(queue.lock().spare.is_some());
        put(&queue, &[&[0; MERGED_BYTES_MAX + 1]]);
        let large = polled(&queue, 1);
        assert!(queue.lock().spare.is_none());
        queue.free(large);
        assert!(queue.lock().spare.is_none());
    }
}
