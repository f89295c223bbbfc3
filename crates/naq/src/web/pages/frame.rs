//! The header of all pages of a session, with links to the main pages.

use serde::Serialize;

use crate::web::access::{Identity, Right};

/// The pages that the header links to, in this order, with the right that each needs.
const PLACES: &[(&str, &str, Right)] = &[
    ("/", "Overview", Right::View),
    ("/jobs", "Jobs", Right::View),
    ("/failed", "Failed", Right::View),
    ("/schedules", "Schedules", Right::View),
    ("/workers", "Workers", Right::View),
    ("/audit", "Audit", Right::Operate),
    ("/enqueue", "Enqueue", Right::Submit),
];

/// A link of the header.
#[derive(Serialize)]
struct Place {
    path: &'static str,
    name: &'static str,
    /// Whether the current page belongs to it.
    is_here: bool,
}

/// The variables of the header, for a page that belongs to the place with the path `here`. `is_live` means
/// that the page updates itself while it is open.
pub(super) fn frame(identity: &Identity, here: &str, is_live: bool) -> tera::Context {
    let permitted = PLACES
        .iter()
        .filter(|(_, _, right)| identity.right >= *right);
    let places = permitted.map(|(path, name, _)| Place {
        path,
        name,
        is_here: *path == here,
    });
    let mut context = tera::Context::new();
    context.insert("places", &places.collect::<Vec<_>>());
    context.insert("user", &identity.name);
    context.insert("may_log_out", &!identity.is_forwarded);
    context.insert("is_live", &is_live);
    context
}
