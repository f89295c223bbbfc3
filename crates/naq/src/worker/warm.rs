//! Warm processes: which jobs they run, and when they are replaced.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::languages::{FunctionCall, RecycleLimits, RunnerName, WarmPlan};
use naq_protocol::Envelope;
use naq_runner::{
    Command, JobHandle, Runner, WarmCall, WarmError, WarmMode, WarmProcess, is_env_denied,
};

/// How long a job waits for a warm process before it runs as a process of its own.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Number of failed starts within [`FAILURES_TIME`] after which no process is started for [`BROKEN_TIME`].
const FAILURES_MAX: usize = 5;

/// The time in which failed starts are counted.
const FAILURES_TIME: Duration = Duration::from_secs(60);

/// How long a runner whose processes do not start has none.
const BROKEN_TIME: Duration = Duration::from_secs(300);

/// Pause after a failed start; it doubles with each.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// How often the files that a process has loaded are compared with those on disk.
const FILES_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The warm processes of a worker, by runner.
#[derive(Clone, Debug, Default)]
pub(super) struct WarmPools {
    by_runner: Arc<HashMap<String, Arc<WarmPool>>>,
    umask: u32,
}

/// The warm processes of one runner.
#[derive(Debug)]
struct WarmPool {
    plan: WarmPlan,
    runner: Runner,
    state: Mutex<PoolState>,
    freed: Notify,
}

#[derive(Debug)]
struct PoolState {
    idle: VecDeque<WarmProcess>,
    /// The mode in which processes are started: the first of the plan that works.
    mode: WarmMode,
    /// When starts failed, the last one last.
    failures: VecDeque<Instant>,
    /// Until when no process is started.
    broken_until: Option<Instant>,
    files_checked_at: Instant,
}

/// Why a job does not run in a warm process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cold {
    /// Its runner has none.
    NotWarm,
    /// What the envelope asks for needs a process of its own. The record says so.
    Because(&'static str),
}

impl WarmPools {
    /// Starts the processes: for each plan, so many.
    ///
    /// # Errors
    /// Returns why this runner can keep none.
    pub(super) fn start(
        runner: &Runner,
        plans: &[(WarmPlan, usize)],
    ) -> Result<WarmPools, WarmError> {
        if !plans.is_empty() {
            runner.supports_warm()?;
        }
        let mut by_runner = HashMap::new();
        for (plan, count) in plans {
            let pool = Arc::new(WarmPool {
                plan: plan.clone(),
                runner: runner.clone(),
                state: Mutex::new(PoolState {
                    idle: VecDeque::new(),
                    mode: plan.modes.first().copied().unwrap_or(WarmMode::Standby),
                    failures: VecDeque::new(),
                    broken_until: None,
                    files_checked_at: Instant::now(),
                }),
                freed: Notify::new(),
            });
            for _ in 0..*count {
                tokio::spawn(Arc::clone(&pool).add_process());
            }
            by_runner.insert(plan.runner().to_owned(), pool);
        }
        Ok(WarmPools {
            by_runner: Arc::new(by_runner),
            umask: own_umask(),
        })
    }

    /// Kills the idle processes, so that the runner can end.
    pub(super) fn stop(&self) {
        for pool in self.by_runner.values() {
            pool.lock().idle.clear();
        }
    }

    /// Starts a job in a warm process.
    ///
    /// # Errors
    /// Returns the command again, and why it is to run as a process of its own.
    pub(super) async fn start_job(
        &self,
        envelope: &Envelope,
        is_suspect: bool,
        command: Command,
    ) -> Result<JobHandle, (Box<Command>, Cold)> {
        let Some(pool) = self.pool_of(envelope) else {
            return Err((Box::new(command), Cold::NotWarm));
        };
        let why = match is_suspect {
            true => Some("it may have crashed a worker"),
            false => own_process(envelope, &command, pool),
        };
        if let Some(why) = why {
            return Err((Box::new(command), Cold::Because(why)));
        }
        let Some(process) = pool.take().await else {
            return Err((Box::new(command), Cold::Because(NO_PROCESS)));
        };
        let call = WarmCall {
            fields: call_fields(envelope),
            umask: self.umask,
        };
        let mut called = command.clone();
        // the call is in the frame
        called.files.retain(|file| file.variable != "NAQ_CALL_FILE");
        match pool.runner.start_warm(process, called, call).await {
            Some((handle, freed)) => {
                tokio::spawn(Arc::clone(pool).take_back(freed));
                Ok(handle)
            }
            None => {
                tokio::spawn(Arc::clone(pool).add_process());
                Err((Box::new(command), Cold::Because(NO_PROCESS)))
            }
        }
    }

    fn pool_of(&self, envelope: &Envelope) -> Option<&Arc<WarmPool>> {
        envelope.function.as_ref()?;
        let runner = RunnerName::parse(envelope.runner.as_deref()?);
        self.by_runner.get(runner.name)
    }
}

/// Why a job that could run in a warm process did not.
const NO_PROCESS: &str = "no warm process was ready";

/// Why a job needs a process of its own. `None` if it does not.
fn own_process(envelope: &Envelope, command: &Command, pool: &WarmPool) -> Option<&'static str> {
    let limits = naq_runner::ResourceLimits {
        output_bytes: None,
        ..command.limits
    };
    if limits != naq_runner::ResourceLimits::default() {
        return Some("it has limits on its resources");
    }
    if envelope.cwd.is_some() {
        return Some("it has a directory of its own");
    }
    if envelope.module_path != pool.plan.module_path() {
        return Some("it has another module path");
    }
    if envelope.env.keys().any(|name| is_env_denied(name, &[])) {
        return Some("it sets a variable that its interpreter reads at its start");
    }
    if command.folder.is_some() {
        return Some("it gets outputs of other jobs");
    }
    let has_stdin = !matches!(command.stdin, naq_runner::Stdin::Empty);
    if has_stdin && pool.lock().mode == WarmMode::Reuse {
        return Some("it has a standard input");
    }
    None
}

