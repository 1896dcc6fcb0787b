//! fullduplex: a WebSocket server that every language can load.
//!
//! The product is the C library in `ffi`; the layers below it are public for the tests and the
//! fuzzers, and promise nothing to others. Bottom-up, each may use those before it:

// The fence: `unsafe` lives in `ffi` and in `driver/uring.rs`, which pays for it where many are sent
// something at once (ARCHITECTURE.md, "Measured"). Another one is opened only with such a measurement,
// and has its line here.
#![deny(unsafe_code)]

pub mod backplane;
pub mod buffer;
pub mod config;
pub mod driver;
pub mod engine;
#[allow(unsafe_code)]
pub mod ffi;
pub mod id;
pub mod protocol;
pub mod server;
pub mod tls;
