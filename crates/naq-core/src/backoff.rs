//! Whether a failed attempt is tried again, and after how long.

use std::time::Duration;

use naq_protocol::{Backoff, Envelope, Reason, RetryDelay};

/// EX_TEMPFAIL of `sysexits.h`: the program itself says that another try may do.
const EXIT_TEMPFAIL: i32 = 75;

/// The wait before a retry where the envelope names none.
const RETRY_DELAY_DEFAULT: Duration = Duration::ZERO;

/// What a failed attempt means for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// It may be tried again, if retries are left.
    Retryable,
    /// No retry can mend it, or the envelope says so.
    Fatal,
}

/// Judges a failed attempt by its reason and exit code.
///
/// Fatal codes come before retryable ones; 75 is retryable also where `retry_on` does not name
/// it. Where `retry_on` is given, exit codes outside it are final; timeouts, signals and the
/// like stay retryable, as no exit code speaks for them.
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

/// The wait before retry number `retry` (the first is 1). `random` in 0..1 draws it under full
/// jitter: anything from nothing to the whole wait, so that jobs that failed together do not
/// come back together.
#[must_use]
pub fn retry_delay(envelope: &Envelope, retry: u32, random: f64) -> Duration {
    let retry = retry.max(1);
    let base = match &envelope.retry_delay {
        None => RETRY_DELAY_DEFAULT,
        Some(RetryDelay::Single(span)) => {
            let factor = match envelope.retry_strategy.unwrap_or_default() {
                Backoff::Fixed => 1.0,
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
    fn waits_grow_as_asked() {
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
    fn exit_codes_are_judged() {
        let mut envelope = Envelope::command("x", [] as [&str; 0]);
        envelope.retry_on = Some(vec![3]);
        envelope.fatal_on = vec![4];
        let judged = |reason, code| classify_failure(&envelope, reason, code);
        assert_eq!(judged(Reason::Exit, Some(3)), FailureClass::Retryable);
        assert_eq!(judged(Reason::Exit, Some(4)), FailureClass::Fatal);
        assert_eq!(judged(Reason::Exit, Some(5)), FailureClass::Fatal);
        assert_eq!(judged(Reason::Exit, Some(75)), FailureClass::Retryable);
        assert_eq!(judged(Reason::Timeout, None), FailureClass::Retryable);
    }

    proptest! {
        #[test]
        fn jitter_never_exceeds_the_wait(seconds in 0_u64..1_000_000, retry in 0_u32..20_000, random in 0.0_f64..1.0) {
            let mut envelope = envelope(Some(RetryDelay::Single(WireDuration::from_secs(seconds))), Some(Backoff::Exponential), None);
            let whole = retry_delay(&envelope, retry, random);
            envelope.retry_jitter = None;
            prop_assert!(retry_delay(&envelope, retry, random) <= whole);
        }
    }
}
