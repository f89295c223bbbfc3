//! Running a job's command: its live output, and what its end means.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::attempt::AttemptContext;
use super::command::{self, Identity};
use super::hold::Hold;
use super::now;
use super::said::{Said, Saver};
use naq_core::{Attempt, AttemptEnd};
use naq_jetstream::{LogChunk, Stdio, step};
use naq_protocol::{Envelope, JobId, Output, Progress, Record, Usage};
use naq_runner::{Captured, End, Ended, LiveChunk, LiveSink, StopReason, Stopped, StreamKind};

/// How many pieces of live output may wait for the network.
const LIVE_CHUNKS_MAX: usize = 128;

/// Live output of one job that is passed on, in bytes a second in the long run, and at once. What
/// a job prints beyond is kept as the record keeps it, and spares the server.
const LIVE_BYTES_PER_S: f64 = (4 << 20) as f64;
const LIVE_BYTES_AT_ONCE: f64 = (8 << 20) as f64;

/// Runs the command, publishes its live output, and takes what it says on the control channel.
pub(super) async fn run_command(
    context: &AttemptContext,
    hold: &Hold,
    envelope: &Envelope,
    record: &mut Record,
    revision: &mut u64,
    secrets: Vec<(String, String)>,
) -> (Ended, Said) {
    let (sender, mut chunks) = mpsc::channel::<LiveChunk>(LIVE_CHUNKS_MAX);
    let options = &context.options;
    let sink = match options.tap {
        Some(_) => LiveSink::lossless(sender),
        None => LiveSink::new(sender, options.live_after),
    };
    let identity = Identity {
        worker_id: &context.worker_id,
        record: &*record,
        fence: *revision,
    };
    let command = command::build(envelope, options, &identity, secrets, Some(sink));
    let handle = Arc::new(context.runner.start_job(command));
    hold.set_handle(Arc::clone(&handle));
    step("run.started");
    let (job_id, attempt) = (record.job_id.clone(), record.attempt);
    let mut live = Live {
        context,
        job_id: &job_id,
        attempt,
        published: false,
        allowance: Allowance::full(),
        dropped_bytes: 0,
    };
    let mut said = Said::default();
    let mut saver = Saver::new(context, hold);
    let mut control_open = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = handle.wait() => break ended,
            Some(chunk) = chunks.recv() => live.publish(chunk).await,
            message = handle.control(), if control_open => match message {
                Some(message) => {
                    said.take(record, &message);
                    saver.touch();
                    live.tell(record.progress.as_ref());
                }
                None => control_open = false,
            },
            () = saver.step(record, revision) => {}
        }
    };
    step("run.ended");
    // a write still under way names a revision that the outcome's ends
    drop(saver);
    while let Ok(chunk) = chunks.try_recv() {
        live.publish(chunk).await;
    }
    for message in &ended.control {
        said.take(record, message);
    }
    live.end().await;
    if live.dropped_bytes > 0 {
        record.warnings.push(format!(
            "{} bytes of live output were not passed on, since they came too fast; what is kept here is not affected",
            live.dropped_bytes
        ));
    }
    (ended, said)
}

/// Output on its way to whoever looks on.
struct Live<'a> {
    context: &'a AttemptContext,
    job_id: &'a JobId,
    attempt: u32,
    published: bool,
    allowance: Allowance,
    dropped_bytes: u64,
}

/// How much may be passed on now: it fills with time, up to a bound, and empties with use.
struct Allowance {
    bytes: f64,
    at: Instant,
}

impl Allowance {
    fn full() -> Allowance {
        Allowance {
            bytes: LIVE_BYTES_AT_ONCE,
            at: Instant::now(),
        }
    }

    /// Takes so much, if there is so much.
    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let filled = now.duration_since(self.at).as_secs_f64() * LIVE_BYTES_PER_S;
        self.bytes = (self.bytes + filled).min(LIVE_BYTES_AT_ONCE);
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

impl Live<'_> {
    async fn publish(&mut self, chunk: LiveChunk) {
        if let Some(tap) = &self.context.options.tap {
            let _ = tap.send((chunk.stream, chunk.bytes)).await;
            return;
        }
        if !self.allowance.take(chunk.bytes.len(), Instant::now()) {
            self.dropped_bytes += chunk.bytes.len() as u64;
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

    /// Shows progress to whoever sits before this process.
    fn tell(&self, progress: Option<&Progress>) {
        if let (Some(tap), Some(progress)) = (&self.context.options.tap_progress, progress) {
            tap.send_replace(progress.clone());
        }
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

/// What an end means, in the words of the lifecycle.
pub(super) fn judge(context: &AttemptContext, ended: &Ended, said: &Said) -> Attempt {
    let (end, error) = match (&ended.end, ended.stopped) {
        (_, Some(Stopped::Asked(StopReason::Drain | StopReason::Abandoned))) => {
            // one that ended well before the signal reached it has ended well
            match ended.end {
                End::Exited(0) => (AttemptEnd::Exited(0), None),
                _ => (AttemptEnd::Drained, None),
            }
        }
        // what ends well although it was asked to stop has ended well: the record knows the wish
        (End::Exited(code), Some(Stopped::Asked(StopReason::Cancel))) => {
            (AttemptEnd::Exited(*code), None)
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
        retry_after: said.retry_after,
        now: now(),
        random: rand::random(),
        crashes_max: context.options.crashes_max,
    }
}

/// Puts what an attempt brought into its record.
pub(super) fn fill(record: &mut Record, ended: Ended) {
    record.cancel_requested |= ended.stopped == Some(Stopped::Asked(StopReason::Cancel));
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn live_output_is_bounded_in_the_long_run() {
        let begun = Instant::now();
        let mut allowance = Allowance::full();
        let mut passed = 0_u64;
        // 10 seconds of a job that prints 64 MiB a second
        for piece in 0..10_240_u64 {
            let now = begun + Duration::from_micros(piece * 1_000_000 / 1_024);
            if allowance.take(64 << 10, now) {
                passed += 64 << 10;
            }
        }
        assert!(passed >= 8 << 20, "{passed}");
        assert!(passed <= (8 + 10 * 4) << 20, "{passed}");
    }
}
