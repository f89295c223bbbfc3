//! A run from its beginning to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::DeliverPolicy, consumer::pull};
use futures_util::{StreamExt, TryStreamExt};
use naq::envelope::{JobId, Record};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::cancels::cancel;
use super::check::{Records, Seen, Verdict, check};
use super::history::{Process, Writes, processes_with, read_runs};
use super::jobs::{Jobs, MARK, QUEUES};
use super::plan::{Failpoints, Fault, Size, faults};
use super::producers::{Ids, produce};
use super::servers::Servers;
use super::workers::{Place, keep};
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::LONG;

/// After so long without a single record being stored, whatever has not ended is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(90);

/// After so long it is asked for, in case its event was lost with a server.
const QUIET: Duration = Duration::from_secs(10);

/// How long what a killed worker ran may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// What was done to whom.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) workers_started: AtomicUsize,
    pub(super) producers_killed: AtomicUsize,
    pub(super) cancellers_killed: AtomicUsize,
    /// Deaths at failpoints, by step.
    pub(super) steps: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<BTreeMap<&'static str, usize>>,
}

/// What the threads of a run share.
pub(super) struct Run {
    pub(super) size: Size,
    pub(super) folder: PathBuf,
    pub(super) naq: Naq,
    pub(super) jobs: Mutex<Jobs>,
    pub(super) writes: Writes,
    pub(super) acknowledged: Ids,
    pub(super) places: Vec<Place>,
    pub(super) failpoints: Mutex<Failpoints>,
    pub(super) producer_kill_chance: f64,
    /// Jobs that someone asked to cancel, and those that naq said it has cancelled.
    pub(super) cancel_asked: Ids,
    pub(super) cancelled: Ids,
    faults_count: usize,
    faults_done: AtomicUsize,
    pub(super) counts: Counts,
    timeline: Mutex<File>,
    troubles: Mutex<Vec<String>>,
    started: Instant,
    enqueued: AtomicBool,
    ending: AtomicBool,
    broken: AtomicBool,
}

impl Run {
    /// Puts a line into the run's history.
    pub(super) fn note(&self, what: &str) {
        let at = self.started.elapsed().as_secs_f64();
        let mut timeline = self.timeline.lock().unwrap();
        writeln!(timeline, "{at:9.3} {what}").unwrap();
    }

    /// Something that must not happen, whatever is done to a process.
    pub(super) fn trouble(&self, what: &str) {
        self.note(what);
        self.troubles.lock().unwrap().push(what.to_owned());
    }

    pub(super) fn acknowledge(&self, job: &str) {
        self.acknowledged.lock().unwrap().insert(job.to_owned());
    }

    /// How many jobs may have been acknowledged by now: the plan's faults are to fall on work, so
    /// the work waits for them.
    pub(super) fn allowed(&self) -> usize {
        let done = self.faults_done.load(Ordering::Relaxed);
        (done + 2) * self.size.jobs / (self.faults_count + 1) + self.batch_max()
    }

    /// The most jobs that a producer enqueues at once.
    pub(super) fn batch_max(&self) -> usize {
        (self.size.jobs / 20).clamp(10, 80)
    }

