//! The envelope of a job: its fields, and how it is parsed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use base64::Engine;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::argument::Argument;
use crate::artifact_pattern::ARTIFACT_PATTERNS_MAX;
use crate::dependency::{DEPENDENCIES_MAX, Dependency};
use crate::envelope_schema::{combinations, nothing};
use crate::error::{EnvelopeError, RejectReason};
use crate::files::{FILE_PATH_FORM, FILES_MAX, FileDigest, UploadedFile};
use crate::inputs::Inputs;
use crate::json;
use crate::lenient;
use crate::limits::ResourceLimits;
use crate::names::{JobId, SEQUENCE_FORM, ScheduleId};
use crate::retry::{Backoff, RetryDelay};
use crate::text::command_line;
use crate::time::Timestamp;
use crate::units::WireDuration;
use crate::unknown_fields::{FieldNames, UnknownFields, keeps_unknown_fields};
use crate::version::{check_version, version_alone};

/// The most retries that an envelope may ask for.
pub(crate) const RETRIES_MAX: u32 = 10_000;

/// The longest `runner`, in characters.
pub(crate) const RUNNER_CHARS_MAX: usize = 1_024;

/// A job as a producer describes it: one JSON object.
///
/// Readers ignore and keep unknown fields. They refuse an envelope whose unknown field is a limit, is
/// listed in `must_understand`, or has the name of a planned field. `null` stands for an absent field.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(transform = combinations)]
pub struct Envelope {
    /// The version of this format; 1 if absent. A higher version is rejected.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("enum" = [1, null]))]
    pub version: Option<u32>,
    /// The id of the job. If absent, the `Nats-Msg-Id` header, or else the queue and the sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[A-Za-z0-9_-]{1,64}$", "not" = {"pattern": SEQUENCE_FORM}))]
    pub job_id: Option<JobId>,
    /// The program: a path, relative to `cwd`, or a name that is looked up in the worker's PATH.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub command: Option<String>,
    /// Inline source text, run by its `#!` line, or else by `runner`, or else by `sh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub script: Option<String>,
    /// The digest of inline source code that is stored as an uploaded file, since it is too long for a
    /// message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_digest: Option<FileDigest>,
    /// The function that `runner` calls, such as `module:name`. The runner says what it may look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub function: Option<String>,
    /// The runner of a script or a function: the name of a language such as `python`, with the runner's
    /// parameter after a colon if it has one. A function needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = RUNNER_CHARS_MAX, "pattern" = r"^[a-z][a-z0-9_-]{0,63}(:[^\u0000]+)?$"))]
    pub runner: Option<String>,
    /// Folders in which the function's runner looks for modules first, relative to `cwd`.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        with = "Option<Vec<String>>",
        extend("items" = {"type": "string", "minLength": 1, "pattern": r"^[^\u0000:]+$"})
    )]
    pub module_path: Vec<String>,
    /// Arguments: strings, numbers and booleans for a command or script, any JSON for a function.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<Argument>>")]
    pub args: Vec<Argument>,
    /// Named arguments of a function.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "serde_json::Map::is_empty"
    )]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub kwargs: serde_json::Map<String, Value>,
    /// Any JSON value, passed to the program on standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub input: Option<Box<RawValue>>,
    /// Text, passed to the program on standard input unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Bytes in base64, passed to the program on standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"))]
    pub stdin_base64: Option<String>,
    /// Variables to add to the job's environment, if the worker's policy allows them.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(with = "Option<BTreeMap<String, String>>", extend(
        "propertyNames" = {"pattern": r"^(?!NAQ_)[^=\u0000]+$"},
        "additionalProperties" = {"type": "string", "pattern": r"^[^\u0000]*$"}
    ))]
    pub env: BTreeMap<String, String>,
    /// Names of secrets that the worker adds to the environment from its own store.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(
        with = "Option<Vec<String>>",
        extend("items" = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"})
    )]
    pub secrets: Vec<String>,
    /// The working directory; that of the worker if absent, or the job's work folder if it has files or artifacts. A
    /// relative path starts there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub cwd: Option<String>,
    /// Uploaded files, which are placed into the job's work folder before each attempt.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<UploadedFile>>", extend("maxItems" = FILES_MAX))]
    pub files: Vec<UploadedFile>,
    /// Patterns of files in the work folder that are kept when an attempt has ended.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<String>>", extend(
        "maxItems" = ARTIFACT_PATTERNS_MAX,
        "items" = {"type": "string", "maxLength": 1024, "pattern": FILE_PATH_FORM}
    ))]
    pub artifacts: Vec<String>,
    /// The longest duration of one attempt; the worker's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub timeout: Option<WireDuration>,
    /// Limits on the resources of the job's processes.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "ResourceLimits::is_empty"
    )]
    #[schemars(with = "Option<ResourceLimits>")]
    pub limits: ResourceLimits,
    /// The number of retries after the first attempt; 0 if absent.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(max = RETRIES_MAX))]
    pub max_retries: Option<u32>,
    /// The wait before a retry: one duration, or a list with one duration for each retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_delay: Option<RetryDelay>,
    /// How the wait grows from one retry to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_strategy: Option<Backoff>,
    /// The longest wait before a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_max_delay: Option<WireDuration>,
    /// Whether each wait is a random part of its length (full jitter); true if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_jitter: Option<bool>,
    /// Exit codes to retry; all failures if absent. 75 is always retried.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integers",
        skip_serializing_if = "Option::is_none"
    )]
    pub retry_on: Option<Vec<u8>>,
    /// Exit codes not to retry.
    #[serde(
        default,
        deserialize_with = "lenient::integers",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<u8>>")]
    pub fatal_on: Vec<u8>,
    /// Exit codes besides 0 that count as success.
    #[serde(
        default,
        deserialize_with = "lenient::integers",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<u8>>")]
    pub success_on: Vec<u8>,
    /// Jobs that must finish before this one starts.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<Dependency>>", extend("maxItems" = DEPENDENCIES_MAX))]
    pub depends_on: Vec<Dependency>,
    /// Which outputs of these jobs the job gets, and how; those that have a name, as files, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// How long a dependency may be missing before the job fails; 24 hours if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependency_timeout: Option<WireDuration>,
    /// The time from which on the job is not started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How long the record stays after the job has finished; 0 means forever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl: Option<WireDuration>,
    /// A key: at most `concurrency_max` jobs with the same key run at once, across all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub concurrency_key: Option<String>,
    /// How many jobs of the concurrency key may run at once; 1 if absent.
    #[serde(
        default,
        deserialize_with = "lenient::optional_integer",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1))]
    pub concurrency_max: Option<u32>,
    /// Whether the job bears that two of its attempts overlap: during an outage of NATS its worker may
    /// let it run past the end of its lease; false if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_ok: Option<bool>,
    /// Labels for filters.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub labels: BTreeMap<String, String>,
    /// Labels that a worker must have to run the job.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub requires: BTreeMap<String, String>,
    /// Any JSON value; naq stores and shows it, and never interprets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub meta: Option<Box<RawValue>>,
    /// When the producer enqueued the job; the time of the message on the server if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enqueue_time: Option<Timestamp>,
    /// The W3C trace context that the job receives as TRACEPARENT.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub traceparent: Option<String>,
    /// The finished job that this job reruns; set by a retry by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
    /// The schedule that enqueued the job; set by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// The tick of the schedule; set by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
    /// Names of fields that a worker must know to run the job, the fields of `limits` as
    /// `limits.<name>`. A worker that does not know one rejects the job.
    #[serde(
        default,
        deserialize_with = "lenient::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(with = "Option<Vec<String>>")]
    pub must_understand: Vec<String>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    #[schemars(skip)]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(Envelope);

