//! What tests share.

pub(crate) mod cluster;
pub(crate) mod naq;
pub(crate) mod nats;
pub(crate) mod python;
pub(crate) mod shifted_clock;
