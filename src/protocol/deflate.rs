//! permessage-deflate (RFC 7692): what was agreed on, and the streams that inflate and deflate.
//!
//! With `deflate = shared` nothing of a connection is kept between two messages: the shard lends
//! it an inflater while a message arrives, and compresses what is sent to it with a compressor
//! for all. With `dedicated` a connection keeps its own history in both directions, as far as
//! the handshake allows, in memory that one budget per server bounds.

use std::borrow::Cow;
use std::collections::TryReserveError;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::close::Violation;
use super::http::is_token_byte;
use crate::buffer::Buffer;

/// What the server's options say about compression.
#[derive(Clone, Copy, Debug)]
pub struct DeflateRules {
    pub mode: Mode,
    pub level: u8,
    pub window_bits: u8,
    /// Shorter messages are not compressed, if nobody asks for it.
    pub size_min: usize,
    /// For the windows of all dedicated connections.
    pub budget_bytes: usize,
}

impl DeflateRules {
    pub const OFF: Self = Self { mode: Mode::Off, level: 1, window_bits: 15, size_min: 0, budget_bytes: 0 };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Off,
    Shared,
    Dedicated,
}

/// What the embedder wants of one message.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Wish {
    /// By its length.
    #[default]
    Auto,
    Compressed,
    Plain,
}

impl Wish {
    pub fn is_granted(self, len: usize, size_min: usize) -> bool {
        match self {
            Self::Auto => len >= size_min,
            Self::Compressed => true,
            Self::Plain => false,
        }
    }
}

// --- The handshake --------------------------------------------------------------------------

/// The parameters of one connection, in two bytes, because every connection has room for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreement(NonZeroU16);

impl Agreement {
    /// What every client understands that has agreed on anything.
    pub const SMALLEST: Self = match NonZeroU16::new(AGREED | 9 << 4 | 9) {
        Some(bits) => Self(bits),
        None => unreachable!(),
    };

    /// The first offer that can be accepted. Each header line is a list of extensions.
    pub fn choose<'r>(lines: impl Iterator<Item = &'r [u8]>, rules: &DeflateRules) -> Option<Self> {
        if rules.mode == Mode::Off {
            return None;
        }
        for mut line in lines {
            // What can't be read offers nothing, and neither does what stands behind it.
            while let Some((offer, rest)) = next_extension(line) {
                line = rest;
                if let Some(offer) = offer {
                    return Some(Self::accept(offer, rules));
                }
            }
        }
        None
    }

    fn accept(offer: Offered, rules: &DeflateRules) -> Self {
        let ours = rules.window_bits;
        let mut bits = u16::from(offer.server_bits.unwrap_or(15).min(ours));
        bits |= u16::from(offer.client_bits.flatten().unwrap_or(15).min(ours)) << 4;
        let facts = [
            (offer.server_no_context, SERVER_NO_CONTEXT),
            (offer.client_no_context, CLIENT_NO_CONTEXT),
            (offer.server_bits.is_some(), NAMES_SERVER_BITS),
            (offer.client_bits.is_some(), NAMES_CLIENT_BITS),
            (!offer.server_no_context, KEEPS_OURS),
        ];
        for (is_so, fact) in facts {
            bits |= if is_so { fact } else { 0 };
        }
        let agreement = Self::of_bits(bits);
        if rules.mode == Mode::Shared { agreement.shared() } else { agreement }
    }

    /// The same without any context of ours between messages. "the server may include the
    /// `client_no_context_takeover` extension parameter in the corresponding extension negotiation
    /// response" also when it was not offered (7.1.1.2).
    pub fn shared(self) -> Self {
        Self::of_bits((self.0.get() | CLIENT_NO_CONTEXT) & !KEEPS_OURS)
    }

    /// The header's value in our answer.
    pub fn answer(self) -> String {
        let mut answer = "permessage-deflate".to_string();
        for (fact, parameter) in [
            (SERVER_NO_CONTEXT, "; server_no_context_takeover".to_string()),
            (CLIENT_NO_CONTEXT, "; client_no_context_takeover".to_string()),
            (NAMES_SERVER_BITS, format!("; server_max_window_bits={}", self.window_bits())),
            (NAMES_CLIENT_BITS, format!("; client_max_window_bits={}", self.0.get() >> 4 & 15)),
        ] {
            if self.has(fact) {
                answer.push_str(&parameter);
            }
        }
        answer
    }

    /// Of what we send.
    pub fn window_bits(self) -> u8 {
        (self.0.get() & 15) as u8
    }

    /// Does our compressor remember earlier messages?
    pub fn keeps_ours(self) -> bool {
        self.has(KEEPS_OURS)
    }

    /// Must our inflater remember earlier messages?
    pub fn keeps_theirs(self) -> bool {
        !self.has(CLIENT_NO_CONTEXT)
    }

    /// The memory that this takes between messages.
    pub fn window_bytes(self) -> usize {
        let ours = if self.keeps_ours() { deflater_bytes(self.window_bits()) } else { 0 };
        ours + if self.keeps_theirs() { INFLATER_BYTES } else { 0 }
    }

    fn of_bits(bits: u16) -> Self {
        Self(NonZeroU16::new(bits | AGREED).expect("one bit is always set"))
    }

    fn has(self, fact: u16) -> bool {
        self.0.get() & fact != 0
    }
}

