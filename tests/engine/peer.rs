//! The other end: what a client of each dialect says, and how it reads the answers.
//!
//! Written from the specifications and not with our own code, which it is to check.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use fullduplex::protocol::Dialect;

/// Every dialect, for tests that hold in all of them.
pub const DIALECTS: [Dialect; 5] =
    [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07, Dialect::Hixie76, Dialect::Hixie75];

pub fn is_hixie(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Hixie76 | Dialect::Hixie75)
}

/// A good request for `path`, the eight bytes of Hixie-76 included.
pub fn request(dialect: Dialect, path: &str) -> Vec<u8> {
    let own_lines = match dialect {
        Dialect::Rfc6455 => {
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        }
        Dialect::HyBi08 => "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n",
        Dialect::HyBi07 => "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 7\r\n\r\n",
        Dialect::Hixie76 => {
            "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\nSec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
             Origin: http://example.com\r\n\r\n^n:ds[4U"
        }
        Dialect::Hixie75 => "Origin: http://example.com\r\n\r\n",
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: example.com\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n{own_lines}"
    )
    .into_bytes()
}

/// The same request with one more header line.
pub fn request_with(dialect: Dialect, path: &str, line: &str) -> Vec<u8> {
    let request = request(dialect, path);
    let place = request.iter().position(|&byte| byte == b'\n').expect("a head has lines") + 1;
    [&request[..place], line.as_bytes(), b"\r\n", &request[place..]].concat()
}

/// Compressed on its own (RFC 7692, 7.2.1).
pub fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut stream = Compress::new(Compression::new(6), false);
    let mut out = Vec::with_capacity(payload.len() + 1000);
    stream.compress_vec(payload, &mut out, FlushCompress::Sync).expect("a good stream");
    assert!(out.len() < out.capacity() && out.ends_with(&[0x00, 0x00, 0xFF, 0xFF]), "the flush is whole");
    out.truncate(out.len() - 4);
    out
}

/// What a client offers that compresses, and remembers nothing from message to message.
pub const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover";

/// A frame as a client of HyBi or RFC 6455 sends it, whole and masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first];
    match payload.len() {
        len @ ..126 => bytes.push(0x80 + len as u8),
        len @ ..65_536 => {
            bytes.push(0x80 + 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 + 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A text in the dialect's own form.
pub fn text_in(dialect: Dialect, text: &str) -> Vec<u8> {
    if is_hixie(dialect) { [&[0x00], text.as_bytes(), &[0xFF]].concat() } else { self::text(text) }
}

pub fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.as_bytes())
}

pub fn binary(payload: &[u8]) -> Vec<u8> {
    frame(0x82, payload)
}

pub fn ping(payload: &[u8]) -> Vec<u8> {
    frame(0x89, payload)
}

pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(0x8A, payload)
}

pub fn close(code: u16, reason: &str) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// Something that the client has heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The answer to the request, by its status.
    Http(u16),
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// A Close frame; without a code it is 1005.
    Close(u16, String),
    /// `FF 00`
    HixieClose,
    /// The server's half has ended.
    Fin,
    Reset,
}

pub fn said(text: &str) -> Heard {
    Heard::Text(text.to_string())
}

/// Reads what a server sends.
pub struct Reader {
    dialect: Dialect,
    bytes: Vec<u8>,
    /// The fragments of a message that has not ended, and how it began.
    begun: Option<(u8, Vec<u8>)>,
    is_open: bool,
    /// What was agreed on: the window of the server's messages, and must they be inflated each on
    /// its own?
    inflater: Option<(Decompress, bool)>,
    /// How many messages came compressed.
    pub compressed: usize,
    /// The head and body of the answer.
    pub answer: String,
}

impl Reader {
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            bytes: Vec::new(),
            begun: None,
            is_open: false,
            inflater: None,
            compressed: 0,
            answer: String::new(),
        }
    }

    /// Bytes came. The error says what is wrong with them.
    pub fn receive(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) -> Result<(), String> {
        self.bytes.extend_from_slice(bytes);
        let mut taken = 0;
        loop {
            let rest = &self.bytes[taken..];
            let read = match self.is_open {
                false => self.read_answer(rest)?,
                true if is_hixie(self.dialect) => read_hixie(rest)?,
                true => match read_frame(rest)? {
                    None => None,
                    Some(Frame { first, payload, len }) => match join(&mut self.begun, first, payload)? {
                        Some((first, payload)) if first & 0x40 != 0 => {
                            let payload = inflated(self.inflater.as_mut(), &payload)?;
                            self.compressed += 1;
                            Some((meaning(first & !0x40, &payload)?, len))
                        }
                        Some((first, payload)) => Some((meaning(first, &payload)?, len)),
                        None => {
                            taken += len;
                            continue;
                        }
                    },
                },
            };
            let Some((item, len)) = read else { break };
            if let Heard::Http(status) = item {
                self.answer = String::from_utf8_lossy(&rest[..len]).into_owned();
                self.is_open = status == 101;
                self.inflater = inflater_for(&self.answer)?;
            }
            heard.push(item);
            taken += len;
        }
        self.bytes.drain(..taken);
        Ok(())
    }

    /// Bytes of something that has not ended.
    pub fn has_rest(&self) -> bool {
        !self.bytes.is_empty() || self.begun.is_some()
    }

    fn read_answer(&self, bytes: &[u8]) -> Result<Option<(Heard, usize)>, String> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
        let status: u16 = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| format!("no status line: {head}"))?;
        let value = |name: &str| {
            head.lines()
                .find_map(|line| line.split_once(": ").filter(|(found, _)| *found == name))
                .map(|(_, v)| v)
        };
        let mut len = end + 4;
        match self.dialect {
            _ if status != 101 => {
                let body: usize = value("Content-Length").and_then(|len| len.parse().ok()).unwrap_or(0);
                len += body;
            }
            Dialect::Hixie76 => {
                // The example of draft 76, 1.2.
                match bytes.get(len..len + 16) {
                    None => return Ok(None),
                    Some(b"8jKS'y:G*Co,Wxa-") => len += 16,
                    Some(wrong) => return Err(format!("a wrong answer to the challenge: {wrong:?}")),
                }
            }
            Dialect::Hixie75 => {}
            _ => {
                // The example of RFC 6455, 1.3.
                if value("Sec-WebSocket-Accept") != Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
                    return Err(format!("a wrong answer to the key: {head}"));
                }
            }
        }
        Ok((bytes.len() >= len).then_some((Heard::Http(status), len)))
    }
}

