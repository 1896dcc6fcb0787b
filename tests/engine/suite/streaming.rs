//! Messages in pieces, both ways: as long as they like, in little memory.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::turn::{Message, Misuse, Sent};
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, DIALECTS, Heard, said};
use crate::scene::{Client, Scene, Setup, Told, normal_close};
use crate::world::World;

/// An embedder that calls `speak` when it is told a text.
fn speaks<W: World>(
    scene: &mut Scene<W>,
    mut speak: impl FnMut(&mut dyn FnMut(Kind, &str, bool) -> Result<Sent, Misuse>) + 'static,
) {
    scene.on(move |turn, event| {
        if event.kind == EventKind::Message(Kind::Text) {
            speak(&mut |kind, data, last| turn.send_fragment(event.conn, kind, data.as_bytes(), last));
        }
    });
}

fn begins<W: World>(scene: &mut Scene<W>, client: Client) {
    scene.says(client, &peer::text("go"));
    scene.is_told(client, &[Told::Text("go".to_string())]);
}

on_every_driver! {
    fn a_streaming_route_is_told_each_piece_as_it_comes_and_the_last_one_as_such<W: World>() {
        let mut scene = Setup::new(&[]).streams().scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.says(client, &peer::frame(0x02, b"one"));
        scene.is_told(client, &[Told::Piece(3, false)]);
        scene.says(client, &[peer::ping(b"?"), peer::frame(0x00, b"")].concat());
        scene.is_told(client, &[Told::Ping(b"?".to_vec())]);
        let frame = peer::frame(0x80, &[7; 300]);
        scene.says(client, &frame[..108]);
        scene.is_told(client, &[Told::Piece(100, false)]);
        scene.says(client, &frame[108..]);
        scene.is_told(client, &[Told::Piece(200, true)]);
        scene.says(client, &[peer::frame(0x01, b"a"), peer::frame(0x80, b""), peer::text("whole")].concat());
        scene.is_told(client, &[Told::Piece(1, false), Told::Piece(0, true), Told::Piece(5, true)]);
        scene.hears(client, &[Heard::Pong(b"?".to_vec()), Heard::Binary([&b"one"[..], &[7; 300]].concat())]);
        scene.hears(client, &[said("a"), said("whole")]);
    }

    fn a_stream_is_longer_than_any_limit_on_messages<W: World>() {
        let options = [("max.message", "1k"), ("max.fragments", "2"), ("send.limit", "1m")];
        let mut scene = Setup::new(&options).streams().scene::<W>();
        let (bytes, ends) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (seen_bytes, seen_ends) = (bytes.clone(), ends.clone());
        scene.on(move |_, event| {
            if let EventKind::Fragment { fin, .. } = event.kind {
                seen_bytes.set(seen_bytes.get() + event.payload.len());
                seen_ends.set(seen_ends.get() + usize::from(fin));
            }
        });
        let client = scene.open(Dialect::Rfc6455);
        for index in 0..20 {
            let first = match index { 0 => 0x02, 19 => 0x80, _ => 0x00 };
            scene.says(client, &peer::frame(first, &[index; 100_000]));
        }
        scene.until("the last piece is told", |_| ends.get() > 0);
        assert_eq!((bytes.get(), ends.get()), (2_000_000, 1));
    }

    fn a_stream_of_text_that_is_none_is_closed_with_1007_before_its_end<W: World>() {
        let mut scene = Setup::new(&[]).streams().scene::<W>();
        for (bad, pieces) in [(&b"ok\xFF"[..], &[][..]), (b"half \xE2\x82", &[Told::Piece(7, false)])] {
            let client = scene.open(Dialect::Rfc6455);
            scene.says(client, &[peer::frame(0x01, bad), peer::frame(0x80, b"")].concat());
            scene.is_told(client, pieces);
            scene.is_told(client, &[Told::Closed(1007, ClosedBy::Protocol)]);
        }
    }

    fn hixie_messages_come_as_one_piece<W: World>() {
        let mut scene = Setup::new(&[]).streams().scene::<W>();
        for dialect in [Dialect::Hixie76, Dialect::Hixie75] {
            let client = scene.open(dialect);
            scene.says(client, b"\x00in two ");
            scene.says(client, b"halves\xFF");
            scene.is_told(client, &[Told::Piece(13, true)]);
            scene.hears(client, &[said("in two halves")]);
        }
    }

    fn fragments_sent_become_one_message_in_every_dialect<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        for dialect in DIALECTS {
            speaks(&mut scene, |send| {
                assert_eq!(send(Kind::Text, "one ", false), Ok(Sent::Queued));
                assert_eq!(send(Kind::Text, "", false), Ok(Sent::Queued));
                assert_eq!(send(Kind::Text, "two", true), Ok(Sent::Queued));
                assert_eq!(send(Kind::Text, "three", true), Ok(Sent::Queued));
            });
            let client = scene.open(dialect);
            scene.says(client, &peer::text_in(dialect, "go"));
            scene.hears(client, &[said("one two"), said("three")]);
        }
    }

    fn what_does_not_continue_a_message_is_refused_and_the_message_goes_on<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        scene.on(|turn, event| {
            if event.kind == EventKind::Message(Kind::Text) {
                let conn = event.conn;
                assert!(turn.send_fragment(conn, Kind::Text, b"half \xE2\x82", false).is_ok());
                let binary = turn.send(conn, Kind::Binary, b"x");
                assert!(matches!(binary, Err(Misuse::State(_))), "{binary:?}");
                let message = turn.send_message(conn, &Message::new(Kind::Text, b"x").unwrap(), Wish::Auto);
                assert!(matches!(message, Err(Misuse::State(_))), "{message:?}");
                assert_eq!(turn.send(conn, Kind::Text, b"no continuation"), Err(Misuse::NotUtf8));
                assert_eq!(turn.send(conn, Kind::Text, b""), Err(Misuse::NotUtf8), "a euro is missing");
                assert!(turn.send(conn, Kind::Text, b"\xAC").is_ok());
            }
        });
        let client = scene.open(Dialect::Rfc6455);
        begins(&mut scene, client);
        scene.hears(client, &[said("half €")]);
    }

    fn pings_and_closes_pass_between_fragments<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        speaks(&mut scene, |send| assert!(send(Kind::Text, "begun", false).is_ok()));
        let client = scene.open(Dialect::Rfc6455);
        begins(&mut scene, client);
        scene.says(client, &peer::ping(b"?"));
        scene.hears(client, &[Heard::Pong(b"?".to_vec())]);
        let conn = scene.id(client);
        scene.post(normal_close(conn));
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
    }

    fn a_hixie_message_that_is_not_ended_is_cut_by_a_close_and_not_completed<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        speaks(&mut scene, |send| assert!(send(Kind::Text, "begun", false).is_ok()));
        let client = scene.open(Dialect::Hixie76);
        scene.says(client, &peer::text_in(Dialect::Hixie76, "go"));
        scene.settles();
        let conn = scene.id(client);
        scene.post(normal_close(conn));
        scene.hears(client, &[Heard::Fin]);
    }

    fn another_thread_can_send_fragments_too<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        for (payload, last) in [(&b"from "[..], false), (b"afar", true)] {
            scene.post(Command::Send { conn, kind: Kind::Text, payload: payload.to_vec(), last, wish: Wish::Auto });
        }
        scene.post(Command::SendMessage { conn, message: Arc::new(Message::new(Kind::Text, b"!").unwrap()), wish: Wish::Auto });
        scene.hears(client, &[said("from afar"), said("!")]);
    }
}
