//! Requests. An input is what a client sends first; behind the head may be more.
//!
//! However it is cut, it is the same request or the same refusal. Every answer to it is well
//! formed, and nothing of the request can start a line of its own there.
#![no_main]

use fullduplex::driver::sim::Dice;
use fullduplex::protocol::deflate::{DeflateRules, Mode};
use fullduplex::protocol::handshake::{
    OWN_HEADERS, Offer, Origins, Rules, choose_protocol, negotiate, offers_protocol, response_head,
};
use fullduplex::protocol::http::{self, Refusal, Request, RequestReader, check_header_lines};
use fullduplex::protocol::{Dialect, Versions};
use fullduplex_fuzz::response::Response;
use fullduplex_fuzz::splits;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let rules = rules(bytes);
    let whole = read(bytes, &[], &rules);
    for way in splits::ways(bytes) {
        let cut = read(bytes, &way, &rules);
        assert_eq!(summary(&cut), summary(&whole), "cut {way:?}");
    }
    match &whole {
        Err(refusal) => check_refusal(*refusal, &rules),
        Ok(Some((request, taken))) => {
            check_request(request, &bytes[..*taken]);
            match negotiate(request, &rules) {
                Ok(offer) => check_acceptance(request, offer, &rules),
                Err(refusal) => check_refusal(refusal, &rules),
            }
        }
        Ok(None) => assert!(bytes.len() <= rules.head_bytes_max, "a head must end somewhere"),
    }
    check_lines_of_the_embedder(bytes);
});

type Read = Result<Option<(Request, usize)>, Refusal>;

fn read(bytes: &[u8], way: &[usize], rules: &Rules) -> Read {
    let mut reader = RequestReader::default();
    let mut taken = 0;
    for piece in splits::pieces(bytes, way) {
        if let Some((request, len)) = reader.receive(piece, rules.head_bytes_max)? {
            return Ok(Some((request, taken + len)));
        }
        taken += piece.len();
    }
    Ok(None)
}

/// Everything that can be told of it.
fn summary(read: &Read) -> String {
    match read {
        Ok(Some((request, taken))) => {
            let lines = String::from_utf8_lossy(&request.header_lines()).into_owned();
            format!("{taken} {request:?} {} {:?} {lines}", request.path(), request.query())
        }
        other => format!("{:?}", other.as_ref().map(|_| ())),
    }
}

fn check_request(request: &Request, head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    let mut lines = [httparse::EMPTY_HEADER; 100];
    let mut other = httparse::Request::new(&mut lines);
    assert_eq!(other.parse(head), Ok(httparse::Status::Complete(head.len())));
    assert_eq!(other.method.map(str::as_bytes), Some(request.method()));
    assert_eq!(other.path.map(str::as_bytes), Some(request.target()));
    let hosts = other.headers.iter().filter(|line| line.name.eq_ignore_ascii_case("host"));
    let hosts = hosts.count();
    assert!(hosts == 1 || hosts == 0 && request.is_http_1_0(), "who asks for two hosts asks for neither");
    assert!(request.path().starts_with('/'), "{:?}", request.path());
    assert!(!request.path().contains('?'));
    for name in [":method", ":path", ":query", ":version"] {
        assert!(request.get(name).is_some(), "{name}");
    }
    for line in other.headers.iter() {
        let value = request.get(line.name).expect("a line that is there is found");
        let is_empty = line.value.is_empty();
        assert!(is_empty || value.windows(line.value.len()).any(|part| part == line.value), "{}", line.name);
        assert!(request.header(line.name).is_some());
    }
    // Whatever is asked for: an answer, and no panic.
    for name in ["?", "?a", "?token", ";", ";a", ";session", "host", "", "/x"] {
        let _ = request.get(name);
    }
}

