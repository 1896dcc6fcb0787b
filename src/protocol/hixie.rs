//! The dialects of 2009 and 2010: Hixie-75 and Hixie-76 (= HyBi-00), whole.
//!
//! The handshake of 76 proves nothing but that the server read the request: MD5 over two
//! numbers hidden in the headers and the eight bytes after them. 75 has no proof at all.
//! Frames are `00 text FF`. There is no binary, no ping, and close is `FF 00` in 76 and only
//! the end of the stream in 75. (draft-hixie-thewebsocketprotocol-75 and -76)

use md5::{Digest, Md5};

use super::close::{CloseFrame, Violation};
use super::http::{Refusal, Request};
use super::{Context, Dialect, Flow, Incoming, Kind, Payload};
use crate::buffer::Buffer;

/// "FF 00", the close of draft 76.
pub const CLOSE: [u8; 2] = [0xFF, 0x00];
pub const TEXT_START: u8 = 0x00;
pub const TEXT_END: u8 = 0xFF;
/// The bytes after the head of a draft-76 request.
pub const BODY_BYTES: usize = 8;

/// The two numbers of a draft-76 request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys(u32, u32);

impl Keys {
    /// Reads both keys. They are checked before the answer's head is sent, because after it
    /// nothing can be refused any more.
    pub fn of(request: &Request) -> Result<Keys, Refusal> {
        // One key alone is a broken 76 and not a 75.
        let key = |name| request.sole(name)?.map(|index| request.raw_value(index)).ok_or(Refusal::HixieKey);
        Ok(Keys(key_number(key("sec-websocket-key1")?)?, key_number(key("sec-websocket-key2")?)?))
    }

    /// "the MD5 fingerprint of the challenge": both numbers big-endian, then the eight bytes.
    pub fn answer(self, body: [u8; BODY_BYTES]) -> [u8; 16] {
        let mut md5 = Md5::new();
        md5.update(self.0.to_be_bytes());
        md5.update(self.1.to_be_bytes());
        md5.update(body);
        md5.finalize().into()
    }
}

/// The digits of a key, read as one number, divided by the number of its blanks. The digits
/// may pass 2^32, the quotient may not.
fn key_number(key: &[u8]) -> Result<u32, Refusal> {
    let mut number: u64 = 0;
    for digit in key.iter().filter(|byte| byte.is_ascii_digit()) {
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_add(u64::from(digit - b'0')))
            .ok_or(Refusal::HixieKey)?;
    }
    let blanks = key.iter().filter(|&&byte| byte == b' ').count() as u64;
    // "If either /spaces_1/ or /spaces_2/ is zero, then abort" and "if /key-number_1/ is not
    // an integral multiple of /spaces_1/, … then abort" (draft 76, 5.2)
    if blanks == 0 || number % blanks != 0 {
        return Err(Refusal::HixieKey);
    }
    u32::try_from(number / blanks).map_err(|_| Refusal::HixieKey)
}

/// The head of the answer, up to the embedder's own headers and the empty line.
pub fn response_head(dialect: Dialect, request: &Request, protocol: Option<&[u8]>, secure: bool) -> Vec<u8> {
    // WebKit compares these bytes: the blank and the reason after 101, `Connection` as one
    // token; and of draft 75 the first 85 bytes are fixed, "Web Socket" in two words.
    let (start, prefix): (&str, &str) = match dialect {
        Dialect::Hixie75 => ("HTTP/1.1 101 Web Socket Protocol Handshake\r\n", ""),
        _ => ("HTTP/1.1 101 WebSocket Protocol Handshake\r\n", "Sec-"),
    };
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(start.as_bytes());
    head.extend_from_slice(b"Upgrade: WebSocket\r\nConnection: Upgrade\r\n");
    let mut line = |name: &str, value: &[&[u8]]| {
        head.extend_from_slice(prefix.as_bytes());
        head.extend_from_slice(name.as_bytes());
        value.iter().for_each(|part| head.extend_from_slice(part));
        head.extend_from_slice(b"\r\n");
    };
    // An empty value would drop the line in WebKit, so a request without Origin gets none.
    if let Some(origin) = request.header("origin").filter(|origin| !origin.is_empty()) {
        line("WebSocket-Origin: ", &[origin]);
    }
    let scheme: &[u8] = if secure { b"wss://" } else { b"ws://" };
    let host = request.header("host").unwrap_or_default();
    line("WebSocket-Location: ", &[scheme, host, request.path_and_query()]);
    if let Some(protocol) = protocol {
        line("WebSocket-Protocol: ", &[protocol]);
    }
    head
}

/// The receiving side: `00 text FF`, and frames with a length, which nobody sends and which
/// are skipped without keeping them.
#[derive(Default)]
pub struct Frames {
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Start,
    /// Inside `00 … FF`; empty while all of it may still lie in one read.
    Text(Box<Buffer>),
    /// Types 01 to 7F end at FF, too, and mean nothing.
    SkipText,
    /// Types with the high bit: a length in groups of seven bits.
    Length {
        frame_type: u8,
        len: u64,
        groups: u8,
    },
    Skip {
        missing: u64,
    },
}

