//! What can be asked of one connection, from any thread.
//!
//! `turn` is the turn of the connection's own shard, if the caller is in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Answer, Done, Server};
use crate::buffer::{Buffer, copied};
use crate::config::Settings;
use crate::engine::Command;
use crate::engine::connection::UserData;
use crate::engine::event::ClosedBy;
use crate::engine::submitted::Submitted;
use crate::engine::table::{Begun, Entry, EntryRef, Life, PendingRequest, Room, charge};
use crate::engine::turn::{Message, Misuse, Sent, Turn};
use crate::id::ConnId;
use crate::protocol::close::CloseFrame;
use crate::protocol::deflate::Wish;
use crate::protocol::handshake;
use crate::protocol::{Control, Kind, WireForm, http};

impl Server {
    /// Queues a message; never blocks.
    pub fn send(
        &self,
        conn: ConnId,
        kind: Kind,
        data: &[u8],
        last: bool,
        wish: Wish,
    ) -> Result<Sent, Misuse> {
        let make = |begun: Begun| {
            let begun = begun.then(kind, data, last)?;
            let payload = copied(data).map_err(|_| Misuse::NoMemory)?;
            Ok((begun, Command::Send { conn, kind, payload, last, wish }))
        };
        let leave = |command| self.post(None, conn, command);
        self.send_from_afar(&self.settings(), conn, kind, data.len(), make, leave)
    }

    pub fn send_message(&self, conn: ConnId, message: &Arc<Message>, wish: Wish) -> Result<Sent, Misuse> {
        let make = |begun: Begun| {
            Ok((begun.then_whole()?, Command::SendMessage { conn, message: message.clone(), wish }))
        };
        let leave = |command| self.post(None, conn, command);
        self.send_from_afar(&self.settings(), conn, message.kind, message.payload.len(), make, leave)
    }