/// What a job receives on standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: the program reads the end of the file at once.
    Empty,
    /// These bytes, followed by the end of the file.
    Bytes(Vec<u8>),
}

impl Envelope {
    /// An envelope for a command and its arguments.
    pub fn command<A: Into<String>>(
        command: impl Into<String>,
        args: impl IntoIterator<Item = A>,
    ) -> Envelope {
        Envelope {
            command: Some(command.into()),
            args: args.into_iter().map(|arg| arg.into().into()).collect(),
            ..Envelope::default()
        }
    }

    /// An envelope for inline source code.
    pub fn script(source: impl Into<String>) -> Envelope {
        Envelope {
            script: Some(source.into()),
            ..Envelope::default()
        }
    }

    /// Whether the job starts in a work folder of its own unless `cwd` is given: it has uploaded files, or
    /// files to keep.
    #[must_use]
    pub fn has_work_folder(&self) -> bool {
        !self.files.is_empty() || !self.artifacts.is_empty()
    }

    /// Parses an envelope strictly: one JSON object without duplicate keys, nested at most
    /// [`DEPTH_MAX`](crate::DEPTH_MAX) levels deep, every known field valid.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] with the path of the invalid field and, if the text is not valid
    /// JSON, line and column.
    pub fn parse(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
        let text = json::check_object(bytes, Envelope::field_names())?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let envelope: Envelope = match serde_path_to_error::deserialize(&mut deserializer) {
            Ok(envelope) => envelope,
            Err(error) => {
                // A later version may have changed the very field that is invalid here.
                check_version(version_alone(text))?;
                let path = error.path().to_string();
                return Err(EnvelopeError::new(
                    RejectReason::Invalid,
                    if path == "." { String::new() } else { path },
                    error.into_inner().to_string(),
                ));
            }
        };
        envelope.validate()?;
        Ok(envelope)
    }

