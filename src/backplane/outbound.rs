//! What goes out on one connection: publishes written, acknowledged, refused, written again. Pure.

use std::collections::VecDeque;
use std::time::Instant;

use redis::Value;

use super::Post;
use super::envelope::{NodeId, Publisher};
use super::heard::WINDOW;
use super::link::{Broken, in_words};
use super::pace::Backoff;

/// The publishing half of a link to one server.
pub struct Outbound {
    publisher: Publisher,
    sequence: u64,
    queue: VecDeque<Parcel>,
    /// Written and not answered, in this order.
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    /// Refused for now, in their order: to go before what is in the queue.
    again: VecDeque<Parcel>,
    /// Only one is under way until it was taken: what is refused for now would be overtaken by
    /// what follows it.
    is_probing: bool,
    wait_until: Option<Instant>,
    backoff: Backoff,
    publish: &'static str,
}

/// A publish on its way.
#[derive(Debug)]
pub struct Parcel {
    /// Where it stands among all of this server.
    pub order: u64,
    pub channel: Box<[u8]>,
    cost: usize,
    /// It says only that something was lost, and is nobody's publish.
    pub is_note: bool,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Open(Post),
    /// Written once already, and perhaps heard: it keeps its number, so that nobody hears it twice.
    Sealed(Vec<u8>),
}

enum Sent {
    Publish(Parcel),
    /// To see whether anybody answers, and what it is.
    Hello,
}

/// What an answer means.
#[derive(Debug)]
pub enum Answer {
    /// It has arrived.
    Taken {
        parcel: Parcel,
    },
    /// It never will.
    Refused {
        parcel: Parcel,
        why: String,
    },
    /// It has to go to another server.
    Moved,
    /// Not now; it will be written again.
    Later {
        why: String,
    },
    Hello(Value),
}

impl Parcel {
    pub fn new(order: u64, prefix: &[u8], post: Post) -> Self {
        Self {
            order,
            channel: [prefix, &post.topic].concat().into(),
            cost: post.cost(),
            is_note: post.is_note(),
            body: Body::Open(post),
        }
    }

    pub fn cost(&self) -> usize {
        self.cost
    }
}

impl Outbound {
    pub fn new(node: NodeId, publish: &'static str, seed: u64) -> Self {
        Self {
            publisher: Publisher { node, stream: 0 },
            sequence: 0,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            again: VecDeque::new(),
            is_probing: true,
            wait_until: None,
            backoff: Backoff::new(seed),
            publish,
        }
    }

    /// A new connection, and with it a new stream. What was not acknowledged goes first.
    pub fn begin(&mut self, stream: u64) {
        self.publisher.stream = stream;
        self.sequence = 0;
        self.queue = self.take_all().into();
        self.is_probing = true;
        self.wait_until = None;
    }

    pub fn push(&mut self, parcel: Parcel) {
        self.queue.push_back(parcel);
    }

    /// Everything not acknowledged, in its order.
    pub fn take_all(&mut self) -> Vec<Parcel> {
        let mut all: Vec<Parcel> = self.again.drain(..).collect();
        all.extend(self.sent.drain(..).filter_map(|sent| match sent {
            Sent::Publish(parcel) => Some(parcel),
            Sent::Hello => None,
        }));
        all.extend(self.queue.drain(..));
        self.sent_bytes = 0;
        all
    }

