//! Other machines: what is published here goes to them, and what they publish comes here.
//!
//! A call of [`Backplane::publish`] or [`Backplane::subscribe`] leaves a note under a short lock and
//! returns; a thread of the backplane's own does the rest, and may wait for others as long as it
//! likes. What waits is bounded by `backplane.limit`: beyond it a publish is counted as lost, and
//! every receiver is told so by the next envelope.

mod custom;
pub mod envelope;
pub mod heard;
mod inbound;
mod link;
mod outbound;
mod pace;
mod redis;
mod slots;
mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::buffer::copied;
use crate::config::BackplaneOptions;
use crate::protocol::Kind;
use crate::protocol::deflate::Wish;
pub use custom::Carrier;
use envelope::{Envelope, Message, NodeId, Publisher, Stamp, Unreadable};
use heard::{Heard, Verdict};

/// The server, as a backplane sees it.
pub trait Inlet: Send + Sync {
    /// Gives a message to this process's subscribers.
    fn deliver(&self, topic: &[u8], kind: Kind, wish: Wish, payload: &[u8]);
    fn tell(&self, news: News, why: &str);
}

/// How it stands between this server and the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// What is published reaches the others, and the other way round.
    Up,
    /// It does not. Publishes wait.
    Down,
    /// Messages of others, or of this server to others, may be missing before this.
    Gap,
}

/// What carries messages between the machines.
pub struct Backplane {
    shared: Arc<Shared>,
    /// `None`: the embedder's own, given at the start.
    redis: Option<BackplaneOptions>,
}

/// Since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Messages of other servers that were delivered here.
    pub received: u64,
    /// Publishes that were handed over.
    pub sent: u64,
    /// Publishes that found no room, or were refused for good.
    pub lost: u64,
}

/// Why what an embedder's backplane brought was not delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undelivered {
    Unreadable(Unreadable),
    /// It was for another application.
    OtherPrefix,
    /// This server's backplane is not the embedder's.
    NotCustom,
    /// There is nobody yet to deliver to.
    NotStarted,
    Stopped,
}

/// What an embedder says of its own backplane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Up,
    Down,
    Gap,
}

impl Backplane {
    /// By what the options name, if they name any.
    pub fn of_options(options: &BackplaneOptions) -> Option<Self> {
        let redis = (!options.servers.is_empty()).then(|| options.clone())?;
        Some(Self { shared: Shared::new(options, false), redis: Some(redis) })
    }

    /// By functions of the embedder's.
    pub fn custom(options: &BackplaneOptions) -> Self {
        Self { shared: Shared::new(options, true), redis: None }
    }

    /// Looks at all that can be wrong before anything is begun. `carrier` is the embedder's, for a
    /// custom backplane.
    pub fn prepare(&self, carrier: Option<Box<dyn Carrier>>) -> Result<Prepared, StartError> {
        let shared = &self.shared;
        let (name, run): (_, Box<dyn FnOnce() + Send>) = match &self.redis {
            Some(options) => {
                let courier = redis::Courier::new(shared.clone(), options)?;
                ("fullduplex-redis", Box::new(move || courier.run()))
            }
            None => {
                let carrier = carrier.ok_or(StartError::Config("no backplane was given".to_string()))?;
                let shared = shared.clone();
                ("fullduplex-backplane", Box::new(move || custom::run(&shared, &*carrier)))
            }
        };
        Ok(Prepared { shared: shared.clone(), name, run })
    }

    /// Never waits. From any thread.
    pub fn publish(&self, topic: &[u8], kind: Kind, wish: Wish, payload: &[u8]) {
        self.shared.publish(topic, kind, wish, payload);
    }

    /// The first local subscriber of a topic has come. Never waits.
    pub fn subscribe(&self, topic: &[u8]) {
        self.shared.want(topic, true);
    }

    /// The last local subscriber of a topic has gone. Never waits.
    pub fn unsubscribe(&self, topic: &[u8]) {
        self.shared.want(topic, false);
    }

    /// What the embedder's backplane brings.
    pub fn deliver(&self, channel: &[u8], envelope: &[u8]) -> Result<(), Undelivered> {
        match self.redis {
            Some(_) => Err(Undelivered::NotCustom),
            None => self.shared.receive(channel, envelope),
        }
    }

