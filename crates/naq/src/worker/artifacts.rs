//! Keeping the files that a job has left in its work folder.

use std::collections::BTreeSet;
use std::time::Duration;

use naq_jetstream::{BrokerErrorKind, StoreFileError, StoredFile};
use naq_protocol::{Artifact, ArtifactPattern, Record, UnknownFields, check_file_path, escape};
use naq_runner::{EntryKind, ScratchDir, WorkFolder};

use super::attempt::Attempt;

/// The most files that are kept of an attempt.
const ARTIFACTS_MAX: usize = 256;

/// The largest file that is kept, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;

/// The most bytes of an attempt's files together.
const ARTIFACTS_BYTES_MAX: u64 = 4 << 30;

/// The most bytes of their names together: the record lists them, and has to fit into a message.
const NAMES_BYTES_MAX: usize = 64 << 10;

/// The most files and links that are looked at.
const ENTRIES_MAX: usize = 100_000;

/// The most warnings about files that are not kept.
const WARNINGS_MAX: usize = 16;

/// How much longer than the record the files are kept, so that no record names one that is gone.
const OUTLIVES_RECORD: Duration = Duration::from_secs(86_400);

/// How often a file is stored if NATS does not answer.
const TRIES: u32 = 3;

/// The files that match, and what to say about others.
#[derive(Debug, Default)]
struct FoundFiles {
    paths: BTreeSet<String>,
    warnings: Warnings,
}

/// A bounded list of warnings.
#[derive(Debug, Default)]
struct Warnings {
    list: Vec<String>,
    more: usize,
}

impl Warnings {
    fn add(&mut self, name: &str, why: impl std::fmt::Display) {
        match self.list.len() < WARNINGS_MAX {
            true => self
                .list
                .push(format!("`{}` is not kept: {why}", escape(name))),
            false => self.more += 1,
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.list
                .push(format!("{} more files are not kept", self.more));
        }
        self.list
    }
}

impl Attempt<'_> {
    /// Keeps the files that match the envelope's patterns, and those that the job has named on the control
    /// channel, and lists them on the record. What cannot be kept becomes a warning there.
    pub(super) async fn keep_artifacts(
        &self,
        record: &mut Record,
        scratch: Option<ScratchDir>,
        named: Vec<String>,
    ) {
        let patterns: Vec<ArtifactPattern> = self
            .envelope
            .artifacts
            .iter()
            .filter_map(|pattern| ArtifactPattern::new(pattern).ok())
            .collect();
        let Some(scratch) = scratch.filter(|_| !patterns.is_empty() || !named.is_empty()) else {
            return;
        };
        let has_own_folder = self.envelope.has_work_folder();
        // The file system may be slow, and this thread has other jobs.
        let finding = tokio::task::spawn_blocking(move || {
            let folder = scratch.open_work_folder(has_own_folder)?;
            let found = find_files(&folder, &patterns, &named);
            Ok::<_, std::io::Error>((scratch, folder, found))
        });
        match finding.await {
            // the folder stays until its files are stored
            Ok(Ok((_scratch, folder, found))) => self.store_artifacts(record, &folder, found).await,
            Ok(Err(error)) => record.warnings.push(format!(
                "no file is kept: the work folder cannot be read: {error}"
            )),
            Err(error) => tracing::error!("cannot look for artifacts: {error}"),
        }
    }

    async fn store_artifacts(&self, record: &mut Record, folder: &WorkFolder, found: FoundFiles) {
        let FoundFiles {
            paths,
            mut warnings,
        } = found;
        let (mut bytes, mut names_bytes) = (0_u64, 0_usize);
        for path in paths {
            if self.delivery.lease.is_lost() {
                break;
            }
            if record.artifacts.len() >= ARTIFACTS_MAX {
                warnings.add(&path, format_args!("at most {ARTIFACTS_MAX} files are"));
                continue;
            }
            if let Err(problem) = check_file_path(&path) {
                warnings.add(&path, problem);
                continue;
            }
            names_bytes += path.len();
            if names_bytes > NAMES_BYTES_MAX {
                warnings.add(&path, "the names are over 64 KiB together");
                continue;
            }
            let object = format!(
                "artifact/{}/{}/{}",
                record.job_id,
                record.attempt,
                record.artifacts.len()
            );
            let room = ARTIFACT_BYTES_MAX.min(ARTIFACTS_BYTES_MAX - bytes);
            match self.store_artifact(folder, &path, &object, room).await {
                Ok(stored) => {
                    bytes += stored.bytes;
                    record.artifacts.push(Artifact {
                        name: path,
                        bytes: stored.bytes,
                        digest: stored.digest,
                        object,
                        unknown: UnknownFields::default(),
                    });
                }
                Err(StoreFileError::TooLong(_)) => warnings.add(
                    &path,
                    "a file may have 1 GiB, and all of them 4 GiB together",
                ),
                Err(StoreFileError::Read(error)) => warnings.add(&path, error),
                Err(error) => warnings.add(&path, error),
            }
        }
        record.warnings.extend(warnings.finish());
    }

    /// Stores one file, with some retries if NATS does not answer.
    async fn store_artifact(
        &self,
        folder: &WorkFolder,
        path: &str,
        object: &str,
        bytes_max: u64,
    ) -> Result<StoredFile, StoreFileError> {
        let default_ttl = self.delivery.context.options.result_ttl;
        let ttl = naq_core::result_ttl(Some(self.envelope), default_ttl);
        let ttl = ttl.map(|ttl| ttl.saturating_add(OUTLIVES_RECORD));
        let mut failures = 0;
        loop {
            let opened = folder.open_file(path)?;
            // a sparse file may be of any size, and takes long to read
            if opened.bytes > bytes_max {
                return Err(StoreFileError::TooLong(bytes_max));
            }
            let content = tokio::fs::File::from_std(opened.file);
            let broker = self.delivery.broker();
            let storing = Box::pin(broker.put_file(object, content, bytes_max, ttl));
            match storing.await {
                Err(StoreFileError::Broker(error))
                    if error.kind() == BrokerErrorKind::Timeout
                        && failures < TRIES
                        && !self.delivery.lease.is_lost() =>
                {
                    failures += 1;
                    tracing::debug!(object, "storing an artifact again: {error}");
                }
                stored => return stored,
            }
        }
    }
}

