//! System calls that no safe wrapper covers: one file per family, and the
//! only `unsafe` of the crate.

pub(super) mod child;
pub(super) mod clone;
pub(super) mod descriptors;
pub(super) mod events;
pub(super) mod namespace;
pub(super) mod signals;
pub(super) mod socket;
pub(super) mod wait;
