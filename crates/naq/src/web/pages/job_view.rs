//! The view of a job's record: state, reasons, times and resource usage.

use std::time::Duration;

use serde::Serialize;

use super::attempts::{AttemptRow, attempt_table};
use super::job_row::{between, class_of};
use super::job_timeline::{Moment, timeline};
use crate::text::waiting::describe;
use crate::text::{Ending, bytes, excerpt, span};
use crate::web::access::Right;
use crate::web::api::parameters::encode;
use crate::web::filter::Filter;
use crate::web::sentence::{Piece, pieces};
use naq_client::{AuditFilter, AuditRecord, Client, ClientError, LabelFilter, WaitCause};
use naq_protocol::{FLOW_LABEL, JobId, Record, Timestamp, escape, escape_json};

/// How long the heartbeat of a worker is kept.
const HEARTBEAT_KEPT: Duration = Duration::from_secs(15);

/// Maximum number of characters of a result or checkpoint that the page shows.
const VALUE_CHARS_MAX: usize = 16_384;

/// Maximum number of changes by users that the timeline names.
const CHANGES_MAX: usize = 20;

/// Maximum number of entries of the audit that are read for the changes of a job.
const AUDIT_READ_MAX: usize = 1_000;

/// The data of a job, read for each version of its page.
pub(super) struct JobReading {
    pub(super) record: Record,
    /// What the job waits for. `None` also if the dashboard's user may not read it.
    cause: Option<WaitCause>,
    /// The structured result, as JSON.
    result: Option<String>,
    /// Changes of the job that the audit has, earliest first. Empty before the job has ended, and for viewers who may
    /// not read the audit.
    changes: Vec<AuditRecord>,
    /// Name of the job's worker. `None` if the job has none, or if the worker's heartbeat has expired.
    worker_name: Option<String>,
}

impl JobReading {
    /// Reads a job, for a viewer with this right.
    ///
    /// # Errors
    /// Returns an error if the job does not exist, or NATS does not answer.
    pub(super) async fn read(
        client: &Client,
        job: &JobId,
        right: Right,
    ) -> Result<JobReading, ClientError> {
        let record = client.fetch_job(job).await?;
        let cause = client.wait_cause(&record).await.unwrap_or_default();
        let result = client.read_result(&record).await?;
        let worker_name = match &record.worker_id {
            Some(id) => {
                let workers = client.list_workers().await.unwrap_or_default();
                let own = workers.into_iter().find(|worker| worker.worker_id == *id);
                own.map(|worker| worker.name)
            }
            None => None,
        };
        let changes = match right >= Right::Operate && record.state().is_terminal() {
            true => read_changes(client, &record).await.unwrap_or_default(),
            false => Vec::new(),
        };
        Ok(JobReading {
            record,
            cause,
            result,
            changes,
            worker_name,
        })
    }
}

/// The changes of an ended job since it was enqueued that are among the last entries of the audit.
async fn read_changes(client: &Client, record: &Record) -> Result<Vec<AuditRecord>, ClientError> {
    let filter = AuditFilter {
        since: Some(record.enqueue_time),
        job: Some(record.job_id.clone()),
        ..AuditFilter::default()
    };
    let list = client.list_audit(&filter, None).await?;
    let mut changes = list.page(CHANGES_MAX, AUDIT_READ_MAX).await?.entries;
    changes.reverse();
    Ok(changes)
}

/// The variables of `job_body.html`.
#[derive(Serialize)]
pub(super) struct JobView {
    id: String,
    state: String,
    class: &'static str,
    can_cancel: bool,
    can_retry: bool,
    can_edit: bool,
    error: String,
    why: Option<Why>,
    notes: Vec<String>,
    warnings: Vec<String>,
    facts: Vec<Fact>,
    labels: Vec<Fact>,
    timeline: Vec<Moment>,
    attempts: Option<Vec<AttemptRow>>,
    bar: Option<Bar>,
    resources: Vec<Fact>,
    artifacts: Vec<ArtifactRow>,
    progress: Option<Progress>,
    result: String,
    checkpoint: String,
}

