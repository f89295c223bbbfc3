//! Output as it comes, for whoever follows a job.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

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
/// are counted ([`super::Ended::live_dropped_bytes`]); the job never waits.
#[derive(Clone, Debug)]
pub struct LiveSink {
    sender: mpsc::Sender<LiveChunk>,
    after: Duration,
}

impl LiveSink {
    /// How old a job is before its output goes live, unless told otherwise.
    pub const AFTER_DEFAULT: Duration = Duration::from_secs(1);

    /// Sends to this channel once the job is this old: first what was kept of
    /// its output so far, then the rest as it comes. With zero, at once.
    pub fn new(sender: mpsc::Sender<LiveChunk>, after: Duration) -> LiveSink {
        LiveSink { sender, after }
    }

    pub(super) fn after(&self) -> Duration {
        self.after
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
