//! What is published to a topic reaches everyone who is in it then, once and in order.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::topics::Outcomes;
use fullduplex::engine::turn::Misuse;
use fullduplex::id::ConnId;
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Client, Hub, Scene, Setup, Told, abort, normal_close, seconds};
use crate::world::World;

const QUEUED: Outcomes = Outcomes { queued: 1, high_water: 0, dropped: 0 };

fn queued(queued: u64) -> Outcomes {
    Outcomes { queued, ..Outcomes::default() }
}

/// A client that is in a topic.
fn subscriber<W: World>(scene: &mut Scene<W>, topic: &str) -> Client {
    let client = scene.open(Dialect::Rfc6455);
    let conn = scene.id(client);
    assert_eq!(scene.hub().subscribe(None, conn, topic), Ok(true));
    let subscribers = scene.hub().topics.subscribers_of(topic.as_bytes());
    scene.is_told(client, &[Told::Joined(topic.to_string(), subscribers)]);
    client
}

fn was_told<W: World>(scene: &Scene<W>, client: Client, told: &Told) -> bool {
    scene.all_told().iter().any(|(conn, what)| *conn == scene.id(client) && what == told)
}

/// The embedder does this at a client's messages.
fn on_message<W: World>(
    scene: &mut Scene<W>,
    mut react: impl FnMut(&Hub, &mut fullduplex::engine::turn::Turn<'_>, ConnId, &str) + 'static,
) {
    let hub = scene.hub();
    scene.on(move |turn, event| {
        if let EventKind::Message(Kind::Text) = event.kind {
            let text = std::str::from_utf8(event.payload).expect("a text is UTF-8");
            react(&hub, turn, event.conn, text);
        }
    });
}

on_every_driver! {
    fn what_is_published_reaches_every_dialect_that_is_in<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let hub = scene.hub();
        let dialects = [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07, Dialect::Hixie76, Dialect::Hixie75];
        let clients = dialects.map(|dialect| scene.open(dialect));
        for client in clients {
            assert_eq!(hub.subscribe(None, scene.id(client), "news"), Ok(true));
        }
        let outsider = scene.open(Dialect::Rfc6455);
        assert_eq!(hub.publish(None, "news", "extra"), queued(5));
        for client in clients {
            scene.hears(client, &[said("extra")]);
        }
        scene.hears_nothing(outsider);
    }

    fn a_topic_is_as_long_as_somebody_is_in_it<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let hub = scene.hub();
        assert_eq!(hub.publish(None, "news", "to nobody"), queued(0));
        let (first, second) = (subscriber(&mut scene, "news"), subscriber(&mut scene, "news"));
        let (one, other) = (scene.id(first), scene.id(second));
        assert_eq!((hub.topics.topics(), hub.topics.subscribers()), (1, 2));
        assert_eq!(hub.subscribe(None, one, "news"), Ok(false));
        assert!(hub.unsubscribe(None, one, "news"));
        assert!(!hub.unsubscribe(None, one, "news"));
        scene.is_told(first, &[Told::Left("news".to_string(), 1)]);
        assert_eq!(hub.publish(None, "news", "to one"), QUEUED);
        scene.hears(second, &[said("to one")]);
        scene.hears_nothing(first);
        assert!(hub.unsubscribe(None, other, "news"));
        assert_eq!((hub.topics.topics(), hub.topics.subscribers()), (0, 0));
        scene.is_told(second, &[Told::Left("news".to_string(), 0)]);
    }

    fn who_comes_later_gets_nothing_from_before<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let early = subscriber(&mut scene, "news");
        let late = scene.open(Dialect::Rfc6455);
        let (hub, late_id) = (scene.hub(), scene.id(late));
        // All this before the shard has its next turn.
        assert_eq!(hub.publish(None, "news", "one"), QUEUED);
        assert_eq!(hub.subscribe(None, late_id, "news"), Ok(true));
        assert_eq!(hub.publish(None, "news", "two"), queued(2));
        scene.hears(early, &[said("one"), said("two")]);
        scene.hears(late, &[said("two")]);
    }

    fn who_leaves_still_gets_what_was_published_before<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = subscriber(&mut scene, "news");
        let (hub, conn) = (scene.hub(), scene.id(client));
        assert_eq!(hub.publish(None, "news", "you were in"), QUEUED);
        assert!(hub.unsubscribe(None, conn, "news"));
        assert_eq!(hub.publish(None, "news", "you were not"), queued(0));
        assert_eq!(hub.subscribe(None, conn, "news"), Ok(true));
        assert_eq!(hub.publish(None, "news", "you were again"), QUEUED);
        scene.hears(client, &[said("you were in"), said("you were again")]);
        scene.settles();
        let (entry, _) = scene.tables[0].find(conn).unwrap();
        assert_eq!(entry.get().mailbox_bytes(), 0);
    }

    fn the_sender_can_be_left_out<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let (sender, other) = (subscriber(&mut scene, "room"), subscriber(&mut scene, "room"));
        on_message(&mut scene, |hub, turn, conn, text| {
            assert_eq!(hub.publish_as(Some(turn), "room", Kind::Text, text.as_bytes(), conn), QUEUED);
        });
        scene.says(sender, &peer::text("hello"));
        scene.hears(other, &[said("hello")]);
        scene.hears_nothing(sender);
    }

    fn what_a_callback_publishes_sends_and_closes_arrives_in_that_order<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = subscriber(&mut scene, "room");
        on_message(&mut scene, |hub, turn, conn, _| {
            turn.send(conn, Kind::Text, b"1").unwrap();
            hub.publish(Some(turn), "room", "2");
            turn.send(conn, Kind::Text, b"3").unwrap();
            hub.publish(Some(turn), "room", "4");
            hub.unsubscribe(Some(turn), conn, "room");
            turn.send(conn, Kind::Text, b"5").unwrap();
            hub.subscribe(Some(turn), conn, "room").unwrap();
            hub.publish(Some(turn), "room", "6");
            turn.obey(normal_close(conn));
        });
        scene.says(client, &peer::text("go"));
        let words = ["1", "2", "3", "4", "5", "6"].map(said);
        scene.hears(client, &words);
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
    }

    fn what_another_thread_publishes_sends_and_closes_arrives_in_that_order<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = subscriber(&mut scene, "room");
        let (hub, conn) = (scene.hub(), scene.id(client));
        let send = |text: &str| {
            let (payload, wish) = (text.as_bytes().to_vec(), Wish::Auto);
            Command::Send { conn, kind: Kind::Text, payload, last: true, wish }
        };
        scene.post(send("1"));
        hub.publish(None, "room", "2");
        scene.post(send("3"));
        hub.publish(None, "room", "4");
        hub.unsubscribe(None, conn, "room");
        scene.post(send("5"));
        hub.subscribe(None, conn, "room").unwrap();
        hub.publish(None, "room", "6");
        scene.post(normal_close(conn));
        scene.hears(client, &["1", "2", "3", "4", "5", "6"].map(said));
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
    }

    fn publishing_in_a_callback_waits_for_what_another_thread_said_before<W: World>() {
        // Another thread's message lies in the mailbox when a callback publishes to the same topic: the
        // two come in any order, and each of them once.
        let mut scene = Scene::<W>::new(&[]);
        let client = subscriber(&mut scene, "room");
        on_message(&mut scene, |hub, turn, conn, _| {
            hub.publish(None, "room", "from afar");
            hub.publish(Some(turn), "room", "from here");
            hub.unsubscribe(Some(turn), conn, "room");
            turn.send(conn, Kind::Text, b"after here").unwrap();
        });
        scene.says(client, &peer::text("go"));
        scene.hears(client, &[said("from here"), said("after here"), said("from afar")]);
        let conn = scene.id(client);
        let (entry, _) = scene.tables[0].find(conn).unwrap();
        assert_eq!(entry.get().mailbox_bytes(), 0);
    }

    fn a_subscriber_on_any_shard_gets_it_once<W: World>() {
        let mut scene = Setup::new(&[]).shards(3).scene::<W>();
        let clients: Vec<_> = (0..9).map(|_| subscriber(&mut scene, "room")).collect();
        on_message(&mut scene, |hub, turn, conn, text| {
            assert_eq!(hub.publish_as(Some(turn), "room", Kind::Text, text.as_bytes(), conn), queued(8));
        });
        scene.says(clients[0], &peer::text("to all"));
        for &client in &clients[1..] {
            scene.hears(client, &[said("to all")]);
        }
        scene.hears_nothing(clients[0]);
    }

    fn comings_and_goings_are_told_to_who_asked_and_all_are_gone_before_close<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let (hub, conn) = (scene.hub(), scene.id(client));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (looking, seeing) = (scene.hub(), seen.clone());
        scene.on(move |turn, event| {
            if let EventKind::Close { .. } | EventKind::Topic { joined: false, .. } = event.kind {
                let again = looking.subscribe(Some(turn), event.conn, "again");
                seeing.borrow_mut().push((looking.topics.subscribers(), again));
            }
        });
        hub.subscribe(None, conn, "a").unwrap();
        hub.subscribe(None, conn, "b").unwrap();
        scene.is_told(client, &[Told::Joined("a".to_string(), 1), Told::Joined("b".to_string(), 1)]);
        scene.says(client, &peer::close(1000, ""));
        scene.until("it is closed", |_| seen.borrow().len() == 3);
        assert!(seen.borrow().iter().all(|seen| *seen == (0, Err(Misuse::NoConnection))));
        assert_eq!(hub.topics.topics(), 0);
    }

    fn a_connection_can_be_in_so_many_topics_and_no_more<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        let (hub, conn) = (scene.hub(), scene.id(client));
        for topic in ["a", "b", "c"] {
            assert_eq!(hub.subscribe(None, conn, topic), Ok(true));
        }
        assert_eq!(hub.subscribe(None, conn, "d"), Err(Misuse::Limit));
        assert_eq!(hub.subscribe(None, conn, "a"), Ok(false));
        hub.unsubscribe(None, conn, "a");
        assert_eq!(hub.subscribe(None, conn, "d"), Ok(true));
        assert_eq!(hub.topics.subscribers_of(b"d"), 1);
    }

    fn who_is_closing_joins_nothing_and_gets_nothing<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = subscriber(&mut scene, "room");
        let (hub, conn) = (scene.hub(), scene.id(client));
        scene.post(normal_close(conn));
        scene.hears(client, &[Heard::Close(1000, "done".to_string())]);
        assert_eq!(hub.subscribe(None, conn, "late"), Err(Misuse::Closing));
        assert_eq!(hub.publish(None, "room", "too late"), queued(0));
        scene.hears_nothing(client);
    }

    fn a_slow_subscriber_is_counted_and_with_drop_misses_what_it_has_no_room_for<W: World>() {
        let options = [("send.low_water", "100"), ("send.high_water", "500"), ("send.limit", "1100"), ("send.full", "drop")];
        let mut scene = Setup::new(&options).narrow(1000).scene::<W>();
        let (quick, slow) = (subscriber(&mut scene, "room"), subscriber(&mut scene, "room"));
        let hub = scene.hub();
        scene.set_deaf(slow, true);
        let (mut lost, mut sent) = (0, 0);
        while lost < 3 {
            let text = format!("{sent:0300}");
            let outcomes = hub.publish(None, "room", &text);
            assert_eq!(outcomes.queued + outcomes.high_water + outcomes.dropped, 2);
            lost += outcomes.dropped;
            sent += 1;
            scene.hears(quick, &[said(&text)]);
            assert!(sent < 100_000, "it is never full");
        }
        scene.set_deaf(slow, false);
        let heard: Vec<_> = (0..sent - lost).map(|number| said(&format!("{number:0300}"))).collect();
        scene.hears(slow, &heard);
        scene.until("it can drain", |scene| was_told(scene, slow, &Told::Drain));
        assert_eq!(hub.publish(None, "room", "again"), queued(2));
        scene.hears(slow, &[said("again")]);
    }

    fn a_slow_subscriber_is_closed_if_that_is_wanted_and_the_others_get_all<W: World>() {
        let mut scene = Setup::new(&[("send.low_water", "100"), ("send.high_water", "500"), ("send.limit", "1100")])
            .narrow(1000)
            .scene::<W>();
        let (quick, slow) = (subscriber(&mut scene, "room"), subscriber(&mut scene, "room"));
        let hub = scene.hub();
        scene.set_deaf(slow, true);
        for number in 0.. {
            let text = format!("{number:0300}");
            let outcomes = hub.publish(None, "room", &text);
            scene.hears(quick, &[said(&text)]);
            if outcomes.dropped > 0 {
                break;
            }
            assert!(number < 100_000, "it is never full");
        }
        scene.until("it is closed", |scene| was_told(scene, slow, &Told::Closed(1006, ClosedBy::Limit)));
        assert_eq!(hub.publish(None, "room", "again"), QUEUED);
        scene.hears(quick, &[said("again")]);
    }

    fn what_can_not_be_said_to_one_is_dropped_for_it_alone<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let hub = scene.hub();
        let clients = [Dialect::Rfc6455, Dialect::Hixie76].map(|dialect| scene.open(dialect));
        for client in clients {
            hub.subscribe(None, scene.id(client), "room").unwrap();
        }
        let outcomes = hub.publish_as(None, "room", Kind::Binary, b"\xFF", ConnId::NONE);
        assert_eq!(outcomes, Outcomes { queued: 1, high_water: 0, dropped: 1 });
        scene.hears(clients[0], &[Heard::Binary(vec![0xFF])]);
        scene.hears_nothing(clients[1]);
    }

    fn in_the_middle_of_a_message_in_fragments_nothing_is_published_to_it<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = subscriber(&mut scene, "room");
        on_message(&mut scene, |hub, turn, conn, _| {
            turn.send_fragment(conn, Kind::Text, b"to ", false).unwrap();
            assert_eq!(hub.publish(Some(turn), "room", "no").dropped, 1);
            turn.send_fragment(conn, Kind::Text, b"be", true).unwrap();
            assert_eq!(hub.publish(Some(turn), "room", "yes"), QUEUED);
        });
        scene.says(client, &peer::text("go"));
        scene.hears(client, &[said("to be"), said("yes")]);
    }

    fn a_topic_with_more_than_a_turn_can_send_reaches_all_and_holds_nobody_up<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let clients: Vec<_> = (0..600).map(|_| scene.open(Dialect::Rfc6455)).collect();
        let hub = scene.hub();
        for &client in &clients {
            hub.subscribe(None, scene.id(client), "room").unwrap();
        }
        let last = *clients.last().unwrap();
        on_message(&mut scene, |hub, turn, conn, _| {
            for number in 0..100 {
                assert_eq!(hub.publish(Some(turn), "room", &number.to_string()), queued(600));
            }
            // Its turn has not come, and still the order is kept.
            turn.send(conn, Kind::Text, b"behind all").unwrap();
        });
        scene.says(last, &peer::text("go"));
        let all: Vec<_> = (0..100).map(|number: i32| said(&number.to_string())).collect();
        for &client in &clients {
            scene.hears(client, &all);
        }
        scene.hears(last, &[said("behind all")]);
        scene.settles();
        for &client in &clients {
            let (entry, _) = scene.tables[0].find(scene.id(client)).unwrap();
            assert_eq!(entry.get().queued_bytes(), 0);
        }
    }

    fn what_waits_for_one_who_goes_does_not_wait_for_the_next_in_its_place<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let stays = subscriber(&mut scene, "room");
        let hub = scene.hub();
        for round in 0..20 {
            let goes = subscriber(&mut scene, "room");
            let conn = scene.id(goes);
            let text = round.to_string();
            assert_eq!(hub.publish(None, "room", &text), queued(2));
            scene.post(abort(conn));
            scene.hears(stays, &[said(&text)]);
            scene.until("it is gone", |scene| was_told(scene, goes, &Told::Closed(1006, ClosedBy::Host)));
        }
        assert_eq!(hub.topics.subscribers(), 1);
        scene.passes(seconds(1));
        let new = subscriber(&mut scene, "room");
        scene.passes(Duration::from_millis(100));
        scene.hears_nothing(new);
    }
}
