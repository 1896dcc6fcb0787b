//! Every option: its name, type, default, limit, and what happens at the limit.
//!
//! Options are strings, so that a new one is no new symbol and no new layout, and every
//! language, file and environment has it at once. A value is checked when it is set.

mod redis;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::id::SHARDS_MAX;
use crate::protocol::deflate::{DeflateRules, Mode};
use crate::protocol::forwarded::ForwardedHeaders;
use crate::protocol::handshake::{Origins, Rules};
use crate::protocol::proxy::ProxyVersions;
pub use crate::protocol::trusted::Trusted;
use crate::protocol::{Dialect, Versions};
use crate::tls::{ClientAuth, OldestVersion};
pub use value::{ListenAddress, ListenPlace, Rate, StaticFiles};
use value::{at_least, at_most, list, more_than_zero, not_zero, path, paths, rate, size, time};

/// What the embedder has set, as text and as values.
#[derive(Clone, Debug)]
pub struct Config {
    texts: BTreeMap<&'static str, String>,
    settings: Settings,
}

/// The values of all options.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Vec<ListenAddress>,
    /// 0 stands for one per core.
    pub threads: usize,
    pub dispatch: Dispatch,
    /// Queues of polled events.
    pub queues: u8,
    pub rules: Rules,
    pub message_bytes_max: usize,
    pub body_bytes_max: usize,
    pub limits: Limits,
    pub send: SendLimits,
    pub receive: ReceiveLimits,
    pub timeouts: Timeouts,
    pub http: HttpPages,
    pub files: Vec<StaticFiles>,
    pub proxies: Proxies,
    pub tls: TlsOptions,
    pub backplane: BackplaneOptions,
    pub driver: DriverOptions,
}

/// How a shard asks the kernel.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// How long to look for news before sleeping.
    pub spin: Duration,
    /// From so many sends in a turn on, io_uring takes them all at once; `usize::MAX`: never.
    pub sends_together_min: usize,
}

/// What carries published messages between machines.
#[derive(Clone, Debug)]
pub struct BackplaneOptions {
    /// Tried in turn; none: no backplane. What is printed of them has no password in it.
    pub servers: Vec<::redis::ConnectionInfo>,
    /// Before each topic, in the name of its channel.
    pub prefix: String,
    /// Of publishes that wait.
    pub limit_bytes: usize,
    pub sharded: bool,
    /// Who may have signed the certificate of the server; `None`: whom the system trusts.
    pub ca: Option<PathBuf>,
}

/// What listeners with TLS need.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// Files in PEM, each certificate with its key in the same place of the other list.
    pub certificates: Vec<PathBuf>,
    pub keys: Vec<PathBuf>,
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
    pub oldest: OldestVersion,
}

/// How many, and how fast. `None`: no limit.
#[derive(Clone, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_ip: Option<usize>,
    pub connection_rate_per_ip: Option<Rate>,
    pub fragments: usize,
    /// Of one connection.
    pub topics: usize,
    pub message_rate: Option<Rate>,
    pub byte_rate: Option<Rate>,
}

#[derive(Clone, Debug)]
pub struct SendLimits {
    pub high_water_bytes: usize,
    pub low_water_bytes: usize,
    pub limit_bytes: usize,
    pub full: WhenFull,
}

/// How events reach the embedder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dispatch {
    /// Callbacks on the shard's thread.
    Io,
    /// Polled queues; nothing is called.
    Queue,
}

#[derive(Clone, Debug)]
pub struct ReceiveLimits {
    /// Of one connection's events that the embedder was given, or can have, and has not freed.
    pub high_water_bytes: usize,
}

/// What becomes of a connection whose outbox holds `send.limit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    Close,
    Drop,
}

/// Paths of the pages that the server answers itself; empty: none.
#[derive(Clone, Default, Debug)]
pub struct HttpPages {
    pub health: String,
    pub metrics: String,
}

/// Who may say whose connection it is, and how.
#[derive(Clone, Debug)]
pub struct Proxies {
    pub trusted: Trusted,
    /// The PROXY protocol, before everything else.
    pub versions: ProxyVersions,
    /// Headers of the request.
    pub forwarded: ForwardedHeaders,
}

