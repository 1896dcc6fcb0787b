//! A link to one Redis server: two connections, one to publish and one to listen, that live and
//! die together.
//!
//! Who can't listen does not publish either: when the listening half breaks, the server may be
//! another one than the rest of the world speaks to by now.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use redis::{ConnectionInfo, RedisConnectionInfo, ServerError, Value};
use rustls::ClientConfig;

use super::inbound::{Came, Inbound, Words};
use super::outbound::{Answer, Outbound};
use super::pace::Backoff;
use super::wire::Wire;
use super::{LOG, Shared, Undelivered};

/// Why a connection is of no use any more, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken(pub String);

/// A link, connected or not.
pub struct Link {
    pub server: ConnectionInfo,
    tokens: [Token; 2],
    pub outbound: Outbound,
    pub inbound: Inbound,
    state: State,
    backoff: Backoff,
    health: Health,
    needs_sharded: bool,
}

enum State {
    /// Not connected; the next attempt is due then.
    Waiting {
        until: Instant,
    },
    /// Connecting, and saying who we are.
    Opening {
        halves: Halves,
        deadline: Instant,
    },
    Open {
        halves: Halves,
        pulse: Pulse,
        is_confirmed: bool,
    },
}

/// The two connections, with what of their beginning is not answered yet.
struct Halves {
    writer: Wire,
    reader: Wire,
    writer_login: Login,
    reader_login: Login,
}

/// When it was heard, and asked whether it is there.
struct Pulse {
    writer: Beat,
    reader: Beat,
}

struct Beat {
    heard_at: Instant,
    /// The question is not answered.
    asked_at: Option<Instant>,
    answered_at: Instant,
}

/// How a link stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// Its first attempt is not over.
    New,
    /// Connected, and all channels confirmed.
    Good,
    Bad {
        why: String,
    },
}

/// What happened on a link that others have to know.
#[derive(Debug)]
pub enum Notice {
    /// It is not connected any more, or could not be.
    Broken,
    /// A slot belongs to another server now.
    Moved,
    /// Messages to this server, of it or of others, may be missing.
    Gap(String),
    /// Publishes were refused for good.
    Refused(String),
    /// Publishes have to wait.
    Later(String),
    /// What came is nothing that we know.
    Unreadable(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error as the server has put it.
pub fn in_words(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default()).trim_end().to_string()
}

/// What all links have in common.
pub struct Surroundings<'a> {
    pub shared: &'a Shared,
    pub registry: &'a Registry,
    pub tls: Option<&'a Arc<ClientConfig>>,
    pub now: Instant,
    /// Each connection has a stream of its own.
    pub streams: &'a mut u64,
    /// What is to be written waits until the slots have been given out anew.
    pub is_paused: bool,
    pub notices: &'a mut Vec<Notice>,
}

