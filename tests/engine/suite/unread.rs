//! What the embedder was given and has not freed: with too much of it a peer is not read, and not
//! blamed for its silence.

use std::time::Duration;

use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::submitted::Submitted;
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Scene, Told, close, seconds};
use crate::world::World;

/// A scene whose embedder keeps every message.
fn keeping<W: World>(options: &[(&str, &str)]) -> Scene<W> {
    let mut scene = Scene::new(&[&[("recv.high_water", "1000")], options].concat());
    scene.on(|turn, event| {
        if let EventKind::Message(_) = event.kind {
            turn.count_unread(event.conn, event.payload.len());
        }
    });
    scene
}

const HIGH_WATER: usize = 1000;

on_every_driver! {
    fn a_peer_with_too_much_unread_is_read_on_when_half_of_it_is_freed<W: World>() {
        let mut scene = keeping::<W>(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        let message = "x".repeat(600);
        for _ in 0..2 {
            scene.says(client, &peer::text(&message));
            scene.is_told(client, &[Told::Text(message.clone())]);
        }
        scene.settles();
        scene.says(client, &peer::text("later"));
        scene.is_told_nothing(client);
        scene.frees(conn, 699, HIGH_WATER);
        scene.is_told_nothing(client);
        scene.frees(conn, 1, HIGH_WATER);
        scene.is_told(client, &[Told::Text("later".to_string())]);
        scene.says(client, &peer::close(1000, ""));
        scene.is_told(client, &[Told::Closed(1000, ClosedBy::Peer)]);
    }

    fn a_pause_outlasts_the_freeing<W: World>() {
        let mut scene = keeping::<W>(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        scene.says(client, &peer::text(&"x".repeat(1001)));
        scene.is_told(client, &[Told::Text("x".repeat(1001))]);
        scene.post(Command::SetPaused { conn, paused: true });
        scene.settles();
        scene.frees(conn, 1001, HIGH_WATER);
        scene.says(client, &peer::text("later"));
        scene.is_told_nothing(client);
        scene.post(Command::SetPaused { conn, paused: false });
        scene.is_told(client, &[Told::Text("later".to_string())]);
    }

    fn what_is_freed_late_lets_nobody_read_on_who_has_too_much_again<W: World>() {
        let mut scene = Scene::<W>::new(&[("recv.high_water", "1000")]);
        let table = scene.tables[0].clone();
        // Between two messages of a turn another thread frees the first.
        scene.on(move |turn, event| {
            if let EventKind::Message(_) = event.kind {
                let (entry, _) = table.find(event.conn).expect("it is open");
                entry.get().take_unread(event.conn, 1001, HIGH_WATER);
                turn.count_unread(event.conn, event.payload.len());
            }
        });
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        let message = "x".repeat(1001);
        scene.says(client, &[peer::text(&message), peer::text(&message)].concat());
        scene.is_told(client, &[Told::Text(message.clone()), Told::Text(message)]);
        scene.settles();
        scene.post(Command::ReadOn { conn });
        scene.says(client, &peer::text("later"));
        scene.is_told_nothing(client);
        scene.frees(conn, 1001, HIGH_WATER);
        scene.is_told(client, &[Told::Text("later".to_string())]);
    }

    fn whose_messages_wait_for_the_embedder_is_neither_dead_nor_idle_nor_stalled<W: World>() {
        let mut scene = keeping::<W>(&[("ping.interval", "10s"), ("ping.timeout", "5s"), ("timeout.idle", "30s")]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        scene.says(client, &peer::text(&"x".repeat(1001)));
        scene.is_told(client, &[Told::Text("x".repeat(1001))]);
        for _ in 0..6 {
            scene.passes(seconds(10));
        }
        scene.is_told_nothing(client);
        scene.frees(conn, 1001, HIGH_WATER);
        scene.settles();
        scene.says(client, &peer::text("alive"));
        scene.is_told(client, &[Told::Text("alive".to_string())]);
        scene.passes(seconds(4));
        scene.is_told_nothing(client);
    }

    fn a_close_of_ours_is_heard_out_whatever_is_unread<W: World>() {
        let mut scene = keeping::<W>(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        scene.says(client, &peer::text(&"x".repeat(1001)));
        scene.is_told(client, &[Told::Text("x".repeat(1001))]);
        scene.post(close(conn, 1000, "done"));
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
        scene.says(client, &peer::close(1000, "done"));
        scene.is_told(client, &[Told::Closed(1000, ClosedBy::Host)]);
        scene.empties();
    }

    fn the_next_in_a_slot_owes_nothing_for_the_last<W: World>() {
        let mut scene = keeping::<W>(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let first = scene.id(client);
        scene.says(client, &peer::text(&"x".repeat(1001)));
        scene.is_told(client, &[Told::Text("x".repeat(1001))]);
        scene.resets(client);
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Network)]);
        let client = scene.open(Dialect::Rfc6455);
        let second = scene.id(client);
        assert_eq!(first.slot(), second.slot());
        scene.says(client, &peer::text("hello"));
        scene.is_told(client, &[Told::Text("hello".to_string())]);
        scene.frees(first, 1001, HIGH_WATER);
        scene.says(client, &peer::text(&"y".repeat(1001)));
        scene.is_told(client, &[Told::Text("y".repeat(1001))]);
        scene.settles();
        scene.says(client, &peer::text("later"));
        scene.is_told_nothing(client);
    }

    fn what_is_submitted_together_arrives_in_its_order_and_misses_who_is_gone<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let clients = [(); 3].map(|()| scene.open(Dialect::Rfc6455));
        let conns = clients.map(|client| scene.id(client));
        scene.resets(clients[1]);
        scene.is_told(clients[1], &[Told::Closed(1006, ClosedBy::Network)]);
        let mut submitted = Submitted::default();
        let long = vec![7; 10_000];
        for number in 0..4 {
            for conn in conns {
                let text = format!("{number}");
                submitted.push(conn, Kind::Text, text.as_bytes(), true, Wish::Auto).unwrap();
            }
            submitted.push(conns[2], Kind::Binary, &long, true, Wish::Auto).unwrap();
        }
        scene.post(Command::SendMany(submitted));
        for number in 0..4 {
            let heard = said(&format!("{number}"));
            scene.hears(clients[0], std::slice::from_ref(&heard));
            scene.hears(clients[2], &[heard, Heard::Binary(long.clone())]);
        }
        scene.passes(Duration::from_secs(1));
        scene.hears_nothing(clients[0]);
    }
}
