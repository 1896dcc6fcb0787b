//! One connection: closing, pausing, what the embedder keeps with it, what is known of it.

use std::ffi::{c_char, c_void};
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use super::event::{fdx_conn, fdx_drop_fn};
use super::reentry::with_turn;
use super::server::{close_frame, fdx_server};
use super::status::*;
use super::{bytes, done, guard, handle, misused, struct_out, text};
use crate::driver::Endpoint;
use crate::engine::connection::{Release, UserData};
use crate::engine::table::Life;
use crate::id::ConnId;
use crate::protocol::Control;
use crate::protocol::frame::CONTROL_BYTES_MAX;

/// Begins the close handshake (RFC 6455, 7.1.2). [any] Messages queued before go first. No more
/// messages of the peer are delivered; FDX_EV_CLOSE comes when it has answered, or after
/// `timeout.close` with code 1006. `code` is 1000 to 1003, 1007 to 1014 or 3000 to 4999, or 0
/// for a close without one; `reason` has at most 123 bytes and `len` may be `FDX_NTS`. Hixie
/// has neither: the peer sees the connection end.
///
/// `FDX_OK`; `FDX_ALREADY`; `FDX_E_NO_CONN`; `FDX_E_STATE` before it is open; `FDX_E_INVALID_ARG`
/// for another code; `FDX_E_TOO_BIG`; `FDX_E_UTF8`; `FDX_E_STOPPED`.
///
/// # Safety
/// `server` is live; `reason` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_close(
    server: *mut fdx_server,
    conn: fdx_conn,
    code: u16,
    reason: *const c_char,
    len: usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, reason) = unsafe { (handle(server)?, text(reason, len)?) };
        let (conn, frame) = (ConnId::from_u64(conn), close_frame(code, reason)?);
        with_turn(handle, conn, |turn| handle.server.close(turn, conn, frame)).map(done).map_err(misused)
    })
}

/// Ends a connection at once, without a close, dropping what is queued. [any] FDX_EV_CLOSE follows
/// with code 1006 and `FDX_CLOSED_BY_HOST`. On a connection that is not open yet it ends the
/// handshake.
///
/// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_STOPPED`.
///
/// # Safety
/// `server` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_abort(server: *mut fdx_server, conn: fdx_conn) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, conn) = (unsafe { handle(server) }?, ConnId::from_u64(conn));
        with_turn(handle, conn, |turn| handle.server.abort(turn, conn)).map_err(misused)?;
        Ok(FDX_OK)
    })
}

/// Stops reading from a peer, so that TCP slows it down. [any] Messages read already may still
/// come. Meanwhile its pongs and its leaving go unnoticed; `ping.timeout` does not count.
///
/// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_CLOSING`; `FDX_E_STATE` before it is open; `FDX_E_STOPPED`.
///
/// # Safety
/// `server` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_pause(server: *mut fdx_server, conn: fdx_conn) -> fdx_status {
    // SAFETY: promised by the caller.
    unsafe { set_paused(server, conn, true) }
}

/// Reads again after `fdx_pause`. [any] Statuses as there.
///
/// # Safety
/// `server` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_resume(server: *mut fdx_server, conn: fdx_conn) -> fdx_status {
    // SAFETY: promised by the caller.
    unsafe { set_paused(server, conn, false) }
}

/// # Safety
/// `server` is live.
unsafe fn set_paused(server: *mut fdx_server, conn: fdx_conn, paused: bool) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, conn) = (unsafe { handle(server) }?, ConnId::from_u64(conn));
        with_turn(handle, conn, |turn| handle.server.set_paused(turn, conn, paused)).map_err(misused)?;
        Ok(FDX_OK)
    })
}

/// Sends a ping of your own with at most 125 bytes. [any] Its pong comes as FDX_EV_PONG with the
/// same bytes. The library pings by itself, too (`ping.interval`).
///
/// `FDX_OK`; `FDX_E_TOO_BIG`; `FDX_E_UNSUPPORTED` on a Hixie connection; `FDX_E_FULL`;
/// `FDX_E_NO_CONN`; `FDX_E_CLOSING`; `FDX_E_STATE`; `FDX_E_STOPPED`.
///
/// # Safety
/// `server` is live; `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_ping(
    server: *mut fdx_server,
    conn: fdx_conn,
    data: *const c_void,
    len: usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, payload) = unsafe { (handle(server)?, bytes(data, len)?) };
        if payload.len() > CONTROL_BYTES_MAX {
            return Err(FDX_E_TOO_BIG);
        }
        let (conn, payload) = (ConnId::from_u64(conn), Control::new(payload));
        with_turn(handle, conn, |turn| handle.server.ping(turn, conn, payload)).map_err(misused)?;
        Ok(FDX_OK)
    })
}

/// Keeps a pointer of yours with a connection: later events carry it as `conn_data`. [any] From
/// FDX_EV_UPGRADE on. `drop`, if not NULL, is called with it exactly once, on a thread of the
/// library and never inside a call of yours: when it is replaced, or after CLOSE. With "dispatch" =
/// "queue" it may be called by `fdx_batch_free`, when no event carries the pointer any more.
///
/// `FDX_OK`; `FDX_E_NO_CONN` and `FDX_E_STOPPED`: the pointer stays yours, `drop` is not called.
///
/// # Safety
/// `server` is live; `drop` can be called with `data` from any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_conn_set_data(
    server: *mut fdx_server,
    conn: fdx_conn,
    data: *mut c_void,
    drop: fdx_drop_fn,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, conn) = (unsafe { handle(server) }?, ConnId::from_u64(conn));
        let release = drop.map(|drop| Box::new(HostData { data, drop }) as Box<dyn Release>);
        let kept = UserData { word: data.expose_provenance(), release };
        with_turn(handle, conn, |turn| handle.server.set_data(turn, conn, kept))
            // Dropping the box runs nothing: only `release` does.
            .map_err(|(misuse, _)| misused(misuse))?;
        Ok(FDX_OK)
    })
}