/// The fields of the call in a frame.
fn call_fields(envelope: &Envelope) -> serde_json::Map<String, serde_json::Value> {
    let call = FunctionCall::of(envelope);
    let fields = call.and_then(|call| serde_json::to_value(call).ok());
    match fields {
        Some(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

impl WarmPool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process for a job. `None` if none is ready in time, or none can be started.
    async fn take(self: &Arc<Self>) -> Option<WarmProcess> {
        let waiting = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                if let Some(process) = self.pop() {
                    return Some(process);
                }
                if self.lock().broken_until.is_some() {
                    return None;
                }
                freed.await;
            }
        };
        tokio::time::timeout(WAIT_MAX, waiting).await.ok().flatten()
    }

    /// An idle process that may run a job. Others are replaced.
    fn pop(self: &Arc<Self>) -> Option<WarmProcess> {
        let mut state = self.lock();
        let now = Instant::now();
        if now.duration_since(state.files_checked_at) >= FILES_CHECK_INTERVAL {
            state.files_checked_at = now;
            let idle = std::mem::take(&mut state.idle);
            let (old, current): (VecDeque<_>, VecDeque<_>) =
                idle.into_iter().partition(WarmProcess::is_out_of_date);
            state.idle = current;
            for _ in &old {
                tokio::spawn(Arc::clone(self).add_process());
            }
            if !old.is_empty() {
                tracing::info!(
                    runner = self.plan.runner(),
                    processes = old.len(),
                    "files have changed, replacing warm processes"
                );
            }
        }
        while let Some(process) = state.idle.pop_front() {
            if !process.has_ended() {
                return Some(process);
            }
            tokio::spawn(Arc::clone(self).add_process());
        }
        None
    }

    /// Takes a process back after its job, or replaces it.
    async fn take_back(self: Arc<Self>, freed: oneshot::Receiver<Option<WarmProcess>>) {
        match freed.await {
            Ok(Some(process)) if !must_be_replaced(&process, &self.plan.recycle) => {
                self.lock().idle.push_back(process);
                self.freed.notify_one();
            }
            // It is dropped when its successor is ready, unless something of its job is in it.
            Ok(Some(process)) if !process.is_dirty() => {
                Arc::clone(&self).add_process().await;
                drop(process);
            }
            Ok(_) | Err(_) => self.add_process().await,
        }
    }

    /// Starts a process, with pauses after failures.
    async fn add_process(self: Arc<Self>) {
        let mut pause = RETRY_FIRST;
        loop {
            let (mode, broken_until) = {
                let state = self.lock();
                (state.mode, state.broken_until)
            };
            if let Some(until) = broken_until {
                tokio::time::sleep_until(until).await;
                self.lock().broken_until = None;
            }
            match self.runner.boot_warm(self.plan.boot(mode)).await {
                Ok(process) => {
                    tracing::debug!(
                        runner = self.plan.runner(),
                        mode = mode.name(),
                        version = process.version(),
                        rss_bytes = process.rss_bytes(),
                        "a warm process is ready"
                    );
                    let mut state = self.lock();
                    state.idle.push_back(process);
                    drop(state);
                    self.freed.notify_one();
                    return;
                }
                Err(error @ WarmError::Mode { .. }) if self.use_next_mode(mode) => {
                    tracing::warn!(runner = self.plan.runner(), "{error}; trying the next mode");
                }
                Err(error) => {
                    if self.runner.is_shut_down() {
                        return;
                    }
                    self.note_failure(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(FAILURES_TIME);
                }
            }
        }
    }

    /// Continues with the mode after this one. Returns false if there is none.
    fn use_next_mode(&self, mode: WarmMode) -> bool {
        let modes = &self.plan.modes;
        let at = modes.iter().position(|known| *known == mode);
        let Some(next) = at.and_then(|at| modes.get(at + 1)) else {
            return false;
        };
        let mut state = self.lock();
        if state.mode == mode {
            state.mode = *next;
        }
        true
    }

    fn note_failure(&self, error: &WarmError) {
        let now = Instant::now();
        let mut state = self.lock();
        state.failures.push_back(now);
        let is_old = |at: &Instant| now.duration_since(*at) > FAILURES_TIME;
        while state.failures.front().is_some_and(is_old) {
            state.failures.pop_front();
        }
        let runner = self.plan.runner();
        if state.failures.len() < FAILURES_MAX || state.broken_until.is_some() {
            tracing::warn!(runner, "a warm process did not start: {error}");
            return;
        }
        state.failures.clear();
        state.broken_until = Some(now + BROKEN_TIME);
        drop(state);
        self.freed.notify_waiters();
        tracing::error!(
            runner,
            pause_s = BROKEN_TIME.as_secs(),
            "warm processes do not start; jobs run as processes of their own: {error}"
        );
    }
}

/// Whether a process has run enough.
fn must_be_replaced(process: &WarmProcess, limits: &RecycleLimits) -> bool {
    process.is_dirty()
        || limits.jobs.is_some_and(|max| process.jobs() >= max)
        || limits.age.is_some_and(|max| process.age() >= max)
        || limits
            .growth_bytes
            .is_some_and(|max| process.growth_bytes() > max)
}

/// The mode of new files of this process, which jobs have as well.
fn own_umask() -> u32 {
    const DEFAULT: u32 = 0o022;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(DEFAULT)
}
