//! The slots of a concurrency key, as stored in the bucket `naq_slots`.

use serde::{Deserialize, Serialize};

use crate::names::{JobId, QueueName};
use crate::unknown_fields::{UnknownFields, keeps_unknown_fields};

/// Which jobs have a slot of a concurrency key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Slots {
    /// The concurrency key, for people.
    pub key: String,
    /// Number of slots that the last acquiring job allows.
    pub max: u32,
    /// The jobs that have a slot.
    pub holders: Vec<SlotHolder>,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    pub unknown: UnknownFields,
}

/// A job that has a slot, and the message by which it acquired it.
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct SlotHolder {
    /// The job.
    pub job: JobId,
    /// The queue that the job came from.
    pub queue: QueueName,
    /// The sequence of its message in the queue's stream.
    pub sequence: u64,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(Slots, SlotHolder);

/// Holders are the same if they have the slot by the same message.
impl PartialEq for SlotHolder {
    fn eq(&self, other: &SlotHolder) -> bool {
        (&self.job, &self.queue, self.sequence) == (&other.job, &other.queue, other.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_a_later_version_are_written_back() {
        let text = r#"{"key":"k","max":2,"holders":[{"job":"a","queue":"q","sequence":7,"share":3}],"shares":[1]}"#;
        let slots: Slots = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&slots).unwrap(), text);
        let same = SlotHolder {
            unknown: UnknownFields::default(),
            ..slots.holders[0].clone()
        };
        assert_eq!(slots.holders[0], same);
    }
}
