//! Stored messages as the JetStream API returns them, and requests to that API.

use async_nats::jetstream::ErrorCode;
use base64::Engine;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};

use crate::broker::Broker;
use crate::error::BrokerError;
use naq_protocol::Timestamp;

/// A stored message with its bytes unparsed, so that nothing in it can break a client.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredMessage {
    pub(crate) subject: String,
    #[serde(rename = "seq")]
    pub(crate) sequence: u64,
    #[serde(default, rename = "data", deserialize_with = "from_base64")]
    payload: Bytes,
    #[serde(default, rename = "hdrs", deserialize_with = "from_base64")]
    headers: Bytes,
    pub(crate) time: Timestamp,
}

#[derive(Debug, Deserialize)]
struct StoredMessageReply {
    message: StoredMessage,
}

impl StoredMessage {
    /// A message that the server republished when it stored it. `None` if it lacks the server's
    /// headers.
    pub(crate) fn from_republished(message: &async_nats::Message) -> Option<StoredMessage> {
        let known = message.headers.as_ref()?;
        // the server's own headers come last: a producer may have forwarded a message with another
        // server's
        let value = |name: &str| known.get_last(name).map(async_nats::HeaderValue::as_str);
        let mut headers = String::from("NATS/1.0\r\n");
        for (name, values) in known.iter() {
            for value in values {
                headers.push_str(&format!("{name}: {}\r\n", value.as_str()));
            }
        }
        Some(StoredMessage {
            subject: value("Nats-Subject")?.to_owned(),
            sequence: value("Nats-Sequence")?.parse().ok()?,
            payload: message.payload.clone(),
            headers: headers.into(),
            time: value("Nats-Time-Stamp")?.parse().ok()?,
        })
    }

    pub(crate) fn payload(&self) -> Bytes {
        self.payload.clone()
    }

    pub(crate) fn headers(&self) -> &[u8] {
        &self.headers
    }

    /// The value of a header. `None` if the headers are not text or do not have it.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut headers = self.header_list().into_iter();
        headers
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The headers; empty if they are not text.
    pub(crate) fn header_list(&self) -> Vec<(String, String)> {
        let lines = std::str::from_utf8(&self.headers).unwrap_or_default();
        lines
            .lines()
            .skip(1)
            .filter_map(|line| {
                let (key, value) = line.split_once(':')?;
                Some((key.to_owned(), value.trim().to_owned()))
            })
            .collect()
    }
}

/// Decodes base64; invalid base64 reads as empty.
fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    Ok(bytes.unwrap_or_default().into())
}

/// Selects a message of a stream.
pub(crate) enum MessageSelector<'a> {
    BySequence(u64),
    LastBySubject(&'a str),
    /// The first message of a subject (which may have wildcards) from a sequence on.
    NextBySubject(&'a str, u64),
}

impl MessageSelector<'_> {
    /// Whether the selected message may have this sequence, after which there is always another.
    fn may_select(&self, sequence: u64) -> bool {
        let is_wanted = match self {
            MessageSelector::BySequence(wanted) => sequence == *wanted,
            MessageSelector::NextBySubject(_, from) => sequence >= *from,
            MessageSelector::LastBySubject(_) => true,
        };
        is_wanted && sequence < i64::MAX as u64
    }
}

impl Broker {
    /// Reads a message from the stream's leader through the API. `None` if there is no such message
    /// or stream.
    pub(crate) async fn read_message(
        &self,
        stream: &str,
        which: MessageSelector<'_>,
    ) -> Result<Option<StoredMessage>, BrokerError> {
        const DOING: &str = "reading a message";
        const NO_MESSAGE: u64 = 10_037;
        const STREAM_NOT_FOUND: u64 = 10_059;
        let request = match &which {
            MessageSelector::BySequence(sequence) => serde_json::json!({ "seq": sequence }),
            MessageSelector::NextBySubject(subject, from) => {
                serde_json::json!({ "seq": from, "next_by_subj": subject })
            }
            MessageSelector::LastBySubject(subject) => {
                serde_json::json!({ "last_by_subj": subject })
            }
        };
        match self
            .api_request::<StoredMessageReply>(format!("STREAM.MSG.GET.{stream}"), &request, DOING)
            .await?
        {
            // a scan that such a reply would send back would never end
            Ok(reply) if !which.may_select(reply.message.sequence) => Err(BrokerError::unreadable(
                "a message",
                "NATS sent another message than the one that was requested",
            )),
            Ok(reply) => Ok(Some(reply.message)),
            Err(error) => match error.error_code().0 {
                NO_MESSAGE | STREAM_NOT_FOUND => Ok(None),
                _ => Err(BrokerError::from_api(&error, DOING)),
            },
        }
    }

    /// Removes the messages under a subject, which may have wildcards: all, or those before a
    /// sequence. Returns how many there were; 0 if the stream does not exist.
    pub(crate) async fn purge_subjects(
        &self,
        stream: &str,
        subject: &str,
        before: Option<u64>,
    ) -> Result<u64, BrokerError> {
        const DOING: &str = "removing messages";
        let request = match before {
            Some(sequence) => serde_json::json!({ "filter": subject, "seq": sequence }),
            None => serde_json::json!({ "filter": subject }),
        };
        #[derive(Deserialize)]
        struct PurgeReply {
            purged: u64,
        }
        match self
            .api_request::<PurgeReply>(format!("STREAM.PURGE.{stream}"), &request, DOING)
            .await?
        {
            Ok(done) => Ok(done.purged),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(0),
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }

    /// Removes one message of a stream. Returns false if it does not exist. The message is not
    /// overwritten on disk, which would take a hundred times as long.
    pub(crate) async fn delete_message(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<bool, BrokerError> {
        const DOING: &str = "removing a message";
        const NOT_THERE: [u64; 3] = [10_037, 10_043, 10_057];
        #[derive(Deserialize)]
        struct Deleted {
            success: bool,
        }
        let request = serde_json::json!({ "seq": sequence, "no_erase": true });
        match self
            .api_request::<Deleted>(format!("STREAM.MSG.DELETE.{stream}"), &request, DOING)
            .await?
        {
            Ok(done) => Ok(done.success),
            Err(error) if NOT_THERE.contains(&error.error_code().0) => Ok(false),
            Err(error) => Err(BrokerError::from_api(&error, DOING)),
        }
    }

    /// Sends a request to the JetStream API. Returns the reply or the server's error.
    pub(crate) async fn api_request<T: serde::de::DeserializeOwned>(
        &self,
        subject: String,
        request: &serde_json::Value,
        doing: &'static str,
    ) -> Result<Result<T, async_nats::jetstream::Error>, BrokerError> {
        use async_nats::jetstream::response::Response;
        let about = format!("{}.{subject}", self.api_prefix);
        let asking = self.jetstream.request(subject, request);
        let reply: Response<T> = self
            .until_denied(doing, &about, asking)
            .await?
            .map_err(|error| self.request_error(doing, error))?;
        Ok(match reply {
            Response::Ok(reply) => Ok(reply),
            Response::Err { error } => Err(error),
        })
    }
}
