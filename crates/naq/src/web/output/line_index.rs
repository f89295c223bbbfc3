//! Where the lines of an output are. The index has an entry for each part of the output, so its size does not
//! depend on the number of lines.

use naq_client::PartPosition;

/// Least number of bytes between two entries. An object of another program may have tiny parts.
const ENTRY_BYTES_MIN: u64 = 64 << 10;

/// A place from which an output can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) position: PartPosition,
    /// Number of line feeds before it.
    pub(super) line_feeds: u64,
}

/// The index of a whole output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::web) struct LineIndex {
    /// Places in the order of the output; the first one is its beginning.
    checkpoints: Vec<Checkpoint>,
    lines: u64,
}

/// Makes an index from the parts of an output in their order.
#[derive(Default)]
pub(super) struct LineIndexBuilder {
    checkpoints: Vec<Checkpoint>,
    line_feeds: u64,
    length: u64,
    ends_in_line: bool,
}

impl LineIndexBuilder {
    /// Adds the part that begins at this position.
    pub(super) fn push(&mut self, position: PartPosition, part: &[u8]) {
        let last = self.checkpoints.last();
        let is_next = last.is_none_or(|last| {
            position.offset.saturating_sub(last.position.offset) >= ENTRY_BYTES_MIN
        });
        if is_next {
            self.checkpoints.push(Checkpoint {
                position,
                line_feeds: self.line_feeds,
            });
        }
        self.line_feeds += memchr::memchr_iter(b'\n', part).count() as u64;
        self.length += part.len() as u64;
        self.ends_in_line = part.last().map_or(self.ends_in_line, |byte| *byte != b'\n');
    }

    pub(super) fn finish(self) -> LineIndex {
        LineIndex {
            checkpoints: self.checkpoints,
            lines: self.line_feeds + u64::from(self.ends_in_line),
        }
    }
}

impl LineIndex {
    /// Number of lines. The last one may lack its line feed.
    pub(in crate::web) fn lines(&self) -> u64 {
        self.lines
    }

    /// The last place before the beginning of a line, which is the first one after `line - 1` line feeds.
    pub(super) fn before_line(&self, line: u64) -> Checkpoint {
        let Some(feeds) = line.checked_sub(2) else {
            return Checkpoint::default();
        };
        self.last_where(|checkpoint| checkpoint.line_feeds <= feeds)
    }

    /// The last place before or at this number of bytes.
    pub(super) fn before_offset(&self, offset: u64) -> Checkpoint {
        self.last_where(|checkpoint| checkpoint.position.offset <= offset)
    }

    fn last_where(&self, is_before: impl Fn(&Checkpoint) -> bool) -> Checkpoint {
        let after = self.checkpoints.partition_point(is_before);
        let last = after.checked_sub(1).and_then(|at| self.checkpoints.get(at));
        last.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The index of an output that is read in parts of this size, and the positions of its parts.
    fn index(output: &[u8], part_bytes: usize) -> (LineIndex, Vec<PartPosition>) {
        let mut builder = LineIndexBuilder::default();
        let mut positions = Vec::new();
        for (at, part) in output.chunks(part_bytes).enumerate() {
            let position = PartPosition::in_record((at * part_bytes) as u64);
            builder.push(position, part);
            positions.push(position);
        }
        (builder.finish(), positions)
    }

    #[test]
    fn the_last_line_may_lack_its_line_feed() {
        for (output, lines) in [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2)] {
            assert_eq!(index(output.as_bytes(), 3).0.lines(), lines, "{output:?}");
        }
    }

    #[test]
    fn the_index_of_a_long_output_is_small() {
        let (feeds, _) = index(&vec![b'\n'; 4 << 20], 128 << 10);
        assert_eq!((feeds.checkpoints.len(), feeds.lines()), (32, 4 << 20));
        let (tiny_parts, _) = index(&vec![b'x'; 256 << 10], 16);
        assert_eq!(tiny_parts.checkpoints.len(), 4);
    }

    proptest! {
        #[test]
        fn a_line_begins_after_the_place_that_the_index_names(
            lengths in proptest::collection::vec(prop_oneof![0_usize..40, 60_000_usize..140_000], 1..12),
            part_bytes in 70_000_usize..140_000,
        ) {
            let lines: Vec<String> = lengths.iter().map(|length| "x".repeat(*length)).collect();
            let output = lines.join("\n");
            let (index, positions) = index(output.as_bytes(), part_bytes);
            prop_assert_eq!(index.lines(), output.split_terminator('\n').count() as u64);
            let mut start = 0;
            for (at, line) in lines.iter().enumerate() {
                let number = at as u64 + 1;
                let place = index.before_line(number);
                prop_assert!(place.position.offset <= start as u64);
                let before = &output.as_bytes()[..place.position.offset as usize];
                let feeds = before.iter().filter(|byte| **byte == b'\n').count() as u64;
                prop_assert_eq!(place.line_feeds, feeds);
                // a later place would be inside of the line, or after it
                let later = positions.iter().find(|later| later.offset > place.position.offset);
                prop_assert!(later.is_none_or(|later| later.offset >= start as u64));
                start += line.len() + 1;
            }
            let middle = output.len() as u64 / 2;
            let place = index.before_offset(middle);
            prop_assert!(place.position.offset <= middle);
            prop_assert!(middle - place.position.offset < part_bytes as u64);
        }
    }
}
