//! Schedules: created, listed, changed. The scheduler watches them and sees each change at once.

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Client, ClientError, Queue};
use naq_core::{
    CronCache, FailedStarts, OnChange, RUNS_CHECKED, ScheduleChange, SchedulePosition, TickPlan,
    check_schedule, differing_fields, failed_starts, has_never_started, on_pause, on_resume,
    prepare_schedule, replace_definition, ticks_before, update,
};
use naq_jetstream::{BrokerError, NewJob, ScheduleListing};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    Envelope, EnvelopeError, InvalidName, JobId, Misfire, Overlap, QueueName, Reason, RejectReason,
    Schedule, ScheduleId, ScheduleProgress, ScheduleStatus, State, TickEnvelope, Timestamp,
};

/// When the ticks of a schedule are due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// At times of day in a time zone.
    Cron {
        /// The cron expression.
        expression: String,
        /// An IANA time zone. `None` means UTC.
        tz: Option<String>,
    },
    /// At a fixed interval.
    Every(Duration),
}

/// A schedule to create.
///
/// ```
/// use std::time::Duration;
///
/// use naq_client::NewSchedule;
/// use naq_client::{Envelope, Overlap};
///
/// # fn example() -> Result<(), naq_client::InvalidName> {
/// let backup = Envelope::command("./backup.sh", ["--all"]);
/// let mut nightly = NewSchedule::cron("0 5 * * *", backup)
///     .with_schedule_id("nightly-backup")?
///     .with_timezone("Europe/Berlin");
/// nightly.overlap = Overlap::Skip;
///
/// let beat = NewSchedule::every(Duration::from_secs(15), Envelope::command("./beat", [""; 0]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// The name. `None` means a name derived from all other fields, so that creating the same schedule
    /// again has no effect.
    pub schedule_id: Option<ScheduleId>,
    /// When the ticks are due.
    pub recurrence: Recurrence,
    /// The envelope of each job, without an id and without `expires_at`.
    pub envelope: Envelope,
    /// How many jobs to enqueue in total. `None` means no limit.
    pub repeat: Option<u64>,
    /// No tick before this.
    pub start: Option<Timestamp>,
    /// No tick after this.
    pub end: Option<Timestamp>,
    /// Each tick is enqueued later by a random part of this. `None` means exactly on time.
    pub jitter: Option<Duration>,
    /// What happens to late ticks.
    pub misfire: Misfire,
    /// The maximum number of late ticks to enqueue if `misfire` is `all`.
    pub misfire_max: Option<u32>,
    /// How late a tick may be and still count as on time.
    pub misfire_grace: Option<Duration>,
    /// What happens to a tick while the job of the previous one has not ended.
    pub overlap: Overlap,
    /// Whether to replace another schedule of this name. Its history is kept.
    pub replace: bool,
}

impl NewSchedule {
    /// Creates a schedule by a cron expression, in UTC unless
    /// [`NewSchedule::with_timezone`] sets another time zone.
    #[must_use]
    pub fn cron(expression: impl Into<String>, envelope: Envelope) -> NewSchedule {
        let expression = expression.into();
        NewSchedule::new(
            Recurrence::Cron {
                expression,
                tz: None,
            },
            envelope,
        )
    }

    /// Creates a schedule with a fixed interval.
    #[must_use]
    pub fn every(interval: Duration, envelope: Envelope) -> NewSchedule {
        NewSchedule::new(Recurrence::Every(interval), envelope)
    }

    /// Creates a schedule with default options.
    #[must_use]
    pub fn new(recurrence: Recurrence, envelope: Envelope) -> NewSchedule {
        NewSchedule {
            schedule_id: None,
            recurrence,
            envelope,
            repeat: None,
            start: None,
            end: None,
            jitter: None,
            misfire: Misfire::default(),
            misfire_max: None,
            misfire_grace: None,
            overlap: Overlap::default(),
            replace: false,
        }
    }

    /// Sets the name.
    ///
    /// # Errors
    /// Returns [`InvalidName`] if the name is invalid.
    pub fn with_schedule_id(mut self, name: impl AsRef<str>) -> Result<NewSchedule, InvalidName> {
        self.schedule_id = Some(ScheduleId::new(name)?);
        Ok(self)
    }

