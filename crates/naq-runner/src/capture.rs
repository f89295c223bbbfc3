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
            truncated: false,
            hash: None,
        }
    }

    /// Appends a piece of the stream.
    pub(super) fn push(&mut self, piece: &[u8]) {
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

    /// The kept bytes in order: head, then tail.
    pub(super) fn contents(&self) -> [&[u8]; 2] {
        let surplus = self.tail.len().saturating_sub(self.tail_bytes_max);
        [&self.head, &self.tail[surplus..]]
    }

    /// Ends the stream. `bytes` is the number of bytes that the job wrote.
    pub(super) fn finish(mut self, bytes: u64) -> Captured {
        let surplus = self.tail.len().saturating_sub(self.tail_bytes_max);
        self.tail.drain(..surplus);
        let mut captured = Captured {
            head: self.head,
            tail: self.tail,
            bytes,
            truncated: self.truncated,
            sha256: self.hash.map(|hash| hash.finalize().into()),
        };
        if !captured.truncated && !captured.tail.is_empty() {
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
            prop_assert_eq!(captured.truncated, all.len() > kept);
            if captured.truncated {
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
