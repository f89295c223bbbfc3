//! Lists of the JetStream API, read page by page.
//!
//! The server determines the length of a list, and a broken or hostile server may never end it. So naq limits
//! the length and the time, and keeps only the entries that it uses.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::error::BrokerError;

/// Maximum number of entries in a list, including those of other programs.
const ENTRIES_MAX: usize = 100_000;

/// Time limit of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    total: u64,
    #[serde(default = "Option::default", alias = "streams", alias = "consumers")]
    entries: Option<Vec<T>>,
}

impl Broker {
    /// The names of the streams of this prefix that exist.
    ///
    /// # Errors
    /// Returns [`BrokerError::UnsupportedServer`] if the list does not end, and
    /// [`BrokerError::Timeout`] if it is not read within half a minute.
    pub(crate) async fn stream_names(
        &self,
        doing: &'static str,
    ) -> Result<BTreeSet<String>, BrokerError> {
        let mut names = BTreeSet::new();
        self.read_pages("STREAM.NAMES".to_owned(), doing, |name: String| {
            if self.names.is_own_stream(&name) {
                names.insert(name);
            }
        })
        .await?;
        Ok(names)
    }

    /// Reads a list of the API, and calls `on_entry` for each entry.
    pub(crate) async fn read_pages<T: DeserializeOwned>(
        &self,
        subject: String,
        doing: &'static str,
        mut on_entry: impl FnMut(T),
    ) -> Result<(), BrokerError> {
        let reading = async {
            let mut offset = 0;
            loop {
                let request = serde_json::json!({ "offset": offset });
                let page: Page<T> = self
                    .api_request(subject.clone(), &request, doing)
                    .await?
                    .map_err(|error| self.request_error(doing, error))?;
                let entries = page.entries.unwrap_or_default();
                if entries.is_empty() {
                    return Ok(());
                }
                offset += entries.len();
                if offset > ENTRIES_MAX {
                    return Err(BrokerError::UnsupportedServer(format!(
                        "NATS sends more than {ENTRIES_MAX} entries while {doing}"
                    )));
                }
                entries.into_iter().for_each(&mut on_entry);
                if offset as u64 >= page.total {
                    return Ok(());
                }
            }
        };
        let read = tokio::time::timeout(LIST_TIMEOUT, reading).await;
        read.unwrap_or(Err(BrokerError::Timeout(doing)))
    }
}
