//! One WebSocket conversation, every dialect: bytes in, meaning out.
//!
//! Pure: no socket, no clock, no thread. The engine feeds what the driver read and queues what
//! this says to answer; every transition between the states of a conversation stands here.

pub mod body;
pub mod close;
pub mod deflate;
pub mod forwarded;
pub mod frame;
pub mod handshake;
pub mod hixie;
pub mod http;
pub mod mask;
pub mod message;
pub mod proxy;
pub mod trusted;

use std::collections::TryReserveError;
use std::fmt;
use std::sync::Arc;

use crate::buffer::{Buffer, BufferPool, copied};
use body::BodyReader;
use close::{CloseFrame, Violation};
use deflate::{Agreement, Inflation, Windows};
use frame::{CONTROL_BYTES_MAX, Opcode, ServerHead};
use handshake::{Offer, Rules};
use http::{Refusal, Request, RequestReader};
use proxy::{Announced, ProxyError, ProxyReader, ProxyVersions};

/// One conversation. Every connection has room for it, so what only some states know is elsewhere.
pub struct Protocol {
    state: State,
}

enum State {
    /// A proxy says whose connection this is before anything else.
    Announcing(Box<ProxyReader>, ProxyVersions),
    /// The request is still arriving.
    Requesting(Box<RequestReader>),
    /// The body of a plain request is arriving.
    Body(Box<BodyInArrival>),
    /// The request is there; someone decides.
    Deciding(Box<Undecided>),
    /// Hixie-76: the head of the answer is sent, the eight bytes are still to come.
    Challenged(Box<Challenge>),
    Open {
        dialect: Dialect,
        frames: message::Frames,
        we_closed: bool,
        deflate: Option<Agreement>,
    },
    /// The same in Hixie's framing.
    OpenHixie {
        dialect: Dialect,
        frames: Box<hixie::Frames>,
        we_closed: bool,
    },
    Closed,
}

struct BodyInArrival {
    request: Arc<Request>,
    reader: BodyReader,
}

struct Undecided {
    request: Arc<Request>,
    /// `None`: it can't become a WebSocket.
    offer: Option<Offer>,
    /// What came behind it.
    backlog: Vec<u8>,
}

struct Challenge {
    keys: hixie::Keys,
    body: [u8; hixie::BODY_BYTES],
    body_len: usize,
}

/// What a conversation needs from around it while it receives.
pub struct Context<'c> {
    /// Messages that come in pieces are given on in pieces, and nothing is assembled.
    pub streams: bool,
    pub message_bytes_max: usize,
    pub fragments_max: usize,
    pub pool: &'c mut BufferPool,
    pub inflation: &'c mut Inflation,
}

/// What was received. Payloads are lent from the bytes that were passed in, where possible.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// Whose connection it is; told once, before anything else, behind a proxy.
    Announced(Announced),
    /// The request is whole. Nothing more is read until it is decided.
    Request {
        request: Arc<Request>,
        offer: Result<Offer, Refusal>,
    },
    /// The body of a plain request is whole; as with the request.
    Body(Buffer),
    /// The eight bytes of Hixie-76 came: the answer to send, and the conversation is open.
    Opened {
        answer: [u8; 16],
    },
    Message {
        kind: Kind,
        payload: Payload<'a>,
    },
    /// A piece of a message that is given on as it comes. Text is valid as a whole; a piece may
    /// end inside a character.
    Fragment {
        kind: Kind,
        payload: Payload<'a>,
        fin: bool,
    },
    Ping(Control),
    Pong(Control),
    /// The peer's close. What comes after it is ignored.
    Close(CloseFrame),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    Open,
    /// The peer has closed the conversation.
    Closed,
    /// This turn has inflated enough. The last `left` bytes are to be received again later.
    Full {
        left: usize,
    },
}

/// Why a conversation can't go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// No answer would be understood.
    Proxy(ProxyError),
    Request(Refusal),
    Peer(Violation),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Request(refusal)
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Peer(violation)
    }
}

impl Protocol {
    pub fn new() -> Self {
        Self { state: State::Requesting(Box::default()) }
    }

    /// A conversation that a proxy must announce.
    pub fn behind_proxy(versions: ProxyVersions) -> Self {
        Self { state: State::Announcing(Box::default(), versions) }
    }

    /// No conversation: whatever comes is dropped. Holds no memory.
    pub fn closed() -> Self {
        Self { state: State::Closed }
    }

