//! Formats times, sizes, numbers and outcomes for people, in terminals and on pages.

pub(crate) mod audit;
pub(crate) mod waiting;

use std::time::Duration;

use naq_client::RecordSummary;
use naq_protocol::{Reason, Record, State, Timestamp};

/// The hint if the store is full.
pub(crate) const FREE_ROOM: &str = "free space with `naq purge --results --older-than 1d` or `naq queue purge QUEUE`, or raise the limit in NATS";

/// A number of things: `1 job`, `2 jobs`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

/// The time since a moment: `3s`, `5m`, `2h`, `4d`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now.unix_ms() - then.unix_ms()).max(0) / 1_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A moment relative to now: `in 5m`, `3s ago`.
pub(crate) fn relative_time(moment: Timestamp, now: Timestamp) -> String {
    if moment > now {
        format!("in {}", age(now, moment))
    } else {
        format!("{} ago", age(moment, now))
    }
}

/// The first characters of a text, at most `chars_max`, followed by `…` if more follow.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A duration: `12ms`, `3.4s`, `5m 10s`.
pub(crate) fn span(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{:.1}s", duration.as_secs_f64()),
        _ => {
            let seconds = duration.as_secs();
            match seconds {
                0..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
                _ => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
            }
        }
    }
}

/// A size: `512 B`, `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut size = bytes as f64;
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1_024.0 {
            break;
        }
        size /= 1_024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// Why a job is in its state, and how its last attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) state: State,
    pub(crate) reason: Option<Reason>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Ending {
    pub(crate) fn of(record: &Record) -> Ending {
        Ending {
            state: record.state(),
            reason: record.reason(),
            exit_code: record.exit_code,
            signal: record.signal,
        }
    }

    pub(crate) fn of_summary(record: &RecordSummary) -> Ending {
        Ending {
            state: record.state,
            reason: record.reason,
            exit_code: record.exit_code,
            signal: record.signal,
        }
    }
}

/// Marks a name that only a later version of naq defines.
pub(crate) const NEWER: &str = "written by a newer naq";

/// The one spelling of an outcome in every verb: `succeeded`, `failed (exit 3)`,
/// `failed (signal 9)`, `rejected (invalid)`. A reason that repeats the state is left out. A name that
/// only a later version defines is shown as it was written, and marked.
impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An unknown name is foreign text, which `Display` escapes.
        write!(f, "{}", self.state)?;
        let is_newer = matches!(self.state, State::Unknown(_))
            || matches!(self.reason, Some(Reason::Unknown(_)));
        match (self.reason, self.exit_code, self.signal) {
            (Some(reason), ..) if is_newer => write!(f, " ({reason}, {NEWER})"),
            (None, ..) if is_newer => write!(f, " ({NEWER})"),
            (None, ..) => Ok(()),
            (Some(reason), ..) if reason.as_str() == self.state.as_str() => Ok(()),
            (Some(Reason::Exit), Some(code), _) => write!(f, " (exit {code})"),
            (Some(Reason::Signal), _, Some(signal)) => write!(f, " (signal {signal})"),
            (Some(reason), ..) => write!(f, " ({reason})"),
        }
    }
}

/// Length of the beginning of some bytes that ends with a whole character.
pub(crate) fn whole_characters(bytes: &[u8]) -> usize {
    // The last character begins in the last three bytes if it is incomplete.
    (bytes.len().saturating_sub(3)..bytes.len())
        .find(|at| {
            std::str::from_utf8(bytes.get(*at..).unwrap_or_default())
                .is_err_and(|error| error.error_len().is_none() && error.valid_up_to() == 0)
        })
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::whole_characters;

    #[test]
    fn only_an_incomplete_character_at_the_end_is_left() {
        for (bytes, whole) in [
            (&b"abc"[..], 3),
            ("aä".as_bytes(), 3),
            (&"aä".as_bytes()[..2], 1),
            (&"a\u{1f600}".as_bytes()[..4], 1),
            (b"a\xff", 2),
            (b"", 0),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }
}
