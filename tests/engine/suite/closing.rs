//! How connections end, and what is heard of it on both sides.

use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, DIALECTS, Heard, said};
use crate::scene::{Scene, Setup, Told, abort, close, echo, normal_close, seconds};
use crate::world::World;

on_every_driver! {
    fn the_peers_close_is_answered_with_its_own_code<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for (words, answer, code) in [
            (peer::close(4242, "mine"), Heard::Close(4242, String::new()), 4242),
            (peer::frame(0x88, b""), Heard::Close(1005, String::new()), 1005),
        ] {
            let client = scene.open(Dialect::Rfc6455);
            scene.says(client, &[peer::text("last"), words, peer::text("after the end")].concat());
            scene.hears(client, &[said("last"), answer, Heard::Fin]);
            let last = Told::Text("last".to_string());
            scene.is_told(client, &[last, Told::Closed(code, ClosedBy::Peer)]);
            scene.finishes(client);
        }
        scene.empties();
    }

    fn who_was_told_closed_is_unknown_while_its_stream_still_ends<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        assert!(scene.tables[0].find(scene.id(client)).is_some());
        scene.says(client, &peer::close(1000, ""));
        scene.hears(client, &[Heard::Close(1000, String::new()), Heard::Fin]);
        scene.is_told(client, &[Told::Closed(1000, ClosedBy::Peer)]);
        assert_eq!(scene.live_connections(), 1);
        assert!(scene.tables[0].find(scene.id(client)).is_none());
        scene.finishes(client);
        scene.empties();
    }

    fn our_close_waits_for_the_peers_answer<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for dialect in [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07] {
            let client = scene.open(dialect);
            scene.post(normal_close(scene.id(client)));
            scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
            scene.hears_nothing(client);
            scene.says(client, &peer::text("this crossed it"));
            scene.is_told_nothing(client);
            scene.says(client, &peer::close(1000, ""));
            scene.hears(client, &[Heard::Fin]);
            scene.is_told(client, &[Told::Closed(1000, ClosedBy::Host)]);
            scene.finishes(client);
        }
        scene.empties();
    }

    fn a_hixie_connection_ends_with_our_word_because_clients_answer_nothing<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for (dialect, words) in
            [(Dialect::Hixie76, &[Heard::HixieClose, Heard::Fin][..]), (Dialect::Hixie75, &[Heard::Fin])]
        {
            let client = scene.open(dialect);
            scene.post(normal_close(scene.id(client)));
            scene.hears(client, words);
            scene.is_told(client, &[Told::Closed(1005, ClosedBy::Host)]);
        }
        scene.passes(seconds(2));
        scene.empties();
    }

    fn a_peer_that_never_answers_our_close_is_cut_in_time<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.close", "4s")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.post(normal_close(scene.id(client)));
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
        scene.passes(seconds(3));
        scene.hears_nothing(client);
        scene.is_told_nothing(client);
        scene.passes(seconds(1));
        scene.loses(client);
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Host)]);
        scene.empties();
    }

    fn a_peer_that_takes_neither_answers_nor_our_close_is_cut_in_time<W: World>() {
        let options = [("timeout.close", "20s"), ("timeout.handshake", "1h"), ("timeout.write_stall", "1h")];
        let mut scene = Setup::new(&options).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.set_deaf(client, true);
        scene.says(client, &[peer::binary(&vec![1; 1_000_000]), peer::close(1000, "")].concat());
        scene.is_told(client, &[Told::Binary(vec![1; 1_000_000]), Told::Closed(1000, ClosedBy::Peer)]);
        scene.passes(seconds(10));
        assert_eq!(scene.live_connections(), 1, "it has its time");
        scene.passes(seconds(10));
        assert_eq!(scene.live_connections(), 0);
    }

    fn a_peer_that_leaves_its_half_open_after_the_closes_has_a_second<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.close", "1h"), ("timeout.handshake", "1h")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.says(client, &peer::close(1000, ""));
        scene.hears(client, &[Heard::Close(1000, String::new()), Heard::Fin]);
        scene.passes(seconds(1));
        assert_eq!(scene.live_connections(), 0);
    }

    fn two_closes_that_cross_are_one_end<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        scene.says(client, &peer::close(1001, "leaving"));
        scene.post(normal_close(scene.id(client)));
        scene.until("the end is heard", |scene| scene.live_connections() == 1 && {
            scene.turn();
            true
        });
        scene.settles();
        let heard = scene.heard(client);
        assert!(matches!(heard[..], [Heard::Close(1000 | 1001, _), Heard::Fin]), "{heard:?}");
        scene.finishes(client);
        scene.empties();
    }

    fn a_second_close_changes_nothing<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        scene.post(normal_close(conn));
        scene.post(close(conn, 4000, "again"));
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
        scene.says(client, &peer::close(1000, ""));
        scene.hears(client, &[Heard::Fin]);
        scene.is_told(client, &[Told::Closed(1000, ClosedBy::Host)]);
        scene.is_told_nothing(client);
    }

    fn what_was_right_is_answered_before_the_violation_that_followed_it<W: World>() {
        let mut scene = Scene::<W>::new(&[("max.message", "1000")]);
        for (bad, code, by) in [
            (peer::frame(0xC1, b"reserved bit"), 1002, ClosedBy::Protocol),
            (peer::frame(0x81, b"\xC0"), 1007, ClosedBy::Protocol),
            (peer::frame(0x82, &[0; 1001]), 1009, ClosedBy::Limit),
            (b"\x81\x05hello".to_vec(), 1002, ClosedBy::Protocol),
        ] {
            let client = scene.open(Dialect::Rfc6455);
            let words = [peer::text("one"), peer::ping(b"p"), peer::text("two"), bad, peer::text("three")];
            scene.says(client, &words.concat());
            scene.hears(client, &[said("one"), Heard::Pong(b"p".to_vec()), said("two")]);
            scene.settles();
            let heard = scene.heard(client);
            let [Heard::Close(found, _), Heard::Fin] = &heard[..] else { panic!("{heard:?} is no close") };
            assert_eq!(*found, code);
            let [one, two] = ["one", "two"].map(|text| Told::Text(text.to_string()));
            scene.is_told(client, &[one, Told::Ping(b"p".to_vec()), two]);
            scene.is_told(client, &[Told::Closed(code, by)]);
            scene.finishes(client);
        }
        scene.empties();
    }

    fn a_peer_that_ends_its_half_still_hears_everything<W: World>() {
        for dialect in DIALECTS {
            let mut scene = Setup::new(&[]).narrow(16 * 1024).scene::<W>();
            let client = scene.open(dialect);
            scene.set_deaf(client, true);
            let texts: Vec<String> = (0..60).map(|i| format!("{i} {}", "x".repeat(3000))).collect();
            for text in &texts {
                scene.says(client, &peer::text_in(dialect, text));
            }
            scene.finishes(client);
            for text in &texts {
                scene.is_told(client, &[Told::Text(text.clone())]);
            }
            let (code, by) =
                if peer::is_hixie(dialect) { (1005, ClosedBy::Peer) } else { (1006, ClosedBy::Network) };
            scene.is_told(client, &[Told::Closed(code, by)]);
            scene.set_deaf(client, false);
            for text in &texts {
                scene.hears(client, &[said(text)]);
            }
            scene.hears(client, &[Heard::Fin]);
            // Both halves have ended: there is nothing to linger for.
            scene.settles();
            assert_eq!(scene.live_connections(), 0);
            scene.empties();
        }
    }

    fn an_end_inside_a_frame_is_no_message<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let frame = peer::text("never whole");
        scene.says(client, &frame[..frame.len() - 1]);
        scene.finishes(client);
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Network)]);
        scene.hears(client, &[Heard::Fin]);
        scene.empties();
    }

    fn a_broken_connection_is_told_whether_we_read_or_not<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for paused in [false, true] {
            let client = scene.open(Dialect::Rfc6455);
            let conn = scene.id(client);
            scene.post(Command::SetPaused { conn, paused });
            scene.settles();
            scene.resets(client);
            scene.is_told(client, &[Told::Closed(1006, ClosedBy::Network)]);
            scene.empties();
        }
    }

    fn an_abort_ends_at_once_without_a_word<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for dialect in DIALECTS {
            let client = scene.open(dialect);
            scene.post(abort(scene.id(client)));
            scene.loses(client);
            assert_eq!(scene.heard(client), []);
            scene.is_told(client, &[Told::Closed(1006, ClosedBy::Host)]);
            scene.empties();
        }
    }

    fn what_was_sent_before_a_close_arrives_before_it<W: World>() {
        let mut scene = Setup::new(&[]).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.on(|turn, event| {
            if event.kind == EventKind::Message(Kind::Text) {
                for _ in 0..50 {
                    turn.send(event.conn, Kind::Binary, &[1; 5000]).unwrap();
                }
                turn.obey(normal_close(event.conn));
                assert!(turn.send(event.conn, Kind::Binary, b"too late").is_err());
            }
        });
        scene.says(client, &peer::text("go"));
        for _ in 0..50 {
            scene.hears(client, &[Heard::Binary(vec![1; 5000])]);
        }
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
    }

    fn a_close_to_a_peer_that_does_not_read_ends_in_time<W: World>() {
        let mut scene = Setup::new(&[("timeout.close", "4s")]).narrow(16 * 1024).scene::<W>();
        scene.on(echo);
        for answers in [false, true] {
            let client = scene.open(Dialect::Rfc6455);
            scene.set_deaf(client, true);
            scene.says(client, &peer::binary(&vec![1; 1_000_000]));
            scene.is_told(client, &[Told::Binary(vec![1; 1_000_000])]);
            scene.post(normal_close(scene.id(client)));
            scene.settles();
            if answers {
                scene.says(client, &peer::close(1000, ""));
            }
            scene.passes(seconds(4));
            let code = if answers { 1000 } else { 1006 };
            scene.is_told(client, &[Told::Closed(code, ClosedBy::Host)]);
            scene.empties();
        }
    }
}
