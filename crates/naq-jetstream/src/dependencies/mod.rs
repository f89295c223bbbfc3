//! The index of blocked jobs, and flows.

pub(crate) mod blocked_index;
pub(crate) mod flows;