    /// What the embedder says of its backplane. False if it was so already.
    pub fn set_condition(&self, condition: Condition) -> Result<bool, Undelivered> {
        match self.redis {
            Some(_) => Err(Undelivered::NotCustom),
            None => self.shared.set_condition(condition),
        }
    }

    /// Tells the thread to hand over what waits, if that takes no time, and to end.
    pub fn stop(&self) {
        let mut waiting = self.shared.lock();
        waiting.stop_at.get_or_insert_with(|| Instant::now() + FLUSH_TIME);
        drop(waiting);
        self.shared.ring();
    }

    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }
}

/// A backplane about to begin.
pub struct Prepared {
    shared: Arc<Shared>,
    name: &'static str,
    run: Box<dyn FnOnce() + Send>,
}

impl Prepared {
    /// The thread does what it does inside of `host`.
    pub fn start(
        self,
        inlet: Weak<dyn Inlet>,
        host: impl FnOnce(&mut dyn FnMut()) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let Self { shared, name, run } = self;
        let _ = shared.inlet.set(inlet);
        let mut run = Some(run);
        let mut body = move || {
            let Some(run) = run.take() else { return };
            // The hook has logged it. Local delivery goes on.
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                shared.tell(News::Down, "a bug of the library's ended the backplane; see the log");
            }
            shared.end();
        };
        thread::Builder::new().name(name.to_string()).spawn(move || host(&mut body))
    }
}

/// Why a backplane can't begin.
#[derive(Debug)]
pub enum StartError {
    Config(String),
    Tls(String),
    Io(io::Error),
}

/// What calls from any thread and the backplane's own thread share.
struct Shared {
    node: NodeId,
    prefix: Vec<u8>,
    limit_bytes: usize,
    /// Some of this runs on the embedder's threads, on which nothing may be logged: that would call it.
    is_custom: bool,
    inlet: OnceLock<Weak<dyn Inlet>>,
    waiting: Mutex<Waiting>,
    /// Of publishes that wait or are not acknowledged.
    queued_bytes: AtomicUsize,
    received: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
    /// Before the first wait of the thread there is nobody to wake.
    alarm: OnceLock<Alarm>,
    is_asleep: AtomicBool,
    listening: Mutex<Listening>,
}

/// What the thread has not taken yet.
#[derive(Default)]
struct Waiting {
    posts: VecDeque<Post>,
    /// Topics of publishes that were lost: who subscribes to them is told, should nothing else be
    /// published there. At most [`LOST_TOPICS_MAX`].
    lost_topics: HashSet<Box<[u8]>>,
    /// What is wanted now of each topic for which it has changed: one entry each, however often.
    changes: HashMap<Box<[u8]>, bool>,
    stop_at: Option<Instant>,
    is_over: bool,
    /// Of a custom backplane.
    is_down: bool,
    /// It was down since the thread looked last.
    was_down: bool,
    has_gap: bool,
}

struct Listening {
    heard: Heard,
    gap_told_at: Option<Instant>,
    /// Publishes that others have lost, not told yet: one event in a while is enough.
    gap: u64,
}

/// What is to be handed over.
#[derive(Debug)]
struct Post {
    topic: Box<[u8]>,
    /// What this server had lost before.
    lost: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Message {
        kind: Kind,
        wish: Wish,
        payload: Vec<u8>,
    },
    /// Only that something was lost.
    Note,
}

enum Alarm {
    Poll(mio::Waker),
    Thread(Thread),
}

impl Post {
    /// What it counts against the limit.
    fn cost(&self) -> usize {
        match &self.content {
            Content::Message { payload, .. } => cost(&self.topic, payload),
            Content::Note => cost(&self.topic, &[]),
        }
    }

    fn is_note(&self) -> bool {
        matches!(self.content, Content::Note)
    }

    fn envelope(&self, publisher: Publisher, sequence: u64) -> Vec<u8> {
        let stamp = Stamp { publisher, sequence, lost: self.lost };
        let message = match &self.content {
            Content::Message { kind, wish, payload } => Some(Message { kind: *kind, wish: *wish, payload }),
            Content::Note => None,
        };
        Envelope { stamp, message }.encode()
    }
}

