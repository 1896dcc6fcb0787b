//! Every queue has a limit, and each limit does what it says.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::table::charge;
use fullduplex::engine::turn::{Misuse, Sent};
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Client, Scene, Setup, Told};
use crate::world::{SimWorld, World};

type Answers = Rc<RefCell<Vec<Result<Sent, Misuse>>>>;

#[test]
fn drain_comes_when_no_more_than_low_water_is_queued_and_not_before() {
    let options = [("send.high_water", "3000"), ("send.low_water", "2000")];
    let mut scene = Setup::new(&options).narrow(4000).scene::<SimWorld>();
    let client = scene.open(Dialect::Rfc6455);
    scene.set_deaf(client, true);
    scene.on(|turn, event| {
        if let EventKind::Message(_) = event.kind {
            // With its head each is 1,000 bytes, and the kernel takes four of them.
            (0..10).for_each(|_| drop(turn.send(event.conn, Kind::Binary, &[7; 996])));
        }
    });
    scene.says(client, &peer::text("go"));
    scene.is_told(client, &[Told::Text("go".to_string())]);
    scene.is_told_nothing(client);
    assert_eq!(scene.takes(client, 3999), 3999);
    scene.is_told_nothing(client);
    assert_eq!(scene.takes(client, 1), 1);
    scene.is_told(client, &[Told::Drain]);
    scene.is_told_nothing(client);
}

