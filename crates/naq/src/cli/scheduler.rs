//! `naq scheduler`

pub(super) mod list;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::exit::Failure;
use super::metrics_args::{self, MetricsArgs};
use super::session::Session;
use super::signals::stop_signals;
use crate::metrics::{Metrics, Role};
use crate::scheduler::{self, LockOptions, SchedulerConfig};
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<SchedulerVerb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum SchedulerVerb {
    /// List schedulers: which one leads, and how far their clocks are from the server's
    List,
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Name of this scheduler [default: a new id]
    #[arg(long, value_name = "NAME")]
    instance_id: Option<String>,
    /// Lead without the lease that keeps several schedulers from leading at once (each tick is one
    /// job even so)
    #[arg(long)]
    disable_ha: bool,
    /// Time after which another scheduler takes over from a silent leader; at least 3s
    /// [default: 10s]
    #[arg(long, value_name = "TIME")]
    lock_ttl: Option<WireDuration>,
    /// Number of ticks in a row that cannot be enqueued after which a schedule is paused; 0 never
    /// pauses it [default: 5]
    #[arg(long, value_name = "COUNT")]
    max_failures: Option<u32>,
    /// Time between two searches for what a crash has left
    #[arg(long, value_name = "TIME", default_value = "10m")]
    reconcile_interval: WireDuration,
    #[command(flatten)]
    metrics: MetricsArgs,
    /// Accepted for the Python library's sake and ignored: schedules are not polled
    #[arg(long, value_name = "TIME")]
    poll_interval: Option<WireDuration>,
}

impl Args {
    /// Whether this is a scheduler, which runs until it is stopped.
    pub(super) fn is_endless(&self) -> bool {
        self.verb.is_none()
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    match args.verb {
        Some(SchedulerVerb::List) => list::run(session).await,
        None => run_scheduler(session, args.run).await,
    }
}

async fn run_scheduler(session: &Session, args: RunArgs) -> Result<u8, Failure> {
    let (stop, second_signal) = stop_signals()?;
    if args.poll_interval.is_some() {
        tracing::warn!("--poll-interval has no effect: schedules are not polled");
    }
    let mut options = options(session);
    options.instance_id = args.instance_id;
    options.watchdog = super::systemd::watchdog();
    if let Some(max_consecutive_failures) = args.max_failures {
        options.max_consecutive_failures = max_consecutive_failures;
    }
    if args.reconcile_interval.0.is_zero() {
        return Err(Failure::usage("--reconcile-interval 0s: it must be longer"));
    }
    options.reconcile_interval = args.reconcile_interval.0;
    let monitors = args.metrics.listen().await?;
    let _monitors = metrics_args::serve(monitors, &options.metrics);
    match (&mut options.lock, args.lock_ttl) {
        (lock, _) if args.disable_ha => *lock = None,
        (Some(lock), Some(ttl)) => {
            if ttl.0.as_secs() < LOCK_TTL_S_MIN {
                return Err(Failure::usage(format!(
                    "--lock-ttl {ttl}: the shortest is {LOCK_TTL_S_MIN}s"
                )));
            }
            lock.ttl = ttl.0;
        }
        _ => {}
    }
    tokio::select! {
        ended = schedule(session, options, stop) => ended,
        // The process ends at once, but not by `exit`, which would lose the end of a log file.
        Ok(signal) = second_signal => Ok(128 + u8::try_from(signal).unwrap_or_default()),
    }
}

/// Schedules until `stop` is true.
async fn schedule(
    session: &Session,
    options: SchedulerConfig,
    stop: watch::Receiver<bool>,
) -> Result<u8, Failure> {
    let mut asked = stop.clone();
    let stopped = async move { drop(asked.wait_for(|stop| *stop).await) };
    let Some(client) = session.connect_when_reachable(stopped).await? else {
        return Ok(0);
    };
    tracing::info!(server = client.server(), "scheduling");
    super::systemd::ready();
    let summary = scheduler::run_scheduler(client, options, stop).await?;
    tracing::info!(enqueued = summary.enqueued, "done");
    Ok(0)
}

/// The shortest TTL of the leader's lease, in seconds.
const LOCK_TTL_S_MIN: u64 = 3;

/// Time between two reconciliations of the scheduler in `naq dev`.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(600);

/// The scheduler's configuration, from the settings.
pub(super) fn options(session: &Session) -> SchedulerConfig {
    let settings = session.settings();
    SchedulerConfig {
        instance_id: None,
        lock: Some(LockOptions {
            ttl: settings.scheduler_lock_ttl,
            renew_interval: settings.scheduler_lock_renew_interval,
        }),
        max_consecutive_failures: settings.max_schedule_failures,
        reconcile_interval: RECONCILE_INTERVAL,
        result_ttl: settings.default_result_ttl,
        watchdog: None,
        metrics: Arc::new(Metrics::new(&[Role::Scheduler])),
    }
}
