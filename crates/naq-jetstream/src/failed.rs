//! The stream of failed and rejected jobs: the original bytes and headers, and the reason.

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::backwards::Backwards;
use super::delivery::Delivery;
use super::raw::{RawMessage, Which};
use super::scan::{BulkMessage, Scan};
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName, Reason, State, Timestamp};

/// A job in the failed stream.
#[derive(Clone, Debug)]
pub struct FailedJob {
    /// The job.
    pub job_id: JobId,
    /// The queue it came by.
    pub queue: QueueName,
    /// Its place in the failed stream: a second failure under the same id has another.
    pub sequence: u64,
    /// Failed or rejected.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
    /// Why, in words.
    pub error: Option<String>,
    /// Attempts that were made.
    pub attempt: u32,
    /// When it was put here.
    pub time: Timestamp,
    /// The headers that its message came with, in their order.
    pub headers: Vec<(String, String)>,
    /// The object in `naq_files` that holds these, where they do not fit a message.
    pub headers_object: Option<String>,
    /// The envelope's bytes as they came; empty where `object` holds them.
    pub payload: Bytes,
    /// The object in `naq_files` that holds the bytes, where they do not fit a message.
    pub object: Option<String>,
}

/// Failed jobs, newest first, read as they are asked for.
pub struct FailedJobs(Backwards<FailedJob>);

impl FailedJobs {
    /// The next older one; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn next(&mut self) -> Result<Option<FailedJob>, BrokerError> {
        self.0.next().await
    }
}

/// Failed jobs, oldest first, as they come. Few are held at once.
pub struct FailedScan(mpsc::Receiver<Result<BulkMessage, BrokerError>>);

impl FailedScan {
    /// The next younger one; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn next(&mut self) -> Result<Option<FailedJob>, BrokerError> {
        while let Some(message) = self.0.recv().await {
            let message = message?;
            let headers = message
                .headers
                .iter()
                .flat_map(|(name, values)| {
                    values
                        .iter()
                        .map(|value| (name.to_string(), value.as_str().to_owned()))
                })
                .collect();
            let time = Timestamp::from_unix_ms(message.time_unix_ms)
                .unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH));
            let (subject, sequence) = (&message.subject, message.sequence);
            if let Some(job) = failed_job(subject, sequence, time, headers, message.payload) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }
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

    /// The failed jobs, newest first, from those that are no younger than `until`.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn list_failed(&self, until: Option<Timestamp>) -> Result<FailedJobs, BrokerError> {
        let stream = self.names.failed_stream();
        Ok(FailedJobs(
            self.read_backwards(stream, until, |_, _, message| {
                Box::pin(async move { Ok(failed_message(&message)) })
            })
            .await?,
        ))
    }

    /// The failed jobs of a queue, or of all, oldest first; `whole` or without the envelopes.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn scan_failed(
        &self,
        queue: Option<&QueueName>,
        whole: bool,
    ) -> Result<FailedScan, BrokerError> {
        let scan = Scan {
            headers_only: !whole,
            ..Scan::last_of_each(self.failed_subjects(queue))
        };
        Ok(FailedScan(
            self.scan(&self.names.failed_stream(), scan).await?,
        ))
    }

    fn failed_subjects(&self, queue: Option<&QueueName>) -> String {
        match queue {
            Some(queue) => self.names.failed_in(queue),
            None => self.names.all_failed(),
        }
    }

    /// A job of the failed stream, by its id; the last to fail where queues share an id.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn read_failed(&self, job: &JobId) -> Result<Option<FailedJob>, BrokerError> {
        let stream = self.names.failed_stream();
        let subject = self.names.failed_anywhere(job);
        let message = self.read_message(&stream, Which::LastOf(&subject)).await?;
        Ok(message.as_ref().and_then(failed_message))
    }

    /// The envelope's bytes of a failed job, wherever they are.
    ///
    /// # Errors
    /// Where they are an object that cannot be read.
    pub async fn failed_envelope(&self, job: &FailedJob) -> Result<Bytes, BrokerError> {
        match &job.object {
            Some(object) => Ok(self.get_object(object).await?.into()),
            None => Ok(job.payload.clone()),
        }
    }

    /// Removes a job from the failed stream, with what was kept beside it. One that has failed
    /// again under the same id stays. Returns whether it was there.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn remove_failed(&self, job: &FailedJob) -> Result<bool, BrokerError> {
        let subject = self.names.failed(&job.queue, &job.job_id);
        let removed = self.purge_failed(subject, job.sequence).await?;
        if removed > 0 {
            self.remove_failed_objects(job).await?;
        }
        Ok(removed > 0)
    }

    /// Removes what is kept beside a failed job.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn remove_failed_objects(&self, job: &FailedJob) -> Result<(), BrokerError> {
        for object in [&job.object, &job.headers_object].into_iter().flatten() {
            self.remove_object(object).await?;
        }
        Ok(())
    }

    /// Removes every failed job of a queue, or of all, up to a place in the stream. Returns how
    /// many there were. What was kept beside them is not touched.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn remove_all_failed(
        &self,
        queue: Option<&QueueName>,
        up_to: u64,
    ) -> Result<u64, BrokerError> {
        self.purge_failed(self.failed_subjects(queue), up_to).await
    }

    async fn purge_failed(&self, subject: String, up_to: u64) -> Result<u64, BrokerError> {
        let refused = |message: String| BrokerError::Refused {
            doing: "removing failed jobs",
            message,
        };
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.failed_stream())
            .await
            .map_err(|error| refused(error.to_string()))?;
        // the bound is the first that stays
        let purge = stream.purge().filter(subject).sequence(up_to + 1);
        match purge.await {
            Ok(purged) => Ok(purged.purged),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

fn failed_message(message: &RawMessage) -> Option<FailedJob> {
    let headers = message.header_list();
    failed_job(
        &message.subject,
        message.sequence,
        message.time,
        headers,
        message.payload(),
    )
}

/// A failed job as its message tells it; none where the subject is not naq's.
fn failed_job(
    subject: &str,
    sequence: u64,
    time: Timestamp,
    headers: Vec<(String, String)>,
    payload: Bytes,
) -> Option<FailedJob> {
    let mut tokens = subject.split('.').skip(2);
    let queue = QueueName::new(tokens.next()?).ok()?;
    let job_id = JobId::new(tokens.next()?).ok()?;
    let told = |name: &str| {
        headers
            .iter()
            .find(|(known, value)| known.eq_ignore_ascii_case(name) && !value.is_empty())
            .map(|(_, value)| value.clone())
    };
    Some(FailedJob {
        job_id,
        queue,
        sequence,
        state: told("Naq-State")
            .and_then(|state| state.parse().ok())
            .unwrap_or(State::Failed),
        reason: told("Naq-Reason"),
        error: told("Naq-Error"),
        attempt: told("Naq-Attempt")
            .and_then(|attempt| attempt.parse().ok())
            .unwrap_or_default(),
        time,
        object: told("Naq-Object"),
        headers_object: told("Naq-Object-Headers"),
        headers: headers
            .iter()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix(ORIGINAL)?.to_owned(), value.clone()))
            })
            .collect(),
        payload,
    })
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
