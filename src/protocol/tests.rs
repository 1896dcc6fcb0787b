//! Whole conversations, as a peer on the wire has them with [`Protocol`].
//!
//! Nothing may depend on how TCP cuts the stream, so every conversation is held again and
//! again: in one piece, one byte at a time, cut at random, and with long frames read into lent
//! memory. The outcome, a failure too, must be the same each time.

use super::close::CloseCode;
use super::deflate::{Agreement, DeflateRules, Deflater, Mode, TAIL};
use super::handshake::Origins;
use super::*;

// --- RFC 6455, HyBi-08 and HyBi-07: the handshake -------------------------------------------

#[test]
fn the_example_request_of_the_rfc_gets_the_answer_of_the_rfc() {
    assert_eq!(
        answer(&request(Dialect::Rfc6455)),
        "HTTP/1.1 101 Switching Protocols\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn hybi_07_and_08_get_the_same_answer_as_version_13() {
    for dialect in [Dialect::HyBi08, Dialect::HyBi07] {
        assert_eq!(answer(&request(dialect)), answer(&request(Dialect::Rfc6455)), "{dialect:?}");
    }
}

#[test]
fn the_first_frames_may_lie_in_the_segment_of_the_request() {
    for dialect in HYBI {
        let conversation = [request(dialect).bytes(), wire(&[text("at once"), ping("?")])].concat();
        let seen = Server::new().hears(&conversation);
        assert_eq!(seen[0], Seen::Asked(dialect));
        assert_eq!(seen[2..], [said("at once"), Seen::Ping(b"?".to_vec())]);
    }
}

#[test]
fn version_13_demands_a_key_of_16_bytes_in_base64() {
    let rfc = request(Dialect::Rfc6455);
    for key in [
        "",
        "AAAA",
        KEY_OF_15_BYTES,
        "c2V2ZW50ZWVuIGJ5dGVzISE=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "not base64 at all!!!",
    ] {
        let line = format!("Sec-WebSocket-Key: {key}");
        assert_eq!(refusal(&rfc.with(&line)), Refusal::Key, "{key:?}");
    }
    assert_eq!(refusal(&rfc.without("Sec-WebSocket-Key")), Refusal::Key);
    let twice = rfc.and("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(refusal(&twice), Refusal::Repeated("sec-websocket-key"));
}

#[test]
fn below_version_13_a_key_of_15_bytes_will_do() {
    for dialect in [Dialect::HyBi08, Dialect::HyBi07] {
        let fifteen = request(dialect).with(&format!("Sec-WebSocket-Key: {KEY_OF_15_BYTES}"));
        assert!(answer(&fifteen).contains("\r\nSec-WebSocket-Accept: StiEbW2gmSyk1w61WM/1TJEd9VQ=\r\n"));
        assert_eq!(refusal(&request(dialect).with("Sec-WebSocket-Key: no base64")), Refusal::Key);
        assert_eq!(refusal(&request(dialect).without("Sec-WebSocket-Key")), Refusal::Key);
    }
}

#[test]
fn blanks_around_a_key_do_not_belong_to_it() {
    let spaced = request(Dialect::Rfc6455).with("Sec-WebSocket-Key: \t dGhlIHNhbXBsZSBub25jZQ==  ");
    assert_eq!(answer(&spaced), answer(&request(Dialect::Rfc6455)));
    let tight = request(Dialect::Rfc6455).with("Sec-WebSocket-Key:dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(answer(&tight), answer(&request(Dialect::Rfc6455)));
}

#[test]
fn connection_may_hold_upgrade_at_any_place_in_any_case_on_any_line() {
    for dialect in Versions::ALL {
        let good = request(dialect);
        for line in ["Connection: keep-alive, Upgrade", "connection: upgrade", "CONNECTION: UPGRADE ,,close"]
        {
            assert_eq!(answer(&good.with(line)), answer(&good), "{dialect:?}, {line}");
        }
        let two_lines = good.with("Connection: keep-alive").and("Connection: Upgrade");
        assert_eq!(answer(&two_lines), answer(&good));
        for line in ["Connection: keep-alive", "Connection: upgraded", "Connection: ", "Connection: Upgrade2"]
        {
            assert_eq!(refusal(&good.with(line)), Refusal::ConnectionHeader, "{dialect:?}, {line}");
        }
        assert_eq!(refusal(&good.without("Connection")), Refusal::ConnectionHeader);
    }
}

#[test]
fn upgrade_may_be_a_list_in_any_case() {
    for dialect in Versions::ALL {
        let good = request(dialect);
        for line in
            ["Upgrade: WebSocket", "upgrade: WEBSOCKET", "Upgrade: h2c, websocket", "Upgrade: websocket,x"]
        {
            assert_eq!(answer(&good.with(line)), answer(&good), "{dialect:?}, {line}");
        }
        for line in ["Upgrade: h2c", "Upgrade: websockets", "Upgrade: "] {
            assert_eq!(refusal(&good.with(line)), Refusal::NotUpgrade, "{dialect:?}, {line}");
        }
        assert_eq!(refusal(&good.without("Upgrade")), Refusal::NotUpgrade);
    }
}

#[test]
fn a_handshake_needs_one_host_which_may_lack_its_port() {
    for dialect in Versions::ALL {
        let good = request(dialect);
        assert_eq!(Server::new().hears(good.with("Host: localhost").bytes())[0], Seen::Asked(dialect));
        assert_eq!(refusal(&good.without("Host")), Refusal::Malformed("Host missing"));
        assert_eq!(refusal(&good.and("Host: other.example")), Refusal::Repeated("host"));
    }
}

#[test]
fn a_handshake_is_a_get_in_http_1_1() {
    for dialect in Versions::ALL {
        for method in ["POST", "HEAD", "OPTIONS", "PUT", "get"] {
            let line = format!("{method} /demo HTTP/1.1");
            assert_eq!(refusal(&request(dialect).begun_by(&line)), Refusal::NotGet, "{dialect:?}, {method}");
        }
        assert_eq!(refusal(&request(dialect).begun_by("GET /demo HTTP/1.0")), Refusal::HttpVersion);
    }
}

#[test]
fn a_version_nobody_shipped_is_unknown() {
    for version in
        ["", "0", "1", "4", "5", "6", "9", "10", "11", "12", "14", "130", "013", "+13", "13, 8", "x"]
    {
        let line = format!("Sec-WebSocket-Version: {version}");
        assert_eq!(refusal(&request(Dialect::Rfc6455).with(&line)), Refusal::UnknownVersion, "{version:?}");
    }
    let none = request(Dialect::Rfc6455).without("Sec-WebSocket-Version");
    assert_eq!(refusal(&none), Refusal::UnknownVersion, "a new key without a version");
    let twice = request(Dialect::Rfc6455).and("Sec-WebSocket-Version: 8");
    assert_eq!(refusal(&twice), Refusal::Repeated("sec-websocket-version"));
}

#[test]
fn each_version_can_be_switched_off_alone() {
    for off in Versions::ALL {
        let mut server = Server::new();
        server.rules.versions =
            Versions::ALL.into_iter().filter(|&dialect| dialect != off).fold(Versions::NONE, Versions::with);
        for dialect in Versions::ALL {
            let expected =
                if dialect == off { Seen::Refused(Refusal::UnknownVersion) } else { Seen::Asked(dialect) };
            assert_eq!(server.hears(request(dialect).bytes())[0], expected, "{off:?} is off");
        }
    }
}

#[test]
fn the_answer_to_an_unknown_version_names_the_known_ones_that_have_a_number() {
    let every = Versions::ALL.into_iter().fold(Versions::NONE, Versions::with);
    let only = Versions::NONE.with(Dialect::HyBi07).with(Dialect::Rfc6455).with(Dialect::Hixie76);
    for (versions, named) in [(every, "13, 8, 7"), (only, "13, 7")] {
        let answer =
            String::from_utf8(Refusal::UnknownVersion.response(&versions.header(), true).unwrap()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert!(answer.contains("\r\nUpgrade: websocket\r\n"), "{answer}");
        assert!(answer.contains(&format!("\r\nSec-WebSocket-Version: {named}\r\n")), "{answer}");
    }
}

#[test]
fn each_refusal_has_its_status_and_is_a_whole_answer() {
    for (refusal, status) in [
        (Refusal::Malformed("x"), 400),
        (Refusal::Repeated("host"), 400),
        (Refusal::ConnectionHeader, 400),
        (Refusal::Key, 400),
        (Refusal::HixieKey, 400),
        (Refusal::Origin, 403),
        (Refusal::NotGet, 405),
        (Refusal::UnknownVersion, 426),
        (Refusal::NotUpgrade, 426),
        (Refusal::HeadTooBig, 431),
        (Refusal::HttpVersion, 505),
    ] {
        let answer = String::from_utf8(refusal.response("13", true).unwrap()).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends with an empty line");
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{answer}");
        assert!(head.contains("close"), "{answer}");
    }
    let answer = String::from_utf8(Refusal::NotGet.response("13", true).unwrap()).unwrap();
    assert!(answer.contains("\r\nAllow: GET\r\n"), "{answer}");
}

#[test]
fn a_body_in_a_handshake_is_refused_but_an_empty_one_is_none() {
    // What one server takes for a body another takes for frames. Only draft 76 has one.
    for dialect in [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07, Dialect::Hixie75] {
        let empty = request(dialect).and("Content-Length: 0");
        assert_eq!(answer(&empty), answer(&request(dialect)), "{dialect:?}");
        let refusal = refusal(&request(dialect).and("Content-Length: 5"));
        assert_eq!(refusal.status(), 400, "{dialect:?}: {refusal:?}");
        assert!(matches!(refusal, Refusal::Malformed(_)), "{dialect:?}: {refusal:?}");
    }
}

#[test]
fn a_head_may_have_exactly_the_bytes_of_the_limit() {
    for dialect in Versions::ALL {
        let good = request(dialect).without_body();
        let mut server = Server::new();
        server.rules.head_bytes_max = good.bytes().len();
        assert_eq!(server.hears(good.bytes())[0], Seen::Asked(dialect));
        let followed = [good.bytes(), vec![0; 1000]].concat();
        assert_eq!(server.hears(followed)[0], Seen::Asked(dialect), "frames are no part of the head");
        server.rules.head_bytes_max -= 1;
        assert_eq!(server.hears(good.bytes()), [Seen::Refused(Refusal::HeadTooBig)]);
    }
}

#[test]
fn a_head_without_an_end_is_refused_at_the_first_byte_over_the_limit() {
    let mut server = Server::new();
    server.rules.head_bytes_max = 300;
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1000));
    let failed = server.fails_at(Protocol::new, endless.as_bytes());
    assert_eq!(failed, Some((300, Seen::Refused(Refusal::HeadTooBig))));
    let empty_lines = "\r\n".repeat(500);
    let failed = server.fails_at(Protocol::new, empty_lines.as_bytes());
    assert_eq!(failed, Some((300, Seen::Refused(Refusal::HeadTooBig))));
}

#[test]
fn bytes_that_are_no_request_are_refused_while_they_arrive() {
    let server = Server::new();
    for (bytes, at) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], 0),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 14),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rInjected: 1\r\n\r\n", 30),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n", 25),
        (b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n", 22),
    ] {
        let (index, failure) = server.fails_at(Protocol::new, bytes).expect("refused");
        assert_eq!(index, at, "{bytes:?}");
        assert!(matches!(failure, Seen::Refused(Refusal::Malformed(_))), "{failure:?}");
    }
}