    /// What can be taken without looking at more than the bytes; see [`message::Frames::receive_short`].
    /// The rest is for `receive`.
    #[inline]
    pub fn receive_short<'a>(
        &mut self,
        bytes: &'a mut [u8],
        message_bytes_max: usize,
        messages: &mut impl FnMut(Kind, &'a [u8]),
    ) -> Result<&'a mut [u8], Failure> {
        match &mut self.state {
            State::Open { frames, deflate: None, .. } if message_bytes_max >= message::SHORT_BYTES_MAX => {
                frames.receive_short(bytes, messages).map_err(|violation| {
                    self.state = State::Closed;
                    violation.into()
                })
            }
            _ => Ok(bytes),
        }
    }

    /// Takes what was read. On a failure the conversation is over: the engine answers it with
    /// the refusal's response or the violation's close frame.
    pub fn receive<'a>(
        &mut self,
        mut bytes: &'a mut [u8],
        rules: &Rules,
        context: &mut Context<'_>,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<Flow, Failure> {
        let flow = loop {
            match &mut self.state {
                State::Open { frames, deflate, .. } => {
                    context.inflation.agreement = *deflate;
                    break frames.receive(bytes, context, events);
                }
                State::OpenHixie { dialect, frames, .. } => {
                    break frames.receive(*dialect, bytes, context, events);
                }
                State::Announcing(..) => match self.receive_announcement(bytes).map_err(Failure::Proxy)? {
                    Announcement::Whole(announced, taken) => {
                        events(Incoming::Announced(announced));
                        bytes = &mut bytes[taken..];
                    }
                    Announcement::Partial | Announcement::NotAwaited => return Ok(Flow::Open),
                },
                State::Requesting(reader) => match reader.receive(bytes, rules.head_bytes_max) {
                    Ok(Some((request, taken))) => {
                        let request = Arc::new(request);
                        let Ok(backlog) = copied(&bytes[taken..]) else {
                            self.state = State::Closed;
                            return Err(Refusal::NoMemory.into());
                        };
                        let offer = handshake::negotiate(&request, rules);
                        self.state = State::deciding(request.clone(), offer.as_ref().ok().copied(), backlog);
                        events(Incoming::Request { request, offer });
                        return Ok(Flow::Open);
                    }
                    Ok(None) => return Ok(Flow::Open),
                    Err(refusal) => {
                        self.state = State::Closed;
                        return Err(refusal.into());
                    }
                },
                State::Body(arriving) => match arriving.reader.receive(bytes) {
                    Ok(Some((body, taken))) => {
                        let Ok(backlog) = copied(&bytes[taken..]) else {
                            self.state = State::Closed;
                            return Err(Refusal::NoMemory.into());
                        };
                        self.state = State::deciding(arriving.request.clone(), None, backlog);
                        events(Incoming::Body(body));
                        return Ok(Flow::Open);
                    }
                    Ok(None) => return Ok(Flow::Open),
                    Err(refusal) => {
                        self.state = State::Closed;
                        return Err(refusal.into());
                    }
                },
                State::Deciding(undecided) => {
                    let backlog = &mut undecided.backlog;
                    // The engine stops reading here, so this is at most what one read held.
                    if backlog.try_reserve(bytes.len()).is_err() {
                        self.state = State::Closed;
                        return Err(Refusal::NoMemory.into());
                    }
                    backlog.extend_from_slice(bytes);
                    return Ok(Flow::Open);
                }
                State::Challenged(challenge) => {
                    let missing = hixie::BODY_BYTES - challenge.body_len;
                    let (body, rest) = bytes.split_at_mut(missing.min(bytes.len()));
                    challenge.body[challenge.body_len..][..body.len()].copy_from_slice(body);
                    challenge.body_len += body.len();
                    if challenge.body_len < hixie::BODY_BYTES {
                        return Ok(Flow::Open);
                    }
                    events(Incoming::Opened { answer: challenge.keys.answer(challenge.body) });
                    self.state = State::open(Dialect::Hixie76, None);
                    bytes = rest;
                }
                State::Closed => return Ok(Flow::Closed),
            }
        };
        if !matches!(flow, Ok(Flow::Open | Flow::Full { .. })) {
            self.state = State::Closed;
        }
        Ok(flow?)
    }

    /// What a proxy says before everything else, TLS included.
    pub fn receive_announcement(&mut self, bytes: &[u8]) -> Result<Announcement, ProxyError> {
        let State::Announcing(reader, versions) = &mut self.state else {
            return Ok(Announcement::NotAwaited);
        };
        match reader.receive(bytes, *versions) {
            Ok(Some((announced, taken))) => {
                self.state = State::Requesting(Box::default());
                Ok(Announcement::Whole(announced, taken))
            }
            Ok(None) => Ok(Announcement::Partial),
            Err(error) => {
                self.state = State::Closed;
                Err(error)
            }
        }
    }

    /// Agrees to the request: the answer to send, and the bytes to receive again now that it
    /// is decided. Hixie-76 opens only when its eight bytes are there.
    pub fn accept(
        &mut self,
        offer: Offer,
        protocol: Option<&str>,
        headers: &str,
        secure: bool,
    ) -> Result<Accepted, TryReserveError> {
        let State::Deciding(undecided) = std::mem::replace(&mut self.state, State::Closed) else {
            unreachable!("the engine accepts only what waits for a decision");
        };
        let Undecided { request, backlog, .. } = *undecided;
        let response = handshake::response_head(&request, &offer, protocol, headers, secure)?;
        self.state = match offer.keys {
            Some(keys) => {
                State::Challenged(Box::new(Challenge { keys, body: [0; hixie::BODY_BYTES], body_len: 0 }))
            }
            None => State::open(offer.dialect, offer.deflate),
        };
        Ok(Accepted { response, backlog, is_open: self.dialect().is_some() })
    }

    /// What the request that waits for a decision can become.
    pub fn offer(&self) -> Option<Offer> {
        match &self.state {
            State::Deciding(undecided) => undecided.offer,
            _ => None,
        }
    }

    /// Before a plain request is decided its body is received: the bytes of it that are here
    /// already, to be received again.
    pub fn receive_body(&mut self, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
        let State::Deciding(undecided) = &mut self.state else {
            unreachable!("the engine asks for the body of what waits for a decision");
        };
        let reader = BodyReader::new(undecided.request.body(), bytes_max)?;
        let backlog = std::mem::take(&mut undecided.backlog);
        let request = undecided.request.clone();
        self.state = State::Body(Box::new(BodyInArrival { request, reader }));
        Ok(backlog)
    }

    /// A plain request was answered and another may follow: the bytes of it that are here
    /// already, to be received again.
    pub fn next_request(&mut self) -> Vec<u8> {
        match std::mem::take(self).state {
            State::Deciding(undecided) => undecided.backlog,
            _ => unreachable!("the engine goes on after a plain request only"),
        }
    }

    /// Can a plain HTTP answer still be given?
    pub fn can_be_refused(&self) -> bool {
        matches!(self.state, State::Requesting(_) | State::Body(_) | State::Deciding(_))
    }

    /// No WebSocket comes of this request.
    pub fn refuse(&mut self) {
        self.state = State::Closed;
    }

    /// Memory to read the rest of a long frame into; see [`message::Frames::lend`].
    #[inline]
    pub fn lend(&mut self) -> Option<(Buffer, usize)> {
        match &mut self.state {
            State::Open { frames, .. } => frames.lend(),
            _ => None,
        }
    }

    pub fn receive_lent<'a>(
        &mut self,
        buffer: Buffer,
        len: usize,
        events: &mut impl FnMut(Incoming<'a>),
    ) -> Result<Flow, Failure> {
        let State::Open { frames, .. } = &mut self.state else {
            return Ok(Flow::Closed);
        };
        frames.receive_lent(buffer, len, events).inspect_err(|_| self.state = State::Closed)?;
        Ok(Flow::Open)
    }

    /// The dialect spoken, once the conversation is open.
    pub fn dialect(&self) -> Option<Dialect> {
        match self.state {
            State::Open { dialect, .. } | State::OpenHixie { dialect, .. } => Some(dialect),
            _ => None,
        }
    }

    /// What was agreed on compression.
    #[inline]
    pub fn deflate(&self) -> Option<Agreement> {
        match &self.state {
            State::Open { deflate, .. } => *deflate,
            _ => None,
        }
    }

    /// What is remembered between messages. To be asked for only if that was agreed on: it takes
    /// memory.
    pub fn windows(&mut self) -> Option<&mut Option<Box<Windows>>> {
        match &mut self.state {
            State::Open { frames, .. } => Some(frames.windows()),
            _ => None,
        }
    }

    /// We have queued our close. True the first time.
    pub fn begin_close(&mut self) -> bool {
        match &mut self.state {
            State::Open { we_closed, .. } | State::OpenHixie { we_closed, .. } => {
                !std::mem::replace(we_closed, true)
            }
            _ => false,
        }
    }
}

