//! A worker's lump: the slots of one key that it has taken ahead.
//!
//! The worker may never give more slots to its jobs than the value of the key says it has. So it
//! counts a slot only once the write that takes it is confirmed, and stops counting one before it sends
//! the write that returns it. A write whose answer was lost may still arrive; it changes the value only
//! if none of this worker's later writes did, and then leaves at least what the worker counts.
//!
//! Other programs take nothing from a lump, except all of it after a silence. The worker may have been
//! cut off instead of dead, so it trusts what it counts for a while only, and then has to write first.

use std::time::Duration;

use naq_protocol::{SlotHolder, SlotLump, Slots, UnknownFields};

/// A lump is taken only if the limit is at least this many times the number of workers that take
/// lumps; otherwise each job takes a slot for itself.
const SLOTS_PER_WORKER_MIN: u32 = 4;

/// While another worker waits, the jobs of this one pass slots to each other for so long at most.
const RETURN_INTERVAL: Duration = Duration::from_millis(100);

/// A job that requests a slot.
#[derive(Clone, Debug)]
pub struct SlotRequest {
    /// The job and its message.
    pub holder: SlotHolder,
    /// How many slots of the key may be in use.
    pub max: u32,
    /// How many slots of the key the worker could use in all.
    pub wanted: u32,
}

/// What a request for a slot leads to, given the slots in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotPlan {
    /// The job has a slot by this message already.
    Holds,
    /// All slots are in use.
    Full,
    /// The job has a slot once the slots are written as they are now.
    Write(SlotWrite),
}

/// A change of a key's slots that takes effect once its write is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWrite {
    /// The size of this worker's lump after it.
    slots: u32,
    max: u32,
    takes: Takes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// A slot for the job, under its name.
    Single,
    /// A slot of the lump.
    FromLump,
}

impl SlotWrite {
    /// Whether the job gets a slot of the lump, which it has to give back to the worker. Otherwise it is
    /// listed among the holders.
    #[must_use]
    pub fn takes_from_lump(&self) -> bool {
        self.takes == Takes::FromLump
    }
}

/// The slots of one key that a worker has taken ahead, as the worker counts them.
#[derive(Clone, Debug)]
pub struct WorkerLump {
    worker_id: String,
    lease: Duration,
    renewals: u64,
    /// How many slots the worker may give to its jobs.
    slots: u32,
    /// How many of them jobs have.
    used: u32,
    /// The least number of slots that were unused at once in this period.
    least_unused: u32,
    /// The greatest limit of the jobs for which they were taken. A job with a lower one needs a look at
    /// how many are in use.
    max: u32,
    /// How often another worker has asked for slots, and how many of these requests are known to be
    /// served.
    asked: u64,
    served: u64,
    /// How many workers had lumps when the slots were read last.
    workers: u32,
    /// When a slot was returned last because another worker waits.
    returned_at: Option<Duration>,
    /// Until then no other program has taken any away.
    trusted_until: Option<Duration>,
}

impl WorkerLump {
    /// An empty lump. `lease` is how long a job may run once the worker is cut off; `first_renewal` must
    /// be greater than in any earlier lump of this worker and key, such as the time in milliseconds.
    #[must_use]
    pub fn new(worker_id: String, lease: Duration, first_renewal: u64) -> WorkerLump {
        WorkerLump {
            worker_id,
            lease,
            renewals: first_renewal,
            slots: 0,
            used: 0,
            least_unused: 0,
            max: 0,
            asked: 0,
            served: 0,
            workers: 0,
            returned_at: None,
            trusted_until: None,
        }
    }

