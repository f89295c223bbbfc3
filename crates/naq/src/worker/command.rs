//! From an envelope to a command the runner can start.

use std::path::{Path, PathBuf};

use super::input_files::JobInputs;
use super::options::WorkerConfig;
use crate::languages::{Invocation, RunnerProblem};
use naq_core::has_required_labels;
use naq_protocol::{
    Envelope, EnvelopeError, JOB_SOCKET_VARIABLE, JOB_TOKEN_VARIABLE, Record, RejectReason,
    Stdin as EnvelopeStdin,
};
use naq_runner::{
    CONTROL_LINE_BYTES_MAX, Command, JobFile, LiveSink, Program, Stdin, is_env_denied,
};

/// Checks an envelope against what this worker allows and supports.
///
/// # Errors
/// Returns an [`EnvelopeError`] with the reason `not_allowed` and the field's path if the envelope
/// sets a field that is not supported or an environment variable that is not allowed.
pub(super) fn check_policy(
    envelope: &Envelope,
    options: &WorkerConfig,
) -> Result<(), EnvelopeError> {
    if !has_required_labels(&options.labels, &envelope.requires) {
        // the worker that runs the job checks what it may set
        return Ok(());
    }
    if let Err(problem) = options.languages.check(envelope) {
        let RunnerProblem { field, message } = problem;
        return Err(EnvelopeError::new(RejectReason::NotAllowed, field, message));
    }
    for name in envelope.env.keys() {
        if is_env_denied(name, &options.allow_env) {
            return Err(EnvelopeError::new(
                RejectReason::NotAllowed,
                format!("env.{name}"),
                "it makes programs run other code; the worker's --allow-env can permit it",
            ));
        }
    }
    Ok(())
}

/// The largest checkpoint that is passed in a variable, in bytes: the kernel limits a variable to
/// 128 KiB with its name and final NUL. Every checkpoint is in a file too.
const CHECKPOINT_VARIABLE_BYTES_MAX: usize = (128 << 10) - "NAQ_CHECKPOINT=\0".len();

/// What the attempt's environment says about the attempt itself.
pub(super) struct AttemptIdentity<'a> {
    pub(super) worker_id: &'a str,
    pub(super) record: &'a Record,
    /// The worker's socket and the job's token. `None` if the worker grants its jobs nothing.
    pub(super) socket: Option<(&'a Path, &'a str)>,
}

impl AttemptIdentity<'_> {
    /// The variables by which the job finds its worker's socket.
    fn socket_variables(&self) -> Vec<(&'static str, String)> {
        match self.socket {
            Some((path, token)) => vec![
                (JOB_SOCKET_VARIABLE, path.display().to_string()),
                (JOB_TOKEN_VARIABLE, token.to_owned()),
            ],
            // Set even so: a naq in the job refuses, instead of using another server that it finds.
            None => vec![(JOB_SOCKET_VARIABLE, String::new())],
        }
    }
}

