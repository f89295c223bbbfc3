//! The envelope of a job: its fields, how they are read, and what is refused.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::dependency::{DEPENDENCIES_MAX, Dependency};
use super::names::{JobId, NAME_CHARS_MAX, ScheduleId};
use super::record::Timestamp;
use super::units::{ByteSize, WireDuration};
use super::{EnvelopeError, RejectReason, json};

/// The version of the envelope this naq writes, and the highest it reads.
pub(super) const VERSION: u32 = 1;

/// The most of one output stream a job may ask to be kept, in bytes.
pub const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// The most that labels may come to, in bytes: every record of the job repeats them.
const LABELS_BYTES_MAX: usize = 16 << 10;

/// The longest concurrency key, in bytes.
const CONCURRENCY_KEY_BYTES_MAX: usize = 1 << 10;

/// The most that required labels may come to, in bytes: every worker reads each set of them.
const REQUIRES_BYTES_MAX: usize = 4 << 10;

/// The most retries an envelope may ask for.
const RETRIES_MAX: u32 = 10_000;

/// In the schema: a duration or size of 0, as a number or a text.
fn nothing() -> Value {
    serde_json::json!({"anyOf": [{"const": 0}, {"type": "string", "pattern": "^[^1-9]*$"}]})
}

/// In the schema: what [`Envelope::validate`] asks of fields together.
fn combinations(schema: &mut schemars::Schema) {
    use serde_json::json;
    let given = |field: &str| json!({"required": [field], "properties": {field: {"not": {"type": "null"}}}});
    let [command, script, function] = ["command", "script", "function"].map(given);
    let [input, stdin, stdin_base64] = ["input", "stdin", "stdin_base64"].map(given);
    schema.insert("oneOf".to_owned(), json!([command, script, function]));
    schema.insert(
        "allOf".to_owned(),
        json!([
            {"not": {"allOf": [input, stdin]}},
            {"not": {"allOf": [input, stdin_base64]}},
            {"not": {"allOf": [stdin, stdin_base64]}},
            {
                "if": function,
                "else": {"properties": {
                    "args": {"items": {"type": ["string", "number", "boolean"], "pattern": r"^[^\u0000]*$"}},
                    "kwargs": {"maxProperties": 0}
                }}
            }
        ]),
    );
}

/// A job as a producer describes it: one JSON object.
///
/// Unknown fields are ignored by readers; whoever passes an envelope on passes its bytes on, so
/// nothing is lost on the way.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = combinations)]
pub struct Envelope {
    /// The version of this format; 1 where absent. A higher one is rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [1, null]))]
    pub version: Option<u32>,
    /// The job's name everywhere; where absent the `Nats-Msg-Id` header or the place in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = "^[A-Za-z0-9_-]{1,64}$"))]
    pub job_id: Option<JobId>,
    /// The program: a path, relative to `cwd`, or a name looked up in the worker's PATH.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub command: Option<String>,
    /// Inline source, run by its `#!` line, else by `runner`, else by `sh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub script: Option<String>,
    /// `module:name` of a function, called by a language's runner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub function: Option<String>,
    /// The runner to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// Arguments: strings, numbers and booleans for a command or script, any JSON for a function.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Value>,
    /// Named arguments of a function.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub kwargs: serde_json::Map<String, Value>,
    /// Any JSON, given to the program on standard input as one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub input: Option<Box<RawValue>>,
    /// Text given on standard input as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Bytes given on standard input, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"))]
    pub stdin_base64: Option<String>,
    /// Variables added to the job's environment, within the worker's policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "propertyNames" = {"pattern": r"^(?!NAQ_)[^=\u0000]+$"},
        "additionalProperties" = {"type": "string", "pattern": r"^[^\u0000]*$"}
    ))]
    pub env: BTreeMap<String, String>,
    /// Names of secrets the worker puts into the environment from its own store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$")))]
    pub secrets: Vec<String>,
    /// The working directory; the worker's where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub cwd: Option<String>,
    /// How long one attempt may take; the worker's default where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub timeout: Option<WireDuration>,
    /// Limits on what the job's processes may use.
    #[serde(
        default,
        deserialize_with = "object",
        skip_serializing_if = "ResourceLimits::is_empty"
    )]
    pub limits: ResourceLimits,
    /// Retries after the first attempt; 0 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = RETRIES_MAX))]
    pub max_retries: Option<u32>,
    /// The wait before a retry: one duration, or a list with one for each retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_delay: Option<RetryDelay>,
    /// How the wait grows from one retry to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_strategy: Option<Backoff>,
    /// The longest wait before a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_max_delay: Option<WireDuration>,
    /// Whether waits are drawn at random up to their length (full jitter); true where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_jitter: Option<bool>,
    /// Exit codes that may be tried again; all failures where absent. 75 always may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Vec<u8>>,
    /// Exit codes after which no retry is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fatal_on: Vec<u8>,
    /// Exit codes that count as success beside 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub success_on: Vec<u8>,
    /// Jobs that have to end before this one begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = DEPENDENCIES_MAX))]
    pub depends_on: Vec<Dependency>,
    /// How long a dependency may be missing; 24 hours where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependency_timeout: Option<WireDuration>,
    /// The job is not started after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// How long the record stays once the job has ended; 0 keeps it for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_ttl: Option<WireDuration>,
    /// At most `concurrency_max` jobs of one key run at once, across all workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1))]
    pub concurrency_key: Option<String>,
    /// See `concurrency_key`; 1 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency_max: Option<u32>,
    /// For filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Labels that a worker must have to run this job.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: BTreeMap<String, String>,
    /// Anything; carried and shown, never read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub meta: Option<Box<RawValue>>,
    /// When the producer says it was enqueued; the server's time of the message where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enqueue_time: Option<Timestamp>,
    /// The W3C trace context to hand to the job as TRACEPARENT.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "pattern" = r"^[^\u0000]*$"))]
    pub traceparent: Option<String>,
    /// The ended job that this one repeats; written by `naq retry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<JobId>,
    /// The schedule that this job comes from; written by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
    /// The time for which its schedule has it; written by the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_for: Option<Timestamp>,
}

