//! Schedules: made, listed, changed. The scheduler hears of each change at once.

use std::time::Duration;

use super::{Client, ClientError, Queue};
use naq_core::{
    CronCache, OnChange, ScheduleChange, SchedulePosition, TickPlan, check_schedule,
    differing_fields, on_pause, on_resume, replace_definition, update,
};
use naq_jetstream::{BrokerError, NewJob, ScheduleListing};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    Envelope, EnvelopeError, JobId, Misfire, Overlap, QueueName, Reason, RejectReason, Schedule,
    ScheduleId, ScheduleProgress, ScheduleStatus, State, TickEnvelope, Timestamp,
};

/// When a schedule's ticks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// By the clocks of a zone.
    Cron {
        /// The cron expression.
        expression: String,
        /// An IANA zone; UTC where none is given.
        tz: Option<String>,
    },
    /// One after another, so far apart.
    Every(Duration),
}

/// A schedule to be made.
///
/// ```
/// use std::time::Duration;
///
/// use naq_client::NewSchedule;
/// use naq_client::{Envelope, Overlap, ScheduleId};
///
/// # fn example() -> Result<(), naq_client::InvalidName> {
/// let mut nightly = NewSchedule::cron("0 5 * * *", Envelope::command("./backup.sh", ["--all"]));
/// nightly.schedule_id = Some(ScheduleId::new("nightly-backup")?);
/// nightly.set_timezone("Europe/Berlin");
/// nightly.overlap = Overlap::Skip;
///
/// let beat = NewSchedule::every(Duration::from_secs(15), Envelope::command("./beat", [""; 0]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// Its name; where none is given, one that follows from all the rest, so that the same
    /// schedule made again is one.
    pub schedule_id: Option<ScheduleId>,
    /// When its ticks are.
    pub recurrence: Recurrence,
    /// The envelope of each of its jobs: without an id, and without `expires_at`.
    pub envelope: Envelope,
    /// How many jobs it makes in all; without end where absent.
    pub repeat: Option<u64>,
    /// No tick before this.
    pub start: Option<Timestamp>,
    /// No tick after this.
    pub end: Option<Timestamp>,
    /// Each tick is enqueued later by a part of this.
    pub jitter: Option<Duration>,
    /// What becomes of late ticks.
    pub misfire: Misfire,
    /// How many late ticks are enqueued at the most where `misfire` is `all`.
    pub misfire_max: Option<u32>,
    /// How late a tick may be and be on time.
    pub misfire_grace: Option<Duration>,
    /// What becomes of a tick while the last job has not ended.
    pub overlap: Overlap,
    /// Take the place of another schedule of this name, whose history is kept.
    pub replace: bool,
}

impl NewSchedule {
    /// One whose ticks follow a cron expression.
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

    /// One whose ticks are so far apart.
    #[must_use]
    pub fn every(interval: Duration, envelope: Envelope) -> NewSchedule {
        NewSchedule::new(Recurrence::Every(interval), envelope)
    }

    /// One with nothing but a cadence and what it enqueues.
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

    /// Has a cron expression speak of the clocks of this zone.
    pub fn set_timezone(&mut self, zone: impl Into<String>) {
        if let Recurrence::Cron { tz, .. } = &mut self.recurrence {
            *tz = Some(zone.into());
        }
    }

    /// The schedule as it is stored when it is made now, for jobs of this queue; checked.
    ///
    /// # Errors
    /// [`ClientError::ScheduleError`] and [`ClientError::Invalid`] with the field that is wrong.
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
            // replaced below where it is not the one
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
        };
        schedule.schedule_id = match &self.schedule_id {
            Some(chosen) => chosen.clone(),
            None => derived_id(&schedule, &self.envelope)?,
        };
        check_schedule(&schedule)?;
        Ok(schedule)
    }
}

/// The name of a schedule that was given none: what it runs, and a digest of all it says.
fn derived_id(schedule: &Schedule, envelope: &Envelope) -> Result<ScheduleId, ClientError> {
    let said = (
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
    let said = serde_json::to_vec(&said).map_err(unwritable)?;
    let program = envelope.command.as_deref().or(envelope.function.as_deref());
    let label = match program {
        Some(program) => program.rsplit(['/', ':']).next().unwrap_or_default(),
        None => "script",
    };
    Ok(ScheduleId::derived(label, &said))
}

fn unwritable(error: serde_json::Error) -> ClientError {
    EnvelopeError::new(RejectReason::Invalid, "", error.to_string()).into()
}

/// What became of a schedule that was to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddScheduleOutcome {
    /// It is new.
    Created,
    /// It has taken the place of another of its name, or of one that had ended.
    Replaced,
    /// It was there already, and is as it was.
    Unchanged,
}

