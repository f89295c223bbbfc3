//! The settings of a command line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Values from the command line, as text by the name of the setting.
#[derive(Clone, Default)]
pub struct Flags {
    pub(super) config_file: Option<PathBuf>,
    pub(super) values: BTreeMap<String, Vec<String>>,
}

impl Flags {
    /// The file to read instead of searching for `naq.toml`.
    #[must_use]
    pub fn with_config_file(mut self, path: Option<PathBuf>) -> Flags {
        self.config_file = path;
        self
    }

    /// Adds the value of a flag. Lists and labels accept several; for all other kinds the last one wins.
    #[must_use]
    pub fn with(mut self, setting: &str, text: impl Into<String>) -> Flags {
        self.values
            .entry(setting.to_owned())
            .or_default()
            .push(text.into());
        self
    }

    /// Adds the value of a flag that may be absent.
    #[must_use]
    pub fn with_optional(self, setting: &str, text: Option<impl Into<String>>) -> Flags {
        match text {
            Some(text) => self.with(setting, text),
            None => self,
        }
    }
}

impl fmt::Debug for Flags {
    /// Shows names only: a value may be a password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.values.keys()).finish()
    }
}
