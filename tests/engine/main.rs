//! The engine with a driver below it and a scripted embedder above it.
//!
//! `suite` is one set of tests for every driver: sockets over the loopback, and the simulated
//! kernel. `simulation` holds thousands of conversations with faults, each from a seed.

mod peer;
mod scene;
mod simulation;
mod suite;
mod world;
