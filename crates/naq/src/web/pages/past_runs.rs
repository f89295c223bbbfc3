//! Earlier runs of the same work, with which the page of a job compares it: those of its schedule, or the jobs that
//! it reruns.

use std::time::Duration;

use serde::Serialize;

use super::job_row::{between, class_of};
use crate::text::{bytes, span};
use naq_client::{Client, ClientError, ErrorKind};
use naq_protocol::{JobId, Record, State as JobState};

/// Number of runs that are compared, with the job itself.
const RUNS_MAX: usize = 20;

/// Number of jobs that are followed back from a rerun to the first run.
const RERUNS_MAX: usize = 10;

/// Fewest runs from which a usual value is taken.
const USUAL_MIN: usize = 3;

/// What is compared of a run that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    job_id: JobId,
    state: JobState,
    took: Option<Duration>,
    max_rss_bytes: Option<u64>,
}

impl Run {
    fn of(record: &Record) -> Run {
        let took = record.started_at.zip(record.finished_at());
        Run {
            job_id: record.job_id.clone(),
            state: record.state(),
            took: took.map(|(started, finished)| between(started, finished)),
            max_rss_bytes: record.usage.as_ref().map(|usage| usage.max_rss_bytes),
        }
    }
}

/// The variables of the part of the page.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct PastRuns {
    bars: Vec<RunBar>,
    /// What is usual, and how this job differs from it.
    summary: String,
}

/// A run as a bar. The tallest one has a height of 100.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct RunBar {
    job_id: String,
    class: &'static str,
    height: u64,
    /// Its distance from the top.
    top: u64,
    left: usize,
    text: String,
    /// Whether it is the job of the page.
    is_own: bool,
}

/// The earlier runs of an ended job, read from NATS. `None` if there are none.
///
/// # Errors
/// Returns an error if NATS does not answer.
pub(super) async fn past_runs(
    client: &Client,
    record: &Record,
) -> Result<Option<PastRuns>, ClientError> {
    if !record.state().is_terminal() || record.started_at.is_none() {
        return Ok(None);
    }
    let mut runs = of_schedule(client, record).await?;
    if runs.is_empty() {
        runs = of_reruns(client, record).await?;
    }
    runs.retain(|run| run.took.is_some());
    Ok((!runs.is_empty()).then(|| compare(&runs, &Run::of(record))))
}

/// The runs of the job's schedule up to this one, the latest last, without it.
async fn of_schedule(client: &Client, record: &Record) -> Result<Vec<Run>, ClientError> {
    let (Some(schedule), Some(tick)) = (&record.schedule_id, record.scheduled_for) else {
        return Ok(Vec::new());
    };
    let schedule = client.fetch_schedule(schedule).await?;
    let Some(schedule) = schedule.map(|summary| summary.schedule) else {
        return Ok(Vec::new());
    };
    let runs = client.fetch_runs(&schedule, RUNS_MAX).await?;
    let earlier = runs.into_iter().filter(|run| run.tick < tick);
    let ended = earlier.filter_map(|run| {
        let outcome = run.outcome.filter(|outcome| outcome.state.is_terminal())?;
        Some(Run {
            job_id: run.job_id,
            state: outcome.state,
            took: outcome.took,
            max_rss_bytes: outcome.max_rss_bytes,
        })
    });
    let mut runs: Vec<Run> = ended.collect();
    runs.reverse();
    Ok(runs)
}

/// The jobs that this one reruns, the latest last.
async fn of_reruns(client: &Client, record: &Record) -> Result<Vec<Run>, ClientError> {
    let mut runs = Vec::new();
    let mut before = record.rerun_of.clone();
    while let Some(job) = before
        && runs.len() < RERUNS_MAX
    {
        match client.fetch_job(&job).await {
            Ok(record) => {
                runs.push(Run::of(&record));
                before = record.rerun_of;
            }
            // its record has expired
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    runs.reverse();
    Ok(runs)
}

fn compare(earlier: &[Run], own: &Run) -> PastRuns {
    let took = |run: &Run| run.took.unwrap_or_default();
    let all = || earlier.iter().chain([own]);
    let longest = all().map(took).max().unwrap_or_default().as_millis().max(1);
    let bars = all().enumerate().map(|(at, run)| {
        let height = u64::try_from(took(run).as_millis() * 100 / longest).unwrap_or(100);
        let height = height.max(2);
        let memory = run.max_rss_bytes.map(|rss| format!(", {}", bytes(rss)));
        RunBar {
            job_id: run.job_id.to_string(),
            class: class_of(run.state),
            height,
            top: 100 - height,
            left: at * 10,
            text: format!(
                "{}, {}{}",
                run.state,
                span(took(run)),
                memory.unwrap_or_default()
            ),
            is_own: run.job_id == own.job_id,
        }
    });
    PastRuns {
        bars: bars.collect(),
        summary: summary(earlier, own),
    }
}

/// What is usual, in words.
fn summary(earlier: &[Run], own: &Run) -> String {
    let succeeded: Vec<&Run> = earlier
        .iter()
        .filter(|run| run.state == JobState::Succeeded)
        .collect();
    let failed = earlier.len() - succeeded.len();
    let mut parts = vec![format!(
        "{} of {} earlier runs failed",
        failed,
        earlier.len()
    )];
    let usual_time = median(succeeded.iter().filter_map(|run| run.took));
    if let (Some(usual), Some(own)) = (usual_time, own.took) {
        parts.push(format!("usually {}, this one {}", span(usual), span(own)));
    }
    let usual_memory = median(succeeded.iter().filter_map(|run| run.max_rss_bytes));
    if let (Some(usual), Some(own)) = (usual_memory, own.max_rss_bytes) {
        parts.push(format!("usually {}, this one {}", bytes(usual), bytes(own)));
    }
    parts.join(" · ")
}

/// The median of enough values.
fn median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    (values.len() >= USUAL_MIN).then(|| values[values.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(job: &str, state: JobState, seconds: u64, mebibytes: u64) -> Run {
        Run {
            job_id: JobId::new(job).unwrap(),
            state,
            took: Some(Duration::from_secs(seconds)),
            max_rss_bytes: Some(mebibytes << 20),
        }
    }

    #[test]
    fn a_run_is_compared_with_the_median_of_those_that_succeeded() {
        let earlier = [
            run("a", JobState::Succeeded, 10, 100),
            run("b", JobState::Failed, 1, 10),
            run("c", JobState::Succeeded, 12, 110),
            run("d", JobState::Succeeded, 100, 90),
        ];
        let own = run("e", JobState::Succeeded, 50, 400);
        let found = compare(&earlier, &own);
        assert_eq!(
            found.summary,
            "1 of 4 earlier runs failed · usually 12.0s, this one 50.0s · usually 100.0 MiB, this one 400.0 MiB"
        );
        let heights: Vec<u64> = found.bars.iter().map(|bar| bar.height).collect();
        assert_eq!(heights, [10, 2, 12, 100, 50]);
        assert!(found.bars[4].is_own && !found.bars[3].is_own);
        assert!(found.bars.iter().all(|bar| bar.top + bar.height == 100));
        // two runs are no rule
        assert_eq!(summary(&earlier[..2], &own), "1 of 2 earlier runs failed");
    }
}
