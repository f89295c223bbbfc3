//! Power cuts under load: producers, workers and a scheduler work on a server whose disk loses power. The
//! server is suspended, its file system is shut down without writing anything out, the server is killed,
//! and all starts again from what is on the disk.
//!
//! What was enqueued and acknowledged before a cut and never ran is lost. How old that may be depends on
//! when nats-server flushes; what is enqueued after a cut always runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use naq::local_server::SyncInterval;
use naq_jetstream::BrokerError;
use naq_protocol::{QueueName, Schedule, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::plan::Size;
use crate::harness::disk::Disk;
use crate::harness::naq::{FollowedCli, Naq, Worker, eventually, id};
use crate::harness::nats::{TEST_TIMEOUT, TestOptions, TestServer};
use crate::harness::skipped;

/// Number of jobs that a producer publishes at once.
const BATCH: usize = 20;

/// What a flush may take in addition to the interval between two.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// When nats-server forces its writes to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Always,
    EverySecond,
    /// Every two minutes.
    ServerDefault,
}

impl Tier {
    const ALL: [Tier; 3] = [Tier::Always, Tier::EverySecond, Tier::ServerDefault];

    fn name(self) -> &'static str {
        match self {
            Tier::Always => "`always`",
            Tier::EverySecond => "`1s`",
            Tier::ServerDefault => "nats-server's default, two minutes",
        }
    }

    /// The age of the oldest write that a cut may cost.
    fn loss_max(self) -> Duration {
        match self {
            Tier::Always => Duration::ZERO,
            Tier::EverySecond => Duration::from_secs(1) + FLUSH_MAX,
            Tier::ServerDefault => Duration::from_secs(120) + FLUSH_MAX,
        }
    }

    fn server(self, disk: &Disk) -> TestServer {
        let (sync, extra_config) = match self {
            Tier::Always => (SyncInterval::Always, String::new()),
            Tier::EverySecond => (SyncInterval::EverySecond, String::new()),
            // The later block replaces the one that naq writes.
            Tier::ServerDefault => {
                let store = disk.path();
                let block = format!("jetstream {{\n  store_dir: \"{}\"\n}}\n", store.display());
                (SyncInterval::EverySecond, block)
            }
        };
        TestServer::with(&TestOptions {
            sync,
            extra_config,
            store: Some(disk.path()),
            ..TestOptions::default()
        })
    }
}

/// What the cuts of a tier cost.
#[derive(Debug, Default)]
struct Losses {
    cuts: usize,
    /// Jobs that were acknowledged before a cut, while it came.
    acknowledged: usize,
    /// How many of those never ran.
    lost: usize,
    /// How long before its cut the oldest of those was acknowledged.
    oldest: Duration,
    /// Jobs that ran and have no outcome.
    without_outcome: usize,
    /// Jobs that ran more than once.
    ran_again: usize,
}

/// Cuts the power of each tier, and checks and prints what it cost.
pub(super) fn run(size: Size) {
    let mut measured = Vec::new();
    for tier in Tier::ALL {
        let disk = match Disk::create() {
            Ok(disk) => disk,
            Err(why) => {
                skipped(&format!("power cuts: {why}"));
                return;
            }
        };
        unsynced_bytes_are_lost(&disk);
        measured.push((tier, cut_power(tier, size, &disk)));
    }
    #[expect(clippy::print_stderr, reason = "the figures of the README")]
    {
        eprintln!("{}", table(&measured));
    }
}

/// The control: a cut keeps what was flushed and nothing else.
fn unsynced_bytes_are_lost(disk: &Disk) {
    let file = |name: &str| disk.path().join(name);
    let synced = std::fs::File::create(file("synced")).unwrap();
    std::io::Write::write_all(&mut &synced, b"kept").unwrap();
    synced.sync_all().unwrap();
    std::fs::write(file("unsynced"), "lost").unwrap();
    disk.cut_power();
    drop(synced);
    disk.restore_power();
    assert_eq!(std::fs::read(file("synced")).unwrap(), b"kept");
    let unsynced = std::fs::read(file("unsynced")).unwrap_or_default();
    assert!(unsynced.is_empty(), "unsynced bytes survived the cut");
    std::fs::remove_file(file("synced")).unwrap();
    let _ = std::fs::remove_file(file("unsynced"));
    disk.sync();
}

