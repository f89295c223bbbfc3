//! One delivery, from the message to the acknowledgement.
//!
//! Decide, record, acknowledge, in that order. Each step that talks to the server is repeated
//! until it is done or the hold on the job is lost; none is repeated in a way that could do it
//! twice.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::command::{self, Identity};
use super::hold::Hold;
use super::{Options, Report, now};
use crate::broker::{Broker, BrokerError, Delivery, LogChunk, NewJob, Stdio};
use crate::envelope::{
    Envelope, Invalid, JobId, Output, Progress, Reason, Record, RejectReason, State, Usage,
};
use crate::lifecycle::{
    self, Attempt, AttemptEnd, Delivered, OnDelivery, OnEnd, end_attempt, on_delivery,
};
use crate::runner::{
    Captured, ControlMessage, End, Ended, JobHandle, LiveChunk, LiveSink, Runner, StopReason,
    Stopped, StreamKind,
};

/// What every attempt of a worker shares.
pub(super) struct AttemptContext {
    pub(super) broker: Broker,
    pub(super) runner: Runner,
    pub(super) worker_id: String,
    pub(super) options: Options,
    /// Bounds the outcomes that are not recorded yet: a job's slot is only free once there is
    /// room for what it left.
    pub(super) unrecorded: Semaphore,
}

/// What became of a delivery.
pub(super) enum Done {
    /// Its outcome is recorded.
    Recorded(Box<Record>),
    /// It was given back.
    HandedBack,
    /// There was nothing to run.
    Absorbed,
    /// Another worker holds it now.
    Lost,
}

/// How many pieces of live output may wait for the network.
const LIVE_CHUNKS_MAX: usize = 128;

/// Room left in a message for headers and the rest of a record.
const RECORD_MARGIN_BYTES: usize = 32 << 10;

/// The most of an envelope that is kept in the record itself, in bytes.
const ENVELOPE_BYTES_MAX: usize = 128 << 10;

/// Waits between attempts to do a step that the server would not.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Works on a delivery, and reports to the loop.
pub(super) async fn run(
    context: Arc<AttemptContext>,
    hold: Arc<Hold>,
    reports: mpsc::Sender<Report>,
) {
    let delivery = hold.delivery();
    let mut slot = Slot {
        reports: &reports,
        taken: true,
    };
    let (job_id, result) = deliver(&context, &hold, &delivery, &mut slot).await;
    slot.free().await;
    let _ = reports
        .send(Report::Done {
            job_id,
            sequence: delivery.sequence,
            queue: delivery.queue.clone(),
            result,
        })
        .await;
}

/// A slot, given back once.
struct Slot<'a> {
    reports: &'a mpsc::Sender<Report>,
    taken: bool,
}

impl Slot<'_> {
    async fn free(&mut self) {
        if std::mem::take(&mut self.taken) {
            let _ = self.reports.send(Report::SlotFree).await;
        }
    }
}

async fn deliver(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    slot: &mut Slot<'_>,
) -> (JobId, Done) {
    let parsed = Envelope::parse(&delivery.payload);
    let (job_id, id_problem) = name_job(delivery, parsed.as_ref().ok());
    hold.set_job_id(&job_id);
    let facts = Delivered {
        job_id: job_id.clone(),
        queue: delivery.queue.clone(),
        sequence: delivery.sequence,
        delivery: delivery.delivery,
        enqueue_time: delivery.enqueue_time,
        worker_id: context.worker_id.clone(),
        now: now(),
        crashes_max: context.options.crashes_max,
    };
    let checked = parsed.and_then(|envelope| match id_problem {
        Some(invalid) => Err(invalid),
        None => command::check_policy(&envelope, &context.options).map(|()| envelope),
    });
    let done = match checked {
        Ok(envelope) => execute(context, hold, delivery, &envelope, facts, slot).await,
        Err(invalid) => reject(context, hold, delivery, &facts, &invalid).await,
    };
    (job_id, done)
}

