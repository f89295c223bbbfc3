//! What a process knows about the streams on its server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use naq_protocol::Timestamp;
use tokio::time::Instant;

/// Number of replicas of a stream if none is set and the cluster is large enough.
pub(crate) const REPLICAS_MAX: usize = 3;

/// What this process has seen of the streams.
#[derive(Debug, Default)]
pub(crate) struct LayoutMemory {
    /// The streams that existed when they were last looked at.
    existing: Mutex<HashMap<String, Existing>>,
    /// A lock for each stream that this process has ensured.
    ensuring: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// The replicas of the streams that this process has created or compared.
    replicas: Mutex<BTreeMap<String, Replicas>>,
    /// Settings that were warned about, by stream or consumer.
    reported: Mutex<HashSet<(String, &'static str)>>,
    /// Whether the server is alone and refuses replicas.
    is_single_server: AtomicBool,
}

/// A stream that exists.
#[derive(Clone, Copy, Debug)]
struct Existing {
    /// When this process first saw it.
    seen_at: Instant,
    /// When it was created, by the server's clock, if that is known.
    created_at: Option<Timestamp>,
}

/// When a stream was created, according to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Creation {
    /// The time of the server's clock.
    pub(crate) at: Timestamp,
    /// How long before the server's answer that was.
    pub(crate) age: Duration,
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
        existing.entry(stream.to_owned()).or_insert(Existing {
            seen_at: Instant::now(),
            created_at: None,
        });
    }

    /// Remembers when a stream was created, as the server said in reply to a request that was sent at
    /// `asked_at`. Returns whether a stream that this process had seen before was removed and this is a
    /// new one.
    pub(crate) fn set_created(&self, stream: &str, creation: Creation, asked_at: Instant) -> bool {
        let mut existing = locked(&self.existing);
        let known = existing.entry(stream.to_owned()).or_insert(Existing {
            seen_at: asked_at,
            created_at: Some(creation.at),
        });
        let was_removed = match known.created_at {
            Some(created_at) => created_at != creation.at,
            // Another process may have created it just before this one saw it: then nothing was removed.
            None => creation.age < asked_at.saturating_duration_since(known.seen_at),
        };
        known.created_at = Some(creation.at);
        was_removed
    }

    /// Forgets when a stream was created, so that the next call of [`set_created`](Self::set_created)
    /// returns the same again.
    pub(crate) fn forget_created(&self, stream: &str) {
        if let Some(known) = locked(&self.existing).get_mut(stream) {
            known.created_at = None;
        }
    }

    /// The lock that a task holds while it ensures a stream.
    pub(crate) fn lock_of(&self, stream: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut ensuring = locked(&self.ensuring);
        Arc::clone(ensuring.entry(stream.to_owned()).or_default())
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

    fn creation(at_s: i64, age_s: u64) -> Creation {
        Creation {
            at: Timestamp::from_unix_ms(at_s * 1_000).unwrap(),
            age: Duration::from_secs(age_s),
        }
    }

    #[test]
    fn a_stream_that_is_created_twice_was_removed() {
        let memory = LayoutMemory::default();
        let now = Instant::now();
        assert!(!memory.set_created("a", creation(1, 0), now));
        assert!(!memory.set_created("a", creation(1, 9), now), "the same");
        memory.mark_existing("a");
        assert!(memory.set_created("a", creation(2, 0), now));
        assert!(!memory.set_created("a", creation(2, 0), now));
        memory.forget_created("a");
        let later = now + Duration::from_secs(5);
        assert!(memory.set_created("a", creation(2, 0), later));
    }

    #[test]
    fn a_stream_that_another_process_has_just_created_was_not_removed() {
        let memory = LayoutMemory::default();
        memory.mark_existing("a");
        let seen_at = Instant::now();
        let after = |seconds| seen_at + Duration::from_secs(seconds);
        assert!(!memory.set_created("a", creation(1, 1), after(0)));
        memory.mark_existing("b");
        assert!(!memory.set_created("b", creation(1, 10), after(9)));
        memory.mark_existing("c");
        assert!(memory.set_created("c", creation(1, 0), after(9)));
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
