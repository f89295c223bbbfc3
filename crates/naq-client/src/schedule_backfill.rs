//! Backfills: the runs that a schedule would have had in a range of the past.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Client, ClientError, ErrorKind};
use naq_core::{BackfillOrder, BackfillRange, CronCache, prepare_schedule};
use naq_jetstream::NewJob;
use naq_protocol::{JobId, QueueName, ScheduleId, TickEnvelope, Timestamp, compact};

/// How many jobs are looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;

/// A run of a backfill.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackfillRun {
    /// The tick.
    pub tick: Timestamp,
    /// The job, under the id that the scheduler gives to the job of this tick.
    pub job_id: JobId,
    /// Whether the job existed before: the tick has run, or waits to run.
    pub existed: bool,
}

/// What a backfill has enqueued, or would enqueue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backfill {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The time zone of the schedule. `None` means UTC.
    pub tz: Option<String>,
    /// The queue of the jobs.
    pub queue: QueueName,
    /// The value of the label `backfill` of its jobs.
    pub label: String,
    /// Its runs, in the order in which they are enqueued.
    pub runs: Vec<BackfillRun>,
    /// How many more ticks the range has.
    pub more: u64,
    /// `more` is a lower bound.
    pub more_is_minimum: bool,
}

impl Backfill {
    /// How many jobs did not exist before.
    #[must_use]
    pub fn new_jobs(&self) -> usize {
        self.runs.iter().filter(|run| !run.existed).count()
    }

    /// The part of its range that a further backfill covers. `None` if the range has no more ticks.
    #[must_use]
    pub fn rest(&self, range: &BackfillRange) -> Option<BackfillRange> {
        let last = self.runs.last().filter(|_| self.more > 0)?;
        Some(match range.order {
            BackfillOrder::Oldest => BackfillRange {
                from: Timestamp::from_unix_ms(last.tick.unix_ms() + 1)?,
                ..*range
            },
            BackfillOrder::Newest => BackfillRange {
                to: last.tick,
                ..*range
            },
        })
    }
}

impl Client {
    /// Enqueues the runs that a schedule would have had in a range of the past. Its jobs have the ids of their
    /// ticks, so that a tick whose job still exists or whose record has not expired is not run twice. It works for
    /// paused and ended schedules, and without a scheduler; the schedule does not change.
    ///
    /// With `dry_run` nothing is enqueued. A backfill that fails after some of its jobs can be repeated.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchSchedule`] if the schedule does not exist, [`ClientError::InvalidBackfill`] if
    /// the range is invalid, and [`ClientError::ScheduleError`] if the schedule is.
    pub async fn backfill_schedule(
        &self,
        schedule: &ScheduleId,
        range: &BackfillRange,
        dry_run: bool,
    ) -> Result<Backfill, ClientError> {
        let now = self.now();
        range.check(now)?;
        let (stored, _) = self.broker.read_schedule(schedule).await?;
        let stored = stored.ok_or_else(|| ClientError::NoSuchSchedule(schedule.to_string()))?;
        let (plan, _) = prepare_schedule(&stored, &mut CronCache::default())?;
        let label = compact(now);
        let envelope = TickEnvelope::for_backfill(&stored, &label)?;
        let found = plan.backfill(range);
        let runs: Vec<BackfillRun> = stream::iter(found.ticks)
            .map(|tick| self.find_run(schedule, tick))
            .buffered(LOOKUPS_AT_ONCE)
            .try_collect()
            .await?;
        if !dry_run {
            let mut bulk = self.bulk();
            for run in runs.iter().filter(|run| !run.existed) {
                let payload = envelope.at(run.tick).into();
                let job = NewJob::with_id(run.job_id.clone(), stored.queue.clone(), payload);
                bulk.push(job).await?;
            }
            bulk.finish().await?;
            if let Some((job, error)) = first_failure(&mut bulk) {
                tracing::debug!(%job, "a job of a backfill was refused: {error}");
                return Err(error);
            }
        }
        Ok(Backfill {
            schedule_id: schedule.clone(),
            tz: stored.tz,
            queue: stored.queue,
            label,
            runs,
            more: found.more,
            more_is_minimum: found.more_is_minimum,
        })
    }

    /// Looks for the job of a tick, in any queue and state.
    async fn find_run(
        &self,
        schedule: &ScheduleId,
        tick: Timestamp,
    ) -> Result<BackfillRun, ClientError> {
        let job_id = JobId::for_tick(schedule, tick);
        let existed = match self.fetch_job(&job_id).await {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        Ok(BackfillRun {
            tick,
            job_id,
            existed,
        })
    }
}

/// The first job that NATS refused. A job that the scheduler enqueued under the same id meanwhile is this very
/// run, although its envelope has no label of a backfill.
fn first_failure(bulk: &mut super::BulkEnqueue) -> Option<(JobId, ClientError)> {
    std::iter::from_fn(|| bulk.take_rejected())
        .find(|(_, error)| error.kind() != ErrorKind::Conflict)
}
