//! What the fuzz targets share: ways to cut a stream, what a conversation must mean, and a
//! simulated kernel with clients that read from a script.

pub mod clients;
pub mod hearing;
#[path = "../../engine/peer.rs"]
pub mod peer;
pub mod reference;
pub mod response;
pub mod script;
pub mod splits;
