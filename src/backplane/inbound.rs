//! What comes in on one connection: channels asked for, confirmed, lost, and their messages. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use redis::Value;

use super::link::{Broken, in_words};
use super::slots::slot_of;

/// The subscribing half of a link to one server.
pub struct Inbound {
    words: Words,
    channels: HashMap<Arc<[u8]>, Channel>,
    /// Channels for which what is wanted may differ from what was asked for.
    todo: VecDeque<Arc<[u8]>>,
    /// In the order of their answers.
    asked: VecDeque<Asked>,
    /// Channels in `asked`.
    under_way: usize,
    /// Channels that are wanted and neither confirmed nor denied.
    unsettled: usize,
}

/// A channel of which something is or was wanted.
#[derive(Default)]
struct Channel {
    is_wanted: bool,
    /// The last that was asked for is to have it.
    is_asked: bool,
    is_settled: bool,
    is_in_todo: bool,
    /// It was denied together with others, and now asks for itself.
    is_alone: bool,
    /// Commands about it that are not answered.
    answers_due: u32,
}

struct Asked {
    what: What,
    channels: VecDeque<Arc<[u8]>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Subscribe,
    Unsubscribe,
    Ping,
}

/// The classic commands, or those of sharded pub/sub.
#[derive(Clone, Copy)]
pub struct Words {
    pub publish: &'static str,
    subscribe: &'static str,
    unsubscribe: &'static str,
    subscribed: &'static [u8],
    unsubscribed: &'static [u8],
    message: &'static [u8],
    /// Channels of one command must lie in one slot.
    by_slot: bool,
}

/// What came.
#[derive(PartialEq, Debug)]
pub enum Came {
    Message {
        channel: Vec<u8>,
        payload: Vec<u8>,
    },
    /// Nothing that anybody has to know of.
    Nothing,
    /// A channel belongs to another server now.
    Moved,
    /// The server does not let us have a channel, now and as long as it is connected.
    Denied {
        channel: Arc<[u8]>,
        why: String,
    },
}

impl Words {
    pub const CLASSIC: Self = Self {
        publish: "PUBLISH",
        subscribe: "SUBSCRIBE",
        unsubscribe: "UNSUBSCRIBE",
        subscribed: b"subscribe",
        unsubscribed: b"unsubscribe",
        message: b"message",
        by_slot: false,
    };
    pub const SHARDED: Self = Self {
        publish: "SPUBLISH",
        subscribe: "SSUBSCRIBE",
        unsubscribe: "SUNSUBSCRIBE",
        subscribed: b"ssubscribe",
        unsubscribed: b"sunsubscribe",
        message: b"smessage",
        by_slot: true,
    };
}

impl Inbound {
    pub fn new(words: Words) -> Self {
        Self {
            words,
            channels: HashMap::new(),
            todo: VecDeque::new(),
            asked: VecDeque::new(),
            under_way: 0,
            unsettled: 0,
        }
    }

    /// A new connection, which has no channel yet.
    pub fn begin(&mut self) {
        self.asked.clear();
        self.under_way = 0;
        self.channels.retain(|_, channel| channel.is_wanted);
        self.unsettled = self.channels.len();
        self.todo = self.channels.keys().cloned().collect();
        for channel in self.channels.values_mut() {
            *channel = Channel { is_wanted: true, is_in_todo: true, ..Channel::default() };
        }
    }

    pub fn want(&mut self, name: &Arc<[u8]>, is_wanted: bool) {
        if !is_wanted && !self.channels.contains_key(name) {
            return;
        }
        let channel = self.channels.entry(name.clone()).or_default();
        if channel.is_wanted == is_wanted {
            return;
        }
        channel.is_wanted = is_wanted;
        match is_wanted {
            // Whatever was confirmed before is being taken back.
            true => {
                channel.is_settled = false;
                self.unsettled += 1;
            }
            false if channel.is_settled => channel.is_settled = false,
            false => self.unsettled -= 1,
        }
        self.put_in_todo(name);
    }

    fn put_in_todo(&mut self, name: &Arc<[u8]>) {
        if let Some(channel) = self.channels.get_mut(name).filter(|channel| !channel.is_in_todo) {
            channel.is_in_todo = true;
            self.todo.push_back(name.clone());
        }
    }

