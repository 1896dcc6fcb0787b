//! Plain HTTP on the same port: pages of the server's own, the embedder's routes, and files.
//!
//! One request at a time: while it is decided and answered nothing is read, and what a client
//! has sent ahead waits. Each request of a connection has a number of its own, so that a late
//! reply to one is never taken for another's.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Engine;
use super::connection::{Asked, Flags, Stage};
use super::event::{Body, Event, EventKind};
use super::table::{Life, PendingRequest};
use super::writing::{NoMemory, SHARED_BYTES_MIN};
use crate::buffer::Buffer;
use crate::config::HttpPages;
use crate::driver::Driver;
use crate::id::{ConnId, Slot, Time};
use crate::protocol::body::BodyLength;
use crate::protocol::http::{self, Refusal, Request};

/// What is answered without the embedder.
pub trait Pages: Send + Sync {
    /// A page of the server's own, before any route.
    fn page(&self, request: &Request, options: &HttpPages, is_stopping: bool) -> Option<Reply>;

    /// A file, after every route.
    fn file(&self, request: &Request) -> Option<Reply>;
}

/// Nothing at all.
impl Pages for () {
    fn page(&self, _: &Request, _: &HttpPages, _: bool) -> Option<Reply> {
        None
    }

    fn file(&self, _: &Request) -> Option<Reply> {
        None
    }
}

/// An answer to a plain request.
pub struct Reply {
    pub status: u16,
    /// Lines ended by CR LF; length and connection are added.
    pub headers: String,
    /// Of the body that GET would bring.
    pub len: u64,
    pub body: ReplyBody,
}

pub enum ReplyBody {
    None,
    Bytes(Buffer),
    /// Exactly `len` bytes, read as the client takes them.
    Reader(Box<dyn Read + Send>),
}

/// The rest of a body that is read as the client takes it.
pub struct Download {
    reader: Box<dyn Read + Send>,
    left: u64,
}

impl Reply {
    pub fn new(status: u16, headers: String, body: Vec<u8>) -> Self {
        Self { status, headers, len: body.len() as u64, body: ReplyBody::Bytes(body.into()) }
    }

    pub fn text(status: u16, headers: &str, text: &str) -> Self {
        let headers = format!("{headers}Content-Type: text/plain; charset=utf-8\r\n");
        Self::new(status, headers, text.as_bytes().to_vec())
    }
}

impl Engine {
    pub(super) fn asked_plainly(&mut self, slot: Slot, request: Arc<Request>) {
        let connection = &mut self.connections[slot as usize];
        let keeps_alive = request.keeps_alive() && request.body() == BodyLength::None;
        connection.flags.set(Flags::KEEPS_ALIVE, keeps_alive);
        if !self.says_within_rates(slot, 1, 0) {
            self.table.counters.rate_limited.add(1);
            return self.refuse(slot, Refusal::TooManyRequests);
        }
        let is_stopping = self.stopping.is_some();
        if let Some(reply) = self.pages.page(&request, &self.settings.http, is_stopping) {
            return self.reply(slot, reply);
        }
        match self.routes.find_http(request.path()) {
            Some((route, _)) if !self.routes.get(route).wants.other => self.refuse(slot, Refusal::NotFound),
            Some((route, parameters)) => {
                let has_body = request.body() != BodyLength::None;
                let (number, tls) = (self.routes.get(route).number, self.tls_facts(slot));
                let pending = PendingRequest { request, parameters, tls };
                self.connections[slot as usize].route = route as u16;
                self.connections[slot as usize].flags.insert(Flags::HAS_SIDE);
                self.entry(slot).route.store(number, Relaxed);
                self.table.set_request(slot, pending.clone());
                match has_body {
                    true => self.begin_body(slot, &pending.request),
                    false => self.ask(slot, Body::None),
                }
            }
            None => match self.pages.file(&request) {
                Some(reply) => self.reply(slot, reply),
                None => self.refuse(slot, Refusal::NotUpgrade),
            },
        }
    }

