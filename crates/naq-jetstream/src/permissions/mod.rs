//! What each part of naq may do on a NATS server: the permissions of its role, the configuration of
//! nats-server that grants them, and the check of a running server.

pub(crate) mod forbidden;
pub(crate) mod needed_role;
pub(crate) mod operation;
pub(crate) mod probe;
pub(crate) mod role;
pub(crate) mod roles;
pub(crate) mod server_config;
pub(crate) mod user_key;
