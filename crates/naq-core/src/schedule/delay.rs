//! Delayed jobs: jobs that start once, at a later time.

use std::fmt;
use std::time::Duration;

use naq_protocol::Timestamp;

/// The end of the year 2261, in milliseconds since the Unix epoch. The server counts nanoseconds in
/// 64 bits, so it takes a time after the spring of 2262 for one in the past.
const DELAYED_UNTIL_MAX_MS: i64 = 9_214_646_399_999;

/// A job that is due sooner than this may already be on its way into its queue: the server
/// publishes it on its own clock, and a message in flight cannot be recalled.
const IN_FLIGHT_MS: i64 = 1_000;

/// When a job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartDelay {
    /// The earliest start.
    pub due: Timestamp,
    /// Whether the producer gave it as a wait that counts from the enqueue.
    pub is_relative: bool,
    /// Whether the time has passed already, so that the job is enqueued without a delay.
    pub is_due: bool,
}

/// Why a job cannot start at a requested time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartDelayError {
    /// The time is later than [`delayed_until_max`].
    OutOfRange,
    /// The job expires before it would start.
    ExpiresFirst {
        /// When it would start.
        due: Timestamp,
        /// When it expires.
        expires_at: Timestamp,
    },
}

impl std::error::Error for StartDelayError {}

impl fmt::Display for StartDelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartDelayError::OutOfRange => f.write_str(
                "the time is out of range: a job can be delayed until the end of the year 2261",
            ),
            StartDelayError::ExpiresFirst { due, expires_at } => {
                write!(
                    f,
                    "the job expires at {expires_at}, before its start at {due}"
                )
            }
        }
    }
}

/// The latest time until which the server can delay a job.
#[must_use]
pub fn delayed_until_max() -> Timestamp {
    timestamp(DELAYED_UNTIL_MAX_MS)
}

/// The time until which a paused job is delayed: later than any time that a job can be given.
#[must_use]
pub fn paused_until() -> Timestamp {
    timestamp(DELAYED_UNTIL_MAX_MS + 1)
}

fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(unix_ms).unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH))
}

/// Delays a job until a time. `expires_at` is when the job expires, if it does.
///
/// # Errors
/// Returns [`StartDelayError`] if the time is out of range or after the job expires.
pub fn delay_until(
    due: Timestamp,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<StartDelay, StartDelayError> {
    // In milliseconds, as on the wire: it is compared later with a time that was read from there.
    let due = Timestamp::from_unix_ms(due.unix_ms()).ok_or(StartDelayError::OutOfRange)?;
    if due > delayed_until_max() {
        return Err(StartDelayError::OutOfRange);
    }
    let start = StartDelay {
        due,
        is_relative: false,
        is_due: due <= now,
    };
    check_expiry(&start, expires_at).map(|()| start)
}

/// Checks that a job starts before it expires. A start that is due already passes: the job is then
/// enqueued at once and expires like any other.
///
/// # Errors
/// Returns [`StartDelayError::ExpiresFirst`] if the job expires before it starts.
pub fn check_expiry(
    start: &StartDelay,
    expires_at: Option<Timestamp>,
) -> Result<(), StartDelayError> {
    match expires_at {
        Some(expires_at) if !start.is_due && expires_at <= start.due => {
            Err(StartDelayError::ExpiresFirst {
                due: start.due,
                expires_at,
            })
        }
        _ => Ok(()),
    }
}

/// Delays a job for a wait from `now` on. `expires_at` is when the job expires, if it does.
///
/// # Errors
/// Returns [`StartDelayError`] if the time is out of range or after the job expires.
pub fn delay_for(
    wait: Duration,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<StartDelay, StartDelayError> {
    let due = chrono::Duration::from_std(wait)
        .ok()
        .and_then(|wait| now.0.checked_add_signed(wait))
        .ok_or(StartDelayError::OutOfRange)?;
    Ok(StartDelay {
        is_relative: true,
        ..delay_until(Timestamp(due), expires_at, now)?
    })
}

/// Where a job is whose id is enqueued again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingJob {
    /// It has started, and may have finished: its record says more.
    Started,
    /// It is in its queue.
    Queued {
        /// The time until which it was delayed, if it was.
        scheduled_for: Option<Timestamp>,
    },
    /// It is delayed.
    Delayed {
        /// Until when. `None` if the server delays it by a rule other than a time.
        due: Option<Timestamp>,
        /// Whether it waits for a retry, so that it has started before.
        is_retry: bool,
    },
}

/// What an enqueue under an existing id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReenqueue {
    /// It repeats the first request: idempotent.
    Duplicate,
    /// The id belongs to another envelope.
    IdConflict,
    /// The same job exists, but with another start.
    DifferentTime(ExistingJob),
}