    /// The body comes before the embedder is asked.
    fn begin_body(&mut self, slot: Slot, request: &Request) {
        let expectation = request.header("expect");
        if expectation.is_some_and(|expected| !expected.eq_ignore_ascii_case(b"100-continue")) {
            return self.refuse(slot, Refusal::Expectation);
        }
        let connection = &mut self.connections[slot as usize];
        connection.flags.set(Flags::KEEPS_ALIVE, request.keeps_alive());
        let mut backlog = match connection.protocol.receive_body(self.settings.body_bytes_max) {
            Ok(backlog) => backlog,
            Err(refusal) => return self.refuse(slot, refusal),
        };
        // "An origin server MAY omit sending a 100 (Continue) response if it has already
        // received some or all of the content" (RFC 9110, 10.1.1); to HTTP/1.0 it must not.
        let awaits_word = expectation.is_some() && backlog.is_empty() && !request.is_http_1_0();
        if awaits_word && self.push(slot, [b"HTTP/1.1 100 Continue\r\n\r\n", &[], &[]]).is_err() {
            return;
        }
        self.received_backlog(slot, &mut backlog);
    }

    /// The request is whole: the embedder has it now.
    pub(super) fn ask(&mut self, slot: Slot, body: Body) {
        let id = self.connections[slot as usize].id;
        self.entry(slot).set_life(id.generation(), Life::Http);
        self.set_stage(slot, Stage::Deciding(Asked::Page));
        self.events.push_back(Event { conn: id, kind: EventKind::Http, body });
    }

    pub(super) fn reply(&mut self, slot: Slot, reply: Reply) {
        let is_stopping = self.stopping.is_some();
        let connection = &mut self.connections[slot as usize];
        if is_stopping {
            connection.flags.remove(Flags::KEEPS_ALIVE);
        }
        connection.due = Time::NEVER;
        let (id, keeps_alive) = (connection.id, connection.flags.contains(Flags::KEEPS_ALIVE));
        self.entry(slot).set_life(id.generation(), Life::None);
        // "A server that does not support persistent connections MUST send the \"close\"
        // connection option" (RFC 9112, 9.6).
        let connection_token = if keeps_alive { "" } else { "close" };
        if self.push_reply(slot, reply, connection_token).is_ok() {
            self.set_stage(slot, Stage::Replying);
            self.rearm(slot);
        }
    }

    /// Queues a reply, or, without memory for it, loses the connection.
    pub(super) fn push_reply(
        &mut self,
        slot: Slot,
        reply: Reply,
        connection_token: &str,
    ) -> Result<(), NoMemory> {
        let Ok(head) = http::response_head(reply.status, &reply.headers, connection_token, reply.len) else {
            self.lose(slot);
            return Err(NoMemory);
        };
        let is_bare =
            self.connections[slot as usize].flags.contains(Flags::HEAD_ONLY) || !http::has_body(reply.status);
        match reply.body {
            _ if is_bare => self.push(slot, [&head, &[], &[]]),
            ReplyBody::None => self.push(slot, [&head, &[], &[]]),
            ReplyBody::Bytes(body) if body.len() < SHARED_BYTES_MIN => {
                self.push(slot, [&head, body.as_slice(), &[]])
            }
            ReplyBody::Bytes(body) => self.push_shared(slot, &head, body),
            ReplyBody::Reader(reader) => {
                let download = Download { reader, left: reply.len };
                self.connections[slot as usize].rare.get_or_insert_default().download = Some(download);
                self.push(slot, [&head, &[], &[]])
            }
        }
    }

