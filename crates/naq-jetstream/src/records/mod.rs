//! Records of jobs: stored, watched and consumed.

pub(crate) mod change;
pub(crate) mod consumer;
pub(crate) mod events;
pub(crate) mod outline;
pub(crate) mod purge_results;
pub(crate) mod record;
pub(crate) mod unsuccessful;

use std::time::Duration;

/// Pause before a failed request for changes is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
