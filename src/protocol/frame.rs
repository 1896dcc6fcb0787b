//! The head of one frame (RFC 6455, 5.2), strict to the letter. HyBi-07 and -08 have the same.

use super::Kind;
use super::close::Violation;

/// Longest head of a frame from a client: two bytes, a 64-bit length, a mask key.
pub const HEAD_BYTES_MAX: usize = 14;
/// Longest payload of a Close, Ping or Pong.
pub const CONTROL_BYTES_MAX: usize = 125;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn parse(bits: u8) -> Result<Self, Violation> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            unknown => return Err(Violation::UnknownOpcode(unknown)),
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A client's frame head, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    pub fin: bool,
    pub opcode: Opcode,
    /// RSV1: "the \"Per-Message Compressed\" bit" (RFC 7692, 6)
    pub is_compressed: bool,
    pub len: u64,
    pub mask: [u8; 4],
}

impl FrameHead {
    /// Reads a head from the front of `bytes`: the head and its length, or `None` while bytes
    /// are missing. What is wrong is refused as soon as it can be seen. Only the first frame of a
    /// message may be compressed, if that was agreed on.
    #[inline]
    pub fn parse(bytes: &[u8], may_be_compressed: bool) -> Result<Option<(FrameHead, usize)>, Violation> {
        let &[first, ref rest @ ..] = bytes else { return Ok(None) };
        let is_compressed = first & 0x70 == RSV1 && may_be_compressed && matches!(first & 0x0F, 1 | 2);
        if first & 0x70 != 0 && !is_compressed {
            return Err(Violation::ReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = Opcode::parse(first & 0x0F)?;
        if opcode.is_control() && !fin {
            return Err(Violation::FragmentedControl);
        }
        let &[second, ref rest @ ..] = rest else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(Violation::Unmasked);
        }
        let short = second & 0x7F;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Violation::ControlTooBig);
        }
        let (len, rest) = match short {
            126 => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let len = u64::from(u16::from_be_bytes(*len));
                if len < 126 {
                    return Err(Violation::LengthNotMinimal);
                }
                (len, rest)
            }
            127 => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let len = u64::from_be_bytes(*len);
                if len >> 63 != 0 {
                    return Err(Violation::LengthOver63Bits);
                }
                if len <= u64::from(u16::MAX) {
                    return Err(Violation::LengthNotMinimal);
                }
                (len, rest)
            }
            short => (u64::from(short), rest),
        };
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let head = FrameHead { fin, opcode, is_compressed, len, mask: *mask };
        Ok(Some((head, bytes.len() - rest.len())))
    }
}

const RSV1: u8 = 0x40;

/// The head of a frame of ours: never masked.
#[derive(Clone, Copy)]
pub struct ServerHead {
    bytes: [u8; 10],
    len: u8,
}

