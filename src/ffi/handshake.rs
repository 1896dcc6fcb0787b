//! Deciding a handshake, reading its request, and answering plain requests.

use std::ffi::{c_char, c_void};

use super::event::fdx_conn;
use super::reentry::with_turn;
use super::server::fdx_server;
use super::status::*;
use super::{bytes, c_text, guard, handle, misused, string_out, text};
use crate::engine::table::Life;
use crate::id::ConnId;
use crate::server::Answer;

/// Agrees to a handshake that FDX_EV_UPGRADE announced. [any] Now or later, on any thread, until
/// `timeout.handshake`. `subprotocol` must be one that the client offers; "" is none, NULL lets
/// the option "protocols" choose. `headers` are lines "Name: value" each ended by CR LF, added to
/// the answer; `len` may be `FDX_NTS`. FDX_EV_OPEN follows.
///
/// `FDX_OK`; `FDX_E_NO_CONN` if the client has gone or the time is over; `FDX_E_STATE` if it was
/// decided already; `FDX_E_INVALID_ARG` for a subprotocol that was not offered, or headers that
/// are not whole lines or are the server's own; `FDX_E_TOO_BIG` for headers over 64 KiB;
/// `FDX_E_UTF8`; `FDX_E_NOMEM`.
///
/// # Safety
/// `server` is live; `subprotocol` is null or ends with NUL; `headers` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_accept(
    server: *mut fdx_server,
    conn: fdx_conn,
    subprotocol: *const c_char,
    headers: *const c_char,
    len: usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, headers) = unsafe { (handle(server)?, text(headers, len)?) };
        let protocol = match subprotocol.is_null() {
            true => None,
            // SAFETY: promised by the caller.
            false => Some(unsafe { c_text(subprotocol) }?),
        };
        let conn = ConnId::from_u64(conn);
        with_turn(handle, conn, |turn| handle.server.accept(turn, conn, protocol, headers))
            .map_err(misused)?;
        Ok(FDX_OK)
    })
}

/// Refuses a handshake with an HTTP status (300 to 599), headers and a body. [any] As
/// `fdx_accept`; no event follows. Both lengths may be `FDX_NTS`.
///
/// `FDX_OK`; `FDX_E_NO_CONN`; `FDX_E_STATE`; `FDX_E_INVALID_ARG`; `FDX_E_TOO_BIG`; `FDX_E_UTF8`;
/// `FDX_E_NOMEM` for the body: nothing is decided then.
///
/// # Safety
/// `server` is live; `headers` has `hlen` bytes and `body` `blen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_reject(
    server: *mut fdx_server,
    conn: fdx_conn,
    status: u16,
    headers: *const c_char,
    hlen: usize,
    body: *const c_void,
    blen: usize,
) -> fdx_status {
    guard(|| {
        if !(300..=599).contains(&status) {
            return Err(FDX_E_INVALID_ARG);
        }
        // SAFETY: promised by the caller.
        let (handle, headers, body) = unsafe { (handle(server)?, text(headers, hlen)?, bytes(body, blen)?) };
        answer(handle, conn, Life::Deciding, &Answer { status, headers, body })
    })
}

/// Replies to a plain request that FDX_EV_HTTP announced (`conn` is its reply token) with a
/// status (200 to 599), headers and a body. [any] Content-Length and Connection are set by the
/// server; a HEAD request gets no body. The client may ask again on the same connection, which
/// is another request under another number. Both lengths may be `FDX_NTS`.
///
/// `FDX_OK`; `FDX_E_NO_CONN` if the client has gone or the time is over; `FDX_E_STATE`;
/// `FDX_E_INVALID_ARG`; `FDX_E_TOO_BIG`; `FDX_E_UTF8`; `FDX_E_NOMEM`: as `fdx_reject`.
///
/// # Safety
/// `server` is live; `headers` has `hlen` bytes and `body` `blen`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_http_reply(
    server: *mut fdx_server,
    conn: fdx_conn,
    status: u16,
    headers: *const c_char,
    hlen: usize,
    body: *const c_void,
    blen: usize,
) -> fdx_status {
    guard(|| {
        if !(200..=599).contains(&status) {
            return Err(FDX_E_INVALID_ARG);
        }
        // SAFETY: promised by the caller.
        let (handle, headers, body) = unsafe { (handle(server)?, text(headers, hlen)?, bytes(body, blen)?) };
        answer(handle, conn, Life::Http, &Answer { status, headers, body })
    })
}

fn answer(
    handle: &fdx_server,
    conn: fdx_conn,
    awaited: Life,
    answer: &Answer<'_>,
) -> Result<fdx_status, fdx_status> {
    let conn = ConnId::from_u64(conn);
    with_turn(handle, conn, |turn| handle.server.answer(turn, conn, awaited, answer)).map_err(misused)?;
    Ok(FDX_OK)
}

/// A part of a connection's request, from FDX_EV_UPGRADE (or FDX_EV_HTTP) until the callback of
/// FDX_EV_OPEN has returned, or the batches with these events are freed. [any] `name` is ":method", ":path", ":query", ":version", "?key" of
/// the query (decoded), ";name" of a cookie, "/param" of the route's pattern (decoded; "/" and
/// "*" for what a star took), with TLS ":tls_version" ("1.2" or "1.3") and ":tls_subject" (of the
/// client's certificate, if it has shown one, like "CN=ann, O=Example"), or a header's name in any case (several lines are joined with a
/// comma). At most `cap` bytes with the NUL go to `buf`; `*needed` is set always.
///
/// `FDX_OK`; `FDX_E_NOT_FOUND`; `FDX_E_BUFFER`; `FDX_E_NO_CONN`; `FDX_E_STATE` after OPEN;
/// `FDX_E_INVALID_ARG`; `FDX_E_UTF8`.
///
/// # Safety
/// `server` is live; `name` ends with NUL; `buf` has room for `cap`; `needed` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_request_get(
    server: *mut fdx_server,
    conn: fdx_conn,
    name: *const c_char,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, name) = unsafe { (handle(server)?, c_text(name)?) };
        let pending = handle.request(ConnId::from_u64(conn))?;
        let value = pending.get(name).ok_or(FDX_E_NOT_FOUND)?;
        // SAFETY: promised by the caller.
        unsafe { string_out(&value, buf, cap, needed) }
    })
}

/// All header lines of a connection's request as "Name: value" each ended by CR LF; when and how
/// as `fdx_request_get`. [any]
///
/// # Safety
/// `server` is live; `buf` has room for `cap`; `needed` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_request_headers(
    server: *mut fdx_server,
    conn: fdx_conn,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        let pending = handle.request(ConnId::from_u64(conn))?;
        // SAFETY: promised by the caller.
        unsafe { string_out(&pending.request.header_lines(), buf, cap, needed) }
    })
}
