//! `naq purge`: queues' jobs, as the Python library calls it, or the results of ended jobs.

use super::changes::Changes;
use super::confirm::confirm;
use super::exit::Failure;
use super::failed::time_before_now;
use super::json::ResultsPurged;
use super::queue::purge::purge_queues;
use super::render;
use super::session::Session;
use naq_client::AuditAction;
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Queues whose jobs are removed, except for running ones
    #[arg(required_unless_present = "results", value_name = "QUEUE")]
    queues: Vec<String>,
    /// Remove the results of ended jobs instead: records, output and what else is kept of them. Works
    /// with a full store
    #[arg(long, conflicts_with = "queues")]
    results: bool,
    /// Only results of jobs that ended longer ago than this, such as 1d
    #[arg(long, value_name = "AGE", requires = "results")]
    older_than: Option<WireDuration>,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    if !args.results {
        return purge_queues(session, &args.queues, args.yes).await;
    }
    let client = session.connect().await?;
    let which = match args.older_than {
        Some(age) => format!("jobs that ended more than {age} ago"),
        None => "all jobs that have ended".to_owned(),
    };
    confirm(args.yes, &format!("remove the results of {which}"))?;
    let purged = client
        .purge_results(args.older_than.map(time_before_now))
        .await
        .map_err(Failure::from);
    let options = match args.older_than {
        Some(age) => format!("--older-than {age}"),
        None => "--results".to_owned(),
    };
    let mut changes = Changes::selected_by(AuditAction::ResultsPurge, options);
    match &purged {
        Ok(purged) => changes.add_count(purged.jobs),
        Err(_) => changes.add_unknown(),
    }
    changes.record(&client, &purged).await;
    let purged = purged?;
    if session.json {
        render::print_json(&ResultsPurged {
            action: "results_purged",
            jobs: purged.jobs,
            objects: purged.objects,
            bytes: purged.bytes,
            kept: purged.kept,
        })?;
        return Ok(0);
    }
    let objects = match purged.objects {
        0 => String::new(),
        count => format!(" and {}", render::count(count, "stored object")),
    };
    render::print_line(format_args!(
        "results of {}{objects} removed, {} freed",
        render::count(purged.jobs, "job"),
        render::bytes(purged.bytes)
    ))?;
    if purged.jobs == 0
        && let Some(age) = args.older_than
    {
        render::note(format!("no job ended more than {age} ago"));
    }
    if purged.kept > 0 {
        render::note(format!(
            "{} kept: a queue still has the job's message, or jobs that depend on it still wait",
            render::count(purged.kept, "result")
        ));
    }
    Ok(0)
}
