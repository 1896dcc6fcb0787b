//! What travels between servers: one published message, with who published it and as which one.
//!
//! ```text
//! 0  "FDX"     4  flags: kind (bit 0), wish (bits 1 and 2), note (bit 3)    21  sequence   37  payload
//! 3  version   5  publisher: node (8), stream (8)                           29  lost
//! ```
//! A note has no payload: it only says that something was lost, where nothing else came after it.
//! Numbers are little-endian. What is malformed, or of another version, is refused whole: nodes of
//! two versions can stand beside each other while one is replaced by the other.

use crate::protocol::Kind;
use crate::protocol::deflate::Wish;

/// A message on its way between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope<'a> {
    pub stamp: Stamp,
    /// `None`: a note.
    pub message: Option<Message<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub kind: Kind,
    pub wish: Wish,
    pub payload: &'a [u8],
}

/// Who published, and as which message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub publisher: Publisher,
    /// Rises by one with each message of a stream, in the order in which they were written.
    pub sequence: u64,
    /// How many publishes this node had lost when it was asked for this one.
    pub lost: u64,
}

/// One stream of one node: what it wrote to one connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Publisher {
    pub node: NodeId,
    pub stream: u64,
}

/// One server in one process, chosen at random when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeId(pub [u8; 8]);

/// Why bytes are no envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    Malformed,
    /// Written by a version that came later, or by an older one that is spoken no more.
    OtherVersion(u8),
    /// A text that is not UTF-8 must not reach a client.
    NotUtf8,
}

impl NodeId {
    pub fn random() -> Self {
        let mut bytes = [0; 8];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut bytes).expect("the system has random numbers, or nothing here could begin");
        Self(bytes)
    }
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("no envelope of fullduplex"),
            Self::OtherVersion(version) => {
                write!(f, "an envelope of version {version}, and this one reads {VERSION}")
            }
            Self::NotUtf8 => f.write_str("a text that is not UTF-8"),
        }
    }
}

