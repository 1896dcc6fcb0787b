//! The engine with a driver below it and a scripted embedder above it.
//!
//! `suite` is one set of tests for every driver: sockets over the loopback, and the simulated
//! kernel. `simulation` holds thousands of conversations with faults, each from a seed; `torture`
//! holds a few again and again, with every answer of the kernel gone bad in turn.

mod peer;
mod scene;
mod secure;
mod simulation;
mod suite;
mod torture;
mod world;
