//! The worker's secrets: an envelope names them, only the worker has their values.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use naq_jetstream::read_text_file;
use naq_protocol::QueueName;
use naq_runner::JobUser;
use tokio::sync::Semaphore;

/// A folder of secrets: one file each, named like the environment variable that it becomes. A secret in
/// a subfolder is for the jobs of the queue of that name only, and replaces one for all queues.
#[derive(Clone, Debug)]
pub struct SecretStore {
    folder: Option<PathBuf>,
    /// The jobs whose secrets may be read at once.
    readers: Arc<Semaphore>,
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The worker has no store at all.
    #[error("the job needs the secret `{0}`, but this worker has no secrets (--secrets-dir)")]
    NoStore(String),
    /// The store has no secret of this name for the job's queue.
    #[error("this worker has no secret `{name}` for jobs of the queue `{queue}`")]
    Missing {
        /// Name of the secret.
        name: String,
        /// The queue of the job.
        queue: QueueName,
    },
    /// The secret exists and cannot be used.
    #[error("the secret `{name}` cannot be read: {problem}")]
    Unreadable {
        /// Name of the secret.
        name: String,
        /// Why it cannot be used.
        problem: String,
    },
    /// The file system of the store does not answer.
    #[error(
        "the secrets of the job were not read within {} s; check the file system of --secrets-dir",
        READ_MAX.as_secs()
    )]
    NoAnswer,
}

/// The largest secret, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// How long a job waits for its secrets.
const READ_MAX: Duration = Duration::from_secs(10);

/// Maximum number of jobs whose secrets are read at once, and so of threads that a file system can block.
const READERS: usize = 16;

impl SecretStore {
    /// A store without secrets.
    #[must_use]
    pub fn empty() -> SecretStore {
        SecretStore {
            folder: None,
            readers: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// The secrets in a folder, a file for each.
    #[must_use]
    pub fn folder(path: &Path) -> SecretStore {
        SecretStore {
            folder: Some(path.to_owned()),
            ..SecretStore::empty()
        }
    }

    /// Reads the secrets of these names for a job of this queue, off the thread of the worker: the folder
    /// may be on a file system that does not answer. A line break at the end is not part of a secret.
    ///
    /// # Errors
    /// Returns a [`SecretError`] for the first secret that cannot be read, and [`SecretError::NoAnswer`] if
    /// reading takes longer than ten seconds.
    pub async fn read(
        &self,
        queue: &QueueName,
        names: &[String],
    ) -> Result<Vec<(String, String)>, SecretError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let reading = async {
            let reader = Arc::clone(&self.readers).acquire_owned().await.ok()?;
            let (store, queue, names) = (self.clone(), queue.clone(), names.to_owned());
            let read = tokio::task::spawn_blocking(move || {
                fail::fail_point!("secrets.read");
                let read = store.read_now(&queue, &names);
                drop(reader);
                read
            });
            read.await.ok()
        };
        // boxed, because few jobs have secrets, and the future of each attempt contains those that it may
        // await
        let read = Box::pin(tokio::time::timeout(READ_MAX, reading)).await;
        read.ok().flatten().unwrap_or(Err(SecretError::NoAnswer))
    }

    fn read_now(
        &self,
        queue: &QueueName,
        names: &[String],
    ) -> Result<Vec<(String, String)>, SecretError> {
        names
            .iter()
            .map(|name| {
                let value = self.read_one(queue, name)?;
                Ok((name.clone(), value))
            })
            .collect()
    }

    fn read_one(&self, queue: &QueueName, name: &str) -> Result<String, SecretError> {
        let Some(folder) = &self.folder else {
            return Err(SecretError::NoStore(name.to_owned()));
        };
        // Names are checked when the envelope is read, and neither can leave the folder: letters,
        // digits, underscores, and in a queue's name dashes.
        let paths = [folder.join(queue.as_str()).join(name), folder.join(name)];
        for path in paths {
            if let Some(value) = read_file(name, &path)? {
                return Ok(value);
            }
        }
        Err(SecretError::Missing {
            name: name.to_owned(),
            queue: queue.clone(),
        })
    }

    /// Whether this user may read a secret, by the modes of the files and of the folders above them.
    /// Access control lists are not considered.
    pub(crate) fn is_readable_by(&self, user: &JobUser) -> bool {
        let Some(folder) = &self.folder else {
            return false;
        };
        let Ok(folder) = folder.canonicalize() else {
            return false;
        };
        folder.ancestors().all(|above| may(user, above, MAY_ENTER))
            && has_readable_file(user, &folder, true)
    }
}

/// The bits of a mode for others, of which those for the owner and the group are multiples.
const MAY_READ: u32 = 0o4;
const MAY_ENTER: u32 = 0o1;

/// Whether a file's mode gives a user a right.
fn may(user: &JobUser, path: &Path, right: u32) -> bool {
    let Ok(found) = std::fs::metadata(path) else {
        return false;
    };
    let class = if found.uid() == user.uid {
        0o100
    } else if found.gid() == user.gid || user.groups.contains(&found.gid()) {
        0o10
    } else {
        1
    };
    user.uid == 0 || found.mode() & (right * class) != 0
}

/// Whether a user may read a file in this folder, or in a folder of a queue in it.
fn has_readable_file(user: &JobUser, folder: &Path, has_queues: bool) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                has_queues && may(user, &path, MAY_ENTER) && has_readable_file(user, &path, false)
            }
            Ok(found) => found.is_file() && may(user, &path, MAY_READ),
            Err(_) => false,
        }
    })
}

