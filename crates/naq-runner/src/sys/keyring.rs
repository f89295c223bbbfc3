//! Session keyrings: a job must not inherit the one in which the worker was started, which may hold the
//! keys of a login.
#![expect(
    unsafe_code,
    reason = "no safe wrapper joins a session keyring, and a child may only use raw system calls"
)]

use libc::c_long;

/// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
const JOIN_SESSION_KEYRING: c_long = 1;

/// Replaces the session keyring of this process by a new one without keys, which its children inherit.
///
/// A failure changes nothing and is ignored: the kernel has no keyrings, a sandbox refuses the call, and
/// with it every other call that could read a key, or the user owns as many keys as it may.
pub(crate) fn join_new_session_keyring() {
    // SAFETY: a system call without a pointer: no name means a keyring without one. It is
    // async-signal-safe.
    unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0 as c_long);
    }
}
