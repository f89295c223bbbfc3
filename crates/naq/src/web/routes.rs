//! The table of all routes, and the router that is made of it. No route exists outside of this table, so none
//! can lack a right.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::Method;
use axum::http::uri::PathAndQuery;
use axum::middleware::{from_fn_with_state, map_request_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use axum::{Json, Router};
use serde_json::Value;

use super::access::Right;
use super::problem::{self, Problem};
use super::route::Route;
use super::state::Web;
use super::{api, guard, openapi, pages};

/// A page for browsers.
const fn page(
    method: &'static str,
    path: &'static str,
    right: Option<Right>,
    summary: &'static str,
    handler: fn() -> MethodRouter<Arc<Web>>,
) -> Route {
    Route {
        method,
        path,
        right,
        summary,
        parameters: &[],
        body: None,
        answers: &[],
        problems: &[],
        is_stream: false,
        handler,
    }
}

/// Every route of a page.
const PAGES: &[Route] = &[
    page("GET", "/", Some(Right::View), "Overview", || {
        axum::routing::get(pages::overview::show)
    }),
    page(
        "GET",
        "/live",
        Some(Right::View),
        "What changes, for open pages",
        || axum::routing::get(pages::live::stream),
    ),
    page("GET", "/login", None, "Log in", || {
        axum::routing::get(pages::login::show)
    }),
    page("POST", "/login", None, "Log in with a token", || {
        axum::routing::post(pages::login::log_in)
    }),
    page("POST", "/logout", Some(Right::View), "Log out", || {
        axum::routing::post(pages::login::log_out)
    }),
    page("GET", "/problems/{slug}", None, "About an error", || {
        axum::routing::get(pages::problems::show)
    }),
    page("GET", "/jobs", Some(Right::View), "Jobs", || {
        axum::routing::get(pages::jobs::show)
    }),
    page("GET", "/jobs/{job}", Some(Right::View), "A job", || {
        axum::routing::get(pages::job::show)
    }),
    page(
        "POST",
        "/jobs/{job}/cancel",
        Some(Right::Operate),
        "Cancel a job",
        || axum::routing::post(pages::job::cancel),
    ),
    page(
        "POST",
        "/jobs/{job}/retry",
        Some(Right::Operate),
        "Run an ended job again",
        || axum::routing::post(pages::job::retry),
    ),
    page(
        "GET",
        "/export/jobs",
        Some(Right::View),
        "The jobs of a filter, as a file",
        || axum::routing::get(pages::jobs::export),
    ),
    page("GET", "/assets/{name}", None, "Scripts and styles", || {
        axum::routing::get(super::assets::serve)
    }),
    page("GET", "/failed", Some(Right::View), "Failed jobs", || {
        axum::routing::get(pages::failed::show)
    }),
    page(
        "GET",
        "/failed/jobs",
        Some(Right::View),
        "The failed jobs of a group",
        || axum::routing::get(pages::failed::jobs),
    ),
    page(
        "POST",
        "/failed/retry",
        Some(Right::Operate),
        "Run the failed jobs of a group again",
        || axum::routing::post(pages::failed::retry_group),
    ),
    page(
        "POST",
        "/failed/discard",
        Some(Right::Operate),
        "Discard the failed jobs of a group",
        || axum::routing::post(pages::failed::discard_group),
    ),
    page(
        "POST",
        "/failed/{job}/retry",
        Some(Right::Operate),
        "Run a failed job again",
        || axum::routing::post(pages::failed::retry),
    ),
    page(
        "POST",
        "/failed/{job}/discard",
        Some(Right::Operate),
        "Discard a failed job",
        || axum::routing::post(pages::failed::discard),
    ),
    page("GET", "/schedules", Some(Right::View), "Schedules", || {
        axum::routing::get(pages::schedules::show)
    }),
    page(
        "POST",
        "/schedules/{schedule}/pause",
        Some(Right::Operate),
        "Pause a schedule",
        || axum::routing::post(pages::schedules::pause),
    ),
    page(
        "POST",
        "/schedules/{schedule}/resume",
        Some(Right::Operate),
        "Resume a schedule",
        || axum::routing::post(pages::schedules::resume),
    ),
    page(
        "POST",
        "/schedules/{schedule}/trigger",
        Some(Right::Operate),
        "Enqueue a job of a schedule now",
        || axum::routing::post(pages::schedules::trigger),
    ),
    page("GET", "/workers", Some(Right::View), "Workers", || {
        axum::routing::get(pages::workers::show)
    }),
];

/// Every route: pages, and the API in the order of the document.
pub(super) fn all() -> impl Iterator<Item = &'static Route> {
    PAGES.iter().chain(api::routes())
}