/// The job's name: from the envelope, the subject, the producer's message id, or its place.
/// Also what is wrong with the names given, where something is.
pub(super) fn name_job(
    delivery: &Delivery,
    envelope: Option<&Envelope>,
) -> (JobId, Option<Invalid>) {
    let invalid = |message: String| Some(Invalid::new(RejectReason::Invalid, "job_id", message));
    let by_place = || JobId::for_sequence(&delivery.queue, delivery.sequence);
    let in_envelope = envelope.and_then(|envelope| envelope.job_id.clone());
    match (&delivery.subject_id, in_envelope) {
        (Some(Err(problem)), _) => (
            by_place(),
            invalid(format!("the subject's last token: {problem}")),
        ),
        (Some(Ok(subject)), Some(id)) if *subject != id => (
            by_place(),
            invalid(format!("`{id}` is not the id in the subject, `{subject}`")),
        ),
        (Some(Ok(subject)), _) => (subject.clone(), None),
        (None, Some(id)) => (id, None),
        (None, None) => {
            let message_id = delivery
                .message_id
                .as_ref()
                .and_then(|id| JobId::chosen(id).ok());
            (message_id.unwrap_or_else(by_place), None)
        }
    }
}

/// Keeps an envelope that never was a job, with the reason, and is done with it.
async fn reject(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    facts: &Delivered,
    invalid: &Invalid,
) -> Done {
    tracing::warn!(job_id = %facts.job_id, queue = %facts.queue, "rejected: {invalid}");
    let mut record = lifecycle::reject(facts, invalid);
    // a record that is there is another job's, whose id this one used: it stays
    match persist(hold, || {
        context.broker.keep_failed(
            delivery,
            &facts.job_id,
            State::Rejected,
            Reason::from(invalid.reason),
            record.error.as_deref().unwrap_or_default(),
            0,
        )
    })
    .await
    {
        Ok(()) => {}
        Err(_) => return Done::Lost,
    }
    if std::str::from_utf8(&delivery.payload).is_ok() {
        attach_envelope(context, &mut record, delivery).await;
    }
    let ttl = lifecycle::result_ttl(None, context.options.result_ttl);
    let written = persist(hold, || context.broker.write_record(&record, 0, ttl)).await;
    match written {
        Ok(_) | Err(BrokerError::Conflict) => {}
        Err(_) => return Done::Lost,
    }
    if persist(hold, || async { hold.delivery().ack().await })
        .await
        .is_err()
    {
        return Done::Lost;
    }
    Done::Recorded(Box::new(record))
}