/// Decides what an enqueue under an existing id means. `start` is the requested start of the job;
/// `None` means at once.
///
/// A wait counts from its enqueue, so a repeated request never names the same millisecond: any wait
/// counts as the same request. The start of a job that has started already does not matter.
#[must_use]
pub fn on_reenqueue(
    existing: ExistingJob,
    is_equivalent: bool,
    start: Option<&StartDelay>,
) -> OnReenqueue {
    if !is_equivalent {
        return OnReenqueue::IdConflict;
    }
    let is_repeat = match (existing, start) {
        (ExistingJob::Started | ExistingJob::Delayed { is_retry: true, .. }, _)
        | (ExistingJob::Queued { .. }, None) => true,
        (ExistingJob::Delayed { .. }, None) => false,
        (ExistingJob::Delayed { due, .. }, Some(start)) => {
            start.is_relative || due == Some(start.due)
        }
        (ExistingJob::Queued { scheduled_for }, Some(start)) => match scheduled_for {
            Some(scheduled_for) => start.is_relative || scheduled_for == start.due,
            None => start.is_due,
        },
    };
    if is_repeat {
        OnReenqueue::Duplicate
    } else {
        OnReenqueue::DifferentTime(existing)
    }
}

/// A request to change when a delayed job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RescheduleRequest {
    /// Wait until the job is resumed, whatever its time.
    Pause,
    /// Start at the job's time again.
    Resume,
    /// Start now.
    StartNow,
    /// Start at another time.
    At(StartDelay),
}

/// What to do about a [`RescheduleRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReschedule {
    /// The job is as requested already.
    Unchanged,
    /// Delay the job until `due`, or, if it is paused, until [`paused_until`].
    DelayUntil {
        /// When the job starts.
        due: Timestamp,
        /// Whether it waits until it is resumed.
        is_paused: bool,
    },
    /// Enqueue the job now.
    Enqueue,
    /// The job is due at this time: the server may be enqueuing it already.
    TooLate(Timestamp),
    /// The job is delayed by a rule other than a time.
    NotTimed,
}

/// Decides what a request means for a delayed job that is due at `due`. `due` is `None` if the job is
/// delayed by a rule other than a time.
#[must_use]
pub fn on_reschedule(
    due: Option<Timestamp>,
    is_paused: bool,
    request: RescheduleRequest,
    now: Timestamp,
) -> OnReschedule {
    let Some(due) = due else {
        return match request {
            RescheduleRequest::StartNow => OnReschedule::Enqueue,
            _ => OnReschedule::NotTimed,
        };
    };
    match request {
        RescheduleRequest::StartNow => OnReschedule::Enqueue,
        RescheduleRequest::Resume if is_paused && due > now => OnReschedule::DelayUntil {
            due,
            is_paused: false,
        },
        RescheduleRequest::Resume if is_paused => OnReschedule::Enqueue,
        RescheduleRequest::Resume => OnReschedule::Unchanged,
        RescheduleRequest::Pause if is_paused => OnReschedule::Unchanged,
        _ if !is_paused && may_be_in_flight(due, now) => OnReschedule::TooLate(due),
        RescheduleRequest::Pause => OnReschedule::DelayUntil {
            due,
            is_paused: true,
        },
        RescheduleRequest::At(start) if start.is_due => OnReschedule::Enqueue,
        RescheduleRequest::At(start) => OnReschedule::DelayUntil {
            due: start.due,
            is_paused,
        },
    }
}

