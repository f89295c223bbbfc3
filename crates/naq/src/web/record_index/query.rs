//! Which records a search looks for, and whether a row or a chunk may be one of them.

use naq_client::LabelFilter;
use naq_protocol::{Reason, State};

use super::interner::{Interner, TextId};
use super::labels::satisfy;
use super::rows::{Row, Summary, bit};

/// A search. A record must satisfy all conditions.
#[derive(Clone, Debug, Default)]
pub(in crate::web) struct Query {
    pub(in crate::web) conditions: Vec<Conditions>,
    /// Records that were stored before this time are left out, in milliseconds since the Unix epoch.
    pub(in crate::web) since_ms: Option<i64>,
}

/// Conditions of one filter. An empty list means any value.
#[derive(Clone, Debug, Default)]
pub(in crate::web) struct Conditions {
    pub(in crate::web) states: Vec<State>,
    pub(in crate::web) reasons: Vec<Reason>,
    pub(in crate::web) queues: Vec<String>,
    pub(in crate::web) schedules: Vec<String>,
    /// Ids of workers. `None` means any worker, and also none.
    pub(in crate::web) workers: Option<Vec<String>>,
    /// The labels that a record must have, all of them.
    pub(in crate::web) labels: Vec<LabelFilter>,
    /// Beginnings of ids of jobs.
    pub(in crate::web) ids: Vec<String>,
    /// Whether only jobs that rerun others are selected.
    pub(in crate::web) only_reruns: bool,
}

/// The code of states that only a later version defines.
const UNKNOWN_STATE: u8 = 15;

/// The code of reasons that only a later version defines.
const UNKNOWN_REASON: u8 = 31;

/// The code of a state, less than 16.
pub(super) fn state_code(state: State) -> u8 {
    let at = State::ALL.iter().position(|known| *known == state);
    at.and_then(|at| u8::try_from(at).ok())
        .unwrap_or(UNKNOWN_STATE)
}

/// The code of a reason, less than 32. 0 means none.
pub(super) fn reason_code(reason: Option<Reason>) -> u8 {
    match reason {
        None => 0,
        Some(Reason::Exit) => 1,
        Some(Reason::Signal) => 2,
        Some(Reason::Timeout) => 3,
        Some(Reason::Oom) => 4,
        Some(Reason::CpuTime) => 5,
        Some(Reason::FileSize) => 6,
        Some(Reason::Spawn) => 7,
        Some(Reason::Dependency) => 8,
        Some(Reason::Crashed) => 9,
        Some(Reason::Lost) => 10,
        Some(Reason::Output) => 11,
        Some(Reason::Unstorable) => 12,
        Some(Reason::Invalid) => 13,
        Some(Reason::UnsupportedVersion) => 14,
        Some(Reason::NotAllowed) => 15,
        Some(Reason::Cancelled) => 16,
        Some(_) => UNKNOWN_REASON,
    }
}

/// A search with the numbers of its texts.
pub(super) struct CompiledQuery<'q> {
    conditions: Vec<CompiledConditions<'q>>,
    since_ms: i64,
    until_ms: i64,
}

struct CompiledConditions<'q> {
    /// A bit for each state.
    states: u32,
    /// A bit for each reason.
    reasons: u32,
    queues: OneOf,
    schedules: OneOf,
    workers: OneOf,
    labels: &'q [LabelFilter],
    ids: &'q [String],
    only_reruns: bool,
    /// Whether a set of labels satisfies the filter, by the number of the set. `None` means that it was not looked
    /// at yet: each set is looked at once, however many records have it.
    known_sets: Vec<Option<bool>>,
}

/// The permitted numbers of a text, and the bits of their summaries. `None` means that every text is permitted.
struct OneOf(Option<(Vec<TextId>, u64)>);

impl OneOf {
    fn new(texts: Option<&[String]>, interner: &Interner) -> OneOf {
        OneOf(texts.map(|texts| {
            let ids: Vec<TextId> = texts.iter().filter_map(|text| interner.id(text)).collect();
            let bits = ids.iter().fold(0, |bits, id| bits | bit(*id));
            (ids, bits)
        }))
    }

