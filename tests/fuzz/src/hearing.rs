//! What a conversation means to the library, cut this way or that.

use fullduplex::buffer::BufferPool;
use fullduplex::driver::sim::Dice;
use fullduplex::protocol::deflate::{DeflateRules, Inflation};
use fullduplex::protocol::handshake::{Origins, Rules};
use fullduplex::protocol::{
    Context, Dialect, Failure, Flow, Incoming, Kind, Protocol, Versions, close::Violation, hixie, message,
};

use crate::{peer, splits};

/// Something that was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// The peer's close; without a code it is 1005.
    Close(u16, String),
    /// The peer broke the protocol: the code it is closed with.
    Violated(u16),
}

/// What a message may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub message_bytes_max: usize,
    pub fragments_max: usize,
}

/// How the bytes come.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'w> {
    /// In the segment of the request.
    WithRequest,
    /// In pieces of these lengths.
    Cut(&'w [usize]),
    /// Behind a request, cut, and into lent memory wherever some is lent.
    Lent(&'w [usize]),
    /// In pieces of these lengths, on a route whose messages are given on in pieces.
    Streamed(&'w [usize]),
}

/// What a server hears of these frames in a conversation that has just opened.
pub fn heard(dialect: Dialect, wire: &[u8], arrival: Arrival<'_>, limits: Limits) -> Vec<Seen> {
    let mut hearing = Hearing {
        listener: Listener::Protocol(Protocol::new()),
        rules: every_dialect(),
        limits,
        pool: BufferPool::default(),
        inflation: Inflation::default(),
        scratch: Vec::new(),
        streams: false,
        begun: Vec::new(),
        seen: Vec::new(),
    };
    match arrival {
        Arrival::WithRequest => hearing.receive(&[&peer::request(dialect, "/"), wire].concat()),
        Arrival::Cut(way) => {
            // Without its handshake, which would take most of the time.
            hearing.listener = match peer::is_hixie(dialect) {
                true => Listener::Hixie(dialect, hixie::Frames::default()),
                false => Listener::HyBi(message::Frames::default()),
            };
            splits::pieces(wire, way).for_each(|piece| hearing.receive(piece));
        }
        Arrival::Streamed(way) => {
            hearing.streams = true;
            hearing.receive(&peer::request(dialect, "/"));
            splits::pieces(wire, way).for_each(|piece| hearing.receive(piece));
        }
        Arrival::Lent(way) => {
            hearing.receive(&peer::request(dialect, "/"));
            let mut dice = Dice::new(splits::hash(wire));
            splits::pieces(wire, way).for_each(|piece| hearing.receive_lending(piece, &mut dice));
        }
    }
    hearing.check_silence();
    hearing.seen
}

struct Hearing {
    listener: Listener,
    rules: Rules,
    limits: Limits,
    pool: BufferPool,
    inflation: Inflation,
    scratch: Vec<u8>,
    streams: bool,
    /// The pieces of a message that has not ended.
    begun: Vec<u8>,
    seen: Vec<Seen>,
}

enum Listener {
    Protocol(Protocol),
    HyBi(message::Frames),
    Hixie(Dialect, hixie::Frames),
}

impl Hearing {
    fn receive(&mut self, piece: &[u8]) {
        if self.is_over() {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(piece);
        let mut asked = None;
        let mut heard = Vec::new();
        let begun = &mut self.begun;
        let mut context = Context {
            streams: self.streams,
            message_bytes_max: self.limits.message_bytes_max,
            fragments_max: self.limits.fragments_max,
            pool: &mut self.pool,
            inflation: &mut self.inflation,
        };
        let mut hear = |incoming: Incoming<'_>| match incoming {
            Incoming::Request { offer, .. } => asked = Some(offer.expect("a good request")),
            Incoming::Opened { .. } => {}
            Incoming::Fragment { kind, payload, fin } => {
                begun.extend_from_slice(payload.as_slice(&[]));
                if fin {
                    heard.push(message_of(kind, begun));
                    begun.clear();
                }
            }
            incoming => heard.push(seen(&incoming)),
        };
        let flow = match &mut self.listener {
            Listener::Protocol(protocol) => {
                protocol.receive(&mut scratch, &self.rules, &mut context, &mut hear)
            }
            Listener::HyBi(frames) => {
                frames.receive(&mut scratch, &mut context, &mut hear).map_err(Failure::Peer)
            }
            Listener::Hixie(dialect, frames) => {
                frames.receive(*dialect, &scratch, &mut context, &mut hear).map_err(Failure::Peer)
            }
        };
        self.scratch = scratch;
        self.note(heard, flow);
        if let (Some(offer), Listener::Protocol(protocol)) = (asked, &mut self.listener) {
            let accepted = protocol.accept(offer, None, "", false).expect("there is memory");
            self.receive(&accepted.backlog);
        }
    }

    /// As the engine and the driver do it between them.
    fn receive_lending(&mut self, mut bytes: &[u8], dice: &mut Dice) {
        while !bytes.is_empty() && !self.is_over() {
            let Listener::Protocol(protocol) = &mut self.listener else { return };
            let Some((mut buffer, len)) = protocol.lend() else {
                let (piece, rest) = bytes.split_at(dice.unevenly_up_to(bytes.len()));
                bytes = rest;
                self.receive(piece);
                continue;
            };
            assert!(buffer.len() + len <= buffer.capacity(), "the buffer has the room it was lent for");
            let len = dice.below(len.min(bytes.len()) + 1);
            let (piece, rest) = bytes.split_at(len);
            buffer.lent_room(len).copy_from_slice(piece);
            bytes = rest;
            let mut heard = Vec::new();
            let flow = protocol.receive_lent(buffer, len, &mut |incoming| heard.push(seen(&incoming)));
            self.note(heard, flow);
            if len == 0 {
                // Nothing came with this turn; something comes with the next.
                let (piece, rest) = bytes.split_at(1);
                bytes = rest;
                self.receive(piece);
            }
        }
    }

    fn note(&mut self, heard: Vec<Seen>, flow: Result<Flow, Failure>) {
        for seen in &heard {
            let len = match seen {
                Seen::Text(text) => text.len(),
                Seen::Binary(bytes) => bytes.len(),
                _ => 0,
            };
            assert!(self.streams || len <= self.limits.message_bytes_max, "a message of {len} bytes");
        }
        self.seen.extend(heard);
        let has_closed = matches!(self.seen.last(), Some(Seen::Close(..)));
        match flow {
            Ok(flow) => assert_eq!(flow == Flow::Closed, has_closed, "{:?}", self.seen.last()),
            Err(Failure::Peer(violation)) => {
                check_words(&violation);
                self.seen.push(Seen::Violated(violation.close_code().0));
            }
            Err(failure) => panic!("{failure:?} after a good request"),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.seen.last(), Some(Seen::Close(..) | Seen::Violated(_)))
    }

    /// After its end a conversation says nothing more, whatever comes.
    fn check_silence(&mut self) {
        if !self.is_over() {
            return;
        }
        let Listener::Protocol(protocol) = &mut self.listener else { return };
        let mut more = [peer::text("more"), peer::request(Dialect::Rfc6455, "/")].concat();
        let mut context = Context {
            streams: false,
            message_bytes_max: 1000,
            fragments_max: 10,
            pool: &mut self.pool,
            inflation: &mut self.inflation,
        };
        let flow = protocol.receive(&mut more, &self.rules, &mut context, &mut |late| {
            panic!("{late:?} after the end");
        });
        assert_eq!(flow, Ok(Flow::Closed));
        assert!(protocol.lend().is_none() && protocol.dialect().is_none());
    }
}

/// The close frame of every violation can be sent.
fn check_words(violation: &Violation) {
    let frame = violation.close_frame();
    assert!(frame.code().is_sendable() && frame.payload().len() <= 125, "{violation:?}");
    assert!(std::str::from_utf8(frame.reason()).is_ok(), "{violation:?}");
}

fn seen(incoming: &Incoming<'_>) -> Seen {
    match incoming {
        Incoming::Message { kind, payload } => message_of(*kind, payload.as_slice(&[])),
        Incoming::Ping(payload) => Seen::Ping(payload.as_slice().to_vec()),
        Incoming::Pong(payload) => Seen::Pong(payload.as_slice().to_vec()),
        Incoming::Close(frame) => Seen::Close(frame.code().0, text_of(frame.reason())),
        other => panic!("{other:?} in an open conversation"),
    }
}

fn message_of(kind: Kind, payload: &[u8]) -> Seen {
    match kind {
        Kind::Text => Seen::Text(text_of(payload)),
        Kind::Binary => Seen::Binary(payload.to_vec()),
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("a text is UTF-8")
}

/// Rules that let every dialect and origin in.
pub fn every_dialect() -> Rules {
    Rules {
        versions: Versions::ALL.into_iter().fold(Versions::NONE, Versions::with),
        protocols: Vec::new(),
        origins: Origins::Any,
        head_bytes_max: 16 * 1024,
        deflate: DeflateRules::OFF,
    }
}
