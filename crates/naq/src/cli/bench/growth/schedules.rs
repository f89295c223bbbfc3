//! The memory of `naq schedule apply` with a long file, compared with a file of one line.

use std::fmt::Write;
use std::ops::Range;
use std::time::Instant;

use super::super::Args;
use super::super::own_server::OwnServer;
use super::super::process::Bench;
use super::Row;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_runner::Termination;

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    lines: u32,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "schedules", SyncInterval::EverySecond).await?;
    let measured = compare(&own.bench, lines).await;
    own.end(measured).await
}

async fn compare(bench: &Bench, lines: u32) -> Result<Vec<Row>, Failure> {
    let one = apply(bench, "one", lines..lines + 1).await?;
    let many = apply(bench, "many", 0..lines).await?;
    let again = apply(bench, "many", 0..lines).await?;
    let what = format!("naq schedule apply: {lines} lines : one");
    let row = |what: String, unit, figure: fn(&Applied) -> f64, many: &Applied| {
        Row::new(what, unit, figure(many), figure(&one))
    };
    let mib = |applied: &Applied| applied.mib;
    let seconds = |applied: &Applied| applied.seconds;
    Ok(vec![
        row(format!("{what}, memory"), "MiB", mib, &many),
        row(
            format!("{what}, memory, nothing changed"),
            "MiB",
            mib,
            &again,
        ),
        row(format!("{what}, time"), "s", seconds, &many),
        row(
            format!("{what}, time, nothing changed"),
            "s",
            seconds,
            &again,
        ),
    ])
}

/// What the application of a file took.
struct Applied {
    /// Largest resident memory of the process.
    mib: f64,
    seconds: f64,
}

/// Applies a crontab with a line for each of these numbers.
async fn apply(bench: &Bench, set: &str, lines: Range<u32>) -> Result<Applied, Failure> {
    let mut crontab = String::new();
    for at in lines {
        let _ = writeln!(
            crontab,
            "{} {} * * * /usr/local/bin/report --customer {at}",
            at % 60,
            at / 60 % 24
        );
    }
    let file = bench.file(&format!("{set}.crontab"), crontab.as_bytes())?;
    let begun = Instant::now();
    let command = [
        "schedule", "apply", "--format", "crontab", "--tz", "UTC", "--set", set, &file,
    ];
    let ended = bench.spawn_naq(&command).wait().await;
    if ended.end != Termination::Exited(0) {
        return Err(Failure::general(format!(
            "naq schedule apply failed: {}",
            String::from_utf8_lossy(&ended.stderr.head).trim()
        )));
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let mib = ended.usage.max_rss_bytes as f64 / f64::from(1 << 20);
    Ok(Applied {
        mib,
        seconds: begun.elapsed().as_secs_f64(),
    })
}
