//! Jobs while many processes follow all events, compared with jobs that nobody follows.

use std::time::{Duration, Instant};

use super::super::Args;
use super::super::own_server::OwnServer;
use super::super::process::Bench;
use super::super::program::JobProgram;
use super::{Row, Sides, run_on_new_worker};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_protocol::QueueName;
use naq_runner::{JobHandle, StopReason};

/// Time limit for the followers to receive events.
const READY_TIME_MAX: Duration = Duration::from_secs(120);

pub(super) async fn measure(
    session: &Session,
    args: &Args,
    count: u32,
) -> Result<Vec<Row>, Failure> {
    let own = OwnServer::start(session, args, "followers", SyncInterval::EverySecond).await?;
    let measured = compare(&own.bench, count).await;
    let sides = own.end(measured).await?;
    Ok(vec![sides.row(format!(
        "{count} processes that follow all events : none"
    ))])
}

async fn compare(bench: &Bench, count: u32) -> Result<Sides, Failure> {
    let mut sides = Sides::default();
    for _ in 0..bench.rounds {
        sides.without.push(run_on_new_worker(bench).await?);
        let followers = Followers::start(bench, count).await?;
        sides.with.push(run_on_new_worker(bench).await?);
        followers.stop().await;
    }
    Ok(sides)
}

struct Followers(Vec<JobHandle>);

impl Followers {
    /// Starts the processes, and waits until each has printed an event.
    async fn start(bench: &Bench, count: u32) -> Result<Followers, Failure> {
        let mut files = Vec::new();
        for at in 0..count {
            files.push(bench.file(&format!("events-{at}.txt"), b"")?);
        }
        let handles = files.iter();
        let handles = handles.map(|file| bench.spawn_naq_into(file, &["events", "--follow"]));
        let followers = Followers(handles.collect());
        // no worker serves this queue
        let signals = QueueName::new(format!("{}-signals", bench.queue))?;
        let signals = bench.client.queue(signals.as_str())?;
        let begun = Instant::now();
        while !files.iter().all(|file| has_content(file)) {
            if begun.elapsed() >= READY_TIME_MAX {
                let seconds = READY_TIME_MAX.as_secs();
                return Err(Failure::general(format!(
                    "not every `naq events --follow` has printed an event within {seconds} s"
                )));
            }
            signals.enqueue(&JobProgram::usual().envelope()).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        signals.purge().await?;
        Ok(followers)
    }

    async fn stop(self) {
        for follower in &self.0 {
            follower.stop(StopReason::Cancel);
        }
        for follower in &self.0 {
            follower.wait().await;
        }
    }
}

fn has_content(file: &str) -> bool {
    std::fs::metadata(file).is_ok_and(|file| file.len() > 0)
}
