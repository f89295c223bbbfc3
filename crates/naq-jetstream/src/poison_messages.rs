//! Messages that the client library cannot parse.
//!
//! The server takes subjects and headers that are not UTF-8 or not headers at all. Delivering
//! one makes the client drop its connection, with everything else under way on it; and it would
//! be delivered again and again. So after a connection was dropped, the messages that were out
//! are read one by one through the server's API, where bytes travel in base64, and those that
//! no client could take are kept in the failed stream and removed.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::Info as ConsumerInfo;
use base64::Engine;

use super::dead_letters::FailureInfo;
use super::delivery::Delivery;
use super::stream_api::{MessageSelector, StoredMessage};
use super::{Broker, BrokerError};
use naq_protocol::{JobId, QueueName, Reason, State};

/// How many messages one sweep looks at.
const MESSAGE_READS_MAX: u64 = 10_000;

/// The messages of a consumer that were delivered and are still there, one by one: those that were
/// acknowledged between them are not looked at, however many they are.
pub(super) struct UnackedMessages {
    stream: String,
    consumer: String,
    /// Subjects still to be looked through, and from where.
    next: Vec<(String, u64)>,
    last: u64,
    /// The consumer's own number of its last delivery.
    consumer_sequence: u64,
    looks_left: u64,
}

impl UnackedMessages {
    pub(super) async fn next(
        &mut self,
        broker: &Broker,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        while let Some((subject, from)) = self.next.last_mut() {
            if self.looks_left == 0 {
                return Ok(None);
            }
            self.looks_left -= 1;
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
    /// Looks through a queue's messages that were delivered and not acknowledged, and moves
    /// those that no client can read to the failed stream. Returns their ids.
    ///
    /// # Errors
    /// Where the server does not answer; what was moved until then is moved.
    pub async fn dead_letter_poison_messages(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<JobId>, BrokerError> {
        let name = self.names.queue_stream(queue);
        let mut swept = Vec::new();
        for consumer in self.consumers(queue).await? {
            let mut out = self.unacked_messages(queue, &consumer, MESSAGE_READS_MAX);
            while let Some(message) = out.next(self).await? {
                let sequence = message.sequence;
                let Some(problem) = problem(&message) else {
                    continue;
                };
                let job = JobId::for_sequence(queue, sequence);
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
                        error: problem,
                        attempt: 0,
                    },
                )
                .await?;
                self.write_rejected(queue, &job, problem, message.time)
                    .await?;
                self.delete_message(&name, sequence).await?;
                tracing::warn!(%queue, sequence, "removed a message that no client can read: {problem}");
                swept.push(job);
            }
        }
        Ok(swept)
    }

    /// The messages of a queue that were delivered and neither acknowledged nor removed, as
    /// deliveries that can be handed back. Whoever holds one, here or elsewhere, loses it by
    /// that.
    ///
    /// # Errors
    /// Where the server does not answer.
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

    /// What a consumer of a queue has out, going by its state a moment ago.
    pub(super) fn unacked_messages(
        &self,
        queue: &QueueName,
        info: &ConsumerInfo,
        looks_max: u64,
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
            looks_left: looks_max,
        }
    }

    async fn write_rejected(
        &self,
        queue: &QueueName,
        job: &JobId,
        problem: &str,
        time: naq_protocol::Timestamp,
    ) -> Result<(), BrokerError> {
        let mut record =
            naq_protocol::Record::new(job.clone(), queue.clone(), State::Rejected, time);
        record.reason = Some(Reason::Invalid);
        record.error = Some(problem.to_owned());
        record.finished_at = Some(time);
        match self.write_record(&record, 0, Some(RECORD_TTL)).await {
            Ok(_) | Err(BrokerError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How long the record of an unreadable message stays.
const RECORD_TTL: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// What async-nats 0.51 would trip over (its `connection.rs`), in words; none where it reads the
/// message.
fn problem(message: &StoredMessage) -> Option<&'static str> {
    if message
        .subject
        .contains(|c: char| c == '\u{fffd}' || c.is_whitespace() || c.is_control())
    {
        return Some("its subject is not text that a client can read");
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
        return Some("its header line has no status that a client can read");
    }
    // the same steps as the client's: what it takes must not be taken for unreadable here, nor
    // the other way round, or a job is lost or comes again for ever
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Some("one of its headers has no colon");
        };
        if name.chars().any(|c| !c.is_ascii_graphic()) {
            return Some("one of its headers has a name that a client cannot read");
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
    fn what_a_client_reads_is_left_alone() {
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
    fn what_no_client_reads_is_found() {
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
