//! What other machines say: envelopes, heard one after the other. An input is a row of them, each
//! behind a byte with its length.
//!
//! What is read is written the same again, and what is not UTF-8 is no text. A message is new once,
//! whatever order the numbers come in; one that is old, or of this server itself, never is; and what
//! a publisher has lost is told once.
#![no_main]

use std::collections::{HashMap, HashSet};

use fullduplex::backplane::envelope::{Envelope, NodeId, Publisher};
use fullduplex::backplane::heard::{Heard, Verdict, WINDOW};
use fullduplex::protocol::Kind;

const OWN: NodeId = NodeId(*b"this one");

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut heard = Heard::new(OWN);
    let mut known = Known::default();
    let mut rest = input;
    while let Some((&len, after)) = rest.split_first() {
        let (bytes, after) = after.split_at(after.len().min(len.into()));
        rest = after;
        let Ok(envelope) = Envelope::decode(bytes) else { continue };
        assert_eq!(envelope.encode(), bytes);
        if let Some(message) = envelope.message {
            assert!(message.kind == Kind::Binary || std::str::from_utf8(message.payload).is_ok());
        }
        let stamp = envelope.stamp;
        let verdict = heard.hear(stamp);
        if stamp.publisher.node == OWN {
            assert_eq!(verdict, Verdict::Echo);
            continue;
        }
        let expected = match known.is_new(stamp.publisher, stamp.sequence) {
            true => Verdict::New { lost: known.newly_lost(stamp.publisher.node, stamp.lost) },
            false => Verdict::Repeat,
        };
        assert_eq!(verdict, expected, "{stamp:?}");
    }
});

/// Forgets nothing: inputs are short.
#[derive(Default)]
struct Known {
    sequences: HashMap<Publisher, HashSet<u64>>,
    lost: HashMap<NodeId, u64>,
}

impl Known {
    fn is_new(&mut self, publisher: Publisher, sequence: u64) -> bool {
        let sequences = self.sequences.entry(publisher).or_default();
        let is_too_old = sequences.iter().any(|&known| known >= sequence && known - sequence >= WINDOW);
        !is_too_old && sequences.insert(sequence)
    }

    fn newly_lost(&mut self, node: NodeId, lost: u64) -> u64 {
        let known = self.lost.entry(node).or_insert(lost);
        let newly = lost.saturating_sub(*known);
        *known = lost.max(*known);
        newly
    }
}
