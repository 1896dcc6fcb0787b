//! Who is it, behind proxies: the PROXY protocol, the headers that name clients, and the list of
//! whom to believe. An input's first character says which: `1`, `2` and `p` a PROXY header of
//! version 1, 2 or any, `f` and `x` lines of `Forwarded` or `X-Forwarded-For` after a line with
//! the trusted, `t` such a line alone.
//!
//! A PROXY header is the same however it is cut, ends where it ends, tells what stands in it, and
//! an error stays. What a proxy writes at the right end is what is read there, whatever stands
//! left of it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fullduplex::driver::sim::Dice;
use fullduplex::protocol::forwarded::{self, ForwardedHeaders};
use fullduplex::protocol::http::{Request, RequestReader};
use fullduplex::protocol::proxy::{Announced, ProxyError, ProxyReader, ProxyVersions};
use fullduplex::protocol::trusted::Trusted;
use fullduplex_fuzz::splits;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else { return };
    match choice {
        b'1' => check_announcement(rest, ProxyVersions::V1),
        b'2' => check_announcement(rest, ProxyVersions::V2),
        b'p' => check_announcement(rest, ProxyVersions::Any),
        b'f' => check_forwarded(rest, ForwardedHeaders::Forwarded),
        b'x' => check_forwarded(rest, ForwardedHeaders::XForwardedFor),
        b't' => drop(check_trusted(&String::from_utf8_lossy(rest))),
        _ => {}
    }
});

// ------------------------------------------------------------------------- the PROXY protocol

/// What it says, and how many bytes said so.
type Read = Result<Option<(Announced, usize)>, ProxyError>;

fn check_announcement(stream: &[u8], versions: ProxyVersions) {
    let whole = read(stream, &[], versions);
    for way in splits::ways(stream) {
        assert_eq!(read(stream, &way, versions), whole, "cut {way:?}");
    }
    let longer = [stream, b"PROXY\r\n\r\n\0\r\nQUIT\n and more"].concat();
    match whole {
        Ok(Some((announced, total))) => {
            let is_line = stream[0] == b'P';
            let wrong = if is_line { ProxyVersions::V2 } else { ProxyVersions::V1 };
            assert_ne!(versions, wrong);
            assert!(total <= if is_line { LINE_BYTES_MAX } else { BINARY_BYTES_MAX });
            assert_eq!(read(&stream[..total], &[], versions), whole, "nothing behind it counts");
            assert_eq!(read(&stream[..total - 1], &[], versions), Ok(None), "it ends with its last byte");
            let header = &stream[..total];
            assert_eq!(announced, if is_line { said_by_line(header) } else { said_by_binary(header) });
        }
        Ok(None) => {
            assert!(stream.len() < if stream.starts_with(b"P") { LINE_BYTES_MAX } else { BINARY_BYTES_MAX });
        }
        Err(_) => {
            assert_eq!(read(&longer, &[], versions), whole, "what can't begin a header never becomes one")
        }
    }
    let (header, announced) = good_header(&mut Dice::new(splits::hash(stream)), versions);
    let followed = [&header, stream].concat();
    assert_eq!(read(&followed, &[], versions), Ok(Some((announced, header.len()))), "{header:?}");
}

/// In these pieces, with nothing at all between them.
fn read(stream: &[u8], way: &[usize], versions: ProxyVersions) -> Read {
    let mut reader = ProxyReader::default();
    let mut before = 0;
    for piece in splits::pieces(stream, way) {
        assert_eq!(reader.receive(b"", versions), Ok(None), "nothing says nothing");
        match reader.receive(piece, versions) {
            Ok(None) => before += piece.len(),
            Ok(Some((announced, taken))) => {
                assert!(taken <= piece.len());
                return Ok(Some((announced, before + taken)));
            }
            Err(error) => {
                assert!(!error.to_string().contains(char::is_control));
                for more in [&b""[..], b"P", stream] {
                    assert_eq!(reader.receive(more, versions), Err(error), "an error stays");
                }
                return Err(error);
            }
        }
    }
    Ok(None)
}

