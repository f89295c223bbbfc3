//! Parameters in queries and paths. An unknown name is an error: a misspelt filter would select everything.

use axum::extract::{RawQuery, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::web::problem::Problem;
use crate::web::route::{Parameter, ParameterPlace, Route, query};

/// The parameters of a query, in their order. A name may occur again.
#[derive(Clone)]
pub(in crate::web) struct Query(Vec<(String, String)>);

/// Parses the query of a request to this route, for its handler, and refuses parameters that the route lacks.
pub(in crate::web) async fn read_query(
    State(route): State<&'static Route>,
    mut request: Request,
    next: Next,
) -> Response {
    let parameters = route.parameters.iter();
    let in_query = parameters.filter(|parameter| parameter.place == ParameterPlace::Query);
    let known: Vec<&str> = in_query.map(|parameter| parameter.name).collect();
    let text = request.uri().query().map(str::to_owned);
    match Query::parse(RawQuery(text), &known) {
        Ok(query) => {
            let is_dry_run = matches!(query.is_on("dry_run"), Ok(true));
            request.extensions_mut().insert(query);
            let mut response = next.run(request).await;
            if is_dry_run {
                response.extensions_mut().insert(DryRun);
            }
            response
        }
        Err(refused) => refused.into_response(),
    }
}

/// Marks the answer of a request that was only checked.
#[derive(Clone, Copy)]
pub(in crate::web) struct DryRun;

impl Query {
    /// Parses a query in which these names may occur.
    ///
    /// # Errors
    /// Returns a problem that names an unknown parameter.
    pub(in crate::web) fn parse(
        RawQuery(text): RawQuery,
        known: &[&str],
    ) -> Result<Query, Problem> {
        let text = text.unwrap_or_default();
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) {
                let name = naq_protocol::escape(&name);
                let detail = match known {
                    [] => format!("`{name}` is unknown; this path has no parameters"),
                    known => format!(
                        "`{name}` is unknown; the parameters are {}",
                        known.join(", ")
                    ),
                };
                return Err(Problem::parameter("query", detail));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// All values of a name.
    pub(in crate::web) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let of_name = self.0.iter().filter(move |(known, _)| known == name);
        of_name.map(|(_, value)| value.as_str())
    }

    /// The value of a name.
    ///
    /// # Errors
    /// Returns a problem if the name occurs more than once.
    pub(in crate::web) fn one<'q>(&'q self, name: &'q str) -> Result<Option<&'q str>, Problem> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(Problem::parameter(name, "given more than once")),
        }
    }

    /// The value of a name, parsed; an empty one counts as absent, as that of an empty field of a form.
    ///
    /// # Errors
    /// Returns a problem if the value is invalid, or if the name occurs more than once.
    pub(in crate::web) fn parsed_unless_empty<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let value = self.one(name)?.filter(|value| !value.is_empty());
        let parsed = value.map(parse).transpose();
        parsed.map_err(|error| Problem::parameter(name, error))
    }

    /// The value of a name, parsed.
    ///
    /// # Errors
    /// Returns a problem if the value is invalid, or if the name occurs more than once.
    pub(in crate::web) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        let value = self.one(name)?;
        let parsed = value.map(parse).transpose();
        parsed.map_err(|error| Problem::parameter(name, error))
    }

    /// Whether a parameter that is a switch is on: it is given without a value, or with `true` or `1`.
    ///
    /// # Errors
    /// Returns a problem for any value but `true`, `1`, `false` and `0`.
    pub(in crate::web) fn is_on(&self, name: &str) -> Result<bool, Problem> {
        let on = self.parsed(name, |value| match value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err("expected true or false"),
        })?;
        Ok(on.unwrap_or(false))
    }
}

/// The parameter of every route that changes something.
pub(super) const DRY_RUN: Parameter =
    query("dry_run", "Check the request, and change nothing", "true");

/// A number of things in a page: 1 to `max`.
pub(in crate::web) fn limit(text: &str, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
        _ => Err(format!("expected a number from 1 to {max}")),
    }
}

/// A text as a value in a query: everything but letters, digits and `-_.~` in percent form.
pub(in crate::web) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Decodes a part of a query: `+` is a space, `%20` too.
fn decode(text: &str) -> Result<String, Problem> {
    let invalid = || Problem::parameter("query", "it is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| high * 16 + low);
                value
                    .and_then(|value| u8::try_from(value).ok())
                    .ok_or_else(invalid)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Query, Problem> {
        Query::parse(RawQuery(Some(text.to_owned())), &["state", "limit", "q"])
    }

    #[test]
    fn a_query_is_decoded() {
        let query = parse("state=failed&state=queued&q=a+b%26%c3%a9&&limit=").unwrap();
        let states: Vec<&str> = query.all("state").collect();
        assert_eq!(states, ["failed", "queued"]);
        assert_eq!(query.one("q").unwrap(), Some("a b&é"));
        assert_eq!(query.one("limit").unwrap(), Some(""));
        assert!(query.one("state").is_err());
        assert!(query.is_on("limit").unwrap());
        assert!(query.is_on("q").is_err());
    }

    #[test]
    fn an_encoded_text_is_read_back() {
        let text = "a b&c=d+\"é\u{202e}%/?#";
        let encoded = encode(text);
        assert!(encoded.is_ascii() && !encoded.contains(['&', '+', ' ', '"', '#']));
        assert_eq!(decode(&encoded).unwrap(), text);
    }

    #[test]
    fn a_wrong_query_is_refused() {
        for text in ["sate=failed", "q=%", "q=%g0", "q=%ff", "q=%+1", "%zz=1"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(Query::parse(RawQuery(None), &[]).is_ok());
        let unknown = Query::parse(RawQuery(Some("a=b".to_owned())), &[]);
        assert!(unknown.is_err());
    }

    #[test]
    fn a_limit_is_bounded() {
        assert_eq!(limit("500", 500), Ok(500));
        assert!(limit("501", 500).is_err());
        assert!(limit("0", 500).is_err());
    }
}
