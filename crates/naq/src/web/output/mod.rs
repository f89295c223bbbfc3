//! What is stored of a job's output, for requests that read a part of it: a range of bytes or lines, its end, or
//! the lines that contain a text. An output is never in memory as a whole.

mod index_cache;
mod line_index;
pub(super) mod line_range;
pub(super) mod rows;
pub(super) mod search;
mod stored;

pub(super) use stored::{ByteSpan, Output, Outputs};
