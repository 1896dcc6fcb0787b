//! TLS for the tests: a certificate of their own, a server's side that shows it, and worlds whose
//! clients speak TLS, so that the same tests hold over it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use fullduplex::tls::{Acceptor, Certificate, Certificates, ClientAuth, OldestVersion};
use once_cell::sync::Lazy;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::world::{Wire, World};

struct Ours {
    acceptor: Arc<Acceptor>,
    certificate: CertificateDer<'static>,
}

static OURS: Lazy<Ours> = Lazy::new(|| {
    // Its signatures are all of the same length, so that a simulation can be run again.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key can be had");
    let parameters = rcgen::CertificateParams::new(["localhost".to_string()]).expect("a good name");
    let made = parameters.self_signed(&key).expect("a good certificate");
    let (certificate, key) = (made.pem(), key.serialize_pem());
    let now = Duration::from_secs(1_750_000_000);
    let certificate = Certificate::from_pem(certificate.as_bytes(), key.as_bytes(), now);
    let certificates = Arc::new(Certificates::default());
    certificates.add(&certificate.expect("a good certificate"));
    let acceptor = Acceptor::new(certificates, OldestVersion::Tls12, ClientAuth::None, None);
    Ours { acceptor: Arc::new(acceptor.expect("TLS can be had")), certificate: made.der().clone() }
});

/// What every engine is given; only connections to a listener with TLS come to use it.
pub fn acceptor() -> Arc<Acceptor> {
    OURS.acceptor.clone()
}

/// A client that trusts it.
pub fn client(is_newest: bool) -> ClientConnection {
    let version = if is_newest { &TLS13 } else { &TLS12 };
    let mut roots = RootCertStore::empty();
    roots.add(OURS.certificate.clone()).expect("a good certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).expect("it is known");
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    ClientConnection::new(config, "localhost".try_into().expect("a good name")).expect("a client can be had")
}

/// A world whose server listens with TLS.
pub struct Secure<W> {
    pub world: W,
    connects: usize,
}

impl<W: World> Secure<W> {
    /// A client's socket without TLS.
    pub fn connect_plainly(&mut self) -> W::Wire {
        self.world.connect()
    }
}

impl<W: World> World for Secure<W> {
    type Driver = W::Driver;
    type Wire = SecureWire<W::Wire>;

    fn new(buffer_bytes: Option<usize>) -> Self {
        let mut world = W::new(buffer_bytes);
        world.make_secure();
        Self { world, connects: 0 }
    }

    fn make_secure(&mut self) {}

    fn driver(&mut self) -> W::Driver {
        self.world.driver()
    }

    /// Clients speak TLS 1.3 and 1.2 in turn.
    fn connect(&mut self) -> SecureWire<W::Wire> {
        self.connects += 1;
        SecureWire::new(self.world.connect(), client(self.connects % 2 == 1))
    }

    fn pass(&mut self, time: Duration) {
        self.world.pass(time);
    }

    const QUIET_TURNS: usize = W::QUIET_TURNS;
}

/// A client's end of TLS as a socket that never blocks.
///
/// Its hello goes out before the first that it is given to say: a client that says nothing is as
/// silent as without TLS. A proxy's header goes before the hello, in clear, and an answer in clear
/// is heard as it is. The end of the stream is one only if the server has said that it comes
/// (close_notify); else it looks broken.
pub struct SecureWire<W> {
    wire: W,
    tls: ClientConnection,
    /// The first words, until it is known whether a proxy's header begins there.
    first_words: Option<Vec<u8>>,
    /// To be sealed when the handshake is done.
    waiting: Vec<u8>,
    sealed: VecDeque<u8>,
    plain: VecDeque<u8>,
    hears: Hears,
    trouble: Option<rustls::Error>,
    end: End,
    has_moved: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hears {
    Nothing,
    Tls,
    Clear,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    None,
    /// What is not sent yet goes first.
    Wanted,
    Said,
    Done,
}

impl<W: Wire> SecureWire<W> {
    pub fn new(wire: W, tls: ClientConnection) -> Self {
        Self {
            wire,
            tls,
            first_words: Some(Vec::new()),
            waiting: Vec::new(),
            sealed: VecDeque::new(),
            plain: VecDeque::new(),
            hears: Hears::Nothing,
            trouble: None,
            end: End::None,
            has_moved: false,
        }
    }

    /// Says something below TLS.
    pub fn say_raw(&mut self, bytes: &[u8]) {
        self.sealed.extend(bytes);
        let _ = self.send();
    }

    /// Ends its half as TLS says it, and leaves the stream open.
    pub fn say_good_bye(&mut self) {
        self.tls.send_close_notify();
        let _ = self.send();
    }

    /// Ends its half without a word of TLS about it.
    pub fn finish_raw(&mut self) {
        self.end = End::Said;
        let _ = self.send();
    }

    /// What was wrong with what has come, or with what was said as the server sees it.
    pub fn trouble(&self) -> Option<&rustls::Error> {
        self.trouble.as_ref()
    }

    /// Sends what can be sent.
    fn send(&mut self) -> io::Result<()> {
        if self.first_words.is_none() && self.hears != Hears::Clear {
            if !self.tls.is_handshaking() && !self.waiting.is_empty() {
                self.tls.writer().write_all(&self.waiting).expect("the session takes it");
                self.waiting.clear();
            }
            if self.end == End::Wanted && (!self.tls.is_handshaking() || self.trouble.is_some()) {
                self.tls.send_close_notify();
                self.end = End::Said;
            }
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.sealed).expect("memory takes it");
            }
        } else if self.end == End::Wanted {
            self.end = End::Said;
        }
        let mut result = Ok(());
        while !self.sealed.is_empty() {
            match self.wire.write(self.sealed.make_contiguous()) {
                Ok(len) => {
                    self.sealed.drain(..len);
                    self.has_moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.sealed.clear();
                    result = Err(error);
                }
            }
        }
        if self.end == End::Said {
            self.end = End::Done;
            self.has_moved = true;
            self.wire.finish();
        }
        result
    }

    fn hear(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.hears == Hears::Nothing {
            // A record begins with no letter.
            self.hears = if bytes[0] == b'H' { Hears::Clear } else { Hears::Tls };
        }
        if self.hears == Hears::Clear {
            self.plain.extend(bytes);
            return Ok(());
        }
        while !bytes.is_empty() && self.trouble.is_none() {
            self.tls.read_tls(&mut bytes)?;
            self.trouble = self.tls.process_new_packets().err();
            let mut room = Vec::new();
            // It ends with the news that there is no more for now.
            let _ = self.tls.reader().read_to_end(&mut room);
            self.plain.extend(room);
        }
        Ok(())
    }

    fn is_closed_by_peer(&mut self) -> bool {
        self.hears == Hears::Clear
            || self.first_words.is_some()
            || self.tls.process_new_packets().is_ok_and(|state| state.peer_has_closed())
    }
}

