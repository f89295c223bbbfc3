//! Jobs: publishing and enqueueing them, waiting for them, and what the streams keep of them.

use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use naq_jetstream::{DeadLetter, RecordEvent};
use naq_protocol::{CapturedOutput, JobId, QueueName, Record, State};

use super::Naq;
use super::process::eventually;
use crate::harness::nats::TEST_TIMEOUT;

impl Naq {
    /// Enqueues a job by `naq enqueue` and returns the id that it printed.
    pub(crate) fn enqueue(&self, args: &[&str]) -> JobId {
        let done = self.cli([&["enqueue"], args].concat()).run().succeeds();
        JobId::new(done.stdout.trim_end()).unwrap()
    }

    /// Publishes an envelope as any NATS client would, and returns the id that the job gets from its
    /// queue and sequence.
    pub(crate) fn publish(&self, queue: &str, payload: impl Into<Vec<u8>>) -> JobId {
        self.publish_to(queue, &format!("naq.queue.{queue}"), payload.into())
    }

    /// Publishes an envelope to a subject of a queue, and returns the job's id as [`Naq::publish`]
    /// does.
    pub(crate) fn publish_to(&self, queue: &str, subject: &str, payload: Vec<u8>) -> JobId {
        let (subject, payload) = (subject.to_owned(), bytes::Bytes::from(payload));
        let sequence = self.block_on(async {
            let jetstream = async_nats::jetstream::new(self.nats.clone());
            loop {
                let sending = jetstream.publish(subject.clone(), payload.clone());
                match sending.await.unwrap().await {
                    Ok(stored) => return stored.sequence,
                    // the server does not know yet which one of its cluster leads the new stream
                    Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{subject}: {error}"),
                }
            }
        });
        JobId::for_sequence(&QueueName::new(queue).unwrap(), sequence)
    }

    /// Waits until a job's record meets a condition, which `what` names.
    pub(crate) fn wait_for(
        &self,
        job: &JobId,
        what: &str,
        is_met: impl Fn(&Record) -> bool,
    ) -> Record {
        let broker = self.client.broker();
        let mut last = None;
        let waiting = async {
            let mut watch = broker
                .watch_records(std::slice::from_ref(job))
                .await
                .unwrap();
            loop {
                // in some tests the server is down for a while
                if let Ok((Some(record), _)) = broker.read_record(job).await {
                    if is_met(&record) {
                        return record;
                    }
                    last = Some(record);
                }
                match watch.next().await.unwrap() {
                    RecordEvent::Changed(stored) if is_met(&stored.record) => {
                        return stored.record;
                    }
                    RecordEvent::Changed(_) | RecordEvent::Resync | RecordEvent::Gap => {}
                }
            }
        };
        let found = self
            .handle
            .block_on(async { tokio::time::timeout(TEST_TIMEOUT, waiting).await });
        match found {
            Ok(record) => record,
            Err(_) => panic!("{job}: not {what} in time; last seen: {last:#?}"),
        }
    }

    /// Waits until a job has ended.
    pub(crate) fn wait_ended(&self, job: &JobId) -> Record {
        self.wait_for(job, "ended", |record| record.state().is_terminal())
    }

    /// Waits until a worker has claimed a job.
    pub(crate) fn wait_running(&self, job: &JobId) -> Record {
        self.wait_for(job, "running", |record| record.state() == State::Running)
    }

    /// Enqueues a job and asserts that it succeeds: the worker has survived what came before.
    pub(crate) fn assert_jobs_still_run(&self, queue: &str) {
        let job = self.publish(queue, r#"{"command":"echo","args":["well"]}"#);
        let record = self.wait_ended(&job);
        assert_eq!(record.state(), State::Succeeded, "{record:#?}");
        assert_eq!(text(record.stdout.as_ref()), "well\n");
    }

    /// The dead letters, oldest first.
    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        self.block_on(async {
            let mut listed = self.client.broker().list_dead_letters(None).await.unwrap();
            let mut jobs = Vec::new();
            while let Some(job) = listed.next().await.unwrap() {
                jobs.push(job);
            }
            jobs.reverse();
            jobs
        })
    }

    /// The dead letter of a job.
    pub(crate) fn dead_letter(&self, job: &JobId) -> DeadLetter {
        self.dead_letters()
            .into_iter()
            .find(|failed| failed.job_id == *job)
            .unwrap_or_else(|| panic!("{job} has no dead letter"))
    }

    /// Number of messages in a queue's stream.
    pub(crate) fn stream_messages(&self, queue: &str) -> u64 {
        self.block_on(async {
            let jetstream = async_nats::jetstream::new(self.nats.clone());
            let mut stream = jetstream
                .get_stream(format!("naq_queue_{queue}"))
                .await
                .unwrap();
            stream.info().await.unwrap().state.messages
        })
    }

    /// The sequence of the last message that was stored in a queue.
    pub(crate) fn stream_last_sequence(&self, queue: &str) -> u64 {
        self.block_on(async {
            let jetstream = async_nats::jetstream::new(self.nats.clone());
            let stream = format!("naq_queue_{queue}");
            let stream = jetstream.get_stream(stream).await.unwrap();
            stream.cached_info().state.last_sequence
        })
    }

    /// Enqueues to `filler` until the storage, which has to be limited, has no room even for a small
    /// job. Returns the ids of the jobs that were stored.
    pub(crate) fn fill_storage(&self) -> Vec<String> {
        let mut stored_ids = Vec::new();
        for bytes in [512 << 10, 32 << 10, 1 << 10, 1] {
            let file = self.file("filler", "x".repeat(bytes));
            let file = file.to_str().unwrap();
            loop {
                let args = ["enqueue", "-q", "filler", "--stdin", file, "--", "true"];
                let done = self.cli(args).run();
                if done.code != Some(0) {
                    done.exits(7)
                        .expect_stderr(&["storage is full", "naq purge"]);
                    break;
                }
                stored_ids.push(done.stdout.trim_end().to_owned());
            }
        }
        stored_ids
    }

    /// Waits until a queue's stream has exactly this number of messages. A job is acknowledged after
    /// its record shows the end, so in between the stream has one more.
    pub(crate) fn wait_for_messages(&self, queue: &str, messages: u64) {
        eventually(&format!("{queue} has {messages} messages"), || {
            self.stream_messages(queue) == messages
        });
    }

    /// Waits until a queue's stream has no message: every job has been acknowledged.
    pub(crate) fn wait_drained(&self, queue: &str) {
        self.wait_for_messages(queue, 0);
    }
}

/// The job id of this text.
pub(crate) fn id(text: &str) -> JobId {
    JobId::new(text).unwrap()
}

/// The part of an output that the record keeps, as text.
pub(crate) fn text(output: Option<&CapturedOutput>) -> String {
    let Some(output) = output else {
        return String::new();
    };
    let mut bytes = output.head_bytes();
    bytes.extend(output.tail_bytes());
    String::from_utf8(bytes).unwrap()
}
