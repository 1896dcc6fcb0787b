//! One TLS session, and the certificates that a server shows: rustls behind a small face.
//!
//! Sealed bytes in, plain bytes out, and the other way round, always into memory of the
//! caller's. A session keeps of its peer's bytes only the record that is not whole yet, so an
//! idle one holds no buffer. TLS 1.3 (RFC 8446) and 1.2 (RFC 5246).

use std::collections::{HashMap, TryReserveError};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConnectionData,
    UnbufferedServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, WriteTraffic};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ProtocolVersion, RootCertStore, ServerConfig};
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What all sessions of a server have in common.
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

/// Must a client show a certificate of its own?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    None,
    /// It is asked for one and may have none; a wrong one is refused.
    Want,
    Need,
}

/// The oldest version of the protocol that is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OldestVersion {
    Tls12,
    Tls13,
}

impl Acceptor {
    /// `client_ca` holds, in PEM, who may sign the certificates of clients.
    pub fn new(
        certificates: Arc<Certificates>,
        oldest: OldestVersion,
        client_auth: ClientAuth,
        client_ca: Option<&[u8]>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = match oldest {
            OldestVersion::Tls12 => &[&TLS13, &TLS12],
            OldestVersion::Tls13 => &[&TLS13],
        };
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let builder = match client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            asked => {
                let roots = Arc::new(roots(client_ca.ok_or(TlsError::NoAuthority)?)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match asked {
                    ClientAuth::Want => verifier.allow_unauthenticated(),
                    _ => verifier,
                };
                let verifier = verifier.build().map_err(|error| TlsError::Authority(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(certificates);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // The client keeps its session, sealed in a ticket; the server keeps nothing.
        config.ticketer = ring::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config) })
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(TlsError::Authority)?;
    }
    if roots.is_empty() { Err(TlsError::NoAuthority) } else { Ok(roots) }
}

/// One session, from the client's hello to the end of both directions.
pub struct TlsSession {
    rustls: UnbufferedServerConnection,
    /// A record that is not whole yet; in the handshake also those before it, while the message
    /// that they carry is not.
    partial: Vec<u8>,
    /// So much of `partial` rustls has read and still needs. It moves what is in there as it likes.
    read: usize,
    /// What is in `partial` was not looked at yet.
    is_postponed: bool,
    is_peer_done: bool,
    /// Nothing more can be sealed: our end was said, or the session has failed.
    is_over: bool,
}

/// What a session knows once it is established.
#[derive(Debug)]
pub struct TlsFacts {
    pub version: &'static str,
    /// Of the client's certificate, as in RFC 4514.
    pub subject: Option<String>,
}

impl TlsSession {
    pub fn new(acceptor: &Acceptor) -> Result<Self, TlsError> {
        let rustls = UnbufferedServerConnection::new(acceptor.config.clone())?;
        Ok(Self {
            rustls,
            partial: Vec::new(),
            read: 0,
            is_postponed: false,
            is_peer_done: false,
            is_over: false,
        })
    }

    /// Can these first bytes be TLS? Whoever forgot it begins with the letters of a method.
    pub fn begins_with(bytes: &[u8]) -> bool {
        !bytes.first().is_some_and(u8::is_ascii_uppercase)
    }

    /// Has anything come yet?
    pub fn is_untouched(&self) -> bool {
        self.partial.is_empty() && self.rustls.is_handshaking() && self.rustls.protocol_version().is_none()
    }

    /// The handshake is done: plain bytes may be sealed.
    pub fn is_established(&self) -> bool {
        !self.rustls.is_handshaking()
    }

    /// The peer has said that nothing more comes (close_notify). An end of the stream without
    /// it may be anybody's doing.
    pub fn is_peer_done(&self) -> bool {
        self.is_peer_done
    }

    /// Of the peer's, until more comes; no more than [`PARTIAL_BYTES_MAX`].
    pub fn kept_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Nothing more can be sealed.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    pub fn facts(&self) -> TlsFacts {
        let chain = self.rustls.peer_certificates();
        let leaf = chain.and_then(|chain| x509_cert::Certificate::from_der(chain.first()?).ok());
        TlsFacts {
            version: match self.rustls.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                _ => "1.3",
            },
            subject: leaf.map(|leaf| leaf.tbs_certificate.subject.to_string()),
        }
    }

    /// Does something wait to be looked at?
    pub fn is_postponed(&self) -> bool {
        self.is_postponed
    }

    /// Keeps bytes for the next [`TlsSession::receive`]: the handshake has to wait its turn.
    pub fn postpone(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        self.is_postponed = true;
        self.keep(bytes)
    }

