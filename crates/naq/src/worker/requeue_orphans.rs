//! Deliveries that were lost on the way: requeued before the server would redeliver them.
//!
//! A poison message drops the connection, and with it the deliveries behind it that had not been
//! parsed. No worker has those, but the server waits for an answer until `ack_wait` is over.

use std::collections::HashMap;
use std::time::Duration;

use super::delivery::resolve_job_id;
use naq_jetstream::{Broker, BrokerError, Delivery};
use naq_protocol::{Envelope, JobId, QueueName, State};

/// A worker claims a delivered job within milliseconds. A job that is unclaimed after this long is
/// taken for lost. If a slow worker has it after all, its claim conflicts with that of the next.
const CLAIM_GRACE: Duration = Duration::from_secs(1);

/// Requeues the deliveries of a queue that stay unclaimed.
///
/// # Errors
/// Returns the broker's error if the server refuses a request or does not answer.
pub(super) async fn requeue_orphans(broker: &Broker, queue: &QueueName) -> Result<(), BrokerError> {
    let before = unclaimed_deliveries(broker, queue).await?;
    if before.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(CLAIM_GRACE).await;
    for (sequence, delivery) in unclaimed_deliveries(broker, queue).await? {
        if before.contains_key(&sequence) {
            delivery.nak().await?;
        }
    }
    Ok(())
}

/// The unacknowledged deliveries whose record shows no claim, by sequence.
async fn unclaimed_deliveries(
    broker: &Broker,
    queue: &QueueName,
) -> Result<HashMap<u64, Delivery>, BrokerError> {
    let mut unacked: Vec<(JobId, Delivery)> = Vec::new();
    broker
        .unacked_deliveries(queue, |mut delivery| {
            let (job_id, _) =
                resolve_job_id(&delivery, Envelope::parse(&delivery.payload).ok().as_ref());
            delivery.payload = bytes::Bytes::new();
            unacked.push((job_id, delivery));
        })
        .await?;
    let mut unclaimed = HashMap::new();
    for (job_id, delivery) in unacked {
        let is_claimed = match broker.read_record(&job_id).await? {
            // a worker of a later version may run a job in a state that only that version knows
            (Some(record), _) => {
                matches!(record.state(), State::Running | State::Unknown(_))
                    || record.state().is_terminal()
            }
            (None, _) => false,
        };
        if !is_claimed {
            unclaimed.insert(delivery.sequence, delivery);
        }
    }
    Ok(unclaimed)
}
