//! `naq audit`

use super::exit::Failure;
use super::failed::time_before_now;
use super::json::NoteBody;
use super::render::{self, Column};
use super::session::Session;
use crate::text::audit::{origin, target, who};
use naq_client::{AuditActionFilter, AuditFilter, AuditRecord, Client};
use naq_protocol::JobId;
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List only entries that are at most this old, such as 2h
    #[arg(long, value_name = "AGE")]
    since: Option<WireDuration>,
    /// List only this action: a name such as queue.purge, or its noun or verb alone, such as purge
    #[arg(long, value_name = "ACTION")]
    action: Option<AuditActionFilter>,
    /// List only what this token of the dashboard, or this user of the operating system, has changed
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// List only changes of this job
    #[arg(long, value_name = "JOB")]
    job: Option<JobId>,
    /// Maximum number of entries
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Continue where an earlier page ended
    #[arg(long, value_name = "CURSOR", conflicts_with = "follow")]
    before: Option<u64>,
    /// Print entries as they are stored, until Ctrl-C
    #[arg(short = 'f', long, conflicts_with_all = ["since", "limit"])]
    follow: bool,
}

impl Args {
    /// Whether entries are printed until the user stops it.
    pub(super) fn is_endless(&self) -> bool {
        self.follow
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let filter = AuditFilter {
        since: args.since.map(time_before_now),
        action: args.action,
        who: args.who,
        job: args.job,
    };
    let client = session.connect().await?;
    if args.follow {
        return follow(session, &client, &filter).await;
    }
    let list = client.list_audit(&filter, args.before).await?;
    let page = list.page(args.limit as usize, usize::MAX).await?;
    if session.json {
        for record in &page.entries {
            render::print_json(record)?;
        }
    } else if page.entries.is_empty() {
        render::note("no such changes");
    } else {
        print(&page.entries)?;
    }
    if let Some(next) = page.next {
        render::note_with(NoteBody {
            message: format!("more entries follow; `--before {next}` lists them"),
            next: Some(next.to_string()),
            ..NoteBody::default()
        });
    }
    Ok(0)
}

fn print(entries: &[AuditRecord]) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    render::print_table(
        &[
            Column::new("TIME"),
            Column::new("WHO"),
            Column::new("ACTION"),
            Column::number("COUNT"),
            Column::new("FROM").optional(1),
            Column::new("ON"),
        ],
        &rows,
    )
}

fn row(record: &AuditRecord) -> Vec<String> {
    let entry = &record.entry;
    let error = match &entry.error {
        Some(error) => format!("; failed: {error}"),
        None => String::new(),
    };
    vec![
        record.time.to_string(),
        who(record),
        entry.action.to_string(),
        entry.count.to_string(),
        origin(entry),
        format!("{}{error}", target(entry)),
    ]
}

async fn follow(session: &Session, client: &Client, filter: &AuditFilter) -> Result<u8, Failure> {
    let mut entries = client.follow_audit(filter).await?;
    tracing::debug!("following");
    loop {
        let record = entries.next().await?;
        if session.json {
            render::print_json(&record)?;
            continue;
        }
        let cells: Vec<String> = row(&record)
            .iter()
            .map(|cell| render::one_line(cell))
            .collect();
        render::print_line(cells.join("  "))?;
    }
}
