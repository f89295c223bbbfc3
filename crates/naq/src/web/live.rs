//! Updates for open pages. One subscription and one read of the state serve all viewers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::overview::{Activity, Facts, MinuteCounts};
use super::record_index::SharedIndex;
use crate::clock;
use naq_client::{Client, ClientError, JobEvent, JobFilter};
use naq_core::ExponentialBackoff;

/// Number of events by which a slow viewer may lag behind. A viewer that lags further is notified that it
/// missed some.
const EVENTS_BEHIND_MAX: usize = 1_024;

/// Shortest time between two reads of the state.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Longest time between two reads while viewers exist: heartbeats of workers cause no event.
const REFRESH_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Longest pause before the next attempt if NATS refuses the subscription.
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Pauses before the next attempt if NATS refuses the subscription.
const RETRY_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_secs(1), RETRY_BACKOFF_MAX);

/// Jobs that are read at the start, for the activity of the last hour.
const PAST_JOBS_MAX: usize = 5_000;

/// The state, when it was read, and what happened in the last hour.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) facts: Facts,
    pub(super) minutes: Vec<MinuteCounts>,
    /// The part of the overview that shows the state, for each base path. Rendered when the first viewer asks for it.
    pub(super) bodies: Mutex<Vec<(String, Arc<str>)>>,
    read_at: Instant,
    /// The value of [`Shared::changes`] before it was read.
    changes: u64,
}

/// A message to viewers.
#[derive(Clone, Debug)]
pub(super) enum LiveEvent {
    /// A job changed its state.
    Job(Arc<JobEvent>),
    /// The connection to NATS was lost and is open again: changes may be missing.
    Gap,
}

/// Shares the events and the state of the installation among all viewers.
pub(super) struct Live {
    shared: Arc<Shared>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

struct Shared {
    client: Client,
    /// Receives every change of a record. `None` if it is switched off.
    index: Option<Arc<SharedIndex>>,
    events: broadcast::Sender<LiveEvent>,
    activity: Mutex<Activity>,
    viewers: AtomicUsize,
    /// Number of changes by requests to this dashboard.
    changes: AtomicU64,
    /// A viewer needs a state newer than the last one.
    wanted: Notify,
    /// Held while a request reads the state.
    reading: tokio::sync::Mutex<()>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
}

/// A viewer. The state is read repeatedly while at least one exists.
pub(super) struct Viewer {
    shared: Arc<Shared>,
    /// The events from now on.
    pub(super) events: broadcast::Receiver<LiveEvent>,
    /// The last state that was read.
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.shared.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Live {
    /// Starts to follow events, until `stop` is true.
    pub(super) fn new(
        client: Client,
        index: Option<Arc<SharedIndex>>,
        stop: watch::Receiver<bool>,
    ) -> Live {
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        let (sender, snapshots) = watch::channel(None);
        let shared = Arc::new(Shared {
            client,
            index,
            events,
            activity: Mutex::new(Activity::new(clock::now())),
            viewers: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            wanted: Notify::new(),
            reading: tokio::sync::Mutex::new(()),
            snapshots: sender,
        });
        tokio::spawn(until(stop.clone(), Arc::clone(&shared).follow_events()));
        tokio::spawn(until(stop, Arc::clone(&shared).read_on_demand()));
        Live { shared, snapshots }
    }

    /// Counts a viewer.
    pub(super) fn watch(&self) -> Viewer {
        self.shared.viewers.fetch_add(1, Ordering::Relaxed);
        self.shared.wanted.notify_one();
        Viewer {
            shared: Arc::clone(&self.shared),
            events: self.shared.events.subscribe(),
            snapshots: self.snapshots.clone(),
        }
    }

    /// Makes the state stale after a request has changed something: the client that sent it sees the effect next.
    pub(super) fn on_change(&self) {
        self.shared.changes.fetch_add(1, Ordering::Release);
        self.shared.wanted.notify_one();
    }

    /// The state, at most a second old, and with every change by requests to this dashboard that were answered before, except
    /// for new jobs.
    ///
    /// # Errors
    /// Returns an error if NATS does not answer.
    pub(super) async fn snapshot(&self) -> Result<Arc<Snapshot>, ClientError> {
        if let Some(fresh) = self.fresh() {
            return Ok(fresh);
        }
        // If several requests come at once, one of them reads, and the others share its result.
        let _reading = self.shared.reading.lock().await;
        match self.fresh() {
            Some(fresh) => Ok(fresh),
            None => self.shared.read().await,
        }
    }

    fn fresh(&self) -> Option<Arc<Snapshot>> {
        let last = self.snapshots.borrow().clone();
        let changes = self.shared.changes.load(Ordering::Acquire);
        last.filter(|last| last.read_at.elapsed() < REFRESH_INTERVAL_MIN && last.changes == changes)
    }
}

/// Runs a task until `stop` is true.
async fn until(mut stop: watch::Receiver<bool>, task: impl Future<Output = ()>) {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => {}
        () = task => {}
    }
}

impl Shared {
    async fn follow_events(self: Arc<Self>) {
        self.count_past().await;
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let ended = self.forward_events().await;
            if let Some(index) = &self.index {
                index.on_watch_closed();
            }
            if let Err(error) = ended {
                if started.elapsed() > RETRY_BACKOFF_MAX {
                    failures = 0;
                }
                failures += 1;
                // NATS may deny the subscription to this user permanently
                match failures {
                    1 => {
                        tracing::warn!("the dashboard receives no events and tries again: {error}")
                    }
                    _ => tracing::debug!("the dashboard receives no events: {error}"),
                }
            }
            sleep(RETRY_BACKOFF.pause(failures, rand::random())).await;
            let _ = self.events.send(LiveEvent::Gap);
        }
    }