/// Four bits for each window, then the facts.
const SERVER_NO_CONTEXT: u16 = 1 << 8;
const CLIENT_NO_CONTEXT: u16 = 1 << 9;
const NAMES_SERVER_BITS: u16 = 1 << 10;
const NAMES_CLIENT_BITS: u16 = 1 << 11;
const KEEPS_OURS: u16 = 1 << 12;
const AGREED: u16 = 1 << 15;

/// The parameters of one offer that is good.
#[derive(Default)]
struct Offered {
    server_no_context: bool,
    client_no_context: bool,
    server_bits: Option<u8>,
    /// `Some(None)`: named without a value.
    client_bits: Option<Option<u8>>,
}

impl Offered {
    /// "A server MUST decline an extension negotiation offer for this extension if any of the
    /// following conditions are met: … a parameter not defined for use in an offer, … with an
    /// invalid value, … multiple extension parameters with the same name" (7.1)
    fn add(&mut self, name: &[u8], value: Option<&[u8]>) -> Option<()> {
        let first =
            |is_there: &mut bool| (value.is_none() && !std::mem::replace(is_there, true)).then_some(());
        match name {
            b"server_no_context_takeover" => first(&mut self.server_no_context),
            b"client_no_context_takeover" => first(&mut self.client_no_context),
            // zlib makes no raw stream with a window of 8 bits, so we can't promise one.
            b"server_max_window_bits" => {
                let bits = window_bits(value?).filter(|&bits| bits > 8)?;
                self.server_bits.replace(bits).is_none().then_some(())
            }
            b"client_max_window_bits" => {
                let bits = match value {
                    Some(value) => Some(window_bits(value)?),
                    None => None,
                };
                self.client_bits.replace(bits).is_none().then_some(())
            }
            _ => None,
        }
    }
}

/// "a decimal integer value without leading zeroes between 8 to 15, inclusive" (7.1.2.1)
fn window_bits(value: &[u8]) -> Option<u8> {
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The next element of a list of extensions, `Some(None)` if it is none that we accept, and what
/// stands behind it. `None`: no more, or no list (RFC 6455, 9.1).
fn next_extension(line: &[u8]) -> Option<(Option<Offered>, &[u8])> {
    let mut rest = line.trim_ascii_start();
    while let [b',', after @ ..] = rest {
        rest = after.trim_ascii_start();
    }
    let (name, mut rest) = token(rest)?;
    let mut offered = (name == b"permessage-deflate").then(Offered::default);
    loop {
        rest = rest.trim_ascii_start();
        match rest {
            [] => return Some((offered, rest)),
            [b',', after @ ..] => return Some((offered, after)),
            [b';', after @ ..] => {
                let (name, after) = token(after.trim_ascii_start())?;
                rest = after.trim_ascii_start();
                let value = match rest {
                    [b'=', after @ ..] => {
                        let (value, after) = value(after.trim_ascii_start())?;
                        rest = after;
                        Some(value)
                    }
                    _ => None,
                };
                offered =
                    offered.and_then(|mut offered| offered.add(name, value.as_deref()).map(|()| offered));
            }
            _ => return None,
        }
    }
}

fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = text.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(text.len());
    (len > 0).then(|| text.split_at(len))
}

