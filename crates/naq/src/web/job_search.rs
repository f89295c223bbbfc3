//! Searches for jobs. Each reads a bounded number of them, however few are found.
//!
//! The index selects the records that may match, so that only these are read. Texts are in the records themselves,
//! and messages of queues are not indexed, since nothing is announced when they leave: of both, a search reads a
//! bounded number. Without a complete index, the same holds for all records.

use std::sync::Arc;
use std::time::Duration;

use super::filter::Filter;
use super::record_index::{Query, SharedIndex};
use crate::clock;
use naq_client::{Client, ClientError, JobCursor, JobPage, JobSearch};

/// Maximum number of jobs that one search reads.
const SCAN_MAX: usize = 2_000;

/// Time after which a search reads no further job.
const TIME_MAX: Duration = Duration::from_secs(1);

/// Returns up to `limit` jobs that satisfy all filters, latest change first. If the page is cut, its `next`
/// continues the search.
///
/// # Errors
/// Returns an error if NATS does not answer.
pub(super) async fn search(
    client: &Client,
    index: Option<&Arc<SharedIndex>>,
    filters: &[Filter],
    before: Option<JobCursor>,
    limit: usize,
) -> Result<JobPage, ClientError> {
    let now = clock::now();
    let names_workers = filters.iter().any(|filter| !filter.workers.is_empty());
    let workers = match names_workers {
        true => client.list_workers().await?,
        false => Vec::new(),
    };
    // These options select the streams to read. The rest of the filters is checked for each job.
    let mut search = JobSearch {
        filter: naq_client::JobFilter::default(),
        since: None,
        before,
        limit,
        scan_max: SCAN_MAX,
        time_max: TIME_MAX,
        revisions: None,
    };
    for filter in filters {
        let next = filter.job_filter();
        if search.filter.states.is_empty() {
            search.filter.states = next.states;
        }
        search.filter.queue = search.filter.queue.or(next.queue);
        search.filter.labels.extend(next.labels);
        let since = filter.since.map(|since| since.moment(now));
        search.since = search.since.max(since);
    }
    search.revisions = index.and_then(|index| {
        let conditions = filters.iter().map(|filter| filter.conditions(&workers));
        index.select(Query {
            conditions: conditions.collect(),
            since_ms: search.since.map(|since| since.unix_ms()),
        })
    });
    let mut page = client
        .search_jobs(&search, |job| {
            filters.iter().all(|filter| filter.matches(job, &workers))
        })
        .await?;
    // A dashboard whose user may not read heartbeats shows the list without these marks.
    let _ = client.mark_vanished_workers(&mut page.jobs).await;
    Ok(page)
}
