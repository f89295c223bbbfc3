//! Poison messages: messages that the client library cannot parse.
//!
//! The server accepts subjects and headers that are not UTF-8, or not headers at all. Delivering
//! such a message makes the client drop its connection, with everything else in flight on it, and
//! the message would be redelivered forever. So after a connection is dropped, the unacknowledged
//! messages are read one by one through the server's API, where bytes are in base64, and those that
//! no client can parse are kept as dead letters and removed.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::Info as ConsumerInfo;
use base64::Engine;

use super::dead_letter::FailureInfo;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::finish_job::SlotWaiter;
use crate::pull::delivery::Delivery;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
use naq_protocol::{
    Envelope, JobId, Outcome, Phase, QueueName, Reason, Record, RejectReason, State, Timestamp,
};

/// Maximum number of messages that one search reads.
const MESSAGE_READS_MAX: u64 = 10_000;

/// The messages of a consumer that are delivered and neither acknowledged nor removed, one by one.
/// Acknowledged messages between them cost no reads, however many there are.
pub(crate) struct UnackedMessages {
    stream: String,
    consumer: String,
    /// Subjects still to be read, each with the sequence to continue from.
    next: Vec<(String, u64)>,
    last: u64,
    /// The consumer sequence of the consumer's last delivery.
    consumer_sequence: u64,
    reads_left: u64,
}

impl UnackedMessages {
    pub(crate) async fn next(
        &mut self,
        broker: &Broker,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        while let Some((subject, from)) = self.next.last_mut() {
            if self.reads_left == 0 {
                return Ok(None);
            }
            self.reads_left -= 1;
            let found = broker
                .read_message(&self.stream, MessageSelector::NextBySubject(subject, *from))
                .await?
                .filter(|message| message.sequence <= self.last);
            match found {
                Some(message) => {
                    *from = message.sequence + 1;
                    return Ok(Some(message));
                }
                None => drop(self.next.pop()),
            }
        }
        Ok(None)
    }
}

impl Broker {
    /// Searches a queue's unacknowledged messages for poison messages, and moves them to the dead
    /// letters. Returns their job ids.
    ///
    /// # Errors
    /// Returns an error if the server does not answer. Messages that were moved before the error
    /// stay moved.
    pub async fn dead_letter_poison_messages(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<JobId>, BrokerError> {
        let name = self.names.queue_stream(queue);
        let mut moved = Vec::new();
        for consumer in self.consumers(queue).await? {
            let mut out = self.unacked_messages(queue, &consumer, MESSAGE_READS_MAX);
            while let Some(message) = out.next(self).await? {
                let sequence = message.sequence;
                let Some(problem) = problem(&message) else {
                    continue;
                };
                let job = self.poison_job_id(queue, &message).await?;
                let mut headers = HeaderMap::new();
                headers.insert(
                    "Naq-Original-Headers",
                    base64::engine::general_purpose::STANDARD.encode(message.headers()),
                );
                headers.insert(
                    "Naq-Original-Subject",
                    message
                        .subject
                        .replace(|c: char| !c.is_ascii_graphic(), "?"),
                );
                self.write_dead_letter(
                    queue,
                    &job,
                    headers,
                    message.payload(),
                    &FailureInfo {
                        state: State::Rejected,
                        reason: Reason::Invalid,
                        exit_code: None,
                        signal: None,
                        error: problem,
                        attempt: 0,
                        enqueue_time: message.time,
                    },
                )
                .await?;
                self.write_rejected(queue, &job, problem, message.time)
                    .await?;
                self.delete_message(&name, sequence).await?;
                tracing::warn!(%queue, sequence, "removed a poison message, which no client can parse: {problem}");
                moved.push(job);
            }
        }
        Ok(moved)
    }

    /// Passes each message of a queue that is delivered and neither acknowledged nor removed to
    /// `look`, as a delivery that can be negatively acknowledged. A nak requeues the message even
    /// if another worker is running its job.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn unacked_deliveries(
        &self,
        queue: &QueueName,
        mut look: impl FnMut(Delivery),
    ) -> Result<(), BrokerError> {
        for consumer in self.consumers(queue).await? {
            let mut out = self.unacked_messages(queue, &consumer, MESSAGE_READS_MAX);
            while let Some(message) = out.next(self).await? {
                if problem(&message).is_none() {
                    look(self.delivery_from_stored(
                        queue,
                        &out.consumer,
                        &message,
                        out.consumer_sequence,
                    ));
                }
            }
        }
        Ok(())
    }

    /// A consumer's unacknowledged messages, according to a recent state of the consumer.
    pub(crate) fn unacked_messages(
        &self,
        queue: &QueueName,
        info: &ConsumerInfo,
        reads_max: u64,
    ) -> UnackedMessages {
        let first = info.ack_floor.stream_sequence + 1;
        let config = &info.config;
        let filters = if config.filter_subject.is_empty() {
            config.filter_subjects.clone()
        } else {
            vec![config.filter_subject.clone()]
        };
        UnackedMessages {
            stream: self.names.queue_stream(queue),
            consumer: info.name.clone(),
            next: filters.into_iter().map(|filter| (filter, first)).collect(),
            last: info.delivered.stream_sequence,
            consumer_sequence: info.delivered.consumer_sequence,
            reads_left: reads_max,
        }
    }