async fn execute(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    mut facts: Delivered,
    slot: &mut Slot<'_>,
) -> Done {
    // a first delivery has no record yet, as a rule: claiming without looking saves a round trip
    let mut known: Option<(Option<Record>, u64)> = (delivery.delivery == 1).then_some((None, 0));
    let mut pause = PAUSE_FIRST;
    let (record, revision) = loop {
        if hold.stop_asked().is_some() {
            let _ = hold.delivery().hand_back().await;
            return Done::HandedBack;
        }
        let (present, revision) = match known.take() {
            Some(known) => known,
            None => match read(context, hold, &facts.job_id).await {
                Ok(read) => read,
                Err(Unread::Lost) => return Done::Lost,
                Err(Unread::Unreadable(message)) => {
                    let invalid = Invalid::new(RejectReason::Invalid, "", message);
                    return reject(context, hold, delivery, &facts, &invalid).await;
                }
            },
        };
        if let Some(present) = &present
            && is_ours(present, &facts)
        {
            // a claim whose answer was lost had been written after all
            break (present.clone(), revision);
        }
        facts.now = now();
        match on_delivery(present.as_ref(), envelope, &facts) {
            OnDelivery::Run(record) => {
                match context.broker.write_record(&record, revision, None).await {
                    Ok(revision) => break (*record, revision),
                    Err(BrokerError::Conflict) => {}
                    Err(error) => {
                        tracing::warn!(job_id = %facts.job_id, "cannot claim: {error}");
                        if hold.is_lost(Instant::now()) {
                            return Done::Lost;
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
            OnDelivery::Absorb => {
                let failed = present.filter(|record| record.state == State::Failed);
                if let Some(record) = failed
                    && keep(context, hold, delivery, &record).await.is_err()
                {
                    return Done::Lost;
                }
                return acknowledge(hold, Done::Absorbed).await;
            }
            OnDelivery::Superseded => return Done::Lost,
            OnDelivery::Surplus => return acknowledge(hold, Done::Absorbed).await,
            OnDelivery::Hold(due) => {
                let job = later(&facts, delivery);
                if persist(hold, || context.broker.enqueue_at(job.clone(), due))
                    .await
                    .is_err()
                {
                    return Done::Lost;
                }
                return acknowledge(hold, Done::Absorbed).await;
            }
            OnDelivery::End(record) => {
                let next = OnEnd::Ended {
                    keep: record.state == State::Failed,
                    record,
                };
                return settle(context, hold, delivery, envelope, next, revision).await;
            }
        }
    };
    let secrets = match context.options.secrets.read(&envelope.secrets) {
        Ok(secrets) => secrets,
        Err(error) => {
            let attempt = not_started(context, error.to_string());
            let next = end_attempt(record, envelope, &attempt);
            return settle(context, hold, delivery, envelope, next, revision).await;
        }
    };
    let (ended, record) =
        run_command(context, hold, delivery, envelope, record, revision, secrets).await;
    // room for the outcome first, so that a slow server slows this worker and not its memory
    let _room = context.unrecorded.acquire().await;
    slot.free().await;
    if matches!(ended.stopped, Some(Stopped::Asked(StopReason::LeaseLost))) {
        return Done::Lost;
    }
    let attempt = judge(context, &ended);
    let record = fill(record, ended);
    let next = end_attempt(record, envelope, &attempt);
    settle(context, hold, delivery, envelope, next, revision).await
}

/// Whether a record is this very delivery's own claim.
fn is_ours(record: &Record, facts: &Delivered) -> bool {
    record.state == State::Running
        && record.lease.as_ref().is_some_and(|lease| {
            lease.worker_id == facts.worker_id
                && lease.sequence == facts.sequence
                && lease.delivery == facts.delivery
        })
}

enum Unread {
    Lost,
    Unreadable(String),
}

async fn read(
    context: &AttemptContext,
    hold: &Hold,
    job_id: &JobId,
) -> Result<(Option<Record>, u64), Unread> {
    match persist(hold, || context.broker.read_record(job_id)).await {
        Ok(read) => Ok(read),
        Err(BrokerError::Unreadable(message)) => Err(Unread::Unreadable(message)),
        Err(_) => Err(Unread::Lost),
    }
}

/// Runs the command, publishes its live output, and takes what it says on the control channel.
async fn run_command(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    mut record: Record,
    revision: u64,
    secrets: Vec<(String, String)>,
) -> (Ended, Record) {
    let (sender, mut chunks) = mpsc::channel::<LiveChunk>(LIVE_CHUNKS_MAX);
    let options = &context.options;
    let sink = match options.tap {
        Some(_) => LiveSink::lossless(sender),
        None => LiveSink::new(sender, options.live_after),
    };
    let identity = Identity {
        worker_id: &context.worker_id,
        record: &record,
        fence: revision,
        traceparent: delivery.traceparent(),
    };
    let command = command::build(envelope, options, &identity, secrets, Some(sink));
    let handle = Arc::new(context.runner.start_job(command));
    hold.set_handle(Arc::clone(&handle));
    let (job_id, attempt) = (record.job_id.clone(), record.attempt);
    let mut live = Live {
        context,
        job_id: &job_id,
        attempt,
        published: false,
    };
    let ended = follow(&handle, &mut chunks, &mut live, &mut record).await;
    live.end().await;
    (ended, record)
}

async fn follow(
    handle: &JobHandle,
    chunks: &mut mpsc::Receiver<LiveChunk>,
    live: &mut Live<'_>,
    record: &mut Record,
) -> Ended {
    let mut control_open = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = handle.wait() => break ended,
            Some(chunk) = chunks.recv() => live.publish(chunk).await,
            message = handle.control(), if control_open => match message {
                Some(message) => take_control(record, &message),
                None => control_open = false,
            },
        }
    };
    while let Ok(chunk) = chunks.try_recv() {
        live.publish(chunk).await;
    }
    for message in &ended.control {
        take_control(record, message);
    }
    ended
}

/// Output on its way to whoever looks on.
struct Live<'a> {
    context: &'a AttemptContext,
    job_id: &'a JobId,
    attempt: u32,
    published: bool,
}

impl Live<'_> {
    async fn publish(&mut self, chunk: LiveChunk) {
        if let Some(tap) = &self.context.options.tap {
            let _ = tap.send((chunk.stream, chunk.bytes)).await;
            return;
        }
        self.published = true;
        let chunk = LogChunk::Bytes {
            stdio: match chunk.stream {
                StreamKind::Stdout => Stdio::Stdout,
                StreamKind::Stderr => Stdio::Stderr,
            },
            attempt: self.attempt,
            bytes: chunk.bytes,
        };
        let _ = self.context.broker.publish_log(self.job_id, chunk).await;
    }

    async fn end(&self) {
        if self.published {
            let end = LogChunk::End {
                attempt: self.attempt,
            };
            let _ = self.context.broker.publish_log(self.job_id, end).await;
        }
    }
}

