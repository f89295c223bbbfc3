//! A route: a row that serves a request, describes it in the OpenAPI document, and names the right that it
//! requires.

use std::sync::Arc;

use axum::routing::{MethodFilter, MethodRouter};
use schemars::{Schema, SchemaGenerator};

use super::access::Right;
use super::problem::ProblemKind;
use super::state::Web;
use naq_protocol::AuditAction;

/// Where a parameter of a route is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ParameterPlace {
    /// A part of the path.
    Path,
    /// A name in the query.
    Query,
    /// A header.
    Header,
}

/// A parameter of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter {
    pub(super) place: ParameterPlace,
    pub(super) name: &'static str,
    /// What it is, with its unit and bounds.
    pub(super) text: &'static str,
    /// An example, which is a valid value.
    pub(super) example: &'static str,
    /// Whether a request without it is refused.
    pub(super) is_required: bool,
    /// The key of its schema: its name, unless another route has another parameter of the same name.
    pub(super) schema: &'static str,
}

impl Parameter {
    /// Sets the key of its schema.
    pub(super) const fn of_schema(self, schema: &'static str) -> Parameter {
        Parameter { schema, ..self }
    }

    /// Says that a request without it is refused.
    pub(super) const fn required(self) -> Parameter {
        Parameter {
            is_required: true,
            ..self
        }
    }
}

/// A parameter in the path.
pub(super) const fn path(
    name: &'static str,
    text: &'static str,
    example: &'static str,
) -> Parameter {
    Parameter {
        place: ParameterPlace::Path,
        name,
        text,
        example,
        is_required: true,
        schema: name,
    }
}

/// A parameter in the query, which may be absent.
pub(super) const fn query(
    name: &'static str,
    text: &'static str,
    example: &'static str,
) -> Parameter {
    Parameter {
        place: ParameterPlace::Query,
        name,
        text,
        example,
        is_required: false,
        schema: name,
    }
}

/// A header of the request, which may be absent.
pub(super) const fn header(
    name: &'static str,
    text: &'static str,
    example: &'static str,
) -> Parameter {
    Parameter {
        place: ParameterPlace::Header,
        name,
        text,
        example,
        is_required: false,
        schema: name,
    }
}

/// The schema of a body.
pub(super) type BodySchema = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a type.
pub(super) fn schema_of<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// A successful answer.
#[derive(Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// When it is given.
    pub(super) text: &'static str,
    /// The type of the body. `None` if the answer has no body.
    pub(super) media_type: Option<&'static str>,
    /// The schema of a JSON body. `None` for another body, or none.
    pub(super) schema: Option<BodySchema>,
}

/// An answer with a JSON body.
pub(super) const fn json(status: u16, text: &'static str, schema: BodySchema) -> Answer {
    Answer {
        status,
        text,
        media_type: Some("application/json"),
        schema: Some(schema),
    }
}

/// An answer with another body.
pub(super) const fn other(status: u16, text: &'static str, media_type: &'static str) -> Answer {
    Answer {
        status,
        text,
        media_type: Some(media_type),
        schema: None,
    }
}

/// An answer without a body.
pub(super) const fn empty(status: u16, text: &'static str) -> Answer {
    Answer {
        status,
        text,
        media_type: None,
        schema: None,
    }
}

/// A route. The constructors make one that needs its right and has neither parameters nor a body; the methods
/// after them add what it has in addition.
#[derive(Clone, Copy)]
pub(super) struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The right that it requires. `None` means that it requires no token.
    pub(super) right: Option<Right>,
    /// What the audit calls the change that it makes. `None` if it changes nothing.
    pub(super) action: Option<AuditAction>,
    /// What it does, in one line.
    pub(super) summary: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// The schema of the body of the request. `None` if it has none.
    pub(super) body: Option<BodySchema>,
    /// Whether the body may be absent.
    pub(super) is_body_optional: bool,
    pub(super) answers: &'static [Answer],
    /// The errors that it answers, in addition to those of every route.
    pub(super) problems: &'static [&'static ProblemKind],
    /// Whether the answer does not end, so that generic clients skip the route.
    pub(super) is_stream: bool,
    filter: MethodFilter,
    handler: Handler,
}

/// Makes the handler of a route for the route's own method.
type Handler = fn(MethodFilter) -> MethodRouter<Arc<Web>>;

macro_rules! constructors {
    ($($name:ident $method:ident;)*) => {
        $(
            #[doc = concat!("A route that answers `", stringify!($method), "`.")]
            pub(super) const fn $name(
                path: &'static str,
                right: Right,
                summary: &'static str,
                handler: Handler,
            ) -> Route {
                Route {
                    method: stringify!($method),
                    path,
                    right: Some(right),
                    action: None,
                    summary,
                    parameters: &[],
                    body: None,
                    is_body_optional: false,
                    answers: &[],
                    problems: &[],
                    is_stream: false,
                    filter: MethodFilter::$method,
                    handler,
                }
            }
        )*
    };
}

impl Route {
    constructors! {
        get GET;
        post POST;
        put PUT;
        delete DELETE;
    }

    /// Lets everyone use it.
    pub(super) const fn without_token(self) -> Route {
        Route {
            right: None,
            ..self
        }
    }

    /// Appends an entry to the audit for each change that it makes.
    pub(super) const fn audited(self, action: AuditAction) -> Route {
        Route {
            action: Some(action),
            ..self
        }
    }

    pub(super) const fn parameters(self, parameters: &'static [Parameter]) -> Route {
        Route { parameters, ..self }
    }

    pub(super) const fn body(self, schema: BodySchema) -> Route {
        Route {
            body: Some(schema),
            ..self
        }
    }

    pub(super) const fn optional_body(self, schema: BodySchema) -> Route {
        Route {
            body: Some(schema),
            is_body_optional: true,
            ..self
        }
    }

    pub(super) const fn answers(self, answers: &'static [Answer]) -> Route {
        Route { answers, ..self }
    }

    pub(super) const fn problems(self, problems: &'static [&'static ProblemKind]) -> Route {
        Route { problems, ..self }
    }

    /// Says that the answer has no end.
    pub(super) const fn endless(self) -> Route {
        Route {
            is_stream: true,
            ..self
        }
    }

    /// What serves it.
    pub(super) fn handler(&self) -> MethodRouter<Arc<Web>> {
        (self.handler)(self.filter)
    }
}
