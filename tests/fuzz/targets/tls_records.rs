//! A session of TLS with rustls's client at the other end, and somebody between them who cuts,
//! joins and delays what they send, or changes it.
//!
//! An input is a script after `2` or `3`, for TLS 1.2 or 1.3. Its orders: `c` and `s` with words,
//! or `C` and `S` with a number (of 3,000 bytes each), let the client or the server say something;
//! `u` and `d` with two numbers bring so many bytes (16 to the first) up to the server or down to
//! the client, with 0 all; `p` with two numbers lets the server postpone so many; `w` with a number
//! makes so many records and one of the hello; `k` lets the client change its keys; `e` and `E` end
//! what the client, or the server, says. What follows changes the bytes that are next to come up,
//! so many (two numbers) from the front: `f` flips a bit (a third number), `x` loses them, `r`
//! repeats them, `g` puts words before them.
//!
//! What nobody has changed arrives whole, without an error, and a session at rest keeps nothing.
//! Whatever was changed, what is heard is the beginning of what was said, nothing panics, and no
//! more is kept than a session may keep.
#![no_main]

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use fullduplex::tls::{
    Acceptor, Certificate, Certificates, ClientAuth, OldestVersion, PARTIAL_BYTES_MAX, TlsError, TlsSession,
};
use fullduplex_fuzz::script::Script;
use rustls::crypto::ring;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&version, rest)) = input.split_first() else { return };
    match version {
        b'2' => Pair::new(&TLS12).run(Script::new(rest)),
        b'3' => Pair::new(&TLS13).run(Script::new(rest)),
        _ => {}
    }
});

