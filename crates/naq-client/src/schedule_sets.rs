//! Schedule sets: described as a whole, compared with the stored schedules, and applied.
//!
//! A set may have any number of schedules. What is kept of each is a digest of its name and one of its
//! definition; the schedules themselves are passed twice, one by one.

use std::collections::HashMap;

use futures_util::future::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::{Client, ClientError, ScheduleSummary};
use naq_core::{OnApply, ScheduleError, definition_text, on_apply};
use naq_jetstream::{BrokerError, StoredSchedule};
use naq_protocol::{Schedule, ScheduleId, ScheduleStatus, ShortDigest, Timestamp, short_digest};

/// How many schedules are written, or read, at the same time.
const REQUESTS_AT_ONCE: usize = 256;

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
    /// The schedule as the step writes it. `None` means that it is removed or left alone.
    pub schedule: Option<Schedule>,
    /// The status that it has after the step. `None` means that it does not exist then, or is refused.
    pub status: Option<ScheduleStatus>,
    /// The next tick after the step. `None` means that it has none.
    pub next_run: Option<Timestamp>,
    /// The revision on which the decision is based.
    revision: u64,
}

/// What is kept of a described schedule.
#[derive(Clone, Copy, Debug)]
struct Described {
    definition: ShortDigest,
    /// Whether it is described with the status `ended`.
    is_ended: bool,
    stored: Stored,
}

/// What the server has for a described schedule.
#[derive(Clone, Copy, Debug)]
enum Stored {
    /// No schedule of this name.
    Nothing,
    /// The schedule as described, in the set.
    Same {
        status: ScheduleStatus,
        next_run: Option<Timestamp>,
    },
    /// A schedule that differs from its description, or may do so. It is read again to be changed.
    Other,
}

/// The description of a schedule set, of which a [`ScheduleSetPlan`] is made. The default is a set without schedules.
///
/// Described schedules belong to the set once it is applied. A schedule that is described with the
/// status `ended` is not created if it does not exist.
#[derive(Clone, Debug, Default)]
pub struct ScheduleSet {
    described: HashMap<ShortDigest, Described>,
}

