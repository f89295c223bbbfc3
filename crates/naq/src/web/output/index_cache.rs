//! Indexes of the lines of stored objects, each made once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::line_index::LineIndex;

/// Maximum number of indexes that are kept. One of an object of 64 MiB takes some 20 KiB.
const INDEXES_MAX: usize = 64;

/// An index, once it is made. Requests that need it meanwhile wait for it.
pub(super) type IndexCell = Arc<OnceCell<Arc<LineIndex>>>;

/// Indexes by the ids of their objects, last used last.
#[derive(Default)]
pub(super) struct IndexCache(Mutex<VecDeque<(String, IndexCell)>>);

impl IndexCache {
    /// The index of an object, which may have to be made.
    pub(super) fn get(&self, object_id: &str) -> IndexCell {
        let mut indexes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = indexes.iter().position(|(known, _)| known == object_id);
        let known = at.and_then(|at| indexes.remove(at));
        let (id, index) = known.unwrap_or_else(|| (object_id.to_owned(), IndexCell::default()));
        indexes.push_back((id, Arc::clone(&index)));
        if indexes.len() > INDEXES_MAX {
            indexes.pop_front();
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_indexes_that_were_used_last_are_kept() {
        let cache = IndexCache::default();
        let first = cache.get("first");
        for n in 1..INDEXES_MAX {
            cache.get(&n.to_string());
        }
        assert!(Arc::ptr_eq(&first, &cache.get("first")));
        cache.get("another");
        assert!(Arc::ptr_eq(&first, &cache.get("first")));
        for n in 0..INDEXES_MAX {
            cache.get(&format!("new {n}"));
        }
        assert!(!Arc::ptr_eq(&first, &cache.get("first")));
    }
}
