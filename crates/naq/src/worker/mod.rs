//! The worker: pulls jobs, claims them, runs them, records and acknowledges.
//!
//! One loop (`event_loop`) owns the slots and the commands; each delivery is a task of its own
//! that reports to it. `lifetime` starts the loop and signs the worker off after it. A delivery's
//! way reads top to bottom in `delivery_task`, `claim`, `run` and `finish`; what these share is in
//! the files below them: `attempt`, `delivery` with `persist` and `acknowledge`, `record_outcome`,
//! `blocked`.
//!
//! Nothing here decides what a job's end means (`naq_core` does), speaks NATS
//! (`naq_jetstream`) or starts a process (`naq_runner`).

mod artifacts;
mod attempt;
mod awaited_turn;
mod blocked;
mod claim;
mod claim_ahead;
mod coalescing;
mod command;
mod context;
mod control;
mod delivery;
mod delivery_task;
mod event_loop;
mod exit_rules;
mod file_cache;
mod finish;
mod grants;
mod heartbeat;
mod input_files;
mod inputs;
mod job_log;
mod job_requests;
mod job_socket;
mod label_routes;
mod lease;
mod lifetime;
mod limit_signals;
mod live_output;
mod metrics;
mod options;
mod prepare;
mod prepared_scripts;
mod probe_runners;
mod pull_planner;
mod record_outcome;
mod reject;
mod report;
mod requeue_orphans;
mod reroute;
mod run;
mod script_preparation;
mod secrets;
mod server_down;
mod stay_awake;
mod uploads;
mod warm;

pub use grants::{Grants, InvalidGrant};
pub use lifetime::run_worker;
pub use options::{JOBS_LOG_TARGET, WorkerCommand, WorkerConfig, WorkerError, WorkerSummary};
pub use pull_planner::QueueOrder;
pub use secrets::{SecretError, SecretStore};
pub use server_down::TAKEOVER_AFTER_MIN;