/// Serves every route.
pub(super) fn router(web: &Arc<Web>) -> Router {
    let mut routes: Router<Arc<Web>> = Router::new();
    for route in all() {
        let mut handler = (route.handler)();
        if let Some(right) = route.right {
            let needed = (Arc::clone(web), right);
            handler = handler.route_layer(from_fn_with_state(needed, guard::require_right));
        }
        let template = guard::RouteTemplate(route.path);
        handler = handler.layer(map_response(move |mut response: Response| {
            response.extensions_mut().insert(template);
            std::future::ready(response)
        }));
        routes = routes.route(route.path, handler);
    }
    let routes = routes
        .route("/api/openapi.json", axum::routing::get(describe))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::extract::DefaultBodyLimit::max(web.body_bytes_max()))
        .layer(map_response(explain_plain_error))
        .layer(from_fn_with_state(Arc::clone(web), guard::every_request))
        .with_state(Arc::clone(web));
    match web.base_path() {
        "" => routes,
        _ => Router::new()
            .fallback_service(routes)
            .layer(map_request_with_state(Arc::clone(web), without_base_path)),
    }
}

/// Removes the path of the proxy, which may send an address as it got it, or without its own part.
async fn without_base_path(State(web): State<Arc<Web>>, mut request: Request) -> Request {
    let address = request.uri().path_and_query().map(PathAndQuery::as_str);
    let rest = address.and_then(|address| address.strip_prefix(web.base_path()));
    let shorter = match rest {
        Some(rest) if rest.starts_with('/') => rest.parse(),
        Some(rest) if rest.is_empty() || rest.starts_with('?') => format!("/{rest}").parse(),
        _ => return request,
    };
    if let Ok(shorter) = shorter {
        *request.uri_mut() = shorter;
    }
    request
}

/// Answers with the OpenAPI document.
async fn describe() -> Json<Value> {
    Json(openapi::document(api::routes()))
}

async fn not_found(State(web): State<Arc<Web>>, uri: OriginalUri) -> Response {
    let detail = format!("there is no `{}`", naq_protocol::escape(uri.path()));
    let missing = Problem::new(&problem::NOT_FOUND, detail);
    match guard::is_api(uri.path()) {
        true => missing.into_response(),
        false => web.error_page(&missing),
    }
}

async fn method_not_allowed(method: Method) -> Response {
    let detail = format!("this path has no {method}");
    Problem::new(&problem::METHOD_NOT_ALLOWED, detail).into_response()
}

/// Turns an error that the HTTP library answers by itself, in plain text, into a problem.
async fn explain_plain_error(response: Response) -> Response {
    let is_plain = response
        .headers()
        .get(axum::http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
    let kind = match response.status().as_u16() {
        400 => &problem::BAD_REQUEST,
        413 => &problem::TOO_LARGE,
        415 => &problem::MEDIA_TYPE,
        422 => &problem::REFUSED,
        _ => return response,
    };
    if !is_plain {
        return response;
    }
    let (_, body) = response.into_parts();
    let text = axum::body::to_bytes(body, 4_096).await.unwrap_or_default();
    Problem::new(kind, naq_protocol::escape(&String::from_utf8_lossy(&text))).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::route::ParameterPlace;
    use super::*;

    #[test]
    fn only_these_routes_need_no_token() {
        let open: Vec<&str> = all()
            .filter(|route| route.right.is_none())
            .map(|route| route.path)
            .collect();
        let expected = [
            "/login",
            "/login",
            "/problems/{slug}",
            "/assets/{name}",
            "/healthz",
            "/readyz",
            // on loopback addresses only
            "/metrics",
        ];
        assert_eq!(open, expected);
    }

    #[test]
    fn no_change_needs_only_the_right_to_view() {
        for route in all() {
            let is_change = !matches!(route.method, "GET");
            let is_login = matches!(route.path, "/login" | "/logout");
            let may_change = route.right.is_some_and(|right| right > Right::View);
            assert_eq!(
                is_change && !is_login,
                may_change,
                "{} {}",
                route.method,
                route.path
            );
        }
    }

    #[test]
    fn each_example_of_a_parameter_is_a_valid_value() {
        let document = super::openapi::document(api::routes());
        let mut examples = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for operation in methods.as_object().unwrap().values() {
                let parameters = operation.get("parameters").and_then(Value::as_array);
                for parameter in parameters.into_iter().flatten() {
                    let mut schema = parameter["schema"].clone();
                    schema["components"] = document["components"].clone();
                    let text = parameter["example"].as_str().unwrap();
                    // a query has no types: what looks like a number or a word of JSON may be one
                    let typed = serde_json::from_str(text).unwrap_or_else(|_| text.into());
                    let is_valid = |value: &Value| jsonschema::is_valid(&schema, value);
                    let holds = is_valid(&typed) || is_valid(&text.into());
                    assert!(holds, "{path}: {parameter}");
                    examples += 1;
                }
            }
        }
        assert!(examples > 40, "{examples}");
    }

    #[test]
    fn each_part_of_a_path_is_described() {
        for route in api::routes() {
            let named: Vec<&str> = route.path.split(['{', '}']).skip(1).step_by(2).collect();
            let described: Vec<&str> = route
                .parameters
                .iter()
                .filter(|parameter| parameter.place == ParameterPlace::Path)
                .map(|parameter| parameter.name)
                .collect();
            assert_eq!(named, described, "{}", route.path);
        }
    }
}
