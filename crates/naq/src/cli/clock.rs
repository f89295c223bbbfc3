//! Warns if this machine's clock is wrong, for verbs that compute or show times.

use std::time::Duration;

use super::render;
use naq_client::Client;

/// How long a verb waits for the server's clock: a user without permission to read it gets no answer.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Prints a note if this machine's clock is more than two seconds from the server's.
pub(super) async fn warn_if_off(client: &Client) {
    let measured = tokio::time::timeout(CLOCK_TIMEOUT, client.measure_clock_skew()).await;
    if let Ok(Ok(Some(skew))) = measured
        && skew.is_excessive()
    {
        render::note(format_args!(
            "the clock of this machine is {skew}: times that naq computes or shows here are off by as much"
        ));
    }
}
