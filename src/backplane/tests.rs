//! Tests of the seam: what calls leave behind, and what a backplane of the embedder's is asked for.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::envelope::{Publisher, Stamp};
use super::*;
use crate::config::Config;

/// What a server is told, as text.
struct Told(Mutex<Sender<String>>);

impl Inlet for Told {
    fn deliver(&self, topic: &[u8], kind: Kind, wish: Wish, payload: &[u8]) {
        let text = format!("{} {kind:?} {wish:?} {}", show(topic), show(payload));
        let _ = self.0.lock().send(text);
    }

    fn tell(&self, news: News, _: &str) {
        let _ = self.0.lock().send(format!("{news:?}"));
    }
}

/// A backplane of an embedder's that notes what it is asked for.
struct Notes(Sender<String>);

impl Carrier for Notes {
    fn publish(&self, channel: &[u8], envelope: &[u8]) {
        let envelope = Envelope::decode(envelope).unwrap();
        let Stamp { sequence, lost, .. } = envelope.stamp;
        let what = envelope.message.map_or("(note)".to_string(), |message| show(message.payload));
        let text = format!("publish {} {what} #{sequence} lost {lost}", show(channel));
        let _ = self.0.send(text);
    }

    fn subscribe(&self, channel: &[u8]) {
        let _ = self.0.send(format!("subscribe {}", show(channel)));
    }