/// A schedule that was made, or was there.
#[derive(Clone, Debug)]
pub struct AddedSchedule {
    /// The schedule as it is stored.
    pub schedule: Schedule,
    /// What became of it.
    pub outcome: AddScheduleOutcome,
}

impl AddedSchedule {
    /// Its name.
    #[must_use]
    pub fn schedule_id(&self) -> &ScheduleId {
        &self.schedule.schedule_id
    }
}

/// A schedule after a wish to change it.
#[derive(Clone, Debug)]
pub struct UpdatedSchedule {
    /// The schedule as it is stored now.
    pub schedule: Schedule,
    /// Whether it was changed: it may have been as wished already.
    pub was_changed: bool,
}

/// Which schedules are meant; all where nothing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleFilter {
    /// Those with this status.
    pub status: Option<ScheduleStatus>,
    /// Those whose jobs go to this queue.
    pub queue: Option<QueueName>,
    /// Those of this set.
    pub set: Option<String>,
}

impl ScheduleFilter {
    /// Whether a schedule is meant.
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

/// A schedule and what follows from it.
#[derive(Clone, Debug)]
pub struct ScheduleSummary {
    /// The schedule.
    pub schedule: Schedule,
    /// Its next tick, while it is active. One that is long past waits for a scheduler.
    pub next_run: Option<Timestamp>,
    /// Why it has no ticks, where what is stored there is no sound schedule.
    pub problem: Option<String>,
}

impl ScheduleSummary {
    fn new(schedule: Schedule, crons: &mut CronCache) -> ScheduleSummary {
        let (next_run, problem) = match TickPlan::new(&schedule, crons) {
            Ok(plan) if schedule.status == ScheduleStatus::Active => {
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

    /// What each of its jobs runs, in one line.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        super::listing::command(&self.schedule.envelope)
    }
}

impl From<Schedule> for ScheduleSummary {
    fn from(schedule: Schedule) -> ScheduleSummary {
        ScheduleSummary::new(schedule, &mut CronCache::default())
    }
}

/// A schedule of a list.
#[derive(Clone, Debug)]
pub enum ListedSchedule {
    /// It can be read.
    Valid(Box<ScheduleSummary>),
    /// It cannot.
    Invalid {
        /// Its name.
        schedule_id: ScheduleId,
        /// Why.
        problem: String,
    },
}

/// Cron expressions kept ready while schedules are listed.
const CRONS_KEPT: usize = 1_024;

/// The schedules, as they come, in the order of their last change.
pub struct ScheduleList {
    listing: ScheduleListing,
    filter: ScheduleFilter,
    crons: CronCache,
}

impl ScheduleList {
    /// The next one; none where there are no more.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<ListedSchedule>, ClientError> {
        while let Some(stored) = self.listing.next().await? {
            if self.crons.len() > CRONS_KEPT {
                self.crons.evict_unused();
            }
            match Schedule::parse(stored.payload.as_deref().unwrap_or_default()) {
                Ok(schedule) if self.filter.matches(&schedule) => {
                    let summary = ScheduleSummary::new(schedule, &mut self.crons);
                    return Ok(Some(ListedSchedule::Valid(Box::new(summary))));
                }
                Ok(_) => {}
                Err(problem) if self.filter == ScheduleFilter::default() => {
                    return Ok(Some(ListedSchedule::Invalid {
                        schedule_id: stored.schedule_id,
                        problem: problem.to_string(),
                    }));
                }
                // nobody can tell whether it is meant
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// How the last job of a schedule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastOutcome {
    /// Its state.
    pub state: State,
    /// Why it is in that state.
    pub reason: Option<Reason>,
    /// The exit code of its last attempt.
    pub exit_code: Option<i32>,
    /// The signal that ended its last attempt.
    pub signal: Option<i32>,
}

impl Queue {
    /// Makes a schedule whose jobs go to this queue: one write. The scheduler hears of it at once;
    /// where none runs, the schedule waits for one.
    ///
    /// The same schedule made again is a repeat, and left as it is. One of its name that has ended
    /// is replaced.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, NewSchedule};
    /// use naq_client::{Envelope, ScheduleId};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let mut nightly = NewSchedule::cron("0 5 * * *", Envelope::command("./backup.sh", ["--all"]));
    /// nightly.schedule_id = Some(ScheduleId::new("nightly-backup")?);
    /// let queue = client.queue("backups")?;
    /// let made = queue.schedule(&nightly).await?;
    /// println!("{} is {:?}", made.schedule_id(), made.outcome);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError::ScheduleError`] and [`ClientError::Invalid`] for what no scheduler would take,
    /// and [`ClientError::ScheduleExists`] where its name stands for another.
    pub async fn schedule(&self, new: &NewSchedule) -> Result<AddedSchedule, ClientError> {
        let now = self.client.now();
        let wanted = new.to_schedule(&self.name, now)?;
        let broker = &self.client.broker;
        let id = &wanted.schedule_id;
        // mostly there is none, and nothing has to be read
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
            (schedule, outcome) = match present {
                None => (wanted.clone(), AddScheduleOutcome::Created),
                Some(present) if present.status == ScheduleStatus::Ended => {
                    (wanted.clone(), AddScheduleOutcome::Replaced)
                }
                Some(present) => {
                    let fields = differing_fields(&present, &wanted);
                    if fields.is_empty() {
                        return Ok(AddedSchedule {
                            schedule: present,
                            outcome: AddScheduleOutcome::Unchanged,
                        });
                    }
                    if !new.replace {
                        return Err(ClientError::ScheduleExists {
                            schedule: id.clone(),
                            fields: fields.join(", "),
                        });
                    }
                    let mut redefined = replace_definition(&present, &wanted, now);
                    redefined.set = present.set;
                    (redefined, AddScheduleOutcome::Replaced)
                }
            };
        }
    }
}

impl Client {
    /// The schedules, read as they are asked for, with the next tick of each.
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
    /// Where NATS does not answer.
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

    /// A schedule by its name; none where there is none.
    ///
    /// # Errors
    /// Where NATS does not answer, or what is there is no schedule.
    pub async fn fetch_schedule(
        &self,
        schedule: &ScheduleId,
    ) -> Result<Option<ScheduleSummary>, ClientError> {
        let (present, _) = self.broker.read_schedule(schedule).await?;
        Ok(present.map(ScheduleSummary::from))
    }

    /// How the last job that a schedule's tick became is; none where there was none, or it has
    /// ended so long ago that its record is gone.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn fetch_last_outcome(
        &self,
        schedule: &Schedule,
    ) -> Result<Option<LastOutcome>, ClientError> {
        let Some(job) = &schedule.progress.last_job_id else {
            return Ok(None);
        };
        let (record, _) = self.broker.read_record(job).await?;
        if let Some(record) = record.filter(|record| !record.placeholder) {
            return Ok(Some(LastOutcome {
                state: record.state,
                reason: record.reason,
                exit_code: record.exit_code,
                signal: record.signal,
            }));
        }
        // its queue may have been changed since
        let message = self.broker.find_in_queue(&schedule.queue, job).await?;
        Ok(message.map(|message| LastOutcome {
            state: super::cancel::record_of(job, &message).state,
            reason: None,
            exit_code: None,
            signal: None,
        }))
    }

    /// Removes a schedule. Jobs that it has enqueued are left alone.
    ///
    /// # Errors
    /// [`ClientError::NoSuchSchedule`] where there is none.
    pub async fn delete_schedule(&self, schedule: &ScheduleId) -> Result<(), ClientError> {
        loop {
            // also one that cannot be read
            let stored = self.broker.read_stored_schedule(schedule).await?;
            if stored.payload.is_none() {
                return Err(ClientError::NoSuchSchedule(schedule.to_string()));
            }
            match self.broker.remove_schedule(schedule, stored.revision).await {
                Ok(()) => return Ok(()),
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Pauses a schedule: no tick is enqueued until it is resumed.
    ///
    /// # Errors
    /// [`ClientError::NoSuchSchedule`] where there is none, [`ClientError::ScheduleEnded`] for one
    /// that has ended.
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

    /// Changes a schedule, which keeps its history. One that has ended goes on where the change
    /// gives it ticks again; one that is paused stays so.
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
    /// [`ClientError::NoSuchSchedule`] where there is none, [`ClientError::ScheduleError`] where it
    /// would not be one, or have no more ticks.
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

    /// Enqueues a job of a schedule at once, beside its ticks, paused or not; no scheduler is
    /// needed. What becomes of the next tick does not change, and the job is no part of the
    /// schedule's history. Returns the job's id.
    ///
    /// # Errors
    /// [`ClientError::NoSuchSchedule`] where there is none.
    pub async fn trigger_schedule(&self, schedule: &ScheduleId) -> Result<JobId, ClientError> {
        let now = self.now();
        let (present, _) = self.broker.read_schedule(schedule).await?;
        let present = present.ok_or_else(|| ClientError::NoSuchSchedule(schedule.to_string()))?;
        let payload = TickEnvelope::new(&present)?.at(now);
        let job_id = JobId::for_trigger(schedule, now);
        // two who ask within the same millisecond get the same job
        let job = NewJob::with_id(job_id.clone(), present.queue, payload.into());
        self.broker.enqueue(job).await?;
        Ok(job_id)
    }

    /// Changes a schedule by compare-and-set: the scheduler writes to it as well, so it is decided
    /// anew for as long as it takes.
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
