//! From a request to a conversation: which dialect, which subprotocol, and may this origin?

use std::collections::TryReserveError;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest, Sha1};

use super::deflate::{Agreement, DeflateRules};
use super::hixie;
use super::http::{Refusal, Request};
use super::{Dialect, Versions};

/// What the server's options say about handshakes.
#[derive(Clone, Debug)]
pub struct Rules {
    pub versions: Versions,
    /// In the server's order of preference.
    pub protocols: Vec<String>,
    pub origins: Origins,
    pub head_bytes_max: usize,
    pub deflate: DeflateRules,
}

/// What a handshake agreed on so far, before the embedder had its say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    pub dialect: Dialect,
    pub keys: Option<hixie::Keys>,
    /// Compression, as the client has offered it.
    pub deflate: Option<Agreement>,
}

/// Finds the dialect and checks everything the dialect demands of the request.
pub fn negotiate(request: &Request, rules: &Rules) -> Result<Offer, Refusal> {
    if !request.is_upgrade() {
        return Err(Refusal::NotUpgrade);
    }
    // "The HTTP version MUST be at least 1.1." (RFC 6455, 4.1)
    if request.is_http_1_0() {
        return Err(Refusal::HttpVersion);
    }
    if request.method() != b"GET" {
        return Err(Refusal::NotGet);
    }
    // Proxies and old libraries send `keep-alive, Upgrade`; any place in the list will do.
    if !request.has_token("connection", "upgrade") {
        return Err(Refusal::ConnectionHeader);
    }
    let offer = match request.sole("sec-websocket-version")? {
        Some(index) => hybi(request, request.value(index), rules)?,
        None => old(request)?,
    };
    if !rules.versions.contains(offer.dialect) {
        return Err(Refusal::UnknownVersion);
    }
    check_origin(request, offer.dialect, rules)?;
    Ok(offer)
}

fn hybi(request: &Request, version: &[u8], rules: &Rules) -> Result<Offer, Refusal> {
    let dialect = match version {
        b"13" => Dialect::Rfc6455,
        b"8" => Dialect::HyBi08,
        b"7" => Dialect::HyBi07,
        _ => return Err(Refusal::UnknownVersion),
    };
    let key = request.sole("sec-websocket-key")?.map(|index| request.value(index)).ok_or(Refusal::Key)?;
    let nonce = NONCE_BASE64.decode(key).map_err(|_| Refusal::Key)?;
    // "a base64-encoded … value that, when decoded, is 16 bytes in length" (RFC 6455, 4.2.1).
    // Below version 13 a client in wide use sent 15.
    if nonce.is_empty() || (dialect == Dialect::Rfc6455 && nonce.len() != 16) {
        return Err(Refusal::Key);
    }
    refuse_body(request)?;
    // The drafts have other extensions.
    let deflate = match dialect {
        Dialect::Rfc6455 => Agreement::choose(request.values("sec-websocket-extensions"), &rules.deflate),
        _ => None,
    };
    Ok(Offer { dialect, keys: None, deflate })
}

/// A handshake without a version: by its keys Hixie-76, without any Hixie-75.
fn old(request: &Request) -> Result<Offer, Refusal> {
    let has = |name| request.header(name).is_some();
    if has("sec-websocket-key") {
        // A draft between 76 and 7 that no browser shipped, or a broken 13.
        return Err(Refusal::UnknownVersion);
    }
    if has("sec-websocket-key1") || has("sec-websocket-key2") {
        // `Content-Length: 8` names the same eight bytes, not a body beside them.
        if request.header("content-length").is_some_and(|len| len != b"8") {
            return Err(Refusal::Malformed("the body of a draft-76 handshake has 8 bytes"));
        }
        return Ok(Offer { dialect: Dialect::Hixie76, keys: Some(hixie::Keys::of(request)?), deflate: None });
    }
    refuse_body(request)?;
    Ok(Offer { dialect: Dialect::Hixie75, keys: None, deflate: None })
}

/// A proxy would read a body where we read frames.
fn refuse_body(request: &Request) -> Result<(), Refusal> {
    match request.header("content-length") {
        Some(len) if len.iter().any(|&digit| digit != b'0') => {
            Err(Refusal::Malformed("a handshake has no body"))
        }
        _ => Ok(()),
    }
}

/// HyBi-07 and -08 name the origin in a header of their own; whichever is there must pass.
fn check_origin(request: &Request, dialect: Dialect, rules: &Rules) -> Result<(), Refusal> {
    let names: &[&'static str] = match dialect {
        Dialect::HyBi08 | Dialect::HyBi07 => &["origin", "sec-websocket-origin"],
        _ => &["origin"],
    };
    for name in names {
        let origin = request.sole(name)?.map(|index| request.value(index));
        if !rules.origins.allow(origin) {
            return Err(Refusal::Origin);
        }
    }
    Ok(())
}

/// The subprotocol for this request: the first of the server's that the client offers.
pub fn choose_protocol(request: &Request, dialect: Dialect, rules: &Rules) -> Option<String> {
    let ours = rules.protocols.iter().find(|protocol| offers_protocol(request, dialect, protocol));
    match dialect {
        // WebKit fails the connection unless the one protocol it asked for comes back, so a
        // server without a list of its own agrees to any.
        Dialect::Hixie75 | Dialect::Hixie76 if rules.protocols.is_empty() => {
            let asked = request.header(protocol_header(dialect)).filter(|asked| !asked.is_empty())?;
            Some(String::from_utf8(asked.to_vec()).ok()?)
        }
        _ => ours.cloned(),
    }
}