    /// Takes what was read: what it says goes to the end of `plain`, and what must be answered
    /// at once to the end of `sealed`; on an error that is the alert.
    pub fn receive(
        &mut self,
        mut bytes: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        let mut is_unread = std::mem::take(&mut self.is_postponed);
        while !self.partial.is_empty() {
            if is_unread {
                is_unread = false;
                let mut partial = std::mem::take(&mut self.partial);
                let whole = self.read + whole_records(&partial[self.read..]);
                let taken = self.process(&mut partial, plain, sealed)?;
                self.read = whole.saturating_sub(taken);
                if taken < partial.len() {
                    partial.drain(..taken);
                    self.partial = partial;
                }
                continue;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            // The record is made whole, and no more than that: what follows is opened where it
            // lies.
            let Some(missing) = missing_bytes(&self.partial[self.read..]) else {
                self.is_over = true;
                return Err(TlsError::TooBig);
            };
            let (piece, rest) = bytes.split_at_mut(missing.min(bytes.len()));
            self.keep(piece)?;
            bytes = rest;
            is_unread = missing_bytes(&self.partial[self.read..]) == Some(RECORD_HEAD_BYTES);
        }
        let whole = whole_records(bytes);
        let taken = self.process(bytes, plain, sealed)?;
        self.read = whole.saturating_sub(taken);
        self.keep(&bytes[taken..])
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        if self.partial.len() + bytes.len() > PARTIAL_BYTES_MAX {
            return Err(TlsError::TooBig);
        }
        self.partial.try_reserve_exact(bytes.len())?;
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Lets rustls read as far as it gets; how far that is.
    fn process(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        let mut taken = 0;
        loop {
            let status = self.rustls.process_tls_records(&mut bytes[taken..]);
            let mut discard = status.discard;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        plain.try_reserve(record.payload.len())?;
                        plain.extend_from_slice(record.payload);
                        discard += record.discard;
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(sealed, 0, |room| Ok(data.encode(room)?))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_peer_done = true,
                // What follows the peer's end means nothing.
                Ok(_) if self.is_peer_done => return Ok(bytes.len()),
                Ok(_) => return Ok(taken + discard),
                Err(error) => {
                    self.is_over = true;
                    self.fetch_alert(&mut bytes[taken + discard..], sealed);
                    return Err(error.into());
                }
            }
            taken += discard;
        }
    }

    /// What the peer should know before we part: the alert, and what was to go before it. `bytes`
    /// is what rustls has not done with; it counts on finding its place in there, and must not read
    /// it once more after the alert.
    fn fetch_alert(&mut self, bytes: &mut [u8], sealed: &mut Vec<u8>) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) = self.rustls.process_tls_records(bytes).state
        {
            let start = sealed.len();
            // Without memory for it the stream ends without it.
            let is_written = append(sealed, 0, |room| Ok(data.encode(room)?)).is_ok();
            if !is_written || is_alert(&sealed[start..]) {
                return;
            }
        }
    }

    /// Seals `plain` to the end of `sealed`.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), TlsError> {
        let room = plain.len() + (plain.len() / RECORD_BYTES + 1) * RECORD_OVERHEAD_BYTES_MAX;
        self.write(sealed, room, |traffic, room| Ok(traffic.encrypt(plain, room)?))
    }

    /// Says that nothing more comes (close_notify), if that can be said.
    pub fn close(&mut self, sealed: &mut Vec<u8>) -> Result<(), TlsError> {
        self.write(sealed, RECORD_OVERHEAD_BYTES_MAX, |traffic, room| Ok(traffic.queue_close_notify(room)?))?;
        self.is_over = true;
        Ok(())
    }

    fn write(
        &mut self,
        sealed: &mut Vec<u8>,
        room: usize,
        mut write: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, Unwritten>,
    ) -> Result<(), TlsError> {
        if self.is_over || !self.is_established() {
            return Err(TlsError::Closed);
        }
        loop {
            // Half a message of the handshake may lie there.
            let status = self.rustls.process_tls_records(&mut self.partial);
            let state = status.state.inspect_err(|_| self.is_over = true)?;
            match state {
                ConnectionState::WriteTraffic(mut traffic) => {
                    return append(sealed, room, |room| write(&mut traffic, room));
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    append(sealed, 0, |room| Ok(data.encode(room)?))?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.is_peer_done = true,
                _ => return Err(TlsError::Closed),
            }
        }
    }
}

