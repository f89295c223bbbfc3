//! A server that another user of the machine has put where a client expects its own.

/// The program, which `python3` runs with a port and, if it is not the usual one, a greeting. It prints
/// `listening`, `connected` for each connection, and what it hears. Started by root, it becomes another
/// user.
pub(crate) const SCRIPT: &str = include_str!("impostor.py");
