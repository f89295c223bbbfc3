//! Writes files that only this user can read: keys, passwords, trusted files, the address of a server.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file atomically, with mode 0600 on systems with modes. A reader sees the old or the new
/// content, also after a power cut.
///
/// # Errors
/// Returns the error of the operating system. The old file is then left as it was.
pub fn write_private_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    // A random name, because two processes may write the file at the same time.
    name.push(format!(".new-{:016x}", rand::random::<u64>()));
    let fresh = Path::new(&name);
    let written = write_fresh(fresh, content).and_then(|()| fs::rename(fresh, path));
    if written.is_err() {
        let _already_gone = fs::remove_file(fresh);
    }
    written
}

fn write_fresh(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    // Without this sync, the new name may reach the disk before the content.
    file.sync_all()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_private_file_is_replaced_and_never_truncated() {
        let folder = std::env::temp_dir().join(format!("naq-private-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        fs::write(&path, "old and long").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut old = fs::File::open(&path).unwrap();
        write_private_file(&path, b"new").unwrap();
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old and long");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // a folder cannot be replaced by a file
        assert!(write_private_file(&folder.join("."), b"x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
