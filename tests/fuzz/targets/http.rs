//! Plain HTTP: requests with and without bodies, one after the other and sent ahead, on a
//! simulated kernel. An input is what a client sends on one connection; if it begins as the PROXY
//! protocol does, the server expects that.
//!
//! However it is cut, the embedder is asked the same and the client is answered the same; the
//! answers come in order, each whole and well formed, nothing follows one that closes, and a
//! client that says anything is answered before its time is over. Each request is its own
//! client's, as the proxy and the request's own lines say, and not the one's before.
#![no_main]

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fullduplex::config::Config;
use fullduplex::driver::sim::{Faults, Kernel};
use fullduplex::engine::event::EventKind;
use fullduplex::engine::routes::{Route, Routes, Wants};
use fullduplex::engine::table::Life;
use fullduplex::engine::turn::{EventView, Handler, Turn};
use fullduplex::id::ConnId;
use fullduplex::protocol::close::CloseFrame;
use fullduplex::protocol::forwarded::{self, ForwardedHeaders};
use fullduplex::protocol::proxy::{ProxyReader, ProxyVersions};
use fullduplex::protocol::trusted::Trusted;
use fullduplex::server::{Answer, Server};
use fullduplex_fuzz::response::Response;
use fullduplex_fuzz::splits;

libfuzzer_sys::fuzz_target!(|stream: &[u8]| {
    let whole = held(stream, &[]);
    check(stream, &whole);
    let [one, few, uneven, _] = splits::ways(stream);
    for way in [one, few, uneven] {
        assert_eq!(held(stream, &way), whole, "cut {way:?}");
    }
});

/// What came of a stream.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    asked: Vec<Asked>,
    /// All that the client heard, without `100 Continue`, which depends on when a body comes.
    heard: String,
}

/// What the embedder was asked, and how it answered.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Asked {
    method: String,
    path: String,
    body: Vec<u8>,
    client: Option<SocketAddr>,
    status: u16,
}

/// What a stream's own begin says: whose it is, and how long that is. `None` if nobody is let in.
fn announced(stream: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    if !is_announced(stream) {
        return Some((None, 0));
    }
    let (announced, len) = ProxyReader::default().receive(stream, ProxyVersions::Any).ok()??;
    Some((announced.source, len))
}

fn is_announced(stream: &[u8]) -> bool {
    stream.starts_with(b"PROXY") || stream.starts_with(b"\r\n\r\n\0")
}

fn check(stream: &[u8], outcome: &Outcome) {
    let Some((_, announced_len)) = announced(stream) else {
        assert_eq!(
            (&outcome.asked[..], outcome.heard.as_str()),
            (&[][..], ""),
            "no answer would be understood"
        );
        return;
    };
    let stream = &stream[announced_len..];
    let heard: Vec<u8> = outcome.heard.chars().map(|char| char as u8).collect();
    let mut rest = &heard[..];
    let mut answered = 0;
    let mut has_closed = false;
    let asks_head = stream.windows(5).any(|part| part == b"HEAD ");
    if !stream.is_empty() {
        assert!(!rest.is_empty(), "whoever says anything is answered");
    }
    while !rest.is_empty() {
        assert!(!has_closed, "an answer after the last of {}", outcome.heard);
        let response = Response::read(rest).expect("an answer is whole");
        rest = &rest[response.head_len..];
        let is_first = response.head_len + rest.len() == heard.len();
        if response.status == 101 {
            // What follows is no HTTP.
            assert!(stream.windows(4).any(|part| part == b"GET "));
            return;
        }
        has_closed = response.header("connection").is_some_and(|value| value.ends_with(b"close"));
        let has_body = match response.header("x-number") {
            Some(number) => {
                let asked = &outcome.asked[answered];
                answered += 1;
                assert_eq!(number, answered.to_string().as_bytes(), "answers come in order");
                assert_eq!(response.status, asked.status);
                asked.method != "HEAD" && !matches!(asked.status, 204 | 304)
            }
            None if is_first && stream.starts_with(b"HEAD ") && is_of_a_request(response.status) => false,
            // Of the server's own, perhaps to a HEAD somewhere in the stream.
            None => !(asks_head && (rest.is_empty() || begins_an_answer(rest))),
        };
        let len = if has_body { response.body_len() } else { 0 };
        assert!(len <= rest.len(), "{len} bytes were announced of {response:?}");
        rest = &rest[len..];
    }
    assert_eq!(answered, outcome.asked.len(), "each request is answered");
}

/// One of our refusals begins with the same word.
fn begins_an_answer(bytes: &[u8]) -> bool {
    let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.first());
    status.is_some_and(u8::is_ascii_digit)
}

/// The server has understood what was asked when it answers so.
fn is_of_a_request(status: u16) -> bool {
    !matches!(status, 400 | 408 | 431 | 505)
}

