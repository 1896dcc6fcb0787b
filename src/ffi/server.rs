//! The server: made, started, stopped, waited for.

use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use once_cell::sync::OnceCell;

use super::backplane::{Calls, KeptBackplane};
use super::config::{RouteHandlers, fdx_config};
use super::error::{Failure, fdx_error};
use super::event::{Deliverer, fdx_event};
use super::queue::Enqueuer;
use super::status::*;
use super::{bytes, c_text, done, guard, guard_or, handle, misused, text};
use crate::backplane::Carrier;
use crate::config::{Dispatch, LiveError};
use crate::driver::Driver;
use crate::driver::listen::{Inherit, ListenSocket};
use crate::engine::table::PendingRequest;
use crate::id::ConnId;
use crate::protocol::close::{CloseCode, CloseFrame, REASON_BYTES_MAX};
use crate::server::delivery::Queue;
use crate::server::shard::Shard;
use crate::server::{Server, StartError, Waited};
use crate::tls::CertificateError;

/// A server. Reference-counted; every function may be called from any thread.
pub struct fdx_server {
    pub(super) server: Arc<Server>,
    pub(super) routes: Vec<Arc<RouteHandlers>>,
    /// Of the embedder's own.
    backplane: Option<Arc<KeptBackplane>>,
    /// With "dispatch" = "queue".
    pub(super) queues: Vec<Queue<fdx_event>>,
    /// References of the embedder's. The shards keep the memory alive by another count.
    references: AtomicUsize,
    /// How often the process had forked when this was made.
    forks: u32,
}

impl fdx_server {
    pub(super) fn is_forked(&self) -> bool {
        self.forks != FORKS.load(SeqCst)
    }

    /// Where a connection's events go, all its life.
    pub(super) fn queue_of(&self, conn: ConnId) -> usize {
        conn.slot() as usize % self.queues.len()
    }

    /// The request of a connection, or of an event that was polled and not freed.
    pub(super) fn request(&self, conn: ConnId) -> Result<PendingRequest, fdx_status> {
        self.server.request(conn).or_else(|misuse| {
            let kept = (!self.queues.is_empty()).then(|| self.queues[self.queue_of(conn)].request(conn));
            kept.flatten().ok_or_else(|| misused(misuse))
        })
    }
}

/// Makes a server of a config, which is copied. [any] Nothing runs yet. On success `*out` is a
/// handle with one reference: give it back with `fdx_server_unref`.
///
/// `FDX_OK`; `FDX_E_INVALID_ARG`; `FDX_E_CONFIG` when there is no route, or one with callbacks although
/// "dispatch" is "queue", or two backplanes.
///
/// # Safety
/// `config` is live; `out` is writable; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_new(
    config: *const fdx_config,
    out: *mut *mut fdx_server,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let make = || -> Result<(), Failure> {
            if out.is_null() {
                return Err(FDX_E_INVALID_ARG.into());
            }
            // SAFETY: promised by the caller; no handle is left in `out` on failure.
            unsafe { out.write(std::ptr::null_mut()) };
            // SAFETY: promised by the caller.
            let config = unsafe { config.as_ref() }.ok_or(FDX_E_INVALID_ARG)?;
            if config.routes.is_empty() {
                return Err(Failure::new(FDX_E_CONFIG, "no route: add one with fdx_config_route"));
            }
            let is_polled = config.config.settings().dispatch == Dispatch::Queue;
            let routes = if is_polled { config.polled_routes()? } else { config.routes.clone() };
            if config.backplane.is_some() && !config.config.settings().backplane.servers.is_empty() {
                let what = "both the option \"backplane\" and fdx_config_backplane: choose one";
                return Err(Failure::new(FDX_E_CONFIG, what));
            }
            silence_panics();
            let server = Server::new(&config.config, routes);
            let server = match &config.backplane {
                Some(_) => server.with_custom_backplane(),
                None => server,
            };
            let server = fdx_server {
                queues: (0..if is_polled { server.queues() } else { 0 }).map(|_| Queue::default()).collect(),
                server: Arc::new(server),
                routes: config.handlers.clone(),
                backplane: config.backplane.clone(),
                references: AtomicUsize::new(1),
                forks: count_forks(),
            };
            // SAFETY: checked and promised above.
            unsafe { out.write(Arc::into_raw(Arc::new(server)).cast_mut()) };
            Ok(())
        };
        // SAFETY: promised by the caller.
        make().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// One reference more. [any] Returns `server`; NULL is accepted.
