//! fullduplex: a WebSocket server that every language can load.
#![deny(unsafe_code)]
pub mod buffer;
pub mod config;
pub mod id;
pub mod protocol;
