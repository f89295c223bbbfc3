//! Records posted to a URL.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use crate::cli::exit::Failure;
use naq_protocol::Record;

/// The most of an answer that is read, in bytes: only its status counts.
const RESPONSE_BYTES_MAX: u64 = 64 << 10;

/// A URL that records are posted to.
pub(super) struct Webhook {
    agent: ureq::Agent,
    uri: Uri,
}

impl Webhook {
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Webhook, Failure> {
        let uri = url.parse::<Uri>().ok();
        let scheme = uri.as_ref().and_then(Uri::scheme_str);
        let (Some(uri), Some(is_https)) = (
            &uri,
            match scheme {
                Some("http") => Some(false),
                Some("https") => Some(true),
                _ => None,
            },
        ) else {
            return Err(Failure::usage(
                "--webhook takes a URL that begins with http:// or https://",
            ));
        };
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            // a post that is sent elsewhere would become something else on the way
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("naq/", env!("CARGO_PKG_VERSION")));
        if is_https {
            config = config.tls_config(tls()?);
        }
        Ok(Webhook {
            agent: config.build().new_agent(),
            uri: uri.clone(),
        })
    }

    /// The URL without what may be secret in it: what stands before the host and after it.
    pub(super) fn redacted_url(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port().map(|port| format!(":{port}"));
        format!("{scheme}://{host}{}/…", port.unwrap_or_default())
    }

    /// Posts a record, and waits for the answer.
    pub(super) fn post(&self, record: &Record, json: &[u8], revision: u64) -> Result<(), String> {
        let sent = self
            .agent
            .post(&self.uri)
            .content_type("application/json")
            .header("Naq-Job-Id", record.job_id.as_str())
            .header("Naq-State", record.state.as_str())
            .header("Naq-Revision", revision.to_string())
            .send(json);
        let mut answer = sent.map_err(|error| self.redact_url(&error.to_string()))?;
        // read to its end, so that the connection can be used again
        let body = answer.body_mut().with_config().limit(RESPONSE_BYTES_MAX);
        let _ = body.read_to_vec();
        let status = answer.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it answered {status}"))
        }
    }

    /// An error without the URL in it.
    fn redact_url(&self, error: &str) -> String {
        error.replace(&self.uri.to_string(), &self.redacted_url())
    }
}

/// Trust in what this system trusts.
fn tls() -> Result<TlsConfig, Failure> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}"));
        return Err(Failure::general(format!(
            "this system has no certificates to trust, which https needs{}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_the_url_are_not_shown() {
        let url = "https://user:hunter2@example.org:8443/hooks/hunter3?token=hunter4";
        let webhook = Webhook::new(url, Duration::from_secs(1));
        // a system without certificates refuses before
        if let Ok(webhook) = webhook {
            assert_eq!(webhook.redacted_url(), "https://example.org:8443/…");
            assert_eq!(
                webhook.redact_url(&format!("bad uri: {url}")),
                "bad uri: https://example.org:8443/…"
            );
        }
        let webhook = Webhook::new(&url.replace("https", "http"), Duration::from_secs(1)).unwrap();
        assert!(!webhook.redacted_url().contains("hunter"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for url in ["", "example.org/x", "ftp://example.org", "http://", "/x"] {
            assert!(Webhook::new(url, Duration::from_secs(1)).is_err(), "{url}");
        }
    }
}
