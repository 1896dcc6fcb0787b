//! An echo server of fastwebsockets, to measure ours against.
//!
//!     fastwebsockets-echo [--listen 127.0.0.1:0] [--topic]
//!
//! With --topic everybody is in one topic, and what anybody says goes to all.
//!
//! One thread, as our server has one shard when it is measured. hyper answers the handshakes, as the README recommends, and
//! the echo is that of its own example, with the simdutf8 of its default features; what the example leaves to Nagle's algorithm
//! goes out at once. In a topic the bytes of a message are shared, and a task for each connection writes what there is before
//! it flushes.

use std::error::Error;
use std::sync::{Arc, Mutex};

use fastwebsockets::upgrade::{UpgradeFut, upgrade};
use fastwebsockets::{FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::BufWriter;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What everybody hears: the ways to all connections.
type Room = Arc<Mutex<Vec<mpsc::UnboundedSender<Said>>>>;

#[derive(Clone)]
struct Said {
    opcode: OpCode,
    bytes: Bytes,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
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
        let room = room.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, room.clone()));
            let _ =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

async fn answer(
    mut request: Request<Incoming>,
    room: Option<Room>,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let (response, upgraded) = upgrade(&mut request)?;
    // Until the peer is gone; why it went is the load generator's to judge.
    tokio::spawn(tokio::task::unconstrained(async move {
        let _ = match room {
            None => echo(upgraded).await,
            Some(room) => subscribe(upgraded, room).await,
        };
    }));
    Ok(response)
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(upgraded.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}

async fn subscribe(upgraded: UpgradeFut, room: Room) -> Result<(), WebSocketError> {
    let (receiver, mut sender) = upgraded.await?.split(|stream| {
        let (receiver, sender) = tokio::io::split(stream);
        (receiver, BufWriter::new(sender))
    });
    let (to_us, mut due) = mpsc::unbounded_channel::<Said>();
    let control = to_us.clone();
    room.lock().expect("nobody panics").push(to_us);
    tokio::spawn(async move {
        while let Some(mut said) = due.recv().await {
            loop {
                sender
                    .write_frame(Frame::new(true, said.opcode, None, Payload::Borrowed(&said.bytes)))
                    .await?;
                match due.try_recv() {
                    Ok(more) => said = more,
                    Err(_) => break,
                }
            }
            sender.flush().await?;
        }
        Ok::<_, WebSocketError>(())
    });

    let mut receiver = FragmentCollectorRead::new(receiver);
    loop {
        let frame = receiver
            .read_frame(&mut |frame| {
                let sent = control.send(Said { opcode: frame.opcode, bytes: shared(frame.payload) });
                std::future::ready(sent)
            })
            .await?;
        if frame.opcode == OpCode::Close {
            return Ok(());
        }
        let said = Said { opcode: frame.opcode, bytes: shared(frame.payload) };
        room.lock().expect("nobody panics").retain(|member| member.send(said.clone()).is_ok());
    }
}

fn shared(payload: Payload<'_>) -> Bytes {
    match payload {
        Payload::Bytes(bytes) => bytes.freeze(),
        payload => Bytes::copy_from_slice(&payload),
    }
}

struct Options {
    listen: String,
    with_topic: bool,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self { listen: "127.0.0.1:0".into(), with_topic: false };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            match name.as_str() {
                "--topic" => options.with_topic = true,
                "--listen" => options.listen = words.next().ok_or("--listen needs a value")?,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(options)
    }
}
