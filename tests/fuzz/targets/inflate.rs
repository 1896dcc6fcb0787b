//! Compressed messages. An input is a byte of choices, then messages, each two bytes of length and
//! what it is said to be compressed.
//!
//! However they are cut they mean what zlib makes of them in one piece, and never more than the
//! limit. And any bytes that we compress ourselves are the same again when they are inflated.
#![no_main]

use flate2::{Decompress, FlushDecompress, Status};
use fullduplex::buffer::{Buffer, BufferPool};
use fullduplex::protocol::deflate::{Agreement, DeflateRules, Deflater, Inflation, Mode};
use fullduplex::protocol::{Context, Flow, Incoming, close::Violation, message::Frames};
use fullduplex_fuzz::{peer, splits};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&choices, rest)) = input.split_first() else { return };
    let mode = if choices & 1 == 0 { Mode::Shared } else { Mode::Dedicated };
    let limit = [BYTES_MAX, 100, 1, 66_000][usize::from(choices >> 1 & 3)];
    let payloads = payloads(rest);
    let wire: Vec<u8> = payloads.iter().flat_map(|payload| peer::frame(0xC2, payload)).collect();
    let expected = reference(&payloads, mode == Mode::Dedicated, limit);
    for way in splits::ways(&wire) {
        for arrival in [Arrival::Whole, Arrival::Delivering] {
            let heard = heard(&wire, &way, mode, limit, arrival);
            assert!(is_same(&heard, &expected), "{mode:?}, cut {way:?}: {heard:?} and not {expected:?}");
        }
    }
    let endless = reference(&payloads, mode == Mode::Dedicated, usize::MAX);
    // The reference has an end all the same.
    let is_over = endless.1 == Some(1009) || endless.0.iter().map(Vec::len).sum::<usize>() >= BYTES_MAX;
    if !is_over {
        for way in splits::ways(&wire) {
            assert_eq!(heard(&wire, &way, mode, limit, Arrival::Streamed), endless, "streamed, cut {way:?}");
        }
    }
    check_own(rest, 9 + choices % 7, 1 + (choices >> 3) % 9);
});

fn payloads(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (payload, after) = after.split_at(len);
        payloads.push(payload);
        rest = after;
    }
    payloads
}

/// The messages, and the close code if they went wrong.
type Heard = (Vec<Vec<u8>>, Option<u16>);

/// A message that is both too big and bad is closed for what is seen first, and zlib may see what is
/// bad a byte ahead.
fn is_same(heard: &Heard, expected: &Heard) -> bool {
    let is_either = |code: Option<u16>| matches!(code, Some(1007 | 1009));
    heard.0 == expected.0 && (heard.1 == expected.1 || is_either(heard.1) && is_either(expected.1))
}

/// By zlib in one piece, with room for everything.
fn reference(payloads: &[&[u8]], keeps_context: bool, limit: usize) -> Heard {
    let mut messages = Vec::new();
    let mut stream = Decompress::new(false);
    for payload in payloads {
        if payload.is_empty() {
            messages.push(Vec::new());
            continue;
        }
        if !keeps_context {
            stream.reset(false);
        }
        // It went on before, or this one begins behind a final block.
        match inflated(&mut stream, payload, limit.min(BYTES_MAX), keeps_context) {
            Ok(message) => messages.push(message),
            Err(code) => return (messages, Some(code)),
        }
    }
    (messages, None)
}