/// Builds the command of an attempt.
pub(super) fn build_command(
    envelope: &Envelope,
    options: &WorkerConfig,
    identity: &AttemptIdentity<'_>,
    secrets: Vec<(String, String)>,
    live: Option<LiveSink>,
) -> Command {
    let record = identity.record;
    // The policy was checked before, so the runner exists.
    let invocation = options.languages.invocation(envelope).ok().flatten();
    let (program, runner_env, call) = match invocation {
        Some(Invocation { program, env, call }) => (program, env, call),
        None => (own_program(envelope), Vec::new(), None),
    };
    let mut command = Command::new(record.job_id.as_str(), program);
    command.cwd = envelope.cwd.as_ref().map(PathBuf::from);
    command.stdin = stdin(envelope);
    let timeout = envelope.timeout.map(|span| span.0).or(options.timeout);
    command.timeout = timeout;
    command.kill_grace = options.kill_grace;
    command.limits = limits(envelope, options);
    command.secrets = secrets;
    command.live = live;
    command.scratch = true;
    let own = envelope.env.iter();
    let own = own.map(|(name, value)| (name.clone(), value.clone()));
    let mut env: Vec<(String, String)> = runner_env.into_iter().chain(own).collect();
    let max_attempts = envelope
        .max_retries
        .unwrap_or(0)
        .saturating_add(1)
        .saturating_add(record.interrupted_attempts());
    let mut set = |name: &str, value: String| env.push((name.to_owned(), value));
    set("NAQ_JOB_ID", record.job_id.to_string());
    set("NAQ_QUEUE", record.queue.to_string());
    set("NAQ_ATTEMPT", record.attempt.to_string());
    set("NAQ_MAX_ATTEMPTS", max_attempts.to_string());
    set("NAQ_WORKER_ID", identity.worker_id.to_owned());
    set("NAQ_FENCE", record.fence.to_string());
    set("NAQ_CONTROL_FD", "3".to_owned());
    if let Some(call) = call {
        // A shim refuses a result that does not fit, instead of losing it.
        set("NAQ_CONTROL_LINE_MAX", CONTROL_LINE_BYTES_MAX.to_string());
        command.files.push(call);
    }
    for (name, value) in identity.socket_variables() {
        set(name, value);
    }
    if let Some(timeout) = timeout {
        set("NAQ_TIMEOUT", timeout.as_secs_f64().to_string());
    }
    if let Some(checkpoint) = &record.checkpoint {
        let checkpoint = checkpoint.get().to_owned();
        if checkpoint.len() <= CHECKPOINT_VARIABLE_BYTES_MAX {
            set("NAQ_CHECKPOINT", checkpoint.clone());
        }
        command.files.push(JobFile {
            name: ".naq-checkpoint.json",
            variable: "NAQ_CHECKPOINT_FILE",
            content: checkpoint.into(),
        });
    }
    if let Some(schedule) = &record.schedule_id {
        set("NAQ_SCHEDULE_ID", schedule.to_string());
    }
    if let Some(time) = record.scheduled_for {
        set("NAQ_SCHEDULED_FOR", time.to_string());
    }
    let own = options.traces.of_attempt(record);
    let traceparent = envelope.traceparent.as_ref();
    if let Some(traceparent) = own.as_ref().or(traceparent).or(record.traceparent.as_ref()) {
        set("TRACEPARENT", traceparent.clone());
    }
    command.env = env;
    command
}

/// The standard input of a job.
fn stdin(envelope: &Envelope) -> Stdin {
    match envelope.stdin_source() {
        EnvelopeStdin::Empty => Stdin::Empty,
        EnvelopeStdin::Bytes(bytes) => Stdin::Bytes(bytes.into()),
    }
}

/// The program of a job that needs no runner: its command, or its script.
fn own_program(envelope: &Envelope) -> Program {
    let args = envelope.command_args();
    match (&envelope.command, &envelope.script) {
        (Some(program), _) => Program::Path {
            program: program.clone(),
            args,
        },
        (None, script) => Program::Script {
            source: script.clone().unwrap_or_default(),
            args,
        },
    }
}

/// Passes the outputs of its dependencies to an attempt.
pub(super) fn pass_inputs(command: &mut Command, inputs: Option<JobInputs>) {
    match inputs {
        None => {}
        Some(JobInputs::Folder(folder)) => {
            command.folder = Some(("NAQ_INPUTS".to_owned(), folder));
        }
        Some(JobInputs::Stdin(file)) => command.stdin = Stdin::File(file),
    }
}