impl<W: Wire> Wire for SecureWire<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        if self.trouble.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let bytes = &bytes[..bytes.len().min(AT_ONCE_BYTES)];
        match self.first_words.take() {
            Some(mut words) => {
                words.extend(bytes);
                match announcement_bytes(&words) {
                    Some(len) => {
                        self.sealed.extend(&words[..len]);
                        self.waiting.extend(&words[len..]);
                    }
                    None => self.first_words = Some(words),
                }
            }
            None if self.hears == Hears::Clear => return self.wire.write(bytes),
            None if self.tls.is_handshaking() || !self.sealed.is_empty() => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            None => self.waiting.extend(bytes),
        }
        self.has_moved = true;
        self.send()?;
        Ok(bytes.len())
    }

    /// Takes no more from the kernel than there is room, so that a slow reader is one.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut left = room.len();
        while self.plain.is_empty() {
            if let Some(error) = &self.trouble {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, error.clone()));
            }
            let mut bytes = vec![0; left.min(AT_ONCE_BYTES)];
            let len = match bytes.len() {
                0 => return Err(io::ErrorKind::WouldBlock.into()),
                _ => self.wire.read(&mut bytes)?,
            };
            self.has_moved = true;
            if len == 0 {
                return match self.is_closed_by_peer() {
                    true => Ok(0),
                    false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "truncated")),
                };
            }
            left -= len;
            let heard = self.hear(&bytes[..len]);
            // Also what is to be said about trouble.
            let _ = self.send();
            heard?;
        }
        self.plain.read(room)
    }

    fn finish(&mut self) {
        self.end = End::Wanted;
        // If it fails the next read tells.
        let _ = self.send();
    }

    fn reset(self) {
        self.wire.reset();
    }

    fn go_on(&mut self) -> bool {
        let _ = self.send();
        std::mem::take(&mut self.has_moved)
    }

    fn unsent(&self) -> usize {
        self.sealed.len() + self.waiting.len()
    }
}

/// How long the header of a proxy is with which this begins. `None`: it may become one.
fn announcement_bytes(bytes: &[u8]) -> Option<usize> {
    const V1: &[u8] = b"PROXY ";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    if V1.starts_with(bytes) || V2.starts_with(bytes) {
        return None;
    }
    if bytes.starts_with(V1) {
        return bytes.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2);
    }
    if bytes.starts_with(V2) {
        let len = usize::from(u16::from_be_bytes(*bytes.get(14..16)?.first_chunk()?));
        return (bytes.len() >= 16 + len).then_some(16 + len);
    }
    Some(0)
}

const AT_ONCE_BYTES: usize = 16 * 1024;
