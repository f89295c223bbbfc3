//! Measures the time from the enqueue of a job to its stored result on an idle worker, by hop and next to
//! the least that it could take, and the time that a `naq enqueue` process takes.
//!
//! The least, the *floor*, is one publish that the server acknowledges, and the start and end of the program.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::job_times::{JobTimes, between_ms};
use super::process::{Bench, PAUSE, Worker};
use super::program::{JobProgram, payload};
use super::spawn_limit::SpawnLimit;
use super::static_program::read_clock;
use super::{figure, quantile, show};
use crate::cli::exit::Failure;
use crate::cli::render;
use naq_client::{JobFilter, Queue, QueueSettings};
use naq_protocol::{JobId, Record, State};

/// How often each process of the command line is started in a round of one second.
const COLD_STARTS_PER_S: f64 = 20.0;

/// Times in milliseconds.
type Times = Vec<f64>;

/// What was measured of one program.
#[derive(Default)]
struct Program {
    name: String,
    /// From its start to its end without naq: the median and the 99th percentile of each round.
    floor: Vec<SpawnLimit>,
    /// From enqueue to stored result.
    jobs: Times,
}

/// The hops of a job, in their order.
const HOPS: [&str; 6] = [
    "sent: stored by the server",
    "sent: acknowledged to the producer",
    "stored: delivered and claimed",
    "claimed: program started",
    "program started: ended and result stored",
    "result stored: seen by the producer",
];

pub(super) async fn run(bench: &Bench) -> Result<(), Failure> {
    let floor_queue = bench.client.queue(format!("{}-floor", bench.queue))?;
    floor_queue.add(&QueueSettings::default()).await?;
    let measured = Measured::all(bench, &floor_queue).await;
    floor_queue.remove().await?;
    measured?.show(bench)
}

/// Everything that was measured.
#[derive(Default)]
struct Measured {
    publish: Times,
    programs: Vec<Program>,
    hops: [Times; 6],
    nothing_process: Times,
    enqueue_process: Times,
}

impl Measured {
    async fn all(bench: &Bench, floor_queue: &Queue) -> Result<Measured, Failure> {
        let mut measured = Measured::default();
        let (nothing, clock) = match (
            JobProgram::nothing(bench).await?,
            JobProgram::clock(bench).await?,
        ) {
            (Ok(nothing), Ok(clock)) => (Some(nothing), Some(clock)),
            (Err(reason), _) | (_, Err(reason)) => {
                render::note(format_args!("without the hops of a job: {reason}"));
                (None, None)
            }
        };
        let programs: Vec<JobProgram> = [Some(JobProgram::usual()), nothing]
            .into_iter()
            .flatten()
            .collect();
        let named = programs.iter().map(|program| Program {
            name: program.name.clone(),
            ..Program::default()
        });
        measured.programs = named.collect();
        for _ in 0..bench.rounds {
            for (at, program) in programs.iter().enumerate() {
                let floor = SpawnLimit::measure(bench, 1, program, PAUSE).await?;
                measured.programs[at].floor.push(floor);
                measured.jobs(bench, at, program, floor_queue).await?;
            }
            if let Some(clock) = &clock {
                measured.hops(bench, clock).await?;
            }
            measured
                .processes(bench, floor_queue.name().as_str())
                .await?;
        }
        Ok(measured)
    }

    /// Measures jobs of a program one at a time, and a publish before each.
    async fn jobs(
        &mut self,
        bench: &Bench,
        at: usize,
        program: &JobProgram,
        floor_queue: &Queue,
    ) -> Result<(), Failure> {
        let worker = bench.worker(2).await?;
        let payload = program.payload()?;
        let begun = Instant::now();
        let mut count = 0;
        while count == 0 || begun.elapsed() < time(bench) {
            tokio::time::sleep(PAUSE).await;
            let sent = Instant::now();
            let broker = bench.client.broker();
            broker
                .publish_unchecked(floor_queue.name(), &payload)
                .await?;
            self.publish.push(millis(sent));
            tokio::time::sleep(PAUSE).await;
            let took = bench.enqueue_to_result(&payload).await?;
            self.programs[at].jobs.push(took);
            count += 1;
        }
        floor_queue.purge().await?;
        worker.end().await;
        Ok(())
    }

    /// Measures the hops of jobs whose program writes when it runs.
    async fn hops(&mut self, bench: &Bench, clock: &JobProgram) -> Result<(), Failure> {
        let worker: Worker = bench.worker(2).await?;
        let queue = bench.client.queue(bench.queue.as_str())?;
        let mut events = bench.client.events(&JobFilter::default()).await?;
        let begun = Instant::now();
        let mut count = 0;
        while count == 0 || begun.elapsed() < time(bench) {
            tokio::time::sleep(PAUSE).await;
            let mut envelope = clock.envelope();
            let job_id = JobId::generate();
            envelope.job_id = Some(job_id.clone());
            let payload = payload(&envelope)?;
            let sent = now_ns()?;
            queue.enqueue_new(job_id.clone(), payload).await?;
            let acknowledged = now_ns()?;
            let mut times = JobTimes::read(&mut events, &job_id).await?;
            let seen = now_ns()?;
            times.ran = ran_at(&bench.client.fetch_job(&job_id).await?)?;
            let took = hops(&times, sent, acknowledged, seen);
            for (hop, took) in self.hops.iter_mut().zip(took) {
                hop.extend(took);
            }
            count += 1;
        }
        worker.end().await;
        Ok(())
    }

