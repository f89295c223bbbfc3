//! Errors of the API, as RFC 9457 describes them: `application/problem+json`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use naq_client::{
    BrokerError, BrokerErrorKind, ClientError, EnvelopeError, ErrorKind, InvalidName,
};
use naq_core::ScheduleError;

/// A kind of error: the last part of the address in `type`, and the text of the page at that address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProblemKind {
    /// Last part of the address in `type`.
    pub(super) slug: &'static str,
    /// The status code of an answer of this kind.
    pub(super) status: u16,
    /// What it is, in a few words.
    pub(super) title: &'static str,
    /// What the error means and what to do, for the page.
    pub(super) text: &'static str,
}

impl ProblemKind {
    /// The header `Retry-After` of an answer of this kind. `None` means that the same request fails again.
    pub(super) fn retry_after(&self) -> Option<HeaderValue> {
        matches!(self.status, 429 | 503).then(|| HeaderValue::from_static(RETRY_AFTER_S))
    }
}

macro_rules! problem_kinds {
    ($($name:ident $status:literal $slug:literal, $title:literal, $text:literal;)*) => {
        $(pub(super) const $name: ProblemKind = ProblemKind {
            slug: $slug,
            status: $status,
            title: $title,
            text: $text,
        };)*
        /// Every kind.
        pub(super) const ALL: &[&ProblemKind] = &[$(&$name),*];
    };
}

problem_kinds! {
    BAD_REQUEST 400 "bad-request", "The request is invalid",
        "A parameter is missing, unknown, or has an invalid value. The detail names it.";
    UNAUTHENTICATED 401 "unauthenticated", "A token or a session is missing",
        "Send a token in the header `Authorization: Bearer TOKEN`, or log in. The dashboard prints the path of the file with its token.";
    FORBIDDEN 403 "forbidden", "The token lacks a right",
        "The rights are view, operate and submit; each includes those before it. The detail names the required one.";
    CROSS_SITE 403 "cross-site", "The request comes from a page of another site",
        "Changes are accepted from pages of this dashboard and from programs with a token.";
    NOT_FOUND 404 "not-found", "Not found",
        "No job, queue, schedule or worker has this name, or its record has expired.";
    METHOD_NOT_ALLOWED 405 "method-not-allowed", "The path does not support the method",
        "The header `Allow` names the methods of this path.";
    CONFLICT 409 "conflict", "The request conflicts with the current state",
        "The id belongs to another envelope, or the job, queue or schedule is in a state that does not allow this.";
    GONE 410 "gone", "The list no longer exists",
        "The cursor belongs to a list whose stream was removed, or has lost its last messages. Start again without a cursor.";
    PRECONDITION_FAILED 412 "precondition-failed", "It has changed since it was read",
        "The header `If-Match` names a version that is not the present one, or `If-None-Match: *` finds that it exists. Read it again, and decide again.";
    TOO_LARGE 413 "too-large", "The body is too large",
        "A body is at most as large as a message of the NATS server. Put large input into a file or an object.";
    MEDIA_TYPE 415 "media-type", "The path does not accept the type of the body",
        "Send `Content-Type: application/json`.";
    RANGE 416 "range", "The output has none of the requested bytes or lines",
        "The detail says how many the output has. A job that has not ended has none yet.";
    HOST 421 "host", "The request is addressed to another host",
        "The header `Host` does not name this dashboard. Its option `--host-name NAME` adds a name.";
    REFUSED 422 "refused", "The body is refused",
        "An envelope, a schedule or another body is invalid. `errors` names each wrong field by a JSON pointer.";
    PRECONDITION_REQUIRED 428 "precondition-required", "The request does not say what it replaces",
        "Read what exists, and send the value of its header `ETag` as `If-Match`, so that no change of another user is lost. `If-Match: *` replaces whatever exists.";
    QUEUE_FULL 429 "queue-full", "The queue contains too many jobs",
        "The caller set a limit, and the queue has reached it. Try again later.";
    LOGIN_TOO_OFTEN 429 "login-too-often", "Too many attempts to log in",
        "Several wrong tokens were sent. Try again after the number of seconds in `Retry-After`.";
    TOO_MANY_ACTIONS 429 "too-many-actions", "Too many bulk actions",
        "Too many actions run, or select too many jobs that can still be undone. Try again later, or with a smaller limit.";
    FAILED 500 "failed", "The request failed",
        "NATS refused the request, or stored data cannot be read. The detail says why.";
    UNAVAILABLE 503 "unavailable", "NATS is not available",
        "NATS does not answer, or denies the request to the user of this dashboard. Try again after the number of seconds in `Retry-After`.";
    STORAGE_FULL 507 "storage-full", "The store is full",
        "The storage of NATS is full. naq stored nothing; `naq purge --results` frees space.";
}

/// A wrong field of a body.
#[derive(Clone, Debug, Serialize, schemars::JsonSchema)]
pub(super) struct FieldProblem {
    /// A JSON pointer (RFC 6901) to the field.
    pub(super) pointer: String,
    /// What is wrong with it.
    pub(super) detail: String,
}

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct Problem {
    kind: &'static ProblemKind,
    detail: String,
    errors: Vec<FieldProblem>,
}

/// The body of an error.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "problem")]
pub(super) struct ProblemBody {
    /// The address of a page about this kind of error.
    r#type: String,
    /// What it is, in a few words.
    title: String,
    /// The status code.
    status: u16,
    /// For people: what is wrong with this request.
    detail: String,
    /// The wrong fields of the body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    errors: Vec<FieldProblem>,
}

/// Number of seconds after which a client may try again if NATS does not answer.
const RETRY_AFTER_S: &str = "2";

