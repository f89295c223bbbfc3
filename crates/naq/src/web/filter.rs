//! The filter language of job lists: `state:failed queue:mail since:2h "text"`.
//!
//! A filter consists of words between spaces. `field:value` is a condition; any other word is a text that a
//! job's id, command or error must contain. Several conditions on one field are alternatives, but a job must
//! satisfy all labels and all texts. Within quotes, spaces and colons are part of the word.

use std::fmt;
use std::time::Duration;

use super::record_index::Conditions;
use crate::clock;
use naq_client::{JobFilter, JobSummary, LabelFilter};
use naq_protocol::units::{excerpt, format_duration, parse_duration};
use naq_protocol::{QueueName, Reason, ScheduleId, State, Timestamp, WorkerInfo, escape};

/// Longest filter, in bytes.
pub(super) const BYTES_MAX: usize = 2_000;

/// The fields, for error messages.
const FIELDS: &str = "state, queue, label, reason, worker, schedule, id, since";

/// Further names of states, which the filter accepts in addition to the names in records.
const STATE_ALIASES: [(&str, State); 2] =
    [("delayed", State::Scheduled), ("blocked", State::Waiting)];

/// A parsed filter. The default selects all jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    /// Jobs in one of these states. Empty means any state.
    pub(super) states: Vec<State>,
    /// Jobs of one of these queues. Empty means any queue.
    pub(super) queues: Vec<QueueName>,
    /// Jobs with all of these labels.
    pub(super) labels: Vec<LabelFilter>,
    /// Jobs that ended, or are retried, for one of these reasons. Empty means any reason.
    pub(super) reasons: Vec<Reason>,
    /// Jobs of workers with one of these ids, names or hosts. Empty means any worker.
    pub(super) workers: Vec<String>,
    /// Jobs that one of these schedules enqueued. Empty means any job.
    pub(super) schedules: Vec<ScheduleId>,
    /// Jobs whose id begins with one of these texts. Empty means any id.
    pub(super) ids: Vec<String>,
    /// Jobs that changed since this time. `None` means no limit.
    pub(super) since: Option<Since>,
    /// Jobs whose id, command or error contains each of these texts, whatever their case.
    pub(super) texts: Vec<String>,
}

/// Since when jobs are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// This long before now.
    Ago(Duration),
    /// A moment.
    At(Timestamp),
}

impl Since {
    /// The moment itself.
    pub(super) fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Since::Ago(duration) => clock::saturating_sub(now, duration),
            Since::At(moment) => moment,
        }
    }

    /// The moment, for readings that requests at the same time share: up to ten seconds earlier if it is relative
    /// to now.
    pub(super) fn shared_moment(self, now: Timestamp) -> Timestamp {
        const STEP_MS: i64 = 10_000;
        let moment = self.moment(now);
        match self {
            Since::Ago(_) => {
                let shared = moment.unix_ms().div_euclid(STEP_MS) * STEP_MS;
                Timestamp::from_unix_ms(shared).unwrap_or(moment)
            }
            Since::At(_) => moment,
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        if let Ok(duration) = parse_duration(text) {
            return Ok(Since::Ago(duration));
        }
        text.parse().map(Since::At).map_err(|_| {
            "expected a time such as 2026-12-24T18:00:00Z, or a duration such as 2h".to_owned()
        })
    }
}

/// A word of a filter, without its quotes.
#[derive(Default)]
struct Word {
    /// The part before the first colon outside of quotes.
    field: Option<String>,
    /// The part after it, or the whole word.
    value: String,
    /// Whether a part of it was in quotes, so that it may be empty.
    is_quoted: bool,
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("a filter has at most {BYTES_MAX} bytes"));
        }
        let mut filter = Filter::default();
        for word in words(text)? {
            match &word.field {
                Some(field) => filter.add(field, &word.value).map_err(|error| {
                    let shown = format!("{field}:{}", word.value);
                    format!("`{}`: {}", escape(&excerpt(&shown)), escape(&error))
                })?,
                None if word.value.is_empty() => {}
                None => filter.texts.push(word.value),
            }
        }
        Ok(filter)
    }
}

/// Splits a filter into words.
fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut found = Vec::new();
    let mut word: Option<Word> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_whitespace() {
            found.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match c {
            '"' => {
                word.is_quoted = true;
                read_quoted(&mut chars, &mut word.value)?;
            }
            ':' if word.field.is_none() && !word.is_quoted => {
                word.field = Some(std::mem::take(&mut word.value));
            }
            c => word.value.push(c),
        }
    }
    found.extend(word);
    Ok(found)
}