/// Limits on one job's processes. What is absent is the worker's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResourceLimits {
    /// Memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub memory: Option<ByteSize>,
    /// Processor time of one process, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("not" = nothing()))]
    pub cpu_time: Option<WireDuration>,
    /// Processors, as a number (0.5 is half of one); where the worker has a cpu controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 4096.0))]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub processes: Option<u64>,
    /// Open files of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4))]
    pub open_files: Option<u64>,
    /// The largest file the job may write, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_size: Option<ByteSize>,
    /// Bytes kept of each of stdout and stderr.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maximum" = OUTPUT_BYTES_MAX))]
    pub output: Option<ByteSize>,
    /// Niceness, -20 (greedy) to 19 (modest).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -20, max = 19))]
    pub nice: Option<i8>,
}

impl ResourceLimits {
    /// Whether no limit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ResourceLimits::default()
    }
}

/// How the wait before a retry grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Always `retry_delay`.
    #[default]
    Fixed,
    /// `retry_delay` times the number of the retry.
    Linear,
    /// `retry_delay` doubled with each retry.
    Exponential,
}

/// The waits before retries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryDelay {
    /// One wait, which the strategy grows.
    Single(WireDuration),
    /// One wait for each retry; the last one serves for all that follow.
    PerRetry(Vec<WireDuration>),
}

impl Serialize for RetryDelay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RetryDelay::Single(span) => span.serialize(serializer),
            RetryDelay::PerRetry(spans) => spans.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for RetryDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RetryDelay, D::Error> {
        struct DelaysVisitor;
        impl<'de> Visitor<'de> for DelaysVisitor {
            type Value = RetryDelay;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration or a list of durations")
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<RetryDelay, E> {
                WireDuration::deserialize(de::value::U64Deserializer::new(seconds))
                    .map(RetryDelay::Single)
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<RetryDelay, E> {
                WireDuration::deserialize(de::value::I64Deserializer::new(seconds))
                    .map(RetryDelay::Single)
            }
            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<RetryDelay, E> {
                WireDuration::deserialize(de::value::F64Deserializer::new(seconds))
                    .map(RetryDelay::Single)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RetryDelay, E> {
                text.parse().map(RetryDelay::Single).map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<RetryDelay, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(items))
                    .map(RetryDelay::PerRetry)
            }
        }
        deserializer.deserialize_any(DelaysVisitor)
    }
}

impl JsonSchema for RetryDelay {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Delays".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<WireDuration>();
        schemars::json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

/// What a job is given on standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing: the program reads the end of the file at once.
    Empty,
    /// These bytes, and then the end of the file.
    Bytes(Vec<u8>),
}

