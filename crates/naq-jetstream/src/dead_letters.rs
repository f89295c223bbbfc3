//! The stream of failed and rejected jobs: the original bytes and headers, and the reason.

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::delivery::Delivery;
use super::reverse_scan::ReverseScan;
use super::stream_api::{MessageSelector, StoredMessage};
use super::stream_reader::{StreamMessage, StreamRead};
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName, Reason, State, Timestamp};

/// A job in the failed stream.
#[derive(Clone, Debug)]
pub struct DeadLetter {
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
pub struct DeadLetters(ReverseScan<DeadLetter>);

impl DeadLetters {
    /// The next older one; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
        self.0.next().await
    }
}

/// Failed jobs, oldest first, as they come. Few are held at once.
pub struct DeadLetterScan(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl DeadLetterScan {
    /// The next younger one; none where there are no more.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
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
            if let Some(job) = parse_dead_letter(subject, sequence, time, headers, message.payload)
            {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }
}

/// Why a job goes to the failed stream.
pub(super) struct FailureInfo<'a> {
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
    pub async fn dead_letter(
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
        self.write_dead_letter(
            &delivery.queue,
            job,
            headers,
            delivery.payload.clone(),
            &FailureInfo {
                state,
                reason,
                error,
                attempt,
            },
        )
        .await
    }

    pub(super) async fn write_dead_letter(
        &self,
        queue: &QueueName,
        job: &JobId,
        mut headers: HeaderMap,
        payload: Bytes,
        failure: &FailureInfo<'_>,
    ) -> Result<(), BrokerError> {
        headers.insert("Naq-Job-Id", job.as_str());
        headers.insert("Naq-State", failure.state.as_str());
        headers.insert("Naq-Reason", failure.reason.as_str());
        headers.insert("Naq-Attempt", failure.attempt.to_string());
        headers.insert("Naq-Error", one_line(failure.error).as_str());
        let subject = self.names.dead_letter(queue, job);
        let mut sent = self
            .publish_dead_letter(subject.clone(), headers.clone(), payload.clone())
            .await;
        if let Err(BrokerError::NotFound(_)) = sent {
            self.ensure_dead_letters().await?;
            sent = self
                .publish_dead_letter(subject.clone(), headers.clone(), payload.clone())
                .await;
        }
        if let Err(BrokerError::TooLarge { .. }) = sent {
            let object = format!("failed/{queue}/{job}");
            self.put_object(&object, &payload).await?;
            headers.insert("Naq-Object", object.as_str());
            sent = self
                .publish_dead_letter(subject.clone(), headers.clone(), Bytes::new())
                .await;
            if let Err(BrokerError::TooLarge { .. }) = sent {
                // the producer's headers alone fill a message
                let object = format!("{object}/headers");
                let (headers, original) = without_originals(&headers);
                self.put_object(&object, original.as_bytes()).await?;
                let mut headers = headers;
                headers.insert("Naq-Object-Headers", object.as_str());
                sent = self
                    .publish_dead_letter(subject, headers, Bytes::new())
                    .await;
            }
        }
        sent
    }

    async fn publish_dead_letter(
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
    pub async fn list_dead_letters(
        &self,
        until: Option<Timestamp>,
    ) -> Result<DeadLetters, BrokerError> {
        let stream = self.names.dead_letter_stream();
        Ok(DeadLetters(
            self.scan_reverse(stream, until, |_, _, message| {
                Box::pin(async move { Ok(dead_letter_from_message(&message)) })
            })
            .await?,
        ))
    }

    /// The failed jobs of a queue, or of all, oldest first; `whole` or without the envelopes.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn scan_dead_letters(
        &self,
        queue: Option<&QueueName>,
        whole: bool,
    ) -> Result<DeadLetterScan, BrokerError> {
        let scan = StreamRead {
            headers_only: !whole,
            ..StreamRead::last_per_subject(self.dead_letter_subjects(queue))
        };
        Ok(DeadLetterScan(
            self.read_stream(&self.names.dead_letter_stream(), scan)
                .await?,
        ))
    }

    fn dead_letter_subjects(&self, queue: Option<&QueueName>) -> String {
        match queue {
            Some(queue) => self.names.dead_letters_in(queue),
            None => self.names.all_dead_letters(),
        }
    }

    /// A job of the failed stream, by its id; the last to fail where queues share an id.
    ///
    /// # Errors
    /// Where the server does not answer.
    pub async fn read_dead_letter(&self, job: &JobId) -> Result<Option<DeadLetter>, BrokerError> {
        let stream = self.names.dead_letter_stream();
        let subject = self.names.dead_letters_of_job(job);
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(message.as_ref().and_then(dead_letter_from_message))
    }

    /// The envelope's bytes of a failed job, wherever they are.
    ///
    /// # Errors
    /// Where they are an object that cannot be read.
    pub async fn dead_letter_envelope(&self, job: &DeadLetter) -> Result<Bytes, BrokerError> {
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
    pub async fn remove_dead_letter(&self, job: &DeadLetter) -> Result<bool, BrokerError> {
        let subject = self.names.dead_letter(&job.queue, &job.job_id);
        let removed = self.purge_dead_letters(subject, job.sequence).await?;
        if removed > 0 {
            self.remove_dead_letter_objects(job).await?;
        }
        Ok(removed > 0)
    }

    /// Removes what is kept beside a failed job.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn remove_dead_letter_objects(&self, job: &DeadLetter) -> Result<(), BrokerError> {
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
    pub async fn remove_dead_letters(
        &self,
        queue: Option<&QueueName>,
        up_to: u64,
    ) -> Result<u64, BrokerError> {
        self.purge_dead_letters(self.dead_letter_subjects(queue), up_to)
            .await
    }

    async fn purge_dead_letters(&self, subject: String, up_to: u64) -> Result<u64, BrokerError> {
        let refused = |message: String| BrokerError::Refused {
            doing: "removing failed jobs",
            message,
        };
        let stream = self
            .jetstream
            .get_stream_no_info(self.names.dead_letter_stream())
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

fn dead_letter_from_message(message: &StoredMessage) -> Option<DeadLetter> {
    let headers = message.header_list();
    parse_dead_letter(
        &message.subject,
        message.sequence,
        message.time,
        headers,
        message.payload(),
    )
}

/// A failed job as its message tells it; none where the subject is not naq's.
fn parse_dead_letter(
    subject: &str,
    sequence: u64,
    time: Timestamp,
    headers: Vec<(String, String)>,
    payload: Bytes,
) -> Option<DeadLetter> {
    let mut tokens = subject.split('.').skip(2);
    let queue = QueueName::new(tokens.next()?).ok()?;
    let job_id = JobId::new(tokens.next()?).ok()?;
    let told = |name: &str| {
        headers
            .iter()
            .find(|(known, value)| known.eq_ignore_ascii_case(name) && !value.is_empty())
            .map(|(_, value)| value.clone())
    };
    Some(DeadLetter {
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