    /// An empty list permits every text.
    fn of_list(texts: &[String], interner: &Interner) -> OneOf {
        OneOf::new((!texts.is_empty()).then_some(texts), interner)
    }

    fn may_contain(&self, bits: u64) -> bool {
        self.0.as_ref().is_none_or(|(_, own)| own & bits != 0)
    }

    fn permits(&self, id: TextId) -> bool {
        self.0.as_ref().is_none_or(|(ids, _)| ids.contains(&id))
    }
}

impl<'q> CompiledQuery<'q> {
    /// Looks up the texts. `until_ms` leaves out records that were stored later.
    pub(super) fn new(
        query: &'q Query,
        until_ms: i64,
        names: &Interner,
        label_sets: &Interner,
    ) -> CompiledQuery<'q> {
        let conditions = query.conditions.iter().map(|one| CompiledConditions {
            states: mask(one.states.iter().map(|state| state_code(*state))),
            reasons: mask(one.reasons.iter().map(|reason| reason_code(Some(*reason)))),
            queues: OneOf::of_list(&one.queues, names),
            schedules: OneOf::of_list(&one.schedules, names),
            workers: OneOf::new(one.workers.as_deref(), names),
            labels: &one.labels,
            ids: &one.ids,
            only_reruns: one.only_reruns,
            known_sets: match one.labels.is_empty() {
                true => Vec::new(),
                false => vec![None; label_sets.id_max() + 1],
            },
        });
        CompiledQuery {
            conditions: conditions.collect(),
            since_ms: query.since_ms.unwrap_or(i64::MIN),
            until_ms,
        }
    }

    /// Whether a chunk may contain a record that the search looks for.
    pub(super) fn may_be_in(&self, chunk: &Summary) -> bool {
        chunk.time_max_ms >= self.since_ms
            && chunk.time_min_ms <= self.until_ms
            && self.conditions.iter().all(|one| {
                one.states & chunk.states != 0
                    && one.reasons & chunk.reasons != 0
                    && one.queues.may_contain(chunk.queues)
                    && one.schedules.may_contain(chunk.schedules)
                    && one.workers.may_contain(chunk.workers)
            })
    }

    /// Whether the search looks for a record, the job of which has this id.
    pub(super) fn selects<'i>(
        &mut self,
        row: &Row,
        id: impl Fn() -> &'i str,
        label_sets: &Interner,
    ) -> bool {
        (self.since_ms..=self.until_ms).contains(&row.time_ms)
            && self.conditions.iter_mut().all(|one| {
                one.states & 1 << row.state != 0
                    && one.reasons & 1 << row.reason != 0
                    && one.queues.permits(row.queue)
                    && one.schedules.permits(row.schedule)
                    && one.workers.permits(row.worker)
                    && (row.is_rerun || !one.only_reruns)
                    && (one.ids.is_empty() || one.ids.iter().any(|begin| id().starts_with(begin)))
                    && one.has_labels(row.labels, label_sets)
            })
    }
}

impl CompiledConditions<'_> {
    fn has_labels(&mut self, set: TextId, label_sets: &Interner) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let known = self.known_sets.get_mut(set as usize);
        match known {
            Some(Some(known)) => *known,
            Some(unknown) => {
                let satisfied = satisfy(label_sets.text(set), self.labels);
                *unknown = Some(satisfied);
                satisfied
            }
            None => false,
        }
    }
}

/// A bit for each code. Without codes, all bits.
fn mask(codes: impl Iterator<Item = u8>) -> u32 {
    match codes.fold(0, |mask, code| mask | 1 << code) {
        0 => u32::MAX,
        mask => mask,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_and_reason_has_a_code_of_its_own() {
        let states: Vec<u8> = State::ALL.iter().map(|state| state_code(*state)).collect();
        assert_eq!(states, (0..10).collect::<Vec<u8>>());
        assert_eq!(state_code(State::from_name("later")), UNKNOWN_STATE);
        assert_eq!(
            reason_code(Some(Reason::from_name("later"))),
            UNKNOWN_REASON
        );
        assert_eq!(reason_code(None), 0);
    }
}
