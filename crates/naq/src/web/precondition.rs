//! Conditions of a request on what is stored: the headers `If-Match` and `If-None-Match` (RFC 9110).

use std::fmt;

use axum::http::{HeaderMap, HeaderName, header};

use super::problem::{self, Problem};

/// The version of something stored, as the header `ETag` names it.
///
/// It has the revision, and a digest of what users define. A scheduler writes the progress of a schedule to the
/// same key at each tick: then the revision changes, and the digest does not. A client that has read the version
/// before the tick has seen all that a user has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Etag {
    /// The revision of the stored value.
    pub(super) revision: u64,
    /// A digest of its definition. Empty if the value cannot be read.
    pub(super) digest: String,
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}-{}\"", self.revision, self.digest)
    }
}

impl Etag {
    /// Whether a client that names this version, without quotes, has seen the present definition.
    fn is_named_by(&self, name: &str) -> bool {
        let Some((revision, digest)) = name.split_once('-') else {
            return false;
        };
        let is_same_definition = !digest.is_empty() && digest == self.digest;
        is_same_definition || revision.parse() == Ok(self.revision)
    }
}

/// What must hold of something stored so that a request changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Precondition {
    /// The request says nothing.
    Unstated,
    /// It does not exist (`If-None-Match: *`).
    Absent,
    /// It exists (`If-Match: *`).
    Exists,
    /// It has one of these versions (`If-Match: "17-1f0c"`), each without quotes.
    OneOf(Vec<String>),
}

impl Precondition {
    /// The precondition of a request.
    ///
    /// # Errors
    /// Returns a problem if a header is invalid, or if both are given.
    pub(super) fn read(headers: &HeaderMap) -> Result<Precondition, Problem> {
        let if_match = header_text(headers, &header::IF_MATCH)?;
        let if_none_match = header_text(headers, &header::IF_NONE_MATCH)?;
        match (if_match.as_deref(), if_none_match.as_deref()) {
            (None, None) => Ok(Precondition::Unstated),
            (Some("*"), None) => Ok(Precondition::Exists),
            (Some(list), None) => Ok(Precondition::OneOf(parse_etags("If-Match", list)?)),
            (None, Some("*")) => Ok(Precondition::Absent),
            (None, Some(_)) => Err(Problem::parameter(
                "If-None-Match",
                "a change accepts only `*`, which means that nothing exists yet",
            )),
            (Some(_), Some(_)) => Err(Problem::parameter(
                "If-Match",
                "it cannot be given together with If-None-Match",
            )),
        }
    }

    /// The precondition of a form, which contains the version that its page was made of.
    ///
    /// # Errors
    /// Returns a problem if the text is not a version.
    pub(super) fn of_form(etag: &str) -> Result<Precondition, Problem> {
        Ok(Precondition::OneOf(parse_etags("etag", etag)?))
    }

    /// Checks what is stored before it is replaced. `present` is its version; `None` means that it does not exist.
    ///
    /// # Errors
    /// Returns a problem of the kind 412 if the condition does not hold, and 428 if something would be replaced
    /// and the request does not say what.
    pub(super) fn check_replacement(&self, present: Option<&Etag>) -> Result<(), Problem> {
        match (self, present) {
            (Precondition::Unstated, Some(present)) => {
                let detail = format!(
                    "it exists, and another definition is sent; the header `If-Match: {present}` replaces it"
                );
                Err(Problem::new(&problem::PRECONDITION_REQUIRED, detail))
            }
            _ => self.check(present),
        }
    }

    /// Checks what is stored before it is changed.
    ///
    /// # Errors
    /// Returns a problem of the kind 412 if the condition does not hold.
    pub(super) fn check(&self, present: Option<&Etag>) -> Result<(), Problem> {
        let failed = |detail: String| Err(Problem::new(&problem::PRECONDITION_FAILED, detail));
        match (self, present) {
            (Precondition::Unstated, _)
            | (Precondition::Absent, None)
            | (Precondition::Exists, Some(_)) => Ok(()),
            (Precondition::Absent, Some(present)) => {
                failed(format!("it exists, in the version {present}"))
            }
            (Precondition::Exists | Precondition::OneOf(_), None) => {
                failed("it does not exist".to_owned())
            }
            (Precondition::OneOf(names), Some(present)) => {
                match names.iter().any(|name| present.is_named_by(name)) {
                    true => Ok(()),
                    false => failed(format!(
                        "it has changed; its version is {present} now. Read it, and decide again"
                    )),
                }
            }
        }
    }
}

/// Whether a client that reads something has its present version already (`If-None-Match`).
pub(super) fn is_unchanged(headers: &HeaderMap, present: &Etag) -> bool {
    let Ok(Some(list)) = header_text(headers, &header::IF_NONE_MATCH) else {
        return false;
    };
    let present = present.to_string();
    list == "*"
        || list
            .split(',')
            .any(|name| name.trim().trim_start_matches("W/") == present)
}

