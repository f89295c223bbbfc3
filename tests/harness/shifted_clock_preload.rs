//! A library to preload: it shifts the wall clock and `CLOCK_BOOTTIME` of its process by what a
//! file says, and leaves every other clock as it is. A `CLOCK_BOOTTIME` that jumps while
//! `CLOCK_MONOTONIC` does not is what a process sees after its machine was suspended. Built by the
//! tests with rustc alone; `libc` is the process's own.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

#[repr(C)]
pub struct TimeSpec {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const c_char) -> *const c_char;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn mmap(
        at: *mut c_void,
        length: usize,
        protection: c_int,
        flags: c_int,
        file: c_int,
        offset: i64,
    ) -> *mut c_void;
}

#[cfg(target_arch = "x86_64")]
const CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "aarch64")]
const CLOCK_GETTIME: c_long = 113;

const CLOCK_REALTIME: c_int = 0;

const CLOCK_BOOTTIME: c_int = 7;

/// Environment variable that names the file: the shift of the wall clock and that of
/// `CLOCK_BOOTTIME`, in seconds, as eight bytes each.
const FILE: &CStr = c"CLOCK_SHIFT_FILE";

/// The shifts: wall clock, `CLOCK_BOOTTIME`.
type Shifts = [AtomicI64; 2];

static NO_SHIFTS: Shifts = [AtomicI64::new(0), AtomicI64::new(0)];

static SHIFTS: AtomicPtr<Shifts> = AtomicPtr::new(std::ptr::null_mut());

/// The mapped file. Two threads that are the first at once map the file twice, and see the same.
/// A process without the variable, such as a job with an environment of its own, has no shifts.
fn shifts() -> &'static Shifts {
    const READ_ONLY: c_int = 0;
    const PROTECTION_READ: c_int = 1;
    const MAP_SHARED: c_int = 1;
    let mut at = SHIFTS.load(Ordering::Acquire);
    if at.is_null() {
        // SAFETY: the name ends in NUL, the path is the environment's own, and the mapping is
        // checked before it is used
        unsafe {
            let path = getenv(FILE.as_ptr());
            if path.is_null() {
                return &NO_SHIFTS;
            }
            let file = open(path, READ_ONLY);
            assert!(file >= 0);
            let mapped = mmap(std::ptr::null_mut(), 16, PROTECTION_READ, MAP_SHARED, file, 0);
            assert!(mapped as isize != -1);
            at = mapped.cast();
        }
        SHIFTS.store(at, Ordering::Release);
    }
    // SAFETY: the file stays mapped for as long as the process lives, aligned as a page is
    unsafe { &*at }
}

/// # Safety
/// That of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut TimeSpec) -> c_int {
    // SAFETY: the caller's own arguments
    let result = unsafe { syscall(CLOCK_GETTIME, c_long::from(clock), time) };
    let shift = match clock {
        CLOCK_REALTIME => shifts()[0].load(Ordering::Relaxed),
        CLOCK_BOOTTIME => shifts()[1].load(Ordering::Relaxed),
        _ => 0,
    };
    if result == 0 && shift != 0 {
        // SAFETY: the call has just written it
        unsafe { (*time).seconds += shift };
    }
    result as c_int
}