on_every_driver! {
    fn above_high_water_a_send_says_so_and_drain_follows_below_low_water<W: World>() {
        let options = [("send.high_water", "64k"), ("send.low_water", "8k")];
        let (mut scene, client, answers) = flooded::<W>(&options, 20, 10_000);
        let answers = answers.take();
        assert_eq!(answers[..6], vec![Ok(Sent::Queued); 6]);
        assert_eq!(answers[6..], vec![Ok(Sent::HighWater); 14]);
        scene.is_told_nothing(client);
        scene.set_deaf(client, false);
        scene.is_told(client, &[Told::Drain]);
        for _ in 0..20 {
            scene.hears(client, &[said(&"x".repeat(10_000))]);
        }
        scene.is_told_nothing(client);
    }

    fn at_the_limit_a_message_is_dropped_and_drain_follows<W: World>() {
        let options = [("send.limit", "100k"), ("send.full", "drop"), ("send.high_water", "1m")];
        let (mut scene, client, answers) = flooded::<W>(&options, 20, 10_000);
        let answers = answers.take();
        assert_eq!(answers[..10], vec![Ok(Sent::Queued); 10]);
        assert_eq!(answers[10..], vec![Err(Misuse::Full); 10]);
        scene.set_deaf(client, false);
        for _ in 0..10 {
            scene.hears(client, &[said(&"x".repeat(10_000))]);
        }
        scene.is_told(client, &[Told::Drain]);
        scene.hears_nothing(client);
        assert_eq!(scene.tables[0].counters.dropped_messages.load(SeqCst), 10);
        scene.on(crate::scene::echo);
        scene.says(client, &peer::text("still there"));
        scene.hears(client, &[said("still there")]);
    }

    fn at_the_limit_a_connection_is_closed<W: World>() {
        let options = [("send.limit", "100k"), ("send.full", "close"), ("send.high_water", "1m")];
        let (mut scene, client, answers) = flooded::<W>(&options, 12, 10_000);
        assert_eq!(answers.take()[10..], [Err(Misuse::Full), Err(Misuse::NoConnection)]);
        scene.is_told(client, &[Told::Closed(1006, ClosedBy::Limit)]);
        scene.empties();
        assert_eq!(scene.tables[0].counters.slow_closed.get(), 1);
    }

    fn a_message_over_the_limit_is_refused_and_costs_nothing<W: World>() {
        let (mut scene, client, answers) = flooded::<W>(&[("send.limit", "100k")], 1, 100 * 1024 + 1);
        assert_eq!(answers.take(), [Err(Misuse::TooBig)]);
        scene.on(crate::scene::echo);
        scene.set_deaf(client, false);
        scene.says(client, &peer::text("still there"));
        scene.hears(client, &[said("still there")]);
    }

    fn what_a_dialect_can_not_say_is_refused<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let answers = Answers::default();
        let seen = answers.clone();
        scene.on(move |turn, event| {
            if let EventKind::Message(_) = event.kind {
                seen.borrow_mut().push(turn.send(event.conn, Kind::Binary, b"b"));
                seen.borrow_mut().push(turn.send(event.conn, Kind::Text, b"\xFF"));
            }
        });
        let client = scene.open(Dialect::Hixie76);
        scene.says(client, &peer::text_in(Dialect::Hixie76, "go"));
        scene.hears_nothing(client);
        assert_eq!(answers.take(), [Err(Misuse::Unsupported), Err(Misuse::NotUtf8)]);
    }

    fn pings_of_a_peer_that_never_reads_fill_nothing<W: World>() {
        let options = [("send.high_water", "20k"), ("ping.interval", "0")];
        let mut scene = Setup::new(&options).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.set_deaf(client, true);
        let flood = peer::ping(&[b'p'; 125]).repeat(100);
        let mut most = 0;
        for _ in 0..100 {
            scene.says(client, &flood);
            scene.turn();
            let (entry, _) = scene.tables[0].find(scene.id(client)).expect("it lives");
            most = most.max(entry.get().queued_bytes());
        }
        scene.settles();
        assert_eq!(scene.unsent(client), 0, "all of it is read");
        assert!(most > 0, "the test reached the limit");
        assert!(most < 21 * 1024, "{most} bytes are queued");
    }

    fn messages_from_other_threads_bring_drain_as_well<W: World>() {
        let options = [("send.high_water", "32k"), ("send.low_water", "8k"), ("ping.interval", "0")];
        let mut scene = Setup::new(&options).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.set_deaf(client, true);
        let conn = scene.id(client);
        let text = "x".repeat(10_000);
        for _ in 0..20 {
            scene.post(Command::Send { conn, kind: Kind::Text, payload: text.clone().into_bytes(), last: true, wish: Wish::Auto });
        }
        let (entry, _) = scene.tables[0].find(conn).expect("it lives");
        assert_eq!(entry.get().queued_bytes(), 20 * charge(10_000), "what lies in the mailbox counts");
        // As `Server::send` promises it.
        entry.get().wants_drain.store(true, SeqCst);
        scene.is_told_nothing(client);
        scene.set_deaf(client, false);
        scene.is_told(client, &[Told::Drain]);
        for _ in 0..20 {
            scene.hears(client, &[said(&text)]);
        }
        assert_eq!(entry.get().queued_bytes(), 0);
    }

    fn a_message_over_max_message_closes_even_in_fragments<W: World>() {
        let mut scene = Scene::<W>::new(&[("max.message", "1000")]);
        for dialect in [Dialect::Rfc6455, Dialect::Hixie76] {
            let client = scene.open(dialect);
            let wire = match dialect {
                Dialect::Hixie76 => peer::text_in(dialect, &"x".repeat(1001)),
                _ => [peer::frame(0x01, &[b'x'; 600]), peer::frame(0x80, &[b'x'; 401])].concat(),
            };
            scene.says(client, &wire);
            let last = if dialect == Dialect::Hixie76 {
                Heard::HixieClose
            } else {
                Heard::Close(1009, "message over 1000 bytes".to_string())
            };
            scene.hears(client, &[last, Heard::Fin]);
            scene.is_told(client, &[Told::Closed(1009, ClosedBy::Limit)]);
        }
    }
}

/// A client that doesn't read is sent `count` texts of `len` bytes in one turn; and what the
/// sends answered.
fn flooded<W: World>(options: &[(&str, &str)], count: usize, len: usize) -> (Scene<W>, Client, Answers) {
    let mut scene = Setup::new(options).narrow(16 * 1024).scene::<W>();
    let client = scene.open(Dialect::Rfc6455);
    let answers = Answers::default();
    let seen = answers.clone();
    scene.on(move |turn, event| {
        if let EventKind::Message(kind) = event.kind {
            let text = "x".repeat(len);
            seen.borrow_mut().extend((0..count).map(|_| turn.send(event.conn, kind, text.as_bytes())));
        }
    });
    scene.set_deaf(client, true);
    scene.says(client, &peer::text("go"));
    scene.is_told(client, &[Told::Text("go".to_string())]);
    (scene, client, answers)
}