/// Did the client ask for this subprotocol? An answer with another one fails in browsers.
pub fn offers_protocol(request: &Request, dialect: Dialect, protocol: &str) -> bool {
    match dialect {
        // One name, not a list: it may hold commas and blanks.
        Dialect::Hixie75 | Dialect::Hixie76 => {
            request.header(protocol_header(dialect)) == Some(protocol.as_bytes())
        }
        _ => request.list(protocol_header(dialect)).any(|offered| offered == protocol.as_bytes()),
    }
}

fn protocol_header(dialect: Dialect) -> &'static str {
    if dialect == Dialect::Hixie75 { "websocket-protocol" } else { "sec-websocket-protocol" }
}

/// The head of the answer to this offer, that opens the conversation. `headers` are the embedder's lines,
/// already checked.
pub fn response_head(
    request: &Request,
    offer: &Offer,
    protocol: Option<&str>,
    headers: &str,
    secure: bool,
) -> Result<Vec<u8>, TryReserveError> {
    let mut head = match offer.dialect {
        dialect @ (Dialect::Hixie75 | Dialect::Hixie76) => {
            hixie::response_head(dialect, request, protocol.map(str::as_bytes), secure)
        }
        _ => {
            let key = request.header("sec-websocket-key").unwrap_or_default();
            let mut head = Vec::with_capacity(192);
            head.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            head.extend_from_slice(accept_value(key).as_bytes());
            head.extend_from_slice(b"\r\n");
            if let Some(protocol) = protocol {
                head.extend_from_slice(b"Sec-WebSocket-Protocol: ");
                head.extend_from_slice(protocol.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            if let Some(agreement) = offer.deflate {
                head.extend_from_slice(b"Sec-WebSocket-Extensions: ");
                head.extend_from_slice(agreement.answer().as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            head
        }
    };
    head.try_reserve_exact(headers.len() + 2)?;
    head.extend_from_slice(headers.as_bytes());
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// "concatenated with the string …, taking the SHA-1 hash of this …, and base64-encoding"
/// (RFC 6455, 4.2.2)
fn accept_value(key: &[u8]) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key);
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(sha1.finalize())
}

/// Sixteen bytes leave four bits of the last symbol over, and nobody says what they must be.
const NONCE_BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// Headers of the answer that only the server may write.
pub const OWN_HEADERS: [&str; 12] = [
    "Upgrade",
    "Connection",
    "Content-Length",
    "Transfer-Encoding",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Origin",
    "Sec-WebSocket-Location",
    "WebSocket-Origin",
    "WebSocket-Location",
    "WebSocket-Protocol",
];

/// Which pages may connect. Only browsers send an origin, and only for them it is a defence:
/// a request without one passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// `https://a.example`, `a.example` (any scheme and port), `*.a.example`, `null`.
    Listed(Vec<String>),
}

impl Origins {
    fn allow(&self, origin: Option<&[u8]>) -> bool {
        let (Self::Listed(patterns), Some(origin)) = (self, origin) else { return true };
        let Ok(origin) = std::str::from_utf8(origin) else { return false };
        let origin = origin.to_ascii_lowercase();
        let host = origin.split_once("://").map_or(&origin[..], |(_, host)| host);
        // What is no host must not end like one.
        if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)) {
            return false;
        }
        patterns.iter().any(|pattern| {
            let pattern = pattern.to_ascii_lowercase();
            let (scheme, host) = origin.split_once("://").unwrap_or(("", &origin));
            let wanted = match pattern.split_once("://") {
                Some((wanted_scheme, _)) if wanted_scheme != scheme => return false,
                Some((_, wanted)) => wanted,
                None => &pattern[..],
            };
            let has_scheme = pattern.contains("://");
            let has_port = without_port(wanted) != wanted;
            // Without a scheme in the pattern its port, too, is left open.
            let host = if has_scheme || has_port { host } else { without_port(host) };
            match wanted.strip_prefix("*.") {
                Some(domain) => {
                    let host = if has_port { host } else { without_port(host) };
                    host.strip_suffix(domain).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.'))
                }
                None => host == wanted,
            }
        })
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_key_of_the_rfc_gets_the_answer_of_the_rfc() {
        assert_eq!(accept_value(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn origins_are_compared_whole() {
        let origins = Origins::Listed(
            [
                "https://a.example",
                "*.b.example",
                "c.example",
                "https://d.example:8443",
                "e.example:81",
                "*.f.example:81",
                "[2001:db8::1]",
            ]
            .map(String::from)
            .to_vec(),
        );
        let allow = |origin: &str| origins.allow(Some(origin.as_bytes()));
        for allowed in [
            "https://a.example",
            "HTTPS://A.EXAMPLE",
            "https://x.b.example",
            "http://x.y.b.example:81",
            "http://c.example:8080",
            "https://d.example:8443",
            "http://e.example:81",
            "http://x.f.example:81",
            "http://[2001:db8::1]",
            "http://[2001:db8::1]:8080",
        ] {
            assert!(allow(allowed), "{allowed}");
        }
        for refused in [
            "http://a.example",
            "https://a.example:8443",
            "https://a.example.evil",
            "https://evil-a.example",
            "https://b.example",
            "https://evilb.example",
            "https://.b.example",
            "https://evil.example/.b.example",
            "https://evil.example#.b.example",
            "https://evil@x.b.example",
            "https://x.c.example",
            "https://d.example",
            "http://c.example:",
            "http://c.example:x",
            "http://e.example",
            "http://e.example:82",
            "http://x.f.example",
            "http://f.example:81",
            "http://[2001:db8::2]:8080",
            "null",
            "",
        ] {
            assert!(!allow(refused), "{refused}");
        }
        assert!(!origins.allow(Some(b"https://x.b.example\xff")), "no text");
        assert!(origins.allow(None), "not a browser");
        assert!(Origins::Any.allow(Some(b"null")));
    }
}
