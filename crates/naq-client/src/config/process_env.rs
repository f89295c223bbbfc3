//! The environment of a process: variables, folders, processors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// The user's home folder: HOME, else the entry of the user database.
    pub home: Option<PathBuf>,
    /// The user's id.
    pub uid: u32,
    /// Number of processors that this process may use.
    pub processors: usize,
}

impl ProcessEnv {
    /// The environment of this process.
    #[must_use]
    pub fn read() -> ProcessEnv {
        let environment = environment();
        #[cfg(unix)]
        let uid = rustix::process::getuid().as_raw();
        #[cfg(not(unix))]
        let uid = 0;
        let home = environment
            .get("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .or_else(std::env::home_dir);
        ProcessEnv {
            environment,
            current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            home,
            uid,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
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
