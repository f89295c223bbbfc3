//! The requests by which a worker asks another one for the slots that it has taken ahead and does not use.

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::error::BrokerError;
use crate::requests::{ReceivedRequest, RequestSubscription};
use naq_core::HolderReply;

/// The request to return the unused slots of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsWanted {
    /// The concurrency key.
    #[serde(rename = "wants_slots_of")]
    pub key: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct SlotsAnswer {
    /// How many slots of the key the worker has now.
    slots: u32,
}

/// A request that awaits its answer.
pub type ReceivedSlotsWanted = ReceivedRequest<SlotsWanted>;

impl ReceivedSlotsWanted {
    /// Answers once the unused slots are returned. If the answer is lost, the asker asks again.
    pub async fn reply(self, slots: u32) {
        self.reply_with(&SlotsAnswer { slots }).await;
    }
}

/// The requests to one worker.
pub type SlotsWantedSubscription = RequestSubscription<SlotsWanted>;

impl Broker {
    /// Subscribes to the requests for slots of this worker. Before that it must take none ahead.
    ///
    /// # Errors
    /// Returns [`BrokerError::ConnectionLost`] if the connection is closed.
    pub async fn subscribe_slots_wanted(
        &self,
        worker_id: &str,
    ) -> Result<SlotsWantedSubscription, BrokerError> {
        self.subscribe_requests(self.names.slots_of_worker(worker_id))
            .await
    }

    /// Asks a worker to return the slots of a key that it does not use. An answer of the worker, whatever
    /// it has, is [`HolderReply::Running`]. `silent` is how many times in a row it did not reply before.
    ///
    /// # Errors
    /// Returns an error if the server does not answer either.
    pub async fn ask_for_slots(
        &self,
        worker_id: &str,
        key: &str,
        silent: u32,
    ) -> Result<HolderReply, BrokerError> {
        let question = SlotsWanted {
            key: key.to_owned(),
        };
        let subject = self.names.slots_of_worker(worker_id);
        let probe = async || self.read_slots(key).await.map(drop);
        let reply = self.ask_worker(subject, &question, silent, probe).await?;
        Ok(reply.unwrap_or(HolderReply::Running))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_slots_have_the_documented_form() {
        let wanted = SlotsWanted {
            key: "licence".to_owned(),
        };
        let text = serde_json::to_string(&wanted).unwrap();
        assert_eq!(text, r#"{"wants_slots_of":"licence"}"#);
        let text = serde_json::to_string(&SlotsAnswer { slots: 3 }).unwrap();
        assert_eq!(text, r#"{"slots":3}"#);
    }
}
