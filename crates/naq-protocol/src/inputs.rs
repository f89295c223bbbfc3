//! What a job gets of the jobs that it depends on: which outputs, and how each is described.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::names::{InputName, JobId, QueueName};
use crate::state::{Reason, State};
use crate::time::Timestamp;
use crate::wire_name::{UnknownName, wire_name};

/// Which outputs of its dependencies a job gets, and how.
// Exhaustive on purpose, see `State`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Inputs {
    /// Those of the dependencies that have a name (`as`), as files.
    #[default]
    Named,
    /// Those of all dependencies, as files.
    All,
    /// Those of all dependencies, as lines on standard input.
    Stdin,
    /// A choice that only a later version of naq defines. [`Envelope::parse`](crate::Envelope::parse) refuses it.
    #[schemars(skip)]
    Unknown(UnknownName),
}

wire_name!(Inputs, "a choice of inputs", {
    Named => "named",
    All => "all",
    Stdin => "stdin",
});

/// A dependency as the job that depends on it sees it: how it ended, and what it left. It is the content of
/// `record.json` in the folder of the dependency, and a line of standard input with `"inputs": "stdin"`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct JobInput {
    /// The id of the dependency.
    pub job_id: JobId,
    /// Its place in `depends_on`, from 0.
    pub index: u64,
    /// Its name in `depends_on`.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub as_name: Option<InputName>,
    /// Its queue.
    pub queue: QueueName,
    /// How it ended.
    pub state: State,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The exit code of its last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended its last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The number of its attempts.
    pub attempt: u32,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The number of bytes that it wrote to its standard output.
    pub stdout_bytes: u64,
    /// The place at which bytes of its standard output are missing. Absent if all were kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_gap: Option<InputGap>,
    /// Its structured result. Absent if it has none, and in `record.json`: it is in `result.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub result: Option<Box<RawValue>>,
    /// What was kept of its standard output, if that is UTF-8. Absent in `record.json`: it is in `stdout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// The same in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
}

/// A place at which bytes of an output were not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InputGap {
    /// The number of bytes before it.
    pub offset: u64,
    /// The number of bytes that are missing.
    pub missing_bytes: u64,
}
