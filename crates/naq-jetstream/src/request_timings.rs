//! How long the server takes to answer.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What a request to the server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// To store a message: a job, a record or anything else.
    Publish,
    /// To read a message or a part of a stream.
    Read,
    /// To create, change or inspect a stream or a consumer.
    Manage,
}

impl RequestKind {
    /// Every kind.
    pub const ALL: [RequestKind; 3] =
        [RequestKind::Publish, RequestKind::Read, RequestKind::Manage];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Publish => "publish",
            RequestKind::Read => "read",
            RequestKind::Manage => "manage",
        }
    }

    /// The kind of a request that is about this subject.
    pub(crate) fn of(about: &str) -> RequestKind {
        match about.contains(".MSG.GET.") || about.contains(".DIRECT.GET.") {
            true => RequestKind::Read,
            false => RequestKind::Manage,
        }
    }
}

/// Called with each answered request and the time until its answer. Must not block.
pub type RequestObserver = Arc<dyn Fn(RequestKind, Duration) + Send + Sync>;

/// The observers of a connection.
#[derive(Clone, Default)]
pub(crate) struct RequestTimings(Arc<RwLock<Vec<RequestObserver>>>);

impl fmt::Debug for RequestTimings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestTimings")
    }
}

impl RequestTimings {
    pub(crate) fn add(&self, observer: RequestObserver) {
        let mut observers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        observers.push(observer);
    }

    /// Reports an answer to the observers.
    pub(crate) fn report(&self, kind: RequestKind, took: Duration) {
        let observers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for observer in observers.iter() {
            observer(kind, took);
        }
    }
}
