//! `naq scheduler`

use std::time::Duration;

use tokio::sync::watch;

use super::exit::Failure;
use super::session::Session;
use super::signals::Signals;
use crate::scheduler::{self, LockOptions, SchedulerConfig};
use naq_protocol::units::WireDuration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What this one is called among the schedulers [default: a new id]
    #[arg(long, value_name = "NAME")]
    instance_id: Option<String>,
    /// Lead without the lock that keeps several schedulers from leading at once (a tick is one job
    /// all the same)
    #[arg(long)]
    disable_ha: bool,
    /// When another takes over from a leader that is silent [default: 10s]
    #[arg(long, value_name = "TIME")]
    lock_ttl: Option<WireDuration>,
    /// Ticks in a row that cannot be enqueued, after which a schedule is paused; 0 for never
    /// [default: 5]
    #[arg(long, value_name = "COUNT")]
    max_failures: Option<u32>,
    /// How often to look for what a crash left behind
    #[arg(long, value_name = "TIME", default_value = "10m")]
    reconcile_interval: WireDuration,
    /// Without effect: schedules are not polled, a change counts at once
    #[arg(long, value_name = "TIME")]
    poll_interval: Option<WireDuration>,
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let stop = stop_signal()?;
    if args.poll_interval.is_some() {
        tracing::warn!("--poll-interval has no effect: schedules are not polled");
    }
    let mut options = options(session);
    options.instance_id = args.instance_id;
    if let Some(max_consecutive_failures) = args.max_failures {
        options.max_consecutive_failures = max_consecutive_failures;
    }
    if args.reconcile_interval.0.is_zero() {
        return Err(Failure::usage("--reconcile-interval 0s: it must be longer"));
    }
    options.reconcile_interval = args.reconcile_interval.0;
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
    let client = session.connect().await?;
    tracing::info!(server = client.server(), "scheduling");
    super::systemd::ready();
    let summary = scheduler::run_scheduler(client, options, stop).await?;
    tracing::info!(enqueued = summary.enqueued, "done");
    Ok(0)
}

/// The shortest time to live of the lock, in seconds.
const LOCK_TTL_S_MIN: u64 = 3;

/// How often the scheduler of `naq dev` sweeps.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(600);

/// As the settings have it.
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
    }
}

/// Becomes true with the first TERM or INT; the second one ends the process at once.
fn stop_signal() -> std::io::Result<watch::Receiver<bool>> {
    let mut signals = Signals::listen()?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        signals.next().await;
        super::systemd::stopping();
        let _ = sender.send(true);
        let signal = signals.next().await;
        std::process::exit(128 + signal);
    });
    Ok(receiver)
}
