//! A library to preload: the process it is loaded into sees the wall clock shifted by what a file
//! says, and every other clock as it is. Built by the test with rustc alone; `libc` is the
//! process's own.

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

/// The variable that names the file: the shift in seconds, as eight bytes.
const FILE: &CStr = c"CLOCK_SHIFT_FILE";

static SHIFT: AtomicPtr<AtomicI64> = AtomicPtr::new(std::ptr::null_mut());

/// Where the shift is. Two threads that are the first at once map the file twice, and see the
/// same.
fn shift() -> i64 {
    const READ_ONLY: c_int = 0;
    const PROTECTION_READ: c_int = 1;
    const MAP_SHARED: c_int = 1;
    let mut at = SHIFT.load(Ordering::Acquire);
    if at.is_null() {
        // SAFETY: the name ends in NUL, the path is the environment's own, and the mapping is
        // looked at before it is used
        unsafe {
            let path = getenv(FILE.as_ptr());
            assert!(!path.is_null());
            let file = open(path, READ_ONLY);
            assert!(file >= 0);
            let mapped = mmap(std::ptr::null_mut(), 8, PROTECTION_READ, MAP_SHARED, file, 0);
            assert!(mapped as isize != -1);
            at = mapped.cast();
        }
        SHIFT.store(at, Ordering::Release);
    }
    // SAFETY: it is mapped for as long as the process lives, and aligned as a page is
    unsafe { (*at).load(Ordering::Relaxed) }
}

/// # Safety
/// As of the system call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut TimeSpec) -> c_int {
    // SAFETY: the caller's own arguments
    let result = unsafe { syscall(CLOCK_GETTIME, c_long::from(clock), time) };
    if result == 0 && clock == CLOCK_REALTIME {
        // SAFETY: the call has just written it
        unsafe { (*time).seconds += shift() };
    }
    result as c_int
}