impl<'a> Envelope<'a> {
    pub fn encode(&self) -> Vec<u8> {
        let payload = self.message.map_or(&[][..], |message| message.payload);
        let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.push(self.message.map_or(NOTE, |message| flags(&message)));
        bytes.extend_from_slice(&self.stamp.publisher.node.0);
        bytes.extend_from_slice(&self.stamp.publisher.stream.to_le_bytes());
        bytes.extend_from_slice(&self.stamp.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.stamp.lost.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    pub fn decode(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let (magic, rest) = take::<3>(bytes)?;
        let ([version, flags], rest) = take::<2>(rest)?;
        if magic != *MAGIC {
            return Err(Unreadable::Malformed);
        }
        if version != VERSION {
            return Err(Unreadable::OtherVersion(version));
        }
        let (node, rest) = take::<8>(rest)?;
        let (stream, rest) = number(rest)?;
        let (sequence, rest) = number(rest)?;
        let (lost, payload) = number(rest)?;
        let message = match flags {
            NOTE if payload.is_empty() => None,
            _ => Some(message(flags, payload)?),
        };
        let publisher = Publisher { node: NodeId(node), stream };
        Ok(Self { stamp: Stamp { publisher, sequence, lost }, message })
    }
}

fn flags(message: &Message<'_>) -> u8 {
    let kind = match message.kind {
        Kind::Text => 0,
        Kind::Binary => KIND_BINARY,
    };
    let wish = match message.wish {
        Wish::Auto => 0,
        Wish::Compressed => WISH_COMPRESSED,
        Wish::Plain => WISH_PLAIN,
    };
    kind | wish
}

fn message(flags: u8, payload: &[u8]) -> Result<Message<'_>, Unreadable> {
    let kind = if flags & KIND_BINARY == 0 { Kind::Text } else { Kind::Binary };
    let wish = match flags & !KIND_BINARY {
        0 => Wish::Auto,
        WISH_COMPRESSED => Wish::Compressed,
        WISH_PLAIN => Wish::Plain,
        _ => return Err(Unreadable::Malformed),
    };
    if kind == Kind::Text && simdutf8::basic::from_utf8(payload).is_err() {
        return Err(Unreadable::NotUtf8);
    }
    Ok(Message { kind, wish, payload })
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Unreadable> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(Unreadable::Malformed)?;
    Ok((*head, rest))
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), Unreadable> {
    take::<8>(bytes).map(|(head, rest)| (u64::from_le_bytes(head), rest))
}

const MAGIC: &[u8; 3] = b"FDX";
const VERSION: u8 = 1;
const KIND_BINARY: u8 = 0b001;
const WISH_COMPRESSED: u8 = 0b010;
const WISH_PLAIN: u8 = 0b100;
const NOTE: u8 = 0b1000;

/// What an envelope adds to its payload.
pub const HEAD_BYTES: usize = 37;

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(kind: Kind, wish: Wish, payload: &[u8]) -> Envelope<'_> {
        let publisher = Publisher { node: NodeId(*b"01234567"), stream: 3 };
        let stamp = Stamp { publisher, sequence: u64::MAX - 1, lost: 1 << 40 };
        Envelope { stamp, message: Some(Message { kind, wish, payload }) }
    }

    #[test]
    fn what_was_put_into_an_envelope_comes_out_of_it() {
        for kind in [Kind::Text, Kind::Binary] {
            for wish in [Wish::Auto, Wish::Compressed, Wish::Plain] {
                for payload in ["", "a", "grün"] {
                    let envelope = envelope(kind, wish, payload.as_bytes());
                    let bytes = envelope.encode();
                    assert_eq!(bytes.len(), HEAD_BYTES + payload.len());
                    assert_eq!(Envelope::decode(&bytes), Ok(envelope));
                }
            }
        }
    }

    #[test]
    fn a_note_has_no_message_and_nothing_else_in_it() {
        let note = Envelope { message: None, ..envelope(Kind::Text, Wish::Auto, b"") };
        let mut bytes = note.encode();
        assert_eq!(Envelope::decode(&bytes), Ok(note));
        bytes.push(b'x');
        assert_eq!(Envelope::decode(&bytes), Err(Unreadable::Malformed));
    }

    #[test]
    fn the_layout_is_the_one_that_other_versions_were_promised() {
        let bytes = envelope(Kind::Binary, Wish::Plain, b"!").encode();
        let expected =
            b"FDX\x01\x0501234567\x03\0\0\0\0\0\0\0\xfe\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\x01\0\0!";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn an_envelope_cut_short_is_malformed_wherever_it_was_cut() {
        let bytes = envelope(Kind::Text, Wish::Auto, b"").encode();
        for len in 0..HEAD_BYTES {
            assert_eq!(Envelope::decode(&bytes[..len]), Err(Unreadable::Malformed), "{len}");
        }
    }

    #[test]
    fn a_newer_version_is_named_and_nothing_of_it_is_guessed() {
        let mut bytes = envelope(Kind::Text, Wish::Auto, b"hello").encode();
        bytes[3] = 2;
        assert_eq!(Envelope::decode(&bytes), Err(Unreadable::OtherVersion(2)));
        assert!(Unreadable::OtherVersion(2).to_string().contains("version 2"));
        // Even if it is shorter than this one's.
        assert_eq!(Envelope::decode(b"FDX\x02\x00"), Err(Unreadable::OtherVersion(2)));
    }

    #[test]
    fn text_that_is_not_utf_8_and_flags_without_a_meaning_are_refused() {
        let mut bytes = envelope(Kind::Text, Wish::Auto, b"\xff").encode();
        assert_eq!(Envelope::decode(&bytes), Err(Unreadable::NotUtf8));
        bytes[4] = KIND_BINARY;
        assert!(Envelope::decode(&bytes).is_ok());
        for flags in [WISH_COMPRESSED | WISH_PLAIN, NOTE, NOTE | KIND_BINARY, 0b1_0000, 0xff] {
            bytes[4] = flags;
            assert_eq!(Envelope::decode(&bytes), Err(Unreadable::Malformed), "{flags:#b}");
        }
        assert_eq!(Envelope::decode(b"GET / HTTP/1.1\r\n\r\n"), Err(Unreadable::Malformed));
    }

    #[test]
    fn random_bytes_never_do_harm_and_what_is_read_is_written_the_same_again() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..20_000_u32 {
            let mut bytes = Vec::new();
            for _ in 0..round % 64 {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                bytes.push((random >> 33) as u8);
            }
            // Half of them get as far as they can.
            if round % 2 == 0 {
                for (byte, magic) in bytes.iter_mut().zip(b"FDX\x01\x01") {
                    *byte = *magic;
                }
            }
            if let Ok(envelope) = Envelope::decode(&bytes) {
                assert_eq!(envelope.encode(), bytes);
            }
        }
    }

    #[test]
    fn two_nodes_have_different_ids() {
        assert_ne!(NodeId::random(), NodeId::random());
        assert_eq!(NodeId([0, 0, 0, 0, 0, 0, 1, 0xab]).to_string(), "00000000000001ab");
    }
}
