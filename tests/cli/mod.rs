//! Verbs as a user has them, beside what README.md already shows.

mod bulk;
mod events;
mod failed;
mod jobs;
mod retry;
mod run;
mod ttl;
mod worker;
