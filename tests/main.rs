//! One integration binary: the harness, then a folder per room.

mod config;
mod faults;
mod harness;
mod runner;
mod server;
