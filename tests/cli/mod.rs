//! Verbs as a user runs them, apart from those that README.md shows.

mod bulk;
mod completions;
mod cron;
mod crontab;
mod event_hooks;
mod events;
mod failed;
mod few_descriptors;
mod grammar;
mod grants;
mod job_control;
mod jobs;
mod json_contract;
mod list_scheduled;
mod log_file;
mod output;
mod remarks;
mod retry;
mod run;
mod schedule;
mod schedule_apply;
mod times;
mod ttl;
mod waiting;
mod words;
mod worker;
