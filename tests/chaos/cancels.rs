//! Cancels of a run, of jobs in any state: by the client and by the command line, which is killed at
//! a failpoint between two writes.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use naq_client::CancelOutcome;
use naq_protocol::JobId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::run::Run;
use crate::harness::naq::{GuardedChild, command};

/// One of this many jobs is cancelled.
const ONE_IN: usize = 25;

/// Cancels jobs until no more are enqueued.
pub(super) fn cancel(run: &Run, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut cancels = 0;
    while !run.all_enqueued() {
        if cancels >= run.stage.writes.ended() / ONE_IN {
            run.stage.writes.wait(Duration::from_millis(200));
            continue;
        }
        cancels += 1;
        if let Some(job) = pick(run, &mut chance) {
            run.cancel_requested.lock().unwrap().insert(job.clone());
            if chance.random_bool(0.5) {
                by_library(run, &job);
            } else {
                by_command_line(run, &mut chance, &job);
            }
        }
    }
}

/// Picks one of the latest jobs, of which most have not ended; mostly one with dependents or
/// dependencies.
fn pick(run: &Run, chance: &mut StdRng) -> Option<String> {
    const LATEST: usize = 120;
    let jobs = run.jobs.lock().unwrap();
    let made = jobs.made();
    let latest = &made[made.len().saturating_sub(LATEST)..];
    for _ in 0..20 {
        let job = &latest[chance.random_range(0..latest.len())];
        let waits = job.envelope.get("depends_on").is_some()
            || job.envelope.get("concurrency_key").is_some();
        if let Some(id) = &job.job_id
            && (waits || chance.random_bool(0.2))
        {
            return Some(id.clone());
        }
    }
    None
}

fn by_library(run: &Run, job: &str) {
    let id = JobId::new(job).unwrap();
    let cancelling = run.stage.naq.client().cancel(&id);
    match run.stage.naq.handle().block_on(cancelling) {
        Ok(CancelOutcome::Cancelled(_)) => {
            run.stage.note(&format!("cancelled {job}"));
            run.cancelled.lock().unwrap().insert(job.to_owned());
        }
        Ok(CancelOutcome::CancelRequested { acknowledged, .. }) => {
            run.stage.note(&format!(
                "requested to cancel {job}, acknowledged: {acknowledged}"
            ));
        }
        Ok(CancelOutcome::AlreadyEnded(record)) => {
            run.stage.note(&format!("{job} is {}", record.state()))
        }
        Err(error) => run
            .stage
            .note(&format!("{job} could not be cancelled: {error}")),
    }
}

fn by_command_line(run: &Run, chance: &mut StdRng, job: &str) {
    let mut environment = run.stage.naq.environment();
    let points = [
        "",
        "cancel.requested=return",
        "cancel.written=return",
        "cancel.released=return",
        "release.closed=return",
        "release.published=return",
        "slot.released=return",
    ];
    let point = points[chance.random_range(0..points.len())];
    environment.insert("FAILPOINTS".to_owned(), point.to_owned());
    let args = ["cancel", job].map(str::to_owned);
    let mut process = GuardedChild::spawn(&mut command(&args, &environment, run.stage.naq.home()));
    let mut said = String::new();
    let mut stderr = process.child().stderr.take().unwrap();
    let _ = stderr.read_to_string(&mut said);
    let status = process.child().wait().unwrap();
    run.stage
        .note(&format!("naq cancel {job}: {status}: {}", said.trim_end()));
    match (status.code(), status.signal()) {
        // the job does not exist yet, or no server answers
        (Some(0 | 1 | 3 | 4), _) => {}
        (None, Some(libc::SIGKILL)) => {
            run.stage
                .counts
                .cancellers_killed
                .fetch_add(1, Ordering::Relaxed);
        }
        _ => run
            .stage
            .trouble(&format!("naq cancel {job}: {status}: {said}")),
    }
}
