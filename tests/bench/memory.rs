//! How fast unmasking and checking text are beside memcpy, the fastest that memory can be gone over.
//!
//!     cargo bench --bench memory
//!
//! Gigabytes a second in the caches of one core, the best of many short runs. The longest size is more than
//! the second-level cache of most machines holds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use fullduplex::protocol::Kind;
use fullduplex::protocol::mask::unmask;
use fullduplex::protocol::message::{Utf8Stream, unmask_checked};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const SIZES: [(usize, &str); 8] = [
    (20, "20 B"),
    (125, "125 B"),
    (1 << 10, "1 KiB"),
    (4 << 10, "4 KiB"),
    (16 << 10, "16 KiB"),
    (64 << 10, "64 KiB"),
    (256 << 10, "256 KiB"),
    (1 << 20, "1 MiB"),
];
const RUNS: usize = 30;
const RUN_TIME: Duration = Duration::from_millis(3);

fn main() {
    // `cargo test --all-targets` runs every bench for a moment.
    let (sizes, runs) = match std::env::args().any(|argument| argument == "--bench") {
        true => (&SIZES[..], RUNS),
        false => (&SIZES[..1], 1),
    };
    let columns = [
        "memcpy",
        "unmask",
        "off by 3",
        "check ASCII",
        "check mixed",
        "both, ASCII",
        "both, mixed",
        "one after other",
    ];
    println!("GB/s     {}", columns.map(|column| format!("{column:>16}")).concat());
    for &(size, name) in sizes {
        let (ascii, mixed) = (text("The quick brown fox. ", size), text("Grüße aus 世界, κόσμε 😀! ", size));
        let mut to = vec![0; size];
        let mut memory = vec![0; size + 3];
        let speeds = [
            speed(runs, size, || black_box(&mut to[..]).copy_from_slice(black_box(&ascii))),
            speed(runs, size, || unmask(black_box(&mut memory[..size]), KEY, 0)),
            speed(runs, size, || unmask(black_box(&mut memory[3..]), KEY, 3)),
            speed(runs, size, || check(black_box(&ascii))),
            speed(runs, size, || check(black_box(&mixed))),
            both(runs, &ascii),
            both(runs, &mixed),
            one_after_the_other(runs, &ascii),
        ];
        println!("{name:<9}{}", speeds.map(|speed| format!("{speed:>16.1}")).concat());
    }
}

/// As it is received: unmasked and checked. With a key of zeros the text stays a text.
fn both(runs: usize, text: &[u8]) -> f64 {
    let mut memory = text.to_vec();
    speed(runs, text.len(), || {
        let mut utf8 = Utf8Stream::default();
        unmask_checked(black_box(&mut memory), black_box([0; 4]), 0, Kind::Text, &mut utf8)
            .expect("it is a text");
        assert!(utf8.is_complete());
    })
}

fn one_after_the_other(runs: usize, text: &[u8]) -> f64 {
    let mut memory = text.to_vec();
    speed(runs, text.len(), || {
        unmask(black_box(&mut memory), black_box([0; 4]), 0);
        check(black_box(&memory));
    })
}

fn check(text: &[u8]) {
    let mut utf8 = Utf8Stream::default();
    utf8.check(Kind::Text, text).expect("it is a text");
    assert!(utf8.is_complete());
}

/// So many bytes of a text that goes round.
fn text(round: &str, len: usize) -> Vec<u8> {
    let mut text = round.repeat(len / round.len() + 1);
    let end = (0..=len).rev().find(|&end| text.is_char_boundary(end)).expect("0 is one");
    text.truncate(end);
    text.extend(std::iter::repeat_n('.', len - end));
    text.into_bytes()
}

/// Of the fastest run: the others were disturbed.
fn speed(runs: usize, bytes: usize, mut work: impl FnMut()) -> f64 {
    let mut times = 1;
    let seconds = |times: usize, work: &mut dyn FnMut()| {
        let begin = Instant::now();
        (0..times).for_each(|_| work());
        begin.elapsed().as_secs_f64()
    };
    while seconds(times, &mut work) < RUN_TIME.as_secs_f64() && runs > 1 {
        times *= 2;
    }
    let fastest = (0..runs).map(|_| seconds(times, &mut work)).fold(f64::INFINITY, f64::min);
    (bytes * times) as f64 / fastest / 1e9
}