    /// Every channel that is wanted is confirmed, or denied.
    pub fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    /// Asks for what is wanted, in commands of many channels, as much as may be under way.
    pub fn write(&mut self, out: &mut Vec<u8>) {
        while self.under_way < UNDER_WAY_MAX {
            let Some((what, is_alone, name)) = self.next_difference() else { return };
            let mut names = VecDeque::from([name]);
            let slot = slot_of(&names[0]);
            while !is_alone && names.len() < BATCH {
                let next = self.next_difference();
                match next {
                    Some((next_what, false, next_name))
                        if next_what == what && (!self.words.by_slot || slot_of(&next_name) == slot) =>
                    {
                        names.push_back(next_name);
                    }
                    Some((_, _, next_name)) => {
                        self.channels.get_mut(&next_name).expect("it was found there").is_in_todo = true;
                        self.todo.push_front(next_name);
                        break;
                    }
                    None => break,
                }
            }
            let word = match what {
                What::Subscribe => self.words.subscribe,
                _ => self.words.unsubscribe,
            };
            let mut command = redis::cmd(word);
            for name in &names {
                command.arg(&**name);
                let channel = self.channels.get_mut(name).expect("it was found there");
                channel.is_asked = what == What::Subscribe;
                channel.answers_due += 1;
            }
            command.write_packed_command(out);
            self.under_way += names.len();
            self.asked.push_back(Asked { what, channels: names });
        }
    }

    /// The next channel that is to be asked for, or to be given back, taken out of `todo`.
    fn next_difference(&mut self) -> Option<(What, bool, Arc<[u8]>)> {
        while let Some(name) = self.todo.pop_front() {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            channel.is_in_todo = false;
            match (channel.is_wanted, channel.is_asked) {
                (true, false) => return Some((What::Subscribe, channel.is_alone, name)),
                (false, true) => return Some((What::Unsubscribe, channel.is_alone, name)),
                // It changed twice before anybody was asked.
                (true, true) => self.settle(&name),
                (false, false) => self.forget_if_over(&name),
            }
        }
        None
    }

    /// Drops a channel that nobody wants and for which no answer is due.
    fn forget_if_over(&mut self, name: &Arc<[u8]>) {
        let is_over = self.channels.get(name).is_some_and(|channel| {
            !channel.is_wanted && !channel.is_asked && !channel.is_in_todo && channel.answers_due == 0
        });
        if is_over {
            self.channels.remove(name);
        }
    }

    /// Asks whether anybody is there.
    pub fn write_ping(&mut self, out: &mut Vec<u8>) {
        redis::cmd("PING").write_packed_command(out);
        self.asked.push_back(Asked { what: What::Ping, channels: VecDeque::new() });
    }

    pub fn came(&mut self, value: Value) -> Result<Came, Broken> {
        let unasked = || Broken("it sent what was not asked".to_string());
        match value {
            Value::Array(parts) => self.array(parts),
            // The answer to PING while nothing is subscribed.
            Value::SimpleString(_) => self.pong().ok_or_else(unasked),
            Value::ServerError(error) => self.error(&error).ok_or_else(unasked)?,
            _ => Err(unasked()),
        }
    }

    fn array(&mut self, parts: Vec<Value>) -> Result<Came, Broken> {
        let unasked = || Broken("it sent what was not asked".to_string());
        let mut parts = parts.into_iter();
        let Some(Value::BulkString(kind)) = parts.next() else { return Err(unasked()) };
        let (first, second) = (parts.next(), parts.next());
        if kind == self.words.message {
            let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (first, second) else {
                return Err(unasked());
            };
            return Ok(Came::Message { channel, payload });
        }
        if kind == b"pong" {
            return self.pong().ok_or_else(unasked);
        }
        let Some(Value::BulkString(name)) = first else { return Err(unasked()) };
        if kind == self.words.subscribed {
            let name = self.answered(What::Subscribe, &name).ok_or_else(unasked)?;
            self.settle(&name);
            return Ok(Came::Nothing);
        }
        if kind != self.words.unsubscribed {
            return Err(unasked());
        }
        match self.answered(What::Unsubscribe, &name) {
            Some(name) => {
                self.forget_if_over(&name);
                Ok(Came::Nothing)
            }
            // The server says of itself that the channel is not here any more.
            None => Ok(self.take_back(&name[..].into())),
        }
    }