impl Default for Protocol {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn open(dialect: Dialect, deflate: Option<Agreement>) -> Self {
        match dialect.wire_form() {
            WireForm::HyBi => {
                State::Open { dialect, frames: message::Frames::default(), we_closed: false, deflate }
            }
            WireForm::Hixie => State::OpenHixie { dialect, frames: Box::default(), we_closed: false },
        }
    }

    fn deciding(request: Arc<Request>, offer: Option<Offer>, backlog: Vec<u8>) -> Self {
        Self::Deciding(Box::new(Undecided { request, offer, backlog }))
    }
}

/// The outcome of [`Protocol::receive_announcement`].
pub enum Announcement {
    /// It was made, or there is no proxy.
    NotAwaited,
    /// All bytes are of it, and more must come.
    Partial,
    /// Whose connection it is, and how many bytes said so.
    Whole(Announced, usize),
}

/// The outcome of [`Protocol::accept`].
pub struct Accepted {
    pub response: Vec<u8>,
    pub backlog: Vec<u8>,
    pub is_open: bool,
}

/// Every protocol generation that a browser shipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    Rfc6455,
    HyBi08,
    HyBi07,
    Hixie76,
    Hixie75,
}

impl Dialect {
    /// The number that `fdx_conn_info.version` shows.
    pub fn number(self) -> u16 {
        match self {
            Self::Rfc6455 => 13,
            Self::HyBi08 => 8,
            Self::HyBi07 => 7,
            Self::Hixie76 => 76,
            Self::Hixie75 => 75,
        }
    }

