//! Jobs that are to begin at a time of their own: held until then, once.

use std::fmt;
use std::time::Duration;

use naq_protocol::Timestamp;

/// The end of the year 2261, in milliseconds of the Unix epoch: the server counts the
/// nanoseconds, and what comes after the spring of 2262 it takes for the past.
const DELAYED_UNTIL_MAX_MS: i64 = 9_214_646_399_999;

/// How soon a job's time may come for the server to have it on its way already.
const IN_FLIGHT_MS: i64 = 1_000;

/// When a job is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartDelay {
    /// Not before this.
    pub due: Timestamp,
    /// It was given as a wait from the enqueue on.
    pub is_relative: bool,
    /// It has come already: there is nothing to hold the job for.
    pub is_due: bool,
}

/// Why a job cannot begin at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartDelayError {
    /// No server can hold it for as long.
    OutOfRange,
    /// It expires before.
    ExpiresFirst {
        /// When it would begin.
        due: Timestamp,
        /// When it expires.
        expires_at: Timestamp,
    },
}

impl fmt::Display for StartDelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartDelayError::OutOfRange => f.write_str(
                "the time is out of range: a job can be held until the end of the year 2261",
            ),
            StartDelayError::ExpiresFirst { due, expires_at } => {
                write!(f, "it expires at {expires_at}, before its time, {due}")
            }
        }
    }
}

/// The latest time until which a server can hold a job.
#[must_use]
pub fn delayed_until_max() -> Timestamp {
    timestamp(DELAYED_UNTIL_MAX_MS)
}

/// What a job that is paused is held until: beyond every time that one can be given.
#[must_use]
pub fn paused_until() -> Timestamp {
    timestamp(DELAYED_UNTIL_MAX_MS + 1)
}

fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(unix_ms).unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH))
}

/// That a job is to begin at a time.
///
/// # Errors
/// [`StartDelayError`] where it cannot.
pub fn delay_until(
    due: Timestamp,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<StartDelay, StartDelayError> {
    // as it is written: what is compared later has been read back
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

/// Whether a job that expires then, if it does, can begin at a time. What has come already is no
/// reason to refuse it: it expires as any other.
///
/// # Errors
/// [`StartDelayError::ExpiresFirst`] where it cannot.
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

/// That a job is to begin after a wait.
///
/// # Errors
/// [`StartDelayError`] where it cannot.
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

/// How a job stands whose id someone enqueues again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingJob {
    /// It has begun, or ended: its record says how.
    Started,
    /// It is in its queue.
    Queued {
        /// The time it was held until.
        scheduled_for: Option<Timestamp>,
    },
    /// It is held.
    Delayed {
        /// Until then; none where the server goes by another rule.
        due: Option<Timestamp>,
        /// To be tried again: it has begun.
        is_retry: bool,
    },
}

/// What an enqueue under an id that is there already comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReenqueue {
    /// It is the same request once more.
    Duplicate,
    /// The id stands for another envelope.
    IdConflict,
    /// The job is there, and is to begin at another time.
    DifferentTime(ExistingJob),
}

/// Decides what an enqueue under an id that is there already comes to. `start` is when the job is
/// to begin, none for at once.
///
/// A wait counts from its enqueue, so that no second one could be the same request to the
/// millisecond: any is. A job that has begun is past the time for it to begin.
#[must_use]
pub fn on_reenqueue(
    standing: ExistingJob,
    is_equivalent: bool,
    start: Option<&StartDelay>,
) -> OnReenqueue {
    if !is_equivalent {
        return OnReenqueue::IdConflict;
    }
    let is_repeat = match (standing, start) {
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
        OnReenqueue::DifferentTime(standing)
    }
}

/// What someone wants of a held job's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RescheduleRequest {
    /// That it waits, whatever the time, until it is resumed.
    Pause,
    /// That its time counts again.
    Resume,
    /// That it begins now.
    StartNow,
    /// That it begins at another time.
    At(StartDelay),
}

/// What to do about a wish for another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReschedule {
    /// It is as wanted.
    Unchanged,
    /// Hold it until then, or beyond where it is paused.
    DelayUntil {
        /// When it is to begin.
        due: Timestamp,
        /// It waits until someone resumes it.
        is_paused: bool,
    },
    /// Put it into its queue.
    Enqueue,
    /// Its time has come: the server may be putting it into its queue.
    TooLate(Timestamp),
    /// It is held by something else than a time.
    NotTimed,
}