impl Frames {
    pub fn receive<'a>(
        &mut self,
        dialect: Dialect,
        mut bytes: &'a [u8],
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<Flow, Violation> {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Start => {
                    bytes = rest;
                    self.state = match first {
                        TEXT_START => match memchr::memchr(TEXT_END, rest) {
                            Some(end) => {
                                message(&rest[..end], context, events)?;
                                bytes = &rest[end + 1..];
                                State::Start
                            }
                            None => State::Text(Box::default()),
                        },
                        0x01..=0x7F => State::SkipText,
                        frame_type => State::Length { frame_type, len: 0, groups: 0 },
                    };
                }
                State::Text(text) => {
                    let end = memchr::memchr(TEXT_END, bytes);
                    let piece = &bytes[..end.unwrap_or(bytes.len())];
                    check_len(text.len() + piece.len(), context)?;
                    text.append(piece, context.message_bytes_max).map_err(|_| Violation::OutOfMemory)?;
                    bytes = &bytes[piece.len()..];
                    if end.is_some() {
                        bytes = &bytes[1..];
                        let text = std::mem::take(&mut **text);
                        self.state = State::Start;
                        let payload = owned_text(text, context)?;
                        events(Incoming::Message { kind: Kind::Text, payload });
                    }
                }
                State::SkipText => {
                    let Some(end) = memchr::memchr(TEXT_END, bytes) else { return Ok(Flow::Open) };
                    bytes = &bytes[end + 1..];
                    self.state = State::Start;
                }
                State::Length { frame_type, len, groups } => {
                    bytes = rest;
                    *groups += 1;
                    if *groups > LENGTH_GROUPS_MAX {
                        return Err(Violation::HixieLength);
                    }
                    *len = *len << 7 | u64::from(first & 0x7F);
                    if first & 0x80 == 0 {
                        let (frame_type, missing) = (*frame_type, *len);
                        self.state = if missing > 0 { State::Skip { missing } } else { State::Start };
                        if frame_type == 0xFF && missing == 0 && dialect == Dialect::Hixie76 {
                            events(Incoming::Close(CloseFrame::EMPTY));
                            return Ok(Flow::Closed);
                        }
                    }
                }
                State::Skip { missing } => {
                    let skipped = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[skipped..];
                    *missing -= skipped as u64;
                    if *missing == 0 {
                        self.state = State::Start;
                    }
                }
            }
        }
        Ok(Flow::Open)
    }
}

fn check_len(len: usize, context: &Context<'_>) -> Result<(), Violation> {
    let bytes_max = context.message_bytes_max;
    if len > bytes_max { Err(Violation::MessageTooBig { bytes_max }) } else { Ok(()) }
}

fn message<'a>(
    text: &'a [u8],
    context: &Context<'_>,
    events: &mut impl FnMut(Incoming<'a>),
) -> Result<(), Violation> {
    check_len(text.len(), context)?;
    let payload = match simdutf8::basic::from_utf8(text) {
        Ok(_) => Payload::Borrowed(text),
        Err(_) => Payload::Owned(repaired(text, context)?),
    };
    events(Incoming::Message { kind: Kind::Text, payload });
    Ok(())
}

fn owned_text<'a>(text: Buffer, context: &Context<'_>) -> Result<Payload<'a>, Violation> {
    Ok(Payload::Owned(match simdutf8::basic::from_utf8(text.as_slice()) {
        Ok(_) => text,
        Err(_) => repaired(text.as_slice(), context)?,
    }))
}

/// "treating the bytes as UTF-8, with invalid sequences replaced by U+FFFD" (draft 76, 4.2)
fn repaired(text: &[u8], context: &Context<'_>) -> Result<Buffer, Violation> {
    let mut repaired = Buffer::default();
    for chunk in text.utf8_chunks() {
        let replacement = if chunk.invalid().is_empty() { "" } else { REPLACEMENT };
        for piece in [chunk.valid(), replacement] {
            // One bad byte becomes three: what is over the limit must not be written first.
            check_len(repaired.len() + piece.len(), context)?;
            repaired
                .append(piece.as_bytes(), context.message_bytes_max)
                .map_err(|_| Violation::OutOfMemory)?;
        }
    }
    Ok(repaired)
}

