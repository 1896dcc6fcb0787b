//! One connection to a Redis server that never blocks: TCP, TLS or a Unix socket; bytes out, values in.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use mio::event::Source;
use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use redis::{ConnectionAddr, Parser, Value};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::link::Broken;

/// A connection, perhaps still being made.
pub struct Wire {
    socket: Socket,
    token: Token,
    /// Further addresses of the same name, the next one last.
    others: Vec<SocketAddr>,
    tls: Option<Box<ClientConnection>>,
    is_connected: bool,
    /// The kernel has said so, and no attempt has shown that it is over.
    is_readable: bool,
    is_writable: bool,
    /// Written by us, not taken by the kernel (or by TLS); from `taken` on.
    out: Vec<u8>,
    taken: usize,
    /// What came, opened.
    inbox: Inbox,
    parser: Parser,
    /// The peer has ended the stream; what came before it still counts.
    is_ended: bool,
}

enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

/// What came and was not parsed.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    read: usize,
}

/// To the parser an empty inbox is a socket that has nothing now.
impl Read for Inbox {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.read..];
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        self.read += len;
        if self.read == self.bytes.len() {
            self.bytes.clear();
            self.read = 0;
        }
        Ok(len)
    }
}

impl Wire {
    /// Begins to connect, to the address that the name has now.
    pub fn connect(
        place: &ConnectionAddr,
        tls: Option<&Arc<ClientConfig>>,
        registry: &Registry,
        token: Token,
    ) -> Result<Self, Broken> {
        let mut others = Vec::new();
        let (socket, tls) = match place {
            ConnectionAddr::Tcp(host, port) => {
                others = addresses(host, *port)?;
                (connect_next(&mut others, registry, token)?, None)
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                let config = tls.ok_or_else(|| Broken("TLS was not set up".to_string()))?;
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| Broken(format!("{host} is no name that TLS knows")))?;
                let session = ClientConnection::new(config.clone(), name);
                let session = session.map_err(|error| Broken(error.to_string()))?;
                others = addresses(host, *port)?;
                (connect_next(&mut others, registry, token)?, Some(Box::new(session)))
            }
            ConnectionAddr::Unix(path) => (connect_unix(path, registry, token)?, None),
            _ => return Err(Broken("an address of a kind that is not known".to_string())),
        };
        Ok(Self {
            socket,
            token,
            others,
            tls,
            is_connected: false,
            is_readable: false,
            is_writable: false,
            out: Vec::new(),
            taken: 0,
            inbox: Inbox::default(),
            parser: Parser::new(),
            is_ended: false,
        })
    }

    /// What the kernel says of the socket.
    pub fn note(&mut self, is_readable: bool, is_writable: bool) {
        self.is_readable |= is_readable;
        self.is_writable |= is_writable;
    }

    /// To be written by the next flush.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// So much is written and not taken that more would only fill memory.
    pub fn is_crowded(&self) -> bool {
        self.out.len() - self.taken > OUT_BYTES_MAX
    }

    /// There is more to read without waiting.
    pub fn has_more(&self) -> bool {
        self.is_connected && self.is_readable
    }

    /// Goes on with connecting, and writes what there is.
    pub fn flush(&mut self, registry: &Registry) -> Result<(), Broken> {
        if !self.is_writable {
            return Ok(());
        }
        if !self.is_connected {
            match self.socket.is_connected() {
                Ok(true) => self.is_connected = true,
                Ok(false) => return Ok(()),
                Err(error) if self.others.is_empty() => return Err(Broken(error.to_string())),
                Err(_) => {
                    let _ = self.socket.source().deregister(registry);
                    self.socket = connect_next(&mut self.others, registry, self.token)?;
                    (self.is_readable, self.is_writable) = (false, false);
                    return Ok(());
                }
            }
        }
        let written = match &mut self.tls {
            None => self.write_plain(),
            Some(_) => self.write_sealed(),
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_writable = false,
            Err(error) => return Err(Broken(error.to_string())),
            Ok(()) => {}
        }
        if self.taken == self.out.len() {
            self.out.clear();
            self.taken = 0;
            // A large message must not hold its memory for ever.
            self.out.shrink_to(OUT_BYTES_MAX);
        }
        Ok(())
    }

    fn write_plain(&mut self) -> io::Result<()> {
        while self.taken < self.out.len() {
            match self.socket.write(&self.out[self.taken..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                len => self.taken += len,
            }
        }
        Ok(())
    }

    fn write_sealed(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
            if self.taken == self.out.len() {
                return Ok(());
            }
            match tls.writer().write(&self.out[self.taken..])? {
                // In the handshake it holds only so much.
                0 => return Ok(()),
                len => self.taken += len,
            }
        }
    }

    /// Takes some of what has come, and calls `on` with each value that is whole.
    pub fn read(&mut self, mut on: impl FnMut(Value) -> Result<(), Broken>) -> Result<(), Broken> {
        if self.has_more() {
            self.fill()?;
        }
        loop {
            match self.parser.parse_value(&mut self.inbox) {
                Ok(value) => on(value)?,
                Err(error) if error.is_timeout() => break,
                // Why in detail is a parser's talk of several lines.
                Err(_) => return Err(Broken("it speaks something else than Redis".to_string())),
            }
        }
        if self.is_ended { Err(Broken("it closed the connection".to_string())) } else { Ok(()) }
    }

    fn fill(&mut self) -> Result<(), Broken> {
        let read = match &mut self.tls {
            None => self.read_plain(),
            Some(_) => self.read_sealed(),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
            Err(error) => return Err(Broken(error.to_string())),
            Ok(()) => {}
        }
        Ok(())
    }

    /// A limited amount: others have their turn, too.
    fn read_plain(&mut self) -> io::Result<()> {
        let start = self.inbox.bytes.len();
        self.inbox.bytes.resize(start + READ_BYTES, 0);
        let read = self.socket.read(&mut self.inbox.bytes[start..]);
        self.inbox.bytes.truncate(start + *read.as_ref().unwrap_or(&0));
        if read? == 0 {
            (self.is_ended, self.is_readable) = (true, false);
        }
        Ok(())
    }

    /// As much as without TLS: rustls takes some kilobytes at a time.
    fn read_sealed(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let broken = |error: rustls::Error| io::Error::other(error.to_string());
        let end = self.inbox.bytes.len() + READ_BYTES;
        while self.inbox.bytes.len() < end {
            let read = tls.read_tls(&mut self.socket);
            let state = tls.process_new_packets().map_err(broken)?;
            let start = self.inbox.bytes.len();
            self.inbox.bytes.resize(start + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut self.inbox.bytes[start..])?;
            if read? == 0 || state.peer_has_closed() {
                (self.is_ended, self.is_readable) = (true, false);
                break;
            }
        }
        Ok(())
    }

    pub fn close(mut self, registry: &Registry) {
        let _ = self.socket.source().deregister(registry);
    }
}

