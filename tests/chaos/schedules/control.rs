//! The controller, which creates the schedules and changes them while they run, by compare-and-set, as
//! any program may.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use naq_jetstream::BrokerError;
use naq_protocol::{Schedule, ScheduleProgress, ScheduleStatus, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::set::{CADENCES, ROLES, Role, Treatment};
use crate::chaos::jobs::Program;
use crate::chaos::stage::Stage;

/// Number of ended jobs for each change.
const ONE_IN: usize = 12;

/// Pause before a change that failed is repeated.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Controller {
    pub(super) stage: Arc<Stage>,
    pub(super) program: Program,
    /// Set once the controller has to stop.
    pub(super) is_over: AtomicBool,
}

/// What a change does to a schedule.
enum Change {
    Store(Box<Schedule>),
    Remove,
    None,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test is an edge where time enters"
)]
pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}

pub(super) fn later(time: Timestamp, ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(time.unix_ms() + ms).unwrap()
}

impl Controller {
    /// Creates all schedules.
    pub(super) fn make_all(&self) {
        for role in ROLES {
            self.change(role, "made", |_| self.recreate(role));
        }
    }

    /// Changes random schedules until the controller has to stop.
    pub(super) fn run(&self, seed: u64) {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut changes = 0;
        let treated: Vec<&Role> = ROLES
            .iter()
            .filter(|role| role.treatment != Treatment::None)
            .collect();
        while !self.is_over.load(Ordering::Relaxed) && !self.stage.broken() {
            if changes >= self.stage.writes.ended() / ONE_IN {
                self.stage.writes.wait(Duration::from_millis(200));
                continue;
            }
            changes += 1;
            let role = treated[chance.random_range(0..treated.len())];
            self.treat(role, &mut chance);
        }
    }

    /// Makes all schedules, also paused ones, end soon.
    pub(super) fn end_all(&self) {
        // after any tick that was set by hand
        let end = later(now(), 2_500);
        for role in ROLES {
            self.change(role, "gets an end", |schedule| match schedule {
                Some(mut schedule) if schedule.status != ScheduleStatus::Ended => {
                    if schedule.status == ScheduleStatus::Paused {
                        resume(&mut schedule, now());
                    }
                    schedule.end = Some(end);
                    Change::Store(Box::new(schedule))
                }
                _ => Change::None,
            });
        }
    }

    fn recreate(&self, role: &Role) -> Change {
        let schedule = role.schedule(&self.program, &self.stage.mark, now());
        Change::Store(Box::new(schedule))
    }

    fn treat(&self, role: &Role, chance: &mut StdRng) {
        let (first, second) = (chance.random_bool(0.5), chance.random_range(300..2_000));
        match role.treatment {
            Treatment::None => {}
            Treatment::Pauses if self.is_paused(role) => {
                self.change(role, "resumed", |schedule| {
                    let Some(mut schedule) = schedule else {
                        return Change::None;
                    };
                    resume(&mut schedule, now());
                    Change::Store(Box::new(schedule))
                });
            }
            Treatment::Pauses => self.change(role, "paused", |schedule| {
                let Some(mut schedule) = schedule else {
                    return Change::None;
                };
                schedule.status = ScheduleStatus::Paused;
                Change::Store(Box::new(schedule))
            }),
            Treatment::Moves => {
                let cadence = CADENCES[chance.random_range(0..CADENCES.len())];
                self.change(role, cadence, |schedule| {
                    let Some(mut schedule) = schedule else {
                        return Change::None;
                    };
                    give_cadence(&mut schedule, cadence);
                    Change::Store(Box::new(schedule))
                });
            }
            Treatment::Comes if first => self.change(role, "removed", |schedule| match schedule {
                Some(_) => Change::Remove,
                None => Change::None,
            }),
            Treatment::Comes => self.change(role, "made", |schedule| match schedule {
                Some(_) => Change::None,
                None => self.recreate(role),
            }),
            Treatment::ByHand => self.change(role, "set by hand", |schedule| {
                let Some(mut schedule) = schedule else {
                    return Change::None;
                };
                schedule.next_run = Some(later(now(), second));
                Change::Store(Box::new(schedule))
            }),
            Treatment::Repeats => self.change(role, "recreated", |schedule| match schedule {
                Some(schedule) if schedule.status == ScheduleStatus::Ended => self.recreate(role),
                _ => Change::None,
            }),
        }
    }

    fn is_paused(&self, role: &Role) -> bool {
        let broker = self.stage.naq.client().broker();
        let read = self
            .stage
            .naq
            .handle()
            .block_on(broker.read_schedule(&role.id()));
        matches!(read, Ok((Some(schedule), _)) if schedule.status == ScheduleStatus::Paused)
    }

    /// Makes a change, with as many retries as conflicts and lost answers take. The bucket shows whether a
    /// change without an answer was stored.
    fn change(&self, role: &Role, what: &str, change: impl Fn(Option<Schedule>) -> Change) {
        let broker = self.stage.naq.client().broker();
        let handle = self.stage.naq.handle();
        let name = role.name;
        while !self.stage.broken() {
            let done = handle.block_on(async {
                let (schedule, revision) = broker.read_schedule(&role.id()).await?;
                match change(schedule) {
                    Change::None => Ok(0),
                    Change::Remove => broker
                        .remove_schedule(&role.id(), revision)
                        .await
                        .map(|()| 0),
                    Change::Store(schedule) => broker.write_schedule(&schedule, revision).await,
                }
            });
            match done {
                Ok(revision) => {
                    return self.stage.note(&format!("{name}: {what}, {revision}"));
                }
                Err(BrokerError::Conflict) => {}
                Err(error) => {
                    self.stage.note(&format!("{name}: not {what}: {error}"));
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// Resumes a schedule as naq does. (A program that writes only the status leaves it to the leader from
/// when on ticks are due; the checker cannot know that.)
fn resume(schedule: &mut Schedule, now: Timestamp) {
    schedule.status = ScheduleStatus::Active;
    schedule.progress.inactive = false;
    continue_from(&mut schedule.progress, now);
}

fn continue_from(progress: &mut ScheduleProgress, now: Timestamp) {
    progress.done_until = progress.done_until.max(now);
}

fn give_cadence(schedule: &mut Schedule, cadence: &str) {
    let cadence: serde_json::Value = serde_json::from_str(cadence).unwrap();
    let mut value = serde_json::to_value(&*schedule).unwrap();
    let fields = value.as_object_mut().unwrap();
    for field in ["every", "cron", "tz"] {
        fields.remove(field);
    }
    fields.extend(cadence.as_object().unwrap().clone());
    *schedule = Schedule::parse(value.to_string().as_bytes()).unwrap();
    let now = now();
    schedule.anchor = schedule.every.map(|_| now);
    continue_from(&mut schedule.progress, now);
}
