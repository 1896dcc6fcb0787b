//! One connection as its shard keeps it.

use std::net::SocketAddr;

use super::event::ClosedBy;
use super::limits::Spoken;
use super::plain::Download;
use crate::driver::outbox::Outbox;
use crate::id::{ConnId, Time};
use crate::protocol::Protocol;
use crate::protocol::handshake::Offer;
use crate::tls::TlsSession;

pub struct Connection {
    pub id: ConnId,
    pub stage: Stage,
    pub protocol: Protocol,
    /// `None` while there is nothing to write: an idle connection holds no memory for it.
    pub outbox: Option<Box<Outbox>>,
    /// What the embedder keeps with this connection.
    pub data: UserData,
    /// When the stage must be over.
    pub deadline: Time,
    /// When bytes last came.
    pub heard_at: Time,
    /// When a message last came or went.
    pub messaged_at: Time,
    pub ping_due: Time,
    /// When our first Ping went out that was not answered yet; `Time::NEVER`: none.
    pub pinged_at: Time,
    pub rare: Option<Box<Rare>>,
    /// On a listener with TLS.
    pub tls: Option<Box<TlsSession>>,
    pub route: u32,
    pub flags: Flags,
}

/// What few connections have.
#[derive(Default)]
pub struct Rare {
    /// Kept when an option limits how much it may say.
    pub spoken: Spoken,
    /// What is still to be read of the reply's body.
    pub download: Option<Download>,
    /// The client, as the PROXY protocol has said, and for this request as its head says.
    pub announced: Option<SocketAddr>,
    pub forwarded: Option<SocketAddr>,
    /// What came while the turn's share of inflating was used up, and whether the peer ended its
    /// half behind it.
    pub held: Vec<u8>,
    pub finished_behind: bool,
}

/// Where a connection stands towards its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nobody is in this slot.
    Vacant,
    /// The request, its body, or the eight bytes of Hixie-76 are arriving.
    Handshake,
    /// The request is there; the embedder decides. `None`: a plain HTTP request.
    Deciding(Option<Offer>),
    Open,
    /// The reply to a plain request is going out.
    Replying,
    /// Our Close is queued; the peer's is awaited.
    Closing(ClosedBy),
    /// All is said. When the outbox is empty our half of the stream ends.
    Finishing,
    /// Our half has ended. What still comes is dropped for a while, because closing on unread
    /// bytes makes an RST, and the peer would lose our last words.
    Lingering {
        dropped_bytes: u32,
    },
    /// Nothing more can be said; the driver closes it with the flush.
    Gone {
        reset: bool,
    },
    /// The driver has closed it; only the delivery of CLOSE may be missing.
    Ended,
}

/// Small facts, one bit each.
#[derive(Clone, Copy, Default)]
pub struct Flags {
    /// OPEN was, or is about to be, delivered: CLOSE must follow.
    pub opened: bool,
    /// CLOSE is queued for delivery, or was delivered: nothing may follow.
    pub close_queued: bool,
    pub close_delivered: bool,
    /// In the list of connections that the flush looks at.
    pub dirty: bool,
    /// The peer has ended its half of the stream.
    pub peer_finished: bool,
    /// Its route takes messages in pieces.
    pub streams: bool,
    /// A message of ours has begun and not ended.
    pub fragmenting: bool,
    /// … and it is compressed.
    pub compressing: bool,
    /// Bytes of it wait to be received in a later turn.
    pub holding: bool,
    /// The embedder has paused reading.
    pub paused: bool,
    /// Too much of it waits to be polled, or freed, by the embedder.
    pub crowded: bool,
    /// What the driver was last told about reading.
    pub reading: bool,
    /// The embedder was told to wait for DRAIN.
    pub wants_drain: bool,
    /// The reply to this request has no body.
    pub head_only: bool,
    /// After the reply to this request there may be another.
    pub keeps_alive: bool,
    /// The gate has let it in…
    pub entered: bool,
    /// … and counted it under its client's address.
    pub counted: bool,
    /// A panic of ours hit it once.
    pub faulted: bool,
    /// The table keeps a request or a subprotocol for it.
    pub has_side: bool,
}

/// A word of the embedder's, and what must happen when it is no longer needed.
#[derive(Default)]
pub struct UserData {
    pub word: usize,
    pub release: Option<Box<dyn Release>>,
}

/// Told exactly once that a word of the embedder's will not be used any more, on a thread of
/// the library, under no lock and inside no call of the embedder's.
pub trait Release: Send {
    fn release(self: Box<Self>);
}

impl Connection {
    pub fn vacant() -> Self {
        Self {
            id: ConnId::NONE,
            stage: Stage::Vacant,
            protocol: Protocol::new(),
            outbox: None,
            data: UserData::default(),
            deadline: Time::NEVER,
            heard_at: Time::default(),
            messaged_at: Time::default(),
            ping_due: Time::NEVER,
            pinged_at: Time::NEVER,
            rare: None,
            tls: None,
            route: 0,
            flags: Flags::default(),
        }
    }

    pub fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    /// Does the embedder want nothing more from it for now? Then it can't be blamed for silence.
    pub fn is_held_off(&self) -> bool {
        self.flags.paused || self.flags.crowded
    }

    /// Should the driver read from it now?
    pub fn should_read(&self) -> bool {
        match self.stage {
            // A peer that must write before it reads would else never see our last words.
            Stage::Finishing | Stage::Lingering { .. } => true,
            Stage::Handshake => self.tls.as_ref().is_none_or(|tls| !tls.is_postponed()),
            Stage::Closing(_) => !self.flags.holding,
            Stage::Open => !self.is_held_off() && !self.flags.holding,
            Stage::Vacant | Stage::Deciding(_) | Stage::Replying | Stage::Gone { .. } | Stage::Ended => false,
        }
    }
}
