//! Live output: chunks of a job's output, sent while the job runs.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::pipes::READ_BYTES;

/// The stream of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A chunk of masked output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveChunk {
    /// The stream.
    pub stream: StreamKind,
    /// Number of bytes of the masked stream before this chunk. If it is more than the chunks before
    /// have, bytes between them were dropped.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// Where the live output of a job is sent. If the reader is slow, chunks are
/// dropped and counted in [`super::Completion::live_dropped_bytes`]; the job never
/// waits, unless the sink is [`LiveSink::lossless`].
#[derive(Clone, Debug)]
pub struct LiveSink {
    sender: mpsc::Sender<LiveChunk>,
    start_after: Duration,
    lossless: bool,
}

/// Chunks that both pipes of a job can contain at most (1 MiB each, by the kernel's
/// default bound). With a lossless sink, the pipes are read only while the channel
/// has room for as many.
const RESERVED_CHUNKS: usize = 2 * (1 << 20) / READ_BYTES;

impl LiveSink {
    /// Default age of a job at which live output starts.
    pub const DEFAULT_START_AFTER: Duration = Duration::from_secs(1);

    /// Sends to this channel once the job has this age: first the output kept so
    /// far, then each further piece. Zero means from the beginning.
    pub fn new(sender: mpsc::Sender<LiveChunk>, start_after: Duration) -> LiveSink {
        LiveSink {
            sender,
            start_after,
            lossless: false,
        }
    }

    /// Sends all output from the beginning. A slow reader slows the job down, as a
    /// pipe would. The channel must have a capacity of 128 or more.
    pub fn lossless(sender: mpsc::Sender<LiveChunk>) -> LiveSink {
        LiveSink {
            sender,
            start_after: Duration::ZERO,
            lossless: true,
        }
    }

    /// Whether the channel has room for all that the pipes can contain.
    pub(super) fn has_capacity(&self) -> bool {
        !self.lossless || self.sender.capacity() >= RESERVED_CHUNKS || self.sender.is_closed()
    }

    /// Waits until the channel has that room, or is closed.
    pub(super) async fn wait_for_capacity(&self) {
        if self.lossless {
            let _ = self.sender.reserve_many(RESERVED_CHUNKS).await;
        }
    }

    pub(super) fn start_after(&self) -> Duration {
        self.start_after
    }

    /// Sends if the channel has room. Returns the number of bytes dropped.
    pub(super) fn send(&self, stream: StreamKind, offset: u64, bytes: &[u8]) -> u64 {
        if bytes.is_empty() {
            return 0;
        }
        let chunk = LiveChunk {
            stream,
            offset,
            bytes: Bytes::copy_from_slice(bytes),
        };
        match self.sender.try_send(chunk) {
            Ok(()) => 0,
            Err(_) => bytes.len() as u64,
        }
    }
}
