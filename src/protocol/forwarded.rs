//! The client's address as proxies tell it inside the request: `X-Forwarded-For`, or
//! `Forwarded` (RFC 7239).
//!
//! Each proxy adds the address it saw at the right end, so the right end is what the trusted
//! ones wrote and everything left of it may be invented: it is read from the right, quotes
//! too, and nothing further left can change what was read.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::http::{Request, is_token_byte};
use super::trusted::Trusted;

/// Which header tells the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardedHeaders {
    Off,
    XForwardedFor,
    Forwarded,
}

/// The nearest address that is not a trusted proxy's, or the farthest of trusted ones; with
/// port 0 if none is told. What is no address ends the way there: beyond `unknown` nobody
/// trusted has vouched for anything. `None` leaves the peer of the connection, who is for the
/// caller to trust, or not, before asking.
pub fn client(request: &Request, headers: ForwardedHeaders, trusted: &Trusted) -> Option<SocketAddr> {
    match headers {
        ForwardedHeaders::Off => None,
        ForwardedHeaders::XForwardedFor => nearest(request.list("x-forwarded-for").rev().map(node), trusted),
        ForwardedHeaders::Forwarded => {
            let lines = request.indexes("forwarded").rev().map(|index| request.value(index));
            let elements = lines.flat_map(|line| Elements { rest: Some(line) });
            nearest(elements.map(|element| node(&for_parameter(element)?)), trusted)
        }
    }
}

fn nearest(hops: impl Iterator<Item = Option<SocketAddr>>, trusted: &Trusted) -> Option<SocketAddr> {
    let mut nearest = None;
    for hop in hops.take(HOPS_MAX) {
        let Some(address) = hop else { break };
        nearest = Some(address);
        if !trusted.contains(address.ip()) {
            break;
        }
    }
    nearest
}

/// `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80`, and what proxies write though they should
/// not: `2001:db8::1`.
fn node(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let (ip, port_text) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, after) = bracketed.split_once(']')?;
        let port_text = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
        (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port_text)
    } else if let Ok(ip) = text.parse::<IpAddr>() {
        (ip, None)
    } else {
        let (address, port_text) = text.split_once(':')?;
        (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), Some(port_text))
    };
    let port = match port_text {
        Some(port_text) => port(port_text)?,
        None => 0,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// "node-port = port / obfport": a hidden one counts as not told.
fn port(text: &str) -> Option<u16> {
    if let Some(hidden) = text.strip_prefix('_') {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || byte == b'-';
        return (!hidden.is_empty() && hidden.bytes().all(is_good)).then_some(0);
    }
    let is_number = text.len() <= "65535".len() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The elements of a `Forwarded` line from the right, without the empty ones.
struct Elements<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let line = self.rest.take()?;
            let start = last_element(line);
            self.rest = start.checked_sub(1).map(|comma| &line[..comma]);
            let element = line[start..].trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

/// Where the last element begins: after the last comma that stands in no quotes. Read from the
/// right, a quote that opens nothing swallows what is left of it, never the trusted end.
fn last_element(line: &[u8]) -> usize {
    let mut is_quoted = false;
    for (index, &byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' if is_quoted => {
                let backslashes = line[..index].iter().rev().take_while(|&&byte| byte == b'\\').count();
                is_quoted = backslashes % 2 == 1;
            }
            b'"' => is_quoted = true,
            b',' if !is_quoted => return index + 1,
            _ => {}
        }
    }
    0
}

/// The value of `for` in `for=192.0.2.1;by="[::1]";proto=https`, if the whole element is good.
/// "Each parameter MUST NOT occur more than once per field-value."
fn for_parameter(element: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut found = None;
    let mut rest = element;
    loop {
        // "[ forwarded-pair ] *( ";" [ forwarded-pair ] )": pairs may be missing
        while let Some((b' ' | b'\t' | b';', after)) = rest.split_first() {
            rest = after;
        }
        if rest.is_empty() {
            return found;
        }
        let equals = memchr::memchr(b'=', rest)?;
        let name = &rest[..equals];
        let (value, after) = value(&rest[equals + 1..])?;
        if name.is_empty() || !name.iter().copied().all(is_token_byte) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
        rest = after.trim_ascii_start();
        if !rest.is_empty() && rest[0] != b';' {
            return None;
        }
    }
}

