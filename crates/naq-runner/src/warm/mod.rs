//! Warm processes: they are started before their jobs, and a job costs a fork, or nothing.
//!
//! To a spawner, a warm process is a job of its own that runs for long: it has a control group or a
//! namespace, and dies with its spawner and its worker. It runs one job of a worker at a time. While it
//! does, the spawner keeps that job's timeout and deadline (`ARM`), and afterwards it kills what the job left in
//! the same control group or namespace (`DISARM`). So a job in a warm process is stopped and cleaned up as
//! any other. Whatever goes wrong with the process ends the process, and with it the job that it runs.

mod frames;
mod job;
mod process;

pub use job::WarmCall;
pub use process::{WarmBoot, WarmError, WarmMode, WarmProcess};