    fn pong(&mut self) -> Option<Came> {
        let front = self.asked.front()?;
        (front.what == What::Ping).then(|| {
            self.asked.pop_front();
            Came::Nothing
        })
    }

    /// The channel, if it is the next that was asked for in this way.
    fn answered(&mut self, what: What, name: &[u8]) -> Option<Arc<[u8]>> {
        let front = self.asked.front_mut()?;
        if front.what != what || front.channels.front().is_none_or(|next| **next != *name) {
            return None;
        }
        let name = front.channels.pop_front()?;
        self.under_way -= 1;
        if front.channels.is_empty() {
            self.asked.pop_front();
        }
        self.count_answer(&name);
        Some(name)
    }

    fn count_answer(&mut self, name: &Arc<[u8]>) {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.answers_due = channel.answers_due.saturating_sub(1);
        }
    }

    fn settle(&mut self, name: &Arc<[u8]>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        // A confirmation that a later command takes back confirms nothing.
        let is_last_word = channel.is_wanted && channel.is_asked && channel.answers_due == 0;
        if is_last_word && !channel.is_settled {
            channel.is_settled = true;
            self.unsettled -= 1;
        }
    }

    fn take_back(&mut self, name: &Arc<[u8]>) -> Came {
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.is_asked) else {
            return Came::Nothing;
        };
        channel.is_asked = false;
        if !channel.is_wanted {
            self.forget_if_over(name);
            return Came::Nothing;
        }
        if std::mem::take(&mut channel.is_settled) {
            self.unsettled += 1;
        }
        self.put_in_todo(name);
        Came::Moved
    }

    /// An error answers a whole command.
    fn error(&mut self, error: &redis::ServerError) -> Option<Result<Came, Broken>> {
        let mut asked = self.asked.pop_front()?;
        self.under_way -= asked.channels.len();
        for name in &asked.channels {
            self.count_answer(name);
        }
        let why = in_words(error);
        if asked.what != What::Subscribe {
            // Who may not PING is there all the same; who may not give back a channel hears more
            // than it wants.
            for name in &asked.channels {
                self.forget_if_over(name);
            }
            return Some(Ok(Came::Nothing));
        }
        match error.code() {
            "MOVED" | "ASK" => {
                for name in &asked.channels {
                    self.take_back(name);
                }
                Some(Ok(Came::Moved))
            }
            "NOPERM" if asked.channels.len() > 1 => {
                // Some of them may be allowed.
                for name in &asked.channels {
                    if let Some(channel) = self.channels.get_mut(name) {
                        (channel.is_asked, channel.is_alone) = (false, true);
                    }
                    self.put_in_todo(name);
                }
                Some(Ok(Came::Nothing))
            }
            "NOPERM" => {
                let name = asked.channels.pop_front()?;
                self.settle(&name);
                Some(Ok(Came::Denied { channel: name, why }))
            }
            _ => Some(Err(Broken(format!("{} was answered by {why}", self.words.subscribe)))),
        }
    }
}

