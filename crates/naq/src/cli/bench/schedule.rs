//! Measures how late ticks are, how fast a burst is enqueued, how long a failover takes, and how
//! much memory the leader uses.

use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::memory::pss_bytes;
use super::process::Bench;
use super::{quantile, show};
use crate::cli::exit::Failure;
use crate::cli::render;
use naq_client::{BrokerError, QueueSettings};
use naq_protocol::units::WireDuration;
use naq_protocol::{
    Envelope, Misfire, Overlap, Schedule, ScheduleId, ScheduleProgress, ScheduleStatus, Timestamp,
};
use naq_runner::{JobHandle, StopReason};

/// Maximum number of requests in flight.
const REQUESTS_IN_FLIGHT_MAX: usize = 1_000;

/// Maximum time until a scheduler leads, or has caught up.
const LEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// Time after which the leader lock of a killed scheduler has expired.
const LOCK_EXPIRY_MAX: Duration = Duration::from_secs(12);

/// Number of schedules of the first measurement, and the interval of each: 1,000 ticks a second.
const STEADY_LOAD: (i64, Duration) = (10_000, Duration::from_secs(10));

/// Interval of the probe, the schedule whose ticks show that a scheduler leads.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// An interval that is longer than any measurement.
const INTERVAL_BEYOND_BENCH: Duration = Duration::from_secs(30 * 86_400);

