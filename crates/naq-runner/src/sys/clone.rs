//! Starts a child that shares the parent's memory until it executes, on its own stack,
//! and directly in a cgroup if one is given.
#![expect(
    unsafe_code,
    reason = "no safe wrapper starts a vfork child on its own stack"
)]

use std::os::fd::RawFd;
use std::ptr::NonNull;

use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;

use super::child::{self, ChildPlan};

/// Bytes of stack for the child, which calls only a few thin wrappers.
const STACK_BYTES: usize = 64 * 1024;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Owns the stack for children, of which one starts at a time.
#[derive(Debug)]
pub(crate) struct Cloner {
    stack: NonNull<c_void>,
}

/// The kernel's `struct clone_args` up to the cgroup (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Cloner {
    /// Maps the stack.
    pub(crate) fn new() -> Result<Cloner, Errno> {
        // SAFETY: a fresh private mapping; nothing else refers to it.
        let stack = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                STACK_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if stack == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        NonNull::new(stack)
            .map(|stack| Cloner { stack })
            .ok_or(Errno::ENOMEM)
    }

    /// Starts a child that follows `plan`, and is suspended until the child has executed
    /// or failed; then `plan.failed_step` says at which step. The caller must be
    /// single-threaded with every signal blocked. `cgroup` is the directory of a v2
    /// group to start in. If the kernel or a sandbox does not allow it (ENOSYS, EPERM
    /// or E2BIG), use `plan.cgroup_procs` instead.
    pub(crate) fn spawn(
        &mut self,
        plan: &mut ChildPlan,
        cgroup: Option<RawFd>,
    ) -> Result<c_int, Errno> {
        let arg = std::ptr::from_mut(plan).cast::<c_void>();
        match cgroup {
            Some(cgroup) => self.spawn_in_cgroup(child::run, arg, cgroup),
            None => {
                // SAFETY: the stack is ours, has 64 KiB and grows down from its top;
                // `plan` outlives the call because CLONE_VFORK suspends this process
                // until the child no longer uses its memory.
                let pid = unsafe {
                    libc::clone(
                        child::run,
                        self.stack.as_ptr().byte_add(STACK_BYTES),
                        libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                        arg,
                    )
                };
                Errno::result(pid)
            }
        }
    }

    /// As [`Cloner::spawn`], with the child in another PID namespace, and in `cgroup` if one
    /// is given. A short-lived intermediate child enters the namespace and starts the actual
    /// child there with this process as its parent. The spawner cannot enter by itself: without
    /// root it could not return, since it may not enter its own namespace again.
    pub(crate) fn spawn_in_namespace(
        &mut self,
        plan: &mut ChildPlan,
        pids: RawFd,
        cgroup: Option<RawFd>,
    ) -> Result<c_int, Errno> {
        let mut request = NamespaceSpawn {
            pids,
            cgroup,
            plan,
            // SAFETY: the middle of the mapping.
            stack: unsafe { self.stack.as_ptr().byte_add(STACK_BYTES / 2) },
            pid: 0,
            errno: 0,
        };
        // SAFETY: the intermediate child uses the upper half of the stack and leaves the
        // lower one to the actual child; `request` outlives the call like `plan` above.
        let between = Errno::result(unsafe {
            libc::clone(
                enter_namespace_and_spawn,
                self.stack.as_ptr().byte_add(STACK_BYTES),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                (&raw mut request).cast(),
            )
        })?;
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(between), None);
        match request.errno {
            0 => Ok(request.pid),
            errno => Err(Errno::from_raw(errno)),
        }
    }

    /// Checks whether a child can be started directly in the group, by starting and
    /// reaping one that exits at once.
    pub(crate) fn probe_cgroup_spawn(&mut self, cgroup: RawFd) -> Result<(), Errno> {
        extern "C" fn exit(_: *mut c_void) -> c_int {
            // SAFETY: `_exit` is async-signal-safe and does not return.
            unsafe { libc::_exit(0) }
        }
        let pid = self.spawn_in_cgroup(exit, std::ptr::null_mut(), cgroup)?;
        match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            // Since 6.14, Linux kills the child if our own group was ever killed and
            // reused.
            _ => Err(Errno::EPERM),
        }
    }

    fn spawn_in_cgroup(
        &mut self,
        entry: extern "C" fn(*mut c_void) -> c_int,
        arg: *mut c_void,
        cgroup: RawFd,
    ) -> Result<c_int, Errno> {
        let args = CloneArgs {
            flags: (libc::CLONE_VM | libc::CLONE_VFORK) as u64 | CLONE_INTO_CGROUP,
            exit_signal: libc::SIGCHLD as u64,
            stack: self.stack.as_ptr() as u64,
            stack_size: STACK_BYTES as u64,
            cgroup: cgroup as u64,
            ..CloneArgs::default()
        };
        // SAFETY: `args` describes a stack that is ours and unused; `entry` never
        // returns; the memory it reads outlives the call (CLONE_VFORK).
        unsafe { clone3(&args, entry, arg) }
    }
}

