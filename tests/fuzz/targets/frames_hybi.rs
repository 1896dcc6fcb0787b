//! Frames of RFC 6455, HyBi-08 and HyBi-07. An input is what a client sends once it is open.
//!
//! The three are the same on the wire, so every input is said in all of them; and in each it
//! must mean what the reference says, however it is cut.
#![no_main]

use fullduplex::protocol::Dialect;
use fullduplex_fuzz::hearing::{Arrival, Limits, heard};
use fullduplex_fuzz::{reference, splits};

libfuzzer_sys::fuzz_target!(|wire: &[u8]| {
    for limits in [WIDE, NARROW] {
        let expected = reference::hybi(wire, limits);
        for way in splits::ways(wire) {
            let cut = heard(Dialect::Rfc6455, wire, Arrival::Cut(&way), limits);
            assert_eq!(cut, expected, "cut {way:?}, {limits:?}");
        }
    }
    let expected = reference::hybi(wire, WIDE);
    for dialect in [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07] {
        assert_eq!(heard(dialect, wire, Arrival::WithRequest, WIDE), expected, "{dialect:?}");
    }
    let expected = reference::hybi(wire, ENDLESS);
    for way in splits::ways(wire) {
        let streamed = heard(Dialect::HyBi08, wire, Arrival::Streamed(&way), NARROW);
        assert_eq!(streamed, expected, "in pieces, cut {way:?}");
    }
});

const WIDE: Limits = Limits { message_bytes_max: 70_000, fragments_max: 1000 };
/// On a route that streams nothing is assembled, and no limit counts.
const ENDLESS: Limits = Limits { message_bytes_max: usize::MAX, fragments_max: usize::MAX };
const NARROW: Limits = Limits { message_bytes_max: 130, fragments_max: 3 };
