//! The PROXY protocol, versions 1 and 2: a proxy says whose connection this is, before
//! anything else is sent on it (haproxy.org, doc/proxy-protocol.txt).
//!
//! Own code, because the crates for it (`ppp`, `proxy-header`) want the whole header in one
//! buffer, wait for more of what can't become one, pass what the specification refuses (port
//! `+80`; `UNKNOWNx`) and refuse what it wants passed (LOCAL with any family). Behind a reader
//! that does all this they would only split a line at its blanks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which versions a listener's trusted peers may speak. The header is then not optional:
/// "The receiver … MUST not try to guess whether the protocol header is present or not."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyVersions {
    Off,
    V1,
    V2,
    Any,
}

/// Whose connection it is. Nothing is announced by the proxy's own health checks (LOCAL) nor
/// for what has no Internet address (UNKNOWN, UNSPEC, AF_UNIX): such a connection speaks for
/// itself. IPv4 in IPv6's clothes (`::ffff:1.2.3.4`) is told as IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Announced {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
}

/// A header on its way in.
pub struct ProxyReader {
    state: State,
}

enum State {
    /// What came so far of the line, or of the part of a binary header that says something.
    Reading { seen: [u8; LINE_BYTES_MAX], seen_len: usize },
    /// The rest of a binary header is TLVs, or addresses that don't count.
    Skipping { announced: Announced, bytes_left: usize },
}

/// A header of which nothing is left to learn.
struct Head {
    announced: Announced,
    /// How many bytes said so.
    bytes: usize,
    /// How many are to be skipped after them.
    bytes_left: usize,
}

/// The proxy, or whoever connects in its place, breaks the protocol: what it sent "must be
/// discarded and cause the receiver to abort the connection". No answer would be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyError {
    /// No header of an allowed version begins like this.
    NoHeader,
    Malformed(&'static str),
    TooLong,
}

impl Default for ProxyReader {
    fn default() -> Self {
        Self { state: State::Reading { seen: [0; LINE_BYTES_MAX], seen_len: 0 } }
    }
}

impl ProxyReader {
    /// Takes bytes up to the end of the header: what it says and how many of `bytes` it took,
    /// or `None` when all were taken and more must come. The first byte that no header can
    /// have at its place is refused; an error stays. `Off` takes nothing. `versions` are the same
    /// in each call.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        versions: ProxyVersions,
    ) -> Result<Option<(Announced, usize)>, ProxyError> {
        if versions == ProxyVersions::Off {
            return Ok(Some((Announced::default(), 0)));
        }
        let (announced, bytes_left, taken) = match &mut self.state {
            State::Reading { seen, seen_len } => {
                let before = *seen_len;
                *seen_len += bytes.len().min(LINE_BYTES_MAX - before);
                seen[before..*seen_len].copy_from_slice(&bytes[..*seen_len - before]);
                let Some(head) = read_head(&seen[..*seen_len], versions)? else { return Ok(None) };
                (head.announced, head.bytes_left, head.bytes - before)
            }
            State::Skipping { announced, bytes_left } => (*announced, *bytes_left, 0),
        };
        let skipped = bytes_left.min(bytes.len() - taken);
        if skipped < bytes_left {
            self.state = State::Skipping { announced, bytes_left: bytes_left - skipped };
            return Ok(None);
        }
        *self = Self::default();
        Ok(Some((announced, taken + skipped)))
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("no PROXY header of an allowed version"),
            Self::Malformed(what) => write!(f, "malformed PROXY header: {what}"),
            Self::TooLong => f.write_str("the PROXY header is too long"),
        }
    }
}

impl std::error::Error for ProxyError {}

