//! What was heard of whom: own echoes, repeats, and what other nodes say they have lost.

use std::collections::HashMap;
use std::hash::Hash;

use super::envelope::{NodeId, Publisher, Stamp};

/// Remembers publishers, so many that memory is bounded: those silent for longest are forgotten.
pub struct Heard {
    own: NodeId,
    streams: Recent<Publisher, Window>,
    /// What each node has lost, as it said last.
    lost: Recent<NodeId, u64>,
}

/// What is to be done with an envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    New {
        /// The publisher has lost so many since we heard of it last.
        lost: u64,
    },
    /// This node has published it, and its own subscribers have it already.
    Echo,
    /// It came before.
    Repeat,
}

impl Heard {
    pub fn new(own: NodeId) -> Self {
        Self { own, streams: Recent::new(STREAMS_MAX), lost: Recent::new(NODES_MAX) }
    }

    pub fn hear(&mut self, stamp: Stamp) -> Verdict {
        if stamp.publisher.node == self.own {
            return Verdict::Echo;
        }
        let window = self.streams.get_or_insert(stamp.publisher, || Window::before(stamp.sequence));
        if !window.enter(stamp.sequence) {
            return Verdict::Repeat;
        }
        // Of what was lost before we knew it, nobody here can have missed anything.
        let lost = self.lost.get_or_insert(stamp.publisher.node, || stamp.lost);
        let grown = stamp.lost.saturating_sub(*lost);
        *lost = stamp.lost.max(*lost);
        Verdict::New { lost: grown }
    }
}

/// Which of a stream's latest sequence numbers have come.
///
/// What was not acknowledged when a connection broke is sent again, in a cluster perhaps by another
/// way than what was sent after it. So the highest number alone does not tell what is a repeat.
struct Window {
    highest: u64,
    /// Bit `n % WINDOW` stands for number `n`.
    bits: Box<[u64; WINDOW as usize / 64]>,
}

impl Window {
    /// As if everything before `sequence` were still to come: a stream may be heard in its middle
    /// because of a message that was sent again.
    fn before(sequence: u64) -> Self {
        Self { highest: sequence.saturating_sub(1), bits: Box::default() }
    }

