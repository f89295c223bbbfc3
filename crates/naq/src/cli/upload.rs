//! Files that travel with a job: `--upload`, `--artifact`, and scripts that are too long for a message.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::exit::{Exit, Failure};
use super::session::Session;
use crate::text;
use naq_client::{Client, StoreFileError, StoredFile};
use naq_protocol::{
    Envelope, FILE_BYTES_MAX, FILES_MAX, FileDigest, SCRIPT_BYTES_MAX, Timestamp, UnknownFields,
    UploadedFile, escape,
};

/// Maximum length of a script that is a part of its envelope, in bytes. A longer one is stored once, however
/// many jobs run it, and records do not repeat it.
const INLINE_SCRIPT_BYTES_MAX: usize = 128 << 10;

/// Size of the parts in which a file is read, in bytes.
const READ_BYTES: usize = 256 << 10;

/// The files of a job.
#[derive(Debug, Default, clap::Args)]
pub(super) struct FileOptions {
    /// Files and folders to place into the job's work folder, where it then starts
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Files")]
    upload: Vec<PathBuf>,
    /// Files of the work folder to keep after the job, such as 'out/*.csv'; a folder means all in it
    #[arg(long = "artifact", value_name = "GLOB", help_heading = "Files")]
    artifacts: Vec<String>,
}

/// What has to be stored before an envelope that names it is enqueued.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    contents: Vec<(Content, StoredFile)>,
}

/// Where content is read from.
#[derive(Debug)]
enum Content {
    File(PathBuf),
    Text(String),
}

impl FileOptions {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.upload.is_empty() && self.artifacts.is_empty()
    }

    /// Adds the files to an envelope, and moves a long script out of it. Reads the files to compute their
    /// digests.
    pub(super) fn add_to(
        &self,
        envelope: &mut Envelope,
        session: &Session,
    ) -> Result<Uploads, Failure> {
        let mut uploads = Uploads::default();
        for path in &self.upload {
            let name = name_in_work_folder(path)?;
            uploads.add(path, name, envelope, session)?;
        }
        envelope.artifacts.clone_from(&self.artifacts);
        // A worker of an earlier version would run the job without them.
        for (field, is_used) in [
            ("files", !envelope.files.is_empty()),
            ("artifacts", !envelope.artifacts.is_empty()),
        ] {
            if is_used {
                envelope.must_understand.push(field.to_owned());
            }
        }
        uploads.take_script(envelope)?;
        envelope.validate()?;
        Ok(uploads)
    }
}

impl Uploads {
    /// Whether nothing has to be stored.
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Adds a file, or the files of a folder, under this name in the work folder. It is empty for the content
    /// of a folder.
    fn add(
        &mut self,
        path: &Path,
        name: String,
        envelope: &mut Envelope,
        session: &Session,
    ) -> Result<(), Failure> {
        let found = path
            .symlink_metadata()
            .map_err(|error| not_uploaded(path, &error))?;
        if found.is_dir() {
            let mut entries = Vec::new();
            for entry in path
                .read_dir()
                .map_err(|error| not_uploaded(path, &error))?
            {
                entries.push(entry.map_err(|error| not_uploaded(path, &error))?);
            }
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let entry_name = entry.file_name();
                let Some(entry_name) = entry_name.to_str() else {
                    return Err(not_uploaded(&entry.path(), &"its name is not UTF-8"));
                };
                let below = match name.as_str() {
                    "" => entry_name.to_owned(),
                    name => format!("{name}/{entry_name}"),
                };
                self.add(&entry.path(), below, envelope, session)?;
            }
            return Ok(());
        }
        check_regular(path, &found)?;
        if envelope.files.len() >= FILES_MAX {
            let more = format!("there are more than {FILES_MAX} files");
            return Err(not_uploaded(path, &more).hint("put them into an archive"));
        }
        session.progress.advance();
        let stored = read_digest(path)?;
        envelope.files.push(UploadedFile {
            path: name,
            digest: stored.digest.clone(),
            bytes: stored.bytes,
            executable: is_executable(&found),
            unknown: UnknownFields::default(),
        });
        self.contents.push((Content::File(path.to_owned()), stored));
        Ok(())
    }

    /// Moves a long script out of the envelope.
    fn take_script(&mut self, envelope: &mut Envelope) -> Result<(), Failure> {
        let is_long = |script: &mut String| script.len() > INLINE_SCRIPT_BYTES_MAX;
        let Some(script) = envelope.script.take_if(is_long) else {
            return Ok(());
        };
        if script.len() as u64 > SCRIPT_BYTES_MAX {
            let size = text::bytes(SCRIPT_BYTES_MAX);
            return Err(Failure::usage(format!(
                "the script is longer than {size}; give it as a file with --upload"
            )));
        }
        let stored = StoredFile {
            bytes: script.len() as u64,
            digest: FileDigest::of(script.as_bytes()),
        };
        envelope.script_digest = Some(stored.digest.clone());
        self.contents.push((Content::Text(script), stored));
        Ok(())
    }

    /// Stores what is not stored already, for a job that needs it at this time.
    pub(super) async fn store(
        &self,
        session: &Session,
        client: &Client,
        needed_at: Timestamp,
    ) -> Result<(), Failure> {
        let mut done = std::collections::HashSet::new();
        for (content, stored) in &self.contents {
            if !done.insert(&stored.digest) || client.is_uploaded(stored, needed_at).await? {
                continue;
            }
            let on_chunk = || session.progress.advance();
            let uploaded = match content {
                Content::File(path) => {
                    let file = tokio::fs::File::open(path)
                        .await
                        .map_err(|error| not_uploaded(path, &error))?;
                    client.upload(stored, file, needed_at, on_chunk).await
                }
                Content::Text(text) => {
                    client
                        .upload(stored, text.as_bytes(), needed_at, on_chunk)
                        .await
                }
            };
            uploaded.map_err(|error| match (error, content) {
                (StoreFileError::Broker(error), _) => {
                    Failure::from(naq_client::ClientError::from(error))
                }
                (error, Content::File(path)) => not_uploaded(path, &error),
                (error, Content::Text(_)) => {
                    Failure::general(format!("cannot upload the script: {error}"))
                }
            })?;
        }
        Ok(())
    }
}

