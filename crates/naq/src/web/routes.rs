//! The table of all routes, and the router that is built from it. No route exists outside of this table, so
//! none can lack a right.

use std::sync::Arc;

use axum::extract::{OriginalUri, Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn_with_state, map_request_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use axum::{Json, Router};
use serde_json::Value;

use super::access::Right;
use super::problem::{self, Problem};
use super::route::Route;
use super::state::Web;
use super::{api, audit, guard, openapi, pages};
use naq_protocol::AuditAction;

/// Every route of a page.
const PAGES: &[Route] = &[
    Route::get("/", Right::View, "Overview", |method| {
        on(method, pages::overview::show)
    }),
    Route::get(
        "/live",
        Right::View,
        "What changes, for open pages",
        |method| on(method, pages::live::stream),
    ),
    Route::post(
        "/live/{stream}",
        Right::View,
        "Set what an open stream follows",
        |method| on(method, pages::live::set_topics),
    ),
    Route::get("/login", Right::View, "Log in", |method| {
        on(method, pages::login::show)
    })
    .without_token(),
    Route::post("/login", Right::View, "Log in with a token", |method| {
        on(method, pages::login::log_in)
    })
    .without_token(),
    Route::post("/logout", Right::View, "Log out", |method| {
        on(method, pages::login::log_out)
    }),
    Route::get(
        "/problems/{slug}",
        Right::View,
        "About an error",
        |method| on(method, pages::problems::show),
    )
    .without_token(),
    Route::get("/jobs", Right::View, "Jobs", |method| {
        on(method, pages::jobs::show)
    }),
    Route::get("/jobs/{job}", Right::View, "A job", |method| {
        on(method, pages::job::show)
    }),
    Route::get(
        "/jobs/{job}/attempts",
        Right::View,
        "Two attempts of a job side by side",
        |method| on(method, pages::attempts::show),
    ),
    Route::get(
        "/jobs/{job}/rows",
        Right::View,
        "Lines of the output of a job, for an open page",
        |method| on(method, pages::job_output::rows),
    ),
    Route::get(
        "/jobs/{job}/snapshot.html",
        Right::View,
        "A job as one page that loads nothing",
        |method| on(method, pages::snapshot::html),
    ),
    Route::get(
        "/jobs/{job}/snapshot.json",
        Right::View,
        "A job as one file",
        |method| on(method, pages::snapshot::json),
    ),
    Route::post(
        "/jobs/{job}/cancel",
        Right::Operate,
        "Cancel a job",
        |method| on(method, pages::job::cancel),
    )
    .audited(AuditAction::JobCancel),
    Route::post(
        "/jobs/{job}/retry",
        Right::Operate,
        "Run an ended job again",
        |method| on(method, pages::job::retry),
    )
    .audited(AuditAction::JobRetry),
    Route::get(
        "/export/jobs",
        Right::View,
        "The jobs of a filter, as a file",
        |method| on(method, pages::jobs::export),
    ),
    Route::get(
        "/assets/{name}",
        Right::View,
        "Scripts and styles",
        |method| on(method, super::assets::serve),
    )
    .without_token(),
    Route::get("/failed", Right::View, "Failed jobs", |method| {
        on(method, pages::failed::show)
    }),
    Route::get(
        "/failed/jobs",
        Right::View,
        "The failed jobs of a group",
        |method| on(method, pages::failed::jobs),
    ),
    Route::get("/schedules", Right::View, "Schedules", |method| {
        on(method, pages::schedules::show)
    }),
    Route::post(
        "/schedules/{schedule}/pause",
        Right::Operate,
        "Pause a schedule",
        |method| on(method, pages::schedules::pause),
    )
    .audited(AuditAction::SchedulePause),
    Route::post(
        "/schedules/{schedule}/resume",
        Right::Operate,
        "Resume a schedule",
        |method| on(method, pages::schedules::resume),
    )
    .audited(AuditAction::ScheduleResume),
    Route::post(
        "/schedules/{schedule}/trigger",
        Right::Operate,
        "Enqueue a job of a schedule now",
        |method| on(method, pages::schedules::trigger),
    )
    .audited(AuditAction::ScheduleTrigger),
    Route::get("/flows/{flow}", Right::View, "A flow", |method| {
        on(method, pages::flow::show)
    }),
    Route::get("/workers", Right::View, "Workers", |method| {
        on(method, pages::workers::show)
    }),
    Route::get("/audit", Right::Operate, "Audit", |method| {
        on(method, pages::audit::show)
    }),
    Route::get("/actions", Right::View, "Bulk actions", |method| {
        on(method, pages::actions::list)
    }),
    // the handlers name what was done
    Route::post(
        "/actions",
        Right::Operate,
        "Start a bulk action",
        |method| on(method, pages::actions::start),
    )
    .audited(AuditAction::JobCancel),
    Route::get(
        "/actions/new",
        Right::View,
        "What a bulk action would do",
        |method| on(method, pages::actions::preview),
    ),
    Route::get("/actions/{id}", Right::View, "A bulk action", |method| {
        on(method, pages::actions::show)
    }),
    Route::post(
        "/actions/{id}/stop",
        Right::Operate,
        "Stop a bulk action",
        |method| on(method, pages::actions::stop),
    )
    .audited(AuditAction::JobCancel),
    Route::post(
        "/actions/{id}/undo",
        Right::Operate,
        "Undo a bulk action",
        |method| on(method, pages::actions::undo),
    )
    .audited(AuditAction::JobCancel),
    Route::get(
        "/create/schedule",
        Right::Submit,
        "The form of a new schedule",
        |method| on(method, pages::schedule_form::create),
    ),
    Route::post(
        "/create/schedule",
        Right::Submit,
        "Create a schedule",
        |method| on(method, pages::schedule_form::save_new),
    )
    .audited(AuditAction::ScheduleAdd),
    Route::get(
        "/schedules/{schedule}",
        Right::View,
        "A schedule",
        |method| on(method, pages::schedule::show),
    ),
    Route::get(
        "/schedules/{schedule}/edit",
        Right::Submit,
        "The form of a schedule",
        |method| on(method, pages::schedule_form::edit),
    ),
    Route::post(
        "/schedules/{schedule}/edit",
        Right::Submit,
        "Replace the definition of a schedule",
        |method| on(method, pages::schedule_form::save_edited),
    )
    .audited(AuditAction::ScheduleUpdate),
    Route::post(
        "/schedules/{schedule}/backfill",
        Right::Operate,
        "Enqueue the runs of a range of the past",
        |method| on(method, pages::schedule::backfill),
    )
    .audited(AuditAction::ScheduleBackfill),
    Route::post(
        "/schedules/{schedule}/delete",
        Right::Operate,
        "Delete a schedule",
        |method| on(method, pages::schedule::delete),
    )
    .audited(AuditAction::ScheduleDelete),
    Route::post(
        "/workers/{worker}/drain",
        Right::Operate,
        "Drain a worker",
        |method| on(method, pages::workers::drain),
    )
    .audited(AuditAction::WorkerDrain),
    Route::get(
        "/enqueue",
        Right::Submit,
        "Enqueue a job, or edit one and run it again",
        |method| on(method, pages::enqueue::show),
    ),
    Route::post(
        "/enqueue",
        Right::Submit,
        "Check or enqueue a job",
        |method| on(method, pages::enqueue::submit),
    )
    .audited(AuditAction::JobEnqueue),
    Route::get(
        "/api/openapi.json",
        Right::View,
        "The OpenAPI document",
        |method| on(method, describe),
    ),
];

/// Every route: pages, and the API in the order of the document.
pub(super) fn all() -> impl Iterator<Item = &'static Route> {
    PAGES.iter().chain(api::routes())
}

