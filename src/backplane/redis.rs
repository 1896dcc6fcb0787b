//! The thread that speaks to Redis: which link has which channel, and what is told of them all.
//!
//! One thread and no blocking call for all connections, so that a stopped server holds up nothing
//! and the end of ours waits for nobody. (Only looking up a name waits for who knows names.)

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{ConnectionAddr, ConnectionInfo, Value};
use mio::{Events, Poll, Token, Waker};
use rustls::ClientConfig;

use super::inbound::Words;
use super::link::{Broken, Health, Link, Login, Notice, Surroundings, in_words};
use super::outbound::Parcel;
use super::pace::Backoff;
use super::slots::{Master, SlotMap, slot_of};
use super::wire::{Wire, tls_config};
use super::{Alarm, LOG, News, Shared, StartError};
use crate::config::BackplaneOptions;

/// The thread's own.
pub(super) struct Courier {
    shared: Arc<Shared>,
    poll: Poll,
    waker: Option<Waker>,
    servers: Vec<ConnectionInfo>,
    tls: Option<Arc<ClientConfig>>,
    words: Words,
    links: BTreeMap<usize, Link>,
    links_made: usize,
    /// Each wanted channel with the link that has it.
    wanted: HashMap<Arc<[u8]>, Option<usize>>,
    /// Publishes of which nobody knows yet where they belong.
    unrouted: VecDeque<Parcel>,
    streams: u64,
    orders: u64,
    routes: Routes,
    report: Report,
    is_stopping: bool,
}

/// Which link has which channel.
enum Routes {
    /// One link for all, to each of the servers in turn.
    One {
        link: usize,
        server: usize,
    },
    Sharded(Sharded),
}

/// Sharded pub/sub: each master has the channels of its slots.
struct Sharded {
    /// With the link of each master, if it has one yet.
    map: Option<(SlotMap, Vec<Option<usize>>)>,
    /// Asks for the map.
    scout: Option<Scout>,
    scout_at: Option<Instant>,
    /// Who is asked next.
    asked: usize,
    backoff: Backoff,
    /// The map could not be had.
    trouble: Option<String>,
    /// A new map, and until when links may take to settle what is under way.
    next: Option<(SlotMap, Instant)>,
    has_moved: bool,
}

/// One question to one server: who has which slot?
struct Scout {
    server: ConnectionInfo,
    wire: Wire,
    login: Login,
    deadline: Instant,
}

/// What was told, and what is to be.
#[derive(Default)]
struct Report {
    told: Option<News>,
    was_down: bool,
    gap: Option<String>,
    gap_told_at: Option<Instant>,
    refused: Complaints,
    later: Complaints,
    unreadable: Complaints,
}

/// Lines for the log, not one for each message.
#[derive(Default)]
struct Complaints {
    count: u64,
    last: String,
    logged_at: Option<Instant>,
}

impl Courier {
    pub fn new(shared: Arc<Shared>, options: &BackplaneOptions) -> Result<Self, StartError> {
        let poll = Poll::new().map_err(StartError::Io)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(StartError::Io)?;
        let words = if options.sharded { Words::SHARDED } else { Words::CLASSIC };
        let is_secure = |server: &ConnectionInfo| matches!(server.addr(), ConnectionAddr::TcpTls { .. });
        let tls = options.servers.iter().any(is_secure).then(|| tls(options)).transpose()?;
        let seed = u64::from_be_bytes(shared.node.0);
        let sharded = || Sharded {
            map: None,
            scout: None,
            scout_at: Some(Instant::now()),
            asked: 0,
            backoff: Backoff::new(seed),
            trouble: None,
            next: None,
            has_moved: false,
        };
        let mut courier = Self {
            shared,
            poll,
            waker: Some(waker),
            servers: options.servers.clone(),
            tls,
            words,
            links: BTreeMap::new(),
            links_made: 0,
            wanted: HashMap::new(),
            unrouted: VecDeque::new(),
            streams: 0,
            orders: 0,
            routes: Routes::One { link: 0, server: 0 },
            report: Report::default(),
            is_stopping: false,
        };
        match options.sharded {
            true => courier.routes = Routes::Sharded(sharded()),
            false => {
                let first = courier.servers[0].clone();
                courier.add_link(first, Instant::now());
            }
        }
        Ok(courier)
    }

