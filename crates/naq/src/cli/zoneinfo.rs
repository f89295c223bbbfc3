//! The time zones of this machine: the folder that `NAQ_TZDIR` names, else the system's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::exit::Failure;
use naq_client::config::TIMEZONE_FOLDER_VARIABLE;
use naq_cron::TimezoneSource;

/// Where systems keep their time zones.
const SYSTEM_FOLDERS: [&str; 4] = [
    "/usr/share/zoneinfo",
    "/usr/lib/zoneinfo",
    "/usr/share/lib/zoneinfo",
    "/etc/zoneinfo",
];

/// Maximum size of a zone's file. The largest has 4 KB.
const ZONE_BYTES_MAX: u64 = 1 << 20;

/// Levels of folders, as in `America/Argentina/Salta`.
const LEVELS_MAX: usize = 3;

/// The database that time zones come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ZoneinfoDatabase {
    /// `None` means the database that is compiled in.
    folder: Option<PathBuf>,
}

impl ZoneinfoDatabase {
    /// The folder that `NAQ_TZDIR` names, else the system's, else the database that is compiled in.
    ///
    /// # Errors
    /// Returns a usage error if `NAQ_TZDIR` names no folder.
    pub(super) fn find(
        environment: &BTreeMap<String, String>,
    ) -> Result<ZoneinfoDatabase, Failure> {
        let named = environment.get(TIMEZONE_FOLDER_VARIABLE);
        let folder = match named.filter(|path| !path.is_empty()) {
            Some(path) if Path::new(path).is_dir() => Some(PathBuf::from(path)),
            Some(path) => {
                return Err(Failure::usage(format!(
                    "{TIMEZONE_FOLDER_VARIABLE}={path}: there is no such folder"
                )));
            }
            None => {
                let folders = SYSTEM_FOLDERS.iter().map(PathBuf::from);
                // A folder without this file has no zones, only perhaps a list of them.
                folders
                    .into_iter()
                    .find(|folder| folder.join("Etc/UTC").is_file())
            }
        };
        Ok(ZoneinfoDatabase { folder })
    }

    /// Makes this process read its time zones from the folder.
    pub(super) fn install(&self) {
        if let Some(folder) = &self.folder {
            naq_cron::set_timezone_source(Arc::new(ZoneinfoFolder(folder.clone())));
        }
    }

    /// The release, such as `2026a`. `None` if the folder does not tell.
    pub(super) fn release(&self) -> Option<String> {
        let Some(folder) = &self.folder else {
            return Some(naq_cron::bundled_timezone_release().to_owned());
        };
        let first_line = |name: &str| {
            let text = read_file(&folder.join(name))?;
            let line = text.split(|byte| *byte == b'\n').next()?;
            Some(String::from_utf8_lossy(line).trim().to_owned())
        };
        let named = || {
            let line = first_line("tzdata.zi")?;
            Some(line.strip_prefix("# version ")?.to_owned())
        };
        named().or_else(|| first_line("+VERSION"))
    }

    /// The folder, or `built in`.
    pub(super) fn place(&self) -> String {
        match &self.folder {
            Some(folder) => folder.display().to_string(),
            None => "built in".to_owned(),
        }
    }
}

impl fmt::Display for ZoneinfoDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = self.release();
        let release = release.as_deref().unwrap_or("of an unknown release");
        write!(f, "tzdata {release}, {}", self.place())
    }
}

fn read_file(path: &Path) -> Option<Vec<u8>> {
    let read = naq_client::read_file(path, ZONE_BYTES_MAX).ok()?;
    Some(read.bytes)
}

/// A folder of TZif files.
struct ZoneinfoFolder(PathBuf);

impl TimezoneSource for ZoneinfoFolder {
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        read_file(&self.0.join(name))
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![(self.0.clone(), String::new(), 1)];
        while let Some((folder, prefix, level)) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let name = format!("{prefix}{name}");
                match entry.path() {
                    path if !path.is_dir() => names.push(name),
                    path if level < LEVELS_MAX => {
                        folders.push((path, format!("{name}/"), level + 1));
                    }
                    _ => {}
                }
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(folder: &Path) -> Result<ZoneinfoDatabase, Failure> {
        let folder = folder.display().to_string();
        ZoneinfoDatabase::find(&BTreeMap::from([("NAQ_TZDIR".to_owned(), folder)]))
    }

    #[test]
    fn the_release_is_read_from_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let database = find(folder.path()).unwrap();
        assert_eq!(database.release(), None);
        assert!(database.to_string().contains("of an unknown release"));
        std::fs::write(folder.path().join("+VERSION"), "2024a\n").unwrap();
        assert_eq!(database.release().as_deref(), Some("2024a"));
        std::fs::write(folder.path().join("tzdata.zi"), "# version 2026f\n# x\n").unwrap();
        assert_eq!(database.release().as_deref(), Some("2026f"));
    }

    #[test]
    fn a_variable_that_names_no_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let failure = find(&folder.path().join("none")).unwrap_err();
        assert!(
            failure.message.starts_with("NAQ_TZDIR="),
            "{}",
            failure.message
        );
    }

    #[test]
    fn the_zones_of_a_folder_are_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("America/Argentina");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("Salta"), "x").unwrap();
        let source = ZoneinfoFolder(folder.path().to_owned());
        assert_eq!(source.names(), ["America/Argentina/Salta"]);
        assert_eq!(source.read("America/Argentina/Salta").unwrap(), b"x");
        assert_eq!(source.read("America/Argentina"), None);
    }
}
