//! Keeps the head and the tail of a stream in bounded memory.

use sha2::{Digest, Sha256};

use super::completion::Captured;

/// The bytes of one stream that are kept.
#[derive(Debug)]
pub(super) struct Capture {
    head: Vec<u8>,
    head_bytes_max: usize,
    /// The latest bytes after the head. Grows to twice `tail_bytes_max` before it
    /// is trimmed, so that not every push moves the whole tail.
    tail: Vec<u8>,
    tail_bytes_max: usize,
    /// Number of bytes that were pushed.
    pushed_bytes: u64,
    /// Whether bytes were dropped from the tail.
    truncated: bool,
    hash: Option<Sha256>,
}

impl Capture {
    /// A capture that keeps at most `output_bytes`, half of them from the end.
    pub(super) fn new(output_bytes: u64) -> Capture {
        let kept = usize::try_from(output_bytes).unwrap_or(usize::MAX / 4);
        Capture {
            head: Vec::new(),
            head_bytes_max: kept - kept / 2,
            tail: Vec::new(),
            tail_bytes_max: kept / 2,
            pushed_bytes: 0,
            truncated: false,
            hash: None,
        }
    }

    /// Appends a piece of the stream.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.pushed_bytes += piece.len() as u64;
        let room = self.head_bytes_max - self.head.len();
        let (head, rest) = piece.split_at(room.min(piece.len()));
        self.head.extend_from_slice(head);
        if rest.is_empty() {
            return;
        }
        if let Some(hash) = &mut self.hash {
            hash.update(rest);
        } else if self.tail.len() + rest.len() > self.tail_bytes_max {
            // From here on bytes are dropped, so the hash is computed as they arrive.
            let mut hash = Sha256::new();
            hash.update(&self.head);
            hash.update(&self.tail);
            hash.update(rest);
            self.hash = Some(hash);
            self.truncated = true;
        }
        if rest.len() >= self.tail_bytes_max {
            self.tail.clear();
            self.tail
                .extend_from_slice(&rest[rest.len() - self.tail_bytes_max..]);
            return;
        }
        if self.tail.len() + rest.len() > 2 * self.tail_bytes_max {
            let keep = self.tail_bytes_max - rest.len();
            self.tail.drain(..self.tail.len() - keep);
        }
        self.tail.extend_from_slice(rest);
    }

    /// Number of bytes of the stream so far, kept or not.
    pub(super) fn pushed_bytes(&self) -> u64 {
        self.pushed_bytes
    }

    /// The kept bytes in order, each part with its offset in the stream: head, then tail.
    pub(super) fn contents(&self) -> [(u64, &[u8]); 2] {
        let surplus = self.tail.len().saturating_sub(self.tail_bytes_max);
        let tail = &self.tail[surplus..];
        [
            (0, &self.head),
            (self.pushed_bytes - tail.len() as u64, tail),
        ]
    }

    /// Ends the stream. `bytes` is the number of bytes that the job wrote.
    pub(super) fn finish(mut self, bytes: u64) -> Captured {
        let surplus = self.tail.len().saturating_sub(self.tail_bytes_max);
        self.tail.drain(..surplus);
        let kept = (self.head.len() + self.tail.len()) as u64;
        let mut captured = Captured {
            missing_bytes: self.pushed_bytes - kept,
            head: self.head,
            tail: self.tail,
            bytes,
            sha256: self.hash.map(|hash| hash.finalize().into()),
        };
        if captured.missing_bytes == 0 && !captured.tail.is_empty() {
            captured.head.append(&mut captured.tail);
        }
        captured
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn head_tail_and_hash_of_a_truncated_stream_are_exact(
            kept in 0_usize..40,
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..12),
        ) {
            let all = pieces.concat();
            let mut capture = Capture::new(kept as u64);
            for piece in &pieces {
                capture.push(piece);
            }
            let captured = capture.finish(all.len() as u64);
            prop_assert_eq!(captured.missing_bytes, all.len().saturating_sub(kept) as u64);
            if captured.missing_bytes > 0 {
                prop_assert_eq!(&captured.head[..], &all[..kept - kept / 2]);
                prop_assert_eq!(&captured.tail[..], &all[all.len() - kept / 2..]);
                prop_assert_eq!(captured.sha256, Some(Sha256::digest(&all).into()));
            } else {
                prop_assert_eq!(captured.head, all);
                prop_assert!(captured.tail.is_empty());
            }
        }
    }
}
