//! Measures the dashboard over many records: its memory, its pages, and what it costs the workers.
//!
//! Everything happens on a server of its own, in a folder that is removed afterwards: nobody wants a
//! million records of a measurement among their own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cpu::process_us;
use super::http::{Connection, Site, Viewer};
use super::memory::pss_bytes;
use super::own_server::OwnServer;
use super::process::{Bench, JOBS_PER_S};
use super::program::JobProgram;
use super::records::{Failures, record_id, store_records};
use super::{Args, figure, jobs, median, quantile, show};
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::SyncInterval;
use naq_protocol::Envelope;
use naq_runner::{JobHandle, StopReason};

/// What to measure with.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct WebArgs {
    /// Number of records that the dashboard shows
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    records: u32,
    /// Number of open pages
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=900))]
    viewers: u32,
}

/// Connections that request pages at the same time while the rate is measured.
const CONNECTIONS: usize = 8;

/// Time limit for the dashboard to listen, and to read all records.
const READY_TIME_MAX: Duration = Duration::from_secs(300);

/// The pages, and the answers for programs.
const PATHS: &[&str] = &[
    "/",
    "/jobs",
    "/jobs?q=state:failed",
    "/jobs?q=queue:mail+since:1h",
    "/jobs?q=state:cancelled",
    "/jobs/{job}",
    "/failed",
    "/workers",
    "/schedules",
    "/api/jobs?limit=50",
    "/api/jobs/{job}",
    "/metrics",
];

pub(super) async fn run(session: &Session, args: &Args, web: WebArgs) -> Result<(), Failure> {
    let own = OwnServer::start(session, args, "web", SyncInterval::EverySecond).await?;
    let measured = measure(&own.bench, web, &own.folder).await;
    own.end(measured).await
}

async fn measure(bench: &Bench, web: WebArgs, folder: &Path) -> Result<(), Failure> {
    store_records(bench, web.records, Failures::Some).await?;
    let mut memory = Vec::new();
    let dashboard = Dashboard::start(bench, folder.join("dashboard.token")).await?;
    let indexed_ms = dashboard.wait_indexed(web.records).await?;
    let records = format!("with {} records", web.records);
    memory.push((format!("{records}: ready after"), indexed_ms, "ms"));
    memory.push((records.clone(), dashboard.mib(), "MiB"));
    for asset in dashboard.asset_bytes().await? {
        memory.push(asset);
    }
    let alone = pages(bench, &dashboard.site).await?;
    let viewers = dashboard.viewers(web.viewers).await?;
    let worker = bench.worker(2).await?;
    let load = Load::start(bench)?;
    let watched = pages(bench, &dashboard.site).await?;
    memory.push((
        format!("{records} and {} live viewers", web.viewers),
        dashboard.mib(),
        "MiB",
    ));
    load.stop().await?;
    worker.end().await;
    let closed = viewers.iter().filter(|viewer| !viewer.is_open()).count();
    if closed > 0 {
        return Err(Failure::general(format!(
            "the dashboard closed {closed} of {} streams",
            viewers.len()
        )));
    }
    drop(viewers);
    dashboard.stop().await;
    show_pages(bench.json, &alone, &watched)?;
    let rows: Vec<_> = memory
        .into_iter()
        .map(|(what, value, unit)| vec![what, format!("{value:.1}"), unit.to_owned()])
        .collect();
    show(bench.json, "web", &["dashboard", "value", "unit"], &rows)?;
    throughput(bench, web, folder).await
}

/// A dashboard of the bench's.
struct Dashboard {
    handle: JobHandle,
    pid: u32,
    site: Site,
    begun: Instant,
}

