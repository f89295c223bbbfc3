//! Schedule sets: described as a whole, compared with the stored schedules, and applied.

use std::collections::HashMap;

use futures_util::stream::{self, StreamExt};

use super::{Client, ClientError};
use naq_core::{OnApply, ScheduleError, on_apply};
use naq_jetstream::BrokerError;
use naq_protocol::{Schedule, ScheduleId, ScheduleStatus, Timestamp};

/// How many schedules are written at the same time.
const WRITES_AT_ONCE: usize = 256;

/// How to apply a schedule set.
#[derive(Clone, Debug)]
pub struct ScheduleSetOptions {
    /// The name of the set.
    pub set: String,
    /// Whether to remove schedules of the set that are no longer described.
    pub prune: bool,
    /// Whether to take over existing schedules of the same names that belong to another set or to none.
    pub adopt: bool,
}

/// What applying a set does to one schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleSetAction {
    /// Create it.
    Create,
    /// Change it: it differs from its description in these fields.
    Change(Vec<&'static str>),
    /// Remove it: it is no longer described.
    Remove,
    /// Nothing: it is as described.
    Unchanged,
    /// Nothing: its end has passed, and it does not exist.
    AlreadyEnded,
    /// Refuse: it belongs to this other set, or to none, and the options do not allow to take it over.
    Foreign(Option<String>),
}

impl ScheduleSetAction {
    /// Returns whether the action writes anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            ScheduleSetAction::Create | ScheduleSetAction::Change(_) | ScheduleSetAction::Remove
        )
    }
}

/// One schedule of a set, and what to do with it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScheduleSetStep {
    /// The name of the schedule.
    pub schedule_id: ScheduleId,
    /// What to do.
    pub action: ScheduleSetAction,
    /// The schedule as it will be. `None` means that it is removed or left alone.
    pub schedule: Option<Schedule>,
    /// The revision on which the decision is based.
    revision: u64,
}

/// The steps of applying a set: first the described schedules, in their order, then the removed ones.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScheduleSetPlan {
    client: Client,
    options: ScheduleSetOptions,
    now: Timestamp,
    wanted: Vec<Schedule>,
    steps: Vec<ScheduleSetStep>,
}

impl Client {
    /// Compares the description of a schedule set with the stored schedules. Nothing is written yet:
    /// [`ScheduleSetPlan::steps`] shows what is to be done, and [`ScheduleSetPlan::apply`] does it.
    ///
    /// Described schedules belong to the set from then on. A schedule that is described with the
    /// status `ended` is not created if it does not exist.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, NewSchedule, ScheduleSetOptions};
    /// use std::time::SystemTime;
    ///
    /// use naq_client::{Envelope, QueueName};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let now = SystemTime::now().into();
    /// let backup = Envelope::command("./backup.sh", ["--all"]);
    /// let nightly = NewSchedule::cron("0 5 * * *", backup).with_schedule_id("nightly-backup")?;
    /// let wanted = vec![nightly.to_schedule(&QueueName::new("backups")?, now)?];
    /// let options = ScheduleSetOptions { set: "backups".to_owned(), prune: true, adopt: false };
    /// let plan = client.plan_schedules(wanted, options).await?;
    /// plan.apply(|step| println!("{}: {:?}", step.schedule_id, step.action)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleError`] if a schedule is described twice, and
    /// [`ClientError::Broker`] if NATS does not answer.
    pub async fn plan_schedules(
        &self,
        mut wanted: Vec<Schedule>,
        options: ScheduleSetOptions,
    ) -> Result<ScheduleSetPlan, ClientError> {
        let now = self.now();
        for schedule in &mut wanted {
            schedule.set = Some(options.set.clone());
        }
        let described = described_once(&wanted)?;
        let mut steps: Vec<Option<ScheduleSetStep>> = vec![None; wanted.len()];
        let mut removed = Vec::new();
        let mut listing = self.broker.list_schedules().await?;
        while let Some(stored) = listing.next().await? {
            let present = stored.parse().ok();
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
        drop(described);
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

/// Returns the index of each described schedule by its name.
fn described_once(wanted: &[Schedule]) -> Result<HashMap<&ScheduleId, usize>, ScheduleError> {
    let mut described = HashMap::with_capacity(wanted.len());
    for (index, schedule) in wanted.iter().enumerate() {
        if described.insert(&schedule.schedule_id, index).is_some() {
            return Err(ScheduleError::Field {
                field: "schedule_id",
                problem: format!("`{}` is described twice", schedule.schedule_id),
            });
        }
    }
    Ok(described)
}

/// Decides what to do with a described schedule. A stored value that cannot be parsed (`exists`, and
/// `present` is `None`) counts as a schedule that belongs to no set.
fn decide(
    present: Option<&Schedule>,
    exists: bool,
    wanted: &Schedule,
    options: &ScheduleSetOptions,
    now: Timestamp,
) -> ScheduleSetStep {
    let (action, schedule) = match on_apply(present, wanted, options.adopt, now) {
        OnApply::Create if exists && !options.adopt => (ScheduleSetAction::Foreign(None), None),
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
    /// Returns the steps.
    #[must_use]
    pub fn steps(&self) -> &[ScheduleSetStep] {
        &self.steps
    }

    /// Applies the plan and calls `on_step` after each step, in order. For a schedule that has changed
    /// since the plan was made, the step is decided again. If this is interrupted, applying the same
    /// set again completes it.
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleOwnedElsewhere`] if the plan contains a schedule that must not be
    /// taken over; nothing is written then. Returns [`ClientError::Broker`] if NATS refuses or does
    /// not answer; the reported steps are done.
    pub async fn apply(self, mut on_step: impl FnMut(&ScheduleSetStep)) -> Result<(), ClientError> {
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
        // the first step alone: it creates the bucket if it does not exist
        if let Some(first) = all.next() {
            on_step(&first.await?);
        }
        let mut rest = stream::iter(all).buffered(WRITES_AT_ONCE);
        while let Some(done) = rest.next().await {
            on_step(&done?);
        }
        Ok(())
    }
}

/// Does one step. If the schedule has changed since the decision, decides again and retries.
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
        let present = stored.parse().ok();
        match &wanted {
            Some(wanted) => {
                let exists = stored.payload.is_some();
                step = decide(present.as_ref(), exists, wanted, options, now);
            }
            // removed, or taken over by another set meanwhile
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