    pub fn wire_form(self) -> WireForm {
        match self {
            Self::Hixie75 | Self::Hixie76 => WireForm::Hixie,
            _ => WireForm::HyBi,
        }
    }

    /// What closes a conversation on the wire, if the dialect has anything.
    pub fn close_bytes(self, frame: &CloseFrame) -> Vec<u8> {
        match self {
            Self::Hixie75 => Vec::new(),
            Self::Hixie76 => hixie::CLOSE.to_vec(),
            _ => {
                let payload = frame.payload();
                [ServerHead::new(Opcode::Close, true, payload.len()).as_slice(), payload].concat()
            }
        }
    }

    /// After our close, does the peer have to answer before we may end the stream? Hixie
    /// clients neither answer nor close, so there the server ends it.
    pub fn awaits_close(self) -> bool {
        self.wire_form() == WireForm::HyBi
    }
}

/// How a message looks on the wire. A broadcast is encoded once for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireForm {
    HyBi,
    Hixie,
}

impl WireForm {
    /// What stands before the payload of a message, or of a fragment of one, and after it.
    #[inline]
    pub fn around(self, kind: Kind, place: Place, len: usize) -> (ServerHead, &'static [u8]) {
        match self {
            Self::HyBi => {
                let opcode = match kind {
                    _ if !place.first => Opcode::Continuation,
                    Kind::Text => Opcode::Text,
                    Kind::Binary => Opcode::Binary,
                };
                (ServerHead::new(opcode, place.last, len), &[])
            }
            // Hixie has no fragments: a text may as well be written in pieces.
            Self::Hixie => {
                let head = if place.first { ServerHead::hixie_text() } else { ServerHead::none() };
                (head, if place.last { &[hixie::TEXT_END] } else { &[] })
            }
        }
    }
}

/// Where a frame stands in its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub first: bool,
    pub last: bool,
}

impl Place {
    pub const WHOLE: Self = Self { first: true, last: true };
}

/// Text or binary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Binary,
}

/// The dialects that are switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    bits: u8,
}

impl Versions {
    pub const NONE: Self = Self { bits: 0 };
    pub const ALL: [Dialect; 5] =
        [Dialect::Rfc6455, Dialect::HyBi08, Dialect::HyBi07, Dialect::Hixie76, Dialect::Hixie75];

    pub fn with(self, dialect: Dialect) -> Self {
        Self { bits: self.bits | 1 << dialect as u8 }
    }

    pub fn contains(self, dialect: Dialect) -> bool {
        self.bits & 1 << dialect as u8 != 0
    }

    /// For `Sec-WebSocket-Version`: the ones that have a version number, newest first.
    pub fn header(self) -> String {
        let numbered = Self::ALL.into_iter().filter(|dialect| dialect.wire_form() == WireForm::HyBi);
        let listed: Vec<String> = numbered
            .filter(|&dialect| self.contains(dialect))
            .map(|dialect| dialect.number().to_string())
            .collect();
        listed.join(", ")
    }
}

/// A message's bytes: lent from what was read, or memory of their own.
#[derive(Debug)]
pub enum Payload<'a> {
    Borrowed(&'a [u8]),
    Owned(Buffer),
    /// In the memory of [`Inflation`].
    Inflated {
        start: usize,
        len: usize,
    },
}

impl Payload<'_> {
    pub fn as_slice<'p>(&'p self, inflated: &'p [u8]) -> &'p [u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(buffer) => buffer.as_slice(),
            Self::Inflated { start, len } => &inflated[*start..start + len],
        }
    }
}

/// The payload of a Ping or Pong.
#[derive(Clone, Copy)]
pub struct Control {
    bytes: [u8; CONTROL_BYTES_MAX],
    len: u8,
}

impl Control {
    /// # Panics
    /// If the payload is longer than a control frame can hold.
    pub fn new(payload: &[u8]) -> Self {
        let mut bytes = [0; CONTROL_BYTES_MAX];
        bytes[..payload.len()].copy_from_slice(payload);
        Self { bytes, len: payload.len() as u8 }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_slice()))
    }
}

#[cfg(test)]
mod tests;
