//! Pages for browsers, rendered on the server. They work without scripts; a script updates open ones.

mod action_live;
pub(super) mod actions;
pub(super) mod audit;
mod choice;
mod dependencies;
pub(super) mod enqueue;
pub(super) mod failed;
pub(super) mod flow;
mod frame;
pub(super) mod job;
mod job_envelope;
mod job_live;
pub(super) mod job_output;
mod job_row;
mod job_view;
pub(super) mod jobs;
pub(super) mod live;
pub(super) mod login;
pub(super) mod overview;
pub(super) mod problems;
pub(super) mod schedule;
pub(super) mod schedule_form;
pub(super) mod schedules;
pub(super) mod snapshot;
pub(super) mod workers;
