//! Deliveries that were lost on the way: given back before the server would do it by itself.
//!
//! A message that no client can read takes with it what came by the same connection and had not
//! been read. Nobody works on those, but the server waits for an answer until `ack_wait` is over.

use std::collections::HashMap;
use std::time::Duration;

use super::delivery::resolve_job_id;
use naq_jetstream::{Broker, BrokerError, Delivery};
use naq_protocol::{Envelope, JobId, QueueName, State};

/// A worker claims what it has been delivered within milliseconds. What nobody has claimed after
/// this long nobody has; and if somebody has, and is slow, his claim finds that of the next.
const CLAIM_GRACE: Duration = Duration::from_secs(1);

/// Hands back what is out in a queue and stays unclaimed.
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

/// The messages that are out and that no record says are worked on, by sequence.
async fn unclaimed_deliveries(
    broker: &Broker,
    queue: &QueueName,
) -> Result<HashMap<u64, Delivery>, BrokerError> {
    let mut out: Vec<(JobId, Delivery)> = Vec::new();
    broker
        .unacked_deliveries(queue, |mut delivery| {
            let (job_id, _) =
                resolve_job_id(&delivery, Envelope::parse(&delivery.payload).ok().as_ref());
            delivery.payload = bytes::Bytes::new();
            out.push((job_id, delivery));
        })
        .await?;
    let mut unclaimed = HashMap::new();
    for (job_id, delivery) in out {
        let claimed = match broker.read_record(&job_id).await? {
            (Some(record), _) => record.state == State::Running || record.state.is_terminal(),
            (None, _) => false,
        };
        if !claimed {
            unclaimed.insert(delivery.sequence, delivery);
        }
    }
    Ok(unclaimed)
}