fn check_refusal(refusal: Refusal, rules: &Rules) {
    let bytes = refusal.response(&rules.versions.header(), true).expect("there is memory");
    let response = Response::read(&bytes).expect("a refusal is whole");
    assert_eq!(response.status, refusal.status());
    assert!((400..600).contains(&response.status), "{refusal:?}");
    assert_eq!(bytes.len(), response.head_len + response.body_len(), "{refusal:?}");
    let head_only = refusal.response(&rules.versions.header(), false).expect("there is memory");
    assert_eq!(head_only, bytes[..response.head_len]);
    let connection = response.header("connection").expect("what follows is named");
    assert!(connection.ends_with(b"close"), "{refusal:?}");
}

fn check_acceptance(request: &Request, offer: Offer, rules: &Rules) {
    assert!(rules.versions.contains(offer.dialect) && !request.is_http_1_0());
    assert_eq!(offer.keys.is_some(), offer.dialect == Dialect::Hixie76);
    let protocol = choose_protocol(request, offer.dialect, rules);
    if let Some(protocol) = &protocol {
        assert!(offers_protocol(request, offer.dialect, protocol), "{protocol:?} was not asked for");
    }
    let protocol = protocol.filter(|name| !name.is_empty());
    for (own, secure) in [("", false), ("X-Own: 1\r\n", true)] {
        let bytes = response_head(request, &offer, protocol.as_deref(), own, secure);
        let bytes = bytes.expect("there is memory");
        let response = Response::read(&bytes).expect("an acceptance is whole");
        assert_eq!((response.status, response.head_len), (101, bytes.len()));
        assert_eq!(response.header("connection"), Some(&b"Upgrade"[..]));
        assert!(response.header("upgrade").is_some_and(|name| name.eq_ignore_ascii_case(b"websocket")));
        assert_eq!(response.header("x-own").is_some(), !own.is_empty());
        let prefix = if offer.dialect == Dialect::Hixie75 { "" } else { "sec-" };
        let answered = response.header(&format!("{prefix}websocket-protocol"));
        assert_eq!(answered, protocol.as_ref().map(|name| name.as_bytes()), "the protocol");
        match offer.dialect {
            Dialect::Hixie76 | Dialect::Hixie75 => {
                let location = response.header(&format!("{prefix}websocket-location")).expect("it has one");
                assert!(location.starts_with(if secure { b"wss://" } else { b"ws://" }));
            }
            _ => {
                // 20 bytes in base64.
                assert_eq!(response.header("sec-websocket-accept").map(<[u8]>::len), Some(28));
                let agreed = response.header("sec-websocket-extensions");
                assert_eq!(
                    agreed.map(<[u8]>::to_vec),
                    offer.deflate.map(|deflate| deflate.answer().into_bytes())
                );
            }
        }
    }
}

/// Header lines of the embedder that pass the check are those lines in the answer and no more.
fn check_lines_of_the_embedder(bytes: &[u8]) {
    let Ok(lines) = std::str::from_utf8(bytes) else { return };
    if check_header_lines(lines, &OWN_HEADERS).is_err() {
        return;
    }
    let head = http::response_head(200, lines, "close", 4).expect("there is memory");
    let response = Response::read(&head).expect("it is whole");
    assert_eq!(response.head_len, head.len());
    assert_eq!(response.headers.len(), lines.matches("\r\n").count() + 2);
    assert_eq!(response.body_len(), 4);
}

/// Rules that differ from input to input.
fn rules(bytes: &[u8]) -> Rules {
    let mut dice = Dice::new(splits::hash(bytes));
    let all = Versions::ALL.into_iter();
    let versions = if dice.hits(800) {
        all.fold(Versions::NONE, Versions::with)
    } else {
        all.filter(|_| dice.hits(500)).fold(Versions::NONE, Versions::with)
    };
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
    Rules {
        versions,
        protocols: if dice.hits(500) { words(&["chat", "sample"]) } else { Vec::new() },
        origins: match dice.below(3) {
            0 => Origins::Listed(words(&["https://example.com", "*.example.org", "null"])),
            _ => Origins::Any,
        },
        head_bytes_max: *dice.pick(&[16 * 1024, 16 * 1024, 200]),
        deflate: DeflateRules {
            mode: *dice.pick(&[Mode::Off, Mode::Shared, Mode::Dedicated]),
            window_bits: 9 + dice.below(7) as u8,
            ..DeflateRules::OFF
        },
    }
}