impl Link {
    pub fn new(
        server: ConnectionInfo,
        tokens: [Token; 2],
        words: Words,
        shared: &Shared,
        now: Instant,
    ) -> Self {
        let seed = u64::from_le_bytes(shared.node.0) ^ tokens[0].0 as u64;
        Self {
            server,
            tokens,
            outbound: Outbound::new(shared.node, words.publish, seed),
            inbound: Inbound::new(words),
            state: State::Waiting { until: now },
            backoff: Backoff::new(seed.rotate_left(32)),
            health: Health::New,
            needs_sharded: words.publish == Words::SHARDED.publish,
        }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Nothing of it is under way to the server.
    pub fn is_settled(&self) -> bool {
        !self.is_open() || self.outbound.is_settled()
    }

    /// What the kernel says of one half.
    pub fn note(&mut self, token: Token, is_readable: bool, is_writable: bool) {
        if let State::Opening { halves, .. } | State::Open { halves, .. } = &mut self.state {
            let wire = if token == self.tokens[0] { &mut halves.writer } else { &mut halves.reader };
            wire.note(is_readable, is_writable);
        }
    }

    /// When it has to have a turn again, although nothing has come. `None`: never.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } => Some(*until),
            State::Opening { deadline, .. } => Some(*deadline),
            State::Open { pulse, .. } => {
                let beat = pulse.writer.due().min(pulse.reader.due());
                // Of one that is past something else holds it back.
                let outbound = self.outbound.due().filter(|&due| due > now);
                Some(outbound.map_or(beat, |due| due.min(beat)))
            }
        }
    }

    /// There is more to read without waiting.
    pub fn has_more(&self) -> bool {
        match &self.state {
            State::Waiting { .. } => false,
            State::Opening { halves, .. } | State::Open { halves, .. } => {
                halves.writer.has_more() || halves.reader.has_more()
            }
        }
    }

    /// Reads what has come, writes what there is.
    pub fn turn(&mut self, around: &mut Surroundings<'_>) {
        let result = match &mut self.state {
            State::Waiting { until } if *until <= around.now => self.connect(around),
            State::Waiting { .. } => return,
            State::Opening { .. } => self.open(around),
            State::Open { .. } => Ok(()),
        };
        let result = result.and_then(|()| self.exchange(around));
        if let Err(broken) = result {
            self.break_off(broken, around);
        }
    }

    fn connect(&mut self, around: &mut Surroundings<'_>) -> Result<(), Broken> {
        let connect = |token| Wire::connect(self.server.addr(), around.tls, around.registry, token);
        let mut halves = Halves {
            writer: connect(self.tokens[0])?,
            reader: connect(self.tokens[1])?,
            writer_login: Login::default(),
            reader_login: Login::default(),
        };
        halves.writer_login.write(self.server.redis_settings(), halves.writer.out());
        halves.reader_login.write(self.server.redis_settings(), halves.reader.out());
        self.state = State::Opening { halves, deadline: around.now + OPEN_TIME };
        Ok(())
    }

    fn open(&mut self, around: &mut Surroundings<'_>) -> Result<(), Broken> {
        let State::Opening { halves, deadline } = &mut self.state else { return Ok(()) };
        for (wire, login) in
            [(&mut halves.writer, &mut halves.writer_login), (&mut halves.reader, &mut halves.reader_login)]
        {
            wire.flush(around.registry)?;
            let read = wire.read(|value| login.answered(&value));
            // What TLS has to say to what it has read.
            wire.flush(around.registry)?;
            read?;
        }
        if !halves.writer_login.is_over() || !halves.reader_login.is_over() {
            if around.now >= *deadline {
                return Err(Broken(format!("no answer within {} s", OPEN_TIME.as_secs())));
            }
            return Ok(());
        }
        let facts = &halves.writer_login.facts;
        facts.check(self.needs_sharded)?;
        *around.streams += 1;
        self.outbound.begin(*around.streams);
        self.inbound.begin();
        let pulse = Pulse { writer: Beat::new(around.now), reader: Beat::new(around.now) };
        let waiting = State::Waiting { until: around.now };
        if let State::Opening { halves, .. } = std::mem::replace(&mut self.state, waiting) {
            self.state = State::Open { halves, pulse, is_confirmed: false };
        }
        Ok(())
    }

    /// One turn of an open link.
    fn exchange(&mut self, around: &mut Surroundings<'_>) -> Result<(), Broken> {
        let State::Open { halves, pulse, is_confirmed } = &mut self.state else { return Ok(()) };
        let Halves { writer, reader, .. } = halves;
        let now = around.now;
        let Surroundings { shared, notices, .. } = around;
        reader.read(|value| {
            // Whatever comes says that it is there.
            pulse.reader.answered(now);
            match self.inbound.came(value)? {
                Came::Message { channel, payload } => {
                    if let Err(Undelivered::Unreadable(why)) = shared.receive(&channel, &payload) {
                        notices.push(Notice::Unreadable(why.to_string()));
                    }
                }
                Came::Nothing => {}
                Came::Moved => notices.push(Notice::Moved),
                Came::Denied { why, .. } => {
                    notices.push(Notice::Gap(format!("a topic has no channel: {why}")))
                }
            }
            Ok(())
        })?;
        writer.read(|value| {
            pulse.writer.heard(now);
            match self.outbound.answer(value, now)? {
                Answer::Taken { parcel } => {
                    shared.settle(parcel.cost());
                    shared.sent.fetch_add(u64::from(!parcel.is_note), Relaxed);
                }
                Answer::Refused { parcel, why } => {
                    shared.settle(parcel.cost());
                    if !parcel.is_note {
                        let topic = parcel.channel.strip_prefix(&shared.prefix[..]).unwrap_or_default();
                        shared.lose(&mut shared.lock(), topic);
                        notices.push(Notice::Refused(why));
                    }
                }
                Answer::Moved => notices.push(Notice::Moved),
                Answer::Later { why } => notices.push(Notice::Later(why)),
                Answer::Hello(value) => {
                    pulse.writer.answered(now);
                    // It may have been made a replica meanwhile.
                    Facts::of(&value).check(false)?;
                }
            }
            Ok(())
        })?;
        if !around.is_paused && !reader.is_crowded() {
            self.inbound.write(reader.out());
        }
        if !*is_confirmed && self.inbound.is_settled() {
            *is_confirmed = true;
            self.health = Health::Good;
            self.backoff.reset();
        }
        // Not before this server hears again what it misses.
        if *is_confirmed && !around.is_paused && !writer.is_crowded() {
            self.outbound.write(writer.out(), now);
        }
        if pulse.writer.is_to_be_asked(now)? {
            self.outbound.write_hello(writer.out());
        }
        if pulse.reader.is_to_be_asked(now)? {
            self.inbound.write_ping(reader.out());
        }
        writer.flush(around.registry)?;
        reader.flush(around.registry)
    }

    /// Ends both connections, and sets the time of the next attempt.
    pub fn break_off(&mut self, broken: Broken, around: &mut Surroundings<'_>) {
        let why = format!("{}: {broken}", self.server.addr());
        log::debug!(target: LOG, "{why}");
        let until = around.now + self.backoff.next_wait();
        self.close(around.registry, until);
        self.health = Health::Bad { why };
        around.notices.push(Notice::Broken);
    }

    pub fn close(&mut self, registry: &Registry, until: Instant) {
        let state = std::mem::replace(&mut self.state, State::Waiting { until });
        if let State::Opening { halves, .. } | State::Open { halves, .. } = state {
            halves.writer.close(registry);
            halves.reader.close(registry);
        }
    }
}

