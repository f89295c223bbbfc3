//! Dead letters: failed and rejected jobs, kept whole with the original bytes, the headers and the
//! reason.

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::headers::ENQUEUE_TIME;
use crate::pull::delivery::Delivery;
use crate::stream::reverse_scan::ReverseScan;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use naq_protocol::{JobId, QueueName, Reason, Record, State, Timestamp};

/// A dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The job.
    pub job_id: JobId,
    /// The queue that the job came from.
    pub queue: QueueName,
    /// Its sequence in the stream of failed jobs. A second failure under the same id has another
    /// sequence.
    pub sequence: u64,
    /// [`State::Failed`] or [`State::Rejected`].
    pub state: State,
    /// The reason, as a code. `None` if the message has none.
    pub reason: Option<Reason>,
    /// The exit code of the last attempt. `None` if it has not exited by itself.
    pub exit_code: Option<i32>,
    /// The signal that killed the last attempt.
    pub signal: Option<i32>,
    /// The error, for people.
    pub error: Option<String>,
    /// Number of attempts.
    pub attempt: u32,
    /// When the job was enqueued.
    pub enqueue_time: Timestamp,
    /// When the dead letter was stored.
    pub time: Timestamp,
    /// The headers of the job's message, in their order.
    pub headers: Vec<(String, String)>,
    /// The object in `naq_files` that holds the headers, if they do not fit into a message.
    pub headers_object: Option<String>,
    /// The envelope's bytes, unchanged; empty if `object` holds them.
    pub payload: Bytes,
    /// The object in `naq_files` that holds the envelope, if it does not fit into a message.
    pub object: Option<String>,
}

/// Dead letters, newest first, read on demand.
pub struct DeadLetters(ReverseScan<DeadLetter>);

impl DeadLetters {
    /// The next older dead letter. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, BrokerError> {
        self.0.next().await
    }
}

/// Dead letters, oldest first, read on demand. Memory use is bounded.
pub struct DeadLetterScan(mpsc::Receiver<Result<StreamMessage, BrokerError>>);

impl DeadLetterScan {
    /// The next newer dead letter. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
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

/// Why a job becomes a dead letter.
pub(crate) struct FailureInfo<'a> {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) error: &'a str,
    pub(crate) attempt: u32,
    pub(crate) enqueue_time: Timestamp,
}

impl Broker {
    /// Stores a delivered job, whole, as a dead letter with the failure that `record` has. Storing it
    /// twice keeps one copy.
    ///
    /// # Errors
    /// Returns an error if the server refuses the write or does not answer. The job is then still
    /// in its queue.
    pub async fn dead_letter(
        &self,
        delivery: &Delivery,
        record: &Record,
    ) -> Result<(), BrokerError> {
        let mut headers = HeaderMap::new();
        for (name, values) in delivery.headers.iter() {
            for value in values {
                // under their own names the server would obey `Nats-…` headers instead of keeping
                // them
                let kept = format!("{ORIGINAL}{name}");
                headers.append(kept.as_str(), value.as_str());
            }
        }
        self.write_dead_letter(
            &delivery.queue,
            &record.job_id,
            headers,
            delivery.payload.clone(),
            &FailureInfo {
                state: record.state(),
                reason: record.reason().unwrap_or(Reason::Exit),
                exit_code: record.exit_code,
                signal: record.signal,
                error: record.error.as_deref().unwrap_or_default(),
                attempt: record.attempt,
                enqueue_time: record.enqueue_time,
            },
        )
        .await
    }

    pub(crate) async fn write_dead_letter(
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
        if let Some(exit_code) = failure.exit_code {
            headers.insert("Naq-Exit-Code", exit_code.to_string());
        }
        if let Some(signal) = failure.signal {
            headers.insert("Naq-Signal", signal.to_string());
        }
        headers.insert("Naq-Attempt", failure.attempt.to_string());
        headers.insert(ENQUEUE_TIME, failure.enqueue_time.to_string());
        headers.insert("Naq-Error", one_line(failure.error).as_str());
        let subject = self.names.dead_letter(queue, job);
        let mut sent = self
            .publish_dead_letter(subject.clone(), headers.clone(), payload.clone())
            .await;
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
        let ensure = || self.ensure_dead_letters();
        self.store_creating(subject, headers, payload, ensure)
            .await
            .map(drop)
    }

