//! Closes the connection to a server whose greeting does not end.
//!
//! The NATS client collects a greeting until its line ends, without a bound, for at most `connect_timeout`.
//! The client does not expose these bytes. But while a verb connects, hardly anything else in the process
//! allocates memory, so naq bounds the growth of the process.

use std::pin::pin;
use std::time::Duration;

use super::exit::{Exit, Failure};
use crate::metrics::resident_kib;

/// Maximum growth of this process's memory while it connects, in KiB. A greeting has a few KiB.
fn growth_max_kib() -> u64 {
    fail::fail_point!("greeting.growth_max_kib", |kib| kib
        .and_then(|text| text.parse().ok())
        .unwrap_or_default());
    64 << 10
}

/// Interval between two checks of the memory. Bytes that arrive in between add to the bound.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Connects to a server, unless its greeting exceeds the bound.
///
/// # Errors
/// Returns a [`Failure`] if the memory of this process grows beyond the bound while it connects.
pub(super) async fn bounded<T>(connecting: impl Future<Output = T>) -> Result<T, Failure> {
    let mut connecting = pin!(connecting);
    let mut before = None;
    loop {
        if let Ok(connected) = tokio::time::timeout(LOOK_INTERVAL, &mut connecting).await {
            return Ok(connected);
        }
        let Some(now) = resident_kib() else {
            return Ok(connecting.await);
        };
        // most connections are complete before the first check
        if now > *before.get_or_insert(now) + growth_max_kib() {
            return Err(
                Failure::new(Exit::NoNats, "the server sends a greeting without an end")
                    .hint("check that the server at this address is the right one"),
            );
        }
    }
}
