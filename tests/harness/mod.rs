//! What tests share.

pub(crate) mod nats;
