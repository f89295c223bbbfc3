//! A search for failed jobs among many records of which none matches, compared with one without records.

use std::time::{Duration, Instant};

use super::super::jobs;
use super::super::own_server::OwnServer;
use super::super::process::Bench;
use super::super::program::JobProgram;
use super::super::records::{Failures, store_records};
use super::super::{Args, median};
use super::Row;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_runner::{StopReason, Termination};

/// Time limit for a scheduler to lead and to complete the index.
const INDEX_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    count: u32,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "records", SyncInterval::EverySecond).await?;
    let measured = compare(&own.bench, count).await;
    own.end(measured).await
}

async fn compare(bench: &Bench, count: u32) -> Result<Vec<Row>, Failure> {
    let empty = format!("{}-empty", bench.queue);
    let searches: [(&str, &[&str]); 2] = [
        ("jobs --state failed", &["jobs", "--state", "failed"]),
        ("jobs, the newest 50", &["jobs"]),
    ];
    complete_index(bench).await?;
    store_records(bench, count, Failures::None).await?;
    let mut rows = Vec::new();
    for (name, search) in searches {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds {
            without.push(seconds(bench, &[search, &["--prefix", &empty]].concat()).await?);
            with.push(seconds(bench, search).await?);
        }
        rows.push(Row::new(
            format!("naq {name}: {count} records, none of a failed job : no record"),
            "s",
            median(with),
            median(without),
        ));
    }
    Ok(rows)
}

/// Lets a scheduler complete the index of unsuccessful jobs, as one does wherever naq is used. It stops then, so that
/// it does not compare the records with the index while they are searched.
async fn complete_index(bench: &Bench) -> Result<(), Failure> {
    // by this the bucket of records exists
    jobs::run_jobs(bench, 1, 1, &JobProgram::usual()).await?;
    let scheduler = bench.spawn_naq(&["scheduler"]);
    let begun = Instant::now();
    while !bench.client.broker().has_unsuccessful_index().await? {
        if begun.elapsed() >= INDEX_TIME_MAX {
            return Err(Failure::general(
                "no scheduler has completed the index of unsuccessful jobs",
            ));
        }
        // nothing is sent when it is complete
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scheduler.stop(StopReason::Cancel);
    scheduler.wait().await;
    Ok(())
}

/// How long a command takes.
async fn seconds(bench: &Bench, command: &[&str]) -> Result<f64, Failure> {
    let begun = Instant::now();
    let ended = bench.spawn_naq(command).wait().await;
    let seconds = begun.elapsed().as_secs_f64();
    match ended.end {
        Termination::Exited(0) => Ok(seconds),
        _ => Err(Failure::general(format!(
            "naq {} failed: {}",
            command.join(" "),
            String::from_utf8_lossy(&ended.stderr.head).trim()
        ))),
    }
}
