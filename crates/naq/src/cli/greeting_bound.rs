//! Gives up a server whose greeting has no end.
//!
//! The NATS client collects a greeting until its line ends, for as long as `connect_timeout` lasts and
//! without a bound. It shows nobody the bytes, but before a verb is connected, hardly anything else of it
//! takes memory. So what counts is the memory of the process.

use std::pin::pin;
use std::time::Duration;

use super::exit::{Exit, Failure};

/// By how much the memory of this process may grow while it connects, in KiB. A greeting has a few of them.
fn growth_max_kib() -> u64 {
    fail::fail_point!("greeting.growth_max_kib", |kib| kib
        .and_then(|text| text.parse().ok())
        .unwrap_or_default());
    64 << 10
}

/// Time between two looks at the memory. What arrives in between adds to the bound.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Connects to a server, unless its greeting has no end.
///
/// # Errors
/// Returns a [`Failure`] if the memory of this process grows beyond the bound meanwhile.
pub(super) async fn bounded<T>(connecting: impl Future<Output = T>) -> Result<T, Failure> {
    let mut connecting = pin!(connecting);
    let mut before = None;
    loop {
        if let Ok(connected) = tokio::time::timeout(LOOK_INTERVAL, &mut connecting).await {
            return Ok(connected);
        }
        let Some(now) = own_memory_kib() else {
            return Ok(connecting.await);
        };
        // the first look is after the moment in which most connections are made
        if now > *before.get_or_insert(now) + growth_max_kib() {
            return Err(
                Failure::new(Exit::NoNats, "the server sends a greeting without an end")
                    .hint("check that the server at this address is the right one"),
            );
        }
    }
}

/// The memory of this process, in KiB. `None` where the kernel does not show it.
fn own_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().trim_end_matches(" kB").parse().ok()
}