/// Version 1 as a reader takes it that knows the line is good.
fn said_by_line(header: &[u8]) -> Announced {
    let line = header.strip_suffix(b"\r\n").expect("a line ends so");
    if line.starts_with(b"PROXY UNKNOWN") {
        return Announced::default();
    }
    let line = std::str::from_utf8(line).expect("addresses and ports are ASCII");
    let [_, family, source, destination, source_port, destination_port] =
        line.split(' ').collect::<Vec<_>>()[..]
    else {
        panic!("other words than six in {line:?}");
    };
    let address = |text: &str, port: &str| {
        let ip: IpAddr = text.parse().expect("an address");
        assert_eq!(family, if ip.is_ipv4() { "TCP4" } else { "TCP6" });
        let number: u16 = port.parse().expect("a port");
        assert_eq!(port, number.to_string(), "a port is written in one way");
        Some(SocketAddr::new(ip.to_canonical(), number))
    };
    Announced { source: address(source, source_port), destination: address(destination, destination_port) }
}

fn said_by_binary(header: &[u8]) -> Announced {
    assert_eq!(&header[..12], SIGNATURE);
    assert_eq!(header.len(), 16 + (usize::from(header[14]) << 8) + usize::from(header[15]));
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("4 or 16 bytes")).to_canonical(),
    };
    let len = match (header[12], header[13]) {
        (0x21, 0x11 | 0x12) => 4,
        (0x21, 0x21 | 0x22) => 16,
        _ => return Announced::default(),
    };
    let addresses = &header[16..];
    let ports = &addresses[2 * len..];
    let port = |bytes: &[u8]| u16::from(bytes[0]) << 8 | u16::from(bytes[1]);
    Announced {
        source: Some(SocketAddr::new(ip(&addresses[..len]), port(ports))),
        destination: Some(SocketAddr::new(ip(&addresses[len..2 * len]), port(&ports[2..]))),
    }
}

/// A header as a proxy writes it, and what it means.
fn good_header(dice: &mut Dice, versions: ProxyVersions) -> (Vec<u8>, Announced) {
    let is_v4 = dice.hits(500);
    let mut endpoint = || {
        let bits = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
        let ip = if is_v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
        SocketAddr::new(ip, dice.below(0x10000) as u16)
    };
    let (source, destination) = (endpoint(), endpoint());
    let canonical = |end: SocketAddr| Some(SocketAddr::new(end.ip().to_canonical(), end.port()));
    let announced = Announced { source: canonical(source), destination: canonical(destination) };
    if versions == ProxyVersions::V1 || versions == ProxyVersions::Any && dice.hits(500) {
        let family = if is_v4 { "TCP4" } else { "TCP6" };
        let (from, to) = ((source.ip(), source.port()), (destination.ip(), destination.port()));
        let line = format!("PROXY {family} {} {} {} {}\r\n", from.0, to.0, from.1, to.1);
        return (line.into_bytes(), announced);
    }
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut rest = [bytes(source.ip()), bytes(destination.ip())].concat();
    rest.extend(source.port().to_be_bytes());
    rest.extend(destination.port().to_be_bytes());
    // Behind the addresses comes what is skipped.
    rest.extend(vec![b'P'; dice.unevenly_up_to(BINARY_BYTES_MAX - 16 - rest.len())]);
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, if is_v4 { 0x11 } else { 0x21 }]);
    header.extend((rest.len() as u16).to_be_bytes());
    (([header, rest]).concat(), announced)
}

// ------------------------------------------------------------- headers that name the client

