//! What every run has: its size, its folder, naq and the servers' own history, the faults that were
//! injected, and the observation of the final state.

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
use naq_protocol::{JobId, Record};
use nix::sys::signal::Signal;
use rand::Rng;
use rand::rngs::StdRng;

use super::check::{Records, Seen, Verdict};
use super::crew::Crew;
use super::history::{Process, Writes, processes_with, read_runs};
use super::jobs::{MARK, QUEUES};
use super::plan::{Fault, Size};
use super::servers::Servers;
use crate::harness::naq::{Naq, eventually};
use crate::harness::nats::TEST_TIMEOUT;

/// If no record was stored for this long, the jobs that have not ended are stuck.
const STUCK_AFTER: Duration = Duration::from_secs(90);

/// If no write was observed for this long, the records are read, in case an event was lost with a
/// server.
const QUIET: Duration = Duration::from_secs(10);

/// How long the processes of a killed worker's jobs may take to exit.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// Counts of the faults that were injected.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) producers_killed: AtomicUsize,
    pub(super) cancellers_killed: AtomicUsize,
    /// Deaths at failpoints, by step.
    pub(super) steps: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<BTreeMap<String, usize>>,
}

impl Counts {
    /// Number of processes that were killed, at failpoints or from outside.
    fn kills(&self) -> usize {
        let steps = self.steps.lock().unwrap();
        let faults = self.faults.lock().unwrap();
        let killed = faults.iter().filter(|(name, _)| name.ends_with("killed"));
        steps.values().sum::<usize>()
            + killed.map(|(_, count)| count).sum::<usize>()
            + self.producers_killed.load(Ordering::Relaxed)
            + self.cancellers_killed.load(Ordering::Relaxed)
    }
}

/// State that the threads of a run share.
pub(super) struct Stage {
    pub(super) size: Size,
    pub(super) folder: PathBuf,
    pub(super) naq: Naq,
    pub(super) writes: Writes,
    pub(super) counts: Counts,
    /// The variable's value that marks every process of the run's jobs.
    pub(super) mark: String,
    plan: Vec<Fault>,
    faults_done: AtomicUsize,
    timeline: Mutex<File>,
    troubles: Mutex<Vec<String>>,
    started: Instant,
    ending: AtomicBool,
    broken: AtomicBool,
}