    pub fn run(mut self) {
        if let Some(waker) = self.waker.take() {
            let _ = self.shared.alarm.set(Alarm::Poll(waker));
        }
        let mut events = Events::with_capacity(256);
        loop {
            let stop_at = self.take();
            let now = Instant::now();
            self.turn(now);
            self.tell(now);
            if stop_at.is_some_and(|stop_at| now >= stop_at || self.is_flushed()) {
                break;
            }
            let timeout = self.timeout(stop_at);
            let is_stopping = self.is_stopping;
            let Self { shared, poll, .. } = &mut self;
            shared.sleep(
                |waiting| {
                    let is_stop_new = waiting.stop_at.is_some() != is_stopping;
                    let is_new = !waiting.posts.is_empty() || !waiting.changes.is_empty();
                    is_stop_new || is_new || shared.has_notes(waiting)
                },
                |has_work| {
                    let timeout = if has_work { Some(Duration::ZERO) } else { timeout };
                    let polled = poll.poll(&mut events, timeout);
                    if polled.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                        // Whatever it lacks may be there in a while.
                        thread::park_timeout(Duration::from_millis(50));
                    }
                },
            );
            for event in &events {
                self.note(event);
            }
        }
        let left: Vec<Parcel> =
            self.links.values_mut().flat_map(|link| link.outbound.take_all()).chain(self.unrouted).collect();
        self.shared.drop_all(left.len(), left.iter().map(Parcel::cost).sum());
    }

    /// Takes what others have left, and says until when it has time to end.
    fn take(&mut self) -> Option<Instant> {
        let mut waiting = self.shared.lock();
        let (mut posts, changes) = (std::mem::take(&mut waiting.posts), std::mem::take(&mut waiting.changes));
        posts.extend(self.shared.notes(&mut waiting));
        let stop_at = waiting.stop_at;
        drop(waiting);
        self.is_stopping = stop_at.is_some();
        for (topic, is_wanted) in changes {
            self.want([&self.shared.prefix, &*topic].concat().into(), is_wanted);
        }
        for post in posts {
            self.orders += 1;
            let parcel = Parcel::new(self.orders, &self.shared.prefix, post);
            self.post(parcel);
        }
        stop_at
    }

    fn want(&mut self, channel: Arc<[u8]>, is_wanted: bool) {
        if is_wanted == self.wanted.contains_key(&channel) {
            return;
        }
        if is_wanted {
            let link = self.link_for(&channel);
            if let Some(link) = link.and_then(|index| self.links.get_mut(&index)) {
                link.inbound.want(&channel, true);
            }
            self.wanted.insert(channel, link);
        } else {
            let link = self.wanted.remove(&channel).flatten();
            if let Some(link) = link.and_then(|index| self.links.get_mut(&index)) {
                link.inbound.want(&channel, false);
            }
        }
    }

    fn post(&mut self, parcel: Parcel) {
        let link = self.link_for(&parcel.channel);
        match link.and_then(|index| self.links.get_mut(&index)) {
            Some(link) => link.outbound.push(parcel),
            None => self.unrouted.push_back(parcel),
        }
    }

    /// The link that has a channel, made if there is none yet; `None` while that is not known.
    fn link_for(&mut self, channel: &[u8]) -> Option<usize> {
        let sharded = match &self.routes {
            Routes::One { link, .. } => return Some(*link),
            Routes::Sharded(sharded) => sharded,
        };
        let (map, links) = sharded.map.as_ref()?;
        let owner = map.owner(slot_of(channel));
        if links[owner].is_some() {
            return links[owner];
        }
        let server = server_of(&self.servers[0], &map.masters[owner]);
        let index = self.add_link(server, Instant::now());
        if let Routes::Sharded(Sharded { map: Some((_, links)), .. }) = &mut self.routes {
            links[owner] = Some(index);
        }
        Some(index)
    }

    fn add_link(&mut self, server: ConnectionInfo, now: Instant) -> usize {
        let index = self.links_made;
        self.links_made += 1;
        let tokens = [Token(FIRST_LINK.0 + 2 * index), Token(FIRST_LINK.0 + 2 * index + 1)];
        self.links.insert(index, Link::new(server, tokens, self.words, &self.shared, now));
        index
    }

    fn note(&mut self, event: &mio::event::Event) {
        let (is_readable, is_writable) =
            (event.is_readable() || event.is_read_closed(), event.is_writable() || event.is_error());
        match event.token() {
            WAKER => {}
            SCOUT => {
                if let Routes::Sharded(Sharded { scout: Some(scout), .. }) = &mut self.routes {
                    scout.wire.note(is_readable, is_writable);
                }
            }
            token => {
                if let Some(link) = self.links.get_mut(&((token.0 - FIRST_LINK.0) / 2)) {
                    link.note(token, is_readable, is_writable);
                }
            }
        }
    }

    /// Everybody reads what has come and writes what there is.
    fn turn(&mut self, now: Instant) {
        let is_paused = matches!(&self.routes, Routes::Sharded(Sharded { next: Some(_), .. }));
        let mut notices = Vec::new();
        for (&index, link) in &mut self.links {
            let before = notices.len();
            let mut around = Surroundings {
                shared: &self.shared,
                registry: self.poll.registry(),
                tls: self.tls.as_ref(),
                now,
                streams: &mut self.streams,
                is_paused,
                notices: &mut notices,
            };
            link.turn(&mut around);
            let is_broken = notices[before..].iter().any(|notice| matches!(notice, Notice::Broken));
            if let Routes::One { link: one, server } = &mut self.routes {
                if is_broken && index == *one {
                    *server = (*server + 1) % self.servers.len();
                    link.server = self.servers[*server].clone();
                }
            }
        }
        for notice in notices {
            self.heed(notice, now);
        }
        if matches!(self.routes, Routes::Sharded(_)) {
            self.scout(now);
            self.follow_map(now);
        }
    }

    fn heed(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Gap(why) => self.report.gap = Some(why),
            Notice::Refused(why) => self.report.refused.add(why),
            Notice::Later(why) => self.report.later.add(why),
            Notice::Unreadable(why) => self.report.unreadable.add(why),
            Notice::Broken => self.ask_for_map(now),
            Notice::Moved => {
                if let Routes::Sharded(sharded) = &mut self.routes {
                    sharded.has_moved = true;
                }
                self.ask_for_map(now);
            }
        }
    }

    fn ask_for_map(&mut self, now: Instant) {
        if let Routes::Sharded(sharded) = &mut self.routes {
            let is_coming = sharded.scout.is_some() || sharded.next.is_some();
            if !is_coming && sharded.scout_at.is_none() {
                sharded.scout_at = Some(now + sharded.backoff.next_wait());
            }
        }
    }

    /// Asks for the map, if it is time to, and goes on with asking.
    fn scout(&mut self, now: Instant) {
        let Routes::Sharded(sharded) = &mut self.routes else { return };
        let registry = self.poll.registry();
        if sharded.scout.is_none() && sharded.scout_at.is_some_and(|at| at <= now) {
            sharded.scout_at = None;
            let server = sharded.next_to_ask(&self.servers);
            let wire = Wire::connect(server.addr(), self.tls.as_ref(), registry, SCOUT);
            match wire {
                Ok(wire) => sharded.scout = Some(Scout::new(server, wire, now)),
                Err(broken) => sharded.map_failed(&server, &broken.0, now),
            }
        }
        let Some(scout) = &mut sharded.scout else { return };
        let answer = match scout.turn(registry, now) {
            Ok(None) => return,
            Ok(Some(map)) => Ok(map),
            Err(broken) => Err(broken),
        };
        let Some(Scout { server, wire, .. }) = sharded.scout.take() else { return };
        wire.close(registry);
        match answer {
            Ok(map) => {
                sharded.trouble = None;
                sharded.next = Some((map, now + SETTLE_TIME));
            }
            Err(broken) => sharded.map_failed(&server, &broken.0, now),
        }
    }

    /// Gives out channels and publishes anew, once nothing is under way that could be overtaken.
    fn follow_map(&mut self, now: Instant) {
        let Routes::Sharded(sharded) = &mut self.routes else { return };
        let Some((_, deadline)) = &sharded.next else { return };
        let is_late = now >= *deadline;
        let mut notices = Vec::new();
        for link in self.links.values_mut().filter(|link| !link.is_settled()) {
            if !is_late {
                return;
            }
            let mut around = Surroundings {
                shared: &self.shared,
                registry: self.poll.registry(),
                tls: self.tls.as_ref(),
                now,
                streams: &mut self.streams,
                is_paused: true,
                notices: &mut notices,
            };
            link.break_off(Broken("it did not answer while the slots moved".to_string()), &mut around);
        }
        let Some((map, _)) = sharded.next.take() else { return };
        let has_moved = std::mem::take(&mut sharded.has_moved);
        let old = sharded.map.take();
        let is_new = old.as_ref().is_none_or(|(old, _)| *old != map);
        if !is_new && !has_moved {
            // It is as it was, and who could not be reached is asked again in its time.
            sharded.map = old;
            return;
        }
        if is_new {
            sharded.backoff.reset();
        }
        let link_of = |master: &Master| {
            let (old_map, links) = old.as_ref()?;
            links[old_map.masters.iter().position(|known| known == master)?]
        };
        let links: Vec<Option<usize>> = map.masters.iter().map(link_of).collect();
        let gone: Vec<usize> =
            self.links.keys().copied().filter(|index| !links.contains(&Some(*index))).collect();
        sharded.map = Some((map, links));
        let mut parcels: Vec<Parcel> = self.unrouted.drain(..).collect();
        for link in self.links.values_mut() {
            parcels.extend(link.outbound.take_all());
        }
        parcels.sort_by_key(|parcel| parcel.order);
        for index in gone {
            if let Some(mut link) = self.links.remove(&index) {
                link.close(self.poll.registry(), now);
            }
        }
        self.give_out_channels();
        for parcel in parcels {
            self.post(parcel);
        }
        if has_moved {
            self.report.gap = Some("channels moved to other servers of the cluster".to_string());
            // Until the cluster has come to terms with itself, maps may be older than what moved.
            self.ask_for_map(now);
        }
    }

    fn give_out_channels(&mut self) {
        let mut wanted = std::mem::take(&mut self.wanted);
        for (channel, owner) in &mut wanted {
            let new = self.link_for(channel);
            if new == *owner {
                continue;
            }
            if let Some(link) = owner.and_then(|index| self.links.get_mut(&index)) {
                link.inbound.want(channel, false);
            }
            if let Some(link) = new.and_then(|index| self.links.get_mut(&index)) {
                link.inbound.want(channel, true);
            }
            *owner = new;
        }
        self.wanted = wanted;
    }

    /// Nothing is left to hand over, or nobody to hand it to.
    fn is_flushed(&self) -> bool {
        let is_empty = self.unrouted.is_empty() && self.links.values().all(|link| link.outbound.is_empty());
        is_empty || !self.links.values().any(Link::is_open)
    }

    /// How long the thread may sleep. `None`: until something comes.
    fn timeout(&self, stop_at: Option<Instant>) -> Option<Duration> {
        if self.links.values().any(Link::has_more) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let mut due: Vec<Instant> = self.links.values().filter_map(|link| link.due(now)).collect();
        if let Routes::Sharded(sharded) = &self.routes {
            if sharded.scout.as_ref().is_some_and(|scout| scout.wire.has_more()) {
                return Some(Duration::ZERO);
            }
            due.extend(sharded.scout.as_ref().map(|scout| scout.deadline));
            due.extend(sharded.scout_at);
            due.extend(sharded.next.as_ref().map(|(_, deadline)| *deadline));
        }
        due.extend(stop_at);
        due.extend(self.report.due().filter(|&due| due > now));
        due.extend(self.shared.tell_gap(now));
        due.into_iter().min().map(|due| due.saturating_duration_since(now))
    }

    /// How it stands with all together.
    fn health(&self) -> Health {
        let mut health = Health::Good;
        if let Routes::Sharded(sharded) = &self.routes {
            match (&sharded.trouble, &sharded.map) {
                (Some(why), None) => return Health::Bad { why: why.clone() },
                (None, None) => return Health::New,
                (_, Some(_)) => {}
            }
        }
        for link in self.links.values() {
            match link.health() {
                Health::Good => {}
                Health::New => health = Health::New,
                bad @ Health::Bad { .. } => return bad.clone(),
            }
        }
        health
    }

    fn tell(&mut self, now: Instant) {
        let health = self.health();
        let is_whole = self.links.values().all(|link| link.inbound.is_settled());
        let Self { report, shared, .. } = self;
        match health {
            Health::Bad { why } if report.told != Some(News::Down) => {
                report.told = Some(News::Down);
                report.was_down = true;
                shared.tell(News::Down, &why);
            }
            Health::Good if report.told != Some(News::Up) => {
                report.told = Some(News::Up);
                let servers: Vec<String> =
                    self.links.values().map(|link| link.server.addr().to_string()).collect();
                shared.tell(News::Up, &servers.join(", "));
                if report.was_down {
                    report.gap = None;
                    shared.tell(News::Gap, "the connection was down");
                }
            }
            _ => {}
        }
        let is_time = report.gap_told_at.is_none_or(|at| now >= at + COMPLAINT_INTERVAL);
        if report.told == Some(News::Up) && is_whole && is_time {
            if let Some(why) = report.gap.take() {
                report.gap_told_at = Some(now);
                shared.tell(News::Gap, &why);
            }
        }
        report.refused.log(now, "publishes were refused and are lost");
        report.later.log(now, "publishes wait");
        report.unreadable.log(now, "messages of others were not understood");
    }
}

