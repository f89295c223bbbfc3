//! The runners that a verb knows: those of naq, and those of the settings' folder.

use std::path::PathBuf;

use super::exit::Failure;
use super::session::Session;
use crate::languages::Languages;

/// The runners of the settings, or of the folder that is named instead.
pub(super) fn languages(session: &Session, folder: Option<&PathBuf>) -> Result<Languages, Failure> {
    let folder = folder.or(session.settings().runners_dir.as_ref());
    Languages::load(folder.map(PathBuf::as_path), |name| session.variable(name))
        .map_err(|error| Failure::usage(error.to_string()))
}
