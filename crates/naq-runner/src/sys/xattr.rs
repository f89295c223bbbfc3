//! Extended attributes of files.
#![expect(
    unsafe_code,
    reason = "no safe wrapper of getxattr is among the dependencies"
)]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether a file has an extended attribute.
pub(crate) fn has_xattr(file: &Path, name: &CStr) -> bool {
    let Ok(path) = CString::new(file.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: both strings end in NUL and outlive the call; with a size of 0 nothing is written.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}
