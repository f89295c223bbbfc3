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
    /// The slots that workers have taken ahead. They count as in use, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lumps: Vec<SlotLump>,
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

/// Slots that a worker has taken ahead, and gives to its jobs without another write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct SlotLump {
    /// The worker.
    pub worker_id: String,
    /// How many slots it may give to its jobs.
    pub slots: u32,
    /// A number that grows with each write of the worker. No other program changes it.
    pub renewals: u64,
    /// How long, in milliseconds, its jobs may still run once it does not answer any more.
    pub lease_ms: u64,
    /// The fields that this version of naq does not define.
    #[serde(
        flatten,
        skip_deserializing,
        skip_serializing_if = "UnknownFields::is_empty"
    )]
    pub unknown: UnknownFields,
}

keeps_unknown_fields!(Slots, SlotHolder, SlotLump);

impl Slots {
    /// How many slots are in use, as far as the other programs know.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        let lumps: u64 = self.lumps.iter().map(|lump| u64::from(lump.slots)).sum();
        lumps + self.holders.len() as u64
    }

    /// How many slots are free if so many may be in use.
    #[must_use]
    pub fn free(&self, max: u32) -> u32 {
        let free = u64::from(max).saturating_sub(self.in_use());
        u32::try_from(free).unwrap_or(u32::MAX)
    }

    /// The slots that a worker has taken ahead.
    #[must_use]
    pub fn lump_of(&self, worker_id: &str) -> Option<&SlotLump> {
        self.lumps.iter().find(|lump| lump.worker_id == worker_id)
    }
}

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
        let text = r#"{"key":"k","max":2,"holders":[{"job":"a","queue":"q","sequence":7,"share":3}],"lumps":[{"worker_id":"w","slots":4,"renewals":9,"lease_ms":30000,"zone":"a"}],"shares":[1]}"#;
        let slots: Slots = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&slots).unwrap(), text);
        let same = SlotHolder {
            unknown: UnknownFields::default(),
            ..slots.holders[0].clone()
        };
        assert_eq!(slots.holders[0], same);
    }

    #[test]
    fn slots_taken_ahead_are_in_use() {
        let text = r#"{"key":"k","max":9,"holders":[{"job":"a","queue":"q","sequence":7}],"lumps":[{"worker_id":"w","slots":4,"renewals":9,"lease_ms":30000}]}"#;
        let slots: Slots = serde_json::from_str(text).unwrap();
        assert_eq!((slots.in_use(), slots.free(9), slots.free(3)), (5, 4, 0));
        assert_eq!(slots.lump_of("w").map(|lump| lump.slots), Some(4));
        assert_eq!(slots.lump_of("v"), None);
    }

    /// A key without lumps is stored as it was before there were any.
    #[test]
    fn slots_without_lumps_do_not_mention_them() {
        let text = r#"{"key":"k","max":2,"holders":[]}"#;
        let slots: Slots = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&slots).unwrap(), text);
    }
}