    /// Begins to send much at once.
    pub fn submission(&self) -> Submission<'_> {
        let shards = self.tables.iter().map(|_| Submitted::default()).collect();
        Submission { server: self, settings: self.settings(), shards }
    }

    /// Answers from the table. What `make` makes of the message, if it can be said now, `leave`
    /// leaves for the shard.
    fn send_from_afar<T>(
        &self,
        settings: &Settings,
        conn: ConnId,
        kind: Kind,
        len: usize,
        make: impl FnOnce(Begun) -> Result<(Begun, T), Misuse>,
        leave: impl FnOnce(T) -> Result<(), Misuse>,
    ) -> Result<Sent, Misuse> {
        let (entry, life) = self.find(conn)?;
        let entry = entry.get();
        life.is_open()?;
        if kind == Kind::Binary && entry.dialect().wire_form() == WireForm::Hixie {
            return Err(Misuse::Unsupported);
        }
        let limits = &settings.send;
        if len > limits.limit_bytes {
            return Err(Misuse::TooBig);
        }
        let before = entry.begun();
        let (begun, made) = make(before)?;
        let sent = match entry.take_room(conn, len, limits) {
            Room::Taken(sent) => sent,
            Room::Full { is_first } => {
                self.tables[conn.shard()].counters.dropped_messages.fetch_add(1, Relaxed);
                if let Some(command) = Command::for_full(conn, limits, is_first) {
                    self.post(None, conn, command)?;
                }
                return Err(Misuse::Full);
            }
            Room::Gone => return Err(Misuse::NoConnection),
        };
        leave(made).inspect_err(|_| entry.take_from_mailbox(conn, charge(len)))?;
        entry.go_on(conn, before, begun);
        Ok(sent)
    }

    /// Begins the close handshake; what is queued goes first.
    pub fn close(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        frame: CloseFrame,
    ) -> Result<Done, Misuse> {
        let (entry, life) = self.find(conn)?;
        match life {
            Life::Closing => return Ok(Done::Already),
            life => life.is_open()?,
        }
        if !entry.get().begin_close(conn) {
            return Ok(Done::Already);
        }
        self.post(turn, conn, Command::Close { conn, frame: Box::new(frame) })?;
        Ok(Done::Now)
    }

    /// Ends the connection without a word.
    pub fn abort(&self, turn: Option<&mut Turn<'_>>, conn: ConnId) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        if life == Life::Closed {
            return Err(Misuse::NoConnection);
        }
        // From now on nothing more is taken for it.
        entry.get().begin_close(conn);
        self.post(turn, conn, Command::Abort { conn, by: ClosedBy::Host })
    }

    pub fn set_paused(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, paused: bool) -> Result<(), Misuse> {
        let (_, life) = self.find(conn)?;
        life.is_open()?;
        self.post(turn, conn, Command::SetPaused { conn, paused })
    }

    pub fn ping(&self, turn: Option<&mut Turn<'_>>, conn: ConnId, payload: Control) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        life.is_open()?;
        if entry.get().dialect().wire_form() == WireForm::Hixie {
            return Err(Misuse::Unsupported);
        }
        // It counts from here on, as everything that waits for a peer does.
        let charged = charge(payload.as_slice().len());
        let entry = entry.get();
        let waiting = entry.add_to_mailbox(conn, charged).ok_or(Misuse::NoConnection)?;
        let limit = self.settings().send.limit_bytes as u64;
        if entry.queued_within(waiting, limit) > limit {
            entry.take_from_mailbox(conn, charged);
            return Err(Misuse::Full);
        }
        self.post(turn, conn, Command::Ping { conn, payload: Box::new(payload) })
    }

    /// On an error `data` comes back unused.
    pub fn set_data(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        data: UserData,
    ) -> Result<(), (Misuse, UserData)> {
        match self.find(conn) {
            Ok((_, life)) if life != Life::Closed => {}
            _ => return Err((Misuse::NoConnection, data)),
        }
        let command = Command::SetData { conn, data };
        match turn {
            Some(turn) => turn.obey(command),
            None => {
                if let Err(Command::SetData { data, .. }) = self.post_or_back(conn, command) {
                    return Err((Misuse::Stopped, data));
                }
            }
        }
        Ok(())
    }

    /// The embedder agrees to a request. `protocol` `None`: what the option `protocols` says.
    pub fn accept(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        protocol: Option<&str>,
        headers: &str,
    ) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        if life != Life::Deciding {
            return Err(undecidable(life));
        }
        check_headers(headers)?;
        if let Some(protocol) = protocol.filter(|protocol| !protocol.is_empty()) {
            let pending = self.request(conn)?;
            if !handshake::offers_protocol(&pending.request, entry.get().dialect(), protocol) {
                return Err(Misuse::Invalid("the client did not offer this subprotocol"));
            }
        }
        let (protocol, headers) = (protocol.map(copied_text).transpose()?, copied_text(headers)?);
        if !entry.get().decide(conn, Life::Deciding) {
            return Err(Misuse::State("it was decided already"));
        }
        self.post(turn, conn, Command::Accept { conn, protocol, headers })
    }

    /// The embedder refuses a request for a WebSocket (`awaited` is `Life::Deciding`), or
    /// replies to a plain one (`Life::Http`).
    pub fn answer(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        awaited: Life,
        answer: &Answer<'_>,
    ) -> Result<(), Misuse> {
        let (entry, life) = self.find(conn)?;
        if life != awaited {
            return Err(undecidable(life));
        }
        check_headers(answer.headers)?;
        // First, so that without memory it is still to be decided.
        let headers = copied_text(answer.headers)?;
        let body = copied(answer.body).map_err(|_| Misuse::NoMemory)?;
        if !entry.get().decide(conn, awaited) {
            return Err(Misuse::State("it was decided already"));
        }
        let command = Command::Answer { conn, status: answer.status, headers, body };
        self.post(turn, conn, command)
    }

    /// The request of a connection, from UPGRADE until OPEN was delivered.
    pub fn request(&self, conn: ConnId) -> Result<PendingRequest, Misuse> {
        let (_, _) = self.find(conn)?;
        let table = self.tables.get(conn.shard()).ok_or(Misuse::NoConnection)?;
        table.request(conn).ok_or(Misuse::State("the request is kept only until OPEN was delivered"))
    }

    /// The subprotocol that was agreed on, or nothing.
    pub fn protocol(&self, conn: ConnId) -> String {
        let found = self.tables.get(conn.shard()).and_then(|table| table.protocol(conn));
        found.map_or_else(String::new, |protocol| protocol.to_string())
    }

    /// The client, if a trusted proxy has said who it is.
    pub fn remote(&self, conn: ConnId) -> Option<SocketAddr> {
        self.tables.get(conn.shard())?.remote(conn)
    }

    /// Calls `each` for every connection that is open or closing.
    pub fn each_open(&self, mut each: impl FnMut(ConnId, &Entry)) {
        for (shard, table) in self.tables.iter().enumerate() {
            table.ids(shard as u8, &mut each);
        }
    }

    /// Events were freed, each with its connection and what it counted.
    pub fn freed(&self, events: impl Iterator<Item = (ConnId, usize)>) {
        let most = self.settings().receive.high_water_bytes;
        let free = |conn: ConnId, len: usize| {
            let Ok((entry, _)) = self.find(conn) else { return };
            if entry.get().take_unread(conn, len, most) {
                let _ = self.post(None, conn, Command::ReadOn { conn });
            }
        };
        // Those of one connection often follow each other.
        let (mut conn, mut bytes) = (ConnId::NONE, 0);
        for (next, len) in events {
            if next != conn {
                free(conn, std::mem::take(&mut bytes));
                conn = next;
            }
            bytes += len;
        }
        free(conn, bytes);
    }

    /// A connection's entry in its shard's table, and how far it has come.
    pub fn find(&self, conn: ConnId) -> Result<(EntryRef, Life), Misuse> {
        self.tables.get(conn.shard()).and_then(|table| table.find(conn)).ok_or(Misuse::NoConnection)
    }

    pub(super) fn post(
        &self,
        turn: Option<&mut Turn<'_>>,
        conn: ConnId,
        command: Command,
    ) -> Result<(), Misuse> {
        match turn {
            Some(turn) => {
                turn.obey(command);
                Ok(())
            }
            None => self.post_or_back(conn, command).map_err(|_| Misuse::Stopped),
        }
    }

    fn post_or_back(&self, conn: ConnId, command: Command) -> Result<(), Command> {
        match self.mailboxes.get().and_then(|mailboxes| mailboxes.get(conn.shard())) {
            Some(mailbox) => mailbox.post(command),
            None => Err(command),
        }
    }
}

