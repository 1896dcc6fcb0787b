//! The C ABI: C names, pointers in and out, panics stopped.
//!
//! The one fence for `unsafe`. A function checks its pointers, calls once, and maps the answer;
//! an `if` about anything but pointers belongs one layer down. The doc comments here are the C
//! users' manual: cbindgen copies them into `include/fullduplex.h`.
//!
//! The files stand in the order of the header.

#![allow(non_camel_case_types)]

pub mod backplane;
pub mod config;
pub mod conn;
pub mod error;
pub mod event;
pub mod handshake;
pub mod log;
pub mod queue;
mod reentry;
pub mod send;
pub mod server;
pub mod stats;
pub mod status;
pub mod topic;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::engine::turn::Misuse;
use crate::server::Done;
use server::fdx_server;
use status::*;

/// Runs an entry point's body; a panic of ours ends here.
fn guard(body: impl FnOnce() -> Result<fdx_status, fdx_status>) -> fdx_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status) | Err(status)) => status,
        Err(_) => FDX_E_PANIC,
    }
}

/// The same for functions that return no status.
fn guard_or<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

/// The server behind a handle, unless this is a forked child of its process.
///
/// # Safety
/// `server` is null or a live handle.
unsafe fn handle<'a>(server: *const fdx_server) -> Result<&'a fdx_server, fdx_status> {
    // SAFETY: promised by the caller.
    let server = unsafe { server.as_ref() }.ok_or(FDX_E_INVALID_ARG)?;
    if server.is_forked() { Err(FDX_E_FORKED) } else { Ok(server) }
}