    /// Nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.sent.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.again.is_empty() && self.queue.is_empty()
    }

    /// When to look again, if what is to be written waits for a time.
    pub fn due(&self) -> Option<Instant> {
        self.wait_until
    }

    /// Writes as much as may be under way.
    pub fn write(&mut self, out: &mut Vec<u8>, now: Instant) {
        if self.wait_until.is_some_and(|until| now < until) {
            return;
        }
        self.wait_until = None;
        if !self.again.is_empty() {
            if !self.sent.is_empty() {
                return;
            }
            self.again.append(&mut self.queue);
            std::mem::swap(&mut self.again, &mut self.queue);
        }
        let count_max = if self.is_probing { 1 } else { UNDER_WAY_MAX };
        while self.sent.len() < count_max && self.sent_bytes < UNDER_WAY_BYTES_MAX {
            let Some(mut parcel) = self.queue.pop_front() else { return };
            let envelope = match parcel.body {
                Body::Sealed(envelope) => envelope,
                Body::Open(post) => {
                    self.sequence += 1;
                    post.envelope(self.publisher, self.sequence)
                }
            };
            let mut command = redis::cmd(self.publish);
            command.arg(&*parcel.channel).arg(&envelope[..]).write_packed_command(out);
            parcel.body = Body::Sealed(envelope);
            self.sent_bytes += parcel.cost;
            self.sent.push_back(Sent::Publish(parcel));
        }
    }

    /// Asks whether anybody is there.
    pub fn write_hello(&mut self, out: &mut Vec<u8>) {
        redis::cmd("HELLO").write_packed_command(out);
        self.sent.push_back(Sent::Hello);
    }

    pub fn answer(&mut self, value: Value, now: Instant) -> Result<Answer, Broken> {
        let unasked = || Broken("it answered what was not asked".to_string());
        let parcel = match self.sent.pop_front().ok_or_else(unasked)? {
            Sent::Hello => return Ok(Answer::Hello(value)),
            Sent::Publish(parcel) => parcel,
        };
        self.sent_bytes -= parcel.cost;
        let error = match value {
            Value::Int(_) => {
                self.backoff.reset();
                // The rest of what was refused for now goes first, one by one again.
                self.is_probing = !self.again.is_empty();
                return Ok(Answer::Taken { parcel });
            }
            Value::ServerError(error) => error,
            _ => return Err(unasked()),
        };
        let why = in_words(&error);
        match error.code() {
            "MOVED" | "ASK" => {
                self.again.push_back(parcel);
                self.is_probing = true;
                // Whoever moves it takes it away before that.
                self.wait_until = Some(now + self.backoff.next_wait());
                Ok(Answer::Moved)
            }
            "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "READONLY" | "BUSY" => {
                if self.again.is_empty() {
                    self.wait_until = Some(now + self.backoff.next_wait());
                }
                self.again.push_back(parcel);
                self.is_probing = true;
                Ok(Answer::Later { why })
            }
            _ => Ok(Answer::Refused { parcel, why }),
        }
    }
}