fn table(measured: &[(Tier, Losses)]) -> String {
    let mut lines = vec![
        "| `sync_interval` | cuts | acknowledged | of these lost | the oldest, before the cut | outcomes lost | run again |"
            .to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for (tier, losses) in measured {
        let oldest = match losses.lost {
            0 => "–".to_owned(),
            _ => format!("{:.1} s", losses.oldest.as_secs_f64()),
        };
        lines.push(format!(
            "| {} | {} | {} | {} | {oldest} | {} | {} |",
            tier.name(),
            losses.cuts,
            losses.acknowledged,
            losses.lost,
            losses.without_outcome,
            losses.ran_again
        ));
    }
    lines.join("\n")
}

/// What runs throughout, whatever the power does.
struct Setup {
    naq: Naq,
    workers: Vec<Worker>,
    scheduler: FollowedCli,
}

fn cut_power(tier: Tier, size: Size, disk: &Disk) -> Losses {
    let mut chance = StdRng::seed_from_u64(size.seed);
    let mut server = tier.server(disk);
    let naq = Naq::new(&server);
    let worker = |labels: &[&str]| {
        let worker = naq.worker(&["build"]).concurrency(size.concurrency);
        let labelled = labels
            .iter()
            .fold(worker, |worker, label| worker.arg("--label").arg(label));
        labelled.spawn()
    };
    let workers = vec![worker(&["gpu=yes"]), worker(&[])];
    let scheduler = naq
        .cli(["scheduler", "--reconcile-interval", "2s"])
        .follow();
    scheduler.expect_stderr("leading");
    let setup = Setup {
        naq,
        workers,
        scheduler,
    };
    let mut losses = Losses::default();
    for cut in 0..size.kills {
        setup.cut_once(tier, cut, &mut server, disk, &mut chance, &mut losses);
    }
    let Setup {
        naq,
        workers,
        scheduler,
    } = setup;
    assert_fences_grow(&naq.home().join("ran"));
    for worker in workers {
        assert!(worker.stop().success());
    }
    assert!(scheduler.stop().success());
    losses
}

impl Setup {
    /// One cut: load, the cut, what comes after it, and the account.
    fn cut_once(
        &self,
        tier: Tier,
        cut: usize,
        server: &mut TestServer,
        disk: &Disk,
        chance: &mut StdRng,
        losses: &mut Losses,
    ) {
        let naq = &self.naq;
        let mut some_time = |ms: std::ops::Range<u64>| {
            std::thread::sleep(Duration::from_millis(chance.random_range(ms)));
        };
        let producer = Producer::start(naq, cut);
        some_time(300..2_000);
        if cut % 2 == 1 {
            // The kernel has just written out what was in memory.
            disk.sync();
            some_time(100..2_000);
        }
        server.pause();
        let cut_at = Instant::now();
        disk.cut_power();
        server.kill9();
        disk.restore_power();
        server.restart();
        let restored_at = Instant::now();
        some_time(300..1_000);
        let acknowledged = producer.stop();
        self.everything_runs(cut);
        self.wait_until_idle();

        let runs = runs(&naq.home().join("ran"));
        let of_this_cut: BTreeSet<&str> = acknowledged.iter().map(|(job, _)| &**job).collect();
        losses.cuts += 1;
        for (job, at) in &acknowledged {
            let is_lost = !runs.contains_key(job);
            assert!(
                !is_lost || *at < restored_at,
                "{job} was enqueued after the power was restored, and does not run"
            );
            losses.acknowledged += usize::from(*at < restored_at);
            if is_lost {
                losses.lost += 1;
                losses.oldest = losses.oldest.max(cut_at.saturating_duration_since(*at));
            }
        }
        for (job, fences) in &runs {
            if of_this_cut.contains(job.as_str()) {
                losses.ran_again += usize::from(fences.len() > 1);
                losses.without_outcome += usize::from(!self.has_outcome(job));
            }
        }
        assert!(losses.oldest <= tier.loss_max(), "{tier:?}: {losses:?}");
        if tier == Tier::Always {
            assert_eq!((losses.lost, losses.without_outcome), (0, 0), "{losses:?}");
        }
    }

    /// Whatever is enqueued after a cut runs: a job, a delayed one, one that requires labels, one that
    /// depends on another, and that of a schedule.
    fn everything_runs(&self, cut: usize) {
        let naq = &self.naq;
        let name = |kind: &str| format!("after-{cut}-{kind}");
        for (kind, fields) in [
            ("plain", json!({})),
            ("routed", json!({"requires": {"gpu": "yes"}})),
            ("dependent", json!({"depends_on": [name("plain")]})),
            ("keyed", json!({"concurrency_key": "one"})),
        ] {
            naq.cli(["enqueue", "-q", "build", "--file", "-"])
                .stdin(format!("{}\n", job(&name(kind), fields)))
                .run()
                .succeeds();
        }
        let delayed = job(&name("delayed"), json!({}));
        naq.cli(["enqueue", "-q", "build", "--in", "1s", "--file", "-"])
            .stdin(format!("{delayed}\n"))
            .run()
            .succeeds();
        let ran = naq.home().join("ran");
        let script = format!("echo $NAQ_SCHEDULE_ID $NAQ_FENCE >> {}", ran.display());
        self.put_schedule(&name("schedule"), &script);
        for kind in [
            "plain",
            "routed",
            "dependent",
            "keyed",
            "delayed",
            "schedule",
        ] {
            let name = name(kind);
            eventually(&format!("{name} runs"), || runs(&ran).contains_key(&name));
        }
    }

    fn put_schedule(&self, name: &str, script: &str) {
        #[expect(clippy::disallowed_methods, reason = "tests are at the edge")]
        let now: Timestamp = SystemTime::now().into();
        let schedule = json!({
            "schedule_id": name, "queue": "build", "envelope": {"script": script},
            "every": 0.5, "repeat": 1, "created_at": now, "progress": {"done_until": now},
        });
        let schedule = Schedule::parse(schedule.to_string().as_bytes()).unwrap();
        let broker = self.naq.client().broker();
        self.naq
            .block_on(broker.write_schedule(&schedule, 0))
            .unwrap();
    }

    /// Waits until no queue has a message: what has not run by now never will.
    fn wait_until_idle(&self) {
        let queue = QueueName::new("build").unwrap();
        let broker = self.naq.client().broker();
        let started = Instant::now();
        let mut left = None;
        while left != Some(0) {
            assert!(
                started.elapsed() < 3 * TEST_TIMEOUT,
                "{left:?} messages left"
            );
            std::thread::sleep(Duration::from_millis(200));
            left = self.naq.block_on(broker.queue_messages(&queue)).ok();
        }
    }

    fn has_outcome(&self, job: &str) -> bool {
        let broker = self.naq.client().broker();
        let read = self.naq.block_on(broker.read_record(&id(job))).unwrap();
        read.0.is_some_and(|record| record.state().is_terminal())
    }
}

/// A job that writes down its id and its fence.
fn job(name: &str, mut fields: serde_json::Value) -> serde_json::Value {
    let all = fields.as_object_mut().unwrap();
    all.insert("job_id".to_owned(), json!(name));
    all.insert(
        "script".to_owned(),
        json!("echo $NAQ_JOB_ID $NAQ_FENCE >> ran; sleep 0.1"),
    );
    fields
}

/// The fences of the runs of each job, in order.
fn runs(ran: &Path) -> BTreeMap<String, Vec<u64>> {
    let mut runs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in std::fs::read_to_string(ran).unwrap_or_default().lines() {
        if let Some((job, fence)) = line.split_once(' ') {
            runs.entry(job.to_owned())
                .or_default()
                .push(fence.parse().unwrap());
        }
    }
    runs
}

fn assert_fences_grow(ran: &Path) {
    for (job, fences) in runs(ran) {
        assert!(fences.is_sorted_by(|a, b| a < b), "{job}: {fences:?}");
    }
}

/// A program that publishes jobs and notes which were acknowledged, and when.
struct Producer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, Instant)>>>,
    publishing: tokio::task::JoinHandle<()>,
    handle: tokio::runtime::Handle,
}