///
/// # Safety
/// `server` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_ref(server: *mut fdx_server) -> *mut fdx_server {
    guard_or(server, || {
        // SAFETY: promised by the caller.
        if let Some(server) = unsafe { server.as_ref() } {
            server.references.fetch_add(1, SeqCst);
        }
        server
    })
}

/// One reference less. [any] With the last one a running server is stopped in the background with
/// code 1001 and `timeout.close` as deadline: its last callbacks may still come. NULL is accepted.
///
/// # Safety
/// `server` is null or live, and the caller has a reference to give back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_unref(server: *mut fdx_server) {
    guard_or((), || {
        // SAFETY: promised by the caller.
        let Some(handle) = (unsafe { server.as_ref() }) else { return };
        // In a forked child the threads that would have to end don't exist.
        if handle.references.fetch_sub(1, SeqCst) == 1 && !handle.is_forked() {
            handle.server.stop_in_background();
            // SAFETY: `fdx_server_new` made it by `into_raw`, and this was the last reference.
            drop(unsafe { Arc::from_raw(server.cast_const()) });
        }
    });
}

/// Opens all listeners and starts the threads, or nothing. [any] A server starts once.
///
/// `FDX_OK`; `FDX_E_STATE` if it was started; `FDX_E_CONFIG` without an address to listen at;
/// `FDX_E_ADDR_IN_USE`; `FDX_E_DENIED`; `FDX_E_IO` (see `os_error`); `FDX_E_TLS` when a file that
/// "tls.cert", "tls.key", "tls.client_ca" or "backplane.ca" names can't be used, or an address with "tls=1" has no
/// certificate.
///
/// # Safety
/// `server` is live; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_start(server: *mut fdx_server, error: *mut fdx_error) -> fdx_status {
    guard(|| {
        let start = || -> Result<(), Failure> {
            // SAFETY: promised by the caller.
            let handle = unsafe { handle(server) }?;
            // SAFETY: promised by the caller.
            let owner = unsafe { owner(server) };
            let _signals = SignalsBlocked::new();
            let is_polled = !handle.queues.is_empty();
            let calls = |functions: &Arc<KeptBackplane>| -> Box<dyn Carrier> {
                Box::new(Calls { functions: functions.clone(), owner: owner.clone() })
            };
            let carrier = handle.backplane.as_ref().map(calls);
            let started = match is_polled {
                true => handle.server.start(|| Enqueuer::new(owner.clone()), INHERIT, carrier),
                false => handle.server.start(|| Deliverer::new(owner.clone()), INHERIT, carrier),
            };
            Ok(started?)
        };
        // SAFETY: promised by the caller.
        start().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// Starts a server without threads, on drivers of the caller's, who takes the turns of the shards.
/// No part of the ABI: the fuzzers run the C functions on a simulated kernel with it.
///
/// # Safety
/// `server` is live.
pub unsafe fn start_on<D: Driver>(
    server: *mut fdx_server,
    drivers: Vec<D>,
) -> Result<Vec<Shard<D, Deliverer>>, StartError> {
    // SAFETY: promised by the caller.
    let owner = unsafe { owner(server) };
    owner.server.start_on(drivers, || Deliverer::new(owner.clone()))
}

/// The same for a server whose events are polled.
///
/// # Safety
/// `server` is live.
pub unsafe fn start_polled_on<D: Driver>(
    server: *mut fdx_server,
    drivers: Vec<D>,
) -> Result<Vec<Shard<D, Enqueuer>>, StartError> {
    // SAFETY: promised by the caller.
    let owner = unsafe { owner(server) };
    owner.server.start_on(drivers, || Enqueuer::new(owner.clone()))
}

/// A count of its own on a server.
///
/// # Safety
/// `server` is live.
pub(super) unsafe fn owner(server: *mut fdx_server) -> Arc<fdx_server> {
    // SAFETY: `fdx_server_new` made it by `into_raw`; the count goes up for the Arc here.
    unsafe {
        Arc::increment_strong_count(server.cast_const());
        Arc::from_raw(server.cast_const())
    }
}

/// Begins to stop and returns at once. [any] Listeners close; every connection is closed with
/// `code` (0: without one) and `reason`, spread over `spread_ms`; what is left after `deadline_ms`
/// is cut. Each open connection still gets its CLOSE (`FDX_CLOSED_BY_SHUTDOWN`); the last event
/// is `FDX_EV_STOPPED`. Who connected before is still let in, and told good-bye as the others;
/// plain requests are answered. `len` may be `FDX_NTS`.
///
/// `FDX_OK`; `FDX_ALREADY`; `FDX_E_STATE` if it was not started; `FDX_E_INVALID_ARG` for a code
/// that can't be sent; `FDX_E_TOO_BIG` for a reason over 123 bytes; `FDX_E_UTF8`.
///
/// # Safety
/// `server` is live; `reason` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_stop(
    server: *mut fdx_server,
    code: u16,
    reason: *const c_char,
    len: usize,
    spread_ms: u32,
    deadline_ms: u32,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let (handle, reason) = unsafe { (handle(server)?, text(reason, len)?) };
        let frame = close_frame(code, reason)?;
        let millis = |ms: u32| Duration::from_millis(u64::from(ms));
        handle.server.stop(frame, millis(spread_ms), millis(deadline_ms)).map(done).map_err(misused)
    })
}