/// The bytes of an argument; null is allowed with length 0. `FDX_NTS` counts up to the NUL.
///
/// # Safety
/// `data` points to `len` readable bytes that stay as they are for `'a`, or up to a NUL if
/// `len` is `FDX_NTS`, or is null.
unsafe fn bytes<'a>(data: *const std::ffi::c_void, len: usize) -> Result<&'a [u8], fdx_status> {
    if data.is_null() {
        return if len == 0 || len == NTS { Ok(&[]) } else { Err(FDX_E_INVALID_ARG) };
    }
    if len == NTS {
        // SAFETY: promised by the caller: it ends with NUL.
        return Ok(unsafe { std::ffi::CStr::from_ptr(data.cast()) }.to_bytes());
    }
    if len > isize::MAX as usize {
        return Err(FDX_E_INVALID_ARG);
    }
    // SAFETY: promised by the caller: `len` readable bytes.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// A text argument with a length.
///
/// # Safety
/// As for [`bytes`].
unsafe fn text<'a>(data: *const std::ffi::c_char, len: usize) -> Result<&'a str, fdx_status> {
    // SAFETY: promised by the caller.
    let bytes = unsafe { bytes(data.cast(), len) }?;
    std::str::from_utf8(bytes).map_err(|_| FDX_E_UTF8)
}

/// A text argument that ends with NUL and must be there.
///
/// # Safety
/// `data` is null or points to a NUL-ended string that stays as it is for `'a`.
unsafe fn c_text<'a>(data: *const std::ffi::c_char) -> Result<&'a str, fdx_status> {
    if data.is_null() {
        return Err(FDX_E_INVALID_ARG);
    }
    // SAFETY: promised by the caller.
    unsafe { text(data, NTS) }
}

/// Writes a string out: at most `cap` bytes with the NUL, `*needed` always.
///
/// # Safety
/// `buf` is null or has room for `cap` bytes; `needed` is null or writable.
unsafe fn string_out(
    value: &[u8],
    buf: *mut std::ffi::c_char,
    cap: usize,
    needed: *mut usize,
) -> Result<fdx_status, fdx_status> {
    if buf.is_null() && cap > 0 {
        return Err(FDX_E_INVALID_ARG);
    }
    if !needed.is_null() {
        // SAFETY: promised by the caller: writable.
        unsafe { needed.write(value.len() + 1) };
    }
    let fits = value.len() < cap;
    let len = value.len().min(cap.saturating_sub(1));
    if cap > 0 {
        // SAFETY: `len` bytes and the NUL are at most the `cap` that the caller promised, and
        // a string of ours does not overlap a buffer of the caller's.
        unsafe {
            std::ptr::copy_nonoverlapping(value.as_ptr(), buf.cast(), len);
            buf.add(len).write(0);
        }
    }
    if fits { Ok(FDX_OK) } else { Err(FDX_E_BUFFER) }
}

/// Copies a struct out, as much of it as the caller's `struct_size` has room for. The
/// `struct_size` itself stays as the caller set it.
///
/// # Safety
/// `out` is null or points to a struct that begins with its own size as `u32`. `T` is
/// `#[repr(C)]`, begins with a `u32`, and has no padding.
unsafe fn struct_out<T>(value: T, out: *mut T) -> Result<fdx_status, fdx_status> {
    if out.is_null() {
        return Err(FDX_E_INVALID_ARG);
    }
    // SAFETY: promised by the caller: it begins with its size.
    let size = unsafe { out.cast::<u32>().read() } as usize;
    if size < 2 * size_of::<u32>() {
        return Err(FDX_E_INVALID_ARG);
    }
    let len = size.min(size_of::<T>()) - size_of::<u32>();
    // SAFETY: the caller's struct has `size` bytes and ours `size_of::<T>()`, both at least
    // `len` after the first field.
    unsafe {
        let from = (&raw const value).cast::<u8>().add(size_of::<u32>());
        std::ptr::copy_nonoverlapping(from, out.cast::<u8>().add(size_of::<u32>()), len);
    }
    Ok(FDX_OK)
}

/// Copies a struct in; fields that the caller's `struct_size` does not reach are zero. One that
/// it cuts through counts as not reached: half a pointer is no pointer.
///
/// # Safety
/// `value` is null or points to a struct that begins with its own size as `u32`. All-zero is a
/// valid `T`, and so is what the caller filled in. The fields of `T` end at multiples of its
/// alignment from its eighth byte on.
unsafe fn struct_in<T>(value: *const T) -> Result<T, fdx_status> {
    if value.is_null() {
        return Err(FDX_E_INVALID_ARG);
    }
    // SAFETY: promised by the caller: it begins with its size.
    let size = unsafe { value.cast::<u32>().read() } as usize;
    if size < 2 * size_of::<u32>() {
        return Err(FDX_E_INVALID_ARG);
    }
    let mut copy = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both sides have at least that many bytes, and all-zero is valid for the rest.
    unsafe {
        let len = size.min(size_of::<T>()) & !(align_of::<T>() - 1);
        std::ptr::copy_nonoverlapping(value.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), len);
        Ok(copy.assume_init())
    }
}

fn misused(misuse: Misuse) -> fdx_status {
    match misuse {
        Misuse::NoConnection => FDX_E_NO_CONN,
        Misuse::Closing => FDX_E_CLOSING,
        Misuse::Full => FDX_E_FULL,
        Misuse::TooBig => FDX_E_TOO_BIG,
        Misuse::Limit => FDX_E_LIMIT,
        Misuse::NotUtf8 => FDX_E_UTF8,
        Misuse::Unsupported => FDX_E_UNSUPPORTED,
        Misuse::State(_) => FDX_E_STATE,
        Misuse::Invalid(_) => FDX_E_INVALID_ARG,
        Misuse::NoMemory => FDX_E_NOMEM,
        Misuse::Stopped => FDX_E_STOPPED,
    }
}

fn done(done: Done) -> fdx_status {
    match done {
        Done::Now => FDX_OK,
        Done::Already => FDX_ALREADY,
    }
}

/// `FDX_NTS`: the length of a string that ends with NUL.
const NTS: usize = usize::MAX;
