//! The version of the envelope format.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{EnvelopeError, RejectReason};

/// The version of the envelope that this naq writes, and the highest that it reads.
pub(crate) const VERSION: u32 = 1;

/// The version of an envelope whose other fields cannot be read. A later version may have changed
/// any of them, so an unsupported version takes precedence over an invalid field.
pub(crate) fn version_alone(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Versioned {
        version: Option<Value>,
    }
    let version = serde_json::from_str::<Versioned>(text).ok()?.version?;
    version.as_u64().or_else(|| {
        let whole = crate::lenient::whole(version.as_f64()?)?;
        u64::try_from(whole).ok()
    })
}

/// Checks that this naq reads envelopes of a version. `None` is version 1.
pub(crate) fn check_version(version: Option<u64>) -> Result<(), EnvelopeError> {
    match version {
        None => Ok(()),
        Some(version) if version == u64::from(VERSION) => Ok(()),
        Some(0) => Err(EnvelopeError::new(
            RejectReason::Invalid,
            "version",
            "it is 0; the first version is 1",
        )),
        Some(version) => Err(EnvelopeError::new(
            RejectReason::UnsupportedVersion,
            "version",
            format!(
                "{version} is newer than this naq, which reads up to {VERSION}; update the worker"
            ),
        )),
    }
}
