//! The configuration of a dashboard.

use std::net::{IpAddr, SocketAddr};

use super::access::RightLimits;
use super::server::is_loopback;
use super::tokens::Tokens;

/// Options of the dashboard.
#[derive(Debug)]
pub struct WebConfig {
    /// Tokens of programs and users.
    pub tokens: Tokens,
    /// The token that a one-time code logs in with.
    pub local_token: String,
    /// Limits on the rights of every request.
    pub limits: RightLimits,
    /// Further permitted values of the header `Host`, without ports, in addition to loopback names and the
    /// address of the listener.
    pub host_names: Vec<String>,
    /// Path of the pages below the root of a reverse proxy.
    pub base_path: BasePath,
}

/// The path of all pages behind a reverse proxy: empty, or such as `/naq`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    /// The path as text: empty, or with a slash at the beginning and none at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for BasePath {
    type Err = String;

    fn from_str(text: &str) -> Result<BasePath, String> {
        let path = text.trim_end_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
        let mut parts = path.split('/');
        let starts_with_slash = parts.next() == Some("");
        let is_part = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain)
        };
        match path.is_empty() || (starts_with_slash && parts.all(is_part)) {
            true => Ok(BasePath(path.to_owned())),
            false => Err(format!("`{text}` is not a path such as /naq")),
        }
    }
}

/// The host names by which clients address a dashboard that listens on this address.
pub(super) fn host_names(listen: SocketAddr, more: &[String]) -> Vec<String> {
    let mut names = vec![match listen.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }];
    // A request to a loopback name comes from this machine, or through a tunnel that its user opened.
    names.extend(["127.0.0.1", "localhost", "[::1]"].map(str::to_owned));
    names.extend(more.iter().cloned());
    names
}

/// Whether the metrics need no token: only this machine can reach the dashboard, and no proxy passes on
/// requests from elsewhere.
pub(super) fn are_metrics_open(listen: SocketAddr, config: &WebConfig) -> bool {
    is_loopback(listen) && config.host_names.is_empty() && config.base_path.as_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_has_no_slash_at_its_end() {
        for (text, expected) in [
            ("", Some("")),
            ("/", Some("")),
            ("/naq", Some("/naq")),
            ("/tools/naq/", Some("/tools/naq")),
            ("naq", None),
            ("//evil.example", None),
            ("/../x", None),
            ("/a b", None),
            ("/a\"", None),
        ] {
            let parsed = text.parse::<BasePath>().ok();
            assert_eq!(parsed.as_ref().map(BasePath::as_str), expected, "{text}");
        }
    }
}
