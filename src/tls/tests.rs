//! Sessions with rustls's own client at the other end, however the bytes between them are cut, and
//! what certificates are shown to whom.

use std::io::{Read, Write};
use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme,
    SupportedProtocolVersion,
};

use super::*;

const BOTH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

// --- Bytes between the two -----------------------------------------------------------------

#[test]
fn a_handshake_and_messages_hold_when_every_byte_comes_alone() {
    for version in BOTH {
        let mut pair = Pair::new(&acceptor(), client(version));
        pair.piece_bytes = 1;
        pair.exchange().unwrap();
        assert!(pair.server.is_established() && !pair.client.is_handshaking());
        pair.client_says(b"from the client");
        pair.server_says(b"from the server");
        pair.exchange().unwrap();
        assert_eq!(pair.server_heard, b"from the client");
        assert_eq!(pair.client_heard, b"from the server");
    }
}

#[test]
fn records_are_opened_wherever_they_are_cut_and_however_many_come_at_once() {
    for version in BOTH {
        let mut len = 1;
        let mut at = 0;
        while at < len {
            let mut pair = Pair::established(version);
            for words in ["one", "", "two and", "three"] {
                pair.client_says(words.as_bytes());
            }
            let bytes = std::mem::take(&mut pair.up);
            len = bytes.len();
            // The second cut goes through all the others around the first.
            let (first, rest) = bytes.split_at(at);
            let (second, third) = rest.split_at((at * 7 % 11).min(rest.len()));
            for piece in [first, second, third] {
                pair.server_reads(piece).unwrap();
            }
            assert_eq!(pair.server_heard, b"onetwo andthree", "cut at {at}");
            assert_eq!(pair.server.partial.capacity(), 0, "cut at {at}");
            at += 1;
        }
    }
}

#[test]
fn payloads_of_any_length_come_whole_in_both_directions() {
    for version in BOTH {
        let mut pair = Pair::established(version);
        for len in [0, 1, 16_384, 16_385, 200_000] {
            let payload: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            pair.client_says(&payload);
            pair.server_says(&payload);
            pair.exchange().unwrap();
            assert!(std::mem::take(&mut pair.server_heard) == payload, "{len} bytes to the server");
            assert!(std::mem::take(&mut pair.client_heard) == payload, "{len} bytes to the client");
        }
    }
}

#[test]
fn a_hello_in_records_of_a_byte_each_is_one_hello() {
    for at_once in [1, 5, 6, 7, 100, usize::MAX] {
        let mut pair = Pair::new(&acceptor(), client(&TLS13));
        let hello = std::mem::take(&mut pair.up);
        let records: Vec<u8> = hello[RECORD_HEAD_BYTES..]
            .iter()
            .flat_map(|&byte| [hello[0], hello[1], hello[2], 0, 1, byte])
            .collect();
        for piece in records.chunks(at_once) {
            pair.server_reads(piece).unwrap();
        }
        pair.exchange().unwrap();
        assert!(pair.server.is_established());
        assert_eq!(pair.server.partial.capacity(), 0);
    }
}

#[test]
fn the_server_can_speak_while_half_a_message_of_the_handshake_has_come() {
    // Of a KeyUpdate, which is sealed as everything is, only a server of TLS 1.3 can be sent one.
    let mut pair = Pair::established(&TLS13);
    pair.client.refresh_traffic_keys().unwrap();
    pair.client_writes();
    pair.client_says(b"with new keys");
    let bytes = std::mem::take(&mut pair.up);
    for &byte in &bytes {
        pair.server_reads(&[byte]).unwrap();
        pair.server_says(b".");
    }
    pair.exchange().unwrap();
    assert_eq!(pair.server_heard, b"with new keys");
    assert_eq!(pair.client_heard, vec![b'.'; bytes.len()]);
}

#[test]
fn an_error_with_more_messages_behind_it_is_an_error_like_any_other() {
    // Three messages of one record; a server takes none of the first kind.
    let messages = [0x16, 3, 3, 0, 12, 0x02, 0, 0, 0, 0x0B, 0, 0, 0, 0x14, 0, 0, 0];
    for piece_bytes in [1, 7, messages.len()] {
        let mut pair = Pair::new(&acceptor(), client(&TLS13));
        let result = messages.chunks(piece_bytes).try_for_each(|piece| pair.server_reads(piece));
        assert!(matches!(result, Err(TlsError::Protocol(_))), "{result:?}");
        assert_eq!(pair.down.first(), Some(&0x15));
        let mut more = Vec::new();
        assert_eq!(pair.server.seal(b"more", &mut more), Err(TlsError::Closed));
        assert_eq!(pair.server.close(&mut more), Err(TlsError::Closed));
        assert_eq!(more, b"");
    }
}

