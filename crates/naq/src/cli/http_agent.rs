//! The HTTP client of this program.

use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::exit::Failure;

/// A client that returns every response, whatever its status, and follows no redirect. Each request has this time limit.
///
/// # Errors
/// Returns a [`Failure`] if `is_https` and this system trusts no certificate.
pub(super) fn http_agent(is_https: bool, timeout: Duration) -> Result<ureq::Agent, Failure> {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        // Following a redirect would turn a POST into a GET.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .user_agent(concat!("naq/", env!("CARGO_PKG_VERSION")));
    if is_https {
        config = config.tls_config(tls()?);
    }
    Ok(config.build().new_agent())
}

/// Returns a TLS configuration that trusts the certificates that this system trusts.
fn tls() -> Result<TlsConfig, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}"));
        return Err(Failure::general(format!(
            "https needs trusted certificates, and this system has none{}",
            why.unwrap_or_default()
        )));
    }
    let roots: Vec<ureq::tls::Certificate<'static>> = found
        .certs
        .iter()
        .map(|der| ureq::tls::Certificate::from_der(der).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