#[test]
fn a_page_from_elsewhere_is_refused_in_every_dialect() {
    let mut server = Server::new();
    server.rules.origins = Origins::Listed(vec!["http://good.example".to_string()]);
    for dialect in Versions::ALL {
        let anonymous = request(dialect).without("Origin").without("Sec-WebSocket-Origin");
        assert_eq!(server.hears(anonymous.bytes())[0], Seen::Asked(dialect), "no browser");
        for (origin, expected) in [
            ("http://good.example", Seen::Asked(dialect)),
            ("http://evil.example", Seen::Refused(Refusal::Origin)),
            ("null", Seen::Refused(Refusal::Origin)),
        ] {
            let from = anonymous.and(&format!("Origin: {origin}"));
            assert_eq!(server.hears(from.bytes())[0], expected, "{dialect:?} from {origin}");
            let twice = from.and("Origin: http://good.example");
            assert_eq!(server.hears(twice.bytes())[0], Seen::Refused(Refusal::Repeated("origin")));
        }
    }
}

#[test]
fn hybi_07_and_08_name_the_origin_in_a_header_of_their_own() {
    let mut server = Server::new();
    server.rules.origins = Origins::Listed(vec!["http://good.example".to_string()]);
    let evil = "Sec-WebSocket-Origin: http://evil.example";
    for dialect in HYBI {
        let from = request(dialect).without("Origin").without("Sec-WebSocket-Origin").and(evil);
        // In version 13 this header means nothing: a page's origin stands in `Origin`.
        let expected = match dialect {
            Dialect::Rfc6455 => Seen::Asked(dialect),
            _ => Seen::Refused(Refusal::Origin),
        };
        assert_eq!(server.hears(from.bytes())[0], expected);
    }
}

#[test]
fn no_extension_is_answered_unless_it_is_switched_on() {
    for dialect in Versions::ALL {
        for offer in [
            "permessage-deflate; client_max_window_bits",
            "deflate-stream",
            "x-webkit-deflate-frame",
            "deflate-stream, x-webkit-deflate-frame, permessage-deflate",
        ] {
            let asking = request(dialect).and(&format!("Sec-WebSocket-Extensions: {offer}"));
            assert_eq!(answer(&asking), answer(&request(dialect)), "{dialect:?}, {offer}");
        }
    }
}

// --- permessage-deflate ---------------------------------------------------------------------

/// The examples of RFC 7692, 7.2.3: a payload that is "Hello".
const COMPRESSED_HELLO: &[u8] = &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

fn deflating(mode: Mode) -> Server {
    let mut server = Server::new();
    server.rules.deflate = DeflateRules { mode, window_bits: 15, ..DeflateRules::OFF };
    server
}

/// All that comes of these frames behind a handshake that agreed on compression.
fn hears_deflated(server: &Server, frames: &[Frame]) -> Vec<Seen> {
    let asking = request(Dialect::Rfc6455).and("Sec-WebSocket-Extensions: permessage-deflate");
    let mut seen = server.hears([asking.bytes(), wire(frames)].concat());
    assert!(matches!(&seen[1], Seen::Answered(answer) if answer.contains("permessage-deflate")));
    seen.split_off(2)
}

fn hears_in_both_modes(frames: &[Frame]) -> Vec<Seen> {
    let shared = hears_deflated(&deflating(Mode::Shared), frames);
    assert_eq!(hears_deflated(&deflating(Mode::Dedicated), frames), shared);
    shared
}

fn compressed(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0xC1, payload)
}

/// Compressed on its own.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut out = Buffer::default();
    Deflater::new(6, 15).unwrap().deflate(payload, true, &mut out).unwrap();
    out.as_slice().to_vec()
}

#[test]
fn compression_is_agreed_on_in_version_13_alone() {
    let server = deflating(Mode::Shared);
    for dialect in Versions::ALL {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
        let answer = server.answer(&request(dialect).and(offer));
        let expected = "permessage-deflate; client_no_context_takeover; client_max_window_bits=15";
        let expected = (dialect == Dialect::Rfc6455).then_some(expected);
        assert_eq!(value_in(&answer, "Sec-WebSocket-Extensions"), expected, "{dialect:?}");
        assert!(!server.answer(&request(dialect)).contains("Extensions"));
    }
}

#[test]
fn several_offers_on_several_lines_are_tried_in_their_order() {
    let asking = request(Dialect::Rfc6455)
        .and("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8, other")
        .and("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9; x")
        .and("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"10\"");
    let answer = deflating(Mode::Dedicated).answer(&asking);
    let expected = Some("permessage-deflate; server_max_window_bits=10");
    assert_eq!(value_in(&answer, "Sec-WebSocket-Extensions"), expected);
}

#[test]
fn the_examples_of_rfc_7692_say_hello() {
    let (start, end) = COMPRESSED_HELLO.split_at(3);
    for frames in [
        // 7.2.3.1: one block; in two fragments.
        &[compressed(COMPRESSED_HELLO)][..],
        &[compressed(start).not_final(), continuation(end)],
        // 7.2.3.3: a block without compression.
        &[compressed([0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48, 0x65, 0x6C, 0x6C, 0x6F, 0x00])],
        // 7.2.3.4: a final block.
        &[compressed([0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00])],
        // 7.2.3.5: two blocks.
        &[compressed([0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00])],
        // A final block and nothing behind it, and a final block between others.
        &[compressed([0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00])],
        &[compressed([&deflated(b"Hel")[..], &TAIL, &[0x03, 0x00], &deflated(b"lo")].concat())],
    ] {
        assert_eq!(hears_in_both_modes(frames), [said("Hello")]);
    }
}

#[test]
fn the_second_hello_may_refer_to_the_first_where_the_context_is_kept() {
    // 7.2.3.2
    let frames = [compressed(COMPRESSED_HELLO), compressed([0xF2, 0x00, 0x11, 0x00, 0x00])];
    let hello = [said("Hello"), said("Hello")];
    assert_eq!(hears_deflated(&deflating(Mode::Dedicated), &frames), hello);
    let expected = [said("Hello"), violated(Violation::BadDeflate)];
    assert_eq!(hears_deflated(&deflating(Mode::Shared), &frames), expected);
}

#[test]
fn an_empty_message_has_one_byte_or_none_and_the_next_one_is_not_poisoned() {
    // 7.2.3.6, and what some clients make of it.
    let frames = [
        compressed(COMPRESSED_HELLO),
        compressed([0x00]),
        compressed([]),
        compressed([]).not_final(),
        continuation([]),
        Frame::new(0xC2, [0x00]),
        compressed([0x02, 0x00]),
        compressed(COMPRESSED_HELLO),
        text("plain"),
        compressed(COMPRESSED_HELLO).not_final(),
        continuation([]),
    ];
    let empty = || said("");
    let expected = [
        said("Hello"),
        empty(),
        empty(),
        empty(),
        Seen::Binary(Vec::new()),
        empty(),
        said("Hello"),
        said("plain"),
        said("Hello"),
    ];
    assert_eq!(hears_in_both_modes(&frames), expected);
}

#[test]
fn control_frames_and_plain_messages_stand_between_compressed_ones() {
    let long = "aé€😀".repeat(20_000);
    let long_deflated = deflated(long.as_bytes());
    let (start, end) = long_deflated.split_at(long_deflated.len() / 2);
    let frames = [
        compressed(start).not_final(),
        ping("between"),
        continuation([]).not_final(),
        pong("too"),
        continuation(end),
        text(&long),
        text("Hel").not_final(),
        ping("again"),
        continuation("lo"),
        Frame::new(0xC2, deflated(&[7; 300_000])),
        close(1000, "bye"),
    ];
    let expected = [
        Seen::Ping(b"between".to_vec()),
        Seen::Pong(b"too".to_vec()),
        said(&long),
        said(&long),
        Seen::Ping(b"again".to_vec()),
        said("Hello"),
        Seen::Binary(vec![7; 300_000]),
        Seen::Close(1000, "bye".to_string()),
    ];
    assert_eq!(hears_in_both_modes(&frames), expected);
}

#[test]
fn a_compressed_frame_that_may_not_be_one_is_refused_at_its_first_byte() {
    let server = deflating(Mode::Shared);
    let agreed = {
        let rules = server.rules.deflate;
        Agreement::choose([&b"permessage-deflate"[..]].into_iter(), &rules)
    };
    let open = |agreed| move || Protocol { state: State::open(Dialect::Rfc6455, agreed) };
    let refused = |index| Some((index, violated(Violation::ReservedBits)));
    assert_eq!(server.fails_at(open(None), &compressed(COMPRESSED_HELLO).bytes()), refused(0));
    for first in [0xC9, 0xCA, 0xC8, 0xC0, 0x40, 0xE1, 0xD1, 0xF1, 0xA1, 0x91] {
        let start = text("begun").not_final().bytes();
        let conversation = [&start[..], &Frame::new(first, "x").bytes()].concat();
        assert_eq!(server.fails_at(open(agreed), &conversation), refused(start.len()), "{first:x}");
    }
}

#[test]
fn bad_deflate_data_costs_1007() {
    for bad in [
        // A reserved block type; a wrong length; a distance too far back; bad code lengths.
        &[0x06, 0x00][..],
        &[0x07],
        &[0x00, 0x05, 0x00, 0xFA, 0xFE, 0x48],
        &[0x02, 0x13, 0x00, 0x00],
        &[0xF4, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        // Cut off in a block.
        &COMPRESSED_HELLO[..3],
        &[0x00, 0x05, 0x00, 0xFA, 0xFF, 0x48],
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07],
        // Rubbish behind a final block.
        &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0xFF, 0xFF],
    ] {
        let seen = hears_in_both_modes(&[Frame::new(0xC2, bad), binary("never heard")]);
        assert_eq!(seen.last(), Some(&violated(Violation::BadDeflate)), "{bad:x?}");
        assert!(seen.len() == 1, "{seen:?}");
    }
    assert_eq!(Violation::BadDeflate.close_code(), CloseCode::INVALID_DATA);
}

#[test]
fn bad_text_is_bad_text_compressed_too() {
    for bad in [&b"ok \xC0\x80"[..], b"\xED\xA0\x80", "€".as_bytes().split_last().unwrap().1] {
        assert_eq!(hears_in_both_modes(&[compressed(deflated(bad))]), [violated(Violation::InvalidUtf8)]);
    }
    let long = [&"x".repeat(200_000).into_bytes()[..], b"\xFF"].concat();
    assert_eq!(hears_in_both_modes(&[compressed(deflated(&long))]), [violated(Violation::InvalidUtf8)]);
}

#[test]
fn a_compressed_message_is_limited_by_what_comes_of_it() {
    let limits = [1, 1000, 64 * 1024, 64 * 1024 + 1, 200_000];
    for mode in [Mode::Shared, Mode::Dedicated] {
        for bytes_max in limits {
            let server = Server { message_bytes_max: bytes_max, ..deflating(mode) };
            let just = vec![7; bytes_max];
            let frame = Frame::new(0xC2, deflated(&just));
            let seen = hears_deflated(&server, &[frame.clone(), frame]);
            assert_eq!(seen, [Seen::Binary(just.clone()), Seen::Binary(just.clone())]);
            for more in [1, 1000, 1 << 20] {
                let over = Frame::new(0xC2, deflated(&vec![7; bytes_max + more]));
                let too_big = violated(Violation::MessageTooBig { bytes_max });
                assert_eq!(hears_deflated(&server, &[over]), [too_big], "{bytes_max} and {more}");
            }
        }
    }
}

#[test]
fn a_bomb_costs_no_more_memory_than_a_message() {
    let bytes_max = 1 << 20;
    let server = Server { message_bytes_max: bytes_max, ..deflating(Mode::Shared) };
    // 64 MiB of zeros.
    let bomb = deflated(&vec![0; 64 << 20]);
    let asking = request(Dialect::Rfc6455).and("Sec-WebSocket-Extensions: permessage-deflate");
    for split in [usize::MAX, 1000] {
        let mut peer = Peer::new(&server, Protocol::new());
        peer.receive(&asking.bytes());
        let bytes = Frame::new(0xC2, &bomb).bytes();
        for piece in bytes.chunks(split.min(bytes.len())) {
            peer.receive(piece);
            assert!(peer.inflation.memory.capacity() <= 128 * 1024);
            if let State::Open { frames, .. } = &peer.protocol.state {
                assert!(frames.assembled_capacity() <= bytes_max);
            }
        }
        assert_eq!(peer.seen.pop(), Some(violated(Violation::MessageTooBig { bytes_max })));
    }
}

