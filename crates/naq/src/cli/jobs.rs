//! `naq jobs`

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::events;
use super::exit::{FREE_ROOM, Failure};
use super::failed::time_before_now;
use super::json::NoteBody;
use super::render::{self, Column, Ending};
use super::session::Session;
use naq_client::{Client, JobCursor, JobFilter, JobPage, describe_unstored};
use naq_protocol::units::WireDuration;
use naq_protocol::{State, Timestamp};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter_options: events::JobFilterOptions,
    /// List only jobs whose last change is at most this old, such as 1h
    #[arg(long, value_name = "AGE")]
    since: Option<WireDuration>,
    /// Maximum number of jobs
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Continue where an earlier page ended
    #[arg(long, value_name = "CURSOR", conflicts_with = "watch")]
    before: Option<JobCursor>,
    /// Keep the list up to date until Ctrl-C; if standard output is no terminal, print each change
    #[arg(long)]
    watch: bool,
}

impl Args {
    /// Whether the list is kept up to date until the user stops it.
    pub(super) fn is_endless(&self) -> bool {
        self.watch
    }
}

/// The shortest time between two drawings of the list.
const REDRAW_INTERVAL: Duration = Duration::from_millis(300);

/// How often the list is drawn without an event: ages grow by themselves.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// How often the list is read again without an event: purging a job and the expiry of its record
/// cause none.
const REREAD_INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let filter = args.filter_options.filter()?;
    let client = session.connect().await?;
    if args.watch {
        if session.json || !std::io::stdout().is_terminal() {
            return events::follow(session, &client, &filter).await;
        }
        return watch(&client, &filter, &args).await;
    }
    let since = args.since.map(time_before_now);
    let page = list(&client, &filter, since, args.before, args.limit as usize).await?;
    if session.json {
        for job in &page.jobs {
            render::print_json(job)?;
        }
    } else if page.jobs.is_empty() {
        render::note("no such jobs");
    } else {
        print(&page)?;
        note_unstored(&client, &page).await?;
    }
    if let Some(next) = &page.next {
        render::note_with(NoteBody {
            message: format!("more jobs follow; `--before {next}` lists them"),
            next: Some(next.to_string()),
            ..NoteBody::default()
        });
    }
    Ok(0)
}

/// Reads a page of the list, and marks the running jobs whose workers have vanished.
async fn list(
    client: &Client,
    filter: &JobFilter,
    since: Option<Timestamp>,
    before: Option<JobCursor>,
    limit: usize,
) -> Result<JobPage, Failure> {
    let mut page = client.list_jobs(filter, since, before, limit).await?;
    // A user who may not read heartbeats sees the list without these marks.
    let _ = client.mark_vanished_workers(&mut page.jobs).await;
    Ok(page)
}

fn print(page: &JobPage) -> std::io::Result<()> {
    let now = render::now();
    let rows: Vec<Vec<String>> = page
        .jobs
        .iter()
        .map(|job| {
            let record = &job.record;
            vec![
                record.job_id.to_string(),
                record.queue.to_string(),
                match job.worker_vanished {
                    true => format!("{} (worker vanished)", record.state),
                    false => Ending::of_summary(record).to_string(),
                },
                match record.attempt {
                    0 => "-".to_owned(),
                    attempt => attempt.to_string(),
                },
                render::age(job.enqueue_time, now),
                render::age(job.changed_at, now),
                job.command.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    render::print_table(
        &[
            Column::new("JOB"),
            Column::new("QUEUE"),
            Column::new("STATE"),
            Column::number("ATTEMPT").optional(2),
            Column::new("AGE").optional(1),
            Column::new("CHANGED").optional(3),
            Column::new("COMMAND"),
        ],
        &rows,
    )
}

/// Prints a note on each worker that cannot record the outcomes of jobs that the list shows as running.
async fn note_unstored(client: &Client, page: &JobPage) -> Result<(), Failure> {
    let mut jobs = page.jobs.iter();
    if !jobs.any(|job| job.record.state == State::Running) {
        return Ok(());
    }
    for reason in client
        .list_workers()
        .await?
        .iter()
        .filter_map(describe_unstored)
    {
        render::note(format!("{reason}; {FREE_ROOM}"));
    }
    Ok(())
}

/// Draws the list again after every change.
async fn watch(client: &Client, filter: &JobFilter, args: &Args) -> Result<u8, Failure> {
    // watched before the first read, so that a change in between is seen
    let mut events = client.events(&JobFilter::default()).await?;
    loop {
        let since = args.since.map(time_before_now);
        let limit = args.limit as usize;
        let mut page = list(client, filter, since, None, limit).await?;
        let listed = Instant::now();
        loop {
            if let Some(since) = args.since.map(time_before_now) {
                page.jobs.retain(|job| job.changed_at >= since);
            }
            // the cursor goes home and the screen is cleared in the same write as the table
            write!(anstream::stdout(), "\x1b[H\x1b[2J")?;
            print(&page)?;
            std::io::stdout().flush()?;
            if let Ok(event) = timeout(AGE_INTERVAL, events.next()).await {
                event?;
                break;
            }
            if listed.elapsed() > REREAD_INTERVAL {
                break;
            }
        }
        // changes within the interval are drawn together
        while let Ok(event) = timeout_at(listed + REDRAW_INTERVAL, events.next()).await {
            event?;
        }
    }
}
