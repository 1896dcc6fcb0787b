//! One connection as its shard keeps it.

use std::net::SocketAddr;

use bitflags::bitflags;

use super::event::ClosedBy;
use super::limits::Spoken;
use super::plain::Download;
use crate::driver::outbox::Outbox;
use crate::id::{ConnId, Time};
use crate::protocol::Protocol;
use crate::tls::TlsSession;

pub struct Connection {
    pub id: ConnId,
    pub stage: Stage,
    pub protocol: Protocol,
    /// `None` while there is nothing to write: an idle connection holds no memory for it.
    pub outbox: Option<Box<Outbox>>,
    /// What the embedder keeps with this connection; see [`UserData`].
    pub word: usize,
    /// When the stage must be over; of an open connection, when our next Ping goes out.
    pub due: Time,
    /// When bytes last came.
    pub heard_at: Time,
    /// When a message last came or went.
    pub messaged_at: Time,
    /// When our first Ping went out that was not answered yet; `Time::NEVER`: none.
    pub pinged_at: Time,
    pub rare: Option<Box<Rare>>,
    /// The place of its route.
    pub route: u16,
    pub flags: Flags,
}

/// What few connections have.
#[derive(Default)]
pub struct Rare {
    /// On a listener with TLS.
    pub tls: Option<Box<TlsSession>>,
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
    /// What came while it was lingering.
    pub dropped_bytes: u32,
}

/// Where a connection stands towards its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nobody is in this slot.
    Vacant,
    /// The request, its body, or the eight bytes of Hixie-76 are arriving.
    Handshake,
    /// The request is there; the embedder decides.
    Deciding(Asked),
    Open,
    /// The reply to a plain request is going out.
    Replying,
    /// Our Close is queued; the peer's is awaited.
    Closing(ClosedBy),
    /// All is said. When the outbox is empty our half of the stream ends.
    Finishing,
    /// Our half has ended. What still comes is dropped for a while, because closing on unread
    /// bytes makes an RST, and the peer would lose our last words.
    Lingering,
    /// Nothing more can be said; the driver closes it with the flush.
    Gone {
        reset: bool,
    },
    /// The driver has closed it; only the delivery of CLOSE may be missing.
    Ended,
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Socket,
    Page,
}

impl Stage {
    /// As the comparison, of which the compiler makes a call.
    #[inline(always)]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

bitflags! {
    /// Small facts, one bit each.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub struct Flags: u32 {
        /// OPEN was, or is about to be, delivered: CLOSE must follow.
        const OPENED = 1 << 0;
        /// CLOSE is queued for delivery, or was delivered: nothing may follow.
        const CLOSE_QUEUED = 1 << 1;
        const CLOSE_DELIVERED = 1 << 2;
        /// In the list of connections that the flush looks at.
        const DIRTY = 1 << 3;
        /// The peer has ended its half of the stream.
        const PEER_FINISHED = 1 << 4;
        /// Its route takes messages in pieces.
        const STREAMS = 1 << 5;
        /// A message of ours has begun and not ended.
        const FRAGMENTING = 1 << 6;
        /// … and it is compressed.
        const COMPRESSING = 1 << 7;
        /// Bytes of it wait to be received in a later turn.
        const HOLDING = 1 << 8;
        /// The embedder has paused reading.
        const PAUSED = 1 << 9;
        /// Too much of it waits to be polled, or freed, by the embedder.
        const CROWDED = 1 << 10;
        /// What the driver was last told about reading.
        const READING = 1 << 11;
        /// The embedder was told to wait for DRAIN.
        const WANTS_DRAIN = 1 << 12;
        /// The reply to this request has no body.
        const HEAD_ONLY = 1 << 13;
        /// After the reply to this request there may be another.
        const KEEPS_ALIVE = 1 << 14;
        /// The gate has let it in…
        const ENTERED = 1 << 15;
        /// … and counted it under its client's address.
        const COUNTED = 1 << 16;
        /// A panic of ours hit it once.
        const FAULTED = 1 << 17;
        /// The table keeps a request or a subprotocol for it.
        const HAS_SIDE = 1 << 18;

        /// While one of them is so, an open connection is not read.
        const HINDER_READING = Self::PAUSED.bits() | Self::CROWDED.bits() | Self::HOLDING.bits();
        /// Of the connection, and not of one request on it.
        const OF_ALL_REQUESTS = Self::READING.bits() | Self::DIRTY.bits() | Self::ENTERED.bits()
            | Self::COUNTED.bits();
    }
}

impl Flags {
    /// Is it so? From now on it is not.
    pub fn take(&mut self, flag: Self) -> bool {
        let was_so = self.contains(flag);
        self.remove(flag);
        was_so
    }
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
            protocol: Protocol::closed(),
            outbox: None,
            word: 0,
            due: Time::NEVER,
            heard_at: Time::default(),
            messaged_at: Time::default(),
            pinged_at: Time::NEVER,
            rare: None,
            route: 0,
            flags: Flags::default(),
        }
    }

    pub fn outbox_bytes(&self) -> usize {
        self.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
    }

    #[inline]
    pub fn is_plain(&self) -> bool {
        self.rare.as_ref().is_none_or(|rare| rare.tls.is_none())
    }

    pub fn tls(&self) -> Option<&TlsSession> {
        self.rare.as_ref()?.tls.as_deref()
    }

    pub fn tls_mut(&mut self) -> Option<&mut TlsSession> {
        self.rare.as_mut()?.tls.as_deref_mut()
    }

    /// Its session has done its work.
    pub fn end_tls(&mut self) -> Option<Box<TlsSession>> {
        self.rare.as_mut()?.tls.take()
    }

    /// Does the embedder want nothing more from it for now? Then it can't be blamed for silence.
    pub fn is_held_off(&self) -> bool {
        self.flags.intersects(Flags::PAUSED | Flags::CROWDED)
    }

    /// Should the driver read from it now?
    pub fn should_read(&self) -> bool {
        match self.stage {
            // A peer that must write before it reads would else never see our last words.
            Stage::Finishing | Stage::Lingering => true,
            Stage::Handshake => self.tls().is_none_or(|tls| !tls.is_postponed()),
            Stage::Closing(_) => !self.flags.contains(Flags::HOLDING),
            Stage::Open => !self.flags.intersects(Flags::HINDER_READING),
            Stage::Vacant | Stage::Deciding(_) | Stage::Replying | Stage::Gone { .. } | Stage::Ended => false,
        }
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;

    #[test]
    fn a_connection_takes_little_of_what_an_idle_one_may_cost() {
        assert_eq!(size_of::<Connection>(), 88);
    }
}
