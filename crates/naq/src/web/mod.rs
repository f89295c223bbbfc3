//! The dashboard for people, and the HTTP API for programs without a NATS client.
//!
//! The table in `routes` lists every path with the right that it requires. `guard` checks every request.
//! `live` reads NATS once for all viewers. The server renders the pages, and they work without scripts.

mod access;
mod ansi;
mod api;
mod assets;
mod audit;
mod audit_log;
mod base_path;
mod base_paths;
mod bulk_action;
mod bulk_actions;
mod bulk_selection;
mod dashboard_names;
mod enqueue_form;
mod envelope_diff;
mod failure_groups;
mod filter;
mod forward_auth;
mod graph;
mod guard;
mod hidden_values;
mod job_rows;
mod job_search;
mod line_diff;
mod live;
mod live_output;
mod live_streams;
mod live_topic;
mod log_pieces;
mod login;
mod metrics;
mod openapi;
mod options;
mod output;
mod overview;
mod pages;
mod precondition;
mod problem;
mod proxies;
mod record_index;
mod route;
mod routes;
mod schedule_definition;
mod sentence;
mod server;
mod single_header;
mod state;
mod templates;
mod tokens;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use access::{Right, RightLimits};
pub use base_path::BasePath;
pub use dashboard_names::{DashboardTitle, OtherDashboard};
pub use forward_auth::ForwardAuth;
pub use login::{LoginCode, random_hex};
pub use options::{FrameAncestor, WebConfig, is_loopback};
pub use proxies::{Network, Proxies};
pub use tokens::{Token, Tokens};

use base_paths::BasePaths;
use naq_client::Client;
use state::Web;

/// Serves the dashboard until `stop` is true. `code` logs one browser in.
///
/// # Errors
/// Returns an error if the address of the listener cannot be read.
pub async fn serve(
    client: Client,
    config: WebConfig,
    listener: TcpListener,
    code: LoginCode,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let web = Web::new(client, config, listener.local_addr()?, code, stop.clone());
    server::serve(listener, Arc::new(BasePaths::new(&web)), stop).await;
    web.audit.finish().await;
    Ok(())
}

/// The paths of all scripts, styles and pictures, below the base path. A browser loads each once.
pub fn asset_paths() -> impl Iterator<Item = String> {
    assets::paths()
}

/// The OpenAPI document.
#[must_use]
pub fn openapi_document() -> serde_json::Value {
    openapi::document(api::routes())
}
