//! Sending: it copies before it returns and never blocks.

use std::ffi::c_void;
use std::sync::Arc;

use super::event::{FDX_BINARY, FDX_F_COMPRESS, FDX_F_MORE, FDX_F_NO_COMPRESS, FDX_TEXT, fdx_conn};
use super::reentry::with_turn;
use super::server::fdx_server;
use super::status::*;
use super::{NTS, bytes, guard, guard_or, handle, misused};
use crate::engine::turn::{Message, Misuse, Sent};
use crate::id::ConnId;
use crate::protocol::Kind;
use crate::protocol::deflate::Wish;
use crate::server::calls::Submission;

/// Sends one message, or a fragment of one. [any] The bytes are copied before this returns, and
/// it never blocks. Order per calling thread and connection is kept. `kind` is `FDX_TEXT` or
/// `FDX_BINARY`, `flags` a sum of `FDX_F_*`.
///
/// With `FDX_F_MORE` the message goes on: the next send to this connection continues it, with the
/// same kind, and the first without the flag ends it (it may be empty). So a message of any
/// length passes through little memory. A fragment of text may end inside a character.
///
/// On a compressed connection (option `deflate`) a message from `deflate.min_size` on is compressed;
/// `FDX_F_COMPRESS` compresses a shorter one, too, and `FDX_F_NO_COMPRESS` none. What would not
/// become smaller goes out as it is. In fragments the first decides for all. Elsewhere both flags
/// mean nothing.
///
/// `FDX_OK`; `FDX_HIGH_WATER`: queued, and more than `send.high_water` waits for this peer, so
/// please wait for FDX_EV_DRAIN; `FDX_E_FULL`: `send.limit` is reached, NOT queued, and
/// `send.full` decides whether the connection closes; `FDX_E_NO_CONN` if it is gone;
/// `FDX_E_CLOSING` after its close has begun; `FDX_E_STATE` before it is open, or for another kind
/// than the message has that was begun; `FDX_E_UTF8` for a text that is none; `FDX_E_TOO_BIG` for more than `send.limit` at once; `FDX_E_UNSUPPORTED` for
/// binary on a Hixie connection; `FDX_E_NOMEM`; `FDX_E_STOPPED`; `FDX_E_INVALID_ARG`, also for both
/// flags about compression.
///
/// # Safety
/// `server` is live; `data` points to `len` readable bytes, or is null with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_send(
    server: *mut fdx_server,
    conn: fdx_conn,
    kind: u32,
    data: *const c_void,
    len: usize,
    flags: u32,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, data) = unsafe { (handle(server)?, bytes(data, len)?) };
        let wish = wish_of(flags & !FDX_F_MORE)?;
        let (kind, conn, last) = (kind_of(kind)?, ConnId::from_u64(conn), flags & FDX_F_MORE == 0);
        let status = |sent: Result<Sent, Misuse>| sent.map(sent_status).map_err(misused);
        with_turn(handle, conn, |turn| match turn {
            Some(turn) => status(turn.send_as(conn, kind, data, last, wish)),
            None => status(handle.server.send(conn, kind, data, last, wish)),
        })
    })
}

/// A message for many connections: immutable, reference-counted, copied, checked and compressed
/// once.
pub struct fdx_msg {
    pub(super) message: Arc<Message>,
}

/// Makes a message. [any] The bytes are copied. It has one reference: give it back with
/// `fdx_msg_unref`. NULL for an unknown kind, a text that is not UTF-8, a NULL with a length, or
/// when there is no memory.
///
/// # Safety
/// `data` points to `len` readable bytes, or is null with `len` 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_msg_new(kind: u32, data: *const c_void, len: usize) -> *mut fdx_msg {
    guard_or(std::ptr::null_mut(), || {
        // SAFETY: promised by the caller.
        let Ok(data) = (unsafe { bytes(data, len) }) else { return std::ptr::null_mut() };
        let Ok(kind) = kind_of(kind) else { return std::ptr::null_mut() };
        match Message::new(kind, data) {
            Ok(message) => Arc::into_raw(Arc::new(fdx_msg { message: Arc::new(message) })).cast_mut(),
            Err(_) => std::ptr::null_mut(),
        }
    })
}

/// One reference more. [any] Returns `msg`; NULL is accepted.
///
/// # Safety
/// `msg` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_msg_ref(msg: *mut fdx_msg) -> *mut fdx_msg {
    if !msg.is_null() {
        // SAFETY: `fdx_msg_new` made it by `into_raw`, and the caller has a reference.
        unsafe { Arc::increment_strong_count(msg.cast_const()) };
    }
    msg
}

/// One reference less. [any] Sends under way keep what they need. NULL is accepted.
///
/// # Safety
/// `msg` is null or live, and the caller has a reference to give back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_msg_unref(msg: *mut fdx_msg) {
    guard_or((), || {
        if !msg.is_null() {
            // SAFETY: as above.
            unsafe { Arc::decrement_strong_count(msg.cast_const()) };
        }
    });
}