    /// The names of the fields that this version of naq defines.
    #[must_use]
    pub fn field_names() -> &'static [&'static str] {
        // Computed once, since each parse of an envelope needs them.
        static NAMES: OnceLock<&[&str]> = OnceLock::new();
        NAMES.get_or_init(|| {
            let mut names: &[&str] = &[];
            // This always returns an error, because `FieldNames` contains no value to read.
            let _ = Envelope::deserialize(FieldNames(&mut names));
            names
        })
    }

    /// The arguments as text, as a command receives them.
    #[must_use]
    pub fn command_args(&self) -> Vec<String> {
        self.args
            .iter()
            .map(|arg| arg.text().into_owned())
            .collect()
    }

    /// What the program receives on standard input.
    #[must_use]
    pub fn stdin_source(&self) -> Stdin {
        if let Some(input) = &self.input {
            return Stdin::Bytes(input.get().as_bytes().to_vec());
        }
        if let Some(text) = &self.stdin {
            return Stdin::Bytes(text.as_bytes().to_vec());
        }
        self.stdin_base64
            .as_ref()
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
            .map_or(Stdin::Empty, Stdin::Bytes)
    }

    /// What the job runs, in one line, for tables: a command is quoted so that it can be pasted into
    /// a shell.
    #[must_use]
    pub fn summary(&self) -> String {
        if let Some(command) = &self.command {
            let args = self.command_args();
            let words = std::iter::once(command.as_str()).chain(args.iter().map(String::as_str));
            return command_line(words);
        }
        if let Some(script) = &self.script {
            let line = script
                .lines()
                .find(|line| !line.starts_with("#!") && !line.trim().is_empty());
            return format!("script: {}", line.unwrap_or_default().trim());
        }
        if let Some(digest) = &self.script_digest {
            return format!("script: {digest}");
        }
        let function = self.function.as_deref().unwrap_or_default();
        let args = self.args.iter().map(|arg| arg.as_json().to_owned());
        let named = self
            .kwargs
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let args: Vec<String> = args.chain(named).collect();
        format!("{function}({})", args.join(", "))
    }
}

