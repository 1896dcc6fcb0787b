//! Plain HTTP on the same port.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use fullduplex::config::HttpPages;
use fullduplex::engine::Command;
use fullduplex::engine::event::EventKind;
use fullduplex::engine::plain::{Pages, Reply, ReplyBody};
use fullduplex::engine::turn::Turn;
use fullduplex::id::ConnId;
use fullduplex::protocol::Dialect;
use fullduplex::protocol::http::Request;

use super::on_every_driver;
use crate::peer::{self, Heard, said};
use crate::scene::{Client, Scene, Setup, seconds};
use crate::world::World;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

fn post(length: &str, body: &str) -> String {
    format!("POST /form HTTP/1.1\r\nHost: h\r\n{length}\r\n\r\n{body}")
}

fn answer(conn: ConnId, body: &[u8]) -> Command {
    Command::Answer { conn, status: 200, headers: String::new(), body: body.to_vec() }
}

/// An embedder that says each request's body back, or its path; and the numbers it was asked under.
fn replies<W: World>(scene: &mut Scene<W>) -> Rc<RefCell<Vec<ConnId>>> {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let noted = asked.clone();
    scene.on(move |turn: &mut Turn<'_>, event| {
        if event.kind == EventKind::Http {
            noted.borrow_mut().push(event.conn);
            let body = if event.payload.is_empty() { b"nothing" } else { event.payload };
            turn.obey(answer(event.conn, body));
        }
    });
    asked
}

fn asks<W: World>(scene: &mut Scene<W>, bytes: &str) -> Client {
    scene.connect_saying(Dialect::Rfc6455, bytes.as_bytes())
}

/// Pages of the test's own: what is at a path, and how much of it can really be read.
struct TestPages {
    len: u64,
    readable: u64,
}

struct Xs;

impl Read for Xs {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        room.fill(b'x');
        Ok(room.len())
    }
}

impl Pages for TestPages {
    fn page(&self, request: &Request, _: &HttpPages, is_stopping: bool) -> Option<Reply> {
        let status = if is_stopping { 503 } else { 200 };
        (request.path() == "/health").then(|| Reply::text(status, "", "so it is"))
    }

    fn file(&self, request: &Request) -> Option<Reply> {
        let body = ReplyBody::Reader(Box::new(Xs.take(self.readable)));
        (request.path() == "/file").then_some(Reply {
            status: 200,
            headers: String::new(),
            len: self.len,
            body,
        })
    }
}

/// A file of 100,000 bytes, whose reading is interrupted before every piece.
struct InterruptedPages;

struct Interrupted<R> {
    reader: R,
    is_next: bool,
}

impl<R: Read> Read for Interrupted<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.is_next = !self.is_next;
        if self.is_next { Err(io::ErrorKind::Interrupted.into()) } else { self.reader.read(room) }
    }
}

impl Pages for InterruptedPages {
    fn page(&self, _: &Request, _: &HttpPages, _: bool) -> Option<Reply> {
        None
    }

    fn file(&self, _: &Request) -> Option<Reply> {
        let body = ReplyBody::Reader(Box::new(Interrupted { reader: Xs.take(100_000), is_next: false }));
        Some(Reply { status: 200, headers: String::new(), len: 100_000, body })
    }
}

