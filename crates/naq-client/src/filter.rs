//! Which jobs a list or a stream of events is about.

use naq_protocol::units::excerpt;
use naq_protocol::{QueueName, Record, State};

/// A label that is asked for: `key=value`, or `key` for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    /// The label's name.
    pub key: String,
    /// Its value; any where none is given.
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
                "`{}` names no label; write KEY or KEY=VALUE",
                excerpt(text)
            ));
        }
        Ok(LabelFilter {
            key: key.to_owned(),
            value,
        })
    }
}

/// Which jobs are meant; all where nothing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Those of this queue.
    pub queue: Option<QueueName>,
    /// Those in one of these states; any where empty.
    pub states: Vec<State>,
    /// Those with all of these labels.
    pub labels: Vec<LabelFilter>,
}

impl JobFilter {
    /// Whether a job is meant.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.queue
            .as_ref()
            .is_none_or(|queue| *queue == record.queue)
            && (self.states.is_empty() || self.states.contains(&record.state))
            && self.labels.iter().all(|label| {
                record
                    .labels
                    .get(&label.key)
                    .is_some_and(|value| label.value.as_ref().is_none_or(|asked| asked == value))
            })
    }

    /// Whether a job in this state may be meant.
    pub(super) fn may_match_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, Timestamp};

    #[test]
    fn all_that_is_asked_for_counts() {
        let mut record = Record::new(
            JobId::new("a").unwrap(),
            QueueName::new("q").unwrap(),
            State::Failed,
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