#[test]
fn what_was_postponed_is_looked_at_when_its_turn_comes() {
    for version in BOTH {
        for at_once in [1, 60, usize::MAX] {
            let mut pair = Pair::new(&acceptor(), client(version));
            let hello = std::mem::take(&mut pair.up);
            let (first, last) = hello.split_at(100);
            for piece in first.chunks(at_once) {
                pair.server.postpone(piece).unwrap();
            }
            assert!(pair.server.is_postponed() && !pair.server.is_untouched());
            // Half of it is not enough for an answer; the rest comes as it likes.
            pair.server_reads(&[]).unwrap();
            assert!(!pair.server.is_postponed() && pair.down.is_empty());
            pair.server.postpone(last).unwrap();
            pair.server_reads(&[]).unwrap();
            assert!(!pair.down.is_empty());
            pair.exchange().unwrap();
            assert!(pair.server.is_established());
            assert_eq!(pair.server.partial.capacity(), 0);
        }
    }
}

#[test]
fn what_comes_after_something_postponed_is_read_behind_it() {
    let mut pair = Pair::new(&acceptor(), client(&TLS13));
    let hello = std::mem::take(&mut pair.up);
    pair.server.postpone(&hello[..50]).unwrap();
    pair.server_reads(&hello[50..]).unwrap();
    pair.exchange().unwrap();
    assert!(pair.server.is_established());
}

#[test]
fn an_idle_session_keeps_no_bytes() {
    for version in BOTH {
        let mut pair = Pair::established(version);
        assert_eq!(pair.server.partial.capacity(), 0);
        pair.client_says(b"hello");
        let bytes = std::mem::take(&mut pair.up);
        pair.server_reads(&bytes[..20]).unwrap();
        assert_eq!(pair.server.partial.len(), 20);
        pair.server_reads(&bytes[20..]).unwrap();
        assert_eq!(pair.server.partial.capacity(), 0);
    }
}

// --- Ends and errors -----------------------------------------------------------------------

#[test]
fn the_server_says_that_nothing_more_comes_and_says_nothing_more() {
    for version in BOTH {
        let mut pair = Pair::established(version);
        pair.server_says(b"last words");
        pair.server.close(&mut pair.down).unwrap();
        let mut more = Vec::new();
        assert_eq!(pair.server.seal(b"more", &mut more), Err(TlsError::Closed));
        assert_eq!(pair.server.close(&mut more), Err(TlsError::Closed));
        assert_eq!(more, b"");
        pair.exchange().unwrap();
        assert_eq!(pair.client_heard, b"last words");
        assert!(pair.has_client_heard_the_end());
        assert!(!pair.server.is_peer_done());
    }
}

#[test]
fn a_client_that_says_that_nothing_more_comes_still_hears_answers() {
    for version in BOTH {
        let mut pair = Pair::established(version);
        pair.client_says(b"last words");
        pair.client.send_close_notify();
        pair.exchange().unwrap();
        assert_eq!(pair.server_heard, b"last words");
        assert!(pair.server.is_peer_done());
        pair.server_says(b"answer");
        pair.server.close(&mut pair.down).unwrap();
        pair.exchange().unwrap();
        assert_eq!(pair.client_heard, b"answer");
        assert!(pair.has_client_heard_the_end());
    }
}

#[test]
fn nothing_can_be_sealed_before_the_handshake_is_done() {
    let mut pair = Pair::new(&acceptor(), client(&TLS13));
    let mut sealed = Vec::new();
    assert!(pair.server.is_untouched());
    assert_eq!(pair.server.seal(b"too early", &mut sealed), Err(TlsError::Closed));
    assert_eq!(pair.server.close(&mut sealed), Err(TlsError::Closed));
    assert_eq!(sealed, b"");
    pair.exchange().unwrap();
    pair.server_says(b"now");
    pair.exchange().unwrap();
    assert_eq!(pair.client_heard, b"now");
}

