//! The lock that makes one scheduler the leader: waiting for it, and keeping it.
//!
//! Whoever holds it stops trusting it a while before the server would let it go, by a clock that
//! nobody sets. So two may both be waiting for a moment, and two may lead at once only where one
//! of them stands still between looking at its watch and sending, which the ids of ticks absorb.

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

/// How much sooner than the server a leader takes its lock for lost.
const EXPIRY_MARGIN: Duration = Duration::from_secs(1);

/// How long to wait where the server did not answer, and where a lock should be over and is not.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum LeaseState {
    Unconditional,
    Until(LeaseExpiry),
    Lost,
}

/// The right to lead, for as long as it lasts.
#[derive(Clone)]
pub(super) struct LeaderLease {
    state: watch::Receiver<LeaseState>,
    renewer: Arc<LeaseRenewer>,
}

/// What renews the lock. When the last lease is dropped it no longer does.
struct LeaseRenewer {
    _renewing: Option<AbortOnDropHandle<()>>,
    release: std::sync::Mutex<Option<oneshot::Sender<oneshot::Sender<()>>>>,
}

impl LeaderLease {
    /// The right of one that asks nobody.
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

    /// Whether it holds now. To be asked right before each thing that only a leader does.
    pub(super) fn is_held(&self) -> bool {
        match *self.state.borrow() {
            LeaseState::Unconditional => true,
            LeaseState::Until(until) => !until.has_passed(),
            LeaseState::Lost => false,
        }
    }

    /// Waits until it no longer holds. Cancel safe.
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

    /// Gives it back, so that the next one need not wait for its end.
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

/// Waits for the lock. Cancel safe: where it was just taken, it ends by its TTL, or is found to be
/// one's own.
pub(super) async fn acquire(
    broker: &Broker,
    leader: &LeaderInfo,
    options: LockOptions,
) -> Result<LeaderLease, BrokerError> {
    let mut watch = broker.watch_leader_lease().await?;
    let mut reported_leader = None;
    let mut lock = read(broker).await;
    let mut over_at = Instant::now() + options.ttl;
    loop {
        let free_for_me = match &lock.leader {
            None => true,
            // one that this process had, and let go without a word
            Some(other) => {
                (&other.instance_id, &other.hostname, other.pid)
                    == (&leader.instance_id, &leader.hostname, leader.pid)
            }
        };
        if free_for_me {
            let asked = BootInstant::now();
            match broker
                .acquire_leader_lease(leader, lock.revision, options.ttl)
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
                    tracing::warn!("cannot take the schedulers' lock: {error}");
                    sleep(RETRY_PAUSE).await;
                }
            }
            lock = read(broker).await;
            over_at = Instant::now() + options.ttl;
            continue;
        }
        if let Some(other) = &lock.leader
            && reported_leader.as_ref() != Some(&other.instance_id)
        {
            tracing::info!(
                leader = other.instance_id,
                host = other.hostname,
                "standing by"
            );
            reported_leader = Some(other.instance_id.clone());
        }
        match next_event(&mut watch, over_at).await {
            Some(LeaderLeaseEvent::Changed(changed)) => {
                if changed.revision > lock.revision {
                    lock = changed;
                    over_at = Instant::now() + options.ttl;
                }
            }
            Some(LeaderLeaseEvent::Resync | LeaderLeaseEvent::Gap) => {
                lock = read(broker).await;
                over_at = Instant::now() + options.ttl;
            }
            // it should have been renewed by now: its TTL is over, or about to be
            None => {
                let before = lock.revision;
                lock = read(broker).await;
                over_at = if lock.revision == before {
                    Instant::now() + RETRY_PAUSE
                } else {
                    Instant::now() + options.ttl
                };
            }
        }
    }
}

/// The next news of the lock; none where there is none until then.
async fn next_event(watch: &mut LeaderLeaseWatch, until: Instant) -> Option<LeaderLeaseEvent> {
    tokio::time::timeout_at(until, watch.next()).await.ok()
}

/// Reads the lock, however long it takes the server to answer.
async fn read(broker: &Broker) -> StoredLeaderLease {
    loop {
        match broker.read_leader_lease().await {
            Ok(lock) => return lock,
            Err(error) => {
                tracing::warn!("cannot read the schedulers' lock: {error}");
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

/// Renews the lock until it is given back or lost.
async fn renew(
    broker: Broker,
    leader: LeaderInfo,
    mut revision: u64,
    options: LockOptions,
    state: watch::Sender<LeaseState>,
    mut released: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let trusted_for = options.ttl.saturating_sub(EXPIRY_MARGIN);
    // so that one renewal may be lost
    let interval = options.renew_interval.min(trusted_for / 2);
    let mut pause = interval;
    loop {
        tokio::select! {
            done = &mut released => {
                let released = timeout(options.renew_interval, broker.release_leader_lease(revision)).await;
                if !matches!(released, Ok(Ok(()))) {
                    tracing::warn!("the schedulers' lock was not given back; it ends by itself");
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
                // perhaps by a renewal of one's own whose answer was lost
                let stored = timeout(options.renew_interval, broker.read_leader_lease()).await;
                if let Ok(Ok(lock)) = stored {
                    if lock.leader.as_ref() != Some(&leader) {
                        let _ = state.send(LeaseState::Lost);
                        return;
                    }
                    revision = lock.revision;
                }
            }
            Ok(Err(error)) => tracing::warn!("cannot renew the schedulers' lock: {error}"),
            Err(_) => tracing::warn!("no answer while renewing the schedulers' lock"),
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