#[derive(Clone, Debug)]
pub struct Timeouts {
    pub handshake: Duration,
    pub close: Duration,
    pub write_stall: Duration,
    /// `None`: never.
    pub idle: Option<Duration>,
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Option<Duration>,
}

/// One row of the option table.
pub struct OptionSpec {
    pub name: &'static str,
    pub kind: &'static str,
    pub default: &'static str,
    /// Can it change while the server runs?
    pub live: bool,
    pub help: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

/// A key or value that was refused; the text says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(pub String);

/// Why an option of a running server did not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LiveError {
    Config(ConfigError),
    /// It is fixed when the server starts.
    Fixed,
}

impl OptionSpec {
    /// A value as an error repeats it: there may be a password in a URL.
    fn shown<'a>(&self, value: &'a str) -> &'a str {
        if self.name == "backplane" { "(not shown)" } else { value }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    pub fn new() -> Self {
        let mut settings = Settings {
            listen: Vec::new(),
            threads: 1,
            dispatch: Dispatch::Io,
            queues: 1,
            rules: Rules {
                versions: Versions::NONE,
                protocols: Vec::new(),
                origins: Origins::Any,
                head_bytes_max: 0,
                deflate: DeflateRules::OFF,
            },
            message_bytes_max: 0,
            body_bytes_max: 0,
            limits: Limits {
                connections: 0,
                connections_per_ip: None,
                connection_rate_per_ip: None,
                fragments: 0,
                topics: 0,
                message_rate: None,
                byte_rate: None,
            },
            send: SendLimits {
                high_water_bytes: 0,
                low_water_bytes: 0,
                limit_bytes: 0,
                full: WhenFull::Close,
            },
            receive: ReceiveLimits { high_water_bytes: 0 },
            timeouts: Timeouts {
                handshake: Duration::ZERO,
                close: Duration::ZERO,
                write_stall: Duration::ZERO,
                idle: None,
                ping_interval: None,
                ping_timeout: None,
            },
            http: HttpPages::default(),
            files: Vec::new(),
            proxies: Proxies {
                trusted: Trusted::default(),
                versions: ProxyVersions::Off,
                forwarded: ForwardedHeaders::Off,
            },
            tls: TlsOptions {
                certificates: Vec::new(),
                keys: Vec::new(),
                client_ca: None,
                client_auth: ClientAuth::None,
                oldest: OldestVersion::Tls12,
            },
            backplane: BackplaneOptions {
                servers: Vec::new(),
                prefix: String::new(),
                limit_bytes: 0,
                sharded: false,
                ca: None,
            },
            driver: DriverOptions { spin: Duration::ZERO, sends_together_min: 0 },
        };
        for option in &OPTIONS {
            (option.set)(&mut settings, option.default).expect("a default is a good value, as a test shows");
        }
        Self { texts: BTreeMap::new(), settings }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets one option. `listen` adds an address; its empty value takes all back.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let option = find(key)?;
        let value = value.trim();
        if value.len() > TEXT_BYTES_MAX {
            let shown = option.shown(value);
            return Err(ConfigError(format!(
                "{key} = {}…: more than {TEXT_BYTES_MAX} bytes",
                beginning(shown)
            )));
        }
        (option.set)(&mut self.settings, value)
            .map_err(|why| ConfigError(format!("{key} = {}: {why}", option.shown(value))))?;
        let text = self.texts.entry(option.name).or_default();
        if option.name == "listen" && !value.is_empty() && !text.is_empty() {
            text.push_str(", ");
            text.push_str(value);
        } else {
            *text = value.to_string();
        }
        Ok(())
    }

    /// Sets an option of a server that runs; some are fixed when it starts.
    pub fn set_live(&mut self, key: &str, value: &str) -> Result<(), LiveError> {
        if !find(key).map_err(LiveError::Config)?.live {
            return Err(LiveError::Fixed);
        }
        self.set(key, value).map_err(LiveError::Config)
    }

    /// The value as it was set, or the default.
    pub fn get(&self, key: &str) -> Result<&str, ConfigError> {
        let option = find(key)?;
        Ok(self.texts.get(option.name).map_or(option.default, String::as_str))
    }

    /// Sets options from lines of `key = value`; `#` begins a comment line. Lines before a bad
    /// one stay set.
    pub fn load(&mut self, text: &str) -> Result<(), ConfigError> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at_line = |why: String| ConfigError(format!("line {}: {why}", index + 1));
            let (key, value) =
                line.split_once('=').ok_or_else(|| at_line("expected \"key = value\"".to_string()))?;
            self.set(key.trim(), value).map_err(|error| at_line(error.0))?;
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// As much of a text as a message shows.
fn beginning(text: &str) -> String {
    text.chars().take(60).collect()
}

