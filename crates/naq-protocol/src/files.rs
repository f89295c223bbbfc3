//! Files that travel with a job: those that its producer uploads, and those that it leaves.

use std::collections::HashSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{EnvelopeError, RejectReason};
use crate::lenient;
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};

/// The most files of one job.
pub const FILES_MAX: usize = 1_000;

/// The largest file of a job, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// The most bytes of a job's files together.
pub const FILES_BYTES_MAX: u64 = 4 << 30;

/// The longest path of a file, in bytes.
pub const FILE_PATH_BYTES_MAX: usize = 1_024;

/// The longest name in a path, in bytes, as Linux has it.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The most folders in a path, with the file.
const FILE_PATH_NAMES_MAX: usize = 64;

/// The largest script that travels by digest, in bytes.
pub const SCRIPT_BYTES_MAX: u64 = 16 << 20;

/// The form of a path in a JSON Schema, without its length in bytes.
pub(crate) const FILE_PATH_FORM: &str = r"^(?!\.{1,2}(/|$))[^/\u0000-\u001f\u007f]{1,255}(/(?!\.{1,2}(/|$))[^/\u0000-\u001f\u007f]{1,255}){0,63}$";

/// The form of a digest in a JSON Schema.
const DIGEST_FORM: &str = "^sha256:[0-9a-f]{64}$";

const DIGEST_PREFIX: &str = "sha256:";

/// The digest of a file's content: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileDigest(String);

/// Why a text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` and 64 lower-case hexadecimal digits")]
pub struct InvalidDigest;

impl FileDigest {
    /// The digest with this text.
    ///
    /// # Errors
    /// Returns [`InvalidDigest`] unless it is `sha256:` and 64 lower-case hexadecimal digits.
    pub fn new(text: impl Into<String>) -> Result<FileDigest, InvalidDigest> {
        let text = text.into();
        let digits = text.strip_prefix(DIGEST_PREFIX).ok_or(InvalidDigest)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 64 || !digits.bytes().all(is_digit) {
            return Err(InvalidDigest);
        }
        Ok(FileDigest(text))
    }

    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> FileDigest {
        FileDigest::from_sha256(&Sha256::digest(bytes).into())
    }

    /// The digest with this SHA-256.
    #[must_use]
    pub fn from_sha256(sha256: &[u8; 32]) -> FileDigest {
        use std::fmt::Write;
        let mut text = String::from(DIGEST_PREFIX);
        for byte in sha256 {
            let _ = write!(text, "{byte:02x}");
        }
        FileDigest(text)
    }

    /// The digest with its prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits alone, which are a name on every file system.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.strip_prefix(DIGEST_PREFIX).unwrap_or_default()
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FileDigest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<FileDigest, InvalidDigest> {
        FileDigest::new(text)
    }
}

impl From<FileDigest> for String {
    fn from(digest: FileDigest) -> String {
        digest.0
    }
}

impl JsonSchema for FileDigest {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FileDigest".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": DIGEST_FORM})
    }
}

/// A file that a producer has uploaded, and that a worker places into the job's work folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct UploadedFile {
    /// The path in the work folder: names with `/` between them, none of them `.` or `..`.
    #[schemars(length(max = 1024), extend("pattern" = FILE_PATH_FORM))]
    pub path: String,
    /// The digest of the content, by which it is stored.
    pub digest: FileDigest,
    /// The size, in bytes.
    #[serde(deserialize_with = "lenient::integer")]
    #[schemars(range(max = FILE_BYTES_MAX))]
    pub bytes: u64,
    /// Whether the file can be executed; false if absent.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    #[schemars(with = "Option<bool>")]
    pub executable: bool,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

/// A file that a job has left, and that is kept with its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
pub struct Artifact {
    /// Its path in the job's work folder.
    pub name: String,
    /// The size, in bytes.
    #[serde(deserialize_with = "lenient::integer")]
    pub bytes: u64,
    /// The digest of the content.
    pub digest: FileDigest,
    /// The object in the bucket `naq_files` that holds the content.
    pub object: String,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(UploadedFile, Artifact);

/// Checks that a path stays in the folder to which it is relative, whatever that folder holds: it is names
/// with `/` between them, none of them empty, `.` or `..`, and no control characters.
///
/// # Errors
/// Returns what is wrong, as a clause.
pub fn check_file_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("it is empty");
    }
    if path.len() > FILE_PATH_BYTES_MAX {
        return Err("it is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return Err("it is absolute; give a path in the work folder");
    }
    if path.bytes().any(|byte| byte.is_ascii_control()) {
        return Err("it has a NUL or another control character");
    }
    let mut names = 0;
    for name in path.split('/') {
        names += 1;
        match name {
            "" => return Err("it has an empty name"),
            "." | ".." => return Err("it has `.` or `..`, and a path stays in the work folder"),
            name if name.len() > FILE_NAME_BYTES_MAX => {
                return Err("it has a name of over 255 bytes");
            }
            _ => {}
        }
    }
    if names > FILE_PATH_NAMES_MAX {
        return Err("it has more than 64 names");
    }
    Ok(())
}

