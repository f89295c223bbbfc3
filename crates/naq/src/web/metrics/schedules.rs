//! When a job of each schedule last succeeded. An alert uses it to find schedules whose jobs fail or no
//! longer run.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use crate::metrics::{self as table, LABEL_VALUES_MAX, LabelValues, Metrics};
use naq_client::{Client, ClientError, ListedSchedule, ScheduleFilter};
use naq_protocol::{JobId, Record, ScheduleId, ScheduleStatus, State, Timestamp};

/// Time between two reads of the schedules.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of schedules that are read, including those that are not active.
const SCHEDULES_MAX: usize = 10_000;

/// Number of records that are read at the same time.
const READS_MAX: usize = 32;

/// The state of one schedule.
#[derive(Clone, Debug, Default)]
struct KnownSchedule {
    period: Option<Duration>,
    last_success: Option<Timestamp>,
    /// The first job that had not ended when its record was last read. Its record is read again until it has
    /// ended, so that the end of a job that runs for longer than a period is not missed.
    running: Option<JobId>,
    /// The last job whose end is counted.
    ended: Option<JobId>,
}

impl KnownSchedule {
    /// The jobs whose records to read next. `last` is the job of the last tick: its record is read even if an
    /// earlier job never ends, because later jobs may succeed.
    fn next_jobs(&self, last: Option<&JobId>) -> impl Iterator<Item = JobId> {
        let is_known = |job: &JobId| {
            [&self.ended, &self.running]
                .map(Option::as_ref)
                .contains(&Some(job))
        };
        let last = last.filter(|last| !is_known(last)).cloned();
        self.running.clone().into_iter().chain(last)
    }

    /// Evaluates the record of a job. `None` means that it no longer exists.
    fn note(&mut self, job: JobId, record: Option<&Record>) {
        if record.is_some_and(|record| !record.state().is_terminal()) {
            self.running.get_or_insert(job);
            return;
        }
        if self.running.as_ref() == Some(&job) {
            self.running = None;
        }
        self.ended = Some(job);
        if let Some(record) = record.filter(|record| record.state() == State::Succeeded) {
            self.last_success = self.last_success.max(record.finished_at());
        }
    }
}

/// The active schedules, of which the first 500 are kept.
#[derive(Debug, Default)]
pub(super) struct KnownSchedules {
    read_at: Option<Instant>,
    known: HashMap<ScheduleId, KnownSchedule>,
}

/// A list of schedules that is being read. The list before it stays until this one is complete, because NATS may
/// not answer, and the monitoring system may stop waiting.
struct Relisting<'k> {
    before: &'k HashMap<ScheduleId, KnownSchedule>,
    known: HashMap<ScheduleId, KnownSchedule>,
    /// The jobs whose records are to be read.
    jobs: Vec<(ScheduleId, JobId)>,
}

impl Relisting<'_> {
    fn new(before: &HashMap<ScheduleId, KnownSchedule>) -> Relisting<'_> {
        Relisting {
            before,
            known: HashMap::new(),
            jobs: Vec::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.known.len() < LABEL_VALUES_MAX
    }

    /// Adds an active schedule. `last_job` is the job of its last tick.
    fn add(&mut self, id: &ScheduleId, period: Option<Duration>, last_job: Option<&JobId>) {
        let mut known = self.before.get(id).cloned().unwrap_or_default();
        known.period = period;
        let next = known.next_jobs(last_job);
        self.jobs.extend(next.map(|job| (id.clone(), job)));
        self.known.insert(id.clone(), known);
    }
}