/// [wait] Waits until the server has stopped and its threads are gone; forever with a negative
/// `timeout_ms`.
///
/// `FDX_OK`; `FDX_E_TIMEOUT`; `FDX_E_STATE` if it was not started; `FDX_E_DEADLOCK` on a thread of
/// the same server.
///
/// # Safety
/// `server` is live, and stays so until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_wait(server: *mut fdx_server, timeout_ms: i32) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        match handle.server.wait(timeout) {
            Waited::Stopped => Ok(FDX_OK),
            Waited::TimedOut => Err(FDX_E_TIMEOUT),
            Waited::Deadlock => Err(FDX_E_DEADLOCK),
            Waited::NotStarted => Err(FDX_E_STATE),
        }
    })
}

/// Changes an option of a server, also while it runs. [any] Those that can change have
/// `FDX_OPTION_LIVE` in their row of the option table. Connections that are open follow within a
/// turn; what is counted per address or time counts from then on.
///
/// `FDX_OK`; `FDX_E_CONFIG` for an unknown key (the message names the nearest) or a bad value;
/// `FDX_E_STATE` for one that is fixed when a server is made; `FDX_E_INVALID_ARG` for NULL;
/// `FDX_E_UTF8`.
///
/// # Safety
/// `server` is live; `key` and `value` end with NUL; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_server_set(
    server: *mut fdx_server,
    key: *const c_char,
    value: *const c_char,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let set = || -> Result<(), Failure> {
            // SAFETY: promised by the caller.
            let (handle, key, value) = unsafe { (handle(server)?, c_text(key)?, c_text(value)?) };
            handle.server.set(key, value).map_err(|error| match error {
                LiveError::Config(error) => error.into(),
                LiveError::Fixed => {
                    Failure::new(FDX_E_STATE, format!("{key} is fixed when the server is made"))
                }
            })
        };
        // SAFETY: promised by the caller.
        set().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// Listens at one address more while the server runs. [any] `*out_id` is its number for