/// Reads the file of a secret. `None` if no such file exists.
fn read_file(name: &str, path: &Path) -> Result<Option<String>, SecretError> {
    let unreadable = |problem: String| SecretError::Unreadable {
        name: name.to_owned(),
        problem,
    };
    let text = match read_text_file(path, SECRET_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // A queue may have the name of a secret.
        Err(_) if path.is_dir() => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let value = text.strip_suffix('\n').unwrap_or(&text);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.contains('\0') {
        return Err(unreadable("it contains a NUL byte".to_owned()));
    }
    Ok(Some(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_a_queue_is_for_no_other_queue() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("deploy")).unwrap();
        file("deploy/KEY", "of deploy\n");
        file("deploy/NPM", "npm of deploy");
        file("NPM", "npm of all");
        // queues with the name of a secret, and a secret with the name of a queue
        std::fs::create_dir(folder.path().join("TOKEN")).unwrap();
        let store = SecretStore::folder(folder.path());
        let read = |queue: &str, name: &str| {
            let queue = QueueName::new(queue).unwrap();
            let read = store.read_now(&queue, &[name.to_owned()]);
            read.map(|found| found[0].1.clone())
        };
        assert_eq!(read("deploy", "KEY").unwrap(), "of deploy");
        assert_eq!(read("deploy", "NPM").unwrap(), "npm of deploy");
        assert_eq!(read("build", "NPM").unwrap(), "npm of all");
        for (queue, name) in [
            ("build", "KEY"),
            ("NPM", "KEY"),
            ("build", "TOKEN"),
            ("build", "deploy"),
        ] {
            let error = read(queue, name).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{name}` for jobs of the queue `{queue}`")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_secret_is_a_regular_file_of_bounded_size_whatever_its_name_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("KEY");
        // A file of the kernel reports the size 0 and is larger.
        for (target, problem) in [
            ("/proc/kallsyms", "it is larger than 64 KiB"),
            ("/dev/zero", "it is not a regular file"),
        ] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            let error = read_file("KEY", &path).unwrap_err().to_string();
            assert!(error.ends_with(problem), "{target}: {error}");
            std::fs::remove_file(&path).unwrap();
        }
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read_file("KEY", &path).unwrap_err().to_string();
        assert!(error.ends_with("it is not a regular file"), "{error}");
    }

    #[test]
    fn modes_say_who_may_read_the_secrets() {
        use std::os::unix::fs::PermissionsExt;
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("secrets");
        std::fs::create_dir_all(folder.join("deploy")).unwrap();
        std::fs::write(folder.join("deploy/KEY"), "x").unwrap();
        let mode = |path: &str, mode: u32| {
            let path = above.path().join(path);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let store = SecretStore::folder(&folder);
        let user = |uid: u32, gid: u32| JobUser {
            uid,
            gid,
            groups: vec![gid],
            name: String::new(),
            home: PathBuf::new(),
            shell: PathBuf::new(),
        };
        let owner = std::fs::metadata(&folder).unwrap();
        let (own, group) = (user(owner.uid(), 4711), user(4711, owner.gid()));
        let other = user(4711, 4711);
        for path in ["", "secrets", "secrets/deploy", "secrets/deploy/KEY"] {
            mode(path, 0o755);
        }
        let readers = || [&own, &group, &other].map(|user| store.is_readable_by(user));
        assert_eq!(readers(), [true, true, true]);
        mode("secrets/deploy/KEY", 0o640);
        assert_eq!(readers(), [true, true, false]);
        mode("secrets/deploy", 0o700);
        assert_eq!(readers(), [true, false, false]);
        mode("secrets/deploy", 0o755);
        mode("", 0o700);
        assert_eq!(readers(), [true, false, false]);
    }
}