on_every_driver! {
    fn requests_of_one_connection_are_answered_in_order_each_under_a_number_of_its_own<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        let asked = replies(&mut scene);
        let client = asks(&mut scene, &[get("/1"), post("Content-Length: 3", "two"), get("/3")].concat());
        scene.hears(client, &[Heard::Http(200), Heard::Http(200), Heard::Http(200)]);
        assert!(scene.answer(client).ends_with("\r\n\r\nnothing"));
        scene.says(client, post("Content-Length: 4", "four").as_bytes());
        scene.hears(client, &[Heard::Http(200)]);
        assert!(scene.answer(client).ends_with("\r\n\r\nfour"));
        let mut numbers = asked.borrow().clone();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 4);
    }

    fn more_requests_sent_ahead_than_one_turn_answers_are_answered_in_the_next_ones<W: World>() {
        let mut scene = Setup::new(&[]).pages(TestPages { len: 0, readable: 0 }).scene::<W>();
        let others = [asks(&mut scene, ""), asks(&mut scene, "")];
        let client = asks(&mut scene, &get("/health").repeat(700));
        for other in others {
            scene.says(other, get("/health").as_bytes());
        }
        scene.hears(client, &vec![Heard::Http(200); 700]);
        for other in others {
            scene.hears(other, &[Heard::Http(200)]);
        }
    }

    fn a_late_reply_is_not_taken_for_the_next_requests<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        let asked = Rc::new(RefCell::new(Vec::new()));
        let noted = asked.clone();
        scene.on(move |_, event| {
            if event.kind == EventKind::Http {
                noted.borrow_mut().push(event.conn);
            }
        });
        let client = asks(&mut scene, &[get("/1"), get("/2")].concat());
        scene.until("it is asked", |_| asked.borrow().len() == 1);
        let first = asked.borrow()[0];
        scene.post(answer(first, b"one"));
        scene.until("the next is asked", |_| asked.borrow().len() == 2);
        scene.post(answer(first, b"late"));
        scene.hears(client, &[Heard::Http(200)]);
        scene.hears_nothing(client);
        let second = asked.borrow()[1];
        scene.post(answer(second, b"two"));
        scene.hears(client, &[Heard::Http(200)]);
        assert!(scene.answer(client).ends_with("\r\n\r\ntwo"));
    }

    fn a_body_comes_with_its_request_however_it_is_sent<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        replies(&mut scene);
        let bodies = [
            post("Content-Length: 11", "hello world"),
            post("Transfer-Encoding: chunked", "5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nA: b\r\n\r\n"),
        ];
        for bytes in bodies {
            for step in [1, 7, 1000] {
                let client = asks(&mut scene, "");
                for piece in bytes.as_bytes().chunks(step) {
                    scene.says(client, piece);
                    scene.turn();
                }
                scene.hears(client, &[Heard::Http(200)]);
                assert!(scene.answer(client).ends_with("\r\n\r\nhello world"));
            }
        }
    }

    fn a_client_that_waits_for_100_continue_gets_it_before_its_body<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        replies(&mut scene);
        let client = asks(&mut scene, &post("Content-Length: 5\r\nExpect: 100-continue", ""));
        scene.hears(client, &[Heard::Http(100)]);
        scene.says(client, b"hello");
        scene.hears(client, &[Heard::Http(200)]);
        assert!(scene.answer(client).ends_with("\r\n\r\nhello"));
    }

    fn a_client_that_does_not_wait_for_100_continue_gets_none<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        replies(&mut scene);
        let client = asks(&mut scene, &post("Content-Length: 5\r\nExpect: 100-continue", "hello"));
        scene.hears(client, &[Heard::Http(200)]);
        assert!(scene.answer(client).ends_with("\r\n\r\nhello"));
    }

    fn a_reading_that_a_signal_interrupts_goes_on<W: World>() {
        let mut scene = Setup::new(&[]).pages(InterruptedPages).scene::<W>();
        let client = asks(&mut scene, &get("/"));
        scene.hears(client, &[Heard::Http(200)]);
        assert!(scene.answer(client).ends_with(&"x".repeat(100_000)));
    }

    fn a_body_that_can_not_be_taken_is_refused_with_the_reason<W: World>() {
        let mut scene = Setup::new(&[("max.body", "1k")]).wants_http().scene::<W>();
        replies(&mut scene);
        for (length, body, status) in [
            ("Content-Length: 1025", "", 413),
            ("Transfer-Encoding: chunked", "401\r\n", 413),
            ("Transfer-Encoding: chunked", "nonsense\r\n", 400),
            ("Transfer-Encoding: gzip, chunked", "", 501),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", "", 400),
            ("Content-Length: 5\r\nContent-Length: 5", "", 400),
            ("Content-Length: +5", "", 400),
            ("Content-Length: 99999999999999999999", "", 400),
            ("Content-Length: 5\r\nExpect: miracles", "", 417),
        ] {
            let client = asks(&mut scene, &post(length, body));
            scene.hears(client, &[Heard::Http(status), Heard::Fin]);
        }
    }

    fn a_body_that_does_not_come_in_time_is_refused<W: World>() {
        let mut scene = Setup::new(&[("timeout.handshake", "3s")]).wants_http().scene::<W>();
        let client = asks(&mut scene, &post("Content-Length: 10", "half"));
        scene.passes(seconds(3));
        scene.hears(client, &[Heard::Http(408), Heard::Fin]);
    }

    fn a_client_that_asks_for_it_or_speaks_http_1_0_is_answered_and_closed<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        replies(&mut scene);
        for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"] {
            let client = asks(&mut scene, request);
            scene.hears(client, &[Heard::Http(200), Heard::Fin]);
            assert!(scene.answer(client).contains("\r\nConnection: close\r\n"));
        }
    }

    fn a_client_that_has_said_all_gets_all_its_answers<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        replies(&mut scene);
        let client = asks(&mut scene, &[get("/1"), get("/2")].concat());
        scene.finishes(client);
        scene.hears(client, &[Heard::Http(200), Heard::Http(200), Heard::Fin]);
        scene.empties();
    }

    fn a_websocket_may_follow_on_the_connection_of_a_page<W: World>() {
        let mut scene = Setup::new(&[]).pages(TestPages { len: 0, readable: 0 }).scene::<W>();
        let client = asks(&mut scene, &get("/health"));
        scene.hears(client, &[Heard::Http(200)]);
        scene.says(client, &peer::request(Dialect::Rfc6455, "/"));
        scene.opens(client);
        scene.says(client, &peer::text("hello"));
        scene.hears(client, &[said("hello")]);
    }

    fn a_connection_without_a_further_request_is_closed_in_time_and_without_a_word<W: World>() {
        let mut scene = Setup::new(&[("timeout.handshake", "3s")]).wants_http().scene::<W>();
        replies(&mut scene);
        let client = asks(&mut scene, &get("/"));
        scene.hears(client, &[Heard::Http(200)]);
        scene.passes(seconds(2));
        scene.hears_nothing(client);
        scene.passes(seconds(1));
        scene.hears(client, &[Heard::Fin]);
        scene.empties();
    }

    fn a_long_reply_is_read_as_the_client_takes_it_and_nobody_waits_for_it<W: World>() {
        let pages = TestPages { len: 3_000_000, readable: u64::MAX };
        let mut scene = Setup::new(&[]).narrow(16 * 1024).pages(pages).scene::<W>();
        let other = scene.open(Dialect::Rfc6455);
        let slow = asks(&mut scene, &[get("/file"), get("/file")].concat());
        scene.set_deaf(slow, true);
        scene.settles();
        scene.says(other, &peer::text("meanwhile"));
        scene.hears(other, &[said("meanwhile")]);
        let kept: u64 = scene.tables.iter().map(|table| table.counters.bytes_out.get()).sum();
        assert!(kept < 1_000_000, "{kept} bytes were read for a client that takes none");
        scene.set_deaf(slow, false);
        scene.hears(slow, &[Heard::Http(200), Heard::Http(200)]);
        assert!(scene.answer(slow).ends_with(&"x".repeat(3_000_000)));
    }

    fn long_replies_to_many_share_the_turns_and_come_whole<W: World>() {
        let pages = TestPages { len: 1_000_000, readable: u64::MAX };
        let mut scene = Setup::new(&[]).pages(pages).scene::<W>();
        let clients: Vec<_> = (0..5).map(|_| asks(&mut scene, "")).collect();
        for &client in &clients {
            scene.says(client, get("/file").repeat(2).as_bytes());
        }
        for &client in &clients {
            scene.hears(client, &[Heard::Http(200), Heard::Http(200)]);
        }
    }

    fn a_reply_that_can_not_be_kept_whole_is_cut_and_not_ended<W: World>() {
        let mut scene =
            Setup::new(&[]).pages(TestPages { len: 100_000, readable: 50_000 }).scene::<W>();
        let client = asks(&mut scene, &get("/file"));
        scene.loses(client);
        scene.empties();
    }

    fn a_client_that_does_not_take_its_reply_is_cut<W: World>() {
        let pages = TestPages { len: 3_000_000, readable: u64::MAX };
        let mut scene = Setup::new(&[]).narrow(16 * 1024).pages(pages).scene::<W>();
        let client = asks(&mut scene, &get("/file"));
        scene.set_deaf(client, true);
        scene.passes(seconds(30));
        scene.empties();
    }

    fn of_head_only_the_length_is_told<W: World>() {
        let mut scene =
            Setup::new(&[]).pages(TestPages { len: 100_000, readable: u64::MAX }).scene::<W>();
        let client = asks(&mut scene, "HEAD /file HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        // The reader waits for a body that does not come.
        scene.hears(client, &[Heard::Fin]);
    }

    fn a_refusal_of_head_has_no_body_either<W: World>() {
        let mut scene = Setup::new(&[("max.body", "10")]).wants_http().scene::<W>();
        let socket = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n";
        for lines in ["Expect: else\r\nContent-Length: 1\r\n", "Content-Length: 11\r\n", socket] {
            let client = asks(&mut scene, &format!("HEAD /page HTTP/1.1\r\nHost: h\r\n{lines}\r\n"));
            // The reader waits for a body that must not come.
            scene.hears(client, &[Heard::Fin]);
        }
    }

    fn a_stopping_server_says_so_and_answers_what_was_asked_before<W: World>() {
        let pages = TestPages { len: 0, readable: 0 };
        let mut scene = Setup::new(&[]).wants_http().pages(pages).scene::<W>();
        let asked = Rc::new(RefCell::new(Vec::new()));
        let noted = asked.clone();
        scene.on(move |_, event| {
            if event.kind == EventKind::Http {
                noted.borrow_mut().push(event.conn);
            }
        });
        let pending = asks(&mut scene, &get("/slow"));
        scene.until("it is asked", |_| asked.borrow().len() == 1);
        let prober = asks(&mut scene, &get("/health"));
        scene.hears(prober, &[Heard::Http(200)]);
        scene.stop(seconds(0), seconds(10));
        scene.settles();
        scene.says(prober, get("/health").as_bytes());
        scene.hears(prober, &[Heard::Http(503), Heard::Fin]);
        let conn = asked.borrow()[0];
        scene.post(answer(conn, b"done"));
        scene.hears(pending, &[Heard::Http(200), Heard::Fin]);
    }

    fn a_stop_does_not_wait_for_those_who_ask_for_nothing<W: World>() {
        let mut scene = Setup::new(&[]).wants_http().scene::<W>();
        replies(&mut scene);
        let kept = asks(&mut scene, &get("/"));
        scene.hears(kept, &[Heard::Http(200)]);
        let half = asks(&mut scene, "GET / HT");
        scene.settles();
        scene.stop(seconds(0), seconds(3600));
        scene.loses(kept);
        scene.loses(half);
        scene.empties();
    }

    fn requests_count_as_messages_against_the_rate_of_a_connection<W: World>() {
        let mut scene = Setup::new(&[("rate.messages", "1/h burst 2")]).wants_http().scene::<W>();
        replies(&mut scene);
        let client = asks(&mut scene, &get("/").repeat(3));
        scene.hears(client, &[Heard::Http(200), Heard::Http(200), Heard::Http(429), Heard::Fin]);
    }
}
