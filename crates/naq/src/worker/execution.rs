//! Running a job's command: its live output, and what its end means.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::attempt::AttemptContext;
use super::command::{self, AttemptIdentity};
use super::control::{ControlState, RecordCheckpointer};
use super::lease::MessageLease;
use super::now;
use naq_core::{AttemptEnd, FinishedAttempt};
use naq_jetstream::{LogChunk, OutputStream, failpoint};
use naq_protocol::{CapturedOutput, Envelope, JobId, JobProgress, Record, ResourceUsage};
use naq_runner::{
    Captured, Completion, LiveChunk, LiveSink, StopCause, StopReason, StreamKind, Termination,
};

/// How many pieces of live output may wait for the network.
const LIVE_CHUNKS_MAX: usize = 128;

/// Live output of one job that is passed on, in bytes a second in the long run, and at once. What
/// a job prints beyond is kept as the record keeps it, and spares the server.
const LIVE_BYTES_PER_S: f64 = (4 << 20) as f64;
const LIVE_BURST_BYTES: f64 = (8 << 20) as f64;

/// Runs the command, publishes its live output, and takes what it says on the control channel.
pub(super) async fn run_command(
    context: &AttemptContext,
    lease: &MessageLease,
    envelope: &Envelope,
    record: &mut Record,
    revision: &mut u64,
    secrets: Vec<(String, String)>,
) -> (Completion, ControlState) {
    let (sender, mut chunks) = mpsc::channel::<LiveChunk>(LIVE_CHUNKS_MAX);
    let options = &context.options;
    let sink = match options.output_tap {
        Some(_) => LiveSink::lossless(sender),
        None => LiveSink::new(sender, options.live_output_after),
    };
    let identity = AttemptIdentity {
        worker_id: &context.worker_id,
        record: &*record,
        fence: *revision,
    };
    let command = command::build_command(envelope, options, &identity, secrets, Some(sink));
    let handle = Arc::new(context.runner.start_job(command));
    lease.set_handle(Arc::clone(&handle));
    failpoint("run.started");
    let (job_id, attempt) = (record.job_id.clone(), record.attempt);
    let mut live = LiveOutput {
        context,
        job_id: &job_id,
        attempt,
        published: false,
        bucket: TokenBucket::full(),
        dropped_bytes: 0,
    };
    let mut control_state = ControlState::default();
    let mut checkpointer = RecordCheckpointer::new(context, lease);
    let mut control_open = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = handle.wait() => break ended,
            Some(chunk) = chunks.recv() => live.publish(chunk).await,
            message = handle.next_control_message(), if control_open => match message {
                Some(message) => {
                    control_state.apply(record, &message);
                    checkpointer.mark_dirty();
                    live.publish_progress(record.progress.as_ref());
                }
                None => control_open = false,
            },
            () = checkpointer.advance(record, revision) => {}
        }
    };
    failpoint("run.ended");
    // a write still under way names a revision that the outcome's ends
    drop(checkpointer);
    while let Ok(chunk) = chunks.try_recv() {
        live.publish(chunk).await;
    }
    for message in &ended.control {
        control_state.apply(record, message);
    }
    live.publish_end().await;
    if live.dropped_bytes > 0 {
        record.warnings.push(format!(
            "{} bytes of live output were not passed on, since they came too fast; what is kept here is not affected",
            live.dropped_bytes
        ));
    }
    (ended, control_state)
}

/// Output on its way to whoever looks on.
struct LiveOutput<'a> {
    context: &'a AttemptContext,
    job_id: &'a JobId,
    attempt: u32,
    published: bool,
    bucket: TokenBucket,
    dropped_bytes: u64,
}

/// How much may be passed on now: it fills with time, up to a bound, and empties with use.
struct TokenBucket {
    bytes: f64,
    at: Instant,
}

impl TokenBucket {
    fn full() -> TokenBucket {
        TokenBucket {
            bytes: LIVE_BURST_BYTES,
            at: Instant::now(),
        }
    }

    /// Takes so much, if there is so much.
    fn try_take(&mut self, bytes: usize, now: Instant) -> bool {
        let filled = now.duration_since(self.at).as_secs_f64() * LIVE_BYTES_PER_S;
        self.bytes = (self.bytes + filled).min(LIVE_BURST_BYTES);
        self.at = now;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a piece is far below 2^53 bytes"
        )]
        let wanted = bytes as f64;
        let has = self.bytes >= wanted;
        if has {
            self.bytes -= wanted;
        }
        has
    }
}