fn inflated(
    stream: &mut Decompress,
    payload: &[u8],
    limit: usize,
    keeps_context: bool,
) -> Result<Vec<u8>, u16> {
    let (mut taken, mut message, mut has_ended) = (0, Vec::with_capacity(limit + 1), false);
    loop {
        if taken == payload.len() && (has_ended || message.len() <= limit) {
            break;
        }
        let before = stream.total_in();
        let status = stream.decompress_vec(&payload[taken..], &mut message, FlushDecompress::Sync);
        let status = status.map_err(|_| 1007_u16);
        if message.len() > limit {
            return Err(1009);
        }
        let status = status?;
        taken += (stream.total_in() - before) as usize;
        has_ended = status == Status::StreamEnd;
        if has_ended && taken < payload.len() {
            stream.reset(false);
        }
    }
    if has_ended {
        stream.reset(false);
        return Ok(message);
    }
    let mut more = Vec::with_capacity(8);
    let before = stream.total_in();
    // Between two blocks a final one may follow; but with that a stream has ended.
    let end: &[u8] =
        if keeps_context { &[0, 0, 0xFF, 0xFF] } else { &[0, 0, 0xFF, 0xFF, 1, 0, 0, 0xFF, 0xFF] };
    let status = stream.decompress_vec(end, &mut more, FlushDecompress::Sync).map_err(|_| 1007_u16)?;
    let is_whole = more.is_empty()
        && stream.total_in() - before == end.len() as u64
        && (status == Status::StreamEnd) != keeps_context;
    if is_whole { Ok(message) } else { Err(1007) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Whole,
    /// While events are delivered, so that messages have memory of their own.
    Delivering,
    Streamed,
}

fn heard(wire: &[u8], way: &[usize], mode: Mode, limit: usize, arrival: Arrival) -> Heard {
    let rules = DeflateRules { mode, window_bits: 15, ..DeflateRules::OFF };
    let mut frames = Frames::default();
    let (mut pool, mut inflation) = (BufferPool::default(), Inflation::default());
    inflation.agreement = Agreement::choose([&b"permessage-deflate"[..]].into_iter(), &rules);
    let (mut messages, mut begun) = (Vec::new(), Vec::new());
    for piece in splits::pieces(wire, way) {
        let mut piece = piece.to_vec();
        while !piece.is_empty() {
            inflation.begin_turn();
            let delivered = (arrival == Arrival::Delivering).then(|| inflation.memory.clone());
            let mut context = Context {
                streams: arrival == Arrival::Streamed,
                message_bytes_max: limit,
                fragments_max: 10,
                pool: &mut pool,
                inflation: &mut inflation,
            };
            let len = piece.len();
            let mut incoming = Vec::new();
            let flow = frames.receive(&mut piece, &mut context, &mut |event| incoming.push(event));
            drop(delivered);
            for event in incoming {
                match event {
                    Incoming::Message { payload, .. } => {
                        let message = payload.as_slice(inflation.memory.as_slice()).to_vec();
                        assert!(message.len() <= limit);
                        messages.push(message);
                    }
                    Incoming::Fragment { payload, fin, .. } => {
                        begun.extend_from_slice(payload.as_slice(inflation.memory.as_slice()));
                        if fin {
                            messages.push(std::mem::take(&mut begun));
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
            match flow {
                Ok(Flow::Full { left }) => drop(piece.drain(..len - left)),
                Ok(_) => break,
                Err(Violation::MessageTooBig { .. }) => return (messages, Some(1009)),
                Err(violation) => return (messages, Some(violation.close_code().0)),
            }
        }
    }
    (messages, None)
}

/// Twice, with what is remembered and without.
fn check_own(payload: &[u8], window_bits: u8, level: u8) {
    let mut deflater = Deflater::new(level, window_bits).expect("there is memory");
    let mut stream = Decompress::new_with_window_bits(false, window_bits);
    for _ in 0..2 {
        let mut out = Buffer::default();
        deflater.deflate(payload, true, &mut out).expect("there is memory");
        let message = inflated(&mut stream, out.as_slice(), payload.len() + 1, true);
        assert!(message.as_deref() == Ok(payload), "{window_bits} bits, level {level}");
    }
    let mut out = Buffer::default();
    if deflater.deflate_whole(payload, &mut out).expect("there is memory") {
        assert!(out.len() < payload.len());
        let message = inflated(&mut Decompress::new(false), out.as_slice(), payload.len() + 1, false);
        assert!(message.as_deref() == Ok(payload), "{window_bits} bits, level {level}, on its own");
    }
}

const BYTES_MAX: usize = 300_000;