    /// Whether the worker has no slots, and no job of it uses one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots == 0 && self.used == 0
    }

    /// Whether jobs use slots of the lump.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used > 0
    }

    /// How many slots the worker may give to its jobs.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// How many slots no job uses.
    #[must_use]
    pub fn unused(&self) -> u32 {
        self.slots.saturating_sub(self.used)
    }

    /// Gives a slot to a job with this limit, without a write. Returns false if that needs one.
    pub fn take(&mut self, max: u32, now: Duration) -> bool {
        let is_trusted = self.trusted_until.is_some_and(|until| now < until);
        if !is_trusted || self.is_wanted() || max < self.max || self.unused() == 0 {
            return false;
        }
        self.use_one();
        true
    }

    /// Whether the lump should be renewed by a write, so that jobs need not wait for that later.
    #[must_use]
    pub fn needs_renewal(&self, now: Duration) -> bool {
        let soon = now + self.trusted_for() / 2;
        self.slots > 0 && self.trusted_until.is_some_and(|until| until < soon)
    }

    /// Takes a slot back from a job of which no process is left. If another worker waits, it is to be
    /// returned.
    pub fn release(&mut self, now: Duration) {
        self.used = self.used.saturating_sub(1);
        if self.is_wanted() {
            self.returned_at = Some(now);
        }
    }

    /// Whether a job of which no process is left may pass its slot to another job of this worker, which has
    /// this limit. While another worker waits, slots beyond this worker's share are returned instead, and
    /// of its share one now and again, so that no job waits for ever.
    #[must_use]
    pub fn may_pass(&self, max: u32, now: Duration) -> bool {
        let is_trusted = self.trusted_until.is_some_and(|until| now < until);
        if !is_trusted || max < self.max || self.used > self.slots {
            return false;
        }
        let share = (self.max / self.workers.saturating_add(1)).max(1);
        let is_due = || {
            let returned_at = self.returned_at;
            returned_at.is_none_or(|at| now >= at + RETURN_INTERVAL)
        };
        !self.is_wanted() || (self.slots <= share && !is_due())
    }

    /// Another worker asks for slots: from now on each unused one is returned.
    pub fn on_wanted(&mut self) {
        self.asked += 1;
    }

    /// Whether another worker waits for slots.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.asked != self.served
    }

    /// How often another worker has asked for slots.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// No job waits for a slot any more. `asked` is how often a worker had asked before that was looked
    /// up.
    pub fn on_none_waits(&mut self, asked: u64) {
        self.served = asked;
    }

    /// Ends a period, and returns how many slots were unused throughout.
    pub fn end_period(&mut self) -> u32 {
        let unused = self.unused();
        std::mem::replace(&mut self.least_unused, unused).min(unused)
    }

    /// Stops counting so many of the unused slots. [`sync`](Self::sync) then returns them.
    pub fn shrink(&mut self, count: u32) {
        self.slots -= count.min(self.unused());
        self.least_unused = self.least_unused.min(self.unused());
    }

    /// Writes the size of the lump into the slots. `None` if they have it already.
    pub fn sync(&mut self, slots: &mut Slots) -> Option<SlotWrite> {
        self.observe(slots);
        let stored = slots.lump_of(&self.worker_id).map_or(0, |lump| lump.slots);
        (stored != self.slots).then(|| self.write(slots, self.slots, Takes::Nothing))
    }

    /// Writes the lump into the slots again, so that it is trusted for another while. `None` if there
    /// is nothing to renew.
    pub fn renew(&mut self, slots: &mut Slots) -> Option<SlotWrite> {
        self.observe(slots);
        (self.slots > 0).then(|| self.write(slots, self.slots, Takes::Nothing))
    }

    /// Requests a slot, and as many more as may be taken ahead.
    pub fn request(&mut self, slots: &mut Slots, request: &SlotRequest) -> SlotPlan {
        self.observe(slots);
        let SlotRequest { holder, max, .. } = request;
        if let Some(held) = slots.holders.iter_mut().find(|held| held.job == holder.job) {
            if held == holder {
                return SlotPlan::Holds;
            }
            held.queue.clone_from(&holder.queue);
            held.sequence = holder.sequence;
            return SlotPlan::Write(self.write(slots, self.slots, Takes::Single));
        }
        // what the value has beyond the worker's own count is about to be returned
        self.store(slots, self.slots);
        slots.max = *max;
        if self.unused() > 0 && !self.is_wanted() && slots.in_use() <= u64::from(*max) {
            return SlotPlan::Write(self.write(slots, self.slots, Takes::FromLump));
        }
        let free = slots.free(*max);
        if free == 0 {
            return SlotPlan::Full;
        }
        match self.lump_size(slots, request, free) {
            Some(more) => SlotPlan::Write(self.write(slots, self.slots + more, Takes::FromLump)),
            None => {
                slots.holders.push(holder.clone());
                SlotPlan::Write(self.write(slots, self.slots, Takes::Single))
            }
        }
    }

    /// The write was confirmed. `sent_at` is a time before it was sent.
    pub fn confirm(&mut self, write: &SlotWrite, sent_at: Duration) {
        if self.slots == 0 {
            self.max = write.max;
        } else if write.slots > self.slots {
            self.max = self.max.max(write.max);
        }
        self.slots = write.slots;
        self.trusted_until = Some(sent_at + self.trusted_for());
        if write.takes == Takes::FromLump {
            self.use_one();
        }
    }

    /// For less than the lease: then no job has started, when another program takes the lump away.
    fn trusted_for(&self) -> Duration {
        self.lease / 2
    }

    fn use_one(&mut self) {
        self.used += 1;
        self.least_unused = self.least_unused.min(self.unused());
    }

    /// Another program may have taken the lump away, and none adds to it.
    fn observe(&mut self, slots: &Slots) {
        let stored = slots.lump_of(&self.worker_id).map_or(0, |lump| lump.slots);
        self.slots = self.slots.min(stored);
        self.workers = u32::try_from(slots.lumps.len()).unwrap_or(u32::MAX);
        self.least_unused = self.least_unused.min(self.unused());
    }

    /// How many slots to take ahead. `None` means a slot for the job alone.
    fn lump_size(&self, slots: &Slots, request: &SlotRequest, free: u32) -> Option<u32> {
        let is_new = slots.lump_of(&self.worker_id).is_none();
        let workers = u32::try_from(slots.lumps.len()).unwrap_or(u32::MAX);
        let workers = workers.saturating_add(u32::from(is_new));
        if request.max < workers.saturating_mul(SLOTS_PER_WORKER_MIN) {
            return None;
        }
        if self.is_wanted() {
            return Some(1);
        }
        let share = (request.max / workers.saturating_mul(2)).saturating_sub(self.slots);
        let wanted = request.wanted.saturating_sub(self.slots);
        Some(share.min(wanted).clamp(1, free))
    }

    fn write(&mut self, slots: &mut Slots, size: u32, takes: Takes) -> SlotWrite {
        self.store(slots, size);
        SlotWrite {
            slots: size,
            max: slots.max,
            takes,
        }
    }

    fn store(&mut self, slots: &mut Slots, size: u32) {
        let place = slots
            .lumps
            .iter()
            .position(|lump| lump.worker_id == self.worker_id);
        if size == 0 {
            if let Some(place) = place {
                slots.lumps.remove(place);
            }
            return;
        }
        self.renewals += 1;
        let place = place.unwrap_or_else(|| {
            slots.lumps.push(SlotLump {
                worker_id: self.worker_id.clone(),
                slots: 0,
                renewals: 0,
                lease_ms: 0,
                unknown: UnknownFields::default(),
            });
            slots.lumps.len() - 1
        });
        let lump = &mut slots.lumps[place];
        lump.slots = size;
        lump.renewals = self.renewals;
        lump.lease_ms = u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, QueueName};

    const NOW: Duration = Duration::from_secs(1_000);

    fn lump(worker: &str) -> WorkerLump {
        WorkerLump::new(worker.to_owned(), Duration::from_secs(30), 1)
    }

    fn request(job: &str, max: u32, wanted: u32) -> SlotRequest {
        let holder = SlotHolder {
            job: JobId::new(job).unwrap(),
            queue: QueueName::new("q").unwrap(),
            sequence: 7,
            unknown: UnknownFields::default(),
        };
        SlotRequest {
            holder,
            max,
            wanted,
        }
    }

    /// Requests a slot and writes; returns whether it came from the lump. `None` if all are in use.
    fn take(lump: &mut WorkerLump, slots: &mut Slots, request: &SlotRequest) -> Option<bool> {
        match lump.request(slots, request) {
            SlotPlan::Write(write) => {
                lump.confirm(&write, NOW);
                Some(write.takes_from_lump())
            }
            SlotPlan::Holds => Some(false),
            SlotPlan::Full => None,
        }
    }

    #[test]
    fn small_limit_has_one_slot_per_write() {
        let (mut lump, mut slots) = (lump("w"), Slots::default());
        for job in ["a", "b", "c"] {
            assert_eq!(
                take(&mut lump, &mut slots, &request(job, 3, 16)),
                Some(false)
            );
        }
        assert_eq!(take(&mut lump, &mut slots, &request("d", 3, 16)), None);
        assert_eq!((slots.holders.len(), slots.lumps.len()), (3, 0));
        assert!(!lump.take(3, NOW));
    }

    #[test]
    fn lump_is_a_share_of_the_limit() {
        let (mut first, mut slots) = (lump("w"), Slots::default());
        assert_eq!(
            take(&mut first, &mut slots, &request("a", 64, 99)),
            Some(true)
        );
        assert_eq!(slots.lump_of("w").map(|lump| lump.slots), Some(32));
        // 31 more without a write
        assert!((0..31).all(|_| first.take(64, NOW)));
        assert!(!first.take(64, NOW));
        let mut second = lump("v");
        assert_eq!(
            take(&mut second, &mut slots, &request("b", 64, 100)),
            Some(true)
        );
        assert_eq!(slots.lump_of("v").map(|lump| lump.slots), Some(16));
        // beyond its share, one at a time
        assert_eq!(
            take(&mut first, &mut slots, &request("c", 64, 100)),
            Some(true)
        );
        assert_eq!(slots.lump_of("w").map(|lump| lump.slots), Some(33));
        // no more than the worker can use
        let mut third = lump("u");
        assert_eq!(
            take(&mut third, &mut slots, &request("d", 64, 2)),
            Some(true)
        );
        assert_eq!(slots.lump_of("u").map(|lump| lump.slots), Some(2));
        assert_eq!(slots.in_use(), 51);
    }

    #[test]
    fn unused_slots_are_returned() {
        let (mut lump, mut slots) = (lump("w"), Slots::default());
        assert_eq!(
            take(&mut lump, &mut slots, &request("a", 64, 8)),
            Some(true)
        );
        lump.end_period();
        assert!(lump.take(64, NOW) && lump.take(64, NOW));
        lump.release(NOW);
        lump.release(NOW);
        // two of the seven were needed
        assert_eq!(lump.end_period(), 5);
        lump.shrink(5);
        let write = lump.sync(&mut slots).unwrap();
        lump.confirm(&write, NOW);
        assert_eq!(slots.in_use(), 3);
        assert_eq!(lump.sync(&mut slots), None);
        lump.on_wanted();
        assert!(!lump.take(64, NOW), "they are for the worker that asks");
        lump.shrink(lump.unused());
        let write = lump.sync(&mut slots).unwrap();
        lump.confirm(&write, NOW);
        lump.release(NOW);
        lump.shrink(1);
        assert!(lump.sync(&mut slots).is_some() && lump.is_empty());
        assert_eq!(slots.lumps, []);
    }

    #[test]
    fn jobs_pass_slots_to_each_other_unless_another_worker_waits_for_too_long() {
        let ms = |ms| NOW + Duration::from_millis(ms);
        let (mut lump, mut slots) = (lump("w"), Slots::default());
        assert_eq!(take(&mut lump, &mut slots, &request("a", 8, 8)), Some(true));
        assert_eq!(lump.slots(), 4);
        assert!(lump.take(8, NOW) && lump.take(8, NOW) && lump.take(8, NOW));
        assert!(lump.may_pass(8, NOW) && !lump.may_pass(4, NOW));
        lump.on_wanted();
        // nothing was returned yet
        assert!(!lump.may_pass(8, NOW));
        lump.release(NOW);
        lump.shrink(1);
        assert!(lump.may_pass(8, ms(99)) && !lump.may_pass(8, ms(100)));
        // beyond the share
        slots.lumps.push(SlotLump {
            worker_id: "v".to_owned(),
            slots: 1,
            renewals: 1,
            lease_ms: 1,
            unknown: UnknownFields::default(),
        });
        let write = lump.sync(&mut slots).unwrap();
        lump.confirm(&write, NOW);
        assert_eq!(lump.slots(), 3);
        assert!(!lump.may_pass(8, ms(1)));
        lump.on_none_waits(lump.asked());
        assert!(lump.may_pass(8, ms(1)));
        slots.lumps.clear();
        assert_eq!(lump.renew(&mut slots), None);
        assert!(!lump.may_pass(8, ms(1)), "the lump was taken away");
    }

    #[test]
    fn job_with_a_lower_limit_takes_no_slot_of_a_larger_one() {
        let (mut lump, mut slots) = (lump("w"), Slots::default());
        assert_eq!(
            take(&mut lump, &mut slots, &request("a", 64, 8)),
            Some(true)
        );
        assert!(!lump.take(4, NOW));
        assert_eq!(take(&mut lump, &mut slots, &request("b", 4, 8)), None);
        assert_eq!(take(&mut lump, &mut slots, &request("b", 8, 8)), Some(true));
        assert!(!lump.take(8, NOW) && lump.take(64, NOW));
    }

    #[test]
    fn what_a_worker_counts_is_not_trusted_for_long() {
        let (mut lump, mut slots) = (lump("w"), Slots::default());
        assert_eq!(
            take(&mut lump, &mut slots, &request("a", 64, 8)),
            Some(true)
        );
        assert!(!lump.needs_renewal(NOW));
        let later = NOW + Duration::from_secs(8);
        assert!(lump.needs_renewal(later) && lump.take(64, later));
        let late = NOW + Duration::from_secs(15);
        assert!(!lump.take(64, late));
        let write = lump.renew(&mut slots).unwrap();
        lump.confirm(&write, late);
        assert!(lump.take(64, late) && !lump.needs_renewal(late));
        // another worker has taken the lump away
        slots.lumps.clear();
        assert_eq!(lump.renew(&mut slots), None);
        assert_eq!(lump.unused(), 0);
        assert!(!lump.take(64, late));
    }
}
