//! What `--json` prints where no schema of the wire describes it: listings, answers, errors.
//!
//! The contract is in `docs/cli.md`: one line for each object, an absent field is left out and never
//! `null`, and a field that a wire type has too bears the same name here. `naq schema output`
//! prints the schema, which is checked in as `schemas/output.v1.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::local_server::{Origin, ServerState, ServerStatus};
use crate::text::waiting::Why;
use naq_client::{AuditRecord, DeadLetterGroup, JobEvent, JobSummary};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    Artifact, Dependency, FileDigest, JobId, LeaderInfo, Misfire, Overlap, QueueName, Reason,
    ScheduleId, State, Timestamp,
};

/// An error, on standard error.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "error")]
pub(super) struct ErrorReport {
    pub(super) error: ErrorBody,
}

/// What failed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "error_body")]
pub(super) struct ErrorBody {
    /// A stable word for the kind of error: failed, usage, no_nats, not_found, conflict, refused,
    /// full or timed_out.
    pub(super) code: String,
    /// What failed and why, for people.
    pub(super) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}

/// A remark, on standard error.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "note")]
pub(super) struct NoteReport {
    pub(super) note: NoteBody,
}

/// A remark about the output.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "note_body")]
pub(super) struct NoteBody {
    /// The remark, for people.
    pub(super) message: String,
    /// The file that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    /// The line of the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<usize>,
    /// The listing continues after this place, which `--before` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
    /// The job that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job_id: Option<JobId>,
    /// Number of bytes of a job's output that are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing_bytes: Option<u64>,
}

/// A job that was enqueued.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "enqueued")]
pub(super) struct EnqueuedJob<'a> {
    pub(super) job_id: &'a JobId,
    pub(super) queue: &'a QueueName,
    /// When a delayed job starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scheduled_for: Option<Timestamp>,
    /// The job's name in its flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    /// The flow that the job belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flow: Option<&'a JobId>,
}

/// A file of envelopes that was checked and not enqueued.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "checked_file")]
pub(super) struct CheckedFile {
    /// Jobs in the file.
    pub(super) jobs: u64,
}

/// A job that runs an ended job again.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "rerun")]
pub(super) struct Rerun<'a> {
    /// The new job.
    pub(super) job_id: &'a JobId,
    /// The job that it repeats.
    pub(super) rerun_of: &'a JobId,
}

/// What became of a request to cancel a job.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "cancelled")]
pub(super) struct CancelledJob<'a> {
    pub(super) job_id: &'a JobId,
    /// The state after the request.
    pub(super) state: State,
    /// Whether a worker was asked to stop it.
    pub(super) cancel_requested: bool,
    /// Whether that worker has answered.
    pub(super) worker_acknowledged: bool,
}

/// How long an ended job's record stays.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ttl")]
pub(super) struct ResultTtl<'a> {
    pub(super) job_id: &'a JobId,
    /// From now on, in seconds; 0 forever.
    pub(super) result_ttl: WireDuration,
}

/// A job of a tree of dependencies.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "tree_node")]
pub(super) struct TreeNode<'a> {
    pub(super) job_id: &'a JobId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<&'a QueueName>,
    /// Absent where the job is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    pub(super) depends_on: &'a [Dependency],
}

/// A piece of a job's output.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "log_chunk")]
pub(super) struct LogLine<'a> {
    /// stdout or stderr.
    pub(super) stream: &'a str,
    /// The attempt that wrote it, from 1.
    pub(super) attempt: u32,
    /// The bytes as text: what is not UTF-8 is replaced by U+FFFD.
    pub(super) text: &'a str,
}

/// A place at which bytes of a job's output are missing.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "log_gap")]
pub(super) struct LogGap<'a> {
    /// stdout or stderr.
    pub(super) stream: &'a str,
    /// The attempt that wrote them, from 1.
    pub(super) attempt: u32,
    /// Number of bytes.
    pub(super) missing_bytes: u64,
}

/// A file that a job has left.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "artifact")]
pub(super) struct ArtifactReport<'a> {
    /// Its path in the job's work folder.
    pub(super) name: &'a str,
    /// The size, in bytes.
    pub(super) bytes: u64,
    /// The digest of the content.
    pub(super) digest: &'a FileDigest,
}

impl ArtifactReport<'_> {
    /// The report of a file.
    pub(super) fn of(artifact: &Artifact) -> ArtifactReport<'_> {
        ArtifactReport {
            name: &artifact.name,
            bytes: artifact.bytes,
            digest: &artifact.digest,
        }
    }
}