impl KnownSchedules {
    /// Reads the schedules and the records of their last jobs, unless the last read was recent.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer.
    pub(super) async fn refresh(&mut self, client: &Client) -> Result<(), ClientError> {
        if self
            .read_at
            .is_some_and(|at| at.elapsed() < REFRESH_INTERVAL)
        {
            return Ok(());
        }
        let mut listing = client.list_schedules(&ScheduleFilter::default()).await?;
        let mut relisting = Relisting::new(&self.known);
        for _ in 0..SCHEDULES_MAX {
            let summary = match listing.next().await? {
                None => break,
                Some(ListedSchedule::Valid(summary)) => summary,
                Some(ListedSchedule::Invalid { .. }) => continue,
            };
            let schedule = &summary.schedule;
            if schedule.status == ScheduleStatus::Active && relisting.has_room() {
                let last_job = schedule.progress.last_job_id.as_ref();
                relisting.add(&schedule.schedule_id, summary.period(), last_job);
            }
        }
        let Relisting { known, jobs, .. } = relisting;
        self.known = known;
        let reads = jobs.into_iter().map(|(id, job)| async move {
            let record = client.fetch_job(&job).await;
            (id, job, record)
        });
        let mut reads = futures_util::stream::iter(reads).buffer_unordered(READS_MAX);
        while let Some((id, job, record)) = reads.next().await {
            let record = match record {
                Ok(record) => Some(record),
                Err(ClientError::NoSuchJob(_)) => None,
                // the next read tries again
                Err(_) => continue,
            };
            if let Some(known) = self.known.get_mut(&id) {
                known.note(job, record.as_ref());
            }
        }
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// Sets the metrics.
    pub(super) fn show(&self, metrics: &Metrics) {
        let mut labels = LabelValues::default();
        for (id, known) in &self.known {
            let label = labels.of(id.as_str());
            if let Some(period) = known.period {
                let gauge = metrics.gauge(table::SCHEDULE_PERIOD, [label.clone()]);
                gauge.set(period.as_secs_f64());
            }
            if let Some(last) = known.last_success {
                let gauge = metrics.gauge(table::SCHEDULE_LAST_SUCCESS, [label]);
                gauge.set(last.unix_ms() as f64 / 1e3);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{Outcome, Phase, QueueName, Reason};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_ms(second * 1_000).unwrap()
    }

    fn job(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    fn record(phase: Phase) -> Record {
        Record::new(job("any"), QueueName::new("q").unwrap(), phase, at(0))
    }

    fn ended(outcome: Outcome, second: i64) -> Record {
        record(Phase::Finished {
            outcome,
            finished_at: at(second),
        })
    }

    #[test]
    fn a_list_that_is_not_read_to_its_end_changes_nothing() {
        let id = |name: &str| ScheduleId::new(name).unwrap();
        let mut schedules = KnownSchedules::default();
        for name in ["first", "second"] {
            let known = KnownSchedule {
                last_success: Some(at(7)),
                ..KnownSchedule::default()
            };
            schedules.known.insert(id(name), known);
        }
        let mut relisting = Relisting::new(&schedules.known);
        relisting.add(&id("first"), None, Some(&job("next")));
        assert_eq!(relisting.jobs, [(id("first"), job("next"))]);
        assert_eq!(relisting.known[&id("first")].last_success, Some(at(7)));
        // NATS has not answered
        drop(relisting);
        let metrics = Metrics::of_one_scrape();
        schedules.show(&metrics);
        let text = metrics.encode(&[], crate::metrics::Format::Text);
        for name in ["first", "second"] {
            let line =
                format!("naq_schedule_last_success_timestamp_seconds{{schedule=\"{name}\"}} 7.0");
            assert!(text.contains(&line), "no `{line}` in {text}");
        }
    }

    #[test]
    fn a_job_that_runs_for_longer_than_a_period_is_watched_to_its_end() {
        let next = |known: &KnownSchedule, last: Option<&JobId>| -> Vec<String> {
            known.next_jobs(last).map(|job| job.to_string()).collect()
        };
        let mut known = KnownSchedule::default();
        assert!(next(&known, None).is_empty());
        let (first, second) = (job("first"), job("second"));
        assert_eq!(next(&known, Some(&first)), ["first"]);
        known.note(first.clone(), Some(&record(Phase::Queued)));
        assert_eq!(next(&known, Some(&first)), ["first"]);
        assert_eq!(next(&known, Some(&second)), ["first", "second"]);
        known.note(first, Some(&ended(Outcome::Succeeded, 7)));
        assert_eq!(known.last_success, Some(at(7)));
        assert_eq!(next(&known, Some(&second)), ["second"]);
        // a failure, and a record that has expired, are no successes
        known.note(
            second.clone(),
            Some(&ended(Outcome::Failed(Reason::Exit), 9)),
        );
        assert!(next(&known, Some(&second)).is_empty());
        known.note(job("third"), None);
        assert_eq!(known.last_success, Some(at(7)));
    }

    #[test]
    fn a_job_that_never_ends_does_not_hide_that_later_ones_succeed() {
        let mut known = KnownSchedule::default();
        let stuck = job("stuck");
        known.note(stuck.clone(), Some(&record(Phase::Queued)));
        for (name, second) in [("second", 7), ("third", 9)] {
            let last = job(name);
            let next: Vec<JobId> = known.next_jobs(Some(&last)).collect();
            assert_eq!(next, [stuck.clone(), last.clone()]);
            known.note(stuck.clone(), Some(&record(Phase::Queued)));
            known.note(last, Some(&ended(Outcome::Succeeded, second)));
            assert_eq!(known.last_success, Some(at(second)));
        }
    }
}