    /// Whether no more jobs come.
    pub(super) fn all_enqueued(&self) -> bool {
        self.enqueued.load(Ordering::Relaxed) || self.broken()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Whether nothing moves any more, so that there is nothing to wait for.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Runs it, and panics with all there is to know where a promise was broken.
pub(super) fn run(size: Size) {
    let mark = format!("{}-{}", size.seed, std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{mark}"));
    std::fs::create_dir_all(&folder).unwrap();
    let mut chance = StdRng::seed_from_u64(size.seed);
    let plan = faults(&size, &mut chance);
    let lines: Vec<String> = plan.iter().map(Fault::to_string).collect();
    std::fs::write(
        folder.join("plan"),
        format!("{size:#?}\n{}\n", lines.join("\n")),
    )
    .unwrap();
    let mut servers = Servers::start(size.servers);
    let naq = servers.naq();
    for queue in QUEUES {
        servers.make_queue(&naq, queue);
    }
    let writes = naq
        .handle()
        .block_on(Writes::follow(naq.client().broker(), naq.nats().clone()))
        .unwrap();
    let run = Arc::new(Run {
        size,
        naq,
        jobs: Mutex::new(Jobs::new(
            StdRng::seed_from_u64(chance.random()),
            &folder,
            &mark,
        )),
        writes,
        acknowledged: Ids::default(),
        places: (0..size.workers).map(|_| Place::default()).collect(),
        failpoints: Mutex::new(Failpoints::new(StdRng::seed_from_u64(chance.random()))),
        producer_kill_chance: 0.3,
        cancel_asked: Ids::default(),
        cancelled: Ids::default(),
        faults_count: plan.len(),
        faults_done: AtomicUsize::new(0),
        counts: Counts::default(),
        timeline: Mutex::new(File::create(folder.join("timeline")).unwrap()),
        troubles: Mutex::default(),
        started: Instant::now(),
        enqueued: AtomicBool::new(false),
        ending: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        folder,
    });
    let workers: Vec<JoinHandle<()>> = (0..size.workers)
        .map(|index| {
            let run = Arc::clone(&run);
            std::thread::spawn(move || keep(&run, index))
        })
        .collect();
    let producers: Vec<JoinHandle<()>> = (0..3)
        .map(|kind| {
            let (run, seed) = (Arc::clone(&run), chance.random());
            std::thread::spawn(move || produce(&run, kind, seed))
        })
        .collect();
    let watch = {
        let run = Arc::clone(&run);
        std::thread::spawn(move || watch(&run))
    };
    let canceller = {
        let (run, seed) = (Arc::clone(&run), chance.random());
        std::thread::spawn(move || cancel(&run, seed))
    };
    afflict(&run, &mut servers, &plan, &mut chance);
    for producer in producers {
        producer.join().unwrap();
    }
    run.note("everything is enqueued");
    run.enqueued.store(true, Ordering::Relaxed);
    canceller.join().unwrap();
    wait_for_all(&run);
    let messages_left = drained(&run);
    let left_over = gone(MARK, &mark);
    run.ending.store(true, Ordering::Relaxed);
    end_workers(&run, workers);
    watch.join().unwrap();
    let seen = look(&run, messages_left, left_over);
    report(&run, &seen, &check(&seen));
}

/// Says that the run is broken once nothing moves any more.
fn watch(run: &Run) {
    let mut last = (0, Instant::now());
    while !run.is_ending() {
        std::thread::sleep(Duration::from_millis(500));
        let count = run.writes.count();
        if count != last.0 {
            last = (count, Instant::now());
        } else if last.1.elapsed() > STUCK_AFTER && !run.broken() {
            let acknowledged = run.acknowledged.lock().unwrap().len();
            let ended = run.writes.ended();
            run.note(&format!(
                "nothing moves any more: {acknowledged} acknowledged, {ended} ended"
            ));
            run.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Does to them what the plan says, spread over the run's progress.
fn afflict(run: &Arc<Run>, servers: &mut Servers, plan: &[Fault], chance: &mut StdRng) {
    let mut pauses: Vec<JoinHandle<()>> = Vec::new();
    for (index, fault) in plan.iter().enumerate() {
        run.faults_done.store(index, Ordering::Relaxed);
        let due = run.size.jobs * (index + 1) / (plan.len() + 1);
        while run.writes.ended() < due && !run.broken() {
            run.writes.wait(Duration::from_secs(1));
        }
        let nth: usize = chance.random_range(0..run.places.len());
        run.note(&format!("fault {index}, worker {nth}: {fault}"));
        let place = &run.places[nth];
        let done = match *fault {
            Fault::KillWorker => place.signal(Signal::SIGKILL).is_some(),
            Fault::EndWorker => place.signal(Signal::SIGTERM).is_some(),
            Fault::KillSpawner => place.kill_spawner(chance.random_range(0..16)),
            Fault::PauseWorker(long) => match place.signal(Signal::SIGSTOP) {
                Some(pid) => {
                    let run = Arc::clone(run);
                    pauses.push(std::thread::spawn(move || {
                        std::thread::sleep(long);
                        run.places[nth].resume(pid);
                    }));
                    true
                }
                None => false,
            },
            Fault::KillServer(away) => servers.kill(run, away, chance),
            Fault::PauseServer(long) => servers.pause(run, long, chance),
        };
        if done {
            let name = match fault {
                Fault::KillWorker => "workers killed",
                Fault::EndWorker => "workers ended",
                Fault::KillSpawner => "spawners killed",
                Fault::PauseWorker(_) => "workers paused",
                Fault::KillServer(_) => "servers killed",
                Fault::PauseServer(_) => "servers paused",
            };
            *run.counts.faults.lock().unwrap().entry(name).or_default() += 1;
        }
    }
    run.faults_done.store(plan.len(), Ordering::Relaxed);
    for pause in pauses {
        pause.join().unwrap();
    }
    run.note("the plan is done");
}

/// Waits until every acknowledged job has ended, or nothing moves any more.
fn wait_for_all(run: &Run) {
    let acknowledged = run.acknowledged.lock().unwrap().clone();
    let mut moved = (run.writes.count(), Instant::now());
    loop {
        let missing = run.writes.not_ended(acknowledged.iter());
        if missing.is_empty() || run.broken() {
            return;
        }
        run.writes.wait(Duration::from_secs(1));
        if run.writes.count() != moved.0 {
            moved = (run.writes.count(), Instant::now());
        } else if moved.1.elapsed() > QUIET {
            let records = run.naq.handle().block_on(records(run.naq.nats()));
            let ended = |job: &String| {
                records
                    .as_ref()
                    .ok()
                    .and_then(|(records, _)| records.get(job))
                    .is_some_and(|(_, record)| record.state.is_terminal())
            };
            if missing.iter().all(ended) {
                return;
            }
            moved.1 = Instant::now();
        }
    }
}

/// Waits until the queues are empty. Returns how many messages stay.
fn drained(run: &Run) -> u64 {
    let until = Instant::now() + LONG;
    loop {
        let left = run
            .naq
            .handle()
            .block_on(jobs_left(run.naq.nats()))
            .unwrap_or(u64::MAX);
        if left == 0 || run.broken() || Instant::now() > until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// How many messages of jobs the queues hold. What would only wake a job that waits, a day from
/// now, is none.
async fn jobs_left(nats: &async_nats::Client) -> Result<u64, async_nats::Error> {
    let jetstream = jetstream::new(nats.clone());
    let mut left = 0;
    for queue in QUEUES {
        let stream = jetstream.get_stream(format!("naq_queue_{queue}")).await?;
        let mut subjects = stream.info_with_subjects("naq.>").await?;
        while let Some((subject, count)) = subjects.try_next().await? {
            if !subject.starts_with("naq.wake.") {
                left += count as u64;
            }
        }
    }
    Ok(left)
}

/// Waits until no process has this variable. Returns those that stay.
fn gone(variable: &str, value: &str) -> Vec<Process> {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let left = processes_with(variable, value);
        if left.is_empty() || Instant::now() > until {
            return left;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn end_workers(run: &Run, workers: Vec<JoinHandle<()>>) {
    let until = Instant::now() + LONG;
    while workers.iter().any(|worker| !worker.is_finished()) {
        for place in &run.places {
            if Instant::now() < until {
                place.signal(Signal::SIGTERM);
            } else if place.signal(Signal::SIGKILL).is_some() {
                run.trouble("a worker does not end");
            }
        }
        // a second signal is an order to stop at once: they have had their jobs' ends
        std::thread::sleep(Duration::from_secs(1));
    }
    for worker in workers {
        worker.join().unwrap();
    }
}

/// Every record, with its revision, as the bucket has it, and how many writes there were.
async fn records(nats: &async_nats::Client) -> Result<(Records, u64), async_nats::Error> {
    let mut stream = jetstream::new(nats.clone())
        .get_stream("KV_naq_results")
        .await?;
    let writes = stream.info().await?.state.last_sequence;
    let consumer = stream
        .create_consumer(pull::OrderedConfig {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: "$KV.naq_results.>".to_owned(),
            ..pull::OrderedConfig::default()
        })
        .await?;
    let mut pending = consumer.cached_info().num_pending;
    let mut messages = consumer.messages().await?;
    let mut records = Records::new();
    while pending > 0 {
        let Some(message) = messages.next().await else {
            break;
        };
        let message = message?;
        let info = message.info()?;
        pending = info.pending;
        let job_id = message.subject.rsplit('.').next().unwrap_or_default();
        let record = serde_json::from_slice(&message.payload)?;
        records.insert(job_id.to_owned(), (info.stream_sequence, record));
    }
    Ok((records, writes))
}

/// The jobs that the failed stream keeps.
async fn kept(nats: &async_nats::Client) -> Result<BTreeSet<String>, async_nats::Error> {
    let stream = jetstream::new(nats.clone())
        .get_stream("naq_failed_jobs")
        .await?;
    let subjects: Vec<(String, usize)> = stream
        .info_with_subjects("naq.failed.>")
        .await?
        .try_collect()
        .await?;
    Ok(subjects
        .iter()
        .filter_map(|(subject, _)| Some(subject.rsplit('.').next()?.to_owned()))
        .collect())
}

/// How the queues stand, for who looks into a failure.
async fn queues(nats: &async_nats::Client) -> Result<String, async_nats::Error> {
    use std::fmt::Write;
    let jetstream = jetstream::new(nats.clone());
    let mut text = String::new();
    for queue in QUEUES {
        let stream = jetstream.get_stream(format!("naq_queue_{queue}")).await?;
        let state = &stream.cached_info().state;
        writeln!(text, "{queue}: {state:?}")?;
        for sequence in state.first_sequence..=state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                let (subject, headers) = (message.subject, message.headers);
                writeln!(text, "{sequence}: {subject} {headers:?}")?;
            }
        }
        let mut consumers = stream.consumers();
        while let Some(consumer) = consumers.try_next().await? {
            writeln!(text, "{consumer:?}")?;
        }
    }
    Ok(text)
}

/// Gathers everything that was seen.
fn look(run: &Run, messages_left: u64, mut left_over: Vec<Process>) -> Seen {
    let handle = run.naq.handle();
    let looking = || {
        handle.block_on(async {
            Ok::<_, async_nats::Error>((
                records(run.naq.nats()).await?,
                kept(run.naq.nats()).await?,
            ))
        })
    };
    let mut looked = looking();
    // a server may still be finding its place in the cluster
    eventually("records and failures can be read", || {
        if let Err(error) = &looked {
            run.note(&format!("the records cannot be read: {error}"));
            looked = looking();
        }
        looked.is_ok()
    });
    let ((records, writes_count), kept) = looked.unwrap();
    let queues = handle.block_on(queues(run.naq.nats())).unwrap_or_default();
    std::fs::write(run.folder.join("queues"), queues).unwrap();
    // the workers have ended: nothing of theirs may be there either
    left_over.extend(gone("HOME", &run.naq.home().display().to_string()));
    let acknowledged = run.acknowledged.lock().unwrap().clone();
    let queued = acknowledged
        .iter()
        .filter(|job| !records.contains_key(*job))
        .filter(|job| {
            let job = JobId::new(job.as_str()).unwrap();
            let found = handle.block_on(run.naq.client().broker().find_message(&job));
            found.is_ok_and(|found| found.is_some())
        })
        .cloned()
        .collect();
    let runs = std::fs::read_to_string(run.folder.join("runs.log")).unwrap_or_default();
    Seen {
        planned: run.jobs.lock().unwrap().made().to_vec(),
        acknowledged,
        writes: run.writes.all(),
        writes_count,
        records,
        queued,
        messages_left,
        runs: read_runs(&runs),
        cancel_asked: run.cancel_asked.lock().unwrap().clone(),
        cancelled: run.cancelled.lock().unwrap().clone(),
        kept,
        left_over,
    }
}

/// Says how it went. Where a promise was broken, keeps everything and panics.
fn report(run: &Run, seen: &Seen, verdict: &Verdict) {
    let faults = run.counts.faults.lock().unwrap();
    let steps = run.counts.steps.lock().unwrap();
    let at_steps: usize = steps.values().sum();
    let producers = run.counts.producers_killed.load(Ordering::Relaxed);
    let cancellers = run.counts.cancellers_killed.load(Ordering::Relaxed);
    let kills = at_steps
        + producers
        + cancellers
        + faults
            .iter()
            .filter(|(name, _)| name.ends_with("killed"))
            .map(|(_, count)| count)
            .sum::<usize>();
    let size = &run.size;
    let took = run.started.elapsed().as_secs();
    let text = format!(
        "chaos: seed {}, {} jobs, {} server(s), {} workers, {took} s\n\
         {kills} kills: {faults:?}, at failpoints {at_steps}, producers killed {producers}, cancellers {cancellers}, worker processes {}\n\
         deaths at: {steps:?}\n{verdict}",
        size.seed,
        size.jobs,
        size.servers,
        size.workers,
        run.counts.workers_started.load(Ordering::Relaxed),
    );
    let troubles = run.troubles.lock().unwrap();
    let is_good = verdict.is_good() && troubles.is_empty() && kills >= size.kills;
    #[expect(clippy::print_stderr, reason = "the figures are what the run is for")]
    {
        eprintln!("{text}");
    }
    if is_good {
        std::fs::remove_dir_all(&run.folder).unwrap();
        return;
    }
    let keep = |name: &str, lines: Vec<String>| {
        std::fs::write(run.folder.join(name), lines.join("\n") + "\n").unwrap();
    };
    keep("verdict", vec![text.clone()]);
    let line = |(job, writes)| format!("{job} {writes:?}");
    keep("writes", seen.writes.iter().map(line).collect());
    let line = |(job, (revision, record)): (&String, &(u64, Record))| {
        format!(
            "{job} {revision} {}",
            serde_json::to_string(record).unwrap()
        )
    };
    keep("records", seen.records.iter().map(line).collect());
    keep("breaks", run.writes.breaks());
    let planned = seen.planned.iter().map(|job| format!("{job:?}"));
    keep("planned", planned.collect());
    keep("acknowledged", seen.acknowledged.iter().cloned().collect());
    panic!(
        "{text}\n{troubles:#?}\nthe plan and the history are in {}; again with NAQ_CHAOS_SEED={}",
        run.folder.display(),
        size.seed
    );
}
