//! What every thread may know of a shard's connections without asking the shard.
//!
//! Whether a connection lives and how much is queued for it, in atomics: a send from another
//! thread is answered at once. The shard writes, everyone reads; the mailbox's share of the
//! queue and the step from open to closing are the only words that others change.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hint::spin_loop;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::turn::{Misuse, Sent};
use crate::config::SendLimits;
use crate::driver::Endpoint;
use crate::id::{ConnId, Generation, Slot};
use crate::protocol::http::Request;
use crate::protocol::message::Utf8Stream;
use crate::protocol::{Dialect, Kind};
use crate::tls::TlsFacts;

/// One shard's connections and counters.
#[derive(Default)]
pub struct Table {
    chunks: RwLock<Vec<Arc<Chunk>>>,
    /// What few connections have, and only for a while.
    sides: Mutex<HashMap<Slot, Side>>,
    pub counters: Counters,
}

pub type Chunk = [Entry; CHUNK_SLOTS];

/// One connection, in two cache lines: what each message touches is in the first. All but `life`,
/// `mailbox`, `unread`, `dropped`, `wants_drain` and `topics` are written by the shard alone.
#[repr(C, align(64))]
pub struct Entry {
    /// Generation and [`Life`] in one word.
    life: AtomicU32,
    dialect: AtomicU16,
    pub wants_drain: AtomicBool,
    /// It speaks TLS.
    pub secure: AtomicBool,
    /// Generation, and bytes of sends that wait in the shard's mailbox for that generation: in
    /// one word, or bytes for a connection that is gone would count for the next in its slot.
    mailbox: AtomicU64,
    /// Generation and [`Begun`], written by whoever sends: in one word, as above.
    begun: AtomicU64,
    pub outbox_bytes: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    pub messages_in: Count,
    pub messages_out: Count,
    /// Generation, bytes of events that the embedder can poll and has not freed, and whether they
    /// are so many that the shard has stopped reading.
    unread: AtomicU64,
    /// Counted by everyone who sends.
    pub dropped: AtomicU64,
    pub opened_us: Count,
    pub route: AtomicU32,
    pub rtt_us: AtomicU32,
    /// How many topics it is in; see [`Topics`](super::topics::Topics).
    pub topics: AtomicU32,
    peer_port: AtomicU16,
    local_port: AtomicU16,
    peer_ip: Address,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Life {
    /// No connection, or one whose request is still arriving.
    None = 0,
    /// UPGRADE is out: waiting for accept or reject.
    Deciding = 1,
    /// A plain HTTP request waits for its reply.
    Http = 2,
    /// Accepted; the eight bytes of Hixie-76 are still to come.
    Accepted = 3,
    Open = 4,
    /// We have begun to close.
    Closing = 5,
    /// CLOSE is being delivered.
    Closed = 6,
}

impl Life {
    /// Can it be sent anything?
    pub fn is_open(self) -> Result<(), Misuse> {
        match self {
            Self::Open => Ok(()),
            Self::Closing => Err(Misuse::Closing),
            Self::Deciding | Self::Accepted => Err(Misuse::State("the connection is not open yet")),
            Self::Http => Err(Misuse::State("this is a plain HTTP request")),
            Self::None | Self::Closed => Err(Misuse::NoConnection),
        }
    }
}

/// Whether a message has room in what waits for its peer.
pub enum Room {
    Taken(Sent),
    /// Over `send.limit`. The first since DRAIN was last promised?
    Full {
        is_first: bool,
    },
    /// The slot has passed to another connection.
    Gone,
}

/// A counter with one writer.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn add(&self, more: u64) {
        // No read-modify-write: only the shard's own thread writes.
        self.0.store(self.0.load(Relaxed) + more, Relaxed);
    }

    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Sums over a shard's life; see `fdx_stats`.