    /// Measures processes of the command line.
    async fn processes(&mut self, bench: &Bench, queue: &str) -> Result<(), Failure> {
        let count = bench.count_at(COLD_STARTS_PER_S, 2).min(100);
        for _ in 0..count {
            let sent = Instant::now();
            bench.spawn_naq(&["schema"]).wait().await;
            self.nothing_process.push(millis(sent));
            let sent = Instant::now();
            let command = ["enqueue", "--queue", queue, "--", "/bin/true"];
            let ended = bench.spawn_naq(&command).wait().await;
            if ended.end != naq_runner::Termination::Exited(0) {
                return Err(Failure::general(format!(
                    "naq enqueue failed: {}",
                    String::from_utf8_lossy(&ended.stderr.head)
                )));
            }
            self.enqueue_process.push(millis(sent));
        }
        Ok(())
    }

    fn show(mut self, bench: &Bench) -> Result<(), Failure> {
        let mut rows = Vec::new();
        let publish = [0.5, 0.99].map(|part| quantile(&mut self.publish, part));
        rows.push(row("floor: one acknowledged publish", publish, f64::NAN));
        for program in &mut self.programs {
            let floor = SpawnLimit::median(&program.floor);
            let ended = [floor.p50_ms, floor.p99_ms];
            let floor = publish[0] + ended[0];
            let jobs = [0.5, 0.99].map(|part| quantile(&mut program.jobs, part));
            let name = &program.name;
            rows.push(row(
                &format!("floor: start and end of {name}"),
                ended,
                f64::NAN,
            ));
            let what = format!("enqueue to stored result, idle worker, {name}");
            rows.push(row(&what, jobs, jobs[0] / floor));
        }
        let nothing = [0.5, 0.99].map(|part| quantile(&mut self.nothing_process, part));
        let enqueue = [0.5, 0.99].map(|part| quantile(&mut self.enqueue_process, part));
        rows.push(row(
            "floor: a naq process that does nothing",
            nothing,
            f64::NAN,
        ));
        rows.push(row(
            "cold `naq enqueue` process",
            enqueue,
            enqueue[0] / nothing[0],
        ));
        let header = ["latency", "p50_ms", "p99_ms", "of_floor"];
        show(bench.json, "latency", &header, &rows)?;
        let hops = HOPS.iter().zip(&mut self.hops);
        let hops = hops.filter(|(_, times)| !times.is_empty());
        let rows: Vec<_> = hops
            .map(|(name, times)| {
                let figures = [0.5, 0.99].map(|part| figure(quantile(times, part), 3));
                [(*name).to_owned()].into_iter().chain(figures).collect()
            })
            .collect();
        match rows.is_empty() {
            true => Ok(()),
            false => show(
                bench.json,
                "latency hops",
                &["hop", "p50_ms", "p99_ms"],
                &rows,
            ),
        }
    }
}

fn row(name: &str, [p50, p99]: [f64; 2], of_floor: f64) -> Vec<String> {
    vec![
        name.to_owned(),
        figure(p50, 3),
        figure(p99, 3),
        figure(of_floor, 2),
    ]
}

/// The hops in milliseconds, as [`HOPS`] names them. `None` if one of its ends is not known.
fn hops(times: &JobTimes, sent: i64, acknowledged: i64, seen: i64) -> [Option<f64>; 6] {
    [
        between_ms(Some(sent), times.stored),
        between_ms(Some(sent), Some(acknowledged)),
        between_ms(times.stored, times.claimed),
        between_ms(times.claimed, times.ran),
        between_ms(times.ran, times.recorded),
        between_ms(times.recorded, Some(seen)),
    ]
}

/// When the program ran, by its own output.
fn ran_at(record: &Record) -> Result<Option<i64>, Failure> {
    if record.state() != State::Succeeded {
        let job = &record.job_id;
        return Err(Failure::general(format!("the job {job} failed")));
    }
    let output = record.stdout.as_ref();
    Ok(output.and_then(|output| read_clock(&output.head_bytes())))
}

/// The time, by the clock that the server uses too.
fn now_ns() -> Result<i64, Failure> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).map_err(std::io::Error::from)?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}

/// How long each measurement of a round takes.
fn time(bench: &Bench) -> Duration {
    Duration::from_secs_f64(bench.seconds)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
