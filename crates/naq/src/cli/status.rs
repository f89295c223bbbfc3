//! `naq status`

mod tree;

use std::time::Duration;

use super::exit::Failure;
use super::job_socket::ObservedJob;
use super::remarks::leaked;
use super::render::{self, Ending};
use super::session::Session;
use super::waiting::describe;
use naq_client::WaitCause;
use naq_protocol::{
    BlockedOn, CapturedOutput, DependencyCondition, Envelope, FailedAttempt, JobId, Reason, Record,
    State, Timestamp,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Job's id; with --tree also a flow's name
    #[arg(value_name = "JOB")]
    id: String,
    /// Show the whole flow, or the jobs that this one depends on and those that wait for it
    #[arg(long)]
    tree: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let job_id = JobId::new(&args.id)?;
    let client = session.job_reader().await?;
    if args.tree {
        return tree::show(session, client.nats("--tree")?, &job_id).await;
    }
    let ObservedJob { mut record, cause } = client.observer().look_at(&job_id).await?;
    // a user may be allowed to read records, but neither queues nor heartbeats
    let cause = cause.unwrap_or_default();
    let unseen = session.settings().worker_ttl;
    let describe = |cause| describe(&job_id, cause, render::now(), unseen);
    if session.json {
        // A cause that needs no action is visible in the record's fields.
        let warning = cause.as_ref().filter(|cause| cause.needs_action());
        record.warnings.extend(warning.map(describe));
        render::print_json(&record)?;
    } else {
        let shown = cause.as_ref().filter(|cause| !is_shown(cause));
        print(&record, shown.map(describe))?;
    }
    Ok(0)
}

/// Whether the fields of the record show what the job waits for.
fn is_shown(cause: &WaitCause) -> bool {
    matches!(
        cause,
        WaitCause::NotDue { .. }
            | WaitCause::RetryDue { .. }
            | WaitCause::Dependencies { .. }
            | WaitCause::ConcurrencyKey { .. }
    )
}

fn print(record: &Record, waiting: Option<String>) -> std::io::Result<()> {
    let now = render::now();
    row("job", record.job_id.to_string())?;
    row("queue", record.queue.to_string())?;
    row("state", render::outcome(Ending::of(record)))?;
    if let Some(waiting) = waiting {
        row("waiting", waiting)?;
    }
    print_envelope(record)?;
    print_attempt(record)?;
    print_times(record, now)?;
    if let Some(waits) = record.waits() {
        print_waits(waits, now)?;
    }
    print_outcome(record)?;
    for (key, value) in &record.labels {
        row("label", render::escape(&format!("{key}={value}")))?;
    }
    if let Some(error) = &record.error {
        row("error", render::escape(error))?;
    }
    if let Some(leaked) = leaked(record) {
        row("warning", leaked.to_owned())?;
    }
    for warning in &record.warnings {
        row("warning", render::escape(warning))?;
    }
    Ok(())
}

/// What the job runs, and the labels that it requires of a worker.
fn print_envelope(record: &Record) -> std::io::Result<()> {
    let envelope = record.envelope.as_deref();
    let Some(Ok(envelope)) = envelope.map(|text| Envelope::parse(text.get().as_bytes())) else {
        return Ok(());
    };
    let command = render::escape(&envelope.summary());
    row("command", render::excerpt(&command, 120))?;
    for (key, value) in &envelope.requires {
        row("requires", render::escape(&format!("{key}={value}")))?;
    }
    Ok(())
}

/// Which attempt it is, and who runs it.
fn print_attempt(record: &Record) -> std::io::Result<()> {
    if record.attempt > 0 {
        let crashes = match record.crashes {
            0 => String::new(),
            1 => ", one ended in a crash".to_owned(),
            crashes => format!(", {crashes} ended in crashes"),
        };
        let shared_crashes = match record.shared_crashes {
            0 => String::new(),
            1 => ", one ended in a crash that other jobs may have caused".to_owned(),
            shared => format!(", {shared} ended in crashes that other jobs may have caused"),
        };
        let lost_leases = match record.lost_leases {
            0 => String::new(),
            1 => ", one was stopped by an outage of NATS".to_owned(),
            lost => format!(", {lost} were stopped by outages of NATS"),
        };
        row(
            "attempt",
            format!("{}{crashes}{shared_crashes}{lost_leases}", record.attempt),
        )?;
        for one in &record.failed_attempts {
            row("failed", failed_attempt(one))?;
        }
        for one in &record.interruptions {
            let what = if one.crashed { "crash" } else { "lost lease" };
            let counted = if one.shared { ", not counted" } else { "" };
            let worker = render::escape(&one.worker_id);
            row(
                "interrupted",
                format!("{} by a {what} of {worker}{counted}", one.at),
            )?;
        }
    }
    if record.suspect {
        row("suspect", suspicion(record).to_owned())?;
    }
    if let Some(worker) = &record.worker_id {
        row("worker", render::escape(worker))?;
    }
    if let Some(schedule) = &record.schedule_id {
        row("schedule", schedule.to_string())?;
    }
    Ok(())
}

