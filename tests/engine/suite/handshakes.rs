//! From connecting to OPEN, or not.

use std::cell::RefCell;
use std::rc::Rc;

use fullduplex::engine::Command;
use fullduplex::engine::event::EventKind;
use fullduplex::protocol::Dialect;

use super::on_every_driver;
use crate::peer::{self, DIALECTS, Heard, said};
use crate::scene::{Scene, Setup, Told, accept, echo, seconds};
use crate::world::World;

on_every_driver! {
    fn a_request_waits_until_the_embedder_has_decided<W: World>() {
        let mut scene = Setup::new(&[]).wants_upgrade().scene::<W>();
        scene.on(|turn, event| {
            if event.kind != EventKind::Upgrade {
                echo(turn, event);
            }
        });
        for dialect in DIALECTS {
            let early = [peer::request(dialect, "/"), peer::text_in(dialect, "too early")].concat();
            let client = scene.connect_saying(dialect, &early);
            scene.asks(client, Told::Upgrade);
            scene.says(client, &peer::text_in(dialect, "early, too"));
            scene.hears_nothing(client);
            let headers = "X-Seat: 7\r\n".to_string();
            scene.post(Command::Accept { conn: scene.id(client), protocol: None, headers });
            scene.opens(client);
            assert!(scene.answer(client).contains("\r\nX-Seat: 7\r\n"));
            scene.hears(client, &[said("too early"), said("early, too")]);
        }
    }

    fn a_rejected_request_gets_its_answer_and_never_opens<W: World>() {
        let mut scene = Setup::new(&[]).wants_upgrade().scene::<W>();
        scene.on(|turn, event| {
            if event.kind == EventKind::Upgrade {
                let (headers, body) = ("X-Why: no\r\n".to_string(), b"not you".to_vec());
                turn.obey(Command::Answer { conn: event.conn, status: 401, headers, body });
                // Too late: it is decided.
                accept(turn, event.conn);
            }
        });
        for dialect in DIALECTS {
            let client = scene.connect(dialect);
            scene.hears(client, &[Heard::Http(401), Heard::Fin]);
            assert!(scene.answer(client).contains("\r\nX-Why: no\r\n"));
            assert!(scene.answer(client).ends_with("\r\n\r\nnot you"));
            scene.asks(client, Told::Upgrade);
            scene.is_told_nothing(client);
            scene.finishes(client);
        }
        scene.empties();
    }

    fn an_undecided_request_is_answered_with_408_before_the_end<W: World>() {
        let mut scene = Setup::new(&[("timeout.handshake", "3s")]).wants_upgrade().scene::<W>();
        scene.on(|_, _| {});
        for dialect in DIALECTS {
            let client = scene.connect(dialect);
            scene.asks(client, Told::Upgrade);
            scene.hears_nothing(client);
            scene.passes(seconds(3));
            scene.hears(client, &[Heard::Http(408), Heard::Fin]);
            let conn = scene.id(client);
            scene.post(Command::Accept { conn, protocol: None, headers: String::new() });
            scene.is_told_nothing(client);
            scene.finishes(client);
        }
        scene.empties();
    }

    fn half_a_request_is_answered_with_408_and_silence_with_nothing<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.handshake", "3s")]);
        let half = scene.connect_saying(Dialect::Rfc6455, b"GET / HTTP/1.1\r\nHost: exam");
        let silent = scene.connect_saying(Dialect::Rfc6455, b"");
        scene.passes(seconds(2));
        scene.hears_nothing(half);
        scene.hears_nothing(silent);
        scene.passes(seconds(1));
        scene.hears(half, &[Heard::Http(408), Heard::Fin]);
        scene.hears(silent, &[Heard::Fin]);
        scene.finishes(half);
        scene.empties();
    }

    fn a_dripping_request_does_not_live_longer_than_its_time<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.handshake", "3s")]);
        let client = scene.connect_saying(Dialect::Rfc6455, b"GET / HTTP/1.1\r\n");
        for _ in 0..4 {
            scene.passes(seconds(1));
            scene.says(client, b"X");
        }
        scene.hears(client, &[Heard::Http(408), Heard::Fin]);
    }

    fn a_hixie_76_client_that_owes_its_eight_bytes_is_closed_in_time<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.handshake", "3s")]);
        let mut request = peer::request(Dialect::Hixie76, "/");
        request.truncate(request.len() - 1);
        let client = scene.connect_saying(Dialect::Hixie76, &request);
        scene.passes(seconds(3));
        // The 101 is out; no other answer can follow it.
        scene.hears(client, &[Heard::Fin]);
        scene.empties();
    }

    fn the_answer_to_a_bad_request_arrives_although_more_was_sent<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for bytes in [10, 50_000] {
            let bad = [b"nonsense\r\n\r\n".to_vec(), vec![b'x'; bytes]].concat();
            let client = scene.connect_saying(Dialect::Rfc6455, &bad);
            scene.hears(client, &[Heard::Http(400), Heard::Fin]);
            scene.says(client, b"still talking");
            scene.hears_nothing(client);
        }
        scene.passes(seconds(2));
        scene.empties();
    }

    fn whoever_goes_on_talking_after_the_end_is_cut<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.connect_saying(Dialect::Rfc6455, b"nonsense\r\n\r\n");
        scene.hears(client, &[Heard::Http(400), Heard::Fin]);
        assert_eq!(scene.live_connections(), 1);
        for _ in 0..20 {
            scene.says(client, &[b'x'; 4 * 1024]);
            scene.turn();
        }
        scene.empties();
    }

    fn a_path_that_nobody_serves_is_not_found<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.connect_saying(Dialect::Rfc6455, &peer::request(Dialect::Rfc6455, "*"));
        scene.hears(client, &[Heard::Http(400), Heard::Fin]);
        let plain = scene.connect_saying(Dialect::Rfc6455, b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n");
        scene.hears(plain, &[Heard::Http(426), Heard::Fin]);
    }

    fn a_plain_request_is_the_embedders_to_answer_at_once_or_later<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        let waiting = Rc::new(RefCell::new(Vec::new()));
        let later = waiting.clone();
        scene.on(move |_, event| {
            if event.kind == EventKind::Http {
                later.borrow_mut().push(event.conn);
            }
        });
        let get = scene.connect_saying(Dialect::Rfc6455, b"GET /page HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        scene.asks(get, Told::Http(Vec::new()));
        let head = scene.connect_saying(Dialect::Rfc6455, b"HEAD /page HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        scene.asks(head, Told::Http(Vec::new()));
        for conn in waiting.take() {
            let body = b"<p>hello".to_vec();
            scene.post(Command::Answer { conn, status: 200, headers: String::new(), body });
        }
        scene.hears(get, &[Heard::Http(200), Heard::Fin]);
        assert!(scene.answer(get).ends_with("\r\n\r\n<p>hello"));
        // Of HEAD the length is told and nothing follows; so the reader waits for the body.
        scene.hears(head, &[Heard::Fin]);
    }

    fn a_client_that_leaves_before_the_decision_is_forgotten<W: World>() {
        let mut scene = Setup::new(&[("timeout.handshake", "3s")]).wants_upgrade().scene::<W>();
        scene.on(|_, _| {});
        let client = scene.connect(Dialect::Rfc6455);
        scene.asks(client, Told::Upgrade);
        scene.resets(client);
        scene.passes(seconds(3));
        scene.empties();
        scene.is_told_nothing(client);
    }
}