/// Takes what a job says of itself. What is not understood is kept as a warning.
fn take_control(record: &mut Record, message: &ControlMessage) {
    const WARNINGS_MAX: usize = 32;
    let mut warnings = Vec::new();
    let raw = |value: &serde_json::Value| RawValue::from_string(value.to_string()).ok();
    let object = &message.object;
    for (key, value) in object {
        match key.as_str() {
            "progress" => match value
                .as_f64()
                .filter(|percent| (0.0..=100.0).contains(percent))
            {
                Some(percent) => {
                    record.progress = Some(Progress {
                        percent: Some(percent),
                        message: object
                            .get("message")
                            .and_then(|text| text.as_str())
                            .map(str::to_owned),
                    });
                }
                None => warnings.push(format!("progress is not a number from 0 to 100: {value}")),
            },
            "message" => {
                if !object.contains_key("progress") {
                    record.progress.get_or_insert_default().message =
                        value.as_str().map(str::to_owned);
                }
            }
            "result" => record.result = raw(value),
            "checkpoint" => record.checkpoint = raw(value),
            other => warnings.push(format!(
                "this version of naq does not know `{}` on the control channel",
                other.chars().take(40).collect::<String>()
            )),
        }
    }
    for warning in warnings {
        if record.warnings.len() < WARNINGS_MAX {
            record.warnings.push(warning);
        }
    }
}

fn not_started(context: &AttemptContext, error: String) -> Attempt {
    Attempt {
        end: AttemptEnd::NotStarted { fatal: true },
        error: Some(error),
        retry_after: None,
        now: now(),
        random: rand::random(),
        crashes_max: context.options.crashes_max,
    }
}

/// What an end means, in the words of the lifecycle.
fn judge(context: &AttemptContext, ended: &Ended) -> Attempt {
    let (end, error) = match (&ended.end, ended.stopped) {
        (_, Some(Stopped::Asked(StopReason::Drain | StopReason::Abandoned))) => {
            // one that ended well before the signal reached it has ended well
            match ended.end {
                End::Exited(0) => (AttemptEnd::Exited(0), None),
                _ => (AttemptEnd::Drained, None),
            }
        }
        (_, Some(Stopped::Asked(StopReason::Cancel))) => (AttemptEnd::Cancelled, None),
        (_, Some(Stopped::Timeout)) => (
            AttemptEnd::TimedOut,
            Some("it ran out of time and was stopped".to_owned()),
        ),
        (_, Some(Stopped::Memory)) => (
            AttemptEnd::OutOfMemory,
            Some("it used more memory than its limit and was stopped".to_owned()),
        ),
        (_, Some(Stopped::Processes)) => (
            AttemptEnd::Signalled(libc::SIGKILL),
            Some("it started more processes than its limit and was stopped".to_owned()),
        ),
        (_, _) if ended.oom => (
            AttemptEnd::OutOfMemory,
            Some("the kernel killed it for want of memory".to_owned()),
        ),
        (End::NotStarted(failure), _) => (
            AttemptEnd::NotStarted {
                fatal: failure.fatal,
            },
            Some(match &failure.errno {
                Some(errno) => format!("{} ({errno})", failure.message),
                None => failure.message.clone(),
            }),
        ),
        (End::SpawnerDied, _) => (
            AttemptEnd::Lost,
            Some("the process that held it died".to_owned()),
        ),
        (End::Exited(code), _) => (AttemptEnd::Exited(*code), None),
        (End::Signalled(signal), _) => (AttemptEnd::Signalled(*signal), None),
    };
    Attempt {
        end,
        error,
        retry_after: None,
        now: now(),
        random: rand::random(),
        crashes_max: context.options.crashes_max,
    }
}

