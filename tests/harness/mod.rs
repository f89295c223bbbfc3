//! What tests share.

pub(crate) mod naq;
pub(crate) mod nats;
