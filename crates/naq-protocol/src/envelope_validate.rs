//! The rules for an envelope that types alone cannot express.

use std::collections::{BTreeMap, HashSet};

use base64::Engine;

use crate::artifact_pattern::{ARTIFACT_PATTERNS_MAX, ArtifactPattern};
use crate::dependency::DEPENDENCIES_MAX;
use crate::envelope::{Envelope, RETRIES_MAX, RUNNER_CHARS_MAX};
use crate::error::{EnvelopeError, RejectReason};
use crate::files::check_files;
use crate::inputs::Inputs;
use crate::limits::{OUTPUT_BYTES_MAX, ResourceLimits};
use crate::names::JobId;
use crate::planned_fields::PLANNED_FIELDS;
use crate::retry::{Backoff, RetryDelay};
use crate::text::excerpt;
use crate::version::check_version;

/// The most bytes that labels may have together: every record of the job repeats them.
pub(crate) const LABELS_BYTES_MAX: usize = 16 << 10;

/// The longest concurrency key, in bytes.
pub(crate) const CONCURRENCY_KEY_BYTES_MAX: usize = 1 << 10;

/// The most bytes that required labels may have together: every worker reads each set of them.
pub(crate) const REQUIRES_BYTES_MAX: usize = 4 << 10;

const HAS_NUL: &str = "it has a NUL, which no process can receive";

const NOT_SUPPORTED: &str = "this version of naq does not support it yet";

/// The names that `must_understand` may list: the fields that this version knows, those of `limits` after a dot.
pub(crate) fn names_to_understand() -> Vec<String> {
    let fields = Envelope::field_names().iter();
    let limits = ResourceLimits::field_names().iter();
    let limits = limits.map(|limit| format!("limits.{limit}"));
    fields
        .map(|name| (*name).to_owned())
        .chain(limits)
        .collect()
}

fn invalid(path: impl Into<String>, message: &str) -> Result<(), EnvelopeError> {
    Err(EnvelopeError::new(RejectReason::Invalid, path, message))
}

fn not_allowed(path: impl Into<String>, message: &str) -> Result<(), EnvelopeError> {
    Err(EnvelopeError::new(RejectReason::NotAllowed, path, message))
}

/// Whether a text is the name of a runner, with a parameter or without.
fn is_runner(text: &str) -> bool {
    let (name, parameter) = match text.split_once(':') {
        Some((name, parameter)) => (name, Some(parameter)),
        None => (text, None),
    };
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 64
        && name.chars().all(is_part)
        && parameter.is_none_or(|parameter| !parameter.is_empty() && !parameter.contains('\0'))
        && text.chars().count() <= RUNNER_CHARS_MAX
}

