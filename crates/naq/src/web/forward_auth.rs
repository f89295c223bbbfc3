//! Users whom a trusted proxy authenticates, by the name that it sends in a header.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::access::Right;
use super::single_header::single;

/// Longest name of a user, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Headers with another meaning, which cannot name a user.
const RESERVED: &[&str] = &[
    "accept",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "origin",
    "referer",
    "sec-fetch-site",
    "transfer-encoding",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
];

/// A user whom a proxy has authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForwardedUser {
    pub(super) name: String,
    pub(super) right: Right,
}

/// Which headers name users and their groups, and what these may do.
#[derive(Debug)]
pub struct ForwardAuth {
    user_header: HeaderName,
    groups_header: Option<HeaderName>,
    users: BTreeMap<String, Right>,
    groups: BTreeMap<String, Right>,
}

impl ForwardAuth {
    /// `rights` are pairs of a user, or of `@` and a group, and the name of a right. All others may view.
    ///
    /// # Errors
    /// Returns a message, for people, if a header or a right is not one.
    pub fn new(
        user_header: &str,
        groups_header: Option<&str>,
        rights: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ForwardAuth, String> {
        let mut auth = ForwardAuth {
            user_header: parse_header(user_header)?,
            groups_header: groups_header.map(parse_header).transpose()?,
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        if auth.groups_header.as_ref() == Some(&auth.user_header) {
            return Err(format!(
                "`{user_header}` cannot name both the user and the groups"
            ));
        }
        for (who, right) in rights {
            let right = right.parse().map_err(|error| format!("`{who}`: {error}"))?;
            match who.strip_prefix('@') {
                Some(_) if auth.groups_header.is_none() => {
                    return Err(format!(
                        "`{who}` is a group, but no header names the groups"
                    ));
                }
                Some(group) => auth.groups.insert(group.to_owned(), right),
                None => auth.users.insert(who, right),
            };
        }
        Ok(auth)
    }

    /// The header that names the user.
    pub(super) fn user_header(&self) -> &HeaderName {
        &self.user_header
    }

    /// The headers that only a trusted proxy may send.
    pub(super) fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        [&self.user_header].into_iter().chain(&self.groups_header)
    }

    /// The user whom the headers name, or why they are refused. `None` if they name none.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<Result<ForwardedUser, String>> {
        headers.get(&self.user_header)?;
        let name = single(headers, self.user_header.as_str()).and_then(parse_name);
        let Some(name) = name else {
            return Some(Err(format!(
                "the header {} does not name one user",
                self.user_header
            )));
        };
        let groups = match &self.groups_header {
            Some(header) => match parse_groups(headers, header) {
                Some(groups) => groups,
                None => {
                    return Some(Err(format!(
                        "the header {header} occurs twice or is not text"
                    )));
                }
            },
            None => Vec::new(),
        };
        let of_groups = groups.iter().filter_map(|group| self.groups.get(*group));
        let right = of_groups.chain(self.users.get(name)).max().copied();
        Some(Ok(ForwardedUser {
            name: name.to_owned(),
            right: right.unwrap_or(Right::View),
        }))
    }
}

fn parse_header(name: &str) -> Result<HeaderName, String> {
    let header =
        HeaderName::try_from(name).map_err(|_| format!("`{name}` is not a name of a header"))?;
    match RESERVED.contains(&header.as_str()) {
        true => Err(format!("the header `{name}` has another meaning")),
        false => Ok(header),
    }
}

/// A name that can be shown as it is, and that stays the same in the audit.
fn parse_name(value: &HeaderValue) -> Option<&str> {
    let name = std::str::from_utf8(value.as_bytes()).ok()?;
    let is_plain = naq_protocol::escape(name) == name && name.trim() == name;
    (is_plain && (1..=NAME_CHARS_MAX).contains(&name.chars().count())).then_some(name)
}

/// The groups, which commas separate. `None` if it is unclear which they are.
fn parse_groups<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Vec<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Some(Vec::new());
    };
    if values.next().is_some() {
        return None;
    }
    let groups = std::str::from_utf8(value.as_bytes()).ok()?;
    Some(groups.split(',').map(str::trim).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(who, right): &(&str, &str)| ((*who).to_owned(), (*right).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn found(auth: &ForwardAuth, pairs: &[(&str, &str)]) -> Option<Result<Right, String>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        auth.user(&headers).map(|user| user.map(|user| user.right))
    }

    #[test]
    fn a_user_has_the_highest_right_of_its_name_and_its_groups() {
        let all = rights(&[("anna", "operate"), ("@ops", "submit"), ("@read", "view")]);
        let auth = ForwardAuth::new("Remote-User", Some("Remote-Groups"), all).unwrap();
        for (user, groups, expected) in [
            ("anna", "", Right::Operate),
            ("bert", "", Right::View),
            ("bert", "read, ops", Right::Submit),
            ("anna", "read", Right::Operate),
            // neither a user of the name of a group, nor a group of the name of a user
            ("@ops", "", Right::View),
            ("ops", "anna", Right::View),
            ("bert", "@ops", Right::View),
            ("Anna", "Ops", Right::View),
            ("anna*", "*", Right::View),
            ("zoë", "", Right::View),
        ] {
            let pairs = [("Remote-User", user), ("Remote-Groups", groups)];
            assert_eq!(found(&auth, &pairs), Some(Ok(expected)), "{user} {groups}");
        }
        assert_eq!(found(&auth, &[("Remote-Groups", "ops")]), None);
    }

    #[test]
    fn a_header_that_does_not_name_one_user_is_refused() {
        let auth = ForwardAuth::new("Remote-User", Some("Remote-Groups"), Vec::new()).unwrap();
        let long = "a".repeat(NAME_CHARS_MAX + 1);
        for name in ["", " ", "anna,bert", "a\tb", "a\u{202e}b", long.as_str()] {
            assert!(
                matches!(found(&auth, &[("Remote-User", name)]), Some(Err(_))),
                "{name}"
            );
        }
        let twice = [
            ("Remote-User", "anna"),
            ("Remote-Groups", "read"),
            ("Remote-Groups", "ops"),
        ];
        assert!(matches!(found(&auth, &twice), Some(Err(_))));
    }

    #[test]
    fn wrong_settings_are_refused() {
        for header in ["", "a b", "Cookie", "authorization", "X-Forwarded-For"] {
            assert!(
                ForwardAuth::new(header, None, Vec::new()).is_err(),
                "{header}"
            );
        }
        for pair in [("anna", "admin"), ("@ops", "view"), ("anna", "")] {
            assert!(
                ForwardAuth::new("Remote-User", None, rights(&[pair])).is_err(),
                "{pair:?}"
            );
        }
        assert!(ForwardAuth::new("Remote-User", Some("remote-user"), Vec::new()).is_err());
    }
}