/// A failed job that is kept whole.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "dead_letter")]
pub(super) struct DeadLetterReport<'a> {
    pub(super) job_id: &'a JobId,
    pub(super) queue: &'a QueueName,
    /// failed or rejected.
    pub(super) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// The exit code of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exit_code: Option<i32>,
    /// The signal that killed the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<i32>,
    /// Why, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<&'a str>,
    /// Attempts begun.
    pub(super) attempt: u32,
    /// When the failure was stored.
    pub(super) finished_at: Timestamp,
    /// The headers of the job's message, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<Vec<HeaderReport<'a>>>,
    /// The envelope, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) envelope: Option<serde_json::Value>,
    /// The envelope's bytes, if they are not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) envelope_base64: Option<String>,
}

/// A header of a message.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "header")]
pub(super) struct HeaderReport<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
}

/// How many failed jobs were discarded.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "discarded")]
pub(super) struct Discarded {
    pub(super) discarded: u64,
}

/// A queue in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "queue")]
pub(super) struct QueueReport<'a> {
    pub(super) queue: &'a QueueName,
    /// Jobs that are ready for a worker.
    pub(super) depth: u64,
    /// Jobs that workers have claimed.
    pub(super) running: u64,
    /// Delayed jobs, and jobs that wait for their next attempt.
    pub(super) delayed: u64,
    /// Bytes stored.
    pub(super) bytes: u64,
    /// When the oldest message in the queue was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oldest: Option<Timestamp>,
    /// Workers that serve it. Absent if the user may not read their heartbeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) workers: Option<usize>,
    pub(super) paused: bool,
    /// How many of its jobs may run at once. Absent means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_running: Option<u32>,
    /// Servers that keep a copy.
    pub(super) replicas: usize,
}

/// The runner of a language.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "runner")]
pub(super) struct RunnerReport {
    /// Its name, as in `--runner`.
    #[serde(rename = "runner")]
    pub(super) name: String,
    /// Whether it runs scripts.
    pub(super) scripts: bool,
    /// Whether it calls functions.
    pub(super) functions: bool,
    /// How its processes can be kept ready, best first.
    pub(super) warm: Vec<String>,
    /// The extensions of its scripts.
    pub(super) extensions: Vec<String>,
    /// The lowest and the highest version of its program with which it was tested. Empty if it never was.
    pub(super) tested: Vec<String>,
    /// The folder of the operator that it is from. Absent for a runner of naq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) folder: Option<String>,
    /// Whether it works on this machine. Absent if nobody has checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) works: Option<bool>,
    /// The version of its program on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// A stream or consumer compared with what naq needs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "layout")]
pub(super) struct LayoutReport<'a> {
    pub(super) stream: &'a str,
    /// The consumer of the stream. Absent if the stream itself was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consumer: Option<&'a str>,
    /// Servers that keep a copy of the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replicas: Option<usize>,
    /// What differs.
    pub(super) differences: Vec<StreamSettingReport<'a>>,
    /// What differed and was changed.
    pub(super) changed: Vec<StreamSettingReport<'a>>,
    /// Why NATS refused a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<&'a str>,
}

/// A setting that differs from what naq needs, with values as in the JetStream API.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "layout_setting")]
pub(super) struct StreamSettingReport<'a> {
    pub(super) setting: &'a str,
    /// Its value; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) found: Option<&'a serde_json::Value>,
    /// The value that naq needs; of subjects those that are missing. Absent means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) needed: Option<&'a serde_json::Value>,
    /// Whether `--fix` changes it.
    pub(super) fixable: bool,
    /// Whether workers or schedulers start only with the value that is needed.
    pub(super) required: bool,
}

/// A change of a queue.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "queue_change")]
pub(super) struct QueueChange<'a> {
    pub(super) queue: &'a str,
    /// added, set, paused, resumed, purged or removed.
    pub(super) action: &'a str,
    /// Jobs that were removed from the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) removed: Option<u64>,
    /// Jobs that were running, and were left running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) running: Option<u64>,
}

/// What `naq purge --results` has removed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "results_purged")]
pub(super) struct ResultsPurged {
    /// `results_purged`.
    pub(super) action: &'static str,
    /// Ended jobs whose record was removed.
    pub(super) jobs: u64,
    /// Objects that were removed: long output, results and envelopes.
    pub(super) objects: u64,
    /// The sizes of all of them, in bytes.
    pub(super) bytes: u64,
    /// Ended jobs whose record was kept: their message is still in its queue, or jobs that depend on
    /// them still wait.
    pub(super) kept: u64,
}

/// What a listed entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "schedule_kind")]
pub(super) enum ScheduleKind {
    /// A schedule.
    Recurring,
    /// A delayed job.
    Delayed,
}

