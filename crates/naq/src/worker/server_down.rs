//! Leases while NATS is down for everybody: the jobs continue.
//!
//! A worker that does not reach NATS stops its jobs before their leases end, since others may
//! reach it. A refused connection is different where only a server that does not run refuses
//! connections: then nobody can be given the message.

use std::sync::Arc;
use std::time::Duration;

use super::context::WorkerContext;
use crate::clock::BootInstant;

/// How long a refused connection extends the leases. The server may be back the moment after, and
/// redeliver the messages; who gets one takes its job over only after it has been connected for
/// `takeover_after`, which is longer than this and the time to kill a job.
const REFUSED_TRUST: Duration = Duration::from_secs(4);

/// The shortest `takeover_after`: a lease that a refused connection has extended must have ended,
/// and its job be dead, before another worker takes the job over.
pub const TAKEOVER_AFTER_MIN: Duration = REFUSED_TRUST.saturating_add(Duration::from_secs(2));

/// Time between two attempts to connect.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// Extends the leases while NATS refuses connections, if that means that it is down.
pub(super) async fn extend_leases_while_refused(context: Arc<WorkerContext>) {
    let broker = &context.broker;
    let mut link = broker.connection().clone();
    let mut is_logged = false;
    loop {
        if link.mark_seen().connected {
            is_logged = false;
            link.changed().await;
            continue;
        }
        // before the attempt: the server may start right after it has refused
        let probed_at = BootInstant::now();
        let is_trusted = context.options.trust_refused || broker.refusal_means_down();
        if is_trusted && broker.is_refused().await {
            let leases = context.leases.all();
            for lease in &leases {
                lease.trust_until(probed_at + REFUSED_TRUST);
            }
            if !is_logged && !leases.is_empty() {
                is_logged = true;
                tracing::warn!(
                    running = leases.len(),
                    "NATS is down; running jobs continue, and their outcomes are recorded when it is back"
                );
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}
