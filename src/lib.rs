//! naq: a language-agnostic, distributed job runner on NATS JetStream.
//!
//! The crate is laid out as rooms. Imports point one way, and a test reads them:
//!
//! ```text
//! main → cli → {worker, scheduler, server, config} → client → {broker, runner} → lifecycle → envelope
//! ```

pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod envelope;
pub mod lifecycle;
pub mod runner;
pub mod scheduler;
pub mod server;
pub mod worker;

pub use client::{Client, Queue};