#[derive(Default)]
pub struct Counters {
    pub connections: Count,
    pub peak_connections: Count,
    pub accepted: Count,
    pub rejected: Count,
    pub closed: Count,
    pub handshake_errors: Count,
    pub messages_in: Count,
    pub messages_out: Count,
    pub bytes_in: Count,
    pub bytes_out: Count,
    /// Counted by everyone who sends.
    pub dropped_messages: AtomicU64,
    pub slow_closed: Count,
    pub rate_limited: Count,
    pub faults: Count,
}

/// Kept apart because it has no fixed size.
#[derive(Default)]
struct Side {
    /// From the handshake until OPEN was delivered.
    request: Option<PendingRequest>,
    protocol: Option<Arc<str>>,
    /// Who the client is, if not the socket's other end.
    remote: Option<SocketAddr>,
}

/// A request with what its route's pattern found in the path.
#[derive(Clone)]
pub struct PendingRequest {
    pub request: Arc<Request>,
    pub parameters: Arc<[(String, String)]>,
    pub tls: Option<Arc<TlsFacts>>,
}

impl Table {
    /// The connection's entry, if the slot ever had one.
    pub fn entry(&self, slot: Slot) -> Option<EntryRef> {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let chunk = chunks.get(slot as usize / CHUNK_SLOTS)?.clone();
        Some(EntryRef { chunk, index: slot as usize % CHUNK_SLOTS })
    }

    /// The entry of a connection, and how far it has come; `None` if it is gone.
    pub fn find(&self, id: ConnId) -> Option<(EntryRef, Life)> {
        let entry = self.entry(id.slot())?;
        let life = entry.get().life_of(id)?;
        Some((entry, life))
    }