/// "When using the quoted-string syntax variant, the value after quoted-string unescaping MUST
/// conform to the 'token' ABNF." (RFC 6455, 9.1)
fn value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        return token(text).map(|(value, rest)| (Cow::Borrowed(value), rest));
    };
    let mut unquoted = Vec::new();
    loop {
        match *rest {
            [b'"', ref after @ ..] => {
                return (!unquoted.is_empty()).then_some((unquoted.into(), after));
            }
            [b'\\', byte, ref after @ ..] | [byte, ref after @ ..] if is_token_byte(byte) => {
                unquoted.push(byte);
                rest = after;
            }
            _ => return None,
        }
    }
}

// --- Memory ---------------------------------------------------------------------------------

/// The memory of all dedicated connections of a server.
#[derive(Default, Debug)]
pub struct Budget {
    taken: AtomicUsize,
}

impl Budget {
    pub fn taken_bytes(&self) -> usize {
        self.taken.load(SeqCst)
    }

    /// A place for what this agreement keeps, which counts until it is dropped; `None` if that
    /// would be more than `bytes_max` for all.
    pub fn windows(self: &Arc<Self>, agreement: Agreement, bytes_max: usize) -> Option<Box<Windows>> {
        let bytes = agreement.window_bytes();
        let fits = |taken: usize| taken.checked_add(bytes).filter(|&sum| sum <= bytes_max);
        self.taken.fetch_update(SeqCst, SeqCst, fits).ok()?;
        let mut windows = Box::<Windows>::default();
        windows.share = Some((self.clone(), bytes));
        Some(windows)
    }
}

/// What one dedicated connection remembers. The streams are made when they are first needed.
#[derive(Default)]
pub struct Windows {
    pub inflater: Option<Box<Inflater>>,
    pub deflater: Option<Box<Deflater>>,
    share: Option<(Arc<Budget>, usize)>,
}

impl Drop for Windows {
    fn drop(&mut self) {
        if let Some((budget, bytes)) = &self.share {
            budget.taken.fetch_sub(*bytes, SeqCst);
        }
    }
}

/// What a shard lends to those who inflate: streams, memory for the messages of a turn, and the
/// turn's share of work.
pub struct Inflation {
    // They go to and from connections as pointers.
    #[expect(clippy::vec_box)]
    free: Vec<Box<Inflater>>,
    /// Small messages lie here until they are delivered. While others hold it, too, messages
    /// get memory of their own.
    pub memory: Arc<Buffer>,
    /// With the connection that is receiving.
    pub agreement: Option<Agreement>,
    /// What may still be inflated in this turn.
    bytes_left: usize,
}

impl Default for Inflation {
    fn default() -> Self {
        Self { free: Vec::new(), memory: Arc::default(), agreement: None, bytes_left: BYTES_PER_TURN }
    }
}

impl Inflation {
    /// What was inflated before is not needed any more.
    pub fn begin_turn(&mut self) {
        self.bytes_left = BYTES_PER_TURN;
        if self.memory.is_empty() {
            return;
        }
        match Arc::get_mut(&mut self.memory) {
            Some(memory) => memory.truncate(0),
            None => self.memory = Arc::default(),
        }
    }

    pub fn is_used_up(&self) -> bool {
        self.bytes_left == 0
    }

    pub fn charge(&mut self, inflater: &mut Inflater) {
        self.bytes_left = self.bytes_left.saturating_sub(std::mem::take(&mut inflater.cost));
    }

