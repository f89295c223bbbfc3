//! The HTTP API. Each module has the routes about one kind of thing.

pub(super) mod actions;
mod artifacts;
pub(super) mod audit;
mod backfill;
mod events;
pub(super) mod failed;
mod flows;
mod health;
pub(super) mod jobs;
mod logs;
pub(super) mod output;
mod output_search;
pub(super) mod parameters;
mod queues;
mod retry;
mod schedules;
mod schemas;
mod server;
pub(super) mod submit;
mod submit_many;
mod times;
mod workers;

pub(super) use events::event_stream;
pub(super) use parameters::read_query;

use super::route::Route;

/// Every route of the API, in the order of the OpenAPI document.
pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    [
        queues::ROUTES,
        submit_many::ROUTES,
        submit::ROUTES,
        jobs::ROUTES,
        retry::ROUTES,
        output::ROUTES,
        artifacts::ROUTES,
        output_search::ROUTES,
        logs::ROUTES,
        flows::ROUTES,
        failed::ROUTES,
        actions::ROUTES,
        schedules::ROUTES,
        times::ROUTES,
        workers::ROUTES,
        server::ROUTES,
        events::ROUTES,
        audit::ROUTES,
        schemas::ROUTES,
        health::ROUTES,
        backfill::ROUTES,
    ]
    .into_iter()
    .flatten()
}
