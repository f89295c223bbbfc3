//! Landlock: restricts which files jobs may use, and which processes they may signal.
//! The kernel checks it in addition to every other permission, for root too.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

/// The newest kernel interface whose access rights are used. On an older kernel,
/// only those it supports are.
const NEWEST_ABI: ABI = ABI::V5;

/// Devices that every job may use, besides its descriptors and scratch folder.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The files that jobs may use. Each entry is the absolute path of a file, or of a
/// folder with everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// Files and folders that jobs may read, list and execute.
    pub read: Vec<String>,
    /// Files and folders that jobs may also write, create and remove.
    pub write: Vec<String>,
}

/// Why the file access of jobs cannot be restricted.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel does not support Landlock, or it is disabled.
    #[error("this kernel does not support Landlock, or it is disabled: {0}")]
    Unsupported(#[source] RulesetError),
    /// A configured path cannot be opened.
    #[error("{path}: {source}")]
    Path {
        /// The path as configured.
        path: String,
        /// Why it cannot be opened.
        source: std::io::Error,
    },
    /// A configured path is not absolute.
    #[error("{0}: not an absolute path")]
    Relative(String),
    /// The kernel rejected a rule.
    #[error("{path}: the kernel rejected the rule: {source}")]
    Rule {
        /// The path as configured.
        path: String,
        /// Why it was rejected.
        source: RulesetError,
    },
}

impl FileAccess {
    /// A ruleset for one job, which the child applies to itself. `scratch` is the
    /// scratch folder. `root` is the root directory of the job's mount namespace:
    /// paths are resolved below it, since `/proc` differs there.
    pub(super) fn ruleset(
        &self,
        root: Option<RawFd>,
        scratch: Option<&Path>,
    ) -> Result<OwnedFd, LandlockError> {
        let newest = AccessFs::from_all(NEWEST_ABI);
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(ABI::V1))
            .map(|rules| rules.set_compatibility(CompatLevel::BestEffort))
            .and_then(|rules| rules.handle_access(newest))
            .and_then(|rules| rules.scope(Scope::Signal))
            .and_then(Ruleset::create)
            .map_err(LandlockError::Unsupported)?;
        for path in &self.read {
            rules = allow_path(rules, root, path, AccessFs::from_read(NEWEST_ABI))?;
        }
        for path in &self.write {
            rules = allow_path(rules, root, path, newest)?;
        }
        if let Some(path) = scratch.and_then(Path::to_str) {
            rules = allow_path(rules, None, path, newest)?;
        }
        for path in DEVICES {
            rules = allow_path(rules, root, path, newest & !AccessFs::Execute)?;
        }
        Option::<OwnedFd>::from(rules).ok_or_else(|| LandlockError::Path {
            path: "ruleset".to_owned(),
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }
}

/// A ruleset that restricts no files: its processes can signal and trace only each other, so that
/// a job can neither stop nor kill its spawner and its worker, whose user it may be. `None` if the
/// kernel does not support that; Linux does since 6.12.
pub(super) fn signal_scope() -> Option<OwnedFd> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .scope(Scope::Signal)
        .and_then(Ruleset::create)
        .ok()
        .and_then(Option::<OwnedFd>::from)
}

fn allow_path(
    rules: RulesetCreated,
    root: Option<RawFd>,
    path: &str,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, LandlockError> {
    let Some(below) = path.strip_prefix('/') else {
        return Err(LandlockError::Relative(path.to_owned()));
    };
    let found = match root {
        Some(root) => PathBuf::from(format!("/proc/self/fd/{root}/{below}")),
        None => PathBuf::from(path),
    };
    let unusable = |source| LandlockError::Path {
        path: path.to_owned(),
        source,
    };
    let file = File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_PATH.bits())
        .open(found)
        .map_err(unusable)?;
    let is_folder = file.metadata().map_err(unusable)?.is_dir();
    let access = if is_folder {
        access
    } else {
        access & AccessFs::from_file(NEWEST_ABI)
    };
    rules
        .add_rule(PathBeneath::new(file.as_fd(), access))
        .map_err(|source| LandlockError::Rule {
            path: path.to_owned(),
            source,
        })
}