    pub fn take(&mut self) -> Result<Box<Inflater>, Violation> {
        match self.free.pop() {
            Some(inflater) => Ok(inflater),
            None => Inflater::new().map_err(|_| Violation::OutOfMemory),
        }
    }

    pub fn give_back(&mut self, mut inflater: Box<Inflater>) {
        if self.free.len() < SPARE_INFLATERS_MAX {
            inflater.reset();
            self.free.push(inflater);
        }
    }
}

const SPARE_INFLATERS_MAX: usize = 16;
/// A turn that has inflated so much leaves further messages to the next.
pub const BYTES_PER_TURN: usize = 4 * 1024 * 1024;
/// What a stream's reset takes, in inflated bytes.
const RESET_COST: usize = 1024;
/// As zlib-rs has it: a window of 15 bits whatever was agreed, and tables.
const INFLATER_BYTES: usize = 44 * 1024;

/// As zlib-rs has it: the window twice, as many links, and tables.
fn deflater_bytes(window_bits: u8) -> usize {
    (4 << window_bits) + 250 * 1024
}

/// The streams' memory comes from a library that has no error for the lack of it. So we ask
/// first.
fn is_there(bytes: usize) -> Result<(), TryReserveError> {
    Vec::<u8>::new().try_reserve_exact(bytes)
}

// --- Inflating ------------------------------------------------------------------------------

/// Inflates the messages of one peer, or one message after the other of any.
pub struct Inflater {
    stream: Decompress,
    /// The last block so far was a final one, and nothing has come behind it.
    has_ended: bool,
    is_new: bool,
    final_blocks: u32,
    /// What it has cost since that was last asked, in inflated bytes.
    cost: usize,
}

/// How far one step went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub taken: usize,
    pub given: usize,
}

impl Inflater {
    pub fn new() -> Result<Box<Self>, TryReserveError> {
        is_there(INFLATER_BYTES)?;
        // The widest window also reads what was made for a narrower one, and takes no more
        // memory: the stream has room for it in any case.
        let stream = Decompress::new_with_window_bits(false, 15);
        Ok(Box::new(Self { stream, has_ended: false, is_new: true, final_blocks: 0, cost: RESET_COST }))
    }

    /// Inflates what fits into `out`. There is more to give while `out` was filled.
    pub fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step, Violation> {
        let mut step = Step { taken: 0, given: 0 };
        loop {
            if self.has_ended && step.taken < input.len() {
                // "decompress … DEFLATE blocks with the BFINAL bit set to 1" and go on (7.2.3.4):
                // to the library each is a stream of its own.
                self.final_blocks += 1;
                if self.final_blocks > FINAL_BLOCKS_MAX {
                    return Err(Violation::BadDeflate);
                }
                self.stream.reset(false);
                self.has_ended = false;
                self.cost += RESET_COST;
            }
            if self.has_ended {
                return Ok(step);
            }
            self.is_new = false;
            let (taken, given) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(&input[step.taken..], &mut out[step.given..], FlushDecompress::Sync)
                .map_err(|_| Violation::BadDeflate)?;
            step.taken += (self.stream.total_in() - taken) as usize;
            step.given += (self.stream.total_out() - given) as usize;
            self.cost += (self.stream.total_out() - given) as usize;
            self.has_ended = status == Status::StreamEnd;
            if !self.has_ended {
                let is_stuck = step == (Step { taken: 0, given: 0 }) && !input.is_empty() && !out.is_empty();
                return if is_stuck { Err(Violation::BadDeflate) } else { Ok(step) };
            }
        }
    }

    /// The message is whole: "Append 4 octets of 0x00 0x00 0xff 0xff to the tail end of the
    /// payload of the message" (7.2.2). Nothing comes of them unless it was cut off.
    pub fn finish(&mut self, keeps_context: bool) -> Result<(), Violation> {
        self.final_blocks = 0;
        if self.has_ended {
            return Ok(());
        }
        let mut out = [0; 8];
        let end: &[u8] = if keeps_context { &TAIL } else { &TAIL_AND_END };
        let step = self.step(end, &mut out)?;
        let is_between_blocks = self.final_blocks == 0 && self.has_ended != keeps_context;
        let is_at_end = step == Step { taken: end.len(), given: 0 } && is_between_blocks;
        if is_at_end { Ok(()) } else { Err(Violation::BadDeflate) }
    }

