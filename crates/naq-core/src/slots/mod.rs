//! The slots of a concurrency key: what a worker takes ahead, what it returns, and when the slots of a
//! worker that does not answer any more are free.
//!
//! The value of a key is shared and changed by compare-and-set. A worker that runs many short jobs of
//! a key takes several slots in one write, a *lump*, and gives them to its jobs itself: [`lump`].
//! Another worker takes a lump back only after a silence: [`silence`].

pub(crate) mod lump;
#[cfg(test)]
mod model_proptest;
pub(crate) mod silence;