impl ServerHead {
    #[inline]
    pub fn new(opcode: Opcode, fin: bool, len: usize) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = if fin { 0x80 } else { 0 } | opcode.bits();
        let head_len = match len {
            0..=125 => {
                bytes[1] = len as u8;
                2
            }
            126..=0xFFFF => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&(len as u64).to_be_bytes());
                10
            }
        };
        Self { bytes, len: head_len }
    }

    /// Of a whole message of at most 125 bytes.
    #[inline]
    pub fn short(kind: Kind, len: usize) -> [u8; 2] {
        let opcode = if kind == Kind::Text { Opcode::Text } else { Opcode::Binary };
        [0x80 | opcode.bits(), len as u8]
    }

    /// The same for the first frame of a compressed message.
    pub fn compressed(mut self) -> Self {
        self.bytes[0] |= RSV1;
        self
    }

    /// What stands before the text of a Hixie message.
    pub fn hixie_text() -> Self {
        Self { bytes: [super::hixie::TEXT_START; 10], len: 1 }
    }

    /// Nothing: what stands before the rest of a Hixie message.
    pub fn none() -> Self {
        Self { bytes: [0; 10], len: 0 }
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn head_of(bytes: &[u8]) -> Result<Option<(FrameHead, usize)>, Violation> {
        // Every head also arrives byte by byte, and must be the same then.
        for len in 0..bytes.len() {
            match FrameHead::parse(&bytes[..len], true) {
                Ok(None) => {}
                early => return early,
            }
        }
        FrameHead::parse(bytes, true)
    }

    fn masked(start: &[u8]) -> Vec<u8> {
        [start, &MASK].concat()
    }

    #[test]
    fn lengths_up_to_63_bits_are_read_in_all_three_forms() {
        let forms: [(&[u8], u64); 8] = [
            (&[0x82, 0x80], 0),
            (&[0x82, 0x80 | 125], 125),
            (&[0x82, 0xFE, 0, 126], 126),
            (&[0x82, 0xFE, 0xFF, 0xFF], 0xFFFF),
            (&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0], 0x1_0000),
            (&[0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0], 1 << 32),
            (&[0x82, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255], i64::MAX as u64),
            (&[0x02, 0x81], 1),
        ];
        for (start, len) in forms {
            let bytes = masked(start);
            let (head, head_len) = head_of(&bytes).unwrap().expect("whole");
            assert_eq!((head.len, head_len, head.mask), (len, bytes.len(), MASK));
            assert_eq!((head.fin, head.opcode), (start[0] & 0x80 != 0, Opcode::Binary));
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_refused_at_the_byte_that_shows_it() {
        let refused: [(&[u8], Violation); 13] = [
            (&[0xC1], Violation::ReservedBits),
            (&[0xA1], Violation::ReservedBits),
            (&[0x91], Violation::ReservedBits),
            (&[0x83], Violation::UnknownOpcode(3)),
            (&[0x87], Violation::UnknownOpcode(7)),
            (&[0x8B], Violation::UnknownOpcode(11)),
            (&[0x8F], Violation::UnknownOpcode(15)),
            (&[0x09], Violation::FragmentedControl),
            (&[0x81, 0x05], Violation::Unmasked),
            (&[0x89, 0xFE], Violation::ControlTooBig),
            (&[0x81, 0xFE, 0, 125], Violation::LengthNotMinimal),
            (&[0x81, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF], Violation::LengthNotMinimal),
            (&[0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], Violation::LengthOver63Bits),
        ];
        for (bytes, violation) in refused {
            assert_eq!(FrameHead::parse(bytes, false), Err(violation), "{bytes:x?}");
            assert_eq!(
                FrameHead::parse(&bytes[..bytes.len() - 1], false),
                Ok(None),
                "{bytes:x?}, one byte less"
            );
        }
    }

    #[test]
    fn only_the_first_frame_of_a_message_may_be_compressed_and_only_where_that_was_agreed() {
        for first in 0..=255 {
            let bytes = masked(&[first, 0x80]);
            let agreed = FrameHead::parse(&bytes, true);
            match first {
                0x41 | 0x42 | 0xC1 | 0xC2 => {
                    assert!(agreed.unwrap().expect("whole").0.is_compressed, "{first:x}");
                    assert_eq!(FrameHead::parse(&[first], false), Err(Violation::ReservedBits));
                }
                _ => assert_eq!(agreed, FrameHead::parse(&bytes, false), "{first:x}"),
            }
        }
    }

    #[test]
    fn our_own_heads_use_the_shortest_length() {
        assert_eq!(ServerHead::new(Opcode::Text, true, 125).as_slice(), [0x81, 125]);
        assert_eq!(ServerHead::new(Opcode::Binary, true, 126).as_slice(), [0x82, 126, 0, 126]);
        assert_eq!(ServerHead::new(Opcode::Text, false, 0xFFFF).as_slice(), [0x01, 126, 0xFF, 0xFF]);
        assert_eq!(
            ServerHead::new(Opcode::Continuation, true, 0x1_0000).as_slice(),
            [0x80, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }
}