#[test]
fn a_turn_that_has_inflated_enough_leaves_the_rest() {
    let server = deflating(Mode::Shared);
    let one = Frame::new(0xC2, deflated(&vec![0; 1 << 20])).bytes();
    for streams in [false, true] {
        let mut peer = Peer::new(&server, Protocol::new());
        peer.receive(&request(Dialect::Rfc6455).and("Sec-WebSocket-Extensions: permessage-deflate").bytes());
        let mut bytes = one.repeat(10);
        let len = bytes.len();
        peer.inflation.begin_turn();
        let mut context = Context {
            streams,
            message_bytes_max: 1 << 20,
            fragments_max: 10,
            pool: &mut peer.pool,
            inflation: &mut peer.inflation,
        };
        let mut heard = 0;
        let flow = peer.protocol.receive(&mut bytes, &server.rules, &mut context, &mut |incoming| {
            heard += match incoming {
                Incoming::Message { payload: Payload::Owned(buffer), .. } => buffer.len(),
                Incoming::Fragment { payload: Payload::Inflated { len, .. }, .. } => len,
                other => panic!("{other:?}"),
            };
        });
        let Ok(Flow::Full { left }) = flow else { panic!("{flow:?}") };
        assert!(left > 0 && left < len);
        // At most what one piece of input can become comes on top.
        assert!((4 << 20..9 << 20).contains(&heard), "{heard}");
    }
}

#[test]
fn an_idle_compressed_connection_holds_no_memory() {
    let server = deflating(Mode::Shared);
    let mut peer = Peer::new(&server, Protocol::new());
    peer.receive(&request(Dialect::Rfc6455).and("Sec-WebSocket-Extensions: permessage-deflate").bytes());
    let parts = compressed(COMPRESSED_HELLO).bytes();
    for part in parts.chunks(4) {
        peer.receive(part);
    }
    let State::Open { frames, .. } = &mut peer.protocol.state else { panic!() };
    assert!(!frames.holds_memory());
    assert!(size_of::<Protocol>() <= 16, "{}", size_of::<Protocol>());
}

// --- Subprotocols ---------------------------------------------------------------------------

#[test]
fn the_subprotocol_is_the_first_of_ours_that_the_client_offers() {
    let mut server = Server::new();
    server.rules.protocols = ["v2.chat", "v1.chat"].map(String::from).to_vec();
    for dialect in HYBI {
        for (offered, chosen) in [
            ("v1.chat", Some("v1.chat")),
            ("v1.chat, v2.chat", Some("v2.chat")),
            ("other,v1.chat ,,", Some("v1.chat")),
            ("V1.CHAT", None),
            ("v1.chatter", None),
            ("", None),
        ] {
            let asking = request(dialect).and(&format!("Sec-WebSocket-Protocol: {offered}"));
            assert_eq!(protocol_in(&server.answer(&asking)), chosen, "{dialect:?}, {offered:?}");
        }
        let two_lines =
            request(dialect).and("Sec-WebSocket-Protocol: v1.chat").and("Sec-WebSocket-Protocol: v2.chat");
        assert_eq!(protocol_in(&server.answer(&two_lines)), Some("v2.chat"));
        assert_eq!(protocol_in(&server.answer(&request(dialect))), None, "nothing was offered");
    }
}

#[test]
fn a_server_without_subprotocols_chooses_none_in_the_newer_dialects() {
    for dialect in HYBI {
        let asking = request(dialect).and("Sec-WebSocket-Protocol: chat");
        assert_eq!(answer(&asking), answer(&request(dialect)));
    }
}

#[test]
fn hixie_asks_for_one_subprotocol_and_gets_exactly_that_or_none() {
    let mut server = Server::new();
    server.rules.protocols = ["v2.chat", "v1.chat"].map(String::from).to_vec();
    for (dialect, header) in
        [(Dialect::Hixie76, "Sec-WebSocket-Protocol"), (Dialect::Hixie75, "WebSocket-Protocol")]
    {
        for (asked, chosen) in [("v1.chat", Some("v1.chat")), ("v1.chat, v2.chat", None), ("V1.CHAT", None)] {
            let asking = request(dialect).with(&format!("{header}: {asked}"));
            assert_eq!(protocol_in(&server.answer(&asking)), chosen, "{dialect:?}, {asked:?}");
        }
    }
}

#[test]
fn a_server_without_subprotocols_gives_hixie_the_one_it_asked_for_byte_for_byte() {
    for (dialect, header) in
        [(Dialect::Hixie76, "Sec-WebSocket-Protocol"), (Dialect::Hixie75, "WebSocket-Protocol")]
    {
        for asked in ["sample", "Two Words, One Name", "größer"] {
            let asking = request(dialect).with(&format!("{header}: {asked}"));
            assert_eq!(protocol_in(&answer(&asking)), Some(asked), "{dialect:?}");
        }
        assert_eq!(protocol_in(&answer(&request(dialect).with(&format!("{header}: ")))), None, "empty");
        assert_eq!(protocol_in(&answer(&request(dialect).without(header))), None, "not asked for");
    }
}

#[test]
fn the_header_of_the_other_draft_asks_for_no_subprotocol() {
    for (dialect, header) in [
        (Dialect::Hixie76, "WebSocket-Protocol"),
        (Dialect::Hixie75, "Sec-WebSocket-Protocol"),
        (Dialect::Rfc6455, "WebSocket-Protocol"),
    ] {
        let mut server = Server::new();
        server.rules.protocols = vec!["chat".to_string()];
        let asking = request(dialect).without("Sec-WebSocket-Protocol").and(&format!("{header}: chat"));
        assert_eq!(protocol_in(&server.answer(&asking)), None, "{dialect:?}");
    }
}

#[test]
fn the_embedders_headers_stand_in_the_answer_of_every_dialect() {
    for dialect in Versions::ALL {
        let server = Server { headers: "Set-Cookie: a=b\r\nX-Node: 7\r\n", ..Server::new() };
        let plain = answer(&request(dialect));
        let expected = format!("{}Set-Cookie: a=b\r\nX-Node: 7\r\n\r\n", plain.strip_suffix("\r\n").unwrap());
        assert_eq!(server.answer(&request(dialect)), expected);
    }
}

// --- Hixie-76: the handshake ----------------------------------------------------------------

#[test]
fn the_example_of_draft_76_gets_its_answer_byte_for_byte() {
    let seen = Server::new().hears(request(Dialect::Hixie76).bytes());
    assert_eq!(
        seen,
        [
            Seen::Asked(Dialect::Hixie76),
            Seen::Answered(
                "HTTP/1.1 101 WebSocket Protocol Handshake\r\n\
                 Upgrade: WebSocket\r\n\
                 Connection: Upgrade\r\n\
                 Sec-WebSocket-Origin: http://example.com\r\n\
                 Sec-WebSocket-Location: ws://example.com/demo\r\n\
                 Sec-WebSocket-Protocol: sample\r\n\r\n"
                    .to_string()
            ),
            Seen::Opened(*b"8jKS'y:G*Co,Wxa-"),
        ]
    );
}

#[test]
fn the_head_of_the_answer_goes_out_before_the_eight_bytes_are_there() {
    let hixie_76 = request(Dialect::Hixie76);
    let head_len = hixie_76.without_body().bytes().len();
    for len in head_len..head_len + 8 {
        let seen = Server::new().hears(&hixie_76.bytes()[..len]);
        assert!(matches!(&seen[..], [Seen::Asked(_), Seen::Answered(_)]), "{} of 8 bytes", len - head_len);
    }
    let opened = Server::new().hears(hixie_76.bytes());
    assert_eq!(opened[2], Seen::Opened(*b"8jKS'y:G*Co,Wxa-"));
}

#[test]
fn a_draft_76_conversation_is_open_only_after_the_eight_bytes() {
    let server = Server::new();
    let mut peer = Peer::new(&server, Protocol::new());
    peer.receive(&request(Dialect::Hixie76).without_body().bytes());
    peer.receive(b"^n:ds[4");
    assert_eq!(peer.protocol.dialect(), None);
    assert!(!peer.protocol.begin_close(), "there is nothing to close");
    peer.receive(b"U");
    assert_eq!(peer.protocol.dialect(), Some(Dialect::Hixie76));
}

#[test]
fn draft_76_frames_may_follow_the_eight_bytes_in_the_same_segment() {
    let conversation = [request(Dialect::Hixie76).bytes(), hixie("hello"), vec![0xFF, 0x00]].concat();
    let seen = Server::new().hears(conversation);
    assert_eq!(seen[3..], [said("hello"), Seen::Close(1005, String::new())]);
}

#[test]
fn the_eight_bytes_may_be_any_bytes() {
    let body = b"\x00\xFF\x00\xFF\r\n\r\n";
    let hixie_76 =
        request(Dialect::Hixie76).with("Sec-WebSocket-Key1: 1  2 x").with("Sec-WebSocket-Key2: x 3");
    let conversation = [&hixie_76.without_body().bytes()[..], body, &hixie("then")].concat();
    let seen = Server::new().hears(conversation);
    assert_eq!(seen[2..], [Seen::Opened(MD5_OF_4_AND_3_AND_BODY), said("then")]);
}

#[test]
fn content_length_8_names_the_eight_bytes_and_not_a_body_beside_them() {
    let hixie_76 = request(Dialect::Hixie76);
    let conversation = [hixie_76.and("Content-Length: 8").bytes(), hixie("hello")].concat();
    let plain = [hixie_76.bytes(), hixie("hello")].concat();
    assert_eq!(Server::new().hears(conversation), Server::new().hears(plain));
    for length in ["0", "7", "9", "16"] {
        let refusal = refusal(&hixie_76.and(&format!("Content-Length: {length}")));
        assert!(matches!(refusal, Refusal::Malformed(_)), "{length}: {refusal:?}");
    }
}

#[test]
fn one_key_alone_is_refused_and_no_draft_75() {
    for missing in ["Sec-WebSocket-Key1", "Sec-WebSocket-Key2"] {
        assert_eq!(refusal(&request(Dialect::Hixie76).without(missing)), Refusal::HixieKey, "{missing}");
    }
    let neither = request(Dialect::Hixie76).without("Sec-WebSocket-Key1").without("Sec-WebSocket-Key2");
    assert_eq!(Server::new().hears(neither.bytes())[0], Seen::Asked(Dialect::Hixie75));
}

#[test]
fn a_bad_key_is_refused_before_the_eight_bytes_are_there() {
    for number in ["1", "2"] {
        for (bad, why) in [
            ("123456", "no blank"),
            ("12 3 4 5 7", "a remainder"),
            ("4294967296 0", "a quotient over 32 bits"),
            ("99999999999999999999999 9", "over 64 bits"),
        ] {
            let spoiled = request(Dialect::Hixie76).with(&format!("Sec-WebSocket-Key{number}: {bad}"));
            let seen = Server::new().hears(spoiled.without_body().bytes());
            assert_eq!(seen, [Seen::Refused(Refusal::HixieKey)], "{why}");
        }
        let twice = request(Dialect::Hixie76).and(&format!("Sec-WebSocket-Key{number}: 1 2"));
        assert!(matches!(refusal(&twice), Refusal::Repeated(_)));
    }
}

#[test]
fn a_key_without_digits_is_the_number_zero_and_4294967295_is_the_largest() {
    let hixie_76 =
        request(Dialect::Hixie76).with("Sec-WebSocket-Key1: 8 5a8993b4590c").with("Sec-WebSocket-Key2: a b");
    // 8589934590 and one blank would pass 32 bits; with a second blank it is 2^32 - 1.
    assert_eq!(refusal(&hixie_76), Refusal::HixieKey);
    let hixie_76 = hixie_76.with("Sec-WebSocket-Key1: 8 5a8993 b4590c").without_body();
    let seen = Server::new().hears([hixie_76.bytes(), b"12345678".to_vec()].concat());
    assert_eq!(seen[2], Seen::Opened(MD5_OF_LARGEST_ZERO_AND_12345678));
}

