//! Reads stored outputs for requests.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::index_cache::IndexCache;
use super::line_index::{LineIndex, LineIndexBuilder};
use super::rows::{Row, RowReader};
use super::search::{Match, Needle, Searcher};
use naq_client::{Client, ClientError, OutputGap, OutputParts, OutputStream, PartPosition};
use naq_protocol::Record;

/// Number of outputs that are searched or indexed at the same time. Further requests wait.
const SCANS_MAX: usize = 4;

/// Longest time of a search. The caller can continue it.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(10);

/// Opens outputs, and keeps the indexes of their lines.
pub(in crate::web) struct Outputs {
    indexes: IndexCache,
    scans: Semaphore,
}

impl Default for Outputs {
    fn default() -> Outputs {
        Outputs {
            indexes: IndexCache::default(),
            scans: Semaphore::new(SCANS_MAX),
        }
    }
}

/// An output of a job that is read for a request.
#[derive(Clone)]
pub(in crate::web) struct Output {
    client: Client,
    parts: OutputParts,
}

/// A range of stored bytes, and a position before it from which it is read.
pub(in crate::web) struct ByteSpan {
    pub(in crate::web) range: Range<u64>,
    from: PartPosition,
}

/// The answer to a search.
pub(in crate::web) struct SearchResult {
    pub(in crate::web) matches: Vec<Match>,
    /// The line with which another search continues. `None` if the output was searched to its end.
    pub(in crate::web) next: Option<u64>,
}

impl Outputs {
    /// Finds what is stored of an output stream of a job.
    ///
    /// # Errors
    /// Returns an error if the output is an object that cannot be read.
    pub(in crate::web) async fn open(
        &self,
        client: &Client,
        record: &Record,
        stream: OutputStream,
    ) -> Result<Output, ClientError> {
        Ok(Output {
            parts: client.open_output(record, stream).await?,
            client: client.clone(),
        })
    }

    /// The index of the lines of an output. It is made by one pass over the output, and kept for an object.
    ///
    /// # Errors
    /// Returns an error if the output cannot be read.
    pub(in crate::web) async fn index(
        &self,
        output: &Output,
    ) -> Result<Arc<LineIndex>, ClientError> {
        let Some(object_id) = output.parts.object_id() else {
            return Ok(Arc::new(output.make_index().await?));
        };
        let index = self.indexes.get(object_id);
        let made = index.get_or_try_init(|| async {
            let _turn = self.scans.acquire().await;
            output.make_index().await.map(Arc::new)
        });
        made.await.cloned()
    }

    /// The bytes of these lines with their line feeds. The lines exist.
    ///
    /// # Errors
    /// Returns an error if the output cannot be read.
    pub(in crate::web) async fn lines(
        &self,
        output: &Output,
        lines: RangeInclusive<u64>,
    ) -> Result<ByteSpan, ClientError> {
        let index = self.index(output).await?;
        let (first, last) = lines.into_inner();
        let (from, start) = output.line_start(&index, first).await?;
        let (_, end) = output.line_start(&index, last.saturating_add(1)).await?;
        Ok(ByteSpan {
            range: start..end,
            from,
        })
    }

    /// A range of bytes of an output.
    ///
    /// # Errors
    /// Returns an error if the output cannot be read.
    pub(in crate::web) async fn bytes(
        &self,
        output: &Output,
        range: Range<u64>,
    ) -> Result<ByteSpan, ClientError> {
        let from = match range.start {
            0 => PartPosition::default(),
            start => self.index(output).await?.before_offset(start).position,
        };
        Ok(ByteSpan { range, from })
    }

    /// The rows of these lines, as far as they exist.
    ///
    /// # Errors
    /// Returns an error if the output cannot be read.
    pub(in crate::web) async fn rows(
        &self,
        output: &Output,
        lines: RangeInclusive<u64>,
    ) -> Result<Vec<Row>, ClientError> {
        let index = self.index(output).await?;
        let place = index.before_line(*lines.start());
        let mut rows = RowReader::new(lines, place.line_feeds);
        let mut position = place.position;
        while !rows.is_done() {
            let Some((part, next)) = output.read(position).await? else {
                break;
            };
            rows.push(position.offset, &part);
            position = next;
            if rows.skips_line() {
                // the part that has the end of the line
                let end = index.before_line(rows.line() + 1).position;
                position = if end.offset > next.offset { end } else { next };
            }
        }
        Ok(rows.finish(output.length()))
    }

