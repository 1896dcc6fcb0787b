//! Details for the calls that people debug by hand.

use std::ffi::c_char;
use std::io;
use std::mem::offset_of;

use super::status::*;
use super::struct_out;
use crate::config::ConfigError;
use crate::server::StartError;

/// What went wrong, for people. The caller's own, always optional: set `struct_size` to
/// `sizeof(fdx_error)` and pass it, or pass NULL. Filled only when the call fails. There is no
/// "last error" kept anywhere.
#[repr(C)]
pub struct fdx_error {
    pub struct_size: u32,
    pub status: fdx_status,
    /// `errno` of the system call that failed, or 0.
    pub os_error: i32,
    pub reserved: u32,
    /// One line, ended by NUL, that says what to do.
    pub message: [c_char; 240],
}

/// A failure inside: the status and the words for it.
pub(super) struct Failure {
    pub status: fdx_status,
    pub os_error: i32,
    pub message: String,
}

impl Failure {
    pub fn new(status: fdx_status, message: impl Into<String>) -> Self {
        Self { status, os_error: 0, message: message.into() }
    }

    /// Tells the caller, if it wants to know, and gives the status to return.
    ///
    /// # Safety
    /// `error` is null or points to an `fdx_error` with its `struct_size` set.
    pub unsafe fn tell(self, error: *mut fdx_error) -> fdx_status {
        if error.is_null() {
            return self.status;
        }
        // SAFETY: promised by the caller: it begins with its size.
        let size = unsafe { (*error).struct_size } as usize;
        let room = size.min(size_of::<fdx_error>()).saturating_sub(offset_of!(fdx_error, message));
        let mut message = [0; 240];
        let mut len = self.message.len().min(room.saturating_sub(1));
        while !self.message.is_char_boundary(len) {
            len -= 1;
        }
        for (to, from) in message.iter_mut().zip(self.message[..len].bytes()) {
            // A line is one line, whatever came in.
            *to = if from.is_ascii_control() { b' ' } else { from } as c_char;
        }
        let value =
            fdx_error { struct_size: 0, status: self.status, os_error: self.os_error, reserved: 0, message };
        // SAFETY: promised by the caller. A struct_size that is too small leaves it untouched.
        let _ = unsafe { struct_out(value, error) };
        self.status
    }
}

impl From<fdx_status> for Failure {
    fn from(status: fdx_status) -> Self {
        let message = match status {
            FDX_E_INVALID_ARG => "an argument is NULL or out of range",
            FDX_E_UTF8 => "an argument is not UTF-8",
            FDX_E_FORKED => "this server belongs to the process that this one was forked from",
            _ => "not possible",
        };
        Self::new(status, message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(FDX_E_CONFIG, error.0)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Phase(what) => Self::new(FDX_E_STATE, what),
            StartError::Config(what) => Self::new(FDX_E_CONFIG, what),
            StartError::Tls(what) => Self::new(FDX_E_TLS, what),
            StartError::Listen { address, error } => Self {
                status: status_of(&error),
                os_error: error.raw_os_error().unwrap_or(0),
                message: format!("can't listen at {address}: {error}"),
            },
            StartError::Stopped => Self::new(FDX_E_STOPPED, "the server has stopped"),
            StartError::Driver(error) => Self {
                status: FDX_E_IO,
                os_error: error.raw_os_error().unwrap_or(0),
                message: format!("can't begin to wait for sockets: {error}"),
            },
            StartError::Thread(error) => Self {
                status: FDX_E_IO,
                os_error: error.raw_os_error().unwrap_or(0),
                message: format!("can't start a thread: {error}"),
            },
        }
    }
}

fn status_of(error: &io::Error) -> fdx_status {
    match error.kind() {
        io::ErrorKind::AddrInUse => FDX_E_ADDR_IN_USE,
        io::ErrorKind::PermissionDenied => FDX_E_DENIED,
        _ => FDX_E_IO,
    }
}
