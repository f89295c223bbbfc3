//! The promise of schedules under faults: each tick is enqueued at most once, and none is missed.
//! Schedulers, of which one leads, are killed, suspended past their lease, and die at failpoints, and
//! so do servers, while a controller changes the schedules. A checker computes by itself which ticks
//! were due.

mod check;
mod control;
mod expected;
mod set;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::check::{check, due};
use self::control::Controller;
use self::set::ROLES;
use self::versions::{Version, Versions};
use super::crew::Crew;
use super::jobs::Program;
use super::plan::{Failpoints, SCHEDULER_STEPS, SCHEDULERS_FAULTS, Size, faults};
use super::servers::Servers;
use super::stage::Stage;
use crate::harness::naq::eventually;

/// Number of schedulers, of which one leads.
const SCHEDULERS: usize = 3;

/// How often, in percent, a fault of a scheduler hits the leader.
const LEADER_PERCENT: u32 = 85;

/// Streams whose leaders are the targets of faults.
const STREAMS: &[&str] = &[
    "KV_naq_scheduled_jobs",
    "KV_naq_scheduler_lock",
    "naq_queue_left",
    "KV_naq_results",
];

/// Runs it, and panics with everything that was observed if a promise was broken.
pub(super) fn run(size: Size) {
    let mut chance = StdRng::seed_from_u64(size.seed);
    let plan = faults(&size, SCHEDULERS_FAULTS, &mut chance);
    let mut servers = Servers::start(size.servers, STREAMS);
    let stage = Arc::new(Stage::new("chaos-schedules", size, plan, &servers));
    let (handle, nats) = (stage.naq.handle(), stage.naq.nats());
    let broker = stage.naq.client().broker();
    let mut versions = None;
    eventually("the schedules are watched", || {
        let following = handle.block_on(Versions::follow(broker, nats.clone()));
        versions = following.ok();
        versions.is_some()
    });
    let versions = versions.unwrap();
    let controller = Arc::new(Controller {
        stage: Arc::clone(&stage),
        program: Program::new(&stage.folder),
        is_over: AtomicBool::new(false),
    });
    controller.make_all();
    let workers = Crew::workers(&stage, None).keep(&stage);
    let failpoints = Failpoints::new(SCHEDULER_STEPS, StdRng::seed_from_u64(chance.random()));
    let schedulers = Crew::new(
        ("scheduler", &["standing by", "leading"]),
        |_, _| ["scheduler", "--lock-ttl", "3s"].map(str::to_owned).into(),
        stage.naq.environment(),
        SCHEDULERS,
        Some(failpoints),
    );
    let scheduling = Arc::clone(&schedulers).keep(&stage);
    let watch = {
        let stage = Arc::clone(&stage);
        std::thread::spawn(move || stage.watch())
    };
    let changing = {
        let (controller, seed) = (Arc::clone(&controller), chance.random());
        std::thread::spawn(move || controller.run(seed))
    };
    let pick = |chance: &mut StdRng| {
        let leads = chance.random_ratio(LEADER_PERCENT, 100);
        let any = chance.random_range(0..SCHEDULERS);
        leader(&stage, &schedulers).filter(|_| leads).unwrap_or(any)
    };
    stage.afflict(&schedulers, &mut servers, &mut chance, pick);
    while stage.writes.ended() < size.jobs && !stage.broken() {
        stage.writes.wait(Duration::from_secs(1));
    }
    controller.is_over.store(true, Ordering::Relaxed);
    changing.join().unwrap();
    controller.end_all();
    stage.note("all schedules get an end");
    while !versions.have_ended(ROLES.iter().map(|role| role.name)) && !stage.broken() {
        std::thread::sleep(Duration::from_millis(100));
    }
    stage.note("all schedules have ended");
    // the versions say which jobs the records still lack
    let due = due(&versions.all(), &stage.records());
    stage.wait_for_all(&due);
    let mut seen = stage.close(due, vec![scheduling, workers]);
    watch.join().unwrap();
    let mark = &stage.mark;
    seen.planned = ROLES
        .iter()
        .map(|role| role.planned(&controller.program, mark))
        .collect();
    // each tick of it cancels the job before
    let replaced = |job: &&String| job.starts_with("replacing-");
    seen.cancel_requested = seen.records.keys().filter(replaced).cloned().collect();
    let all = versions.all();
    let verdict = check(&all, &seen.records);
    let started = schedulers.started.load(Ordering::Relaxed);
    let more = format!("\nscheduler processes {started}; {verdict}");
    stage.report(
        &seen,
        &super::check::check(&seen),
        &more,
        verdict.is_good(),
        || {
            let line = |(name, one): (&String, &Version)| format!("{name} {one:?}");
            let each = all
                .iter()
                .flat_map(|(name, versions)| versions.iter().map(move |one| (name, one)));
            vec![
                ("versions", each.map(line).collect()),
                ("versions-breaks", versions.breaks()),
            ]
        },
    );
}

/// The place of the leader. `None` if it cannot be determined.
fn leader(stage: &Stage, schedulers: &Crew) -> Option<usize> {
    let broker = stage.naq.client().broker();
    let until = Instant::now() + Duration::from_secs(5);
    // after a leader was killed, there is none until its lease expires
    loop {
        let lock = stage
            .naq
            .handle()
            .block_on(broker.read_leader_lease())
            .ok()?;
        let pid = lock
            .leader
            .and_then(|leader| i32::try_from(leader.pid).ok());
        let found = pid.and_then(|pid| schedulers.places.iter().position(|one| one.has(pid)));
        if found.is_some() || Instant::now() > until || stage.broken() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
