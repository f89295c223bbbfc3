//! The hint after a denied action: the roles that may do it.

use super::exit::Failure;
use super::session::Session;
use naq_client::{Names, NeededRole, needed_role};

/// What to do about an action that the server denied. `None` if it denied none, or if no role of
/// `naq nats-config` may do it.
pub(super) fn hint(session: &Session, failure: &Failure) -> Option<String> {
    let settings = session.settings();
    let names = Names::new(&settings.prefix).ok()?;
    let denial = failure.denial.as_ref()?;
    let NeededRole { roles, queue } =
        needed_role(&names, settings.jetstream_domain.as_deref(), denial)?;
    let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let roles = match roles.as_slice() {
        [others @ .., last] if !others.is_empty() => {
            format!(
                "the roles {} and {last} of `naq nats-config` have it",
                others.join(", ")
            )
        }
        roles => format!("the role {} of `naq nats-config` has it", roles.concat()),
    };
    let queue = match queue {
        Some(queue) => format!(" for the queue `{queue}`"),
        None => String::new(),
    };
    Some(format!(
        "grant it, or connect as another user: {roles}{queue}"
    ))
}
