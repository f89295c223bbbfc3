//! Signal dispositions.
#![expect(
    unsafe_code,
    reason = "setting a disposition by number has no safe wrapper"
)]

/// Makes every signal's disposition the default one, so that children start
/// from it. For a process that keeps all signals blocked.
pub(in crate::runner) fn default_dispositions() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no code; signals whose disposition cannot
        // be changed (KILL, STOP, libc's own) answer EINVAL, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