/// Why the job does not run.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Why {
    pieces: Vec<Piece>,
    /// Whether a user has to act.
    needs_action: bool,
}

/// A name and a value.
#[derive(Serialize)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// The path that the value links to, below the base path. Empty for a value without a link.
    pub(super) path: String,
}

impl Fact {
    pub(super) fn new(name: &'static str, value: impl Into<String>) -> Fact {
        Fact {
            name,
            value: value.into(),
            path: String::new(),
        }
    }

    fn leading_to(name: &'static str, value: impl Into<String>, path: String) -> Fact {
        Fact {
            path,
            ..Fact::new(name, value)
        }
    }
}

/// The shares of waiting and running, in thousandths.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Bar {
    wait: u64,
    run: u64,
    class: &'static str,
    text: String,
}

/// A file that the job has left.
#[derive(Serialize)]
struct ArtifactRow {
    name: String,
    size: String,
    /// The path of its content, below the base path.
    path: String,
}

#[derive(Serialize)]
struct Progress {
    /// Whether the job reported a percentage.
    has_percent: bool,
    /// 0 to 100.
    percent: u64,
    message: String,
}

/// The view of a job for a viewer with this right.
pub(super) fn job_view(reading: &JobReading, right: Right, now: Timestamp) -> JobView {
    let record = &reading.record;
    let has_ended = record.state().is_terminal();
    let may_operate = right >= Right::Operate;
    JobView {
        id: record.job_id.to_string(),
        state: Ending::of(record).to_string(),
        class: class_of(record.state()),
        can_cancel: may_operate && !has_ended && !record.cancel_requested,
        can_retry: may_operate && has_ended,
        can_edit: right >= Right::Submit && record.envelope.is_some(),
        error: record.error.as_deref().map(escape).unwrap_or_default(),
        why: reading.cause.as_ref().map(|cause| Why {
            pieces: pieces(&describe(&record.job_id, cause, now, HEARTBEAT_KEPT)),
            needs_action: cause.needs_action(),
        }),
        notes: notes(record),
        warnings: record
            .warnings
            .iter()
            .map(|warning| escape(warning))
            .collect(),
        facts: facts(reading, now),
        labels: labels(record),
        timeline: timeline(record, &reading.changes, now),
        attempts: attempt_table(record, now),
        bar: bar(record, now),
        resources: resources(record),
        artifacts: artifacts(record),
        progress: progress(record),
        result: shown_json(reading.result.as_deref()),
        checkpoint: shown_json(record.checkpoint.as_ref().map(|value| value.get())),
    }
}

fn shown_json(json: Option<&str>) -> String {
    json.map(|json| excerpt(&escape_json(json), VALUE_CHARS_MAX))
        .unwrap_or_default()
}

/// Notes in addition to the state.
fn notes(record: &Record) -> Vec<String> {
    let mut notes = Vec::new();
    let has_ended = record.state().is_terminal();
    if record.cancel_requested && !has_ended {
        notes.push("A cancel was requested, so the worker stops the job.".to_owned());
    }
    if record.suspect && !has_ended {
        let text = "The job may have crashed its worker, so it runs alone. Its next crash counts.";
        notes.push(text.to_owned());
    }
    if record.leaked {
        let text = "Processes of the job outlived the first one, so naq killed them.";
        notes.push(text.to_owned());
    }
    notes
}

/// The address of the jobs that a filter selects, below the base path.
fn list_of(filter: &Filter) -> String {
    format!("/jobs?q={}", encode(&filter.to_string()))
}