/// Decides what a wish for another time means for a one-shot that is held until `due`.
#[must_use]
pub fn on_reschedule(
    due: Option<Timestamp>,
    is_paused: bool,
    wish: RescheduleRequest,
    now: Timestamp,
) -> OnReschedule {
    let Some(due) = due else {
        return match wish {
            RescheduleRequest::StartNow => OnReschedule::Enqueue,
            _ => OnReschedule::NotTimed,
        };
    };
    match wish {
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

/// Whether the server may have a held job on its way into its queue by now. What is on its way
/// arrives, whatever is stored meanwhile.
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
    fn what_a_server_cannot_hold_is_refused() {
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
    fn a_job_that_expires_first_is_refused() {
        let (now, due) = (ms(1_000), ms(5_000));
        assert!(delay_until(due, Some(ms(5_001)), now).is_ok());
        for expires_at in [ms(5_000), ms(1)] {
            assert_eq!(
                delay_until(due, Some(expires_at), now),
                Err(StartDelayError::ExpiresFirst { due, expires_at })
            );
        }
        // what is enqueued at once is as any other job
        assert!(delay_until(ms(500), Some(ms(400)), now).unwrap().is_due);
    }

    #[test]
    fn a_job_that_has_begun_may_be_enqueued_again_and_says_nothing_of_its_time() {
        let start = delay_until(ms(5_000), None, ms(0)).unwrap();
        let retry = ExistingJob::Delayed {
            due: Some(ms(9_000)),
            is_retry: true,
        };
        for standing in [ExistingJob::Started, retry] {
            assert_eq!(
                on_reenqueue(standing, true, Some(&start)),
                OnReenqueue::Duplicate
            );
            assert_eq!(on_reenqueue(standing, true, None), OnReenqueue::Duplicate);
            assert_eq!(on_reenqueue(standing, false, None), OnReenqueue::IdConflict);
        }
    }

    #[test]
    fn what_is_paused_waits_for_a_word_and_for_no_time() {
        let (now, due) = (ms(10_000), ms(90_000));
        let start = delay_until(ms(50_000), None, now).unwrap();
        let past = delay_until(ms(1), None, now).unwrap();
        let hold = |due, is_paused| OnReschedule::DelayUntil { due, is_paused };
        for (is_paused, wish, then) in [
            (false, RescheduleRequest::Pause, hold(due, true)),
            (true, RescheduleRequest::Pause, OnReschedule::Unchanged),
            (false, RescheduleRequest::Resume, OnReschedule::Unchanged),
            (true, RescheduleRequest::Resume, hold(due, false)),
            (false, RescheduleRequest::At(start), hold(start.due, false)),
            (true, RescheduleRequest::At(start), hold(start.due, true)),
            (false, RescheduleRequest::At(past), OnReschedule::Enqueue),
            (true, RescheduleRequest::At(past), OnReschedule::Enqueue),
            (false, RescheduleRequest::StartNow, OnReschedule::Enqueue),
            (true, RescheduleRequest::StartNow, OnReschedule::Enqueue),
        ] {
            assert_eq!(
                on_reschedule(Some(due), is_paused, wish, now),
                then,
                "{wish:?}"
            );
        }
        // the time of one that is paused may be over
        assert_eq!(
            on_reschedule(Some(ms(1)), true, RescheduleRequest::Resume, now),
            OnReschedule::Enqueue
        );
        let again = on_reschedule(Some(ms(1)), true, RescheduleRequest::At(start), now);
        assert_eq!(again, hold(start.due, true));
    }

    #[test]
    fn what_is_on_its_way_is_not_called_back() {
        let now = ms(10_000);
        let start = delay_until(ms(50_000), None, now).unwrap();
        for due in [ms(9_000), ms(10_000), ms(10_999)] {
            for wish in [RescheduleRequest::Pause, RescheduleRequest::At(start)] {
                assert_eq!(
                    on_reschedule(Some(due), false, wish, now),
                    OnReschedule::TooLate(due)
                );
            }
            // twice into its queue does no harm
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
        /// The same request is a repeat wherever the first one is by now, and one for another
        /// time is not as long as the job has not begun.
        #[test]
        fn the_same_request_is_a_repeat(due in 0_i64..1_000, other in 0_i64..1_000, now in 0_i64..1_000, later in 0_i64..1_000) {
            let first = delay_until(ms(due), None, ms(now)).unwrap();
            let again = delay_until(ms(due), None, ms(now + later)).unwrap();
            let queued = ExistingJob::Queued { scheduled_for: Some(first.due) };
            let held = ExistingJob::Delayed { due: Some(first.due), is_retry: false };
            for standing in [queued, held] {
                prop_assert_eq!(on_reenqueue(standing, true, Some(&again)), OnReenqueue::Duplicate);
                prop_assert_eq!(on_reenqueue(standing, false, Some(&again)), OnReenqueue::IdConflict);
            }
            let another = delay_until(ms(other), None, ms(now)).unwrap();
            if other != due {
                prop_assert_eq!(on_reenqueue(held, true, Some(&another)), OnReenqueue::DifferentTime(held));
                prop_assert_eq!(on_reenqueue(queued, true, Some(&another)), OnReenqueue::DifferentTime(queued));
            }
            prop_assert_eq!(on_reenqueue(held, true, None), OnReenqueue::DifferentTime(held));
            let wait = delay_for(Duration::from_millis(5), None, ms(now)).unwrap();
            prop_assert_eq!(on_reenqueue(held, true, Some(&wait)), OnReenqueue::Duplicate);
            // one that was enqueued to begin at once cannot be put off by a second enqueue
            let at_once = ExistingJob::Queued { scheduled_for: None };
            prop_assert_eq!(on_reenqueue(at_once, true, None), OnReenqueue::Duplicate);
            prop_assert_eq!(on_reenqueue(at_once, true, Some(&wait)), OnReenqueue::DifferentTime(at_once));
        }
    }
}