/// Publishes under way on one connection: what a receiver can tell from repeats.
const UNDER_WAY_MAX: usize = WINDOW as usize;
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backplane::Content;
    use crate::backplane::envelope::Envelope;
    use crate::protocol::Kind;
    use crate::protocol::deflate::Wish;
    use std::time::Duration;

    struct Bench {
        outbound: Outbound,
        now: Instant,
        order: u64,
    }

    impl Bench {
        fn new() -> Self {
            let mut outbound = Outbound::new(NodeId([7; 8]), "PUBLISH", 1);
            outbound.begin(1);
            Self { outbound, now: Instant::now(), order: 0 }
        }

        fn publish(&mut self, texts: &[&str]) {
            for text in texts {
                self.order += 1;
                let payload = text.as_bytes().to_vec();
                let content = Content::Message { kind: Kind::Text, wish: Wish::Auto, payload };
                let post = Post { topic: b"t"[..].into(), lost: 0, content };
                self.outbound.push(Parcel::new(self.order, b"fdx:", post));
            }
        }

        /// What is written now: stream, sequence and payload of each.
        fn written(&mut self) -> Vec<(u64, u64, String)> {
            let mut out = Vec::new();
            self.outbound.write(&mut out, self.now);
            let mut found = Vec::new();
            let mut rest = &out[..];
            let mut parser = redis::Parser::new();
            while let Ok(Value::Array(command)) = parser.parse_value(&mut rest) {
                let [Value::BulkString(name), Value::BulkString(channel), Value::BulkString(envelope)] =
                    &command[..]
                else {
                    panic!("{command:?}")
                };
                assert_eq!((&name[..], &channel[..]), (&b"PUBLISH"[..], &b"fdx:t"[..]));
                let envelope = Envelope::decode(envelope).unwrap();
                let payload = String::from_utf8(envelope.message.unwrap().payload.to_vec()).unwrap();
                found.push((envelope.stamp.publisher.stream, envelope.stamp.sequence, payload));
            }
            found
        }

        fn texts(&mut self) -> Vec<String> {
            self.written().into_iter().map(|(_, _, text)| text).collect()
        }

        fn taken(&mut self) {
            let answer = self.outbound.answer(Value::Int(1), self.now);
            assert!(matches!(answer, Ok(Answer::Taken { .. })), "{answer:?}");
        }

        fn refused(&mut self, line: &str) -> Answer {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            self.outbound.answer(value, self.now).unwrap()
        }
    }

    #[test]
    fn the_first_goes_alone_and_then_as_many_as_a_receiver_can_tell_apart() {
        let mut bench = Bench::new();
        bench.publish(&["0"; 2000]);
        assert_eq!(bench.written().len(), 1);
        bench.taken();
        let written = bench.written();
        assert_eq!(written.len(), UNDER_WAY_MAX);
        assert_eq!((written[0].1, written[1023].1), (2, 1025));
        bench.taken();
        assert_eq!(bench.written().len(), 1);
    }

    #[test]
    fn what_was_not_acknowledged_when_the_connection_broke_is_written_first_with_its_old_number() {
        let mut bench = Bench::new();
        bench.publish(&["a"]);
        bench.written();
        bench.taken();
        bench.publish(&["b", "c", "d"]);
        assert_eq!(bench.texts(), ["b", "c", "d"]);
        bench.taken();
        bench.publish(&["e"]);
        bench.outbound.begin(2);
        let first = bench.written();
        bench.taken();
        let rest = bench.written();
        let all: Vec<_> = first.iter().chain(&rest).map(|(s, n, text)| (*s, *n, &text[..])).collect();
        assert_eq!(all, [(1, 3, "c"), (1, 4, "d"), (2, 1, "e")]);
    }

    #[test]
    fn what_is_refused_for_now_is_waited_out_and_goes_before_what_came_later() {
        let mut bench = Bench::new();
        bench.publish(&["a"]);
        bench.written();
        bench.taken();
        bench.publish(&["b", "c"]);
        bench.written();
        bench.publish(&["d"]);
        for line in ["CLUSTERDOWN The cluster is down", "TRYAGAIN later"] {
            assert!(matches!(bench.refused(line), Answer::Later { .. }));
        }
        assert_eq!(bench.texts(), [""; 0], "not before a while");
        let due = bench.outbound.due().unwrap();
        assert!(due > bench.now && due <= bench.now + Duration::from_millis(50));
        bench.now = due;
        assert_eq!(bench.texts(), ["b"], "one, to see whether it is over");
        assert!(matches!(bench.refused("LOADING Redis is loading"), Answer::Later { .. }));
        bench.now += Duration::from_secs(1);
        assert_eq!(bench.texts(), ["b"]);
        bench.taken();
        assert_eq!(bench.texts(), ["c", "d"]);
    }

    #[test]
    fn what_is_refused_for_good_is_lost_and_what_follows_it_goes_on() {
        let mut bench = Bench::new();
        bench.publish(&["a", "b"]);
        bench.written();
        let answer = bench.refused("NOPERM this user has no permissions to access one of the channels");
        assert!(
            matches!(answer, Answer::Refused { parcel, why } if parcel.cost > 0 && why.contains("NOPERM"))
        );
        assert_eq!(bench.texts(), ["b"]);
        assert!(matches!(bench.refused("OOM command not allowed"), Answer::Refused { .. }));
        assert!(bench.outbound.is_empty());
    }

    #[test]
    fn what_has_moved_is_kept_in_its_order_for_who_moves_it() {
        let mut bench = Bench::new();
        bench.publish(&["a"]);
        bench.written();
        bench.taken();
        bench.publish(&["b", "c", "d"]);
        bench.written();
        bench.publish(&["e"]);
        assert!(matches!(bench.refused("MOVED 1 127.0.0.1:7001"), Answer::Moved));
        bench.taken();
        assert!(matches!(bench.refused("MOVED 1 127.0.0.1:7001"), Answer::Moved));
        assert!(bench.outbound.is_settled());
        let orders: Vec<u64> = bench.outbound.take_all().iter().map(|parcel| parcel.order).collect();
        assert_eq!(orders, [2, 4, 5]);
        assert!(bench.outbound.is_empty());
    }

    #[test]
    fn the_question_whether_anybody_is_there_stands_in_line_and_is_not_asked_again_elsewhere() {
        let mut bench = Bench::new();
        bench.publish(&["a"]);
        bench.written();
        bench.outbound.write_hello(&mut Vec::new());
        bench.taken();
        assert!(matches!(bench.outbound.answer(Value::Okay, bench.now), Ok(Answer::Hello(Value::Okay))));
        assert!(bench.outbound.answer(Value::Int(0), bench.now).is_err(), "nothing was asked");
        bench.outbound.write_hello(&mut Vec::new());
        bench.outbound.begin(2);
        assert!(bench.outbound.is_empty());
        bench.publish(&["b"]);
        bench.written();
        assert!(bench.outbound.answer(Value::Okay, bench.now).is_err());
    }
}