impl Envelope {
    /// Checks what types alone cannot: combinations of fields, ranges, and text that no process can
    /// receive. An envelope is also refused if a worker that ignored one of its unknown fields would run
    /// the job otherwise than the producer requires.
    ///
    /// # Errors
    /// Returns [`EnvelopeError`] with the path of the first invalid field.
    pub fn validate(&self) -> Result<(), EnvelopeError> {
        check_version(self.version.map(u64::from))?;
        self.validate_unknown_fields()?;
        if let Some(id) = &self.job_id
            && let Err(error) = JobId::from_user(id.as_str())
        {
            return invalid("job_id", &error.to_string());
        }
        self.validate_program()?;
        self.validate_runner()?;
        self.validate_args()?;
        self.validate_stdin()?;
        self.validate_env()?;
        self.validate_secrets()?;
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            return invalid("timeout", "it is 0; leave it out for no timeout");
        }
        self.validate_limits()?;
        if self
            .max_retries
            .is_some_and(|retries| retries > RETRIES_MAX)
        {
            return invalid("max_retries", "it is out of range; at most 10000");
        }
        if let Some(Err(problem)) = self.retry_strategy.map(Backoff::known) {
            return invalid("retry_strategy", &problem);
        }
        if self.retry_delay == Some(RetryDelay::PerRetry(Vec::new())) {
            return invalid("retry_delay", "the list is empty");
        }
        self.validate_labels()?;
        self.validate_concurrency()?;
        check_files(&self.files)?;
        self.validate_artifacts()?;
        self.validate_dependencies()
    }

    fn validate_unknown_fields(&self) -> Result<(), EnvelopeError> {
        if let Some(name) = self
            .unknown
            .names()
            .find(|name| PLANNED_FIELDS.contains(name))
        {
            return not_allowed(name, NOT_SUPPORTED);
        }
        if let Some(name) = self.limits.unknown.names().next() {
            return not_allowed(
                format!("limits.{}", excerpt(name)),
                "this version of naq does not know the limit, and runs no job without it",
            );
        }
        let is_known = |name: &str| match name.split_once('.') {
            None => Envelope::field_names().contains(&name),
            Some(("limits", limit)) => ResourceLimits::field_names().contains(&limit),
            Some(_) => false,
        };
        match self.must_understand.iter().find(|name| !is_known(name)) {
            Some(name) => not_allowed(
                excerpt(name),
                "`must_understand` lists it, and this version of naq does not know it",
            ),
            None => Ok(()),
        }
    }

    fn validate_program(&self) -> Result<(), EnvelopeError> {
        let programs = [
            self.command.is_some(),
            self.script.is_some(),
            self.script_digest.is_some(),
            self.function.is_some(),
        ];
        match programs.iter().filter(|is_given| **is_given).count() {
            1 => {}
            0 => {
                return invalid(
                    "",
                    "names nothing to run; give one of `command`, `script`, `function`",
                );
            }
            _ => {
                return invalid(
                    "",
                    "names more than one of `command`, `script`, `script_digest`, `function`; give one",
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
                return invalid(path, "it is empty");
            }
            // A script reaches its interpreter as a file, which may contain anything.
            if path != "script" && text.contains('\0') {
                return invalid(path, HAS_NUL);
            }
        }
        Ok(())
    }

    fn validate_runner(&self) -> Result<(), EnvelopeError> {
        match &self.runner {
            Some(_) if self.command.is_some() => {
                return invalid(
                    "runner",
                    "a `command` has no runner: it is a program itself",
                );
            }
            Some(runner) if !is_runner(runner) => {
                return invalid(
                    "runner",
                    "it is not the name of a runner, such as `python`, or `podman:IMAGE`",
                );
            }
            None if self.function.is_some() => {
                return invalid(
                    "runner",
                    "it is missing: a function needs the runner of its language, such as `python`",
                );
            }
            _ => {}
        }
        if self.function.is_none() && !self.module_path.is_empty() {
            return invalid("module_path", "only a `function` has a module path");
        }
        for (index, folder) in self.module_path.iter().enumerate() {
            let path = || format!("module_path[{index}]");
            if folder.is_empty() || folder.contains(':') {
                return invalid(path(), "it is empty or contains `:`; give one folder each");
            }
            if folder.contains('\0') {
                return invalid(path(), HAS_NUL);
            }
        }
        Ok(())
    }

    fn validate_args(&self) -> Result<(), EnvelopeError> {
        if self.function.is_some() {
            return Ok(());
        }
        for (index, arg) in self.args.iter().enumerate() {
            if !arg.is_scalar() {
                return invalid(
                    format!("args[{index}]"),
                    "an argument of a command is a string, a number or a boolean",
                );
            }
            if arg.text().contains('\0') {
                return invalid(format!("args[{index}]"), HAS_NUL);
            }
        }
        if !self.kwargs.is_empty() {
            return invalid("kwargs", "only a `function` takes named arguments");
        }
        Ok(())
    }

    fn validate_stdin(&self) -> Result<(), EnvelopeError> {
        let inputs = [
            self.input.is_some(),
            self.stdin.is_some(),
            self.stdin_base64.is_some(),
        ];
        if inputs.iter().filter(|given| **given).count() > 1 {
            return invalid(
                "",
                "has more than one of `input`, `stdin`, `stdin_base64`; give one",
            );
        }
        if self.inputs == Some(Inputs::Stdin) && inputs.contains(&true) {
            return invalid(
                "",
                "has `inputs: stdin` and one of `input`, `stdin`, `stdin_base64`; give one",
            );
        }
        let is_base64 = |text: &String| {
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_ok()
        };
        if !self.stdin_base64.as_ref().is_none_or(is_base64) {
            return invalid("stdin_base64", "it is not base64");
        }
        Ok(())
    }

    fn validate_env(&self) -> Result<(), EnvelopeError> {
        for (name, value) in &self.env {
            let path = || format!("env.{}", excerpt(name));
            if name.is_empty() {
                return invalid("env", "a variable has an empty name");
            }
            if name.contains('=') {
                return invalid(path(), "a variable's name cannot have `=`");
            }
            if name.contains('\0') || value.contains('\0') {
                return invalid(path(), HAS_NUL);
            }
            if name.starts_with("NAQ_") {
                return invalid(path(), "names that begin with NAQ_ are set by naq");
            }
        }
        Ok(())
    }

    fn validate_secrets(&self) -> Result<(), EnvelopeError> {
        for (index, name) in self.secrets.iter().enumerate() {
            let is_variable_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !is_variable_name {
                return invalid(
                    format!("secrets[{index}]"),
                    "a secret is named like a variable: A-Z a-z 0-9 _",
                );
            }
        }
        Ok(())
    }

    fn validate_labels(&self) -> Result<(), EnvelopeError> {
        let bytes = |labels: &BTreeMap<String, String>| -> usize {
            labels
                .iter()
                .map(|(key, value)| key.len() + value.len())
                .sum()
        };
        if bytes(&self.labels) > LABELS_BYTES_MAX {
            return invalid(
                "labels",
                "they are over 16 KiB; use `meta` for data that no filter needs",
            );
        }
        if bytes(&self.requires) > REQUIRES_BYTES_MAX {
            return invalid("requires", "they are over 4 KiB");
        }
        Ok(())
    }

    fn validate_concurrency(&self) -> Result<(), EnvelopeError> {
        if self.concurrency_max == Some(0) {
            return invalid("concurrency_max", "it is 0; no job could run");
        }
        if let Some(key) = &self.concurrency_key
            && (key.is_empty() || key.len() > CONCURRENCY_KEY_BYTES_MAX)
        {
            return invalid(
                "concurrency_key",
                "it is empty or over 1 KiB; use a short name of what the jobs share",
            );
        }
        Ok(())
    }

    fn validate_artifacts(&self) -> Result<(), EnvelopeError> {
        if self.artifacts.len() > ARTIFACT_PATTERNS_MAX {
            return invalid("artifacts", "it is too long; at most 100 patterns");
        }
        for (index, pattern) in self.artifacts.iter().enumerate() {
            if let Err(problem) = ArtifactPattern::new(pattern) {
                return invalid(format!("artifacts[{index}]"), problem);
            }
        }
        Ok(())
    }

    fn validate_dependencies(&self) -> Result<(), EnvelopeError> {
        if self.depends_on.len() > DEPENDENCIES_MAX {
            return invalid("depends_on", "it is too long; at most 10000 jobs");
        }
        if let Some(Err(problem)) = self.inputs.map(Inputs::known) {
            return invalid("inputs", &problem);
        }
        let mut seen = HashSet::new();
        for (index, dependency) in self.depends_on.iter().enumerate() {
            let path = || format!("depends_on[{index}]");
            if let Err(problem) = dependency.on.known() {
                return invalid(format!("{}.on", path()), &problem);
            }
            if Some(&dependency.job) == self.job_id.as_ref() {
                return invalid(path(), "the job would wait for itself");
            }
            if !seen.insert(&dependency.job) {
                return invalid(path(), "the same job is listed twice");
            }
        }
        let mut names = HashSet::new();
        for source in self.input_sources() {
            if !names.insert(source.name) {
                return invalid(
                    format!("depends_on[{}].as", source.index),
                    "another dependency has the same name",
                );
            }
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), EnvelopeError> {
        let limits = &self.limits;
        if limits.memory.is_some_and(|memory| memory.0 == 0) {
            return invalid("limits.memory", "it is 0");
        }
        if limits.address_space.is_some_and(|space| space.0 == 0) {
            return invalid("limits.address_space", "it is 0");
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
            return invalid("limits.open_files", "a job needs at least 4");
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
}