/// The limits of a job: the envelope's, each with the worker's default.
pub(super) fn limits(envelope: &Envelope, options: &WorkerConfig) -> naq_runner::ResourceLimits {
    let (own, default) = (&envelope.limits, &options.limits);
    naq_runner::ResourceLimits {
        memory_bytes: own.memory.or(default.memory).map(|size| size.0),
        address_space_bytes: own
            .address_space
            .or(default.address_space)
            .map(|size| size.0),
        // the kernel counts whole seconds, so a fraction is rounded up
        cpu_time_s: own
            .cpu_time
            .or(default.cpu_time)
            .map(|span| span.0.as_secs() + u64::from(span.0.subsec_nanos() > 0)),
        cpus: own.cpus.or(default.cpus),
        processes: own.processes.or(default.processes),
        open_files: own.open_files.or(default.open_files),
        file_size_bytes: own.file_size.or(default.file_size).map(|size| size.0),
        output_bytes: own.output.or(default.output).map(|size| size.0),
        nice: own.nice.or(default.nice).map(i32::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, Lease, Phase, QueueName, Timestamp};

    fn record() -> Record {
        let mut record = Record::new(
            JobId::new("j").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Running {
                lease: Lease {
                    worker_id: "w".to_owned(),
                    sequence: 1,
                    delivery: 1,
                    alone: false,
                    claimed_ahead: false,
                    unknown: naq_protocol::UnknownFields::default(),
                },
                started_at: Timestamp::from_unix_ms(0).unwrap(),
            },
            Timestamp::from_unix_ms(0).unwrap(),
        );
        record.attempt = 2;
        record
    }

    #[test]
    fn the_environment_identifies_the_attempt() {
        let envelope = Envelope::parse(br#"{"command":"x","timeout":"1500ms"}"#).unwrap();
        let options = WorkerConfig::new(Vec::new(), 1);
        let mut record = record();
        record.fence = 42;
        let identity = AttemptIdentity {
            worker_id: "w",
            record: &record,
            socket: Some((Path::new("/s"), "t")),
        };
        let command = build_command(&envelope, &options, &identity, Vec::new(), None);
        let value = |name: &str| {
            command
                .env
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(value("NAQ_JOB_ID"), Some("j"));
        assert_eq!(value("NAQ_ATTEMPT"), Some("2"));
        assert_eq!(value("NAQ_FENCE"), Some("42"));
        assert_eq!(value("NAQ_TIMEOUT"), Some("1.5"));
        assert_eq!(value("NAQ_JOB_SOCKET"), Some("/s"));
        assert_eq!(value("NAQ_JOB_TOKEN"), Some("t"));
    }

    #[test]
    fn a_job_of_a_runner_that_is_not_here_is_rejected() {
        let options = WorkerConfig::new(Vec::new(), 1);
        let json = br#"{"function":"module:name","runner":"cobol"}"#;
        let envelope = Envelope::parse(json).unwrap();
        let invalid = check_policy(&envelope, &options).unwrap_err();
        assert_eq!(
            (invalid.reason, invalid.path.as_str()),
            (RejectReason::NotAllowed, "runner")
        );
    }

    #[test]
    fn loader_variables_are_rejected_unless_allowed() {
        let envelope = Envelope::parse(br#"{"command":"x","env":{"LD_PRELOAD":"x"}}"#).unwrap();
        let mut options = WorkerConfig::new(Vec::new(), 1);
        let invalid = check_policy(&envelope, &options).unwrap_err();
        assert_eq!(invalid.path, "env.LD_PRELOAD");
        options.allow_env = vec!["LD_PRELOAD".to_owned()];
        assert!(check_policy(&envelope, &options).is_ok());
    }

    #[test]
    fn policy_is_not_checked_for_jobs_that_run_elsewhere() {
        let json = br#"{"command":"x","env":{"LD_PRELOAD":"x"},"requires":{"gpu":"yes"}}"#;
        let envelope = Envelope::parse(json).unwrap();
        let mut options = WorkerConfig::new(Vec::new(), 1);
        assert!(check_policy(&envelope, &options).is_ok());
        options.labels.insert("gpu".to_owned(), "yes".to_owned());
        assert!(check_policy(&envelope, &options).is_err());
    }
}
