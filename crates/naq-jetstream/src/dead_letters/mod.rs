//! Dead letters, and the poison messages that become some.

pub(crate) mod dead_letter;
pub(crate) mod poison_messages;