pub(super) async fn run(bench: &Bench, count: u32) -> Result<(), Failure> {
    let until = tokio::time::Instant::now() + LOCK_EXPIRY_MAX;
    while let Some(leader) = bench.client.fetch_leader().await? {
        if tokio::time::Instant::now() > until {
            return Err(Failure::usage(format!(
                "a scheduler leads already ({} on {}); stop it, or measure under another --prefix",
                leader.instance_id, leader.hostname
            )));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let queue = bench.client.queue(bench.queue.as_str())?;
    queue.add(&QueueSettings::default()).await?;
    let mut measured = ScheduleBench {
        bench,
        next: 1,
        rows: Vec::new(),
    };
    let done = measured.all(i64::from(count)).await;
    let removed = measured.remove_all().await;
    done?;
    show(
        bench.json,
        "schedule",
        &["schedule", "value", "unit"],
        &measured.rows,
    )?;
    removed
}

/// An enqueued tick.
struct EnqueuedTick {
    is_probe: bool,
    /// Time from the due time until the server stored the job, in milliseconds.
    late_ms: f64,
}

struct ScheduleBench<'b> {
    bench: &'b Bench,
    /// Stream sequence of the first job that is not read yet.
    next: u64,
    rows: Vec<Vec<String>>,
}

impl ScheduleBench<'_> {
    async fn all(&mut self, count: i64) -> Result<(), Failure> {
        self.steady().await?;
        self.remove_all().await?;
        let leader = self.burst(count).await?;
        self.failover(count, leader).await
    }

    /// Measures ticks that are spread evenly over time.
    async fn steady(&mut self) -> Result<(), Failure> {
        let (count, interval) = STEADY_LOAD;
        let begin = add_duration(render::now(), Duration::from_secs(3));
        let apart = interval / u32::try_from(count).unwrap_or(1);
        let schedules = (0..count).map(|index| {
            let offset = apart * u32::try_from(index).unwrap_or(0);
            self.schedule(
                &format!("s{index}"),
                interval,
                Some(add_duration(begin, offset)),
            )
        });
        self.store_schedules(schedules.collect()).await?;
        let leader = self.start_scheduler();
        let time = Duration::from_secs(4) + Duration::from_secs_f64(self.bench.seconds * 3.0);
        tokio::time::sleep(time).await;
        stop_scheduler(&leader).await;
        let mut late: Vec<f64> = self.read().await?.iter().map(|one| one.late_ms).collect();
        self.row(
            "1,000 ticks a second of 10,000 schedules: p50",
            quantile(&mut late, 0.5),
            "ms late",
        );
        self.row(
            "1,000 ticks a second of 10,000 schedules: p99",
            quantile(&mut late, 0.99),
            "ms late",
        );
        self.row(
            "1,000 ticks a second of 10,000 schedules: measured",
            as_f64(late.len()),
            "ticks",
        );
        Ok(())
    }

    /// Measures ticks that are all due at the same time. Returns the leader.
    async fn burst(&mut self, count: i64) -> Result<JobHandle, Failure> {
        let wait =
            Duration::from_secs(10) + Duration::from_micros(50) * u32::try_from(count).unwrap_or(0);
        self.store_schedules(vec![self.schedule("beat", PROBE_INTERVAL, None)])
            .await?;
        let due = add_duration(render::now(), wait);
        let schedules = (0..count)
            .map(|index| self.schedule(&format!("b{index}"), INTERVAL_BEYOND_BENCH, Some(due)));
        self.store_schedules(schedules.collect()).await?;
        let begun = std::time::Instant::now();
        let leader = self.start_scheduler();
        let tick = self
            .read_until("a scheduler to lead", |tick| tick.is_probe)
            .await?;
        let ready_ms = begun.elapsed().as_secs_f64() * 1_000.0;
        if tick.iter().any(|one| !one.is_probe) {
            return Err(Failure::general(
                "the schedules were due before all of them were stored; measure fewer",
            ));
        }
        self.row(
            &format!("{count} schedules: from start to the first tick"),
            ready_ms,
            "ms",
        );
        let leads = self.bench.client.fetch_leader().await?;
        let inside = leads.map_or(0, |leader| leader.pid);
        let pid = self.bench.pid_outside(&["scheduler"], inside)?;
        self.row(
            &format!("{count} schedules: memory of the leader"),
            mib(pss_bytes(pid)),
            "MiB",
        );
        let mut late = self.read_burst(count, wait + LEADER_TIMEOUT).await?;
        let all_ms = quantile(&mut late, 1.0);
        self.row(
            &format!("{count} due at once"),
            as_f64(late.len()) / all_ms * 1_000.0,
            "/s",
        );
        self.row(
            &format!("{count} due at once: memory of the leader"),
            mib(pss_bytes(pid)),
            "MiB",
        );
        Ok(leader)
    }

    /// Waits until all ticks of the burst are enqueued, and returns how late each was, in
    /// milliseconds.
    async fn read_burst(&mut self, count: i64, timeout: Duration) -> Result<Vec<f64>, Failure> {
        let until = tokio::time::Instant::now() + timeout;
        let queue = self.bench.client.queue(self.bench.queue.as_str())?;
        let mut late = Vec::new();
        let mut depth = queue.info().await?.depth;
        let mut wanted = depth + u64::try_from(count).unwrap_or(0);
        while late.len() < usize::try_from(count).unwrap_or(0) {
            // Reading the ticks is work for the server too, so it starts when all are enqueued.
            while depth < wanted {
                if tokio::time::Instant::now() > until {
                    return Err(Failure::general("not every tick was enqueued in time"));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                depth = queue.info().await?.depth;
            }
            // Ticks of the probe were counted too, so some of the burst may still be missing.
            wanted = depth + 1;
            let ticks = self.read().await?;
            let burst = ticks.iter().filter(|tick| !tick.is_probe);
            late.extend(burst.map(|tick| tick.late_ms));
        }
        Ok(late)
    }

    /// Measures how long nothing is enqueued when the leader stops or is killed.
    async fn failover(&mut self, count: i64, first: JobHandle) -> Result<(), Failure> {
        let second = self.start_scheduler();
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.read().await?;
        first.stop(StopReason::Cancel);
        first.wait().await;
        let gap = self.gap_ms().await?;
        self.row(
            &format!("{count} schedules: nothing enqueued at a clean stop for"),
            gap,
            "ms",
        );
        let third = self.start_scheduler();
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.read().await?;
        second.kill(StopReason::Abandoned);
        second.wait().await;
        let gap = self.gap_ms().await?;
        self.row(
            &format!("{count} schedules: nothing enqueued at a SIGKILL for"),
            gap,
            "ms",
        );
        stop_scheduler(&third).await;
        Ok(())
    }

    /// Waits until a scheduler leads again. Returns how late the latest tick of the gap was, in
    /// milliseconds.
    async fn gap_ms(&mut self) -> Result<f64, Failure> {
        let mut late_max = 0.0_f64;
        let is_over = |tick: &EnqueuedTick| tick.is_probe && tick.late_ms < 50.0;
        let until = tokio::time::Instant::now() + LEADER_TIMEOUT;
        loop {
            for tick in self.read().await? {
                late_max = late_max.max(tick.late_ms);
                // The old leader still enqueues punctual ticks before it ends, so a punctual tick
                // ends the gap only after a late one.
                if is_over(&tick) && late_max > 60.0 {
                    return Ok(late_max);
                }
            }
            if tokio::time::Instant::now() > until {
                return Err(Failure::general("no other scheduler leads"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a scheduler.
    fn start_scheduler(&self) -> JobHandle {
        self.bench.spawn_naq(&["scheduler"])
    }

    /// Reads the ticks that were enqueued since the last call.
    async fn read(&mut self) -> Result<Vec<EnqueuedTick>, Failure> {
        let (broker, queue) = (self.bench.client.broker(), &self.bench.queue);
        let mut read = Vec::new();
        loop {
            let depth = broker.queue_info(queue).await?.depth;
            let batch = depth.min(REQUESTS_IN_FLIGHT_MAX as u64).max(1);
            let messages: Vec<_> = stream::iter(self.next..self.next + batch)
                .map(|sequence| broker.job_message_at(queue, sequence))
                .buffered(REQUESTS_IN_FLIGHT_MAX)
                .try_collect()
                .await?;
            let found = messages.iter().flatten().count();
            self.next += found as u64;
            for message in messages.into_iter().flatten() {
                let envelope = Envelope::parse(&message.payload)?;
                let (Some(id), Some(tick)) = (envelope.schedule_id, envelope.scheduled_for) else {
                    continue;
                };
                let late = message.time.0 - tick.0;
                read.push(EnqueuedTick {
                    is_probe: id.as_str() == "bench-beat",
                    late_ms: late.as_seconds_f64() * 1_000.0,
                });
            }
            if found < REQUESTS_IN_FLIGHT_MAX {
                return Ok(read);
            }
        }
    }

    /// Reads until a tick satisfies the predicate. Returns all ticks that were read. `what`
    /// describes the tick, for the error at a timeout.
    async fn read_until(
        &mut self,
        what: &str,
        predicate: impl Fn(&EnqueuedTick) -> bool,
    ) -> Result<Vec<EnqueuedTick>, Failure> {
        let until = tokio::time::Instant::now() + LEADER_TIMEOUT;
        loop {
            let read = self.read().await?;
            if read.iter().any(&predicate) {
                return Ok(read);
            }
            if tokio::time::Instant::now() > until {
                return Err(Failure::general(format!(
                    "timed out while waiting for {what}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn schedule(&self, name: &str, interval: Duration, first: Option<Timestamp>) -> Schedule {
        let now = render::now();
        Schedule {
            // All names are written in this file, and valid.
            schedule_id: ScheduleId::new(format!("bench-{name}"))
                .unwrap_or_else(|_| unreachable!()),
            queue: self.bench.queue.clone(),
            envelope: serde_json::value::to_raw_value(&Envelope::command(
                "./script.sh",
                ["one", "two"],
            ))
            .unwrap_or_default(),
            cron: None,
            tz: None,
            every: Some(WireDuration(interval)),
            anchor: None,
            repeat: None,
            start: first,
            end: None,
            jitter: None,
            misfire: Misfire::All,
            misfire_max: None,
            misfire_grace: None,
            overlap: Overlap::Allow,
            set: None,
            created_at: now,
            status: ScheduleStatus::Active,
            paused_reason: None,
            next_run: None,
            progress: ScheduleProgress::from(now),
            unknown: naq_protocol::UnknownFields::default(),
        }
    }

    /// Stores schedules.
    async fn store_schedules(&self, schedules: Vec<Schedule>) -> Result<(), Failure> {
        let broker = self.bench.client.broker();
        let store = async |schedule: Schedule| match broker.write_schedule(&schedule, 0).await {
            // An earlier measurement left the delete marker of a schedule with this name.
            Err(BrokerError::Conflict) => {
                let (_, revision) = broker.read_schedule(&schedule.schedule_id).await?;
                broker.write_schedule(&schedule, revision).await
            }
            stored => stored,
        };
        let mut schedules = schedules.into_iter();
        if let Some(first) = schedules.next() {
            // Creates the bucket if it does not exist, so that the rest can be written at once.
            store(first).await?;
        }
        stream::iter(schedules)
            .map(store)
            .buffer_unordered(REQUESTS_IN_FLIGHT_MAX)
            .try_for_each(async |_| Ok(()))
            .await?;
        Ok(())
    }

    /// Removes the schedules and their jobs.
    async fn remove_all(&mut self) -> Result<(), Failure> {
        let broker = self.bench.client.broker();
        let mut listing = broker.list_schedules().await?;
        let mut removed = stream::FuturesUnordered::new();
        while let Some(stored) = listing.next().await? {
            if !stored.schedule_id.as_str().starts_with("bench-") {
                continue;
            }
            removed.push(async move {
                let (id, revision) = (stored.schedule_id, stored.revision);
                match broker.remove_schedule(&id, revision).await {
                    // A scheduler that was stopped has written its progress since the listing.
                    Err(BrokerError::Conflict) => {
                        let (_, revision) = broker.read_schedule(&id).await?;
                        broker.remove_schedule(&id, revision).await
                    }
                    done => done,
                }
            });
            if removed.len() >= REQUESTS_IN_FLIGHT_MAX {
                removed.next().await.transpose()?;
            }
        }
        while removed.next().await.transpose()?.is_some() {}
        self.read().await?;
        self.bench
            .client
            .queue(self.bench.queue.as_str())?
            .purge()
            .await?;
        Ok(())
    }

    fn row(&mut self, name: &str, value: f64, unit: &str) {
        self.rows.push(vec![
            name.to_owned(),
            format!("{value:.1}"),
            unit.to_owned(),
        ]);
    }
}

async fn stop_scheduler(scheduler: &JobHandle) {
    scheduler.stop(StopReason::Cancel);
    scheduler.wait().await;
}

fn add_duration(time: Timestamp, by: Duration) -> Timestamp {
    let by = chrono::TimeDelta::from_std(by).unwrap_or_default();
    // Whole milliseconds, as on the wire.
    let later = Timestamp(time.0 + by);
    Timestamp::from_unix_ms(later.unix_ms()).unwrap_or(later)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
