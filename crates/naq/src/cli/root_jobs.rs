//! Checks whether jobs may run as root.

use super::exit::Failure;
use super::session::Session;
use naq_protocol::QueueName;

/// Refuses a worker whose jobs would run as root, unless the user allows it or the worker takes its
/// jobs from the managed local server, to which only its own user can publish.
///
/// # Errors
/// Returns the refusal, with the settings that change it.
pub(super) fn check_root_jobs(session: &Session, queues: &[QueueName]) -> Result<(), Failure> {
    let settings = session.settings();
    // Without a configured server, naq uses the managed one and no other.
    let is_managed_server = !session.resolved.nats_configured;
    if is_managed_server || settings.allow_root || job_uid(session)? != 0 {
        return Ok(());
    }
    let queues: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
    let message = format!(
        "the jobs of this worker would run as root: everyone who may publish to {} would be root here",
        queues.join(", ")
    );
    Err(Failure::usage(message).hint(
        "run the jobs as another user with --run-as USER (for `naq run`, NAQ_RUN_AS=USER), or allow root \
         with --allow-root (NAQ_ALLOW_ROOT=1)",
    ))
}

/// The id of the user that jobs run as.
fn job_uid(session: &Session) -> Result<u32, Failure> {
    let user = super::worker_options::job_user(session)?;
    Ok(user.map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid))
}
