//! Live output: what a job prints, published while it runs.

use tokio::time::Instant;

use super::context::WorkerContext;
use naq_jetstream::{LogChunk, OutputStream};
use naq_protocol::{JobId, JobProgress};
use naq_runner::{Completion, LiveChunk, StreamKind};

/// Live output of one job that is published, in bytes per second in the long run. What a job
/// prints beyond that is in its record, as far as the record keeps output, and spares the server.
const LIVE_BYTES_PER_S: f64 = (4 << 20) as f64;

/// Live output of one job that may be published at once, in bytes.
const LIVE_BURST_BYTES: f64 = (8 << 20) as f64;

/// Publishes the live output of one attempt.
pub(super) struct LiveOutput<'a> {
    context: &'a WorkerContext,
    job_id: &'a JobId,
    attempt: u32,
    published: bool,
    bucket: TokenBucket,
    dropped_bytes: u64,
}

/// The bytes that may be published now. Refills with time up to a bound, empties with use.
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

    /// Takes `bytes` out of the bucket if it holds as many, and returns whether it did.
    fn try_take(&mut self, bytes: usize, now: Instant) -> bool {
        let filled = now.duration_since(self.at).as_secs_f64() * LIVE_BYTES_PER_S;
        self.bytes = (self.bytes + filled).min(LIVE_BURST_BYTES);
        self.at = now;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a chunk is far below 2^53 bytes"
        )]
        let wanted = bytes as f64;
        let has = self.bytes >= wanted;
        if has {
            self.bytes -= wanted;
        }
        has
    }
}

impl<'a> LiveOutput<'a> {
    pub(super) fn new(
        context: &'a WorkerContext,
        job_id: &'a JobId,
        attempt: u32,
    ) -> LiveOutput<'a> {
        LiveOutput {
            context,
            job_id,
            attempt,
            published: false,
            bucket: TokenBucket::full(),
            dropped_bytes: 0,
        }
    }

    /// Passes a chunk on: to the tap within this process if there is one, otherwise to NATS as
    /// far as the rate allows.
    pub(super) async fn publish(&mut self, chunk: LiveChunk) {
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
            offset: Some(chunk.offset),
            bytes: chunk.bytes,
        };
        let _ = self.context.broker.publish_log(self.job_id, chunk).await;
    }

    /// Passes progress to the tap within this process, if there is one.
    pub(super) fn publish_progress(&self, progress: Option<&JobProgress>) {
        if let (Some(tap), Some(progress)) = (&self.context.options.progress_tap, progress) {
            tap.send_replace(progress.clone());
        }
    }

    /// Marks the end of the attempt's output for those that follow it, who learn from its length
    /// whether they have all of it.
    pub(super) async fn publish_end(&self, completion: &Completion) {
        if self.published {
            let end = LogChunk::End {
                attempt: self.attempt,
                stdout_bytes: Some(completion.stdout.stream_bytes()),
                stderr_bytes: Some(completion.stderr.stream_bytes()),
            };
            let _ = self.context.broker.publish_log(self.job_id, end).await;
        }
    }

    /// The warning for the record if output was dropped.
    pub(super) fn warning(&self) -> Option<String> {
        (self.dropped_bytes > 0).then(|| {
            format!(
                "{} bytes of live output were dropped, since they came too fast; the stored output is not affected",
                self.dropped_bytes
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn live_output_rate_is_bounded() {
        let begun = Instant::now();
        let mut bucket = TokenBucket::full();
        let mut passed = 0_u64;
        // 10 seconds of a job that prints 64 MiB/s
        for chunk in 0..10_240_u64 {
            let now = begun + Duration::from_micros(chunk * 1_000_000 / 1_024);
            if bucket.try_take(64 << 10, now) {
                passed += 64 << 10;
            }
        }
        assert!(passed >= 8 << 20, "{passed}");
        assert!(passed <= (8 + 10 * 4) << 20, "{passed}");
    }
}