/// `fdx_unlisten` and `fdx_listener_fd`, `*out_port` its port; both may be NULL. The configured
/// ones have the numbers from 0 on, in the order they were set. Of "fd:N" a duplicate is taken:
/// the descriptor itself stays yours to close. The forms of an address are those of the option
/// "listen".
///
/// `FDX_OK`; `FDX_E_CONFIG` for an address that is none; `FDX_E_STATE` before the start;
/// `FDX_E_STOPPED`; `FDX_E_ADDR_IN_USE`; `FDX_E_DENIED`; `FDX_E_IO`; `FDX_E_TLS` for "tls=1" without
/// a certificate; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `address` ends with NUL; `out_id` and `out_port` are null or writable; `error`
/// is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_listen(
    server: *mut fdx_server,
    address: *const c_char,
    out_id: *mut u32,
    out_port: *mut u16,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let listen = || -> Result<(), Failure> {
            // SAFETY: promised by the caller.
            let (handle, address) = unsafe { (handle(server)?, c_text(address)?) };
            let (id, port) = handle.server.listen(address, INHERIT)?;
            // SAFETY: promised by the caller: null or writable.
            unsafe {
                if let Some(out_id) = out_id.as_mut() {
                    *out_id = id;
                }
                if let Some(out_port) = out_port.as_mut() {
                    *out_port = port;
                }
            }
            Ok(())
        };
        // SAFETY: promised by the caller.
        listen().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// Shows another certificate from now on, to who connects to a listener with "tls=1". [any] `cert`
/// is the certificate with those that link it to its authority behind it, `key` its private key,
/// both in PEM and copied; the lengths may be `FDX_NTS`. `sni` is the name that it is shown for,
/// "a.example" or "*.a.example"; NULL: the names in it, and every client that asks for none or for
/// an unknown one. It is looked at first: when this fails the old one stays. Open connections keep
/// the one they have seen. Before the start it counts, too.
///
/// `FDX_OK`; `FDX_E_TLS` when it can't be used (not PEM, expired, not this key's …), as the message
/// says; `FDX_E_INVALID_ARG`; `FDX_E_UTF8`.
///
/// # Safety
/// `server` is live; `sni` is null or ends with NUL; `cert` has `cert_len` readable bytes and `key`
/// `key_len`; `error` is null or has its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_set_certificate(
    server: *mut fdx_server,
    sni: *const c_char,
    cert: *const c_void,
    cert_len: usize,
    key: *const c_void,
    key_len: usize,
    error: *mut fdx_error,
) -> fdx_status {
    guard(|| {
        let set = || -> Result<(), Failure> {
            // SAFETY: promised by the caller.
            let (handle, cert, key) =
                unsafe { (handle(server)?, bytes(cert, cert_len)?, bytes(key, key_len)?) };
            // SAFETY: promised by the caller: null or ended by NUL.
            let sni = if sni.is_null() { None } else { Some(unsafe { c_text(sni) }?) };
            handle.server.set_certificate(sni, cert, key).map_err(|error| {
                let which = match &error {
                    CertificateError::Certificate(_) => "certificate",
                    CertificateError::Key(_) => "key",
                };
                Failure::new(FDX_E_TLS, format!("{which}: {error}"))
            })
        };
        // SAFETY: promised by the caller.
        set().map(|()| FDX_OK).map_err(|failure| unsafe { failure.tell(error) })
    })
}

/// Ends listening at an address, by its number. [any] Its connections go on; those that nobody
/// has accepted yet are reset.
///
/// `FDX_OK`; `FDX_E_NOT_FOUND`; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_unlisten(server: *mut fdx_server, id: u32) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        if handle.server.unlisten(id) { Ok(FDX_OK) } else { Err(FDX_E_NOT_FOUND) }
    })
}

/// The descriptor of a listening socket, by its number (the configured ones count from 0): to be
/// duplicated or passed on to the process that takes over, which listens at "fd:N". [any] It
/// stays the server's, and is closed by `fdx_unlisten` and when the server stops; the file of a
/// Unix socket stays from then on.
///
/// A restart that refuses nobody: start the new process with the descriptor; when it listens,
/// `fdx_unlisten` in the old one, then `fdx_server_stop` with some seconds of `spread_ms`. What
/// waits to be accepted is the new one's.
///
/// `FDX_OK`; `FDX_E_NOT_FOUND`; `FDX_E_INVALID_ARG`; `FDX_E_UNSUPPORTED` where sockets are no
/// descriptors.
///
/// # Safety
/// `server` is live; `out_fd` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_listener_fd(server: *mut fdx_server, id: u32, out_fd: *mut isize) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        if out_fd.is_null() {
            return Err(FDX_E_INVALID_ARG);
        }
        let fd = handle.server.hand_over(id, descriptor).ok_or(FDX_E_NOT_FOUND)??;
        // SAFETY: promised by the caller.
        unsafe { out_fd.write(fd) };
        Ok(FDX_OK)
    })
}

