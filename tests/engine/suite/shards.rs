//! Commands from other threads, the life of a slot, and connections handed to other shards.

use fullduplex::driver::sim::Faults;
use fullduplex::engine::Command;
use fullduplex::engine::event::ClosedBy;
use fullduplex::engine::turn::Message;
use fullduplex::id::ConnId;
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Scene, Setup, Told, abort, normal_close, ping, seconds};
use crate::world::{SimWorld, World};

#[test]
fn without_descriptors_nobody_is_accepted_and_nothing_spins_until_there_are_some() {
    let mut scene = Scene::<SimWorld>::new(&[]);
    let before = scene.open(Dialect::Rfc6455);
    scene.world.kernel.set_faults(Faults { accept_trouble: 1000, ..Faults::none() });
    let waiting = [(); 3].map(|()| scene.connect(Dialect::Rfc6455));
    scene.is_told_by_server(&[Told::Listener]);
    for _ in 0..50 {
        scene.turn();
        assert!(!scene.world.kernel.was_for_nothing());
    }
    scene.says(before, &peer::text("still served"));
    scene.hears(before, &[said("still served")]);
    scene.world.kernel.set_faults(Faults::none());
    scene.passes(seconds(1));
    waiting.into_iter().for_each(|client| scene.opens(client));
}

#[test]
fn a_connection_that_can_not_be_watched_is_closed_and_forgotten() {
    let mut scene = Scene::<SimWorld>::new(&[]);
    scene.world.kernel.set_faults(Faults { adopt_trouble: 1000, ..Faults::none() });
    let client = scene.connect(Dialect::Rfc6455);
    scene.loses(client);
    scene.empties();
    scene.world.kernel.set_faults(Faults::none());
    scene.open(Dialect::Rfc6455);
}

on_every_driver! {
    fn what_other_threads_ask_is_done_in_their_order<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        let message = std::sync::Arc::new(Message::new(Kind::Binary, &[1, 2, 3]).unwrap());
        scene.post(Command::Send { conn, kind: Kind::Text, payload: b"one".to_vec(), last: true, wish: Wish::Auto });
        scene.post(Command::SendMessage { conn, message, wish: Wish::Auto });
        scene.post(ping(conn, b"four"));
        scene.post(Command::Send { conn, kind: Kind::Text, payload: vec![b'5'; 5000], last: true, wish: Wish::Auto });
        scene.post(normal_close(conn));
        scene.post(Command::Send { conn, kind: Kind::Text, payload: b"too late".to_vec(), last: true, wish: Wish::Auto });
        scene.hears(client, &[said("one"), Heard::Binary(vec![1, 2, 3]), Heard::Ping(b"four".to_vec())]);
        scene.hears(client, &[said(&"5".repeat(5000)), Heard::Close(1000, "done".to_string())]);
        scene.hears_nothing(client);
    }

    fn what_is_asked_of_a_connection_that_is_gone_does_nothing<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let gone = scene.open(Dialect::Rfc6455);
        let stale = scene.id(gone);
        scene.post(abort(stale));
        scene.is_told(gone, &[Told::Closed(1006, ClosedBy::Host)]);
        scene.empties();
        let client = scene.open(Dialect::Rfc6455);
        assert_eq!(scene.id(client).slot(), stale.slot(), "it lives in the same slot");
        let never = ConnId::new(0, stale.generation(), 1_000_000);
        for conn in [stale, never, ConnId::from_u64(0)] {
            scene.post(Command::Send { conn, kind: Kind::Text, payload: b"who?".to_vec(), last: true, wish: Wish::Auto });
            scene.post(Command::SetPaused { conn, paused: true });
            scene.post(ping(conn, b"who?"));
            scene.post(Command::Accept { conn, protocol: None, headers: String::new() });
            scene.post(Command::Answer { conn, status: 200, headers: String::new(), body: Vec::new() });
            scene.post(normal_close(conn));
            scene.post(abort(conn));
        }
        scene.hears_nothing(client);
        scene.says(client, &peer::text("here"));
        scene.hears(client, &[said("here")]);
        let (entry, _) = scene.tables[0].find(scene.id(client)).expect("it lives");
        assert_eq!(entry.get().queued_bytes(), 0, "another's messages are not on its account");
    }

    fn slots_are_used_again_oldest_first_under_new_numbers<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let clients = [(); 4].map(|()| scene.open(Dialect::Rfc6455));
        let ids = clients.map(|client| scene.id(client));
        for index in [2, 0, 3] {
            scene.post(abort(ids[index]));
            scene.is_told(clients[index], &[Told::Closed(1006, ClosedBy::Host)]);
            scene.settles();
        }
        for index in [2, 0, 3] {
            let again = scene.open(Dialect::Rfc6455);
            assert_eq!(scene.id(again).slot(), ids[index].slot());
            assert_ne!(scene.id(again), ids[index]);
            assert!(scene.tables[0].find(ids[index]).is_none());
        }
    }

    fn connections_are_spread_evenly_over_the_shards<W: World>() {
        let mut scene = Setup::new(&[]).shards(2).scene::<W>();
        let clients = [(); 10].map(|()| scene.open(Dialect::Rfc6455));
        for shard in [0, 1] {
            assert_eq!(scene.shards[shard].engine().live_connections(), 5);
            assert_eq!(clients.iter().filter(|&&client| scene.id(client).shard() == shard).count(), 5);
        }
        for client in clients {
            scene.says(client, &peer::text("hello"));
            scene.hears(client, &[said("hello")]);
        }
        scene.stop(seconds(0), seconds(0));
        scene.until("both have finished", |scene| {
            scene.shards.iter().all(|shard| shard.engine().is_finished())
        });
        scene.empties();
    }

    fn a_connection_for_a_shard_that_is_gone_is_served_by_the_one_that_listens<W: World>() {
        let mut scene = Setup::new(&[]).shards(2).scene::<W>();
        assert!(scene.shards[1].mailbox().close().is_some());
        for _ in 0..4 {
            let client = scene.open(Dialect::Rfc6455);
            assert_eq!(scene.id(client).shard(), 0);
            scene.says(client, &peer::text("who is there?"));
            scene.hears(client, &[said("who is there?")]);
        }
    }

    fn a_connection_on_its_way_to_a_shard_that_stops_is_let_in_and_told_good_bye<W: World>() {
        let mut scene = Setup::new(&[]).shards(2).scene::<W>();
        let clients = [(); 4].map(|()| scene.connect(Dialect::Rfc6455));
        scene.stop(seconds(0), seconds(5));
        for client in clients {
            scene.hears(client, &[Heard::Http(101), Heard::Close(1001, "bye".to_string())]);
            scene.says(client, &peer::close(1001, ""));
        }
        scene.until("both have finished", |scene| {
            scene.shards.iter().all(|shard| shard.engine().is_finished())
        });
        scene.empties();
    }
}
