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
        /// Whether live output dropped them, so that the record may have them once the job has ended.
        /// If false, they are lost.
        is_live: bool,
    },
    /// The end of an attempt: it has no further chunks.
    End {
        /// The attempt.
        attempt: u32,
    },
}
