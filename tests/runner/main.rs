//! The runner, with real processes and real kills.
//!
//! A test binary of its own: a runner kills children of its process that look like orphans of its
//! jobs. In one process with it, other tests would lose their nats-servers.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod confined;
mod control;
mod crash;
mod ending;
mod harness;
mod output;
mod starting;