/// The name of an uploaded path in the work folder: the path itself if it is below this folder, otherwise its
/// last name. Empty for this folder itself, whose content is uploaded.
fn name_in_work_folder(path: &Path) -> Result<String, Failure> {
    let is_below = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let name: Option<PathBuf> = match is_below {
        true => Some(
            path.components()
                .filter(|part| matches!(part, Component::Normal(_)))
                .collect(),
        ),
        false => path.file_name().map(PathBuf::from),
    };
    let Some(name) = name else {
        return Err(not_uploaded(
            path,
            &"it has no name; name the folder itself",
        ));
    };
    let text = name.to_str().map(str::to_owned);
    text.ok_or_else(|| not_uploaded(path, &"its name is not UTF-8"))
}

fn not_uploaded(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    let path = escape(&path.to_string_lossy());
    Failure::usage(format!("cannot upload `{path}`: {why}"))
}

fn check_regular(path: &Path, found: &Metadata) -> Result<(), Failure> {
    if found.is_symlink() {
        let why = "it is a symbolic link; upload what it points to";
        return Err(not_uploaded(path, &why));
    }
    if !found.is_file() {
        return Err(not_uploaded(path, &"it is a device, a FIFO or a socket"));
    }
    if found.len() > FILE_BYTES_MAX {
        return Err(not_uploaded(path, &"it is larger than 1 GiB"));
    }
    Ok(())
}

fn is_executable(found: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.mode() & 0o100 != 0
}

/// Reads a file to its end.
fn read_digest(path: &Path) -> Result<StoredFile, Failure> {
    let failed = |error: std::io::Error| not_uploaded(path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut sha256, mut bytes) = (Sha256::new(), 0);
    let mut part = vec![0; READ_BYTES];
    loop {
        let count = file.read(&mut part).map_err(failed)?;
        if count == 0 {
            break;
        }
        sha256.update(&part[..count]);
        bytes += count as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(not_uploaded(path, &"it is larger than 1 GiB"));
        }
    }
    Ok(StoredFile {
        bytes,
        digest: FileDigest::from_sha256(&sha256.finalize().into()),
    })
}

/// The error of a verb inside a job, which has no connection to upload files on.
pub(super) fn check_nothing_to_upload(uploads: &Uploads) -> Result<(), Failure> {
    match uploads.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::NoNats,
            "--upload, and a script of over 128 KiB, need a connection to NATS, which a job does not have",
        )
        .hint("--nats-url or --context gives it a connection of its own")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_this_folder_keeps_its_folders() {
        let name = |path: &str| name_in_work_folder(Path::new(path)).unwrap();
        assert_eq!(name("data/in.csv"), "data/in.csv");
        assert_eq!(name("./data/in.csv"), "data/in.csv");
        assert_eq!(name("."), "");
        assert_eq!(name("/etc/hosts"), "hosts");
        assert_eq!(name("../other/lib"), "lib");
        assert!(name_in_work_folder(Path::new("..")).is_err());
        assert!(name_in_work_folder(Path::new("/")).is_err());
    }
}
