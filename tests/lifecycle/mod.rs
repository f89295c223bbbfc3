//! The life of a job as a user sees it: dependencies, cancelling, concurrency slots.

mod cancel;
mod control;
mod dependencies;
mod expiry;
mod flows;
mod inputs;
mod later_version;
mod protocol_page;
mod slots;
mod transcripts;
