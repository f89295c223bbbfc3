//! Pages for browsers, made on the server. They work without scripts; a script updates open ones.

pub(super) mod live;
pub(super) mod login;
pub(super) mod overview;
pub(super) mod problems;
