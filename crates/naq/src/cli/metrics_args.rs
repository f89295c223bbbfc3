//! Flags of a worker or scheduler for its metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::exit::{Exit, Failure};
use super::private_file::read_private;
use crate::metrics::{Metrics, MetricsListener, MetricsToken};
use crate::web::is_loopback;

#[derive(Debug, Default, clap::Args)]
pub(super) struct MetricsArgs {
    /// Address on which to serve /metrics for Prometheus, such as 127.0.0.1:9464; every address except
    /// loopback requires --metrics-token-file
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    /// File that only you can read, with the token that Prometheus sends
    #[arg(long, value_name = "FILE", requires = "metrics_listen")]
    metrics_token_file: Option<PathBuf>,
}

impl MetricsArgs {
    /// Listens on the address, if one is given.
    pub(super) async fn listen(&self) -> Result<Option<MetricsListener>, Failure> {
        let Some(address) = self.metrics_listen else {
            return Ok(None);
        };
        let token = match &self.metrics_token_file {
            Some(path) => {
                let of_file =
                    |error: String| Failure::usage(format!("{}: {error}", path.display()));
                let text = read_private(path).map_err(|error| of_file(error.to_string()))?;
                let secret = text.lines().next().unwrap_or_default().trim();
                Some(MetricsToken::new(secret).map_err(of_file)?)
            }
            None if is_loopback(address) => None,
            None => {
                let message =
                    format!("--metrics-listen {address}: other machines can reach this address");
                let hint = "pass --metrics-token-file FILE with the token that Prometheus sends";
                return Err(Failure::usage(message).hint(hint));
            }
        };
        let listener = MetricsListener::bind(address, token)
            .await
            .map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("--metrics-listen {address}: cannot listen: {error}"),
                )
            })?;
        tracing::info!(address = %listener.address()?, "serving metrics");
        Ok(Some(listener))
    }
}

/// Serves the metrics until the returned value is dropped.
pub(super) fn serve(
    listener: Option<MetricsListener>,
    metrics: &Arc<Metrics>,
) -> Option<AbortOnDropHandle<()>> {
    let serving = listener?.serve(Arc::clone(metrics));
    Some(AbortOnDropHandle::new(tokio::spawn(serving)))
}
