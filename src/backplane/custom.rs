//! A backplane of the embedder's own: its functions, called on one thread, with nothing locked.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::envelope::Publisher;
use super::{Alarm, News, Post, Shared, Waiting};

/// What an embedder's backplane does for the server. Called on one thread, one at a time; each may
/// take its time.
pub trait Carrier: Send {
    fn publish(&self, channel: &[u8], envelope: &[u8]);
    fn subscribe(&self, channel: &[u8]);
    fn unsubscribe(&self, channel: &[u8]);
}

/// The thread. It begins up.
pub(super) fn run(shared: &Shared, carrier: &dyn Carrier) {
    let _ = shared.alarm.set(Alarm::Thread(thread::current()));
    let mut own = Own { shared, carrier, wanted: HashSet::new(), sequence: 0, posts: VecDeque::new() };
    let mut is_up = true;
    loop {
        let work = own.take();
        if work.was_down && is_up {
            is_up = false;
            shared.tell(News::Down, "the embedder's backplane is down");
        }
        own.follow(&work.changes, is_up && !work.is_down);
        if !is_up && !work.is_down {
            own.subscribe_all();
            is_up = true;
            shared.tell(News::Up, "the embedder's backplane is up again");
            shared.tell(News::Gap, "the embedder's backplane was down");
        }
        if work.has_gap {
            shared.tell(News::Gap, "the embedder's backplane had a gap");
        }
        if is_up {
            own.publish_some(work.stop_at);
        }
        let is_idle = own.posts.is_empty() || !is_up;
        if work.stop_at.is_some_and(|stop_at| is_idle || Instant::now() >= stop_at) {
            break;
        }
        let due = shared.tell_gap(Instant::now());
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let most = due.map_or(Duration::MAX, until);
        let is_new = |waiting: &Waiting| {
            let is_down_news = waiting.was_down || waiting.is_down == is_up || waiting.has_gap;
            is_down_news
                || !waiting.changes.is_empty()
                || waiting.stop_at.is_some()
                || is_up && (!waiting.posts.is_empty() || shared.has_notes(waiting))
        };
        if is_idle {
            shared.sleep(is_new, |has_work| {
                if !has_work {
                    thread::park_timeout(most)
                }
            });
        }
    }
    shared.drop_all(own.posts.len(), own.posts.iter().map(Post::cost).sum());
}

/// What the thread has to itself.
struct Own<'a> {
    shared: &'a Shared,
    carrier: &'a dyn Carrier,
    /// Topics.
    wanted: HashSet<Box<[u8]>>,
    sequence: u64,
    posts: VecDeque<Post>,
}

/// What the others left for the thread.
struct Work {
    changes: Vec<(Box<[u8]>, bool)>,
    stop_at: Option<Instant>,
    is_down: bool,
    was_down: bool,
    has_gap: bool,
}

impl Own<'_> {
    fn take(&mut self) -> Work {
        let mut waiting = self.shared.lock();
        self.posts.append(&mut waiting.posts);
        let notes = self.shared.notes(&mut waiting);
        self.posts.extend(notes);
        Work {
            changes: waiting.changes.drain().collect(),
            stop_at: waiting.stop_at,
            is_down: waiting.is_down,
            was_down: std::mem::take(&mut waiting.was_down),
            has_gap: std::mem::take(&mut waiting.has_gap),
        }
    }

    fn follow(&mut self, changes: &[(Box<[u8]>, bool)], is_up: bool) {
        for (topic, is_wanted) in changes {
            let is_change = match is_wanted {
                true => self.wanted.insert(topic.clone()),
                false => self.wanted.remove(topic),
            };
            if !is_change || !is_up {
                continue;
            }
            match is_wanted {
                true => self.carrier.subscribe(&self.channel(topic)),
                false => self.carrier.unsubscribe(&self.channel(topic)),
            }
        }
    }

    fn subscribe_all(&self) {
        for topic in &self.wanted {
            self.carrier.subscribe(&self.channel(topic));
        }
    }

    /// So many that a change of what is wanted, or the word that it is down, does not wait long.
    fn publish_some(&mut self, stop_at: Option<Instant>) {
        for _ in 0..POSTS_BETWEEN_LOOKS {
            if stop_at.is_some_and(|stop_at| Instant::now() >= stop_at) {
                return;
            }
            let Some(post) = self.posts.pop_front() else { return };
            self.sequence += 1;
            let publisher = Publisher { node: self.shared.node, stream: 0 };
            let envelope = post.envelope(publisher, self.sequence);
            self.carrier.publish(&self.channel(&post.topic), &envelope);
            self.shared.settle(post.cost());
            self.shared.sent.fetch_add(u64::from(!post.is_note()), Relaxed);
        }
    }

    fn channel(&self, topic: &[u8]) -> Vec<u8> {
        [&self.shared.prefix, topic].concat()
    }
}

const POSTS_BETWEEN_LOOKS: usize = 64;
