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
    let mut standby = Standby {
        broker,
        leader,
        options,
        stored: read(broker).await,
        expected_until: Instant::now() + options.ttl,
        logged_leader: None,
    };
    loop {
        if !standby.is_free() {
            standby.log_leader();
            standby.wait(&mut watch).await?;
        } else if let Some(lease) = standby.try_acquire().await {
            return Ok(lease);
        }
    }
}

/// A scheduler that waits for the lease of another.
struct Standby<'a> {
    broker: &'a Broker,
    leader: &'a LeaderInfo,
    options: LockOptions,
    /// The lease as it was last read.
    stored: StoredLeaderLease,
    /// When the lease should have been renewed or have expired.
    expected_until: Instant,
    /// The leader that was logged last.
    logged_leader: Option<String>,
}

impl Standby<'_> {
    fn is_free(&self) -> bool {
        match &self.stored.leader {
            None => true,
            // this instance had it in an earlier term and could not release it
            Some(other) => {
                (&other.instance_id, &other.hostname, other.pid)
                    == (
                        &self.leader.instance_id,
                        &self.leader.hostname,
                        self.leader.pid,
                    )
            }
        }
    }

    /// Acquires the lease by compare-and-set. `None` if another scheduler was faster, or the
    /// request failed: the lease has been read again then.
    async fn try_acquire(&mut self) -> Option<LeaderLease> {
        let requested_at = BootInstant::now();
        let (leader, options) = (self.leader.clone(), self.options);
        match self
            .broker
            .acquire_leader_lease(&leader, self.stored.revision, options.ttl)
            .await
        {
            Ok(revision) => {
                failpoint("leader_lease.acquired");
                let broker = self.broker.clone();
                return Some(start_renewing(
                    broker,
                    leader,
                    revision,
                    requested_at,
                    options,
                ));
            }
            Err(BrokerError::Conflict) => {}
            Err(error) => {
                tracing::warn!("cannot acquire the leader lease, retrying: {error}");
                sleep(RETRY_PAUSE).await;
            }
        }
        self.set_stored(read(self.broker).await);
        None
    }

    fn set_stored(&mut self, stored: StoredLeaderLease) {
        self.stored = stored;
        self.expected_until = Instant::now() + self.options.ttl;
    }

    /// Logs each leader once.
    fn log_leader(&mut self) {
        if let Some(other) = &self.stored.leader
            && self.logged_leader.as_ref() != Some(&other.instance_id)
        {
            tracing::info!(
                leader = other.instance_id,
                host = other.hostname,
                "standing by"
            );
            self.logged_leader = Some(other.instance_id.clone());
        }
    }

    /// Waits until the lease has changed, or should have.
    ///
    /// # Errors
    /// Returns [`BrokerError::PermissionDenied`] if the server denies the watch.
    async fn wait(&mut self, watch: &mut LeaderLeaseWatch) -> Result<(), BrokerError> {
        let event = tokio::time::timeout_at(self.expected_until, watch.next()).await;
        match event {
            Ok(Err(denied)) => return Err(denied),
            Ok(Ok(LeaderLeaseEvent::Changed(changed))) => {
                if changed.revision > self.stored.revision {
                    self.set_stored(changed);
                }
            }
            Ok(Ok(LeaderLeaseEvent::Resync | LeaderLeaseEvent::Gap)) => {
                self.set_stored(read(self.broker).await)
            }
            // the leader should have renewed it by now: it has expired, or is about to
            Err(_) => {
                let before = self.stored.revision;
                self.set_stored(read(self.broker).await);
                if self.stored.revision == before {
                    self.expected_until = Instant::now() + RETRY_PAUSE;
                }
            }
        }
        Ok(())
    }
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
    requested_at: BootInstant,
    options: LockOptions,
) -> LeaderLease {
    let trusted_for = options.ttl.saturating_sub(EXPIRY_MARGIN);
    let (sender, state) = watch::channel(LeaseState::Until(LeaseExpiry::new(
        requested_at,
        trusted_for,
    )));
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
        let requested_at = BootInstant::now();
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
                let _ = state.send(LeaseState::Until(LeaseExpiry::new(
                    requested_at,
                    trusted_for,
                )));
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