#[test]
fn what_is_no_tls_is_an_error_and_an_alert() {
    for (garbage, looks_like_tls) in [
        (&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], false),
        (b"\x80\x2E\x01\0\x02\0\x15\0\0\0\x10", true),
        (b"\x16\x03\x01\0\x05\x0B\0\0\x01\0", true),
        (b"\x17\x03\x03\0\x05early", true),
        (b"\0\0\0\0\0\0\0\0", true),
    ] {
        for piece_bytes in [1, garbage.len()] {
            let mut pair = Pair::new(&acceptor(), client(&TLS13));
            assert_eq!(TlsSession::begins_with(garbage), looks_like_tls);
            let result = garbage.chunks(piece_bytes).try_for_each(|piece| pair.server_reads(piece));
            assert!(matches!(result, Err(TlsError::Protocol(_))), "{garbage:?}: {result:?}");
            assert_eq!(pair.down.first(), Some(&0x15), "{garbage:?}: {:?}", pair.down);
        }
    }
}

#[test]
fn a_record_that_was_changed_on_its_way_is_an_error_that_the_client_hears_of() {
    for version in BOTH {
        let mut pair = Pair::established(version);
        pair.client_says(b"right");
        pair.exchange().unwrap();
        pair.client_says(b"changed");
        *pair.up.last_mut().unwrap() ^= 1;
        assert_eq!(pair.exchange(), Err(Trouble::Server(TlsError::Protocol(rustls::Error::DecryptError))));
        assert_eq!(pair.server_heard, b"right");
        let alert = rustls::Error::AlertReceived(AlertDescription::BadRecordMac);
        assert_eq!(pair.exchange(), Err(Trouble::Client(alert)));
    }
}

#[test]
fn a_record_longer_than_any_can_be_is_refused_by_its_head() {
    for len in [SEALED_BYTES_MAX + 1, usize::from(u16::MAX)] {
        let [high, low] = (len as u16).to_be_bytes();
        let head = [0x17, 3, 3, high, low, 0];
        for piece_bytes in [1, head.len()] {
            for is_established in [false, true] {
                let mut pair = Pair::new(&acceptor(), client(&TLS12));
                if is_established {
                    pair.exchange().unwrap();
                }
                let result = head.chunks(piece_bytes).try_for_each(|piece| pair.server_reads(piece));
                assert!(result.is_err(), "{len} bytes, in pieces of {piece_bytes}");
                let mut more = Vec::new();
                assert_eq!(pair.server.seal(b"more", &mut more), Err(TlsError::Closed));
                assert_eq!(pair.server.close(&mut more), Err(TlsError::Closed));
            }
        }
    }
}

#[test]
fn nothing_is_sealed_once_the_head_of_such_a_record_has_come() {
    for version in BOTH {
        let mut pair = Pair::established(version);
        for byte in [0x17, 3, 3, 0xFF, 0xFF] {
            pair.server_reads(&[byte]).unwrap();
        }
        let mut more = Vec::new();
        assert!(pair.server.seal(b"more", &mut more).is_err());
        assert_eq!(pair.server.seal(b"more", &mut more), Err(TlsError::Closed));
        assert_eq!(pair.server.close(&mut more), Err(TlsError::Closed));
        assert_eq!(more, b"");
    }
}

#[test]
fn what_is_kept_has_a_limit() {
    let mut session = TlsSession::new(&acceptor()).unwrap();
    session.postpone(&[0x16; PARTIAL_BYTES_MAX]).unwrap();
    assert_eq!(session.postpone(&[0x16]), Err(TlsError::TooBig));
    assert_eq!(session.partial.len(), PARTIAL_BYTES_MAX);
}

// --- What is agreed on ---------------------------------------------------------------------

#[test]
fn a_client_that_comes_again_takes_up_its_session() {
    for version in BOTH {
        let (acceptor, config) = (acceptor(), client(version));
        for (visit, kind) in
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed].into_iter().enumerate()
        {
            let mut pair = Pair::new(&acceptor, config.clone());
            pair.exchange().unwrap();
            pair.client_says(b"hello");
            pair.server_says(b"welcome");
            pair.exchange().unwrap();
            assert_eq!((&pair.server_heard[..], &pair.client_heard[..]), (&b"hello"[..], &b"welcome"[..]));
            assert_eq!(pair.client.handshake_kind(), Some(kind), "visit {visit} in {:?}", version.version);
        }
    }
}