/// What the intermediate child needs, and its result.
struct NamespaceSpawn {
    pids: RawFd,
    cgroup: Option<RawFd>,
    plan: *mut ChildPlan,
    stack: *mut c_void,
    pid: c_int,
    errno: c_int,
}

/// The entry function of the intermediate child: enters the namespace and starts the
/// actual child. `request` is a `*mut NamespaceSpawn`.
extern "C" fn enter_namespace_and_spawn(request: *mut c_void) -> c_int {
    // SAFETY: the caller passes a NamespaceSpawn that outlives this call, since it is
    // suspended until `_exit`; its stack is unused. Only system calls; `errno` is that
    // of the suspended parent, which reads the result from `request` instead.
    unsafe {
        let request = &mut *request.cast::<NamespaceSpawn>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT;
        if libc::setns(request.pids, libc::CLONE_NEWPID) != 0 {
            request.errno = *libc::__errno_location();
        } else if let Some(cgroup) = request.cgroup {
            // This process must not join the group: it would count against the limit of processes.
            let args = CloneArgs {
                flags: flags as u64 | CLONE_INTO_CGROUP,
                // CLONE_PARENT passes on the signal of this process.
                exit_signal: 0,
                stack: request.stack.byte_sub(STACK_BYTES / 2) as u64,
                stack_size: (STACK_BYTES / 2) as u64,
                cgroup: cgroup as u64,
                ..CloneArgs::default()
            };
            match clone3(&args, child::run, request.plan.cast()) {
                Ok(pid) => request.pid = pid,
                Err(errno) => request.errno = errno as c_int,
            }
        } else {
            request.pid = libc::clone(child::run, request.stack, flags, request.plan.cast());
            if request.pid < 0 {
                request.errno = *libc::__errno_location();
            }
        }
        libc::_exit(0)
    }
}

/// Forks with the child as the first process of a new PID namespace. The caller must
/// be single-threaded. Returns 0 in the child.
pub(super) fn fork_into_pid_namespace() -> Result<c_int, Errno> {
    let args = CloneArgs {
        flags: libc::CLONE_NEWPID as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: without a stack and CLONE_VM this is a fork. The process has one thread,
    // so no other thread can own a lock in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    Errno::result(pid).map(|pid| pid as c_int)
}

/// `clone3` whose child calls `entry(arg)` on the stack in `args`. In assembly because
/// the child resumes with an empty stack and cannot return through a C wrapper.
///
/// # Safety
///
/// `args` names an unused stack, CLONE_VM and CLONE_VFORK are set, and `entry`
/// neither returns nor unwinds.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    args: &CloneArgs,
    entry: extern "C" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
) -> Result<c_int, Errno> {
    let result: i64;
    // SAFETY: the kernel preserves every register but rax, rcx and r11. The
    // parent falls through with its own stack untouched; the child has rax = 0
    // and the top of the new stack in rsp, 16-byte aligned as `call` wants.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r8") arg,
            in("r9") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    syscall_result(result)
}

/// As above, for 64-bit ARM.
///
/// # Safety
///
/// As above.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    args: &CloneArgs,
    entry: extern "C" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
) -> Result<c_int, Errno> {
    let result: i64;
    // SAFETY: `svc` preserves every register but x0. The parent falls through;
    // the child has x0 = 0 and sp at the top of the new stack.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x2",
            "blr x3",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_ref(args) as i64 => result,
            in("x1") size_of::<CloneArgs>(),
            in("x2") arg,
            in("x3") entry,
        );
    }
    syscall_result(result)
}

/// Unavailable on other architectures, where the child joins its group by itself.
///
/// # Safety
///
/// Does nothing, so it is always safe.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3(
    _: &CloneArgs,
    _: extern "C" fn(*mut c_void) -> c_int,
    _: *mut c_void,
) -> Result<c_int, Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn syscall_result(result: i64) -> Result<c_int, Errno> {
    if result < 0 {
        Err(Errno::from_raw(-result as c_int))
    } else {
        Ok(result as c_int)
    }
}
