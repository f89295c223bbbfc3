//! The wall clock of a client.

use std::fmt;
use std::sync::Arc;

use naq_protocol::Timestamp;

/// Returns the present time. Clones share one source.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub(crate) fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    /// The system's wall clock.
    fn default() -> Clock {
        #[expect(
            clippy::disallowed_methods,
            reason = "a client is an edge: this is where time enters, and it is passed on from here"
        )]
        let now = || std::time::SystemTime::now().into();
        Clock::new(now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Clock")
    }
}
