//! Jobs that are to begin at a time of their own: held until then, once.

use std::fmt;
use std::time::Duration;

use naq_protocol::Timestamp;

/// The end of the year 2261, in milliseconds of the Unix epoch: the server counts the
/// nanoseconds, and what comes after the spring of 2262 it takes for the past.
const HELD_UNTIL_MAX_MS: i64 = 9_214_646_399_999;

/// How soon a job's time may come for the server to have it on its way already.
const ON_ITS_WAY_MS: i64 = 1_000;

/// When a job is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartTime {
    /// Not before this.
    pub due: Timestamp,
    /// It was given as a wait from the enqueue on.
    pub is_relative: bool,
    /// It has come already: there is nothing to hold the job for.
    pub has_come: bool,
}

/// Why a job cannot begin at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadStart {
    /// No server can hold it for as long.
    TooFar,
    /// It expires before.
    ExpiresFirst {
        /// When it would begin.
        due: Timestamp,
        /// When it expires.
        expires_at: Timestamp,
    },
}

impl fmt::Display for BadStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadStart::TooFar => f.write_str(
                "the time is out of range: a job can be held until the end of the year 2261",
            ),
            BadStart::ExpiresFirst { due, expires_at } => {
                write!(f, "it expires at {expires_at}, before its time, {due}")
            }
        }
    }
}

/// The latest time until which a server can hold a job.
#[must_use]
pub fn held_until_max() -> Timestamp {
    at(HELD_UNTIL_MAX_MS)
}

/// What a job that is paused is held until: beyond every time that one can be given.
#[must_use]
pub fn paused_until() -> Timestamp {
    at(HELD_UNTIL_MAX_MS + 1)
}

fn at(unix_ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(unix_ms).unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH))
}