/// Sends one message to `count` connections, sharing its bytes. [any] `results`, if not NULL, gets
/// each one's status, as of `fdx_send`; `FDX_E_STATE` while a message in fragments is under way to
/// it. `flags` is 0, `FDX_F_COMPRESS` or `FDX_F_NO_COMPRESS`. The message is compressed at most once for
/// each size of window that was agreed on, however many connections get it.
///
/// Returns the worst of them: the lowest if any is negative, else the highest; `FDX_OK` for no
/// connection; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` and `msg` are live; `conns` has `count` elements; `results` is null or has room for
/// `count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_send_msg(
    server: *mut fdx_server,
    conns: *const fdx_conn,
    count: usize,
    msg: *mut fdx_msg,
    flags: u32,
    results: *mut fdx_status,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, msg) = unsafe { (handle(server)?, msg.as_ref().ok_or(FDX_E_INVALID_ARG)?) };
        let wish = wish_of(flags)?;
        if conns.is_null() && count > 0 {
            return Err(FDX_E_INVALID_ARG);
        }
        let mut worst = FDX_OK;
        for index in 0..count {
            // SAFETY: promised by the caller: `count` elements.
            let conn = ConnId::from_u64(unsafe { conns.add(index).read() });
            let sent = with_turn(handle, conn, |turn| match turn {
                Some(turn) => turn.send_message(conn, &msg.message, wish),
                None => handle.server.send_message(conn, &msg.message, wish),
            });
            let status = sent.map_or_else(misused, sent_status);
            if !results.is_null() {
                // SAFETY: promised by the caller: room for `count`.
                unsafe { results.add(index).write(status) };
            }
            worst = worse(worst, status);
        }
        Ok(worst)
    })
}

/// Sends many messages in one call, with one copy and one wake for all: what a loop that polls has
/// gathered. [any] `records` holds `len` bytes of records one after the other, each at a multiple of
/// 8 from the beginning:
///
/// `{ uint64_t conn; uint32_t kind | flags << 8; uint32_t len; uint8_t payload[len]; padding }`
///
/// in the byte order of the machine; the last needs no padding. Each counts as an `fdx_send`, in their
/// order. The first `results_cap` of them write their status to `results`, which may be NULL.
///
/// Returns the worst of them, as `fdx_send_msg` does; `FDX_E_INVALID_ARG` for bytes that are no
/// records: then nothing was sent and no result was written.
///
/// # Safety
/// `server` is live; `records` points to `len` readable bytes, or is null with `len` 0; `results` is
/// null or has room for `results_cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_submit(
    server: *mut fdx_server,
    records: *const c_void,
    len: usize,
    results: *mut fdx_status,
    results_cap: usize,
) -> fdx_status {
    guard(|| {
        if len == NTS {
            return Err(FDX_E_INVALID_ARG);
        }
        // SAFETY: promised by the caller.
        let (handle, bytes) = unsafe { (handle(server)?, bytes(records, len)?) };
        if !Records(bytes).all(|record| record.is_some()) {
            return Err(FDX_E_INVALID_ARG);
        }
        let results_cap = if results.is_null() { 0 } else { results_cap };
        let mut submission = handle.server.submission();
        let mut worst = FDX_OK;
        for (index, record) in Records(bytes).flatten().enumerate() {
            let status = submit(handle, &mut submission, &record).unwrap_or_else(|status| status);
            if index < results_cap {
                // SAFETY: promised by the caller: room for `results_cap`.
                unsafe { results.add(index).write(status) };
            }
            worst = worse(worst, status);
        }
        submission.leave();
        Ok(worst)
    })
}

fn submit(
    handle: &fdx_server,
    submission: &mut Submission<'_>,
    record: &Record<'_>,
) -> Result<fdx_status, fdx_status> {
    let (kind, flags) = (kind_of(record.kind_and_flags & 0xFF)?, record.kind_and_flags >> 8);
    let (wish, last) = (wish_of(flags & !FDX_F_MORE)?, flags & FDX_F_MORE == 0);
    let conn = ConnId::from_u64(record.conn);
    let sent = with_turn(handle, conn, |turn| match turn {
        Some(turn) => turn.send_as(conn, kind, record.payload, last, wish),
        None => submission.send(conn, kind, record.payload, last, wish),
    });
    sent.map(sent_status).map_err(misused)
}

/// The records in some bytes; `None` where there is none, and nothing after it.
struct Records<'a>(&'a [u8]);

struct Record<'a> {
    conn: u64,
    kind_and_flags: u32,
    payload: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        Some(bytes.split_first_chunk::<RECORD_HEAD_BYTES>().and_then(|(head, rest)| {
            let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let payload = rest.get(..word(12) as usize)?;
            let end = payload.len().next_multiple_of(8).min(rest.len());
            self.0 = &rest[end..];
            let (conn, _) = head.split_first_chunk::<8>()?;
            Some(Record { conn: u64::from_ne_bytes(*conn), kind_and_flags: word(8), payload })
        }))
    }
}

const RECORD_HEAD_BYTES: usize = 16;

/// Of two statuses: an error is worse than a remark, and a remark than none.
fn worse(a: fdx_status, b: fdx_status) -> fdx_status {
    if a < 0 || b < 0 { a.min(b) } else { a.max(b) }
}

fn kind_of(kind: u32) -> Result<Kind, fdx_status> {
    match kind {
        FDX_TEXT => Ok(Kind::Text),
        FDX_BINARY => Ok(Kind::Binary),
        _ => Err(FDX_E_INVALID_ARG),
    }
}

pub(super) fn wish_of(flags: u32) -> Result<Wish, fdx_status> {
    match flags {
        0 => Ok(Wish::Auto),
        FDX_F_COMPRESS => Ok(Wish::Compressed),
        FDX_F_NO_COMPRESS => Ok(Wish::Plain),
        _ => Err(FDX_E_INVALID_ARG),
    }
}

fn sent_status(sent: Sent) -> fdx_status {
    match sent {
        Sent::Queued => FDX_OK,
        Sent::HighWater => FDX_HIGH_WATER,
    }
}
