//! Good frames of every dialect, put together by a script. What went in comes out: each message
//! once, whole and in its place, however it was fragmented, masked and cut.
//!
//! The first number is the dialect. Then: `t…;` a text, `b…;` binary, `p…;` a Ping, `o…;` a
//! Pong, `k5…;` a Close with a code and reason. Of the next message: `f3` it comes in so many
//! fragments more, `i` with Pings between them, `l7` it is filled up to a length at an edge,
//! `m1234` so masked. In Hixie `x…;` is a frame with a length and `s…;` one of another type, which
//! mean nothing, as does a Close in Hixie-75.
#![no_main]

use fullduplex::driver::sim::Dice;
use fullduplex::protocol::Dialect;
use fullduplex_fuzz::hearing::{Arrival, Limits, Seen, heard};
use fullduplex_fuzz::peer::{DIALECTS, is_hixie};
use fullduplex_fuzz::script::Script;
use fullduplex_fuzz::{reference, splits};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let mut script = Script::new(script);
    let dialect = script.pick(&DIALECTS);
    let has_close = dialect != Dialect::Hixie75;
    let mut speech = Speech { is_hixie: is_hixie(dialect), has_close, ..Speech::default() };
    while let Some(order) = script.order() {
        if speech.wire.len() > WIRE_BYTES_MAX || matches!(speech.expected.last(), Some(Seen::Close(..))) {
            break;
        }
        speech.say(order, &mut script);
    }
    let Speech { wire, expected, .. } = speech;
    let judged = match is_hixie(dialect) {
        true => reference::hixie(&wire, has_close, LIMITS),
        false => reference::hybi(&wire, LIMITS),
    };
    assert_eq!(judged, expected, "the reference");
    assert_eq!(heard(dialect, &wire, Arrival::WithRequest, LIMITS), expected);
    for way in splits::ways(&wire) {
        assert_eq!(heard(dialect, &wire, Arrival::Cut(&way), LIMITS), expected, "cut {way:?}");
    }
    let [.., uneven, _] = splits::ways(&wire);
    assert_eq!(heard(dialect, &wire, Arrival::Streamed(&uneven), LIMITS), expected, "in pieces {uneven:?}");
    assert_eq!(heard(dialect, &wire, Arrival::Lent(&uneven), LIMITS), expected, "lent, cut {uneven:?}");
});

/// What is said, as frames and as what it means.
#[derive(Default)]
struct Speech {
    is_hixie: bool,
    has_close: bool,
    wire: Vec<u8>,
    expected: Vec<Seen>,
    /// About the next message.
    fragments: usize,
    with_pings: bool,
    len_min: usize,
    mask: [u8; 4],
}

impl Speech {
    fn say(&mut self, order: u8, script: &mut Script<'_>) {
        match order {
            b'f' => self.fragments = script.number(),
            b'i' => self.with_pings = true,
            b'l' => {
                self.len_min = script.pick(&[1, 125, 126, 127, 1000, 16_383, 16_384, 65_535, 65_536, 70_000])
            }
            b'm' => self.mask = [(); 4].map(|()| script.order().unwrap_or(0)),
            b't' => {
                let mut text = script.text();
                let missing = self.len_min.saturating_sub(text.len());
                text.push_str(&LETTERS.repeat(missing / LETTERS.len()));
                text.push_str(&"~".repeat(missing % LETTERS.len()));
                match self.is_hixie {
                    true => self.put(&[&[0x00], text.as_bytes(), &[0xFF]]),
                    false => self.put_message(0x01, text.as_bytes()),
                }
                self.expected.push(Seen::Text(text));
                self.forget();
            }
            b'x' if self.is_hixie => {
                let words = script.words();
                let len = words.len() % (128 * 128);
                self.put(&[&[0x80, 0x80 | (len / 128) as u8, (len % 128) as u8], &words[..len]]);
            }
            b's' if self.is_hixie => {
                let words = script.text();
                self.put(&[&[0x42], words.as_bytes(), &[0xFF]]);
            }
            b'b' if !self.is_hixie => {
                let mut bytes = script.words().to_vec();
                bytes.resize(bytes.len().max(self.len_min), 0xAB);
                self.put_message(0x02, &bytes);
                self.expected.push(Seen::Binary(bytes));
                self.forget();
            }
            b'p' | b'o' if !self.is_hixie => {
                let words = script.words();
                self.put_control(order, &words[..words.len().min(125)]);
            }
            b'k' => {
                let code: u16 = script.pick(&[1005, 1000, 1001, 1002, 1003, 1007, 1014, 3000, 4999]);
                let mut reason = script.text();
                if self.is_hixie {
                    self.put(&[&[0xFF, 0x00]]);
                    if self.has_close {
                        self.expected.push(Seen::Close(1005, String::new()));
                    }
                    return;
                }
                while code == 1005 && !reason.is_empty() || reason.len() > 123 {
                    reason.pop();
                }
                let bytes = if code == 1005 { vec![] } else { code.to_be_bytes().to_vec() };
                self.put_frame(0x88, &[&bytes, reason.as_bytes()].concat());
                self.expected.push(Seen::Close(code, reason));
            }
            _ => {}
        }
    }

    fn put_message(&mut self, opcode: u8, payload: &[u8]) {
        let mut dice = Dice::new(payload.len() as u64);
        let (mut opcode, mut rest) = (opcode, payload);
        for number in 0..self.fragments {
            let (fragment, after) = rest.split_at(dice.below(rest.len() + 1));
            self.put_frame(opcode, fragment);
            (opcode, rest) = (0x00, after);
            if self.with_pings {
                self.put_control(b'p', format!("between {number}").as_bytes());
            }
        }
        self.put_frame(0x80 | opcode, rest);
    }

    fn put_control(&mut self, order: u8, payload: &[u8]) {
        let (first, seen) = match order {
            b'p' => (0x89, Seen::Ping(payload.to_vec())),
            _ => (0x8A, Seen::Pong(payload.to_vec())),
        };
        self.put_frame(first, payload);
        self.expected.push(seen);
    }

    fn put_frame(&mut self, first: u8, payload: &[u8]) {
        let len = payload.len();
        self.wire.push(first);
        match len {
            ..126 => self.wire.push(0x80 | len as u8),
            126..65_536 => self.wire.extend([0xFE, (len >> 8) as u8, len as u8]),
            _ => {
                self.wire.push(0xFF);
                self.wire.extend((len as u64).to_be_bytes());
            }
        }
        self.wire.extend(self.mask);
        self.wire.extend(payload.iter().zip(self.mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    fn put(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.wire.extend_from_slice(part));
    }

    /// The message is said: the next one comes whole again.
    fn forget(&mut self) {
        (self.fragments, self.with_pings, self.len_min) = (0, false, 0);
    }
}

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, fragments_max: 100 };
/// A longer one would take the time of many short ones.
const WIRE_BYTES_MAX: usize = 100_000;
/// One of each length in UTF-8.
const LETTERS: &str = "aé€😀";
