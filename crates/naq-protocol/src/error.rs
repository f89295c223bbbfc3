//! Why an envelope, a schedule or a flow is refused.

use std::fmt;

use crate::text::escape;

/// Why an envelope never became a job.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The bytes are not a well-formed envelope.
    Invalid,
    /// The envelope has a version that this naq does not support.
    UnsupportedVersion,
    /// The worker's policy does not allow what the envelope requests.
    NotAllowed,
}

impl RejectReason {
    /// The name in records and headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::Invalid => "invalid",
            RejectReason::UnsupportedVersion => "unsupported_version",
            RejectReason::NotAllowed => "not_allowed",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The longest message of an [`EnvelopeError`], in characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// What is wrong with an envelope, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct EnvelopeError {
    /// The kind of error.
    pub reason: RejectReason,
    /// The path of the invalid field (`env.A`, `args[2]`); empty for the envelope itself.
    pub path: String,
    /// What is wrong, with line and column if the text is not valid JSON.
    pub message: String,
}

impl EnvelopeError {
    /// An error at a path. The path and the message are escaped, since they may quote the envelope
    /// and go to logs; a message over 500 characters is cut.
    pub fn new(
        reason: RejectReason,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> EnvelopeError {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_CHARS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        EnvelopeError {
            reason,
            path: escape(&path.into()),
            message: escape(&message),
        }
    }
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "envelope: {}", self.message)
        } else {
            write!(f, "envelope: `{}`: {}", self.path, self.message)
        }
    }
}
