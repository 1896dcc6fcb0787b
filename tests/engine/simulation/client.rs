//! A client of a simulated conversation: has its words ready, says them in pieces, and checks
//! what it hears against what the embedder knows to have sent.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use fullduplex::driver::sim::{Dice, Kernel, SimClient};
use fullduplex::protocol::{Dialect, Kind};

use super::Plan;
use super::embedder::{Said, Shared};
use crate::peer::{self, DIALECTS, Heard, Reader};
use crate::secure::{self, SecureWire};
use crate::world::Wire;

pub struct Client {
    number: usize,
    is_secure: bool,
    dialect: Dialect,
    /// It may compress, because the server will agree.
    deflates: bool,
    state: State,
    reader: Reader,
    /// What it will say, by frames. The first is partly sent.
    outgoing: VecDeque<Vec<u8>>,
    first_sent: usize,
    /// The messages among it, up to the first wrong word.
    pub says: Vec<Said>,
    pings: VecDeque<Vec<u8>>,
    ending: Ending,
    manners: Manners,
    heard_from_callbacks: usize,
    heard_from_afar: usize,
    has_heard_close: bool,
    is_open: bool,
    has_asked: bool,
    has_finished: bool,
}

enum State {
    /// Not there yet.
    Away {
        for_acts: usize,
    },
    Connected(Way),
    Done,
}

/// Its way to the server.
enum Way {
    Plain(SimClient),
    Secure(Box<SecureWire<SimClient>>),
}

impl Wire for Way {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.write(bytes),
            Self::Secure(wire) => wire.write(bytes),
        }
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.read(room),
            Self::Secure(wire) => wire.read(room),
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Plain(wire) => wire.finish(),
            Self::Secure(wire) => wire.finish(),
        }
    }

    fn reset(self) {
        match self {
            Self::Plain(wire) => Wire::reset(wire),
            Self::Secure(wire) => wire.reset(),
        }
    }

    fn go_on(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Secure(wire) => wire.go_on(),
        }
    }
}

/// What it does when all is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// Its Close is the last of the frames.
    Close,
    Finish,
    Reset,
    /// Waits for the server to end it.
    Wait,
}

struct Manners {
    /// Speaks before the answer to its request is there.
    is_hasty: bool,
    is_deaf: bool,
    /// May end before the answer to its request is there.
    ends_early: bool,
    answers_close: bool,
    answers_pings: bool,
    /// Breaks off so often in a thousand.
    resets: u32,
    piece_bytes_max: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Away { .. } => "away",
            State::Connected(_) => "connected",
            State::Done => "done",
        };
        let left = self.outgoing.len();
        write!(
            f,
            "client {} ({:?}, {state}, {left} frames left, then {:?})",
            self.number, self.dialect, self.ending
        )
    }
}

