//! Posts records to a URL.

use std::time::Duration;

use ureq::http::Uri;

use crate::cli::exit::Failure;
use crate::cli::http_agent::http_agent;
use naq_protocol::Record;

/// Maximum part of a response that is read, in bytes. Only the status matters.
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
        Ok(Webhook {
            agent: http_agent(is_https, timeout)?,
            uri: uri.clone(),
        })
    }

    /// The URL without the parts that may be secret: user and password, path and query.
    pub(super) fn redacted_url(&self) -> String {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let host = self.uri.host().unwrap_or_default();
        let port = self.uri.port().map(|port| format!(":{port}"));
        format!("{scheme}://{host}{}/…", port.unwrap_or_default())
    }

    /// Posts a record, and waits for the response.
    ///
    /// # Errors
    /// Returns why, for the log, if the post fails or the status is no success.
    pub(super) fn post(&self, record: &Record, json: &[u8], revision: u64) -> Result<(), String> {
        let sent = self
            .agent
            .post(&self.uri)
            .content_type("application/json")
            .header("Naq-Job-Id", record.job_id.as_str())
            .header("Naq-State", record.state().as_str())
            .header("Naq-Revision", revision.to_string())
            .send(json);
        let mut response = sent.map_err(|error| self.redact_url(&error.to_string()))?;
        // Reading the whole body lets the agent use the connection again.
        let body = response.body_mut().with_config().limit(RESPONSE_BYTES_MAX);
        let _ = body.read_to_vec();
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("the response was {status}"))
        }
    }

    /// Replaces the URL in an error by the redacted one.
    fn redact_url(&self, error: &str) -> String {
        error.replace(&self.uri.to_string(), &self.redacted_url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_the_url_are_not_shown() {
        let url = "https://user:hunter2@example.org:8443/hooks/hunter3?token=hunter4";
        let webhook = Webhook::new(url, Duration::from_secs(1));
        // On a system without certificates, `new` fails.
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
    fn url_that_is_not_http_is_refused() {
        for url in ["", "example.org/x", "ftp://example.org", "http://", "/x"] {
            assert!(Webhook::new(url, Duration::from_secs(1)).is_err(), "{url}");
        }
    }
}
