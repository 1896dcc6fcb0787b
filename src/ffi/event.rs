//! Events: one record for everything that is told, and who calls the embedder with it.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use log::warn;

use super::config::RouteHandlers;
use super::reentry;
use super::server::fdx_server;
use super::topic::{FDX_TOPIC_JOINED, FDX_TOPIC_LEFT};
use crate::driver::mio::coarse_clock;
use crate::engine::event::EventKind;
use crate::engine::turn::{EventView, Handler, Turn};
use crate::id::Time;
use crate::protocol::Kind;

/// A connection. 0 is never one; below 2^53; a stale one is an error code and never a crash.
/// Don't take it apart.
pub type fdx_conn = u64;

/// Called exactly once, after the last use of `user_data`, under no lock.
pub type fdx_drop_fn = Option<unsafe extern "C-unwind" fn(user_data: *mut c_void)>;

/// A text message.
pub const FDX_TEXT: u32 = 1;
/// A binary message. A Hixie connection has none: `FDX_E_UNSUPPORTED`.
pub const FDX_BINARY: u32 = 2;

/// Compress the message however short it is, where compression was agreed on; see `fdx_send`.
pub const FDX_F_COMPRESS: u32 = 0x01;
/// Don't compress it: for secrets beside text that somebody else has chosen (CRIME, BREACH).
pub const FDX_F_NO_COMPRESS: u32 = 0x02;
/// A fragment of the message follows; see `fdx_send`.
pub const FDX_F_MORE: u32 = 0x04;
/// With `fdx_publish`: not back to `sender`.
pub const FDX_F_SKIP_SENDER: u32 = 0x20;

/// A handshake waits for `fdx_accept` or `fdx_reject`. Only with `on_upgrade`, or `FDX_ROUTE_UPGRADE`.
pub const FDX_EV_UPGRADE: u32 = 1;
/// A connection is open. `data` is the negotiated subprotocol.
pub const FDX_EV_OPEN: u32 = 2;
/// A whole message. `FDX_EVF_BINARY` tells binary from text; text is valid UTF-8.
pub const FDX_EV_MESSAGE: u32 = 3;
/// A piece of a message, as it came, instead of `FDX_EV_MESSAGE` on routes with `FDX_ROUTE_STREAM`.
/// `FDX_EVF_FIN` is on the last, which may be empty. Text is valid UTF-8 as a whole; a piece may
/// end inside a character, and what was wrong with it closes the connection before the last.
pub const FDX_EV_FRAGMENT: u32 = 4;
/// No more than `send.low_water` is queued again. `arg` is what is.
pub const FDX_EV_DRAIN: u32 = 5;
/// The connection has ended; nothing follows. `code` is the peer's close code (1005 if its close
/// had none, 1006 if no close came) or, when we closed for a violation, ours; `data` is the
/// reason, `arg` one of `FDX_CLOSED_BY_*`.
pub const FDX_EV_CLOSE: u32 = 6;
/// The peer's ping, answered already. `data` is its payload.
pub const FDX_EV_PING: u32 = 7;
/// A pong. `arg` is the round trip in microseconds if it answers a ping of the library's own.
pub const FDX_EV_PONG: u32 = 8;
/// A plain HTTP request waits for `fdx_http_reply`; `conn` is the reply token, a number for this
/// request alone, and `data` its body, of at most `max.body` bytes. Only on routes with
/// `FDX_ROUTE_HTTP`.
pub const FDX_EV_HTTP: u32 = 9;
/// A connection has joined or left a topic; only on routes with `FDX_ROUTE_TOPIC`. `data` is the
/// topic, `code` is `FDX_TOPIC_JOINED` or `FDX_TOPIC_LEFT`, and `arg` how many of this process are in
/// it then. What a connection is still in at its end it leaves just before FDX_EV_CLOSE.
pub const FDX_EV_TOPIC: u32 = 10;
/// How it stands between this server and others, with a backplane. `code` is `FDX_BP_UP`,
/// `FDX_BP_DOWN` or `FDX_BP_GAP`, `data` says why, for people.
pub const FDX_EV_BACKPLANE: u32 = 11;
/// A listener has trouble, for example no file descriptors. `data` says what. It goes on by
/// itself.
pub const FDX_EV_LISTENER: u32 = 12;
/// A bug of ours was contained. `data` says what it cost.
pub const FDX_EV_FAULT: u32 = 13;
/// The last event of the server, and of each queue; only THREAD_STOP comes after it.
pub const FDX_EV_STOPPED: u32 = 14;
/// The first event on a thread of the library that will call you: a place to attach. Not polled.
pub const FDX_EV_THREAD_START: u32 = 15;
/// Its last. Not polled.
pub const FDX_EV_THREAD_STOP: u32 = 16;

