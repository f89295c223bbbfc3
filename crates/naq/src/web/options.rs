//! The configuration of a dashboard.

use std::net::{IpAddr, SocketAddr};

use super::access::RightLimits;
use super::base_path::BasePath;
use super::dashboard_names::{DashboardTitle, OtherDashboard};
use super::proxies::Proxies;
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
    /// The proxies that may say where requests come from.
    pub proxies: Proxies,
    /// Sites that may show the overview for a wall screen in a frame.
    pub frame_ancestors: Vec<FrameAncestor>,
    /// The name of this dashboard, which its pages show.
    pub title: Option<DashboardTitle>,
    /// Other dashboards, to which its pages lead.
    pub others: Vec<OtherDashboard>,
    /// Maximum size of the index of records, in bytes. `None` means that there is none.
    pub index_bytes_max: Option<usize>,
}

/// A site that may show a page of the dashboard in a frame, such as `https://wiki.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameAncestor(String);

impl FrameAncestor {
    /// The site as the source of a content security policy.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for FrameAncestor {
    type Err = String;

    fn from_str(text: &str) -> Result<FrameAncestor, String> {
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"));
        let is_part =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']');
        match host {
            Some(host) if !host.is_empty() && host.chars().all(is_part) => {
                Ok(FrameAncestor(text.to_owned()))
            }
            _ => Err(format!(
                "`{text}` is not a site such as https://wiki.example.com"
            )),
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

/// Whether an address can be reached only from this machine.
#[must_use]
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether the metrics need no token: only this machine can reach the dashboard, and no proxy passes on
/// requests from elsewhere.
pub(super) fn are_metrics_open(listen: SocketAddr, config: &WebConfig) -> bool {
    is_loopback(listen)
        && config.host_names.is_empty()
        && config.base_path.as_str().is_empty()
        && config.proxies.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_of_frames_has_no_path_and_nothing_else_of_a_policy() {
        for (text, is_site) in [
            ("https://wiki.example.com", true),
            ("http://10.0.0.5:8090", true),
            ("http://[::1]:80", true),
            ("wiki.example.com", false),
            ("https://", false),
            ("https://wiki.example.com/page", false),
            ("https://a; script-src *", false),
            ("https://*", false),
            ("*", false),
        ] {
            assert_eq!(text.parse::<FrameAncestor>().is_ok(), is_site, "{text}");
        }
    }
}
