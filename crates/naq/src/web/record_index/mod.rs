//! A compact index of all records, from which lists of jobs are served.
//!
//! `index` is a pure data structure: rows in the order of revisions, and a map from the ids of jobs. `shared` gives
//! it the changes of the bucket and serves lists; `follow` reads what the bucket had before.

mod follow;
mod index;
mod interner;
mod labels;
mod query;
mod rows;
mod shared;

pub(super) use index::RecordIndex;
pub(super) use query::{Conditions, Query};
pub(super) use shared::{IndexState, SharedIndex};
