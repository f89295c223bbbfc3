//! One integration binary: the harness, then a folder per room.

mod chaos;
mod cli;
mod config;
mod cron;
mod examples;
mod faults;
mod harness;
mod layers;
mod lifecycle;
mod readme;
mod runner;
mod scheduler;
mod schemas;
mod server;
mod worker;