/// A token or quoted string, and what follows it. An address with colons may come without
/// quotes, which it should not.
fn value(bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        let end = bytes.iter().position(|byte| b" \t;\"".contains(byte)).unwrap_or(bytes.len());
        return Some((Cow::Borrowed(&bytes[..end]), &bytes[end..]));
    };
    let mut text = Vec::new();
    let mut rest = quoted.iter();
    loop {
        match rest.next()? {
            b'"' => return Some((Cow::Owned(text), rest.as_slice())),
            b'\\' => text.push(*rest.next()?),
            &byte => text.push(byte),
        }
    }
}

/// Most proxies in a row that are looked through; no real chain has as many.
const HOPS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::ForwardedHeaders::{Forwarded, Off, XForwardedFor};
    use super::*;
    use crate::protocol::http::RequestReader;

    /// The client, as text, that these header lines tell when 10.0.0.0/8 and fd00::/8 are trusted.
    fn told(headers: ForwardedHeaders, lines: &[&str]) -> Option<String> {
        let name = if headers == Forwarded { "Forwarded" } else { "X-Forwarded-For" };
        let lines: String = lines.iter().map(|line| format!("{name}: {line}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let (request, _) =
            RequestReader::default().receive(head.as_bytes(), 1 << 20).unwrap().expect("the head is whole");
        let trusted = "10.0.0.0/8, fd00::/8".parse().unwrap();
        client(&request, headers, &trusted).map(|address| match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        })
    }

    fn check(headers: ForwardedHeaders, cases: &[(&[&str], Option<&str>)]) {
        for (lines, expected) in cases {
            assert_eq!(told(headers, lines).as_deref(), *expected, "{lines:?}");
        }
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_no_trusted_proxys() {
        check(
            XForwardedFor,
            &[
                (&[], None),
                (&[""], None),
                (&["192.0.2.1"], Some("192.0.2.1")),
                (&["192.0.2.1, 10.0.0.1, 10.0.0.2"], Some("192.0.2.1")),
                // whatever the client itself has sent stands left of it
                (&["198.51.100.7, 192.0.2.1,10.0.0.1"], Some("192.0.2.1")),
                (&["nonsense, \", 192.0.2.1"], Some("192.0.2.1")),
                (&["198.51.100.7", "192.0.2.1, 10.0.0.1", "10.0.0.2"], Some("192.0.2.1")),
                (&["192.0.2.1,, ,10.0.0.1,"], Some("192.0.2.1")),
            ],
        );
    }

    #[test]
    fn among_trusted_ones_alone_the_farthest_is_the_client() {
        check(XForwardedFor, &[(&["10.0.0.3, 10.0.0.2", "10.0.0.1"], Some("10.0.0.3"))]);
        check(Forwarded, &[(&["for=10.0.0.3, for=10.0.0.2", "for=10.0.0.1"], Some("10.0.0.3"))]);
    }

    #[test]
    fn what_is_no_address_ends_the_way_to_the_client() {
        check(
            XForwardedFor,
            &[
                (&["unknown"], None),
                (&["192.0.2.1, unknown"], None),
                (&["192.0.2.1, unknown, 10.0.0.1"], Some("10.0.0.1")),
                (&["192.0.2.1, _hidden, 10.0.0.2, 10.0.0.1"], Some("10.0.0.2")),
                (&["192.0.2.1, 10.0.0", "10.0.0.1"], Some("10.0.0.1")),
                (&["192.0.2.1 10.0.0.1"], None),
                (&["192.0.2.1:"], None),
                (&["192.0.2.1:x"], None),
                (&["192.0.2.1:_"], None),
                (&["192.0.2.1:_p+1"], None),
                (&["192.0.2.1:+80"], None),
                (&["192.0.2.1:65536"], None),
                (&["192.0.2.1:000080"], None),
                (&["192.0.2.256"], None),
                (&["[192.0.2.1]"], None),
                (&["[::1"], None),
                (&["[::1]80"], None),
                (&["[::1]:"], None),
                (&["fe80::1%eth0"], None),
                (&["\u{661}.2.3.4"], None),
            ],
        );
        check(
            Forwarded,
            &[
                (&["for=192.0.2.1, for=unknown, for=10.0.0.1"], Some("10.0.0.1")),
                (&["for=192.0.2.1, for=\"_gazonk\", for=10.0.0.1"], Some("10.0.0.1")),
                (&["for=192.0.2.1, proto=https, for=10.0.0.1"], Some("10.0.0.1")),
                (&["for=192.0.2.1;for=192.0.2.2"], None),
                (&["192.0.2.1"], None),
                (&["for"], None),
                (&["for="], None),
                (&["=192.0.2.1"], None),
                (&["for =192.0.2.1"], None),
                (&["for=192.0.2.1 by=x"], None),
                (&["for=192.0.2.1\"\""], None),
                (&["for=\"192.0.2.1\"0"], None),
                (&["for=\"192.0.2.1"], None),
                (&["for=\"192.0.2.1\\"], None),
                (&["for=\"192.0.2.1\\\""], None),
            ],
        );
    }

    #[test]
    fn an_address_may_have_a_port_and_brackets() {
        check(
            XForwardedFor,
            &[
                (&["192.0.2.1:8080, 10.0.0.1:80"], Some("192.0.2.1:8080")),
                (&["2001:db8::1, fd00::1, [fd00::2], [fd00::3]:80"], Some("2001:db8::1")),
                (&["[2001:db8::1]:8080"], Some("[2001:db8::1]:8080")),
                (&["[2001:db8::1]"], Some("2001:db8::1")),
                (&["2001:db8::1:8080"], Some("2001:db8::1:8080")),
                (&["192.0.2.1:_port"], Some("192.0.2.1")),
                (&["192.0.2.1:_p-1.x_y"], Some("192.0.2.1")),
            ],
        );
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_trusted_as_such() {
        check(XForwardedFor, &[(&["::ffff:192.0.2.1, [::ffff:10.0.0.1]:80"], Some("192.0.2.1"))]);
        check(Forwarded, &[(&["for=\"[::ffff:192.0.2.1]\", for=\"[::ffff:a00:1]\""], Some("192.0.2.1"))]);
    }

    #[test]
    fn forwarded_is_read_in_every_form_of_rfc_7239() {
        check(
            Forwarded,
            &[
                (&["for=\"_gazonk\""], None),
                (&["For=\"[2001:db8:cafe::17]:4711\""], Some("[2001:db8:cafe::17]:4711")),
                (&["for=192.0.2.60;proto=http;by=203.0.113.43"], Some("192.0.2.60")),
                (&["for=192.0.2.43, for=10.51.100.17"], Some("192.0.2.43")),
                (&["for=192.0.2.43", "FOR=10.51.100.17;by=_x"], Some("192.0.2.43")),
                (&["proto=https; host=\"a;b, for=1\\\"\" ; for=192.0.2.1;"], Some("192.0.2.1")),
                (&["for=\"192.0\\.2.1:_x\";;by=unknown"], Some("192.0.2.1")),
                (&["by=\"a,b\\\\\";for=192.0.2.1,for=10.0.0.1;by=\"\\\\\\\",\""], Some("192.0.2.1")),
                // not by the book, but sent
                (&["for=192.0.2.1:80"], Some("192.0.2.1:80")),
                (&["for=[2001:db8::1]:80, for=fd00::1"], Some("[2001:db8::1]:80")),
            ],
        );
    }

    #[test]
    fn quotes_that_a_client_leaves_open_do_not_hide_what_the_proxy_adds() {
        let proxy_adds = ["for=192.0.2.1", "for=\"192.0.2.1:0\";by=\"_x\"", "host=\"\";for=\"192.0.2.1\""];
        for client_sends in
            ["for=9.9.9.9;x=\"", "\"", "for=\"9.9.9.9", "for=9.9.9.9, x=\"\\", "for=9.9.9.9;x=\"\\\\\""]
        {
            for added in proxy_adds {
                let joined = format!("{client_sends}, {added}");
                assert_eq!(told(Forwarded, &[&joined]).as_deref(), Some("192.0.2.1"), "{joined}");
                assert_eq!(told(Forwarded, &[client_sends, added]).as_deref(), Some("192.0.2.1"));
            }
        }
    }

    #[test]
    fn only_the_chosen_header_counts() {
        assert_eq!(told(Off, &["192.0.2.1"]), None);
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=192.0.2.1\r\n\r\n";
        let (request, _) = RequestReader::default().receive(head, 1 << 20).unwrap().unwrap();
        assert_eq!(client(&request, XForwardedFor, &Trusted::default()), None);
        assert!(client(&request, Forwarded, &Trusted::default()).is_some());
    }

    #[test]
    fn a_chain_of_proxies_is_followed_only_so_far() {
        let chain = |proxies: usize| {
            let addresses: Vec<_> = (1..=proxies).rev().map(|hop| format!("10.0.0.{hop}")).collect();
            format!("192.0.2.1, {}", addresses.join(","))
        };
        assert_eq!(told(XForwardedFor, &[&chain(HOPS_MAX - 1)]).as_deref(), Some("192.0.2.1"));
        assert_eq!(told(XForwardedFor, &[&chain(HOPS_MAX)]).as_deref(), Some("10.0.0.32"));
    }
}
