//! Versions and statuses: numbers that never change their meaning.

use std::ffi::{CStr, c_char};

use super::server::SignalsBlocked;
use super::{c_text, guard, guard_or};
use crate::driver::uring;

pub const FDX_VERSION_MAJOR: u32 = 0;
pub const FDX_VERSION_MINOR: u32 = 1;
pub const FDX_VERSION_PATCH: u32 = 0;
/// 0xMMmmpp
pub const FDX_VERSION: u32 = 0x00_01_00;
/// Grows only when a symbol, layout or promise changes.
pub const FDX_ABI: u32 = 0;

/// The version of the loaded library, as `FDX_VERSION`. [any]
#[unsafe(no_mangle)]
pub extern "C" fn fdx_version() -> u32 {
    FDX_VERSION
}

/// The version and what is built in, for people: "0.1.0 (abi 0; deflate hixie redis tls)". [any] The string is
/// static.
#[unsafe(no_mangle)]
pub extern "C" fn fdx_version_string() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), " (abi 0; deflate hixie redis tls)\0");
    TEXT.as_ptr().cast()
}

/// Is the loaded library the one the caller was made for? [any] Pass the header's `FDX_ABI`;
/// bindings do so when they load the library. `FDX_OK`; `FDX_E_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn fdx_check_abi(abi: u32) -> i32 {
    if abi == FDX_ABI { FDX_OK } else { FDX_E_VERSION }
}

/// Is a feature in this build? "tls", "deflate", "hixie", "redis" … 1 or 0. [any] NULL is no
/// feature. "io_uring": in this build, and allowed by the kernel and to this process.
///
/// # Safety
/// `feature` is null or ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdx_has(feature: *const c_char) -> i32 {
    let is_there = |name: &str| match name {
        "deflate" | "hixie" | "redis" | "tls" => true,
        "io_uring" => {
            let _signals = SignalsBlocked::new();
            uring::is_there()
        }
        _ => false,
    };
    // SAFETY: promised by the caller.
    guard(|| Ok(i32::from(unsafe { c_text(feature) }.is_ok_and(is_there))))
}

/// 0: done; > 0: done with a remark; < 0: not done. The numbers are frozen.
pub type fdx_status = i32;

/// Done.
pub const FDX_OK: fdx_status = 0;
/// Queued; please wait for FDX_EV_DRAIN before sending more.
pub const FDX_HIGH_WATER: fdx_status = 1;
/// It was so already; nothing changed.
pub const FDX_ALREADY: fdx_status = 2;
/// A NULL where none is allowed, an unknown kind or flag, a bad code or header.
pub const FDX_E_INVALID_ARG: fdx_status = -1;
/// Unknown, closed, or another server's connection.
pub const FDX_E_NO_CONN: fdx_status = -2;
/// The connection's close has begun.
pub const FDX_E_CLOSING: fdx_status = -3;
/// Over send.limit: NOT queued.
pub const FDX_E_FULL: fdx_status = -4;
/// Too big ever to be queued or sent.
pub const FDX_E_TOO_BIG: fdx_status = -5;
/// A text that is not UTF-8.
pub const FDX_E_UTF8: fdx_status = -6;
/// Not possible now: not open yet, decided already, started already …
pub const FDX_E_STATE: fdx_status = -7;
/// The server has stopped.
pub const FDX_E_STOPPED: fdx_status = -8;
/// No memory for it.
pub const FDX_E_NOMEM: fdx_status = -9;
/// The system said no; see fdx_error.os_error.
pub const FDX_E_IO: fdx_status = -10;
/// A certificate or key is unusable.
pub const FDX_E_TLS: fdx_status = -11;
/// Someone listens at this address already.
pub const FDX_E_ADDR_IN_USE: fdx_status = -12;
/// The system forbids it, for example a port below 1024.
pub const FDX_E_DENIED: fdx_status = -13;
/// Not in this build, on this platform, or in the connection's dialect.
pub const FDX_E_UNSUPPORTED: fdx_status = -14;
/// The time passed first.
pub const FDX_E_TIMEOUT: fdx_status = -15;
/// The library has another ABI than the header.
pub const FDX_E_VERSION: fdx_status = -16;
/// A bug of ours, contained; details in the log.
pub const FDX_E_PANIC: fdx_status = -17;
/// No such header, parameter, listener …
pub const FDX_E_NOT_FOUND: fdx_status = -18;
/// The buffer is too small; *needed says what would do.
pub const FDX_E_BUFFER: fdx_status = -19;
/// An unknown option or a bad value; the message says which and what would be good.
pub const FDX_E_CONFIG: fdx_status = -20;
/// The engine between machines is unusable.
pub const FDX_E_BACKPLANE: fdx_status = -21;
/// The call would wait for its own thread.
pub const FDX_E_DEADLOCK: fdx_status = -22;
/// The server belongs to the process that this one was forked from.
pub const FDX_E_FORKED: fdx_status = -23;
/// Woken by fdx_wake.
pub const FDX_E_INTERRUPTED: fdx_status = -24;
/// A configured limit is reached.
pub const FDX_E_LIMIT: fdx_status = -25;

