//! The history of a run from sources other than naq: the server's stream of stored records, the
//! jobs' own log, the process table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use futures_util::StreamExt;
use naq_jetstream::Broker;
use naq_protocol::{Reason, State};
use serde::Deserialize;

/// A record as it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Its sequence in the bucket's stream.
    pub(super) revision: u64,
    pub(super) state: State,
    pub(super) reason: Option<Reason>,
    pub(super) attempt: u32,
    pub(super) crashes: u32,
}

/// The fields of a record that this test reads, without the types of naq.
#[derive(Debug, Deserialize)]
struct StoredRecord {
    state: State,
    reason: Option<Reason>,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    crashes: u32,
}

/// A line of the jobs' log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) begins: bool,
    pub(super) job_id: String,
    pub(super) attempt: u32,
    pub(super) fence: u64,
}

/// Reads the jobs' log.
pub(super) fn read_runs(text: &str) -> Vec<Line> {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, job_id, attempt, fence] = words[..] else {
                panic!("a line of the jobs' log: {line:?}");
            };
            Line {
                begins: what == "begin",
                job_id: job_id.to_owned(),
                attempt: attempt.parse().unwrap(),
                fence: fence.parse().unwrap(),
            }
        })
        .collect()
}

/// Every write of every record, read as it is stored.
#[derive(Clone, Default)]
pub(super) struct Writes(Arc<(Mutex<Inner>, Condvar)>);

#[derive(Default)]
struct Inner {
    by_job: BTreeMap<String, Vec<Write>>,
    ended: BTreeSet<String>,
    count: u64,
    /// Errors that interrupted the reading.
    breaks: Vec<String>,
}

const STREAM: &str = "KV_naq_results";

/// Number of values of a key that the bucket keeps in a run: more than any job writes.
const HISTORY: i64 = 64;

/// Reads a stream's messages under a subject from the first one on, in order and each once, although
/// servers are killed meanwhile.
pub(super) async fn follow(
    jetstream: jetstream::Context,
    (stream, subject): (&'static str, &'static str),
    mut read: impl FnMut(&jetstream::Message, u64) -> Result<(), async_nats::Error>,
    broke: impl Fn(String),
) {
    let mut next = 1;
    loop {
        // after any error, mostly a killed server, reading resumes at the next message
        let reading = read_from(&jetstream, (stream, subject), &mut next, &mut read);
        if let Err(error) = reading.await {
            broke(format!("{stream} at {next}: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn read_from(
    jetstream: &jetstream::Context,
    (stream, subject): (&str, &str),
    next: &mut u64,
    read: &mut impl FnMut(&jetstream::Message, u64) -> Result<(), async_nats::Error>,
) -> Result<(), async_nats::Error> {
    let stream = jetstream.get_stream(stream).await?;
    let consumer: PullConsumer = stream
        .create_consumer(pull::Config {
            filter_subject: subject.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: *next,
            },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            inactive_threshold: Duration::from_secs(30),
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await?;
    loop {
        // short requests, so that a consumer that was lost with its server is soon noticed
        let mut messages = consumer
            .fetch()
            .max_messages(500)
            .expires(Duration::from_secs(1))
            .messages()
            .await?;
        while let Some(message) = messages.next().await {
            let message = message?;
            let sequence = message.info()?.stream_sequence;
            if sequence < *next {
                continue;
            }
            *next = sequence + 1;
            read(&message, sequence)?;
        }
    }
}

impl Writes {
    /// Makes the bucket keep replaced values, so that none is missed while no server responds, and
    /// starts to read it. naq leaves a longer history of a bucket as it is.
    pub(super) async fn follow(
        broker: &Broker,
        nats: async_nats::Client,
    ) -> Result<Writes, async_nats::Error> {
        broker.ensure_layout().await?;
        let jetstream = jetstream::new(nats);
        let stream = jetstream.get_stream(STREAM).await?;
        let mut config = stream.cached_info().config.clone();
        config.max_messages_per_subject = HISTORY;
        jetstream.update_stream(config).await?;
        let writes = Writes::default();
        let (reads, breaks) = (writes.clone(), writes.clone());
        tokio::spawn(follow(
            jetstream,
            (STREAM, "$KV.naq_results.>"),
            move |message, sequence| reads.read(message, sequence),
            move |broken| breaks.0.0.lock().unwrap().breaks.push(broken),
        ));
        Ok(writes)
    }

    fn read(&self, message: &jetstream::Message, revision: u64) -> Result<(), async_nats::Error> {
        let job_id = message.subject.rsplit('.').next().unwrap_or_default();
        let record: StoredRecord = serde_json::from_slice(&message.payload)?;
        self.add(
            job_id,
            Write {
                revision,
                state: record.state,
                reason: record.reason,
                attempt: record.attempt,
                crashes: record.crashes,
            },
        );
        Ok(())
    }

    fn add(&self, job_id: &str, write: Write) {
        let (inner, changed) = &*self.0;
        let mut inner = inner.lock().unwrap();
        inner.count += 1;
        if write.state.is_terminal() {
            inner.ended.insert(job_id.to_owned());
        }
        inner
            .by_job
            .entry(job_id.to_owned())
            .or_default()
            .push(write);
        changed.notify_all();
    }

    /// Number of jobs that have ended.
    pub(super) fn ended(&self) -> usize {
        self.0.0.lock().unwrap().ended.len()
    }

    /// Number of writes so far.
    pub(super) fn count(&self) -> u64 {
        self.0.0.lock().unwrap().count
    }

    /// Errors that interrupted the reading, for the investigation of a failure.
    pub(super) fn breaks(&self) -> Vec<String> {
        self.0.0.lock().unwrap().breaks.clone()
    }

    /// Waits for the next write, at most for `longest`.
    pub(super) fn wait(&self, longest: Duration) {
        let (inner, changed) = &*self.0;
        let inner = inner.lock().unwrap();
        drop(changed.wait_timeout(inner, longest).unwrap());
    }

    /// Those of `jobs` whose end was not observed yet.
    pub(super) fn not_ended<'a>(&self, jobs: impl Iterator<Item = &'a String>) -> Vec<String> {
        let inner = self.0.0.lock().unwrap();
        jobs.filter(|job| !inner.ended.contains(*job))
            .cloned()
            .collect()
    }

    /// All writes, by job.
    pub(super) fn all(&self) -> BTreeMap<String, Vec<Write>> {
        self.0.0.lock().unwrap().by_job.clone()
    }
}

/// A process that still runs.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) command: String,
}

/// Every process whose environment has this variable with this value.
pub(super) fn processes_with(variable: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{variable}={value}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // the process has exited meanwhile, or belongs to another user
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted.as_bytes())
        {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(Process {
                pid,
                command: String::from_utf8_lossy(&command).replace('\0', " "),
            });
        }
    }
    found
}