/// Many messages on their way: answered one by one, and left in the mailboxes together.
pub struct Submission<'s> {
    server: &'s Server,
    settings: Arc<Settings>,
    /// For each shard.
    shards: Vec<Submitted>,
}

impl Submission<'_> {
    /// As [`Server::send`]; it waits for [`Submission::leave`].
    pub fn send(
        &mut self,
        conn: ConnId,
        kind: Kind,
        data: &[u8],
        last: bool,
        wish: Wish,
    ) -> Result<Sent, Misuse> {
        let submitted = self.shards.get_mut(conn.shard()).ok_or(Misuse::NoConnection)?;
        let make = |begun: Begun| Ok((begun.then(kind, data, last)?, ()));
        // The last step before it counts as sent, so that what fails for want of memory is not.
        let leave = |()| submitted.push(conn, kind, data, last, wish).map_err(|_| Misuse::NoMemory);
        self.server.send_from_afar(&self.settings, conn, kind, data.len(), make, leave)
    }

    /// Whose shard is gone is gone itself, and loses what was queued for it.
    pub fn leave(self) {
        let mailboxes = self.server.mailboxes.get().into_iter().flatten();
        for (mailbox, submitted) in mailboxes.zip(self.shards) {
            if !submitted.is_empty() {
                let _ = mailbox.post(Command::SendMany(submitted));
            }
        }
    }
}

impl Message {
    /// Copies and checks a message for many connections.
    pub fn new(kind: Kind, data: &[u8]) -> Result<Self, Misuse> {
        if kind == Kind::Text && simdutf8::basic::from_utf8(data).is_err() {
            return Err(Misuse::NotUtf8);
        }
        let mut payload = Buffer::default();
        payload.append(data, data.len()).map_err(|_| Misuse::NoMemory)?;
        Ok(Self { kind, payload: Arc::new(payload), deflated: Default::default() })
    }
}

fn copied_text(text: &str) -> Result<String, Misuse> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len()).map_err(|_| Misuse::NoMemory)?;
    copy.push_str(text);
    Ok(copy)
}

fn check_headers(lines: &str) -> Result<(), Misuse> {
    if lines.len() > HEADERS_BYTES_MAX {
        return Err(Misuse::TooBig);
    }
    http::check_header_lines(lines, &handshake::OWN_HEADERS).map_err(Misuse::Invalid)
}

fn undecidable(life: Life) -> Misuse {
    match life {
        Life::Deciding => Misuse::State("this is a WebSocket request: accept or reject it"),
        Life::Http => Misuse::State("this is a plain HTTP request: reply to it"),
        Life::None | Life::Closed => Misuse::NoConnection,
        _ => Misuse::State("it was decided already"),
    }
}

/// Of an embedder's own in one answer; browsers take four times as much, proxies less.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