impl fmt::Debug for Envelope {
    /// Shows the names of variables and hides their values, since an environment may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("job_id", &self.job_id)
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error_of(text: &str) -> EnvelopeError {
        Envelope::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn smallest_envelope_is_a_command() {
        let envelope =
            Envelope::parse(br#"{"command":"./script.sh","args":["arg",2,true]}"#).unwrap();
        assert_eq!(envelope.command.as_deref(), Some("./script.sh"));
        assert_eq!(envelope.command_args(), ["arg", "2", "true"]);
        assert_eq!(envelope.stdin_source(), Stdin::Empty);
    }

    #[test]
    fn text_of_input_is_kept() {
        let envelope = Envelope::parse(br#"{"command":"x","input":{"b":1.50,"a":[ ]}}"#).unwrap();
        assert_eq!(
            envelope.stdin_source(),
            Stdin::Bytes(br#"{"b":1.50,"a":[ ]}"#.to_vec())
        );
    }

    #[test]
    fn unknown_envelope_field_is_ignored_and_kept() {
        let text = r#"{"command":"x","args":[1.50],"colour":{"b":1.0}}"#;
        let envelope = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(envelope.unknown.names().collect::<Vec<_>>(), ["colour"]);
        assert_eq!(serde_json::to_string(&envelope).unwrap(), text);
    }

    #[test]
    fn field_that_a_worker_must_not_ignore_is_refused_as_not_allowed() {
        for name in crate::planned_fields::PLANNED_FIELDS {
            let refused = error_of(&format!(r#"{{"command":"x","{name}":1}}"#));
            let what = (refused.reason, refused.path.as_str());
            assert_eq!(what, (RejectReason::NotAllowed, name), "{refused}");
            let absent = format!(r#"{{"command":"x","{name}":null}}"#);
            assert!(Envelope::parse(absent.as_bytes()).is_ok(), "{name}");
            let required = format!(r#"{{"command":"x","must_understand":["{name}"]}}"#);
            assert_eq!(error_of(&required).path, name);
        }
        for (text, path) in [
            (r#"{"command":"x","limits":{"gpus":2}}"#, "limits.gpus"),
            (
                r#"{"command":"x","colour":1,"must_understand":["timeout","colour"]}"#,
                "colour",
            ),
            (
                r#"{"command":"x","must_understand":["limits.gpus"]}"#,
                "limits.gpus",
            ),
            (r#"{"command":"x","must_understand":["env.A"]}"#, "env.A"),
            (r#"{"command":"x","must_understand":[""]}"#, ""),
        ] {
            let refused = error_of(text);
            assert_eq!(refused.reason, RejectReason::NotAllowed, "{text}");
            assert_eq!(refused.path, path, "{text}");
        }
        let known =
            br#"{"command":"x","must_understand":["timeout","limits.memory","must_understand"]}"#;
        assert!(Envelope::parse(known).is_ok());
    }

    #[test]
    fn functions_and_scripts_have_runners_and_commands_have_none() {
        for (text, path) in [
            (r#"{"function":"m:f"}"#, "runner"),
            (r#"{"command":"x","runner":"python"}"#, "runner"),
            (r#"{"script":"x","runner":"Python 3"}"#, "runner"),
            (r#"{"script":"x","runner":"podman:"}"#, "runner"),
            (r#"{"script":"x","module_path":["src"]}"#, "module_path"),
            (
                r#"{"function":"m:f","runner":"python","module_path":["a:b"]}"#,
                "module_path[0]",
            ),
        ] {
            let refused = error_of(text);
            assert_eq!(refused.reason, RejectReason::Invalid, "{text}");
            assert_eq!(refused.path, path, "{text}");
        }
        for text in [
            r#"{"command":"x","runner":null,"kwargs":null,"module_path":null}"#,
            r#"{"script":"x","runner":"podman:docker.io/library/alpine:3"}"#,
            r#"{"function":"m:f","runner":"python","args":[null],"module_path":["src"]}"#,
        ] {
            assert!(Envelope::parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    /// `null` in place of a field is the same as its absence, whatever the field is.
    #[test]
    fn null_is_an_absent_field() {
        let smallest = serde_json::to_value(Envelope::command("x", [""; 0])).unwrap();
        for name in Envelope::field_names()
            .iter()
            .filter(|name| **name != "command")
        {
            let text = format!(r#"{{"command":"x","{name}":null}}"#);
            let envelope =
                Envelope::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(serde_json::to_value(&envelope).unwrap(), smallest, "{text}");
        }
        for name in ResourceLimits::field_names() {
            let text = format!(r#"{{"command":"x","limits":{{"{name}":null}}}}"#);
            let envelope =
                Envelope::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(serde_json::to_value(&envelope).unwrap(), smallest, "{text}");
        }
        let default_condition = br#"{"command":"x","depends_on":[{"job":"a","on":null}]}"#;
        assert!(Envelope::parse(default_condition).is_ok());
        // Within a list or a map it is a value, and none of these holds nulls.
        for text in [
            r#"{"command":"x","args":[null]}"#,
            r#"{"command":"x","env":{"A":null}}"#,
            r#"{"command":"x","labels":{"A":null}}"#,
            r#"{"command":"x","secrets":[null]}"#,
            r#"{"command":"x","retry_on":[null]}"#,
            r#"{"command":"x","retry_delay":[null]}"#,
            r#"{"command":"x","depends_on":[null]}"#,
            r#"{"command":"x","must_understand":[null]}"#,
        ] {
            assert_eq!(error_of(text).reason, RejectReason::Invalid, "{text}");
        }
    }

    #[test]
    fn integer_of_an_envelope_may_be_written_with_a_fraction_of_zero() {
        let envelope = Envelope::parse(
            br#"{"version":1.0,"command":"x","max_retries":3.0,"retry_on":[1.0,2e0],"fatal_on":[7.0],
                "success_on":[3.0],"concurrency_key":"k","concurrency_max":2.0,
                "limits":{"memory":1048576.0,"processes":9.0,"open_files":9.0,"nice":-1.0,"output":1e6}}"#,
        )
        .unwrap();
        assert_eq!(envelope.max_retries, Some(3));
        assert_eq!(envelope.retry_on, Some(vec![1, 2]));
        assert_eq!(envelope.limits.nice, Some(-1));
        assert_eq!(envelope.limits.output.map(|size| size.0), Some(1_000_000));
        for text in [
            r#"{"command":"x","max_retries":1.5}"#,
            r#"{"command":"x","retry_on":[1.5]}"#,
            r#"{"command":"x","limits":{"memory":1.5}}"#,
        ] {
            assert_eq!(error_of(text).reason, RejectReason::Invalid, "{text}");
        }
        assert_eq!(
            error_of(r#"{"version":2.0,"command":7}"#).reason,
            RejectReason::UnsupportedVersion
        );
    }

    #[test]
    fn invalid_envelope_names_the_path() {
        for (text, path, word) in [
            (r#"{"args":[]}"#, "", "nothing to run"),
            (r#"{"command":"x","script":"y"}"#, "", "more than one"),
            (r#"{"command":""}"#, "command", "empty"),
            (
                r#"{"command":"x","args":["a","b\u0000"]}"#,
                "args[1]",
                "NUL",
            ),
            (r#"{"command":"x","args":[null]}"#, "args[0]", "string"),
            (r#"{"command":"x","args":"a"}"#, "args", "sequence"),
            (r#"{"command":"x","env":{"A=B":"c"}}"#, "env.A=B", "="),
            (r#"{"command":"x","env":{"A":1}}"#, "env.A", "string"),
            (r#"{"command":"x","env":{"NAQ_X":"1"}}"#, "env.NAQ_X", "naq"),
            (
                r#"{"command":"x","timeout":-1}"#,
                "timeout",
                "0 seconds or more",
            ),
            (
                r#"{"command":"x","timeout":1e20}"#,
                "timeout",
                "out of range",
            ),
            (
                r#"{"command":"x","timeout":"5 parsecs"}"#,
                "timeout",
                "parsecs",
            ),
            (r#"{"command":"x","timeout":0}"#, "timeout", "0"),
            (
                r#"{"command":"x","limits":{"memory":"lots"}}"#,
                "limits.memory",
                "size",
            ),
            (r#"{"command":"x","limits":["1G"]}"#, "limits", "object"),
            (
                r#"{"command":"x","limits":{"nice":40}}"#,
                "limits.nice",
                "range",
            ),
            (r#"{"command":"x","job_id":"../x"}"#, "job_id", "dot"),
            (r#"{"command":"x","max_retries":-1}"#, "max_retries", "-1"),
            (
                r#"{"command":"x","stdin":"a","input":1}"#,
                "",
                "more than one",
            ),
            (
                r#"{"command":"x","stdin_base64":"*"}"#,
                "stdin_base64",
                "base64",
            ),
            (
                r#"{"command":"x","expires_at":"soon"}"#,
                "expires_at",
                "RFC 3339",
            ),
        ] {
            let invalid = error_of(text);
            assert_eq!(invalid.reason, RejectReason::Invalid, "{text}");
            assert_eq!(invalid.path, path, "{text}: {}", invalid.message);
            assert!(
                invalid.message.contains(word),
                "{text}: {}",
                invalid.message
            );
        }
    }

    #[test]
    fn later_envelope_version_is_unsupported_and_not_invalid() {
        for text in [
            r#"{"version":2,"command":"x"}"#,
            r#"{"version":7,"command":{"new":"shape"}}"#,
        ] {
            assert_eq!(
                error_of(text).reason,
                RejectReason::UnsupportedVersion,
                "{text}"
            );
        }
        assert_eq!(
            error_of(r#"{"version":"x","command":"x"}"#).reason,
            RejectReason::Invalid
        );
    }

    #[test]
    fn envelope_debug_hides_values() {
        let envelope = Envelope::parse(br#"{"command":"x","env":{"PASSWORD":"hunter2"}}"#).unwrap();
        let text = format!("{envelope:?}");
        assert!(
            text.contains("PASSWORD") && !text.contains("hunter2"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn envelope_reads_back_what_it_writes(command in "[^\0]{1,40}", args in proptest::collection::vec("[^\0]{0,20}", 0..5)) {
            let envelope = Envelope::command(command.clone(), args.clone());
            let read = Envelope::parse(&serde_json::to_vec(&envelope).unwrap()).unwrap();
            prop_assert_eq!(read.command_args(), args);
            prop_assert_eq!(read.command, Some(command));
        }

        #[test]
        fn parsing_an_envelope_never_panics(text in "\\PC{0,200}") {
            let _ = Envelope::parse(text.as_bytes());
        }
    }
}