impl Producer {
    fn start(naq: &Naq, cut: usize) -> Producer {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::default();
        let publishing = naq.handle().spawn(publish(
            naq.nats().clone(),
            naq.client().broker().clone(),
            cut,
            Arc::clone(&stop),
            Arc::clone(&acknowledged),
        ));
        Producer {
            stop,
            acknowledged,
            publishing,
            handle: naq.handle().clone(),
        }
    }

    fn stop(self) -> Vec<(String, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        self.handle.block_on(self.publishing).unwrap();
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

async fn publish(
    nats: async_nats::Client,
    broker: naq_jetstream::Broker,
    cut: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(String, Instant)>>>,
) {
    let jetstream = async_nats::jetstream::new(nats);
    let queue = QueueName::new("build").unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let batch = (count..count + BATCH).map(|nth| {
            let (jetstream, acknowledged) = (&jetstream, &acknowledged);
            async move {
                let name = format!("job-{cut}-{nth}");
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", name.as_str());
                let subject = format!("naq.queue.build.{name}");
                let payload = job(&name, json!({})).to_string();
                let published = async {
                    let sent = jetstream.publish_with_headers(subject, headers, payload.into());
                    sent.await.ok()?.await.ok()
                };
                let published = tokio::time::timeout(Duration::from_secs(2), published).await;
                let is_acknowledged = matches!(published, Ok(Some(_)));
                if is_acknowledged {
                    let mut all = acknowledged.lock().unwrap();
                    all.push((name, Instant::now()));
                }
                is_acknowledged
            }
        });
        count += BATCH;
        let done = futures_util::future::join_all(batch).await;
        if !done.iter().all(|acknowledged| *acknowledged) {
            // The queue may be lost. A producer creates it again, as naq's own do.
            match broker.ensure_queue(&queue).await {
                Ok(()) | Err(BrokerError::Timeout(_)) => {}
                Err(error) => tracing::debug!("no queue yet: {error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
