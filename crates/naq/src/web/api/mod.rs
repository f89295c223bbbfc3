//! The HTTP API. Each module has the routes about one kind of thing.

mod events;
pub(super) mod failed;
mod health;
pub(super) mod jobs;
mod output;
pub(super) mod parameters;
mod queues;
mod schedules;
mod server;
mod submit;
mod workers;

pub(super) use events::event_stream;

use super::route::Route;

/// Every route of the API, in the order of the OpenAPI document.
pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    [
        queues::ROUTES,
        submit::ROUTES,
        jobs::ROUTES,
        output::ROUTES,
        failed::ROUTES,
        schedules::ROUTES,
        workers::ROUTES,
        server::ROUTES,
        events::ROUTES,
        health::ROUTES,
    ]
    .into_iter()
    .flatten()
}