    /// Meanwhile the table does not grow.
    pub fn with_entries<R>(&self, walk: impl FnOnce(Entries<'_>) -> R) -> R {
        walk(Entries(&self.chunks.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The slots that are in use now, roughly.
    pub fn ids(&self, shard: u8, mut each: impl FnMut(ConnId, &Entry)) {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (index, entry) in chunks.iter().flat_map(|chunk| chunk.iter()).enumerate() {
            let (generation, life) = entry.life();
            if matches!(life, Life::Open | Life::Closing) {
                each(ConnId::new(shard, generation, index as Slot), entry);
            }
        }
    }

    /// Is nothing kept for any connection?
    pub fn is_quiet(&self) -> bool {
        let chunks = self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let is_empty = |entry: &Entry| entry.life().1 == Life::None;
        chunks.iter().flat_map(|chunk| chunk.iter()).all(is_empty) && self.sides().is_empty()
    }

    /// Makes room for one chunk more and gives the shard its own way to it.
    pub fn grow(&self) -> Arc<Chunk> {
        let chunk: Arc<Chunk> = Arc::new(std::array::from_fn(|_| Entry::new()));
        self.chunks.write().unwrap_or_else(PoisonError::into_inner).push(chunk.clone());
        chunk
    }

    pub fn set_request(&self, slot: Slot, request: PendingRequest) {
        self.sides().entry(slot).or_default().request = Some(request);
    }

    pub fn request(&self, id: ConnId) -> Option<PendingRequest> {
        let sides = self.sides();
        // Looked at under the lock: the slot can't pass to another connection meanwhile
        // without losing its side first.
        self.find(id)?;
        sides.get(&id.slot())?.request.clone()
    }

    /// The request has been seen by everyone who may see it.
    pub fn forget_request(&self, slot: Slot) {
        let mut sides = self.sides();
        if let Some(side) = sides.get_mut(&slot) {
            side.request = None;
            if side.protocol.is_none() && side.remote.is_none() {
                sides.remove(&slot);
            }
        }
    }

    pub fn set_remote(&self, slot: Slot, remote: SocketAddr) {
        self.sides().entry(slot).or_default().remote = Some(remote);
    }

    /// The client, if a proxy has said who it is.
    pub fn remote(&self, id: ConnId) -> Option<SocketAddr> {
        let sides = self.sides();
        self.find(id)?;
        sides.get(&id.slot())?.remote
    }

    pub fn set_protocol(&self, slot: Slot, protocol: &str) {
        self.sides().entry(slot).or_default().protocol = Some(Arc::from(protocol));
    }

    pub fn protocol(&self, id: ConnId) -> Option<Arc<str>> {
        let sides = self.sides();
        self.find(id)?;
        sides.get(&id.slot())?.protocol.clone()
    }

    pub fn forget_side(&self, slot: Slot) {
        self.sides().remove(&slot);
    }

    fn sides(&self) -> MutexGuard<'_, HashMap<Slot, Side>> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingRequest {
    /// A part of the request by name; see [`Request::get`]. `/name` is a parameter of the path,
    /// `:tls_version` and `:tls_subject` are of the session.
    pub fn get(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let text = |text: &'static str| Cow::Borrowed(text.as_bytes());
        let Some(parameter) = name.strip_prefix('/') else {
            return match (name, &self.tls) {
                (":tls_version", Some(tls)) => Some(text(tls.version)),
                (":tls_subject", Some(tls)) => tls.subject.as_ref().map(|subject| subject.as_bytes().into()),
                _ => self.request.get(name),
            };
        };
        let found = self.parameters.iter().find(|(found, _)| found == parameter)?;
        Some(Cow::Borrowed(found.1.as_bytes()))
    }
}

/// All entries of a table, for a walk through many.
pub struct Entries<'t>(&'t [Arc<Chunk>]);

impl Entries<'_> {
    #[inline]
    pub fn get(&self, id: ConnId) -> Option<&Entry> {
        let chunk = self.0.get(id.slot() as usize / CHUNK_SLOTS)?;
        Some(&chunk[id.slot() as usize % CHUNK_SLOTS])
    }
}

/// An entry that stays valid however the table grows.
#[derive(Clone)]
pub struct EntryRef {
    chunk: Arc<Chunk>,
    index: usize,
}

impl EntryRef {
    #[inline]
    pub fn get(&self) -> &Entry {
        &self.chunk[self.index]
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            life: AtomicU32::new(0),
            dialect: AtomicU16::new(0),
            wants_drain: AtomicBool::new(false),
            secure: AtomicBool::new(false),
            mailbox: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            outbox_bytes: Count::default(),
            bytes_in: Count::default(),
            bytes_out: Count::default(),
            messages_in: Count::default(),
            messages_out: Count::default(),
            unread: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            opened_us: Count::default(),
            route: AtomicU32::new(0),
            rtt_us: AtomicU32::new(0),
            topics: AtomicU32::new(0),
            peer_port: AtomicU16::new(0),
            local_port: AtomicU16::new(0),
            peer_ip: Address::default(),
        }
    }

    /// A new connection moves in.
    pub fn reset(&self, generation: Generation, peer: Endpoint, local_port: u16) {
        for count in [
            &self.outbox_bytes,
            &self.opened_us,
            &self.bytes_in,
            &self.bytes_out,
            &self.messages_in,
            &self.messages_out,
        ] {
            count.set(0);
        }
        self.mailbox.store(u64::from(generation.to_u32()) << MAILBOX_BITS, SeqCst);
        self.unread.store(u64::from(generation.to_u32()) << MAILBOX_BITS, SeqCst);
        self.begun.store(u64::from(generation.to_u32()) << u32::BITS, Relaxed);
        self.dropped.store(0, Relaxed);
        self.wants_drain.store(false, Relaxed);
        self.rtt_us.store(0, Relaxed);
        self.peer_ip.set(peer.ip());
        self.peer_port.store(peer.port(), Relaxed);
        self.local_port.store(local_port, Relaxed);
        self.set_life(generation, Life::None);
    }

    pub fn set_life(&self, generation: Generation, life: Life) {
        self.life.store(life_word(generation, life), SeqCst);
    }

    /// Open becomes closing, once, whoever asks first.
    pub fn begin_close(&self, id: ConnId) -> bool {
        self.step(id, Life::Open, Life::Closing)
    }

    /// A decision falls, once, whoever decides first.
    pub fn decide(&self, id: ConnId, awaited: Life) -> bool {
        self.step(id, awaited, Life::Accepted)
    }

    fn step(&self, id: ConnId, from: Life, to: Life) -> bool {
        let word = |life| life_word(id.generation(), life);
        self.life.compare_exchange(word(from), word(to), SeqCst, SeqCst).is_ok()
    }

    pub fn life_of(&self, id: ConnId) -> Option<Life> {
        let (generation, life) = self.life();
        (generation == id.generation() && life != Life::None).then_some(life)
    }

    fn life(&self) -> (Generation, Life) {
        let word = self.life.load(SeqCst);
        let life = match word & ((1 << LIFE_BITS) - 1) {
            1 => Life::Deciding,
            2 => Life::Http,
            3 => Life::Accepted,
            4 => Life::Open,
            5 => Life::Closing,
            6 => Life::Closed,
            _ => Life::None,
        };
        (Generation::from_u32(word >> LIFE_BITS), life)
    }

    pub fn set_dialect(&self, dialect: Dialect) {
        self.dialect.store(dialect as u16 + 1, Relaxed);
    }

    /// Compression was agreed on.
    pub fn set_deflate(&self) {
        self.dialect.fetch_or(HAS_DEFLATE, Relaxed);
    }

    pub fn has_deflate(&self) -> bool {
        self.dialect.load(Relaxed) & HAS_DEFLATE != 0
    }

    pub fn dialect(&self) -> Dialect {
        match self.dialect.load(Relaxed) & !HAS_DEFLATE {
            2 => Dialect::HyBi08,
            3 => Dialect::HyBi07,
            4 => Dialect::Hixie76,
            5 => Dialect::Hixie75,
            _ => Dialect::Rfc6455,
        }
    }

    /// Its messages are text, in frames without a length.
    #[inline]
    pub fn is_hixie(&self) -> bool {
        matches!(self.dialect.load(Relaxed) & !HAS_DEFLATE, 4 | 5)
    }

    #[inline]
    pub fn begun(&self) -> Begun {
        Begun(self.begun.load(Relaxed) as u32)
    }

    /// The connection goes on from what was begun, unless it is gone.
    #[inline]
    pub fn go_on(&self, id: ConnId, from: Begun, to: Begun) {
        let word = |begun: Begun| u64::from(id.generation().to_u32()) << u32::BITS | u64::from(begun.0);
        if from != to {
            let _ = self.begun.compare_exchange(word(from), word(to), Relaxed, Relaxed);
        }
    }

    /// All bytes on their way to the peer that the kernel does not have yet.
    #[inline]
    pub fn queued_bytes(&self) -> u64 {
        self.mailbox_bytes() + self.outbox_bytes.get()
    }

    #[inline]
    pub fn mailbox_bytes(&self) -> u64 {
        self.mailbox.load(SeqCst) & MAILBOX_BYTES_MAX
    }

    /// Counts bytes that go into the mailbox: how many wait there now, or `None` if the slot
    /// has passed to another connection.
    pub fn add_to_mailbox(&self, id: ConnId, len: u64) -> Option<u64> {
        self.change_mailbox(id, |bytes| bytes.saturating_add(len).min(MAILBOX_BYTES_MAX))
    }

    /// Counts a message that goes into the mailbox, if there is room for it.
    #[inline]
    pub fn take_room(&self, id: ConnId, len: usize, limits: &SendLimits) -> Room {
        // Added before it is compared, so that many threads together can't pass the limit.
        let Some(waiting) = self.add_to_mailbox(id, charge(len)) else { return Room::Gone };
        // The last head may stand over the limit, as with sends from callbacks.
        let most = limits.limit_bytes as u64 + charge(0);
        let queued = self.queued_within(waiting, most).saturating_sub(charge(0)) as usize;
        if queued > limits.limit_bytes {
            self.take_from_mailbox(id, charge(len));
            self.dropped.fetch_add(1, Relaxed);
            return Room::Full { is_first: !self.wants_drain.swap(true, SeqCst) };
        }
        if queued > limits.high_water_bytes {
            self.wants_drain.store(true, SeqCst);
            return Room::Taken(Sent::HighWater);
        }
        Room::Taken(Sent::Queued)
    }

    /// All that is queued, with so much in the mailbox. More than `most` only after other looks: what
    /// passes from the mailbox to the outbox counts in both for a moment.
    #[inline]
    pub fn queued_within(&self, waiting: u64, most: u64) -> u64 {
        let mut queued = waiting + self.outbox_bytes.get();
        for _ in 0..LOOKS_MAX {
            if queued <= most {
                break;
            }
            spin_loop();
            queued = self.queued_bytes();
        }
        queued
    }

    /// Takes bytes back out of the count.
    pub fn take_from_mailbox(&self, id: ConnId, len: u64) {
        self.change_mailbox(id, |bytes| bytes.saturating_sub(len));
    }

    /// What still waits for a connection that is over counts no more.
    pub fn forget_mailbox(&self, id: ConnId) {
        self.change_mailbox(id, |_| 0);
    }

    fn change_mailbox(&self, id: ConnId, change: impl Fn(u64) -> u64) -> Option<u64> {
        let generation = u64::from(id.generation().to_u32());
        let update = |word: u64| {
            let is_same = word >> MAILBOX_BITS == generation;
            is_same.then(|| generation << MAILBOX_BITS | change(word & MAILBOX_BYTES_MAX))
        };
        let before = self.mailbox.fetch_update(SeqCst, SeqCst, update).ok()?;
        Some(change(before & MAILBOX_BYTES_MAX))
    }

    /// Counts an event that the embedder can poll. True: it has more than `most` bytes of this
    /// connection now, and [`Entry::take_unread`] will tell when half of that is freed.
    pub fn add_unread(&self, id: ConnId, len: usize, most: usize) -> bool {
        let count = |bytes: u64, is_crowded| {
            let bytes = bytes.saturating_add(len as u64).min(MAILBOX_BYTES_MAX);
            (bytes, is_crowded || bytes > most as u64)
        };
        let (_, after) = self.change_unread(id, count);
        after > most as u64
    }

    /// Counts a freed event out. True: the shard has waited for it, to read on.
    pub fn take_unread(&self, id: ConnId, len: usize, most: usize) -> bool {
        let count = |bytes: u64, is_crowded| {
            let bytes = bytes.saturating_sub(len as u64);
            (bytes, is_crowded && bytes > most as u64 / 2)
        };
        let (was_crowded, after) = self.change_unread(id, count);
        was_crowded && after <= most as u64 / 2
    }

    /// Will [`Entry::take_unread`] tell when half of it is freed?
    pub fn has_too_much_unread(&self) -> bool {
        self.unread.load(SeqCst) & IS_CROWDED != 0
    }

    /// Was it crowded, and what is unread after the change? Nothing, if the slot has passed to
    /// another connection.
    fn change_unread(&self, id: ConnId, change: impl Fn(u64, bool) -> (u64, bool)) -> (bool, u64) {
        let generation = u64::from(id.generation().to_u32()) << MAILBOX_BITS;
        let parts = |word: u64| (word & MAILBOX_BYTES_MAX, word & IS_CROWDED != 0);
        let update = |word: u64| {
            let is_same = word & !(IS_CROWDED | MAILBOX_BYTES_MAX) == generation;
            let (bytes, is_crowded) = parts(word);
            let (bytes, is_crowded) = change(bytes, is_crowded);
            let crowded = if is_crowded { IS_CROWDED } else { 0 };
            is_same.then_some(generation | bytes | crowded)
        };
        let Ok(before) = self.unread.fetch_update(SeqCst, SeqCst, update) else { return (false, 0) };
        let (bytes, was_crowded) = parts(before);
        (was_crowded, change(bytes, was_crowded).0)
    }

    /// The other end of the socket: perhaps a proxy.
    pub fn peer(&self) -> Endpoint {
        match self.peer_ip.get() {
            Some(ip) => Endpoint::Internet(SocketAddr::new(ip, self.peer_port.load(Relaxed))),
            None => Endpoint::Unix,
        }
    }

    /// 0: it is a Unix socket.
    pub fn local_port(&self) -> u16 {
        self.local_port.load(Relaxed)
    }
}

/// The message that the embedder has begun and not ended: its kind, and the character that its
/// last fragment began. In one word: any thread may go on with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun(u32);

impl Begun {
    pub const NOTHING: Self = Self(0);

