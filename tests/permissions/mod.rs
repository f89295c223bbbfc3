//! What each role may do: a nats-server runs with the configuration of `naq nats-config`, every verb runs as
//! its role, and the server's log shows no denial of what a role does and a denial of what it must not do.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod attacks;
mod check;
mod fleet;
mod folder;
mod logins;
mod verbs;