/// A status' name, "FDX_E_NO_CONN". [any] Any value is accepted: "FDX_E_?" for an unknown one.
/// The string is static.
#[unsafe(no_mangle)]
pub extern "C" fn fdx_status_name(status: fdx_status) -> *const c_char {
    guard_or(c"FDX_E_?", || row(status).map_or(c"FDX_E_?", |row| row.1)).as_ptr()
}

/// What a status means, "no such connection". [any] Any value is accepted. The string is
/// static.
#[unsafe(no_mangle)]
pub extern "C" fn fdx_status_text(status: fdx_status) -> *const c_char {
    guard_or(c"unknown status", || row(status).map_or(c"unknown status", |row| row.2)).as_ptr()
}

fn row(status: fdx_status) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.0 == status)
}

type Row = (fdx_status, &'static CStr, &'static CStr);

const ROWS: [Row; 28] = [
    (FDX_OK, c"FDX_OK", c"done"),
    (FDX_HIGH_WATER, c"FDX_HIGH_WATER", c"queued, wait for DRAIN"),
    (FDX_ALREADY, c"FDX_ALREADY", c"was so already"),
    (FDX_E_INVALID_ARG, c"FDX_E_INVALID_ARG", c"invalid argument"),
    (FDX_E_NO_CONN, c"FDX_E_NO_CONN", c"no such connection"),
    (FDX_E_CLOSING, c"FDX_E_CLOSING", c"the connection is closing"),
    (FDX_E_FULL, c"FDX_E_FULL", c"outbox full, not queued"),
    (FDX_E_TOO_BIG, c"FDX_E_TOO_BIG", c"too big"),
    (FDX_E_UTF8, c"FDX_E_UTF8", c"not UTF-8"),
    (FDX_E_STATE, c"FDX_E_STATE", c"not possible now"),
    (FDX_E_STOPPED, c"FDX_E_STOPPED", c"the server has stopped"),
    (FDX_E_NOMEM, c"FDX_E_NOMEM", c"out of memory"),
    (FDX_E_IO, c"FDX_E_IO", c"input/output error"),
    (FDX_E_TLS, c"FDX_E_TLS", c"TLS error"),
    (FDX_E_ADDR_IN_USE, c"FDX_E_ADDR_IN_USE", c"address in use"),
    (FDX_E_DENIED, c"FDX_E_DENIED", c"permission denied"),
    (FDX_E_UNSUPPORTED, c"FDX_E_UNSUPPORTED", c"not supported"),
    (FDX_E_TIMEOUT, c"FDX_E_TIMEOUT", c"timed out"),
    (FDX_E_VERSION, c"FDX_E_VERSION", c"ABI version mismatch"),
    (FDX_E_PANIC, c"FDX_E_PANIC", c"internal error"),
    (FDX_E_NOT_FOUND, c"FDX_E_NOT_FOUND", c"not found"),
    (FDX_E_BUFFER, c"FDX_E_BUFFER", c"buffer too small"),
    (FDX_E_CONFIG, c"FDX_E_CONFIG", c"bad configuration"),
    (FDX_E_BACKPLANE, c"FDX_E_BACKPLANE", c"backplane error"),
    (FDX_E_DEADLOCK, c"FDX_E_DEADLOCK", c"would wait for its own thread"),
    (FDX_E_FORKED, c"FDX_E_FORKED", c"used after fork"),
    (FDX_E_INTERRUPTED, c"FDX_E_INTERRUPTED", c"interrupted"),
    (FDX_E_LIMIT, c"FDX_E_LIMIT", c"limit reached"),
];