#[test]
fn blanks_at_the_ends_of_a_draft_76_key_count_but_for_the_one_after_the_colon() {
    // " 1 2 " is 12 over 3 blanks; trimmed it would be 12 over 1. "3 " trimmed would have none.
    let body = b"\x00\xFF\x00\xFF\r\n\r\n".to_vec();
    for key1 in [" 1 2 ", "  12 ", " 12  ", "12   "] {
        let hixie_76 = request(Dialect::Hixie76)
            .with(&format!("Sec-WebSocket-Key1: {key1}"))
            .with("Sec-WebSocket-Key2: 3 ")
            .without_body();
        let seen = Server::new().hears([hixie_76.bytes(), body.clone()].concat());
        assert_eq!(seen[2], Seen::Opened(MD5_OF_4_AND_3_AND_BODY), "{key1:?}");
    }
}

#[test]
fn hixie_gets_its_origin_back_byte_for_byte() {
    for (dialect, name) in
        [(Dialect::Hixie76, "Sec-WebSocket-Origin"), (Dialect::Hixie75, "WebSocket-Origin")]
    {
        for origin in [
            "null",
            "http://example.com/",
            "HTTP://Example.COM:80",
            "file://",
            "http://bücher.example",
            "a, b",
        ] {
            let from = request(dialect).with(&format!("Origin: {origin}"));
            assert_eq!(value_in(&answer(&from), name), Some(origin), "{dialect:?}");
        }
        let nobody = request(dialect).without("Origin");
        assert_eq!(value_in(&answer(&nobody), name), None, "a line that no client could want");
    }
}

#[test]
fn hixie_gets_an_origin_back_that_is_no_utf8() {
    for dialect in HIXIE {
        let server = Server::new();
        let mut conversation = request(dialect).with("Origin: http://b?cher.example").without_body().bytes();
        let mark = conversation.iter().position(|&byte| byte == b'?').expect("it stands there");
        conversation[mark] = 0xFC;
        let mut peer = Peer::new(&server, Protocol::new());
        peer.receive(&conversation);
        let line = b"WebSocket-Origin: http://b\xFCcher.example\r\n";
        assert!(memchr::memmem::find(&peer.sent, line).is_some(), "{dialect:?}");
    }
}

#[test]
fn hixie_gets_the_location_it_asked_for_byte_for_byte() {
    for (dialect, name) in
        [(Dialect::Hixie76, "Sec-WebSocket-Location"), (Dialect::Hixie75, "WebSocket-Location")]
    {
        for (target, host) in [
            ("/", "localhost"),
            ("/chat?room=%C3%A9&x=a%20b&y=//?z", "Example.COM:8080"),
            ("/A/../b;c?", "127.0.0.1:80"),
            ("//double/%7e?a=1&a=2", "[::1]:9001"),
        ] {
            let asking =
                request(dialect).begun_by(&format!("GET {target} HTTP/1.1")).with(&format!("Host: {host}"));
            assert_eq!(value_in(&answer(&asking), name), Some(&format!("ws://{host}{target}")[..]));
            let secure = Server { secure: true, ..Server::new() };
            assert_eq!(value_in(&secure.answer(&asking), name), Some(&format!("wss://{host}{target}")[..]));
        }
    }
}

// --- Hixie-75: the handshake ----------------------------------------------------------------

#[test]
fn the_answer_of_draft_75_begins_with_its_85_bytes() {
    let start = "HTTP/1.1 101 Web Socket Protocol Handshake\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n";
    assert_eq!(start.len(), 85);
    assert_eq!(
        Server::new().hears(request(Dialect::Hixie75).bytes()),
        [
            Seen::Asked(Dialect::Hixie75),
            Seen::Answered(format!(
                "{start}WebSocket-Origin: http://example.com\r\nWebSocket-Location: ws://example.com/demo\r\n\
                 WebSocket-Protocol: sample\r\n\r\n"
            )),
        ]
    );
}

#[test]
fn draft_75_has_no_close_and_frames_at_once() {
    let conversation = [request(Dialect::Hixie75).bytes(), hixie("a"), vec![0xFF, 0x00], hixie("b")].concat();
    let seen = Server::new().hears(conversation);
    assert_eq!(seen[2..], [said("a"), said("b")]);
}

// --- Deciding -------------------------------------------------------------------------------

#[test]
fn what_comes_while_someone_decides_is_kept_in_order() {
    let rules = Server::new().rules;
    let (mut pool, mut inflation) = (BufferPool::default(), Inflation::default());
    let mut context = Context {
        streams: false,
        message_bytes_max: 1000,
        fragments_max: 1 << 17,
        pool: &mut pool,
        inflation: &mut inflation,
    };
    let mut protocol = Protocol::new();
    let mut asked = None;
    let mut conversation = [request(Dialect::Rfc6455).bytes(), text("kept").bytes()].concat();
    let (now, later) = conversation.split_at_mut(request(Dialect::Rfc6455).bytes().len() + 3);
    let mut note = |incoming: Incoming<'_>| match incoming {
        Incoming::Request { offer, .. } => asked = Some(offer.unwrap()),
        early => panic!("{early:?} before the decision"),
    };
    assert_eq!(protocol.receive(now, &rules, &mut context, &mut note), Ok(Flow::Open));
    assert_eq!(protocol.receive(later, &rules, &mut context, &mut note), Ok(Flow::Open));
    assert!(protocol.lend().is_none());
    assert!(!protocol.begin_close());
    let accepted = protocol.accept(asked.expect("the request is whole"), None, "", false).unwrap();
    assert!(accepted.is_open);
    assert_eq!(accepted.backlog, text("kept").bytes());
}

#[test]
fn nothing_is_heard_after_a_refusal() {
    let server = Server::new();
    let spoiled = request(Dialect::Rfc6455).without("Sec-WebSocket-Key");
    let conversation =
        [spoiled.bytes(), request(Dialect::Rfc6455).bytes(), text("smuggled").bytes()].concat();
    assert_eq!(server.hears(conversation), [Seen::Refused(Refusal::Key)]);
}

// --- Frames: what is valid ------------------------------------------------------------------

#[test]
fn text_and_binary_messages_of_every_length_form_arrive() {
    for len in [0, 1, 125, 126, 127, 0xFFFF, 0x1_0000, 0x1_0001] {
        let letters = "x".repeat(len);
        assert_eq!(
            hears(&[text(&letters), binary(&letters)]),
            [said(&letters), Seen::Binary(letters.into_bytes())]
        );
    }
}

#[test]
fn a_message_in_three_fragments_is_one_message() {
    let frames =
        [text("Hel").not_final(), continuation("lo ").not_final(), continuation("you"), binary([0xFF])];
    assert_eq!(hears(&frames), [said("Hello you"), Seen::Binary(vec![0xFF])]);
}

#[test]
fn a_ping_between_two_fragments_is_heard_before_the_message_ends() {
    let frames = [
        text("Hel").not_final(),
        ping("?"),
        continuation("l").not_final(),
        pong(""),
        ping([0xC1; 125]),
        continuation("o"),
    ];
    assert_eq!(
        hears(&frames),
        [Seen::Ping(b"?".to_vec()), Seen::Pong(vec![]), Seen::Ping(vec![0xC1; 125]), said("Hello")]
    );
}

#[test]
fn empty_messages_and_empty_fragments_are_messages_too() {
    let frames = [
        text(""),
        binary(""),
        text("").not_final(),
        continuation("").not_final(),
        continuation(""),
        binary("").not_final(),
        continuation([7]).not_final(),
        continuation(""),
        text("last"),
    ];
    assert_eq!(
        hears(&frames),
        [said(""), Seen::Binary(vec![]), said(""), Seen::Binary(vec![7]), said("last")]
    );
}

#[test]
fn a_character_may_be_split_over_fragments_with_a_ping_in_its_midst() {
    let whole = "aé€😀";
    for cut in 0..=whole.len() {
        for second in cut..=whole.len() {
            let frames = [
                text(&whole.as_bytes()[..cut]).not_final(),
                ping("now"),
                continuation(&whole.as_bytes()[cut..second]).not_final(),
                continuation(&whole.as_bytes()[second..]),
            ];
            let seen = Server::new().hears_open(Dialect::Rfc6455, wire(&frames));
            assert_eq!(seen, [Seen::Ping(b"now".to_vec()), said(whole)], "cut at {cut} and {second}");
        }
    }
}

#[test]
fn a_message_may_come_in_65536_fragments() {
    let frames: Vec<Frame> = (0..=0xFFFF_u32)
        .map(|index| {
            Frame::new(if index == 0 { 2 } else { 0 } | if index == 0xFFFF { 0x80 } else { 0 }, [index as u8])
        })
        .collect();
    let payload: Vec<u8> = (0..=0xFFFF_u32).map(|index| index as u8).collect();
    assert_eq!(Server::new().hears_open(Dialect::Rfc6455, wire(&frames)), [Seen::Binary(payload)]);
}

#[test]
fn a_mask_of_zeros_or_of_anything_is_a_mask() {
    for mask in [[0; 4], [0xFF; 4], [1, 2, 3, 4], [0x81, 0, 0x88, 0x80]] {
        assert_eq!(hears(&[text("masked €").masked_with(mask)]), [said("masked €")]);
    }
}

#[test]
fn long_messages_are_the_same_when_read_into_lent_memory() {
    let mut dice = Dice(41);
    let text_payload = dice.text(300_000);
    let bytes = dice.bytes(300_001);
    let (early, late) = bytes.split_at(99_999);
    let frames = [
        text(&text_payload),
        binary(early).not_final(),
        ping("between"),
        continuation(late),
        text("short"),
        binary(&bytes),
    ];
    let seen = Server::new().hears_open(Dialect::Rfc6455, wire(&frames));
    assert_eq!(seen.len(), 5);
    assert_eq!(seen[0], said(&text_payload));
    assert_eq!(seen[1], Seen::Ping(b"between".to_vec()));
    assert_eq!(seen[2], Seen::Binary(bytes.clone()));
    assert_eq!(seen[3..], [said("short"), Seen::Binary(bytes)]);
}

#[test]
fn memory_is_lent_only_for_the_rest_of_a_long_data_frame() {
    let server = Server::new();
    let mut peer = Peer::new(&server, Protocol { state: State::open(Dialect::Rfc6455, None) });
    assert!(peer.lend().is_none(), "nothing has come");
    let long = binary([7; 100_000]).bytes();
    peer.receive(&long[..3]);
    assert!(peer.lend().is_none(), "the head is not whole");
    peer.receive(&long[3..50_000]);
    let (buffer, len) = peer.lend().expect("half of a long frame is there");
    assert!(len <= long.len() - 50_000, "no more than the frame still has");
    peer.receive_lent(buffer, 0);
    peer.receive(&long[50_000..long.len() - 1]);
    assert!(peer.lend().is_none(), "one byte is not worth it");
    peer.receive(&long[long.len() - 1..]);
    assert!(peer.lend().is_none(), "the frame is whole");
    assert_eq!(peer.seen, [Seen::Binary(vec![7; 100_000])]);
}

// --- Frames: close --------------------------------------------------------------------------

#[test]
fn a_close_ends_the_conversation_and_what_follows_is_ignored() {
    let frames = [text("a"), close(1000, "bye"), text("b"), close(1001, "")];
    assert_eq!(hears(&frames), [said("a"), Seen::Close(1000, "bye".to_string())]);
}

#[test]
fn what_follows_a_close_may_be_nonsense() {
    let nonsense = [wire(&[close(1000, "")]), vec![0xFF; 50]].concat();
    assert_eq!(Server::new().hears_open(Dialect::Rfc6455, nonsense), [Seen::Close(1000, String::new())]);
}

#[test]
fn a_close_without_a_code_reads_as_1005() {
    assert_eq!(hears(&[Frame::new(0x88, "")]), [Seen::Close(1005, String::new())]);
}

