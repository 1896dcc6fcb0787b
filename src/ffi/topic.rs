//! Topics: what is published reaches everyone who is in.

use std::ffi::c_char;

use super::event::{FDX_F_SKIP_SENDER, fdx_conn};
use super::reentry::{with_any_turn, with_turn};
use super::send::{fdx_msg, wish_of};
use super::server::fdx_server;
use super::status::*;
use super::{bytes, done, guard, handle, misused, struct_out};
use crate::id::ConnId;

/// A connection has joined a topic (the `code` of FDX_EV_TOPIC).
pub const FDX_TOPIC_JOINED: i32 = 1;
/// It has left it.
pub const FDX_TOPIC_LEFT: i32 = 2;

/// From now on a connection gets what is published to a topic. [any] It is in it when this
/// returns, and leaves all its topics when its FDX_EV_CLOSE is delivered. The name is 1 to 255
/// bytes of any kind; `len` may be `FDX_NTS`. A topic needs no making: it is there while somebody
/// is in it. There are no patterns.
///
/// `FDX_OK`; `FDX_ALREADY`; `FDX_E_NO_CONN`; `FDX_E_CLOSING`; `FDX_E_STATE` before it is open;
/// `FDX_E_LIMIT` when it is in `max.topics`; `FDX_E_INVALID_ARG` for another name.
///
/// # Safety
/// `server` is live; `topic` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_subscribe(
    server: *mut fdx_server,
    conn: fdx_conn,
    topic: *const c_char,
    len: usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, topic) = unsafe { (handle(server)?, bytes(topic.cast(), len)?) };
        let conn = ConnId::from_u64(conn);
        with_turn(handle, conn, |turn| handle.server.subscribe(turn, conn, topic)).map(done).map_err(misused)
    })
}

/// A connection leaves a topic. [any] It still gets what was published before.
///
/// `FDX_OK`; `FDX_ALREADY` if it is not in it; `FDX_E_NO_CONN`; `FDX_E_INVALID_ARG` for another
/// name.
///
/// # Safety
/// `server` is live; `topic` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_unsubscribe(
    server: *mut fdx_server,
    conn: fdx_conn,
    topic: *const c_char,
    len: usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, topic) = unsafe { (handle(server)?, bytes(topic.cast(), len)?) };
        let conn = ConnId::from_u64(conn);
        with_turn(handle, conn, |turn| handle.server.unsubscribe(turn, conn, topic))
            .map(done)
            .map_err(misused)
    })
}

/// What became of a published message. Each subscriber in this process counts once, by what
/// `fdx_send` would have returned for it.
#[repr(C)]
pub struct fdx_publish_result {
    pub struct_size: u32,
    pub reserved: u32,
    /// `FDX_OK`
    pub queued: u64,
    /// `FDX_HIGH_WATER`: queued, too, and FDX_EV_DRAIN will say when it has read enough.
    pub high_water: u64,
    /// It does not get it: `FDX_E_FULL` (and `send.full` decides whether it is closed),
    /// `FDX_E_UNSUPPORTED` for binary on a Hixie connection, `FDX_E_STATE` while a message in
    /// fragments is under way to it, or its shard is more than `send.limit` behind with the topic.
    pub dropped: u64,
}

/// Sends a message to everyone who is in a topic now. [any] It is encoded and compressed once, and
/// shared. With a backplane it goes to the other machines, too.
///
/// What one thread publishes arrives at each connection in that order, also on several topics, and
/// what it sends the connection otherwise, closes included, keeps its place among it. However many subscribers there are, other
/// connections are served meanwhile: a shard sends to some hundreds of them and then looks around.
///
/// `flags` is 0 or a sum of `FDX_F_COMPRESS` or `FDX_F_NO_COMPRESS`, see `fdx_send`, and
/// `FDX_F_SKIP_SENDER`: then `sender` does not get it. `result` may be NULL; else set its
/// `struct_size`.
///
/// `FDX_OK`, whatever became of it and also for nobody; `FDX_E_TOO_BIG` for more than `send.limit`;
/// `FDX_E_STATE` before the start; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` and `msg` are live; `topic` has `len` bytes; `result` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_publish(
    server: *mut fdx_server,
    topic: *const c_char,
    len: usize,
    msg: *mut fdx_msg,
    flags: u32,
    sender: fdx_conn,
    result: *mut fdx_publish_result,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, topic) = unsafe { (handle(server)?, bytes(topic.cast(), len)?) };
        // SAFETY: as above.
        let msg = unsafe { msg.as_ref() }.ok_or(FDX_E_INVALID_ARG)?;
        let wish = wish_of(flags & !FDX_F_SKIP_SENDER)?;
        let skipped = match flags & FDX_F_SKIP_SENDER {
            0 => ConnId::NONE,
            _ => ConnId::from_u64(sender),
        };
        if !result.is_null() {
            let nothing =
                fdx_publish_result { struct_size: 0, reserved: 0, queued: 0, high_water: 0, dropped: 0 };
            // SAFETY: promised by the caller.
            unsafe { struct_out(nothing, result) }?;
        }
        let outcomes =
            with_any_turn(handle, |turn| handle.server.publish(turn, topic, &msg.message, wish, skipped));
        let outcomes = outcomes.map_err(misused)?;
        if result.is_null() {
            return Ok(FDX_OK);
        }
        let value = fdx_publish_result {
            struct_size: 0,
            reserved: 0,
            queued: outcomes.queued,
            high_water: outcomes.high_water,
            dropped: outcomes.dropped,
        };
        // SAFETY: promised by the caller.
        unsafe { struct_out(value, result) }
    })
}

/// How many connections of this process are in a topic. [any]
///
/// `FDX_OK`; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `topic` has `len` bytes; `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_topic_count(
    server: *mut fdx_server,
    topic: *const c_char,
    len: usize,
    out: *mut u64,
) -> fdx_status {
    guard(|| {
        if out.is_null() {
            return Err(FDX_E_INVALID_ARG);
        }
        // SAFETY: promised by the caller.
        let (handle, topic) = unsafe { (handle(server)?, bytes(topic.cast(), len)?) };
        let subscribers = handle.server.subscribers(topic).map_err(misused)?;
        // SAFETY: promised by the caller.
        unsafe { out.write(subscribers) };
        Ok(FDX_OK)
    })
}
