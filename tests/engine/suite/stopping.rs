//! The end of a server: everybody is told good-bye, and nobody can delay it for ever.

use fullduplex::engine::Command;
use fullduplex::engine::event::ClosedBy;
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Scene, Setup, Told, seconds};
use crate::world::World;

on_every_driver! {
    fn everybody_is_told_good_bye_and_may_answer<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let clients = [scene.open(Dialect::Rfc6455), scene.open(Dialect::HyBi07)];
        scene.stop(seconds(0), seconds(30));
        for client in clients {
            scene.hears(client, &[Heard::Close(1001, "bye".to_string())]);
        }
        assert!(!scene.shards[0].engine().is_finished());
        for client in clients {
            scene.says(client, &peer::close(1001, ""));
            scene.hears(client, &[Heard::Fin]);
            scene.is_told(client, &[Told::Closed(1001, ClosedBy::Shutdown)]);
            scene.finishes(client);
        }
        scene.until("the shard has finished", |scene| scene.shards[0].engine().is_finished());
        scene.empties();
    }

    fn without_a_deadline_the_good_bye_still_goes_out<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let dialects = [Dialect::Rfc6455, Dialect::Hixie76, Dialect::Hixie75];
        let clients = dialects.map(|dialect| (dialect, scene.open(dialect)));
        scene.stop(seconds(0), seconds(0));
        for (dialect, client) in clients {
            match dialect {
                Dialect::Rfc6455 => scene.hears(client, &[Heard::Close(1001, "bye".to_string())]),
                Dialect::Hixie76 => scene.hears(client, &[Heard::HixieClose]),
                _ => {}
            }
            scene.hears(client, &[Heard::Fin]);
            let code = if peer::is_hixie(dialect) { 1005 } else { 1006 };
            scene.is_told(client, &[Told::Closed(code, ClosedBy::Shutdown)]);
        }
        scene.until("the shard has finished", |scene| scene.shards[0].engine().is_finished());
        scene.empties();
    }

    fn whoever_has_not_answered_at_the_deadline_is_cut<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.close", "1h")]);
        let client = scene.open(Dialect::Rfc6455);
        scene.stop(seconds(0), seconds(10));
        scene.hears(client, &[Heard::Close(1001, "bye".to_string())]);
        scene.passes(seconds(9));
        scene.hears_nothing(client);
        scene.passes(seconds(1));
        scene.loses(client);
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Shutdown)]);
        scene.empties();
    }

    fn good_byes_are_spread_over_their_time_and_meanwhile_life_goes_on<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "0")]);
        let clients = [(); 4].map(|()| scene.open(Dialect::Rfc6455));
        scene.stop(seconds(40), seconds(100));
        for (index, client) in clients.into_iter().enumerate() {
            scene.hears(client, &[Heard::Close(1001, "bye".to_string())]);
            scene.says(client, &peer::close(1001, ""));
            scene.hears(client, &[Heard::Fin]);
            for later in &clients[index + 1..] {
                scene.says(*later, &peer::text("still here"));
                scene.hears(*later, &[said("still here")]);
                scene.hears_nothing(*later);
            }
            scene.finishes(client);
            scene.passes(seconds(10));
        }
        scene.until("the shard has finished", |scene| scene.shards[0].engine().is_finished());
        scene.empties();
    }

    fn the_deadline_holds_even_when_good_byes_are_spread_beyond_it<W: World>() {
        let mut scene = Scene::<W>::new(&[("ping.interval", "0")]);
        let clients = [(); 4].map(|()| scene.open(Dialect::Rfc6455));
        scene.stop(seconds(40), seconds(15));
        scene.hears(clients[0], &[Heard::Close(1001, "bye".to_string())]);
        scene.passes(seconds(10));
        scene.hears(clients[1], &[Heard::Close(1001, "bye".to_string())]);
        scene.hears_nothing(clients[2]);
        scene.passes(seconds(5));
        for client in clients {
            scene.loses(client);
            scene.is_told(client, &[Told::Closed(1006, ClosedBy::Shutdown)]);
        }
        scene.empties();
    }

    fn who_came_before_a_stop_is_let_in_and_told_good_bye_as_the_others_are<W: World>() {
        let mut scene = Setup::new(&[]).wants_upgrade().scene::<W>();
        scene.on(|_, _| {});
        let deciding = scene.connect(Dialect::Rfc6455);
        scene.asks(deciding, Told::Upgrade);
        let late = scene.connect_saying(Dialect::Rfc6455, b"");
        scene.settles();
        scene.stop(seconds(0), seconds(5));
        scene.settles();
        scene.says(late, &peer::request(Dialect::Rfc6455, "/"));
        scene.asks(late, Told::Upgrade);
        for client in [deciding, late] {
            let conn = scene.id(client);
            scene.post(Command::Accept { conn, protocol: None, headers: String::new() });
            scene.hears(client, &[Heard::Http(101), Heard::Close(1001, "bye".to_string())]);
            scene.says(client, &peer::close(1001, ""));
            scene.is_told(client, &[Told::Open, Told::Closed(1001, ClosedBy::Shutdown)]);
        }
        scene.empties();
    }

    fn who_speaks_on_after_the_good_bye_does_not_delay_the_end<W: World>() {
        let mut scene = Scene::<W>::new(&[("timeout.close", "4s")]);
        let late = scene.connect_saying(Dialect::Rfc6455, b"");
        scene.settles();
        scene.stop(seconds(0), seconds(60));
        scene.says(late, &peer::request(Dialect::Rfc6455, "/"));
        scene.opens(late);
        scene.hears(late, &[Heard::Close(1001, "bye".to_string())]);
        for _ in 0..3 {
            scene.passes(seconds(1));
            scene.says(late, &peer::text("one thing more"));
            scene.hears_nothing(late);
        }
        scene.passes(seconds(1));
        scene.loses(late);
        scene.is_told_last(late, Told::Closed(1006, ClosedBy::Shutdown));
        scene.empties();
    }

    fn what_is_not_decided_when_a_stop_is_over_is_cut<W: World>() {
        let mut scene = Setup::new(&[]).wants_upgrade().scene::<W>();
        scene.on(|_, _| {});
        let client = scene.connect(Dialect::Rfc6455);
        scene.asks(client, Told::Upgrade);
        scene.stop(seconds(0), seconds(5));
        scene.passes(seconds(5));
        scene.loses(client);
        scene.is_told_nothing(client);
        scene.empties();
    }

    fn a_stop_with_nobody_there_is_over_at_once<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        scene.stop(seconds(60), seconds(60));
        scene.turn();
        assert!(scene.shards[0].engine().is_finished());
    }

    fn what_is_queued_at_the_stop_goes_out_before_the_good_bye<W: World>() {
        let mut scene = Setup::new(&[]).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        let (conn, kind) = (scene.id(client), Kind::Text);
        let text = "x".repeat(300_000);
        scene.post(Command::Send { conn, kind, payload: text.clone().into_bytes(), last: true, wish: Wish::Auto });
        scene.stop(seconds(0), seconds(30));
        scene.hears(client, &[said(&text), Heard::Close(1001, "bye".to_string())]);
    }
}
