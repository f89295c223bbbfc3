//! State that all requests share.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use tokio::sync::watch;

use super::audit_log::AuditLog;
use super::base_path::BasePath;
use super::bulk_actions::BulkActions;
use super::failure_groups::FailureGroups;
use super::live::Live;
use super::live_streams::LiveStreams;
use super::login::{LoginCode, LoginGate};
use super::metrics::WebMetrics;
use super::options::{WebConfig, are_metrics_open, host_names};
use super::output::Outputs;
use super::problem::Problem;
use super::record_index::{IndexState, SharedIndex};
use super::sentence::pieces;
use super::templates::Templates;
use naq_client::Client;

/// The dashboard at one base path.
pub(super) struct Web {
    base_path: BasePath,
    pub(super) templates: Templates,
    shared: Arc<SharedState>,
}

impl Deref for Web {
    type Target = SharedState;

    fn deref(&self) -> &SharedState {
        &self.shared
    }
}

/// What is the same at every base path.
pub(super) struct SharedState {
    pub(super) client: Client,
    pub(super) config: WebConfig,
    /// The permitted values of the header `Host`, without ports.
    pub(super) host_names: Vec<String>,
    /// Name of the cookie of sessions. Browsers send cookies to all ports of a host, so it names the port.
    pub(super) cookie_name: String,
    pub(super) login: LoginGate,
    pub(super) live: Live,
    pub(super) streams: LiveStreams,
    /// The index of all records. `None` if it is switched off.
    pub(super) index: Option<Arc<SharedIndex>>,
    pub(super) failure_groups: Arc<FailureGroups>,
    pub(super) actions: Arc<BulkActions>,
    pub(super) outputs: Outputs,
    pub(super) metrics: WebMetrics,
    pub(super) audit: AuditLog,
    /// Becomes true when the dashboard stops, so that streams end.
    pub(super) stop: watch::Receiver<bool>,
}

fn templates(base_path: &BasePath, config: &WebConfig) -> Templates {
    Templates::new(base_path, config.title.as_ref(), &config.others)
}

impl Web {
    pub(super) fn new(
        client: Client,
        config: WebConfig,
        listen: SocketAddr,
        code: LoginCode,
        stop: watch::Receiver<bool>,
    ) -> Arc<Web> {
        let failure_groups = Arc::new(FailureGroups::default());
        let groups = Arc::clone(&failure_groups);
        let base_path = config.base_path.clone();
        let index = config
            .index_bytes_max
            .map(|bytes_max| SharedIndex::start(client.clone(), bytes_max, stop.clone()));
        let shared = SharedState {
            live: Live::new(client.clone(), index.clone(), stop.clone()),
            streams: LiveStreams::default(),
            actions: BulkActions::new(client.clone(), index.clone(), groups, stop.clone()),
            index,
            failure_groups,
            outputs: Outputs::default(),
            audit: AuditLog::new(client.clone()),
            metrics: WebMetrics::new(&client, are_metrics_open(listen, &config)),
            client,
            host_names: host_names(listen, &config.host_names),
            cookie_name: format!("naq_session_{}", listen.port()),
            login: LoginGate::new(vec![code]),
            config,
            stop,
        };
        Arc::new(Web {
            templates: templates(&base_path, &shared.config),
            base_path,
            shared: Arc::new(shared),
        })
    }

    /// The same dashboard at another base path.
    pub(super) fn at(&self, base_path: BasePath) -> Web {
        Web {
            templates: templates(&base_path, &self.shared.config),
            base_path,
            shared: Arc::clone(&self.shared),
        }
    }

    /// The beginning of each path behind a reverse proxy; empty without one.
    pub(super) fn base_path(&self) -> &str {
        self.base_path.as_str()
    }

    /// The part of the records that the index contains, in percent, while they are being read. `None` means that the
    /// index is complete, or that there is none.
    pub(super) fn indexing(&self) -> Option<u8> {
        match self.index.as_ref()?.state() {
            IndexState::Indexing { percent } => Some(percent),
            IndexState::Ready { .. } | IndexState::Unavailable => None,
        }
    }

    /// Maximum size of the body of a request, in bytes: that of a message.
    pub(super) fn body_bytes_max(&self) -> usize {
        self.client.message_bytes_max()
    }

    /// An error as a page.
    pub(super) fn error_page(&self, problem: &Problem) -> Response {
        let mut context = tera::Context::new();
        context.insert("title", problem.kind().title);
        context.insert("detail", &pieces(problem.detail()));
        context.insert("text", problem.kind().text);
        let mut page = self.page(problem.status(), "error.html", &context);
        if let Some(seconds) = problem.kind().retry_after() {
            page.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        page
    }

    /// A page from a template.
    pub(super) fn page(
        &self,
        status: StatusCode,
        template: &'static str,
        context: &tera::Context,
    ) -> Response {
        match self.templates.render(template, context) {
            Ok(text) => (status, Html(text)).into_response(),
            Err(error) => {
                tracing::error!("the page {template} cannot be shown: {error}");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the page cannot be shown; the log of the dashboard says why",
                )
                    .into_response()
            }
        }
    }
}