/// Serves every route.
pub(super) fn router(web: &Arc<Web>) -> Router {
    let mut routes: Router<Arc<Web>> = Router::new();
    for route in all() {
        let mut handler = route.handler();
        // a page reads its own, and refuses them as a page
        if guard::is_api(route.path) {
            handler = handler.layer(from_fn_with_state(route, api::read_query));
        }
        if let Some(action) = route.action {
            let audited = (Arc::clone(web), action);
            handler = handler.route_layer(from_fn_with_state(audited, audit::record));
        }
        // outside of the former, which needs to know who sends the request
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
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::extract::DefaultBodyLimit::max(web.body_bytes_max()))
        .layer(map_response(explain_plain_error))
        .layer(from_fn_with_state(Arc::clone(web), guard::every_request))
        .with_state(Arc::clone(web))
}

/// Serves every route, also to a proxy that passes the base path on.
pub(super) fn router_below_base_path(web: &Arc<Web>) -> Router {
    let routes = router(web);
    match web.base_path() {
        "" => routes,
        _ => Router::new()
            .fallback_service(routes)
            .layer(map_request_with_state(Arc::clone(web), without_base_path)),
    }
}

/// Removes the base path. A proxy may pass a path on unchanged, or without the base path.
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

async fn not_found(
    State(web): State<Arc<Web>>,
    OriginalUri(requested): OriginalUri,
    uri: Uri,
) -> Response {
    let path = naq_protocol::escape(requested.path());
    let missing = Problem::new(&problem::NOT_FOUND, format!("there is no path `{path}`"));
    // `uri` is the address without the base path
    match guard::is_api(uri.path()) {
        true => missing.into_response(),
        false => web.error_page(&missing),
    }
}

async fn method_not_allowed(method: Method) -> Response {
    let detail = format!("the path does not support {method}");
    Problem::new(&problem::METHOD_NOT_ALLOWED, detail).into_response()
}

/// Converts an error that the HTTP library itself answers in plain text into a problem.
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
            // a form of what only some may store is not shown to others
            if route.right == Some(Right::Submit) && route.method == "GET" {
                continue;
            }
            let is_change = !matches!(route.method, "GET");
            let is_of_browser = matches!(route.path, "/login" | "/logout" | "/live/{stream}");
            // the audit names people
            let is_audit = matches!(route.path, "/audit" | "/api/audit");
            let may_change = route.right.is_some_and(|right| right > Right::View);
            assert_eq!(
                (is_change && !is_of_browser) || is_audit,
                may_change,
                "{} {}",
                route.method,
                route.path
            );
        }
    }

    #[test]
    fn each_change_is_audited() {
        for route in all() {
            let is_of_browser = matches!(route.path, "/login" | "/logout" | "/live/{stream}");
            let is_change = route.method != "GET" && !is_of_browser;
            assert_eq!(
                route.action.is_some(),
                is_change,
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