/// A schedule or a delayed job in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "schedule_entry")]
pub(super) struct ScheduleReport {
    pub(super) kind: ScheduleKind,
    /// The schedule's name, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) schedule_id: Option<ScheduleId>,
    /// The delayed job's id, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<QueueName>,
    /// active, paused, ended, or unreadable where the stored schedule is invalid.
    pub(super) status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) paused_reason: Option<String>,
    /// Why the schedule cannot be read, or cannot tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tz: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) every: Option<WireDuration>,
    /// When a delayed job starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scheduled_for: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_run: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) set: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(flatten)]
    pub(super) progress: Option<ScheduleProgressReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(flatten)]
    pub(super) details: Option<ScheduleDetails>,
}

impl ScheduleReport {
    pub(super) fn new(kind: ScheduleKind, status: impl Into<String>) -> ScheduleReport {
        ScheduleReport {
            kind,
            schedule_id: None,
            job_id: None,
            queue: None,
            status: status.into(),
            paused_reason: None,
            problem: None,
            cron: None,
            tz: None,
            every: None,
            scheduled_for: None,
            next_run: None,
            set: None,
            progress: None,
            details: None,
        }
    }
}

/// How a schedule has run so far.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "schedule_progress")]
pub(super) struct ScheduleProgressReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_run: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_job_id: Option<JobId>,
    /// The state of the last job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_state: Option<State>,
    /// The reason of the last job's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_reason: Option<Reason>,
    /// How many of the last three jobs in a row ended without having started; absent if the last one
    /// has started or has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failed_starts: Option<usize>,
    /// Why the last of them did not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_error: Option<String>,
    pub(super) runs: u64,
    pub(super) missed: u64,
    /// `missed` is a lower bound; absent if it is exact.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) missed_is_minimum: bool,
    pub(super) skipped: u64,
    pub(super) failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
}

/// What `--detailed` adds.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "schedule_details")]
pub(super) struct ScheduleDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) envelope: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) anchor: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repeat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jitter: Option<WireDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) misfire: Option<Misfire>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) misfire_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) misfire_grace: Option<WireDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) overlap: Option<Overlap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) done_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enqueue_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// What it runs, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
}

/// A schedule that was added.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "added_schedule")]
pub(super) struct AddedScheduleReport<'a> {
    pub(super) schedule_id: &'a ScheduleId,
    pub(super) queue: &'a QueueName,
    /// created, replaced or unchanged.
    pub(super) outcome: &'a str,
    /// active, paused or ended.
    pub(super) status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_run: Option<Timestamp>,
    /// The scheduler that leads. Absent means that none runs, or that the lease may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scheduler: Option<&'a LeaderInfo>,
}

/// What was done to a schedule or a delayed job.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "schedule_change")]
pub(super) struct ScheduleChangeReport<'a> {
    /// Absent for a step of `schedule apply`, where every entry is a schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<ScheduleKind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) schedule_id: Option<&'a str>,
    /// The delayed job, or the job that the schedule enqueued at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job_id: Option<&'a str>,
    /// What was done: the action that was asked for, or created, changed, removed, unchanged or
    /// over for `schedule apply`.
    pub(super) action: &'a str,
    /// Whether the action changed anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) changed: Option<bool>,
    /// The fields that `schedule apply` changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fields: Option<Vec<String>>,
    /// The status of a schedule, or the state of a job, afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_run: Option<Timestamp>,
}

/// A run of a backfill.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "backfill_run")]
pub(super) struct BackfillRunReport<'a> {
    pub(super) schedule_id: &'a ScheduleId,
    pub(super) job_id: &'a JobId,
    /// The tick of the schedule.
    pub(super) scheduled_for: Timestamp,
    /// Whether the job existed before, so that it is not enqueued.
    pub(super) existed: bool,
    /// Whether the job was enqueued; false with `--dry-run`.
    pub(super) enqueued: bool,
    /// The value of the job's label `backfill`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backfill: Option<&'a str>,
}

/// A worker that was asked to drain.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "worker_drain")]
pub(super) struct WorkerDrain<'a> {
    pub(super) worker_id: &'a str,
    pub(super) name: &'a str,
    /// How many jobs it ran at its last heartbeat.
    pub(super) running: u32,
    /// Whether the worker has received the request. Absent with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<bool>,
}

/// NATS can be used, and what runs here is alive.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "health")]
pub(super) struct HealthReport<'a> {
    /// The address and version of the server.
    pub(super) server: &'a str,
    /// The processes whose heartbeats are stored.
    pub(super) pids: &'a [u32],
}

/// A setting, its value and where it comes from.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "setting")]
pub(super) struct SettingReport<'a> {
    pub(super) setting: &'a str,
    /// Absent where the setting has no value. Secrets are masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    pub(super) source: String,
    /// The environment variable that sets it.
    pub(super) variable: &'a str,
}

/// What was done with the `naq.toml` of the current folder.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "settings_trust")]
pub(super) struct TrustReport<'a> {
    pub(super) file: &'a str,
    /// `trusted`, `revoked`, or `unchanged` if it was not trusted before.
    pub(super) action: &'a str,
    /// The settings that the file sets because it is trusted.
    pub(super) settings: &'a [&'a str],
}