impl ScheduleSet {
    /// Adds the description of a schedule. Only digests are kept of it: the plan needs the schedule again.
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleError`] if a schedule of this name was added before.
    pub fn add(&mut self, wanted: &Schedule) -> Result<(), ClientError> {
        let described = Described {
            definition: short_digest(&definition_text(wanted)),
            is_ended: wanted.status == ScheduleStatus::Ended,
            stored: Stored::Nothing,
        };
        let key = short_digest(wanted.schedule_id.as_str());
        match self.described.insert(key, described) {
            None => Ok(()),
            Some(_) => Err(invalid_name(&wanted.schedule_id, "is described twice")),
        }
    }

    /// Returns the number of schedules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.described.len()
    }

    /// Returns whether the set has no schedule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.described.is_empty()
    }
}

fn invalid_name(schedule_id: &ScheduleId, problem: &str) -> ClientError {
    let field = "schedule_id";
    let problem = format!("`{schedule_id}` {problem}");
    ScheduleError::Field { field, problem }.into()
}

/// A described schedule that must not be taken over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ForeignSchedule {
    /// The name of the schedule.
    pub schedule_id: ScheduleId,
    /// The set that it belongs to. `None` means that it belongs to none.
    pub set: Option<String>,
}

/// How applying a set changes the stored schedules: first the described ones, in the order in which they
/// are passed, then those to be removed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ScheduleSetPlan {
    client: Client,
    set: ScheduleSet,
    options: ScheduleSetOptions,
    now: Timestamp,
    foreign: Vec<ForeignSchedule>,
    /// The schedules to be removed, by their names, with their revisions.
    removed: Vec<(ScheduleId, u64)>,
}

impl Client {
    /// Compares the description of a schedule set with the stored schedules. Nothing is written yet:
    /// [`ScheduleSetPlan::preview`] shows what is to be done, and [`ScheduleSetPlan::apply`] does it.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError, NewSchedule, ScheduleSet, ScheduleSetOptions};
    /// use std::time::SystemTime;
    ///
    /// use naq_client::{Envelope, QueueName};
    ///
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let now = SystemTime::now().into();
    /// let backup = Envelope::command("./backup.sh", ["--all"]);
    /// let nightly = NewSchedule::cron("0 5 * * *", backup).with_schedule_id("nightly-backup")?;
    /// let nightly = nightly.to_schedule(&QueueName::new("backups")?, now)?;
    /// let options = ScheduleSetOptions { set: "backups".to_owned(), prune: true, adopt: false };
    /// let mut set = ScheduleSet::default();
    /// set.add(&nightly)?;
    /// let plan = client.plan_schedules(set, options).await?;
    /// plan.apply([nightly], |step| println!("{}: {:?}", step.schedule_id, step.action)).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn plan_schedules(
        &self,
        set: ScheduleSet,
        options: ScheduleSetOptions,
    ) -> Result<ScheduleSetPlan, ClientError> {
        let mut plan = ScheduleSetPlan {
            client: self.clone(),
            set,
            options,
            now: self.now(),
            foreign: Vec::new(),
            removed: Vec::new(),
        };
        let mut listing = self.broker.list_schedules().await?;
        while let Some(stored) = listing.next().await? {
            plan.compare(stored);
        }
        plan.removed.sort();
        Ok(plan)
    }
}

impl ScheduleSetPlan {
    /// Compares a stored schedule with its description. A stored value that cannot be parsed counts as a
    /// schedule that belongs to no set.
    fn compare(&mut self, stored: StoredSchedule) {
        let options = &self.options;
        let present = stored.parse().ok();
        let owner = present.as_ref().and_then(|present| present.set.as_ref());
        let is_ours = owner == Some(&options.set);
        let key = short_digest(stored.schedule_id.as_str());
        let Some(described) = self.set.described.get_mut(&key) else {
            if options.prune && is_ours {
                self.removed.push((stored.schedule_id, stored.revision));
            }
            return;
        };
        if !is_ours && !options.adopt {
            let set = owner.cloned();
            let schedule_id = stored.schedule_id;
            self.foreign.push(ForeignSchedule { schedule_id, set });
            return;
        }
        described.stored = match present {
            Some(present)
                if is_ours && short_digest(&definition_text(&present)) == described.definition =>
            {
                let summary = ScheduleSummary::from(present);
                Stored::Same {
                    status: summary.schedule.status,
                    next_run: summary.next_run,
                }
            }
            _ => Stored::Other,
        };
    }

    /// Returns the described schedules that exist outside of the set and must not be taken over. If there is
    /// any, nothing can be applied.
    #[must_use]
    pub fn foreign(&self) -> &[ForeignSchedule] {
        &self.foreign
    }

    /// Returns the number of schedules that are to be removed.
    #[must_use]
    pub fn removals(&self) -> usize {
        self.removed.len()
    }

    /// Returns the number of schedules that are to be created, changed or removed.
    #[must_use]
    pub fn writes(&self) -> usize {
        let described = self.set.described.values();
        let written = described.filter(|described| match described.stored {
            Stored::Nothing => !described.is_ended,
            Stored::Same { .. } => false,
            Stored::Other => true,
        });
        written.count() + self.removed.len()
    }

    /// Calls `on_step` with each step, in order, and changes nothing. `wanted` are the schedules of which the
    /// plan was made.
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleError`] for a schedule that the plan does not have, and
    /// [`ClientError::Broker`] if NATS does not answer.
    pub async fn preview(
        &self,
        wanted: impl IntoIterator<Item = Schedule>,
        on_step: impl FnMut(&ScheduleSetStep),
    ) -> Result<(), ClientError> {
        self.each_step(wanted, false, on_step).await
    }

    /// Applies the plan and calls `on_step` after each step, in order. `wanted` are the schedules of which the
    /// plan was made. For a schedule that has changed since the plan was made, the step is decided again. If
    /// this is interrupted, applying the same set again completes it.
    ///
    /// # Errors
    /// Returns [`ClientError::ScheduleOwnedElsewhere`] if the plan contains a schedule that must not be
    /// taken over; nothing is written then. Returns [`ClientError::ScheduleError`] for a schedule that the plan
    /// does not have, and [`ClientError::Broker`] if NATS refuses or does not answer; the reported steps are
    /// done.
    pub async fn apply(
        self,
        wanted: impl IntoIterator<Item = Schedule>,
        on_step: impl FnMut(&ScheduleSetStep),
    ) -> Result<(), ClientError> {
        if let Some(first) = self.foreign.first() {
            return Err(foreign(&first.schedule_id, first.set.clone()));
        }
        self.each_step(wanted, true, on_step).await
    }

    async fn each_step(
        &self,
        wanted: impl IntoIterator<Item = Schedule>,
        is_applied: bool,
        mut on_step: impl FnMut(&ScheduleSetStep),
    ) -> Result<(), ClientError> {
        let described = wanted
            .into_iter()
            .map(|wanted| self.describe_step(wanted, is_applied).boxed());
        let removed = self
            .removed
            .iter()
            .map(|(schedule_id, revision)| self.remove(schedule_id, *revision, is_applied).boxed());
        let mut steps = described.chain(removed);
        // the first step alone: it creates the bucket if it does not exist
        if let Some(first) = steps.next() {
            on_step(&first.await?);
        }
        let mut rest = stream::iter(steps).buffered(REQUESTS_AT_ONCE);
        while let Some(done) = rest.next().await {
            on_step(&done?);
        }
        Ok(())
    }

    /// Decides what to do with a described schedule, and does it if `is_applied`.
    async fn describe_step(
        &self,
        mut wanted: Schedule,
        is_applied: bool,
    ) -> Result<ScheduleSetStep, ClientError> {
        wanted.set = Some(self.options.set.clone());
        let key = short_digest(wanted.schedule_id.as_str());
        let Some(described) = self.set.described.get(&key) else {
            return Err(invalid_name(&wanted.schedule_id, "is not part of the plan"));
        };
        let step = match described.stored {
            Stored::Nothing => self.decide(None, false, &wanted),
            Stored::Same { status, next_run } => {
                return Ok(ScheduleSetStep {
                    status: Some(status),
                    next_run,
                    ..bare_step(&wanted.schedule_id, ScheduleSetAction::Unchanged)
                });
            }
            Stored::Other => {
                self.decide_again(&wanted.schedule_id, Some(&wanted))
                    .await?
            }
        };
        match is_applied {
            true => self.write(step, Some(wanted)).await,
            false => Ok(step),
        }
    }

    /// Removes a schedule, if `is_applied`.
    async fn remove(
        &self,
        schedule_id: &ScheduleId,
        revision: u64,
        is_applied: bool,
    ) -> Result<ScheduleSetStep, ClientError> {
        let step = ScheduleSetStep {
            revision,
            ..bare_step(schedule_id, ScheduleSetAction::Remove)
        };
        match is_applied {
            true => self.write(step, None).await,
            false => Ok(step),
        }
    }

    /// Decides what to do with a described schedule. A stored value that cannot be parsed (`exists`, and
    /// `present` is `None`) counts as a schedule that belongs to no set.
    fn decide(
        &self,
        present: Option<&Schedule>,
        exists: bool,
        wanted: &Schedule,
    ) -> ScheduleSetStep {
        let options = &self.options;
        let (action, schedule) = match on_apply(present, wanted, options.adopt, self.now) {
            OnApply::Create if exists && !options.adopt => (ScheduleSetAction::Foreign(None), None),
            OnApply::Create if wanted.status == ScheduleStatus::Ended => {
                (ScheduleSetAction::AlreadyEnded, None)
            }
            OnApply::Create => (ScheduleSetAction::Create, Some(wanted.clone())),
            OnApply::Change { schedule, fields } => {
                (ScheduleSetAction::Change(fields), Some(*schedule))
            }
            OnApply::Unchanged => (ScheduleSetAction::Unchanged, None),
            OnApply::OwnedByOtherSet(set) => (ScheduleSetAction::Foreign(set), None),
        };
        let after = match action {
            ScheduleSetAction::Unchanged => present,
            _ => schedule.as_ref(),
        };
        let after = after.cloned().map(ScheduleSummary::from);
        ScheduleSetStep {
            status: after.as_ref().map(|after| after.schedule.status),
            next_run: after.and_then(|after| after.next_run),
            schedule,
            ..bare_step(&wanted.schedule_id, action)
        }
    }

    /// Reads what is stored now, and decides. `wanted` is `None` for a schedule that is no longer described.
    async fn decide_again(
        &self,
        schedule_id: &ScheduleId,
        wanted: Option<&Schedule>,
    ) -> Result<ScheduleSetStep, ClientError> {
        let stored = self.client.broker.read_stored_schedule(schedule_id).await?;
        let present = stored.parse().ok();
        let mut step = match wanted {
            Some(wanted) => self.decide(present.as_ref(), stored.payload.is_some(), wanted),
            None => {
                // removed, or taken over by another set meanwhile
                let is_gone =
                    present.is_none_or(|present| present.set.as_ref() != Some(&self.options.set));
                let action = match is_gone {
                    true => ScheduleSetAction::Unchanged,
                    false => ScheduleSetAction::Remove,
                };
                bare_step(schedule_id, action)
            }
        };
        step.revision = stored.revision;
        Ok(step)
    }

    /// Does one step. If the schedule has changed since the decision, decides again and retries.
    async fn write(
        &self,
        mut step: ScheduleSetStep,
        wanted: Option<Schedule>,
    ) -> Result<ScheduleSetStep, ClientError> {
        let broker = &self.client.broker;
        loop {
            let written = match (&step.action, &step.schedule) {
                (ScheduleSetAction::Create | ScheduleSetAction::Change(_), Some(schedule)) => {
                    let written = broker.write_schedule(schedule, step.revision).await;
                    written.map(drop)
                }
                (ScheduleSetAction::Remove, _) => {
                    let removing = broker.remove_schedule(&step.schedule_id, step.revision);
                    removing.await
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
            let decided = self
                .decide_again(&step.schedule_id, wanted.as_ref())
                .await?;
            // it was removed by another program meanwhile, or belongs to another set now
            if wanted.is_none() && decided.action == ScheduleSetAction::Unchanged {
                return Ok(step);
            }
            step = decided;
        }
    }
}

/// A step without a schedule.
fn bare_step(schedule_id: &ScheduleId, action: ScheduleSetAction) -> ScheduleSetStep {
    ScheduleSetStep {
        schedule_id: schedule_id.clone(),
        action,
        schedule: None,
        status: None,
        next_run: None,
        revision: 0,
    }
}

fn foreign(schedule: &ScheduleId, set: Option<String>) -> ClientError {
    ClientError::ScheduleOwnedElsewhere {
        schedule: schedule.clone(),
        set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_schedule_is_small() {
        let kept = size_of::<(ShortDigest, Described)>();
        assert!(kept <= 96, "{kept} bytes");
    }
}