#[test]
fn a_close_inside_a_fragmented_message_ends_the_conversation_too() {
    let frames = [text("never fin").not_final(), close(1000, "enough"), continuation("ished")];
    assert_eq!(hears(&frames), [Seen::Close(1000, "enough".to_string())]);
}

#[test]
fn every_close_code_is_taken_or_refused_as_the_rfc_says() {
    let server = Server::new();
    for code in 0..=u16::MAX {
        // RFC 6455, 7.4: 1004 is reserved, 1005, 1006 and 1015 "MUST NOT be set … in a Close
        // control frame", the rest below 3000 is for future revisions. 1012 to 1014 came later.
        let allowed = matches!(code, 1000..=1003 | 1007..=1011 | 1012..=1014 | 3000..=4999);
        let expected = if allowed {
            Seen::Close(code, "why".to_string())
        } else {
            violated(Violation::CloseCode(CloseCode(code)))
        };
        let bytes = close(code, "why").bytes();
        for (dialect, split) in [(Dialect::Rfc6455, Split::Whole), (Dialect::HyBi08, Split::EachByte)] {
            let seen = server.run(Protocol { state: State::open(dialect, None) }, &bytes, split);
            assert_eq!(seen, std::slice::from_ref(&expected));
        }
    }
}

#[test]
fn a_close_reason_may_have_123_bytes_of_utf8() {
    let longest = format!("{}x", "é".repeat(61));
    assert_eq!(hears(&[close(4999, &longest)]), [Seen::Close(4999, longest)]);
    let bad = Frame::new(0x88, [&1000_u16.to_be_bytes()[..], b"\xC3\x28"].concat());
    assert_eq!(hears(&[bad]), [violated(Violation::InvalidUtf8)]);
    let cut_off =
        Frame::new(0x88, [&1000_u16.to_be_bytes()[..], "é".as_bytes().split_last().unwrap().1].concat());
    assert_eq!(hears(&[cut_off]), [violated(Violation::InvalidUtf8)]);
}

#[test]
fn messages_are_heard_after_our_own_close_until_the_peers() {
    let server = Server::new();
    for dialect in HYBI {
        let mut peer = Peer::new(&server, Protocol { state: State::open(dialect, None) });
        assert!(peer.protocol.begin_close(), "the first time");
        assert!(!peer.protocol.begin_close(), "only once");
        peer.receive(&wire(&[text("still on its way"), close(1000, "")]));
        assert_eq!(peer.seen, [said("still on its way"), Seen::Close(1000, String::new())]);
        assert!(!peer.protocol.begin_close(), "the peer has closed");
    }
}

#[test]
fn each_dialect_closes_in_its_own_way() {
    let frame = CloseFrame::new(CloseCode::GOING_AWAY, "bye");
    for dialect in HYBI {
        assert_eq!(dialect.close_bytes(&frame), b"\x88\x05\x03\xE9bye");
        assert_eq!(dialect.close_bytes(&CloseFrame::EMPTY), [0x88, 0x00]);
        assert!(dialect.awaits_close());
    }
    assert_eq!(Dialect::Hixie76.close_bytes(&frame), [0xFF, 0x00]);
    assert_eq!(Dialect::Hixie75.close_bytes(&frame), b"");
    assert!(!Dialect::Hixie76.awaits_close() && !Dialect::Hixie75.awaits_close());
}

#[test]
fn each_dialect_has_the_number_by_which_the_embedder_knows_it() {
    let numbers = [13, 8, 7, 76, 75];
    assert_eq!(Versions::ALL.map(Dialect::number), numbers);
}

// --- Frames: violations ---------------------------------------------------------------------

#[test]
fn each_violation_is_named_and_comes_after_the_good_message_before_it() {
    let violations: Vec<(Violation, Vec<u8>)> = vec![
        (Violation::Unmasked, vec![0x81, 0x02, b'h', b'i']),
        (Violation::Unmasked, vec![0x81, 0x00]),
        (Violation::Unmasked, vec![0x89, 0x00]),
        (Violation::ReservedBits, text("a").begun_by(0xC1).bytes()),
        (Violation::ReservedBits, text("a").begun_by(0xA1).bytes()),
        (Violation::ReservedBits, text("a").begun_by(0x91).bytes()),
        (Violation::ReservedBits, ping("a").begun_by(0xF9).bytes()),
        (Violation::FragmentedControl, ping("a").not_final().bytes()),
        (Violation::FragmentedControl, pong("a").not_final().bytes()),
        (Violation::FragmentedControl, close(1000, "").not_final().bytes()),
        (Violation::ControlTooBig, ping([0; 126]).bytes()),
        (Violation::ControlTooBig, pong([0; 65_536]).bytes()),
        (Violation::ControlTooBig, close(1000, &"x".repeat(124)).bytes()),
        (Violation::LengthNotMinimal, vec![0x82, 0xFE, 0, 125, 0, 0, 0, 0]),
        (Violation::LengthNotMinimal, vec![0x82, 0xFE, 0, 0, 0, 0, 0, 0]),
        (Violation::LengthNotMinimal, vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]),
        (Violation::LengthNotMinimal, vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (Violation::LengthOver63Bits, vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (Violation::LengthOver63Bits, vec![0x82, 0xFF, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0]),
        (Violation::NothingToContinue, continuation("a").bytes()),
        (Violation::NothingToContinue, continuation("").not_final().bytes()),
        (
            Violation::NothingToContinue,
            wire(&[text("a").not_final(), continuation("b"), continuation("c")])[7..].to_vec(),
        ),
        (Violation::InterleavedMessage, wire(&[text("a").not_final(), text("b")])),
        (Violation::InterleavedMessage, wire(&[binary("").not_final(), binary("")])),
        (
            Violation::InterleavedMessage,
            wire(&[text("").not_final(), continuation("").not_final(), binary("")]),
        ),
        (Violation::CloseTooShort, Frame::new(0x88, [3]).bytes()),
        (Violation::CloseCode(CloseCode(999)), close(999, "").bytes()),
        (Violation::InvalidUtf8, text([0xC0, 0x80]).bytes()),
        (Violation::InvalidUtf8, text(&"€".as_bytes()[..2]).bytes()),
        (Violation::InvalidUtf8, wire(&[text(&"€".as_bytes()[..2]).not_final(), continuation("")])),
        (Violation::InvalidUtf8, wire(&[text(&"€".as_bytes()[..2]).not_final(), continuation("x")])),
        (Violation::MessageTooBig { bytes_max: 1000 }, binary([0; 1001]).bytes()),
    ];
    let server = Server { message_bytes_max: 1000, ..Server::new() };
    for (violation, bad) in violations {
        let conversation = [text("good").bytes(), bad].concat();
        for dialect in HYBI {
            let seen = server.hears_open(dialect, &conversation);
            let last = seen.last().expect("the good message");
            assert_eq!(
                (&seen[0], last),
                (&said("good"), &violated(violation)),
                "{dialect:?}, {:x?} …",
                &conversation[..conversation.len().min(40)]
            );
        }
    }
}

#[test]
fn the_ten_opcodes_without_a_meaning_are_refused() {
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        for fin in [0x80, 0] {
            let frames = [ping("good"), text("").begun_by(fin | opcode)];
            assert_eq!(
                hears(&frames),
                [Seen::Ping(b"good".to_vec()), violated(Violation::UnknownOpcode(opcode))]
            );
        }
    }
}

#[test]
fn a_head_is_refused_at_the_byte_that_shows_it() {
    let server = Server { message_bytes_max: 1000, ..Server::new() };
    let heads: [(&[u8], usize, Violation); 10] = [
        (&[0xC1, 0x80, 0, 0, 0, 0], 0, Violation::ReservedBits),
        (&[0x83, 0x80, 0, 0, 0, 0], 0, Violation::UnknownOpcode(3)),
        (&[0x09, 0x80, 0, 0, 0, 0], 0, Violation::FragmentedControl),
        (&[0x81, 0x01, b'a'], 1, Violation::Unmasked),
        (&[0x89, 0xFE, 0, 126, 0, 0, 0, 0], 1, Violation::ControlTooBig),
        (&[0x82, 0xFE, 0, 125, 0, 0, 0, 0], 3, Violation::LengthNotMinimal),
        (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0], 9, Violation::LengthOver63Bits),
        (&[0x80, 0x81, 0, 0, 0, 0, b'a'], 5, Violation::NothingToContinue),
        (&[0x82, 0xFE, 0x03, 0xE9, 0, 0, 0, 0, b'a'], 7, Violation::MessageTooBig { bytes_max: 1000 }),
        (
            &[0x82, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, b'a'],
            13,
            Violation::MessageTooBig { bytes_max: 1000 },
        ),
    ];
    for (bytes, index, violation) in heads {
        let failed = server.fails_at(|| Protocol { state: State::open(Dialect::Rfc6455, None) }, bytes);
        assert_eq!(failed, Some((index, violated(violation))), "{bytes:x?}");
    }
}

#[test]
fn bad_text_is_refused_at_its_first_bad_byte_while_the_frame_is_still_arriving() {
    let server = Server::new();
    let bad: [(&[u8], usize); 9] = [
        (b"\x80", 0),
        (b"\xFF", 0),
        (b"\xC0\x80", 0),
        (b"\xC3\x28", 1),
        (b"\xE0\x80\x80", 1),
        (b"\xED\xA0\x80", 1),
        (b"\xF0\x9F\x98A", 3),
        (b"\xF4\x90\x80\x80", 1),
        (b"\xF5\x80\x80\x80", 0),
    ];
    for (bad, offset) in bad {
        for before in ["", "a", "κόσμε 😀"] {
            let payload = [before.as_bytes(), bad, &[b'x'; 1000]].concat();
            let (one, two) = payload.split_at(before.len() + offset);
            let split_there = wire(&[text(one).not_final(), ping("?"), continuation(two)]);
            for (conversation, payload_end) in [
                (text(&payload).bytes(), payload.len()),
                (text(&payload).not_final().bytes(), payload.len()),
                (split_there, two.len() + before.len() + offset),
            ] {
                // The bad byte stands as far from the end in the wire as in the payload.
                let index = conversation.len() - (payload_end - before.len() - offset);
                let failed = server
                    .fails_at(|| Protocol { state: State::open(Dialect::Rfc6455, None) }, &conversation);
                assert_eq!(
                    failed,
                    Some((index, violated(Violation::InvalidUtf8))),
                    "{before:?}, then {bad:x?}"
                );
                let seen = server.hears_open(Dialect::Rfc6455, &conversation);
                assert_eq!(seen.last(), Some(&violated(Violation::InvalidUtf8)));
            }
        }
    }
}

#[test]
fn bad_text_is_refused_in_lent_memory_too() {
    let mut payload = "é".repeat(60_000).into_bytes();
    payload[90_000] = b'x';
    let server = Server::new();
    assert_eq!(
        server.hears_open(Dialect::Rfc6455, text(&payload).bytes()),
        [violated(Violation::InvalidUtf8)]
    );
    let without_its_end = &text(&payload).bytes()[..100_000];
    assert_eq!(server.hears_open(Dialect::Rfc6455, without_its_end), [violated(Violation::InvalidUtf8)]);
}

#[test]
fn each_violation_has_its_close_code() {
    for (violation, code) in [
        (Violation::InvalidUtf8, 1007),
        (Violation::MessageTooBig { bytes_max: 5 }, 1009),
        (Violation::OutOfMemory, 1011),
        (Violation::Unmasked, 1002),
        (Violation::CloseCode(CloseCode(1005)), 1002),
        (Violation::HixieLength, 1002),
    ] {
        assert_eq!(violation.close_code().0, code, "{violation:?}");
        let frame = violation.close_frame();
        assert_eq!(CloseFrame::parse(frame.payload()), Ok(frame), "our own close is a good one");
    }
}

// --- Frames: limits -------------------------------------------------------------------------

