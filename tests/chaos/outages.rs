//! Outages and partitions: each worker reaches the server through a proxy that is cut in all ways,
//! one worker's or all, the server is killed and suspended, and workers are stopped past their
//! leases. A checker reads the logs of all runs and counts the jobs that ran twice at once.

use std::path::Path;
use std::time::{Duration, Instant};

use naq_protocol::{JobId, QueueName, State};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::plan::Size;
use crate::harness::cluster::Cluster;
use crate::harness::naq::{Naq, Worker, eventually};
use crate::harness::nats::TestServer;
use crate::harness::proxy::{Link, Proxy};

const ACK_WAIT: Duration = Duration::from_secs(2);

/// A fault; it lasts for 0.5 to 5 times `ack_wait`.
#[derive(Clone, Copy, Debug)]
enum Outage {
    CutOne(usize, Link),
    CutAll(Link),
    StopWorker(usize),
    KillServer(usize),
    PauseServer(usize),
}

fn draw(size: &Size, chance: &mut StdRng) -> (Outage, Duration) {
    let links = [
        Link::Silent,
        Link::ToServerOnly,
        Link::ToClientOnly,
        Link::Reset,
    ];
    let link = links[chance.random_range(0..links.len())];
    let worker = chance.random_range(0..size.workers);
    let node = chance.random_range(0..size.servers);
    let outage = match chance.random_range(0..10) {
        0..4 => Outage::CutOne(worker, link),
        4..6 => Outage::CutAll(link),
        6 => Outage::StopWorker(worker),
        7..9 => Outage::KillServer(node),
        _ => Outage::PauseServer(node),
    };
    let long = ACK_WAIT.mul_f64(chance.random_range(0.5..5.0));
    (outage, long)
}

/// One server, or three in a cluster.
enum Servers {
    One(Box<TestServer>),
    Three(Cluster),
}

impl Servers {
    fn start(count: usize) -> Servers {
        match count {
            1 => Servers::One(Box::new(TestServer::start())),
            count => Servers::Three(Cluster::start(count)),
        }
    }

    fn naq(&self) -> Naq {
        match self {
            Servers::One(server) => Naq::new(server),
            Servers::Three(cluster) => Naq::with_cluster(cluster),
        }
    }

    fn ports(&self) -> Vec<u16> {
        match self {
            Servers::One(server) => vec![server.port()],
            Servers::Three(cluster) => (0..cluster.len()).map(|node| cluster.port(node)).collect(),
        }
    }

    fn kill9(&mut self, node: usize) {
        match self {
            Servers::One(server) => server.kill9(),
            Servers::Three(cluster) => cluster.kill9(node),
        }
    }

    fn restart(&mut self, node: usize) {
        match self {
            Servers::One(server) => server.restart(),
            Servers::Three(cluster) => cluster.restart_node(node),
        }
    }

    fn pause(&self, node: usize) {
        match self {
            Servers::One(server) => server.pause(),
            Servers::Three(cluster) => cluster.pause(node),
        }
    }

    fn resume(&self, node: usize) {
        match self {
            Servers::One(server) => server.resume(),
            Servers::Three(cluster) => cluster.resume(node),
        }
    }
}

/// A worker, and its proxy to each server.
struct Place {
    proxies: Vec<Proxy>,
    worker: Worker,
}

impl Place {
    fn set(&mut self, link: Link) {
        for proxy in &mut self.proxies {
            proxy.set(link);
        }
    }
}

/// Writes down when it began, all the time that it lives, and that it has ended.
const SCRIPT: &str = r#"l=runs/$NAQ_JOB_ID.$NAQ_FENCE; date +%s%N > $l
n=0; while [ $n -lt $1 ]; do n=$((n+1)); sleep 0.05; date +%s%N >> $l; done; echo end >> $l"#;

