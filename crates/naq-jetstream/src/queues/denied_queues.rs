//! Queues that the user may not read. Where all queues are read, each of them counts as one that does not
//! exist: with permissions for one queue, the existence of another must change nothing.

use crate::error::BrokerError;

/// Leaves out what the server denies of several queues, unless it denies all of them.
#[derive(Debug, Default)]
pub(crate) struct DeniedQueues {
    first: Option<BrokerError>,
    is_some_readable: bool,
}

impl DeniedQueues {
    /// The result for a queue. `None` if the server denies it.
    ///
    /// # Errors
    /// Returns any other error.
    pub(crate) fn leave_out<T>(
        &mut self,
        read: Result<T, BrokerError>,
    ) -> Result<Option<T>, BrokerError> {
        match read {
            Ok(read) => {
                self.is_some_readable = true;
                Ok(Some(read))
            }
            Err(error @ BrokerError::PermissionDenied { .. }) => {
                tracing::debug!("a queue is left out: {error}");
                self.first.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that a queue could be read, once all have been tried.
    ///
    /// # Errors
    /// Returns the first denial if the server denied every queue.
    pub(crate) fn check_some_readable(self) -> Result<(), BrokerError> {
        match self.first {
            Some(denied) if !self.is_some_readable => Err(denied),
            _ => Ok(()),
        }
    }
}
