//! Job ids, queue names and schedule ids.
//!
//! They become tokens of NATS subjects and keys of KV buckets, so they contain only characters
//! without a meaning there: no dots, no wildcards, no spaces, nothing outside of ASCII.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::text::excerpt;
use crate::time::Timestamp;

/// The longest name that a user may choose, in characters.
pub const NAME_CHARS_MAX: usize = 64;

/// The longest id of a schedule, in characters. The ids of its jobs consist of it and a time.
pub const SCHEDULE_ID_CHARS_MAX: usize = 40;

/// What stands between queue and sequence in the id of a job whose producer set none.
const SEQUENCE_INFIX: &str = "-seq-";

/// The form of the ids that [`JobId::for_sequence`] and [`JobId::for_sequence_and_time`] make, as a
/// regular expression for a schema.
pub(crate) const SEQUENCE_FORM: &str = ".-seq-[0-9]+(-[0-9]+)?$";

/// The longest job id, in characters: a queue name, `-seq-` and a stream sequence.
pub const JOB_ID_CHARS_MAX: usize = NAME_CHARS_MAX + SEQUENCE_INFIX.len() + 20;

/// Why a name is invalid. The message quotes the name and says what form is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} cannot be a {kind}: {problem}; use 1 to {chars_max} of A-Z a-z 0-9 _ -")]
pub struct InvalidName {
    name: String,
    kind: &'static str,
    problem: &'static str,
    chars_max: usize,
}

fn check(name: &str, kind: &'static str, chars_max: usize) -> Result<(), InvalidName> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.contains(['*', '>']) {
        "it has a NATS wildcard"
    } else if name.contains('.') {
        "it has a dot"
    } else if name.contains(['/', '\\']) {
        "it has a slash"
    } else if name.contains('\0') {
        "it has a NUL"
    } else if name.contains(char::is_whitespace) {
        "it has a space"
    } else if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    {
        "it has a character that is not allowed"
    } else if name.len() > chars_max {
        "it is too long"
    } else {
        return Ok(());
    };
    Err(InvalidName {
        name: excerpt(name),
        kind,
        problem,
        // An id that naq makes may be longer than one that a user chooses; the hint is for the user.
        chars_max: chars_max.min(NAME_CHARS_MAX),
    })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $chars_max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates a name.
            ///
            /// # Errors
            /// Returns [`InvalidName`] if the name does not have the required form.
            pub fn new(name: impl AsRef<str>) -> Result<$name, InvalidName> {
                check(name.as_ref(), $kind, $chars_max)?;
                Ok($name(name.as_ref().into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<$name, InvalidName> {
                $name::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<$name, InvalidName> {
                $name::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": format!("^[A-Za-z0-9_-]{{1,{}}}$", $chars_max)
                })
            }
        }
    };
}

name_type!(
    /// The id of a job: in subjects, as the key of its record, and on the command line.
    JobId,
    "job id",
    JOB_ID_CHARS_MAX
);

name_type!(
    /// The name of a queue.
    QueueName,
    "queue name",
    NAME_CHARS_MAX
);

name_type!(
    /// The name under which a job gets the output of a dependency: that of a folder.
    InputName,
    "name of an input",
    NAME_CHARS_MAX
);

name_type!(
    /// The id of a schedule.
    ScheduleId,
    "schedule name",
    SCHEDULE_ID_CHARS_MAX
);

/// Checks a prefix of names on a server. Two installations with different prefixes share no stream,
/// so a prefix cannot end with `_queue` or contain `_queue_`: the streams of `naq_queue` would be those
/// of queues of `naq`.
///
/// # Errors
/// Returns [`InvalidName`] if the prefix does not have the required form.
pub fn check_prefix(prefix: &str) -> Result<(), InvalidName> {
    check(prefix, "prefix", NAME_CHARS_MAX)?;
    if prefix.ends_with("_queue") || prefix.contains("_queue_") {
        return Err(InvalidName {
            name: excerpt(prefix),
            kind: "prefix",
            problem: "its streams would be those of queues of a shorter prefix; leave `_queue` out",
            chars_max: NAME_CHARS_MAX,
        });
    }
    Ok(())
}

impl JobId {
    /// A new id: a UUID of version 7, so that ids sort by their creation time.
    #[must_use]
    pub fn generate() -> JobId {
        let mut buffer = uuid::Uuid::encode_buffer();
        JobId(
            (&*uuid::Uuid::now_v7()
                .as_hyphenated()
                .encode_lower(&mut buffer))
                .into(),
        )
    }

    /// The id of a job whose producer set none: its queue and the sequence of its message
    /// (`build-seq-1582`).
    #[must_use]
    pub fn for_sequence(queue: &QueueName, sequence: u64) -> JobId {
        JobId(format!("{queue}{SEQUENCE_INFIX}{sequence}").into())
    }

