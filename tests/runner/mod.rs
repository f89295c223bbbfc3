//! Runner tests: real processes, real kills.

mod control;
mod crash;
mod ending;
mod harness;
mod output;
mod starting;
