//! Signal dispositions.
#![expect(
    unsafe_code,
    reason = "setting a disposition by number has no safe wrapper"
)]

/// The kernel's `struct sigaction`, which is no larger on any architecture. All zeroes
/// mean the default action, no flags and an empty mask.
const DEFAULT_ACTION: [u64; 4] = [0; 4];

/// Size of the kernel's signal set, in bytes.
const SIGSET_BYTES: usize = 8;

/// Sets the disposition of every signal to the default, which children inherit. The
/// caller keeps all signals blocked. Uses the raw system call because libc reserves two
/// signals for itself, which a parent may have ignored all the same.
pub(crate) fn default_dispositions() {
    for signal in 1..=64 {
        // SAFETY: the default action installs no code; the kernel reads the action and
        // writes nothing. KILL and STOP return EINVAL, which is harmless.
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
