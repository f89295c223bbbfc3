//! The audit: a stream of entries, each about one change. Entries are appended and read, and never change.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::audit_writer::AuditWriter;
use crate::broker::Broker;
use crate::error::{BrokerError, has_consumer_code};
use crate::names::Names;
use crate::stream::reverse_scan::ReverseScan;
use crate::stream::stream_api::StoredMessage;
use naq_protocol::{AuditAction, AuditEntry, AuditInterface, Timestamp, UnknownFields};

/// An entry as it is stored.
#[derive(Clone, Debug)]
pub struct StoredAuditEntry {
    /// Its sequence in the stream: later entries have greater ones.
    pub sequence: u64,
    /// When the server stored it.
    pub time: Timestamp,
    /// Whether the identity is only claimed: the entry is not from a dashboard.
    pub claimed: bool,
    /// The entry.
    pub entry: AuditEntry,
}

/// Entries, latest first, read on demand.
pub struct AuditListing(ReverseScan<StoredAuditEntry>);

impl AuditListing {
    /// The next earlier entry. `None` at the end.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next(&mut self) -> Result<Option<StoredAuditEntry>, BrokerError> {
        self.0.next().await
    }
}

/// Entries as they are stored, in their order.
pub struct AuditStream {
    messages: pull::Ordered,
    names: Arc<Names>,
}

impl AuditStream {
    /// Waits for the next entry.
    ///
    /// # Errors
    /// Returns an error if the stream breaks, as it does when the connection is lost for long.
    pub async fn next(&mut self) -> Result<StoredAuditEntry, BrokerError> {
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                // what was stored meanwhile is read by another stream
                Some(Err(_)) | None => return Err(BrokerError::Timeout(FOLLOWING)),
            };
            let info = message
                .info()
                .map_err(|error| BrokerError::unreadable("a delivery's subject", error))?;
            let time = Timestamp::from_unix_ms(info.published.timestamp_millis());
            // a message on another subject is none of naq's
            if let Some(time) = time
                && let Some(entry) = audit_entry(
                    &self.names,
                    &message.subject,
                    info.stream_sequence,
                    time,
                    &message.payload,
                )
            {
                return Ok(entry);
            }
        }
    }
}

/// What this module does, in errors.
const FOLLOWING: &str = "following the audit";

impl Broker {
    /// Appends an entry, and creates the stream if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the server refuses the write or does not answer.
    pub async fn append_audit_entry(
        &self,
        writer: AuditWriter,
        entry: &AuditEntry,
    ) -> Result<(), BrokerError> {
        let payload = serde_json::to_vec(entry)
            .map_err(|error| BrokerError::unreadable("an entry of the audit", error))?;
        let payload = Bytes::from(payload);
        let subject = self.names.audit(writer, entry.action.as_static());
        let ensure = || self.ensure_audit();
        self.store_creating(subject, HeaderMap::new(), payload, ensure)
            .await
            .map(drop)
    }

    /// Lists the entries before a sequence, latest first. `None` starts with the latest.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn list_audit(&self, before: Option<u64>) -> Result<AuditListing, BrokerError> {
        let stream = self.names.audit_stream();
        let scan = self.scan_reverse_before(stream, before, |broker, _, message| {
            Box::pin(async move { Ok(stored_entry(&broker.names, &message)) })
        });
        Ok(AuditListing(scan.await?))
    }

    /// Follows the entries after a sequence, in their order.
    ///
    /// # Errors
    /// Returns [`BrokerError::NotFound`] if there is no audit yet, and an error if the server refuses the request or does
    /// not answer.
    pub async fn follow_audit(&self, after: u64) -> Result<AuditStream, BrokerError> {
        let name = self.names.audit_stream();
        let stream = self
            .jetstream
            .get_stream_no_info(&name)
            .await
            .map_err(|error| self.request_error(FOLLOWING, error))?;
        let creating = stream.create_consumer(pull::OrderedConfig {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: after.saturating_add(1),
            },
            ..pull::OrderedConfig::default()
        });
        let about = format!("{}.CONSUMER.CREATE.{name}", self.api_prefix);
        let consumer = match self.until_denied(FOLLOWING, &about, creating).await? {
            Ok(consumer) => consumer,
            Err(error) if has_consumer_code(&error, ErrorCode::STREAM_NOT_FOUND) => {
                return Err(BrokerError::NotFound("the audit".to_owned()));
            }
            Err(error) => return Err(self.request_error(FOLLOWING, error)),
        };
        let messages = consumer
            .messages()
            .await
            .map_err(|error| self.request_error(FOLLOWING, error))?;
        Ok(AuditStream {
            messages,
            names: Arc::clone(&self.names),
        })
    }

    /// The sequence of the latest entry; 0 if there is none.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn last_audit_sequence(&self) -> Result<u64, BrokerError> {
        self.last_sequence(&self.names.audit_stream()).await
    }
}

/// Reads the message of an entry. An entry that cannot be read is listed as such, so that nothing disappears.
/// `None` if the subject is not naq's.
fn stored_entry(names: &Names, message: &StoredMessage) -> Option<StoredAuditEntry> {
    let (sequence, time) = (message.sequence, message.time);
    audit_entry(names, &message.subject, sequence, time, &message.payload())
}

fn audit_entry(
    names: &Names,
    subject: &str,
    sequence: u64,
    time: Timestamp,
    payload: &[u8],
) -> Option<StoredAuditEntry> {
    let (writer, action) = names.parse_audit(subject)?;
    let entry = serde_json::from_slice::<AuditEntry>(payload);
    let entry = entry.unwrap_or_else(|error| unreadable_entry(action, &error));
    Some(StoredAuditEntry {
        sequence,
        time,
        claimed: writer != AuditWriter::Dashboard.token(),
        entry: entry.bounded(),
    })
}

fn unreadable_entry(action: &str, error: &serde_json::Error) -> AuditEntry {
    AuditEntry {
        action: AuditAction::from_name(action),
        who: "unknown".to_owned(),
        via: AuditInterface::from_name("unknown"),
        from: "unknown".to_owned(),
        forwarded_for: None,
        job_id: None,
        queue: None,
        schedule_id: None,
        filter: None,
        count: 0,
        error: Some(format!("the entry cannot be read: {error}")),
        unknown: UnknownFields::default(),
    }
}