impl Socket {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(socket) => socket,
            #[cfg(unix)]
            Self::Unix(socket) => socket,
        }
    }

    fn is_connected(&self) -> io::Result<bool> {
        let (error, peer) = match self {
            Self::Tcp(socket) => (socket.take_error()?, socket.peer_addr().map(|_| ())),
            #[cfg(unix)]
            Self::Unix(socket) => (socket.take_error()?, socket.peer_addr().map(|_| ())),
        };
        match (error, peer) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(true),
            (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            (None, Err(error)) => Err(error),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        retried(|| match self {
            Self::Tcp(socket) => socket.read(buffer),
            #[cfg(unix)]
            Self::Unix(socket) => socket.read(buffer),
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        retried(|| match self {
            Self::Tcp(socket) => socket.write(bytes),
            #[cfg(unix)]
            Self::Unix(socket) => socket.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// All addresses of a name, the first one last.
fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Broken> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| Broken(format!("the name {host} was not found: {error}")))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.reverse();
    if addresses.is_empty() { Err(Broken(format!("the name {host} has no address"))) } else { Ok(addresses) }
}

fn connect_next(others: &mut Vec<SocketAddr>, registry: &Registry, token: Token) -> Result<Socket, Broken> {
    loop {
        let Some(address) = others.pop() else { return Err(Broken("no address is left".to_string())) };
        let connected = TcpStream::connect(address).and_then(|socket| {
            let _ = socket.set_nodelay(true);
            registered(Socket::Tcp(socket), registry, token)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) if others.is_empty() => return Err(Broken(error.to_string())),
            Err(_) => {}
        }
    }
}

fn registered(mut socket: Socket, registry: &Registry, token: Token) -> io::Result<Socket> {
    socket.source().register(registry, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(socket)
}

#[cfg(unix)]
fn connect_unix(path: &Path, registry: &Registry, token: Token) -> Result<Socket, Broken> {
    let socket = UnixStream::connect(path).map(Socket::Unix);
    let socket = socket.and_then(|socket| registered(socket, registry, token));
    socket.map_err(|error| Broken(error.to_string()))
}

#[cfg(not(unix))]
fn connect_unix(_: &Path, _: &Registry, _: Token) -> Result<Socket, Broken> {
    Err(Broken("there are no Unix sockets here".to_string()))
}

/// What TLS needs: whom to trust. `pem` names them, or else the system does.
pub fn tls_config(pem: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
        None => {
            // One that can't be read is no reason to trust nobody.
            for certificate in rustls_native_certs::load_native_certs().certs {
                let _ = roots.add(certificate);
            }
        }
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".to_string());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

const READ_BYTES: usize = 64 * 1024;
const OUT_BYTES_MAX: usize = 256 * 1024;