impl Client {
    pub fn new(number: usize, dice: &mut Dice, plan: &Plan, message_bytes_max: usize) -> Self {
        let dialect = *dice.pick(&DIALECTS);
        let is_rude = !plan.is_peaceful;
        let endings: &[Ending] = match is_rude {
            true => &[Ending::Close, Ending::Close, Ending::Finish, Ending::Reset, Ending::Wait],
            false => &[Ending::Close, Ending::Finish],
        };
        let mut client = Self {
            number,
            is_secure: plan.is_secure,
            dialect,
            deflates: plan.deflates && dialect == Dialect::Rfc6455 && dice.hits(700),
            state: State::Away { for_acts: dice.unevenly_up_to(60) },
            reader: Reader::new(dialect),
            outgoing: VecDeque::new(),
            first_sent: 0,
            says: Vec::new(),
            pings: VecDeque::new(),
            ending: *dice.pick(endings),
            manners: Manners {
                is_hasty: dice.hits(300),
                ends_early: is_rude && dice.hits(100),
                is_deaf: is_rude && dice.hits(100),
                answers_close: !is_rude || dice.hits(700),
                answers_pings: dice.hits(700),
                resets: if is_rude { *dice.pick(&[0, 0, 0, 5]) } else { 0 },
                piece_bytes_max: match plan {
                    Plan { is_large: true, .. } => 100_000,
                    Plan { is_secure: true, .. } => *dice.pick(&[30, 1000, 100_000]),
                    _ => *dice.pick(&[2, 30, 1000, 100_000]),
                },
            },
            heard_from_callbacks: 0,
            heard_from_afar: 0,
            has_heard_close: false,
            is_open: false,
            has_asked: false,
            has_finished: false,
        };
        if dialect == Dialect::Hixie75 && client.ending == Ending::Close {
            client.ending = Ending::Finish;
        }
        client.prepare(dice, plan, message_bytes_max);
        client
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub fn compressed(&self) -> usize {
        self.reader.compressed
    }

    pub fn heard_count(&self) -> usize {
        self.heard_from_callbacks + self.heard_from_afar
    }

    /// Does one thing, if there is anything to do.
    pub fn act(
        &mut self,
        dice: &mut Dice,
        kernel: &Kernel,
        shared: &mut Shared,
        room: &mut [u8],
    ) -> Result<(), String> {
        if let State::Connected(wire) = &mut self.state {
            wire.go_on();
        }
        match &mut self.state {
            State::Done => Ok(()),
            State::Away { for_acts } if *for_acts > 0 => {
                *for_acts -= 1;
                Ok(())
            }
            State::Away { .. } => {
                kernel.note(|| format!("here comes {self:?}:"));
                self.state = match kernel.connect() {
                    Ok(wire) if self.is_secure => {
                        let tls = secure::client(self.number % 2 == 0);
                        State::Connected(Way::Secure(Box::new(SecureWire::new(wire, tls))))
                    }
                    Ok(wire) => State::Connected(Way::Plain(wire)),
                    Err(_) => State::Done,
                };
                Ok(())
            }
            State::Connected(_) if dice.hits(self.manners.resets) => {
                self.reset();
                Ok(())
            }
            State::Connected(_) if dice.hits(500) => {
                self.say(dice);
                Ok(())
            }
            State::Connected(_) if self.manners.is_deaf => Ok(()),
            State::Connected(_) => self.listen(dice, shared, room),
        }
    }

    /// In a peaceful conversation: the embedder heard all, and so did the client.
    pub fn check_that_all_arrived(&self, shared: &Shared) -> Result<(), String> {
        let (id, known) = shared.of_client(self.number).ok_or_else(|| format!("{self:?} never opened"))?;
        if known.heard != self.says.len() {
            return Err(format!("{} of {} messages of {self:?} arrived", known.heard, self.says.len()));
        }
        if self.heard_from_callbacks != known.sent.len() {
            let (heard, sent) = (self.heard_from_callbacks, known.sent.len());
            return Err(format!("{heard} of {sent} messages to {id:?} arrived at {self:?}"));
        }
        if self.reader.has_rest() {
            return Err(format!("the last frame to {self:?} is not whole"));
        }
        Ok(())
    }

    /// Thinks of everything it will say.
    fn prepare(&mut self, dice: &mut Dice, plan: &Plan, message_bytes_max: usize) {
        let is_rude = !plan.is_peaceful;
        let path = format!("/client/{}", self.number);
        self.outgoing.push_back(match self.deflates {
            true => peer::request_with(self.dialect, &path, &offer(dice)),
            false => peer::request(self.dialect, &path),
        });
        if is_rude && dice.hits(30) {
            // Never opens, and says nothing that counts.
            let bad = dice.pick(&[
                "GET / HTTP/1.0\r\n\r\n",
                "nonsense\r\n",
                "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
                "GET /",
            ]);
            self.outgoing[0] = bad.as_bytes().to_vec();
            self.ending = if self.ending == Ending::Close { Ending::Wait } else { self.ending };
            return;
        }
        let count = if plan.is_large { dice.below(6) } else { dice.below(20) };
        let len_max = if plan.is_large { 200_000 } else { 400 };
        let bad_at = if is_rude && dice.hits(200) { dice.below(count + 1) } else { usize::MAX };
        let mut is_right = true;
        for index in 0..count {
            if index == bad_at {
                self.outgoing.push_back(self.wrong_word(dice));
                is_right = false;
            }
            let (kind, payload) = self.message(dice, len_max);
            is_right &= payload.len() <= message_bytes_max;
            self.put(kind, &payload, dice);
            if is_right {
                self.says.push((kind, payload));
            }
        }
        if self.ending == Ending::Close {
            self.outgoing.push_back(match self.dialect {
                Dialect::Hixie76 => vec![0xFF, 0x00],
                _ if dice.hits(100) => peer::frame(0x88, b""),
                _ => peer::close(1000, "bye"),
            });
        }
        if is_rude && self.ending != Ending::Close && dice.hits(100) {
            // Breaks off inside a frame.
            let mut last = peer::text_in(self.dialect, "never whole");
            last.truncate(1 + dice.below(last.len() - 1));
            self.outgoing.push_back(last);
        }
    }

    fn message(&mut self, dice: &mut Dice, len_max: usize) -> Said {
        let kind = if peer::is_hixie(self.dialect) || dice.hits(500) { Kind::Text } else { Kind::Binary };
        let mut payload = format!("client {} says {} ", self.number, self.says.len()).into_bytes();
        let len = dice.unevenly_up_to(len_max);
        match kind {
            Kind::Text => {
                let letters = "aé€😀".as_bytes();
                payload.extend(letters.iter().cycle().take(len / letters.len() * letters.len()));
            }
            Kind::Binary => payload.extend((0..len).map(|index| (index % 251) as u8)),
        }
        (kind, payload)
    }

    /// A message in the dialect's form, whole or in fragments with something between them.
    fn put(&mut self, kind: Kind, payload: &[u8], dice: &mut Dice) {
        if peer::is_hixie(self.dialect) {
            if dice.hits(100) {
                // A frame with a length means nothing and is skipped.
                self.outgoing.push_back(b"\x80\x03\xFF\x00x".to_vec());
            }
            self.outgoing.push_back([&[0x00], payload, &[0xFF]].concat());
            return;
        }
        let deflated;
        let mut rest = payload;
        let mut opcode = if kind == Kind::Text { 1 } else { 2 };
        if self.deflates && dice.hits(700) {
            deflated = peer::deflated(payload);
            (rest, opcode) = (&deflated, opcode | 0x40);
        }
        while dice.hits(300) {
            let (fragment, after) = rest.split_at(dice.below(rest.len() + 1));
            self.outgoing.push_back(peer::frame(opcode, fragment));
            (rest, opcode) = (after, 0);
            self.put_control(dice);
        }
        self.outgoing.push_back(peer::frame(0x80 | opcode, rest));
        self.put_control(dice);
    }

    fn put_control(&mut self, dice: &mut Dice) {
        if dice.hits(100) {
            let payload = format!("ping {}", self.pings.len()).into_bytes();
            self.outgoing.push_back(peer::ping(&payload));
            self.pings.push_back(payload);
        }
        if dice.hits(50) {
            self.outgoing.push_back(peer::pong(b"unasked"));
        }
    }

    /// Something that breaks the protocol.
    fn wrong_word(&self, dice: &mut Dice) -> Vec<u8> {
        if peer::is_hixie(self.dialect) {
            return [&[0x80][..], &[0xFF; 20]].concat();
        }
        let words = [
            peer::frame(0xC1, b"a reserved bit"),
            peer::frame(0x83, b"an unknown opcode"),
            peer::frame(0x81, b"no UTF-8: \xC3\x28"),
            peer::frame(0x09, b"half a ping"),
            peer::frame(0x80, b"nothing to continue"),
            peer::frame(0x88, b"\x03"),
            peer::close(1005, ""),
            b"\x81\x02hi".to_vec(),
            b"\x82\xFE\x00\x01abcdx".to_vec(),
        ];
        dice.pick(&words).clone()
    }

    fn say(&mut self, dice: &mut Dice) {
        let State::Connected(wire) = &mut self.state else { return };
        if self.has_asked && !self.is_open && !self.manners.is_hasty {
            return;
        }
        if let Some(first) = self.outgoing.front() {
            let rest = &first[self.first_sent..];
            let piece = &rest[..dice.unevenly_up_to(self.manners.piece_bytes_max).min(rest.len())];
            match wire.write(piece) {
                Ok(len) => {
                    self.first_sent += len;
                    if self.first_sent == first.len() {
                        self.outgoing.pop_front();
                        self.first_sent = 0;
                        self.has_asked = true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody takes it any more; what there is to hear is still heard.
                Err(_) => self.outgoing.clear(),
            }
            return;
        }
        match self.ending {
            Ending::Finish if !self.has_finished && (self.is_open || self.manners.ends_early) => {
                wire.finish();
                self.has_finished = true;
            }
            Ending::Reset if self.is_open || self.manners.ends_early => self.reset(),
            _ => {}
        }
    }

    fn reset(&mut self) {
        if let State::Connected(wire) = std::mem::replace(&mut self.state, State::Done) {
            wire.reset();
        }
    }

    fn listen(&mut self, dice: &mut Dice, shared: &mut Shared, room: &mut [u8]) -> Result<(), String> {
        let State::Connected(wire) = &mut self.state else { return Ok(()) };
        let len = dice.unevenly_up_to(room.len());
        let mut heard = Vec::new();
        match wire.read(&mut room[..len]) {
            Ok(0) => {
                self.state = State::Done;
                return Ok(());
            }
            Ok(len) => {
                let read = self.reader.receive(&room[..len], &mut heard);
                read.map_err(|wrong| format!("client {} hears {wrong}", self.number))?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.state = State::Done,
        }
        heard.into_iter().try_for_each(|item| self.hear(item, shared))
    }

    fn hear(&mut self, item: Heard, shared: &mut Shared) -> Result<(), String> {
        shared.kernel.note(|| format!("client {} hears {}", self.number, shown(&item)));
        if self.has_heard_close {
            return Err(format!("client {} hears {} after the Close", self.number, shown(&item)));
        }
        match item {
            Heard::Http(status) => self.is_open = status == 101,
            Heard::Text(text) => self.hear_message(Kind::Text, text.as_bytes(), shared)?,
            Heard::Binary(payload) => self.hear_message(Kind::Binary, &payload, shared)?,
            Heard::Pong(payload) => {
                // Not every Ping is answered, but in their order.
                while self
                    .pings
                    .pop_front()
                    .ok_or_else(|| format!("client {} hears a Pong too many", self.number))?
                    != payload
                {}
            }
            Heard::Ping(payload) => {
                if self.manners.answers_pings {
                    self.put_in(peer::pong(&payload));
                }
            }
            Heard::Close(..) => {
                self.has_heard_close = true;
                if self.manners.answers_close && self.ending != Ending::Close {
                    // Nothing else may follow it.
                    self.outgoing.truncate(usize::from(self.first_sent > 0));
                    self.outgoing.push_back(peer::close(1000, ""));
                    self.ending = Ending::Close;
                }
            }
            Heard::HixieClose => self.has_heard_close = true,
            Heard::Fin | Heard::Reset => unreachable!("the reader only reads"),
        }
        Ok(())
    }

    /// It must be the next that was sent to this very connection.
    fn hear_message(&mut self, kind: Kind, payload: &[u8], shared: &Shared) -> Result<(), String> {
        let Some((id, known)) = shared.of_client(self.number) else {
            return Err(format!("client {} hears a message and was never opened", self.number));
        };
        let is_right = if payload.starts_with(b"afar ") {
            // What other threads send may come too late to be taken, but stays in order.
            let ahead = known.sent_from_afar[self.heard_from_afar..].iter().position(|sent| sent == payload);
            self.heard_from_afar += ahead.map_or(0, |ahead| ahead + 1);
            ahead.is_some()
        } else {
            let index = self.heard_from_callbacks;
            self.heard_from_callbacks += 1;
            known.sent.get(index).is_some_and(|(sent_kind, sent)| *sent_kind == kind && sent == payload)
        };
        match is_right {
            true => Ok(()),
            false => {
                Err(format!("client {} hears as {id:?}: {}", self.number, String::from_utf8_lossy(payload)))
            }
        }
    }

    /// Between two frames.
    fn put_in(&mut self, frame: Vec<u8>) {
        let place = usize::from(self.first_sent > 0);
        // Whoever is slower than the server's Pings answers only some of them.
        if place < self.outgoing.len() && self.outgoing.len() < 30 {
            self.outgoing.insert(place, frame);
        }
    }
}

/// What the server may remember differs, and how much.
fn offer(dice: &mut Dice) -> String {
    let mut offer = peer::OFFER.to_string();
    for parameter in ["server_no_context_takeover", "server_max_window_bits=9", "client_max_window_bits"] {
        if dice.hits(300) {
            offer.push_str("; ");
            offer.push_str(parameter);
        }
    }
    offer
}

fn shown(item: &Heard) -> String {
    match item {
        Heard::Text(text) => format!("a text of {} bytes", text.len()),
        Heard::Binary(payload) => format!("{} bytes", payload.len()),
        other => format!("{other:?}"),
    }
}
