//! The audit: a stream of entries, each about one change. Entries are appended and read, and never change.

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::audit_writer::AuditWriter;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::reverse_scan::ReverseScan;
use crate::stream::stream_api::{MessageSelector, StoredMessage};
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
        match self.append(subject.clone(), payload.clone()).await {
            Err(BrokerError::NotFound(_)) => {
                self.ensure_audit().await?;
                self.append(subject, payload).await
            }
            done => done,
        }
    }

    async fn append(&self, subject: String, payload: Bytes) -> Result<(), BrokerError> {
        let sent = self.send(subject, HeaderMap::new(), payload).await?;
        sent.confirmed().await.map(drop)
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

    /// The first entry after a sequence. `None` if there is none yet.
    ///
    /// # Errors
    /// Returns an error if the server does not answer.
    pub async fn next_audit_entry(
        &self,
        after: u64,
    ) -> Result<Option<StoredAuditEntry>, BrokerError> {
        let (stream, all) = (self.names.audit_stream(), self.names.all_audit());
        let mut from = after.saturating_add(1);
        // a message on another subject is none of naq's
        while let Some(message) = self
            .read_message(&stream, MessageSelector::NextBySubject(&all, from))
            .await?
        {
            if let Some(entry) = stored_entry(&self.names, &message) {
                return Ok(Some(entry));
            }
            from = message.sequence + 1;
        }
        Ok(None)
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
    let (writer, action) = names.parse_audit(&message.subject)?;
    let entry = serde_json::from_slice::<AuditEntry>(&message.payload());
    let entry = entry.unwrap_or_else(|error| unreadable_entry(action, &error));
    Some(StoredAuditEntry {
        sequence: message.sequence,
        time: message.time,
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
