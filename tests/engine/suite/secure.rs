//! Connections to a listener with TLS. That everything else holds for them as well is in the other
//! tests of the suite, which run over TLS, too.

use std::io;

use fullduplex::engine::event::ClosedBy;
use fullduplex::protocol::Dialect;
use rustls::{AlertDescription, Error};

use crate::peer::{self, Heard, said};
use crate::scene::{Scene, Setup, Told, seconds};
use crate::secure::{self, Secure};
use crate::world::{SimWorld, Wire, World};

/// Makes of each function a test on the simulated kernel and one on the real.
macro_rules! on_every_kernel {
    ($($(#[$attribute:meta])* fn $name:ident<W: World>() $body:block)*) => {
        $($(#[$attribute])* fn $name<W: World>() $body)*

        mod on_sim {
            $(#[test] fn $name() { super::$name::<crate::world::SimWorld>(); })*
        }

        mod on_mio {
            $(#[test] fn $name() { super::$name::<crate::world::MioWorld>(); })*
        }
    };
}

/// A socket whose owner looks at the bytes themselves.
struct Raw<W> {
    wire: W,
    heard: Vec<u8>,
    /// True: by FIN.
    end: Option<bool>,
}

impl<W: Wire> Raw<W> {
    fn connect<K: World<Wire = W>>(scene: &mut Scene<Secure<K>>, words: &[u8]) -> Self {
        let mut raw = Self { wire: scene.world.connect_plainly(), heard: Vec::new(), end: None };
        raw.says(words);
        raw
    }

    fn says(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            assert_eq!(self.wire.write(bytes).expect("the server listens"), bytes.len());
        }
    }

    fn listen(&mut self) {
        let mut room = [0; 16 * 1024];
        while self.end.is_none() {
            match self.wire.read(&mut room) {
                Ok(0) => self.end = Some(true),
                Ok(len) => self.heard.extend(&room[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.end = Some(false),
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        self.listen();
        self.end.is_some()
    }

    /// The server's hello, if it has come.
    fn is_greeted(&mut self) -> bool {
        self.listen();
        self.heard.first() == Some(&HANDSHAKE)
    }
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    secure::client(true).write_tls(&mut bytes).expect("memory takes it");
    bytes
}

/// What may come to a port with TLS instead of TLS.
const PLAIN_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

on_every_kernel! {
    fn plain_http_to_a_port_with_tls_is_answered_with_400_in_clear<W: World>() {
        let mut scene = Scene::<Secure<W>>::new(&[]);
        let mut whole = Raw::connect(&mut scene, PLAIN_REQUEST);
        let mut letter = Raw::connect(&mut scene, b"P");
        for raw in [&mut whole, &mut letter] {
            scene.until("it has its answer", |_| raw.has_ended());
            let answer = String::from_utf8_lossy(&raw.heard);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert_eq!(raw.end, Some(true));
            raw.wire.finish();
        }
        scene.empties();
    }

    fn what_is_neither_tls_nor_http_hears_an_alert<W: World>() {
        let mut scene = Scene::<Secure<W>>::new(&[]);
        for garbage in [&b"\0\x01\x02\x03\x04\x05\x06\x07"[..], b"\x16\x03\x01\xFF\xFFtoo long", b"\x17\x03\x03\0\x05early"] {
            let mut raw = Raw::connect(&mut scene, garbage);
            scene.until("it has ended", |_| raw.has_ended());
            assert_eq!(raw.heard.first(), Some(&ALERT), "{:?}", raw.heard);
            assert_eq!(raw.end, Some(true));
            raw.wire.finish();
        }
        scene.empties();
        assert_eq!(scene.tables[0].counters.handshake_errors.get(), 3);
    }

    fn a_handshake_that_takes_too_long_is_cut_without_a_word<W: World>() {
        let mut scene = Scene::<Secure<W>>::new(&[("timeout.handshake", "3s")]);
        let hello = hello();
        let mut silent = Raw::connect(&mut scene, b"");
        let mut half = Raw::connect(&mut scene, &hello[..hello.len() - 1]);
        let mut greeted = Raw::connect(&mut scene, &hello);
        scene.until("the server greets", |_| greeted.is_greeted());
        scene.passes(seconds(2));
        greeted.listen();
        let greeting = greeted.heard.len();
        assert!(!silent.has_ended() && !half.has_ended() && !greeted.has_ended());
        scene.passes(seconds(1));
        for (raw, len) in [(&mut silent, 0), (&mut half, 0), (&mut greeted, greeting)] {
            scene.until("it is cut", |_| raw.has_ended());
            assert_eq!(raw.heard.len(), len);
        }
        scene.empties();
    }

    fn who_cuts_a_hixie_conversation_short_is_not_taken_for_its_client<W: World>() {
        for dialect in [Dialect::Hixie76, Dialect::Hixie75] {
            let mut scene = Scene::<Secure<W>>::new(&[]);
            let cut = scene.open(dialect);
            scene.wire(cut).finish_raw();
            scene.is_told(cut, &[Told::Closed(1006, ClosedBy::Network)]);
            let ended = scene.open(dialect);
            scene.finishes(ended);
            scene.is_told(ended, &[Told::Closed(1005, ClosedBy::Peer)]);
            scene.hears(ended, &[Heard::Fin]);
            scene.empties();
        }
    }

    fn a_failing_record_ends_the_conversation_and_the_client_learns_why<W: World>() {
        let mut scene = Scene::<Secure<W>>::new(&[]);
        // Each in both versions of TLS.
        for words in [None, None, Some("right before it"), Some("right before it")] {
            let client = scene.open(Dialect::Rfc6455);
            if let Some(words) = words {
                scene.says(client, &peer::text(words));
            }
            scene.wire(client).say_raw(&FAILING_RECORD);
            if let Some(words) = words {
                scene.is_told(client, &[Told::Text(words.to_string())]);
            }
            scene.is_told(client, &[Told::Closed(1006, ClosedBy::Protocol)]);
            scene.loses(client);
            let trouble = scene.wire(client).trouble().cloned();
            assert_eq!(trouble, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
            scene.finishes(client);
        }
        scene.empties();
    }

    fn a_client_that_reads_slowly_hears_everything_before_the_alert<W: World>() {
        let mut scene = Setup::new(&[]).narrow(16 * 1024).scene::<Secure<W>>();
        let client = scene.open(Dialect::Rfc6455);
        scene.set_deaf(client, true);
        let texts: Vec<String> = (0..20).map(|i| format!("{i} {}", "x".repeat(3000))).collect();
        for text in &texts {
            scene.says(client, &peer::text(text));
            scene.is_told(client, &[Told::Text(text.clone())]);
        }
        scene.set_deaf(client, false);
        for text in &texts {
            scene.hears(client, &[said(text)]);
        }
        scene.wire(client).say_raw(&FAILING_RECORD);
        scene.loses(client);
        let trouble = scene.wire(client).trouble().cloned();
        assert_eq!(trouble, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
    }

    fn the_header_of_a_proxy_comes_before_tls_wherever_it_is_cut<W: World>() {
        let line = b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 80\r\n".to_vec();
        let v2 = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C"[..],
            &[192, 0, 2, 7, 203, 0, 113, 1, 0x12, 0x67, 0, 80],
        ].concat();
        for header in [line, v2] {
            let mut scene = Scene::<Secure<W>>::new(&[TRUST_ALL, ("proxy.protocol", "any")]);
            let words = [&header[..], &hello()].concat();
            let mut pieces: Vec<_> = (1..header.len() + 8)
                .map(|at| (Raw::connect(&mut scene, &words[..at]), &words[at..]))
                .collect();
            scene.settles();
            for (raw, rest) in &mut pieces {
                assert!(!raw.is_greeted());
                raw.says(rest);
            }
            for (raw, _) in &mut pieces {
                scene.until("the server greets", |_| raw.is_greeted());
            }
        }
    }

    fn whom_a_proxy_names_and_nobody_lets_in_is_cut_without_a_word<W: World>() {
        let options = [TRUST_ALL, ("proxy.protocol", "v1"), ("max.connections_per_ip", "1")];
        let mut scene = Scene::<Secure<W>>::new(&options);
        let header = b"PROXY TCP4 192.0.2.7 203.0.113.1 4711 80\r\n";
        let first = scene.connect_saying(Dialect::Rfc6455, &[header, &peer::request(Dialect::Rfc6455, "/")[..]].concat());
        scene.opens(first);
        let mut second = Raw::connect(&mut scene, &[header, &hello()[..]].concat());
        scene.until("it is cut", |_| second.has_ended());
        assert_eq!(second.heard, b"");
        scene.says(first, &peer::text("still there"));
        scene.hears(first, &[said("still there")]);
    }

    fn a_client_whose_tls_ends_but_not_its_stream_hears_all_its_answers_and_the_end<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<Secure<W>>();
        scene.on(|turn, event| {
            if event.kind == fullduplex::engine::event::EventKind::Http {
                let (headers, body) = (String::new(), b"here".to_vec());
                turn.obey(fullduplex::engine::Command::Answer { conn: event.conn, status: 200, headers, body });
            }
        });
        let client = scene.connect_saying(Dialect::Rfc6455, &PLAIN_REQUEST.repeat(2));
        scene.until("all is sent", |scene| scene.unsent(client) == 0);
        scene.wire(client).say_good_bye();
        scene.hears(client, &[Heard::Http(200), Heard::Http(200), Heard::Fin]);
    }
}

#[test]
fn a_storm_of_handshakes_takes_turns_and_open_connections_wait_for_none_of_it() {
    let mut scene = Scene::<Secure<SimWorld>>::new(&[]);
    let open = scene.open(Dialect::Rfc6455);
    scene.settles();
    let mut storm: Vec<_> = (0..40).map(|_| Raw::connect(&mut scene, &hello())).collect();
    let (mut turns, mut greeted) = (0, 0);
    while greeted < storm.len() {
        let words = format!("in turn {turns}");
        scene.says(open, &peer::text(&words));
        scene.turn();
        assert_eq!(scene.heard(open), [said(&words)], "the echo comes in the same turn");
        let before = greeted;
        greeted = storm.iter_mut().map(|raw| usize::from(raw.is_greeted())).sum();
        assert!(greeted - before <= 4, "{} handshakes in a turn", greeted - before);
        turns += 1;
        assert!(turns < 40, "only {greeted} are greeted");
    }
    assert!((10..=12).contains(&turns), "{turns} turns for 40");
}

#[test]
fn who_waits_for_its_handshake_may_leave_or_run_out_of_time() {
    let mut scene = Scene::<Secure<SimWorld>>::new(&[("timeout.handshake", "3s")]);
    let mut storm: Vec<_> = (0..40).map(|_| Raw::connect(&mut scene, &hello())).collect();
    scene.turn();
    scene.turn();
    for (index, raw) in storm.drain(20..).enumerate() {
        match index % 2 {
            0 => raw.wire.reset(),
            _ => drop(raw),
        }
    }
    scene.world.pass(seconds(4));
    for raw in &mut storm {
        scene.until("it is cut", |_| raw.has_ended());
    }
    scene.empties();
    assert_eq!(scene.world.world.kernel.open_sockets(), 0);
}

const HANDSHAKE: u8 = 0x16;
const ALERT: u8 = 0x15;
/// Of application data, and sealed by nobody.
const FAILING_RECORD: [u8; 45] = {
    let mut record = [0x5A; 45];
    (record[0], record[1], record[2], record[3], record[4]) = (0x17, 3, 3, 0, 40);
    record
};
/// The clients of both kernels come from here.
const TRUST_ALL: (&str, &str) = ("proxy.trusted", "198.18.0.0/15, 127.0.0.1");