    /// Is this what may be said next? Then what is begun after it.
    #[inline]
    pub fn then(self, kind: Kind, data: &[u8], last: bool) -> Result<Self, Misuse> {
        if self == Self::NOTHING && last {
            let is_text = kind == Kind::Binary || simdutf8::basic::from_utf8(data).is_ok();
            return if is_text { Ok(Self::NOTHING) } else { Err(Misuse::NotUtf8) };
        }
        self.then_fragment(kind, data, last)
    }

    fn then_fragment(self, kind: Kind, data: &[u8], last: bool) -> Result<Self, Misuse> {
        let kind_bit = if kind == Kind::Text { TEXT_BEGUN } else { BINARY_BEGUN };
        if self != Self::NOTHING && self.0 & kind_bit == 0 {
            return Err(Misuse::State("the message that was begun has another kind"));
        }
        let mut utf8 = Utf8Stream::from_bits(self.0 & !(TEXT_BEGUN | BINARY_BEGUN));
        utf8.check(kind, data).map_err(|_| Misuse::NotUtf8)?;
        match last {
            false => Ok(Self(kind_bit | utf8.to_bits())),
            true if utf8.is_complete() => Ok(Self::NOTHING),
            true => Err(Misuse::NotUtf8),
        }
    }

    /// As [`Begun::then`], for a text that is checked already and ends its message.
    #[inline]
    pub fn then_checked(self, text: &[u8]) -> Result<Self, Misuse> {
        match self {
            Self::NOTHING => Ok(self),
            _ => self.then_fragment(Kind::Text, text, true),
        }
    }