    fn unsubscribe(&self, channel: &[u8]) {
        let _ = self.0.send(format!("unsubscribe {}", show(channel)));
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Bench {
    backplane: Backplane,
    thread: JoinHandle<()>,
    said: Receiver<String>,
    told: Receiver<String>,
    _inlet: Arc<dyn Inlet>,
}

impl Bench {
    fn next(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("the embedder's functions are called")
    }

    fn news(&self) -> String {
        self.told.recv_timeout(PATIENCE).expect("the server is told")
    }

    fn publish(&self, topic: &str, text: &str) {
        self.backplane.publish(topic.as_bytes(), Kind::Text, Wish::Auto, text.as_bytes());
    }

    fn end(self) -> Vec<String> {
        self.backplane.stop();
        self.thread.join().unwrap();
        drop(self.backplane);
        self.said.try_iter().collect()
    }
}

fn options(set: &[(&str, &str)]) -> BackplaneOptions {
    let mut config = Config::new();
    for (key, value) in set {
        config.set(key, value).unwrap();
    }
    config.settings().backplane.clone()
}

fn bench(set: &[(&str, &str)]) -> Bench {
    let backplane = Backplane::custom(&options(set));
    let ((say, said), (tell, told)) = (channel(), channel());
    let inlet: Arc<dyn Inlet> = Arc::new(Told(Mutex::new(tell)));
    let prepared = backplane.prepare(Some(Box::new(Notes(say)))).unwrap();
    let thread = prepared.start(Arc::downgrade(&inlet), |run| run()).unwrap();
    Bench { backplane, thread, said, told, _inlet: inlet }
}

fn stamp(node: u8, sequence: u64, lost: u64) -> Stamp {
    Stamp { publisher: Publisher { node: NodeId([node; 8]), stream: 0 }, sequence, lost }
}

fn envelope(stamp: Stamp, text: &str) -> Vec<u8> {
    let message = Message { kind: Kind::Text, wish: Wish::Auto, payload: text.as_bytes() };
    Envelope { stamp, message: Some(message) }.encode()
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn without_an_option_there_is_no_backplane() {
    assert!(Backplane::of_options(&options(&[])).is_none());
    assert!(Backplane::of_options(&options(&[("backplane", "redis://127.0.0.1")])).is_some());
}

#[test]
fn an_embedders_backplane_is_asked_for_channels_and_given_publishes_in_order() {
    let bench = bench(&[("backplane.prefix", "app/")]);
    bench.backplane.subscribe(b"room");
    assert_eq!(bench.next(), "subscribe app/room");
    bench.publish("room", "one");
    bench.publish("other", "two");
    assert_eq!(bench.next(), "publish app/room one #1 lost 0");
    assert_eq!(bench.next(), "publish app/other two #2 lost 0");
    bench.backplane.unsubscribe(b"room");
    assert_eq!(bench.next(), "unsubscribe app/room");
    bench.publish("room", "last");
    assert_eq!(bench.backplane.counts().lost, 0);
    assert_eq!(bench.end(), ["publish app/room last #3 lost 0"], "what waits at the end is handed over");
}

#[test]
fn while_it_is_down_publishes_wait_and_after_it_all_channels_are_subscribed_before_they_go_on() {
    let bench = bench(&[]);
    bench.backplane.subscribe(b"a");
    assert_eq!(bench.next(), "subscribe fdx:a");
    assert_eq!(bench.backplane.set_condition(Condition::Up), Ok(false), "it begins up");
    assert_eq!(bench.backplane.set_condition(Condition::Down), Ok(true));
    assert_eq!(bench.news(), "Down");
    bench.publish("a", "waits");
    bench.backplane.subscribe(b"b");
    bench.backplane.unsubscribe(b"a");
    assert_eq!(bench.backplane.set_condition(Condition::Down), Ok(false));
    assert_eq!(bench.backplane.set_condition(Condition::Up), Ok(true));
    assert_eq!([bench.news(), bench.news()], ["Up", "Gap"]);
    assert_eq!([bench.next(), bench.next()], ["subscribe fdx:b", "publish fdx:a waits #1 lost 0"]);
    assert_eq!(bench.backplane.set_condition(Condition::Gap), Ok(true));
    assert_eq!(bench.news(), "Gap");
    // Down and up again before anybody has looked: it was down all the same.
    for condition in [Condition::Down, Condition::Up] {
        bench.backplane.set_condition(condition).unwrap();
    }
    assert_eq!([bench.news(), bench.news(), bench.news()], ["Down", "Up", "Gap"]);
    assert_eq!(bench.next(), "subscribe fdx:b");
    assert_eq!(bench.end(), [""; 0]);
}

#[test]
fn publishes_that_find_no_room_are_counted_and_who_would_have_had_them_is_told() {
    let bench = bench(&[("backplane.limit", "4096")]);
    bench.backplane.set_condition(Condition::Down).unwrap();
    assert_eq!(bench.news(), "Down");
    for _ in 0..100 {
        bench.publish("t", "x");
    }
    let fit = 4096 / (POST_BYTES + 2) as u64;
    assert_eq!(bench.backplane.counts().lost, 100 - fit);
    bench.backplane.set_condition(Condition::Up).unwrap();
    // What came before the loss knows nothing of it.
    for sequence in 1..=fit {
        assert_eq!(bench.next(), format!("publish fdx:t x #{sequence} lost 0"));
    }
    assert_eq!(bench.next(), format!("publish fdx:t (note) #{} lost {}", fit + 1, 100 - fit));
    bench.publish("long", &"x".repeat(4096));
    let lost = 101 - fit;
    assert_eq!(bench.next(), format!("publish fdx:long (note) #{} lost {lost}", fit + 2));
    // There is room again.
    bench.publish("t", "y");
    assert_eq!(bench.next(), format!("publish fdx:t y #{} lost {lost}", fit + 3));
    let shared = bench.backplane.shared.clone();
    bench.end();
    assert_eq!(shared.counts(), Counts { received: 0, sent: fit + 1, lost });
    assert_eq!(shared.queued_bytes.load(Relaxed), 0);
}

#[test]
fn a_note_of_a_loss_is_a_gap_and_no_message() {
    let bench = bench(&[]);
    bench.backplane.deliver(b"fdx:t", &envelope(stamp(1, 1, 0), "x")).unwrap();
    let note = Envelope { stamp: stamp(1, 2, 3), message: None }.encode();
    bench.backplane.deliver(b"fdx:t", &note).unwrap();
    assert_eq!([bench.news(), bench.news()], ["t Text Auto x", "Gap"]);
    assert_eq!(bench.backplane.counts().received, 1);
    bench.end();
    // What it takes to remember where something was lost has a bound.
    let backplane = Backplane::custom(&options(&[("backplane.limit", "4096")]));
    for number in 0..2 * LOST_TOPICS_MAX {
        backplane.publish(number.to_string().as_bytes(), Kind::Text, Wish::Auto, b"x");
    }
    assert_eq!(backplane.shared.lock().lost_topics.len(), LOST_TOPICS_MAX);
}

#[test]
fn what_others_published_is_delivered_once_and_own_echoes_never() {
    let bench = bench(&[]);
    let node = bench.backplane.shared.node;
    let own = Stamp { publisher: Publisher { node, stream: 0 }, sequence: 1, lost: 0 };
    assert_eq!(bench.backplane.deliver(b"fdx:t", &envelope(own, "echo")), Ok(()));
    assert_eq!(bench.backplane.deliver(b"fdx:t", &envelope(stamp(1, 1, 0), "one")), Ok(()));
    assert_eq!(bench.backplane.deliver(b"fdx:t", &envelope(stamp(1, 1, 0), "one")), Ok(()));
    assert_eq!(bench.backplane.deliver(b"fdx:t", &envelope(stamp(1, 2, 0), "two")), Ok(()));
    assert_eq!([bench.news(), bench.news()], ["t Text Auto one", "t Text Auto two"]);
    assert_eq!(bench.backplane.counts().received, 2);
    bench.end();
}

#[test]
fn what_others_have_lost_is_a_gap_before_the_message_that_says_so_and_not_one_for_each() {
    let bench = bench(&[]);
    for (sequence, lost) in [(1, 5), (2, 6), (3, 7), (4, 9)] {
        bench.backplane.deliver(b"fdx:t", &envelope(stamp(1, sequence, lost), "x")).unwrap();
    }
    let delivered = "t Text Auto x";
    let news: Vec<String> = (0..5).map(|_| bench.news()).collect();
    assert_eq!(news, [delivered, "Gap", delivered, delivered, delivered]);
    // The others are told together, a while later, although nothing more comes.
    assert_eq!(bench.news(), "Gap");
    assert_eq!(bench.told.try_iter().count(), 0);
    bench.end();
}

#[test]
fn what_is_no_envelope_or_for_another_application_is_told_to_who_brought_it() {
    let bench = bench(&[]);
    let deliver = |channel: &[u8], bytes: &[u8]| bench.backplane.deliver(channel, bytes);
    let good = envelope(stamp(1, 1, 0), "x");
    assert_eq!(deliver(b"app:t", &good), Err(Undelivered::OtherPrefix));
    assert_eq!(deliver(b"fdx:", &good), Err(Undelivered::OtherPrefix), "no topic has no name");
    assert_eq!(deliver(b"fdx:t", b"x"), Err(Undelivered::Unreadable(Unreadable::Malformed)));
    let mut newer = good.clone();
    newer[3] = 9;
    assert_eq!(deliver(b"fdx:t", &newer), Err(Undelivered::Unreadable(Unreadable::OtherVersion(9))));
    assert_eq!(deliver(b"fdx:t", &good), Ok(()));
    bench.end();
}

#[test]
fn a_server_with_redis_takes_nothing_from_the_embedder() {
    let backplane = Backplane::of_options(&options(&[("backplane", "redis://127.0.0.1")])).unwrap();
    let delivered = backplane.deliver(b"fdx:t", &envelope(stamp(1, 1, 0), "x"));
    assert_eq!(delivered, Err(Undelivered::NotCustom));
    assert_eq!(backplane.set_condition(Condition::Down), Err(Undelivered::NotCustom));
}

#[test]
fn of_a_topic_that_comes_and_goes_only_the_last_word_waits() {
    let backplane = Backplane::custom(&options(&[]));
    for _ in 0..1000 {
        backplane.subscribe(b"a");
        backplane.unsubscribe(b"a");
        backplane.subscribe(b"b");
    }
    let waiting = backplane.shared.lock();
    assert_eq!(waiting.changes.len(), 2);
    assert_eq!((waiting.changes[&b"a"[..]], waiting.changes[&b"b"[..]]), (false, true));
}

#[test]
fn after_the_end_nothing_waits_and_what_is_published_is_lost() {
    let bench = bench(&[]);
    let shared = bench.backplane.shared.clone();
    bench.end();
    shared.publish(b"t", Kind::Text, Wish::Auto, b"late");
    shared.want(b"t", true);
    assert_eq!(shared.counts().lost, 1);
    assert_eq!(shared.queued_bytes.load(Relaxed), 0);
    assert!(shared.lock().posts.is_empty() && shared.lock().changes.is_empty());
    assert_eq!(shared.set_condition(Condition::Down), Err(Undelivered::Stopped));
}

#[test]
fn an_embedders_function_that_takes_its_time_holds_up_nobody_and_the_end_only_for_a_while() {
    struct Slow(Sender<()>, Receiver<()>);
    impl Carrier for Slow {
        fn publish(&self, _: &[u8], _: &[u8]) {
            let _ = self.0.send(());
            let _ = self.1.recv();
        }
        fn subscribe(&self, _: &[u8]) {}
        fn unsubscribe(&self, _: &[u8]) {}
    }
    let backplane = Backplane::custom(&options(&[]));
    let ((entered, is_in), (let_go, wait)) = (channel(), channel());
    let inlet: Arc<dyn Inlet> = Arc::new(Told(Mutex::new(channel().0)));
    let carrier = Box::new(Slow(entered, wait));
    let thread =
        backplane.prepare(Some(carrier)).unwrap().start(Arc::downgrade(&inlet), |run| run()).unwrap();
    for _ in 0..3 {
        backplane.publish(b"t", Kind::Binary, Wish::Plain, b"x");
    }
    is_in.recv_timeout(PATIENCE).unwrap();
    // Nobody waits for the function that is being called.
    backplane.publish(b"t", Kind::Binary, Wish::Plain, b"x");
    backplane.stop();
    drop(let_go);
    thread.join().unwrap();
    assert_eq!(backplane.counts().lost + backplane.counts().sent, 4);
}

#[test]
fn a_bug_in_what_the_thread_calls_ends_the_backplane_and_not_the_host() {
    struct Bug;
    impl Carrier for Bug {
        fn publish(&self, _: &[u8], _: &[u8]) {
            panic!("a bug, for a test");
        }
        fn subscribe(&self, _: &[u8]) {}
        fn unsubscribe(&self, _: &[u8]) {}
    }
    let backplane = Backplane::custom(&options(&[]));
    let (tell, told) = channel();
    let inlet: Arc<dyn Inlet> = Arc::new(Told(Mutex::new(tell)));
    let thread =
        backplane.prepare(Some(Box::new(Bug))).unwrap().start(Arc::downgrade(&inlet), |run| run()).unwrap();
    backplane.publish(b"t", Kind::Text, Wish::Auto, b"x");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "Down");
    thread.join().unwrap();
    backplane.publish(b"t", Kind::Text, Wish::Auto, b"y");
    assert!(backplane.counts().lost >= 1);
}
