//! Jobs that print much, compared with jobs that print nothing, each against its limit: how fast this
//! machine starts the same program and reads its output through a pipe.

use std::time::Duration;

use super::super::jobs;
use super::super::own_server::OwnServer;
use super::super::process::Bench;
use super::super::program::JobProgram;
use super::super::spawn_limit::SpawnLimit;
use super::super::throughput::Throughput;
use super::super::{Args, median};
use super::{Row, SLOTS, Sides, job_count};
use crate::cli::exit::Failure;
use crate::cli::render;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_protocol::units::ByteSize;

/// A line of the text that the jobs print.
const LINE: &[u8] =
    b"2026-11-30T04:05:06Z INFO order 4711 of customer 0815 is on its way to Erfurt\n";

/// A side, with the limit of its program in processes a second.
type Limited = (Throughput, f64);

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    size: ByteSize,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "output", SyncInterval::EverySecond).await?;
    let measured = compare(&own.bench, size).await;
    let (with, without) = own.end(measured).await?;
    let what = format!("{} of output a job : none", render::bytes(size.0));
    let of_limit = |side: &[Limited]| {
        median(
            side.iter()
                .map(|(jobs, limit)| jobs.per_s / limit)
                .collect(),
        )
    };
    let limit = |side: &[Limited]| median(side.iter().map(|(_, limit)| *limit).collect());
    let against_limits = Row::new(
        format!("{what}, against their limits"),
        "of the limit",
        of_limit(&with),
        of_limit(&without),
    );
    let limits = Row::new(
        format!("{what}, without naq"),
        "processes/s",
        limit(&with),
        limit(&without),
    );
    let jobs = |side: Vec<Limited>| side.into_iter().map(|(jobs, _)| jobs).collect();
    let sides = Sides {
        with: jobs(with),
        without: jobs(without),
    };
    Ok(vec![against_limits, sides.row(what), limits])
}

async fn compare(bench: &Bench, size: ByteSize) -> Result<(Vec<Limited>, Vec<Limited>), Failure> {
    let length = usize::try_from(size.0).unwrap_or(usize::MAX);
    let mut text = LINE.repeat(length / LINE.len() + 1);
    text.truncate(length);
    let file = bench.file("output.txt", &text)?;
    let printing = JobProgram {
        name: "cat".to_owned(),
        argv: vec!["/bin/cat".to_owned(), file],
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        without.push(against_limit(bench, &JobProgram::usual()).await?);
        with.push(against_limit(bench, &printing).await?);
    }
    Ok((with, without))
}

async fn against_limit(bench: &Bench, program: &JobProgram) -> Result<Limited, Failure> {
    let limit = SpawnLimit::measure(bench, SLOTS, program, Duration::ZERO).await?;
    let jobs = jobs::run_jobs(bench, SLOTS, job_count(bench), program).await?;
    Ok((jobs, limit.per_s))
}