/// Reads up to the closing quote. A backslash keeps a quote or a backslash as it is.
fn read_quoted(chars: &mut std::str::Chars<'_>, value: &mut String) -> Result<(), String> {
    let start = value.len();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match chars.next() {
                Some(kept @ ('"' | '\\')) => value.push(kept),
                Some(other) => value.extend(['\\', other]),
                None => break,
            },
            c => value.push(c),
        }
    }
    let open = value.get(start..).unwrap_or_default();
    Err(format!(
        "`\"{}`: the closing quote is missing",
        escape(&excerpt(open))
    ))
}

impl Filter {
    fn add(&mut self, field: &str, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err("a value is missing after the colon".to_owned());
        }
        match field {
            "state" => self.states.push(parse_state(value)?),
            "queue" => {
                let queue = QueueName::new(value).map_err(|error| error.to_string())?;
                self.queues.push(queue);
            }
            "label" => self.labels.push(value.parse()?),
            "reason" => self.reasons.push(value.parse()?),
            "worker" => self.workers.push(value.to_owned()),
            "schedule" => {
                let schedule = ScheduleId::new(value).map_err(|error| error.to_string())?;
                self.schedules.push(schedule);
            }
            "id" => self.ids.push(value.to_owned()),
            "since" if self.since.is_some() => {
                return Err("`since` is given more than once".to_owned());
            }
            "since" => self.since = Some(value.parse()?),
            _ => {
                return Err(format!(
                    "unknown field; the fields are {FIELDS}; a text with a colon needs quotes"
                ));
            }
        }
        Ok(())
    }

    /// The part of the filter that decides which streams are read.
    pub(super) fn job_filter(&self) -> JobFilter {
        JobFilter {
            queue: match self.queues.as_slice() {
                [queue] => Some(queue.clone()),
                _ => None,
            },
            states: self.states.clone(),
            labels: self.labels.clone(),
        }
    }

    /// Whether a job satisfies the filter, except for `since`. `workers` are the live ones; they provide
    /// names and hosts, because a job's record has only the id of its worker.
    pub(super) fn matches(&self, job: &JobSummary, workers: &[WorkerInfo]) -> bool {
        let record = &job.record;
        let has_state = self.states.is_empty() || self.states.contains(&record.state);
        let has_labels = self.labels.iter().all(|label| has_label(job, label));
        let is_of_queue = self.queues.is_empty() || self.queues.contains(&record.queue);
        let has_reason = self.reasons.is_empty()
            || record
                .reason
                .is_some_and(|reason| self.reasons.contains(&reason));
        let is_of_worker = self.workers.is_empty()
            || job
                .worker_id
                .as_deref()
                .is_some_and(|id| self.names_worker(id, workers));
        let is_of_schedule = self.schedules.is_empty()
            || job
                .schedule_id
                .as_ref()
                .is_some_and(|id| self.schedules.contains(id));
        let id = record.job_id.as_str();
        let has_id = self.ids.is_empty() || self.ids.iter().any(|begin| id.starts_with(begin));
        has_state
            && has_id
            && has_labels
            && is_of_queue
            && has_reason
            && is_of_worker
            && is_of_schedule
            && self.has_texts(job)
    }

    /// The conditions that the index checks: all but the texts and the time.
    pub(super) fn conditions(&self, workers: &[WorkerInfo]) -> Conditions {
        let named = workers.iter().map(|worker| worker.worker_id.as_str());
        let named = named.filter(|id| self.names_worker(id, workers));
        let ids = self.workers.iter().map(String::as_str).chain(named);
        Conditions {
            states: self.states.clone(),
            reasons: self.reasons.clone(),
            queues: self.queues.iter().map(ToString::to_string).collect(),
            schedules: self.schedules.iter().map(ToString::to_string).collect(),
            workers: (!self.workers.is_empty()).then(|| ids.map(str::to_owned).collect()),
            labels: self.labels.clone(),
            ids: self.ids.clone(),
            only_reruns: false,
        }
    }

    fn names_worker(&self, id: &str, workers: &[WorkerInfo]) -> bool {
        let living = workers.iter().find(|worker| worker.worker_id == id);
        self.workers.iter().any(|wanted| {
            wanted == id
                || living.is_some_and(|worker| worker.name == *wanted || worker.hostname == *wanted)
        })
    }

    fn has_texts(&self, job: &JobSummary) -> bool {
        let places = [
            Some(job.record.job_id.as_str()),
            job.command.as_deref(),
            job.record.error.as_deref(),
        ];
        self.texts.iter().all(|text| {
            let mut places = places.iter().flatten();
            places.any(|place| contains_ignoring_case(place, text))
        })
    }
}