    /// Searches an output from a line on.
    ///
    /// # Errors
    /// Returns an error if the output cannot be read.
    pub(in crate::web) async fn search(
        &self,
        output: &Output,
        needle: Needle,
        first: u64,
        matches_max: usize,
    ) -> Result<SearchResult, ClientError> {
        let index = self.index(output).await?;
        let _turn = self.scans.acquire().await;
        let until = Instant::now() + SEARCH_TIME_MAX;
        let (mut position, start) = output.line_start(&index, first).await?;
        let mut searcher = Searcher::new(needle, first, matches_max);
        while let Some((part, next)) = output.read(position).await? {
            let before = start.saturating_sub(position.offset);
            let before = usize::try_from(before).unwrap_or(usize::MAX);
            searcher.push(part.get(before..).unwrap_or_default());
            position = next;
            // a search that continues is further than before, even if a line takes longer
            let is_late = Instant::now() > until && searcher.line() > first;
            if searcher.is_full() || is_late {
                let next = match searcher.is_full() {
                    true => None,
                    false => Some(searcher.line()),
                };
                let mut matches = searcher.finish();
                // the last line may not have been searched to its end
                let next = match next {
                    Some(next) => {
                        matches.retain(|found| found.line < next);
                        next
                    }
                    None => matches.last().map_or(first, |found| found.line + 1),
                };
                return Ok(SearchResult {
                    matches,
                    next: (next <= index.lines()).then_some(next),
                });
            }
        }
        Ok(SearchResult {
            matches: searcher.finish(),
            next: None,
        })
    }
}

impl Output {
    /// Number of stored bytes.
    pub(in crate::web) fn length(&self) -> u64 {
        self.parts.length()
    }

    /// Where bytes are missing.
    pub(in crate::web) fn gap(&self) -> Option<OutputGap> {
        self.parts.gap()
    }

    async fn read(
        &self,
        position: PartPosition,
    ) -> Result<Option<(Bytes, PartPosition)>, ClientError> {
        self.client.read_output_part(&self.parts, position).await
    }

    async fn make_index(&self) -> Result<LineIndex, ClientError> {
        let mut index = LineIndexBuilder::default();
        let mut position = PartPosition::default();
        while let Some((part, next)) = self.read(position).await? {
            index.push(position, &part);
            position = next;
        }
        Ok(index.finish())
    }

    /// Where a line begins, after a part that begins at the returned position. The line after the last one
    /// begins at the end.
    async fn line_start(
        &self,
        index: &LineIndex,
        line: u64,
    ) -> Result<(PartPosition, u64), ClientError> {
        let place = index.before_line(line);
        let mut position = place.position;
        let Some(mut feeds) = (line - 1)
            .checked_sub(place.line_feeds)
            .filter(|feeds| *feeds > 0)
        else {
            return Ok((position, position.offset));
        };
        while let Some((part, next)) = self.read(position).await? {
            for feed in memchr::memchr_iter(b'\n', &part) {
                feeds -= 1;
                if feeds == 0 {
                    return Ok((position, position.offset + feed as u64 + 1));
                }
            }
            position = next;
        }
        Ok((position, self.length()))
    }

    /// The bytes of a range, part by part.
    pub(in crate::web) fn stream(
        self,
        span: ByteSpan,
    ) -> impl Stream<Item = Result<Bytes, ClientError>> + Send + 'static {
        let ByteSpan { range, from } = span;
        futures_util::stream::try_unfold((self, from), move |(output, position)| {
            let range = range.clone();
            async move {
                let mut position = position;
                while position.offset < range.end {
                    let Some((part, next)) = output.read(position).await? else {
                        return Ok(None);
                    };
                    let part = cut(&part, position.offset, &range);
                    position = next;
                    if !part.is_empty() {
                        return Ok(Some((part, (output, position))));
                    }
                }
                Ok(None)
            }
        })
    }
}

/// What a part that begins at this offset has of a range, without a copy.
fn cut(part: &Bytes, offset: u64, range: &Range<u64>) -> Bytes {
    let at = |place: u64| {
        let inside = usize::try_from(place.saturating_sub(offset));
        inside.map_or(part.len(), |at| at.min(part.len()))
    };
    let start = at(range.start);
    part.slice(start..at(range.end).max(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_of_a_range_are_the_range(
            output in proptest::collection::vec(any::<u8>(), 0..80),
            part_bytes in 1_usize..20,
            start in 0_u64..90,
            length in 0_u64..90,
        ) {
            let range = start..start + length;
            let output = Bytes::from(output);
            let mut read = Vec::new();
            for from in (0..output.len()).step_by(part_bytes) {
                let part = output.slice(from..(from + part_bytes).min(output.len()));
                read.extend_from_slice(&cut(&part, from as u64, &range));
            }
            let expected = output.iter().skip(start as usize).take(length as usize);
            prop_assert!(read.iter().eq(expected));
        }
    }
}