/// When and how an attempt failed that was followed by a retry.
fn failed_attempt(one: &FailedAttempt) -> String {
    let why = match (one.reason, one.exit_code, one.signal) {
        (Reason::Exit, Some(code), _) => format!("exit {code}"),
        (Reason::Signal, _, Some(signal)) => format!("signal {signal}"),
        (reason, ..) => reason.to_string(),
    };
    let error = match &one.error {
        Some(error) => format!(": {}", render::excerpt(&render::escape(error), 120)),
        None => String::new(),
    };
    format!("attempt {} at {} ({why}){error}", one.attempt, one.ended_at)
}

fn print_times(record: &Record, now: Timestamp) -> std::io::Result<()> {
    let times = [
        ("scheduled for", record.scheduled_for),
        ("enqueued", Some(record.enqueue_time)),
        ("started", record.started_at),
        ("finished", record.finished_at()),
        ("next attempt", record.next_attempt_at()),
    ];
    for (name, time) in times {
        if let Some(time) = time {
            let relative = render::relative_time(time, now);
            row(name, format!("{time} ({relative})"))?;
        }
    }
    Ok(())
}

/// How the last attempt ended, what it used and what it left.
fn print_outcome(record: &Record) -> std::io::Result<()> {
    if let Some(code) = record.exit_code {
        row("exit code", code.to_string())?;
    }
    if let Some(signal) = record.signal {
        row("signal", signal.to_string())?;
    }
    if let Some(usage) = &record.usage {
        row(
            "usage",
            format!(
                "{} wall, {} user, {} system, {}",
                render::span(Duration::from_millis(usage.wall_ms)),
                render::span(Duration::from_millis(usage.cpu_user_ms)),
                render::span(Duration::from_millis(usage.cpu_system_ms)),
                render::bytes(usage.max_rss_bytes)
            ),
        )?;
    }
    for (name, output) in [("stdout", &record.stdout), ("stderr", &record.stderr)] {
        if let Some(output) = output {
            row(name, describe_output(output))?;
        }
    }
    if !record.artifacts.is_empty() {
        let bytes = record.artifacts.iter().map(|file| file.bytes).sum();
        let files = crate::text::count(record.artifacts.len() as u64, "file");
        let job = &record.job_id;
        row(
            "artifacts",
            format!("{files}, {} (naq artifacts {job})", render::bytes(bytes)),
        )?;
    }
    if let Some(progress) = &record.progress {
        let percent = progress
            .percent
            .map(|percent| format!("{percent}% "))
            .unwrap_or_default();
        let message = progress.message.as_deref().unwrap_or_default();
        row("progress", format!("{percent}{}", render::escape(message)))?;
    }
    if record.result_object.is_some() {
        row("result", "in the object store".to_owned())?;
    }
    if let Some(result) = &record.result {
        row(
            "result",
            render::excerpt(&render::escape(result.get()), 200),
        )?;
    }
    Ok(())
}

/// What it means for the job now that it is a suspect.
fn suspicion(record: &Record) -> &'static str {
    if record.state() == State::Running {
        "it may have crashed its worker, so it runs alone; its next crash is counted"
    } else {
        "it may have crashed its worker, so it waits for a worker that runs no other suspect"
    }
}

fn row(name: &str, value: String) -> std::io::Result<()> {
    render::print_field(name, value)
}

/// What a blocked job waits for.
fn print_waits(waits: &BlockedOn, now: Timestamp) -> std::io::Result<()> {
    const DEPENDENCIES_SHOWN_MAX: usize = 10;
    for dependency in waits.dependencies.iter().take(DEPENDENCIES_SHOWN_MAX) {
        let on = match dependency.on {
            DependencyCondition::Success => String::new(),
            on => format!(" ({on})"),
        };
        row("waits for", format!("{}{on}", dependency.job))?;
    }
    let more = waits
        .dependencies
        .len()
        .saturating_sub(DEPENDENCIES_SHOWN_MAX);
    if more > 0 {
        row("waits for", format!("{more} more"))?;
    }
    if let Some(key) = &waits.concurrency_key {
        let key = render::excerpt(&render::escape(key), 80);
        row("waits for", format!("a slot of the concurrency key {key}"))?;
    }
    row("blocked for", render::age(waits.since, now))
}

fn describe_output(output: &CapturedOutput) -> String {
    let mut text = render::bytes(output.bytes);
    if output.truncated {
        let kept = [output.head_bytes(), output.tail_bytes()].map(|part| part.len() as u64);
        let missing = output
            .missing_bytes
            .unwrap_or_else(|| output.bytes.saturating_sub(kept.iter().sum()));
        text.push_str(&format!(
            ", of which {} in the middle were not kept",
            render::bytes(missing)
        ));
    }
    if output.base64.is_some() {
        text.push_str(", not text");
    }
    if output.object.is_some() {
        text.push_str(", in the object store");
    }
    text
}
