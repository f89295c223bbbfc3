//! Output as it comes, for whoever follows a job.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::collect::READ_BYTES;

/// Which stream a chunk is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output, masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveChunk {
    /// Which stream.
    pub stream: StreamKind,
    /// The bytes.
    pub bytes: Bytes,
}

/// Where a job's live output goes. A reader that is slow loses chunks, which
/// are counted ([`super::Completion::live_dropped_bytes`]); the job never waits.
#[derive(Clone, Debug)]
pub struct LiveSink {
    sender: mpsc::Sender<LiveChunk>,
    start_after: Duration,
    lossless: bool,
}

/// Free places in the channel below which the pipes of a job with a lossless sink are not read:
/// what both pipes can hold at the most (1 MiB each, by the kernel's default bound), in pieces
/// of one read.
const RESERVED_CHUNKS: usize = 2 * (1 << 20) / READ_BYTES;

impl LiveSink {
    /// How old a job is before its output goes live, unless told otherwise.
    pub const DEFAULT_START_AFTER: Duration = Duration::from_secs(1);

    /// Sends to this channel once the job is this old: first what was kept of
    /// its output so far, then the rest as it comes. With zero, at once.
    pub fn new(sender: mpsc::Sender<LiveChunk>, start_after: Duration) -> LiveSink {
        LiveSink {
            sender,
            start_after,
            lossless: false,
        }
    }

    /// Sends everything, from the beginning: a reader that is slow slows the job down, as a
    /// pipe would. The channel must have a capacity of 128 or more.
    pub fn lossless(sender: mpsc::Sender<LiveChunk>) -> LiveSink {
        LiveSink {
            sender,
            start_after: Duration::ZERO,
            lossless: true,
        }
    }

    /// Whether there is room for whatever the pipes can hold.
    pub(super) fn has_capacity(&self) -> bool {
        !self.lossless || self.sender.capacity() >= RESERVED_CHUNKS || self.sender.is_closed()
    }

    /// Waits until there is room, or nobody reads any more.
    pub(super) async fn wait_for_capacity(&self) {
        if self.lossless {
            let _ = self.sender.reserve_many(RESERVED_CHUNKS).await;
        }
    }

    pub(super) fn start_after(&self) -> Duration {
        self.start_after
    }

    /// Sends if there is room; returns the bytes dropped.
    pub(super) fn send(&self, stream: StreamKind, bytes: &[u8]) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let chunk = LiveChunk {
            stream,
            bytes: Bytes::copy_from_slice(bytes),
        };
        match self.sender.try_send(chunk) {
            Ok(()) => 0,
            Err(_) => bytes.len() as u64,
        }
    }
}
