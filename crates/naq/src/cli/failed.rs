//! `naq failed`

mod groups;

use std::io::{IsTerminal, Write};

use base64::Engine;
use clap::Subcommand;
use serde_json::Value;

use super::changes::Changes;
use super::confirm::confirm;
use super::exit::Failure;
use super::json::{DeadLetterReport, Discarded, HeaderReport};
use super::render::{self, Column, Ending};
use super::retry::{ErrorReporter, print_ids};
use super::session::Session;
use naq_client::{AuditAction, Client, DeadLetter, DeadLetterFilter, FailureGroupId, RetryOutcome};
use naq_protocol::units::WireDuration;
use naq_protocol::{JobId, QueueName, Reason, Timestamp, command_line, escape_json};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: FailedVerb,
}

#[derive(Debug, Subcommand)]
enum FailedVerb {
    /// List failed jobs, newest first
    List {
        #[command(flatten)]
        filter_options: FailedFilterOptions,
        /// Maximum number of jobs
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
        limit: usize,
    },
    /// Group failed jobs by cause, latest failure first
    ///
    /// The cause is the reason and the text of the error without ids, numbers, paths and quoted parts.
    Groups {
        #[command(flatten)]
        filter_options: FailedFilterOptions,
    },
    /// Show a failed job: why it failed, its headers and its envelope
    Show {
        /// Job's id
        #[arg(value_name = "JOB")]
        id: String,
        /// Print only the envelope's bytes
        #[arg(long)]
        envelope: bool,
    },
    /// Run failed jobs again, as new jobs
    Retry {
        #[command(flatten)]
        selection: Selection,
        /// Do not print the new ids
        #[arg(long)]
        quiet: bool,
    },
    /// Discard failed jobs
    ///
    /// Deletes their dead letters; their records stay until they expire.
    Discard {
        #[command(flatten)]
        selection: Selection,
        /// Do not ask for confirmation
        #[arg(short = 'y', long)]
        yes: bool,
    },
}

/// Filters of failed jobs.
#[derive(Debug, Default, clap::Args)]
struct FailedFilterOptions {
    /// Select jobs of this queue
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Select jobs that failed for this reason: exit, signal, timeout, oom, cpu_time, file_size,
    /// spawn, crashed, lost, output, unstorable, dependency …
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Select jobs of this group, by its id in `naq failed groups`
    #[arg(long, value_name = "GROUP")]
    group: Option<FailureGroupId>,
    /// Select jobs that failed at least this long ago, such as 24h
    #[arg(long, value_name = "AGE")]
    older_than: Option<WireDuration>,
    /// Select jobs that failed at most this long ago, such as 1h
    #[arg(long, value_name = "AGE")]
    newer_than: Option<WireDuration>,
}

impl FailedFilterOptions {
    fn is_empty(&self) -> bool {
        self.queue.is_none()
            && self.reason.is_none()
            && self.group.is_none()
            && self.older_than.is_none()
            && self.newer_than.is_none()
    }

    /// The filters as options of the verb; `--all` if there are none.
    fn options(&self) -> String {
        let filters = [
            ("--queue", self.queue.clone()),
            ("--reason", self.reason.clone()),
            ("--group", self.group.as_ref().map(ToString::to_string)),
            ("--older-than", self.older_than.map(|age| age.to_string())),
            ("--newer-than", self.newer_than.map(|age| age.to_string())),
        ];
        let given = filters
            .iter()
            .filter_map(|(option, value)| Some([*option, value.as_deref()?]));
        match self.is_empty() {
            true => "--all".to_owned(),
            false => command_line(given.flatten()),
        }
    }

    fn filter(&self) -> Result<DeadLetterFilter, Failure> {
        Ok(DeadLetterFilter {
            queue: self.queue.as_ref().map(QueueName::new).transpose()?,
            reason: self.reason.as_deref().map(Reason::from_name),
            group: self.group.clone(),
            until: self.older_than.map(time_before_now),
            since: self.newer_than.map(time_before_now),
            ..DeadLetterFilter::default()
        })
    }
}

/// The moment that was so long ago.
pub(super) fn time_before_now(age: WireDuration) -> Timestamp {
    // a duration on the wire is bounded, so this cannot overflow
    Timestamp(render::now().0 - age.0)
}

/// The failed jobs that a verb applies to.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Jobs' ids
    #[arg(value_name = "JOB")]
    ids: Vec<String>,
    #[command(flatten)]
    filter_options: FailedFilterOptions,
    /// Select every failed job
    #[arg(long)]
    all: bool,
}

enum Selected {
    Ids(Vec<JobId>),
    /// The jobs of a filter, which the options say.
    Matching(DeadLetterFilter, String),
}