/// Reads a struct from a JSON object only: derived code would take an array in its place.
fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct ObjectVisitor<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(ObjectVisitor(std::marker::PhantomData))
}

impl Envelope {
    /// An envelope for a command and its arguments.
    pub fn command<A: Into<String>>(
        command: impl Into<String>,
        args: impl IntoIterator<Item = A>,
    ) -> Envelope {
        Envelope {
            command: Some(command.into()),
            args: args
                .into_iter()
                .map(|arg| Value::String(arg.into()))
                .collect(),
            ..Envelope::default()
        }
    }

    /// An envelope for inline source.
    pub fn script(source: impl Into<String>) -> Envelope {
        Envelope {
            script: Some(source.into()),
            ..Envelope::default()
        }
    }

    /// Reads an envelope strictly: one JSON object without duplicate keys, not too deep, every
    /// field of its type and in its range.
    ///
    /// # Errors
    /// [`EnvelopeError`], with the path of the field and, where the text is at fault, its position.
    pub fn parse(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
        let text = json::check_object(bytes)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let envelope: Envelope = match serde_path_to_error::deserialize(&mut deserializer) {
            Ok(envelope) => envelope,
            Err(error) => {
                // a later version may have changed the very field that could not be read
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

    /// Checks what types alone cannot: combinations of fields, and text that no process can be
    /// given.
    ///
    /// # Errors
    /// [`EnvelopeError`], with the path of the first offence.
    pub fn validate(&self) -> Result<(), EnvelopeError> {
        let invalid = |path: String, message: &str| {
            Err(EnvelopeError::new(RejectReason::Invalid, path, message))
        };
        check_version(self.version.map(u64::from))?;
        if let Some(id) = &self.job_id
            && id.as_str().len() > NAME_CHARS_MAX
        {
            return invalid("job_id".into(), "it is too long; use 1 to 64 characters");
        }
        let programs = [&self.command, &self.script, &self.function];
        match programs.iter().filter(|program| program.is_some()).count() {
            1 => {}
            0 => {
                return invalid(
                    String::new(),
                    "names nothing to run; give one of `command`, `script`, `function`",
                );
            }
            _ => {
                return invalid(
                    String::new(),
                    "names more than one of `command`, `script`, `function`; give one",
                );
            }
        }
        for (path, text) in [
            ("command", &self.command),
            ("script", &self.script),
            ("function", &self.function),
            ("cwd", &self.cwd),
            ("traceparent", &self.traceparent),
        ] {
            let Some(text) = text else { continue };
            if text.is_empty() {
                return invalid(path.into(), "it is empty");
            }
            if path != "script" && text.contains('\0') {
                return invalid(path.into(), "it has a NUL, which no process can be given");
            }
        }
        for (index, arg) in self.args.iter().enumerate() {
            if self.function.is_none() {
                match arg {
                    Value::String(text) if text.contains('\0') => {
                        return invalid(
                            format!("args[{index}]"),
                            "it has a NUL, which no process can be given",
                        );
                    }
                    Value::String(_) | Value::Number(_) | Value::Bool(_) => {}
                    Value::Null | Value::Array(_) | Value::Object(_) => {
                        return invalid(
                            format!("args[{index}]"),
                            "an argument of a command is a string, a number or a boolean",
                        );
                    }
                }
            }
        }
        if !self.kwargs.is_empty() && self.function.is_none() {
            return invalid("kwargs".into(), "only a `function` takes named arguments");
        }
        let inputs = [
            self.input.is_some(),
            self.stdin.is_some(),
            self.stdin_base64.is_some(),
        ];
        if inputs.iter().filter(|given| **given).count() > 1 {
            return invalid(
                String::new(),
                "has more than one of `input`, `stdin`, `stdin_base64`; give one",
            );
        }
        if let Some(text) = &self.stdin_base64
            && base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_err()
        {
            return invalid("stdin_base64".into(), "it is not base64");
        }
        for (name, value) in &self.env {
            let path = || format!("env.{}", super::units::excerpt(name));
            if name.is_empty() {
                return invalid("env".into(), "a variable has an empty name");
            }
            if name.contains('=') {
                return invalid(path(), "a variable's name cannot have `=`");
            }
            if name.contains('\0') || value.contains('\0') {
                return invalid(path(), "it has a NUL, which no process can be given");
            }
            if name.starts_with("NAQ_") {
                return invalid(path(), "names that begin with NAQ_ are set by naq");
            }
        }
        for (index, name) in self.secrets.iter().enumerate() {
            let sound = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !sound {
                return invalid(
                    format!("secrets[{index}]"),
                    "a secret's name is a variable's name: A-Z a-z 0-9 _",
                );
            }
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return invalid("timeout".into(), "it is 0; leave it out for no timeout");
        }
        self.validate_limits()?;
        if self
            .max_retries
            .is_some_and(|retries| retries > RETRIES_MAX)
        {
            return invalid("max_retries".into(), "it is out of range; at most 10000");
        }
        if self.retry_delay == Some(RetryDelay::PerRetry(Vec::new())) {
            return invalid("retry_delay".into(), "the list is empty");
        }
        let bytes = |labels: &BTreeMap<String, String>| -> usize {
            labels
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum()
        };
        if bytes(&self.labels) > LABELS_BYTES_MAX {
            return invalid(
                "labels".into(),
                "they are over 16 KiB; carry what is not for filters in `meta`",
            );
        }
        if bytes(&self.requires) > REQUIRES_BYTES_MAX {
            return invalid("requires".into(), "they are over 4 KiB");
        }
        if self.concurrency_max == Some(0) {
            return invalid("concurrency_max".into(), "it is 0; no job could run");
        }
        if let Some(key) = &self.concurrency_key
            && (key.is_empty() || key.len() > CONCURRENCY_KEY_BYTES_MAX)
        {
            return invalid(
                "concurrency_key".into(),
                "it is empty or over 1 KiB; a short text names what is shared",
            );
        }
        self.validate_dependencies()
    }

    fn validate_dependencies(&self) -> Result<(), EnvelopeError> {
        let invalid = |path: String, message: &str| {
            Err(EnvelopeError::new(RejectReason::Invalid, path, message))
        };
        if self.depends_on.len() > DEPENDENCIES_MAX {
            return invalid("depends_on".into(), "it is too long; at most 10000 jobs");
        }
        let mut seen = std::collections::HashSet::new();
        for (index, dependency) in self.depends_on.iter().enumerate() {
            if Some(&dependency.job) == self.job_id.as_ref() {
                return invalid(
                    format!("depends_on[{index}]"),
                    "the job would wait for itself",
                );
            }
            if !seen.insert(&dependency.job) {
                return invalid(
                    format!("depends_on[{index}]"),
                    "the same job stands there twice",
                );
            }
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), EnvelopeError> {
        let invalid = |path: &str, message: &str| {
            Err(EnvelopeError::new(RejectReason::Invalid, path, message))
        };
        let limits = &self.limits;
        if limits.memory.is_some_and(|memory| memory.0 == 0) {
            return invalid("limits.memory", "it is 0");
        }
        if limits.cpu_time.is_some_and(|time| time.0.is_zero()) {
            return invalid("limits.cpu_time", "it is 0");
        }
        if limits
            .cpus
            .is_some_and(|cpus| !(0.01..=4096.0).contains(&cpus))
        {
            return invalid("limits.cpus", "it is out of range; 0.01 to 4096");
        }
        if limits.processes == Some(0) {
            return invalid("limits.processes", "it is 0");
        }
        if limits.open_files.is_some_and(|files| files < 4) {
            return invalid("limits.open_files", "a job needs 4 at the least");
        }
        if limits
            .output
            .is_some_and(|output| output.0 > OUTPUT_BYTES_MAX)
        {
            return invalid("limits.output", "it is out of range; at most 64M");
        }
        if limits.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
            return invalid("limits.nice", "it is out of range; -20 to 19");
        }
        Ok(())
    }

    /// The arguments as text, in the form a command gets them.
    #[must_use]
    pub fn command_args(&self) -> Vec<String> {
        self.args
            .iter()
            .map(|arg| match arg {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .collect()
    }

    /// What the program is given on standard input.
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

    /// A digest of an envelope's bytes, white space around them aside: the first eight bytes of
    /// their SHA-256, in hexadecimal.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> String {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(bytes.trim_ascii());
        let mut text = String::with_capacity(16);
        for byte in &digest[..8] {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }

    /// What it runs, in one line: for tables and logs.
    #[must_use]
    pub fn summary(&self) -> String {
        if let Some(command) = &self.command {
            let mut text = command.clone();
            for arg in self.command_args() {
                text.push(' ');
                text.push_str(&arg);
            }
            return text;
        }
        if let Some(script) = &self.script {
            let line = script
                .lines()
                .find(|line| !line.starts_with("#!") && !line.trim().is_empty());
            return format!("script: {}", line.unwrap_or_default().trim());
        }
        self.function.clone().unwrap_or_default()
    }
}

impl fmt::Debug for Envelope {
    /// Names of variables are shown, values are not: an environment may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("job_id", &self.job_id)
            .field("command", &self.command)
            .field("args", &self.args.len())
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Whether two envelopes say the same, however they are written.
#[must_use]
pub fn is_equivalent(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let values = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    // a duration, a size or a dependency can be written in several ways
    let meanings = |bytes| serde_json::to_value(Envelope::parse(bytes).ok()?).ok();
    let both_are = |one: Option<Value>, other| one.is_some() && one == other;
    both_are(values(one), values(other)) || both_are(meanings(one), meanings(other))
}

fn version_alone(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<Value>,
    }
    serde_json::from_str::<Versioned>(text)
        .ok()?
        .version?
        .as_u64()
}

fn check_version(version: Option<u64>) -> Result<(), EnvelopeError> {
    match version {
        None => Ok(()),
        Some(version) if version == u64::from(VERSION) => Ok(()),
        Some(0) => Err(EnvelopeError::new(
            RejectReason::Invalid,
            "version",
            "it is 0; the first version is 1",
        )),
        Some(version) => Err(EnvelopeError::new(
            RejectReason::UnsupportedVersion,
            "version",
            format!(
                "{version} is newer than this naq, which reads up to {VERSION}; update the worker"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> EnvelopeError {
        Envelope::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_smallest_is_a_command() {
        let envelope =
            Envelope::parse(br#"{"command":"./script.sh","args":["arg",2,true]}"#).unwrap();
        assert_eq!(envelope.command.as_deref(), Some("./script.sh"));
        assert_eq!(envelope.command_args(), ["arg", "2", "true"]);
        assert_eq!(envelope.stdin_source(), Stdin::Empty);
    }

    #[test]
    fn the_text_of_input_is_kept() {
        let envelope = Envelope::parse(br#"{"command":"x","input":{"b":1.50,"a":[ ]}}"#).unwrap();
        assert_eq!(
            envelope.stdin_source(),
            Stdin::Bytes(br#"{"b":1.50,"a":[ ]}"#.to_vec())
        );
    }

    #[test]
    fn what_is_written_in_another_way_says_the_same() {
        let one = br#"{"command":"a","timeout":"300ms","depends_on":[{"job":"b","on":"success"}]}"#;
        let other = br#"{"depends_on":["b"],"timeout":0.3,"command":"a","args":[]}"#;
        let another = br#"{"command":"a","timeout":"301ms","depends_on":["b"]}"#;
        assert!(is_equivalent(one, other));
        assert!(!is_equivalent(one, another));
        assert!(is_equivalent(b"{\"command\": 7}", b"{\"command\":7}"));
    }

    #[test]
    fn an_unknown_field_is_ignored() {
        assert!(Envelope::parse(br#"{"command":"x","colour":"red"}"#).is_ok());
    }

    #[test]
    fn refusals_name_the_path() {
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
            let invalid = refused(text);
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
    fn a_later_version_is_told_apart() {
        for text in [
            r#"{"version":2,"command":"x"}"#,
            r#"{"version":7,"command":{"new":"shape"}}"#,
        ] {
            assert_eq!(
                refused(text).reason,
                RejectReason::UnsupportedVersion,
                "{text}"
            );
        }
        assert_eq!(
            refused(r#"{"version":"x","command":"x"}"#).reason,
            RejectReason::Invalid
        );
    }

    #[test]
    fn debug_hides_values() {
        let envelope = Envelope::parse(br#"{"command":"x","env":{"PASSWORD":"hunter2"}}"#).unwrap();
        let text = format!("{envelope:?}");
        assert!(
            text.contains("PASSWORD") && !text.contains("hunter2"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(command in "[^\0]{1,40}", args in proptest::collection::vec("[^\0]{0,20}", 0..5)) {
            let envelope = Envelope::command(command.clone(), args.clone());
            let read = Envelope::parse(&serde_json::to_vec(&envelope).unwrap()).unwrap();
            prop_assert_eq!(read.command_args(), args);
            prop_assert_eq!(read.command, Some(command));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = Envelope::parse(text.as_bytes());
        }
    }
}