#[test]
fn the_version_is_known_and_an_old_one_can_be_refused() {
    for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let pair = Pair::established(version);
        assert_eq!(pair.server.facts().version, name);
        assert_eq!(pair.server.facts().subject, None);
    }
    let acceptor = Acceptor::new(shown(&[&OURS]), OldestVersion::Tls13, ClientAuth::None, None).unwrap();
    let mut pair = Pair::new(&acceptor, client(&TLS12));
    assert!(matches!(pair.exchange(), Err(Trouble::Server(TlsError::Protocol(_)))));
    let alert = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
    assert_eq!(pair.exchange(), Err(Trouble::Client(alert)));
    let mut pair = Pair::new(&acceptor, client(&TLS13));
    pair.exchange().unwrap();
    assert_eq!(pair.server.facts().version, "1.3");
}

#[test]
fn http_1_1_is_the_protocol_inside_or_nobody_says() {
    for version in BOTH {
        for (offered, chosen) in [
            (&[][..], Ok(None)),
            (&["http/1.1"], Ok(Some(&b"http/1.1"[..]))),
            (&["h2", "http/1.1"], Ok(Some(b"http/1.1"))),
            (&["h2"], Err(AlertDescription::NoApplicationProtocol)),
        ] {
            let mut config = ClientConfig::clone(&client(version));
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let mut pair = Pair::new(&acceptor(), Arc::new(config));
            let result = pair.exchange();
            match chosen {
                Ok(chosen) => {
                    result.unwrap();
                    assert_eq!(pair.client.alpn_protocol(), chosen, "of {offered:?}");
                }
                Err(alert) => {
                    assert!(matches!(result, Err(Trouble::Server(_))), "{result:?}");
                    let heard = Trouble::Client(rustls::Error::AlertReceived(alert));
                    assert_eq!(pair.exchange(), Err(heard));
                }
            }
        }
    }
}

// --- Certificates by name ------------------------------------------------------------------

#[test]
fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    let first = Made::with_names(&["first.example"]);
    let exact = Made::with_names(&["a.example", "www.a.example"]);
    let wildcard = Made::with_names(&["*.b.example"]);
    let both = Made::with_names(&["x.b.example"]);
    let certificates = shown(&[&first, &exact, &wildcard, &both]);
    let acceptor = Acceptor::new(certificates.clone(), OldestVersion::Tls12, ClientAuth::None, None).unwrap();
    for (name, expected) in [
        ("first.example", &first),
        ("a.example", &exact),
        ("www.a.example", &exact),
        ("WWW.A.Example", &exact),
        ("y.b.example", &wildcard),
        ("Y.B.EXAMPLE", &wildcard),
        ("x.b.example", &both),
        // "The wildcard character … matches only one label" (RFC 9525, 6.3).
        ("z.y.b.example", &first),
        ("b.example", &first),
        ("nobody.example", &first),
    ] {
        assert_eq!(certificates.find(Some(name)).unwrap().cert[0], expected.der, "{name}");
        for version in BOTH {
            let mut pair = Pair::asking_for(name, &acceptor, client(version));
            pair.exchange().unwrap();
            assert_eq!(pair.client.peer_certificates().unwrap()[0], expected.der, "{name}");
        }
    }
    // An address is no name.
    let mut pair = Pair::asking_for("192.0.2.1", &acceptor, client(&TLS13));
    pair.exchange().unwrap();
    assert_eq!(pair.client.peer_certificates().unwrap()[0], first.der);
}

#[test]
fn the_first_certificate_for_a_name_is_the_one_that_is_shown() {
    let (first, second) = (Made::with_names(&["a.example"]), Made::with_names(&["a.example", "b.example"]));
    let certificates = shown(&[&first, &second]);
    assert_eq!(certificates.find(Some("a.example")).unwrap().cert[0], first.der);
    assert_eq!(certificates.find(Some("b.example")).unwrap().cert[0], second.der);
    assert!(!certificates.is_empty() && Certificates::default().is_empty());
}