    /// Lists dead letters, newest first, starting with those stored at or before `until`. `None`
    /// starts with the newest.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_dead_letters(
        &self,
        until: Option<Timestamp>,
    ) -> Result<DeadLetters, BrokerError> {
        let stream = self.names.dead_letter_stream();
        Ok(DeadLetters(
            self.scan_reverse(stream, until, None, |_, _, message| {
                Box::pin(async move { Ok(dead_letter_from_message(&message)) })
            })
            .await?,
        ))
    }

    /// Lists the dead letters of a queue, or of all queues, oldest first; with the envelopes if
    /// `whole` is set.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
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

    /// Reads a job's dead letter. If jobs of several queues share the id, returns the last one to
    /// fail.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn read_dead_letter(&self, job: &JobId) -> Result<Option<DeadLetter>, BrokerError> {
        let stream = self.names.dead_letter_stream();
        let subject = self.names.dead_letters_of_job(job);
        let message = self
            .read_message(&stream, MessageSelector::LastBySubject(&subject))
            .await?;
        Ok(message.as_ref().and_then(dead_letter_from_message))
    }

    /// Reads the envelope of a dead letter, from the message or from its object.
    ///
    /// # Errors
    /// Returns an error if the envelope is in an object that cannot be read.
    pub async fn dead_letter_envelope(&self, job: &DeadLetter) -> Result<Bytes, BrokerError> {
        match &job.object {
            Some(object) => Ok(self.get_object(object).await?.into()),
            None => Ok(job.payload.clone()),
        }
    }

    /// Removes a dead letter and its objects. If the job has failed again under the same id, the
    /// newer dead letter stays. Returns whether the dead letter existed.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn remove_dead_letter(&self, job: &DeadLetter) -> Result<bool, BrokerError> {
        let subject = self.names.dead_letter(&job.queue, &job.job_id);
        let removed = self.purge_dead_letters(subject, job.sequence).await?;
        if removed > 0 {
            self.remove_dead_letter_objects(job).await?;
        }
        Ok(removed > 0)
    }

    /// Removes the objects of a dead letter.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn remove_dead_letter_objects(&self, job: &DeadLetter) -> Result<(), BrokerError> {
        for object in [&job.object, &job.headers_object].into_iter().flatten() {
            self.remove_object(object).await?;
        }
        Ok(())
    }

    /// Removes all dead letters of a queue, or of all queues, up to and including a sequence.
    /// Returns how many there were. Their objects stay.
    ///
    /// # Errors
    /// Returns an error if the server refuses the request.
    pub async fn remove_dead_letters(
        &self,
        queue: Option<&QueueName>,
        up_to: u64,
    ) -> Result<u64, BrokerError> {
        self.purge_dead_letters(self.dead_letter_subjects(queue), up_to)
            .await
    }

    async fn purge_dead_letters(&self, subject: String, up_to: u64) -> Result<u64, BrokerError> {
        const DOING: &str = "removing failed jobs";
        let name = self.names.dead_letter_stream();
        let stream = self
            .jetstream
            .get_stream_no_info(&name)
            .await
            .map_err(|error| self.request_error(DOING, error))?;
        // the server keeps the message at the bound, so the bound is one after the last to remove
        let purge = stream.purge().filter(subject).sequence(up_to + 1);
        match self.until_denied(DOING, &name, purge).await? {
            Ok(purged) => Ok(purged.purged),
            Err(error) => Err(self.request_error(DOING, error)),
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

/// Parses the message of a dead letter. `None` if the subject is not naq's.
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
    let header = |name: &str| {
        headers
            .iter()
            .find(|(known, value)| known.eq_ignore_ascii_case(name) && !value.is_empty())
            .map(|(_, value)| value.clone())
    };
    let number = |name: &str| header(name).and_then(|number| number.parse().ok());
    Some(DeadLetter {
        job_id,
        queue,
        sequence,
        state: header("Naq-State").map_or(State::Failed, |state| State::from_name(&state)),
        reason: header("Naq-Reason").map(|reason| Reason::from_name(&reason)),
        exit_code: number("Naq-Exit-Code"),
        signal: number("Naq-Signal"),
        error: header("Naq-Error"),
        attempt: header("Naq-Attempt")
            .and_then(|attempt| attempt.parse().ok())
            .unwrap_or_default(),
        enqueue_time: header(ENQUEUE_TIME)
            .and_then(|enqueue_time| enqueue_time.parse().ok())
            .unwrap_or(time),
        time,
        object: header("Naq-Object"),
        headers_object: header("Naq-Object-Headers"),
        headers: headers
            .iter()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix(ORIGINAL)?.to_owned(), value.clone()))
            })
            .collect(),
        payload,
    })
}

/// Prefix under which the producer's headers are kept.
const ORIGINAL: &str = "Naq-Original-";

/// Splits off the producer's headers. Returns the other headers, and the producer's as text.
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

/// Makes an error fit for a header, whose value is one line.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1_000)
        .collect()
}