impl Problem {
    pub(super) fn new(kind: &'static ProblemKind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// A parameter of the query or the path is wrong.
    pub(super) fn parameter(name: &str, detail: impl std::fmt::Display) -> Problem {
        Problem::new(&BAD_REQUEST, format!("{name}: {detail}"))
    }

    /// The kind of the error.
    pub(super) fn kind(&self) -> &'static ProblemKind {
        self.kind
    }

    /// What went wrong with this request.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The fields of the body that are wrong.
    pub(super) fn errors(&self) -> &[FieldProblem] {
        &self.errors
    }

    /// The body of an answer with this problem.
    pub(super) fn into_body(self) -> ProblemBody {
        ProblemBody {
            r#type: format!("/problems/{}", self.kind.slug),
            title: self.kind.title.to_owned(),
            status: self.kind.status,
            detail: self.detail,
            errors: self.errors,
        }
    }

    /// The status code.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// One problem for several: the kind and the detail of the first, and the wrong fields of all. `None` if
    /// there are none.
    pub(super) fn merge(problems: Vec<Problem>) -> Option<Problem> {
        let mut all = problems.into_iter();
        let mut first = all.next()?;
        first.errors.extend(all.flat_map(|problem| problem.errors));
        Some(first)
    }

    /// The same problem, which names this field of the body if it names none.
    pub(super) fn at(mut self, pointer: &str) -> Problem {
        if self.errors.is_empty() {
            self.errors.push(FieldProblem {
                pointer: pointer.to_owned(),
                detail: self.detail.clone(),
            });
        }
        self
    }

    /// Why a schedule is refused. The pointer leads to the field, in the body or in its envelope.
    pub(super) fn of_schedule(error: &ScheduleError) -> Problem {
        let field = match error {
            // a policy that only a later version knows decides about the envelopes too
            ScheduleError::Envelope(error) if error.path == "overlap" => "overlap",
            ScheduleError::Envelope(error) => return Problem::of_envelope(error, "/envelope"),
            ScheduleError::Cron(_) => "cron",
            ScheduleError::Field { field, .. } => field,
        };
        Problem::new(&REFUSED, error.to_string()).at(&format!("/{field}"))
    }

    /// The same problem, with more to its detail.
    pub(super) fn explain(mut self, more: &str) -> Problem {
        self.detail.push_str("; ");
        self.detail.push_str(more);
        self
    }

    /// These fields of the body are wrong. The detail is that of the first one.
    pub(super) fn of_fields(errors: Vec<FieldProblem>) -> Problem {
        let first = errors.first().map(|first| first.detail.clone());
        Problem {
            kind: &REFUSED,
            detail: first.unwrap_or_default(),
            errors,
        }
    }

    /// A field of an envelope that is wrong. `prefix` is the pointer to the envelope.
    pub(super) fn of_envelope(error: &EnvelopeError, prefix: &str) -> Problem {
        Problem {
            kind: &REFUSED,
            detail: error.to_string(),
            errors: vec![FieldProblem {
                pointer: format!("{prefix}{}", pointer(&error.path)),
                detail: error.message.clone(),
            }],
        }
    }
}

/// A JSON pointer from the path of a field, such as `args[2]` or `env.A`.
pub(super) fn pointer(path: &str) -> String {
    let mut pointer = String::new();
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        pointer.push('/');
        pointer.push_str(&pointer_token(part.trim_end_matches(']')));
    }
    pointer
}

/// A name as a part of a JSON pointer.
pub(super) fn pointer_token(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (kind, status) = (self.kind, self.status());
        let body = self.into_body();
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if let Some(seconds) = kind.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Problem {
        if let ClientError::Invalid(invalid) = &error {
            return Problem::of_envelope(invalid, "");
        }
        if let ClientError::ScheduleError(invalid) = &error {
            return Problem::of_schedule(invalid);
        }
        if let ClientError::InvalidBackfill(invalid) = &error {
            let pointer = format!("/{}", invalid.field());
            return Problem::new(&REFUSED, error.to_string()).at(&pointer);
        }
        let kind = match (&error, error.kind()) {
            (ClientError::QueueFull { .. }, _) => &QUEUE_FULL,
            (ClientError::Broker(BrokerError::StaleCursor), _) => &GONE,
            (ClientError::Broker(error), _) if error.kind() == BrokerErrorKind::TooLarge => {
                &TOO_LARGE
            }
            (_, ErrorKind::Usage) => &BAD_REQUEST,
            (_, ErrorKind::Unavailable) => &UNAVAILABLE,
            (_, ErrorKind::NotFound) => &NOT_FOUND,
            (_, ErrorKind::Conflict) => &CONFLICT,
            (_, ErrorKind::Refused) => &REFUSED,
            (_, ErrorKind::Full) => &STORAGE_FULL,
            _ => &FAILED,
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Problem {
        ClientError::from(error).into()
    }
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Problem {
        Problem::new(&BAD_REQUEST, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_page_of_its_own() {
        for (at, kind) in ALL.iter().enumerate() {
            let same = ALL
                .iter()
                .skip(at + 1)
                .find(|other| other.slug == kind.slug);
            assert_eq!(same, None);
            assert!(StatusCode::from_u16(kind.status).is_ok());
        }
    }

    #[test]
    fn a_field_is_named_by_a_json_pointer() {
        for (path, expected) in [
            ("", ""),
            ("command", "/command"),
            ("args[2]", "/args/2"),
            ("env.A/B", "/env/A~1B"),
            ("limits.memory", "/limits/memory"),
        ] {
            assert_eq!(pointer(path), expected);
        }
    }
}