/// A time at which a cron expression matches.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "cron_time")]
pub(super) struct CronTime {
    /// RFC 3339, with the offset of the zone.
    pub(super) time: String,
}

/// What a cron expression means.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "cron_explanation")]
pub(super) struct CronExplanation<'a> {
    pub(super) cron: &'a str,
    pub(super) tz: &'a str,
    pub(super) explanation: &'a str,
}

/// The nats-server program.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "server_program")]
pub(super) struct ServerProgram<'a> {
    pub(super) path: &'a std::path::Path,
    pub(super) version: String,
    /// Where it was found.
    pub(super) origin: Origin,
}

/// The managed server has stopped.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "server_stopped")]
pub(super) struct ServerStopped {
    pub(super) stopped: bool,
}

/// The version of naq.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "version")]
pub(super) struct Version<'a> {
    pub(super) version: &'a str,
    /// The release of the time zone database. Absent if its folder does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tzdata: Option<String>,
    /// The folder of the time zone database, or `built in`.
    pub(super) tzdata_place: String,
}

/// The users of nats-server's configuration.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "nats_config")]
pub(super) struct NatsConfig {
    /// The configuration. Absent if it was written to a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<String>,
    /// The files that were written.
    pub(super) files: Vec<PathBuf>,
}

/// Whether a user may do what its role needs, or must not do.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "permission_check")]
pub(super) struct PermissionCheck<'a> {
    /// The user's role.
    pub(super) role: &'a str,
    /// The tenant. Absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<&'a str>,
    /// What the role does, or must not do.
    pub(super) operation: &'a str,
    /// allowed or denied: what the role needs.
    pub(super) expected: &'a str,
    /// allowed or denied: what the server says.
    pub(super) found: &'a str,
    /// The subjects on which the server's permission differs from the expected one.
    pub(super) subjects: Vec<&'a str>,
}

/// One measurement. The other fields depend on what was measured.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "measurement")]
pub(super) struct Measurement<'a> {
    pub(super) bench: &'a str,
    #[serde(flatten)]
    pub(super) figures: serde_json::Map<String, serde_json::Value>,
}

/// The schema of everything above, as pretty JSON with a final newline: an `anyOf` of all kinds of
/// objects, each under its name in `$defs`.
pub(super) fn schema() -> String {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let kinds = vec![
        generator.subschema_for::<ErrorReport>(),
        generator.subschema_for::<NoteReport>(),
        generator.subschema_for::<JobSummary>(),
        generator.subschema_for::<JobEvent>(),
        generator.subschema_for::<EnqueuedJob>(),
        generator.subschema_for::<CheckedFile>(),
        generator.subschema_for::<Rerun>(),
        generator.subschema_for::<CancelledJob>(),
        generator.subschema_for::<ResultTtl>(),
        generator.subschema_for::<TreeNode>(),
        generator.subschema_for::<Why>(),
        generator.subschema_for::<LogLine>(),
        generator.subschema_for::<LogGap>(),
        generator.subschema_for::<ArtifactReport<'_>>(),
        generator.subschema_for::<DeadLetterReport>(),
        generator.subschema_for::<DeadLetterGroup>(),
        generator.subschema_for::<Discarded>(),
        generator.subschema_for::<AuditRecord>(),
        generator.subschema_for::<QueueReport>(),
        generator.subschema_for::<QueueChange>(),
        generator.subschema_for::<RunnerReport>(),
        generator.subschema_for::<ResultsPurged>(),
        generator.subschema_for::<ScheduleReport>(),
        generator.subschema_for::<AddedScheduleReport>(),
        generator.subschema_for::<ScheduleChangeReport>(),
        generator.subschema_for::<BackfillRunReport<'_>>(),
        generator.subschema_for::<WorkerDrain<'_>>(),
        generator.subschema_for::<HealthReport<'_>>(),
        generator.subschema_for::<SettingReport>(),
        generator.subschema_for::<TrustReport<'_>>(),
        generator.subschema_for::<CronTime>(),
        generator.subschema_for::<CronExplanation>(),
        generator.subschema_for::<ServerState>(),
        generator.subschema_for::<ServerStatus>(),
        generator.subschema_for::<ServerProgram>(),
        generator.subschema_for::<ServerStopped>(),
        generator.subschema_for::<LayoutReport<'_>>(),
        generator.subschema_for::<NatsConfig>(),
        generator.subschema_for::<PermissionCheck<'_>>(),
        generator.subschema_for::<Version>(),
        generator.subschema_for::<Measurement>(),
    ];
    let schema = serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Output of naq --json",
        "anyOf": kinds,
        "$defs": generator.take_definitions(true),
    });
    format!("{schema:#}\n")
}