#[cfg(unix)]
fn descriptor(listener: &ListenSocket) -> Result<isize, fdx_status> {
    use std::os::fd::AsRawFd;
    Ok(match listener {
        ListenSocket::Tcp(socket) => socket.as_raw_fd() as isize,
        ListenSocket::Unix(socket) => socket.as_raw_fd() as isize,
    })
}

#[cfg(not(unix))]
fn descriptor(_: &ListenSocket) -> Result<isize, fdx_status> {
    Err(FDX_E_UNSUPPORTED)
}

/// Takes a duplicate of a descriptor that the embedder names by its number.
#[cfg(unix)]
const INHERIT: Inherit = duplicate;
#[cfg(not(unix))]
const INHERIT: Inherit = ();

#[cfg(unix)]
pub(super) fn duplicate(number: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: it only makes a new descriptor, whatever the number is.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: it was made above and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// The port of the configured listener `index`, in the order they were set: where port 0 was
/// asked for, the one it got; 0 for a Unix socket. [any] Each socket that systemd passed counts.
///
/// `FDX_OK`; `FDX_E_NOT_FOUND` past the last, or before the start; `FDX_E_INVALID_ARG`.
///
/// # Safety
/// `server` is live; `out_port` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_listener_port(
    server: *mut fdx_server,
    index: u32,
    out_port: *mut u16,
) -> fdx_status {
    guard(|| {
        // SAFETY: promised by the caller.
        let handle = unsafe { handle(server) }?;
        if out_port.is_null() {
            return Err(FDX_E_INVALID_ARG);
        }
        let port = handle.server.port(index as usize).ok_or(FDX_E_NOT_FOUND)?;
        // SAFETY: promised by the caller.
        unsafe { out_port.write(port) };
        Ok(FDX_OK)
    })
}

/// A Close as the embedder asks for it; code 0 is one without a code.
pub(super) fn close_frame(code: u16, reason: &str) -> Result<CloseFrame, fdx_status> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(FDX_E_TOO_BIG);
    }
    match CloseCode(code) {
        CloseCode(0) if reason.is_empty() => Ok(CloseFrame::EMPTY),
        code if code.is_sendable() => Ok(CloseFrame::new(code, reason)),
        _ => Err(FDX_E_INVALID_ARG),
    }
}

/// A panic is a line in the log; the host's standard error is the host's.
fn silence_panics() {
    static SILENT: OnceCell<()> = OnceCell::new();
    SILENT.get_or_init(|| {
        std::panic::set_hook(Box::new(|info| log::error!(target: "fullduplex::panic", "{info}")));
    });
}

/// How often this process has forked since it was loaded; counted in the child.
static FORKS: AtomicU32 = AtomicU32::new(0);

fn count_forks() -> u32 {
    #[cfg(unix)]
    {
        extern "C" fn forked() {
            FORKS.fetch_add(1, SeqCst);
        }
        static COUNTING: OnceCell<()> = OnceCell::new();
        // SAFETY: the handler only adds to an atomic, which is allowed between fork and exec.
        COUNTING.get_or_init(|| unsafe {
            libc::pthread_atfork(None, None, Some(forked));
        });
    }
    FORKS.load(SeqCst)
}

/// Signals are the host's business: threads started meanwhile inherit the mask and get none but those that a
/// thread raises itself by a faulty instruction. While such a one is blocked the kernel ends the process
/// instead of asking its handler, out of which a managed runtime makes its null reference exception.
pub(super) struct SignalsBlocked {
    #[cfg(unix)]
    before: libc::sigset_t,
}

impl SignalsBlocked {
    pub(super) fn new() -> Self {
        #[cfg(unix)]
        // SAFETY: both sets are initialised by the calls before they are read.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&mut all);
            for fault in
                [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS]
            {
                libc::sigdelset(&mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self { before }
        }
        #[cfg(not(unix))]
        Self {}
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        #[cfg(unix)]
        // SAFETY: `before` was filled in by `new`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}