fn check_forwarded(input: &[u8], headers: ForwardedHeaders) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (trusted_text, left) = text.split_once('\n').unwrap_or((DEFAULT_TRUSTED, text));
    if left.matches('\n').count() > LINES_MAX {
        return;
    }
    let trusted = check_trusted(trusted_text).unwrap_or_default();
    let (name, prefix) = match headers {
        ForwardedHeaders::Forwarded => ("Forwarded", "for="),
        _ => ("X-Forwarded-For", ""),
    };
    let lines: String = left.split('\n').map(|line| format!("{name}: {line}\r\n")).collect();
    let Some(request) = request(&lines) else { return };
    let client = forwarded::client(&request, headers, &trusted);
    assert_eq!(forwarded::client(&request, ForwardedHeaders::Off, &trusted), None);
    // The nearest proxy adds whom it saw, behind a comma or on a line of its own.
    for seen in [SEEN_V4, SEEN_V6] {
        let written = match seen {
            IpAddr::V6(_) if !prefix.is_empty() => format!("{prefix}\"[{seen}]\""),
            _ => format!("{prefix}{seen}"),
        };
        let behind_comma = format!("{}, {written}\r\n", lines.strip_suffix("\r\n").expect("it is a line"));
        let own_line = format!("{lines}{name}: {written}\r\n");
        for lines in [behind_comma, own_line] {
            let request = self::request(&lines).expect("as good as it was before");
            let found = forwarded::client(&request, headers, &trusted);
            let seen = SocketAddr::new(seen, 0);
            let expected = if trusted.contains(seen.ip()) { client.unwrap_or(seen) } else { seen };
            // Only so many are looked through.
            let hops_max = left.matches([',', '\n']).count() + 2;
            if !trusted.contains(seen.ip()) || hops_max <= HOPS_MAX {
                assert_eq!(found, Some(expected), "{lines}");
            }
        }
    }
}

/// A request with these lines and no others.
fn request(lines: &str) -> Option<Request> {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    if lines.replace("\r\n", "").contains('\r') {
        return None;
    }
    // With room for what is added.
    let read = RequestReader::default().receive(head.as_bytes(), 64 * 1024);
    let (request, taken) = read.ok()??;
    (taken == head.len()).then_some(request)
}

// --------------------------------------------------------------------------- whom to believe

fn check_trusted(text: &str) -> Option<Trusted> {
    let trusted: Trusted = text.parse().inspect_err(|error: &String| assert!(!error.is_empty())).ok()?;
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    assert_eq!(trusted.contains_unix(), parts().any(|part| part == "unix"));
    assert_eq!(trusted.is_empty(), parts().next().is_none());
    let networks: Vec<(Ipv6Addr, u32)> = parts().filter(|&part| part != "unix").map(network).collect();
    let mut dice = Dice::new(splits::hash(text.as_bytes()));
    let near = |(address, _): &(Ipv6Addr, u32)| Ipv6Addr::from(address.to_bits() ^ 1 << dice.below(128));
    let near: Vec<Ipv6Addr> = networks.iter().map(near).collect();
    let named = networks.iter().map(|(address, _)| *address);
    let others = [Ipv4Addr::LOCALHOST.to_ipv6_mapped(), Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED];
    for ip in named.chain(near).chain(others) {
        let is_v4 = ip.to_ipv4_mapped().is_some();
        let is_in = |&(address, prefix): &(Ipv6Addr, u32)| {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            // A network of IPv6 wider than all of IPv4 has nobody of IPv4 in it.
            (!is_v4 || prefix >= 96) && (address.to_bits() ^ ip.to_bits()) & mask == 0
        };
        let expected = networks.iter().any(is_in);
        assert_eq!(trusted.contains(IpAddr::V6(ip)), expected, "{ip} in {text}");
        assert_eq!(trusted.contains(IpAddr::V6(ip).to_canonical()), expected, "{ip} in {text}");
    }
    Some(trusted)
}

/// As one of IPv6.
fn network(part: &str) -> (Ipv6Addr, u32) {
    let (address, prefix) = part.split_once('/').unwrap_or((part, ""));
    let prefix: Option<u32> = prefix.parse().ok();
    match address.parse().expect("it was parsed before") {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), 96 + prefix.unwrap_or(32)),
        IpAddr::V6(address) => (address, prefix.unwrap_or(128)),
    }
}

const LINE_BYTES_MAX: usize = 107;
const BINARY_BYTES_MAX: usize = 16 + 16 * 1024;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const DEFAULT_TRUSTED: &str = "10.0.0.0/8, 192.168.1.1, ::1, fd00::/8";
const SEEN_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SEEN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1));
const HOPS_MAX: usize = 32;
/// A request may have more.
const LINES_MAX: usize = 50;
