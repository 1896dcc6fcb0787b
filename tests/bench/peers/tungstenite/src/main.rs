//! An echo server of tokio-tungstenite and rustls with ring, to measure ours against.
//!
//!     tungstenite-echo [--listen 127.0.0.1:0] [--cert FILE --key FILE] [--topic]
//!
//! With --topic everybody is in one topic, and what anybody says goes to all: as in tokio-tungstenite's own chat, where a
//! message's bytes are shared.
//!
//! One thread, as our server has one shard when it is measured. `forward` is how tokio-tungstenite's own example echoes:
//! it flushes when no message is left to read, so several in flight share a write. It knows no permessage-deflate.

use std::error::Error;
use std::sync::{Arc, Mutex};

use futures_channel::mpsc::{UnboundedSender, unbounded};
use futures_util::{StreamExt, TryStreamExt, future};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

/// What everybody hears: the ways to all connections.
type Room = Arc<Mutex<Vec<UnboundedSender<Message>>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let acceptor = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => Some(TlsAcceptor::from(Arc::new(tls_config(cert, key)?))),
        (None, None) => None,
        _ => return Err("--cert and --key come together".into()),
    };
    let room = options.with_topic.then(Room::default);
    let mut stop = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(&options.listen).await?;
    println!("listening on {}", listener.local_addr()?);

    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = stop.recv() => return Ok(()),
        };
        stream.set_nodelay(true)?;
        let (acceptor, room) = (acceptor.clone(), room.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, room).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, room).await
                    }
                }
            }
        });
    }
}

/// Until the peer is gone; why it went is the load generator's to judge.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, room: Option<Room>) {
    if let Ok(socket) = tokio_tungstenite::accept_async(stream).await {
        let (replies, messages) = socket.split();
        let messages = messages.try_filter(|message| future::ready(message.is_text() || message.is_binary()));
        let Some(room) = room else {
            let _ = messages.forward(replies).await;
            return;
        };
        let (to_us, due) = unbounded();
        room.lock().expect("nobody panics").push(to_us);
        let publish = messages.try_for_each(|message| {
            room.lock()
                .expect("nobody panics")
                .retain(|member| member.unbounded_send(message.clone()).is_ok());
            future::ok(())
        });
        future::select(publish, due.map(Ok).forward(replies)).await;
    }
}

fn tls_config(cert: &str, key: &str) -> Result<ServerConfig, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // Without it rustls keeps sessions in a small table and each serves once.
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(config)
}

struct Options {
    listen: String,
    cert: Option<String>,
    key: Option<String>,
    with_topic: bool,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self { listen: "127.0.0.1:0".into(), cert: None, key: None, with_topic: false };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let mut value = || words.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--listen" => options.listen = value()?,
                "--cert" => options.cert = Some(value()?),
                "--key" => options.key = Some(value()?),
                "--topic" => options.with_topic = true,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}