    async fn forward_events(&self) -> Result<(), ClientError> {
        let mut events = self.client.events(&JobFilter::default()).await?;
        if let Some(index) = &self.index {
            events = events.with_observer(index.observer());
        }
        loop {
            let event = match events.next().await? {
                Some(event) => {
                    self.activity().add(&event);
                    LiveEvent::Job(Arc::new(event))
                }
                None => LiveEvent::Gap,
            };
            let _ = self.events.send(event);
            if self.viewers.load(Ordering::Relaxed) > 0 {
                self.wanted.notify_one();
            }
        }
    }

    /// Counts what happened before the start.
    async fn count_past(&self) {
        let now = clock::now();
        let since = clock::saturating_sub(now, Duration::from_secs(3_600));
        let jobs = self
            .client
            .list_jobs(&JobFilter::default(), Some(since), None, PAST_JOBS_MAX)
            .await;
        let Ok(page) = jobs else { return };
        let mut activity = self.activity();
        for job in page.jobs {
            if let Some(finished_at) = job.finished_at {
                activity.count(finished_at, job.record.state);
            }
        }
    }

    /// Reads the state for viewers after a change, or after the longest time between two reads.
    async fn read_on_demand(self: Arc<Self>) {
        loop {
            let started = Instant::now();
            if self.viewers.load(Ordering::Relaxed) > 0
                && let Err(error) = self.read().await
            {
                tracing::debug!("the dashboard cannot read the state: {error}");
            }
            sleep_until(started + REFRESH_INTERVAL_MIN).await;
            tokio::select! {
                () = self.wanted.notified() => {}
                () = sleep_until(started + REFRESH_INTERVAL_MAX) => {}
            }
        }
    }

    async fn read(&self) -> Result<Arc<Snapshot>, ClientError> {
        let changes = self.changes.load(Ordering::Acquire);
        let facts = Facts::read(&self.client, self.index.as_deref()).await?;
        let minutes = {
            let mut activity = self.activity();
            activity.advance(clock::now());
            activity.minutes()
        };
        let snapshot = Arc::new(Snapshot {
            facts,
            minutes,
            bodies: Mutex::default(),
            read_at: Instant::now(),
            changes,
        });
        self.snapshots.send_replace(Some(Arc::clone(&snapshot)));
        Ok(snapshot)
    }

    fn activity(&self) -> std::sync::MutexGuard<'_, Activity> {
        self.activity
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
