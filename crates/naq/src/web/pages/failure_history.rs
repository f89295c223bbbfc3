//! Whether a failed job has failed as others before, and what has helped: a rerun of one of them that succeeded.
//!
//! The cost is bounded, whatever is stored. Dead letters are counted only while there are few, by a read that the page
//! of groups shares. The index selects the latest reruns that succeeded, of which a fixed number is read.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::clock;
use crate::text::{count, relative_time};
use crate::web::record_index::{Conditions, Query};
use crate::web::state::Web;
use naq_client::{
    ClientError, DeadLetterFilter, ErrorKind, FailureGroupId, JobFilter, JobSearch, JobSummary,
};
use naq_core::failure_group;
use naq_protocol::{JobId, Record, State as JobState, Timestamp, escape, rerun_envelope};

/// Maximum number of dead letters that are read to count those of a group.
const COUNTED_MAX: u64 = 20_000;

/// Number of reruns that are looked at, the latest first.
const RERUNS_MAX: usize = 50;

/// Longest time for which reruns are looked for.
const RERUNS_TIME_MAX: Duration = Duration::from_millis(500);

/// How many records are read at the same time.
const READS_AT_ONCE: usize = 16;

/// The variables of the part of the page.
#[derive(Debug, Serialize)]
pub(super) struct FailureHistory {
    cause: String,
    group: FailureGroupId,
    /// How many other jobs of the group are kept. Empty if none is.
    others: String,
    first: String,
    first_at: String,
    /// Whether too many dead letters are kept to count those of the group.
    is_uncounted: bool,
    fix: Option<Fix>,
}

/// A rerun that succeeded, of a job that had failed in the same way.
#[derive(Debug, Serialize)]
struct Fix {
    failed: JobId,
    /// Whether the failed job is the one of the page.
    is_own: bool,
    rerun: JobId,
    /// Whether the rerun had the envelope of the failed job.
    change: &'static str,
    ended: String,
    ended_at: String,
}

/// What is known of the failure of a job. `None` unless it has failed.
///
/// # Errors
/// Returns an error if NATS does not answer.
pub(super) async fn failure_history(
    web: &Web,
    record: &Record,
) -> Result<Option<FailureHistory>, ClientError> {
    if record.state() != JobState::Failed {
        return Ok(None);
    }
    let now = clock::now();
    let group = FailureGroupId::of_record(record);
    let is_uncounted = web.client.count_kept_failures().await? > COUNTED_MAX;
    let groups = match is_uncounted {
        true => None,
        false => {
            let filter = DeadLetterFilter {
                except: web.actions.pending.sequences(),
                ..DeadLetterFilter::default()
            };
            Some(web.failure_groups.read(&web.client, filter).await?)
        }
    };
    let found = groups.as_ref().and_then(|groups| {
        let mut all = groups.groups.iter();
        all.find(|known| known.group.as_ref() == Some(&group))
    });
    let cause = failure_group(
        record.reason(),
        record.exit_code,
        record.signal,
        record.error.as_deref(),
    );
    // its own dead letter is gone after a retry
    let own = match found.is_some() {
        true => is_kept(web, &record.job_id).await?,
        false => false,
    };
    let others = found.map_or(0, |found| found.count.saturating_sub(u64::from(own)));
    let found = found.filter(|_| others > 0);
    let first = found.map(|found| found.first_seen);
    Ok(Some(FailureHistory {
        cause: escape(&cause.to_string()),
        others: found
            .map(|_| count(others, "other job"))
            .unwrap_or_default(),
        first: first.map(|at| relative_time(at, now)).unwrap_or_default(),
        first_at: first.map(|at| at.to_string()).unwrap_or_default(),
        is_uncounted,
        fix: find_fix(web, record, &group, now).await?,
        group,
    }))
}

/// Whether a job has a dead letter.
async fn is_kept(web: &Web, job: &JobId) -> Result<bool, ClientError> {
    match web.client.fetch_dead_letter(job).await {
        Ok(_) => Ok(true),
        Err(ClientError::NoDeadLetter(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The latest rerun that succeeded and whose original belongs to the group.
async fn find_fix(
    web: &Web,
    record: &Record,
    group: &FailureGroupId,
    now: Timestamp,
) -> Result<Option<Fix>, ClientError> {
    let conditions = Conditions {
        states: vec![JobState::Succeeded],
        only_reruns: true,
        ..Conditions::default()
    };
    let query = Query {
        conditions: vec![conditions],
        since_ms: None,
    };
    let selected = web.index.as_ref().and_then(|index| index.select(query));
    let Some(revisions) = selected else {
        return Ok(None);
    };
    let search = JobSearch {
        filter: JobFilter {
            states: vec![JobState::Succeeded],
            ..JobFilter::default()
        },
        since: None,
        before: None,
        limit: RERUNS_MAX,
        scan_max: RERUNS_MAX,
        time_max: RERUNS_TIME_MAX,
        revisions: Some(revisions),
    };
    let page = web
        .client
        .search_jobs(&search, |job| job.record.rerun_of.is_some())
        .await?;
    let reads = page.jobs.into_iter().map(|rerun| original(web, rerun));
    let mut reads = std::pin::pin!(stream::iter(reads).buffered(READS_AT_ONCE));
    while let Some(read) = reads.next().await {
        let Some((rerun, failed)) = read? else {
            continue;
        };
        if failed.state() == JobState::Failed && FailureGroupId::of_record(&failed) == *group {
            return fix(web, record, &rerun, &failed, now).await.map(Some);
        }
    }
    Ok(None)
}

/// A rerun with the record of the job that it reruns. `None` if that has expired.
async fn original(
    web: &Web,
    rerun: JobSummary,
) -> Result<Option<(JobSummary, Record)>, ClientError> {
    let Some(job) = rerun.record.rerun_of.clone() else {
        return Ok(None);
    };
    match web.client.fetch_job(&job).await {
        Ok(record) => Ok(Some((rerun, record))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn fix(
    web: &Web,
    record: &Record,
    rerun: &JobSummary,
    failed: &Record,
    now: Timestamp,
) -> Result<Fix, ClientError> {
    let of_rerun = web.client.fetch_job(&rerun.record.job_id).await?;
    let ended = rerun.finished_at.unwrap_or(rerun.changed_at);
    Ok(Fix {
        failed: failed.job_id.clone(),
        is_own: failed.job_id == record.job_id,
        rerun: rerun.record.job_id.clone(),
        change: change(failed, &of_rerun),
        ended: relative_time(ended, now),
        ended_at: ended.to_string(),
    })
}

/// How the envelope of a rerun differs from what a retry would have enqueued. Empty if one of them is too large for its
/// record.
fn change(failed: &Record, rerun: &Record) -> &'static str {
    let (Some(before), Some(after)) = (&failed.envelope, &rerun.envelope) else {
        return "";
    };
    let fields = |text: &[u8]| {
        let fields = serde_json::from_slice::<serde_json::Map<_, _>>(text);
        fields.ok().map(|mut fields| {
            fields.remove("job_id");
            fields
        })
    };
    let unchanged = rerun_envelope(before.get().as_bytes(), &failed.job_id).ok();
    let unchanged = unchanged.as_deref().and_then(fields);
    match unchanged == fields(after.get().as_bytes()) {
        true => ", unchanged",
        false => ", with another envelope",
    }
}
