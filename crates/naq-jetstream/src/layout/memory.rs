//! What a process knows about the streams on its server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use naq_protocol::Timestamp;

/// Number of replicas of a stream if none is set and the cluster is large enough.
pub(crate) const REPLICAS_MAX: usize = 3;

/// What this process has seen of the streams.
#[derive(Debug, Default)]
pub(crate) struct LayoutMemory {
    /// The streams that existed when they were last looked at, and when they were created if that is
    /// known.
    existing: Mutex<HashMap<String, Option<Timestamp>>>,
    /// The replicas of the streams that this process has created or compared.
    replicas: Mutex<BTreeMap<String, Replicas>>,
    /// Settings that were warned about, by stream or consumer.
    reported: Mutex<HashSet<(String, &'static str)>>,
    /// Whether the server is alone and refuses replicas.
    is_single_server: AtomicBool,
}

/// The number of replicas of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replicas {
    /// The number.
    pub(crate) count: usize,
    /// Whether the server belongs to a cluster.
    pub(crate) is_clustered: bool,
}

/// The replicas of a process's streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSummary {
    /// The smallest number among the streams, and the largest.
    pub counts: Option<(usize, usize)>,
    /// The streams of a cluster that have one replica.
    pub single: Vec<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LayoutMemory {
    /// Whether a stream existed when it was last looked at.
    pub(crate) fn existed(&self, stream: &str) -> bool {
        locked(&self.existing).contains_key(stream)
    }

    /// Marks a stream as existing, without knowing since when.
    pub(crate) fn mark_existing(&self, stream: &str) {
        let mut existing = locked(&self.existing);
        existing.entry(stream.to_owned()).or_default();
    }

    /// Remembers when a stream was created. Returns whether that is later than it was known to exist:
    /// it was removed in between.
    pub(crate) fn set_created(
        &self,
        stream: &str,
        created_at: Timestamp,
        is_just_created: bool,
    ) -> bool {
        let before = locked(&self.existing).insert(stream.to_owned(), Some(created_at));
        match before {
            None => false,
            Some(None) => is_just_created,
            Some(Some(before)) => before != created_at,
        }
    }

    /// Remembers the replicas of a stream.
    pub(crate) fn set_replicas(&self, stream: &str, replicas: Replicas) {
        locked(&self.replicas).insert(stream.to_owned(), replicas);
    }

    /// The replicas of all streams that this process has created or compared.
    pub(crate) fn replica_summary(&self) -> ReplicaSummary {
        let known = locked(&self.replicas);
        let counts = known.values().map(|one| one.count);
        let single = known
            .iter()
            .filter(|(_, one)| one.is_clustered && one.count == 1);
        ReplicaSummary {
            counts: counts.clone().min().zip(counts.max()),
            single: single.map(|(stream, _)| stream.clone()).collect(),
        }
    }

    /// The numbers of replicas to try for a new stream, in order. `None` stands for as many as the
    /// cluster allows.
    pub(crate) fn replicas_to_try(&self, wanted: Option<usize>) -> Vec<usize> {
        match wanted {
            Some(count) => vec![count],
            None if self.is_single_server.load(Ordering::Relaxed) => vec![1],
            None => (1..=REPLICAS_MAX).rev().collect(),
        }
    }

    /// Remembers that the server is alone.
    pub(crate) fn mark_single_server(&self) {
        self.is_single_server.store(true, Ordering::Relaxed);
    }

    /// Whether to report something about a stream or consumer. True only the first time.
    pub(crate) fn is_first_report(&self, object: &str, subject: &'static str) -> bool {
        locked(&self.reported).insert((object.to_owned(), subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_server_is_asked_for_replicas_once() {
        let memory = LayoutMemory::default();
        assert_eq!(memory.replicas_to_try(None), [3, 2, 1]);
        memory.mark_single_server();
        assert_eq!(memory.replicas_to_try(None), [1]);
        assert_eq!(memory.replicas_to_try(Some(5)), [5]);
    }

    #[test]
    fn a_stream_that_is_created_twice_was_removed() {
        let memory = LayoutMemory::default();
        let at = |seconds: i64| Timestamp::from_unix_ms(seconds * 1_000).unwrap();
        assert!(!memory.set_created("a", at(1), true));
        assert!(!memory.set_created("a", at(1), true), "the same");
        memory.mark_existing("a");
        assert!(memory.set_created("a", at(2), true));
        memory.mark_existing("b");
        assert!(!memory.set_created("b", at(1), false), "it is old");
        memory.mark_existing("c");
        assert!(memory.set_created("c", at(1), true));
    }

    #[test]
    fn only_a_cluster_lacks_replicas() {
        let memory = LayoutMemory::default();
        assert_eq!(memory.replica_summary(), ReplicaSummary::default());
        for (stream, count, is_clustered) in [("a", 1, false), ("b", 1, true), ("c", 3, true)] {
            let replicas = Replicas {
                count,
                is_clustered,
            };
            memory.set_replicas(stream, replicas);
        }
        let summary = memory.replica_summary();
        assert_eq!(summary.counts, Some((1, 3)));
        assert_eq!(summary.single, ["b"]);
    }
}
