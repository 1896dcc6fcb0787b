//! Whatever an embedder does inside a callback is done, and no callback runs inside it.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use fullduplex::engine::Command;
use fullduplex::engine::connection::{Release, UserData};
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::turn::Misuse;
use fullduplex::id::ConnId;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, DIALECTS, Heard, said};
use crate::scene::{
    Client, Scene, Setup, Told, abort, accept, counted, echo, normal_close, ping, seconds, stop,
};
use crate::world::World;

/// One of each kind of event that an open connection can have.
const KINDS: [Moment; 6] =
    [Moment::Open, Moment::Message, Moment::Drain, Moment::Ping, Moment::Pong, Moment::Close];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    Open,
    Message,
    Drain,
    Ping,
    Pong,
    Close,
}

impl Moment {
    fn is(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Open => self == Self::Open,
            EventKind::Message(_) => self == Self::Message,
            EventKind::Drain => self == Self::Drain,
            EventKind::Ping => self == Self::Ping,
            EventKind::Pong { .. } => self == Self::Pong,
            EventKind::Close { .. } => self == Self::Close,
            _ => false,
        }
    }
}

on_every_driver! {
    fn closing_inside_any_event_is_one_clean_close<W: World>() {
        for moment in KINDS {
            let (mut scene, client) = acting_at::<W>(moment, |turn, conn| {
                turn.obey(normal_close(conn));
                turn.obey(normal_close(conn));
            });
            if moment == Moment::Close {
                scene.hears(client, &[Heard::Close(1000, String::new()), Heard::Fin]);
                scene.is_told_last(client, Told::Closed(1000, ClosedBy::Peer));
            } else {
                scene.until("the Close is heard", |scene| {
                    scene.turn();
                    scene.heard(client).contains(&Heard::Close(1000, "done".to_string()))
                });
                scene.says(client, &peer::close(1000, ""));
                scene.hears(client, &[Heard::Fin]);
                scene.is_told_last(client, Told::Closed(1000, ClosedBy::Host));
            }
            scene.finishes(client);
            scene.empties();
        }
    }

    fn aborting_inside_any_event_is_one_end<W: World>() {
        for moment in KINDS {
            let (mut scene, client) = acting_at::<W>(moment, |turn, conn| {
                turn.obey(abort(conn));
                turn.obey(normal_close(conn));
                turn.obey(abort(conn));
                assert_eq!(turn.send(conn, Kind::Text, b"too late"), Err(Misuse::NoConnection));
            });
            scene.loses(client);
            let last = match moment {
                Moment::Close => Told::Closed(1000, ClosedBy::Peer),
                _ => Told::Closed(1006, ClosedBy::Host),
            };
            scene.is_told_last(client, last);
            scene.empties();
        }
    }

    fn stopping_inside_any_event_ends_everything<W: World>() {
        for moment in KINDS {
            let (mut scene, client) = acting_at::<W>(moment, |turn, _| {
                let (spread, deadline) = (seconds(0), seconds(3));
                turn.obey(stop(spread, deadline));
                turn.obey(stop(spread, deadline));
            });
            scene.passes(seconds(4));
            let by = if moment == Moment::Close { ClosedBy::Peer } else { ClosedBy::Shutdown };
            let code = if moment == Moment::Close { 1000 } else { 1006 };
            scene.is_told_last(client, Told::Closed(code, by));
            scene.until("the shard has finished", |scene| scene.shards[0].engine().is_finished());
            scene.empties();
        }
    }

    fn closing_inside_upgrade_does_nothing_and_aborting_ends_it<W: World>() {
        let mut scene = Setup::new(&[]).wants_upgrade().scene::<W>();
        for dialect in DIALECTS {
            scene.on(|turn, event| {
                if event.kind == EventKind::Upgrade {
                    turn.obey(normal_close(event.conn));
                    let early = turn.send(event.conn, Kind::Text, b"too early");
                    assert!(matches!(early, Err(Misuse::State(_))));
                    accept(turn, event.conn);
                    accept(turn, event.conn);
                }
            });
            let client = scene.connect(dialect);
            scene.asks(client, Told::Upgrade);
            scene.opens(client);
            scene.on(|turn, event| {
                if event.kind == EventKind::Upgrade {
                    turn.obey(abort(event.conn));
                    accept(turn, event.conn);
                }
            });
            let client = scene.connect(dialect);
            scene.asks(client, Told::Upgrade);
            scene.loses(client);
            scene.is_told_nothing(client);
        }
    }

    fn what_open_sends_is_the_first_that_is_heard<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        scene.on(|turn, event| match event.kind {
            EventKind::Open => assert!(turn.send(event.conn, Kind::Text, b"welcome").is_ok()),
            _ => echo(turn, event),
        });
        for dialect in DIALECTS {
            let early = [peer::request(dialect, "/"), peer::text_in(dialect, "hi")].concat();
            let client = scene.connect_saying(dialect, &early);
            scene.hears(client, &[Heard::Http(101), said("welcome"), said("hi")]);
        }
    }

    fn inside_close_others_can_be_sent_to_but_not_the_one_that_is_gone<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let (stays, goes) = (scene.open(Dialect::Rfc6455), scene.open(Dialect::Hixie76));
        let other = scene.id(stays);
        scene.on(move |turn, event| {
            if let EventKind::Close { .. } = event.kind {
                assert_eq!(turn.send(event.conn, Kind::Text, b"come back"), Err(Misuse::NoConnection));
                assert!(turn.send(other, Kind::Text, b"it left").is_ok());
                turn.obey(Command::SetPaused { conn: event.conn, paused: true });
                turn.obey(ping(event.conn, b""));
            }
        });
        scene.resets(goes);
        scene.hears(stays, &[said("it left")]);
        scene.until("it is gone", |scene| scene.live_connections() == 1);
    }

    fn a_paused_connection_leaves_its_bytes_to_the_kernel<W: World>() {
        let mut scene = Setup::new(&[]).narrow(32 * 1024).scene::<W>();
        scene.on(|turn, event| {
            echo(turn, event);
            if event.payload == b"pause" {
                turn.obey(Command::SetPaused { conn: event.conn, paused: true });
            }
        });
        let client = scene.open(Dialect::Rfc6455);
        scene.says(client, &peer::text("pause"));
        scene.hears(client, &[said("pause")]);
        scene.is_told(client, &[Told::Text("pause".to_string())]);
        let long = "x".repeat(500_000);
        scene.says(client, &peer::text(&long));
        scene.is_told_nothing(client);
        assert!(scene.unsent(client) > 0, "the client can't send all of it");
        scene.post(Command::SetPaused { conn: scene.id(client), paused: false });
        scene.hears(client, &[said(&long)]);
    }

    fn a_panic_in_any_callback_costs_that_connection_and_no_other<W: World>() {
        for moment in KINDS {
            let mut scene = Scene::<W>::new(&[("send.high_water", "1")]);
            let bystander = scene.open(Dialect::Rfc6455);
            let safe = scene.id(bystander);
            scene.on(move |turn, event| {
                if moment.is(event.kind) && event.conn != safe {
                    // Not `panic!`: its message would look like a failure of this test.
                    resume_unwind(Box::new("thrown by the test"));
                }
                echo(turn, event);
            });
            scene.panics = 1;
            let client = scene.connect(Dialect::Rfc6455);
            let words = [peer::text("message"), peer::ping(b"p"), peer::pong(b"q")].concat();
            scene.says(client, &words);
            scene.finds_by_open(client);
            scene.settles();
            scene.says(client, &peer::close(1000, ""));
            scene.loses(client);
            scene.is_told_by_server(&[Told::Fault]);
            if moment == Moment::Close {
                scene.is_told_last(client, Told::Closed(1000, ClosedBy::Peer));
            } else {
                scene.is_told_last(client, Told::Closed(1011, ClosedBy::Protocol));
                let last_word = Heard::Close(1011, "internal error".to_string());
                assert!(scene.heard(client).contains(&last_word), "{moment:?}");
            }
            scene.finishes(client);
            scene.until("it is gone", |scene| scene.live_connections() == 1);
            assert_eq!(scene.tables[0].counters.connections.get(), 1, "{moment:?}");
            assert_eq!(scene.tables[0].counters.closed.get(), 1, "{moment:?}");
            scene.says(bystander, &peer::text("what was that?"));
            scene.hears(bystander, &[said("what was that?")]);
        }
    }

    fn a_panic_while_a_long_frame_arrives_costs_that_connection_and_its_rest_is_dropped<W: World>() {
        let options = [("send.high_water", "1"), ("max.message", "1M")];
        let mut scene = Setup::new(&options).narrow(16 * 1024).scene::<W>();
        let client = scene.open(Dialect::Rfc6455);
        scene.on(|turn, event| match event.kind {
            EventKind::Drain => resume_unwind(Box::new("thrown by the test")),
            _ => echo(turn, event),
        });
        scene.panics = 1;
        scene.set_deaf(client, true);
        // Its echo waits for the client, and DRAIN for the echo, while the next frame arrives.
        scene.says(client, &peer::binary(&[1; 500_000]));
        scene.until("it has arrived", |scene| scene.unsent(client) == 0);
        let frame = peer::binary(&[2; 500_000]);
        scene.says(client, &frame[..200_000]);
        scene.settles();
        scene.set_deaf(client, false);
        scene.until("DRAIN is told", |scene| {
            scene.all_told().iter().any(|(_, told)| *told == Told::Drain)
        });
        scene.says(client, &frame[200_000..230_000]);
        scene.loses(client);
        scene.is_told_last(client, Told::Closed(1011, ClosedBy::Protocol));
        let last_word = Heard::Close(1011, "internal error".to_string());
        assert!(scene.heard(client).contains(&last_word));
        scene.finishes(client);
        scene.empties();
    }

    fn a_panic_at_the_news_of_a_panic_is_not_told_again<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let client = scene.open(Dialect::Rfc6455);
        scene.on(|_, event| {
            if matches!(event.kind, EventKind::Message(_) | EventKind::Fault) {
                resume_unwind(Box::new("thrown by the test"));
            }
        });
        scene.panics = 2;
        scene.says(client, &peer::text("m"));
        scene.loses(client);
        scene.is_told_by_server(&[Told::Fault]);
        scene.empties();
    }

    fn a_panic_in_one_release_costs_no_other<W: World>() {
        struct Throwing;
        impl Release for Throwing {
            fn release(self: Box<Self>) {
                resume_unwind(Box::new("thrown by the test"));
            }
        }
        let mut scene = Scene::<W>::new(&[]);
        scene.panics = 1;
        let releases = Arc::new(AtomicUsize::new(0));
        for index in 0..3 {
            let client = scene.open(Dialect::Rfc6455);
            let data = match index {
                1 => UserData { word: 1, release: Some(Box::new(Throwing)) },
                _ => counted(1, &releases),
            };
            scene.post(Command::SetData { conn: scene.id(client), data });
        }
        scene.stop(seconds(0), seconds(0));
        scene.empties();
        scene.until("all are released", |_| releases.load(SeqCst) == 2);
        scene.is_told_by_server(&[Told::Fault]);
    }

    fn a_word_kept_with_a_connection_is_shown_and_released_once<W: World>() {
        let mut scene = Scene::<W>::new(&[]);
        let releases = [(); 4].map(|()| Arc::new(AtomicUsize::new(0)));
        let count = || [0, 1, 2, 3].map(|i| releases[i].load(SeqCst));
        let words = releases.clone();
        let seen = Arc::new(AtomicUsize::new(0));
        let shown = seen.clone();
        scene.on(move |turn, event| match event.kind {
            EventKind::Open => turn.obey(Command::SetData { conn: event.conn, data: counted(1, &words[0]) }),
            EventKind::Message(_) => {
                shown.store(event.word, SeqCst);
                turn.obey(Command::SetData { conn: event.conn, data: counted(2, &words[1]) });
            }
            EventKind::Close { .. } => {
                shown.store(event.word, SeqCst);
                // Kept until this call is over, and no longer.
                turn.obey(Command::SetData { conn: event.conn, data: counted(3, &words[2]) });
            }
            _ => {}
        });
        let client = scene.open(Dialect::Rfc6455);
        assert_eq!(count(), [0, 0, 0, 0]);
        scene.says(client, &peer::text("m"));
        scene.is_told(client, &[Told::Text("m".to_string())]);
        scene.settles();
        assert_eq!((seen.load(SeqCst), count()), (1, [1, 0, 0, 0]));
        scene.says(client, &peer::close(1000, ""));
        scene.hears(client, &[Heard::Close(1000, String::new()), Heard::Fin]);
        scene.finishes(client);
        scene.empties();
        scene.settles();
        assert_eq!((seen.load(SeqCst), count()), (2, [1, 1, 1, 0]));
        let conn = scene.id(client);
        scene.post(Command::SetData { conn, data: counted(4, &releases[3]) });
        scene.post(Command::SetData { conn, data: UserData::default() });
        scene.settles();
        assert_eq!(count(), [1, 1, 1, 1]);
    }
}

/// A connection whose embedder does something, once, at a certain kind of event.
fn acting_at<W: World>(
    moment: Moment,
    act: impl Fn(&mut fullduplex::engine::turn::Turn<'_>, ConnId) + 'static,
) -> (Scene<W>, Client) {
    // Every send is over the high water, so that DRAIN follows.
    let mut scene = Scene::<W>::new(&[("send.high_water", "1")]);
    let mut has_acted = false;
    scene.on(move |turn, event| {
        echo(turn, event);
        if moment.is(event.kind) && !has_acted {
            has_acted = true;
            act(turn, event.conn);
        }
    });
    let client = scene.connect(Dialect::Rfc6455);
    scene.finds_by_open(client);
    if moment != Moment::Open {
        // An abort inside OPEN takes this with it.
        scene.hears(client, &[Heard::Http(101)]);
    }
    let words: &[u8] = match moment {
        Moment::Open => &[],
        Moment::Message => &peer::text("m"),
        Moment::Drain => &peer::text("drain"),
        Moment::Ping => &peer::ping(b"p"),
        Moment::Pong => &peer::pong(b"q"),
        Moment::Close => &peer::close(1000, ""),
    };
    scene.says(client, words);
    (scene, client)
}
