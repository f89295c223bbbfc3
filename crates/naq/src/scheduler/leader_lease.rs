//! The lease that makes one scheduler the leader: acquiring, renewing and releasing it.
//!
//! The leader gives its lease up a while before the server removes it, by a clock that nobody can
//! set. So for a moment there may be no leader. Two can lead at once only if one of them is
//! suspended between checking its lease and sending a tick; the ids of ticks make that harmless.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::options::LockOptions;
use crate::clock::{BootInstant, LeaseExpiry};
use naq_jetstream::{
    Broker, BrokerError, LeaderLeaseEvent, LeaderLeaseWatch, StoredLeaderLease, failpoint,
};
use naq_protocol::LeaderInfo;

/// How much earlier than the server the leader gives its lease up.
const EXPIRY_MARGIN: Duration = Duration::from_secs(1);

/// Pause after a request that failed, and between looks at a lease that should have expired.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum LeaseState {
    /// Never expires: the scheduler leads without a lease.
    Unconditional,
    Until(LeaseExpiry),
    Lost,
}

/// The right to lead until it expires. Clones share it.
#[derive(Clone)]
pub(super) struct LeaderLease {
    state: watch::Receiver<LeaseState>,
    renewer: Arc<LeaseRenewer>,
}

/// The task that renews the lease, aborted when the last clone of the lease is dropped.
struct LeaseRenewer {
    _renewing: Option<AbortOnDropHandle<()>>,
    /// Asks the task to release the lease and to report when that is done.
    release: std::sync::Mutex<Option<oneshot::Sender<oneshot::Sender<()>>>>,
}

impl LeaderLease {
    /// The right of a scheduler that leads without a lease.
    pub(super) fn without_lock() -> LeaderLease {
        let (_, state) = watch::channel(LeaseState::Unconditional);
        LeaderLease {
            state,
            renewer: Arc::new(LeaseRenewer {
                _renewing: None,
                release: std::sync::Mutex::new(None),
            }),
        }
    }

    /// Whether the lease is valid now. Check it right before each request that only a leader may
    /// send.
    pub(super) fn is_held(&self) -> bool {
        match *self.state.borrow() {
            LeaseState::Unconditional => true,
            LeaseState::Until(until) => !until.has_passed(),
            LeaseState::Lost => false,
        }
    }