/// All that is known of a header is read again with each part of it that comes. That is at
/// most 107 bytes, 107 times.
fn read_head(seen: &[u8], versions: ProxyVersions) -> Result<Option<Head>, ProxyError> {
    match (seen.first(), versions) {
        (None, _) => Ok(None),
        (Some(b'P'), ProxyVersions::V1 | ProxyVersions::Any) => read_line(seen),
        (Some(b'\r'), ProxyVersions::V2 | ProxyVersions::Any) => read_binary(seen),
        _ => Err(ProxyError::NoHeader),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443` and CR LF.
fn read_line(seen: &[u8]) -> Result<Option<Head>, ProxyError> {
    let text_bytes_max = LINE_BYTES_MAX - "\r\n".len();
    let end = memchr::memchr(b'\r', &seen[..seen.len().min(text_bytes_max + 1)]);
    let text = &seen[..end.unwrap_or(seen.len().min(text_bytes_max))];
    let announced = read_words(Words { rest: Some(text), line_is_whole: end.is_some() })?;
    match (announced, end) {
        (Some(announced), Some(end)) => match seen.get(end + 1) {
            None => Ok(None),
            Some(b'\n') => Ok(Some(Head { announced, bytes: end + 2, bytes_left: 0 })),
            Some(_) => Err(ProxyError::Malformed("CR without LF")),
        },
        _ if seen.len() > text_bytes_max => Err(ProxyError::TooLong),
        _ => Ok(None),
    }
}

fn read_words(mut words: Words<'_>) -> Result<Option<Announced>, ProxyError> {
    match words.next() {
        (b"PROXY", true) => {}
        (begun, false) if b"PROXY".starts_with(begun) => return Ok(None),
        _ => return Err(ProxyError::NoHeader),
    }
    match words.next() {
        (b"TCP4", true) => read_addresses::<Ipv4Addr>(words),
        (b"TCP6", true) => read_addresses::<Ipv6Addr>(words),
        // "the receiver must ignore anything presented before the CRLF is found"
        (b"UNKNOWN", true) => Ok(Some(Announced::default())),
        (begun, false) if FAMILIES.iter().any(|family| family.starts_with(begun)) => Ok(None),
        _ => Err(ProxyError::Malformed("expected TCP4, TCP6 or UNKNOWN")),
    }
}

fn read_addresses<Ip: std::str::FromStr + Into<IpAddr>>(
    mut words: Words<'_>,
) -> Result<Option<Announced>, ProxyError> {
    let address = |word: &str| word.parse::<Ip>().ok().map(Into::into);
    let Some(source) = words.value(address, "source address")? else { return Ok(None) };
    let Some(destination) = words.value(address, "destination address")? else { return Ok(None) };
    let Some(source_port) = words.value(port, "source port")? else { return Ok(None) };
    let Some(destination_port) = words.value(port, "destination port")? else { return Ok(None) };
    if words.rest.is_some() {
        return Err(ProxyError::Malformed("more than two addresses and two ports"));
    }
    Ok(Some(Announced {
        source: Some(endpoint(source, source_port)),
        destination: Some(endpoint(destination, destination_port)),
    }))
}

/// "a decimal integer in the range [0..65535] inclusive. Heading zeroes are not permitted in
/// front of numbers in order to avoid any possible confusion with octal numbers."
fn port(word: &str) -> Option<u16> {
    let is_decimal =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if is_decimal { word.parse().ok() } else { None }
}

/// The words of a line, "exactly one space" between them.
struct Words<'a> {
    rest: Option<&'a [u8]>,
    line_is_whole: bool,
}

impl<'a> Words<'a> {
    /// The next word, and whether more of it may come. Past the end of a whole line it is empty.
    fn next(&mut self) -> (&'a [u8], bool) {
        let rest = self.rest.take().unwrap_or_default();
        match memchr::memchr(b' ', rest) {
            Some(space) => {
                self.rest = Some(&rest[space + 1..]);
                (&rest[..space], true)
            }
            None => (rest, self.line_is_whole),
        }
    }

    /// The next word's value, or `None` for the begin of one.
    fn value<T>(
        &mut self,
        parse: impl Fn(&str) -> Option<T>,
        what: &'static str,
    ) -> Result<Option<T>, ProxyError> {
        let (word, is_whole) = self.next();
        let wrong = ProxyError::Malformed(what);
        let word = std::str::from_utf8(word).map_err(|_| wrong)?;
        if is_whole {
            return parse(word).map(Some).ok_or(wrong);
        }
        let can_become = ENDINGS.iter().any(|ending| parse(&format!("{word}{ending}")).is_some());
        if can_become { Ok(None) } else { Err(wrong) }
    }
}

/// Version 2: twelve fixed bytes, version and command, family and transport, the length of
/// the rest; then addresses, and TLVs, which are skipped unread (so is CRC32C: TCP has its own).
fn read_binary(seen: &[u8]) -> Result<Option<Head>, ProxyError> {
    let known = seen.len().min(SIGNATURE.len());
    if seen[..known] != SIGNATURE[..known] {
        return Err(ProxyError::NoHeader);
    }
    let Some(&version_and_command) = seen.get(SIGNATURE.len()) else { return Ok(None) };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Malformed("unknown version or command")),
    };
    let Some(&family_and_transport) = seen.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let addresses_bytes = match family_and_transport {
        // "discard the protocol block including the family which is ignored"
        _ if is_local => 0,
        0x11 | 0x12 => ADDRESSES_BYTES_V4,
        0x21 | 0x22 => ADDRESSES_BYTES_V6,
        // UNSPEC as either half, and AF_UNIX: "use the real endpoint addresses"
        0x00..=0x02 | 0x10 | 0x20 | 0x30..=0x32 => 0,
        _ => return Err(ProxyError::Malformed("unknown address family or transport")),
    };
    let Some(&length_high) = seen.get(SIGNATURE.len() + 2) else { return Ok(None) };
    if usize::from(length_high) << 8 > REST_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(&length_low) = seen.get(SIGNATURE.len() + 3) else { return Ok(None) };
    let rest_bytes = usize::from(u16::from_be_bytes([length_high, length_low]));
    if rest_bytes > REST_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    if rest_bytes < addresses_bytes {
        return Err(ProxyError::Malformed("too short for its addresses"));
    }
    let rest = &seen[HEAD_BYTES..];
    let announced = match addresses_bytes {
        ADDRESSES_BYTES_V4 => binary_addresses::<4>(rest),
        ADDRESSES_BYTES_V6 => binary_addresses::<16>(rest),
        _ => Some(Announced::default()),
    };
    Ok(announced.map(|announced| Head {
        announced,
        bytes: HEAD_BYTES + addresses_bytes,
        bytes_left: rest_bytes - addresses_bytes,
    }))
}

/// Two addresses, two ports; `None` while they are not all there.
fn binary_addresses<const IP_BYTES: usize>(bytes: &[u8]) -> Option<Announced>
where
    IpAddr: From<[u8; IP_BYTES]>,
{
    let (&source, bytes) = bytes.split_first_chunk::<IP_BYTES>()?;
    let (&destination, bytes) = bytes.split_first_chunk::<IP_BYTES>()?;
    let (&source_port, bytes) = bytes.split_first_chunk()?;
    let (&destination_port, _) = bytes.split_first_chunk()?;
    Some(Announced {
        source: Some(endpoint(source.into(), u16::from_be_bytes(source_port))),
        destination: Some(endpoint(destination.into(), u16::from_be_bytes(destination_port))),
    })
}

fn endpoint(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

/// "If the CRLF sequence is not found in the first 107 characters, the receiver should declare
/// the line invalid."
const LINE_BYTES_MAX: usize = 107;

/// Most bytes after the first sixteen of a binary header: what HAProxy itself would receive
/// (its `tune.bufsize`), with room for a client's certificate among the TLVs. Skipping takes no
/// memory; the bound is how much a peer may send before its request begins.
const REST_BYTES_MAX: usize = 16 * 1024;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const HEAD_BYTES: usize = 16;
const ADDRESSES_BYTES_V4: usize = 12;
const ADDRESSES_BYTES_V6: usize = 36;

const FAMILIES: [&[u8]; 3] = [b"TCP4", b"TCP6", b"UNKNOWN"];

/// If a word can become a port or an address at all, one of these makes it one.
const ENDINGS: [&str; 10] = ["", "0", ":", "::", ".0", "0.0", ".0.0", "0.0.0", ".0.0.0", "0.0.0.0"];

#[cfg(test)]
mod tests {
    use super::ProxyVersions::{Any, Off, V1, V2};
    use super::*;

    #[test]
    fn the_log_tells_what_was_wrong_with_an_announcement() {
        let told = |bytes: &[u8]| ProxyReader::default().receive(bytes, Any).unwrap_err().to_string();
        assert!(told(b"GET / HTTP/1.1\r\n").contains("no PROXY header"));
        assert!(told(b"PROXY TCP5 1 2 3 4\r\n").starts_with("malformed PROXY header: "));
        assert!(told(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff").contains("too long"));
    }

    type Received = Result<Option<(Announced, usize)>, ProxyError>;

    /// As HAProxy 2.6 and nginx 1.22 sent them, each followed by what a client sent.
    mod captured {
        pub const LINE_V4: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 55830 23000\r\nHELLO";
        pub const LINE_V6: &[u8] = b"PROXY TCP6 ::1 ::1 46868 23000\r\nHELLO";
        pub const LINE_NGINX: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 46426 23005\r\nHELLO";
        /// The client came over a Unix socket.
        pub const LINE_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\nHELLO";
        pub const BINARY_V4: &[u8] =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\x94\xde\x59\xd9HELLO";
        pub const BINARY_V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
            \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xe6\x2c\x59\xd9HELLO";
        /// A health check; and, since there are no addresses to tell, a client over a Unix socket.
        pub const BINARY_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0HELLO";
        /// `proxy-v2-options unique-id,crc32c`
        pub const BINARY_UNIQUE_ID: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x2c\
            \x7f\0\0\x01\x7f\0\0\x01\x91\x98\x59\xda\
            \x03\0\x04\x72\x47\x7a\xb3\x05\0\x167F000001:9198_6B034682HELLO";
        /// `proxy-v2-options ssl,authority,crc32c,cert-key,cert-sig,ssl-cipher`
        pub const BINARY_TLS: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x6f\
            \x7f\0\0\x01\x7f\0\0\x01\x93\x54\x59\xdb\
            \x03\0\x04\x14\xb7\x1a\xd2\x01\0\x08http/1.1\x02\0\x0cchat.example\
            \x20\0\x3f\x01\0\0\0\0\x21\0\x07TLSv1.3\x25\0\x07RSA2048\x24\0\x0aRSA-SHA256\
            \x23\0\x16TLS_AES_256_GCM_SHA384HELLO";
    }

    const CAPTURED: [(&[u8], &str); 9] = [
        (captured::LINE_V4, "127.0.0.1:55830 127.0.0.1:23000"),
        (captured::LINE_V6, "[::1]:46868 [::1]:23000"),
        (captured::LINE_NGINX, "127.0.0.1:46426 127.0.0.1:23005"),
        (captured::LINE_UNKNOWN, ""),
        (captured::BINARY_V4, "127.0.0.1:38110 127.0.0.1:23001"),
        (captured::BINARY_V6, "[::1]:58924 [::1]:23001"),
        (captured::BINARY_LOCAL, ""),
        (captured::BINARY_UNIQUE_ID, "127.0.0.1:37272 127.0.0.1:23002"),
        (captured::BINARY_TLS, "127.0.0.1:37716 127.0.0.1:23003"),
    ];

    /// `source destination`, or nothing.
    fn announced(text: &str) -> Announced {
        let mut addresses = text.split_whitespace().map(|address| address.parse().unwrap());
        Announced { source: addresses.next(), destination: addresses.next() }
    }

    /// What the reader makes of bytes that come in such parts.
    fn in_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>, versions: ProxyVersions) -> Received {
        let mut reader = ProxyReader::default();
        let mut taken_before = 0;
        for part in parts {
            if let Some((announced, taken)) = reader.receive(part, versions)? {
                assert!(taken <= part.len());
                return Ok(Some((announced, taken_before + taken)));
            }
            taken_before += part.len();
        }
        Ok(None)
    }

    /// What the reader makes of the bytes, which is the same in however many parts they come.
    fn received(bytes: &[u8], versions: ProxyVersions) -> Received {
        let whole = in_parts([bytes], versions);
        assert_eq!(
            in_parts(bytes.chunks(1), versions),
            whole,
            "one byte at a time: {}",
            bytes.escape_ascii()
        );
        for split in 1..bytes.len().min(130) {
            let (first, second) = bytes.split_at(split);
            assert_eq!(in_parts([first, second], versions), whole, "at {split}: {}", bytes.escape_ascii());
        }
        whole
    }

    fn binary(version_and_command: u8, family_and_transport: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family_and_transport], &length, rest].concat()
    }

    #[test]
    fn headers_of_haproxy_and_nginx_are_understood_and_the_clients_bytes_left() {
        for (bytes, addresses) in CAPTURED {
            let taken = bytes.len() - "HELLO".len();
            assert_eq!(received(bytes, Any), Ok(Some((announced(addresses), taken))));
        }
    }

    #[test]
    fn only_the_versions_of_the_listener_are_spoken() {
        let (line, binary) = (captured::LINE_V4, captured::BINARY_V4);
        assert!(received(line, V1).is_ok() && received(binary, V2).is_ok());
        assert_eq!(received(line, V2), Err(ProxyError::NoHeader));
        assert_eq!(received(binary, V1), Err(ProxyError::NoHeader));
        assert_eq!(received(line, Off), Ok(Some((Announced::default(), 0))));
    }

    #[test]
    fn a_client_without_a_proxy_is_refused_at_its_first_wrong_byte() {
        for (bytes, versions) in [
            (&b"G"[..], Any),
            (b"PO", Any),
            (b"PUT / HTTP/1.1", V1),
            (b"PROXX", Any),
            (b"\x16\x03\x01", Any),
            (b"\n", Any),
            (b"\r\r", V2),
            (b"\r\n\r\n\0\r\nQUIX", Any),
        ] {
            assert_eq!(received(bytes, versions), Err(ProxyError::NoHeader), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_begin_of_a_header_waits_for_the_rest() {
        for (bytes, _) in CAPTURED {
            for end in 0..bytes.len() - "HELLO".len() {
                assert_eq!(received(&bytes[..end], Any), Ok(None));
            }
        }
    }

    #[test]
    fn lines_hold_every_form_of_an_address() {
        for (words, addresses) in [
            ("TCP4 0.0.0.0 255.255.255.255 0 65535", "0.0.0.0:0 255.255.255.255:65535"),
            ("TCP6 :: 2001:DB8::a 1 2", "[::]:1 [2001:db8::a]:2"),
            ("TCP6 1:2:3:4:5:6:7:8 1:2:3:4:5:6:7:: 1 2", "[1:2:3:4:5:6:7:8]:1 [1:2:3:4:5:6:7:0]:2"),
            // HAProxy, when one side is IPv4 and the other IPv6
            ("TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2", "192.0.2.1:1 [2001:db8::1]:2"),
            ("UNKNOWN", ""),
            ("UNKNOWN ", ""),
            ("UNKNOWN 1.2.3.4 \n? \0", ""),
        ] {
            let line = format!("PROXY {words}\r\n");
            assert_eq!(
                received(line.as_bytes(), V1),
                Ok(Some((announced(addresses), line.len()))),
                "{words}"
            );
        }
    }

    #[test]
    fn a_malformed_line_is_refused_without_waiting_for_its_end() {
        for begin in [
            "PROXY\r",
            "PROXY  ",
            "PROXY TCP5",
            "PROXY t",
            "PROXY UD",
            "PROXY UNKNOWNx",
            "PROXY TCP4\r",
            "PROXY TCP4  ",
            "PROXY TCP4 256",
            "PROXY TCP4 01",
            "PROXY TCP4 1..",
            "PROXY TCP4 1.2.3 ",
            "PROXY TCP4 1.2.3.4.",
            "PROXY TCP4 :",
            "PROXY TCP4 1.2.3.4\n",
            "PROXY TCP4 1.2.3.4\t",
            "PROXY TCP6 1.",
            "PROXY TCP6 12345",
            "PROXY TCP6 g",
            "PROXY TCP6 :1",
            "PROXY TCP6 1::2::",
            "PROXY TCP6 1:2:3:4:5:6:7:8:",
            "PROXY TCP6 ::1:2:3:4:5:6:7:",
            "PROXY TCP6 ::ffff:1.2.3.256",
            "PROXY TCP6 fe80::1%",
            "PROXY TCP6 [",
            "PROXY TCP4 1.2.3.4 1.2.3.4  ",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +",
            "PROXY TCP4 1.2.3.4 1.2.3.4 -",
            "PROXY TCP4 1.2.3.4 1.2.3.4 00",
            "PROXY TCP4 1.2.3.4 1.2.3.4 08",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536",
            "PROXY TCP4 1.2.3.4 1.2.3.4 80\r",
            "PROXY TCP4 1.2.3.4 1.2.3.4 80 \r",
            "PROXY TCP4 1.2.3.4 1.2.3.4 80 443 ",
            "PROXY TCP4 1.2.3.4 1.2.3.4 80 443\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 80 443\r\r",
            "PROXY UNKNOWN\rx",
        ] {
            assert!(matches!(received(begin.as_bytes(), Any), Err(ProxyError::Malformed(_))), "{begin:?}");
            let before = &begin.as_bytes()[..begin.len() - 1];
            assert_eq!(received(before, Any), Ok(None), "{begin:?} was wrong before its end");
        }
        assert!(received(b"PROXY TCP4 \xff", Any).is_err());
    }

    #[test]
    fn a_line_has_at_most_107_bytes_with_its_end() {
        let full = |address: &str| format!("PROXY UNKNOWN {address} {address} 65535 65535\r\n");
        let longest = full("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(longest.len(), LINE_BYTES_MAX);
        assert_eq!(received(longest.as_bytes(), V1), Ok(Some((Announced::default(), 107))));
        let longer = longest.replace("\r\n", "5\r\n");
        assert_eq!(received(longer.as_bytes(), V1), Err(ProxyError::TooLong));
        assert_eq!(received(&longer.as_bytes()[..105], V1), Ok(None));
        assert_eq!(received(&longer.as_bytes()[..106], V1), Err(ProxyError::TooLong));
        let wrong_only_later = [longer.as_bytes(), b"\0"].concat();
        assert_eq!(received(&wrong_only_later, V1), Err(ProxyError::TooLong));
    }

    #[test]
    fn a_binary_header_of_a_family_without_addresses_for_us_is_skipped_by_its_length() {
        let unix = [1; 216];
        for (command, family, rest) in [
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, &[9; 12]),
            (0x20, 0x11, &[]),
            (0x20, 0xff, &[9; 3]),
            (0x21, 0x00, &[]),
            (0x21, 0x01, &[9; 40]),
            (0x21, 0x10, &[9; 12]),
            (0x21, 0x20, &[9; 36]),
            (0x21, 0x31, &unix),
            (0x21, 0x32, &unix),
        ] {
            let header = binary(command, family, rest);
            let with_more = [&header[..], b"GET"].concat();
            assert_eq!(received(&with_more, V2), Ok(Some((Announced::default(), header.len()))));
        }
    }

    #[test]
    fn a_client_over_quic_is_told_like_one_over_tcp() {
        let rest = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187];
        let expected = announced("192.0.2.1:80 192.0.2.2:443");
        assert_eq!(received(&binary(0x21, 0x12, &rest), V2), Ok(Some((expected, 28))));
    }

    #[test]
    fn mapped_addresses_are_told_as_ipv4() {
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        let other = Ipv6Addr::LOCALHOST.octets();
        let header = binary(0x21, 0x21, &[&mapped[..], &other, &[0, 80, 1, 187]].concat());
        assert_eq!(received(&header, V2), Ok(Some((announced("192.0.2.1:80 [::1]:443"), 52))));
    }

    #[test]
    fn a_malformed_binary_header_is_refused_at_its_first_wrong_byte() {
        for after_signature in [
            &[0x11][..],
            &[0x22],
            &[0x31],
            &[0x21, 0x13],
            &[0x21, 0x03],
            &[0x21, 0x41],
            &[0x21, 0x11, 0, 11],
            &[0x21, 0x21, 0, 35],
        ] {
            let bytes = [&SIGNATURE, after_signature].concat();
            assert!(matches!(received(&bytes, Any), Err(ProxyError::Malformed(_))), "{after_signature:?}");
            assert_eq!(received(&bytes[..bytes.len() - 1], Any), Ok(None), "{after_signature:?}");
        }
    }

    #[test]
    fn a_binary_header_has_a_longest_length_and_its_tlvs_are_skipped_unread() {
        let addresses = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187];
        let longest = [&addresses[..], &[0xff; REST_BYTES_MAX - 12]].concat();
        let header = binary(0x21, 0x11, &longest);
        let expected = announced("192.0.2.1:80 192.0.2.2:443");
        assert_eq!(received(&header, V2), Ok(Some((expected, header.len()))));
        assert_eq!(received(&header[..header.len() - 1], V2), Ok(None));
        for too_long in [&[0x21, 0x11, 0x40, 1][..], &[0x20, 0, 0x41], &[0x21, 0x11, 0xff]] {
            let bytes = [&SIGNATURE, too_long].concat();
            assert_eq!(received(&bytes, V2), Err(ProxyError::TooLong));
            assert_eq!(received(&bytes[..bytes.len() - 1], V2), Ok(None));
        }
    }

    #[test]
    fn an_error_stays() {
        let mut reader = ProxyReader::default();
        assert_eq!(
            reader.receive(b"PROXY TCP4 1.2.3.4 x", Any),
            Err(ProxyError::Malformed("destination address"))
        );
        assert_eq!(reader.receive(b"", Any), Err(ProxyError::Malformed("destination address")));
        assert_eq!(reader.receive(captured::LINE_V4, Any), Err(ProxyError::Malformed("destination address")));
    }

    #[test]
    fn damaged_headers_are_read_the_same_in_however_many_parts() {
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        let letters = b" \r\n.:0123456789abfPROXYTCUNKW\0\x20\x21\x11\xff";
        for _ in 0..2_000 {
            let mut bytes = CAPTURED[random(CAPTURED.len())].0.to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(3) {
                    0 => bytes[at] = letters[random(letters.len())],
                    1 => bytes.insert(at, letters[random(letters.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let _ = received(&bytes, [V1, V2, Any][random(3)]);
        }
    }
}
