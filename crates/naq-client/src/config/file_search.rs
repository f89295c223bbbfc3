//! Finds the settings files, and checks what the one in the current folder may set.

use std::io;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Warning};
use super::file::{self, File, FileOrigin};
use super::file_read::{self, FileText, Unreadable};
use super::process_env::ProcessEnv;
use super::settings_table::{CONFIG_FILE_VARIABLE, Setting};
use super::trust::{self, Trust};

/// The name of the file in the folders that are searched.
pub(super) const FILE_NAME: &str = "naq.toml";

/// Reads the files, the lower layer first. A file that is named must exist and is the only one.
/// Otherwise these are the machine's file, the user's and `./naq.toml`, as far as they exist. Adds to the warnings.
pub(super) fn read(
    env: &ProcessEnv,
    flag: Option<&Path>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<File>, ConfigError> {
    let by_variable = env
        .variable(CONFIG_FILE_VARIABLE)
        .map(|text| env.expand(text));
    let named = match (flag, by_variable) {
        (Some(path), _) => Some((path.to_path_buf(), String::new())),
        (None, Some(path)) => Some((path, format!(" (from {CONFIG_FILE_VARIABLE})"))),
        (None, None) => None,
    };
    if let Some((path, named_by)) = named {
        let path = env.current_dir.join(path);
        let read = file_read::read(&path, env.uid);
        let found = read.map_err(|reason| unreadable(path.clone(), named_by, reason))?;
        return Ok(vec![file::parse(&path, FileOrigin::Named, &found, env)?]);
    }
    let mut files = Vec::new();
    if let Some(path) = system_file(env)
        && let Some(found) = read_system_file(&path, env, warnings)?
    {
        files.push(file::parse(&path, FileOrigin::System, &found, env)?);
    }
    if let Some(path) = users_file(env)
        && let Some(found) = read_if_present(&path, env)?
    {
        files.push(file::parse(&path, FileOrigin::User, &found, env)?);
    }
    if let Some((file, text)) = read_current_dir(env)? {
        check_trust(&file, &text, env)?;
        files.push(file);
    }
    Ok(files)
}

/// The file in the current folder, parsed, with its text. `None` if there is none, or if it is the
/// user's file or the machine's.
pub(super) fn read_current_dir(env: &ProcessEnv) -> Result<Option<(File, String)>, ConfigError> {
    let path = env.current_dir.join(FILE_NAME);
    let mut others = [system_file(env), users_file(env)].into_iter().flatten();
    if others.any(|other| is_same_folder(&other, &path)) {
        return Ok(None);
    }
    let Some(found) = read_if_present(&path, env)? else {
        return Ok(None);
    };
    let file = file::parse(&path, FileOrigin::CurrentDir, &found, env)?;
    Ok(Some((file, found.text)))
}

fn system_file(env: &ProcessEnv) -> Option<PathBuf> {
    Some(env.system_dir.as_ref()?.join(FILE_NAME))
}

/// The machine's file. One that this user may not read is left out with a warning: an administrator may keep it for
/// the services.
fn read_system_file(
    path: &Path,
    env: &ProcessEnv,
    warnings: &mut Vec<Warning>,
) -> Result<Option<FileText>, ConfigError> {
    match read_if_present(path, env) {
        Err(ConfigError::Read { path, source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            warnings.push(Warning::SystemFileDenied { path });
            Ok(None)
        }
        read => read,
    }
}

fn users_file(env: &ProcessEnv) -> Option<PathBuf> {
    let folder = env.xdg("XDG_CONFIG_HOME", ".config")?;
    Some(folder.join("naq").join(FILE_NAME))
}

fn is_same_folder(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    folder(one).is_some_and(|one| Some(one) == folder(other))
}

fn read_if_present(path: &Path, env: &ProcessEnv) -> Result<Option<FileText>, ConfigError> {
    match file_read::read(path, env.uid) {
        Ok(found) => Ok(Some(found)),
        Err(Unreadable::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(unreadable(path.to_path_buf(), String::new(), reason)),
    }
}

/// The error of a file that is not read.
pub(super) fn unreadable(path: PathBuf, named_by: String, reason: Unreadable) -> ConfigError {
    match reason {
        Unreadable::Io(source) => ConfigError::Read {
            path,
            named_by,
            source,
        },
        Unreadable::ForeignOwner(uid) => ConfigError::ForeignOwner { path, uid },
        Unreadable::WritableByOthers(mode) => ConfigError::WritableByOthers { path, mode },
    }
}

/// Refuses a file that sets more than harmless keys and is not trusted.
fn check_trust(file: &File, text: &str, env: &ProcessEnv) -> Result<(), ConfigError> {
    let keys = keys_that_need_trust(file);
    let Some((_, line)) = keys.first().and_then(|name| file.values.get(name)) else {
        return Ok(());
    };
    let is_changed = match trust::state_of(env, &file.path, text) {
        Trust::Trusted => return Ok(()),
        Trust::Changed => true,
        Trust::Unknown => false,
    };
    Err(ConfigError::Untrusted {
        path: file.path.clone(),
        line: *line,
        keys,
        is_changed,
    })
}

/// The settings of a file that are obeyed only if the file is trusted, in the order of its lines.
pub(super) fn keys_that_need_trust(file: &File) -> Vec<&'static str> {
    let is_harmless =
        |name: &str| Setting::by_name(name).is_some_and(|setting| setting.is_harmless);
    let mut keys: Vec<(usize, &'static str)> = file
        .values
        .iter()
        .filter(|(name, _)| !is_harmless(name))
        .map(|(name, (_, line))| (*line, *name))
        .collect();
    keys.sort_unstable();
    keys.into_iter().map(|(_, name)| name).collect()
}