#[test]
fn a_message_may_have_exactly_the_bytes_of_the_limit() {
    for bytes_max in [0, 1, 125, 126, 1000, 70_000] {
        let server = Server { message_bytes_max: bytes_max, ..Server::new() };
        let fits = vec![b'x'; bytes_max];
        let (one, two) = fits.split_at(bytes_max / 2);
        let fitting = [
            binary(&fits),
            binary(one).not_final(),
            ping("controls do not count"),
            continuation(two).not_final(),
            continuation(""),
        ];
        let seen = server.hears_open(Dialect::Rfc6455, wire(&fitting));
        assert_eq!(seen.len(), 3);
        assert_eq!([&seen[0], &seen[2]], [&Seen::Binary(fits.clone()); 2]);

        let too_big = violated(Violation::MessageTooBig { bytes_max });
        let over = vec![b'x'; bytes_max + 1];
        assert_eq!(server.hears_open(Dialect::Rfc6455, text(&over).bytes()), std::slice::from_ref(&too_big));
        let over_by_fragment =
            wire(&[text(one).not_final(), continuation(two).not_final(), continuation("x")]);
        assert_eq!(server.hears_open(Dialect::Rfc6455, over_by_fragment), [too_big]);
    }
}

#[test]
fn a_message_over_the_limit_is_refused_at_its_head_and_not_at_its_end() {
    let server = Server { message_bytes_max: 100, ..Server::new() };
    let first = binary([0; 60]).not_final().bytes();
    let second = continuation([0; 41]).bytes();
    let failed = server.fails_at(
        || Protocol { state: State::open(Dialect::Rfc6455, None) },
        &[&first[..], &second].concat(),
    );
    let head_end = first.len() + 5;
    assert_eq!(failed, Some((head_end, violated(Violation::MessageTooBig { bytes_max: 100 }))));
}

#[test]
fn the_largest_length_there_is_overflows_nothing() {
    let server = Server { message_bytes_max: usize::MAX, ..Server::new() };
    let largest = [0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0];
    let begun = [&[0x82][..], &largest, &[7; 40_000]].concat();
    assert_eq!(server.hears_open(Dialect::Rfc6455, begun), []);
    let continued = [&binary([7; 40_000]).not_final().bytes()[..], &[0x80], &largest, &[7; 40_000]].concat();
    assert_eq!(server.hears_open(Dialect::Rfc6455, continued), []);
}

#[test]
fn memory_for_a_message_is_at_most_twice_what_has_arrived() {
    let server = Server { message_bytes_max: usize::MAX, ..Server::new() };
    let announced = [0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    for read_bytes in [1, 100, 4096, 16 * 1024, 64 * 1024, 256 * 1024] {
        let mut peer = Peer::new(&server, Protocol { state: State::open(Dialect::Rfc6455, None) });
        peer.receive(&announced);
        let mut arrived = 0;
        while arrived < 600_000 {
            let (read, capacity) = match peer.lend() {
                Some((mut buffer, len)) => {
                    let read = len.min(read_bytes);
                    let capacity = buffer.capacity();
                    buffer.room(read, 0).unwrap()[..read].fill(7);
                    peer.receive_lent(buffer, read);
                    (read, capacity)
                }
                None => {
                    peer.receive(&vec![7; read_bytes]);
                    (read_bytes, 0)
                }
            };
            assert!(capacity <= 2 * arrived, "{capacity} bytes for {arrived}, in reads of {read_bytes}");
            arrived += read;
        }
    }
}

#[test]
fn a_message_put_together_has_at_most_twice_its_memory() {
    // Every `Peer` without a pool checks this of each message it owns.
    let mut dice = Dice(7);
    for len in [1, 2, 3, 100, 1000, 5000] {
        let payload = dice.bytes(len);
        let frames: Vec<Frame> = payload
            .iter()
            .enumerate()
            .map(|(index, &byte)| {
                Frame::new(if index == 0 { 2 } else { 0 } | if index + 1 == len { 0x80 } else { 0 }, [byte])
            })
            .collect();
        assert_eq!(Server::new().hears_open(Dialect::Rfc6455, wire(&frames)), [Seen::Binary(payload)]);
    }
}

// --- Hixie frames ---------------------------------------------------------------------------

#[test]
fn hixie_texts_may_be_empty_hold_zeros_and_any_language() {
    for dialect in HIXIE {
        for texts in [&["", "", ""][..], &["a\0b\0", "\0"], &["κόσμε", "世界", "😀"], &[&"x".repeat(70_000)]]
        {
            let conversation: Vec<u8> = texts.iter().flat_map(|text| hixie(text)).collect();
            let expected: Vec<Seen> = texts.iter().map(|text| said(text)).collect();
            assert_eq!(Server::new().hears_open(dialect, conversation), expected);
        }
    }
}

#[test]
fn hixie_frames_that_are_no_text_are_skipped() {
    for dialect in HIXIE {
        let conversation = [
            &b"\x80\x03\xFF\x00x"[..],
            b"\x00one\xFF",
            b"\x80\x00\xFF\x02zz\xFE\x80\x80\x01\xFF",
            b"\x00two\xFF",
            b"\x01no\x00\xFF\x7F\xFF",
            b"\x80\x82\x00",
            &[0xFF; 256],
            b"\x00three\xFF",
        ]
        .concat();
        let seen = Server::new().hears_open(dialect, conversation);
        assert_eq!(seen, [said("one"), said("two"), said("three")], "{dialect:?}");
    }
}

#[test]
fn a_hixie_length_that_overflows_is_refused() {
    let server = Server::new();
    for dialect in HIXIE {
        for group in [0xFF, 0x80] {
            let endless = [&b"\x00good\xFF\x80"[..], &[group; 20]].concat();
            assert_eq!(server.hears_open(dialect, endless), [said("good"), violated(Violation::HixieLength)]);
        }
        let longest = [&[0x80][..], &[0xFF; 8], &[0x7F], &[0xFF; 5000]].concat();
        assert_eq!(server.hears_open(dialect, longest), [], "63 bits are skipped, and nothing is kept");
    }
}

#[test]
fn hixie_76_closes_with_ff_00_and_ignores_what_follows() {
    let conversation = [hixie("a"), vec![0xFF, 0x00], hixie("b")].concat();
    let seen = Server::new().hears_open(Dialect::Hixie76, conversation);
    assert_eq!(seen, [said("a"), Seen::Close(1005, String::new())]);
}

#[test]
fn bad_utf8_in_a_hixie_text_is_replaced_and_never_handed_on() {
    for dialect in HIXIE {
        let conversation = b"\x00a\xC3\x28\xFF\x00\xE2\x82\xFF\x00\xED\xA0\x80\xFF\x00ok\xFF";
        let seen = Server::new().hears_open(dialect, conversation);
        assert_eq!(
            seen,
            [said("a\u{FFFD}("), said("\u{FFFD}"), said("\u{FFFD}\u{FFFD}\u{FFFD}"), said("ok")]
        );
    }
}

#[test]
fn a_hixie_text_may_have_exactly_the_bytes_of_the_limit() {
    let server = Server { message_bytes_max: 100, ..Server::new() };
    let too_big = violated(Violation::MessageTooBig { bytes_max: 100 });
    for dialect in HIXIE {
        let fits = "x".repeat(100);
        assert_eq!(
            server.hears_open(dialect, [hixie(&fits), hixie(&fits)].concat()),
            [said(&fits), said(&fits)]
        );
        assert_eq!(server.hears_open(dialect, hixie(&"x".repeat(101))), std::slice::from_ref(&too_big));
        // A bad byte becomes three, and those count.
        let grows = [&[0x00][..], &[0x80; 40], &[0xFF]].concat();
        assert_eq!(server.hears_open(dialect, grows), std::slice::from_ref(&too_big));
        let endless = [&[0x00][..], &[b'x'; 101]].concat();
        let failed = server.fails_at(|| Protocol { state: State::open(dialect, None) }, &endless);
        assert_eq!(failed, Some((101, too_big.clone())), "refused before its end");
    }
}

#[test]
fn what_we_send_to_hixie_is_always_text() {
    // WebKit raises an error event on a frame of type 80.
    for kind in [Kind::Text, Kind::Binary] {
        let (before, after) = WireForm::Hixie.around(kind, Place::WHOLE, 300);
        assert_eq!((before.as_slice(), after), (&[0x00][..], &[0xFF][..]));
    }
}

// --- At random ------------------------------------------------------------------------------

#[test]
fn thousands_of_random_conversations_are_heard_as_they_were_said() {
    let server = Server::new();
    for seed in 1..=3000 {
        let mut dice = Dice::of(seed);
        let dialect = HYBI[dice.below(3)];
        let (conversation, expected) = random_conversation(&mut dice);
        for split in [Split::Whole, Split::Random(seed), Split::Lent(seed)] {
            let seen = server.run(Protocol { state: State::open(dialect, None) }, &conversation, split);
            assert_eq!(seen, expected, "seed {seed}, {split:?}");
        }
        if conversation.len() < 5000 {
            assert_eq!(server.hears_open(dialect, &conversation), expected, "seed {seed}");
        }
    }
}

#[test]
fn thousands_of_random_hixie_conversations_are_heard_as_they_were_said() {
    for seed in 1..=2000 {
        let mut dice = Dice::of(seed);
        let dialect = HIXIE[dice.below(2)];
        let mut conversation = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..dice.below(8) {
            let len = dice.below(60);
            match dice.below(4) {
                0 => {
                    let bytes = dice.bytes(len);
                    conversation.extend([0x80 | dice.below(0x7F) as u8, 0x80, len as u8]);
                    conversation.extend(bytes);
                }
                1 => {
                    let letters = dice.text(len);
                    conversation.push(1 + dice.below(0x7F) as u8);
                    conversation.extend(letters.bytes().chain([0xFF]));
                }
                _ => {
                    let letters = dice.text(len);
                    conversation.extend(hixie(&letters));
                    expected.push(said(&letters));
                }
            }
        }
        assert_eq!(Server::new().hears_open(dialect, conversation), expected, "seed {seed}");
    }
}

#[test]
fn a_good_conversation_that_goes_bad_ends_the_same_however_it_is_split() {
    let server = Server { message_bytes_max: 3000, ..Server::new() };
    for seed in 1..=3000 {
        let mut dice = Dice::of(seed);
        let dialect = Versions::ALL[dice.below(5)];
        let mut conversation = if dice.below(3) == 0 { request(dialect).bytes() } else { Vec::new() };
        let start = || match conversation.is_empty() {
            true => Protocol { state: State::open(dialect, None) },
            false => Protocol::new(),
        };
        let protocols = [start(), start(), start(), start()];
        match dialect.wire_form() {
            WireForm::HyBi => conversation.extend(random_conversation(&mut dice).0),
            WireForm::Hixie => (0..5).for_each(|_| conversation.extend(hixie(&dice.text(30)))),
        }
        for _ in 0..=dice.below(3) {
            let place = dice.below(conversation.len() + 1);
            match dice.below(3) {
                0 => conversation.insert(place, dice.next() as u8),
                1 if place < conversation.len() => conversation[place] ^= 1 << dice.below(8),
                _ => conversation.truncate(place),
            }
        }
        let [whole, random, lent, each] = protocols;
        let expected = server.run(whole, &conversation, Split::Whole);
        assert_eq!(server.run(random, &conversation, Split::Random(seed)), expected, "seed {seed}");
        assert_eq!(server.run(lent, &conversation, Split::Lent(seed)), expected, "seed {seed}");
        if conversation.len() < 5000 {
            assert_eq!(server.run(each, &conversation, Split::EachByte), expected, "seed {seed}");
        }
    }
}

#[test]
fn random_bytes_end_every_conversation_the_same_however_they_are_split() {
    let server = Server { message_bytes_max: 500, ..Server::new() };
    for seed in 1..=2000 {
        let mut dice = Dice::of(seed);
        let len = dice.below(400);
        let mut garbage = dice.bytes(len);
        if dice.below(2) == 0 {
            // Small values reach deeper: opcodes, short lengths, blanks and line ends.
            let few = [0x00, 0x01, 0x80, 0x81, 0x82, 0x89, 0xFF, b'\n'];
            garbage.iter_mut().for_each(|byte| *byte = few[*byte as usize % few.len()]);
        }
        server.hears(&garbage);
        for dialect in Versions::ALL {
            server.hears_open(dialect, &garbage);
        }
    }
}

// --- The server's side of the table ---------------------------------------------------------

/// What a conversation is held under.
struct Server {
    rules: Rules,
    message_bytes_max: usize,
    headers: &'static str,
    secure: bool,
}

impl Server {
    fn new() -> Self {
        Self {
            rules: Rules {
                versions: Versions::ALL.into_iter().fold(Versions::NONE, Versions::with),
                protocols: Vec::new(),
                origins: Origins::Any,
                head_bytes_max: 16 * 1024,
                deflate: DeflateRules::OFF,
            },
            message_bytes_max: 16 * 1024 * 1024,
            headers: "",
            secure: false,
        }
    }

    /// All that comes of these bytes, from the request on, the same in every split.
    fn hears(&self, wire: impl AsRef<[u8]>) -> Vec<Seen> {
        self.hears_from(Protocol::new, wire.as_ref())
    }

    /// All that comes of these bytes in a conversation already open.
    fn hears_open(&self, dialect: Dialect, wire: impl AsRef<[u8]>) -> Vec<Seen> {
        self.hears_from(|| Protocol { state: State::open(dialect, None) }, wire.as_ref())
    }

    fn hears_from(&self, start: impl Fn() -> Protocol, wire: &[u8]) -> Vec<Seen> {
        let whole = self.run(start(), wire, Split::Whole);
        for split in [
            Split::EachByte,
            Split::Random(1),
            Split::Random(2),
            Split::Random(3),
            Split::Lent(4),
            Split::Lent(5),
        ] {
            let seen = self.run(start(), wire, split);
            assert_eq!(seen, whole, "{split:?}");
        }
        // What is given on in pieces has no length, and so no limit.
        let is_limit = |seen: &Seen| matches!(seen, Seen::Violated(violation) if violation.is_limit());
        if !whole.iter().any(is_limit) {
            for split in [Split::Streamed(0), Split::Streamed(6), Split::Streamed(7)] {
                let seen = self.run(start(), wire, split);
                assert_eq!(seen, whole, "{split:?}");
            }
        }
        whole
    }

    fn run(&self, protocol: Protocol, wire: &[u8], split: Split) -> Vec<Seen> {
        let mut peer = Peer::new(self, protocol);
        match split {
            Split::Whole => peer.receive(wire),
            Split::EachByte => wire.iter().for_each(|byte| peer.receive(std::slice::from_ref(byte))),
            Split::Random(seed) => peer.receive_in_pieces(wire, Dice::of(seed), false),
            Split::Lent(seed) => peer.receive_in_pieces(wire, Dice::of(seed), true),
            Split::Streamed(seed) => {
                peer.streams = true;
                match seed {
                    0 => wire.iter().for_each(|byte| peer.receive(std::slice::from_ref(byte))),
                    _ => peer.receive_in_pieces(wire, Dice::of(seed), true),
                }
            }
        }
        peer.check_silence();
        peer.seen
    }

    /// The first byte at which these bytes fail, and how. All bytes before it together don't.
    fn fails_at(&self, start: impl Fn() -> Protocol, wire: &[u8]) -> Option<(usize, Seen)> {
        let mut peer = Peer::new(self, start());
        let index = wire.iter().position(|&byte| {
            peer.receive(&[byte]);
            peer.has_failed()
        })?;
        let mut before = Peer::new(self, start());
        before.receive(&wire[..index]);
        assert!(!before.has_failed(), "in one piece it fails before byte {index}");
        before.receive(&wire[index..=index]);
        let mut until = Peer::new(self, start());
        until.receive(&wire[..=index]);
        assert_eq!((&peer.seen, &peer.seen), (&before.seen, &until.seen));
        Some((index, peer.seen.pop().expect("a failure was seen")))
    }

    fn answer(&self, request: &Head) -> String {
        match &self.hears(request.bytes())[..] {
            [Seen::Asked(_), Seen::Answered(answer), ..] => answer.clone(),
            refused => panic!("{refused:?}"),
        }
    }
}

fn answer(request: &Head) -> String {
    Server::new().answer(request)
}

fn refusal(request: &Head) -> Refusal {
    match Server::new().hears(request.bytes())[..] {
        [Seen::Refused(refusal)] => refusal,
        ref accepted => panic!("{accepted:?}"),
    }
}

/// All that comes of these frames after the handshake, the same in all dialects that have them.
fn hears(frames: &[Frame]) -> Vec<Seen> {
    let [rfc, hybi08, hybi07] = HYBI.map(|dialect| {
        let mut seen = Server::new().hears([request(dialect).bytes(), wire(frames)].concat());
        assert_eq!(seen[0], Seen::Asked(dialect));
        seen.split_off(2)
    });
    assert_eq!((&rfc, &rfc), (&hybi08, &hybi07));
    rfc
}

/// The value of one line of an answer.
fn value_in<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut values =
        answer.split("\r\n").filter_map(|line| line.split_once(": ")).filter(|line| line.0 == name);
    let value = values.next().map(|line| line.1);
    assert_eq!(values.next(), None, "{name} twice in {answer}");
    value
}