fn has_label(job: &JobSummary, label: &LabelFilter) -> bool {
    let value = job.labels.get(&label.key);
    value.is_some_and(|value| label.value.as_ref().is_none_or(|wanted| wanted == value))
}

fn contains_ignoring_case(place: &str, text: &str) -> bool {
    place.contains(text) || place.to_lowercase().contains(&text.to_lowercase())
}

/// A state by its name in records, or by a further name.
fn parse_state(name: &str) -> Result<State, String> {
    let alias = STATE_ALIASES.iter().find(|(alias, _)| *alias == name);
    alias.map_or_else(|| name.parse(), |(_, state)| Ok(*state))
}

/// The filter as text that is parsed as the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = Vec::new();
        let mut add = |field: &str, value: &str| {
            let value = quoted(value);
            words.push(match field {
                "" => value,
                field => format!("{field}:{value}"),
            });
        };
        for state in &self.states {
            add("state", state.as_str());
        }
        for queue in &self.queues {
            add("queue", queue.as_str());
        }
        for label in &self.labels {
            match &label.value {
                Some(value) => add("label", &format!("{}={value}", label.key)),
                None => add("label", &label.key),
            }
        }
        for reason in &self.reasons {
            add("reason", reason.as_str());
        }
        for worker in &self.workers {
            add("worker", worker);
        }
        for schedule in &self.schedules {
            add("schedule", schedule.as_str());
        }
        for id in &self.ids {
            add("id", id);
        }
        match self.since {
            Some(Since::Ago(duration)) => add("since", &format_duration(duration)),
            Some(Since::At(moment)) => add("since", &moment.to_string()),
            None => {}
        }
        for text in &self.texts {
            add("", text);
        }
        f.write_str(&words.join(" "))
    }
}

