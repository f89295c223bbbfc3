//! System calls that no safe wrapper covers, one file per family: the only `unsafe` code
//! of the crate.

pub(super) mod async_fd;
pub(super) mod child;
pub(super) mod clone;
pub(super) mod control_channel;
pub(super) mod inherited_fds;
pub(super) mod keyring;
pub(super) mod namespace_init;
pub(super) mod signals;
pub(super) mod socket;
pub(super) mod wait;
pub(super) mod xattr;
