//! A search for failed jobs among many records of which none matches, compared with one without records.

use std::time::Instant;

use super::super::own_server::OwnServer;
use super::super::process::Bench;
use super::super::records::{Failures, store_records};
use super::super::{Args, median};
use super::Row;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_runner::Termination;

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
