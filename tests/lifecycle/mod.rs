//! A job's life as a user sees it: dependencies, cancelling, slots of a key.

mod cancel;
mod control;
mod dependencies;
mod flows;
mod slots;