struct HostData {
    data: *mut c_void,
    drop: unsafe extern "C-unwind" fn(*mut c_void),
}

// SAFETY: the embedder promised that `drop` can be called from any thread.
unsafe impl Send for HostData {}

impl Release for HostData {
    fn release(self: Box<Self>) {
        // SAFETY: the embedder gave this function for this pointer, and `release` comes once.
        unsafe { (self.drop)(self.data) };
    }
}

/// The connection is encrypted.
pub const FDX_CI_TLS: u32 = 1;
/// The connection is compressed.
pub const FDX_CI_DEFLATE: u32 = 2;

/// What is known of a connection. Set `struct_size` to `sizeof(fdx_conn_info)`.
#[repr(C)]
pub struct fdx_conn_info {
    pub struct_size: u32,
    /// The number given to `fdx_config_route`.
    pub route: u32,
    /// When it opened, on the clock of `fdx_event.time_us`.
    pub opened_us: u64,
    /// On the wire, heads and handshake included.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub msgs_in: u64,
    pub msgs_out: u64,
    /// Not yet taken by the kernel.
    pub queued_bytes: u64,
    /// Messages refused with `FDX_E_FULL`.
    pub dropped: u64,
    /// The last round trip of a ping, 0 if none was measured yet.
    pub rtt_us: u32,
    pub remote_port: u16,
    pub local_port: u16,
    /// The dialect: 13, 8, 7, 76 (Hixie-76) or 75 (Hixie-75).
    pub version: u16,
    /// 11
    pub http: u16,
    /// `FDX_CI_*`
    pub flags: u32,
    /// The client's address, ended by NUL: what a trusted proxy says (`proxy.trusted`), or
    /// else `peer_addr`.
    pub remote_addr: [c_char; 64],
    /// The address of the socket's other end; "unix" for a Unix socket.
    pub peer_addr: [c_char; 64],
    pub subprotocol: [c_char; 64],
}

/// What is known of a connection, from FDX_EV_UPGRADE until the callback of FDX_EV_CLOSE has
/// returned. [any]
///
/// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_INVALID_ARG` for NULL or a `struct_size` below 8.
///
/// # Safety
/// `server` is live; `info` has its `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_conn_get_info(
    server: *mut fdx_server,
    conn: fdx_conn,
    info: *mut fdx_conn_info,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, conn) = (unsafe { handle(server) }?, ConnId::from_u64(conn));
        let (entry, life) = handle.server.find(conn).map_err(misused)?;
        let entry = entry.get();
        let is_http = life == Life::Http;
        let peer = entry.peer();
        let remote = handle.server.remote(conn).map_or(peer, Endpoint::Internet);
        let value = fdx_conn_info {
            struct_size: 0,
            route: entry.route.load(Relaxed),
            opened_us: entry.opened_us.get(),
            bytes_in: entry.bytes_in.get(),
            bytes_out: entry.bytes_out.get(),
            msgs_in: entry.messages_in.get(),
            msgs_out: entry.messages_out.get(),
            queued_bytes: entry.queued_bytes(),
            dropped: entry.dropped.load(Relaxed),
            rtt_us: entry.rtt_us.load(Relaxed),
            remote_port: remote.port(),
            local_port: entry.local_port(),
            version: if is_http { 0 } else { entry.dialect().number() },
            http: 11,
            flags: {
                let tls = if entry.secure.load(Relaxed) { FDX_CI_TLS } else { 0 };
                tls | if entry.has_deflate() { FDX_CI_DEFLATE } else { 0 }
            },
            remote_addr: chars(&remote.to_string()),
            peer_addr: chars(&peer.to_string()),
            subprotocol: chars(&handle.server.protocol(conn)),
        };
        // A slot that passed to another connection while it was read is not this connection.
        handle.server.find(conn).map_err(misused)?;
        // SAFETY: promised by the caller; the fields above leave no padding.
        unsafe { struct_out(value, info) }
    })
}

/// Lists the open connections of a route (all with `UINT32_MAX`) into `out`, at most `cap`. [any]
/// `*needed` is how many there are. A list is old when it is there: use it for sends, not for
/// bookkeeping.
///
/// `FDX_OK`; `FDX_E_BUFFER` if not all fitted (the first `cap` are there); `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `out` has room for `cap`; `needed` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_conns(
    server: *mut fdx_server,
    route: u32,
    out: *mut fdx_conn,
    cap: usize,
    needed: *mut usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        if out.is_null() && cap > 0 {
            return Err(FDX_E_INVALID_ARG);
        }
        let mut count = 0;
        handle.server.each_open(|conn, entry| {
            if route == u32::MAX || entry.route.load(Relaxed) == route {
                if count < cap {
                    // SAFETY: promised by the caller: room for `cap`.
                    unsafe { out.add(count).write(conn.to_u64()) };
                }
                count += 1;
            }
        });
        if !needed.is_null() {
            // SAFETY: promised by the caller.
            unsafe { needed.write(count) };
        }
        if count <= cap { Ok(FDX_OK) } else { Err(FDX_E_BUFFER) }
    })
}

/// A string for a fixed field, cut between two characters if need be, ended by NUL.
fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut cut = String::new();
    for character in text.chars().take_while(|&character| character != '\0') {
        if cut.len() + character.len_utf8() >= N {
            break;
        }
        let _ = cut.write_char(character);
    }
    let mut chars = [0; N];
    for (to, from) in chars.iter_mut().zip(cut.bytes()) {
        *to = from as c_char;
    }
    chars
}