#[test]
fn a_certificate_is_replaced_for_its_name_and_who_is_connected_keeps_the_old_one() {
    for version in BOTH {
        let (old, other, new) = (
            Made::with_names(&["a.example"]),
            Made::with_names(&["b.example"]),
            Made::with_names(&["c.example"]),
        );
        let certificates = shown(&[&old, &other]);
        let acceptor =
            Acceptor::new(certificates.clone(), OldestVersion::Tls12, ClientAuth::None, None).unwrap();
        let shown_for = |name| {
            let mut pair = Pair::asking_for(name, &acceptor, client(version));
            pair.exchange().unwrap();
            pair.client.peer_certificates().unwrap()[0].clone()
        };
        let mut connected = Pair::asking_for("b.example", &acceptor, client(version));
        connected.exchange().unwrap();

        certificates.replace(Some("B.example"), &new.read());
        assert_eq!(shown_for("b.example"), new.der);
        assert_eq!(shown_for("a.example"), old.der);
        assert_eq!(shown_for("c.example"), old.der, "it is for the name that was said");

        certificates.replace(Some("*.d.example"), &other.read());
        assert_eq!(shown_for("x.d.example"), other.der);

        let newest = Made::with_names(&["b.example", "e.example"]);
        certificates.replace(None, &newest.read());
        for name in ["a.example", "b.example", "e.example", "nobody.example"] {
            assert_eq!(shown_for(name), newest.der, "{name}");
        }
        assert_eq!(shown_for("x.d.example"), other.der);

        assert_eq!(connected.client.peer_certificates().unwrap()[0], other.der);
        connected.client_says(b"still here");
        connected.server_says(b"so am I");
        connected.exchange().unwrap();
        assert_eq!(connected.server_heard, b"still here");
        assert_eq!(connected.client_heard, b"so am I");
    }
}

#[test]
fn a_certificate_without_alternative_names_is_for_its_subject() {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named("Old.Example");
    let old = Made::from(parameters, None);
    let certificates = shown(&[&OURS, &old]);
    assert_eq!(certificates.find(Some("old.example")).unwrap().cert[0], old.der);
}

