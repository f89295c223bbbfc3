//! The stream of failed and rejected jobs: the original bytes and headers, and the reason.

use async_nats::HeaderMap;
use bytes::Bytes;

use super::delivery::Delivery;
use super::{Broker, BrokerError};
use crate::envelope::{JobId, QueueName, Reason, State, Timestamp};

/// A job in the failed stream.
#[derive(Clone, Debug)]
pub struct FailedJob {
    /// The job.
    pub job_id: JobId,
    /// The queue it came by.
    pub queue: QueueName,
    /// Failed or rejected.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
    /// Why, in words.
    pub error: Option<String>,
    /// When it was put here.
    pub time: Timestamp,
    /// The envelope's bytes as they came; empty where `object` holds them.
    pub payload: Bytes,
    /// The object in `naq_files` that holds the bytes, where they do not fit a message.
    pub object: Option<String>,
}

/// Why a job goes to the failed stream.
pub(super) struct Verdict<'a> {
    pub(super) state: State,
    pub(super) reason: Reason,
    pub(super) error: &'a str,
    pub(super) attempt: u32,
}

impl Broker {
    /// Keeps a delivered job, whole, in the failed stream. Keeping it twice keeps it once.
    ///
    /// # Errors
    /// Where the server refuses or does not answer: the job is then still in its queue.
    pub async fn keep_failed(
        &self,
        delivery: &Delivery,
        job: &JobId,
        state: State,
        reason: Reason,
        error: &str,
        attempt: u32,
    ) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        for (name, values) in delivery.headers.iter() {
            for value in values {
                // `Nats-…` would be obeyed instead of kept
                let kept = format!("{ORIGINAL}{name}");
                headers.append(kept.as_str(), value.as_str());
            }
        }
        self.keep(
            &delivery.queue,
            job,
            headers,
            delivery.payload.clone(),
            &Verdict {
                state,
                reason,
                error,
                attempt,
            },
        )
        .await
    }

    pub(super) async fn keep(
        &self,
        queue: &QueueName,
        job: &JobId,
        mut headers: HeaderMap,
        payload: Bytes,
        verdict: &Verdict<'_>,
    ) -> Result<(), BrokerError> {
        headers.insert("Naq-Job-Id", job.as_str());
        headers.insert("Naq-State", verdict.state.as_str());
        headers.insert("Naq-Reason", verdict.reason.as_str());
        headers.insert("Naq-Attempt", verdict.attempt.to_string());
        headers.insert("Naq-Error", one_line(verdict.error).as_str());
        let subject = self.names.failed(queue, job);
        let mut sent = self
            .keep_once(subject.clone(), headers.clone(), payload.clone())
            .await;
        if let Err(BrokerError::Missing(_)) = sent {
            self.ensure_failed().await?;
            sent = self
                .keep_once(subject.clone(), headers.clone(), payload.clone())
                .await;
        }
        if let Err(BrokerError::TooLarge { .. }) = sent {
            let object = format!("failed/{queue}/{job}");
            self.put_object(&object, &payload).await?;
            headers.insert("Naq-Object", object.as_str());
            sent = self
                .keep_once(subject.clone(), headers.clone(), Bytes::new())
                .await;
            if let Err(BrokerError::TooLarge { .. }) = sent {
                // the producer's headers alone fill a message
                let object = format!("{object}/headers");
                let (headers, original) = without_originals(&headers);
                self.put_object(&object, original.as_bytes()).await?;
                let mut headers = headers;
                headers.insert("Naq-Object-Headers", object.as_str());
                sent = self.keep_once(subject, headers, Bytes::new()).await;
            }
        }
        sent
    }

    async fn keep_once(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        self.send(subject, headers, payload)
            .await?
            .confirmed()
            .await
            .map(|_| ())
    }

    /// Every failed job, oldest first.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_failed(&self) -> Result<Vec<FailedJob>, BrokerError> {
        let mut messages = self
            .read_last_of_each(&self.names.failed_stream(), &self.names.all_failed())
            .await?;
        let mut jobs = Vec::new();
        while let Some(message) = messages.recv().await {
            let message = message?;
            let mut tokens = message.subject.split('.').skip(2);
            let (Some(queue), Some(job)) = (tokens.next(), tokens.next()) else {
                continue;
            };
            let (Ok(queue), Ok(job_id)) = (QueueName::new(queue), JobId::new(job)) else {
                continue;
            };
            let header = |name: &str| {
                message
                    .headers
                    .get(name)
                    .map(|value| value.as_str().to_owned())
            };
            jobs.push(FailedJob {
                job_id,
                queue,
                state: header("Naq-State")
                    .and_then(|state| state.parse().ok())
                    .unwrap_or(State::Failed),
                reason: header("Naq-Reason"),
                error: header("Naq-Error"),
                time: Timestamp::from_unix_ms(message.time_unix_ms)
                    .unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH)),
                object: header("Naq-Object"),
                payload: message.payload,
            });
        }
        Ok(jobs)
    }
}

/// What the producer's headers are kept under.
const ORIGINAL: &str = "Naq-Original-";

/// Headers without those that the producer sent, and these as text.
fn without_originals(headers: &HeaderMap) -> (HeaderMap, String) {
    let (mut ours, mut original) = (HeaderMap::new(), String::new());
    for (name, values) in headers.iter() {
        let text = name.to_string();
        for value in values {
            match text.strip_prefix(ORIGINAL) {
                Some(name) => original.push_str(&format!("{name}: {value}\n")),
                None => ours.append(name.clone(), value.clone()),
            }
        }
    }
    (ours, original)
}

/// A header's value is one line.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1_000)
        .collect()
}
