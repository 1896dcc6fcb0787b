//! The kernels that the same tests run on: one simulated, and the real one over the loopback, sent to by
//! a call for each connection or by io_uring. With TLS they are worlds of their own, see `secure`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use fullduplex::buffer::Buffer;
use fullduplex::config::DriverOptions;
use fullduplex::driver::listen::ListenSocket;
use fullduplex::driver::mio::MioDriver;
use fullduplex::driver::sim::{Faults, Kernel, SimClient, SimDriver};
use fullduplex::driver::{Batch, Driver, Sends, Sent, Wake};
use fullduplex::id::{Slot, Time};
use socket2::{Domain, SockRef, Socket, Type};

/// A kernel with clients, whose time also passes by hand.
pub trait World {
    type Driver: Driver;
    type Wire: Wire;

    /// Buffers are as large as the kernel likes, or hold about `buffer_bytes` each way.
    fn new(buffer_bytes: Option<usize>) -> Self;

    /// Who listens, listens with TLS. Before the first driver is made.
    fn make_secure(&mut self);

    /// A shard's driver. The first one listens.
    fn driver(&mut self) -> Self::Driver;

    fn connect(&mut self) -> Self::Wire;

    /// The clock jumps.
    fn pass(&mut self, time: Duration);

    /// So many turns without any news mean that there won't be any.
    const QUIET_TURNS: usize;
}

/// A client's socket, which never blocks.
pub trait Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize>;
    fn finish(&mut self);
    fn reset(self);

    /// What a wire does by itself, if it keeps anything. True if anything has moved.
    fn go_on(&mut self) -> bool {
        false
    }

    /// What a wire has taken and the kernel has not.
    fn unsent(&self) -> usize {
        0
    }
}

pub struct SimWorld {
    pub kernel: Kernel,
    drivers: usize,
}

impl World for SimWorld {
    type Driver = SimDriver;
    type Wire = SimClient;

    fn new(buffer_bytes: Option<usize>) -> Self {
        let mut faults = Faults::none();
        if let Some(bytes) = buffer_bytes {
            faults.buffer_bytes = bytes..=bytes;
        }
        Self { kernel: Kernel::new(1, faults), drivers: 0 }
    }

    fn make_secure(&mut self) {
        self.kernel.set_secure();
    }

    fn driver(&mut self) -> SimDriver {
        self.drivers += 1;
        self.kernel.driver(self.drivers == 1)
    }

    fn connect(&mut self) -> SimClient {
        self.kernel.connect().expect("somebody listens")
    }

    fn pass(&mut self, time: Duration) {
        self.kernel.pass(time);
    }

    const QUIET_TURNS: usize = 4;
}

impl Wire for SimClient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        SimClient::write(self, bytes)
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        SimClient::read(self, room)
    }

    fn finish(&mut self) {
        SimClient::finish(self);
    }

    fn reset(mut self) {
        SimClient::reset(&mut self);
    }
}

pub type MioWorld = LoopbackWorld<{ usize::MAX }>;
/// Where there is no io_uring it is as the one before.
pub type RingWorld = LoopbackWorld<1>;

pub struct LoopbackWorld<const SENDS_TOGETHER_MIN: usize> {
    listener: Option<TcpListener>,
    address: SocketAddr,
    buffer_bytes: Option<usize>,
    is_secure: bool,
    ahead_us: Arc<AtomicU64>,
}

impl<const SENDS_TOGETHER_MIN: usize> World for LoopbackWorld<SENDS_TOGETHER_MIN> {
    type Driver = JumpingClock<MioDriver>;
    type Wire = TcpStream;

    fn new(buffer_bytes: Option<usize>) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Some(bytes) = buffer_bytes {
            // An accepted socket inherits it.
            socket.set_send_buffer_size(bytes / 2).unwrap();
            socket.set_recv_buffer_size(bytes / 2).unwrap();
        }
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(128).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        Self { listener: Some(listener), address, buffer_bytes, is_secure: false, ahead_us: Arc::default() }
    }

    fn make_secure(&mut self) {
        self.is_secure = true;
    }

    fn driver(&mut self) -> Self::Driver {
        let options = DriverOptions { spin: Duration::ZERO, sends_together_min: SENDS_TOGETHER_MIN };
        let mut driver = MioDriver::new(&options).unwrap();
        if let Some(listener) = self.listener.take() {
            driver.listen(0, listener.into(), self.is_secure).unwrap();
        }
        JumpingClock { driver, ahead_us: self.ahead_us.clone(), has_begun: false }
    }

    fn connect(&mut self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Some(bytes) = self.buffer_bytes {
            socket.set_send_buffer_size(bytes / 2).unwrap();
            socket.set_recv_buffer_size(bytes / 2).unwrap();
        }
        socket.connect(&self.address.into()).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.into()
    }

    fn pass(&mut self, time: Duration) {
        self.ahead_us.fetch_add(time.as_micros() as u64, SeqCst);
    }

    const QUIET_TURNS: usize = 12;
}

impl Wire for TcpStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        Read::read(self, room)
    }

    fn finish(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn reset(self) {
        SockRef::from(&self).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A driver whose time can jump, and whose waits are short: what is to come from a test comes
/// only between two turns.
pub struct JumpingClock<D> {
    driver: D,
    ahead_us: Arc<AtomicU64>,
    has_begun: bool,
}

impl<D: Driver> Driver for JumpingClock<D> {
    type Socket = D::Socket;

    fn begin(&mut self) {
        self.driver.begin();
        self.has_begun = true;
    }

    fn now(&self) -> Time {
        Time(self.driver.now().0 + self.ahead_us.load(SeqCst))
    }

    fn wait(&mut self, until: Time, batch: &mut Batch<D::Socket>) -> io::Result<()> {
        assert!(self.has_begun, "without, the driver has no ring");
        let until = until.0.saturating_sub(self.ahead_us.load(SeqCst));
        let soon = self.driver.now().after(WAIT_MAX);
        self.driver.wait(Time(until).min(soon), batch)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.driver.waker()
    }

    fn adopt(&mut self, slot: Slot, socket: D::Socket) -> io::Result<()> {
        self.driver.adopt(slot, socket)
    }

    fn send(&mut self, slot: Slot, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        self.driver.send(slot, chunks)
    }

    fn sends_together_min(&self) -> usize {
        self.driver.sends_together_min()
    }

    fn send_each(&mut self, sends: &Sends<'_>, sent: &mut Vec<Sent>) {
        self.driver.send_each(sends, sent);
    }

    fn lend(&mut self, slot: Slot, buffer: Buffer, len: usize) {
        self.driver.lend(slot, buffer, len);
    }

    fn set_reading(&mut self, slot: Slot, on: bool) {
        self.driver.set_reading(slot, on);
    }

    fn finish(&mut self, slot: Slot) {
        self.driver.finish(slot);
    }

    fn close(&mut self, slot: Slot, reset: bool) -> Option<Buffer> {
        self.driver.close(slot, reset)
    }

    fn listen(&mut self, id: u32, socket: ListenSocket, secure: bool) -> io::Result<()> {
        self.driver.listen(id, socket, secure)
    }

    fn unlisten(&mut self, id: u32) {
        self.driver.unlisten(id);
    }

    fn set_accepting(&mut self, on: bool) {
        self.driver.set_accepting(on);
    }

    fn stop_listening(&mut self) {
        self.driver.stop_listening();
    }
}

const WAIT_MAX: Duration = Duration::from_millis(1);