/// Puts what an attempt brought into its record.
fn fill(mut record: Record, ended: Ended) -> Record {
    match ended.end {
        End::Exited(code) => record.exit_code = Some(code),
        End::Signalled(signal) => record.signal = Some(signal),
        End::NotStarted(_) | End::SpawnerDied => {}
    }
    let kept = |captured: Captured| {
        (captured.bytes > 0).then(|| {
            Output::new(
                captured.head,
                captured.tail,
                captured.bytes,
                captured.truncated,
            )
        })
    };
    record.stdout = kept(ended.stdout);
    record.stderr = kept(ended.stderr);
    record.leaked = ended.leaked;
    if let Some(started_at) = ended.started_at {
        record.started_at = Some(started_at.into());
    }
    record.warnings.extend(ended.warnings);
    if ended.live_dropped_bytes > 0 {
        record.warnings.push(format!(
            "{} bytes of live output were dropped, since nobody took them in time; what is kept here is not affected",
            ended.live_dropped_bytes
        ));
    }
    record.usage = Some(Usage {
        max_rss_bytes: ended.usage.max_rss_bytes,
        cpu_user_ms: ended.usage.cpu_user_ms,
        cpu_system_ms: ended.usage.cpu_system_ms,
        wall_ms: ended.usage.wall_ms,
    });
    record
}

/// Carries out what follows an attempt: records it, with what goes before and after.
async fn settle(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    next: OnEnd,
    revision: u64,
) -> Done {
    match next {
        OnEnd::Ended {
            mut record,
            keep: kept,
        } => {
            if kept && keep(context, hold, delivery, &record).await.is_err() {
                return Done::Lost;
            }
            attach_envelope(context, &mut record, delivery).await;
            let ttl = lifecycle::result_ttl(Some(envelope), context.options.result_ttl);
            if write(context, hold, &mut record, revision, ttl)
                .await
                .is_err()
            {
                return Done::Lost;
            }
            acknowledge(hold, Done::Recorded(record)).await
        }
        OnEnd::Retry { mut record, due } => {
            if write(context, hold, &mut record, revision, None)
                .await
                .is_err()
            {
                return Done::Lost;
            }
            let job = NewJob {
                job_id: record.job_id.clone(),
                queue: record.queue.clone(),
                payload: delivery.payload.clone(),
            };
            if persist(hold, || context.broker.enqueue_at(job.clone(), due))
                .await
                .is_err()
            {
                return Done::Lost;
            }
            acknowledge(hold, Done::Recorded(record)).await
        }
        OnEnd::HandBack { mut record } => {
            if write(context, hold, &mut record, revision, None)
                .await
                .is_err()
            {
                return Done::Lost;
            }
            // without this word it comes back by itself, only later
            let _ = hold.delivery().hand_back().await;
            Done::HandedBack
        }
    }
}

fn later(facts: &Delivered, delivery: &Delivery) -> NewJob {
    NewJob {
        job_id: facts.job_id.clone(),
        queue: facts.queue.clone(),
        payload: delivery.payload.clone(),
    }
}

async fn acknowledge(hold: &Hold, done: Done) -> Done {
    match persist(hold, || async { hold.delivery().ack().await }).await {
        // it is recorded all the same: the message will come again and be absorbed
        Ok(()) | Err(_) => done,
    }
}

async fn keep(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    record: &Record,
) -> Result<(), BrokerError> {
    persist(hold, || {
        context.broker.keep_failed(
            delivery,
            &record.job_id,
            record.state,
            record.reason.unwrap_or(Reason::Exit),
            record.error.as_deref().unwrap_or_default(),
            record.attempt,
        )
    })
    .await
}

/// Puts the envelope into the record, or beside it where it is large.
async fn attach_envelope(context: &AttemptContext, record: &mut Record, delivery: &Delivery) {
    let bytes_max = ENVELOPE_BYTES_MAX.min(context.broker.message_bytes_max() / 4);
    if delivery.payload.len() <= bytes_max {
        record.envelope = std::str::from_utf8(&delivery.payload)
            .ok()
            .and_then(|text| serde_json::from_str(text).ok());
        return;
    }
    let object = format!("envelope/{}", record.job_id);
    match context.broker.put_object(&object, &delivery.payload).await {
        Ok(()) => record.envelope_object = Some(object),
        Err(error) => record
            .warnings
            .push(format!("the envelope could not be kept: {error}")),
    }
}