fn cost(topic: &[u8], payload: &[u8]) -> usize {
    topic.len() + payload.len() + POST_BYTES
}

impl Shared {
    fn new(options: &BackplaneOptions, is_custom: bool) -> Arc<Self> {
        let node = NodeId::random();
        Arc::new(Self {
            node,
            prefix: options.prefix.clone().into_bytes(),
            limit_bytes: options.limit_bytes,
            is_custom,
            inlet: OnceLock::new(),
            waiting: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            alarm: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            listening: Mutex::new(Listening { heard: Heard::new(node), gap_told_at: None, gap: 0 }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    fn publish(&self, topic: &[u8], kind: Kind, wish: Wish, payload: &[u8]) {
        let cost = cost(topic, payload);
        // Asked before the copy is made; another thread may be quicker, so it is asked again.
        let has_room = || self.queued_bytes.load(Relaxed).saturating_add(cost) <= self.limit_bytes;
        let payload = if has_room() { copied(payload).ok() } else { None };
        let mut waiting = self.lock();
        match payload {
            Some(payload) if !waiting.is_over && has_room() && waiting.posts.try_reserve(1).is_ok() => {
                self.queued_bytes.fetch_add(cost, Relaxed);
                let content = Content::Message { kind, wish, payload };
                let lost = self.lost.load(Relaxed);
                waiting.posts.push_back(Post { topic: topic.into(), lost, content });
            }
            _ => self.lose(&mut waiting, topic),
        }
        drop(waiting);
        self.ring();
    }

    fn want(&self, topic: &[u8], is_wanted: bool) {
        let mut waiting = self.lock();
        if waiting.is_over {
            return;
        }
        waiting.changes.insert(topic.into(), is_wanted);
        drop(waiting);
        self.ring();
    }

    fn set_condition(&self, condition: Condition) -> Result<bool, Undelivered> {
        let mut waiting = self.lock();
        if waiting.is_over {
            return Err(Undelivered::Stopped);
        }
        let before = waiting.is_down;
        match condition {
            Condition::Up => waiting.is_down = false,
            Condition::Down => (waiting.is_down, waiting.was_down) = (true, true),
            Condition::Gap => waiting.has_gap = true,
        }
        let is_changed = condition == Condition::Gap || before != waiting.is_down;
        drop(waiting);
        self.ring();
        Ok(is_changed)
    }

    /// Wakes the thread, if it sleeps.
    fn ring(&self) {
        if self.is_asleep.swap(false, SeqCst) {
            match self.alarm.get() {
                // It can fail only for lack of what every poll needs, too.
                Some(Alarm::Poll(waker)) => drop(waker.wake()),
                Some(Alarm::Thread(thread)) => thread.unpark(),
                None => {}
            }
        }
    }

    /// Runs `wait` unless there is something to do. Whoever leaves something after this has looked
    /// sees `is_asleep`.
    fn sleep(&self, has_work: impl FnOnce(&Waiting) -> bool, wait: impl FnOnce(bool)) {
        self.is_asleep.store(true, SeqCst);
        let has_work = has_work(&self.lock());
        wait(has_work);
        self.is_asleep.store(false, SeqCst);
    }

    /// A publish was acknowledged, or lost: its bytes are free.
    fn settle(&self, cost: usize) {
        self.queued_bytes.fetch_sub(cost, Relaxed);
    }

    fn lose(&self, waiting: &mut Waiting, topic: &[u8]) {
        self.lost.fetch_add(1, Relaxed);
        if !waiting.is_over && waiting.lost_topics.len() < LOST_TOPICS_MAX {
            waiting.lost_topics.insert(topic.into());
        }
    }

    fn has_notes(&self, waiting: &Waiting) -> bool {
        !waiting.lost_topics.is_empty() && self.queued_bytes.load(Relaxed) == 0
    }

    /// When all that waited is handed over: what says so where something was lost since.
    fn notes(&self, waiting: &mut Waiting) -> Vec<Post> {
        if !self.has_notes(waiting) {
            return Vec::new();
        }
        let lost = self.lost.load(Relaxed);
        let topics = std::mem::take(&mut waiting.lost_topics).into_iter();
        let notes: Vec<Post> = topics.map(|topic| Post { topic, lost, content: Content::Note }).collect();
        // Over the limit, perhaps, but not again until these are handed over.
        self.queued_bytes.fetch_add(notes.iter().map(Post::cost).sum(), Relaxed);
        notes
    }

    /// The thread has ended: nothing waits any more.
    fn end(&self) {
        let mut waiting = self.lock();
        waiting.is_over = true;
        let posts = std::mem::take(&mut waiting.posts);
        waiting.changes = HashMap::new();
        waiting.lost_topics = HashSet::new();
        drop(waiting);
        self.drop_all(posts.len(), posts.iter().map(Post::cost).sum());
    }

    /// Nobody will hand these over any more.
    fn drop_all(&self, count: usize, cost: usize) {
        self.lost.fetch_add(count as u64, Relaxed);
        self.settle(cost);
    }

    fn counts(&self) -> Counts {
        Counts {
            received: self.received.load(Relaxed),
            sent: self.sent.load(Relaxed),
            lost: self.lost.load(Relaxed),
        }
    }

    fn tell(&self, news: News, why: &str) {
        match news {
            News::Up => log::info!(target: LOG, "up: {why}"),
            News::Down => log::warn!(target: LOG, "down: {why}"),
            News::Gap => log::warn!(target: LOG, "gap: {why}"),
        }
        self.pass_on(news, why);
    }

    fn pass_on(&self, news: News, why: &str) {
        if let Some(inlet) = self.inlet.get().and_then(Weak::upgrade) {
            inlet.tell(news, why);
        }
    }

    /// Delivers what came for a channel, unless this server has published it or it came before.
    fn receive(&self, channel: &[u8], bytes: &[u8]) -> Result<(), Undelivered> {
        let topic = channel.strip_prefix(&self.prefix[..]).filter(|topic| !topic.is_empty());
        let topic = topic.ok_or(Undelivered::OtherPrefix)?;
        let envelope = Envelope::decode(bytes).map_err(Undelivered::Unreadable)?;
        if self.lock().is_over {
            return Err(Undelivered::Stopped);
        }
        let inlet = self.inlet.get().and_then(Weak::upgrade).ok_or(Undelivered::NotStarted)?;
        let mut listening = self.listening();
        let verdict = listening.heard.hear(envelope.stamp);
        let Verdict::New { lost } = verdict else { return Ok(()) };
        listening.gap += lost;
        drop(listening);
        if lost > 0 {
            self.tell_gap(Instant::now());
            // The thread tells what is held back.
            self.ring();
        }
        if let Some(Message { kind, wish, payload }) = envelope.message {
            self.received.fetch_add(1, Relaxed);
            inlet.deliver(topic, kind, wish, payload);
        }
        Ok(())
    }

    /// Tells what others have lost, if the last time was long enough ago, and else when that will
    /// be.
    fn tell_gap(&self, now: Instant) -> Option<Instant> {
        let mut listening = self.listening();
        if listening.gap == 0 {
            return None;
        }
        if let Some(due) = listening.gap_told_at.map(|at| at + GAP_INTERVAL).filter(|&due| due > now) {
            return Some(due);
        }
        let lost = std::mem::take(&mut listening.gap);
        listening.gap_told_at = Some(now);
        drop(listening);
        let why = format!("other servers have lost {lost} of their publishes");
        match self.is_custom {
            true => self.pass_on(News::Gap, &why),
            false => self.tell(News::Gap, &why),
        }
        None
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock()
    }
}

const LOG: &str = "fullduplex::backplane";
/// Memory of a publish besides its topic and payload, roughly.
const POST_BYTES: usize = 128;
/// Topics of which it is remembered that something was lost there.
const LOST_TOPICS_MAX: usize = 1024;
/// How long the end of the thread may wait for who is to take over what waits.
const FLUSH_TIME: Duration = Duration::from_millis(1500);
/// News of what others have lost come at most so often.
const GAP_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