    /// Sets the IANA time zone of a cron expression. A fixed interval has no time zone and is left as it
    /// is.
    #[must_use]
    pub fn with_timezone(mut self, zone: impl Into<String>) -> NewSchedule {
        if let Recurrence::Cron { tz, .. } = &mut self.recurrence {
            *tz = Some(zone.into());
        }
        self
    }

    /// Checks the schedule and returns it as it is stored if it is created at `now`, for jobs of this
    /// queue.
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleError`] or [`ClientError::Invalid`] with the field that is wrong.
    pub fn to_schedule(&self, queue: &QueueName, now: Timestamp) -> Result<Schedule, ClientError> {
        self.envelope.validate()?;
        let envelope = serde_json::value::to_raw_value(&self.envelope).map_err(unwritable)?;
        let (cron, tz, every) = match &self.recurrence {
            Recurrence::Cron { expression, tz } => {
                (Some(expression.trim().to_owned()), tz.clone(), None)
            }
            Recurrence::Every(interval) => (None, None, Some(WireDuration(*interval))),
        };
        let mut schedule = Schedule {
            // a placeholder, replaced below
            schedule_id: ScheduleId::derived("", &[]),
            queue: queue.clone(),
            envelope,
            cron,
            tz,
            every,
            anchor: None,
            repeat: self.repeat,
            start: self.start,
            end: self.end,
            jitter: self.jitter.map(WireDuration),
            misfire: self.misfire,
            misfire_max: self.misfire_max,
            misfire_grace: self.misfire_grace.map(WireDuration),
            overlap: self.overlap,
            set: None,
            created_at: now,
            status: ScheduleStatus::Active,
            paused_reason: None,
            next_run: None,
            progress: ScheduleProgress::from(now),
            unknown: naq_protocol::UnknownFields::default(),
        };
        schedule.schedule_id = match &self.schedule_id {
            Some(chosen) => chosen.clone(),
            None => derived_id(&schedule, &self.envelope)?,
        };
        check_schedule(&schedule)?;
        Ok(schedule)
    }
}

/// Returns the name of a schedule without one: the name of its program and a digest of its fields.
fn derived_id(schedule: &Schedule, envelope: &Envelope) -> Result<ScheduleId, ClientError> {
    let definition = (
        &schedule.queue,
        &schedule.envelope,
        (&schedule.cron, &schedule.tz, &schedule.every),
        (&schedule.repeat, &schedule.start, &schedule.end),
        &schedule.jitter,
        (
            &schedule.misfire,
            &schedule.misfire_max,
            &schedule.misfire_grace,
        ),
        &schedule.overlap,
    );
    let definition = serde_json::to_vec(&definition).map_err(unwritable)?;
    let program = envelope.command.as_deref().or(envelope.function.as_deref());
    let label = match program {
        Some(program) => program.rsplit(['/', ':']).next().unwrap_or_default(),
        None => "script",
    };
    Ok(ScheduleId::derived(label, &definition))
}

fn unwritable(error: serde_json::Error) -> ClientError {
    EnvelopeError::new(RejectReason::Invalid, "", error.to_string()).into()
}

/// The outcome of creating a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddScheduleOutcome {
    /// The schedule is new.
    Created,
    /// It replaced another schedule of its name, or one that had ended.
    Replaced,
    /// The same schedule already existed; nothing was changed.
    Unchanged,
}

/// A schedule that was created or already existed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AddedSchedule {
    /// The schedule as it is stored.
    pub schedule: Schedule,
    /// What was done.
    pub outcome: AddScheduleOutcome,
}

impl AddedSchedule {
    /// Returns the schedule's name.
    #[must_use]
    pub fn schedule_id(&self) -> &ScheduleId {
        &self.schedule.schedule_id
    }
}

/// A schedule that [`Client::put_schedule`] has stored, or left as it was.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutSchedule {
    /// The schedule as it is stored.
    pub schedule: Schedule,
    /// The revision of the stored value.
    pub revision: u64,
    /// What was done.
    pub outcome: AddScheduleOutcome,
}

/// A schedule after a request to change it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpdatedSchedule {
    /// The schedule as it is stored now.
    pub schedule: Schedule,
    /// Whether the request changed anything.
    pub was_changed: bool,
}

/// Selects schedules. The default selects all; a schedule has to satisfy every field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleFilter {
    /// Schedules with this status. `None` means any status.
    pub status: Option<ScheduleStatus>,
    /// Schedules whose jobs go to this queue. `None` means any queue.
    pub queue: Option<QueueName>,
    /// Schedules of this set. `None` means any set or none.
    pub set: Option<String>,
}

impl ScheduleFilter {
    /// Returns whether a schedule is selected.
    #[must_use]
    pub fn matches(&self, schedule: &Schedule) -> bool {
        self.status.is_none_or(|status| status == schedule.status)
            && self
                .queue
                .as_ref()
                .is_none_or(|queue| *queue == schedule.queue)
            && (self.set.is_none() || self.set == schedule.set)
    }
}

/// A schedule and its next tick.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScheduleSummary {
    /// The schedule.
    pub schedule: Schedule,
    /// The next tick of an active schedule. A time in the past means that no scheduler is running.
    pub next_run: Option<Timestamp>,
    /// Why the schedule has no ticks, if its stored definition is invalid.
    pub problem: Option<String>,
}

impl ScheduleSummary {
    fn new(schedule: Schedule, crons: &mut CronCache) -> ScheduleSummary {
        // What a scheduler refuses has no next run, although its status may be active.
        let (next_run, problem) = match prepare_schedule(&schedule, crons) {
            Ok((plan, _)) if schedule.status == ScheduleStatus::Active => {
                (plan.next(&SchedulePosition::from_schedule(&schedule)), None)
            }
            Ok(_) => (None, None),
            Err(bad) => (None, Some(bad.to_string())),
        };
        ScheduleSummary {
            schedule,
            next_run,
            problem,
        }
    }

    /// Returns the longest interval between consecutive next ticks. `None` means that the schedule has fewer
    /// than two.
    #[must_use]
    pub fn period(&self) -> Option<Duration> {
        let (plan, _) = prepare_schedule(&self.schedule, &mut CronCache::default()).ok()?;
        let mut position = SchedulePosition::from_schedule(&self.schedule);
        let mut longest = None;
        position.done_until = self.next_run?;
        for _ in 0..PERIODS_COMPARED {
            let Some(next) = plan.next(&position) else {
                break;
            };
            let gap = (next.0 - position.done_until.0).to_std().ok();
            longest = longest.max(gap);
            position.done_until = next;
        }
        longest
    }

    /// Returns what its jobs run, in one line. `None` means that the envelope is invalid.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        super::raw_envelope::command(&self.schedule.envelope)
    }
}

impl From<Schedule> for ScheduleSummary {
    fn from(schedule: Schedule) -> ScheduleSummary {
        ScheduleSummary::new(schedule, &mut CronCache::default())
    }
}

/// A schedule in a list.
#[derive(Clone, Debug)]
pub enum ListedSchedule {
    /// A schedule that can be parsed.
    Valid(Box<ScheduleSummary>),
    /// A stored value that cannot be parsed.
    Invalid {
        /// The name.
        schedule_id: ScheduleId,
        /// Why it cannot be parsed.
        problem: String,
    },
}

/// Number of periods of a schedule that are compared: those of a week with a weekend.
const PERIODS_COMPARED: usize = 8;

/// How many jobs of a schedule are looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;

/// How many parsed cron expressions are cached while schedules are listed.
const CACHED_CRONS_MAX: usize = 1_024;

/// Schedules in the order of their last change. [`Client::list_schedules`] returns it.
#[non_exhaustive]
pub struct ScheduleList {
    listing: ScheduleListing,
    filter: ScheduleFilter,
    crons: CronCache,
}

impl ScheduleList {
    /// Returns the next one. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<ListedSchedule>, ClientError> {
        while let Some(stored) = self.listing.next().await? {
            if self.crons.len() > CACHED_CRONS_MAX {
                self.crons.evict_unused();
            }
            match stored.parse() {
                Ok(schedule) if !self.filter.matches(&schedule) => {}
                Ok(schedule) => {
                    let summary = ScheduleSummary::new(schedule, &mut self.crons);
                    return Ok(Some(ListedSchedule::Valid(Box::new(summary))));
                }
                Err(problem) if self.filter == ScheduleFilter::default() => {
                    return Ok(Some(ListedSchedule::Invalid {
                        schedule_id: stored.schedule_id,
                        problem: problem.to_string(),
                    }));
                }
                // whether the filter selects it cannot be decided
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// The state of the last job of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastOutcome {
    /// The job's state.
    pub state: State,
    /// Why the job ended as it did.
    pub reason: Option<Reason>,
    /// The exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// The signal that ended the last attempt.
    pub signal: Option<i32>,
    /// How long the last attempt took. `None` if it has not ended.
    pub took: Option<Duration>,
    /// The largest resident set size of any one process of the last attempt, in bytes.
    pub max_rss_bytes: Option<u64>,
}

/// A run of a schedule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScheduleRun {
    /// The tick.
    pub tick: Timestamp,
    /// The id of its job.
    pub job_id: JobId,
    /// The state of the job. `None` means that the tick was left out, or that the job's record has expired.
    pub outcome: Option<LastOutcome>,
}

impl Queue {
    /// Creates a schedule whose jobs go to this queue. A running scheduler sees it at once; otherwise
    /// it waits for one.
    ///
    /// Creating the same schedule again has no effect. A schedule of this name that has ended is
    /// replaced.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, NewSchedule};
    /// use naq_client::Envelope;
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let backup = Envelope::command("./backup.sh", ["--all"]);
    /// let nightly = NewSchedule::cron("0 5 * * *", backup).with_schedule_id("nightly-backup")?;
    /// let queue = client.queue("backups")?;
    /// let made = queue.schedule(&nightly).await?;
    /// println!("{} is {:?}", made.schedule_id(), made.outcome);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleError`] or [`ClientError::Invalid`] if the schedule is invalid, and
    /// [`ClientError::ScheduleExists`] if another schedule has this name and `replace` is not set.
    pub async fn schedule(&self, new: &NewSchedule) -> Result<AddedSchedule, ClientError> {
        let now = self.client.now();
        let wanted = new.to_schedule(&self.name, now)?;
        let broker = &self.client.broker;
        let id = &wanted.schedule_id;
        // Usually the name is free: the first try writes without reading (revision 0).
        let (mut schedule, mut revision) = (wanted.clone(), 0);
        let mut outcome = AddScheduleOutcome::Created;
        loop {
            match broker.write_schedule(&schedule, revision).await {
                Ok(_) => return Ok(AddedSchedule { schedule, outcome }),
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
            let (present, found_at) = broker.read_schedule(id).await?;
            revision = found_at;
            if !new.replace
                && let Some(present) = &present
                && present.status != ScheduleStatus::Ended
            {
                let fields = differing_fields(present, &wanted);
                if !fields.is_empty() {
                    return Err(ClientError::ScheduleExists {
                        schedule: id.clone(),
                        fields: fields.join(", "),
                    });
                }
            }
            (schedule, outcome) = redefine(present.as_ref(), &wanted, now);
            if outcome == AddScheduleOutcome::Unchanged {
                return Ok(AddedSchedule { schedule, outcome });
            }
        }
    }
}

