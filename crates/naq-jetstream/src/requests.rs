//! Requests to one process, on a subject of its own, with replies. They are JSON.

use std::marker::PhantomData;

use async_nats::Subscriber;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::error::BrokerError;

/// A received request that awaits its reply.
pub struct ReceivedRequest<Request> {
    /// The request.
    pub request: Request,
    reply: Option<async_nats::Subject>,
    client: async_nats::Client,
}

impl<Request> ReceivedRequest<Request> {
    /// Replies. Whether the reply arrives is unknown, so its loss must do no harm.
    pub(crate) async fn reply_with(self, answer: &impl Serialize) {
        let Some(reply) = self.reply else { return };
        let answer = serde_json::to_vec(answer).unwrap_or_default();
        let _ = self.client.publish(reply, answer.into()).await;
    }
}

/// The requests to one process.
pub struct RequestSubscription<Request> {
    subscriber: Subscriber,
    client: async_nats::Client,
    requests: PhantomData<fn() -> Request>,
}

impl<Request: DeserializeOwned> RequestSubscription<Request> {
    /// Waits for the next request. Cancel safe.
    pub async fn next(&mut self) -> ReceivedRequest<Request> {
        loop {
            let Some(message) = self.subscriber.next().await else {
                return std::future::pending().await;
            };
            match serde_json::from_slice(&message.payload) {
                Ok(request) => {
                    return ReceivedRequest {
                        request,
                        reply: message.reply,
                        client: self.client.clone(),
                    };
                }
                Err(error) => {
                    let subject = message.subject.as_str();
                    tracing::debug!(subject, "ignored a request that cannot be parsed: {error}");
                }
            }
        }
    }
}

impl Broker {
    /// Subscribes to the requests on a subject.
    pub(crate) async fn subscribe_requests<Request>(
        &self,
        subject: String,
    ) -> Result<RequestSubscription<Request>, BrokerError> {
        Ok(RequestSubscription {
            subscriber: self.subscribe(subject).await?,
            client: self.client.clone(),
            requests: PhantomData,
        })
    }
}
