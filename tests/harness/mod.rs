//! Helpers that all tests share.

pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod naq;
pub(crate) mod nats;
pub(crate) mod proxy;
pub(crate) mod python;
mod raw_nats;
pub(crate) mod shifted_clock;
