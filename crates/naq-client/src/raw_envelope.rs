//! Envelopes as they are stored: JSON that may be invalid.

use naq_protocol::Envelope;
use serde_json::value::RawValue;

/// The maximum length of a summary's command, in characters.
const COMMAND_CHARS_MAX: usize = 200;

/// Returns an envelope as JSON. `None` means that it is no JSON.
pub(super) fn as_json(bytes: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(bytes).ok()
}

/// Returns what an envelope runs, in one line. `None` means that the envelope is invalid.
pub(super) fn command(envelope: &RawValue) -> Option<String> {
    let summary = Envelope::parse(envelope.get().as_bytes()).ok()?.summary();
    Some(summary.chars().take(COMMAND_CHARS_MAX).collect())
}
