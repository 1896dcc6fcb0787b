//! What happens when nothing happens.

use std::time::Duration;

use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::protocol::Dialect;
use fullduplex::protocol::deflate::Wish;

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Client, Scene, Setup, Told, seconds};
use crate::world::World;

on_every_driver! {
    fn a_ping_of_ours_goes_out_so_often_and_its_pong_is_known<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "5s")]);
        let client = scene.open(Dialect::Rfc6455);
        for _ in 0..5 {
            scene.passes(seconds(9));
            scene.hears_nothing(client);
            scene.passes(seconds(1));
            let payload = ping_of(&mut scene, client);
            scene.says(client, &peer::pong(&payload));
            scene.is_told(client, &[Told::Pong(true)]);
        }
        let rtt_us = &scene.tables[0].find(scene.id(client)).expect("it lives").0;
        assert!(rtt_us.get().rtt_us.load(std::sync::atomic::Ordering::Relaxed) > 0);
    }

    fn many_pings_at_once_go_out_in_several_turns_and_one_to_each<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s")]);
        let clients: Vec<_> = (0..600).map(|_| scene.open(Dialect::Rfc6455)).collect();
        scene.settles();
        scene.take_all_heard();
        scene.jumps(seconds(11));
        scene.turn();
        let first = scene.take_all_heard();
        let pinged = first.iter().filter(|heard| !heard.is_empty()).count();
        assert!((1..=256).contains(&pinged), "{pinged} in one turn");
        scene.settles();
        for (client, mut heard) in clients.into_iter().zip(first) {
            heard.extend(scene.heard(client));
            assert!(matches!(heard[..], [Heard::Ping(_)]), "{heard:?}");
        }
    }

    fn whoever_does_not_answer_a_ping_is_cut<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "5s")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.passes(seconds(10));
        ping_of(&mut scene, client);
        scene.passes(seconds(4));
        scene.hears_nothing(client);
        scene.passes(seconds(1));
        scene.loses(client);
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Timeout)]);
        scene.empties();
    }

    fn a_ping_timeout_longer_than_the_interval_still_ends<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "25s")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.set_deaf(client, true);
        for _ in 0..3 {
            scene.passes(seconds(10));
            scene.is_told_nothing(client);
        }
        scene.passes(seconds(6));
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Timeout)]);
        scene.empties();
    }

    fn the_answer_to_each_of_several_pings_is_measured<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "25s")]);
        let client = scene.open(Dialect::Rfc6455);
        for _ in 0..4 {
            scene.passes(seconds(10));
            let first = ping_of(&mut scene, client);
            scene.passes(seconds(10));
            let second = ping_of(&mut scene, client);
            scene.says(client, &[peer::pong(&first), peer::pong(&second)].concat());
            scene.is_told(client, &[Told::Pong(true), Told::Pong(true)]);
        }
    }

    fn an_answer_that_comes_when_the_next_ping_is_due_is_measured<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "25s")]);
        let client = scene.open(Dialect::Rfc6455);
        for _ in 0..4 {
            scene.passes(seconds(10));
            let first = ping_of(&mut scene, client);
            scene.jumps(seconds(11));
            scene.says(client, &peer::pong(&first));
            scene.is_told(client, &[Told::Pong(true)]);
            let second = ping_of(&mut scene, client);
            scene.says(client, &peer::pong(&second));
            scene.is_told(client, &[Told::Pong(true)]);
        }
    }

    fn an_answer_of_someone_who_talks_meanwhile_is_measured_however_long_it_takes<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "25s")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.passes(seconds(10));
        let first = ping_of(&mut scene, client);
        for _ in 0..3 {
            scene.passes(seconds(5));
            scene.says(client, &peer::text("busy"));
            scene.is_told(client, &[Told::Text("busy".to_string())]);
            scene.hears(client, &[said("busy")]);
            scene.passes(seconds(5));
            ping_of(&mut scene, client);
        }
        scene.says(client, &peer::pong(&first));
        scene.is_told(client, &[Told::Pong(true)]);
        // What comes next is not answered.
        scene.passes(seconds(10));
        scene.passes(seconds(26));
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Timeout)]);
    }

    fn a_pong_that_nobody_asked_for_measures_nothing<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.passes(seconds(10));
        ping_of(&mut scene, client);
        for payload in [&[][..], b"beat", &[0; 8], &[0xff; 8], &[0; 9]] {
            scene.says(client, &peer::pong(payload));
            scene.is_told(client, &[Told::Pong(false)]);
        }
    }

    fn whoever_speaks_lives_even_without_a_pong<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "5s")]);
        let client = scene.open(Dialect::Rfc6455);
        for _ in 0..4 {
            scene.passes(seconds(10));
            scene.says(client, &peer::text("no time for pongs"));
            scene.is_told(client, &[Told::Text("no time for pongs".to_string())]);
            scene.passes(seconds(6));
        }
        scene.is_told_nothing(client);
    }

    fn whom_we_do_not_read_can_not_answer_and_is_not_cut<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "5s")]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        scene.post(Command::SetPaused { conn, paused: true });
        for _ in 0..3 {
            scene.passes(seconds(10));
            let payload = ping_of(&mut scene, client);
            scene.says(client, &peer::pong(&payload));
        }
        scene.is_told_nothing(client);
        // Its answers lie in the kernel when reading goes on, and a clock is due already.
        scene.world.pass(seconds(9) + Duration::from_millis(980));
        scene.settles();
        scene.world.pass(Duration::from_millis(40));
        scene.post(Command::SetPaused { conn, paused: false });
        scene.settles();
        scene.says(client, &peer::text("alive"));
        scene.until("it speaks", |scene| {
            scene.turn();
            scene.heard(client).contains(&said("alive"))
        });
    }

    fn an_old_ping_has_its_full_time_from_when_we_read_again<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "100s"), ("ping.timeout", "5s")]);
        let client = scene.open(Dialect::Rfc6455);
        let conn = scene.id(client);
        scene.passes(seconds(100));
        ping_of(&mut scene, client);
        scene.post(Command::SetPaused { conn, paused: true });
        scene.passes(seconds(10));
        scene.post(Command::SetPaused { conn, paused: false });
        scene.passes(seconds(4));
        scene.is_told_nothing(client);
        scene.passes(seconds(1));
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Timeout)]);
    }

    fn hixie_has_no_pings_and_its_silence_is_no_death<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "10s"), ("ping.timeout", "5s")]);
        for dialect in [Dialect::Hixie76, Dialect::Hixie75] {
            let client = scene.open(dialect);
            for _ in 0..3 {
                scene.passes(seconds(40));
            }
            scene.hears_nothing(client);
            scene.is_told_nothing(client);
        }
    }

    fn an_idle_connection_is_closed_and_pings_do_not_count<W: World>() {
        let options = [("timeout.idle", "30s"), ("ping.interval", "10s"), ("ping.timeout", "5s")];
        let mut scene = Scene::<W>::new(&options);
        let client = scene.open(Dialect::Rfc6455);
        scene.passes(seconds(8));
        scene.says(client, &peer::text("hello"));
        scene.hears(client, &[said("hello")]);
        scene.is_told(client, &[Told::Text("hello".to_string())]);
        for _ in 0..5 {
            scene.passes(seconds(5));
            scene.says(client, &peer::ping(b""));
            let conn = scene.id(client);
            assert!(scene.tables[0].find(conn).is_some());
        }
        scene.heard(client);
        scene.passes(seconds(5));
        let heard = scene.heard(client);
        assert!(matches!(&heard[..], [.., Heard::Close(1001, _)]), "{heard:?}");
        scene.says(client, &peer::close(1001, ""));
        scene.hears(client, &[Heard::Fin]);
    }

    fn the_clocks_of_an_open_connection_do_not_wait_for_that_of_its_handshake<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.handshake", "1h"), ("timeout.idle", "2s")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.passes(seconds(2));
        scene.hears(client, &[Heard::Close(1001, "idle for too long".to_string())]);
    }

    fn a_message_of_ours_counts_against_idleness<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.idle", "30s"), ("ping.interval", "0")]);
        let client = scene.open(Dialect::Rfc6455);
        for _ in 0..3 {
            scene.passes(seconds(20));
            let (conn, kind) = (scene.id(client), fullduplex::protocol::Kind::Text);
            scene.post(Command::Send { conn, kind, payload: b"news".to_vec(), last: true, wish: Wish::Auto });
            scene.hears(client, &[said("news")]);
        }
        scene.passes(seconds(30));
        let heard = scene.heard(client);
        assert!(matches!(&heard[..], [Heard::Close(1001, _)]), "{heard:?}");
    }

    fn whoever_reads_nothing_is_cut_after_the_write_stall<W: World>() {
        let mut scene = stalled::<W>();
        let client = Client::first();
        scene.passes(seconds(9));
        scene.is_told_nothing(client);
        scene.passes(seconds(1));
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Timeout)]);
        scene.empties();
    }

    fn whoever_takes_a_byte_now_and_then_is_cut_too<W: World>() {
        let mut scene = stalled::<W>();
        let client = Client::first();
        // The real kernel's clock runs on between the jumps, on a busy machine for seconds.
        for _ in 0..6 {
            scene.passes(seconds(1));
            scene.takes(client, 1);
            scene.is_told_nothing(client);
        }
        scene.passes(seconds(5));
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Timeout)]);
        scene.empties();
    }

    fn a_slow_reader_is_no_stalled_one<W: World>() {
        let mut scene = stalled::<W>();
        let client = Client::first();
        for _ in 0..8 {
            scene.passes(seconds(5));
            // At least send.low_water in its time, even if the kernel is slow to tell.
            let mut taken = 0;
            scene.until("some is taken", |scene| {
                taken += scene.takes(client, 64 * 1024 - taken);
                scene.turn();
                taken >= 64 * 1024
            });
        }
        scene.is_told_nothing(client);
    }
}

/// A client that was sent a lot and takes none of it.
fn stalled<W: World>() -> Scene<W> {
    let options = [
        ("timeout.write_stall", "10s"),
        ("send.low_water", "16k"),
        ("ping.interval", "0"),
        ("send.limit", "16m"),
    ];
    let mut scene = Setup::new(&options).narrow(16 * 1024).scene::<W>();
    let client = scene.open(Dialect::Rfc6455);
    scene.on(|turn, event| {
        if let EventKind::Message(kind) = event.kind {
            for _ in 0..20 {
                turn.send(event.conn, kind, &[b'x'; 100_000]).unwrap();
            }
        }
    });
    scene.set_deaf(client, true);
    scene.says(client, &peer::text("go"));
    scene.is_told(client, &[Told::Text("go".to_string())]);
    scene
}

/// A Ping came, and nothing else.
fn ping_of<W: World>(scene: &mut Scene<W>, client: Client) -> Vec<u8> {
    scene.settles();
    match &scene.heard(client)[..] {
        [Heard::Ping(payload)] => payload.clone(),
        other => panic!("{other:?} is no Ping"),
    }
}
