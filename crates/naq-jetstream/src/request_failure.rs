//! Requests that fail: those that the server denies, and the errors of others by their cause.
//!
//! The client library has an error type for each of its functions, and each hides the same few causes: no
//! answer in time, no responder, and an error of the API.

use std::error::Error;
use std::time::Instant;

use async_nats::jetstream::consumer::StreamErrorKind;
use async_nats::jetstream::consumer::pull::ConsumerRecreateErrorKind;
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamErrorKind, RequestErrorKind,
};
use async_nats::jetstream::stream::{
    ConsumerCreateStrictErrorKind, ConsumerErrorKind, ConsumerUpdateErrorKind, DirectGetErrorKind,
    PurgeErrorKind,
};

use crate::broker::Broker;
use crate::error::{BrokerError, NoJetStream};
use crate::request_timings::RequestKind;

/// Why a request failed.
#[derive(Debug)]
enum RequestCause {
    /// No answer came in time.
    TimedOut,
    /// Nothing listens on the subject.
    NoResponders,
    /// The API answered with an error.
    Api(async_nats::jetstream::Error),
    /// Anything else.
    Other,
}

/// The cause of an error of the client.
fn cause_of(error: &(dyn Error + 'static)) -> RequestCause {
    let mut next = Some(error);
    while let Some(error) = next {
        match own_cause(error) {
            RequestCause::Other => next = error.source(),
            cause => return cause,
        }
    }
    RequestCause::Other
}

/// The cause that an error itself has, without the errors behind it.
fn own_cause(error: &(dyn Error + 'static)) -> RequestCause {
    /// Compares the kind of an error of this type.
    macro_rules! kinds {
        ($($kind:ty { $($pattern:pat => $cause:expr),+ $(,)? })+) => {$(
            if let Some(error) = error.downcast_ref::<async_nats::error::Error<$kind>>() {
                return match error.kind() {
                    $($pattern => $cause,)+
                    _ => RequestCause::Other,
                };
            }
        )+};
    }
    use RequestCause::{Api, NoResponders, TimedOut};
    if let Some(api) = error.downcast_ref::<async_nats::jetstream::Error>() {
        return Api(api.clone());
    }
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return match io.kind() {
            std::io::ErrorKind::TimedOut => TimedOut,
            _ => RequestCause::Other,
        };
    }
    kinds! {
        RequestErrorKind {
            RequestErrorKind::TimedOut => TimedOut,
            RequestErrorKind::NoResponders => NoResponders,
        }
        async_nats::RequestErrorKind {
            async_nats::RequestErrorKind::TimedOut => TimedOut,
            async_nats::RequestErrorKind::NoResponders => NoResponders,
        }
        CreateStreamErrorKind {
            CreateStreamErrorKind::TimedOut => TimedOut,
            CreateStreamErrorKind::JetStreamUnavailable => NoResponders,
            CreateStreamErrorKind::JetStream(api) => Api(api),
        }
        GetStreamErrorKind { GetStreamErrorKind::JetStream(api) => Api(api) }
        ConsumerInfoErrorKind {
            ConsumerInfoErrorKind::TimedOut => TimedOut,
            ConsumerInfoErrorKind::NoResponders => NoResponders,
            ConsumerInfoErrorKind::JetStream(api) => Api(api),
        }
        ConsumerErrorKind {
            ConsumerErrorKind::TimedOut => TimedOut,
            ConsumerErrorKind::JetStream(api) => Api(api),
        }
        ConsumerUpdateErrorKind {
            ConsumerUpdateErrorKind::TimedOut => TimedOut,
            ConsumerUpdateErrorKind::JetStream(api) => Api(api),
        }
        ConsumerCreateStrictErrorKind {
            ConsumerCreateStrictErrorKind::TimedOut => TimedOut,
            ConsumerCreateStrictErrorKind::JetStream(api) => Api(api),
        }
        ConsumerRecreateErrorKind { ConsumerRecreateErrorKind::TimedOut => TimedOut }
        StreamErrorKind { StreamErrorKind::TimedOut => TimedOut }
        DirectGetErrorKind { DirectGetErrorKind::TimedOut => TimedOut }
        PurgeErrorKind {
            PurgeErrorKind::TimedOut => TimedOut,
            PurgeErrorKind::JetStream(api) => Api(api),
        }
    }
    RequestCause::Other
}

impl Broker {
    /// The error of a failed request, by its cause.
    pub(crate) fn request_error(
        &self,
        doing: &'static str,
        error: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> BrokerError {
        let error = error.into();
        match cause_of(error.as_ref()) {
            RequestCause::TimedOut => BrokerError::Timeout(doing),
            RequestCause::NoResponders => BrokerError::NoJetStream(self.no_jetstream()),
            RequestCause::Api(api) => match BrokerError::from_api(&api, doing) {
                // the caller knows what it looked for, and this error would not name it
                BrokerError::NotFound(_) | BrokerError::Conflict => {
                    BrokerError::refused(doing, error)
                }
                classified => classified,
            },
            RequestCause::Other => BrokerError::refused(doing, error),
        }
    }

    /// Where JetStream is missing, given that nobody answers on the subjects of its API.
    fn no_jetstream(&self) -> NoJetStream {
        match &self.options.jetstream_domain {
            Some(domain) => NoJetStream::Domain(domain.clone()),
            None if self.client.server_info().jetstream => NoJetStream::Account,
            None => NoJetStream::Server,
        }
    }
}

impl Broker {
    /// Waits for a request that is about this subject or stream. Ends at once if the server denies it.
    ///
    /// # Errors
    /// Returns [`BrokerError::PermissionDenied`] if the server denies the request.
    pub(crate) async fn until_denied<T>(
        &self,
        doing: &'static str,
        about: &str,
        request: impl IntoFuture<Output = T>,
    ) -> Result<T, BrokerError> {
        // before the request is sent, which happens when it is first polled
        let mut denials = self.link.denials();
        let sent_at = Instant::now();
        tokio::select! {
            biased;
            answer = request.into_future() => {
                self.timings.report(RequestKind::of(about), sent_at.elapsed());
                Ok(answer)
            }
            denial = denials.request_denied(about) => {
                Err(BrokerError::PermissionDenied { doing, denial })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::error::Error as NatsError;

    #[test]
    fn the_cause_of_a_failed_request_is_found_behind_the_errors_of_the_client() {
        let api: async_nats::jetstream::Error = serde_json::from_value(
            serde_json::json!({ "code": 503, "err_code": 10_039, "description": "" }),
        )
        .unwrap();
        let timed_out = || NatsError::new(RequestErrorKind::TimedOut);
        let behind = |kind| NatsError::with_source(kind, timed_out());
        assert!(matches!(cause_of(&timed_out()), RequestCause::TimedOut));
        // "NATS refused … timed out"
        assert!(matches!(
            cause_of(&behind(GetStreamErrorKind::Request)),
            RequestCause::TimedOut
        ));
        assert!(matches!(
            cause_of(&NatsError::new(CreateStreamErrorKind::TimedOut)),
            RequestCause::TimedOut
        ));
        assert!(matches!(
            cause_of(&NatsError::new(CreateStreamErrorKind::JetStreamUnavailable)),
            RequestCause::NoResponders
        ));
        assert!(matches!(
            cause_of(&NatsError::new(GetStreamErrorKind::JetStream(api))),
            RequestCause::Api(_)
        ));
        let other = NatsError::new(GetStreamErrorKind::EmptyName);
        assert!(matches!(cause_of(&other), RequestCause::Other));
    }
}
