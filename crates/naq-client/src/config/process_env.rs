//! The environment of a process: variables, folders, processors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::Warning;

/// The environment variables of this process. Invalid UTF-8 is replaced by U+FFFD.
#[must_use]
pub fn environment() -> BTreeMap<String, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the environment is read"
    )]
    let variables = std::env::vars_os();
    variables
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect()
}

/// Everything besides files that settings depend on. An argument of [`load`](super::load), so that settings
/// are a function of it.
#[derive(Clone, Debug)]
pub struct ProcessEnv {
    /// Environment variables.
    pub environment: BTreeMap<String, String>,
    /// Where `./naq.toml` is searched.
    pub current_dir: PathBuf,
    /// The folder of the machine's `naq.toml`. `None` on systems that have none.
    pub system_dir: Option<PathBuf>,
    /// The user's home folder: HOME, else the entry of the user database. HOME counts only if it belongs
    /// to this user or to root.
    pub home: Option<PathBuf>,
    /// The user's id.
    pub uid: u32,
    /// Number of processors that this process may use.
    pub processors: usize,
    /// Folders of other users that variables name. The variables are not in
    /// [`environment`](Self::environment).
    pub ignored_folders: Vec<Warning>,
}

/// Variables that name folders of the user, in which naq finds settings and programs.
const FOLDER_VARIABLES: &[&str] = &["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"];

impl ProcessEnv {
    /// The environment of this process.
    #[must_use]
    pub fn read() -> ProcessEnv {
        let mut environment = environment();
        #[cfg(unix)]
        let uid = rustix::process::getuid().as_raw();
        #[cfg(not(unix))]
        let uid = 0;
        let ignored_folders = ignore_foreign_folders(&mut environment, uid);
        let is_home_ignored = ignored_folders.iter().any(|warning| {
            matches!(
                warning,
                Warning::ForeignFolder {
                    variable: "HOME",
                    ..
                }
            )
        });
        let home = environment
            .get("HOME")
            .map(PathBuf::from)
            .or_else(|| match is_home_ignored {
                // the standard library would return what the variable says
                true => home_of(uid),
                false => std::env::home_dir(),
            })
            .filter(|home| home.is_absolute());
        if let (true, Some(home)) = (is_home_ignored, &home) {
            // jobs and other processes of naq get the right one
            environment.insert("HOME".to_owned(), home.display().to_string());
        }
        ProcessEnv {
            environment,
            current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            system_dir: cfg!(unix).then(|| PathBuf::from("/etc/naq")),
            home,
            uid,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            ignored_folders,
        }
    }

    /// The value of a variable. An empty one counts as unset, since compose files leave variables empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A folder of the XDG Base Directory Specification: the variable if it is an absolute path, else this folder
    /// in the home folder. `None` without a home folder.
    pub(super) fn xdg(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        self.variable(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(self.home.as_ref()?.join(in_home)))
    }

    /// naq's own folder inside an XDG folder. Without a home folder, one inside the temporary folder.
    pub(super) fn app_dir(&self, variable: &str, in_home: &str, last: &str) -> PathBuf {
        self.xdg(variable, in_home).map_or_else(
            || std::env::temp_dir().join(format!("naq-{}-{last}", self.uid)),
            |folder| folder.join("naq"),
        )
    }

    /// A path in which a leading `~/` is replaced by the home folder.
    pub(super) fn expand(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (None, Some(home)) if text == "~" => home.clone(),
            _ => Path::new(text).to_path_buf(),
        }
    }
}

/// Removes variables that name a folder of another user, as `sudo -E` leaves them. Settings, programs
/// and the state of a local server in such a folder are that user's.
fn ignore_foreign_folders(environment: &mut BTreeMap<String, String>, uid: u32) -> Vec<Warning> {
    let mut ignored = Vec::new();
    for variable in FOLDER_VARIABLES.iter().copied() {
        let Some(path) = environment.get(variable).map(PathBuf::from) else {
            continue;
        };
        if let Some(owner) = owner(&path).filter(|owner| *owner != uid && *owner != 0) {
            environment.remove(variable);
            ignored.push(Warning::ForeignFolder {
                variable,
                path,
                uid: owner,
            });
        }
    }
    ignored
}

/// The owner of a folder, or of the one that it would be created in. `None` for a relative path, and on
/// systems without owners.
#[cfg(unix)]
fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    if !path.is_absolute() {
        return None;
    }
    let mut existing = path.ancestors();
    existing.find_map(|path| Some(path.metadata().ok()?.uid()))
}

#[cfg(not(unix))]
fn owner(_path: &Path) -> Option<u32> {
    None
}

/// The home folder of a user by `/etc/passwd`.
#[cfg(unix)]
fn home_of(uid: u32) -> Option<PathBuf> {
    let mut accounts = crate::accounts().into_iter();
    let account = accounts.find(|account| account.uid == uid && account.home.is_absolute());
    account.map(|account| account.home)
}

#[cfg(not(unix))]
fn home_of(_uid: u32) -> Option<PathBuf> {
    None
}
