//! Landlock: which files jobs may use at all, where the worker says so. The
//! kernel asks this on top of every other permission, of root too.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError,
};

/// The newest kernel interface whose rights are used where they are there.
const NEWEST_ABI: ABI = ABI::V5;

/// What every program may count on, beside its descriptors and its folder.
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Where jobs may use files; nowhere else. Absolute paths of folders (with all
/// that is below) or files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileAccess {
    /// Where they may read, list and execute.
    pub read: Vec<String>,
    /// Where they may read, write, make and remove as well.
    pub write: Vec<String>,
}

/// Why jobs cannot be kept to some files.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel has it not, or it is not switched on.
    #[error("this kernel has no Landlock, or it is switched off: {0}")]
    Unsupported(#[source] RulesetError),
    /// A path that is named is not there.
    #[error("{path}: {source}")]
    Path {
        /// As it was named.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A path is not absolute.
    #[error("{0}: not an absolute path")]
    Relative(String),
    /// The kernel refused a rule.
    #[error("{path}: the kernel refuses the rule: {source}")]
    Rule {
        /// As it was named.
        path: String,
        /// Why.
        source: RulesetError,
    },
}

impl FileAccess {
    /// A ruleset for one job, for the child to put itself under. `scratch` is
    /// its folder. Paths are looked up below `root`, the root directory of the
    /// job's mount namespace, where it has one: its `/proc` is another.
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
