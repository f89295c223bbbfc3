//! Decides which requests are served: who sends them, and from where.

use serde::Serialize;

/// What a token or a session allows. Each right includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// May read.
    View,
    /// May also change jobs, queues and schedules without naming a command: cancel, retry unchanged, pause,
    /// resume.
    Operate,
    /// May also enqueue envelopes and store schedules, and so run any command on the workers.
    Submit,
}

impl Right {
    /// The word for this right in a file of tokens and in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Right::View => "view",
            Right::Operate => "operate",
            Right::Submit => "submit",
        }
    }
}

impl std::str::FromStr for Right {
    type Err = String;

    fn from_str(text: &str) -> Result<Right, String> {
        let all = [Right::View, Right::Operate, Right::Submit];
        let found = all.into_iter().find(|right| right.name() == text);
        found.ok_or_else(|| {
            format!("`{text}` is not a right; the rights are view, operate and submit")
        })
    }
}

/// Who sends a request, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The name of the token that the request or its session is based on, or of the user that a proxy has
    /// authenticated.
    pub(super) name: String,
    /// What the request may do.
    pub(super) right: Right,
    /// Whether a proxy has authenticated the sender. The dashboard cannot end such a session.
    pub(super) is_forwarded: bool,
}

/// How a request proves who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A token in the header `Authorization`, which only a program sends.
    Token,
    /// A cookie, which a browser sends with every request, even with requests that a page of another site
    /// causes. Also the header of a proxy, which adds it to every request of a browser.
    Cookie,
}

/// Limits on the rights of every request, whatever its token permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RightLimits {
    /// No request may change anything.
    pub read_only: bool,
    /// Sessions of browsers may submit, not only tokens of programs.
    pub allow_submit: bool,
}

impl RightLimits {
    /// The part of a right that these limits leave.
    pub(super) fn limit(self, right: Right, proof: Proof) -> Right {
        let right_max = match (self.read_only, proof) {
            (true, _) => Right::View,
            (false, Proof::Cookie) if !self.allow_submit => Right::Operate,
            (false, _) => Right::Submit,
        };
        right.min(right_max)
    }
}

/// What a request that changes something says about the page that sent it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SenderHeaders<'r> {
    /// The header `Sec-Fetch-Site`, which every current browser sends and no page can set.
    pub(super) sec_fetch_site: Option<&'r str>,
    /// The header `Origin`.
    pub(super) origin: Option<&'r str>,
    /// The header `Host`.
    pub(super) host: Option<&'r str>,
}

/// Whether a page of another site sent a request. A request that says nothing about its sender comes from
/// a program if it has a token, and from an unknown page if it has a cookie.
pub(super) fn is_cross_site(headers: SenderHeaders<'_>, proof: Proof) -> bool {
    if let Some(site) = headers.sec_fetch_site {
        return site != "same-origin";
    }
    match (headers.origin, headers.host) {
        (Some(origin), Some(host)) => {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => true,
        (None, _) => proof == Proof::Cookie,
    }
}

/// Whether a request is addressed to this server. A page of another site can have its own name resolve to
/// this address, and then reads answers as if they were its own (DNS rebinding), but it cannot choose
/// another name for the header `Host`. `names` are the permitted ones, without ports.
pub(super) fn is_own_host(host: Option<&str>, names: &[String]) -> bool {
    let Some(host) = host else { return false };
    let name = match host.rsplit_once(':') {
        // not the last group of an IPv6 address
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_includes_those_before_it() {
        assert!(Right::View < Right::Operate && Right::Operate < Right::Submit);
        for right in [Right::View, Right::Operate, Right::Submit] {
            assert_eq!(right.name().parse(), Ok(right));
        }
        assert!("admin".parse::<Right>().is_err());
    }

    #[test]
    fn limits_reduce_rights_and_never_add_one() {
        let limits = |read_only, allow_submit| RightLimits {
            read_only,
            allow_submit,
        };
        for (limits, proof, expected) in [
            (limits(false, false), Proof::Token, Right::Submit),
            (limits(false, false), Proof::Cookie, Right::Operate),
            (limits(false, true), Proof::Cookie, Right::Submit),
            (limits(true, true), Proof::Token, Right::View),
            (limits(true, true), Proof::Cookie, Right::View),
        ] {
            assert_eq!(limits.limit(Right::Submit, proof), expected);
            assert_eq!(limits.limit(Right::View, proof), Right::View);
        }
    }

    #[test]
    fn a_change_from_a_page_of_another_site_is_found() {
        let of = |sec_fetch_site, origin| SenderHeaders {
            sec_fetch_site,
            origin,
            host: Some("127.0.0.1:8080"),
        };
        for (headers, by_token, by_cookie) in [
            (of(Some("same-origin"), None), false, false),
            (of(Some("cross-site"), None), true, true),
            (of(Some("same-site"), None), true, true),
            (of(Some("none"), None), true, true),
            (of(None, Some("http://127.0.0.1:8080")), false, false),
            (of(None, Some("http://127.0.0.1:8081")), true, true),
            (of(None, Some("http://evil.example")), true, true),
            (of(None, Some("null")), true, true),
            (
                of(Some("cross-site"), Some("http://127.0.0.1:8080")),
                true,
                true,
            ),
            (of(None, None), false, true),
        ] {
            assert_eq!(
                is_cross_site(headers, Proof::Token),
                by_token,
                "{headers:?}"
            );
            assert_eq!(
                is_cross_site(headers, Proof::Cookie),
                by_cookie,
                "{headers:?}"
            );
        }
        let without_host = SenderHeaders {
            origin: Some("http://127.0.0.1:8080"),
            ..SenderHeaders::default()
        };
        assert!(is_cross_site(without_host, Proof::Token));
    }

    #[test]
    fn a_request_for_another_host_is_found() {
        let names = ["127.0.0.1", "localhost", "[::1]", "jobs.example.com"].map(str::to_owned);
        for (host, expected) in [
            (Some("127.0.0.1:8080"), true),
            (Some("127.0.0.1"), true),
            (Some("LOCALHOST:1"), true),
            (Some("[::1]:8080"), true),
            (Some("[::1]"), true),
            (Some("jobs.example.com"), true),
            (Some("evil.example:8080"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(is_own_host(host, &names), expected, "{host:?}");
        }
    }
}