fn facts(reading: &JobReading, now: Timestamp) -> Vec<Fact> {
    let record = &reading.record;
    let queue = record.queue.as_str();
    let of_queue = Filter {
        queues: vec![record.queue.clone()],
        ..Filter::default()
    };
    let mut facts = vec![Fact::leading_to("Queue", queue, list_of(&of_queue))];
    let flow = record.labels.get(FLOW_LABEL);
    if let Some(flow) = flow.and_then(|flow| JobId::new(flow).ok()) {
        facts.push(Fact::leading_to(
            "Flow",
            flow.as_str(),
            format!("/flows/{flow}"),
        ));
    }
    if record.attempt > 0 {
        facts.push(Fact::new("Attempt", attempt(record)));
    }
    if let Some(worker) = &record.worker_id {
        let name = reading.worker_name.as_deref().unwrap_or(worker);
        let of_worker = Filter {
            workers: vec![worker.clone()],
            ..Filter::default()
        };
        let path = list_of(&of_worker);
        facts.push(Fact::leading_to("Worker", escape(name), path));
    }
    if let Some(started) = record.started_at {
        let until = record.finished_at().unwrap_or(now);
        facts.push(Fact::new("Took", span(between(started, until))));
    }
    if let Some(code) = record.exit_code {
        facts.push(Fact::new("Exit code", code.to_string()));
    }
    if let Some(signal) = record.signal {
        facts.push(Fact::new("Signal", signal.to_string()));
    }
    if let Some(schedule) = &record.schedule_id {
        let path = format!("/schedules/{schedule}");
        facts.push(Fact::leading_to("Schedule", schedule.as_str(), path));
    }
    if let Some(of) = &record.rerun_of {
        facts.push(Fact::leading_to(
            "Rerun of",
            of.as_str(),
            format!("/jobs/{of}"),
        ));
    }
    facts
}

/// The number of the attempt, and how many were interrupted.
fn attempt(record: &Record) -> String {
    let interrupted: Vec<String> = [
        (record.crashes, "crash", "crashes"),
        (
            record.shared_crashes,
            "crash that others may have caused",
            "crashes that others may have caused",
        ),
        (record.lost_leases, "outage of NATS", "outages of NATS"),
    ]
    .into_iter()
    .filter_map(|(number, one, several)| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        number => Some(format!("{number} {several}")),
    })
    .collect();
    match interrupted.as_slice() {
        [] => record.attempt.to_string(),
        interrupted => format!("{} ({})", record.attempt, interrupted.join(", ")),
    }
}

fn labels(record: &Record) -> Vec<Fact> {
    let labels = record.labels.iter().map(|(key, value)| {
        let with_label = Filter {
            labels: vec![LabelFilter {
                key: key.clone(),
                value: Some(value.clone()),
            }],
            ..Filter::default()
        };
        let label = escape(&format!("{key}={value}"));
        Fact::leading_to("", label, list_of(&with_label))
    });
    labels.collect()
}

/// How long the job waited and how long it ran. `None` before it has started.
fn bar(record: &Record, now: Timestamp) -> Option<Bar> {
    let started = record.started_at?;
    let until = record.finished_at().unwrap_or(now);
    let waited = between(record.enqueue_time, started);
    let ran = between(started, until);
    let total = (waited + ran).as_millis().max(1);
    let share = |part: Duration| u64::try_from(part.as_millis() * 1_000 / total).unwrap_or(0);
    let wait = share(waited);
    let before = match record.attempt {
        0 | 1 => "waited",
        _ => "waited and tried for",
    };
    Some(Bar {
        wait,
        run: 1_000 - wait,
        class: class_of(record.state()),
        text: format!("{before} {}, ran {}", span(waited), span(ran)),
    })
}

fn resources(record: &Record) -> Vec<Fact> {
    let Some(usage) = &record.usage else {
        return Vec::new();
    };
    let time = |ms| span(Duration::from_millis(ms));
    vec![
        Fact::new("Wall time", time(usage.wall_ms)),
        Fact::new("CPU, user", time(usage.cpu_user_ms)),
        Fact::new("CPU, system", time(usage.cpu_system_ms)),
        Fact::new("Peak memory of a process", bytes(usage.max_rss_bytes)),
    ]
}