    fn reset(&mut self) {
        if !self.is_new {
            self.stream.reset(false);
            (self.has_ended, self.is_new, self.final_blocks, self.cost) = (false, true, 0, RESET_COST);
        }
    }
}

/// The end of a flush, which messages lack.
pub(super) const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];
/// The same and a final block without content: only a stream between two blocks takes it so.
const TAIL_AND_END: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];
/// Of one message. Each costs as much as a message.
const FINAL_BLOCKS_MAX: u32 = 1000;

// --- Deflating ------------------------------------------------------------------------------

/// Compresses messages, with or without a memory of earlier ones.
pub struct Deflater {
    stream: Compress,
    is_new: bool,
}

impl Deflater {
    pub fn new(level: u8, window_bits: u8) -> Result<Box<Self>, TryReserveError> {
        is_there(deflater_bytes(window_bits))?;
        let level = Compression::new(level.into());
        Ok(Box::new(Self { stream: Compress::new_with_window_bits(level, false, window_bits), is_new: true }))
    }

    /// Forgets what it has compressed so far.
    pub fn reset(&mut self) {
        if !self.is_new {
            self.stream.reset();
            self.is_new = true;
        }
    }

    /// Compresses one fragment (a message is one, or several) to the end of `out`. After an
    /// error the stream must be reset.
    pub fn deflate(
        &mut self,
        payload: &[u8],
        is_last: bool,
        out: &mut Buffer,
    ) -> Result<(), TryReserveError> {
        if payload.is_empty() {
            // The library makes nothing of nothing. "an empty DEFLATE block with no compression"
            // without its tail is one byte (7.2.3.6).
            return if is_last { out.append(&[0], 1) } else { Ok(()) };
        }
        let given = self.compress(payload, out)?;
        out.fill(if is_last { given - TAIL.len() } else { given });
        Ok(())
    }

    /// Compresses a whole message on its own, into `out`, which is empty. False: it would not
    /// become smaller.
    pub fn deflate_whole(&mut self, payload: &[u8], out: &mut Buffer) -> Result<bool, TryReserveError> {
        if payload.is_empty() {
            return Ok(false);
        }
        self.reset();
        let len = self.compress(payload, out)? - TAIL.len();
        if len < payload.len() {
            out.fill(len);
        }
        Ok(len < payload.len())
    }

    /// Compresses into the room behind the content: how many bytes of it.
    fn compress(&mut self, payload: &[u8], out: &mut Buffer) -> Result<usize, TryReserveError> {
        // All of it fits: nine bits for a byte at worst. A stream of zlib-rs 0.6 that has found its
        // room too small writes over the end of a buffer of its own later, and panics.
        let len = payload.len();
        let room = out.room(len + len / 8 + len / 64 + DEFLATED_BYTES_MORE, 0)?;
        self.is_new = false;
        let mut given = 0;
        // The library counts in 32 bits.
        for part in payload.chunks(1 << 30) {
            let before = (self.stream.total_in(), self.stream.total_out());
            let room = &mut room[given..];
            self.stream.compress(part, room, FlushCompress::Sync).expect("a raw stream is never misused");
            let taken = (self.stream.total_in() - before.0) as usize;
            let more = (self.stream.total_out() - before.1) as usize;
            assert!(taken == part.len() && more < room.len(), "{taken} of {} were compressed", part.len());
            given += more;
        }
        Ok(given)
    }
}

/// For block heads, which what can't be compressed needs every few kilobytes, and the flush.
const DEFLATED_BYTES_MORE: usize = 128;

/// The compressors of a shard, one for each size of window, made when they are needed.
#[derive(Default)]
pub struct Deflaters {
    by_window_bits: [Option<Box<Deflater>>; WINDOW_SIZES],
}