    /// The id under which a poison message is recorded: that of its subject or its envelope, because
    /// a program that waits for the job waits for that id. If both lack one, or another job has a record
    /// under it, the id is made of the message's sequence. The headers are not read.
    async fn poison_job_id(
        &self,
        queue: &QueueName,
        message: &StoredMessage,
    ) -> Result<JobId, BrokerError> {
        let for_sequence = JobId::for_sequence(queue, message.sequence);
        // the last token after prefix, kind and queue
        let of_subject = message
            .subject
            .split('.')
            .skip(3)
            .last()
            .and_then(|id| JobId::from_user(id).ok());
        let named = of_subject.or_else(|| Envelope::parse(&message.payload()).ok()?.job_id);
        let Some(named) = named else {
            return Ok(for_sequence);
        };
        // a record of this message, from a worker that died before it removed the message
        let is_own = |record: &Record| {
            record.state() == State::Rejected
                && record.enqueue_time.unix_ms() == message.time.unix_ms()
        };
        match self.read_record(&named).await {
            Ok((None, _)) => Ok(named),
            Ok((Some(record), _)) if record.placeholder || is_own(&record) => Ok(named),
            Ok(_) | Err(BrokerError::InvalidData(_)) => Ok(for_sequence),
            Err(error) => Err(error),
        }
    }

    async fn write_rejected(
        &self,
        queue: &QueueName,
        job: &JobId,
        problem: &str,
        time: Timestamp,
    ) -> Result<(), BrokerError> {
        let rejected = Phase::Finished {
            outcome: Outcome::Rejected(RejectReason::Invalid),
            finished_at: time,
        };
        let mut record = Record::new(job.clone(), queue.clone(), rejected, time);
        record.error = Some(problem.to_owned());
        let mut revision = 0;
        loop {
            match self.write_record(&record, revision, Some(RECORD_TTL)).await {
                Ok(_) => break,
                Err(BrokerError::Conflict) => {}
                Err(error) => return Err(error),
            }
            match self.read_record(job).await? {
                (None, at) => revision = at,
                // other jobs depend on this one
                (Some(present), at) if present.placeholder => {
                    record.has_dependents = true;
                    revision = at;
                }
                (Some(present), _) => {
                    record.has_dependents =
                        present.has_dependents && present.state() == State::Rejected;
                    break;
                }
            }
        }
        self.finish_job(&record, None, SlotWaiter::MayExist).await
    }
}

/// How long the record of a poison message is kept.
const RECORD_TTL: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// The reason why async-nats 0.51 cannot parse the message (see its `connection.rs`). `None` if it
/// can.
fn problem(message: &StoredMessage) -> Option<&'static str> {
    if message
        .subject
        .contains(|c: char| c == '\u{fffd}' || c.is_whitespace() || c.is_control())
    {
        return Some("its subject is not text that a client can parse");
    }
    let headers = message.headers();
    if headers.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(headers) else {
        return Some("its headers are not UTF-8");
    };
    let mut lines = text.lines().peekable();
    let Some(version) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some("its headers do not begin with NATS/1.0");
    };
    let status = version.trim().split(' ').next().unwrap_or_default();
    let is_status = match status.as_bytes() {
        [] => true,
        [first, rest @ ..] => {
            rest.len() == 2 && (b'1'..=b'9').contains(first) && rest.iter().all(u8::is_ascii_digit)
        }
    };
    if !is_status {
        return Some("its header line has no status that a client can parse");
    }
    // The same steps as the client's: a message that the client accepts must not count as a poison
    // message here, or a job is lost; and the other way round, or the message is redelivered for
    // ever.
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Some("one of its headers has no colon");
        };
        if name.chars().any(|c| !c.is_ascii_graphic()) {
            return Some("one of its headers has a name that a client cannot parse");
        }
        let mut value = value.trim_start().to_owned();
        while let Some(folded) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(folded);
        }
        if value.trim_end().contains('\r') {
            return Some("one of its headers has a carriage return in its value");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(subject: &str, headers: &str) -> Option<&'static str> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(headers);
        let message = serde_json::json!({
            "subject": subject, "seq": 1, "hdrs": encoded, "time": "2026-01-01T00:00:00Z"
        });
        problem(&serde_json::from_value(message).unwrap())
    }

    #[test]
    fn messages_that_a_client_can_parse_are_kept() {
        for headers in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nA: b\r\nA: c\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n folded\r\n\r\n",
            "NATS/1.0\nA:\n\n",
            "NATS/1.0 503 No Responders\r\n\r\n",
            "NATS/1.0\r\n: no name\r\n\r\n",
        ] {
            assert_eq!(verdict("naq.queue.q", headers), None, "{headers:?}");
        }
    }

    #[test]
    fn poison_messages_are_found() {
        for headers in [
            "A: b\r\n\r\n",
            "NATS/1.0 099\r\n\r\n",
            "NATS/1.0 5030\r\n\r\n",
            "NATS/1.0\r\nno colon\r\n\r\n",
            "NATS/1.0\r\n folded: first\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n\r\n folded\r\n\r\n",
            "NATS/1.0\r\nA b: c\r\n\r\n",
            "NATS/1.0\r\nA: b\rc\r\n\r\n",
        ] {
            assert!(verdict("naq.queue.q", headers).is_some(), "{headers:?}");
        }
        assert!(verdict("naq.queue.q.\u{fffd}", "").is_some());
        assert!(verdict("naq.queue.q.a\u{a0}b", "").is_some());
    }
}
