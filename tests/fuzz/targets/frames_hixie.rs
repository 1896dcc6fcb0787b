//! Frames of Hixie-76 and Hixie-75. An input is what a client sends once it is open.
//!
//! It must mean what the reference says, in both dialects and however it is cut.
#![no_main]

use fullduplex::protocol::Dialect;
use fullduplex_fuzz::hearing::{Arrival, Limits, heard};
use fullduplex_fuzz::{reference, splits};

libfuzzer_sys::fuzz_target!(|wire: &[u8]| {
    for dialect in [Dialect::Hixie76, Dialect::Hixie75] {
        for message_bytes_max in [WIDE, NARROW] {
            let limits = Limits { message_bytes_max, fragments_max: 1 };
            let expected = reference::hixie(wire, dialect == Dialect::Hixie76, limits);
            for way in splits::ways(wire) {
                let cut = heard(dialect, wire, Arrival::Cut(&way), limits);
                assert_eq!(cut, expected, "{dialect:?} cut {way:?}, {limits:?}");
            }
            if message_bytes_max == WIDE {
                assert_eq!(heard(dialect, wire, Arrival::WithRequest, limits), expected, "{dialect:?}");
            }
        }
    }
});

const WIDE: usize = 70_000;
const NARROW: usize = 60;