fn tls(options: &BackplaneOptions) -> Result<Arc<ClientConfig>, StartError> {
    let Some(path) = &options.ca else {
        return tls_config(None).map_err(|_| {
            StartError::Tls("the system names nobody to trust: set the option \"backplane.ca\"".to_string())
        });
    };
    let failed = |why: String| StartError::Tls(format!("backplane.ca = {}: {why}", path.display()));
    let pem = fs::read(path).map_err(|error| failed(format!("can't be read: {error}")))?;
    tls_config(Some(&pem)).map_err(failed)
}

/// A master is spoken to as the first server is.
fn server_of(first: &ConnectionInfo, master: &Master) -> ConnectionInfo {
    let Master { host, port } = master.clone();
    match first.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            let (insecure, tls_params) = (*insecure, tls_params.clone());
            first.clone().set_addr(ConnectionAddr::TcpTls { host, port, insecure, tls_params })
        }
        _ => first.clone().set_addr(ConnectionAddr::Tcp(host, port)),
    }
}

impl Sharded {
    /// The servers of the option and the masters known last, in turn.
    fn next_to_ask(&mut self, servers: &[ConnectionInfo]) -> ConnectionInfo {
        let masters = self.map.as_ref().map_or(&[][..], |(map, _)| &map.masters);
        let index = self.asked % (servers.len() + masters.len());
        self.asked += 1;
        match servers.get(index) {
            Some(server) => server.clone(),
            None => server_of(&servers[0], &masters[index - servers.len()]),
        }
    }