impl Beat {
    fn new(now: Instant) -> Self {
        Self { heard_at: now, asked_at: None, answered_at: now }
    }

    fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    fn answered(&mut self, now: Instant) {
        (self.asked_at, self.answered_at) = (None, now);
    }

    fn due(&self) -> Instant {
        match self.asked_at {
            None => self.answered_at + ASK_INTERVAL,
            // Much may stand in line before the question.
            Some(asked_at) => asked_at.max(self.heard_at) + ANSWER_TIME,
        }
    }

    /// It is time to ask whether anybody is there, and who.
    fn is_to_be_asked(&mut self, now: Instant) -> Result<bool, Broken> {
        if now < self.due() {
            return Ok(false);
        }
        if self.asked_at.is_some() {
            return Err(Broken(format!("no answer within {} s", ANSWER_TIME.as_secs())));
        }
        self.asked_at = Some(now);
        Ok(true)
    }
}

/// The beginning of a connection: who we are, and what it is that we speak to.
#[derive(Default)]
pub struct Login {
    steps: VecDeque<Step>,
    pub facts: Facts,
}

#[derive(Clone, Copy)]
enum Step {
    Auth,
    Hello,
    Select,
    Name,
}

/// What a server says of itself.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    /// 0: it does not say.
    pub version: u32,
    pub is_cluster: bool,
    pub is_replica: bool,
}