impl Dashboard {
    /// Starts it and waits until it listens.
    async fn start(bench: &Bench, token_file: PathBuf) -> Result<Dashboard, Failure> {
        // free at this moment, which is enough on the loopback address of one machine
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let begun = Instant::now();
        let port = address.port().to_string();
        let command = ["dashboard", "--port", &port];
        let handle = bench.spawn_naq(&command);
        let listening = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = handle.wait() => return Err(Failure::general(format!(
                "the dashboard ended: {}",
                String::from_utf8_lossy(&ended.stderr.head)
            ))),
            listens = tokio::time::timeout(READY_TIME_MAX, listening) => listens.map_err(|_| {
                Failure::general("the dashboard does not listen")
            })?,
        }
        let token = std::fs::read_to_string(token_file)?.trim().to_owned();
        let pid = bench.pid_of(&command)?;
        Ok(Dashboard {
            handle,
            pid,
            site: Site { address, token },
            begun,
        })
    }

    /// Waits until its index has all records. Returns the time since its start, in milliseconds.
    async fn wait_indexed(&self, records: u32) -> Result<f64, Failure> {
        let mut connection = Connection::open(&self.site).await?;
        loop {
            let server = connection.get("/api/server").await?;
            let server: Value = serde_json::from_slice(&server.body)
                .map_err(|error| Failure::general(format!("/api/server: {error}")))?;
            let index = &server["index"];
            if index["state"] == "ready" {
                let found = index["records"].as_u64().unwrap_or_default();
                if found < u64::from(records) {
                    return Err(Failure::general(format!(
                        "the index has {found} of {records} records"
                    )));
                }
                return Ok(self.begun.elapsed().as_secs_f64() * 1e3);
            }
            if self.begun.elapsed() > READY_TIME_MAX {
                return Err(Failure::general(format!("the index is not ready: {index}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn mib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let mib = pss_bytes(self.pid) as f64 / f64::from(1 << 20);
        mib
    }

    async fn viewers(&self, count: u32) -> Result<Vec<Viewer>, Failure> {
        let mut viewers = Vec::new();
        for _ in 0..count {
            viewers.push(Viewer::open(&self.site).await?);
        }
        Ok(viewers)
    }

    /// The size of all scripts and of all styles that a browser loads once.
    async fn asset_bytes(&self) -> Result<Vec<(String, f64, &'static str)>, Failure> {
        let mut connection = Connection::open(&self.site).await?;
        let mut sizes = Vec::new();
        for (what, ending) in [("scripts", ".js"), ("styles", ".css")] {
            let mut bytes = 0;
            for name in crate::web::asset_paths().filter(|path| path.ends_with(ending)) {
                bytes += connection.get(&name).await?.body.len();
            }
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let kib = bytes as f64 / 1024.0;
            sizes.push((format!("{what}, sent once"), kib, "KiB"));
        }
        Ok(sizes)
    }

    async fn stop(self) {
        self.handle.stop(StopReason::Cancel);
        self.handle.wait().await;
    }
}

/// Jobs that are enqueued, and run, while pages are measured, so that viewers have something to see.
struct Load {
    enqueuing: tokio::task::JoinHandle<Result<(), Failure>>,
    stop: tokio::sync::watch::Sender<bool>,
}

/// Jobs a second of the load.
const LOAD_RATE: u32 = 100;

impl Load {
    fn start(bench: &Bench) -> Result<Load, Failure> {
        let queue = bench.client.queue(bench.queue.as_str())?;
        let (stop, mut stopped) = tokio::sync::watch::channel(false);
        let enqueuing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / LOAD_RATE);
            let envelope = Envelope::command("/bin/true", [] as [&str; 0]);
            loop {
                tokio::select! {
                    _ = stopped.changed() => return Ok(()),
                    _ = ticks.tick() => { queue.enqueue(&envelope).await?; }
                }
            }
        });
        Ok(Load { enqueuing, stop })
    }

    async fn stop(self) -> Result<(), Failure> {
        let _ = self.stop.send(true);
        let ended = self.enqueuing.await;
        ended.map_err(|error| Failure::general(error.to_string()))?
    }
}

/// What was measured of one path.
struct Page {
    path: &'static str,
    bytes: usize,
    first_byte_ms: Vec<f64>,
    per_s: f64,
}

/// Requests each page over and over, first over one connection, then over several.
async fn pages(bench: &Bench, site: &Site) -> Result<Vec<Page>, Failure> {
    let job = record_id(0)?.to_string();
    let mut pages = Vec::new();
    for path in PATHS {
        let filled = path.replace("{job}", &job);
        let mut connection = Connection::open(site).await?;
        let time = Duration::from_secs_f64(bench.seconds / 3.0);
        let begun = Instant::now();
        let (mut first_byte_ms, mut bytes) = (Vec::new(), 0);
        while begun.elapsed() < time || first_byte_ms.len() < 20 {
            let answer = connection.get(&filled).await?;
            bytes = answer.body.len();
            first_byte_ms.push(answer.first_byte_ms);
        }
        let per_s = rate(bench, site, &filled).await?;
        pages.push(Page {
            path,
            bytes,
            first_byte_ms,
            per_s,
        });
    }
    Ok(pages)
}

/// Requests a second over several connections.
async fn rate(bench: &Bench, site: &Site, path: &str) -> Result<f64, Failure> {
    let time = Duration::from_secs_f64(bench.seconds / 3.0);
    let begun = Instant::now();
    let one = || async {
        let mut connection = Connection::open(site).await?;
        let mut count = 0_u32;
        while begun.elapsed() < time {
            connection.get(path).await?;
            count += 1;
        }
        Ok::<u32, Failure>(count)
    };
    let counts = futures_util::future::try_join_all((0..CONNECTIONS).map(|_| one())).await?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(f64::from(counts.into_iter().sum::<u32>()) / seconds)
}

fn show_pages(json: bool, alone: &[Page], watched: &[Page]) -> Result<(), Failure> {
    let row = |page: &Page, watched: &Page| {
        let (mut first, mut busy) = (page.first_byte_ms.clone(), watched.first_byte_ms.clone());
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let kib = page.bytes as f64 / 1024.0;
        vec![
            page.path.to_owned(),
            format!("{kib:.1}"),
            format!("{:.2}", quantile(&mut first, 0.5)),
            format!("{:.2}", quantile(&mut first, 0.99)),
            format!("{:.0}", page.per_s),
            format!("{:.2}", quantile(&mut busy, 0.5)),
            format!("{:.2}", quantile(&mut busy, 0.99)),
            format!("{:.0}", watched.per_s),
        ]
    };
    let pairs = alone.iter().zip(watched);
    let rows: Vec<_> = pairs.map(|(page, watched)| row(page, watched)).collect();
    show(
        json,
        "web pages",
        &[
            "page",
            "kib",
            "p50_ms",
            "p99_ms",
            "per_s",
            "watched_p50_ms",
            "watched_p99_ms",
            "watched_per_s",
        ],
        &rows,
    )
}

/// Measures what a job costs without a dashboard, with one that has one open page, and with all viewers: jobs per
/// second, and the processor time of the server and of the dashboard.
async fn throughput(bench: &Bench, web: WebArgs, folder: &Path) -> Result<(), Failure> {
    let counts = [None, Some(1), Some(web.viewers)];
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..bench.rounds {
        for (viewers, costs) in counts.iter().zip(&mut costs) {
            let Some(viewers) = viewers else {
                costs.push(JobCost::measure(bench, None).await?);
                continue;
            };
            let dashboard = Dashboard::start(bench, folder.join("dashboard.token")).await?;
            dashboard.wait_indexed(web.records).await?;
            let open = dashboard.viewers(*viewers).await?;
            costs.push(JobCost::measure(bench, Some(dashboard.pid)).await?);
            drop(open);
            dashboard.stop().await;
        }
    }
    let [without, one, all] = costs.map(|costs| JobCost::median(&costs));
    let rows = [
        ("no dashboard".to_owned(), &without),
        ("a dashboard with one live viewer".to_owned(), &one),
        (
            format!("a dashboard with {} live viewers", web.viewers),
            &all,
        ),
    ]
    .map(|(name, cost)| {
        vec![
            name,
            format!("{:.0}", cost.jobs_per_s),
            format!("{:.2}", cost.jobs_per_s / without.jobs_per_s),
            figure(cost.cpu_us[0], 0),
            figure(cost.cpu_us[1], 0),
        ]
    });
    let header = [
        "16 slots",
        "jobs_per_s",
        "of_without",
        "server_us_per_job",
        "dashboard_us_per_job",
    ];
    show(bench.json, "web throughput", &header, &rows)
}

/// What jobs cost.
struct JobCost {
    jobs_per_s: f64,
    /// Processor time for each job, of the server and of the dashboard, in microseconds.
    cpu_us: [f64; 2],
}

impl JobCost {
    async fn measure(bench: &Bench, dashboard: Option<u32>) -> Result<JobCost, Failure> {
        let count = bench.count_at(JOBS_PER_S, 100);
        let used = || dashboard.map_or(0.0, process_us);
        let before = used();
        let jobs = jobs::run_jobs(bench, 16, count, &JobProgram::usual()).await?;
        Ok(JobCost {
            jobs_per_s: jobs.per_s,
            cpu_us: [jobs.cpu.server, (used() - before) / f64::from(count)],
        })
    }

    fn median(costs: &[JobCost]) -> JobCost {
        let of = |value: fn(&JobCost) -> f64| median(costs.iter().map(value).collect());
        JobCost {
            jobs_per_s: of(|cost| cost.jobs_per_s),
            cpu_us: [of(|cost| cost.cpu_us[0]), of(|cost| cost.cpu_us[1])],
        }
    }
}
