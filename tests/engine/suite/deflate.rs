//! Compressed conversations (RFC 7692), both ways.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use fullduplex::driver::sim::Dice;
use fullduplex::engine::Command;
use fullduplex::engine::event::{ClosedBy, EventKind};
use fullduplex::engine::turn::Message;
use fullduplex::id::ConnId;
use fullduplex::protocol::deflate::Wish;
use fullduplex::protocol::{Dialect, Kind};

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Client, Scene, Setup, Told, normal_close};
use crate::world::World;

const OFFERS: [&str; 5] = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=9",
];

fn opens<W: World>(scene: &mut Scene<W>, offer: &str) -> Client {
    let line = format!("Sec-WebSocket-Extensions: {offer}");
    let client = scene.connect_saying(Dialect::Rfc6455, &peer::request_with(Dialect::Rfc6455, "/", &line));
    scene.opens(client);
    assert!(scene.answer(client).contains("\r\nSec-WebSocket-Extensions: permessage-deflate"), "{offer}");
    client
}

fn compressed_text(text: &str) -> Vec<u8> {
    peer::frame(0xC1, &peer::deflated(text.as_bytes()))
}

/// An embedder that answers each text with these payloads.
fn says_once<W: World>(scene: &mut Scene<W>, payloads: Vec<(String, Wish)>) {
    scene.on(move |turn, event| {
        if let EventKind::Message(kind) = event.kind {
            for (payload, wish) in &payloads {
                turn.send_as(event.conn, kind, payload.as_bytes(), true, *wish).unwrap();
            }
        }
    });
}

