//! Sets of schedules: described as a whole, compared with what is there, and brought about.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt};

use super::{Client, ClientError};
use naq_core::{OnApply, ScheduleError, on_apply};
use naq_jetstream::BrokerError;
use naq_protocol::{Schedule, ScheduleId, ScheduleStatus, Timestamp};

/// How many schedules are written at once.
const WRITES_AT_ONCE: usize = 256;

/// How a set is applied.
#[derive(Clone, Debug)]
pub struct ScheduleSetOptions {
    /// The set's name.
    pub set: String,
    /// Remove schedules of the set that are no longer described.
    pub prune: bool,
    /// Take over schedules that are there under the same names outside the set.
    pub adopt: bool,
}

/// What applying a set does about one schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleSetAction {
    /// It is new.
    Create,
    /// It is described otherwise than it is, in these fields.
    Change(Vec<&'static str>),
    /// It is no longer described.
    Remove,
    /// It is as described.
    Unchanged,
    /// Its end is past, and nothing of it is there.
    AlreadyEnded,
    /// It is another set's, or nobody's, and not to be taken over.
    Foreign(Option<String>),
}

impl ScheduleSetAction {
    /// Whether there is anything to be done.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            ScheduleSetAction::Create | ScheduleSetAction::Change(_) | ScheduleSetAction::Remove
        )
    }
}

/// One schedule of a set, and what is to be done about it.
#[derive(Clone, Debug)]
pub struct ScheduleSetStep {
    /// Its name.
    pub schedule_id: ScheduleId,
    /// What is to be done.
    pub action: ScheduleSetAction,
    /// The schedule as it is to be; none for one that is removed or left alone.
    pub schedule: Option<Schedule>,
    /// The revision at which that was decided.
    revision: u64,
}

/// What applying a set does: first those that are described, in their order, then those that are
/// removed.
#[derive(Clone, Debug)]
pub struct ScheduleSetPlan {
    client: Client,
    options: ScheduleSetOptions,
    now: Timestamp,
    wanted: Vec<Schedule>,
    steps: Vec<ScheduleSetStep>,
}

impl Client {
    /// Compares a set of schedules with what is there. Nothing is written yet: look at
    /// [`ScheduleSetPlan::steps`], then [`ScheduleSetPlan::apply`].
    ///
    /// What is described belongs to the set from then on. One that is described with the status
    /// `ended` has had its end, and is not made where it is not there.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, NewSchedule, ScheduleSetOptions};
    /// use std::time::SystemTime;
    ///
    /// use naq_client::{Envelope, QueueName, ScheduleId};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let now = SystemTime::now().into();
    /// let mut nightly = NewSchedule::cron("0 5 * * *", Envelope::command("./backup.sh", ["--all"]));
    /// nightly.schedule_id = Some(ScheduleId::new("nightly-backup")?);
    /// let wanted = vec![nightly.to_schedule(&QueueName::new("backups")?, now)?];
    /// let options = ScheduleSetOptions { set: "backups".to_owned(), prune: true, adopt: false };
    /// let plan = client.plan_schedules(wanted, options).await?;
    /// plan.apply(|step| println!("{}: {:?}", step.schedule_id, step.action)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError::ScheduleError`] where one is described twice, and where NATS does not answer.
    pub async fn plan_schedules(
        &self,
        mut wanted: Vec<Schedule>,
        options: ScheduleSetOptions,
    ) -> Result<ScheduleSetPlan, ClientError> {
        let now = self.now();
        for schedule in &mut wanted {
            schedule.set = Some(options.set.clone());
        }
        let mut steps: Vec<Option<ScheduleSetStep>> = vec![None; wanted.len()];
        let mut removed = Vec::new();
        {
            let described: HashMap<&ScheduleId, usize> = wanted
                .iter()
                .enumerate()
                .map(|(index, schedule)| (&schedule.schedule_id, index))
                .collect();
            if let Some(twice) = wanted
                .iter()
                .enumerate()
                .find(|(index, schedule)| described[&schedule.schedule_id] != *index)
            {
                return Err(ScheduleError::Field {
                    field: "schedule_id",
                    problem: format!("`{}` is described twice", twice.1.schedule_id),
                }
                .into());
            }
            let mut listing = self.broker.list_schedules().await?;
            while let Some(stored) = listing.next().await? {
                let payload = stored.payload.as_deref().unwrap_or_default();
                let present = Schedule::parse(payload).ok();
                if let Some(&index) = described.get(&stored.schedule_id) {
                    let step = decide(present.as_ref(), true, &wanted[index], &options, now);
                    steps[index] = Some(ScheduleSetStep {
                        revision: stored.revision,
                        ..step
                    });
                } else if options.prune
                    && present.is_some_and(|present| present.set.as_ref() == Some(&options.set))
                {
                    removed.push(ScheduleSetStep {
                        schedule_id: stored.schedule_id,
                        action: ScheduleSetAction::Remove,
                        schedule: None,
                        revision: stored.revision,
                    });
                }
            }
        }
        removed.sort_by(|one, other| one.schedule_id.cmp(&other.schedule_id));
        let steps = steps
            .into_iter()
            .zip(&wanted)
            .map(|(step, wanted)| {
                step.unwrap_or_else(|| decide(None, false, wanted, &options, now))
            })
            .chain(removed)
            .collect();
        Ok(ScheduleSetPlan {
            client: self.clone(),
            options,
            now,
            wanted,
            steps,
        })
    }
}