#[test]
fn what_is_wrong_with_a_certificate_or_its_key_is_said() {
    let mut parameters = CertificateParams::new(["a.example".to_string()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let (good, other) = (Made::from(parameters, None), Made::with_names(&["a.example"]));
    let not_pem = b"nonsense".to_vec();
    let no_base64 = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n".to_vec();
    let no_der = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n".to_vec();
    let locked = good.key_pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY").into_bytes();
    let no_key = good.key_pem.lines().enumerate().map(|(i, line)| if i == 1 { "AAAA" } else { line });
    let no_key = no_key.collect::<Vec<_>>().join("\n").into_bytes();
    let pem = good.pem.clone().into_bytes();
    let key = good.key_pem.clone().into_bytes();
    for (certificate, private_key, now, is_key, words) in [
        (&not_pem, &key, NOW, false, "not PEM: there is no certificate in it"),
        (&key, &key, NOW, false, "not PEM: there is no certificate in it"),
        (&no_base64, &key, NOW, false, "not PEM: "),
        (&no_der, &key, NOW, false, "the certificate can't be read: "),
        (&pem, &not_pem, NOW, true, "not PEM, or encrypted: there is no private key in it that can be used"),
        (&pem, &pem, NOW, true, "not PEM, or encrypted: "),
        (&pem, &locked, NOW, true, "not PEM, or encrypted: "),
        (&pem, &no_key, NOW, true, "the private key can't be used"),
        (
            &pem,
            &other.key_pem.clone().into_bytes(),
            NOW,
            true,
            "the private key does not match the certificate",
        ),
        (&pem, &key, YEAR_2031, false, "expired on "),
        (&pem, &key, YEAR_2019, false, "not valid before "),
    ] {
        let error = Certificate::from_pem(certificate, private_key, now).expect_err(words);
        assert!(error.to_string().starts_with(words), "{error} is not: {words}");
        assert_eq!(matches!(error, CertificateError::Key(_)), is_key, "{words}");
    }
    assert!(Certificate::from_pem(&pem, &key, NOW).is_ok());
}

// --- Certificates of clients ---------------------------------------------------------------

#[test]
fn a_client_shows_its_certificate_if_it_must_or_may_and_only_a_good_one() {
    let authority = Authority::new("Ours");
    let (ann, stranger) = (authority.sign("Ann"), Authority::new("Another").sign("Ann"));
    for version in BOTH {
        for (asked, shown_one, subject) in [
            (ClientAuth::None, None, Ok(None)),
            (ClientAuth::None, Some(&ann), Ok(None)),
            (ClientAuth::Want, None, Ok(None)),
            (ClientAuth::Want, Some(&ann), Ok(Some("CN=Ann,O=Guests"))),
            (ClientAuth::Want, Some(&stranger), Err(AlertDescription::UnknownCA)),
            (ClientAuth::Need, None, Err(AlertDescription::CertificateRequired)),
            (ClientAuth::Need, Some(&ann), Ok(Some("CN=Ann,O=Guests"))),
            (ClientAuth::Need, Some(&stranger), Err(AlertDescription::UnknownCA)),
        ] {
            let case = format!("{asked:?} in {:?}, with one: {}", version.version, shown_one.is_some());
            let ca = Some(authority.certificate.pem.as_bytes());
            let acceptor = Acceptor::new(shown(&[&OURS]), OldestVersion::Tls12, asked, ca).unwrap();
            let mut pair = Pair::new(&acceptor, client_with(version, shown_one));
            let result = pair.exchange();
            match subject {
                Ok(subject) => {
                    result.unwrap();
                    assert_eq!(pair.server.facts().subject.as_deref(), subject, "{case}");
                    pair.server_says(b"welcome");
                    pair.exchange().unwrap();
                    assert_eq!(pair.client_heard, b"welcome");
                }
                Err(alert) => {
                    assert!(
                        matches!(result, Err(Trouble::Server(TlsError::Protocol(_)))),
                        "{case}: {result:?}"
                    );
                    assert!(!pair.server.is_established(), "{case}");
                    let heard = pair.exchange();
                    let Err(Trouble::Client(rustls::Error::AlertReceived(heard))) = heard else {
                        panic!("{case}: {heard:?} is no alert")
                    };
                    // TLS 1.2 has no word of its own for a missing one.
                    let is_old = version.version == ProtocolVersion::TLSv1_2;
                    let is_missing = alert == AlertDescription::CertificateRequired;
                    if !(is_old && is_missing) {
                        assert_eq!(heard, alert, "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_client_that_takes_up_its_session_is_still_who_it_was() {
    let authority = Authority::new("Ours");
    let ann = authority.sign("Ann");
    let ca = Some(authority.certificate.pem.as_bytes());
    let acceptor = Acceptor::new(shown(&[&OURS]), OldestVersion::Tls12, ClientAuth::Need, ca).unwrap();
    for version in BOTH {
        let config = client_with(version, Some(&ann));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut pair = Pair::new(&acceptor, config.clone());
            pair.exchange().unwrap();
            assert_eq!(pair.client.handshake_kind(), Some(kind));
            assert_eq!(pair.server.facts().subject.as_deref(), Some("CN=Ann,O=Guests"));
        }
    }
}

#[test]
fn whoever_asks_for_certificates_of_clients_must_say_who_signs_them() {
    let with = |asked, ca| Acceptor::new(shown(&[&OURS]), OldestVersion::Tls12, asked, ca).map(|_| ());
    assert_eq!(with(ClientAuth::None, None), Ok(()));
    for asked in [ClientAuth::Want, ClientAuth::Need] {
        assert_eq!(with(asked, None), Err(TlsError::NoAuthority));
        assert_eq!(with(asked, Some(b"nonsense")), Err(TlsError::NoAuthority));
        let no_der = b"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
        assert!(matches!(with(asked, Some(no_der)), Err(TlsError::Authority(_))));
        assert_eq!(with(asked, Some(OURS.pem.as_bytes())), Ok(()));
    }
}

// --- What the tests are made of ------------------------------------------------------------

/// A session, a client, and what is on its way between them.
struct Pair {
    server: TlsSession,
    client: ClientConnection,
    up: Vec<u8>,
    down: Vec<u8>,
    server_heard: Vec<u8>,
    client_heard: Vec<u8>,
    /// So much comes at once.
    piece_bytes: usize,
}

#[derive(PartialEq, Debug)]
enum Trouble {
    Server(TlsError),
    Client(rustls::Error),
}

impl Pair {
    /// The client's hello is on its way.
    fn new(acceptor: &Acceptor, config: Arc<ClientConfig>) -> Self {
        Self::asking_for("localhost", acceptor, config)
    }

    fn asking_for(name: &str, acceptor: &Acceptor, config: Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from(name.to_string()).unwrap();
        let mut pair = Self {
            server: TlsSession::new(acceptor).unwrap(),
            client: ClientConnection::new(config, name).unwrap(),
            up: Vec::new(),
            down: Vec::new(),
            server_heard: Vec::new(),
            client_heard: Vec::new(),
            piece_bytes: usize::MAX,
        };
        pair.client_writes();
        pair
    }

    fn established(version: &'static SupportedProtocolVersion) -> Self {
        let mut pair = Self::new(&acceptor(), client(version));
        pair.exchange().unwrap();
        assert!(pair.server.is_established());
        pair
    }

    /// Each time in a record of its own.
    fn client_says(&mut self, words: &[u8]) {
        for words in words.chunks(32 * 1024) {
            self.client.writer().write_all(words).unwrap();
            self.client_writes();
        }
    }

    fn client_writes(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.up).unwrap();
        }
    }

    fn server_says(&mut self, words: &[u8]) {
        self.server.seal(words, &mut self.down).unwrap();
    }

    fn server_reads(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        self.server.receive(&mut bytes.to_vec(), &mut self.server_heard, &mut self.down)
    }

    fn client_reads(&mut self, mut bytes: &[u8]) -> Result<(), rustls::Error> {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets()?;
            // Ends with the news that there is no more for now.
            let _ = self.client.reader().read_to_end(&mut self.client_heard);
        }
        Ok(())
    }

    /// Until neither has anything more to say.
    fn exchange(&mut self) -> Result<(), Trouble> {
        loop {
            self.client_writes();
            let (up, down) = (std::mem::take(&mut self.up), std::mem::take(&mut self.down));
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            for piece in up.chunks(self.piece_bytes) {
                self.server_reads(piece).map_err(Trouble::Server)?;
            }
            for piece in down.chunks(self.piece_bytes) {
                self.client_reads(piece).map_err(Trouble::Client)?;
            }
        }
    }

    fn has_client_heard_the_end(&mut self) -> bool {
        self.client.process_new_packets().unwrap().peer_has_closed()
    }
}

/// A certificate and its key.
struct Made {
    pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

impl Made {
    fn with_names(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        Self::from(CertificateParams::new(names).unwrap(), None)
    }

    /// Signed by itself or by an authority.
    fn from(parameters: CertificateParams, authority: Option<&Issuer<'_, KeyPair>>) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = match authority {
            Some(authority) => parameters.signed_by(&key, authority),
            None => parameters.self_signed(&key),
        };
        let certificate = certificate.unwrap();
        Self { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() }
    }

    fn read(&self) -> Certificate {
        Certificate::from_pem(self.pem.as_bytes(), self.key_pem.as_bytes(), NOW).unwrap()
    }
}

struct Authority {
    certificate: Made,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = named(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let made =
            Made { pem: certificate.pem(), key_pem: key.serialize_pem(), der: certificate.der().clone() };
        Self { certificate: made, issuer: Issuer::new(parameters, key) }
    }

    /// A guest's certificate.
    fn sign(&self, name: &str) -> Made {
        let mut parameters = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "Guests");
        subject.push(DnType::CommonName, name);
        parameters.distinguished_name = subject;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Made::from(parameters, Some(&self.issuer))
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

static OURS: LazyLock<Made> = LazyLock::new(|| Made::with_names(&["localhost"]));

fn shown(made: &[&Made]) -> Arc<Certificates> {
    let certificates = Arc::new(Certificates::default());
    made.iter().for_each(|made| certificates.add(&made.read()));
    certificates
}

fn acceptor() -> Acceptor {
    Acceptor::new(shown(&[&OURS]), OldestVersion::Tls12, ClientAuth::None, None).unwrap()
}

fn client(version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    client_with(version, None)
}

/// Takes whatever certificate it is shown: a test looks at it itself.
fn client_with(version: &'static SupportedProtocolVersion, certificate: Option<&Made>) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    Arc::new(match certificate {
        None => builder.with_no_client_auth(),
        Some(made) => {
            let key = PrivatePkcs8KeyDer::from_pem_slice(made.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![made.der.clone()], key.into()).unwrap()
        }
    })
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

const NOW: Duration = Duration::from_secs(1_750_000_000);
const YEAR_2019: Duration = Duration::from_secs(1_560_000_000);
const YEAR_2031: Duration = Duration::from_secs(1_930_000_000);