    /// As [`Begun::then`], for a message that is checked already and always whole.
    #[inline]
    pub fn then_whole(self) -> Result<Self, Misuse> {
        match self {
            Self::NOTHING => Ok(self),
            _ => Err(Misuse::State("a message in fragments must be ended first")),
        }
    }
}

const TEXT_BEGUN: u32 = 1 << 30;
const BINARY_BEGUN: u32 = 1 << 31;

/// What a message in the mailbox counts: as much as it will in the outbox, at most.
pub fn charge(len: usize) -> u64 {
    len as u64 + HEAD_BYTES_MAX
}

fn life_word(generation: Generation, life: Life) -> u32 {
    generation.to_u32() << LIFE_BITS | life as u32
}

/// An IP address in two words: IPv4 in IPv6's clothes, as nobody has in IPv6. 0: none.
#[derive(Default)]
struct Address {
    high: Count,
    low: Count,
}

impl Address {
    fn set(&self, ip: Option<IpAddr>) {
        let bits = match ip {
            None => 0,
            Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().to_bits(),
            Some(IpAddr::V6(ip)) => ip.to_bits(),
        };
        self.high.set((bits >> 64) as u64);
        self.low.set(bits as u64);
    }

    fn get(&self) -> Option<IpAddr> {
        let bits = u128::from(self.high.get()) << 64 | u128::from(self.low.get());
        (bits != 0).then(|| Ipv6Addr::from_bits(bits).to_canonical())
    }
}

/// Of a frame of ours.
const HEAD_BYTES_MAX: u64 = 10;
/// How often to look again before anything is refused.
const LOOKS_MAX: usize = 8;
/// Beside the dialect.
const HAS_DEFLATE: u16 = 1 << 8;
const LIFE_BITS: u32 = 3;
const MAILBOX_BITS: u32 = 40;
/// Above the generation.
const IS_CROWDED: u64 = 1 << 63;
const MAILBOX_BYTES_MAX: u64 = (1 << MAILBOX_BITS) - 1;
/// Grown by so many connections at a time, so that little is set aside for nobody.
pub const CHUNK_SLOTS: usize = 256;