/// Channels of one command.
const BATCH: usize = 256;
/// Channels asked for and not answered.
const UNDER_WAY_MAX: usize = 16 * BATCH;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn reply(kind: &str, channel: &str) -> Value {
        Value::Array(vec![bulk(kind), bulk(channel), Value::Int(1)])
    }

    fn error(line: &str) -> Value {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap()
    }

    fn inbound(words: Words, channels: &[&str]) -> Inbound {
        let mut inbound = Inbound::new(words);
        for channel in channels {
            inbound.want(&name(channel), true);
        }
        inbound.begin();
        inbound
    }

    /// The commands written now, each a line, channels sorted.
    fn written(inbound: &mut Inbound) -> Vec<String> {
        let mut out = Vec::new();
        inbound.write(&mut out);
        let mut rest = &out[..];
        let mut lines = Vec::new();
        let mut parser = redis::Parser::new();
        while let Ok(Value::Array(words)) = parser.parse_value(&mut rest) {
            let mut words: Vec<String> = words
                .into_iter()
                .map(|word| match word {
                    Value::BulkString(bytes) => String::from_utf8(bytes).unwrap(),
                    other => panic!("{other:?}"),
                })
                .collect();
            words[1..].sort();
            lines.push(words.join(" "));
        }
        lines
    }

    #[test]
    fn many_channels_are_asked_for_with_one_command_and_settled_by_their_answers() {
        let mut inbound = inbound(Words::CLASSIC, &["a"]);
        assert!(!inbound.is_settled());
        assert_eq!(written(&mut inbound), ["SUBSCRIBE a"]);
        inbound.want(&name("b"), true);
        inbound.want(&name("c"), true);
        assert_eq!(written(&mut inbound), ["SUBSCRIBE b c"]);
        for channel in ["a", "b", "c"] {
            assert!(!inbound.is_settled());
            assert_eq!(inbound.came(reply("subscribe", channel)), Ok(Came::Nothing));
        }
        assert!(inbound.is_settled());
        let message = Value::Array(vec![bulk("message"), bulk("a"), bulk("hello")]);
        let came = Came::Message { channel: b"a".to_vec(), payload: b"hello".to_vec() };
        assert_eq!(inbound.came(message), Ok(came));
    }

    #[test]
    fn a_hundred_thousand_channels_go_out_in_batches_as_they_are_answered() {
        let mut inbound = Inbound::new(Words::CLASSIC);
        for number in 0..100_000 {
            inbound.want(&name(&format!("room:{number}")), true);
        }
        inbound.begin();
        let (mut commands, mut rounds) = (0, 0);
        while !inbound.is_settled() {
            let lines = written(&mut inbound);
            assert!(inbound.under_way <= UNDER_WAY_MAX);
            commands += lines.len();
            rounds += 1;
            while let Some(asked) = inbound.asked.front() {
                let channel = asked.channels[0].clone();
                let reply = reply("subscribe", std::str::from_utf8(&channel).unwrap());
                assert_eq!(inbound.came(reply), Ok(Came::Nothing));
            }
        }
        assert_eq!(commands, 100_000_usize.div_ceil(BATCH));
        assert_eq!(rounds, 100_000_usize.div_ceil(UNDER_WAY_MAX));
    }

    #[test]
    fn a_channel_that_comes_and_goes_is_asked_for_as_it_stands_in_the_end() {
        let mut inbound = inbound(Words::CLASSIC, &["a"]);
        inbound.want(&name("b"), true);
        inbound.want(&name("b"), false);
        assert_eq!(written(&mut inbound), ["SUBSCRIBE a"]);
        assert!(!inbound.channels.contains_key(&name("b")), "nothing is left of it");
        inbound.want(&name("a"), false);
        assert!(inbound.is_settled(), "nothing is wanted");
        assert_eq!(written(&mut inbound), ["UNSUBSCRIBE a"]);
        inbound.want(&name("a"), true);
        assert_eq!(written(&mut inbound), ["SUBSCRIBE a"]);
        for kind in ["subscribe", "unsubscribe", "subscribe"] {
            assert!(!inbound.is_settled());
            inbound.came(reply(kind, "a")).unwrap();
        }
        assert!(inbound.is_settled());
        inbound.want(&name("a"), false);
        inbound.want(&name("a"), true);
        assert!(!inbound.is_settled());
        assert_eq!(written(&mut inbound), [""; 0]);
        assert!(inbound.is_settled(), "it never was given back");
        inbound.want(&name("a"), false);
        assert_eq!(written(&mut inbound), ["UNSUBSCRIBE a"]);
        inbound.came(reply("unsubscribe", "a")).unwrap();
        assert!(inbound.channels.is_empty());
    }

    #[test]
    fn a_new_connection_asks_for_everything_that_is_still_wanted() {
        let mut inbound = inbound(Words::CLASSIC, &["a", "b"]);
        written(&mut inbound);
        inbound.want(&name("b"), false);
        inbound.want(&name("c"), true);
        inbound.begin();
        assert_eq!(written(&mut inbound), ["SUBSCRIBE a c"]);
        inbound.write_ping(&mut Vec::new());
        inbound.begin();
        assert!(inbound.came(Value::Array(vec![bulk("pong"), bulk("")])).is_err(), "asked of the old one");
    }

    #[test]
    fn sharded_channels_share_a_command_only_within_a_slot() {
        let mut inbound = Inbound::new(Words::SHARDED);
        for channel in ["{x}1", "{x}2", "{y}1", "{y}2"] {
            inbound.want(&name(channel), true);
        }
        assert_eq!(written(&mut inbound), ["SSUBSCRIBE {x}1 {x}2", "SSUBSCRIBE {y}1 {y}2"]);
        for channel in ["{x}1", "{x}2", "{y}1", "{y}2"] {
            inbound.came(reply("ssubscribe", channel)).unwrap();
        }
        // A slot moves, and the server says so of itself.
        assert_eq!(inbound.came(reply("sunsubscribe", "{x}1")), Ok(Came::Moved));
        assert!(!inbound.is_settled());
        inbound.want(&name("{x}1"), false);
        assert!(inbound.is_settled());
        assert_eq!(written(&mut inbound), [""; 0]);
        // What it takes back while it is given back is no news.
        inbound.want(&name("{y}1"), false);
        assert_eq!(written(&mut inbound), ["SUNSUBSCRIBE {y}1"]);
        assert_eq!(inbound.came(reply("sunsubscribe", "{y}1")), Ok(Came::Nothing));
        assert_eq!(inbound.came(reply("sunsubscribe", "{y}1")), Ok(Came::Nothing));
    }

    #[test]
    fn a_channel_that_has_moved_is_told_of_and_still_wanted() {
        let mut inbound = inbound(Words::SHARDED, &["a"]);
        written(&mut inbound);
        assert_eq!(inbound.came(error("MOVED 15495 127.0.0.1:7001")), Ok(Came::Moved));
        assert!(!inbound.is_settled());
        assert_eq!(written(&mut inbound), ["SSUBSCRIBE a"]);
    }

    #[test]
    fn of_channels_denied_together_each_is_asked_for_alone_and_only_the_denied_are_done_without() {
        let mut inbound = inbound(Words::CLASSIC, &["a", "b"]);
        assert_eq!(written(&mut inbound), ["SUBSCRIBE a b"]);
        let denial = "NOPERM this user has no permissions to access one of the channels";
        assert_eq!(inbound.came(error(denial)), Ok(Came::Nothing));
        let mut lines = written(&mut inbound);
        for line in &lines {
            match &line[..] {
                "SUBSCRIBE a" => assert_eq!(inbound.came(reply("subscribe", "a")), Ok(Came::Nothing)),
                _ => assert!(matches!(inbound.came(error(denial)), Ok(Came::Denied { channel, .. })
                    if *channel == *b"b")),
            }
        }
        lines.sort();
        assert_eq!(lines, ["SUBSCRIBE a", "SUBSCRIBE b"]);
        assert!(inbound.is_settled());
    }

    #[test]
    fn any_other_refusal_and_what_was_not_asked_for_break_the_connection() {
        let mut bench = inbound(Words::SHARDED, &["a"]);
        written(&mut bench);
        let broken = bench.came(error("ERR unknown command 'SSUBSCRIBE'")).unwrap_err();
        assert!(broken.0.contains("SSUBSCRIBE") && broken.0.contains("unknown command"), "{}", broken.0);
        for value in [
            Value::Nil,
            Value::Int(1),
            Value::SimpleString("PONG".to_string()),
            Value::Array(vec![]),
            Value::Array(vec![bulk("message"), bulk("a")]),
            Value::Array(vec![bulk("subscribe")]),
            reply("subscribe", "other"),
            reply("psubscribe", "a"),
            error("ERR out of the blue"),
        ] {
            let mut bench = inbound(Words::CLASSIC, &[]);
            assert!(bench.came(value.clone()).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_ping_is_answered_in_either_form_and_in_its_turn() {
        let mut inbound = inbound(Words::CLASSIC, &["a"]);
        inbound.write_ping(&mut Vec::new());
        assert_eq!(inbound.came(Value::SimpleString("PONG".to_string())), Ok(Came::Nothing));
        written(&mut inbound);
        inbound.write_ping(&mut Vec::new());
        let pong = || Value::Array(vec![bulk("pong"), bulk("")]);
        assert!(inbound.came(pong()).is_err(), "the subscription comes first");
        inbound.came(reply("subscribe", "a")).unwrap();
        assert_eq!(inbound.came(pong()), Ok(Came::Nothing));
    }
}