    fn map_failed(&mut self, server: &ConnectionInfo, why: &str, now: Instant) {
        let why = format!("{}: {why}", server.addr());
        log::debug!(target: LOG, "no map of the cluster from {why}");
        self.trouble = Some(why);
        self.scout_at = Some(now + self.backoff.next_wait());
    }
}

impl Scout {
    fn new(server: ConnectionInfo, mut wire: Wire, now: Instant) -> Self {
        let mut login = Login::default();
        login.write(server.redis_settings(), wire.out());
        ::redis::cmd("CLUSTER").arg("SLOTS").write_packed_command(wire.out());
        Self { server, wire, login, deadline: now + SCOUT_TIME }
    }

    fn turn(&mut self, registry: &mio::Registry, now: Instant) -> Result<Option<SlotMap>, Broken> {
        let Self { server, wire, login, deadline } = self;
        let mut reply = None;
        wire.flush(registry)?;
        let read = wire.read(|value| {
            if login.is_over() {
                reply = Some(value);
                return Ok(());
            }
            login.answered(&value)
        });
        let flushed = wire.flush(registry);
        let Some(reply) = reply else {
            read?;
            flushed?;
            return match now >= *deadline {
                true => Err(Broken("no answer in time".to_string())),
                false => Ok(None),
            };
        };
        login.facts.check(true)?;
        slot_map(server, &reply).map(Some).map_err(Broken)
    }
}