impl Stage {
    /// Creates the folder and the queues of a run with these servers.
    pub(super) fn new(name: &str, size: Size, plan: Vec<Fault>, servers: &Servers) -> Stage {
        let mark = format!("{}-{}", size.seed, std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{mark}"));
        std::fs::create_dir_all(&folder).unwrap();
        let lines: Vec<String> = plan.iter().map(Fault::to_string).collect();
        std::fs::write(
            folder.join("plan"),
            format!("{size:#?}\n{}\n", lines.join("\n")),
        )
        .unwrap();
        let naq = servers.naq();
        for queue in QUEUES {
            servers.make_queue(&naq, queue);
        }
        let writes = naq
            .handle()
            .block_on(Writes::follow(naq.client().broker(), naq.nats().clone()))
            .unwrap();
        Stage {
            size,
            naq,
            writes,
            counts: Counts::default(),
            mark,
            plan,
            faults_done: AtomicUsize::new(0),
            timeline: Mutex::new(File::create(folder.join("timeline")).unwrap()),
            troubles: Mutex::default(),
            started: Instant::now(),
            ending: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            folder,
        }
    }

    /// Writes a line to the run's timeline.
    pub(super) fn note(&self, what: &str) {
        let at = self.started.elapsed().as_secs_f64();
        let mut timeline = self.timeline.lock().unwrap();
        writeln!(timeline, "{at:9.3} {what}").unwrap();
    }

    /// Records something that must not happen, whatever fault is injected.
    pub(super) fn trouble(&self, what: &str) {
        self.note(what);
        self.troubles.lock().unwrap().push(what.to_owned());
    }

    /// Number of jobs that may have been enqueued by now. The faults have to hit running work, so the
    /// producers wait for them.
    pub(super) fn allowed(&self) -> usize {
        let done = self.faults_done.load(Ordering::Relaxed);
        (done + 2) * self.size.jobs / (self.plan.len() + 1)
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Whether no more records are stored, so that waiting is useless.
    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Marks the run as broken once no more records are stored.
    pub(super) fn watch(&self) {
        let mut last = (0, Instant::now());
        while !self.is_ending() {
            std::thread::sleep(Duration::from_millis(500));
            let count = self.writes.count();
            if count != last.0 {
                last = (count, Instant::now());
            } else if last.1.elapsed() > STUCK_AFTER && !self.broken() {
                let ended = self.writes.ended();
                self.note(&format!(
                    "no more records are stored: {ended} jobs have ended"
                ));
                self.broken.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Injects the faults of the plan, spread over the run's progress, into the servers and the processes
    /// of a crew. `pick` chooses the process.
    pub(super) fn afflict(
        self: &Arc<Stage>,
        crew: &Arc<Crew>,
        servers: &mut Servers,
        chance: &mut StdRng,
        mut pick: impl FnMut(&mut StdRng) -> usize,
    ) {
        let mut pauses: Vec<JoinHandle<()>> = Vec::new();
        for (index, fault) in self.plan.iter().enumerate() {
            self.faults_done.store(index, Ordering::Relaxed);
            let due = self.size.jobs * (index + 1) / (self.plan.len() + 1);
            while self.writes.ended() < due && !self.broken() {
                self.writes.wait(Duration::from_secs(1));
            }
            let nth = pick(chance);
            self.note(&format!("fault {index}, {} {nth}: {fault}", crew.name));
            let place = &crew.places[nth];
            let done = match *fault {
                Fault::Kill => place.signal(Signal::SIGKILL).is_some(),
                Fault::End => place.signal(Signal::SIGTERM).is_some(),
                Fault::KillSpawner => place.kill_spawner(chance.random_range(0..16)),
                Fault::Pause(long) => match place.signal(Signal::SIGSTOP) {
                    Some(pid) => {
                        let crew = Arc::clone(crew);
                        pauses.push(std::thread::spawn(move || {
                            std::thread::sleep(long);
                            crew.places[nth].resume(pid);
                        }));
                        true
                    }
                    None => false,
                },
                Fault::KillServer(away) => servers.kill(self, away, chance),
                Fault::PauseServer(long) => servers.pause(self, long, chance),
            };
            if done {
                let name = match fault {
                    Fault::Kill => format!("{}s killed", crew.name),
                    Fault::End => format!("{}s ended", crew.name),
                    Fault::KillSpawner => "spawners killed".to_owned(),
                    Fault::Pause(_) => format!("{}s paused", crew.name),
                    Fault::KillServer(_) => "servers killed".to_owned(),
                    Fault::PauseServer(_) => "servers paused".to_owned(),
                };
                *self.counts.faults.lock().unwrap().entry(name).or_default() += 1;
            }
        }
        self.faults_done.store(self.plan.len(), Ordering::Relaxed);
        for pause in pauses {
            pause.join().unwrap();
        }
        self.note("the plan is done");
    }

    /// Waits until each of these jobs has ended, or the run is broken.
    pub(super) fn wait_for_all(&self, jobs: &BTreeSet<String>) {
        let mut moved = (self.writes.count(), Instant::now());
        loop {
            let missing = self.writes.not_ended(jobs.iter());
            if missing.is_empty() || self.broken() {
                return;
            }
            self.writes.wait(Duration::from_secs(1));
            if self.writes.count() != moved.0 {
                moved = (self.writes.count(), Instant::now());
            } else if moved.1.elapsed() > QUIET {
                let records = self.naq.handle().block_on(records(self.naq.nats()));
                let ended = |job: &String| {
                    records
                        .as_ref()
                        .ok()
                        .and_then(|(records, _)| records.get(job))
                        .is_some_and(|(_, record)| record.state().is_terminal())
                };
                if missing.iter().all(ended) {
                    return;
                }
                moved.1 = Instant::now();
            }
        }
    }

    /// All records at present.
    pub(super) fn records(&self) -> Records {
        let mut found = Records::new();
        eventually("the records can be read", || {
            let read = self.naq.handle().block_on(records(self.naq.nats()));
            read.map(|(records, _)| found = records).is_ok()
        });
        found
    }

    /// Waits until the queues are empty. Returns the number of messages that are left.
    fn drained(&self) -> u64 {
        let until = Instant::now() + TEST_TIMEOUT;
        loop {
            let left = self
                .naq
                .handle()
                .block_on(jobs_left(self.naq.nats()))
                .unwrap_or(u64::MAX);
            if left == 0 || self.broken() || Instant::now() > until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the queues are empty and the jobs' processes have exited, stops `crews`, and collects
    /// everything that was observed of these jobs.
    pub(super) fn close(&self, acknowledged: BTreeSet<String>, crews: Vec<Keeping>) -> Seen {
        let unacknowledged = self.drained();
        // messages that a killed server has restored, and delivers to no worker, are the reconciler's to
        // remove, which every scheduler runs
        let stream_messages = if unacknowledged > 0 && !self.broken() {
            let scheduler = self
                .naq
                .cli(["scheduler", "--reconcile-interval", "2s"])
                .follow();
            let left = self.drained();
            scheduler.stop();
            left
        } else {
            unacknowledged
        };
        let mut left_over = gone(MARK, &self.mark);
        self.ending.store(true, Ordering::Relaxed);
        for keeping in crews {
            keeping.end(self);
        }
        let handle = self.naq.handle();
        let read_all = || {
            handle.block_on(async {
                Ok::<_, async_nats::Error>((
                    records(self.naq.nats()).await?,
                    dead_letters(self.naq.nats()).await?,
                ))
            })
        };
        let mut found = read_all();
        // a server may still be joining the cluster
        eventually("records and failures can be read", || {
            if let Err(error) = &found {
                self.note(&format!("the records cannot be read: {error}"));
                found = read_all();
            }
            found.is_ok()
        });
        let ((records, writes_count), dead_letters) = found.unwrap();
        let queues = handle.block_on(queues(self.naq.nats())).unwrap_or_default();
        std::fs::write(self.folder.join("queues"), queues).unwrap();
        // all processes of naq have exited, so none of their children may run either
        left_over.extend(gone("HOME", &self.naq.home().display().to_string()));
        let queued = acknowledged
            .iter()
            .filter(|job| !records.contains_key(*job))
            .filter(|job| {
                let job = JobId::new(job.as_str()).unwrap();
                let found = handle.block_on(self.naq.client().broker().find_message(&job));
                found.is_ok_and(|found| found.is_some())
            })
            .cloned()
            .collect();
        let runs = std::fs::read_to_string(self.folder.join("runs.log")).unwrap_or_default();
        Seen {
            acknowledged,
            writes: self.writes.all(),
            writes_count,
            records,
            queued,
            stream_messages,
            messages_reconciled: unacknowledged.saturating_sub(stream_messages),
            runs: read_runs(&runs),
            dead_letters,
            left_over,
            ..Seen::default()
        }
    }

    /// Prints the verdict. If a promise was broken, keeps all files and panics.
    pub(super) fn report(
        &self,
        seen: &Seen,
        verdict: &Verdict,
        more: &str,
        more_is_good: bool,
        keep_more: impl FnOnce() -> Vec<(&'static str, Vec<String>)>,
    ) {
        let size = &self.size;
        let kills = self.counts.kills();
        let took = self.started.elapsed().as_secs();
        let text = format!(
            "chaos: seed {}, {} jobs, {} server(s), {} workers, {took} s\n\
             {kills} kills: {:?}, producers killed {}, cancellers {}\n\
             deaths at: {:?}\n{verdict}{more}",
            size.seed,
            size.jobs,
            size.servers,
            size.workers,
            self.counts.faults.lock().unwrap(),
            self.counts.producers_killed.load(Ordering::Relaxed),
            self.counts.cancellers_killed.load(Ordering::Relaxed),
            self.counts.steps.lock().unwrap(),
        );
        let troubles = self.troubles.lock().unwrap();
        let is_good =
            verdict.is_good() && more_is_good && troubles.is_empty() && kills >= size.kills;
        #[expect(clippy::print_stderr, reason = "the figures are what the run is for")]
        {
            eprintln!("{text}");
        }
        if is_good {
            std::fs::remove_dir_all(&self.folder).unwrap();
            return;
        }
        let keep = |name: &str, lines: Vec<String>| {
            std::fs::write(self.folder.join(name), lines.join("\n") + "\n").unwrap();
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
        keep("breaks", self.writes.breaks());
        let planned = seen.planned.iter().map(|job| format!("{job:?}"));
        keep("planned", planned.collect());
        keep("acknowledged", seen.acknowledged.iter().cloned().collect());
        for (name, lines) in keep_more() {
            keep(name, lines);
        }
        panic!(
            "{text}\n{troubles:#?}\nthe plan and the history are in {}; again with NAQ_CHAOS_SEED={}",
            self.folder.display(),
            size.seed
        );
    }
}

/// Number of messages of jobs in the queues, without the rechecks of blocked jobs, which are due only
/// a day later.
async fn jobs_left(nats: &async_nats::Client) -> Result<u64, async_nats::Error> {
    let jetstream = jetstream::new(nats.clone());
    let mut left = 0;
    for queue in QUEUES {
        let stream = jetstream.get_stream(format!("naq_queue_{queue}")).await?;
        let mut subjects = stream.info_with_subjects("naq.>").await?;
        while let Some((subject, count)) = subjects.try_next().await? {
            if !subject.starts_with("naq.recheck.") {
                left += count as u64;
            }
        }
    }
    Ok(left)
}

/// Waits until no process has this variable. Returns those that still have it.
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

/// Every record in the bucket with its revision, and the number of writes.
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

/// The jobs that have a dead letter.
async fn dead_letters(nats: &async_nats::Client) -> Result<BTreeSet<String>, async_nats::Error> {
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

/// The content of the queues, for the investigation of a failure.
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

/// A running crew, and the threads that restart its processes.
pub(super) struct Keeping {
    pub(super) crew: Arc<Crew>,
    pub(super) threads: Vec<JoinHandle<()>>,
}

impl Keeping {
    /// Sends SIGTERM to all processes until they have exited.
    fn end(self, stage: &Stage) {
        let until = Instant::now() + TEST_TIMEOUT;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            for place in &self.crew.places {
                if Instant::now() < until {
                    place.signal(Signal::SIGTERM);
                } else if place.signal(Signal::SIGKILL).is_some() {
                    stage.trouble(&format!("a {} does not end", self.crew.name));
                }
            }
            // a second signal makes a worker stop at once: it has recorded its jobs' outcomes
            std::thread::sleep(Duration::from_secs(1));
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}
