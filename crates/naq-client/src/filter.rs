//! Filters of job lists and event streams.

use std::collections::BTreeMap;

use naq_protocol::units::excerpt;
use naq_protocol::{QueueName, Record, RecordOutline, State};

/// A required label: `key=value`, or `key` for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    /// The label's name.
    pub key: String,
    /// The label's value. `None` means any value.
    pub value: Option<String>,
}

impl std::str::FromStr for LabelFilter {
    type Err = String;
    fn from_str(text: &str) -> Result<LabelFilter, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(format!(
                "`{}` is not a label; write KEY or KEY=VALUE",
                excerpt(text)
            ));
        }
        Ok(LabelFilter {
            key: key.to_owned(),
            value,
        })
    }
}

/// Selects jobs. The default selects all jobs; a job has to satisfy every field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Jobs of this queue. `None` means any queue.
    pub queue: Option<QueueName>,
    /// Jobs in one of these states. Empty means any state.
    pub states: Vec<State>,
    /// Jobs with all of these labels.
    pub labels: Vec<LabelFilter>,
}

impl JobFilter {
    /// Returns whether a job is selected.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.selects_job(&record.queue, record.state(), &record.labels)
    }

    /// Returns whether a job is selected of whose record the outline was read.
    pub(super) fn matches_outline(&self, outline: &RecordOutline) -> bool {
        self.selects_job(&outline.queue, outline.state, outline.labels())
    }

    pub(super) fn selects_job(
        &self,
        queue: &QueueName,
        state: State,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        self.queue.as_ref().is_none_or(|wanted| wanted == queue)
            && self.may_match_state(state)
            && self.labels.iter().all(|label| {
                labels.get(&label.key).is_some_and(|value| {
                    label
                        .value
                        .as_ref()
                        .is_none_or(|required| required == value)
                })
            })
    }

    /// Whether a job in this state may be selected.
    pub(super) fn may_match_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, Outcome, Phase, Reason, Timestamp};

    #[test]
    fn job_filter_requires_queue_state_and_labels() {
        let mut record = Record::new(
            JobId::new("a").unwrap(),
            QueueName::new("q").unwrap(),
            Phase::Finished {
                outcome: Outcome::Failed(Reason::Exit),
                finished_at: Timestamp::from_unix_ms(0).unwrap(),
            },
            Timestamp::from_unix_ms(0).unwrap(),
        );
        record.labels.insert("team".to_owned(), "a=b".to_owned());
        let filter = |queue: &str, state: State, label: &str| JobFilter {
            queue: Some(QueueName::new(queue).unwrap()),
            states: vec![state],
            labels: vec![label.parse().unwrap()],
        };
        assert!(JobFilter::default().matches(&record));
        assert!(filter("q", State::Failed, "team=a=b").matches(&record));
        assert!(filter("q", State::Failed, "team").matches(&record));
        assert!(!filter("other", State::Failed, "team").matches(&record));
        assert!(!filter("q", State::Queued, "team").matches(&record));
        assert!(!filter("q", State::Failed, "team=a").matches(&record));
        assert!(!filter("q", State::Failed, "a=b").matches(&record));
        assert!("=x".parse::<LabelFilter>().is_err());
    }
}