    /// False if the number has come before, or is so old that it must have.
    fn enter(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let skipped = (sequence - self.highest).min(WINDOW);
            for number in 0..skipped {
                self.clear(sequence - number);
            }
            self.highest = sequence;
        } else if self.highest - sequence >= WINDOW {
            return false;
        }
        let (word, bit) = place(sequence);
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }

    fn clear(&mut self, sequence: u64) {
        let (word, bit) = place(sequence);
        self.bits[word] &= !bit;
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let index = sequence % WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

/// A map that forgets what was not asked for longest.
struct Recent<K, V> {
    entries: HashMap<K, (u64, V)>,
    clock: u64,
    count_max: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    fn new(count_max: usize) -> Self {
        Self { entries: HashMap::new(), clock: 0, count_max }
    }

    fn get_or_insert(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        self.clock += 1;
        if self.entries.len() >= self.count_max && !self.entries.contains_key(&key) {
            // A quarter at once, so that looking for the oldest is paid by many newcomers.
            let mut uses: Vec<u64> = self.entries.values().map(|(used, _)| *used).collect();
            let (_, newest_gone, _) = uses.select_nth_unstable(self.count_max / 4);
            let newest_gone = *newest_gone;
            self.entries.retain(|_, (used, _)| *used > newest_gone);
        }
        let entry = self.entries.entry(key).or_insert_with(|| (0, value()));
        entry.0 = self.clock;
        &mut entry.1
    }
}

/// Numbers of a stream that are told apart; a publisher has at most so many under way.
pub const WINDOW: u64 = 1024;
/// A stream is a connection of a node, each about 200 bytes.
const STREAMS_MAX: usize = 16 * 1024;
const NODES_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Verdict = Verdict::New { lost: 0 };

    fn stamp(node: u8, stream: u64, sequence: u64, lost: u64) -> Stamp {
        Stamp { publisher: Publisher { node: NodeId([node; 8]), stream }, sequence, lost }
    }

    fn heard() -> Heard {
        Heard::new(NodeId([0; 8]))
    }

    #[test]
    fn what_this_node_published_is_an_echo_on_every_stream() {
        let mut heard = heard();
        assert_eq!(heard.hear(stamp(0, 1, 1, 0)), Verdict::Echo);
        assert_eq!(heard.hear(stamp(0, 2, 9, 5)), Verdict::Echo);
        assert_eq!(heard.hear(stamp(1, 1, 1, 0)), NEW);
    }

    #[test]
    fn what_is_sent_again_after_a_broken_connection_is_delivered_once() {
        let mut heard = heard();
        for sequence in 1..=5 {
            assert_eq!(heard.hear(stamp(1, 1, sequence, 0)), NEW);
        }
        // 4 and 5 were not acknowledged, 6 had not arrived.
        let again = [4, 5, 6].map(|sequence| heard.hear(stamp(1, 1, sequence, 0)));
        assert_eq!(again, [Verdict::Repeat, Verdict::Repeat, NEW]);
        // The new connection has a stream of its own.
        assert_eq!(heard.hear(stamp(1, 2, 1, 0)), NEW);
    }

    #[test]
    fn numbers_that_other_channels_have_are_no_loss_and_a_late_one_is_no_repeat() {
        let mut heard = heard();
        for (sequence, verdict) in
            [(10, NEW), (13, NEW), (11, NEW), (11, Verdict::Repeat), (13, Verdict::Repeat), (12, NEW)]
        {
            assert_eq!(heard.hear(stamp(1, 1, sequence, 0)), verdict, "{sequence}");
        }
    }

    #[test]
    fn numbers_older_than_what_can_be_under_way_are_repeats() {
        let mut heard = heard();
        assert_eq!(heard.hear(stamp(1, 1, 5000, 0)), NEW);
        assert_eq!(heard.hear(stamp(1, 1, 5000 - WINDOW + 1, 0)), NEW);
        assert_eq!(heard.hear(stamp(1, 1, 5000 - WINDOW, 0)), Verdict::Repeat);
        // A leap forgets all that is behind the window.
        assert_eq!(heard.hear(stamp(1, 1, 5000 + 10 * WINDOW, 0)), NEW);
        assert_eq!(heard.hear(stamp(1, 1, 5000 + 10 * WINDOW - 1, 0)), NEW);
        assert_eq!(heard.hear(stamp(1, 1, 5000, 0)), Verdict::Repeat);
    }

    #[test]
    fn any_number_can_be_the_first_and_the_last() {
        let mut heard = heard();
        for sequence in [0, 1, u64::MAX, u64::MAX - 1] {
            assert_eq!(heard.hear(stamp(1, 1, sequence, 0)), NEW, "{sequence}");
            assert_eq!(heard.hear(stamp(1, 1, sequence, 0)), Verdict::Repeat, "{sequence}");
        }
        assert_eq!(heard.hear(stamp(2, 1, 0, 0)), NEW);
        assert_eq!(heard.hear(stamp(2, 1, 0, 0)), Verdict::Repeat);
    }

    #[test]
    fn a_node_that_says_it_lost_more_leaves_a_gap_once_whatever_stream_says_so() {
        let mut heard = heard();
        assert_eq!(heard.hear(stamp(1, 1, 1, 7)), NEW, "it was lost before anybody here listened");
        assert_eq!(heard.hear(stamp(1, 2, 1, 9)), Verdict::New { lost: 2 });
        assert_eq!(heard.hear(stamp(1, 1, 2, 9)), NEW);
        assert_eq!(heard.hear(stamp(1, 1, 3, 8)), NEW, "said before, came later");
        assert_eq!(heard.hear(stamp(1, 1, 4, 10)), Verdict::New { lost: 1 });
    }

    #[test]
    fn publishers_silent_for_longest_are_forgotten_so_that_memory_has_a_bound() {
        let mut heard = heard();
        for stream in 0..3 * STREAMS_MAX as u64 {
            assert_eq!(heard.hear(stamp(1, stream, 1, 0)), NEW);
            // This one is heard all the time.
            heard.hear(stamp(2, 1, stream, 0));
            assert!(heard.streams.entries.len() <= STREAMS_MAX);
        }
        assert_eq!(heard.hear(stamp(2, 1, 3 * STREAMS_MAX as u64 - 1, 0)), Verdict::Repeat);
        assert_eq!(heard.hear(stamp(1, 3 * STREAMS_MAX as u64 - 1, 1, 0)), Verdict::Repeat);
    }
}