impl Login {
    pub fn write(&mut self, settings: &RedisConnectionInfo, out: &mut Vec<u8>) {
        if let Some(password) = settings.password() {
            let mut auth = redis::cmd("AUTH");
            if let Some(username) = settings.username() {
                auth.arg(username);
            }
            auth.arg(password).write_packed_command(out);
            self.steps.push_back(Step::Auth);
        }
        redis::cmd("HELLO").write_packed_command(out);
        self.steps.push_back(Step::Hello);
        if settings.db() != 0 {
            redis::cmd("SELECT").arg(settings.db()).write_packed_command(out);
            self.steps.push_back(Step::Select);
        }
        redis::cmd("CLIENT").arg("SETNAME").arg("fullduplex").write_packed_command(out);
        self.steps.push_back(Step::Name);
    }

    pub fn is_over(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn answered(&mut self, value: &Value) -> Result<(), Broken> {
        let step = self.steps.pop_front();
        let step = step.ok_or_else(|| Broken("it answered what was not asked".to_string()))?;
        let Value::ServerError(error) = value else {
            if let Step::Hello = step {
                self.facts = Facts::of(value);
            }
            return Ok(());
        };
        let why = match (step, error.code()) {
            (_, "NOAUTH") => "it needs a password: put it into the URL, as redis://user:password@host",
            (Step::Auth, "WRONGPASS") => "it does not know this user and password",
            (Step::Auth, _) => "it refused the password",
            (Step::Select, _) => "it refused the database",
            // Older than Redis 6, or not to be known: what needs to be known shows later.
            (Step::Hello | Step::Name, _) => return Ok(()),
        };
        Err(Broken(format!("{why} ({})", in_words(error))))
    }
}

impl Facts {
    /// From the reply to HELLO: names and values in turn.
    pub fn of(value: &Value) -> Self {
        let mut facts = Self::default();
        let Value::Array(parts) = value else { return facts };
        for pair in parts.chunks_exact(2) {
            let [Value::BulkString(name), Value::BulkString(value)] = pair else { continue };
            match &name[..] {
                b"version" => {
                    let major = value.split(|&byte| byte == b'.').next().unwrap_or_default();
                    facts.version =
                        std::str::from_utf8(major).ok().and_then(|major| major.parse().ok()).unwrap_or(0);
                }
                b"mode" => facts.is_cluster = value == b"cluster",
                b"role" => facts.is_replica = value == b"replica" || value == b"slave",
                _ => {}
            }
        }
        facts
    }

    /// The nodes of a cluster pass on what they are given, whatever they are. Else a replica keeps it
    /// to itself.
    pub fn check(&self, needs_sharded: bool) -> Result<(), Broken> {
        if self.is_replica && !self.is_cluster {
            return Err(Broken("it is a replica, which passes nothing on".to_string()));
        }
        if needs_sharded && (1..7).contains(&self.version) {
            let why = format!("Redis {} has no sharded pub/sub: set backplane.sharded = off", self.version);
            return Err(Broken(why));
        }
        Ok(())
    }
}

/// To connect and to say who we are.
const OPEN_TIME: Duration = Duration::from_secs(5);
/// Between two questions whether anybody is there; who listens need not ask while anything comes.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// A server that was stopped for some seconds and goes on has lost nothing: it is not given up.
const ANSWER_TIME: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn hello(version: &str, mode: &str, role: &str) -> Value {
        let names = ["server", "redis", "version", version, "mode", mode, "role", role];
        let mut parts: Vec<Value> = names.into_iter().map(bulk).collect();
        parts.splice(4..4, [bulk("proto"), Value::Int(2), bulk("id"), Value::Int(7)]);
        parts.extend([bulk("modules"), Value::Array(vec![])]);
        Value::Array(parts)
    }