    /// The queue and the sequence in an id of the form that [`JobId::for_sequence`] makes. `None` if
    /// the id has another form.
    #[must_use]
    pub fn queue_and_sequence(&self) -> Option<(&str, u64)> {
        let (queue, sequence) = self.0.rsplit_once(SEQUENCE_INFIX)?;
        let sequence = sequence.parse().ok()?;
        (!queue.is_empty()).then_some((queue, sequence))
    }

    /// The id of such a job if [`JobId::for_sequence`] is that of a job in an earlier stream of the
    /// queue: it also has the time at which the message was stored.
    #[must_use]
    pub fn for_sequence_and_time(
        queue: &QueueName,
        sequence: u64,
        stored_at_unix_ms: u64,
    ) -> JobId {
        // a long name is cut, so that the id is not too long; the rest is as unique without it
        let name = &queue.as_str()[..queue.as_str().len().min(NAME_CHARS_MAX - 14)];
        JobId(format!("{name}{SEQUENCE_INFIX}{sequence}-{stored_at_unix_ms}").into())
    }

    /// The id of the job that reruns an ended job for the `number`-th time; 1 is the first. It is derived
    /// from the ended job, so that two reruns at once create one job and not two. An id that is used again
    /// after its job's record has expired belongs to another job, with another `enqueue_time`.
    #[must_use]
    pub fn for_rerun(of: &JobId, enqueue_time: Timestamp, number: u32) -> JobId {
        let digest = Sha256::new()
            .chain_update(of.as_str())
            .chain_update([0])
            .chain_update(enqueue_time.unix_ms().to_be_bytes())
            .chain_update(number.to_be_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        let id = uuid::Builder::from_custom_bytes(bytes).into_uuid();
        JobId(id.as_hyphenated().to_string().into())
    }

    /// The id of a schedule's job at a tick: the schedule's id and the time of the tick in UTC
    /// (`nightly-20261224T170000Z`, with milliseconds if the time is not a whole second). Every
    /// scheduler derives the same id, so a tick is at most one job.
    #[must_use]
    pub fn for_tick(schedule: &ScheduleId, tick: Timestamp) -> JobId {
        JobId(format!("{schedule}-{}", compact(tick)).into())
    }

    /// The id of a job that a user triggers, in addition to the schedule's ticks. The time is the
    /// trigger's in the schedule's progress, which no other trigger of the schedule has.
    #[must_use]
    pub fn for_trigger(schedule: &ScheduleId, time: Timestamp) -> JobId {
        JobId(format!("{schedule}-now-{}", compact(time)).into())
    }

    /// Whether naq made the id from a queue and a sequence; [`JobId::from_user`] refuses such ids.
    #[must_use]
    pub fn is_made_from_sequence(&self) -> bool {
        has_sequence_form(&self.0)
    }

    /// Validates an id that a user chose. It must be shorter than an id that naq makes may be, and it
    /// must not have the form of [`JobId::for_sequence`]: a later job without an id would get the same
    /// one, and would be taken for a repetition.
    ///
    /// # Errors
    /// Returns [`InvalidName`] if the id does not have the required form.
    pub fn from_user(name: impl AsRef<str>) -> Result<JobId, InvalidName> {
        let name = name.as_ref();
        check(name, "job id", NAME_CHARS_MAX)?;
        if has_sequence_form(name) {
            return Err(InvalidName {
                name: excerpt(name),
                kind: "job id",
                problem: "it ends with `-seq-` and a number, like the ids that naq makes from a queue and a sequence",
                chars_max: NAME_CHARS_MAX,
            });
        }
        Ok(JobId(name.into()))
    }
}

impl ScheduleId {
    /// The id of a schedule whose author set none: `label`, reduced to valid characters, and the start
    /// of a digest of `of`, its definition (`backup-sh-3f9a1c2d`). The same definition always gets
    /// the same id.
    #[must_use]
    pub fn derived(label: &str, of: &[u8]) -> ScheduleId {
        const DIGEST_CHARS: usize = 8;
        let mut name = String::with_capacity(SCHEDULE_ID_CHARS_MAX);
        for c in label.chars() {
            if name.len() == SCHEDULE_ID_CHARS_MAX - DIGEST_CHARS - 1 {
                break;
            }
            if c.is_ascii_alphanumeric() || c == '_' {
                name.push(c);
            } else if !name.is_empty() && !name.ends_with('-') {
                name.push('-');
            }
        }
        let label = match name.trim_end_matches('-') {
            "" => "schedule",
            label => label,
        };
        let digest = Sha256::digest(of);
        let mut name = format!("{label}-");
        for byte in &digest[..DIGEST_CHARS / 2] {
            name.push_str(&format!("{byte:02x}"));
        }
        ScheduleId(name.into())
    }
}

/// Whether the id matches [`SEQUENCE_FORM`].
fn has_sequence_form(id: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    id.rsplit_once(SEQUENCE_INFIX)
        .is_some_and(|(queue, numbers)| {
            let (sequence, time) = numbers.split_once('-').unwrap_or((numbers, "0"));
            !queue.is_empty() && is_number(sequence) && is_number(time)
        })
}

/// A time in UTC, in a form that a name may contain: `20261224T170000Z`, with milliseconds if it has any.
#[must_use]
pub fn compact(time: Timestamp) -> String {
    let format = if time.unix_ms() % 1_000 == 0 {
        "%Y%m%dT%H%M%SZ"
    } else {
        "%Y%m%dT%H%M%S%3fZ"
    };
    time.0.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tick_determines_its_job_id() {
        let nightly = ScheduleId::new("nightly").unwrap();
        let at = |text: &str| text.parse().unwrap();
        let tick = JobId::for_tick(&nightly, at("2026-12-24T18:00:00+01:00"));
        assert_eq!(tick.as_str(), "nightly-20261224T170000Z");
        let tick = JobId::for_tick(&nightly, at("2026-12-24T17:00:00.250Z"));
        assert_eq!(tick.as_str(), "nightly-20261224T170000250Z");
        let longest = ScheduleId::new("x".repeat(SCHEDULE_ID_CHARS_MAX)).unwrap();
        let now = JobId::for_trigger(&longest, at("2026-12-24T17:00:00.250Z"));
        assert!(JobId::from_user(now.as_str()).is_ok());
        assert!(ScheduleId::new("x".repeat(SCHEDULE_ID_CHARS_MAX + 1)).is_err());
    }

    #[test]
    fn schedule_id_is_derived_from_label_and_definition() {
        let name = |label| ScheduleId::derived(label, b"what it is");
        assert_eq!(name("backup.sh").as_str(), "backup-sh-63ba9a46");
        assert_eq!(name("  ~/.x/").as_str(), "x-63ba9a46");
        assert_eq!(name("日本").as_str(), "schedule-63ba9a46");
        assert_ne!(name("x"), ScheduleId::derived("x", b"another"));
    }

    #[test]
    fn invalid_name_is_refused_with_its_problem() {
        for (name, word) in [
            ("", "empty"),
            ("a.b", "dot"),
            ("*", "wildcard"),
            ("a>", "wildcard"),
            ("../etc", "dot"),
            ("a b", "space"),
            ("a\0", "NUL"),
            ("ä", "character"),
        ] {
            let error = QueueName::new(name).unwrap_err().to_string();
            assert!(error.contains(word), "{name:?}: {error}");
        }
        assert!(QueueName::new("x".repeat(64)).is_ok());
        assert!(QueueName::new("x".repeat(65)).is_err());
        assert!(JobId::from_user("x".repeat(65)).is_err());
    }

    #[test]
    fn generated_job_id_is_valid() {
        let queue = QueueName::new("q".repeat(64)).unwrap();
        let id = JobId::for_sequence(&queue, u64::MAX);
        assert_eq!(JobId::new(id.as_str()), Ok(id.clone()));
        assert_eq!(id.queue_and_sequence(), Some((queue.as_str(), u64::MAX)));
        assert!(JobId::from_user(JobId::generate().as_str()).is_ok());
    }

    #[test]
    fn id_of_a_queue_and_a_sequence_cannot_be_chosen() {
        let id = |name: &str| JobId::new(name).unwrap();
        assert_eq!(
            id("a-seq-5-seq-7").queue_and_sequence(),
            Some(("a-seq-5", 7))
        );
        for chosen in [
            "build-1582",
            "invoice-seq-",
            "seq-17",
            "-seq-17",
            "a-seq-b",
            "a-seq-1b",
        ] {
            assert_eq!(id(chosen).queue_and_sequence(), None, "{chosen}");
            assert!(JobId::from_user(chosen).is_ok(), "{chosen}");
        }
        let error = JobId::from_user("build-seq-1582").unwrap_err().to_string();
        assert!(error.contains("`-seq-` and a number"), "{error}");
    }

    #[test]
    fn rerun_of_a_job_has_one_job_id() {
        let id = |of, unix_ms, number| {
            let time = Timestamp::from_unix_ms(unix_ms).unwrap();
            JobId::for_rerun(&JobId::new(of).unwrap(), time, number)
        };
        let ids: std::collections::HashSet<_> = ["a", "b"]
            .into_iter()
            .flat_map(|of| [(1, 1), (1, 2), (2, 1)].map(|(time, number)| id(of, time, number)))
            .collect();
        assert_eq!(ids.len(), 6);
        let again = id("a", 1, 1);
        assert!(ids.contains(&again) && JobId::from_user(again.as_str()).is_ok());
    }

    proptest! {
        #[test]
        fn derived_schedule_id_is_valid(label in "\\PC{0,70}", of in proptest::collection::vec(any::<u8>(), 0..20)) {
            let name = ScheduleId::derived(&label, &of);
            prop_assert_eq!(ScheduleId::new(name.as_str()), Ok(name));
        }

        #[test]
        fn valid_name_is_one_subject_token(name in "\\PC{0,70}") {
            if QueueName::new(&name).is_ok() {
                prop_assert!(!name.is_empty() && name.len() <= 64);
                prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            }
        }
    }
}
