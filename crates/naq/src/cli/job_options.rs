//! The options that make an envelope, shared by `run` and `enqueue`.

use std::io::Read;

use clap::Args;
use serde_json::value::RawValue;

use super::exit::Failure;
use super::render;
use super::session::Session;
use super::times::TimeReader;
use super::word_hints;
use naq_protocol::units::{ByteSize, WireDuration};
use naq_protocol::{
    Backoff, Dependency, DependencyCondition, Envelope, InputName, Inputs, JobId, ResourceLimits,
    RetryDelay,
};

/// The job to run.
#[derive(Debug, Default, Args)]
pub(super) struct JobOptions {
    /// Command and its arguments, after --; with --script or --call, the arguments alone
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
    /// Script to run instead of a command (- for standard input)
    #[arg(long, value_name = "FILE")]
    script: Option<String>,
    /// Function to call instead of a command, such as module:name; its arguments are JSON
    #[arg(long, value_name = "FUNCTION", conflicts_with = "script")]
    call: Option<String>,
    /// Runner of the script or the function: the name of a language [default: by the file's extension]
    #[arg(long, value_name = "RUNNER")]
    runner: Option<String>,
    /// Named arguments of the function, a JSON object
    #[arg(long, value_name = "JSON", requires = "call")]
    kwargs: Option<String>,
    /// Folder in which the function's runner looks for modules first
    #[arg(long, value_name = "DIR", requires = "call")]
    module_path: Vec<String>,
    /// Job's id [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Environment variable of the job; NAME alone copies it from this environment
    #[arg(short = 'e', long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Secret that the worker passes to the job
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    /// Job's working directory; a relative one is in the worker's, or in the job's work folder
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<String>,
    /// Maximum run time of each attempt, such as 90s or 5m [default: the worker's]
    #[arg(long, value_name = "TIME")]
    timeout: Option<WireDuration>,
    /// Maximum memory, such as 256M or 2G [default: the worker's]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    memory: Option<ByteSize>,
    /// Maximum address space of each process, used or not
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    address_space: Option<ByteSize>,
    /// Maximum processor time of each process, such as 30s
    #[arg(long, value_name = "TIME", help_heading = "Limits")]
    cpu_time: Option<WireDuration>,
    /// Maximum number of processors used, such as 0.5
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    cpus: Option<f64>,
    /// Maximum number of processes and threads
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    processes: Option<u64>,
    /// Maximum number of open files of each process
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    open_files: Option<u64>,
    /// Maximum size of a file that the job writes, such as 1G
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    file_size: Option<ByteSize>,
    /// Maximum output that is kept, of each stream, such as 1M
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    output: Option<ByteSize>,
    /// Niceness, -20 to 19
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    nice: Option<i8>,
    /// File to use as standard input (- for naq's own)
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    stdin: Option<String>,
    /// JSON to use as standard input
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// Label, for filters
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Label that a worker needs to run the job
    #[arg(long = "require", value_name = "KEY=VALUE")]
    requires: Vec<String>,
    /// JSON that is kept with the job and that naq does not read
    #[arg(long, value_name = "JSON")]
    meta: Option<String>,
    /// W3C trace context, passed to the job as TRACEPARENT
    #[arg(long, value_name = "TEXT")]
    traceparent: Option<String>,
    /// Number of retries after a failure [default: 0]
    #[arg(
        long,
        visible_alias = "max-retries",
        value_name = "COUNT",
        help_heading = "Retries"
    )]
    retries: Option<u32>,
    /// Delay before a retry, such as 5s; several, separated by commas, are one for each retry
    #[arg(
        long,
        value_name = "TIME",
        value_delimiter = ',',
        help_heading = "Retries"
    )]
    retry_delay: Vec<WireDuration>,
    /// Growth of the delay: fixed, linear or exponential
    #[arg(long, value_name = "STRATEGY", help_heading = "Retries")]
    retry_strategy: Option<Backoff>,
    /// Maximum delay, such as 10m
    #[arg(long, value_name = "TIME", help_heading = "Retries")]
    retry_max_delay: Option<WireDuration>,
    /// Wait for the whole delay instead of a random part of it
    #[arg(long, help_heading = "Retries")]
    no_retry_jitter: bool,
    /// Exit codes after which to retry, and no others
    #[arg(
        long,
        value_name = "CODES",
        value_delimiter = ',',
        help_heading = "Retries"
    )]
    retry_on: Vec<u8>,
    /// Exit codes after which never to retry
    #[arg(
        long,
        value_name = "CODES",
        value_delimiter = ',',
        help_heading = "Retries"
    )]
    fatal_on: Vec<u8>,
    /// Exit codes that count as success, besides 0
    #[arg(
        long,
        value_name = "CODES",
        value_delimiter = ',',
        help_heading = "Retries"
    )]
    success_on: Vec<u8>,
    /// Job that has to succeed first; JOB=failure and JOB=finished wait for another end. With ,as=NAME the job
    /// gets its output in the folder $NAQ_INPUTS/NAME
    #[arg(
        long,
        value_name = "JOB[=END][,as=NAME]",
        help_heading = "Dependencies"
    )]
    depends_on: Vec<String>,
    /// Outputs that the job gets of the jobs it depends on: named (those with a name), all, or stdin (all, as lines
    /// of JSON on standard input) [default: named]
    #[arg(long, value_name = "WHICH", help_heading = "Dependencies")]
    inputs: Option<Inputs>,
    /// Maximum time that a job it depends on may not exist [default: 24h]
    #[arg(long, value_name = "TIME", help_heading = "Dependencies")]
    dependency_timeout: Option<WireDuration>,
    /// Key of jobs of which at most --concurrency-max run at once, on all workers
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Maximum number of jobs with the key that run at once [default: 1]
    #[arg(long, value_name = "COUNT", requires = "concurrency_key")]
    concurrency_max: Option<u32>,
    /// Let attempts overlap: in an outage of NATS the job may outlive its lease by the worker's --outage-grace
    #[arg(long)]
    overlap_ok: bool,
    /// Time after which the job does not start: RFC 3339, '2026-12-24 18:00' or 18:00
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Accept times that are past
    #[arg(long)]
    pub(super) past_ok: bool,
    /// Time that the record stays after the job's end, such as 24h: at least 10m; 0 keeps it
    /// forever
    #[arg(long, value_name = "TIME")]
    result_ttl: Option<WireDuration>,
}