/// Checks the files of a job: each path, that no two of them collide, and their number and sizes.
pub(crate) fn check_files(files: &[UploadedFile]) -> Result<(), EnvelopeError> {
    let invalid =
        |path: String, message: &str| Err(EnvelopeError::new(RejectReason::Invalid, path, message));
    if files.len() > FILES_MAX {
        return invalid("files".to_owned(), "it is too long; at most 1000 files");
    }
    let mut paths = HashSet::new();
    let mut bytes = 0_u64;
    for (index, file) in files.iter().enumerate() {
        if let Err(problem) = check_file_path(&file.path) {
            return invalid(format!("files[{index}].path"), problem);
        }
        if file.bytes > FILE_BYTES_MAX {
            return invalid(format!("files[{index}].bytes"), "it is more than 1 GiB");
        }
        if !paths.insert(file.path.as_str()) {
            return invalid(
                format!("files[{index}].path"),
                "another file has the same path",
            );
        }
        bytes = bytes.saturating_add(file.bytes);
    }
    if bytes > FILES_BYTES_MAX {
        return invalid("files".to_owned(), "they are over 4 GiB together");
    }
    for (index, file) in files.iter().enumerate() {
        let mut folders = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
        if folders.any(|folder| paths.contains(folder)) {
            return invalid(
                format!("files[{index}].path"),
                "another file has the path of one of its folders",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_path_that_stays_in_the_folder_is_valid() {
        for path in ["a", "a/b.csv", "..a", "a..b/c", ".hidden", "a b/ö", "a\\b"] {
            assert_eq!(check_file_path(path), Ok(()), "{path}");
        }
        let long_name = "a".repeat(256);
        let deep = ["a"; 65].join("/");
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/..",
            "a/../../b",
            ".",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "a\0",
            "a\nb",
            "\u{7f}",
            &long_name,
            &deep,
        ] {
            assert!(check_file_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_digest_has_one_form() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(FileDigest::of(b"").as_str(), empty);
        assert!(FileDigest::new(empty).is_ok());
        for text in [
            "",
            "sha256:",
            "sha256:e3b0",
            &empty.to_uppercase(),
            &empty[7..],
        ] {
            assert!(FileDigest::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_that_collide_are_refused_with_their_place() {
        let file = |path: &str, bytes| UploadedFile {
            path: path.to_owned(),
            digest: FileDigest::of(b""),
            bytes,
            executable: false,
            unknown: UnknownFields::default(),
        };
        let path_of = |files: &[UploadedFile]| check_files(files).unwrap_err().path;
        assert!(check_files(&[file("a/b", 1), file("a/c", 1), file("ab", 1)]).is_ok());
        assert_eq!(path_of(&[file("a", 1), file("a", 1)]), "files[1].path");
        assert_eq!(
            path_of(&[file("a/b/c", 1), file("a/b", 1)]),
            "files[0].path"
        );
        assert_eq!(path_of(&[file("a", 1), file("../b", 1)]), "files[1].path");
        assert_eq!(path_of(&[file("a", FILE_BYTES_MAX + 1)]), "files[0].bytes");
        let large: Vec<_> = (0..5)
            .map(|n| file(&n.to_string(), FILE_BYTES_MAX))
            .collect();
        assert_eq!(path_of(&large), "files");
        let many: Vec<_> = (0..=FILES_MAX).map(|n| file(&n.to_string(), 0)).collect();
        assert_eq!(path_of(&many), "files");
    }

    proptest! {
        #[test]
        fn a_valid_path_has_no_way_out(path in "[a./\0]{0,12}") {
            if check_file_path(&path).is_ok() {
                prop_assert!(!path.starts_with('/') && !path.contains('\0'));
                prop_assert!(path.split('/').all(|name| !matches!(name, "" | "." | "..")));
            }
        }
    }
}