/// What is to be done about one that is described. What cannot be read (`is_there`, and none
/// `present`) is nobody's.
fn decide(
    present: Option<&Schedule>,
    is_there: bool,
    wanted: &Schedule,
    options: &ScheduleSetOptions,
    now: Timestamp,
) -> ScheduleSetStep {
    let (action, schedule) = match on_apply(present, wanted, options.adopt, now) {
        OnApply::Create if is_there && !options.adopt => (ScheduleSetAction::Foreign(None), None),
        OnApply::Create if wanted.status == ScheduleStatus::Ended => {
            (ScheduleSetAction::AlreadyEnded, None)
        }
        OnApply::Create => (ScheduleSetAction::Create, Some(wanted.clone())),
        OnApply::Change { schedule, fields } => {
            (ScheduleSetAction::Change(fields), Some(*schedule))
        }
        OnApply::Unchanged => (ScheduleSetAction::Unchanged, present.cloned()),
        OnApply::OwnedByOtherSet(set) => (ScheduleSetAction::Foreign(set), None),
    };
    ScheduleSetStep {
        schedule_id: wanted.schedule_id.clone(),
        action,
        schedule,
        revision: 0,
    }
}

impl ScheduleSetPlan {
    /// What is to be done.
    #[must_use]
    pub fn steps(&self) -> &[ScheduleSetStep] {
        &self.steps
    }

    /// Does it, telling of each step that was done, in their order. What has changed since the
    /// plan was made is looked at anew. Where this is cut off, the same set applied again goes on.
    ///
    /// # Errors
    /// [`ClientError::ScheduleOwnedElsewhere`] where a schedule is not to be taken over, before anything
    /// is written; and where NATS refuses or does not answer: what was told of is done.
    pub async fn apply(self, mut tell: impl FnMut(&ScheduleSetStep)) -> Result<(), ClientError> {
        let ScheduleSetPlan {
            client,
            options,
            now,
            wanted,
            steps,
        } = self;
        for step in &steps {
            if let ScheduleSetAction::Foreign(set) = &step.action {
                return Err(foreign(&step.schedule_id, set.clone()));
            }
        }
        let (client, options) = (&client, &options);
        let described = wanted.into_iter().map(Some);
        let mut all = steps
            .into_iter()
            .zip(described.chain(std::iter::repeat(None)))
            .map(|(step, wanted)| apply_step(client, options, step, wanted, now));
        // the first alone: it makes the bucket where there is none
        if let Some(first) = all.next() {
            tell(&first.await?);
        }
        let mut rest = stream::iter(all).buffered(WRITES_AT_ONCE);
        while let Some(done) = rest.next().await {
            tell(&done?);
        }
        Ok(())
    }
}

/// Takes one step; the schedule may have changed since it was decided upon.
async fn apply_step(
    client: &Client,
    options: &ScheduleSetOptions,
    mut step: ScheduleSetStep,
    wanted: Option<Schedule>,
    now: Timestamp,
) -> Result<ScheduleSetStep, ClientError> {
    let broker = &client.broker;
    loop {
        let written = match (&step.action, &step.schedule) {
            (ScheduleSetAction::Create | ScheduleSetAction::Change(_), Some(schedule)) => broker
                .write_schedule(schedule, step.revision)
                .await
                .map(drop),
            (ScheduleSetAction::Remove, _) => {
                broker
                    .remove_schedule(&step.schedule_id, step.revision)
                    .await
            }
            (ScheduleSetAction::Foreign(set), _) => {
                return Err(foreign(&step.schedule_id, set.clone()));
            }
            _ => return Ok(step),
        };
        match written {
            Ok(()) => return Ok(step),
            Err(BrokerError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
        let stored = broker.read_stored_schedule(&step.schedule_id).await?;
        let present = stored
            .payload
            .as_deref()
            .and_then(|payload| Schedule::parse(payload).ok());
        match &wanted {
            Some(wanted) => {
                let is_there = stored.payload.is_some();
                step = decide(present.as_ref(), is_there, wanted, options, now);
            }
            // gone, or another's by now
            None if present.is_none_or(|present| present.set.as_ref() != Some(&options.set)) => {
                return Ok(step);
            }
            None => {}
        }
        step.revision = stored.revision;
    }
}

fn foreign(schedule: &ScheduleId, set: Option<String>) -> ClientError {
    ClientError::ScheduleOwnedElsewhere {
        schedule: schedule.clone(),
        set,
    }
}
