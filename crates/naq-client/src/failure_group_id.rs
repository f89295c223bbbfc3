//! The id of a group of failures.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use naq_core::{FailureGroup, failure_group};
use naq_jetstream::DeadLetter;
use naq_protocol::Record;

/// Length of the text of a [`FailureGroupId`].
const ID_CHARS: usize = 16;

/// The id of a group of failures with the same cause: 16 hexadecimal digits that depend on the cause only,
/// so a group has the same id tomorrow and on another machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^[0-9a-f]{16}$"))]
pub struct FailureGroupId(String);

impl FailureGroupId {
    /// The id of the group of a dead letter.
    #[must_use]
    pub fn of(job: &DeadLetter) -> FailureGroupId {
        FailureGroupId::of_group(&group_of(job))
    }

    /// The id of the group of a failed job.
    #[must_use]
    pub fn of_record(record: &Record) -> FailureGroupId {
        FailureGroupId::of_group(&failure_group(
            record.reason(),
            record.exit_code,
            record.signal,
            record.error.as_deref(),
        ))
    }

    pub(crate) fn of_group(group: &FailureGroup) -> FailureGroupId {
        let digest = Sha256::digest(group.to_string());
        let digits = digest[..ID_CHARS / 2]
            .iter()
            .map(|byte| format!("{byte:02x}"));
        FailureGroupId(digits.collect())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FailureGroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FailureGroupId {
    type Err = String;

    fn from_str(text: &str) -> Result<FailureGroupId, String> {
        let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        match text.len() == ID_CHARS && text.chars().all(is_digit) {
            true => Ok(FailureGroupId(text.to_owned())),
            false => Err(format!(
                "the id of a group of failures has {ID_CHARS} digits from 0 to f"
            )),
        }
    }
}

/// The group of a dead letter.
pub(crate) fn group_of(job: &DeadLetter) -> FailureGroup {
    failure_group(job.reason, job.exit_code, job.signal, job.error.as_deref())
}
