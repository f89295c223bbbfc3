//! How long the record of a finished job stays.

use std::time::Duration;

use naq_protocol::Envelope;

/// The shortest time that the record of a finished job stays. Within it, every late message of
/// the job arrives and is recognised as a duplicate.
pub const RECORD_TTL_MIN: Duration = Duration::from_secs(600);

/// How long the record of a finished job stays: the envelope's `result_ttl`, or else `default`.
/// `None` means forever.
#[must_use]
pub fn result_ttl(envelope: Option<&Envelope>, default: Duration) -> Option<Duration> {
    let requested = envelope
        .and_then(|envelope| envelope.result_ttl)
        .map_or(default, |span| span.0);
    clamp_result_ttl(requested)
}

/// A requested time to live, raised to [`RECORD_TTL_MIN`]. 0 requests forever, which is `None`.
#[must_use]
pub fn clamp_result_ttl(requested: Duration) -> Option<Duration> {
    (!requested.is_zero()).then(|| requested.max(RECORD_TTL_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::units::WireDuration;

    #[test]
    fn result_ttl_has_a_minimum_and_zero_means_forever() {
        let mut envelope = Envelope::command("x", [] as [&str; 0]);
        let default = Duration::from_secs(3_600);
        assert_eq!(result_ttl(Some(&envelope), default), Some(default));
        envelope.result_ttl = Some(WireDuration::from_secs(1));
        assert_eq!(result_ttl(Some(&envelope), default), Some(RECORD_TTL_MIN));
        envelope.result_ttl = Some(WireDuration::from_secs(0));
        assert_eq!(result_ttl(Some(&envelope), default), None);
    }
}
