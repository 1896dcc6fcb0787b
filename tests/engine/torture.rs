//! The kernel's n-th answer goes wrong, for every n, in every way that it can.
//!
//! Fixed conversations are held again and again: once with nothing wrong, then with the first
//! answer of the kernel gone bad, then with the second, until the bad answer would come after
//! the end. An answer like "not now" or "a signal came first" may cost time and nothing else; a
//! broken connection may cost that one connection. Afterwards the server still serves, stops,
//! and keeps nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fullduplex::driver::sim::{Call, Failed, Trouble};
use fullduplex::engine::Command;
use fullduplex::engine::event::EventKind;
use fullduplex::engine::turn::{EventView, Turn};
use fullduplex::id::ConnId;
use fullduplex::protocol::Dialect;
use fullduplex::protocol::deflate::Wish;

use crate::peer::{self, DIALECTS, Heard, said};
use crate::scene::{self, Client, Scene, Setup, Told, seconds};
use crate::world::SimWorld;

type Sim = Scene<SimWorld>;

#[test]
fn every_dialect_survives_every_bad_answer() {
    for dialect in DIALECTS {
        tortured(&|| Setup::new(&[]), &|scene| {
            let client = scene.connect(dialect);
            scene.settles();
            for text in ["Grüße", "", &"x".repeat(5000)] {
                scene.says(client, &peer::text_in(dialect, text));
            }
            scene.settles();
            ends(scene, client, dialect);
        });
    }
}

#[test]
fn fragments_and_pieces_survive_every_bad_answer() {
    tortured(&|| Setup::new(&[]), &|scene| {
        let client = scene.connect(Dialect::Rfc6455);
        scene.settles();
        let wire = [
            peer::frame(0x01, "Kä".as_bytes()),
            peer::ping(b"between"),
            peer::frame(0x00, b"se"),
            peer::frame(0x80, b"!"),
            peer::binary(&[7; 300]),
        ];
        for piece in wire.concat().chunks(97) {
            scene.says(client, piece);
            scene.turn();
        }
        scene.settles();
        ends(scene, client, Dialect::Rfc6455);
    });
}

#[test]
fn long_frames_survive_every_bad_answer() {
    tortured(&|| Setup::new(&[]).narrow(60_000), &|scene| {
        let client = scene.connect(Dialect::Rfc6455);
        scene.settles();
        scene.says(client, &peer::binary(&[7; 300_000]));
        scene.says(client, &peer::text("after it"));
        scene.settles();
        ends(scene, client, Dialect::Rfc6455);
    });
    tortured(&|| Setup::new(&[]).narrow(60_000), &|scene| {
        let client = scene.connect(Dialect::Hixie76);
        scene.settles();
        scene.says(client, &peer::text_in(Dialect::Hixie76, &"x".repeat(150_000)));
        scene.settles();
        // Ends while half of the echo is still under way.
        scene.set_deaf(client, true);
        scene.says(client, &peer::text_in(Dialect::Hixie76, &"y".repeat(150_000)));
        scene.settles();
        scene.set_deaf(client, false);
        ends(scene, client, Dialect::Hixie76);
    });
}

#[test]
fn the_servers_own_close_survives_every_bad_answer() {
    for dialect in [Dialect::Rfc6455, Dialect::Hixie76, Dialect::Hixie75] {
        tortured(&|| Setup::new(&[]), &|scene| {
            let client = scene.connect(dialect);
            scene.settles();
            scene.says(client, &peer::text_in(dialect, "close me"));
            scene.settles();
            ends(scene, client, dialect);
        });
    }
}

#[test]
fn a_broken_protocol_survives_every_bad_answer() {
    tortured(&|| Setup::new(&[]), &|scene| {
        let clients = [(); 2].map(|()| scene.connect(Dialect::Rfc6455));
        scene.settles();
        scene.says(clients[0], &[peer::text("good"), peer::frame(0xC1, b"bad")].concat());
        scene.says(clients[1], &peer::text("stays"));
        scene.settles();
        scene.says(clients[1], &peer::text("is still here"));
        scene.settles();
        clients.into_iter().for_each(|client| ends(scene, client, Dialect::Rfc6455));
    });
}

#[test]
fn a_client_that_breaks_off_survives_every_bad_answer() {
    tortured(&|| Setup::new(&[]), &|scene| {
        let [breaks_off, stays] = [(); 2].map(|()| scene.connect(Dialect::Rfc6455));
        scene.settles();
        scene.says(breaks_off, &peer::text("whole")[..3]);
        scene.settles();
        scene.resets(breaks_off);
        scene.says(stays, &peer::text("is still here"));
        scene.settles();
        scene.finishes(stays);
        scene.settles();
    });
}

#[test]
fn pause_and_resume_survive_every_bad_answer() {
    tortured(&|| Setup::new(&[]).narrow(2000), &|scene| {
        let client = scene.connect(Dialect::Rfc6455);
        scene.settles();
        scene.says(client, &peer::text("pause"));
        scene.settles();
        scene.says(client, &peer::text(&"x".repeat(6000)));
        scene.settles();
        for conn in opened(scene) {
            scene.post(Command::SetPaused { conn, paused: false });
        }
        scene.settles();
        ends(scene, client, Dialect::Rfc6455);
    });
}