/// The message ends here.
pub const FDX_EVF_FIN: u32 = 0x1;
/// The message is binary, not text.
pub const FDX_EVF_BINARY: u32 = 0x2;

/// The peer closed.
pub const FDX_CLOSED_BY_PEER: u32 = 1;
/// You closed or aborted.
pub const FDX_CLOSED_BY_HOST: u32 = 2;
/// The peer stalled, did not answer a ping, or was idle for too long.
pub const FDX_CLOSED_BY_TIMEOUT: u32 = 3;
/// A limit: `max.message`, `send.limit`.
pub const FDX_CLOSED_BY_LIMIT: u32 = 4;
/// The peer broke the protocol.
pub const FDX_CLOSED_BY_PROTOCOL: u32 = 5;
/// The TCP connection ended without a close.
pub const FDX_CLOSED_BY_NETWORK: u32 = 6;
/// The server is stopping.
pub const FDX_CLOSED_BY_SHUTDOWN: u32 = 7;

/// `code` of FDX_EV_BACKPLANE: what is published on one server reaches the others.
pub const FDX_BP_UP: i32 = 1;
/// It does not, until the next UP: publishes reach this server's subscribers, and wait for the
/// others (up to "backplane.limit").
pub const FDX_BP_DOWN: i32 = 2;
/// Between other servers and this one messages may have been lost until now: what your clients
/// know of the others' doings may have to be asked for anew. From here on nothing is missing until
/// the next GAP or DOWN.
pub const FDX_BP_GAP: i32 = 3;

/// One event; 64 bytes on 64-bit systems. Per connection they come as
/// `UPGRADE? OPEN (MESSAGE | FRAGMENT | PING | PONG | DRAIN | TOPIC)* CLOSE`: each OPEN has exactly
/// one CLOSE, nothing comes after it, and two events of one connection never run at once. Ignore
/// types you don't know.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct fdx_event {
    /// The stride of arrays of these.
    pub struct_size: u16,
    /// `FDX_EV_*`
    pub r#type: u16,
    /// `FDX_EVF_*`
    pub flags: u32,
    /// 0 for the server's own events.
    pub conn: fdx_conn,
    /// What `fdx_conn_set_data` stored.
    pub conn_data: *mut c_void,
    /// Not ended by NUL; valid until the callback returns or the batch is freed.
    pub data: *const u8,
    pub len: usize,
    /// The number given to `fdx_config_route`.
    pub route: u32,
    pub code: i32,
    pub arg: u64,
    /// Microseconds on a monotonic clock: when the bytes arrived.
    pub time_us: u64,
}

/// Receives an event, on a thread of the library. It may call any function of the library. While
/// it runs the other connections of its thread wait; over 100 ms it is a warning in the log. It
/// must return: a C++ exception, a .NET exception or a longjmp out of it ends the process.
pub type fdx_event_fn = Option<
    unsafe extern "C-unwind" fn(user_data: *mut c_void, server: *mut fdx_server, event: *const fdx_event),
>;

/// Calls the embedder with what a shard delivers.
pub struct Deliverer {
    /// Keeps the handle alive for as long as callbacks are given it.
    owner: Arc<fdx_server>,
    /// When the last callback returned.
    returned_at: Time,
}

impl Handler for Deliverer {
    #[inline(always)]
    fn handle(&mut self, turn: &mut Turn<'_>, view: &EventView<'_>) {
        let RouteHandlers { handlers, .. } = &*self.owner.routes[view.route];
        let callback = match view.kind {
            EventKind::Message(_) | EventKind::Fragment { .. } => handlers.on_message,
            EventKind::Upgrade => handlers.on_upgrade,
            EventKind::Open => handlers.on_open,
            EventKind::Close { .. } => handlers.on_close,
            EventKind::Drain => handlers.on_drain,
            _ => handlers.on_other,
        };
        let Some(callback) = callback else { return };
        let event = event_of(&self.owner, view);
        let server = Arc::as_ptr(&self.owner).cast_mut();
        reentry::during_callback(server, turn, || {
            // SAFETY: the embedder gave this function for these arguments, and promised that it
            // returns; `event` and the payload it points to live until then.
            unsafe { callback(handlers.user_data, server, &event) };
        });
        // Not before the turn began.
        let since = self.returned_at.max(view.time);
        self.returned_at = coarse_clock();
        if self.returned_at > since.after(SLOW_CALLBACK) {
            tell_slow(&event, self.returned_at.since(since));
        }
    }
}

