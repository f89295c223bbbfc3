//! A value of one layer, and how the layers rank.

use super::source::Source;
use super::value::Value;

/// A value with its source and the rank of its layer.
#[derive(Clone, Debug)]
pub(super) struct RankedValue {
    pub(super) value: Value,
    pub(super) source: Source,
    pub(super) rank: u8,
}

/// Ranks of the layers. A context ranks just below the layer that names it.
pub(super) const RANK_DEFAULT: u8 = 0;
pub(super) const RANK_SYSTEM_FILE: u8 = 2;
pub(super) const RANK_USER_FILE: u8 = 4;
pub(super) const RANK_FILE: u8 = 6;
pub(super) const RANK_VARIABLE: u8 = 8;
pub(super) const RANK_FLAG: u8 = 10;