    fn error(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    fn login(url: &str) -> (Login, String) {
        let server: ConnectionInfo = url.parse().unwrap();
        let (mut login, mut out) = (Login::default(), Vec::new());
        login.write(server.redis_settings(), &mut out);
        let lines = String::from_utf8(out).unwrap();
        let words = lines.lines().filter(|line| !line.starts_with(['*', '$']));
        (login, words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_login_says_who_we_are_as_the_url_says() {
        assert_eq!(login("redis://host").1, "HELLO CLIENT SETNAME fullduplex");
        assert_eq!(login("redis://:word@host").1, "AUTH word HELLO CLIENT SETNAME fullduplex");
        let all = "AUTH ann word HELLO SELECT 3 CLIENT SETNAME fullduplex";
        assert_eq!(login("redis://ann:word@host/3").1, all);
    }

    #[test]
    fn a_login_ends_with_its_last_answer_and_knows_what_it_speaks_to() {
        let (mut login, _) = login("redis://ann:word@host/3");
        login.answered(&Value::Okay).unwrap();
        login.answered(&hello("7.0.15", "cluster", "replica")).unwrap();
        login.answered(&Value::Okay).unwrap();
        assert!(!login.is_over());
        login.answered(&error("NOPERM no CLIENT for you")).unwrap();
        assert!(login.is_over());
        assert_eq!(login.facts, Facts { version: 7, is_cluster: true, is_replica: true });
        assert!(login.answered(&Value::Okay).is_err(), "nothing was asked");
    }

    #[test]
    fn a_refused_login_says_what_to_do_and_not_the_password() {
        for (url, answers, hint) in [
            (
                "redis://host",
                vec![error("NOAUTH HELLO must be called with the client already authenticated")],
                "put it into the URL",
            ),
            (
                "redis://a:secret@host",
                vec![error("WRONGPASS invalid username-password pair")],
                "user and password",
            ),
            (
                "redis://:secret@host",
                vec![error("ERR AUTH <password> called without any password configured")],
                "refused the password",
            ),
            (
                "redis://host/99",
                vec![hello("7.0.15", "standalone", "master"), error("ERR DB index is out of range")],
                "database",
            ),
        ] {
            let (mut login, _) = login(url);
            let last = answers.iter().map(|answer| login.answered(answer)).last().unwrap();
            let Broken(why) = last.unwrap_err();
            assert!(why.contains(hint) && !why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn a_server_too_old_to_say_hello_is_spoken_to_all_the_same() {
        let (mut login, _) = login("redis://host");
        login.answered(&error("ERR unknown command `HELLO`, with args beginning with: ")).unwrap();
        assert_eq!(login.facts.check(false), Ok(()));
        assert_eq!(login.facts.check(true), Ok(()), "whether it can is seen when it is asked to");
    }

    #[test]
    fn a_lone_replica_and_a_server_without_sharded_channels_are_not_spoken_to() {
        let check = |version, mode, role, sharded| Facts::of(&hello(version, mode, role)).check(sharded);
        assert_eq!(check("7.0.15", "standalone", "master", true), Ok(()));
        assert_eq!(check("7.0.15", "cluster", "replica", true), Ok(()));
        assert!(check("7.0.15", "standalone", "replica", false).unwrap_err().0.contains("replica"));
        assert!(check("6.2.1", "standalone", "master", true).unwrap_err().0.contains("backplane.sharded"));
        assert_eq!(check("6.2.1", "standalone", "master", false), Ok(()));
    }

    #[test]
    fn a_server_is_asked_now_and_then_and_given_up_if_it_does_not_answer() {
        let start = Instant::now();
        let mut beat = Beat::new(start);
        assert_eq!(beat.is_to_be_asked(start), Ok(false));
        // Also while it talks all the time: it may have become a replica.
        let asked = start + ASK_INTERVAL;
        beat.heard(asked);
        assert_eq!(beat.is_to_be_asked(asked), Ok(true));
        assert_eq!(beat.is_to_be_asked(asked), Ok(false));
        // A server stopped for five seconds, asked right when it stopped.
        assert_eq!(beat.is_to_be_asked(asked + Duration::from_secs(6)), Ok(false));
        // The answer stands in line behind others.
        beat.heard(asked + ANSWER_TIME);
        assert_eq!(beat.is_to_be_asked(asked + ANSWER_TIME), Ok(false));
        assert!(beat.is_to_be_asked(beat.due()).is_err());
        beat.answered(asked);
        assert_eq!(beat.is_to_be_asked(asked), Ok(false));
    }
}
