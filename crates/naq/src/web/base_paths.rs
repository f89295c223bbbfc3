//! The dashboard at each base path. A proxy may name one, and links, redirects and cookies then begin with it.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::base_path::BasePath;
use super::proxies::{Connection, Source};
use super::routes;
use super::state::Web;

/// Base paths that are kept at the same time, besides the configured one. A client may name any through a proxy that
/// does not replace its header.
const KEPT_MAX: usize = 8;

/// Serves every request.
pub(super) struct BasePaths {
    web: Arc<Web>,
    configured: Router,
    /// Those that proxies have named, the last used one last.
    forwarded: Mutex<Vec<(BasePath, Router)>>,
}

impl BasePaths {
    pub(super) fn new(web: &Arc<Web>) -> BasePaths {
        BasePaths {
            configured: routes::router_below_base_path(web),
            web: Arc::clone(web),
            forwarded: Mutex::default(),
        }
    }

    /// Answers a request of a connection.
    pub(super) async fn answer(
        &self,
        connection: Connection,
        mut request: Request<Incoming>,
    ) -> Result<Response, std::convert::Infallible> {
        let proxies = &self.web.config.proxies;
        let source = proxies.receive(connection, request.headers_mut()).await;
        let router = self.router(&source);
        request.extensions_mut().insert(source);
        TowerToHyperService::new(router).call(request).await
    }

    fn router(&self, source: &Source) -> Router {
        let is_configured = !self.web.base_path().is_empty();
        let prefix = source.prefix.as_ref().filter(|_| !is_configured);
        let Some(prefix) = prefix.filter(|prefix| !prefix.as_str().is_empty()) else {
            return self.configured.clone();
        };
        let mut kept = self
            .forwarded
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = kept.iter().position(|(path, _)| path == prefix);
        let entry = match known {
            Some(at) => kept.remove(at),
            None => {
                let web = Arc::new(self.web.at(prefix.clone()));
                (prefix.clone(), routes::router(&web))
            }
        };
        if kept.len() >= KEPT_MAX {
            drop(kept.remove(0));
        }
        let router = entry.1.clone();
        kept.push(entry);
        router
    }
}
