//! Removing the results of ended jobs: their records, and what these keep in the object store.
//!
//! A store that is full accepts no write, and the removal of a key or an object, as clients of NATS do
//! it, is the write of a marker. So messages are removed through the server's API, which needs no
//! room. Each removal names the revision that was read: a record that changes meanwhile stays.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use futures_util::{FutureExt, StreamExt, stream};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::names::Names;
use crate::stream::objects::{ObjectInfo, chunks_subject, object_stream};
use crate::stream::stream_reader::{StreamMessage, StreamRead};
use naq_protocol::{JobId, QueueName, Record, Timestamp};

/// Number of records or objects that are looked at concurrently.
const AT_ONCE: usize = 64;

/// An object is stored before the record that names it, and its chunks before the object. So only
/// those that are older than this count as left behind.
const LEFT_BEHIND_AGE: Duration = Duration::from_secs(600);

/// The result of removing results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResultsPurgeSummary {
    /// Ended jobs whose record was removed.
    pub jobs: u64,
    /// Objects that were removed: artifacts, output, results and envelopes that did not fit into a record, and
    /// what failed writes had left.
    pub objects: u64,
    /// The sizes of all of them, in bytes.
    pub bytes: u64,
    /// Ended jobs whose record was kept, since their message is still in its queue, or jobs that
    /// depend on them still wait.
    pub kept: u64,
}

impl ResultsPurgeSummary {
    fn add(&mut self, other: ResultsPurgeSummary) {
        self.jobs += other.jobs;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.kept += other.kept;
    }
}

