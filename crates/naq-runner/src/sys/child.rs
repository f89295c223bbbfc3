//! The child between `clone` and `execve`: only async-signal-safe calls on memory that
//! its suspended parent has prepared.
#![expect(
    unsafe_code,
    reason = "the child shares its parent's memory until it executes, so only raw system calls are allowed in it"
)]

use std::os::fd::RawFd;

use libc::{c_char, c_int, c_void};

use super::keyring::join_new_session_keyring;

/// Capacity for resource limits in a plan.
pub(crate) const RLIMITS_MAX: usize = 8;

/// The steps that can fail; 0 stands for none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ChildStep {
    /// `setsid`.
    Session = 1,
    /// The parent died before the death signal was set.
    Orphaned = 2,
    /// `setrlimit`.
    Limit = 3,
    /// `setpriority`.
    Nice = 4,
    /// Joining the cgroup.
    Cgroup = 5,
    /// `chdir`.
    WorkDir = 6,
    /// `dup2` or `close_range`.
    Descriptors = 7,
    /// `execve`.
    Exec = 8,
    /// Entering the mount namespace.
    Mounts = 9,
    /// `setgroups`, `setresgid` or `setresuid`.
    User = 10,
    /// `landlock_restrict_self`.
    Landlock = 11,
}

/// The user that a child becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChildUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups; `groups_len` of them.
    pub(crate) groups: *const u32,
    pub(crate) groups_len: usize,
}

/// All that a child needs. The pointers are valid while the parent is suspended in
/// `clone`, that is, until the child has executed or exited.
#[derive(Debug)]
pub(crate) struct ChildPlan {
    /// The spawner's process id as the child sees it (0 from inside a PID namespace),
    /// to detect that the spawner died.
    pub(crate) parent: c_int,
    /// A mount namespace to enter and its root directory, or -1.
    pub(crate) mounts: (RawFd, RawFd),
    /// Whether to join a session keyring of its own.
    pub(crate) own_keyring: bool,
    /// Resource limits; the first `rlimits_len` are set.
    pub(crate) rlimits: [(c_int, libc::rlimit); RLIMITS_MAX],
    /// Number of valid entries in `rlimits`.
    pub(crate) rlimits_len: usize,
    /// Nice value to set; 0 leaves it unchanged.
    pub(crate) nice: c_int,
    /// `cgroup.procs` of a group to join, or -1.
    pub(crate) cgroup_procs: RawFd,
    /// The user to become. `None` leaves it unchanged.
    pub(crate) user: Option<ChildUser>,
    /// A Landlock ruleset to apply, or -1. Its number is above 3.
    pub(crate) ruleset: RawFd,
    /// Working directory.
    pub(crate) cwd: *const c_char,
    /// The descriptors that become 0 to 3. Each is above 3 or already in its place.
    pub(crate) fds: [RawFd; 4],
    /// The descriptor that becomes 4, or -1. A process with one has no ruleset.
    pub(crate) socket: RawFd,
    /// Null-terminated list of paths to try.
    pub(crate) candidates: *const *const c_char,
    /// Null-terminated arguments, at least one. The child may replace the first.
    pub(crate) argv: *mut *const c_char,
    /// Whether the first argument becomes the path that is executed.
    pub(crate) named_by_path: bool,
    /// Null-terminated environment.
    pub(crate) envp: *const *const c_char,
    /// The [`ChildStep`] that failed, or 0; written by the child.
    pub(crate) failed_step: u8,
    /// The errno of that step.
    pub(crate) failed_errno: c_int,
    /// Index of the candidate to which the errno belongs.
    pub(crate) failed_candidate: usize,
}

/// The entry function of the child of [`super::clone::Cloner::spawn`]. `plan` is a
/// `*mut ChildPlan`. Ends with `execve` or `_exit` and never returns.
pub(super) extern "C" fn run(plan: *mut c_void) -> c_int {
    // SAFETY: the caller passes a ChildPlan that outlives this call, since the
    // parent is suspended (CLONE_VFORK) until `execve` or `_exit`; nothing else
    // accesses it meanwhile. No call below allocates, locks or unwinds.
    unsafe {
        let plan = &mut *plan.cast::<ChildPlan>();
        let step = setup(plan);
        // For `Exec`, `setup` has chosen the errno among the candidates'.
        if step != ChildStep::Exec {
            plan.failed_errno = *libc::__errno_location();
        }
        plan.failed_step = step as u8;
        libc::_exit(127)
    }
}

/// Runs the steps and returns the one that failed.
///
/// # Safety
///
/// The caller is a vfork child, and all pointers of the plan are valid.
unsafe fn setup(plan: &mut ChildPlan) -> ChildStep {
    // SAFETY: the caller's promise covers all steps.
    unsafe {
        let prepared = enter_session(plan)
            .and_then(|()| set_limits(plan))
            .and_then(|()| set_descriptors(plan))
            .and_then(|()| become_user(plan))
            .and_then(|()| restrict(plan));
        match prepared {
            Ok(()) => exec(plan),
            Err(step) => step,
        }
    }
}

/// Enters a new session, and if the plan says so, a new session keyring and the mount namespace.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn enter_session(plan: &ChildPlan) -> Result<(), ChildStep> {
    // SAFETY: raw system calls on numbers and a literal.
    unsafe {
        if libc::setsid() < 0 {
            return Err(ChildStep::Session);
        }
        die_with_parent(plan)?;
        if plan.own_keyring {
            join_new_session_keyring();
        }
        let (mounts, root) = plan.mounts;
        if mounts >= 0
            && (libc::setns(mounts, libc::CLONE_NEWNS) != 0
                // setns moves to the root of the namespace. If the worker runs in a
                // chroot, that is not the worker's root.
                || libc::fchdir(root) != 0
                || libc::chroot(c".".as_ptr()) != 0)
        {
            return Err(ChildStep::Mounts);
        }
        Ok(())
    }
}

