//! Limits the time of a verb if a server answers each of its requests and never completes the last one.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::render;

/// How often the time limit of a verb that makes progress is renewed, at most. A hostile server may list jobs
/// without end.
const EXTENSIONS_MAX: u32 = 24;

/// The number of steps that a verb has completed. The default is 0.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    /// Counts a completed step, or an answer of a person or program. The time limit starts again.
    pub(super) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Time limit of a verb without progress, if it only reads or changes stored values.
pub(super) fn verb_time_max() -> Duration {
    fail::fail_point!("verb.time_max", |seconds| {
        let seconds = seconds.and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or_default())
    });
    Duration::from_secs(3_600)
}

/// Runs `work`, which asks a server, for at most the time limit without progress, and for at most a day.
///
/// # Errors
/// Returns a [`Failure`] if the time has passed, and the failure of `work`.
pub(super) async fn limited<T>(
    limit: Duration,
    progress: &Progress,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let mut before = progress.count();
    let mut extensions = 0;
    loop {
        if let Ok(ended) = tokio::time::timeout(limit, &mut work).await {
            return ended;
        }
        extensions += 1;
        let now = progress.count();
        if now == before || extensions == EXTENSIONS_MAX {
            return Err(has_no_end(limit * extensions));
        }
        before = now;
    }
}

fn has_no_end(elapsed: Duration) -> Failure {
    Failure::new(
        Exit::NoNats,
        format!(
            "NATS has answered for {}, without an end",
            render::span(elapsed)
        ),
    )
    .hint("check that the server at this address is the right one")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Waits `times` times, each time for less than the limit.
    async fn work(times: u32, progress: Option<&Progress>) -> Result<u32, Failure> {
        for _ in 0..times {
            tokio::time::sleep(LIMIT / 5).await;
            if let Some(progress) = progress {
                progress.advance();
            }
        }
        Ok(times)
    }

    #[tokio::test]
    async fn work_that_progresses_may_take_longer_than_the_limit_but_not_for_ever() {
        let progress = Progress::default();
        let done = limited(LIMIT, &progress, work(20, Some(&progress))).await;
        assert!(matches!(done, Ok(20)));
        for (times, advancing) in [(20, None), (u32::MAX, Some(&progress))] {
            let ended = limited(LIMIT, &progress, work(times, advancing)).await;
            assert!(ended.is_err(), "{times}");
        }
    }
}
