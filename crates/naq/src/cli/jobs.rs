//! `naq jobs`

use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::events;
use super::exit::Failure;
use super::failed::time_before_now;
use super::render;
use super::session::Session;
use naq_client::{Client, JobCursor, JobFilter, JobPage};
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter_options: events::JobFilterOptions,
    /// Jobs that changed at most so long ago
    #[arg(long, value_name = "AGE")]
    since: Option<WireDuration>,
    /// How many at the most
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Go on from where an earlier page ended
    #[arg(long, value_name = "CURSOR", conflicts_with = "watch")]
    before: Option<JobCursor>,
    /// Keep the list up to date until Ctrl-C; where the output is no terminal, print each change
    #[arg(long)]
    watch: bool,
}

/// The shortest time between two drawings of the list.
const REDRAW_INTERVAL: Duration = Duration::from_millis(300);

/// How often ages are drawn, which grow by themselves.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// How often the list is read anew also where nothing was heard of: that a job was purged or its
/// record has expired is no event.
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
    let page = client
        .list_jobs(&filter, since, args.before, args.limit as usize)
        .await?;
    if session.json {
        let next = page.next.as_ref().map(ToString::to_string);
        render::print_json(&serde_json::json!({"jobs": page.jobs, "next": next}))?;
        return Ok(0);
    }
    if page.jobs.is_empty() {
        render::note("there is no such job");
        return Ok(0);
    }
    print(&page)?;
    if let Some(next) = &page.next {
        render::note(format_args!("naq: there are more: --before {next}"));
    }
    Ok(0)
}

fn print(page: &JobPage) -> std::io::Result<()> {
    let now = render::now();
    let rows: Vec<Vec<String>> = page
        .jobs
        .iter()
        .map(|job| {
            let record = &job.record;
            let state = match record.reason {
                Some(reason) => format!("{}/{reason}", record.state),
                None => record.state.to_string(),
            };
            vec![
                record.job_id.to_string(),
                record.queue.to_string(),
                state,
                match record.attempt {
                    0 => "-".to_owned(),
                    attempt => attempt.to_string(),
                },
                render::age(job.enqueue_time, now),
                render::age(job.changed_at, now),
                render::excerpt(job.command.as_deref().unwrap_or("-"), 60),
            ]
        })
        .collect();
    render::print_table(
        &[
            "JOB", "QUEUE", "STATE", "ATTEMPT", "AGE", "CHANGED", "COMMAND",
        ],
        &rows,
    )
}

/// Draws the list anew whenever something happens.
async fn watch(client: &Client, filter: &JobFilter, args: &Args) -> Result<u8, Failure> {
    // before the first look, so that nothing is missed in between
    let mut events = client.events(&JobFilter::default()).await?;
    loop {
        let since = args.since.map(time_before_now);
        let limit = args.limit as usize;
        let mut page = client.list_jobs(filter, since, None, limit).await?;
        let listed = Instant::now();
        loop {
            if let Some(since) = args.since.map(time_before_now) {
                page.jobs.retain(|job| job.changed_at >= since);
            }
            // up and clear in one go with what follows
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
        // what comes meanwhile is drawn at once
        while let Ok(event) = timeout_at(listed + REDRAW_INTERVAL, events.next()).await {
            event?;
        }
    }
}
