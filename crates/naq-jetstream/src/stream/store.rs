//! Stores messages in streams that may not exist yet, or have no leader at that moment.
//!
//! Only the leader of a stream subscribes to its subjects, so the servers of a cluster report "no responders" both
//! for a stream that does not exist and for one whose leader is being elected: after a server has died, which takes
//! some seconds, and after a stream was created, until the writer's server knows who leads it.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;

use super::publish::PublishAck;
use crate::broker::Broker;
use crate::error::BrokerError;

/// Time limit for a stream that exists to get a leader. The servers elect one within 9 s
/// (`maxElectionTimeout` in `server/raft.go` of nats-server), unless they have to repeat the election.
const LEADER_TIME_MAX: Duration = Duration::from_secs(20);

/// Time after which the log says what a write waits for.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// The first pause between two tries, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// The pauses between the tries of a write for which no stream was found. No message tells a client that a leader has
/// been elected.
#[derive(Debug, Default)]
pub(crate) struct LeaderWait {
    tries: Option<Tries>,
}

#[derive(Debug)]
struct Tries {
    since: Instant,
    pause: Duration,
    is_reported: bool,
}

impl LeaderWait {
    /// Waits before the stream is looked for, or created, and the write is repeated. The first time, it does not
    /// wait: the stream may just be missing.
    ///
    /// # Errors
    /// Returns [`BrokerError::Timeout`] once the stream has been without a leader for too long.
    pub(crate) async fn wait(&mut self, subject: &str) -> Result<(), BrokerError> {
        let Some(tries) = &mut self.tries else {
            self.tries = Some(Tries {
                since: Instant::now(),
                pause: PAUSES[0],
                is_reported: false,
            });
            return Ok(());
        };
        let waited = tries.since.elapsed();
        if waited >= LEADER_TIME_MAX {
            return Err(BrokerError::Timeout(
                "waiting for a stream to have a leader",
            ));
        }
        if waited >= SILENT_MAX && !tries.is_reported {
            tries.is_reported = true;
            tracing::warn!(
                subject,
                "waiting until the NATS servers have elected the leader of the stream for this subject"
            );
        }
        tokio::time::sleep(tries.pause).await;
        tries.pause = (2 * tries.pause).min(PAUSES[1]);
        Ok(())
    }
}

impl Broker {
    /// Stores a message, and waits while its stream has no leader.
    ///
    /// # Errors
    /// Returns [`BrokerError::NotFound`] if no stream takes the subject, and other errors if the server refuses the
    /// message or does not answer.
    pub(crate) async fn store(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<PublishAck, BrokerError> {
        let mut leader = LeaderWait::default();
        loop {
            let sent = self
                .send(subject.clone(), headers.clone(), payload.clone())
                .await?;
            match sent.confirmed().await {
                Err(BrokerError::NotFound(_)) if self.has_stream_for(&subject).await? => {
                    leader.wait(&subject).await?;
                }
                done => return done,
            }
        }
    }

    /// Stores a message. If its stream is missing, creates it with `ensure`, which changes nothing if it exists.
    ///
    /// # Errors
    /// Returns an error if the stream cannot be created, or if the server refuses the message or does not answer.
    pub(crate) async fn store_creating<F>(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        ensure: impl Fn() -> F,
    ) -> Result<PublishAck, BrokerError>
    where
        F: Future<Output = Result<(), BrokerError>>,
    {
        let mut leader = LeaderWait::default();
        loop {
            let sent = self
                .send(subject.clone(), headers.clone(), payload.clone())
                .await?;
            match sent.confirmed().await {
                Err(BrokerError::NotFound(_)) => {
                    leader.wait(&subject).await?;
                    ensure().await?;
                }
                done => return done,
            }
        }
    }

    /// Whether a stream takes a subject, be it with a leader or without. `false` for a user who may not ask.
    async fn has_stream_for(&self, subject: &str) -> Result<bool, BrokerError> {
        const DOING: &str = "looking for the stream of a subject";
        #[derive(Deserialize)]
        struct Names {
            /// How many streams there are.
            total: u64,
        }
        let request = serde_json::json!({ "subject": subject });
        let asking = self.api_request::<Names>("STREAM.NAMES".to_owned(), &request, DOING);
        match asking.await {
            Ok(Ok(found)) => Ok(found.total > 0),
            Ok(Err(error)) => Err(self.request_error(DOING, error)),
            Err(BrokerError::PermissionDenied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
