//! Clients on the simulated kernel, who do what a script says.
//!
//! Their orders are small letters: `c0` another one connects and asks well, in that dialect, and
//! `h…;` asks with these words. Then, with the client's number: `t0…;` it says a text, `b0…;`
//! bytes, `l05` so much at an edge length, `p0…;` a Ping, `o0…;` a Pong, `x03…;` a Close with that
//! code, `f0.…;` a frame with that first byte, `w0…;` these bytes as they are, `q0` it ends its
//! half, `r0` it resets, `z0` it stops or begins to read. `s2` says in what pieces all of them
//! speak, `.` is a turn of the server, `+3` lets time pass.

use std::collections::VecDeque;
use std::time::Duration;

use fullduplex::driver::sim::{Faults, Kernel, SimClient};
use fullduplex::protocol::{Dialect, Kind};

use crate::peer::{self, DIALECTS, Heard, Reader};
use crate::script::Script;

pub struct Clients {
    pub kernel: Kernel,
    pub list: Vec<Client>,
    piece_bytes_max: usize,
    room: Vec<u8>,
}

pub struct Client {
    /// `None` after a reset of its own, and when nobody took it.
    wire: Option<SimClient>,
    pub dialect: Dialect,
    /// `None` for one who asks as it likes, and may be answered in any dialect.
    reader: Option<Reader>,
    outgoing: VecDeque<u8>,
    /// The messages it has said as long as it has done nothing else.
    pub says: Vec<(Kind, Vec<u8>)>,
    /// It keeps the protocol, takes what it is sent, and is not leaving.
    pub is_good: bool,
    is_deaf: bool,
    is_leaving: bool,
    has_heard_close: bool,
}

/// What an order asks of the target.
pub enum Asked {
    /// Nothing: the clients have done it.
    Done,
    Turn,
    Pass(Duration),
    /// It is none of theirs.
    Unknown,
}

impl Clients {
    /// With `STEPS` in the environment every step of the kernel is printed.
    pub fn new(kernel: Kernel) -> Self {
        if std::env::var_os("STEPS").is_some() {
            kernel.keep_trace();
        }
        Self { kernel, list: Vec::new(), piece_bytes_max: usize::MAX, room: vec![0; 64 * 1024] }
    }

    pub fn obey(&mut self, order: u8, script: &mut Script<'_>) -> Asked {
        match order {
            b'.' => return Asked::Turn,
            b'+' => return Asked::Pass(script.pick(&TIMES)),
            b's' => self.piece_bytes_max = script.pick(&[usize::MAX, 1, 2, 7, 100, 5000]),
            b'c' => {
                let dialect = script.pick(&DIALECTS);
                let request = peer::request(dialect, &path_of(self.list.len()));
                self.connect(dialect, &request, Some(Reader::new(dialect)));
            }
            b'h' => {
                let words = script.text().replace("\r\n", "\n").replace('\n', "\r\n");
                // Nobody may give himself out for one of the good ones.
                self.connect(Dialect::Rfc6455, words.replace("/client/", "/liar/").as_bytes(), None);
            }
            b't' | b'b' | b'l' | b'p' | b'o' | b'x' | b'f' | b'w' | b'q' | b'r' | b'z' => {
                let number = script.number();
                match number.checked_rem(self.list.len()) {
                    Some(number) => self.list[number].obey(order, script),
                    // Its words are no orders.
                    None => drop(script.words()),
                }
            }
            _ => return Asked::Unknown,
        }
        Asked::Done
    }

    pub fn connect(&mut self, dialect: Dialect, request: &[u8], reader: Option<Reader>) {
        if self.list.len() == CLIENTS_MAX {
            return;
        }
        self.list.push(Client {
            wire: self.kernel.connect().ok(),
            dialect,
            is_good: reader.is_some(),
            reader,
            outgoing: request.iter().copied().collect(),
            says: Vec::new(),
            is_deaf: false,
            is_leaving: false,
            has_heard_close: false,
        });
    }

    /// Everybody says what there is room for, and hears what there is.
    pub fn pump(&mut self) {
        self.kernel.take_trace().iter().for_each(|step| eprintln!("{step}"));
        for client in &mut self.list {
            client.pump(self.piece_bytes_max, &mut self.room);
        }
    }

    /// From now on nobody speaks in pieces.
    pub fn speak_freely(&mut self) {
        self.piece_bytes_max = usize::MAX;
    }

    /// Bytes that they still have to say.
    pub fn unsaid_bytes(&self) -> usize {
        self.list.iter().map(|client| client.outgoing.len()).sum()
    }

    /// The client who asked for this path.
    pub fn by_path(path: &[u8]) -> Option<usize> {
        std::str::from_utf8(path).ok()?.strip_prefix("/client/")?.parse().ok()
    }
}

