//! Signal dispositions.
#![expect(
    unsafe_code,
    reason = "setting a disposition by number has no safe wrapper"
)]

/// The kernel's `struct sigaction`, no larger on any architecture, all zeroes:
/// the default action, no flags, an empty mask.
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Bytes of the kernel's signal set.
const SIGSET_BYTES: usize = 8;

/// Makes every signal's disposition the default one, so that children start
/// from it. For a process that keeps all signals blocked. The system is called
/// directly because libc keeps two signals to itself, which a parent may have
/// ignored all the same.
pub(crate) fn default_dispositions() {
    for signal in 1..=64 {
        // SAFETY: the default action installs no code; the kernel reads the
        // action and writes nothing. KILL and STOP answer EINVAL, which is
        // right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT_ACTION.as_ptr(),
                std::ptr::null::<u64>(),
                SIGSET_BYTES,
            );
        }
    }
}
