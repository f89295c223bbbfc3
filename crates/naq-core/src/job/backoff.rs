//! Whether a failed attempt is retried, and after how long.

use std::time::Duration;

use naq_protocol::{Backoff, Envelope, Reason, RetryDelay};

/// `EX_TEMPFAIL` of `sysexits.h`: the program itself reports a temporary failure.
const EXIT_TEMPFAIL: i32 = 75;

/// The wait before a retry if the envelope sets no `retry_delay`.
const RETRY_DELAY_DEFAULT: Duration = Duration::ZERO;

/// Whether a failed attempt may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// A retry may succeed, if retries are left.
    Retryable,
    /// No retry can succeed, or the envelope rules retries out.
    Fatal,
}

/// Classifies a failed attempt by its reason and exit code. The first rule that applies decides:
///
/// 1. A reason other than [`Reason::Exit`] (a timeout, a signal and so on) is retryable: there is
///    no exit code that could say otherwise.
/// 2. An exit code in `fatal_on` is fatal.
/// 3. Exit code 75 (`EX_TEMPFAIL`) is retryable, even if `retry_on` does not list it.
/// 4. If `retry_on` is set, an exit code outside of it is fatal.
/// 5. Everything else is retryable.
#[must_use]
pub fn classify_failure(
    envelope: &Envelope,
    reason: Reason,
    exit_code: Option<i32>,
) -> FailureClass {
    if reason != Reason::Exit {
        return FailureClass::Retryable;
    }
    let code = exit_code.and_then(|code| u8::try_from(code).ok());
    if code.is_some_and(|code| envelope.fatal_on.contains(&code)) {
        return FailureClass::Fatal;
    }
    if exit_code == Some(EXIT_TEMPFAIL) {
        return FailureClass::Retryable;
    }
    match &envelope.retry_on {
        Some(codes) if !code.is_some_and(|code| codes.contains(&code)) => FailureClass::Fatal,
        _ => FailureClass::Retryable,
    }
}

/// The wait before retry number `retry`; the first is 1.
///
/// Unless the envelope turns jitter off, the wait is multiplied by `random`, a number in 0..1 (full
/// jitter), so that jobs that failed together are not retried together.
#[must_use]
pub fn retry_delay(envelope: &Envelope, retry: u32, random: f64) -> Duration {
    let retry = retry.max(1);
    let base = match &envelope.retry_delay {
        None => RETRY_DELAY_DEFAULT,
        Some(RetryDelay::Single(span)) => {
            let factor = match envelope.retry_strategy.unwrap_or_default() {
                // An envelope with an unknown strategy is refused before it becomes a job.
                Backoff::Fixed | Backoff::Unknown(_) => 1.0,
                Backoff::Linear => f64::from(retry),
                Backoff::Exponential => 2_f64.powi(i32::try_from(retry - 1).unwrap_or(i32::MAX)),
            };
            scaled(span.0, factor)
        }
        Some(RetryDelay::PerRetry(spans)) => {
            let index = (retry as usize - 1).min(spans.len().saturating_sub(1));
            spans.get(index).map_or(RETRY_DELAY_DEFAULT, |span| span.0)
        }
    };
    let bounded = match envelope.retry_max_delay {
        Some(max) => base.min(max.0),
        None => base,
    };
    if envelope.retry_jitter.unwrap_or(true) {
        scaled(bounded, random.clamp(0.0, 1.0))
    } else {
        bounded
    }
}

/// A duration times a factor, limited to the longest duration on the wire.
fn scaled(duration: Duration, factor: f64) -> Duration {
    let longest = naq_protocol::units::DURATION_MAX;
    Duration::try_from_secs_f64(duration.as_secs_f64() * factor).map_or(longest, |d| d.min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::units::WireDuration;
    use proptest::prelude::*;

    fn envelope(
        delay: Option<RetryDelay>,
        strategy: Option<Backoff>,
        max: Option<u64>,
    ) -> Envelope {
        Envelope {
            retry_delay: delay,
            retry_strategy: strategy,
            retry_max_delay: max.map(WireDuration::from_secs),
            retry_jitter: Some(false),
            ..Envelope::command("x", [] as [&str; 0])
        }
    }

    #[test]
    fn retry_delay_grows_by_its_strategy() {
        let one = |strategy| {
            envelope(
                Some(RetryDelay::Single(WireDuration::from_secs(2))),
                Some(strategy),
                Some(10),
            )
        };
        let seconds = |envelope: &Envelope| -> Vec<u64> {
            (1..=5)
                .map(|retry| retry_delay(envelope, retry, 0.5).as_secs())
                .collect()
        };
        assert_eq!(seconds(&one(Backoff::Fixed)), [2, 2, 2, 2, 2]);
        assert_eq!(seconds(&one(Backoff::Linear)), [2, 4, 6, 8, 10]);
        assert_eq!(seconds(&one(Backoff::Exponential)), [2, 4, 8, 10, 10]);
        let each =
            RetryDelay::PerRetry(vec![WireDuration::from_secs(1), WireDuration::from_secs(5)]);
        assert_eq!(seconds(&envelope(Some(each), None, None)), [1, 5, 5, 5, 5]);
    }

    #[test]
    fn exit_codes_decide_whether_a_failure_is_retried() {
        let mut envelope = Envelope::command("x", [] as [&str; 0]);
        envelope.retry_on = Some(vec![3]);
        envelope.fatal_on = vec![4];
        let classified = |reason, code| classify_failure(&envelope, reason, code);
        assert_eq!(classified(Reason::Exit, Some(3)), FailureClass::Retryable);
        assert_eq!(classified(Reason::Exit, Some(4)), FailureClass::Fatal);
        assert_eq!(classified(Reason::Exit, Some(5)), FailureClass::Fatal);
        assert_eq!(classified(Reason::Exit, Some(75)), FailureClass::Retryable);
        assert_eq!(classified(Reason::Timeout, None), FailureClass::Retryable);
        // A producer that lists 75 rules out what it otherwise means.
        envelope.fatal_on = vec![75];
        let retried = classify_failure(&envelope, Reason::Exit, Some(75));
        assert_eq!(retried, FailureClass::Fatal);
    }

    proptest! {
        #[test]
        fn retry_jitter_never_lengthens_the_delay(seconds in 0_u64..1_000_000, retry in 0_u32..20_000, random in 0.0_f64..1.0) {
            let mut envelope = envelope(Some(RetryDelay::Single(WireDuration::from_secs(seconds))), Some(Backoff::Exponential), None);
            let whole = retry_delay(&envelope, retry, random);
            envelope.retry_jitter = None;
            prop_assert!(retry_delay(&envelope, retry, random) <= whole);
        }
    }
}
