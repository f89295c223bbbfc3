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

use super::clock::Uptime;
use naq_jetstream::{Broker, BrokerError, LockEvent, LockWatch, StoredLock, step};
use naq_protocol::LeaderInfo;

/// How much sooner than the server a leader takes its lock for lost.
const MARGIN: Duration = Duration::from_secs(1);

/// How long to wait where the server did not answer, and where a lock should be over and is not.
const PAUSE: Duration = Duration::from_millis(100);

/// How the lock is held.
#[derive(Clone, Copy, Debug)]
pub struct LockOptions {
    /// How long it lasts where it is not renewed, in whole seconds.
    pub ttl: Duration,
    /// How often it is renewed.
    pub renew_interval: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Hold {
    Always,
    Until(Uptime),
    Lost,
}

/// The right to lead, for as long as it lasts.
#[derive(Clone)]
pub(super) struct Lease {
    hold: watch::Receiver<Hold>,
    keeper: Arc<Keeper>,
}

/// What renews the lock. When the last lease is dropped it no longer does.
struct Keeper {
    _renewing: Option<AbortOnDropHandle<()>>,
    release: std::sync::Mutex<Option<oneshot::Sender<oneshot::Sender<()>>>>,
}

impl Lease {
    /// The right of one that asks nobody.
    pub(super) fn without_lock() -> Lease {
        let (_, hold) = watch::channel(Hold::Always);
        Lease {
            hold,
            keeper: Arc::new(Keeper {
                _renewing: None,
                release: std::sync::Mutex::new(None),
            }),
        }
    }

    /// Whether it holds now. To be asked right before each thing that only a leader does.
    pub(super) fn is_held(&self) -> bool {
        match *self.hold.borrow() {
            Hold::Always => true,
            Hold::Until(until) => Uptime::now() < until,
            Hold::Lost => false,
        }
    }

    /// Waits until it no longer holds. Cancel safe.
    pub(super) async fn lost(&mut self) {
        loop {
            let hold = *self.hold.borrow_and_update();
            match hold {
                Hold::Always => std::future::pending().await,
                Hold::Lost => return,
                Hold::Until(until) => {
                    tokio::select! {
                        changed = self.hold.changed() => {
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
            .keeper
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
) -> Result<Lease, BrokerError> {
    let mut watch = broker.watch_lock().await?;
    let mut told_of = None;
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
            let asked = Uptime::now();
            match broker.take_lock(leader, lock.revision, options.ttl).await {
                Ok(revision) => {
                    step("lock.taken");
                    return Ok(keep(
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
                    sleep(PAUSE).await;
                }
            }
            lock = read(broker).await;
            over_at = Instant::now() + options.ttl;
            continue;
        }
        if let Some(other) = &lock.leader
            && told_of.as_ref() != Some(&other.instance_id)
        {
            tracing::info!(
                leader = other.instance_id,
                host = other.hostname,
                "standing by"
            );
            told_of = Some(other.instance_id.clone());
        }
        match next(&mut watch, over_at).await {
            Some(LockEvent::Changed(changed)) => {
                if changed.revision > lock.revision {
                    lock = changed;
                    over_at = Instant::now() + options.ttl;
                }
            }
            Some(LockEvent::Reread) => {
                lock = read(broker).await;
                over_at = Instant::now() + options.ttl;
            }
            // it should have been renewed by now: its TTL is over, or about to be
            None => {
                let before = lock.revision;
                lock = read(broker).await;
                over_at = if lock.revision == before {
                    Instant::now() + PAUSE
                } else {
                    Instant::now() + options.ttl
                };
            }
        }
    }
}

/// The next news of the lock; none where there is none until then.
async fn next(watch: &mut LockWatch, until: Instant) -> Option<LockEvent> {
    tokio::time::timeout_at(until, watch.next()).await.ok()
}

/// Reads the lock, however long it takes the server to answer.
async fn read(broker: &Broker) -> StoredLock {
    loop {
        match broker.read_lock().await {
            Ok(lock) => return lock,
            Err(error) => {
                tracing::warn!("cannot read the schedulers' lock: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

fn keep(
    broker: Broker,
    leader: LeaderInfo,
    revision: u64,
    asked: Uptime,
    options: LockOptions,
) -> Lease {
    let trusted_for = options.ttl.saturating_sub(MARGIN);
    let (sender, hold) = watch::channel(Hold::Until(asked.after(trusted_for)));
    let (release, released) = oneshot::channel();
    let renewing = tokio::spawn(renew(broker, leader, revision, options, sender, released));
    Lease {
        hold,
        keeper: Arc::new(Keeper {
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
    hold: watch::Sender<Hold>,
    mut released: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let trusted_for = options.ttl.saturating_sub(MARGIN);
    // so that one renewal may be lost
    let interval = options.renew_interval.min(trusted_for / 2);
    let mut pause = interval;
    loop {
        tokio::select! {
            done = &mut released => {
                let released = timeout(options.renew_interval, broker.release_lock(revision)).await;
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
        let asked = Uptime::now();
        let taken = timeout(
            options.renew_interval,
            broker.take_lock(&leader, revision, options.ttl),
        )
        .await;
        pause = PAUSE;
        match taken {
            Ok(Ok(renewed)) => {
                step("lock.renewed");
                revision = renewed;
                pause = interval;
                let _ = hold.send(Hold::Until(asked.after(trusted_for)));
            }
            Ok(Err(BrokerError::Conflict)) => {
                // perhaps by a renewal of one's own whose answer was lost
                let stored = timeout(options.renew_interval, broker.read_lock()).await;
                if let Ok(Ok(lock)) = stored {
                    if lock.leader.as_ref() != Some(&leader) {
                        let _ = hold.send(Hold::Lost);
                        return;
                    }
                    revision = lock.revision;
                }
            }
            Ok(Err(error)) => tracing::warn!("cannot renew the schedulers' lock: {error}"),
            Err(_) => tracing::warn!("no answer while renewing the schedulers' lock"),
        }
        let over = match *hold.borrow() {
            Hold::Until(until) => Uptime::now() >= until,
            Hold::Always | Hold::Lost => false,
        };
        if over {
            let _ = hold.send(Hold::Lost);
            return;
        }
    }
}