/// Gives `write` room at the end of `sealed`: so much, or as much as it asks for.
fn append(
    sealed: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Unwritten>,
) -> Result<(), TlsError> {
    let start = sealed.len();
    loop {
        sealed.try_reserve(room)?;
        sealed.resize(start + room, 0);
        let written = write(&mut sealed[start..]);
        sealed.truncate(start + written.as_ref().map_or(0, |len| *len));
        match written {
            Ok(_) => return Ok(()),
            Err(Unwritten::Short(required)) if required > room => room = required,
            Err(_) => return Err(TlsError::Closed),
        }
    }
}

/// Why nothing was written.
enum Unwritten {
    /// So much room is wanted.
    Short(usize),
    Never,
}

impl From<EncodeError> for Unwritten {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(short) => Self::Short(short.required_size),
            EncodeError::AlreadyEncoded => Self::Never,
        }
    }
}

impl From<EncryptError> for Unwritten {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(short) => Self::Short(short.required_size),
            EncryptError::EncryptExhausted => Self::Never,
        }
    }
}

/// In TLS 1.3 a sealed record does not say what is in it, but no other is so short.
fn is_alert(record: &[u8]) -> bool {
    record.first() == Some(&ALERT) || record.len() == RECORD_HEAD_BYTES + SEALED_ALERT_BYTES
}

/// Up to where `bytes` are whole records.
fn whole_records(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(len) = record_bytes(&bytes[end..]).filter(|&len| end + len <= bytes.len()) {
        end += len;
    }
    end
}

/// How long the record is that begins here, if its head is there.
fn record_bytes(bytes: &[u8]) -> Option<usize> {
    let head: &[u8; RECORD_HEAD_BYTES] = bytes.first_chunk()?;
    Some(RECORD_HEAD_BYTES + usize::from(u16::from_be_bytes([head[3], head[4]])))
}

/// How many bytes the last record lacks, or its head; with only whole ones, the next one's head.
/// `None`: there is no such record.
fn missing_bytes(bytes: &[u8]) -> Option<usize> {
    let last = &bytes[whole_records(bytes)..];
    match record_bytes(last) {
        Some(len) if len > RECORD_HEAD_BYTES + SEALED_BYTES_MAX => None,
        Some(len) => Some(len - last.len()),
        None => Some(RECORD_HEAD_BYTES - last.len()),
    }
}

/// A certificate with its key, ready for use.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// The DNS names that it is for, in lower case.
    names: Vec<String>,
}

impl Certificate {
    /// Reads a certificate, with those that link it to its authority behind it, and its private
    /// key, both in PEM. `now` is since 1970.
    pub fn from_pem(certificate: &[u8], key: &[u8], now: Duration) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| CertificateError::Certificate(format!("not PEM: {error}")))?;
        let Some(leaf) = chain.first() else {
            return Err(CertificateError::Certificate("not PEM: there is no certificate in it".to_string()));
        };
        let parsed = x509_cert::Certificate::from_der(leaf).map_err(|error| {
            CertificateError::Certificate(format!("the certificate can't be read: {error}"))
        })?;
        let validity = &parsed.tbs_certificate.validity;
        if validity.not_after.to_unix_duration() < now {
            return Err(CertificateError::Certificate(format!("expired on {}", validity.not_after)));
        }
        if validity.not_before.to_unix_duration() > now {
            return Err(CertificateError::Certificate(format!("not valid before {}", validity.not_before)));
        }
        let names = names(&parsed);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            CertificateError::Key(match error {
                pem::Error::NoItemsFound => {
                    "not PEM, or encrypted: there is no private key in it that can be used".to_string()
                }
                error => format!("not PEM: {error}"),
            })
        })?;
        let key = ring::sign::any_supported_type(&key)
            .map_err(|_| CertificateError::Key("the private key can't be used".to_string()))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(CertificateError::Key(
                    "the private key does not match the certificate".to_string(),
                ));
            }
            Err(error) => {
                return Err(CertificateError::Certificate(format!("the certificate can't be used: {error}")));
            }
        }
        Ok(Self { key: Arc::new(key), names })
    }
}

/// The alternative names; what has none is from a time when the subject's was used.
fn names(certificate: &x509_cert::Certificate) -> Vec<String> {
    let certificate = &certificate.tbs_certificate;
    let names: Vec<String> = match certificate.get::<SubjectAltName>() {
        Ok(Some((_, SubjectAltName(alternative)))) => alternative
            .into_iter()
            .filter_map(|name| match name {
                GeneralName::DnsName(name) => Some(name.to_string()),
                _ => None,
            })
            .collect(),
        _ => {
            let parts = certificate.subject.0.iter().flat_map(|part| part.0.iter());
            let common = parts.filter(|part| part.oid == CN).map(|part| &part.value);
            common
                .filter_map(|name| {
                    let utf8 = Utf8StringRef::try_from(name).map(|name| name.as_str().to_string());
                    utf8.or_else(|_| PrintableStringRef::try_from(name).map(|name| name.to_string())).ok()
                })
                .collect()
        }
    };
    names.into_iter().map(|name| name.to_ascii_lowercase()).collect()
}