impl JobOptions {
    /// Returns the envelope that these options describe, validated.
    pub(super) fn envelope(
        &self,
        session: &Session,
        times: &TimeReader<'_>,
    ) -> Result<Envelope, Failure> {
        let variable = |name: &str| session.variable(name);
        let mut envelope = self.program(session)?;
        envelope.job_id = self.chosen_id()?;
        for text in &self.env {
            let (name, value) = env_pair(text, &variable)?;
            envelope.env.insert(name.to_owned(), value.to_owned());
        }
        for text in &self.labels {
            let (key, value) = key_and_value("--label", text)?;
            envelope.labels.insert(key.to_owned(), value.to_owned());
        }
        for text in &self.requires {
            let (key, value) = key_and_value("--require", text)?;
            envelope.requires.insert(key.to_owned(), value.to_owned());
        }
        self.set_stdin(&mut envelope)?;
        envelope.input = json("--input", self.input.as_deref())?;
        envelope.meta = json("--meta", self.meta.as_deref())?;
        envelope.traceparent.clone_from(&self.traceparent);
        envelope.secrets.clone_from(&self.secrets);
        envelope.cwd.clone_from(&self.cwd);
        envelope.timeout = self.timeout;
        envelope.limits = self.limits();
        self.set_retries(&mut envelope);
        for text in &self.depends_on {
            envelope.depends_on.push(dependency(text)?);
        }
        envelope.inputs = self.inputs;
        envelope.dependency_timeout = self.dependency_timeout;
        envelope.concurrency_key.clone_from(&self.concurrency_key);
        envelope.concurrency_max = self.concurrency_max;
        envelope.overlap_ok = self.overlap_ok.then_some(true);
        if let Some(text) = &self.expires_at {
            envelope.expires_at = Some(times.read("--expires-at", text)?);
        }
        if let Some(ttl) = self.result_ttl {
            check_record_ttl("--result-ttl", ttl)?;
        }
        envelope.result_ttl = self.result_ttl;
        envelope.validate()?;
        Ok(envelope)
    }

