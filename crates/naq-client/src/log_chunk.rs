//! [`LogChunk`]: a piece of a job's output, or a place where one is missing.

use bytes::Bytes;

use naq_jetstream::OutputStream;

/// A piece of a job's output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogChunk {
    /// Bytes of one of the streams.
    Bytes {
        /// The stream.
        stdio: OutputStream,
        /// The attempt that wrote the bytes.
        attempt: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// Bytes that are missing here.
    Missing {
        /// The stream.
        stdio: OutputStream,
        /// The attempt that wrote the bytes.
        attempt: u32,
        /// Number of bytes.
        bytes: u64,
        /// Whether they were live output that the record may still have when the job has ended.
        /// Otherwise they are not kept.
        is_live: bool,
    },
    /// The end of an attempt; nothing of it follows.
    End {
        /// The attempt.
        attempt: u32,
    },
}