    /// Waits until the lease has expired or is lost. Cancel safe.
    pub(super) async fn expired(&mut self) {
        loop {
            let state = *self.state.borrow_and_update();
            match state {
                LeaseState::Unconditional => std::future::pending().await,
                LeaseState::Lost => return,
                LeaseState::Until(until) => {
                    tokio::select! {
                        changed = self.state.changed() => {
                            if changed.is_err() && !self.is_held() {
                                return;
                            }
                        }
                        () = sleep(until.remaining()) => {
                            if !self.is_held() {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Releases the lease, so that the next leader need not wait until it expires.
    pub(super) async fn release(self) {
        let release = self
            .renewer
            .release
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(release) = release {
            let (done, is_done) = oneshot::channel();
            if release.send(done).is_ok() {
                let _ = is_done.await;
            }
        }
    }
}

/// Waits for the lease. Cancel safe: a lease that was just acquired expires with its TTL, or is
/// recognized as this instance's own by the next call.
///
/// # Errors
/// Returns the broker's error if the lease cannot be watched.
pub(super) async fn acquire(
    broker: &Broker,
    leader: &LeaderInfo,
    options: LockOptions,
) -> Result<LeaderLease, BrokerError> {
    let mut watch = broker.watch_leader_lease().await?;
    let mut reported_leader = None;
    let mut stored = read(broker).await;
    let mut expected_until = Instant::now() + options.ttl;
    loop {
        let is_free = match &stored.leader {
            None => true,
            // this instance had it in an earlier term and could not release it
            Some(other) => {
                (&other.instance_id, &other.hostname, other.pid)
                    == (&leader.instance_id, &leader.hostname, leader.pid)
            }
        };
        if is_free {
            let asked = BootInstant::now();
            match broker
                .acquire_leader_lease(leader, stored.revision, options.ttl)
                .await
            {
                Ok(revision) => {
                    failpoint("leader_lease.acquired");
                    return Ok(start_renewing(
                        broker.clone(),
                        leader.clone(),
                        revision,
                        asked,
                        options,
                    ));
                }
                Err(BrokerError::Conflict) => {}
                Err(error) => {
                    tracing::warn!("cannot acquire the leader lease, retrying: {error}");
                    sleep(RETRY_PAUSE).await;
                }
            }
            stored = read(broker).await;
            expected_until = Instant::now() + options.ttl;
            continue;
        }
        if let Some(other) = &stored.leader
            && reported_leader.as_ref() != Some(&other.instance_id)
        {
            tracing::info!(
                leader = other.instance_id,
                host = other.hostname,
                "standing by"
            );
            reported_leader = Some(other.instance_id.clone());
        }
        match next_event(&mut watch, expected_until).await {
            Some(LeaderLeaseEvent::Changed(changed)) => {
                if changed.revision > stored.revision {
                    stored = changed;
                    expected_until = Instant::now() + options.ttl;
                }
            }
            Some(LeaderLeaseEvent::Resync | LeaderLeaseEvent::Gap) => {
                stored = read(broker).await;
                expected_until = Instant::now() + options.ttl;
            }
            // the leader should have renewed it by now: it has expired, or is about to
            None => {
                let before = stored.revision;
                stored = read(broker).await;
                expected_until = if stored.revision == before {
                    Instant::now() + RETRY_PAUSE
                } else {
                    Instant::now() + options.ttl
                };
            }
        }
    }
}

/// The next event of the watch; `None` if there is none until `until`.
async fn next_event(watch: &mut LeaderLeaseWatch, until: Instant) -> Option<LeaderLeaseEvent> {
    tokio::time::timeout_at(until, watch.next()).await.ok()
}

/// Reads the lease, with as many retries as it takes.
async fn read(broker: &Broker) -> StoredLeaderLease {
    loop {
        match broker.read_leader_lease().await {
            Ok(stored) => return stored,
            Err(error) => {
                tracing::warn!("cannot read the leader lease, retrying: {error}");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

fn start_renewing(
    broker: Broker,
    leader: LeaderInfo,
    revision: u64,
    asked: BootInstant,
    options: LockOptions,
) -> LeaderLease {
    let trusted_for = options.ttl.saturating_sub(EXPIRY_MARGIN);
    let (sender, state) = watch::channel(LeaseState::Until(LeaseExpiry::new(asked, trusted_for)));
    let (release, released) = oneshot::channel();
    let renewing = tokio::spawn(renew(broker, leader, revision, options, sender, released));
    LeaderLease {
        state,
        renewer: Arc::new(LeaseRenewer {
            _renewing: Some(AbortOnDropHandle::new(renewing)),
            release: std::sync::Mutex::new(Some(release)),
        }),
    }
}

/// Renews the lease until it is released or lost.
async fn renew(
    broker: Broker,
    leader: LeaderInfo,
    mut revision: u64,
    options: LockOptions,
    state: watch::Sender<LeaseState>,
    mut released: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let trusted_for = options.ttl.saturating_sub(EXPIRY_MARGIN);
    // often enough that one renewal may fail
    let interval = options.renew_interval.min(trusted_for / 2);
    let mut pause = interval;
    loop {
        tokio::select! {
            done = &mut released => {
                let released = timeout(options.renew_interval, broker.release_leader_lease(revision)).await;
                if !matches!(released, Ok(Ok(()))) {
                    tracing::warn!("cannot release the leader lease; it expires by itself");
                }
                if let Ok(done) = done {
                    let _ = done.send(());
                }
                return;
            }
            () = sleep(pause) => {}
        }
        let asked = BootInstant::now();
        let taken = timeout(
            options.renew_interval,
            broker.acquire_leader_lease(&leader, revision, options.ttl),
        )
        .await;
        pause = RETRY_PAUSE;
        match taken {
            Ok(Ok(renewed)) => {
                failpoint("leader_lease.renewed");
                revision = renewed;
                pause = interval;
                let _ = state.send(LeaseState::Until(LeaseExpiry::new(asked, trusted_for)));
            }
            Ok(Err(BrokerError::Conflict)) => {
                // the conflict may be with a renewal of this task whose answer was lost
                let stored = timeout(options.renew_interval, broker.read_leader_lease()).await;
                if let Ok(Ok(stored)) = stored {
                    if stored.leader.as_ref() != Some(&leader) {
                        let _ = state.send(LeaseState::Lost);
                        return;
                    }
                    revision = stored.revision;
                }
            }
            Ok(Err(error)) => tracing::warn!("cannot renew the leader lease, retrying: {error}"),
            Err(_) => tracing::warn!("no answer while renewing the leader lease, retrying"),
        }
        let over = match *state.borrow() {
            LeaseState::Until(until) => until.has_passed(),
            LeaseState::Unconditional | LeaseState::Lost => false,
        };
        if over {
            let _ = state.send(LeaseState::Lost);
            return;
        }
    }
}