    /// Returns an envelope that has only the command, the script or the function, and its arguments.
    fn program(&self, session: &Session) -> Result<Envelope, Failure> {
        if let Some(function) = &self.call {
            return self.function(session, function);
        }
        match (&self.script, self.command.split_first()) {
            (Some(file), _) => {
                let mut envelope = Envelope::script(read_text(file, "the script")?);
                envelope.args = strings(&self.command);
                let has_line = envelope
                    .script
                    .as_ref()
                    .is_some_and(|s| s.starts_with("#!"));
                envelope.runner.clone_from(&self.runner);
                if !has_line && envelope.runner.is_none() {
                    envelope.runner = runner_of(session, file)?;
                }
                Ok(envelope)
            }
            (None, Some(_)) if self.runner.is_some() => Err(Failure::usage(
                "--runner is for --script and --call: a command is a program itself",
            )),
            (None, Some((program, args))) => {
                if args.is_empty() {
                    note_shell_line(program);
                }
                Ok(Envelope::command(program.clone(), args.to_vec()))
            }
            (None, None) => Err(Failure::usage(
                "nothing to run: give a command after `--`, --script FILE or --call FUNCTION",
            )),
        }
    }

    /// Returns an envelope that has only the function, and its arguments.
    fn function(&self, session: &Session, function: &str) -> Result<Envelope, Failure> {
        let file = function.rsplit_once(':').map_or(function, |(file, _)| file);
        let runner = match &self.runner {
            Some(runner) => Some(runner.clone()),
            None => runner_of(session, file)?,
        };
        let runner = runner.ok_or_else(|| {
            Failure::usage("--call needs the runner of the function's language: --runner python")
        })?;
        let mut envelope = Envelope {
            function: Some(function.to_owned()),
            runner: Some(runner),
            module_path: self.module_path.clone(),
            ..Envelope::default()
        };
        for text in &self.command {
            let argument = serde_json::from_str(text).map_err(|error| {
                let quoted = naq_protocol::command_line([serde_json::Value::from(text.as_str())
                    .to_string()
                    .as_str()]);
                let failure = Failure::usage(format!(
                    "an argument of a function is JSON, and {} is not: {error}",
                    word_hints::quoted(text)
                ));
                failure.hint(format!("as a text it is {quoted}"))
            })?;
            envelope.args.push(argument);
        }
        if let Some(text) = &self.kwargs {
            envelope.kwargs = serde_json::from_str(text)
                .map_err(|error| Failure::usage(format!("--kwargs is no JSON object: {error}")))?;
        }
        Ok(envelope)
    }

    /// Reads `--stdin`.
    fn set_stdin(&self, envelope: &mut Envelope) -> Result<(), Failure> {
        if let Some(file) = &self.stdin {
            set_stdin(envelope, read_bytes(file, "the standard input")?);
        }
        Ok(())
    }

    /// Whether the options say what the job's standard input is, or use this process's own for
    /// something else.
    pub(super) fn takes_stdin(&self) -> bool {
        self.stdin.is_some() || self.input.is_some() || self.script.as_deref() == Some("-")
    }

    fn limits(&self) -> ResourceLimits {
        ResourceLimits {
            memory: self.memory,
            address_space: self.address_space,
            cpu_time: self.cpu_time,
            cpus: self.cpus,
            processes: self.processes,
            open_files: self.open_files,
            file_size: self.file_size,
            output: self.output,
            nice: self.nice,
            ..ResourceLimits::default()
        }
    }

    fn set_retries(&self, envelope: &mut Envelope) {
        envelope.max_retries = self.retries;
        envelope.retry_delay = match self.retry_delay.as_slice() {
            [] => None,
            [one] => Some(RetryDelay::Single(*one)),
            several => Some(RetryDelay::PerRetry(several.to_vec())),
        };
        envelope.retry_strategy = self.retry_strategy;
        envelope.retry_max_delay = self.retry_max_delay;
        envelope.retry_jitter = self.no_retry_jitter.then_some(false);
        // An absent list means every failure, so an option that is not given must not become an
        // empty list.
        envelope.retry_on = (!self.retry_on.is_empty()).then(|| self.retry_on.clone());
        envelope.fatal_on.clone_from(&self.fatal_on);
        envelope.success_on.clone_from(&self.success_on);
    }

    /// The chosen id. `None` if naq is to generate one.
    pub(super) fn chosen_id(&self) -> Result<Option<JobId>, Failure> {
        let id = self.id.as_ref().map(JobId::from_user).transpose();
        id.map_err(|error| Failure::usage(error.to_string()))
    }

    /// Whether neither a command nor a script nor a function is given.
    pub(super) fn is_empty(&self) -> bool {
        self.command.is_empty() && self.script.is_none() && self.call.is_none()
    }
}

/// The name of the runner of a file, by its extension. `None` for a shell script, which needs none, and for a
/// file of no runner.
fn runner_of(session: &Session, file: &str) -> Result<Option<String>, Failure> {
    let languages = super::installed_runners::languages(session, None)?;
    let found = languages.for_file(std::path::Path::new(file));
    let name = found.map(|language| language.name().to_owned());
    Ok(name.filter(|name| name != "sh"))
}