struct Pair {
    is_newest: bool,
    server: TlsSession,
    client: ClientConnection,
    up: Vec<u8>,
    down: Vec<u8>,
    client_said: Vec<u8>,
    client_heard: Vec<u8>,
    /// Until the handshake is done.
    server_waits_to_say: Vec<u8>,
    server_said: Vec<u8>,
    server_heard: Vec<u8>,
    key_changes: usize,
    has_client_ended: bool,
    has_server_ended: bool,
    /// Somebody has changed something.
    is_touched: bool,
    has_failed: bool,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let name = "localhost".try_into().expect("a good name");
        let mut pair = Self {
            is_newest: std::ptr::eq(version, &TLS13),
            server: TlsSession::new(&OURS.acceptor).expect("there is memory"),
            client: ClientConnection::new(OURS.client(version), name).expect("a client can be had"),
            up: Vec::new(),
            down: Vec::new(),
            client_said: Vec::new(),
            client_heard: Vec::new(),
            server_waits_to_say: Vec::new(),
            server_said: Vec::new(),
            server_heard: Vec::new(),
            key_changes: 0,
            has_client_ended: false,
            has_server_ended: false,
            is_touched: false,
            has_failed: false,
        };
        pair.client_writes();
        pair
    }

    fn run(&mut self, mut script: Script<'_>) {
        while let Some(order) = script.order().filter(|_| !self.has_failed) {
            self.obey(order, &mut script);
        }
        for _ in 0..EXCHANGES_MAX {
            if self.has_failed || self.up.is_empty() && self.down.is_empty() && !self.server.is_postponed() {
                break;
            }
            self.up(usize::MAX);
            self.down(usize::MAX);
        }
        assert!(self.client_said.starts_with(&self.server_heard), "nobody puts words into its mouth");
        assert!(self.server_said.starts_with(&self.client_heard), "nor into ours");
        if self.is_touched {
            return;
        }
        assert!(!self.has_failed && self.up.is_empty() && self.down.is_empty(), "nothing is left over");
        assert!(self.server.is_established() && self.server_waits_to_say.is_empty());
        assert!(self.server_heard == self.client_said, "the server has heard all");
        assert!(self.client_heard == self.server_said, "the client has heard all");
        assert_eq!(self.server.kept_bytes(), 0);
    }

    fn obey(&mut self, order: u8, script: &mut Script<'_>) {
        match order {
            b'c' => self.client_says(script.words()),
            b'C' => self.client_says(&vec![b'x'; script.number() * 3000]),
            b's' => self.server_says(script.words()),
            b'S' => self.server_says(&vec![b'y'; script.number() * 3000]),
            b'u' => {
                let len = count(script);
                self.up(if len == 0 { usize::MAX } else { len });
            }
            b'd' => {
                let len = count(script);
                self.down(if len == 0 { usize::MAX } else { len });
            }
            b'p' => {
                let len = count(script).min(self.up.len());
                if !self.server.is_established() && len > 0 {
                    let piece: Vec<u8> = self.up.drain(..len).collect();
                    let result = self.server.postpone(&piece);
                    self.check(result);
                }
            }
            b'w' => self.split_hello(1 + script.number()),
            b'k' => {
                if self.is_newest
                    && !self.client.is_handshaking()
                    && !self.has_client_ended
                    && self.key_changes < KEY_CHANGES_MAX
                {
                    self.key_changes += 1;
                    let _ = self.client.refresh_traffic_keys();
                    self.client_writes();
                }
            }
            b'e' => {
                if !self.client.is_handshaking() {
                    self.has_client_ended = true;
                    self.client.send_close_notify();
                    self.client_writes();
                }
            }
            b'E' => {
                if self.server.is_established() && !self.has_server_ended {
                    self.has_server_ended = true;
                    let result = self.server.close(&mut self.down);
                    self.check(result);
                }
            }
            b'f' => {
                let (at, bit) = (count(script), script.number() % 8);
                if let Some(byte) = self.up.get_mut(at) {
                    *byte ^= 1 << bit;
                    self.is_touched = true;
                }
            }
            b'x' => {
                let len = count(script).min(self.up.len());
                self.is_touched |= len > 0;
                self.up.drain(..len);
            }
            b'r' => {
                let len = count(script).min(self.up.len());
                self.is_touched |= len > 0;
                let twice = self.up[..len].to_vec();
                self.up.splice(..0, twice);
            }
            b'g' => {
                let words = script.words();
                self.is_touched |= !words.is_empty();
                self.up.splice(..0, words.iter().copied());
            }
            _ => {}
        }
    }

    fn client_says(&mut self, words: &[u8]) {
        if self.has_client_ended {
            return;
        }
        // Before its handshake is done rustls keeps a part of it for later, and says how much.
        let taken = self.client.writer().write(words).unwrap_or(0);
        self.client_said.extend(&words[..taken]);
        self.client_writes();
    }

    fn client_writes(&mut self) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.up).expect("memory takes it");
        }
    }

    fn server_says(&mut self, words: &[u8]) {
        if self.has_server_ended {
            return;
        }
        self.server_waits_to_say.extend(words);
        self.server_writes();
    }

    fn server_writes(&mut self) {
        if !self.has_failed && self.server.is_established() && !self.server_waits_to_say.is_empty() {
            let words = std::mem::take(&mut self.server_waits_to_say);
            let result = self.server.seal(&words, &mut self.down);
            self.server_said.extend(words);
            self.check(result);
        }
    }

    fn up(&mut self, len: usize) {
        if self.has_server_ended && self.is_touched {
            // The engine lets go of a session with its last word, and rustls asserts that no alert
            // comes after that.
            self.has_failed = true;
            return;
        }
        let mut piece: Vec<u8> = self.up.drain(..len.min(self.up.len())).collect();
        let result = self.server.receive(&mut piece, &mut self.server_heard, &mut self.down);
        self.check(result);
        if !self.has_server_ended {
            self.server_writes();
        }
    }

    fn down(&mut self, len: usize) {
        let piece: Vec<u8> = self.down.drain(..len.min(self.down.len())).collect();
        let mut rest = &piece[..];
        while !rest.is_empty() && !self.has_failed {
            // What comes behind the server's end it does not want.
            if !matches!(self.client.read_tls(&mut rest), Ok(1..)) {
                return;
            }
            if let Err(error) = self.client.process_new_packets() {
                assert!(self.is_touched, "the client: {error}");
                self.has_failed = true;
            }
            // Ends with the news that there is no more for now.
            let _ = self.client.reader().read_to_end(&mut self.client_heard);
        }
        self.client_writes();
    }

    /// Only what somebody has changed may fail, and a session that has failed says nothing more.
    fn check(&mut self, result: Result<(), TlsError>) {
        assert!(self.server.kept_bytes() <= PARTIAL_BYTES_MAX);
        if let Err(error) = result {
            assert!(self.is_touched, "the server: {error}");
            self.has_failed = true;
            let mut more = Vec::new();
            let _ = self.server.seal(b"more", &mut more);
            let _ = self.server.close(&mut more);
        }
    }

    /// "Handshake messages MAY be … fragmented across several records" (RFC 8446, 5.1).
    fn split_hello(&mut self, count: usize) {
        let is_whole_hello = self.up.first() == Some(&0x16)
            && self.server.is_untouched()
            && self
                .up
                .get(3..5)
                .is_some_and(|len| usize::from(len[0]) << 8 | usize::from(len[1]) == self.up.len() - 5);
        if self.is_touched || !is_whole_hello {
            return;
        }
        let (head, message) = self.up.split_at(5);
        let records = message.chunks(message.len().div_ceil(count)).map(|piece| {
            let len = (piece.len() as u16).to_be_bytes();
            [&head[..3], &len, piece].concat()
        });
        self.up = records.collect::<Vec<_>>().concat();
    }
}

fn count(script: &mut Script<'_>) -> usize {
    script.number() * 16 + script.number()
}

struct Ours {
    acceptor: Acceptor,
    clients: [Arc<ClientConfig>; 2],
}

impl Ours {
    fn client(&self, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
        self.clients[usize::from(std::ptr::eq(version, &TLS13))].clone()
    }
}

static OURS: LazyLock<Ours> = LazyLock::new(|| {
    // Its signatures are all of the same length, so that an input is always the same run.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key can be had");
    let parameters = rcgen::CertificateParams::new(["localhost".to_string()]).expect("a good name");
    let made = parameters.self_signed(&key).expect("a good certificate");
    let now = Duration::from_secs(1_750_000_000);
    let certificate = Certificate::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes(), now);
    let certificates = Arc::new(Certificates::default());
    certificates.add(&certificate.expect("a good certificate"));
    let acceptor = Acceptor::new(certificates, OldestVersion::Tls12, ClientAuth::None, None);
    let clients = [&TLS12, &TLS13].map(|version| {
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone()).expect("a good certificate");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(&[version]).expect("it is known");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        // One run must not depend on those before it.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    });
    Ours { acceptor: acceptor.expect("TLS can be had"), clients }
});

/// A handshake takes two, and each side's words, an end, and its answer one more.
const EXCHANGES_MAX: usize = 16;
/// rustls takes 32 for an attack.
const KEY_CHANGES_MAX: usize = 16;