const REPLACEMENT: &str = "\u{FFFD}";
/// 63 bits: no length can overflow.
const LENGTH_GROUPS_MAX: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_draft_76_gets_the_answer_of_draft_76() {
        // draft-hixie-thewebsocketprotocol-76, 1.2 and 1.3
        let keys =
            Keys(key_number(b"4 @1  46546xW%0l 1 5").unwrap(), key_number(b"12998 5 Y3 1  .P00").unwrap());
        assert_eq!(keys, Keys(829_309_203, 259_970_620));
        assert_eq!(&keys.answer(*b"^n:ds[4U"), b"8jKS'y:G*Co,Wxa-");
    }

    #[test]
    fn the_second_example_of_draft_76_gets_its_answer_too() {
        let keys = Keys(
            key_number(b"18x 6]8vM;54 *(5:  {   U1]8  z [  8").unwrap(),
            key_number(b"1_ tx7X d  <  nw  334J702) 7]o}` 0").unwrap(),
        );
        assert_eq!(keys, Keys(155_712_099, 173_347_027));
        assert_eq!(&keys.answer(*b"Tm[K T2u"), b"fQJ,fN/4F4!~K~MH");
    }

    #[test]
    fn a_key_may_pass_32_bits_before_the_division_but_not_after() {
        assert_eq!(key_number(b"8589934590  "), Ok(u32::MAX));
        assert_eq!(key_number(b"8589934591  "), Err(Refusal::HixieKey), "a remainder");
        assert_eq!(key_number(b"42949672950 "), Err(Refusal::HixieKey), "a quotient over 32 bits");
        assert_eq!(key_number(b"99999999999999999999999 "), Err(Refusal::HixieKey), "an overflow");
        assert_eq!(key_number(b"123"), Err(Refusal::HixieKey), "no blank");
    }

    fn events_of(dialect: Dialect, wire: &[u8], step: usize) -> (Vec<String>, Result<Flow, Violation>) {
        let mut frames = Frames::default();
        let mut pool = crate::buffer::BufferPool::default();
        let mut inflation = crate::protocol::deflate::Inflation::default();
        let mut context = Context {
            streams: false,
            message_bytes_max: 100,
            fragments_max: 1 << 17,
            pool: &mut pool,
            inflation: &mut inflation,
        };
        let mut seen = Vec::new();
        let mut result = Ok(Flow::Open);
        for piece in wire.chunks(step) {
            result = frames.receive(dialect, piece, &mut context, &mut |incoming| {
                seen.push(match incoming {
                    Incoming::Message { payload, .. } => {
                        String::from_utf8(payload.as_slice(&[]).to_vec()).unwrap()
                    }
                    other => format!("{other:?}"),
                });
            });
            if !matches!(result, Ok(Flow::Open)) {
                break;
            }
        }
        (seen, result)
    }

    fn both_ways(dialect: Dialect, wire: &[u8]) -> (Vec<String>, Result<Flow, Violation>) {
        let whole = events_of(dialect, wire, wire.len());
        assert_eq!(whole, events_of(dialect, wire, 1), "one byte at a time");
        whole
    }

    #[test]
    fn text_frames_become_messages_and_may_hold_a_zero_byte() {
        let (seen, _) = both_ways(Dialect::Hixie76, b"\x00a\x00b\xFF\x00\xFF\x00\xE2\x82\xAC\xFF");
        assert_eq!(seen, ["a\0b", "", "€"]);
    }

    #[test]
    fn frames_with_a_length_are_skipped_even_when_they_hold_the_end_of_text() {
        let (seen, _) =
            both_ways(Dialect::Hixie76, b"\x80\x03\xFF\x00x\x00hi\xFF\x80\x00\xFF\x02zz\x00ho\xFF");
        assert_eq!(seen, ["hi", "ho"]);
    }

    #[test]
    fn frames_of_other_types_end_at_ff_and_mean_nothing() {
        assert_eq!(both_ways(Dialect::Hixie75, b"\x01no\x00\xFF\x00yes\xFF").0, ["yes"]);
    }

    #[test]
    fn ff_00_closes_a_draft_76_conversation_and_is_nothing_in_draft_75() {
        let (seen, result) = both_ways(Dialect::Hixie76, b"\x00a\xFF\xFF\x00\x00b\xFF");
        assert_eq!((seen.len(), result), (2, Ok(Flow::Closed)));
        assert_eq!(both_ways(Dialect::Hixie75, b"\x00a\xFF\xFF\x00\x00b\xFF").0, ["a", "b"]);
    }

    #[test]
    fn a_length_of_twenty_groups_is_refused_and_overflows_nothing() {
        let wire = [&[0x80][..], &[0xFF; 20]].concat();
        assert_eq!(both_ways(Dialect::Hixie76, &wire).1, Err(Violation::HixieLength));
        let zeros = [&[0x80][..], &[0x80; 20]].concat();
        assert_eq!(both_ways(Dialect::Hixie76, &zeros).1, Err(Violation::HixieLength));
    }

    #[test]
    fn bad_utf8_is_replaced_and_never_handed_on() {
        assert_eq!(both_ways(Dialect::Hixie76, b"\x00a\xC3\x28\xFF").0, ["a\u{FFFD}("]);
    }

    #[test]
    fn a_text_over_the_limit_is_refused_before_it_ends() {
        let wire = [&[0x00][..], &[b'x'; 101]].concat();
        assert!(matches!(events_of(Dialect::Hixie76, &wire, 1).1, Err(Violation::MessageTooBig { .. })));
    }
}