/// Sets the standard input of a job: as text if it is UTF-8, otherwise as base64.
pub(super) fn set_stdin(envelope: &mut Envelope, bytes: Vec<u8>) {
    match String::from_utf8(bytes) {
        Ok(text) => envelope.stdin = Some(text),
        Err(error) => {
            use base64::Engine;
            envelope.stdin_base64 =
                Some(base64::engine::general_purpose::STANDARD.encode(error.as_bytes()));
        }
    }
}

/// Returns an error if the record would be kept longer than the user asked for.
pub(super) fn check_record_ttl(option: &str, ttl: WireDuration) -> Result<(), Failure> {
    let min = WireDuration(naq_core::RECORD_TTL_MIN);
    if naq_core::clamp_result_ttl(ttl.0).is_some_and(|kept| kept != ttl.0) {
        return Err(Failure::usage(format!(
            "{option} {ttl} is too short: a record stays for at least {min}; 0 keeps it forever"
        )));
    }
    Ok(())
}

/// Prints a note if a shell command line is given as the name of one program.
fn note_shell_line(program: &str) {
    let is_line = program.trim().contains(char::is_whitespace);
    if is_line && !std::path::Path::new(program).exists() {
        let word = word_hints::quoted(program);
        render::note(format_args!(
            "{word} is one word, so it is the name of a program; to run it in a shell, write: -- sh -c {word}"
        ));
    }
}

/// Parses `--env`: `NAME=VALUE`, or `NAME` to copy the variable from this process's environment.
fn env_pair<'t, 'e: 't>(
    text: &'t str,
    variable: &impl Fn(&str) -> Option<&'e str>,
) -> Result<(&'t str, &'t str), Failure> {
    if let Some(pair) = text.split_once('=') {
        return Ok(pair);
    }
    variable(text).map(|value| (text, value)).ok_or_else(|| {
        Failure::usage(format!(
            "--env {text}: it is not set here; write {text}=VALUE"
        ))
    })
}

/// Parses the `KEY=VALUE` of an option.
fn key_and_value<'t>(option: &str, text: &'t str) -> Result<(&'t str, &'t str), Failure> {
    text.split_once('=')
        .ok_or_else(|| Failure::usage(format!("{option} {text}: write KEY=VALUE")))
}

/// Parses a dependency: `JOB` or `JOB=END`, and `,as=NAME` after it.
fn dependency(text: &str) -> Result<Dependency, Failure> {
    let (text, as_name) = match text.split_once(",as=") {
        Some((text, name)) => (text, Some(InputName::new(name)?)),
        None => (text, None),
    };
    let (job, on) = match text.split_once('=') {
        Some((job, on)) => (
            job,
            on.parse()
                .map_err(|error: String| Failure::usage(format!("--depends-on: {error}")))?,
        ),
        None => (text, DependencyCondition::default()),
    };
    Ok(Dependency {
        as_name,
        ..Dependency::new(JobId::new(job)?, on)
    })
}

fn strings(texts: &[String]) -> Vec<naq_protocol::Argument> {
    texts.iter().cloned().map(Into::into).collect()
}

fn json(flag: &str, text: Option<&str>) -> Result<Option<Box<RawValue>>, Failure> {
    text.map(|text| {
        RawValue::from_string(text.to_owned())
            .map_err(|error| Failure::usage(format!("{flag} is not JSON: {error}")))
    })
    .transpose()
}

/// Maximum size of a file that becomes a part of a message, in bytes: nats-server can be configured for no
/// larger message.
const PART_BYTES_MAX: u64 = 64 << 20;

/// Reads a file, which may be a pipe or a device; `-` is standard input. `what` names the content in errors.
pub(super) fn read_bytes(file: &str, what: &str) -> Result<Vec<u8>, Failure> {
    let failed =
        |error: std::io::Error| Failure::usage(format!("cannot read {what} from {file}: {error}"));
    let reader: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin().lock()),
        _ => Box::new(std::fs::File::open(file).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    let mut reader = reader.take(PART_BYTES_MAX + 1);
    reader.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > PART_BYTES_MAX {
        return Err(failed(std::io::Error::other("it is larger than 64 MiB")));
    }
    Ok(bytes)
}

fn read_text(file: &str, what: &str) -> Result<String, Failure> {
    String::from_utf8(read_bytes(file, what)?)
        .map_err(|_| Failure::usage(format!("{what} in {file} is not UTF-8")))
}