/// What is wrong with a certificate or with its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CertificateError {
    Certificate(String),
    Key(String),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(why) | Self::Key(why) => f.write_str(why),
        }
    }
}

/// The certificates that a server shows, by the name that the client asks for. They may change
/// while it runs: who is connected keeps the one it has seen.
#[derive(Default, Debug)]
pub struct Certificates {
    shown: ArcSwap<Shown>,
}

#[derive(Clone, Default, Debug)]
struct Shown {
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// For names that nobody has, and for clients that give none.
    fallback: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    pub fn is_empty(&self) -> bool {
        self.shown.load().fallback.is_none()
    }

    /// Shows this one for the names in it; the first also for all others.
    pub fn add(&self, certificate: &Certificate) {
        self.shown.rcu(|shown| {
            let mut shown = Shown::clone(shown);
            shown.fallback.get_or_insert_with(|| certificate.key.clone());
            for name in &certificate.names {
                shown.by_name.entry(name.clone()).or_insert_with(|| certificate.key.clone());
            }
            shown
        });
    }

    /// From now on shows this one for a name (`*.a.example` for all right below it), or, without
    /// a name, for those in it and all that nobody has.
    pub fn replace(&self, name: Option<&str>, certificate: &Certificate) {
        self.shown.rcu(|shown| {
            let mut shown = Shown::clone(shown);
            let key = &certificate.key;
            match name {
                Some(name) => {
                    shown.by_name.insert(name.to_ascii_lowercase(), key.clone());
                    shown.fallback.get_or_insert_with(|| key.clone());
                }
                None => {
                    // Names of the last one that this one has not fall back to this one.
                    if let Some(last) = shown.fallback.take() {
                        shown.by_name.retain(|_, shown| !Arc::ptr_eq(shown, &last));
                    }
                    shown.by_name.extend(certificate.names.iter().map(|name| (name.clone(), key.clone())));
                    shown.fallback = Some(key.clone());
                }
            }
            shown
        });
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            shown.by_name.get(&name).or_else(|| {
                let (_, domain) = name.split_once('.')?;
                shown.by_name.get(&format!("*.{domain}"))
            })
        });
        named.or(shown.fallback.as_ref()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

/// Why there is no session, or no more.
#[derive(Clone, PartialEq, Debug)]
pub enum TlsError {
    Protocol(rustls::Error),
    /// A record or a message of the handshake is larger than any can be.
    TooBig,
    /// Nothing can be sealed: the handshake is not done, or our end was said.
    Closed,
    NoMemory,
    NoAuthority,
    Authority(String),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Protocol(error)
    }
}

impl From<TryReserveError> for TlsError {
    fn from(_: TryReserveError) -> Self {
        Self::NoMemory
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::NoMemory => io::ErrorKind::OutOfMemory.into(),
            error => io::Error::other(error.to_string()),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => write!(f, "{error}"),
            Self::TooBig => f.write_str("a record larger than any can be"),
            Self::Closed => f.write_str("the session is not open"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::NoAuthority => f.write_str("there is no certificate in it"),
            Self::Authority(why) => write!(f, "not the certificates of an authority: {why}"),
        }
    }
}

const RECORD_HEAD_BYTES: usize = 5;
const ALERT: u8 = 21;
/// Level and description, the type, and the tag.
const SEALED_ALERT_BYTES: usize = 2 + 1 + 16;
/// "The length MUST NOT exceed 2^14 bytes." (RFC 8446, 5.1)
const RECORD_BYTES: usize = 1 << 14;
/// "… MUST NOT exceed 2^14 + 2048." (RFC 5246, 6.2.3; it is less in TLS 1.3)
const SEALED_BYTES_MAX: usize = RECORD_BYTES + 2048;
/// Head, nonce, tag and type.
const RECORD_OVERHEAD_BYTES_MAX: usize = RECORD_HEAD_BYTES + 8 + 16 + 1;
/// What is kept until a record, or a message of the handshake, is whole: rustls takes messages
/// of 64 KiB, and one read may have come behind that while the handshake waited for its turn.
pub const PARTIAL_BYTES_MAX: usize = 192 * 1024;

#[cfg(test)]
mod tests;