impl Deliverer {
    pub fn new(owner: Arc<fdx_server>) -> Self {
        Self { owner, returned_at: Time::default() }
    }
}

#[inline(always)]
pub(super) fn event_of(owner: &fdx_server, view: &EventView<'_>) -> fdx_event {
    let (kind, flags, code, arg) = match view.kind {
        EventKind::Message(kind) => (FDX_EV_MESSAGE, message_flags(kind, true), 0, 0),
        EventKind::Fragment { kind, fin } => (FDX_EV_FRAGMENT, message_flags(kind, fin), 0, 0),
        EventKind::Upgrade => (FDX_EV_UPGRADE, 0, 0, 0),
        EventKind::Open => (FDX_EV_OPEN, 0, 0, 0),
        EventKind::Drain => {
            let queued = owner.server.find(view.conn).map_or(0, |(entry, _)| entry.get().queued_bytes());
            (FDX_EV_DRAIN, 0, 0, queued)
        }
        EventKind::Close { code, by } => (FDX_EV_CLOSE, 0, i32::from(code.0), by as u64),
        EventKind::Ping => (FDX_EV_PING, 0, 0, 0),
        EventKind::Pong { rtt_us } => (FDX_EV_PONG, 0, 0, rtt_us),
        EventKind::Http => (FDX_EV_HTTP, 0, 0, 0),
        EventKind::Topic { joined, subscribers } => {
            (FDX_EV_TOPIC, 0, if joined { FDX_TOPIC_JOINED } else { FDX_TOPIC_LEFT }, subscribers)
        }
        EventKind::Backplane(reach) => (FDX_EV_BACKPLANE, 0, reach as i32, 0),
        EventKind::Listener => (FDX_EV_LISTENER, 0, 0, 0),
        EventKind::Fault => (FDX_EV_FAULT, 0, 0, 0),
        EventKind::Stopped => (FDX_EV_STOPPED, 0, 0, 0),
        EventKind::ThreadStart => (FDX_EV_THREAD_START, 0, 0, 0),
        EventKind::ThreadStop => (FDX_EV_THREAD_STOP, 0, 0, 0),
    };
    fdx_event {
        struct_size: size_of::<fdx_event>() as u16,
        r#type: kind as u16,
        flags,
        conn: view.conn.to_u64(),
        conn_data: std::ptr::with_exposed_provenance_mut(view.word),
        data: view.payload.as_ptr(),
        len: view.payload.len(),
        route: view.route_number,
        code,
        arg,
        time_us: view.time.0,
    }
}

#[cold]
fn tell_slow(event: &fdx_event, took: Duration) {
    let took_ms = took.as_millis();
    let name = match u32::from(event.r#type) {
        FDX_EV_UPGRADE => "UPGRADE",
        FDX_EV_OPEN => "OPEN",
        FDX_EV_MESSAGE => "MESSAGE",
        FDX_EV_FRAGMENT => "FRAGMENT",
        FDX_EV_DRAIN => "DRAIN",
        FDX_EV_CLOSE => "CLOSE",
        FDX_EV_PING => "PING",
        FDX_EV_PONG => "PONG",
        FDX_EV_HTTP => "HTTP",
        FDX_EV_TOPIC => "TOPIC",
        FDX_EV_BACKPLANE => "BACKPLANE",
        FDX_EV_LISTENER => "LISTENER",
        FDX_EV_FAULT => "FAULT",
        FDX_EV_STOPPED => "STOPPED",
        FDX_EV_THREAD_START => "THREAD_START",
        _ => "THREAD_STOP",
    };
    warn!(target: "fullduplex::callback", conn = event.conn;
        "the callback of FDX_EV_{name} took {took_ms} ms; every connection of its thread waited");
}

fn message_flags(kind: Kind, fin: bool) -> u32 {
    let binary = if kind == Kind::Binary { FDX_EVF_BINARY } else { 0 };
    let fin = if fin { FDX_EVF_FIN } else { 0 };
    binary | fin
}

/// A callback that takes longer is worth a line in the log.
const SLOW_CALLBACK: Duration = Duration::from_millis(100);

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    #[test]
    fn an_event_has_64_bytes() {
        assert_eq!(size_of::<super::fdx_event>(), 64);
    }
}
