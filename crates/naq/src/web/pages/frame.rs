//! The header of all pages of a session, with links to the main pages.

use serde::Serialize;

use crate::web::access::Identity;

/// The pages that the header links to, in this order.
const PLACES: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/jobs", "Jobs"),
    ("/failed", "Failed"),
    ("/schedules", "Schedules"),
    ("/workers", "Workers"),
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
    let places = PLACES.iter().map(|(path, name)| Place {
        path,
        name,
        is_here: *path == here,
    });
    let mut context = tera::Context::new();
    context.insert("places", &places.collect::<Vec<_>>());
    context.insert("user", &identity.name);
    context.insert("is_live", &is_live);
    context
}