on_every_driver! {
    fn compressed_messages_of_any_length_come_back_compressed<W: World>() {
        for mode in ["shared", "dedicated"] {
            let mut scene = Scene::<W>::new(&[("deflate", mode)]);
            for offer in OFFERS {
                let client = opens(&mut scene, offer);
                // Short ones stay as they are.
                let lengths = [0, 1, 100, 130, 3000, 200, 70_000, 1_000_000, 8, 5000];
                let texts: Vec<String> =
                    (0..).zip(lengths).map(|(i, len)| format!("{i} {}", "xyz€".repeat(len / 4))).collect();
                for text in &texts {
                    scene.says(client, &compressed_text(text));
                }
                for text in &texts {
                    scene.hears(client, &[said(text)]);
                }
                let long = texts.iter().filter(|text| text.len() >= 128).count();
                assert_eq!(scene.compressed(client), long, "{mode}, {offer}");
            }
        }
    }

    fn what_does_not_become_smaller_comes_back_as_it_is_between_what_does<W: World>() {
        for mode in ["shared", "dedicated"] {
            let mut scene = Scene::<W>::new(&[("deflate", mode)]);
            let client = opens(&mut scene, "permessage-deflate");
            let mut dice = Dice::new(1);
            for len in [1000, 100_000, 131_072, 300_000] {
                let noise: Vec<u8> = (0..len).map(|_| dice.roll() as u8).collect();
                let ramp: Vec<u8> = (0..len).map(|n| (n / 100) as u8).collect();
                for payload in [&ramp, &noise, &ramp, &noise, &noise, &ramp] {
                    scene.says(client, &peer::frame(0xC2, &peer::deflated(payload)));
                    scene.hears(client, &[Heard::Binary(payload.clone())]);
                }
            }
            assert_eq!(scene.compressed(client), if mode == "shared" { 12 } else { 24 });
        }
    }

    fn a_wish_about_compression_is_granted<W: World>() {
        for mode in ["shared", "dedicated"] {
            let mut scene = Scene::<W>::new(&[("deflate", mode)]);
            let (short, long) = ("x".repeat(100), "x".repeat(1000));
            let wishes = [(&short, Wish::Auto), (&long, Wish::Plain), (&short, Wish::Plain)]
                .map(|(text, wish)| (text.clone(), wish));
            says_once(&mut scene, wishes.to_vec());
            let client = opens(&mut scene, "permessage-deflate");
            scene.says(client, &peer::text("go"));
            scene.hears(client, &[said(&short), said(&long), said(&short)]);
            assert_eq!(scene.compressed(client), 0);
            let wishes = [(&short, Wish::Compressed), (&long, Wish::Auto)].map(|(text, wish)| (text.clone(), wish));
            says_once(&mut scene, wishes.to_vec());
            scene.says(client, &peer::text("go"));
            scene.hears(client, &[said(&short), said(&long)]);
            assert_eq!(scene.compressed(client), 2);
            // To who has not offered it no wish means anything.
            let plain = scene.open(Dialect::Rfc6455);
            scene.says(plain, &peer::text("go"));
            scene.hears(plain, &[said(&short), said(&long)]);
        }
    }

    fn a_broadcast_between_messages_of_its_own_leaves_every_connection_right<W: World>() {
        for mode in ["shared", "dedicated"] {
            let mut scene = Scene::<W>::new(&[("deflate", mode)]);
            let known: Rc<RefCell<Vec<ConnId>>> = Rc::default();
            let everybody = known.clone();
            let news = "what everybody is told, and told again ".repeat(200);
            let message = Arc::new(Message::new(Kind::Text, news.as_bytes()).unwrap());
            scene.on(move |turn, event| match event.kind {
                EventKind::Open => everybody.borrow_mut().push(event.conn),
                EventKind::Message(kind) if event.payload == b"tell" => {
                    for &conn in everybody.borrow().iter() {
                        turn.send(conn, kind, b"what everybody is told, and told again".repeat(9).as_slice()).unwrap();
                        turn.send_message(conn, &message, Wish::Auto).unwrap();
                        turn.send(conn, kind, b"what everybody is told, and told again".repeat(9).as_slice()).unwrap();
                    }
                }
                _ => {}
            });
            let mut clients = OFFERS.map(|offer| opens(&mut scene, offer)).to_vec();
            clients.push(scene.open(Dialect::Rfc6455));
            clients.push(scene.open(Dialect::Hixie76));
            let own = "what everybody is told, and told again".repeat(9);
            for _ in 0..3 {
                scene.says(clients[0], &peer::text("tell"));
                for &client in &clients {
                    scene.hears(client, &[said(&own), said(&news), said(&own)]);
                }
            }
            for &client in &clients[..OFFERS.len()] {
                assert_eq!(scene.compressed(client), 9, "{mode}");
            }
        }
    }

    fn fragments_of_ours_are_compressed_if_the_first_is<W: World>() {
        for mode in ["shared", "dedicated"] {
            for offer in OFFERS {
                let mut scene = Scene::<W>::new(&[("deflate", mode)]);
                let part = "a part of a long message ".repeat(40);
                let sent = part.clone();
                scene.on(move |turn, event| {
                    if let EventKind::Message(kind) = event.kind {
                        let wish = if event.payload == b"plain" { Wish::Plain } else { Wish::Auto };
                        for _ in 0..3 {
                            turn.send_as(event.conn, kind, sent.as_bytes(), false, wish).unwrap();
                        }
                        turn.send_as(event.conn, kind, b"", false, wish).unwrap();
                        turn.send_as(event.conn, kind, b"x", false, Wish::Plain).unwrap();
                        turn.send_as(event.conn, kind, b"", true, Wish::Plain).unwrap();
                    }
                });
                let client = opens(&mut scene, offer);
                for (word, compressed) in [("go", 1), ("plain", 1), ("go", 2), ("go", 3)] {
                    scene.says(client, &peer::text(word));
                    scene.hears(client, &[said(&format!("{}x", part.repeat(3)))]);
                    assert_eq!(scene.compressed(client), compressed, "{mode}, {offer}, {word}");
                }
            }
        }
    }

    fn a_message_goes_on_compressed_also_when_the_peer_has_closed_meanwhile<W: World>() {
        for (mode, offer) in [("shared", OFFERS[0]), ("dedicated", OFFERS[0]), ("dedicated", OFFERS[3])] {
            let mut scene = Scene::<W>::new(&[("deflate", mode)]);
            let part = "a part of a long message ".repeat(40);
            let sent = part.clone();
            scene.on(move |turn, event| {
                if let EventKind::Message(kind) = event.kind {
                    let last = event.payload == b"end";
                    turn.send_fragment(event.conn, kind, sent.as_bytes(), last).unwrap();
                }
            });
            let client = opens(&mut scene, offer);
            scene.says(client, &peer::text("begin"));
            scene.is_told(client, &[Told::Text("begin".to_string())]);
            // In one read.
            scene.says(client, &[peer::text("go on"), peer::text("end"), peer::close(1000, "")].concat());
            scene.hears(client, &[said(&part.repeat(3)), Heard::Close(1000, String::new())]);
            assert_eq!(scene.compressed(client), 1, "{mode}, {offer}");
        }
    }

    fn what_other_threads_send_is_compressed_as_well<W: World>() {
        let mut scene = Scene::<W>::new(&[("deflate", "dedicated")]);
        let client = opens(&mut scene, "permessage-deflate");
        let conn = scene.id(client);
        let news = "news ".repeat(1000);
        let payload = || news.clone().into_bytes();
        let message = Arc::new(Message::new(Kind::Text, &payload()).unwrap());
        for wish in [Wish::Auto, Wish::Plain, Wish::Compressed] {
            scene.post(Command::Send { conn, kind: Kind::Text, payload: payload(), last: true, wish });
            scene.post(Command::SendMessage { conn, message: message.clone(), wish });
        }
        for _ in 0..6 {
            scene.hears(client, &[said(&news)]);
        }
        assert_eq!(scene.compressed(client), 4);
    }

    fn past_the_budget_a_new_connection_shares_until_another_ends<W: World>() {
        let mut scene = Scene::<W>::new(&[("deflate", "dedicated"), ("deflate.budget", "1m")]);
        let is_shared = |scene: &Scene<W>, client| scene.answer(client).contains("client_no_context_takeover");
        let [first, second, third] = [(); 3].map(|()| opens(&mut scene, "permessage-deflate"));
        assert_eq!([first, second, third].map(|client| is_shared(&scene, client)), [false, false, true]);
        let text = "as good as another ".repeat(100);
        for client in [first, second, third] {
            for _ in 0..3 {
                scene.says(client, &compressed_text(&text));
                scene.hears(client, &[said(&text)]);
            }
        }
        scene.resets(first);
        scene.is_told_last(first, Told::Closed(1006, ClosedBy::Network));
        scene.until("its place is free", |scene| scene.live_connections() == 2);
        let fourth = opens(&mut scene, "permessage-deflate");
        assert!(!is_shared(&scene, fourth));
    }

    fn what_a_turn_can_not_inflate_comes_in_the_next_ones_and_in_order<W: World>() {
        for ending in ["close", "fin"] {
            let mut scene = Scene::<W>::new(&[("deflate", "shared"), ("send.limit", "1g")]);
            let pieces: Rc<RefCell<Vec<usize>>> = Rc::default();
            let heard = pieces.clone();
            scene.on(move |_, event| {
                if let EventKind::Message(_) = event.kind {
                    heard.borrow_mut().push(event.payload.len());
                }
            });
            let client = opens(&mut scene, peer::OFFER.split_once(": ").unwrap().1);
            // 40 MiB in 40 KiB, and plain words between them.
            let bomb = peer::frame(0xC2, &peer::deflated(&vec![0; 1 << 20]));
            let mut wire = Vec::new();
            for _ in 0..40 {
                wire.extend_from_slice(&bomb);
                wire.extend(peer::text("plain"));
            }
            scene.says(client, &wire);
            if ending == "close" {
                scene.says(client, &peer::close(1000, ""));
                scene.hears(client, &[Heard::Close(1000, String::new())]);
                scene.is_told_last(client, Told::Closed(1000, ClosedBy::Peer));
            } else {
                scene.finishes(client);
                scene.is_told_last(client, Told::Closed(1006, ClosedBy::Network));
            }
            assert_eq!(*pieces.borrow(), [1 << 20, 5].repeat(40));
        }
    }

    fn who_is_paused_is_not_inflated_on_and_all_of_it_comes_when_it_resumes<W: World>() {
        for ends_by_closing in [false, true] {
            let mut scene = Scene::<W>::new(&[("deflate", "shared")]);
            let count: Rc<RefCell<usize>> = Rc::default();
            let heard = count.clone();
            scene.on(move |turn, event| {
                if let EventKind::Message(_) = event.kind {
                    *heard.borrow_mut() += 1;
                    turn.obey(Command::SetPaused { conn: event.conn, paused: true });
                }
            });
            let client = opens(&mut scene, "permessage-deflate");
            let bomb = peer::frame(0xC2, &peer::deflated(&vec![0; 1 << 20]));
            scene.says(client, &bomb.repeat(40));
            scene.settles();
            let before = *count.borrow();
            assert!((1..20).contains(&before), "{before} messages came to who has paused");
            if ends_by_closing {
                scene.says(client, &peer::close(1000, ""));
                scene.post(normal_close(scene.id(client)));
                scene.is_told_last(client, Told::Closed(1000, ClosedBy::Host));
                continue;
            }
            let conn = scene.id(client);
            let heard = count.clone();
            scene.on(move |_, event| {
                *heard.borrow_mut() += usize::from(matches!(event.kind, EventKind::Message(_)));
            });
            scene.post(Command::SetPaused { conn, paused: false });
            scene.says(client, &peer::close(1000, ""));
            scene.is_told_last(client, Told::Closed(1000, ClosedBy::Peer));
            assert_eq!(*count.borrow(), 40);
        }
    }

    fn who_sends_bombs_does_not_hold_up_the_others<W: World>() {
        let mut scene = Scene::<W>::new(&[("deflate", "shared")]);
        scene.on(|turn, event| {
            if let EventKind::Message(Kind::Text) = event.kind {
                turn.send(event.conn, Kind::Text, event.payload).unwrap();
            }
        });
        let bomber = opens(&mut scene, "permessage-deflate");
        let other = opens(&mut scene, "permessage-deflate");
        let bomb = peer::frame(0xC2, &peer::deflated(&vec![0; 1 << 20]));
        scene.says(bomber, &bomb.repeat(64));
        let text = "served ".repeat(100);
        for _ in 0..5 {
            scene.says(other, &compressed_text(&text));
            scene.hears(other, &[said(&text)]);
        }
        let all = vec![Told::Binary(vec![0; 1 << 20]); 64];
        scene.is_told(bomber, &all);
    }

    fn a_streaming_route_is_told_compressed_messages_in_pieces<W: World>() {
        for mode in ["shared", "dedicated"] {
            let mut scene = Setup::new(&[("deflate", mode), ("max.message", "1k")]).streams().scene::<W>();
            let client = opens(&mut scene, "permessage-deflate");
            let long: String = (0..200_000).map(|n| n.to_string() + " ").collect();
            let deflated = peer::deflated(long.as_bytes());
            let (start, end) = deflated.split_at(1000);
            let wire = [peer::frame(0x41, start), peer::ping(b"?"), peer::frame(0x80, end)].concat();
            scene.says(client, &[wire, compressed_text("short"), peer::frame(0xC1, b"")].concat());
            scene.hears(client, &[Heard::Pong(b"?".to_vec()), said(&long), said("short"), said("")]);
        }
    }

    fn a_bomb_and_bad_data_end_only_the_connection_they_came_by<W: World>() {
        for mode in ["shared", "dedicated"] {
            let mut scene = Scene::<W>::new(&[("deflate", mode), ("max.message", "100k")]);
            let bystander = opens(&mut scene, "permessage-deflate");
            let bomber = opens(&mut scene, "permessage-deflate");
            scene.says(bomber, &peer::frame(0xC2, &peer::deflated(&vec![0; 10 << 20])));
            scene.hears(bomber, &[Heard::Close(1009, "message over 102400 bytes".to_string()), Heard::Fin]);
            scene.is_told(bomber, &[Told::Closed(1009, ClosedBy::Limit)]);
            let spoiler = opens(&mut scene, "permessage-deflate");
            scene.says(spoiler, &peer::frame(0xC2, b"\x07no deflate"));
            scene.hears(spoiler, &[Heard::Close(1007, "compressed data is not deflate".to_string()), Heard::Fin]);
            scene.is_told(spoiler, &[Told::Closed(1007, ClosedBy::Protocol)]);
            let plain = scene.open(Dialect::Rfc6455);
            scene.says(plain, &compressed_text("nobody agreed"));
            scene.hears(plain, &[Heard::Close(1002, "reserved bits set".to_string()), Heard::Fin]);
            let text = "still here ".repeat(100);
            scene.says(bystander, &compressed_text(&text));
            scene.hears(bystander, &[said(&text)]);
        }
    }
}
