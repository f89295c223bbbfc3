//! The rooms of the `naq` program. A program that only enqueues and reads depends on `naq-client`
//! instead: nothing here is a stable interface.
//!
//! ```text
//! main → cli → {worker, scheduler, web, local_server} → {metrics, clock, process_id, text, watchdog}
//! ```
//!
//! `docs/glossary.md` is the glossary: the meaning of each term, and the type that stands for it.

pub mod cli;
mod clock;
pub mod languages;
pub mod local_server;
pub mod metrics;
mod process_id;
pub mod scheduler;
mod text;
pub mod traces;
pub mod watchdog;
pub mod web;
pub mod worker;