impl Client {
    /// It keeps the protocol, and there was time for all that it has to say.
    pub fn has_said_all(&self) -> bool {
        self.is_good && self.outgoing.is_empty() && !self.has_heard_close
    }

    fn obey(&mut self, order: u8, script: &mut Script<'_>) {
        match order {
            b't' => {
                let text = script.text();
                self.say_message(Kind::Text, text.as_bytes());
            }
            b'l' => {
                let len = script.pick(&[0, 125, 126, 1000, 65_535, 65_536, 200_000]);
                self.say_message(Kind::Text, &vec![b'l'; len]);
            }
            b'b' if !peer::is_hixie(self.dialect) => self.say_message(Kind::Binary, script.words()),
            b'p' | b'o' if !peer::is_hixie(self.dialect) => {
                let words = script.words();
                self.say(&peer::frame(
                    if order == b'p' { 0x89 } else { 0x8A },
                    &words[..words.len().min(125)],
                ));
            }
            b'f' => {
                self.is_good = false;
                let first = script.order().unwrap_or(0x80);
                self.say(&peer::frame(first, script.words()));
            }
            b'b' | b'p' | b'o' | b'w' => {
                self.is_good = false;
                self.say(script.words());
            }
            b'x' => {
                self.is_good = false;
                let code: u16 = script.pick(&[0, 1000, 1001, 3000, 4999, 1005, 999, 1015]);
                let reason = script.words();
                let payload = [&code.to_be_bytes()[..], reason].concat();
                match self.dialect {
                    Dialect::Hixie76 | Dialect::Hixie75 => self.say(&[0xFF, 0x00]),
                    _ if code == 0 => self.say(&peer::frame(0x88, b"")),
                    _ => self.say(&peer::frame(0x88, &payload[..payload.len().min(125)])),
                }
            }
            b'q' => (self.is_good, self.is_leaving) = (false, true),
            b'r' => {
                self.is_good = false;
                if let Some(mut wire) = self.wire.take() {
                    wire.reset();
                }
            }
            _ => (self.is_good, self.is_deaf) = (false, !self.is_deaf),
        }
    }

    fn say_message(&mut self, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Text => {
                let text = std::str::from_utf8(payload).expect("only text is said as text");
                self.say(&peer::text_in(self.dialect, text));
            }
            Kind::Binary => self.say(&peer::binary(payload)),
        }
        if self.is_good {
            self.says.push((kind, payload.to_vec()));
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        if !self.is_leaving && self.outgoing.len() < OUTGOING_BYTES_MAX {
            self.outgoing.extend(bytes);
        } else {
            self.is_good = false;
        }
    }

    fn pump(&mut self, piece_bytes_max: usize, room: &mut [u8]) {
        let Some(wire) = &mut self.wire else { return };
        if !self.outgoing.is_empty() {
            let piece = self.outgoing.make_contiguous();
            let piece = &piece[..piece.len().min(piece_bytes_max)];
            match wire.write(piece) {
                Ok(len) => drop(self.outgoing.drain(..len)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => self.outgoing.clear(),
            }
        } else if self.is_leaving {
            wire.finish();
            self.is_leaving = false;
        }
        while !self.is_deaf {
            match wire.read(room) {
                Ok(len @ 1..) => {
                    let Some(reader) = &mut self.reader else { continue };
                    let mut heard = Vec::new();
                    reader.receive(&room[..len], &mut heard).expect("the server keeps the protocol");
                    for item in heard {
                        assert!(!self.has_heard_close, "{item:?} after the Close");
                        self.has_heard_close = matches!(item, Heard::Close(..) | Heard::HixieClose);
                    }
                }
                _ => break,
            }
        }
    }
}

/// Who asks well asks for a path of its own.
fn path_of(number: usize) -> String {
    format!("/client/{number}")
}

/// Kernels from the best day to the worst.
pub fn faults(number: usize) -> Faults {
    let best = Faults::none();
    match number % 5 {
        0 => best,
        1 => Faults { short_reads: 500, short_writes: 500, interruptions: 100, ..best },
        2 => Faults { delays: 300, wakes: 300, buffer_bytes: 50..=100, ..best },
        3 => Faults { buffer_bytes: 2000..=4000, short_writes: 100, accept_trouble: 200, ..best },
        _ => Faults { resets_on_read: 20, resets_on_write: 20, adopt_trouble: 100, delays: 100, ..best },
    }
}

const CLIENTS_MAX: usize = 6;
const OUTGOING_BYTES_MAX: usize = 400_000;
const TIMES: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(20),
    Duration::from_millis(150),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(11),
    Duration::from_secs(31),
    Duration::from_secs(100),
];
