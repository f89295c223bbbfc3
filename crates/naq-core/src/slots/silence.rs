//! When the slots that a worker has taken ahead are free although it has not returned them.

use std::time::Duration;

use crate::job::takeover::HolderReply;
use naq_protocol::{SlotLump, Slots};

/// The silence of a worker that has slots taken ahead, as another worker observes it.
///
/// A worker that is cut off kills its jobs within its lease, and starts none by slots that it has not
/// written for half a lease. So its slots are free after a silence of a whole lease: no answer to any
/// question, no write of the worker, and the asker connected throughout.
#[derive(Clone, Debug)]
pub struct LumpSilence {
    renewals: u64,
    since: Option<Duration>,
}

/// What follows from an answer, or from none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSilence {
    /// The worker lives, and returns what it does not use.
    LeaveToWorker,
    /// Ask again after a pause.
    AskAgain,
    /// The slots are free.
    Remove,
}

impl LumpSilence {
    /// Begins to observe a lump.
    #[must_use]
    pub fn new(lump: &SlotLump) -> LumpSilence {
        LumpSilence {
            renewals: lump.renewals,
            since: None,
        }
    }

    /// Decides by a reply of the worker to a question that was sent after the lump was read. `now` is on a
    /// clock that does not count the time for which this machine is suspended.
    pub fn on_reply(
        &mut self,
        lump: &SlotLump,
        reply: HolderReply,
        takeover_after: Duration,
        now: Duration,
    ) -> OnSilence {
        let (HolderReply::Absent { connected_for } | HolderReply::Silent { connected_for, .. }) =
            reply
        else {
            return OnSilence::LeaveToWorker;
        };
        if lump.renewals != self.renewals {
            *self = LumpSilence::new(lump);
        }
        let connected_since = now.saturating_sub(connected_for);
        let since = self.since.unwrap_or(now).max(connected_since);
        self.since = Some(since);
        let needed = Duration::from_millis(lump.lease_ms).max(takeover_after);
        if now.saturating_sub(since) >= needed {
            OnSilence::Remove
        } else {
            OnSilence::AskAgain
        }
    }

    /// Takes the lump out of the slots. Returns false if the worker has written since.
    #[must_use]
    pub fn remove(&self, worker_id: &str, slots: &mut Slots) -> bool {
        let before = slots.lumps.len();
        slots
            .lumps
            .retain(|lump| lump.worker_id != worker_id || lump.renewals != self.renewals);
        slots.lumps.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::UnknownFields;

    const TAKEOVER_AFTER: Duration = Duration::from_secs(10);

    fn lump(renewals: u64) -> SlotLump {
        SlotLump {
            worker_id: "w".to_owned(),
            slots: 4,
            renewals,
            lease_ms: 30_000,
            unknown: UnknownFields::default(),
        }
    }

    fn absent(connected_for: u64) -> HolderReply {
        HolderReply::Absent {
            connected_for: Duration::from_secs(connected_for),
        }
    }

    /// The decisions on absences at these seconds, by an asker that has been connected for so long.
    fn decisions(silence: &mut LumpSilence, lump: &SlotLump, at: &[(u64, u64)]) -> Vec<OnSilence> {
        at.iter()
            .map(|(now, connected_for)| {
                let now = Duration::from_secs(*now);
                silence.on_reply(lump, absent(*connected_for), TAKEOVER_AFTER, now)
            })
            .collect()
    }

    #[test]
    fn a_lump_is_free_after_a_silence_of_its_lease() {
        use OnSilence::{AskAgain, LeaveToWorker, Remove};
        let mut silence = LumpSilence::new(&lump(1));
        let seen = decisions(
            &mut silence,
            &lump(1),
            &[(100, 900), (129, 929), (130, 930)],
        );
        assert_eq!(seen, [AskAgain, AskAgain, Remove]);
        // a break of the asker's own connection
        let mut silence = LumpSilence::new(&lump(1));
        let seen = decisions(
            &mut silence,
            &lump(1),
            &[(100, 900), (130, 5), (154, 29), (155, 30)],
        );
        assert_eq!(seen, [AskAgain, AskAgain, AskAgain, Remove]);
        // a write of the worker
        let mut silence = LumpSilence::new(&lump(1));
        let seen = decisions(&mut silence, &lump(1), &[(100, 900)]);
        assert_eq!(seen, [AskAgain]);
        let seen = decisions(
            &mut silence,
            &lump(2),
            &[(130, 930), (159, 959), (160, 960)],
        );
        assert_eq!(seen, [AskAgain, AskAgain, Remove]);
        let reply = HolderReply::Running;
        let now = Duration::from_secs(161);
        let seen = silence.on_reply(&lump(2), reply, TAKEOVER_AFTER, now);
        assert_eq!(seen, LeaveToWorker);
    }

    #[test]
    fn a_lump_that_was_written_since_is_not_removed() {
        let silence = LumpSilence::new(&lump(1));
        let mut slots = Slots {
            lumps: vec![lump(2)],
            ..Slots::default()
        };
        assert!(!silence.remove("w", &mut slots));
        assert!(!LumpSilence::new(&lump(2)).remove("v", &mut slots));
        assert!(LumpSilence::new(&lump(2)).remove("w", &mut slots));
        assert_eq!(slots.in_use(), 0);
    }
}