impl LiveOutput<'_> {
    async fn publish(&mut self, chunk: LiveChunk) {
        if let Some(output_tap) = &self.context.options.output_tap {
            let _ = output_tap.send((chunk.stream, chunk.bytes)).await;
            return;
        }
        if !self.bucket.try_take(chunk.bytes.len(), Instant::now()) {
            self.dropped_bytes += chunk.bytes.len() as u64;
            return;
        }
        self.published = true;
        let chunk = LogChunk::Bytes {
            stdio: match chunk.stream {
                StreamKind::Stdout => OutputStream::Stdout,
                StreamKind::Stderr => OutputStream::Stderr,
            },
            attempt: self.attempt,
            bytes: chunk.bytes,
        };
        let _ = self.context.broker.publish_log(self.job_id, chunk).await;
    }

    /// Shows progress to whoever sits before this process.
    fn publish_progress(&self, progress: Option<&JobProgress>) {
        if let (Some(output_tap), Some(progress)) = (&self.context.options.progress_tap, progress) {
            output_tap.send_replace(progress.clone());
        }
    }

    async fn publish_end(&self) {
        if self.published {
            let end = LogChunk::End {
                attempt: self.attempt,
            };
            let _ = self.context.broker.publish_log(self.job_id, end).await;
        }
    }
}

/// What an end means, in the words of the lifecycle.
pub(super) fn classify_end(
    context: &AttemptContext,
    ended: &Completion,
    control_state: &ControlState,
) -> FinishedAttempt {
    let (end, error) = match (&ended.end, ended.stopped) {
        (_, Some(StopCause::Requested(StopReason::Drain | StopReason::Abandoned))) => {
            // one that ended well before the signal reached it has ended well
            match ended.end {
                Termination::Exited(0) => (AttemptEnd::Exited(0), None),
                _ => (AttemptEnd::Drained, None),
            }
        }
        // what ends well although it was asked to stop has ended well: the record knows the wish
        (Termination::Exited(code), Some(StopCause::Requested(StopReason::Cancel))) => {
            (AttemptEnd::Exited(*code), None)
        }
        (_, Some(StopCause::Requested(StopReason::Cancel))) => (AttemptEnd::Cancelled, None),
        (_, Some(StopCause::Timeout)) => (
            AttemptEnd::TimedOut,
            Some("it ran out of time and was stopped".to_owned()),
        ),
        (_, Some(StopCause::Memory)) => (
            AttemptEnd::OutOfMemory,
            Some("it used more memory than its limit and was stopped".to_owned()),
        ),
        (_, Some(StopCause::Processes)) => (
            AttemptEnd::Signalled(libc::SIGKILL),
            Some("it started more processes than its limit and was stopped".to_owned()),
        ),
        (_, _) if ended.oom => (
            AttemptEnd::OutOfMemory,
            Some("the kernel killed it for want of memory".to_owned()),
        ),
        (Termination::NotStarted(failure), _) => (
            AttemptEnd::NotStarted {
                fatal: failure.fatal,
            },
            Some(match &failure.errno {
                Some(errno) => format!("{} ({errno})", failure.message),
                None => failure.message.clone(),
            }),
        ),
        (Termination::SpawnerDied, _) => (
            AttemptEnd::SpawnerDied,
            Some("the process that held it died".to_owned()),
        ),
        (Termination::Exited(code), _) => (AttemptEnd::Exited(*code), None),
        (Termination::Signalled(signal), _) => (AttemptEnd::Signalled(*signal), None),
    };
    FinishedAttempt {
        end,
        error,
        retry_after: control_state.retry_after,
        now: now(),
        random: rand::random(),
        max_worker_crashes: context.options.max_worker_crashes,
    }
}

/// Puts what an attempt brought into its record.
pub(super) fn fill_record(record: &mut Record, ended: Completion) {
    record.cancel_requested |= ended.stopped == Some(StopCause::Requested(StopReason::Cancel));
    match ended.end {
        Termination::Exited(code) => record.exit_code = Some(code),
        Termination::Signalled(signal) => record.signal = Some(signal),
        Termination::NotStarted(_) | Termination::SpawnerDied => {}
    }
    let kept = |captured: Captured| {
        (captured.bytes > 0).then(|| {
            CapturedOutput::new(
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
    record.usage = Some(ResourceUsage {
        max_rss_bytes: ended.usage.max_rss_bytes,
        cpu_user_ms: ended.usage.cpu_user_ms,
        cpu_system_ms: ended.usage.cpu_system_ms,
        wall_ms: ended.usage.wall_ms,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn live_output_is_bounded_in_the_long_run() {
        let begun = Instant::now();
        let mut allowance = TokenBucket::full();
        let mut passed = 0_u64;
        // 10 seconds of a job that prints 64 MiB a second
        for piece in 0..10_240_u64 {
            let now = begun + Duration::from_micros(piece * 1_000_000 / 1_024);
            if allowance.try_take(64 << 10, now) {
                passed += 64 << 10;
            }
        }
        assert!(passed >= 8 << 20, "{passed}");
        assert!(passed <= (8 + 10 * 4) << 20, "{passed}");
    }
}