/// Asks the kernel to kill this process with its parent.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn die_with_parent(plan: &ChildPlan) -> Result<(), ChildStep> {
    // SAFETY: raw system calls on numbers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // If the parent died before the call, the kernel will not send the signal.
        if libc::getppid() != plan.parent {
            return Err(ChildStep::Orphaned);
        }
    }
    Ok(())
}

/// Sets resource limits and nice value, and joins the cgroup.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn set_limits(plan: &ChildPlan) -> Result<(), ChildStep> {
    // SAFETY: raw system calls on the plan's own arrays; `rlimits_len` entries are set.
    unsafe {
        let limits = plan.rlimits.as_ptr();
        let mut at = 0;
        while at < plan.rlimits_len {
            let (resource, limit) = &*limits.add(at);
            if libc::setrlimit(*resource as _, limit) != 0 {
                return Err(ChildStep::Limit);
            }
            at += 1;
        }
        if plan.nice != 0 && libc::setpriority(libc::PRIO_PROCESS, 0, plan.nice) != 0 {
            return Err(ChildStep::Nice);
        }
        if plan.cgroup_procs >= 0
            && libc::write(plan.cgroup_procs, c"0".as_ptr().cast::<c_void>(), 1) != 1
        {
            return Err(ChildStep::Cgroup);
        }
    }
    Ok(())
}

/// Moves the plan's descriptors to 0 to 3 and closes all others.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn set_descriptors(plan: &ChildPlan) -> Result<(), ChildStep> {
    // SAFETY: raw system calls on numbers; the descriptors are the child's own copies.
    unsafe {
        let fds = plan.fds.as_ptr();
        let mut at: c_int = 0;
        while at < 4 {
            let from = *fds.add(at as usize);
            let failed = if from == at {
                libc::fcntl(from, libc::F_SETFD, 0)
            } else {
                libc::dup2(from, at)
            };
            if failed < 0 {
                return Err(ChildStep::Descriptors);
            }
            at += 1;
        }
        let mut first = 4;
        if plan.socket >= 0 {
            let failed = if plan.socket == first {
                libc::fcntl(first, libc::F_SETFD, 0)
            } else {
                libc::dup2(plan.socket, first)
            };
            if failed < 0 {
                return Err(ChildStep::Descriptors);
            }
            first = 5;
        }
        // All are close-on-exec, but the parent resumes a moment before `execve`
        // closes them. Closing them here makes end of file exact. Linux before 5.9 leaves that to `execve`.
        if plan.ruleset >= first {
            // The ruleset is still needed; `execve` closes it.
            if plan.ruleset > first {
                libc::syscall(libc::SYS_close_range, first, plan.ruleset - 1, 0);
            }
            first = plan.ruleset + 1;
        }
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0);
    }
    Ok(())
}

/// Becomes the plan's user, if it has one.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn become_user(plan: &ChildPlan) -> Result<(), ChildStep> {
    let Some(user) = &plan.user else {
        return Ok(());
    };
    // SAFETY: raw system calls; `groups` has `groups_len` entries, kept by the parent.
    unsafe {
        // Raw system calls, since libc would change the ids of every thread in
        // the process that shares this memory.
        if libc::syscall(libc::SYS_setgroups, user.groups_len, user.groups) != 0
            || libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) != 0
            || libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) != 0
        {
            return Err(ChildStep::User);
        }
        // The change has cleared the death signal.
        die_with_parent(plan)
    }
}

/// Changes to the working directory, applies Landlock and unblocks all signals.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn restrict(plan: &ChildPlan) -> Result<(), ChildStep> {
    // SAFETY: raw system calls on a path that the parent keeps and on locals; the signal
    // mask is the child's own copy.
    unsafe {
        // As the new user: otherwise the job could start below a directory that its user
        // may not enter.
        if libc::chdir(plan.cwd) != 0 {
            return Err(ChildStep::WorkDir);
        }
        // Landlock needs no_new_privs, which the spawner has set for its children.
        if plan.ruleset >= 0
            && libc::syscall(libc::SYS_landlock_restrict_self, plan.ruleset, 0) != 0
        {
            return Err(ChildStep::Landlock);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    Ok(())
}

/// Executes the first candidate that can be executed. Returns only if none can, with the
/// errno in the plan.
///
/// # Safety
///
/// As for [`setup`].
unsafe fn exec(plan: &mut ChildPlan) -> ChildStep {
    // SAFETY: `candidates`, `argv` and `envp` are null-terminated and kept by the parent, which does
    // not read `argv` meanwhile; it has a first entry.
    unsafe {
        let mut candidate = 0;
        plan.failed_errno = libc::ENOENT;
        loop {
            let path = *plan.candidates.add(candidate);
            if path.is_null() {
                return ChildStep::Exec;
            }
            if plan.named_by_path {
                *plan.argv = path;
            }
            libc::execve(path, plan.argv.cast_const(), plan.envp);
            let errno = *libc::__errno_location();
            // As `execvp` does: continue after ENOENT and EACCES, and prefer to
            // report EACCES.
            let not_found = matches!(errno, libc::ENOENT | libc::ENOTDIR);
            if !(not_found && plan.failed_errno == libc::EACCES) {
                plan.failed_errno = errno;
                plan.failed_candidate = candidate;
            }
            if !not_found && errno != libc::EACCES {
                return ChildStep::Exec;
            }
            candidate += 1;
        }
    }
}
