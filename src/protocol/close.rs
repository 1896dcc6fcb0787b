//! Why a conversation ends: close codes (RFC 6455, 7.4) and the ways a peer breaks the rules.

use std::fmt;

/// A close code as it stands in a Close frame, or one of those that never do (1005, 1006).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CloseCode(pub u16);

impl CloseCode {
    pub const NORMAL: Self = Self(1000);
    pub const GOING_AWAY: Self = Self(1001);
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// The peer's Close had no code. Never sent.
    pub const NO_STATUS: Self = Self(1005);
    /// No Close came at all. Never sent.
    pub const ABNORMAL: Self = Self(1006);
    pub const INVALID_DATA: Self = Self(1007);
    pub const POLICY: Self = Self(1008);
    pub const TOO_BIG: Self = Self(1009);
    pub const INTERNAL_ERROR: Self = Self(1011);

    /// May this code stand in a Close frame? (RFC 6455, 7.4.2, and the registry up to 1014)
    pub fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// What a Close frame says: nothing, or a code with a reason of at most 123 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CloseFrame {
    bytes: [u8; 125],
    len: u8,
}

impl CloseFrame {
    /// A Close without a code.
    pub const EMPTY: Self = Self { bytes: [0; 125], len: 0 };

    pub fn new(code: CloseCode, reason: &str) -> Self {
        let mut frame = Self::EMPTY;
        let mut len = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(len) {
            len -= 1;
        }
        frame.bytes[..2].copy_from_slice(&code.0.to_be_bytes());
        frame.bytes[2..2 + len].copy_from_slice(&reason.as_bytes()[..len]);
        frame.len = 2 + len as u8;
        frame
    }

    /// Reads the payload of a peer's Close frame.
    pub fn parse(payload: &[u8]) -> Result<Self, Violation> {
        match *payload {
            [] => Ok(Self::EMPTY),
            // "If there is a body, the first two bytes of the body MUST be a 2-byte unsigned
            // integer" (5.5.1)
            [_] => Err(Violation::CloseTooShort),
            [high, low, ref reason @ ..] => {
                let code = CloseCode(u16::from_be_bytes([high, low]));
                if !code.is_sendable() {
                    return Err(Violation::CloseCode(code));
                }
                let reason = std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
                Ok(Self::new(code, reason))
            }
        }
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The code, 1005 if there is none.
    pub fn code(&self) -> CloseCode {
        match self.payload() {
            [high, low, ..] => CloseCode(u16::from_be_bytes([*high, *low])),
            _ => CloseCode::NO_STATUS,
        }
    }

    pub fn reason(&self) -> &[u8] {
        self.payload().get(2..).unwrap_or_default()
    }
}

impl fmt::Debug for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Close({}, {:?})", self.code().0, String::from_utf8_lossy(self.reason()))
    }
}

/// The peer broke the protocol. Each knows the code the connection is closed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// "The server MUST close the connection upon receiving a frame that is not masked." (5.1)
    Unmasked,
    /// RSV1–3 "MUST be 0 unless an extension is negotiated" (5.2)
    ReservedBits,
    UnknownOpcode(u8),
    /// "the minimal number of bytes MUST be used to encode the length" (5.2)
    LengthNotMinimal,
    /// "the most significant bit MUST be 0" (5.2)
    LengthOver63Bits,
    FragmentedControl,
    ControlTooBig,
    /// A continuation frame without a message to continue.
    NothingToContinue,
    /// A new message before the last one was finished.
    InterleavedMessage,
    CloseTooShort,
    CloseCode(CloseCode),
    InvalidUtf8,
    /// A compressed message that can't be inflated (RFC 7692, 7.2.2).
    BadDeflate,
    MessageTooBig {
        bytes_max: usize,
    },
    TooManyFragments {
        fragments_max: usize,
    },
    /// More messages or bytes in a time than the server allows.
    TooFast,
    /// A Hixie-76 frame length that is no number worth reading.
    HixieLength,
    /// Not the peer's fault: there is no memory for its message.
    OutOfMemory,
}

impl Violation {
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::InvalidUtf8 | Self::BadDeflate => CloseCode::INVALID_DATA,
            Self::MessageTooBig { .. } | Self::TooManyFragments { .. } => CloseCode::TOO_BIG,
            Self::TooFast => CloseCode::POLICY,
            Self::OutOfMemory => CloseCode::INTERNAL_ERROR,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The peer kept the protocol but passed a limit of ours.
    pub fn is_limit(&self) -> bool {
        matches!(
            self,
            Self::MessageTooBig { .. } | Self::TooManyFragments { .. } | Self::TooFast | Self::OutOfMemory
        )
    }

    pub fn close_frame(&self) -> CloseFrame {
        CloseFrame::new(self.close_code(), &self.to_string())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmasked => f.write_str("frame not masked"),
            Self::ReservedBits => f.write_str("reserved bits set"),
            Self::UnknownOpcode(opcode) => write!(f, "unknown opcode {opcode}"),
            Self::LengthNotMinimal => f.write_str("length not minimal"),
            Self::LengthOver63Bits => f.write_str("length over 63 bits"),
            Self::FragmentedControl => f.write_str("control frame fragmented"),
            Self::ControlTooBig => f.write_str("control frame over 125 bytes"),
            Self::NothingToContinue => f.write_str("continuation without a message"),
            Self::InterleavedMessage => f.write_str("new message inside a message"),
            Self::CloseTooShort => f.write_str("close frame of one byte"),
            Self::CloseCode(code) => write!(f, "close code {} not allowed", code.0),
            Self::InvalidUtf8 => f.write_str("text is not UTF-8"),
            Self::BadDeflate => f.write_str("compressed data is not deflate"),
            Self::MessageTooBig { bytes_max } => write!(f, "message over {bytes_max} bytes"),
            Self::TooManyFragments { fragments_max } => {
                write!(f, "message in over {fragments_max} fragments")
            }
            Self::TooFast => f.write_str("too much in too short a time"),
            Self::HixieLength => f.write_str("frame length out of range"),
            Self::OutOfMemory => f.write_str("out of memory"),
        }
    }
}

impl std::error::Error for Violation {}

/// A control frame holds 125 bytes, the code takes two.
pub const REASON_BYTES_MAX: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_that_may_be_sent_are_those_of_the_rfc_and_its_registry() {
        let sendable: Vec<u16> = (0..=u16::MAX).filter(|&code| CloseCode(code).is_sendable()).collect();
        assert!(sendable.starts_with(&[1000, 1001, 1002, 1003, 1007]));
        assert!(!sendable.iter().any(|code| matches!(code, 0..=999 | 1004..=1006 | 1015..=2999 | 5000..)));
        assert_eq!(sendable.len(), 4 + 8 + 2000);
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_two_characters() {
        let frame = CloseFrame::new(CloseCode::NORMAL, &"é".repeat(100));
        assert_eq!(frame.reason().len(), 122);
        assert!(std::str::from_utf8(frame.reason()).is_ok());
    }

    #[test]
    fn every_violation_fits_into_a_close_frame() {
        let longest = Violation::MessageTooBig { bytes_max: usize::MAX };
        assert_eq!(longest.close_frame().reason(), longest.to_string().as_bytes());
    }
}
