//! The audit: who changed what.

use std::time::Duration;

use naq_jetstream::{AuditListing, AuditStream, AuditWriter, BrokerError, StoredAuditEntry};
use naq_protocol::{AuditAction, AuditEntry, JobId, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Client, ClientError};

/// Pause before [`AuditFollow`] opens its stream again, after an outage or while no audit exists.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Selects actions by a word: a whole name such as `queue.purge`, or its noun or verb alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditActionFilter(String);

impl AuditActionFilter {
    /// Whether the filter selects an action.
    #[must_use]
    pub fn matches(&self, action: AuditAction) -> bool {
        let (noun, verb) = action.noun_and_verb();
        [action.as_str(), noun, verb].contains(&self.0.as_str())
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for AuditActionFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<AuditActionFilter, String> {
        let filter = AuditActionFilter(text.to_owned());
        if AuditAction::ALL
            .iter()
            .any(|action| filter.matches(*action))
        {
            return Ok(filter);
        }
        let names: Vec<&str> = AuditAction::ALL.iter().map(AuditAction::as_str).collect();
        Err(format!(
            "no action has this name, noun or verb; the actions are {}",
            names.join(", ")
        ))
    }
}

/// Selects entries of the audit. The default selects all; an entry has to satisfy every field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Entries that were stored at this time or later.
    pub since: Option<Timestamp>,
    /// Entries about these actions. `None` means any action.
    pub action: Option<AuditActionFilter>,
    /// Entries of this token or user. `None` means anyone.
    pub who: Option<String>,
    /// Entries about this job. An action on many jobs is not about one of them.
    pub job: Option<JobId>,
}

impl AuditFilter {
    /// Whether the filter selects an entry, apart from its time.
    fn matches(&self, stored: &StoredAuditEntry) -> bool {
        let entry = &stored.entry;
        (self.action.as_ref()).is_none_or(|action| action.matches(entry.action))
            && self.who.as_ref().is_none_or(|who| *who == entry.who)
            && (self.job.as_ref()).is_none_or(|job| entry.job_id.as_ref() == Some(job))
    }

    /// Whether an entry and all earlier ones are too old.
    fn is_before(&self, stored: &StoredAuditEntry) -> bool {
        self.since.is_some_and(|since| stored.time < since)
    }
}

/// An entry of the audit, and what NATS adds to it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "audit_entry")]
pub struct AuditRecord {
    /// Its sequence: later entries have greater ones.
    pub sequence: u64,
    /// When the server stored it.
    pub time: Timestamp,
    /// Whether nobody has checked who it was: the entry is from a command line, and not from a dashboard.
    pub claimed: bool,
    /// The entry.
    #[serde(flatten)]
    pub entry: AuditEntry,
}

impl From<StoredAuditEntry> for AuditRecord {
    fn from(stored: StoredAuditEntry) -> AuditRecord {
        AuditRecord {
            sequence: stored.sequence,
            time: stored.time,
            claimed: stored.claimed,
            entry: stored.entry,
        }
    }
}

/// The selected entries of the audit, latest first. [`Client::list_audit`] returns it.
#[non_exhaustive]
pub struct AuditList {
    entries: AuditListing,
    filter: AuditFilter,
}

/// A page of the audit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries, latest first.
    pub entries: Vec<AuditRecord>,
    /// What [`Client::list_audit`] takes to list the next page. `None` means that this is the last one.
    pub next: Option<u64>,
}

impl AuditList {
    /// Returns the next earlier entry. `None` means that there are no more.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn next(&mut self) -> Result<Option<AuditRecord>, ClientError> {
        while let Some(stored) = self.entries.next().await? {
            if self.filter.is_before(&stored) {
                return Ok(None);
            }
            if self.filter.matches(&stored) {
                return Ok(Some(stored.into()));
            }
        }
        Ok(None)
    }

    /// Reads a page of at most `limit` selected entries, and reads at most `read_max` entries for it: a page
    /// of a rare kind may be short although more follow.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn page(mut self, limit: usize, read_max: usize) -> Result<AuditPage, ClientError> {
        let mut page = AuditPage {
            entries: Vec::new(),
            next: None,
        };
        let (mut read, mut last) = (0, 0);
        while let Some(stored) = self.entries.next().await? {
            if self.filter.is_before(&stored) {
                return Ok(page);
            }
            // one entry follows the page
            if page.entries.len() == limit || read == read_max {
                page.next = Some(last);
                return Ok(page);
            }
            read += 1;
            last = stored.sequence;
            if self.filter.matches(&stored) {
                page.entries.push(stored.into());
            }
        }
        Ok(page)
    }
}