/// Writes an outcome where the hold is still this worker's, however often it takes. What does
/// not fit a message goes to the object store first.
async fn write(
    context: &AttemptContext,
    hold: &Hold,
    record: &mut Record,
    mut revision: u64,
    ttl: Option<Duration>,
) -> Result<(), BrokerError> {
    let mut pause = PAUSE_FIRST;
    let mut shrunk = false;
    spill(context, hold, record, false).await?;
    loop {
        match context.broker.write_record(record, revision, ttl).await {
            Ok(_) => return Ok(()),
            Err(BrokerError::Conflict) => {
                let (present, at) =
                    persist(hold, || context.broker.read_record(&record.job_id)).await?;
                let Some(present) = present else {
                    // removed by hand: the outcome is what there is to know of the job
                    revision = at;
                    continue;
                };
                if same_outcome(&present, record) {
                    // an earlier write whose answer was lost
                    return Ok(());
                }
                let still_ours = present.state == State::Running
                    && present.lease.as_ref().is_some_and(|lease| {
                        Some(&lease.worker_id) == record.worker_id.as_ref()
                            && present.attempt >= record.attempt
                    });
                if !still_ours {
                    return Err(BrokerError::Conflict);
                }
                // someone asked for something meanwhile: keep that, and write again
                record.cancel_requested |= present.cancel_requested;
                revision = at;
            }
            Err(BrokerError::TooLarge { .. }) if !shrunk => {
                shrunk = true;
                spill(context, hold, record, true).await?;
                shed(context, hold, record).await?;
            }
            Err(error) => {
                tracing::warn!(job_id = %record.job_id, "cannot record the outcome yet: {error}");
                if hold.is_lost(Instant::now()) && hold.stop_asked().is_some() {
                    return Err(error);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

fn same_outcome(present: &Record, record: &Record) -> bool {
    present.state == record.state
        && present.attempt == record.attempt
        && present.worker_id == record.worker_id
        && present.finished_at == record.finished_at
        && present.lease.is_none()
}

/// Moves output to the object store where the record would not fit a message.
async fn spill(
    context: &AttemptContext,
    hold: &Hold,
    record: &mut Record,
    always: bool,
) -> Result<(), BrokerError> {
    let budget = context
        .broker
        .message_bytes_max()
        .saturating_sub(RECORD_MARGIN_BYTES);
    let size = |output: &Option<Output>| {
        output.as_ref().map_or(0, |output| {
            let part = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            part(&output.text) + part(&output.base64) + part(&output.tail)
        })
    };
    // escapes can make text six times as long in JSON; only what comes near is measured
    let estimate = size(&record.stdout) + size(&record.stderr);
    if !always && estimate * 6 < budget {
        return Ok(());
    }
    if !always && serde_json::to_vec(record).map_or(usize::MAX, |json| json.len()) < budget {
        return Ok(());
    }
    let (job_id, attempt) = (record.job_id.clone(), record.attempt);
    for (name, output) in [
        ("stdout", &mut record.stdout),
        ("stderr", &mut record.stderr),
    ] {
        let Some(output) = output else { continue };
        if output.object.is_some() {
            continue;
        }
        let object = format!("output/{job_id}/{attempt}/{name}");
        let mut bytes = output.head_bytes();
        bytes.extend(output.tail_bytes());
        persist(hold, || context.broker.put_object(&object, &bytes)).await?;
        const SHOWN_BYTES: usize = 4_096;
        let shown = bytes[..bytes.len().min(SHOWN_BYTES)].to_vec();
        let truncated = output.truncated;
        *output = Output::new(shown, Vec::new(), output.bytes, true);
        output.truncated = truncated;
        output.tail = None;
        output.object = Some(object);
    }
    Ok(())
}

/// What else can fill a message: the job's own result goes to the object store, what only the
/// next attempt or an onlooker would read is let go.
async fn shed(
    context: &AttemptContext,
    hold: &Hold,
    record: &mut Record,
) -> Result<(), BrokerError> {
    if let Some(result) = record.result.take() {
        let object = format!("result/{}/{}", record.job_id, record.attempt);
        persist(hold, || {
            context.broker.put_object(&object, result.get().as_bytes())
        })
        .await?;
        record.result_object = Some(object);
    }
    if record.checkpoint.take().is_some() {
        record
            .warnings
            .push("the checkpoint was too large to keep".to_owned());
    }
    record.progress = None;
    Ok(())
}

/// Does a step until it is done, the server's answer is final, or the hold is lost and the loop
/// has said so.
async fn persist<T, F>(hold: &Hold, mut step: impl FnMut() -> F) -> Result<T, BrokerError>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let mut pause = PAUSE_FIRST;
    loop {
        match step().await {
            Err(error) if error.is_passing() => {
                if hold.is_lost(Instant::now()) && hold.stop_asked().is_some() {
                    return Err(error);
                }
                tracing::debug!("not yet: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            done => return done,
        }
    }
}
