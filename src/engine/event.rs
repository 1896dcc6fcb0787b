//! What the embedder is told, and in which order: `UPGRADE? OPEN (MESSAGE | …)* CLOSE`.

use std::collections::TryReserveError;
use std::sync::Arc;

use crate::buffer::{Buffer, copied};
use crate::id::ConnId;
use crate::protocol::Kind;
use crate::protocol::close::{CloseCode, CloseFrame};

/// One thing that happened, waiting for the turn's delivery.
pub struct Event {
    pub conn: ConnId,
    pub kind: EventKind,
    pub body: Body,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// Waits for accept or reject.
    Upgrade,
    /// The body is the subprotocol.
    Open,
    Message(Kind),
    /// A piece of a message, on a route that streams; `fin` with the last.
    Fragment {
        kind: Kind,
        fin: bool,
    },
    /// The outbox is below `send.low_water` again.
    Drain,
    /// The body is the peer's reason.
    Close {
        code: CloseCode,
        by: ClosedBy,
    },
    Ping,
    /// With the round trip, if it answers a Ping of ours.
    Pong {
        rtt_us: u64,
    },
    /// A plain request, waiting for its reply.
    Http,
    /// It is in a topic from now on, or not any more; the body is the name.
    Topic {
        joined: bool,
        /// The topic's in this process, with this change.
        subscribers: u64,
    },
    /// A listener could not accept; the body says why.
    Listener,
    /// How it stands between this server and others; the body says why.
    Backplane(Reach),
    /// A panic was contained; the body says where.
    Fault,
    /// The last event of the server.
    Stopped,
    ThreadStart,
    ThreadStop,
}

/// Do this server and the others hear of each other?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    Up = 1,
    Down = 2,
    /// Messages may be missing.
    Gap = 3,
}

/// Who or what ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClosedBy {
    Peer = 1,
    Host = 2,
    Timeout = 3,
    Limit = 4,
    Protocol = 5,
    Network = 6,
    Shutdown = 7,
}

/// An event's bytes.
pub enum Body {
    None,
    /// In the turn's arena.
    Arena {
        start: usize,
        len: usize,
    },
    Shared(Arc<Buffer>),
    /// In what was inflated in this turn.
    Inflated {
        start: usize,
        len: usize,
    },
}

impl Body {
    /// Of what is small: a reason, a line of text.
    pub fn copied(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::None } else { Self::Shared(Arc::new(Buffer::from(bytes.to_vec()))) }
    }

    /// Of what may be of any size.
    pub fn try_copied(bytes: &[u8]) -> Result<Self, TryReserveError> {
        Ok(if bytes.is_empty() { Self::None } else { Self::Shared(Arc::new(copied(bytes)?.into())) })
    }

    /// If it has memory of its own.
    pub fn shared(&self) -> Option<&Arc<Buffer>> {
        match self {
            Self::Shared(buffer) => Some(buffer),
            _ => None,
        }
    }

    pub fn as_slice<'a>(&'a self, arena: &'a [u8], inflated: &'a [u8]) -> &'a [u8] {
        match self {
            Self::None => &[],
            Self::Arena { start, len } => &arena[*start..start + len],
            Self::Shared(buffer) => buffer.as_slice(),
            Self::Inflated { start, len } => &inflated[*start..start + len],
        }
    }
}

impl Event {
    /// An event of the server itself.
    pub fn of_server(kind: EventKind, text: &str) -> Self {
        Self { conn: ConnId::NONE, kind, body: Body::copied(text.as_bytes()) }
    }

    pub fn close(conn: ConnId, frame: &CloseFrame, by: ClosedBy) -> Self {
        let kind = EventKind::Close { code: frame.code(), by };
        Self { conn, kind, body: Body::copied(frame.reason()) }
    }
}