fn protocol_in(answer: &str) -> Option<&str> {
    value_in(answer, "Sec-WebSocket-Protocol").or(value_in(answer, "WebSocket-Protocol"))
}

/// What came of the bytes, in a form that can be compared.
#[derive(Clone, PartialEq)]
enum Seen {
    /// The request was whole, and this dialect was offered and accepted.
    Asked(Dialect),
    Answered(String),
    /// The sixteen bytes of draft 76.
    Opened([u8; 16]),
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    Refused(Refusal),
    Violated(Violation),
}

impl Seen {
    fn message(kind: Kind, bytes: Vec<u8>) -> Self {
        match kind {
            Kind::Text => match String::from_utf8(bytes) {
                Ok(text) => Self::Text(text),
                Err(error) => panic!("a text that is none: {}", error.utf8_error()),
            },
            Kind::Binary => Self::Binary(bytes),
        }
    }
}

/// Short enough to be read when a test fails.
impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |bytes: &[u8]| {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
            format!("{shown:?}, {} bytes", bytes.len())
        };
        match self {
            Self::Asked(dialect) => write!(f, "Asked({dialect:?})"),
            Self::Answered(answer) => write!(f, "Answered({})", start(answer.as_bytes())),
            Self::Opened(answer) => write!(f, "Opened({answer:02x?})"),
            Self::Text(text) => write!(f, "Text({})", start(text.as_bytes())),
            Self::Binary(bytes) => write!(f, "Binary({})", start(bytes)),
            Self::Ping(bytes) => write!(f, "Ping({})", start(bytes)),
            Self::Pong(bytes) => write!(f, "Pong({})", start(bytes)),
            Self::Close(code, reason) => write!(f, "Close({code}, {reason:?})"),
            Self::Refused(refusal) => write!(f, "Refused({refusal:?})"),
            Self::Violated(violation) => write!(f, "Violated({violation:?})"),
        }
    }
}

fn said(text: &str) -> Seen {
    Seen::Text(text.to_string())
}

fn violated(violation: Violation) -> Seen {
    Seen::Violated(violation)
}

/// How the bytes of a conversation arrive.
#[derive(Clone, Copy, Debug)]
enum Split {
    Whole,
    EachByte,
    Random(u64),
    /// At random, and long frames through lent memory, from a pool with used buffers in it.
    Lent(u64),
    /// The same (0: each byte), and messages are given on as they come.
    Streamed(u64),
}

/// One conversation: a peer that speaks, and a server that accepts it if it may.
struct Peer<'s> {
    server: &'s Server,
    protocol: Protocol,
    pool: BufferPool,
    inflation: Inflation,
    keeps_buffers: bool,
    streams: bool,
    /// The message whose pieces are coming.
    begun: Option<(Kind, Vec<u8>)>,
    seen: Vec<Seen>,
    /// The head of the answer, byte for byte.
    sent: Vec<u8>,
}