/// Runs jobs through a number of outages, and checks what they left.
pub(super) fn run(size: Size) {
    let mut chance = StdRng::seed_from_u64(size.seed);
    let mut servers = Servers::start(size.servers);
    let naq = servers.naq();
    let queue = QueueName::new("build").unwrap();
    eventually("the servers have a leader", || {
        let broker = naq.client().broker();
        naq.handle().block_on(broker.ensure_queue(&queue)).is_ok()
    });
    std::fs::create_dir(naq.home().join("runs")).unwrap();
    let mut places: Vec<Place> = (0..size.workers)
        .map(|_| {
            let proxies: Vec<Proxy> = servers.ports().into_iter().map(Proxy::start).collect();
            let urls: Vec<String> = proxies.iter().map(Proxy::url).collect();
            let worker = naq
                .worker(&["build"])
                .concurrency(size.concurrency)
                .ack_wait(&format!("{}ms", ACK_WAIT.as_millis()))
                .arg("--max-worker-crashes=1000000")
                .env("NAQ_NATS_URL", &urls.join(","))
                .spawn();
            Place { proxies, worker }
        })
        .collect();
    let jobs: Vec<JobId> = (0..size.jobs)
        .map(|nth| {
            let steps = chance.random_range(5..80).to_string();
            let job = serde_json::json!({ "script": SCRIPT, "args": [steps], "max_retries": 0 });
            let id = format!("j{nth}");
            let subject = format!("naq.queue.build.{id}");
            naq.publish_to("build", &subject, job.to_string().into_bytes());
            crate::harness::naq::id(&id)
        })
        .collect();
    let mut plan = Vec::new();
    for _ in 0..size.kills {
        let (outage, long) = draw(&size, &mut chance);
        plan.push(format!("{outage:?} for {long:?}"));
        apply(outage, long, &mut servers, &mut places);
        std::thread::sleep(ACK_WAIT.mul_f64(chance.random_range(0.0..1.5)));
    }
    let mut failed = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60 + size.jobs as u64);
    for job in &jobs {
        loop {
            let record = naq.block_on(naq.client().broker().read_record(job));
            match record {
                Ok((Some(record), _)) if record.state().is_terminal() => {
                    if record.state() != State::Succeeded {
                        failed.push(format!("{job}: {record:?}"));
                    }
                    break;
                }
                _ if Instant::now() > deadline => {
                    failed.push(format!("{job}: not ended: {record:?}"));
                    break;
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
    let overlaps = overlaps(&naq.home().join("runs"));
    assert!(
        overlaps.is_empty() && failed.is_empty(),
        "seed {}: {} overlaps {overlaps:#?}, {} failed {failed:#?}\n{plan:#?}",
        size.seed,
        overlaps.len(),
        failed.len()
    );
    naq.wait_drained("build");
    for place in places {
        assert!(place.worker.stop().success());
    }
}

fn apply(outage: Outage, long: Duration, servers: &mut Servers, places: &mut [Place]) {
    match outage {
        Outage::CutOne(worker, link) => {
            places[worker].set(link);
            std::thread::sleep(long);
            places[worker].set(Link::Open);
        }
        Outage::CutAll(link) => {
            for place in places.iter_mut() {
                place.set(link);
            }
            std::thread::sleep(long);
            for place in places {
                place.set(Link::Open);
            }
        }
        Outage::StopWorker(worker) => {
            places[worker].worker.signal(Signal::SIGSTOP);
            std::thread::sleep(long);
            places[worker].worker.signal(Signal::SIGCONT);
        }
        Outage::KillServer(node) => {
            // as the workers see it when nothing listens at the server's address
            for place in places.iter_mut() {
                place.proxies[node].set(Link::Refused);
            }
            servers.kill9(node);
            std::thread::sleep(long);
            servers.restart(node);
            // some reconnect later than others
            for place in places {
                place.proxies[node].set(Link::Open);
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        Outage::PauseServer(node) => {
            servers.pause(node);
            std::thread::sleep(long);
            servers.resume(node);
        }
    }
}

/// The pairs of runs of one job of which the second began before the first was dead.
fn overlaps(folder: &Path) -> Vec<String> {
    let mut runs: std::collections::BTreeMap<String, Vec<(u64, u64)>> = Default::default();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let (job, _fence) = name.split_once('.').unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        // a process that was killed may have left half a line
        let times: Vec<u64> = text
            .lines()
            .filter(|line| line.len() == 19)
            .map(|line| line.parse().unwrap())
            .collect();
        if let (Some(first), Some(last)) = (times.first(), times.last()) {
            runs.entry(job.to_owned())
                .or_default()
                .push((*first, *last));
        }
    }
    let mut found = Vec::new();
    for (job, mut runs) in runs {
        runs.sort_unstable();
        for pair in runs.windows(2) {
            if pair[0].1 >= pair[1].0 {
                let ms = (pair[0].1 - pair[1].0) / 1_000_000;
                found.push(format!("{job}: for {ms} ms: {pair:?}"));
            }
        }
    }
    found
}

#[test]
fn the_checker_of_runs_finds_an_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, times: [u64; 2]| {
        let at = |ms: u64| 1_800_000_000_000_000_000 + ms * 1_000_000;
        let text = format!("{}\n{}\n{}", at(times[0]), at(times[1]), 18);
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write("a.5", [0, 100]);
    write("a.9", [101, 200]);
    write("b.6", [0, 50]);
    assert!(overlaps(folder.path()).is_empty());
    write("b.7", [40, 60]);
    assert_eq!(overlaps(folder.path()).len(), 1);
}