/// That a job is to begin at a time.
///
/// # Errors
/// [`BadStart`] where it cannot.
pub fn start_at(
    due: Timestamp,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<StartTime, BadStart> {
    // as it is written: what is compared later has been read back
    let due = Timestamp::from_unix_ms(due.unix_ms()).ok_or(BadStart::TooFar)?;
    if due > held_until_max() {
        return Err(BadStart::TooFar);
    }
    let start = StartTime {
        due,
        is_relative: false,
        has_come: due <= now,
    };
    check_expiry(&start, expires_at).map(|()| start)
}

/// Whether a job that expires then, if it does, can begin at a time. What has come already is no
/// reason to refuse it: it expires as any other.
///
/// # Errors
/// [`BadStart::ExpiresFirst`] where it cannot.
pub fn check_expiry(start: &StartTime, expires_at: Option<Timestamp>) -> Result<(), BadStart> {
    match expires_at {
        Some(expires_at) if !start.has_come && expires_at <= start.due => {
            Err(BadStart::ExpiresFirst {
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
/// [`BadStart`] where it cannot.
pub fn start_in(
    wait: Duration,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<StartTime, BadStart> {
    let due = chrono::Duration::from_std(wait)
        .ok()
        .and_then(|wait| now.0.checked_add_signed(wait))
        .ok_or(BadStart::TooFar)?;
    Ok(StartTime {
        is_relative: true,
        ..start_at(Timestamp(due), expires_at, now)?
    })
}

/// How a job stands whose id someone enqueues again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has begun, or ended: its record says how.
    Begun,
    /// It is in its queue.
    Queued {
        /// The time it was held until.
        scheduled_for: Option<Timestamp>,
    },
    /// It is held.
    Held {
        /// Until then; none where the server goes by another rule.
        due: Option<Timestamp>,
        /// To be tried again: it has begun.
        is_retry: bool,
    },
}

/// What an enqueue under an id that is there already comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is the same request once more.
    Repeat,
    /// The id stands for another envelope.
    Taken,
    /// The job is there, and is to begin at another time.
    OtherTime(Standing),
}

/// Decides what an enqueue under an id that is there already comes to. `start` is when the job is
/// to begin, none for at once.
///
/// A wait counts from its enqueue, so that no second one could be the same request to the
/// millisecond: any is. A job that has begun is past the time for it to begin.
#[must_use]
pub fn on_again(standing: Standing, says_the_same: bool, start: Option<&StartTime>) -> Again {
    if !says_the_same {
        return Again::Taken;
    }
    let is_repeat = match (standing, start) {
        (Standing::Begun | Standing::Held { is_retry: true, .. }, _)
        | (Standing::Queued { .. }, None) => true,
        (Standing::Held { .. }, None) => false,
        (Standing::Held { due, .. }, Some(start)) => start.is_relative || due == Some(start.due),
        (Standing::Queued { scheduled_for }, Some(start)) => match scheduled_for {
            Some(scheduled_for) => start.is_relative || scheduled_for == start.due,
            None => start.has_come,
        },
    };
    if is_repeat {
        Again::Repeat
    } else {
        Again::OtherTime(standing)
    }
}

/// What someone wants of a held job's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retime {
    /// That it waits, whatever the time, until it is resumed.
    Pause,
    /// That its time counts again.
    Resume,
    /// That it begins now.
    Begin,
    /// That it begins at another time.
    At(StartTime),
}

/// What to do about a wish for another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRetime {
    /// It is as wanted.
    Keep,
    /// Hold it until then, or beyond where it is paused.
    Hold {
        /// When it is to begin.
        due: Timestamp,
        /// It waits until someone resumes it.
        is_paused: bool,
    },
    /// Put it into its queue.
    Begin,
    /// Its time has come: the server may be putting it into its queue.
    TooLate(Timestamp),
    /// It is held by something else than a time.
    NoTime,
}

/// Decides what a wish for another time means for a one-shot that is held until `due`.
#[must_use]
pub fn on_retime(
    due: Option<Timestamp>,
    is_paused: bool,
    wish: Retime,
    now: Timestamp,
) -> OnRetime {
    let Some(due) = due else {
        return match wish {
            Retime::Begin => OnRetime::Begin,
            _ => OnRetime::NoTime,
        };
    };
    match wish {
        Retime::Begin => OnRetime::Begin,
        Retime::Resume if is_paused && due > now => OnRetime::Hold {
            due,
            is_paused: false,
        },
        Retime::Resume if is_paused => OnRetime::Begin,
        Retime::Resume => OnRetime::Keep,
        Retime::Pause if is_paused => OnRetime::Keep,
        _ if !is_paused && may_be_on_its_way(due, now) => OnRetime::TooLate(due),
        Retime::Pause => OnRetime::Hold {
            due,
            is_paused: true,
        },
        Retime::At(start) if start.has_come => OnRetime::Begin,
        Retime::At(start) => OnRetime::Hold {
            due: start.due,
            is_paused,
        },
    }
}

/// Whether the server may have a held job on its way into its queue by now. What is on its way
/// arrives, whatever is stored meanwhile.
fn may_be_on_its_way(due: Timestamp, now: Timestamp) -> bool {
    due.unix_ms().saturating_sub(now.unix_ms()) < ON_ITS_WAY_MS
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
        let year = |text: &str| start_at(text.parse().unwrap(), None, now);
        assert!(year("2261-12-31T23:59:59.999Z").is_ok());
        assert_eq!(year("2262-01-01T00:00:00Z"), Err(BadStart::TooFar));
        assert_eq!(year("9999-01-01T00:00:00Z"), Err(BadStart::TooFar));
        assert_eq!(paused_until().to_string(), "2262-01-01T00:00:00.000Z");
        assert!(paused_until() > held_until_max());
        assert_eq!(start_in(Duration::MAX, None, now), Err(BadStart::TooFar));
        let hundred_years = naq_protocol::units::DURATION_MAX;
        assert!(start_in(hundred_years, None, now).is_ok());
    }

    #[test]
    fn a_job_that_expires_first_is_refused() {
        let (now, due) = (ms(1_000), ms(5_000));
        assert!(start_at(due, Some(ms(5_001)), now).is_ok());
        for expires_at in [ms(5_000), ms(1)] {
            assert_eq!(
                start_at(due, Some(expires_at), now),
                Err(BadStart::ExpiresFirst { due, expires_at })
            );
        }
        // what is enqueued at once is as any other job
        assert!(start_at(ms(500), Some(ms(400)), now).unwrap().has_come);
    }

    #[test]
    fn a_job_that_has_begun_may_be_enqueued_again_and_says_nothing_of_its_time() {
        let start = start_at(ms(5_000), None, ms(0)).unwrap();
        let retry = Standing::Held {
            due: Some(ms(9_000)),
            is_retry: true,
        };
        for standing in [Standing::Begun, retry] {
            assert_eq!(on_again(standing, true, Some(&start)), Again::Repeat);
            assert_eq!(on_again(standing, true, None), Again::Repeat);
            assert_eq!(on_again(standing, false, None), Again::Taken);
        }
    }

    #[test]
    fn what_is_paused_waits_for_a_word_and_for_no_time() {
        let (now, due) = (ms(10_000), ms(90_000));
        let start = start_at(ms(50_000), None, now).unwrap();
        let past = start_at(ms(1), None, now).unwrap();
        let hold = |due, is_paused| OnRetime::Hold { due, is_paused };
        for (is_paused, wish, then) in [
            (false, Retime::Pause, hold(due, true)),
            (true, Retime::Pause, OnRetime::Keep),
            (false, Retime::Resume, OnRetime::Keep),
            (true, Retime::Resume, hold(due, false)),
            (false, Retime::At(start), hold(start.due, false)),
            (true, Retime::At(start), hold(start.due, true)),
            (false, Retime::At(past), OnRetime::Begin),
            (true, Retime::At(past), OnRetime::Begin),
            (false, Retime::Begin, OnRetime::Begin),
            (true, Retime::Begin, OnRetime::Begin),
        ] {
            assert_eq!(on_retime(Some(due), is_paused, wish, now), then, "{wish:?}");
        }
        // the time of one that is paused may be over
        assert_eq!(
            on_retime(Some(ms(1)), true, Retime::Resume, now),
            OnRetime::Begin
        );
        let again = on_retime(Some(ms(1)), true, Retime::At(start), now);
        assert_eq!(again, hold(start.due, true));
    }

    #[test]
    fn what_is_on_its_way_is_not_called_back() {
        let now = ms(10_000);
        let start = start_at(ms(50_000), None, now).unwrap();
        for due in [ms(9_000), ms(10_000), ms(10_999)] {
            for wish in [Retime::Pause, Retime::At(start)] {
                assert_eq!(
                    on_retime(Some(due), false, wish, now),
                    OnRetime::TooLate(due)
                );
            }
            // twice into its queue does no harm
            assert_eq!(
                on_retime(Some(due), false, Retime::Begin, now),
                OnRetime::Begin
            );
        }
        assert_eq!(on_retime(None, false, Retime::Pause, now), OnRetime::NoTime);
    }

    proptest! {
        /// The same request is a repeat wherever the first one is by now, and one for another
        /// time is not as long as the job has not begun.
        #[test]
        fn the_same_request_is_a_repeat(due in 0_i64..1_000, other in 0_i64..1_000, now in 0_i64..1_000, later in 0_i64..1_000) {
            let first = start_at(ms(due), None, ms(now)).unwrap();
            let again = start_at(ms(due), None, ms(now + later)).unwrap();
            let queued = Standing::Queued { scheduled_for: Some(first.due) };
            let held = Standing::Held { due: Some(first.due), is_retry: false };
            for standing in [queued, held] {
                prop_assert_eq!(on_again(standing, true, Some(&again)), Again::Repeat);
                prop_assert_eq!(on_again(standing, false, Some(&again)), Again::Taken);
            }
            let another = start_at(ms(other), None, ms(now)).unwrap();
            if other != due {
                prop_assert_eq!(on_again(held, true, Some(&another)), Again::OtherTime(held));
                prop_assert_eq!(on_again(queued, true, Some(&another)), Again::OtherTime(queued));
            }
            prop_assert_eq!(on_again(held, true, None), Again::OtherTime(held));
            let wait = start_in(Duration::from_millis(5), None, ms(now)).unwrap();
            prop_assert_eq!(on_again(held, true, Some(&wait)), Again::Repeat);
            // one that was enqueued to begin at once cannot be put off by a second enqueue
            let at_once = Standing::Queued { scheduled_for: None };
            prop_assert_eq!(on_again(at_once, true, None), Again::Repeat);
            prop_assert_eq!(on_again(at_once, true, Some(&wait)), Again::OtherTime(at_once));
        }
    }
}
