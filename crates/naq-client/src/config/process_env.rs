//! What a process finds around itself: environment, folders, processors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The process's environment. What is not UTF-8 has U+FFFD in its place.
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

/// Everything outside of the files that settings depend on. Passed in, so that the rest of the
/// room is a function of it.
#[derive(Clone, Debug)]
pub struct ProcessEnv {
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Where `./naq.toml` is looked for.
    pub current_dir: PathBuf,
    /// The user's home folder: HOME, else as the system's user list has it.
    pub home: Option<PathBuf>,
    /// The user's id.
    pub uid: u32,
    /// How many processors this process may use.
    pub processors: usize,
}

impl ProcessEnv {
    /// This process's.
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

    /// A variable's value; an empty one counts as not set, as compose files leave them.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A folder of the XDG Base Directory Specification: its variable where that is absolute, else
    /// this folder in the home.
    pub(super) fn xdg(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        self.variable(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(self.home.as_ref()?.join(in_home)))
    }

    /// naq's own folder in one of those; where there is no home, one in the temporary folder.
    pub(super) fn app_dir(&self, variable: &str, in_home: &str, last: &str) -> PathBuf {
        self.xdg(variable, in_home).map_or_else(
            || std::env::temp_dir().join(format!("naq-{}-{last}", self.uid)),
            |folder| folder.join("naq"),
        )
    }

    /// A path with `~/` at its start replaced by the home.
    pub(super) fn expand(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            (None, Some(home)) if text == "~" => home.clone(),
            _ => Path::new(text).to_path_buf(),
        }
    }
}