fn slot_map(server: &ConnectionInfo, reply: &Value) -> Result<SlotMap, String> {
    let (host, port) = match server.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (&host[..], *port),
        _ => return Err("sharded pub/sub needs redis:// or rediss://".to_string()),
    };
    match reply {
        Value::ServerError(error)
            if error.details().is_some_and(|why| why.contains("cluster support disabled")) =>
        {
            Ok(SlotMap::single(Master { host: host.to_string(), port }))
        }
        Value::ServerError(error) => Err(format!("CLUSTER SLOTS was answered by {}", in_words(error))),
        reply => SlotMap::from_reply(reply, host),
    }
}

impl Report {
    fn due(&self) -> Option<Instant> {
        let gap = self.gap.as_ref().and(self.gap_told_at).map(|at| at + COMPLAINT_INTERVAL);
        let complaints =
            [&self.refused, &self.later, &self.unreadable].into_iter().filter_map(Complaints::due);
        complaints.chain(gap).min()
    }
}

impl Complaints {
    fn add(&mut self, why: String) {
        (self.count, self.last) = (self.count + 1, why);
    }

    fn due(&self) -> Option<Instant> {
        (self.count > 0).then_some(self.logged_at?).map(|at| at + COMPLAINT_INTERVAL)
    }

    fn log(&mut self, now: Instant, what: &str) {
        if self.count > 0 && self.due().is_none_or(|due| now >= due) {
            log::warn!(target: LOG, "{what}: {}, the last because of {}", self.count, self.last);
            (self.count, self.logged_at) = (0, Some(now));
        }
    }
}

const WAKER: Token = Token(0);
const SCOUT: Token = Token(1);
const FIRST_LINK: Token = Token(2);
const SCOUT_TIME: Duration = Duration::from_secs(5);
/// For what is under way when slots have moved.
const SETTLE_TIME: Duration = Duration::from_secs(5);
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);