/// One conversation with a server of its own.
fn held(stream: &[u8], way: &[usize]) -> Outcome {
    let kernel = Kernel::new(1, Faults::none());
    let mut config = Config::new();
    let protocol = if is_announced(stream) { "any" } else { "off" };
    for (key, value) in OPTIONS.into_iter().chain([("proxy.protocol", protocol)]) {
        config.set(key, value).expect("a good option");
    }
    let wants = Wants { open: true, message: true, close: true, other: true, ..Wants::default() };
    let mut routes = Routes::default();
    routes.add("/app/*", Route { number: 1, wants, http: true, streams: false }).expect("a good pattern");
    let wants = Wants { message: true, ..wants };
    routes.add("/ws", Route { number: 2, wants, http: false, streams: false }).expect("a good pattern");
    let server = Arc::new(Server::new(&config, routes));
    let announced = announced(stream);
    let is_cut = announced.is_none();
    let (announced, _) = announced.unwrap_or_default();
    let embedder = Embedder { server: server.clone(), announced, shared: Rc::default() };
    let mut shards = server.start_on(vec![kernel.driver(true)], || embedder.clone()).expect("it starts once");
    let mut shard = shards.pop().expect("there is one");
    let mut client = kernel.connect().expect("somebody listens");
    let mut heard = Vec::new();
    let mut has_ended = false;
    let mut listen = |client: &mut fullduplex::driver::sim::SimClient| {
        let mut room = [0; 4096];
        while !has_ended {
            match client.read(&mut room) {
                Ok(0) => has_ended = true,
                Ok(len) => heard.extend_from_slice(&room[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // No answer would be understood, so there is none to lose.
                Err(_) if is_cut => has_ended = true,
                Err(error) => panic!("the client loses what it was told: {error}"),
            }
        }
    };
    for piece in splits::pieces(stream, way) {
        let mut rest = piece;
        while !rest.is_empty() {
            match client.write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            shard.turn();
            embedder.reply_late();
            listen(&mut client);
        }
    }
    for _ in 0..QUIET_TURNS {
        shard.turn();
        embedder.reply_late();
        listen(&mut client);
    }
    // Whoever has not said all is told so.
    kernel.pass(Duration::from_secs(100));
    for _ in 0..QUIET_TURNS {
        shard.turn();
        listen(&mut client);
    }
    let _ = server.stop(CloseFrame::EMPTY, Duration::ZERO, Duration::ZERO);
    kernel.set_nap_max(Duration::MAX);
    for _ in 0..1000 {
        if shard.engine().is_finished() {
            break;
        }
        shard.turn();
        listen(&mut client);
    }
    assert_eq!(shard.engine().live_connections(), 0, "a connection that never ends");
    shard.run(|| true);
    let table = &server.tables()[0];
    assert!(table.is_quiet(), "nothing is kept for nobody");
    assert_eq!(table.counters.faults.get(), 0, "a panic was contained");
    assert_eq!((kernel.open_sockets(), kernel.lent_buffers()), (0, 0));
    let heard: String = heard.iter().map(|&byte| char::from(byte)).collect();
    let asked = embedder.shared.borrow().asked.clone();
    Outcome { asked, heard: heard.replace(CONTINUE, "") }
}

/// Says what it was asked, and answers what it was asked for.
#[derive(Clone)]
struct Embedder {
    server: Arc<Server>,
    announced: Option<SocketAddr>,
    shared: Rc<RefCell<Shared>>,
}

#[derive(Default)]
struct Shared {
    asked: Vec<Asked>,
    /// Numbers of requests, none of which comes twice.
    ids: Vec<ConnId>,
    /// To be answered between two turns.
    later: Vec<(ConnId, usize)>,
}

impl Embedder {
    fn reply_late(&self) {
        let later = std::mem::take(&mut self.shared.borrow_mut().later);
        for (conn, number) in later {
            self.reply(conn, number, None);
        }
    }

    fn reply(&self, conn: ConnId, number: usize, turn: Option<&mut Turn<'_>>) {
        let asked = self.shared.borrow().asked[number].clone();
        let headers = format!("X-Number: {}\r\n", number + 1);
        let body = [asked.path.as_bytes(), &asked.body].concat();
        let answer = Answer { status: asked.status, headers: &headers, body: &body };
        let _ = self.server.answer(turn, conn, Life::Http, &answer);
        assert!(self.server.answer(None, conn, Life::Http, &answer).is_err(), "a request is answered once");
    }
}

impl Handler for Embedder {
    fn handle(&mut self, turn: &mut Turn<'_>, event: &EventView<'_>) {
        assert!(!matches!(event.kind, EventKind::Fault), "a panic was contained");
        if event.kind != EventKind::Http {
            return;
        }
        assert_eq!(event.route_number, 1);
        assert!(event.payload.len() <= BODY_BYTES_MAX);
        let request = self.server.request(event.conn).expect("it is kept until it is answered");
        let get = |name: &str| String::from_utf8_lossy(&request.get(name).expect("it has one")).into_owned();
        let (method, path) = (get(":method"), get(":path"));
        assert!(path.starts_with("/app/"), "{path}");
        let client = self.server.remote(event.conn);
        let trusted: Trusted = TRUSTED.parse().expect("a good list");
        let is_trusted = self.announced.is_none_or(|source| trusted.contains(source.ip()));
        let named = is_trusted
            .then(|| forwarded::client(&request.request, ForwardedHeaders::Forwarded, &trusted))
            .flatten();
        assert_eq!(client, named.or(self.announced), "it is another's");
        let status = STATUSES[splits::hash(path.as_bytes()) as usize % STATUSES.len()];
        let mut shared = self.shared.borrow_mut();
        assert!(!shared.ids.contains(&event.conn), "each request has a number of its own");
        shared.ids.push(event.conn);
        let number = shared.asked.len();
        let body = event.payload.to_vec();
        shared.asked.push(Asked { method, path: path.clone(), body, client, status });
        if path.ends_with("late") {
            shared.later.push((event.conn, number));
            return;
        }
        drop(shared);
        self.reply(event.conn, number, Some(turn));
    }
}

const OPTIONS: [(&str, &str); 5] = [
    ("http.health", "/healthz"),
    ("max.body", "100"),
    ("ping.interval", "0"),
    ("proxy.trusted", TRUSTED),
    ("forwarded.headers", "forwarded"),
];
/// The simulated kernel's clients, and some more.
const TRUSTED: &str = "198.18.0.0/15, 10.0.0.0/8";
const BODY_BYTES_MAX: usize = 100;
const STATUSES: [u16; 6] = [200, 200, 204, 304, 404, 599];
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// A request sent ahead takes a turn.
const QUIET_TURNS: usize = 40;
