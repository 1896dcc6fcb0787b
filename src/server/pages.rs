//! Pages that the server answers itself: is it well, and what has it done?

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::files::Files;
use crate::config::HttpPages;
use crate::engine::plain::{Pages, Reply};
use crate::engine::table::{Count, Counters, Table};
use crate::protocol::http::Request;

/// What every shard answers alike.
pub struct ServerPages {
    tables: Vec<Arc<Table>>,
    files: Vec<Files>,
}

impl ServerPages {
    pub fn new(tables: Vec<Arc<Table>>, files: Vec<Files>) -> Self {
        Self { tables, files }
    }
}

impl Pages for ServerPages {
    fn page(&self, request: &Request, options: &HttpPages, is_stopping: bool) -> Option<Reply> {
        let path = request.path();
        let is_health = path == options.health;
        if !is_health && path != options.metrics {
            return None;
        }
        if !matches!(request.method(), b"GET" | b"HEAD") {
            return Some(Reply::text(405, "Allow: GET, HEAD\r\n", "this page can only be read\n"));
        }
        Some(match (is_health, is_stopping) {
            (true, false) => Reply::text(200, NO_STORE, "ok\n"),
            (true, true) => Reply::text(503, NO_STORE, "stopping\n"),
            _ => {
                let headers = format!("{NO_STORE}Content-Type: {METRICS_CONTENT_TYPE}\r\n");
                Reply::new(200, headers, metrics_text(&self.tables).into_bytes())
            }
        })
    }

    fn file(&self, request: &Request) -> Option<Reply> {
        self.files.iter().find_map(|files| files.answer(request))
    }
}

/// The sums of all shards as OpenMetrics text (openmetrics.io, 1.0.0).
pub fn metrics_text(tables: &[Arc<Table>]) -> String {
    let mut text = String::new();
    let sum = |count: fn(&Counters) -> &Count| -> u64 {
        tables.iter().map(|table| count(&table.counters).get()).sum()
    };
    let mut row = |name: &str, kind: &str, help: &str, value: u64| {
        // "The MetricPoint's Total Value Sample MetricName MUST have the suffix _total."
        let suffix = if kind == "counter" { "_total" } else { "" };
        let _ = write!(
            text,
            "# TYPE fullduplex_{name} {kind}\n# HELP fullduplex_{name} {help}\nfullduplex_{name}{suffix} {value}\n"
        );
    };
    row("connections", "gauge", "WebSocket connections open now.", sum(|of| &of.connections));
    row("accepted", "counter", "TCP connections taken.", sum(|of| &of.accepted));
    row("closed", "counter", "WebSocket connections that have ended.", sum(|of| &of.closed));
    row("rejected", "counter", "Requests that were refused.", sum(|of| &of.rejected));
    row("handshake_errors", "counter", "Requests that were malformed.", sum(|of| &of.handshake_errors));
    row("rate_limited", "counter", "Connections refused or closed for a limit.", sum(|of| &of.rate_limited));
    row("slow_closed", "counter", "Connections closed at send.limit.", sum(|of| &of.slow_closed));
    row("messages_received", "counter", "Messages of peers.", sum(|of| &of.messages_in));
    row("messages_sent", "counter", "Messages to peers.", sum(|of| &of.messages_out));
    let dropped = tables.iter().map(|table| table.counters.dropped_messages.load(Relaxed)).sum();
    row("messages_dropped", "counter", "Messages that did not fit into an outbox.", dropped);
    row("received_bytes", "counter", "Bytes from peers.", sum(|of| &of.bytes_in));
    row("sent_bytes", "counter", "Bytes to peers.", sum(|of| &of.bytes_out));
    row("faults", "counter", "Bugs of the library that were contained.", sum(|of| &of.faults));
    text.push_str("# EOF\n");
    text
}

const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const NO_STORE: &str = "Cache-Control: no-store\r\n";