#[test]
fn a_flood_to_a_slow_client_survives_every_bad_answer() {
    tortured(&|| Setup::new(&[("ping.interval", "0")]).narrow(20_000), &|scene| {
        let client = scene.connect(Dialect::Rfc6455);
        scene.settles();
        scene.set_deaf(client, true);
        scene.says(client, &peer::text("flood"));
        scene.settles();
        scene.set_deaf(client, false);
        scene.settles();
        ends(scene, client, Dialect::Rfc6455);
    });
}

#[test]
fn what_other_threads_send_survives_every_bad_answer() {
    tortured(&|| Setup::new(&[]), &|scene| {
        let clients = [(); 2].map(|()| scene.connect(Dialect::HyBi08));
        scene.settles();
        for conn in opened(scene) {
            let kind = fullduplex::protocol::Kind::Text;
            scene.post(Command::Send {
                conn,
                kind,
                payload: b"from afar".to_vec(),
                last: true,
                wish: Wish::Auto,
            });
            scene.post(scene::ping(conn, b"?"));
            scene.post(Command::Send { conn, kind, payload: vec![b'x'; 5000], last: true, wish: Wish::Auto });
        }
        scene.settles();
        for conn in opened(scene) {
            scene.post(scene::normal_close(conn));
        }
        scene.settles();
        clients.into_iter().for_each(|client| ends(scene, client, Dialect::HyBi08));
    });
}

#[test]
fn plain_requests_survive_every_bad_answer() {
    tortured(&|| Setup::new(&[]).wants_http().narrow(30_000), &|scene| {
        let request = "GET /page HTTP/1.1\r\nHost: h\r\n\r\n";
        for request in
            [request, &request.replace("GET", "HEAD"), &request.replace("GET", "POST"), "nonsense\r\n"]
        {
            let client = scene.connect_saying(Dialect::Rfc6455, request.as_bytes());
            scene.settles();
            scene.finishes(client);
        }
        scene.settles();
    });
}

#[test]
fn a_decision_survives_every_bad_answer() {
    tortured(&|| Setup::new(&[]).wants_upgrade(), &|scene| {
        let clients = DIALECTS.map(|dialect| {
            // Its first words come before it is let in.
            let bytes = [peer::request(dialect, "/"), peer::text_in(dialect, "hasty")].concat();
            (dialect, scene.connect_saying(dialect, &bytes))
        });
        scene.settles();
        clients.into_iter().for_each(|(dialect, client)| ends(scene, client, dialect));
    });
}

#[test]
fn a_stop_survives_every_bad_answer() {
    tortured(&|| Setup::new(&[]), &|scene| {
        let clients = DIALECTS.map(|dialect| (dialect, scene.connect(dialect)));
        let _still_asks = scene.connect_saying(Dialect::Rfc6455, b"GET / HT");
        scene.settles();
        scene.stop(seconds(0), seconds(5));
        scene.settles();
        clients.into_iter().for_each(|(dialect, client)| ends(scene, client, dialect));
    });
}

/// Holds a conversation with every answer of the kernel gone bad once, in every way: with one send after
/// the other, and with all of a turn together.
fn tortured(setup: &dyn Fn() -> Setup, hold: &dyn Fn(&mut Sim)) {
    for sends_together_min in [usize::MAX, 1] {
        tortured_with(setup, &|scene| {
            scene.world.kernel.set_sends_together_min(sends_together_min);
            hold(scene);
        });
    }
}

fn tortured_with(setup: &dyn Fn() -> Setup, hold: &dyn Fn(&mut Sim)) {
    let (peaceful, none) = held(setup, hold, 0, 0);
    assert_eq!(none, None);
    let mut calls = BTreeSet::new();
    for answer in 1.. {
        for way in 0.. {
            let (outcome, failed) = held(setup, hold, answer, way);
            let Some(failed) = failed else {
                // So many answers a conversation does not have.
                let all = [Call::Wait, Call::Accept, Call::Adopt, Call::Read, Call::Send];
                assert!(calls.iter().eq(&all), "only {calls:?} in {answer} answers");
                return assert_eq!(way, 0);
            };
            calls.insert(failed.call);
            if let Some(wrong) = peaceful.wrong_in(&outcome, is_fatal(failed)) {
                panic!("answer {answer} goes wrong ({failed:?}): {wrong}\n{}", outcome.steps.join("\n"));
            }
            if !failed.has_more_ways {
                break;
            }
        }
    }
}

/// May it cost the connection?
fn is_fatal(failed: Failed) -> bool {
    let is_gone = failed.trouble == Trouble::Error(libc::ECONNABORTED);
    match failed.call {
        Call::Wait => false,
        Call::Accept => is_gone,
        _ => matches!(failed.trouble, Trouble::Error(_)),
    }
}

/// What clients heard, and what the embedder was told of each connection.
struct Outcome {
    heard: Vec<Vec<Heard>>,
    /// In any order.
    told: Vec<Vec<Told>>,
    steps: Vec<String>,
}

