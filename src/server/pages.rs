//! Pages that the server answers itself: is it well, and what has it done?

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::files::Files;
use crate::backplane::{Backplane, Counts};
use crate::config::HttpPages;
use crate::engine::limits::Gate;
use crate::engine::plain::{Pages, Reply};
use crate::engine::table::{Count, Counters, Table};
use crate::engine::topics::Topics;
use crate::protocol::http::Request;

/// What every shard answers alike.
pub struct ServerPages {
    tables: Vec<Arc<Table>>,
    topics: Arc<Topics>,
    gate: Arc<Gate>,
    backplane: Option<Arc<Backplane>>,
    files: Vec<Files>,
}

impl ServerPages {
    pub fn new(
        tables: Vec<Arc<Table>>,
        topics: Arc<Topics>,
        gate: Arc<Gate>,
        backplane: Option<Arc<Backplane>>,
        files: Vec<Files>,
    ) -> Self {
        Self { tables, topics, gate, backplane, files }
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
                let form = MetricsForm::wanted(request);
                let headers = format!("{NO_STORE}Content-Type: {}\r\n", form.content_type());
                let counts = self.backplane.as_ref().map(|backplane| backplane.counts()).unwrap_or_default();
                let deflate_bytes = self.gate.windows.taken_bytes() as u64;
                let text = metrics_text(&self.tables, &self.topics, counts, deflate_bytes, form);
                Reply::new(200, headers, text.into_bytes())
            }
        })
    }

    fn file(&self, request: &Request) -> Option<Reply> {
        self.files.iter().find_map(|files| files.answer(request))
    }
}

/// The two languages of Prometheus. They differ in what they call a counter, and OpenMetrics has
/// an end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MetricsForm {
    /// openmetrics.io, 1.0.0
    OpenMetrics,
    /// What every reader knows: the text format, 0.0.4.
    Text,
}

impl MetricsForm {
    /// As the client libraries of Prometheus choose: OpenMetrics for those who name it.
    fn wanted(request: &Request) -> Self {
        let is_open_metrics = |accepted: &[u8]| {
            let end = accepted.iter().position(|&byte| byte == b';').unwrap_or(accepted.len());
            accepted[..end].trim_ascii().eq_ignore_ascii_case(b"application/openmetrics-text")
        };
        if request.list("accept").any(is_open_metrics) { Self::OpenMetrics } else { Self::Text }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The sums of all shards.
pub fn metrics_text(
    tables: &[Arc<Table>],
    topics: &Topics,
    backplane: Counts,
    deflate_bytes: u64,
    form: MetricsForm,
) -> String {
    let mut text = String::new();
    let sum = |count: fn(&Counters) -> &Count| -> u64 {
        tables.iter().map(|table| count(&table.counters).get()).sum()
    };
    let mut row = |name: &str, kind: &str, help: &str, value: u64| {
        // "The MetricPoint's Total Value Sample MetricName MUST have the suffix _total." To the
        // text format it is a part of the name.
        let suffix = if kind == "counter" { "_total" } else { "" };
        let family = if form == MetricsForm::Text { suffix } else { "" };
        let _ = write!(
            text,
            "# TYPE fullduplex_{name}{family} {kind}\n# HELP fullduplex_{name}{family} {help}\n\
             fullduplex_{name}{suffix} {value}\n"
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
    row("deflate_bytes", "gauge", "Set aside for the windows of compressed connections.", deflate_bytes);
    row("topics", "gauge", "Topics with a subscriber.", topics.topics());
    row("subscriptions", "gauge", "Subscribers of all topics together.", topics.subscribers());
    row("backplane_received", "counter", "Messages published on other servers.", backplane.received);
    row("backplane_sent", "counter", "Publishes handed over to other servers.", backplane.sent);
    row("backplane_lost", "counter", "Publishes that other servers never get.", backplane.lost);
    row("faults", "counter", "Bugs of the library that were contained.", sum(|of| &of.faults));
    if form == MetricsForm::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

const NO_STORE: &str = "Cache-Control: no-store\r\n";