/// The value of a header. `None` if it is absent.
fn header_text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    match text {
        Some(text) => Ok(Some(text.trim().to_owned())),
        None => Err(Problem::parameter(
            name.as_str(),
            "it is not one line of text",
        )),
    }
}

/// The versions of a list such as `"17-1f0c", "18-1f0c"`, without quotes. Weak ones never match, so they are left
/// out.
fn parse_etags(name: &str, list: &str) -> Result<Vec<String>, Problem> {
    let mut found = Vec::new();
    for part in list.split(',').map(str::trim) {
        let is_weak = part.starts_with("W/");
        let quoted = part.trim_start_matches("W/");
        let inner = quoted
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .filter(|inner| !inner.contains('"'));
        match inner {
            Some(inner) if !is_weak => found.push(inner.to_owned()),
            Some(_) => {}
            None => {
                let detail = "it is `*`, or versions in quotes, as the header ETag has them";
                return Err(Problem::parameter(name, detail));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: HeaderName, value: &str) -> Result<Precondition, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Precondition::read(&headers)
    }

    fn if_match(value: &str) -> Result<Precondition, Problem> {
        read(header::IF_MATCH, value)
    }

    fn etag(revision: u64, digest: &str) -> Etag {
        Etag {
            revision,
            digest: digest.to_owned(),
        }
    }

    fn status(result: Result<(), Problem>) -> u16 {
        result.map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn a_replacement_says_what_it_replaces() {
        let present = etag(17, "1f0c");
        let named = if_match(&present.to_string()).unwrap();
        let changed = if_match("\"17-1f0c\"").unwrap();
        for (condition, present, expected) in [
            (&Precondition::Unstated, None, 200),
            (&Precondition::Unstated, Some(&present), 428),
            (&Precondition::Absent, None, 200),
            (&Precondition::Absent, Some(&present), 412),
            (&Precondition::Exists, None, 412),
            (&Precondition::Exists, Some(&present), 200),
            (&named, None, 412),
            (&named, Some(&present), 200),
            // a scheduler stored a tick
            (&changed, Some(&etag(18, "1f0c")), 200),
            // another user changed the definition, or changed it and then back
            (&changed, Some(&etag(18, "2b3d")), 412),
            // what cannot be read is named by its revision only
            (&if_match("\"17-\"").unwrap(), Some(&etag(17, "")), 200),
            (&if_match("\"17-\"").unwrap(), Some(&etag(18, "")), 412),
        ] {
            let found = status(condition.check_replacement(present));
            assert_eq!(found, expected, "{condition:?} {present:?}");
        }
        assert_eq!(status(Precondition::Unstated.check(Some(&present))), 200);
    }

    #[test]
    fn conditions_are_read_from_their_headers() {
        let one_of = |names: &[&str]| {
            Precondition::OneOf(names.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(if_match("*").unwrap(), Precondition::Exists);
        assert_eq!(
            read(header::IF_NONE_MATCH, "*").unwrap(),
            Precondition::Absent
        );
        assert_eq!(
            if_match("\"1-a\", \"2-b\"").unwrap(),
            one_of(&["1-a", "2-b"])
        );
        // a weak version never matches
        let weak = if_match("W/\"1-a\"").unwrap();
        assert_eq!(weak, one_of(&[]));
        assert_eq!(status(weak.check(Some(&etag(1, "a")))), 412);
        for wrong in ["", "1-a", "\"1", "\"1\"2\"", "\"1\",", "* , \"1\""] {
            assert_eq!(if_match(wrong).unwrap_err().status(), 400, "{wrong}");
        }
        assert!(read(header::IF_NONE_MATCH, "\"1-a\"").is_err());
        let mut both = HeaderMap::new();
        both.insert(header::IF_MATCH, "*".parse().unwrap());
        both.insert(header::IF_NONE_MATCH, "*".parse().unwrap());
        assert!(Precondition::read(&both).is_err());
        let mut twice = HeaderMap::new();
        twice.append(header::IF_MATCH, "\"1-a\"".parse().unwrap());
        twice.append(header::IF_MATCH, "\"2-b\"".parse().unwrap());
        assert!(Precondition::read(&twice).is_err());
    }

    #[test]
    fn a_reader_with_the_present_version_gets_no_body() {
        let present = etag(17, "1f0c");
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            is_unchanged(&headers, &present)
        };
        assert!(of("\"17-1f0c\"") && of("\"1-a\", W/\"17-1f0c\"") && of("*"));
        // its progress is part of what is read
        assert!(!of("\"16-1f0c\"") && !of("17-1f0c") && !of(""));
        assert!(!is_unchanged(&HeaderMap::new(), &present));
    }
}