fn read_hixie(bytes: &[u8]) -> Result<Option<(Heard, usize)>, String> {
    match bytes {
        [] | [0xFF] => Ok(None),
        [0xFF, 0x00, ..] => Ok(Some((Heard::HixieClose, 2))),
        [0x00, rest @ ..] => {
            let Some(len) = rest.iter().position(|&byte| byte == 0xFF) else { return Ok(None) };
            let text = std::str::from_utf8(&rest[..len]).map_err(|_| "a text that is no UTF-8")?;
            Ok(Some((said(text), len + 2)))
        }
        [other, ..] => Err(format!("a frame begins with {other:#x}")),
    }
}

struct Frame<'a> {
    first: u8,
    payload: &'a [u8],
    /// With its head.
    len: usize,
}

fn read_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err("a masked frame".to_string());
    }
    let (head_len, len) = match second {
        126 => match rest.first_chunk() {
            Some(len) => (4, u64::from(u16::from_be_bytes(*len))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(len) => (10, u64::from_be_bytes(*len)),
            None => return Ok(None),
        },
        len => (2, u64::from(len)),
    };
    let end = head_len + len as usize;
    Ok(bytes.get(head_len..end).map(|payload| Frame { first, payload, len: end }))
}

/// Puts the fragments of a message together.
fn join(
    begun: &mut Option<(u8, Vec<u8>)>,
    first: u8,
    payload: &[u8],
) -> Result<Option<(u8, Vec<u8>)>, String> {
    if first & 0x40 != 0 && !matches!(first & 0x0F, 1 | 2) {
        return Err(format!("a compressed frame begins with {first:#x}"));
    }
    match (first & 0x0F, &mut *begun) {
        (0, None) => return Err("a continuation of nothing".to_string()),
        (1 | 2, Some(_)) => return Err("a message inside another".to_string()),
        (0, Some((_, so_far))) => so_far.extend_from_slice(payload),
        (1 | 2, None) => *begun = Some((first | 0x80, payload.to_vec())),
        _ => return Ok(Some((first, payload.to_vec()))),
    }
    Ok(begun.take_if(|_| first & 0x80 != 0))
}

fn inflater_for(answer: &str) -> Result<Option<(Decompress, bool)>, String> {
    let line = answer.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    let Some(line) = line else { return Ok(None) };
    let mut parameters = line.split("; ");
    if parameters.next() != Some("permessage-deflate") {
        return Err(format!("{line} was agreed on"));
    }
    let (mut bits, mut on_its_own) = (15, false);
    for parameter in parameters {
        match parameter.split_once('=') {
            Some(("server_max_window_bits", value)) => bits = value.parse().map_err(|_| "bad window bits")?,
            Some(("client_max_window_bits", _)) => {}
            None if parameter == "server_no_context_takeover" => on_its_own = true,
            None if parameter == "client_no_context_takeover" => {}
            _ => return Err(format!("{parameter} was agreed on")),
        }
    }
    Ok(Some((Decompress::new_with_window_bits(false, bits), on_its_own)))
}

fn inflated(inflater: Option<&mut (Decompress, bool)>, payload: &[u8]) -> Result<Vec<u8>, String> {
    let (stream, on_its_own) = inflater.ok_or("a compressed message, and nobody agreed on that")?;
    if *on_its_own {
        stream.reset(false);
    }
    let wire = [payload, &[0x00, 0x00, 0xFF, 0xFF]].concat();
    let (mut taken, mut out) = (0, Vec::new());
    while taken < wire.len() || out.len() == out.capacity() {
        out.reserve(2 * wire.len() + 100);
        let before = stream.total_in();
        let flush = FlushDecompress::Sync;
        stream.decompress_vec(&wire[taken..], &mut out, flush).map_err(|error| error.to_string())?;
        taken += (stream.total_in() - before) as usize;
    }
    Ok(out)
}

fn meaning(first: u8, payload: &[u8]) -> Result<Heard, String> {
    let text = || String::from_utf8(payload.to_vec()).map_err(|_| "a text that is no UTF-8".to_string());
    let heard = match first {
        0x81 => Heard::Text(text()?),
        0x82 => Heard::Binary(payload.to_vec()),
        0x88 => match payload {
            [] => Heard::Close(1005, String::new()),
            [high, low, reason @ ..] => {
                let reason = String::from_utf8(reason.to_vec()).map_err(|_| "a reason that is no UTF-8")?;
                Heard::Close(u16::from_be_bytes([*high, *low]), reason)
            }
            _ => return Err("a Close with half a code".to_string()),
        },
        0x89 => Heard::Ping(payload.to_vec()),
        0x8A => Heard::Pong(payload.to_vec()),
        other => return Err(format!("a frame begins with {other:#x}")),
    };
    Ok(heard)
}