/// A value, in quotes if it needs them.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | ':');
    match !value.is_empty() && value.chars().all(is_plain) {
        true => value.to_owned(),
        false => format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Filter, String> {
        text.parse()
    }

    #[test]
    fn each_field_and_quoted_text_is_read() {
        let filter = parse(
            r#" state:failed state:delayed queue:mail label:team=x label:"a b=c d" reason:timeout since:2h schedule:nightly id:0198 worker:host "some \"text\"" word "#,
        )
        .unwrap();
        assert_eq!(filter.states, [State::Failed, State::Scheduled]);
        assert_eq!(filter.queues, [QueueName::new("mail").unwrap()]);
        assert_eq!(filter.labels[0], "team=x".parse().unwrap());
        assert_eq!(filter.labels[1].value.as_deref(), Some("c d"));
        assert_eq!(filter.reasons, [Reason::Timeout]);
        assert_eq!(filter.since, Some(Since::Ago(Duration::from_secs(7_200))));
        assert_eq!(filter.workers, ["host"]);
        assert_eq!(filter.ids, ["0198"]);
        assert_eq!(filter.schedules, [ScheduleId::new("nightly").unwrap()]);
        assert_eq!(filter.texts, ["some \"text\"", "word"]);
        assert_eq!(parse("").unwrap(), Filter::default());
        assert_eq!(parse("\"http://x\"").unwrap().texts, ["http://x"]);
        assert_eq!(parse("a\"b c\"d").unwrap().texts, ["ab cd"]);
        assert_eq!(parse("\"\"").unwrap(), Filter::default());
    }

    #[test]
    fn a_beginning_is_a_time_or_a_duration_before_now() {
        let now = Timestamp::from_unix_ms(7_200_000).unwrap();
        let moment = |text: &str| text.parse().map(|since: Since| since.moment(now).unix_ms());
        assert_eq!(moment("2h"), Ok(0));
        assert_eq!(moment("1970-01-01T01:00:00Z"), Ok(3_600_000));
        assert!(moment("yesterday").is_err());
        let later = Timestamp::from_unix_ms(7_209_999).unwrap();
        let ago = Since::Ago(Duration::from_secs(3_600));
        assert_eq!(ago.shared_moment(now), ago.shared_moment(later));
        assert_eq!(ago.shared_moment(later).unix_ms(), 3_600_000);
        assert_eq!(Since::At(later).shared_moment(now), later);
    }

    #[test]
    fn an_error_names_the_word() {
        for (text, expected) in [
            (
                "queue:mail state:sleeping",
                "`state:sleeping`: `sleeping` is not a state",
            ),
            (
                "sate:failed",
                "`sate:failed`: unknown field; the fields are state",
            ),
            ("state:", "`state:`: a value is missing"),
            (":x", "`:x`: unknown field"),
            ("queue:a.b", "`queue:a.b`: "),
            ("schedule:a.b", "`schedule:a.b`: "),
            ("label:=x", "`label:=x`: "),
            ("reason:tiredness", "`reason:tiredness`: "),
            (
                "since:yesterday",
                "`since:yesterday`: expected a time such as",
            ),
            (
                "since:1h since:2h",
                "`since:2h`: `since` is given more than once",
            ),
            (
                "state:failed \"open text",
                "`\"open text`: the closing quote is missing",
            ),
            ("\"a\\", "the closing quote is missing"),
            ("\u{202e}:x", "\\u{202e}"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse(&"x".repeat(BYTES_MAX + 1)).is_err());
    }

    fn job(changes: serde_json::Value) -> JobSummary {
        use naq_protocol::{JobId, Outcome, Phase, Record};
        let at = Timestamp::from_unix_ms(0).unwrap();
        let record = Record::new(
            JobId::new("Backup-1").unwrap(),
            QueueName::new("mail").unwrap(),
            Phase::Finished {
                outcome: Outcome::Failed(Reason::Timeout),
                finished_at: at,
            },
            at,
        );
        let mut record = serde_json::to_value(&record).unwrap();
        let record_fields = record.as_object_mut().unwrap();
        record_fields.extend(changes.as_object().unwrap().clone());
        JobSummary::new(serde_json::from_value(record).unwrap(), at)
    }

    #[test]
    fn the_rest_of_a_filter_is_checked_against_a_job() {
        let job = job(serde_json::json!({
            "worker_id": "w1",
            "labels": {"team": "x"},
            "schedule_id": "nightly",
            "error": "Disk FULL",
            "envelope": {"command": "rsync", "args": ["a b"]},
        }));
        for (text, expected) in [
            ("", true),
            ("queue:mail", true),
            ("queue:other queue:mail", true),
            ("queue:other queue:more", false),
            ("reason:timeout", true),
            ("reason:exit", false),
            ("state:failed", true),
            ("state:queued", false),
            ("label:team", true),
            ("label:team=x label:team=y", false),
            ("reason:exit reason:timeout", true),
            ("worker:w1", true),
            ("worker:w2", false),
            ("schedule:nightly", true),
            ("schedule:other", false),
            ("id:Back", true),
            ("id:1 id:Backup-1", true),
            ("id:up", false),
            ("backup", true),
            ("rsync \"disk full\"", true),
            ("rsync missing", false),
            ("\"'a b'\"", true),
        ] {
            assert_eq!(parse(text).unwrap().matches(&job, &[]), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_an_error_is_one_safe_line(text in "\\PC{0,60}|[a-z:\" \\\\]{0,40}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.chars().any(char::is_control), "{error:?}");
            }
        }

        #[test]
        fn a_filter_is_read_back_from_its_text(
            states in proptest::sample::subsequence(State::ALL.to_vec(), 0..4),
            label in "[a-z]{1,5}",
            value in proptest::option::of("\\PC{0,10}"),
            workers in proptest::collection::vec("\\PC{1,10}", 0..3),
            seconds in proptest::option::of(1_u64..100_000),
            texts in proptest::collection::vec("\\PC{1,10}|[\"\\\\ :]{1,6}", 0..3),
        ) {
            let filter = Filter {
                states,
                queues: vec![QueueName::new("mail").unwrap()],
                labels: vec![LabelFilter { key: label, value }],
                reasons: vec![Reason::Oom],
                workers,
                schedules: vec![ScheduleId::new("nightly").unwrap()],
                ids: vec!["a b".to_owned()],
                since: seconds.map(|seconds| Since::Ago(Duration::from_secs(seconds))),
                texts,
            };
            prop_assert_eq!(parse(&filter.to_string()), Ok(filter));
        }
    }
}