impl Outcome {
    /// What may not be, in an outcome with one bad answer.
    fn wrong_in(&self, other: &Outcome, is_fatal: bool) -> Option<String> {
        let differing: Vec<_> =
            (0..).zip(self.heard.iter().zip(&other.heard)).filter(|(_, (a, b))| a != b).collect();
        if let Some((client, (peaceful, heard))) = differing.first() {
            let said = match heard.split_last() {
                Some((Heard::Fin | Heard::Reset, said)) => said,
                _ => heard,
            };
            if !is_fatal || differing.len() > 1 || !peaceful.starts_with(said) {
                return Some(format!("client {client} hears {}", shown(heard)));
            }
        }
        let changed: Vec<_> = other.told.iter().filter(|told| !self.told.contains(told)).collect();
        if changed.len() > usize::from(is_fatal) {
            return Some(format!("the embedder is told {changed:?}"));
        }
        let missing = self.told.len().saturating_sub(other.told.len());
        (missing > usize::from(is_fatal)).then(|| format!("{missing} connections never opened"))
    }
}

/// One run, and whether an answer did go wrong in it.
fn held(
    setup: &dyn Fn() -> Setup,
    hold: &dyn Fn(&mut Sim),
    answer: u64,
    way: usize,
) -> (Outcome, Option<Failed>) {
    let mut scene: Sim = setup().scene();
    let kernel = scene.world.kernel.clone();
    // A quiet moment is longer than the pause after an accept that failed.
    kernel.set_nap_max(Duration::from_millis(60));
    kernel.keep_trace();
    scene.on(react);
    kernel.fail_answer(answer, way);
    hold(&mut scene);
    let failed = kernel.failed();
    kernel.fail_answer(0, 0);
    let heard = scene.take_all_heard();
    if !scene.shards[0].engine().is_stopping() {
        let next = scene.connect(Dialect::Rfc6455);
        scene.settles();
        scene.says(next, &peer::text("who comes later"));
        scene.hears(next, &[Heard::Http(101), said("who comes later")]);
        scene.stop(seconds(0), seconds(1));
    }
    scene.until("the server has stopped", |scene| scene.shards[0].engine().is_finished());
    scene.empties();
    assert_eq!((kernel.open_sockets(), kernel.lent_buffers()), (0, 0), "{failed:?}");
    for entry in (0..).map_while(|slot| scene.tables[0].entry(slot)) {
        assert_eq!(entry.get().queued_bytes(), 0, "{failed:?}");
    }
    let told = told(&scene).into_values().collect();
    (Outcome { heard, told, steps: kernel.take_trace() }, failed)
}

/// The embedder of all these conversations.
fn react(turn: &mut Turn<'_>, event: &EventView<'_>) {
    let conn = event.conn;
    match (event.kind, event.payload) {
        (EventKind::Http, _) => {
            let headers = "Content-Type: text/plain\r\n".to_string();
            turn.obey(Command::Answer { conn, status: 200, headers, body: vec![b'p'; 100_000] });
        }
        (EventKind::Message(_), b"close me") => turn.obey(scene::close(conn, 4000, "as you like")),
        (EventKind::Message(_), b"pause") => turn.obey(Command::SetPaused { conn, paused: true }),
        (EventKind::Message(kind), b"flood") => {
            for number in 0..40 {
                let text = format!("{number} {}", "~".repeat(3000));
                turn.send(conn, kind, text.as_bytes()).expect("the outbox takes as much");
            }
        }
        _ => scene::echo(turn, event),
    }
}

/// The client ends its conversation as its dialect does, if the server has not ended it.
fn ends(scene: &mut Sim, client: Client, dialect: Dialect) {
    match dialect {
        Dialect::Hixie75 => {}
        Dialect::Hixie76 => scene.says(client, &[0xFF, 0x00]),
        _ => scene.says(client, &peer::close(1000, "")),
    }
    scene.settles();
    scene.finishes(client);
    scene.settles();
}

/// The connections that were opened and not closed.
fn opened(scene: &Sim) -> Vec<ConnId> {
    let is_open = |told: &[Told]| matches!(told.last(), Some(told) if !matches!(told, Told::Closed(..)));
    told(scene).into_iter().filter(|(_, told)| is_open(told)).map(|(conn, _)| conn).collect()
}

/// What was told of each connection. A DRAIN more or less depends on how much the kernel took.
fn told(scene: &Sim) -> BTreeMap<ConnId, Vec<Told>> {
    let mut by_connection: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (conn, told) in scene.all_told() {
        if conn != ConnId::NONE && told != Told::Drain {
            by_connection.entry(conn).or_default().push(told);
        }
    }
    for told in by_connection.values().filter(|told| told.contains(&Told::Open)) {
        let closes = told.iter().filter(|told| matches!(told, Told::Closed(..))).count();
        assert!(closes <= 1, "{told:?}");
    }
    by_connection
}

fn shown(heard: &[Heard]) -> String {
    let text = format!("{heard:?}");
    text.chars().take(500).collect()
}