/// Looks for the files to keep. Of links and devices that match, says that they are not kept.
fn find_files(folder: &WorkFolder, patterns: &[ArtifactPattern], named: &[String]) -> FoundFiles {
    let mut found = FoundFiles::default();
    let mut entries = 0_usize;
    for pattern in patterns {
        let base = pattern.base();
        let listed = folder.list(&base, &mut |path, kind| {
            entries += 1;
            if pattern.matches(path) && !found.paths.contains(path) {
                match kind {
                    EntryKind::File if found.paths.len() <= ARTIFACTS_MAX => {
                        found.paths.insert(path.to_owned());
                    }
                    EntryKind::File => found.warnings.more += 1,
                    kind => found
                        .warnings
                        .add(path, format_args!("it is {}", kind.text())),
                }
            }
            entries < ENTRIES_MAX
        });
        if listed.is_err() {
            found.warnings.add(
                &base,
                "not everything in it was looked at: it has more than 100,000 files, or folders nested more than 64 deep",
            );
        }
    }
    for path in named {
        match folder.open_file(path) {
            Ok(_) => {
                found.paths.insert(path.clone());
            }
            Err(error) => found.warnings.add(path, error),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_match_are_found_and_the_rest_is_explained() {
        let temp = tempfile::tempdir().unwrap();
        let folder = WorkFolder::open(temp.path()).unwrap();
        for path in ["out/a.csv", "out/b.csv", "out/c.txt", "d", "named"] {
            folder.create_file(path, false).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", temp.path().join("out/z.csv")).unwrap();
        let patterns =
            ["out/*.csv", "out/a*", "no/*"].map(|text| ArtifactPattern::new(text).unwrap());
        let named = ["named", "../named", "gone"].map(str::to_owned);
        let found = find_files(&folder, &patterns, &named);
        let paths: Vec<_> = found.paths.iter().map(String::as_str).collect();
        assert_eq!(paths, ["named", "out/a.csv", "out/b.csv"]);
        let warnings = found.warnings.finish();
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert_eq!(
            warnings[0],
            "`out/z.csv` is not kept: it is a symbolic link"
        );
    }
}
