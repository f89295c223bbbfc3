//! Files that give rights to the user who executes them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::sys::xattr::has_xattr;

/// The bits for set-user-ID and set-group-ID.
const SET_ID_BITS: u32 = 0o6000;

/// Whether a file gives rights to the user who executes it: by a set-user-ID or set-group-ID bit, as `sudo`
/// does, or by capabilities, as `ping` does.
pub(super) fn grants_rights(file: &Path) -> bool {
    let has_bit = file
        .metadata()
        .is_ok_and(|found| found.permissions().mode() & SET_ID_BITS != 0);
    has_bit || has_xattr(file, c"security.capability")
}