/// Whether the server may be enqueuing a delayed job already. A message in flight arrives whatever
/// is stored meanwhile.
fn may_be_in_flight(due: Timestamp, now: Timestamp) -> bool {
    due.unix_ms().saturating_sub(now.unix_ms()) < IN_FLIGHT_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(unix_ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(unix_ms).unwrap()
    }

    #[test]
    fn delay_beyond_what_the_server_can_count_is_refused() {
        let now = ms(1_800_000_000_000);
        let year = |text: &str| delay_until(text.parse().unwrap(), None, now);
        assert!(year("2261-12-31T23:59:59.999Z").is_ok());
        assert_eq!(
            year("2262-01-01T00:00:00Z"),
            Err(StartDelayError::OutOfRange)
        );
        assert_eq!(
            year("9999-01-01T00:00:00Z"),
            Err(StartDelayError::OutOfRange)
        );
        assert_eq!(paused_until().to_string(), "2262-01-01T00:00:00.000Z");
        assert!(paused_until() > delayed_until_max());
        assert_eq!(
            delay_for(Duration::MAX, None, now),
            Err(StartDelayError::OutOfRange)
        );
        let hundred_years = naq_protocol::units::DURATION_MAX;
        assert!(delay_for(hundred_years, None, now).is_ok());
    }

    #[test]
    fn delayed_job_that_expires_before_its_start_is_refused() {
        let (now, due) = (ms(1_000), ms(5_000));
        assert!(delay_until(due, Some(ms(5_001)), now).is_ok());
        for expires_at in [ms(5_000), ms(1)] {
            assert_eq!(
                delay_until(due, Some(expires_at), now),
                Err(StartDelayError::ExpiresFirst { due, expires_at })
            );
        }
        // A start in the past is enqueued at once, like any other job.
        assert!(delay_until(ms(500), Some(ms(400)), now).unwrap().is_due);
    }

    #[test]
    fn enqueue_of_a_started_job_is_a_duplicate_whatever_its_start() {
        let start = delay_until(ms(5_000), None, ms(0)).unwrap();
        let retry = ExistingJob::Delayed {
            due: Some(ms(9_000)),
            is_retry: true,
        };
        for existing in [ExistingJob::Started, retry] {
            assert_eq!(
                on_reenqueue(existing, true, Some(&start)),
                OnReenqueue::Duplicate
            );
            assert_eq!(on_reenqueue(existing, true, None), OnReenqueue::Duplicate);
            assert_eq!(on_reenqueue(existing, false, None), OnReenqueue::IdConflict);
        }
    }

    #[test]
    fn paused_job_waits_to_be_resumed_whatever_its_time() {
        let (now, due) = (ms(10_000), ms(90_000));
        let start = delay_until(ms(50_000), None, now).unwrap();
        let past = delay_until(ms(1), None, now).unwrap();
        let delay = |due, is_paused| OnReschedule::DelayUntil { due, is_paused };
        for (is_paused, request, expected) in [
            (false, RescheduleRequest::Pause, delay(due, true)),
            (true, RescheduleRequest::Pause, OnReschedule::Unchanged),
            (false, RescheduleRequest::Resume, OnReschedule::Unchanged),
            (true, RescheduleRequest::Resume, delay(due, false)),
            (false, RescheduleRequest::At(start), delay(start.due, false)),
            (true, RescheduleRequest::At(start), delay(start.due, true)),
            (false, RescheduleRequest::At(past), OnReschedule::Enqueue),
            (true, RescheduleRequest::At(past), OnReschedule::Enqueue),
            (false, RescheduleRequest::StartNow, OnReschedule::Enqueue),
            (true, RescheduleRequest::StartNow, OnReschedule::Enqueue),
        ] {
            assert_eq!(
                on_reschedule(Some(due), is_paused, request, now),
                expected,
                "{request:?}"
            );
        }
        // The time of a paused job may have passed.
        assert_eq!(
            on_reschedule(Some(ms(1)), true, RescheduleRequest::Resume, now),
            OnReschedule::Enqueue
        );
        let again = on_reschedule(Some(ms(1)), true, RescheduleRequest::At(start), now);
        assert_eq!(again, delay(start.due, true));
    }

    #[test]
    fn job_due_within_a_second_cannot_be_rescheduled() {
        let now = ms(10_000);
        let start = delay_until(ms(50_000), None, now).unwrap();
        for due in [ms(9_000), ms(10_000), ms(10_999)] {
            for request in [RescheduleRequest::Pause, RescheduleRequest::At(start)] {
                assert_eq!(
                    on_reschedule(Some(due), false, request, now),
                    OnReschedule::TooLate(due)
                );
            }
            // Enqueuing it twice is harmless: the second message is a duplicate.
            assert_eq!(
                on_reschedule(Some(due), false, RescheduleRequest::StartNow, now),
                OnReschedule::Enqueue
            );
        }
        assert_eq!(
            on_reschedule(None, false, RescheduleRequest::Pause, now),
            OnReschedule::NotTimed
        );
    }

    proptest! {
        /// The same request is a duplicate wherever the job is by now. A request for another time is
        /// none until the job has started.
        #[test]
        fn repeated_enqueue_of_a_delayed_job_is_a_duplicate(due in 0_i64..1_000, other in 0_i64..1_000, now in 0_i64..1_000, later in 0_i64..1_000) {
            let first = delay_until(ms(due), None, ms(now)).unwrap();
            let again = delay_until(ms(due), None, ms(now + later)).unwrap();
            let queued = ExistingJob::Queued { scheduled_for: Some(first.due) };
            let delayed = ExistingJob::Delayed { due: Some(first.due), is_retry: false };
            for existing in [queued, delayed] {
                prop_assert_eq!(on_reenqueue(existing, true, Some(&again)), OnReenqueue::Duplicate);
                prop_assert_eq!(on_reenqueue(existing, false, Some(&again)), OnReenqueue::IdConflict);
            }
            let another = delay_until(ms(other), None, ms(now)).unwrap();
            if other != due {
                prop_assert_eq!(on_reenqueue(delayed, true, Some(&another)), OnReenqueue::DifferentTime(delayed));
                prop_assert_eq!(on_reenqueue(queued, true, Some(&another)), OnReenqueue::DifferentTime(queued));
            }
            prop_assert_eq!(on_reenqueue(delayed, true, None), OnReenqueue::DifferentTime(delayed));
            let wait = delay_for(Duration::from_millis(5), None, ms(now)).unwrap();
            prop_assert_eq!(on_reenqueue(delayed, true, Some(&wait)), OnReenqueue::Duplicate);
            // A second enqueue cannot delay a job that was enqueued without a delay.
            let at_once = ExistingJob::Queued { scheduled_for: None };
            prop_assert_eq!(on_reenqueue(at_once, true, None), OnReenqueue::Duplicate);
            prop_assert_eq!(on_reenqueue(at_once, true, Some(&wait)), OnReenqueue::DifferentTime(at_once));
        }
    }
}
