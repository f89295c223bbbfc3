//! The headers that naq writes on messages, in addition to those of NATS.

/// The time at which a delayed job was to start. The message keeps the header when it moves into
/// the queue.
pub(crate) const SCHEDULED_FOR: &str = "Naq-Scheduled-For";

/// When a delayed job was paused.
pub(crate) const PAUSED: &str = "Naq-Paused";

/// Number of attempts so far, on the message of a job that waits for a retry.
pub(crate) const ATTEMPT: &str = "Naq-Attempt";

/// When a rerouted or rescheduled job was first stored by the server.
pub(crate) const ENQUEUE_TIME: &str = "Naq-Enqueue-Time";

/// Marks a message as a recheck, which is not a job: a worker evaluates the blocked job that the
/// subject names.
pub(crate) const RECHECK: &str = "Naq-Recheck";

/// On a record that was stored again with another TTL: the revision that it is a copy of.
pub(crate) const COPY_OF: &str = "Naq-Copy-Of";

/// The writer of a schedule, so that it recognises its own writes.
pub(crate) const WRITER: &str = "Naq-Writer";
