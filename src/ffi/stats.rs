//! Sums over the life of a server.

use std::ffi::c_char;
use std::sync::atomic::Ordering::Relaxed;

use super::server::fdx_server;
use super::status::*;
use super::{guard, handle, string_out, struct_out};
use crate::engine::table::{Count, Counters};
use crate::server::pages::{MetricsForm, metrics_text};

/// Counted since the start. Set `struct_size` to `sizeof(fdx_stats)`. Fields of features that are
/// not in this build are 0.
#[repr(C)]
pub struct fdx_stats {
    pub struct_size: u32,
    pub threads: u32,
    /// Open now.
    pub connections: u64,
    /// Most open at once, summed over the threads.
    pub peak_connections: u64,
    /// TCP connections.
    pub accepted: u64,
    /// Requests answered with a refusal, by the server or by you.
    pub rejected: u64,
    pub closed: u64,
    /// Requests that were malformed or no handshake of any dialect.
    pub handshake_errors: u64,
    pub msgs_in: u64,
    pub msgs_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Messages refused with `FDX_E_FULL`.
    pub dropped_msgs: u64,
    /// Connections closed at `send.limit`.
    pub slow_closed: u64,
    /// Connections refused or closed by `max.connections`, `max.connections_per_ip` or a rate.
    pub rate_limited: u64,
    /// Not yet taken by the kernel, of all connections.
    pub queued_bytes: u64,
    /// Events that wait to be polled.
    pub event_queue_len: u64,
    /// Set aside for the windows of connections with `deflate = dedicated`; see `deflate.budget`.
    pub deflate_bytes: u64,
    /// With at least one subscriber in this process.
    pub topics: u64,
    /// Of all topics together.
    pub subscriptions: u64,
    /// Messages published on other servers that came here.
    pub backplane_in: u64,
    /// Publishes of this server that were handed over to the backplane.
    pub backplane_out: u64,
    /// Publishes of this server that other servers never get: they found no room (`backplane.limit`)
    /// or were refused, or waited when the server stopped.
    pub backplane_lost: u64,
    /// Bugs of ours that were contained.
    pub faults: u64,
}

/// The sums of a server. [any]
///
/// `FDX_OK`; `FDX_E_INVALID_ARG` for NULL or a `struct_size` below 8.
///
/// # Safety
/// `server` is live; `stats` has its `struct_size` set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_get_stats(server: *mut fdx_server, stats: *mut fdx_stats) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        let tables = handle.server.tables();
        let sum =
            |count: fn(&Counters) -> &Count| tables.iter().map(|table| count(&table.counters).get()).sum();
        let backplane = handle.server.backplane_counts();
        let mut queued_bytes = 0;
        handle.server.each_open(|_, entry| queued_bytes += entry.queued_bytes());
        let value = fdx_stats {
            struct_size: 0,
            threads: tables.len() as u32,
            connections: sum(|counters| &counters.connections),
            peak_connections: sum(|counters| &counters.peak_connections),
            accepted: sum(|counters| &counters.accepted),
            rejected: sum(|counters| &counters.rejected),
            closed: sum(|counters| &counters.closed),
            handshake_errors: sum(|counters| &counters.handshake_errors),
            msgs_in: sum(|counters| &counters.messages_in),
            msgs_out: sum(|counters| &counters.messages_out),
            bytes_in: sum(|counters| &counters.bytes_in),
            bytes_out: sum(|counters| &counters.bytes_out),
            dropped_msgs: tables.iter().map(|table| table.counters.dropped_messages.load(Relaxed)).sum(),
            slow_closed: sum(|counters| &counters.slow_closed),
            rate_limited: sum(|counters| &counters.rate_limited),
            queued_bytes,
            event_queue_len: handle.queues.iter().map(|queue| queue.queued() as u64).sum(),
            deflate_bytes: handle.server.deflate_bytes(),
            topics: handle.server.topics().topics(),
            subscriptions: handle.server.topics().subscribers(),
            backplane_in: backplane.received,
            backplane_out: backplane.sent,
            backplane_lost: backplane.lost,
            faults: sum(|counters| &counters.faults),
        };
        // SAFETY: promised by the caller; the fields leave no padding.
        unsafe { struct_out(value, stats) }
    })
}

/// The sums of a server as OpenMetrics text, what `http.metrics` serves to who asks for it. [any]
/// At most `cap` bytes with the NUL go to `buf`; `*needed` is set always.
///
/// `FDX_OK`; `FDX_E_BUFFER`; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `buf` has room for `cap`; `needed` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_metrics_text(
    server: *mut fdx_server,
    buf: *mut c_char,
    cap: usize,
    needed: *mut usize,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        let server = &handle.server;
        let text = metrics_text(
            server.tables(),
            server.topics(),
            server.backplane_counts(),
            server.deflate_bytes(),
            MetricsForm::OpenMetrics,
        );
        // SAFETY: promised by the caller.
        unsafe { string_out(text.as_bytes(), buf, cap, needed) }
    })
}