fn find(key: &str) -> Result<&'static OptionSpec, ConfigError> {
    OPTIONS.iter().find(|option| option.name == key).ok_or_else(|| {
        let shown = beginning(key);
        let nearest = OPTIONS
            .iter()
            .max_by(|a, b| {
                let likeness = |option: &OptionSpec| strsim::jaro_winkler(option.name, &shown);
                likeness(a).total_cmp(&likeness(b))
            })
            .expect("the table has rows");
        ConfigError(format!("unknown option \"{shown}\"; the nearest is \"{}\"", nearest.name))
    })
}

/// Most queues of one server.
const QUEUES_MAX: u8 = 64;

/// With fewer sends in a turn, one call for all is no cheaper than one for each.
const SENDS_TOGETHER_MIN: usize = 32;

/// Longer is no wait for news any more, but a core given away.
const SPIN_MAX: Duration = Duration::from_secs(1);

/// The longest prefix of channels.
const PREFIX_BYTES_MAX: usize = 255;

/// The longest value of an option, address to listen at, or pattern of a route.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The option table, in the order of the README.
pub static OPTIONS: [OptionSpec; 51] = [
    OptionSpec {
        name: "listen",
        kind: "address, may repeat",
        default: "",
        live: false,
        help: "Where to listen: :8080 (every interface, IPv4 and IPv6), 127.0.0.1:0 (any free port), [::1]:8080, \
               unix:/run/x.sock?mode=660, unix:@name (abstract), fd:3 (a socket that listens already), systemd or \
               systemd:NAME (the sockets it passed). Setting it again adds an address; an empty value takes all \
               back.",
        set: |settings, value| {
            if value.is_empty() {
                settings.listen.clear();
            } else {
                settings.listen.push(value.parse()?);
            }
            Ok(())
        },
    },
    OptionSpec {
        name: "threads",
        kind: "number",
        default: "1",
        live: false,
        help: "Shards, each a thread with connections of its own. With 1 no two callbacks ever run at once; \
               0 is one per core.",
        set: |settings, value| {
            let threads = value.parse().map_err(|_| format!("expected a number up to {SHARDS_MAX}"))?;
            if threads > SHARDS_MAX {
                return Err(format!("at most {SHARDS_MAX}"));
            }
            settings.threads = threads;
            Ok(())
        },
    },
    OptionSpec {
        name: "dispatch",
        kind: "io | queue",
        default: "io",
        live: false,
        help: "How events come: io calls the route's callbacks on the shard's thread; queue keeps them until fdx_poll \
               takes them, on a thread of yours, and calls nothing.",
        set: |settings, value| {
            settings.dispatch = match value {
                "io" => Dispatch::Io,
                "queue" => Dispatch::Queue,
                _ => return Err("expected io or queue".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "queues",
        kind: "number",
        default: "1",
        live: false,
        help: "With dispatch = queue: how many queues there are, up to 64. A connection's events all come in the \
               same one.",
        set: |settings, value| put(&mut settings.queues, within(1..=QUEUES_MAX, value)),
    },
    OptionSpec {
        name: "io_uring",
        kind: "auto | off",
        default: "auto",
        live: false,
        help: "auto: sends to many connections at once, as fdx_publish makes them, go to the kernel with one system \
               call, where it has io_uring and nobody forbids it. off: each is a system call.",
        set: |settings, value| {
            settings.driver.sends_together_min = match value {
                "auto" => SENDS_TOGETHER_MIN,
                "off" => usize::MAX,
                _ => return Err("expected auto or off".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "poll.spin",
        kind: "time",
        default: "0",
        live: false,
        help: "After the last news a thread keeps looking for more for so long before it sleeps: a round trip is a \
               few times faster, and the thread takes a whole core meanwhile. At most 1s.",
        set: |settings, value| {
            put(&mut settings.driver.spin, time(value).and_then(|time| at_most(SPIN_MAX, time)))
        },
    },
    OptionSpec {
        name: "versions",
        kind: "list",
        default: "13, 8, 7, hixie76, hixie75",
        live: true,
        help: "Protocol versions to speak. Others get 426 and the list.",
        set: |settings, value| {
            let mut versions = Versions::NONE;
            for name in list(value) {
                versions = versions.with(match &name[..] {
                    "13" => Dialect::Rfc6455,
                    "8" => Dialect::HyBi08,
                    "7" => Dialect::HyBi07,
                    "hixie76" => Dialect::Hixie76,
                    "hixie75" => Dialect::Hixie75,
                    _ => return Err("expected some of 13, 8, 7, hixie76, hixie75".to_string()),
                });
            }
            if versions == Versions::NONE {
                return Err("name at least one of 13, 8, 7, hixie76, hixie75".to_string());
            }
            settings.rules.versions = versions;
            Ok(())
        },
    },
    OptionSpec {
        name: "protocols",
        kind: "list",
        default: "",
        live: true,
        help: "Subprotocols in order of preference; the first that a client offers is chosen. Without one in \
               common the connection has none.",
        set: |settings, value| {
            let protocols = list(value);
            if !protocols.iter().all(|name| name.bytes().all(crate::protocol::http::is_token_byte)) {
                return Err("a subprotocol may only hold letters, digits and !#$%&'*+-.^_`|~".to_string());
            }
            settings.rules.protocols = protocols;
            Ok(())
        },
    },
    OptionSpec {
        name: "origins",
        kind: "list",
        default: "any",
        live: true,
        help: "Pages that may connect: https://a.example, a.example (any scheme and port), *.b.example, null; or \
               any. Others get 403. A request without Origin is no browser's and passes.",
        set: |settings, value| {
            let origins = list(value);
            settings.rules.origins = match &origins[..] {
                [] => return Err("expected origins, or any".to_string()),
                [any] if any == "any" => Origins::Any,
                _ => Origins::Listed(origins),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "max.message",
        kind: "size",
        default: "16m",
        live: true,
        help: "Longest message from a peer, over all its fragments. Over it: close code 1009.",
        set: |settings, value| put(&mut settings.message_bytes_max, size(value)),
    },
    OptionSpec {
        name: "max.handshake",
        kind: "size",
        default: "16k",
        live: true,
        help: "Longest request head. Over it: HTTP status 431.",
        set: |settings, value| {
            put(&mut settings.rules.head_bytes_max, size(value).and_then(|bytes| at_least(256, bytes)))
        },
    },
    OptionSpec {
        name: "max.body",
        kind: "size",
        default: "1m",
        live: true,
        help: "Longest body of a plain HTTP request. Over it: HTTP status 413.",
        set: |settings, value| put(&mut settings.body_bytes_max, size(value)),
    },
    OptionSpec {
        name: "max.fragments",
        kind: "number",
        default: "131072",
        live: true,
        help: "Most fragments of one message. Over it: close code 1009.",
        set: |settings, value| {
            put(&mut settings.limits.fragments, size(value).and_then(|count| at_least(1, count)))
        },
    },
    OptionSpec {
        name: "max.topics",
        kind: "number",
        default: "65536",
        live: true,
        help: "Most topics that one connection is in. Over it: FDX_E_LIMIT.",
        set: |settings, value| {
            put(&mut settings.limits.topics, size(value).and_then(|count| at_least(1, count)))
        },
    },
    OptionSpec {
        name: "max.connections",
        kind: "number",
        default: "100000",
        live: true,
        help: "Most connections of the server, handshakes included. Over it: HTTP status 503.",
        set: |settings, value| {
            put(&mut settings.limits.connections, size(value).and_then(|count| at_least(1, count)))
        },
    },
    OptionSpec {
        name: "max.connections_per_ip",
        kind: "number",
        default: "0",
        live: true,
        help: "Most connections from one address (IPv6: one /64 network). Over it: HTTP status 429. 0: no limit.",
        set: |settings, value| {
            put(
                &mut settings.limits.connections_per_ip,
                size(value).map(|count| Some(count).filter(|&count| count > 0)),
            )
        },
    },
    OptionSpec {
        name: "rate.connections_per_ip",
        kind: "rate",
        default: "0",
        live: true,
        help: "New connections from one address (IPv6: one /64 network), like 10/s burst 50. Over it: HTTP status 429. \
               0: no limit.",
        set: |settings, value| put(&mut settings.limits.connection_rate_per_ip, rate(value)),
    },
    OptionSpec {
        name: "rate.messages",
        kind: "rate",
        default: "0",
        live: true,
        help: "Messages, or plain requests, of one connection, like 100/s burst 200. Over it: close code 1008, or \
               HTTP status 429. 0: no limit.",
        set: |settings, value| put(&mut settings.limits.message_rate, rate(value)),
    },
    OptionSpec {
        name: "rate.bytes",
        kind: "rate",
        default: "0",
        live: true,
        help: "Bytes of one connection, like 1m/s burst 4m; the burst is at least 512k, what one turn may read. \
               Over it: close code 1008. 0: no limit.",
        set: |settings, value| {
            let rate = rate(value)?;
            if rate.is_some_and(|rate| rate.burst < BYTE_BURST_MIN) {
                return Err("the burst must be at least 512k".to_string());
            }
            put(&mut settings.limits.byte_rate, Ok(rate))
        },
    },
    OptionSpec {
        name: "send.high_water",
        kind: "size",
        default: "64k",
        live: true,
        help: "A connection with more than this queued answers FDX_HIGH_WATER; DRAIN follows below \
               send.low_water.",
        set: |settings, value| put(&mut settings.send.high_water_bytes, size(value)),
    },
    OptionSpec {
        name: "send.low_water",
        kind: "size",
        default: "16k",
        live: true,
        help: "DRAIN comes when no more than this is queued, after FDX_HIGH_WATER or FDX_E_FULL.",
        set: |settings, value| put(&mut settings.send.low_water_bytes, size(value)),
    },
    OptionSpec {
        name: "send.limit",
        kind: "size",
        default: "16m",
        live: true,
        help: "Most bytes queued for one connection. Over it: FDX_E_FULL, nothing is queued, and send.full \
               decides. A single message over it is FDX_E_TOO_BIG.",
        set: |settings, value| {
            put(&mut settings.send.limit_bytes, size(value).and_then(|bytes| at_least(1024, bytes)))
        },
    },
    OptionSpec {
        name: "send.full",
        kind: "close | drop",
        default: "close",
        live: true,
        help: "At send.limit: close the connection at once (FDX_CLOSED_BY_LIMIT), or drop the message and keep \
               it.",
        set: |settings, value| {
            settings.send.full = match value {
                "close" => WhenFull::Close,
                "drop" => WhenFull::Drop,
                _ => return Err("expected close or drop".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "recv.high_water",
        kind: "size",
        default: "128k",
        live: true,
        help: "With dispatch = queue: a connection with more than this in batches that are not freed yet is not read \
               (TCP stops its peer) until half of it is freed. An event counts 64 bytes beside its payload.",
        set: |settings, value| put(&mut settings.receive.high_water_bytes, size(value)),
    },
    OptionSpec {
        name: "timeout.handshake",
        kind: "time",
        default: "10s",
        live: true,
        help: "From accepting the TCP connection to its opening, the embedder's decision included. Over it: \
               HTTP status 408.",
        set: |settings, value| put(&mut settings.timeouts.handshake, time(value).and_then(more_than_zero)),
    },
    OptionSpec {
        name: "timeout.idle",
        kind: "time",
        default: "0",
        live: true,
        help: "Close (1001) when no message came or went for so long; pings do not count. 0: never.",
        set: |settings, value| put(&mut settings.timeouts.idle, time(value).map(not_zero)),
    },
    OptionSpec {
        name: "timeout.close",
        kind: "time",
        default: "5s",
        live: true,
        help: "From the begin of a close to the end of the TCP connection. Over it: it is cut.",
        set: |settings, value| put(&mut settings.timeouts.close, time(value).and_then(more_than_zero)),
    },
    OptionSpec {
        name: "timeout.write_stall",
        kind: "time",
        default: "30s",
        live: true,
        help: "A peer with bytes queued that takes less than send.low_water in this time is cut \
               (FDX_CLOSED_BY_TIMEOUT).",
        set: |settings, value| put(&mut settings.timeouts.write_stall, time(value).and_then(more_than_zero)),
    },
    OptionSpec {
        name: "ping.interval",
        kind: "time",
        default: "30s",
        live: true,
        help: "A Ping of ours goes out so often. 0: never. Hixie has no pings.",
        set: |settings, value| put(&mut settings.timeouts.ping_interval, time(value).map(not_zero)),
    },
    OptionSpec {
        name: "ping.timeout",
        kind: "time",
        default: "20s",
        live: true,
        help: "A peer that sends nothing for so long after our Ping is cut (FDX_CLOSED_BY_TIMEOUT). 0: never.",
        set: |settings, value| put(&mut settings.timeouts.ping_timeout, time(value).map(not_zero)),
    },
    OptionSpec {
        name: "deflate",
        kind: "off | shared | dedicated",
        default: "off",
        live: true,
        help: "Compression of messages (permessage-deflate) for clients that offer it: shared keeps no memory \
               between messages, dedicated compresses better and keeps windows for each connection. For new \
               connections.",
        set: |settings, value| {
            settings.rules.deflate.mode = match value {
                "off" => Mode::Off,
                "shared" => Mode::Shared,
                "dedicated" => Mode::Dedicated,
                _ => return Err("expected off, shared or dedicated".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "deflate.level",
        kind: "number",
        default: "1",
        live: true,
        help: "How hard to compress, from 1 (fastest) to 9 (smallest). A dedicated connection keeps the level of \
               its first message.",
        set: |settings, value| put(&mut settings.rules.deflate.level, within(1..=9, value)),
    },
    OptionSpec {
        name: "deflate.window_bits",
        kind: "number",
        default: "15",
        live: true,
        help: "The largest window in either direction, from 9 (512 bytes) to 15 (32 KiB). A client may ask for a \
               smaller one. For new connections.",
        set: |settings, value| put(&mut settings.rules.deflate.window_bits, within(9..=15, value)),
    },
    OptionSpec {
        name: "deflate.min_size",
        kind: "size",
        default: "128",
        live: true,
        help: "Shorter messages go out uncompressed, unless FDX_F_COMPRESS asks for it.",
        set: |settings, value| put(&mut settings.rules.deflate.size_min, size(value)),
    },
    OptionSpec {
        name: "deflate.budget",
        kind: "size",
        default: "64m",
        live: true,
        help: "Most bytes for the windows of all dedicated connections, each up to 422 KiB. Over it: a new \
               connection shares.",
        set: |settings, value| put(&mut settings.rules.deflate.budget_bytes, size(value)),
    },
    OptionSpec {
        name: "tls.cert",
        kind: "files, in order",
        default: "",
        live: false,
        help: "Certificates in PEM, each with those that link it to its authority behind it. A client gets the \
               one for the name it asks for (SNI, wildcards included), else the first. While the server runs: \
               fdx_set_certificate.",
        set: |settings, value| put(&mut settings.tls.certificates, Ok(paths(value))),
    },
    OptionSpec {
        name: "tls.key",
        kind: "files, in order",
        default: "",
        live: false,
        help: "The private key of each, in PEM, in the same order.",
        set: |settings, value| put(&mut settings.tls.keys, Ok(paths(value))),
    },
    OptionSpec {
        name: "tls.client_ca",
        kind: "file",
        default: "",
        live: false,
        help: "In PEM, who may sign the certificates of clients.",
        set: |settings, value| put(&mut settings.tls.client_ca, Ok(paths(value).pop())),
    },
    OptionSpec {
        name: "tls.client_auth",
        kind: "none | want | need",
        default: "none",
        live: false,
        help: "Must a client show a certificate? want: it is asked, and a wrong one is refused. Its subject: \
               fdx_request_get with \":tls_subject\".",
        set: |settings, value| {
            settings.tls.client_auth = match value {
                "none" => ClientAuth::None,
                "want" => ClientAuth::Want,
                "need" => ClientAuth::Need,
                _ => return Err("expected none, want or need".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "tls.min",
        kind: "1.2 | 1.3",
        default: "1.2",
        live: false,
        help: "The oldest version of TLS that is spoken.",
        set: |settings, value| {
            settings.tls.oldest = match value {
                "1.2" => OldestVersion::Tls12,
                "1.3" => OldestVersion::Tls13,
                _ => return Err("expected 1.2 or 1.3".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "http.health",
        kind: "path",
        default: "",
        live: true,
        help: "Answer GET on this path, like /healthz, with 200 while the server serves. Empty: nowhere.",
        set: |settings, value| put(&mut settings.http.health, path(value)),
    },
    OptionSpec {
        name: "http.metrics",
        kind: "path",
        default: "",
        live: true,
        help: "Answer GET on this path, like /metrics, with the server's sums for Prometheus. Empty: nowhere.",
        set: |settings, value| put(&mut settings.http.metrics, path(value)),
    },
    OptionSpec {
        name: "http.static",
        kind: "list of /prefix/=directory",
        default: "",
        live: false,
        help: "Serve the files of directories, like /=public or /assets/=/srv/www, where no route answers. No \
               dot-files, no listings, nothing outside.",
        set: |settings, value| put(&mut settings.files, StaticFiles::parse_list(value)),
    },
    OptionSpec {
        name: "proxy.trusted",
        kind: "list",
        default: "",
        live: true,
        help: "Networks and addresses of proxies whose word counts, like 10.0.0.0/8, ::1, and unix for the \
               clients of a Unix socket. Nobody else's does.",
        set: |settings, value| put(&mut settings.proxies.trusted, value.parse()),
    },
    OptionSpec {
        name: "proxy.protocol",
        kind: "off | v1 | v2 | any",
        default: "off",
        live: true,
        help: "Connections from proxy.trusted begin with this version of the PROXY protocol, or are cut.",
        set: |settings, value| {
            settings.proxies.versions = match value {
                "off" => ProxyVersions::Off,
                "v1" => ProxyVersions::V1,
                "v2" => ProxyVersions::V2,
                "any" => ProxyVersions::Any,
                _ => return Err("expected off, v1, v2 or any".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "forwarded.headers",
        kind: "off | x-forwarded-for | forwarded",
        default: "off",
        live: true,
        help: "The header in which proxy.trusted name the client. It is read from its end, up to the first \
               address that is not trusted.",
        set: |settings, value| {
            settings.proxies.forwarded = match value {
                "off" => ForwardedHeaders::Off,
                "x-forwarded-for" => ForwardedHeaders::XForwardedFor,
                "forwarded" => ForwardedHeaders::Forwarded,
                _ => return Err("expected off, x-forwarded-for or forwarded".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "backplane",
        kind: "redis URL, list",
        default: "",
        live: false,
        help: "What carries published messages to other servers: redis://host:6379, or with all that a URL can \
               say rediss://user:password@host:6379/0 (rediss: TLS), or redis+unix:///path. Several with commas \
               (redis://a,b:7000) are tried in turn; any one node of a cluster does. Empty: none, or your own \
               by fdx_config_backplane.",
        set: |settings, value| put(&mut settings.backplane.servers, redis::redis_servers(value)),
    },
    OptionSpec {
        name: "backplane.prefix",
        kind: "text",
        default: "fdx:",
        live: false,
        help: "The channel of a topic is this and the topic, so that applications can share a Redis. At most 255 \
               bytes.",
        set: |settings, value| {
            if value.len() > PREFIX_BYTES_MAX {
                return Err(format!("at most {PREFIX_BYTES_MAX} bytes"));
            }
            settings.backplane.prefix = value.to_string();
            Ok(())
        },
    },
    OptionSpec {
        name: "backplane.limit",
        kind: "size",
        default: "16m",
        live: false,
        help: "Most bytes of publishes that wait for the backplane, each counted with 128 bytes of its own. Over \
               it they reach only this server's subscribers, are counted as lost (fdx_stats.backplane_lost), and \
               the other servers see FDX_EV_BACKPLANE with FDX_BP_GAP.",
        set: |settings, value| {
            put(&mut settings.backplane.limit_bytes, size(value).and_then(|bytes| at_least(4096, bytes)))
        },
    },
    OptionSpec {
        name: "backplane.sharded",
        kind: "off | on",
        default: "off",
        live: false,
        help: "on: sharded pub/sub (SPUBLISH and SSUBSCRIBE, Redis 7), so that the nodes of a cluster share the \
               work. All servers must say the same.",
        set: |settings, value| {
            settings.backplane.sharded = match value {
                "off" => false,
                "on" => true,
                _ => return Err("expected off or on".to_string()),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "backplane.ca",
        kind: "file",
        default: "",
        live: false,
        help: "Who may sign the certificate of a rediss:// server, in PEM. Empty: whom the system trusts.",
        set: |settings, value| {
            settings.backplane.ca = (!value.is_empty()).then(|| value.into());
            Ok(())
        },
    },
];

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn within(range: RangeInclusive<u8>, value: &str) -> Result<u8, String> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
}

/// No read of a turn may alone be over a connection's rate.
const BYTE_BURST_MIN: u64 = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_good_value_and_is_what_get_returns() {
        let mut config = Config::new();
        for option in &OPTIONS {
            assert_eq!(config.get(option.name).unwrap(), option.default);
            config.set(option.name, option.default).unwrap();
            assert_eq!(config.get(option.name).unwrap(), option.default);
        }
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_known_one() {
        let error = Config::new().set("max.mesage", "1").unwrap_err();
        assert_eq!(error.0, "unknown option \"max.mesage\"; the nearest is \"max.message\"");
        assert!(Config::new().set("timeout_idle", "1").unwrap_err().0.ends_with("\"timeout.idle\""));
    }

    #[test]
    fn what_is_fixed_at_the_start_cannot_change_later() {
        let mut config = Config::new();
        assert_eq!(config.set_live("max.message", "1k"), Ok(()));
        assert_eq!(config.settings().message_bytes_max, 1024);
        for fixed in ["listen", "threads"] {
            assert_eq!(config.set_live(fixed, ""), Err(LiveError::Fixed));
        }
        assert!(matches!(config.set_live("max.mesage", "1k"), Err(LiveError::Config(_))));
    }

    #[test]
    fn a_thread_looks_for_news_for_a_second_at_most() {
        let mut config = Config::new();
        config.set("poll.spin", "50us").unwrap();
        assert_eq!(config.settings().driver.spin, Duration::from_micros(50));
        config.set("poll.spin", "1s").unwrap();
        for bad in ["2s", "1001ms", "50", "on"] {
            assert!(config.set("poll.spin", bad).is_err(), "{bad:?}");
        }
        assert_eq!(config.get("poll.spin").unwrap(), "1s");
    }

    #[test]
    fn a_byte_rate_must_allow_one_read() {
        assert!(Config::new().set("rate.bytes", "1k/s").is_err());
        assert!(Config::new().set("rate.bytes", "1k/s burst 512k").is_ok());
    }

    #[test]
    fn a_bad_value_says_what_would_be_good_and_changes_nothing() {
        let mut config = Config::new();
        let error = config.set("max.message", "lots").unwrap_err();
        assert_eq!(error.0, "max.message = lots: expected a size like 65536, 64k, 16m or 1g");
        assert_eq!(config.settings().message_bytes_max, 16 << 20);
        assert_eq!(config.get("max.message").unwrap(), "16m");
    }

    #[test]
    fn listen_adds_addresses_and_an_empty_value_takes_them_back() {
        let mut config = Config::new();
        config.set("listen", "127.0.0.1:0").unwrap();
        config.set("listen", "[::1]:8080").unwrap();
        assert_eq!(config.get("listen").unwrap(), "127.0.0.1:0, [::1]:8080");
        assert_eq!(config.settings().listen.len(), 2);
        config.set("listen", ":9990").unwrap();
        assert_eq!(config.settings().listen.len(), 3);
        config.set("listen", "").unwrap();
        assert!(config.settings().listen.is_empty());
    }

    #[test]
    fn a_loaded_text_names_the_line_it_stumbles_over() {
        let mut config = Config::new();
        config.load("# limits\n\nmax.message = 1m\n  threads=2\n").unwrap();
        assert_eq!((config.settings().message_bytes_max, config.settings().threads), (1 << 20, 2));
        assert_eq!(config.load("threads = 1\nthreads").unwrap_err().0, "line 2: expected \"key = value\"");
    }
}
