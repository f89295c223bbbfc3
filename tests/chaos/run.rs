//! A run of jobs, from its start to its verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::cancels::cancel;
use super::check::check;
use super::crew::Crew;
use super::jobs::Jobs;
use super::plan::{Failpoints, STEPS, Size, WORKERS_FAULTS, faults};
use super::producers::{Ids, produce};
use super::servers::Servers;
use super::stage::Stage;

/// State that the threads of a run of jobs share.
pub(super) struct Run {
    pub(super) stage: Arc<Stage>,
    pub(super) jobs: Mutex<Jobs>,
    pub(super) acknowledged: Ids,
    pub(super) producer_kill_chance: f64,
    /// Jobs whose cancellation was requested, and those that naq reported as cancelled.
    pub(super) cancel_requested: Ids,
    pub(super) cancelled: Ids,
    enqueued: AtomicBool,
}

/// Streams whose leaders are the targets of faults.
const STREAMS: &[&str] = &["KV_naq_results", "naq_queue_left", "naq_queue_right"];

impl Run {
    pub(super) fn acknowledge(&self, job: &str) {
        self.acknowledged.lock().unwrap().insert(job.to_owned());
    }

    /// Number of jobs that may have been acknowledged by now.
    pub(super) fn allowed(&self) -> usize {
        self.stage.allowed() + self.batch_max()
    }

    /// The largest number of jobs that a producer enqueues at once.
    pub(super) fn batch_max(&self) -> usize {
        (self.stage.size.jobs / 20).clamp(10, 80)
    }

    /// Whether no more jobs are enqueued.
    pub(super) fn all_enqueued(&self) -> bool {
        self.enqueued.load(Ordering::Relaxed) || self.stage.broken()
    }
}

/// Runs it, and panics with everything that was observed if a promise was broken.
pub(super) fn run(size: Size) {
    let mut chance = StdRng::seed_from_u64(size.seed);
    let plan = faults(&size, WORKERS_FAULTS, &mut chance);
    let mut servers = Servers::start(size.servers, STREAMS);
    let stage = Arc::new(Stage::new("chaos", size, plan, &servers));
    let jobs = Jobs::new(
        StdRng::seed_from_u64(chance.random()),
        &stage.folder,
        &stage.mark,
    );
    let failpoints = Failpoints::new(STEPS, StdRng::seed_from_u64(chance.random()));
    let run = Arc::new(Run {
        stage: Arc::clone(&stage),
        jobs: Mutex::new(jobs),
        acknowledged: Ids::default(),
        producer_kill_chance: 0.3,
        cancel_requested: Ids::default(),
        cancelled: Ids::default(),
        enqueued: AtomicBool::new(false),
    });
    let workers = Crew::workers(&stage, Some(failpoints));
    let working = Arc::clone(&workers).keep(&stage);
    let producers: Vec<JoinHandle<()>> = (0..3)
        .map(|kind| {
            let (run, seed) = (Arc::clone(&run), chance.random());
            std::thread::spawn(move || produce(&run, kind, seed))
        })
        .collect();
    let watch = {
        let stage = Arc::clone(&stage);
        std::thread::spawn(move || stage.watch())
    };
    let canceller = {
        let (run, seed) = (Arc::clone(&run), chance.random());
        std::thread::spawn(move || cancel(&run, seed))
    };
    let any = |chance: &mut StdRng| chance.random_range(0..size.workers);
    stage.afflict(&workers, &mut servers, &mut chance, any);
    for producer in producers {
        producer.join().unwrap();
    }
    stage.note("everything is enqueued");
    run.enqueued.store(true, Ordering::Relaxed);
    canceller.join().unwrap();
    let acknowledged = run.acknowledged.lock().unwrap().clone();
    stage.wait_for_all(&acknowledged);
    let mut seen = stage.close(acknowledged, vec![working]);
    watch.join().unwrap();
    seen.planned = run.jobs.lock().unwrap().made().to_vec();
    seen.cancel_requested = run.cancel_requested.lock().unwrap().clone();
    seen.cancelled = run.cancelled.lock().unwrap().clone();
    let started = workers.started.load(Ordering::Relaxed);
    let more = format!("\nworker processes {started}");
    stage.report(&seen, &check(&seen), &more, true, Vec::new);
}
