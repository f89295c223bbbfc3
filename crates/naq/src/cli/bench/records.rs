//! Many records of jobs for a measurement, stored without running as many jobs.

use serde_json::Value;

use super::process::Bench;
use crate::cli::exit::Failure;
use crate::cli::render;
use naq_protocol::{Envelope, JobId, Record, State, Timestamp};

/// The id of a stored record.
pub(super) fn record_id(at: u32) -> Result<JobId, Failure> {
    Ok(JobId::new(format!("bench-record-{at}"))?)
}

/// Which of the stored records are of failed jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failures {
    None,
    /// Eight of a hundred, for three reasons.
    Some,
}

/// Stores records: copies of what a worker has recorded of real jobs, of three queues.
pub(super) async fn store_records(
    bench: &Bench,
    count: u32,
    failures: Failures,
) -> Result<(), Failure> {
    let templates = record_templates(bench, failures).await?;
    let now_ms = render::now().unix_ms();
    // 100 jobs a second until now
    let ended = |at: u32| Timestamp::from_unix_ms(now_ms - i64::from(count - at) * 10);
    let records = (0..count).map(|at| {
        let template = match at % 100 {
            0..8 if failures == Failures::Some => &templates[1 + (at % 3) as usize],
            _ => &templates[0],
        };
        let id = record_id(at)?;
        let ended = ended(at).unwrap_or_else(render::now);
        let payload = copied(template, &id, at, ended)?;
        Ok::<_, Failure>((id, payload.into()))
    });
    // made one by one: together they would be larger than the memory of the dashboard that is measured
    let mut failure = Ok(());
    let records = records.map_while(|record| record.map_err(|error| failure = Err(error)).ok());
    let storing = bench.client.broker().store_records_unchecked(records);
    storing.await?;
    failure
}

/// The records of one job that succeeds, and of three that fail for different reasons.
async fn record_templates(bench: &Bench, failures: Failures) -> Result<Vec<Value>, Failure> {
    let worker = bench.worker(2).await?;
    let queue = bench.client.queue(bench.queue.as_str())?;
    let mut templates = Vec::new();
    let scripts = [
        "echo done",
        "echo 'connection refused by 10.0.0.7:5432' >&2; exit 1",
        "echo 'no such file: /data/orders.csv' >&2; exit 2",
        "kill -SEGV $$",
    ];
    let wanted = match failures {
        Failures::None => 1,
        Failures::Some => scripts.len(),
    };
    for script in scripts.into_iter().take(wanted) {
        let mut envelope = Envelope::command("sh", ["-c", script]);
        envelope
            .labels
            .insert("team".to_owned(), "billing".to_owned());
        let job = queue.enqueue(&envelope).await?;
        let record: Record = bench.client.wait(&job).await?;
        if (record.state() == State::Succeeded) != templates.is_empty() {
            return Err(Failure::general(format!("{script}: unexpected outcome")));
        }
        let record =
            serde_json::to_value(&record).map_err(|error| Failure::general(error.to_string()))?;
        templates.push(record);
    }
    worker.end().await;
    Ok(templates)
}

/// A record of another job, at another time, in one of three queues.
fn copied(template: &Value, id: &JobId, at: u32, ended: Timestamp) -> Result<Vec<u8>, Failure> {
    let mut record = template.clone();
    record["job_id"] = id.to_string().into();
    record["queue"] = ["mail", "build", "reports"][(at % 3) as usize].into();
    let ended = ended.to_string();
    for field in ["enqueue_time", "started_at", "finished_at"] {
        if let Some(time) = record.get_mut(field) {
            *time = ended.clone().into();
        }
    }
    serde_json::to_vec(&record).map_err(|error| Failure::general(error.to_string()))
}