/// The selected entries of the audit as they are stored. [`Client::follow_audit`] returns it.
#[non_exhaustive]
pub struct AuditFollow {
    client: Client,
    filter: AuditFilter,
    last: u64,
    /// `None` before the first entry is read, and after an outage.
    stream: Option<AuditStream>,
}

impl AuditFollow {
    /// Waits for the next entry, also while NATS cannot be reached.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS denies or refuses the request.
    pub async fn next(&mut self) -> Result<AuditRecord, ClientError> {
        loop {
            let stored = match self.next_stored().await {
                // the entries of an outage are stored, and are read after it
                Err(error) if error.is_transient() => {
                    self.stream = None;
                    tokio::time::sleep(REOPEN_PAUSE).await;
                    continue;
                }
                // the first change creates the audit
                Err(BrokerError::NotFound(_)) => {
                    tokio::time::sleep(REOPEN_PAUSE).await;
                    continue;
                }
                stored => stored?,
            };
            // a stream that was removed and created again begins with 1
            self.last = stored.sequence;
            if self.filter.matches(&stored) {
                return Ok(stored.into());
            }
        }
    }

    async fn next_stored(&mut self) -> Result<StoredAuditEntry, BrokerError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opened = self.client.broker.follow_audit(self.last).await?;
                self.stream.insert(opened)
            }
        };
        stream.next().await
    }
}

impl Client {
    /// Appends an entry to the audit. `writer` says whether the identity was checked: NATS can forbid others to
    /// write as a dashboard.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS refuses the write or does not answer.
    pub async fn append_audit_entry(
        &self,
        writer: AuditWriter,
        entry: &AuditEntry,
    ) -> Result<(), ClientError> {
        Ok(self.broker.append_audit_entry(writer, entry).await?)
    }

    /// Lists the selected entries of the audit, latest first, as [`AuditList::next`] is called: those before a
    /// sequence, or all.
    ///
    /// ```no_run
    /// # use naq_client::{AuditFilter, Client, ClientError};
    /// # async fn example(client: Client) -> Result<(), ClientError> {
    /// let filter = AuditFilter { action: "purge".parse().ok(), ..AuditFilter::default() };
    /// let mut entries = client.list_audit(&filter, None).await?;
    /// while let Some(record) = entries.next().await? {
    ///     println!("{} {} {}", record.time, record.entry.who, record.entry.count);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn list_audit(
        &self,
        filter: &AuditFilter,
        before: Option<u64>,
    ) -> Result<AuditList, ClientError> {
        Ok(AuditList {
            entries: self.broker.list_audit(before).await?,
            filter: filter.clone(),
        })
    }

    /// Follows the selected entries of the audit that are stored from now on.
    ///
    /// # Errors
    /// Returns [`ClientError::Broker`] if NATS does not answer.
    pub async fn follow_audit(&self, filter: &AuditFilter) -> Result<AuditFollow, ClientError> {
        Ok(AuditFollow {
            last: self.broker.last_audit_sequence().await?,
            client: self.clone(),
            filter: filter.clone(),
            stream: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_selected_by_their_name_noun_or_verb() {
        let selected = |word: &str| -> Vec<&'static str> {
            let filter: AuditActionFilter = word.parse().unwrap();
            let actions = AuditAction::ALL.iter();
            actions
                .filter(|action| filter.matches(**action))
                .map(AuditAction::as_static)
                .collect()
        };
        assert_eq!(selected("queue.purge"), ["queue.purge"]);
        assert_eq!(selected("purge"), ["results.purge", "queue.purge"]);
        assert_eq!(selected("failed"), ["failed.retry", "failed.discard"]);
        for wrong in ["", "purge.queue", "Purge", "queue."] {
            assert!(wrong.parse::<AuditActionFilter>().is_err(), "{wrong}");
        }
    }
}
