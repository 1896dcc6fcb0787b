//! Messages both ways.

use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::turn::Misuse;
use fullduplex::protocol::Dialect;

use super::on_every_driver;
use crate::peer::{self, DIALECTS, Heard, said};
use crate::scene::{Scene, Setup, Told};
use crate::world::World;

on_every_driver! {
    fn a_connection_opens_echoes_and_closes_in_every_dialect<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for dialect in DIALECTS {
            let client = scene.open(dialect);
            scene.says(client, &peer::text_in(dialect, "Grüße, 世界"));
            scene.hears(client, &[said("Grüße, 世界")]);
            scene.is_told(client, &[Told::Text("Grüße, 世界".to_string())]);
            match dialect {
                Dialect::Hixie75 => scene.finishes(client),
                Dialect::Hixie76 => {
                    scene.says(client, &[0xFF, 0x00]);
                    scene.hears(client, &[Heard::HixieClose]);
                }
                _ => {
                    scene.says(client, &peer::close(1000, "ok"));
                    scene.hears(client, &[Heard::Close(1000, String::new())]);
                }
            }
            scene.hears(client, &[Heard::Fin]);
            let code = if peer::is_hixie(dialect) { 1005 } else { 1000 };
            scene.is_told(client, &[Told::Closed(code, ClosedBy::Peer)]);
            if !peer::is_hixie(dialect) {
                scene.finishes(client);
            }
        }
        scene.passes(crate::scene::seconds(2));
        scene.empties();
    }

    fn messages_come_back_in_the_order_they_went_however_long_they_are<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for dialect in DIALECTS {
            let client = scene.open(dialect);
            // Copied, shared, lent on from the arena, read into lent memory.
            let lengths = [0, 1, 125, 126, 3000, 5000, 65_535, 65_536, 200_000, 7, 1_000_000, 8];
            let texts: Vec<String> =
                (0..).zip(lengths).map(|(i, len)| format!("{i} {}", "x".repeat(len))).collect();
            for text in &texts {
                scene.says(client, &peer::text_in(dialect, text));
            }
            for text in &texts {
                scene.hears(client, &[said(text)]);
            }
        }
    }

    fn a_part_of_a_message_can_be_sent_on_however_the_message_came<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        scene.on(|turn, event| {
            if let EventKind::Message(kind) = event.kind {
                for part in [&event.payload[1..], &event.payload[..event.payload.len() - 1], event.payload] {
                    assert!(turn.send(event.conn, kind, part).is_ok());
                }
            }
        });
        let client = scene.open(Dialect::Rfc6455);
        let payload: Vec<u8> = (0..=250).cycle().take(20_000).collect();
        // In one read it lies in the arena; put together from fragments it has memory of its own.
        let whole = peer::binary(&payload);
        let fragments = [peer::frame(0x02, &payload[..9000]), peer::frame(0x80, &payload[9000..])].concat();
        for wire in [whole, fragments] {
            scene.says(client, &wire);
            for part in [&payload[1..], &payload[..19_999], &payload[..]] {
                scene.hears(client, &[Heard::Binary(part.to_vec())]);
            }
        }
    }

    fn a_part_of_a_text_can_be_sent_on_but_for_one_that_cuts_a_character<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        scene.on(|turn, event| {
            if let EventKind::Message(kind) = event.kind {
                let (conn, end) = (event.conn, event.payload.len());
                for (from, to) in [(1, end), (0, end - 1), (end - 1, end), (1, 2)] {
                    assert_eq!(turn.send(conn, kind, &event.payload[from..to]), Err(Misuse::NotUtf8));
                }
                // A text that follows the start of a character is none, whatever it is by itself.
                assert!(turn.send_fragment(conn, kind, &event.payload[..1], false).is_ok());
                assert_eq!(turn.send(conn, kind, event.payload), Err(Misuse::NotUtf8));
                assert!(turn.send_fragment(conn, kind, &event.payload[1..2], false).is_ok());
                assert!(turn.send(conn, kind, event.payload).is_ok());
                assert!(turn.send(conn, kind, &event.payload[2..end - 2]).is_ok());
            }
        });
        let client = scene.open(Dialect::Rfc6455);
        // In the arena, and in memory of its own.
        for len in [3, 5_000, 300_000] {
            let text = ["ö", &"x".repeat(len), "ü"].concat();
            scene.says(client, &peer::text(&text));
            scene.hears(client, &[said(&format!("ö{text}")), said(&"x".repeat(len))]);
        }
    }

    fn what_comes_in_many_pieces_and_fragments_is_one_message<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let long = vec![7; 150_000];
        let wire = [
            peer::frame(0x01, "Käse".as_bytes()),
            peer::ping(b"between"),
            peer::frame(0x80, b"!"),
            peer::frame(0x02, &long[..70_000]),
            peer::frame(0x80, &long[70_000..]),
        ];
        for piece in wire.concat().chunks(977) {
            scene.says(client, piece);
            scene.turn();
        }
        scene.hears(client, &[Heard::Pong(b"between".to_vec()), said("Käse!"), Heard::Binary(long)]);
    }

    fn each_client_gets_its_own<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let clients = DIALECTS.map(|dialect| (dialect, scene.open(dialect)));
        for round in 0..5 {
            for (dialect, client) in clients {
                scene.says(client, &peer::text_in(dialect, &format!("{dialect:?} {round}")));
            }
        }
        for (dialect, client) in clients {
            for round in 0..5 {
                scene.hears(client, &[said(&format!("{dialect:?} {round}"))]);
            }
            scene.hears_nothing(client);
        }
    }

    fn a_ping_is_answered_with_its_own_payload<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        scene.says(client, &[peer::ping(b"?"), peer::ping(&[9; 125]), peer::pong(b"nobody asked")].concat());
        scene.hears(client, &[Heard::Pong(b"?".to_vec()), Heard::Pong(vec![9; 125])]);
        scene.is_told(client, &[Told::Ping(b"?".to_vec()), Told::Ping(vec![9; 125]), Told::Pong(false)]);
    }

    fn a_slow_reader_gets_everything_in_the_end<W: World>() {
        let mut scene = Setup::new(&[]).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.set_deaf(client, true);
        let texts: Vec<String> = (0..200).map(|i| format!("{i} {}", "x".repeat(i * 37))).collect();
        for text in &texts {
            scene.says(client, &peer::text(text));
        }
        scene.settles();
        scene.set_deaf(client, false);
        for text in &texts {
            scene.hears(client, &[said(text)]);
        }
        scene.hears_nothing(client);
    }
}