/// What to store so that a schedule gets the definition of `wanted`, and what that does to it.
fn redefine(
    present: Option<&Schedule>,
    wanted: &Schedule,
    now: Timestamp,
) -> (Schedule, AddScheduleOutcome) {
    match present {
        None => (wanted.clone(), AddScheduleOutcome::Created),
        Some(present) if present.status == ScheduleStatus::Ended => {
            (wanted.clone(), AddScheduleOutcome::Replaced)
        }
        Some(present) if differing_fields(present, wanted).is_empty() => {
            (present.clone(), AddScheduleOutcome::Unchanged)
        }
        Some(present) => {
            let mut redefined = replace_definition(present, wanted, now);
            redefined.set.clone_from(&present.set);
            (redefined, AddScheduleOutcome::Replaced)
        }
    }
}

impl Client {
    /// Lists the selected schedules, each with its next tick. They are read as [`ScheduleList::next`] is
    /// called.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, ListedSchedule, ScheduleFilter};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut schedules = client.list_schedules(&ScheduleFilter::default()).await?;
    /// while let Some(listed) = schedules.next().await? {
    ///     if let ListedSchedule::Valid(summary) = listed {
    ///         println!("{}: next {:?}", summary.schedule.schedule_id, summary.next_run);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_schedules(
        &self,
        filter: &ScheduleFilter,
    ) -> Result<ScheduleList, ClientError> {
        Ok(ScheduleList {
            listing: self.broker.list_schedules().await?,
            filter: filter.clone(),
            crons: CronCache::default(),
        })
    }

    /// Returns a schedule by its name. `None` means that it does not exist.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer or the stored value is not a schedule.
    pub async fn fetch_schedule(
        &self,
        schedule: &ScheduleId,
    ) -> Result<Option<ScheduleSummary>, ClientError> {
        let (present, _) = self.broker.read_schedule(schedule).await?;
        Ok(present.map(ScheduleSummary::from))
    }

    /// Returns a schedule and the revision of its stored value. `None` means that it does not exist.
    ///
    /// # Errors
    /// As [`Client::fetch_schedule`].
    pub async fn fetch_schedule_revision(
        &self,
        schedule: &ScheduleId,
    ) -> Result<Option<(Schedule, u64)>, ClientError> {
        let (present, revision) = self.broker.read_schedule(schedule).await?;
        Ok(present.map(|present| (present, revision)))
    }

    /// Stores what `decide` makes of a schedule, by compare-and-set. `decide` gets the stored schedule with its
    /// revision, or `None`, and returns the definition to store; it is asked again if another client or the
    /// scheduler writes meanwhile, so that what it checks holds for what is replaced.
    ///
    /// A replaced schedule keeps its history, its set, and its status if a user paused it. The same definition
    /// again changes nothing. With `dry_run` nothing is stored, and the result is what would be.
    ///
    /// # Errors
    /// Returns the error of `decide`, and [`ClientError::Broker`] if NATS does not answer or the stored value is
    /// not a schedule.
    pub async fn put_schedule<E: From<ClientError>>(
        &self,
        schedule: &ScheduleId,
        dry_run: bool,
        decide: impl Fn(Option<(&Schedule, u64)>) -> Result<Schedule, E>,
    ) -> Result<PutSchedule, E> {
        let broker_error = |error: BrokerError| E::from(error.into());
        loop {
            let (present, revision) = self
                .broker
                .read_schedule(schedule)
                .await
                .map_err(broker_error)?;
            let wanted = decide(present.as_ref().map(|present| (present, revision)))?;
            let (wanted, outcome) = redefine(present.as_ref(), &wanted, self.now());
            if dry_run || outcome == AddScheduleOutcome::Unchanged {
                return Ok(PutSchedule {
                    schedule: wanted,
                    revision,
                    outcome,
                });
            }
            match self.broker.write_schedule(&wanted, revision).await {
                Ok(revision) => {
                    return Ok(PutSchedule {
                        schedule: wanted,
                        revision,
                        outcome,
                    });
                }
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(broker_error(error)),
            }
        }
    }

    /// Returns the state of the job that a schedule's last tick enqueued. `None` means that no tick
    /// enqueued a job yet, or that the job's record has expired.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn fetch_last_outcome(
        &self,
        schedule: &Schedule,
    ) -> Result<Option<LastOutcome>, ClientError> {
        match &schedule.progress.last_job_id {
            Some(job) => self.outcome_of(schedule, job).await,
            None => Ok(None),
        }
    }

    /// Returns the last runs of a schedule, the latest first, at most `count`: its last tick, and those that its
    /// rule has before that, back to the first of them that has a job.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn fetch_runs(
        &self,
        schedule: &Schedule,
        count: usize,
    ) -> Result<Vec<ScheduleRun>, ClientError> {
        let progress = &schedule.progress;
        let (Some(job), Some(last_run)) = (&progress.last_job_id, progress.last_run) else {
            return Ok(Vec::new());
        };
        let mut ticks = vec![(last_run, job.clone())];
        if let Ok(plan) = TickPlan::new(schedule, &mut CronCache::default()) {
            let earlier = ticks_before(&plan, last_run, count.saturating_sub(1));
            let id = |tick| JobId::for_tick(&schedule.schedule_id, tick);
            ticks.extend(earlier.into_iter().map(|tick| (tick, id(tick))));
        }
        let mut runs: Vec<ScheduleRun> = stream::iter(ticks)
            .map(|(tick, job_id)| async move {
                let outcome = self.outcome_of(schedule, &job_id).await?;
                Ok::<_, ClientError>(ScheduleRun {
                    tick,
                    job_id,
                    outcome,
                })
            })
            .buffered(LOOKUPS_AT_ONCE)
            .try_collect()
            .await?;
        // Times before the schedule was created, or had its present rule, are no ticks of it.
        let first = runs.iter().rposition(|run| run.outcome.is_some());
        runs.truncate(first.map_or(1, |first| first + 1));
        Ok(runs)
    }

    /// The state of a job of a schedule. `None` if it has neither a record nor a message.
    async fn outcome_of(
        &self,
        schedule: &Schedule,
        job: &JobId,
    ) -> Result<Option<LastOutcome>, ClientError> {
        let (record, _) = self.broker.read_record(job).await?;
        if let Some(record) = record.filter(|record| !record.placeholder) {
            return Ok(Some(LastOutcome {
                state: record.state(),
                reason: record.reason(),
                exit_code: record.exit_code,
                signal: record.signal,
                took: record
                    .started_at
                    .zip(record.finished_at())
                    .map(|(started, ended)| {
                        let took = ended.0.signed_duration_since(started.0);
                        took.to_std().unwrap_or_default()
                    }),
                max_rss_bytes: record.usage.as_ref().map(|usage| usage.max_rss_bytes),
            }));
        }
        // The schedule may have been moved to another queue since: then the message is not found.
        let message = self.broker.find_in_queue(&schedule.queue, job).await?;
        Ok(message.map(|message| LastOutcome {
            state: super::unclaimed::record_of(job, &message).state(),
            reason: None,
            exit_code: None,
            signal: None,
            took: None,
            max_rss_bytes: None,
        }))
    }

    /// Returns how many of a schedule's last runs in a row failed to start, so that it does nothing
    /// although it enqueues jobs. `None` means that the last job has started or has not ended, or that
    /// its record has expired.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn fetch_failed_starts(
        &self,
        schedule: &Schedule,
    ) -> Result<Option<FailedStarts>, ClientError> {
        let progress = &schedule.progress;
        let (Some(job), Some(last_run)) = (&progress.last_job_id, progress.last_run) else {
            return Ok(None);
        };
        let (last, _) = self.broker.read_record(job).await?;
        if !last.as_ref().is_some_and(has_never_started) {
            return Ok(None);
        }
        let mut runs = vec![last];
        if let Ok(plan) = TickPlan::new(schedule, &mut CronCache::default()) {
            for tick in ticks_before(&plan, last_run, RUNS_CHECKED - 1) {
                let job = JobId::for_tick(&schedule.schedule_id, tick);
                runs.push(self.broker.read_record(&job).await?.0);
            }
        }
        Ok(failed_starts(runs.iter().map(Option::as_ref)))
    }

    /// Deletes a schedule. Jobs that it enqueued are not affected.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchSchedule`] if the schedule does not exist.
    pub async fn delete_schedule(&self, schedule: &ScheduleId) -> Result<(), ClientError> {
        self.delete_schedule_if(schedule, false, |_, _| Ok(()))
            .await
    }

    /// Deletes a schedule if `check` accepts what is stored: the schedule, or `None` if the stored value is not
    /// one, and its revision. `check` is asked again if the value changes before it is deleted. With `dry_run`
    /// nothing is deleted.
    ///
    /// # Errors
    /// Returns the error of `check`, and [`ClientError::NoSuchSchedule`] if the schedule does not exist.
    pub async fn delete_schedule_if<E: From<ClientError>>(
        &self,
        schedule: &ScheduleId,
        dry_run: bool,
        check: impl Fn(Option<&Schedule>, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            // unparsed, so that an invalid schedule can be deleted as well
            let stored = self.broker.read_stored_schedule(schedule).await;
            let stored = stored.map_err(|error| E::from(error.into()))?;
            if stored.payload.is_none() {
                return Err(ClientError::NoSuchSchedule(schedule.to_string()).into());
            }
            check(stored.parse().ok().as_ref(), stored.revision)?;
            if dry_run {
                return Ok(());
            }
            match self.broker.remove_schedule(schedule, stored.revision).await {
                Ok(()) => return Ok(()),
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(E::from(error.into())),
            }
        }
    }

    /// Pauses a schedule: no tick is enqueued until the schedule is resumed.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchSchedule`] if the schedule does not exist,
    /// [`ClientError::ScheduleEnded`] if it has ended, and [`ClientError::UnknownScheduleStatus`] if
    /// only a later version of naq knows its status.
    pub async fn pause_schedule(
        &self,
        schedule: &ScheduleId,
    ) -> Result<UpdatedSchedule, ClientError> {
        self.change_schedule(schedule, |present| Ok(on_pause(present)))
            .await
    }

    /// Resumes a schedule. What fell due during the pause is neither enqueued nor missed.
    ///
    /// # Errors
    /// As [`Client::pause_schedule`].
    pub async fn resume_schedule(
        &self,
        schedule: &ScheduleId,
    ) -> Result<UpdatedSchedule, ClientError> {
        let now = self.now();
        self.change_schedule(schedule, |present| Ok(on_resume(present, now)))
            .await
    }

    /// Changes a schedule and keeps its history. A schedule that has ended becomes active again if the
    /// change gives it ticks; a paused one stays paused.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # use naq_client::ScheduleId;
    /// use naq_client::ScheduleChange;
    ///
    /// # async fn example(client: Client, nightly: ScheduleId) -> Result<(), ClientError> {
    /// let change = ScheduleChange {
    ///     cron: Some("30 4 * * *".to_owned()),
    ///     ..ScheduleChange::default()
    /// };
    /// client.update_schedule(&nightly, &change).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchSchedule`] if the schedule does not exist, and
    /// [`ClientError::ScheduleError`] if the changed schedule is invalid or has no ticks.
    pub async fn update_schedule(
        &self,
        schedule: &ScheduleId,
        change: &ScheduleChange,
    ) -> Result<UpdatedSchedule, ClientError> {
        let now = self.now();
        self.change_schedule(schedule, |present| {
            if change.is_empty() {
                return Ok(OnChange::Unchanged);
            }
            Ok(OnChange::Write(Box::new(update(present, change, now)?)))
        })
        .await
    }

    /// Enqueues a job of a schedule at once, in addition to its ticks, and returns the job's id. This
    /// works for paused schedules and without a scheduler. The next tick and the schedule's history
    /// of ticks do not change.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchSchedule`] if the schedule does not exist.
    pub async fn trigger_schedule(&self, schedule: &ScheduleId) -> Result<JobId, ClientError> {
        let (triggered, time) = self.record_trigger(schedule).await?;
        let payload = TickEnvelope::new(&triggered)?.at(time);
        let job_id = JobId::for_trigger(schedule, time);
        let job = NewJob::with_id(job_id.clone(), triggered.queue, payload.into());
        self.broker.enqueue(job).await?;
        Ok(job_id)
    }

    /// Records in a schedule that it is triggered. The compare-and-set gives each of several triggers
    /// at once a time of its own, from which its job gets its id.
    async fn record_trigger(
        &self,
        schedule: &ScheduleId,
    ) -> Result<(Schedule, Timestamp), ClientError> {
        loop {
            let (present, revision) = self.broker.read_schedule(schedule).await?;
            let present =
                present.ok_or_else(|| ClientError::NoSuchSchedule(schedule.to_string()))?;
            let (triggered, time) = naq_core::trigger(present, self.now());
            match self.broker.write_schedule(&triggered, revision).await {
                Ok(_) => return Ok((triggered, time)),
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Changes a schedule by compare-and-set. The scheduler and other clients write to it as well, so
    /// the decision is repeated on the latest revision until the write succeeds.
    async fn change_schedule(
        &self,
        schedule: &ScheduleId,
        decide: impl Fn(&Schedule) -> Result<OnChange, ClientError>,
    ) -> Result<UpdatedSchedule, ClientError> {
        loop {
            let (present, revision) = self.broker.read_schedule(schedule).await?;
            let present =
                present.ok_or_else(|| ClientError::NoSuchSchedule(schedule.to_string()))?;
            let changed = match decide(&present)? {
                OnChange::Write(changed) => *changed,
                OnChange::Unchanged => {
                    return Ok(UpdatedSchedule {
                        schedule: present,
                        was_changed: false,
                    });
                }
                OnChange::Ended => return Err(ClientError::ScheduleEnded(schedule.clone())),
                OnChange::UnknownStatus(status) => {
                    return Err(ClientError::UnknownScheduleStatus {
                        schedule: schedule.clone(),
                        status,
                    });
                }
            };
            match self.broker.write_schedule(&changed, revision).await {
                Ok(_) => {
                    return Ok(UpdatedSchedule {
                        schedule: changed,
                        was_changed: true,
                    });
                }
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