impl<'s> Peer<'s> {
    fn new(server: &'s Server, protocol: Protocol) -> Self {
        Self {
            server,
            protocol,
            pool: BufferPool::default(),
            inflation: Inflation::default(),
            keeps_buffers: false,
            streams: false,
            begun: None,
            seen: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        if self.is_over() {
            return;
        }
        let mut bytes = bytes.to_vec();
        let mut asked = None;
        self.inflation.begin_turn();
        let is_deflated = self.protocol.deflate().is_some();
        // Whoever gives used buffers away also delivers while it receives, as the engine can.
        let delivering = self.keeps_buffers.then(|| self.inflation.memory.clone());
        let mut context = Context {
            streams: self.streams,
            message_bytes_max: self.server.message_bytes_max,
            fragments_max: 1 << 17,
            pool: &mut self.pool,
            inflation: &mut self.inflation,
        };
        let mut incoming_events = Vec::new();
        let len = bytes.len();
        let flow =
            self.protocol.receive(
                &mut bytes,
                &self.server.rules,
                &mut context,
                &mut |incoming| match incoming {
                    Incoming::Request { request, offer } => asked = Some((request, offer)),
                    incoming => incoming_events.push(incoming),
                },
            );
        drop(delivering);
        let inflated = self.inflation.memory.clone();
        for incoming in incoming_events {
            if let Incoming::Fragment { kind, payload, fin } = incoming {
                let payload = payload.as_slice(inflated.as_slice());
                assert!(
                    self.streams && (payload.len() <= len || is_deflated) && (fin || !payload.is_empty())
                );
                let begun = self.begun.get_or_insert_with(|| (kind, Vec::new()));
                assert_eq!(begun.0, kind);
                begun.1.extend_from_slice(payload);
                let ended = self.begun.take_if(|_| fin);
                self.seen.extend(ended.map(|(kind, bytes)| Seen::message(kind, bytes)));
            } else {
                let pool = self.keeps_buffers.then_some(&mut self.pool);
                Self::note(incoming, &mut self.seen, pool, inflated.as_slice(), is_deflated);
            }
        }
        drop(inflated);
        if let Ok(Flow::Full { left }) = flow {
            return self.receive(&bytes[len - left..]);
        }
        self.note_flow(flow);
        if let Some((request, offer)) = asked {
            self.decide(&request, offer);
        }
    }

    fn decide(&mut self, request: &Request, offer: Result<Offer, Refusal>) {
        match offer {
            Ok(offer) => {
                let protocol = handshake::choose_protocol(request, offer.dialect, &self.server.rules);
                let accepted = self
                    .protocol
                    .accept(offer, protocol.as_deref(), self.server.headers, self.server.secure)
                    .unwrap();
                assert_eq!(accepted.is_open, offer.dialect != Dialect::Hixie76);
                assert_eq!(self.protocol.dialect(), accepted.is_open.then_some(offer.dialect));
                self.seen.push(Seen::Asked(offer.dialect));
                let answer = String::from_utf8_lossy(&accepted.response).into_owned();
                self.seen.push(Seen::Answered(answer));
                self.sent = accepted.response;
                self.receive(&accepted.backlog);
            }
            Err(refusal) => {
                self.protocol.refuse();
                self.seen.push(Seen::Refused(refusal));
            }
        }
    }

    fn receive_in_pieces(&mut self, mut wire: &[u8], mut dice: Dice, lent: bool) {
        self.keeps_buffers = lent;
        if lent {
            self.pool.give_back(Buffer::from(vec![0xAA; 40_000]));
        }
        while !wire.is_empty() && !self.is_over() {
            let most = [3, 20, 400, 50_000][dice.below(4)];
            let (piece, rest) = wire.split_at(wire.len().min(1 + dice.below(most)));
            self.receive(piece);
            wire = rest;
            while lent && !wire.is_empty() && dice.below(8) > 0 {
                let Some((mut buffer, len)) = self.lend() else { break };
                // Nothing may have come at all.
                let len = dice.below(len.min(wire.len()) + 1);
                let (piece, rest) = wire.split_at(len);
                buffer.room(len, 0).expect("the room was lent")[..len].copy_from_slice(piece);
                self.receive_lent(buffer, len);
                wire = rest;
            }
        }
    }

    fn lend(&mut self) -> Option<(Buffer, usize)> {
        self.protocol.lend()
    }

    fn receive_lent(&mut self, buffer: Buffer, len: usize) {
        let mut incoming_events = Vec::new();
        let flow = self.protocol.receive_lent(buffer, len, &mut |incoming| incoming_events.push(incoming));
        for incoming in incoming_events {
            let pool = self.keeps_buffers.then_some(&mut self.pool);
            Self::note(incoming, &mut self.seen, pool, &[], false);
        }
        self.note_flow(flow);
    }

    fn note(
        incoming: Incoming<'_>,
        seen: &mut Vec<Seen>,
        pool: Option<&mut BufferPool>,
        inflated: &[u8],
        is_deflated: bool,
    ) {
        seen.push(match incoming {
            Incoming::Request { .. } | Incoming::Body(_) | Incoming::Announced(_) => {
                panic!("decided, not noted")
            }
            Incoming::Opened { answer } => Seen::Opened(answer),
            Incoming::Message { kind, payload } => {
                let bytes = payload.as_slice(inflated).to_vec();
                match (payload, pool) {
                    (Payload::Owned(buffer), Some(pool)) => pool.give_back(buffer),
                    (Payload::Owned(buffer), None) => {
                        assert!(
                            is_deflated || buffer.capacity() <= 2 * buffer.len(),
                            "{} for {}",
                            buffer.capacity(),
                            buffer.len()
                        );
                    }
                    (Payload::Borrowed(_) | Payload::Inflated { .. }, _) => {}
                }
                Seen::message(kind, bytes)
            }
            Incoming::Fragment { .. } => unreachable!("put together, not noted"),
            Incoming::Ping(payload) => Seen::Ping(payload.as_slice().to_vec()),
            Incoming::Pong(payload) => Seen::Pong(payload.as_slice().to_vec()),
            Incoming::Close(frame) => {
                let reason = String::from_utf8(frame.reason().to_vec()).expect("a reason is checked");
                Seen::Close(frame.code().0, reason)
            }
        });
    }

    fn note_flow(&mut self, flow: Result<Flow, Failure>) {
        let has_closed = matches!(self.seen.last(), Some(Seen::Close(..)));
        match flow {
            Ok(flow) => assert_eq!(flow == Flow::Closed, has_closed, "{:?}", self.seen.last()),
            Err(Failure::Proxy(error)) => panic!("there is no proxy: {error}"),
            Err(Failure::Request(refusal)) => self.seen.push(Seen::Refused(refusal)),
            Err(Failure::Peer(violation)) => self.seen.push(Seen::Violated(violation)),
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.seen.last(), Some(Seen::Refused(_) | Seen::Violated(_)))
    }

    fn is_over(&self) -> bool {
        self.has_failed() || matches!(self.seen.last(), Some(Seen::Close(..)))
    }

    /// After its end a conversation says nothing more, whatever comes.
    fn check_silence(&mut self) {
        if !self.is_over() {
            return;
        }
        let mut more = [request(Dialect::Rfc6455).bytes(), text("more").bytes(), hixie("more")].concat();
        let mut context = Context {
            streams: false,
            message_bytes_max: 1000,
            fragments_max: 1 << 17,
            pool: &mut self.pool,
            inflation: &mut self.inflation,
        };
        let flow = self.protocol.receive(&mut more, &self.server.rules, &mut context, &mut |late| {
            panic!("{late:?} after the end");
        });
        assert_eq!(flow, Ok(Flow::Closed));
        assert_eq!(self.protocol.dialect(), None);
        assert!(self.protocol.lend().is_none());
    }
}

// --- The peer's side: its requests ----------------------------------------------------------

/// A request, to be changed one line at a time.
#[derive(Clone)]
struct Head {
    lines: Vec<String>,
    body: &'static [u8],
}

/// A good request in each dialect: the example of its specification.
fn request(dialect: Dialect) -> Head {
    let (own_lines, body): (&[&str], &[u8]) = match dialect {
        Dialect::Rfc6455 => {
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"], b"")
        }
        Dialect::HyBi08 => {
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 8"], b"")
        }
        Dialect::HyBi07 => {
            (&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 7"], b"")
        }
        Dialect::Hixie76 => (
            &[
                "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00",
                "Sec-WebSocket-Protocol: sample",
                "Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5",
                "Origin: http://example.com",
            ],
            b"^n:ds[4U",
        ),
        Dialect::Hixie75 => (&["WebSocket-Protocol: sample", "Origin: http://example.com"], b""),
    };
    let lines = ["GET /demo HTTP/1.1", "Host: example.com", "Upgrade: WebSocket", "Connection: Upgrade"];
    Head { lines: lines.iter().chain(own_lines).map(|line| line.to_string()).collect(), body }
}

impl Head {
    fn without(&self, name: &str) -> Self {
        let is_named =
            |line: &str| line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name));
        Self { lines: self.lines.iter().filter(|line| !is_named(line)).cloned().collect(), body: self.body }
    }

    /// With this line in the place of those of its name.
    fn with(&self, line: &str) -> Self {
        let (name, _) = line.split_once(':').expect("a header line");
        self.without(name).and(line)
    }

    /// With this line beside those of its name.
    fn and(&self, line: &str) -> Self {
        let mut request = self.clone();
        request.lines.push(line.to_string());
        request
    }

    fn begun_by(&self, line: &str) -> Self {
        let mut request = self.clone();
        request.lines[0] = line.to_string();
        request
    }

    fn without_body(&self) -> Self {
        Self { body: b"", ..self.clone() }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = format!("{}\r\n\r\n", self.lines.join("\r\n"));
        [head.as_bytes(), self.body].concat()
    }
}

// --- The peer's side: its frames, encoded from the RFC and not from our own code -------------

#[derive(Clone)]
struct Frame {
    first: u8,
    mask: [u8; 4],
    payload: Vec<u8>,
}

fn text(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0x81, payload)
}

fn binary(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0x82, payload)
}

/// The last fragment, unless it is `not_final`.
fn continuation(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0x80, payload)
}

fn ping(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0x89, payload)
}

fn pong(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0x8A, payload)
}

fn close(code: u16, reason: &str) -> Frame {
    Frame::new(0x88, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

impl Frame {
    fn new(first: u8, payload: impl AsRef<[u8]>) -> Self {
        Self { first, mask: [0x37, 0xFA, 0x21, 0x3D], payload: payload.as_ref().to_vec() }
    }

    fn not_final(self) -> Self {
        Self { first: self.first & 0x7F, ..self }
    }

    fn begun_by(self, first: u8) -> Self {
        Self { first, ..self }
    }

    fn masked_with(self, mask: [u8; 4]) -> Self {
        Self { mask, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.payload.len();
        let mut bytes = vec![self.first];
        if len < 126 {
            bytes.push(0x80 + len as u8);
        } else if len < 65_536 {
            bytes.extend([0x80 + 126, (len / 256) as u8, (len % 256) as u8]);
        } else {
            bytes.push(0x80 + 127);
            bytes.extend((0..8).rev().map(|place| (len as u64 >> (8 * place)) as u8));
        }
        bytes.extend(self.mask);
        bytes.extend(self.payload.iter().zip(self.mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

fn wire(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::bytes).collect()
}

fn hixie(text: &str) -> Vec<u8> {
    [&[0x00], text.as_bytes(), &[0xFF]].concat()
}

/// A valid conversation, and what a server must hear of it.
fn random_conversation(dice: &mut Dice) -> (Vec<u8>, Vec<Seen>) {
    let mut frames = Vec::new();
    let mut expected = Vec::new();
    for _ in 0..dice.below(6) {
        if dice.below(4) == 0 {
            random_control(dice, &mut frames, &mut expected);
            continue;
        }
        let len = [0, 1, 10, 124 + dice.below(5), 600, 65_533 + dice.below(6)][dice.unevenly_below(6)];
        let is_text = dice.below(2) == 0;
        let payload = if is_text { dice.text(len).into_bytes() } else { dice.bytes(len) };
        let mut first = if is_text { 0x01 } else { 0x02 };
        let mut rest = &payload[..];
        let fragments = if dice.below(2) == 0 { 0 } else { dice.below(5) };
        for _ in 0..fragments {
            let (fragment, after) = rest.split_at(dice.below(rest.len() + 1));
            frames.push(Frame::new(first, fragment).masked_with(dice.mask()));
            rest = after;
            first = 0;
            if dice.below(3) == 0 {
                random_control(dice, &mut frames, &mut expected);
            }
        }
        frames.push(Frame::new(0x80 | first, rest).masked_with(dice.mask()));
        expected.push(match is_text {
            true => Seen::Text(String::from_utf8(payload).expect("made of characters")),
            false => Seen::Binary(payload),
        });
    }
    if dice.below(2) == 0 {
        let code = [1000, 1001, 1011, 3000, 4999][dice.below(5)];
        let reason = dice.text(20);
        frames.push(close(code, &reason).masked_with(dice.mask()));
        expected.push(Seen::Close(code, reason));
        frames.push(text("too late"));
    }
    (wire(&frames), expected)
}

fn random_control(dice: &mut Dice, frames: &mut Vec<Frame>, expected: &mut Vec<Seen>) {
    let len = [0, 4, 125][dice.below(3)];
    let payload = dice.bytes(len);
    let is_ping = dice.below(2) == 0;
    frames.push(if is_ping { ping(&payload) } else { pong(&payload) }.masked_with(dice.mask()));
    expected.push(if is_ping { Seen::Ping(payload) } else { Seen::Pong(payload) });
}

/// Chance from a seed (xorshift64*), the same on every machine.
struct Dice(u64);

impl Dice {
    /// Neighbouring seeds must not give like conversations.
    fn of(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// The later, the rarer.
    fn unevenly_below(&mut self, limit: usize) -> usize {
        let first = self.below(limit);
        let second = self.below(limit);
        first.min(second)
    }

    fn mask(&mut self) -> [u8; 4] {
        (self.next() as u32).to_be_bytes()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Characters of every length in UTF-8, also the first and last of each, in at most `len_max` bytes.
    fn text(&mut self, len_max: usize) -> String {
        const CHARACTERS: [char; 12] = [
            'a',
            'b',
            '\0',
            '\u{7F}',
            '\u{80}',
            '\u{7FF}',
            '\u{800}',
            '\u{D7FF}',
            '\u{E000}',
            '\u{FFFF}',
            '\u{10000}',
            '\u{10FFFF}',
        ];
        let mut text = String::new();
        while text.len() + 4 <= len_max {
            text.push(CHARACTERS[self.below(12)]);
        }
        text
    }
}

const HYBI: [Dialect; 3] = [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07];
const HIXIE: [Dialect; 2] = [Dialect::Hixie76, Dialect::Hixie75];

/// "fifteen bytes!!" in base64.
const KEY_OF_15_BYTES: &str = "ZmlmdGVlbiBieXRlcyEh";

/// MD5 of 00000004 00000003, then 00 FF 00 FF CR LF CR LF.
const MD5_OF_4_AND_3_AND_BODY: [u8; 16] =
    [0x6E, 0xE4, 0x28, 0x52, 0x04, 0xCC, 0xED, 0x4F, 0x60, 0xE9, 0xC5, 0x02, 0xB6, 0xE1, 0xC9, 0xF2];
/// MD5 of FFFFFFFF 00000000, then "12345678".
const MD5_OF_LARGEST_ZERO_AND_12345678: [u8; 16] =
    [0xF4, 0x6C, 0x03, 0x81, 0x09, 0x46, 0x8E, 0xD8, 0x26, 0xF3, 0x0C, 0xD8, 0x1D, 0x62, 0x35, 0x7A];