impl Broker {
    /// Removes the results of the jobs that ended before a time; `None` means of all that have ended.
    /// It needs no room in the store. Events and dead letters stay.
    ///
    /// A record whose job still has a message is kept: without the record, a worker that gets the
    /// message would run the job again.
    ///
    /// # Errors
    /// Returns an error if the server refuses a request or does not answer. What was removed before
    /// the error stays removed.
    pub async fn purge_results(
        &self,
        ended_before: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<ResultsPurgeSummary, BrokerError> {
        let mut with_objects = HashSet::new();
        let mut summary = self.purge_records(ended_before, &mut with_objects).await?;
        summary.add(self.purge_objects(&with_objects, now).await?);
        Ok(summary)
    }

    /// Removes records, and adds the jobs among them that may have objects.
    async fn purge_records(
        &self,
        ended_before: Option<Timestamp>,
        with_objects: &mut HashSet<JobId>,
    ) -> Result<ResultsPurgeSummary, BrokerError> {
        let bucket = self.names.results_bucket();
        let stream_name = Names::bucket_stream(&bucket);
        let empty_queues = self.empty_queues().await?;
        let scan = StreamRead::last_per_subject(format!("$KV.{bucket}.>"));
        let mut messages = self.read_stream(&stream_name, scan).await?;
        let records = stream::poll_fn(move |context| messages.poll_recv(context));
        let mut removals = records
            .map(|message| {
                let (stream_name, empty_queues) = (&stream_name, &empty_queues);
                async move {
                    let message = message?;
                    let Some(record) = ended_record(&message, ended_before) else {
                        return Ok((ResultsPurgeSummary::default(), None));
                    };
                    let removed = self
                        .purge_record(stream_name, &message, &record, empty_queues)
                        .await?;
                    let may_have_objects = removed.jobs > 0 && may_have_objects(&record);
                    Ok((removed, may_have_objects.then_some(record.job_id)))
                }
                .boxed()
            })
            .buffer_unordered(AT_ONCE);
        let mut summary = ResultsPurgeSummary::default();
        while let Some(removed) = removals.next().await {
            let (removed, job): (_, Option<JobId>) = removed?;
            summary.add(removed);
            with_objects.extend(job);
        }
        Ok(summary)
    }

    /// Removes the record of an ended job at the revision that was read.
    async fn purge_record(
        &self,
        stream_name: &str,
        message: &StreamMessage,
        record: &Record,
        empty_queues: &HashMap<QueueName, bool>,
    ) -> Result<ResultsPurgeSummary, BrokerError> {
        let is_awaited =
            record.has_dependents && !self.list_dependents(&record.job_id).await?.is_empty();
        // a queue that does not exist has no messages
        let may_have_message = !empty_queues.get(&record.queue).copied().unwrap_or(true);
        let has_message = may_have_message
            && self
                .find_in_queue(&record.queue, &record.job_id)
                .await?
                .is_some();
        if is_awaited || has_message {
            return Ok(ResultsPurgeSummary {
                kept: 1,
                ..ResultsPurgeSummary::default()
            });
        }
        let removed = self
            .purge_subjects(stream_name, &message.subject, Some(message.sequence + 1))
            .await?;
        if record.state().is_unsuccessful() {
            self.remove_unsuccessful(record).await?;
        }
        Ok(ResultsPurgeSummary {
            jobs: removed,
            bytes: removed * (message.payload.len() + message.subject.len()) as u64,
            ..ResultsPurgeSummary::default()
        })
    }

    /// Whether each queue has no messages.
    async fn empty_queues(&self) -> Result<HashMap<QueueName, bool>, BrokerError> {
        let mut empty = HashMap::new();
        for queue in self.queue_names().await? {
            let stream = self.queue_handle(&queue).await?;
            let is_empty = stream.cached_info().state.messages == 0;
            empty.insert(queue, is_empty);
        }
        Ok(empty)
    }

    /// Removes the objects that no record names any more: those of jobs whose record was removed or
    /// has expired, markers of removed objects, and chunks whose object was never completed.
    async fn purge_objects(
        &self,
        with_objects: &HashSet<JobId>,
        now: Timestamp,
    ) -> Result<ResultsPurgeSummary, BrokerError> {
        let bucket = self.names.files_bucket();
        let stream_name = object_stream(&bucket);
        let is_old = |message: &StreamMessage| {
            let age_ms = now.unix_ms().saturating_sub(message.time_unix_ms);
            u128::try_from(age_ms).is_ok_and(|age_ms| age_ms >= LEFT_BEHIND_AGE.as_millis())
        };
        let mut summary = ResultsPurgeSummary::default();
        let mut known_ids = HashSet::new();
        let scan = StreamRead::last_per_subject(format!("$O.{bucket}.M.>"));
        let mut descriptions = self.read_stream(&stream_name, scan).await?;
        while let Some(message) = descriptions.recv().await {
            let message = message?;
            let Some(info) = ObjectInfo::read(&message.payload) else {
                continue;
            };
            let is_left = if info.is_deleted {
                true
            } else {
                match job_of_object(&info.name) {
                    Some(job) if with_objects.contains(&job) => true,
                    // the record that names a young object may be about to be written
                    Some(job) if is_old(&message) => match self.read_record(&job).await {
                        Ok((record, _)) => record.is_none(),
                        Err(BrokerError::InvalidData(_)) => false,
                        Err(error) => return Err(error),
                    },
                    _ => false,
                }
            };
            if !is_left {
                known_ids.insert(info.id);
                continue;
            }
            let chunks = chunks_subject(&bucket, &info.id);
            self.purge_subjects(&stream_name, &chunks, None).await?;
            let before = Some(message.sequence + 1);
            self.purge_subjects(&stream_name, &message.subject, before)
                .await?;
            if !info.is_deleted {
                summary.objects += 1;
                summary.bytes += info.size;
            }
        }
        let scan = StreamRead {
            filter: format!("$O.{bucket}.C.>"),
            deliver: DeliverPolicy::LastPerSubject,
            headers_only: true,
        };
        let mut chunks = self.read_stream(&stream_name, scan).await?;
        while let Some(message) = chunks.recv().await {
            let message = message?;
            let id = message.subject.rsplit('.').next().unwrap_or_default();
            if !known_ids.contains(id) && is_old(&message) {
                let removed = self
                    .purge_subjects(&stream_name, &message.subject, None)
                    .await?;
                let size = message.headers.get("Nats-Msg-Size");
                let size = size.and_then(|size| size.as_str().parse::<u64>().ok());
                summary.objects += 1;
                summary.bytes += removed * size.unwrap_or(0);
            }
        }
        Ok(summary)
    }
}

/// The record in a message, if its job ended before this time.
fn ended_record(message: &StreamMessage, ended_before: Option<Timestamp>) -> Option<Record> {
    let record: Record = serde_json::from_slice(&message.payload).ok()?;
    let has_ended = record.state().is_terminal() && !record.placeholder;
    let is_meant = match (ended_before, record.finished_at()) {
        (Some(before), Some(finished_at)) => finished_at < before,
        (Some(before), None) => message.time_unix_ms < before.unix_ms(),
        (None, _) => true,
    };
    (has_ended && is_meant).then_some(record)
}

/// Whether a record names an object, or an earlier attempt may have stored some.
fn may_have_objects(record: &Record) -> bool {
    let output = [&record.stdout, &record.stderr].into_iter().flatten();
    record.attempt > 1
        || record.result_object.is_some()
        || record.envelope_object.is_some()
        || !record.artifacts.is_empty()
        || output.into_iter().any(|output| output.object.is_some())
}

/// The job whose record names an object. `None` for an object of another kind, such as that of a
/// dead letter.
fn job_of_object(name: &str) -> Option<JobId> {
    let mut parts = name.split('/');
    match parts.next()? {
        "output" | "result" | "envelope" | "artifact" => JobId::new(parts.next()?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_records_name_a_job() {
        let job = |name: &str| job_of_object(name).map(|job| job.to_string());
        assert_eq!(job("output/a/1/stdout").as_deref(), Some("a"));
        assert_eq!(job("result/a/2").as_deref(), Some("a"));
        assert_eq!(job("envelope/a").as_deref(), Some("a"));
        assert_eq!(job("artifact/a/1/0").as_deref(), Some("a"));
        assert_eq!(job("upload/sha256:e3b0"), None);
        assert_eq!(job("failed/build/a"), None);
        assert_eq!(job("mine"), None);
    }
}