impl Deflaters {
    pub fn get(&mut self, level: u8, window_bits: u8) -> Result<&mut Deflater, TryReserveError> {
        let place = &mut self.by_window_bits[window_index(window_bits)];
        match place {
            Some(deflater) => Ok(deflater),
            None => Ok(place.insert(Deflater::new(level, window_bits)?)),
        }
    }
}

/// 9 to 15 bits.
pub const WINDOW_SIZES: usize = 7;

pub fn window_index(window_bits: u8) -> usize {
    usize::from(window_bits - 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(mode: Mode, window_bits: u8) -> DeflateRules {
        DeflateRules { mode, window_bits, ..DeflateRules::OFF }
    }

    fn answer(mode: Mode, window_bits: u8, lines: &[&str]) -> Option<String> {
        let lines = lines.iter().map(|line| line.as_bytes());
        Agreement::choose(lines, &rules(mode, window_bits)).map(Agreement::answer)
    }

    /// What stands behind the extension's name in the answer of a dedicated connection.
    fn dedicated(offer: &str) -> Option<String> {
        let answer = answer(Mode::Dedicated, 15, &[offer])?;
        Some(answer.strip_prefix("permessage-deflate").expect("the name comes first").to_string())
    }

    #[test]
    fn a_parameter_is_answered_if_it_was_offered() {
        for (offer, expected) in [
            ("permessage-deflate", ""),
            ("permessage-deflate; server_no_context_takeover", "; server_no_context_takeover"),
            ("permessage-deflate; client_no_context_takeover", "; client_no_context_takeover"),
            ("permessage-deflate;server_max_window_bits=9", "; server_max_window_bits=9"),
            ("permessage-deflate; server_max_window_bits=15", "; server_max_window_bits=15"),
            ("permessage-deflate; client_max_window_bits", "; client_max_window_bits=15"),
            ("permessage-deflate; client_max_window_bits=8", "; client_max_window_bits=8"),
            ("permessage-deflate ; client_max_window_bits = \"1\\0\"", "; client_max_window_bits=10"),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=11; \
                 client_no_context_takeover; server_no_context_takeover",
                "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=11; \
                 client_max_window_bits=15",
            ),
        ] {
            assert_eq!(dedicated(offer).as_deref(), Some(expected), "{offer}");
        }
    }

    #[test]
    fn a_shared_connection_asks_the_client_to_forget_and_forgets_itself() {
        let agreement = Agreement::choose([&b"permessage-deflate"[..]].into_iter(), &rules(Mode::Shared, 15));
        let agreement = agreement.expect("a good offer");
        assert_eq!(agreement.answer(), "permessage-deflate; client_no_context_takeover");
        assert!(!agreement.keeps_ours() && !agreement.keeps_theirs());
        assert_eq!(agreement.window_bytes(), 0);
    }

    #[test]
    fn no_window_is_larger_than_the_server_allows() {
        let offer = "permessage-deflate; server_max_window_bits=12; client_max_window_bits";
        for (bits, expected) in [(9, (9, 9)), (12, (12, 12)), (13, (12, 13)), (15, (12, 15))] {
            let (server, client) = expected;
            let expected = format!(
                "permessage-deflate; server_max_window_bits={server}; client_max_window_bits={client}"
            );
            assert_eq!(answer(Mode::Dedicated, bits, &[offer]), Some(expected));
        }
        let silent = Agreement::choose([&b"permessage-deflate"[..]].into_iter(), &rules(Mode::Dedicated, 9));
        assert_eq!(silent.expect("a good offer").window_bits(), 9, "also where nobody asks");
    }

    #[test]
    fn an_offer_with_anything_wrong_is_declined() {
        for parameters in [
            "unknown",
            "unknown=1",
            "server_no_context_takeover=1",
            "server_no_context_takeover=\"\"",
            "client_no_context_takeover=true",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover; client_no_context_takeover",
            "server_max_window_bits",
            "server_max_window_bits=8",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=09",
            "server_max_window_bits=+9",
            "server_max_window_bits=10; server_max_window_bits=10",
            "client_max_window_bits=7",
            "client_max_window_bits=16",
            "client_max_window_bits=010",
            "client_max_window_bits=1000",
            "client_max_window_bits=x",
            "client_max_window_bits; client_max_window_bits",
            "client_max_window_bits; client_max_window_bits=10",
            "Server_No_Context_Takeover",
        ] {
            assert_eq!(dedicated(&format!("permessage-deflate; {parameters}")), None, "{parameters}");
            let second = format!("permessage-deflate; {parameters}, permessage-deflate");
            let is_list = !parameters.contains("\"\"");
            assert_eq!(dedicated(&second).is_some(), is_list, "{parameters}, and then a good one");
        }
    }

    #[test]
    fn the_first_good_offer_counts_on_whatever_line_it_stands() {
        let named = |bits| Some(format!("permessage-deflate; server_max_window_bits={bits}"));
        for (lines, expected) in [
            (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"][..], named(10)),
            (
                &[
                    "x, permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9",
                ],
                named(9),
            ),
            (&["x; a=\"b,c\\\"d\"", "permessage-deflate; server_max_window_bits=9"], named(9)),
            (&["x-webkit-deflate-frame", "", " , ,permessage-deflate;server_max_window_bits=9 ,,"], named(9)),
            (&["permessage-deflate; =, permessage-deflate; server_max_window_bits=9"], None),
            (&["permessage-deflate permessage-deflate"], None),
            (&["permessage-deflate;"], None),
            (&["permessage-deflates", "Permessage-Deflate", "deflate"], None),
            (&[], None),
        ] {
            assert_eq!(answer(Mode::Dedicated, 15, lines), expected, "{lines:?}");
            assert_eq!(answer(Mode::Off, 15, lines), None);
        }
    }

    #[test]
    fn the_budget_is_taken_and_given_back() {
        let offer = b"permessage-deflate; server_max_window_bits=10; client_max_window_bits=10";
        let agreement =
            Agreement::choose([&offer[..]].into_iter(), &rules(Mode::Dedicated, 15)).expect("good");
        let budget = Arc::new(Budget::default());
        let bytes = agreement.window_bytes();
        let most = 2 * bytes + bytes / 2;
        let both = [budget.windows(agreement, most), budget.windows(agreement, most)];
        assert!(both.iter().all(Option::is_some));
        assert_eq!(budget.taken_bytes(), 2 * bytes);
        assert!(budget.windows(agreement, most).is_none());
        drop(both);
        assert_eq!(budget.taken_bytes(), 0);
        assert!(budget.windows(agreement, bytes).is_some());
    }

    /// Inflates one message with room for so many bytes at a time, from input in such pieces.
    fn inflated(inflater: &mut Inflater, wire: &[u8], piece: usize, room: usize, keeps: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut given = vec![0; room];
        for mut piece in wire.chunks(piece) {
            loop {
                let step = inflater.step(piece, &mut given).unwrap();
                out.extend_from_slice(&given[..step.given]);
                piece = &piece[step.taken..];
                if piece.is_empty() && step.given < room {
                    break;
                }
            }
        }
        inflater.finish(keeps).unwrap();
        out
    }

    fn lines(seed: usize) -> Vec<u8> {
        let line =
            |n: usize| format!("{{\"id\":{},\"name\":\"client {}\",\"n\":{}}}\n", n * 7919, n % 10, seed);
        (0..seed * 10 + 1).flat_map(|n| line(n).into_bytes()).collect()
    }

    /// What no compressor makes smaller (xorshift).
    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn what_is_deflated_with_any_window_inflates_to_the_same_with_a_context_and_without() {
        for bits in 9..=15 {
            for keeps in [true, false] {
                let (mut deflater, mut inflater) =
                    (Deflater::new(1, bits).unwrap(), Inflater::new().unwrap());
                for seed in [0, 1, 30, 5, 200, 2] {
                    let payload = lines(seed);
                    let mut wire = Buffer::default();
                    match keeps {
                        true => deflater.deflate(&payload, true, &mut wire).unwrap(),
                        false => assert!(deflater.deflate_whole(&payload, &mut wire).unwrap() || seed == 0),
                    }
                    if wire.is_empty() {
                        continue;
                    }
                    for (piece, room) in [(usize::MAX, 1 << 20), (1, 100), (7, 1)] {
                        // Each inflater has its own history, so only one of the ways goes on.
                        if keeps && piece != 7 {
                            continue;
                        }
                        let out = inflated(&mut inflater, wire.as_slice(), piece, room, keeps);
                        assert!(out == payload, "{bits} bits, {seed}");
                        if !keeps {
                            inflater.reset();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_context_makes_the_second_message_smaller_and_a_reset_undoes_that() {
        let mut deflater = Deflater::new(1, 15).unwrap();
        let mut len_of = |resets: bool| {
            let mut out = Buffer::default();
            if resets {
                deflater.reset();
            }
            deflater.deflate(&lines(3), true, &mut out).unwrap();
            out.len()
        };
        let (first, second, third) = (len_of(false), len_of(false), len_of(true));
        assert!(second < first / 2, "{second} after {first}");
        assert_eq!(third, first);
    }

    #[test]
    fn fragments_of_a_fresh_compressor_each_are_one_stream_together() {
        let payload = lines(20);
        let mut deflater = Deflater::new(1, 15).unwrap();
        let mut wire = Buffer::default();
        for (index, fragment) in payload.chunks(700).enumerate() {
            deflater.reset();
            deflater.deflate(fragment, false, &mut wire).unwrap();
            if index % 3 == 0 {
                deflater.deflate(b"", false, &mut wire).unwrap();
            }
        }
        deflater.deflate(b"", true, &mut wire).unwrap();
        assert_eq!(wire.as_slice().last(), Some(&0));
        assert_eq!(inflated(&mut Inflater::new().unwrap(), wire.as_slice(), 11, 50, false), payload);
    }

    #[test]
    fn what_would_grow_is_not_compressed() {
        let mut deflater = Deflater::new(1, 15).unwrap();
        let noise = noise(5000, 1);
        for payload in [&b""[..], b"x", b"abc", &noise] {
            assert!(!deflater.deflate_whole(payload, &mut Buffer::default()).unwrap(), "{}", payload.len());
        }
        let mut out = Buffer::default();
        assert!(deflater.deflate_whole(&[b'x'; 20], &mut out).unwrap());
        assert!(out.len() < 20);
    }

    #[test]
    fn what_would_have_grown_leaves_nothing_behind() {
        for bits in [9, 15] {
            for level in [1, 2, 6, 9] {
                let mut deflater = Deflater::new(level, bits).unwrap();
                for len in [10, 1000, 50_000, 131_072, 200_000] {
                    let noise = noise(len, len as u64);
                    assert!(!deflater.deflate_whole(&noise, &mut Buffer::default()).unwrap());
                    let (mut out, payload) = (Buffer::default(), lines(20));
                    assert!(deflater.deflate_whole(&payload, &mut out).unwrap());
                    let mut inflater = Inflater::new().unwrap();
                    assert!(inflated(&mut inflater, out.as_slice(), 1000, 1000, false) == payload);
                }
            }
        }
    }

    #[test]
    fn one_stream_after_the_other_may_end_but_not_without_end() {
        let mut inflater = Inflater::new().unwrap();
        // Fixed codes, final, nothing in it.
        let ends = [0x03, 0x00].repeat(FINAL_BLOCKS_MAX as usize);
        assert_eq!(inflated(&mut inflater, &ends, 3, 10, false), b"");
        inflater.reset();
        let more = [0x03, 0x00].repeat(FINAL_BLOCKS_MAX as usize + 2);
        assert_eq!(inflater.step(&more, &mut [0; 10]), Err(Violation::BadDeflate));
    }
}
