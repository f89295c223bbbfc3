//! One integration binary: the harness, then a folder for each area. Only the runner's tests have
//! another (`runner/main.rs`).

#![expect(
    clippy::too_many_lines,
    reason = "a test of a whole life cycle or of a table of cases reads best in one piece"
)]

/// The root of the repository, for tests that read its files.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

mod bench;
mod chaos;
mod cli;
mod clients;
mod config;
mod cron;
mod examples;
mod faults;
mod harness;
mod languages;
mod layers;
mod layout;
mod lifecycle;
mod metrics;
mod packaging;
mod permissions;
mod readme;
mod scheduler;
mod schemas;
mod server;
mod web;
mod wire;
mod worker;