fn artifacts(record: &Record) -> Vec<ArtifactRow> {
    let job = &record.job_id;
    let artifacts = record.artifacts.iter();
    artifacts
        .map(|artifact| ArtifactRow {
            name: escape(&artifact.name),
            size: bytes(artifact.bytes),
            path: format!("/api/jobs/{job}/artifacts/{}", encode(&artifact.name)),
        })
        .collect()
}

fn progress(record: &Record) -> Option<Progress> {
    let progress = record.progress.as_ref()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is from 0 to 100"
    )]
    let percent = progress
        .percent
        .filter(|percent| percent.is_finite())
        .map(|percent| percent.clamp(0.0, 100.0).round() as u64);
    let message = progress.message.as_deref().unwrap_or_default();
    Some(Progress {
        has_percent: percent.is_some(),
        percent: percent.unwrap_or_default(),
        message: excerpt(&escape(message), 500),
    })
}

#[cfg(test)]
mod tests {
    use super::super::job_timeline::tests::{at, record};
    use super::*;
    use crate::web::api::parameters::Query;
    use naq_protocol::{Lease, Outcome, Phase, QueueName};

    #[test]
    fn links_to_lists_are_filters_whatever_they_contain() {
        let mut record = record(Phase::Queued);
        record.worker_id = Some("a\"b\\".to_owned());
        let value = "x \"y\" \\".to_owned();
        record.labels.insert("team".to_owned(), value.clone());
        let reading = JobReading {
            record,
            cause: None,
            result: None,
            changes: Vec::new(),
            worker_name: None,
        };
        let view = job_view(&reading, Right::View, at(100));
        let links = view.facts.iter().chain(&view.labels);
        let filters: Vec<Filter> = links
            .filter(|fact| !fact.path.is_empty())
            .map(|fact| {
                let query =
                    axum::extract::RawQuery(fact.path.strip_prefix("/jobs?").map(str::to_owned));
                let query = Query::parse(query, &["q"]).unwrap();
                query.one("q").unwrap().unwrap().parse().unwrap()
            })
            .collect();
        assert_eq!(filters[0].queues, [QueueName::new("build").unwrap()]);
        assert_eq!(filters[1].workers, ["a\"b\\"]);
        assert_eq!(filters[2].labels[0].value, Some(value));
    }

    #[test]
    fn a_bar_shows_waiting_and_running() {
        let ended = record(Phase::Finished {
            outcome: Outcome::Succeeded,
            finished_at: at(120),
        });
        let bar = bar(&ended, at(500)).unwrap();
        assert_eq!((bar.wait, bar.run, bar.class), (250, 750, "ok"));
        assert_eq!(bar.text, "waited 30.0s, ran 1m 30s");
    }

    #[test]
    fn buttons_need_the_right_and_a_state_that_allows_them() {
        let lease = Lease {
            worker_id: "w".to_owned(),
            sequence: 1,
            delivery: 1,
            alone: false,
            claimed_ahead: false,
            unknown: naq_protocol::UnknownFields::default(),
        };
        let running = Phase::Running {
            lease,
            started_at: at(30),
        };
        let ended = Phase::Finished {
            outcome: Outcome::Succeeded,
            finished_at: at(90),
        };
        for (phase, right, expected) in [
            (&running, Right::View, (false, false)),
            (&running, Right::Operate, (true, false)),
            (&ended, Right::View, (false, false)),
            (&ended, Right::Submit, (false, true)),
        ] {
            let reading = JobReading {
                record: record(phase.clone()),
                cause: None,
                result: None,
                changes: Vec::new(),
                worker_name: None,
            };
            let view = job_view(&reading, right, at(100));
            assert_eq!((view.can_cancel, view.can_retry), expected);
        }
    }
}