    /// Reads a download as the kernel takes it: one write, and the next one behind those of the
    /// others.
    pub(super) fn write_download<D: Driver>(
        &mut self,
        slot: Slot,
        driver: &mut D,
        arena: &[u8],
    ) -> io::Result<()> {
        let is_blocked = |engine: &Self| engine.connections[slot as usize].outbox.is_some();
        if is_blocked(self) || !self.is_downloading(slot) {
            return Ok(());
        }
        if self.downloads_in_turn == DOWNLOADS_PER_TURN {
            self.unfinished.push(slot);
            return Ok(());
        }
        self.downloads_in_turn += 1;
        while self.connections[slot as usize].outbox_bytes() < DOWNLOAD_WRITE_BYTES
            && self.is_downloading(slot)
        {
            self.read_download(slot)?;
        }
        self.write_outbox(slot, driver, arena)?;
        if !is_blocked(self) && self.is_downloading(slot) {
            self.mark_dirty(slot);
        }
        Ok(())
    }

    fn read_download(&mut self, slot: Slot) -> io::Result<()> {
        let rare = self.connections[slot as usize].rare.as_mut();
        let Some(download) = rare.and_then(|rare| rare.download.as_mut()) else { return Ok(()) };
        let mut piece = std::mem::take(&mut self.scratch.piece);
        piece.resize(DOWNLOAD_PIECE_BYTES, 0);
        let wanted = usize::try_from(download.left).unwrap_or(usize::MAX).min(piece.len());
        let read = loop {
            match download.reader.read(&mut piece[..wanted]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What was announced can't be kept: only a cut tells the client.
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                read => break read,
            }
        };
        if let Ok(len) = read {
            download.left -= len as u64;
            let pushed = self.push(slot, [&piece[..len], &[], &[]]);
            self.scratch.piece = piece;
            return pushed.map_err(|_| io::ErrorKind::OutOfMemory.into());
        }
        self.scratch.piece = piece;
        read.map(|_| ())
    }

    fn is_downloading(&self, slot: Slot) -> bool {
        let rare = self.connections[slot as usize].rare.as_ref();
        rare.and_then(|rare| rare.download.as_ref()).is_some_and(|download| download.left > 0)
    }

    /// After a write: if the whole reply has gone out the next request may come.
    pub(super) fn end_reply(&mut self, slot: Slot) {
        let connection = &mut self.connections[slot as usize];
        if connection.stage != Stage::Replying || connection.outbox.is_some() || self.is_downloading(slot) {
            return;
        }
        let connection = &mut self.connections[slot as usize];
        if let Some(rare) = &mut connection.rare {
            rare.download = None;
        }
        match connection.flags.contains(Flags::KEEPS_ALIVE) {
            true if self.replies_in_turn == REPLIES_PER_TURN => self.unfinished.push(slot),
            true => {
                self.replies_in_turn += 1;
                self.begin_next_request(slot);
            }
            false => {
                connection.protocol.refuse();
                self.finish(slot);
            }
        }
    }

    fn begin_next_request(&mut self, slot: Slot) {
        let deadline = self.now.after(self.settings.timeouts.handshake);
        let connection = &mut self.connections[slot as usize];
        let id = ConnId::new(self.shard, connection.id.generation().next(), slot);
        let had_side = connection.flags.contains(Flags::HAS_SIDE);
        connection.id = id;
        connection.due = deadline;
        connection.flags &= Flags::OF_ALL_REQUESTS;
        connection.word = 0;
        let mut backlog = connection.protocol.next_request();
        self.discard(id);
        if had_side {
            self.table.forget_side(slot);
        }
        self.forget_client(slot);
        let entry = self.entry(slot);
        entry.reset(id.generation(), entry.peer(), entry.local_port());
        entry.bytes_in.add(backlog.len() as u64);
        self.set_stage(slot, Stage::Handshake);
        self.rearm(slot);
        self.received_backlog(slot, &mut backlog);
        if self.connections[slot as usize].tls().is_some_and(|tls| tls.is_peer_done()) {
            // Of this end the driver does not tell again.
            self.peer_finished(slot);
        }
    }
}

const DOWNLOAD_PIECE_BYTES: usize = 16 * 1024;
const DOWNLOAD_WRITE_BYTES: usize = 64 * 1024;
/// More must wait for the next turn, however many ask: the others want theirs, too.
const DOWNLOADS_PER_TURN: usize = 32;
const REPLIES_PER_TURN: usize = 256;
