//! One integration binary: the harness, then a folder per room.

mod runner;
mod server;
