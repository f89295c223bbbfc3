//! Limits on the processes of one job.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope_schema::nothing;
use crate::lenient;
use crate::units::{ByteSize, WireDuration};
use crate::unknown_fields::{FieldNames, UnknownFields, keeps_unknown_fields};

/// The most bytes of one output stream that a job may ask to keep.
pub const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// Limits on one job's processes. An absent limit is the worker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(extend("additionalProperties" = {"type": "null"}))]
pub struct ResourceLimits {
    /// Memory that all processes use together, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub memory: Option<ByteSize>,
    /// Address space of one process, used or not, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub address_space: Option<ByteSize>,
    /// CPU time of one process, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub cpu_time: Option<WireDuration>,
    /// Number of CPUs (0.5 is half of one); needs a worker with a cpu controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 4096.0))]
    pub cpus: Option<f64>,
    /// Number of processes and threads.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub processes: Option<u64>,
    /// Number of open files of one process.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 4))]
    pub open_files: Option<u64>,
    /// The largest file the job may write, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<ByteSize>,
    /// Bytes to keep of each of stdout and stderr.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maximum" = OUTPUT_BYTES_MAX))]
    pub output: Option<ByteSize>,
    /// Niceness, -20 (highest priority) to 19 (lowest).
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = -20, max = 19))]
    pub nice: Option<i8>,
    /// The limits that this version of naq does not define. A worker runs no job past a limit, so an
    /// envelope with one of these is rejected.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(ResourceLimits);

impl ResourceLimits {
    /// The names of the limits that this version of naq defines.
    #[must_use]
    pub fn field_names() -> &'static [&'static str] {
        let mut names: &[&str] = &[];
        // This always returns an error, because `FieldNames` contains no value to read.
        let _ = ResourceLimits::deserialize(FieldNames(&mut names));
        names
    }

    /// Whether no limit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ResourceLimits::default()
    }
}