impl Selection {
    fn selected(&self) -> Result<Selected, Failure> {
        let given = [
            !self.ids.is_empty(),
            !self.filter_options.is_empty(),
            self.all,
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            return Err(Failure::usage("which failed jobs is not clear").hint(
                "give their ids, or filters (--queue, --reason, --group, --older-than, --newer-than), or --all",
            ));
        }
        if self.ids.is_empty() {
            let filter = self.filter_options.filter()?;
            return Ok(Selected::Matching(filter, self.filter_options.options()));
        }
        let ids = self.ids.iter().map(JobId::new);
        Ok(Selected::Ids(ids.collect::<Result<_, _>>()?))
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    match args.verb {
        FailedVerb::List {
            filter_options,
            limit,
        } => {
            let filter = filter_options.filter()?;
            let client = session.connect().await?;
            list(session, &client, &filter, limit).await
        }
        FailedVerb::Groups { filter_options } => {
            let filter = filter_options.filter()?;
            let client = session.connect().await?;
            groups::list(session, &client, &filter).await
        }
        FailedVerb::Show { id, envelope } => {
            let job_id = JobId::new(&id)?;
            let client = session.connect().await?;
            let job = client.fetch_dead_letter(&job_id).await?;
            let bytes = client.read_dead_letter_envelope(&job).await?;
            if envelope {
                print_envelope(&bytes)?;
            } else {
                let headers = client.read_dead_letter_headers(&job).await?;
                show(session, &job, &headers, &bytes)?;
            }
            Ok(0)
        }
        FailedVerb::Retry { selection, quiet } => {
            let selected = selection.selected()?;
            let client = session.connect().await?;
            retry(session, &client, selected, quiet).await
        }
        FailedVerb::Discard { selection, yes } => {
            let selected = selection.selected()?;
            let client = session.connect().await?;
            discard(session, &client, selected, yes).await
        }
    }
}

/// Prints an envelope as its producer wrote it. A terminal gets its control characters escaped.
fn print_envelope(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    if stdout.is_terminal() {
        let text = String::from_utf8_lossy(bytes);
        stdout.write_all(escape_json(&text).as_bytes())?;
    } else {
        stdout.write_all(bytes)?;
    }
    stdout.flush()
}

async fn list(
    session: &Session,
    client: &Client,
    filter: &DeadLetterFilter,
    limit: usize,
) -> Result<u8, Failure> {
    let mut failed = client.list_dead_letters(filter).await?;
    let mut rows = Vec::new();
    let mut listed = 0;
    let now = render::now();
    while listed < limit
        && let Some(job) = failed.next().await?
    {
        listed += 1;
        if session.json {
            render::print_json(&report(&job))?;
            continue;
        }
        rows.push(vec![
            job.job_id.to_string(),
            job.queue.to_string(),
            ending(&job).to_string(),
            job.attempt.to_string(),
            format!("{} ago", render::age(job.time, now)),
            job.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if session.json {
        return Ok(0);
    }
    if rows.is_empty() {
        render::note("no failed jobs");
        return Ok(0);
    }
    let is_all = listed < limit || failed.next().await?.is_none();
    render::print_table(
        &[
            Column::new("JOB"),
            Column::new("QUEUE"),
            Column::new("STATE"),
            Column::number("ATTEMPT").optional(2),
            Column::new("FAILED").optional(1),
            Column::new("ERROR"),
        ],
        &rows,
    )?;
    if !is_all {
        render::note(format_args!(
            "these are the newest {limit}; --limit shows more"
        ));
    }
    Ok(0)
}

fn ending(job: &DeadLetter) -> Ending {
    Ending {
        state: job.state,
        reason: job.reason,
        exit_code: job.exit_code,
        signal: job.signal,
    }
}

/// The dead letter without its headers and its envelope.
fn report(job: &DeadLetter) -> DeadLetterReport<'_> {
    DeadLetterReport {
        job_id: &job.job_id,
        queue: &job.queue,
        state: job.state,
        reason: job.reason,
        exit_code: job.exit_code,
        signal: job.signal,
        error: job.error.as_deref(),
        attempt: job.attempt,
        finished_at: job.time,
        headers: None,
        envelope: None,
        envelope_base64: None,
    }
}

fn show(
    session: &Session,
    job: &DeadLetter,
    headers: &[(String, String)],
    envelope: &[u8],
) -> std::io::Result<()> {
    if session.json {
        let headers = headers
            .iter()
            .map(|(name, value)| HeaderReport { name, value });
        // parsed and not copied as it is, since it may have several lines
        let parsed: Option<Value> = serde_json::from_slice(envelope).ok();
        let base64 = &base64::engine::general_purpose::STANDARD;
        return render::print_json(&DeadLetterReport {
            headers: Some(headers.collect()),
            envelope_base64: parsed.is_none().then(|| base64.encode(envelope)),
            envelope: parsed,
            ..report(job)
        });
    }
    let row = |name: &str, value: &str| render::print_field(name, render::escape(value));
    let age = render::age(job.time, render::now());
    row("job", job.job_id.as_str())?;
    row("queue", job.queue.as_str())?;
    row("state", &ending(job).to_string())?;
    row("error", job.error.as_deref().unwrap_or("-"))?;
    row("attempt", &job.attempt.to_string())?;
    row("failed", &format!("{} ({age} ago)", job.time))?;
    for (name, value) in headers {
        row("header", &format!("{name}: {value}"))?;
    }
    row("envelope", &render::bytes(envelope.len() as u64))?;
    for line in String::from_utf8_lossy(envelope).lines() {
        render::print_line(format_args!("  {}", render::escape(line)))?;
    }
    Ok(())
}

async fn retry(
    session: &Session,
    client: &Client,
    selected: Selected,
    quiet: bool,
) -> Result<u8, Failure> {
    match selected {
        Selected::Ids(ids) => retry_named(session, client, &ids, quiet).await,
        Selected::Matching(filter, options) => {
            let mut changes = Changes::selected_by(AuditAction::FailedRetry, options);
            let done = retry_matching(session, client, &filter, quiet, &mut changes).await;
            changes.record(client, &done).await;
            done
        }
    }
}

async fn retry_named(
    session: &Session,
    client: &Client,
    ids: &[JobId],
    quiet: bool,
) -> Result<u8, Failure> {
    let mut errors = ErrorReporter::default();
    let mut changes = Changes::new(AuditAction::FailedRetry);
    let mut printed = Ok(());
    for id in ids {
        let retried = match client.fetch_dead_letter(id).await {
            Ok(_) => client.retry(id).await,
            Err(error) => Err(error),
        };
        match retried {
            Ok(job_id) => {
                changes.add(id);
                if !quiet && printed.is_ok() {
                    printed = print_ids(session, &job_id, id);
                }
            }
            Err(error) => errors.add(error),
        }
        session.progress.advance();
    }
    let done = errors.finish();
    changes.record(client, &done).await;
    printed?;
    done
}

async fn retry_matching(
    session: &Session,
    client: &Client,
    filter: &DeadLetterFilter,
    quiet: bool,
    changes: &mut Changes,
) -> Result<u8, Failure> {
    let mut errors = ErrorReporter::default();
    let (mut enqueued, mut outdated, mut open) = (0_u64, 0_u64, 0_u64);
    let mut printed = Ok(());
    client
        .retry_dead_letters(filter, |retried| {
            session.progress.advance();
            match retried {
                RetryOutcome::Enqueued { job_id, rerun_of } => {
                    enqueued += 1;
                    changes.add_count(1);
                    if !quiet && printed.is_ok() {
                        printed = print_ids(session, &job_id, &rerun_of);
                    }
                }
                RetryOutcome::Outdated(_) => outdated += 1,
                RetryOutcome::NotEnded(_) => open += 1,
                RetryOutcome::Refused(_, error) => errors.add(error),
            }
        })
        .await?;
    printed?;
    let mut summary = format!("{} enqueued again", render::count(enqueued, "failed job"));
    if outdated > 0 {
        summary.push_str(&format!(", {outdated} skipped because of a later outcome"));
    }
    if open > 0 {
        summary.push_str(&format!(", {open} skipped because the job has not ended"));
    }
    render::note(summary);
    errors.finish()
}

async fn discard(
    session: &Session,
    client: &Client,
    selected: Selected,
    yes: bool,
) -> Result<u8, Failure> {
    let discarded = match selected {
        Selected::Ids(ids) => discard_named(session, client, &ids, yes).await?,
        Selected::Matching(mut filter, options) => {
            if !yes {
                let count = client.count_dead_letters(&filter).await?;
                // jobs that fail while the question is open are not part of it
                filter.up_to = Some(count.up_to);
                let jobs = render::count(count.jobs, "failed job");
                confirm(yes, &format!("discard {jobs}"))?;
                session.progress.advance();
            }
            let discarded = client.discard_dead_letters(&filter).await;
            let done = discarded.map_err(Failure::from);
            let mut changes = Changes::selected_by(AuditAction::FailedDiscard, options);
            match &done {
                Ok(discarded) => changes.add_count(*discarded),
                Err(_) => changes.add_unknown(),
            }
            changes.record(client, &done).await;
            done?
        }
    };
    if session.json {
        render::print_json(&Discarded { discarded })?;
    } else {
        let jobs = render::count(discarded, "failed job");
        render::print_line(format_args!("{jobs} discarded"))?;
    }
    Ok(0)
}

/// Discards these failed jobs. Returns how many still existed.
async fn discard_named(
    session: &Session,
    client: &Client,
    ids: &[JobId],
    yes: bool,
) -> Result<u64, Failure> {
    let mut jobs = Vec::new();
    for id in ids {
        jobs.push(client.fetch_dead_letter(id).await?);
        session.progress.advance();
    }
    confirm(
        yes,
        &format!("discard {}", render::count(jobs.len() as u64, "failed job")),
    )?;
    let mut changes = Changes::new(AuditAction::FailedDiscard);
    let done: Result<u64, Failure> = async {
        let mut discarded = 0;
        for job in &jobs {
            if client.discard_dead_letter(job).await? {
                discarded += 1;
                changes.add(&job.job_id);
            }
            session.progress.advance();
        }
        Ok(discarded)
    }
    .await;
    changes.record(client, &done).await;
    done
}
