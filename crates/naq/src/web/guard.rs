//! Checks of every request: the host that it names and who sends it; and the headers of every answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use super::access::{Identity, Proof, Right, SenderHeaders, is_cross_site, is_own_host};
use super::login::random_hex;
use super::options::FrameAncestor;
use super::problem::{self, Problem};
use super::proxies::Source;
use super::state::Web;
use crate::clock;

/// The content security policy: a page loads everything from this server only, and scripts cannot turn text
/// into markup (Trusted Types).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types naq";

/// Time limit until an answer begins. A client may ask to wait for a job for at most a minute.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(90);

/// Name of the header that numbers requests.
const REQUEST_ID: &str = "naq-request-id";

/// Marks the answer of a page that sites of the configuration may show in a frame. It has no buttons.
#[derive(Clone, Copy)]
pub(super) struct Frameable;

/// The template of the route that has answered, for the metrics.
#[derive(Clone, Copy)]
pub(super) struct RouteTemplate(pub(super) &'static str);

/// Checks the host, limits the time, and adds headers to the answer.
pub(super) async fn every_request(
    State(web): State<Arc<Web>>,
    request: Request,
    next: Next,
) -> Response {
    fail::fail_point!("dashboard.request");
    let is_page = !is_api(request.uri().path());
    let (method, began) = (request.method().clone(), Instant::now());
    let host = host(request.headers(), request.uri());
    let mut response = match is_own_host(host.as_deref(), &web.host_names) {
        false => {
            let named = naq_protocol::escape(host.as_deref().unwrap_or("no host"));
            let detail = format!("`{named}` is not a name of this dashboard");
            Problem::new(&problem::HOST, detail).into_response()
        }
        true => match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                Problem::new(&problem::UNAVAILABLE, "the request took too long").into_response()
            }
        },
    };
    let route = response
        .extensions()
        .get::<RouteTemplate>()
        .map(|RouteTemplate(path)| *path);
    let status = response.status().as_u16();
    web.metrics
        .on_answer(route, &method, status, began.elapsed());
    let sites = match response.extensions().get::<Frameable>() {
        Some(Frameable) => web.config.frame_ancestors.as_slice(),
        None => &[],
    };
    let headers = response.headers_mut();
    add_headers(headers, is_page);
    if !sites.is_empty() {
        allow_frames(headers, sites);
    }
    if let Ok(id) = random_hex::<8>()
        && let Ok(id) = HeaderValue::from_str(&id)
    {
        headers.insert(REQUEST_ID, id);
    }
    response
}

fn add_headers(headers: &mut HeaderMap, is_page: bool) {
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    let policy = match is_page {
        true => CONTENT_SECURITY_POLICY,
        // if a browser shows an answer of the API as a page, that page must be inert
        false => "default-src 'none'; frame-ancestors 'none'; sandbox",
    };
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(policy),
    );
}

/// Lets these sites show a page in a frame.
fn allow_frames(headers: &mut HeaderMap, sites: &[FrameAncestor]) {
    let sites: Vec<&str> = sites.iter().map(FrameAncestor::as_str).collect();
    let allowed = format!("frame-ancestors {}", sites.join(" "));
    let policy = CONTENT_SECURITY_POLICY.replace("frame-ancestors 'none'", &allowed);
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Whether a path is for programs, so that errors are JSON.
pub(super) fn is_api(path: &str) -> bool {
    ["/api", "/schemas", "/healthz", "/readyz", "/metrics"]
        .iter()
        .any(|prefix| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// The host that a request names. HTTP/1.1 has it in a header, or in an absolute address.
fn host(headers: &HeaderMap, uri: &axum::http::Uri) -> Option<String> {
    let header = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let in_uri = uri.authority().map(axum::http::uri::Authority::as_str);
    in_uri.or(header).map(str::to_owned)
}

/// Passes a request on if it has the right that its route requires, and stores its [`Identity`].
pub(super) async fn require_right(
    State((web, right)): State<(Arc<Web>, Right)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match authorize(&web, &parts, right) {
        Ok(identity) => {
            parts.extensions.insert(identity);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refused) => refuse(&web, &parts, refused),
    }
}

/// Redirects a browser without a session to the login page. Other clients get the error.
fn refuse(web: &Web, parts: &Parts, refused: Problem) -> Response {
    let is_unknown = refused.status() == StatusCode::UNAUTHORIZED;
    if is_unknown && !is_api(parts.uri.path()) && parts.method == Method::GET {
        return Redirect::to(&format!("{}/login", web.base_path())).into_response();
    }
    match is_api(parts.uri.path()) {
        true => refused.into_response(),
        false => web.error_page(&refused),
    }
}

/// What a request says about the page that sent it.
pub(super) fn sender(headers: &HeaderMap) -> SenderHeaders<'_> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    SenderHeaders {
        sec_fetch_site: text("sec-fetch-site"),
        origin: text("origin"),
        host: text("host"),
    }
}

pub(super) fn authorize(web: &Web, parts: &Parts, right: Right) -> Result<Identity, Problem> {
    let (mut identity, proof) = identify(web, parts)?;
    if !parts.method.is_safe() && is_cross_site(sender(&parts.headers), proof) {
        let detail = "the request comes from a page of another site, or from an unknown page";
        return Err(Problem::new(&problem::CROSS_SITE, detail));
    }
    identity.right = web.config.limits.limit(identity.right, proof);
    if identity.right < right {
        let detail = format!(
            "the {} `{}` has the right {}, but this request requires {}",
            if identity.is_forwarded {
                "user"
            } else {
                "token"
            },
            identity.name,
            identity.right.name(),
            right.name()
        );
        return Err(Problem::new(&problem::FORBIDDEN, detail));
    }
    Ok(identity)
}

/// Whether the token or the session of a request is still valid.
pub(super) fn has_session(web: &Web, parts: &Parts) -> bool {
    identify(web, parts).is_ok()
}

/// Who sends a request, by its token, by the header of a trusted proxy, or by its cookie.
fn identify(web: &Web, parts: &Parts) -> Result<(Identity, Proof), Problem> {
    let headers = &parts.headers;
    let source = parts.extensions.get::<Source>();
    let forwarded = source.and_then(|source| source.user.as_ref());
    // a proxy may pass on the name and the password that it has checked itself
    let is_for_proxy = |value: &HeaderValue| forwarded.is_some() && !is_bearer(value);
    if let Some(value) = headers.get(header::AUTHORIZATION)
        && !is_for_proxy(value)
    {
        let value = value.to_str().unwrap_or_default();
        let token = match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => {
                let detail = "the header Authorization is not `Bearer TOKEN`";
                return Err(Problem::new(&problem::UNAUTHENTICATED, detail));
            }
        };
        return match web.config.tokens.of_secret(token) {
            Some(identity) => Ok((identity, Proof::Token)),
            None => {
                web.metrics.auth_failures.inc();
                Err(Problem::new(
                    &problem::UNAUTHENTICATED,
                    "the token is unknown",
                ))
            }
        };
    }
    match forwarded {
        Some(Ok(user)) => {
            let identity = Identity {
                name: user.name.clone(),
                right: user.right,
                is_forwarded: true,
            };
            return Ok((identity, Proof::Cookie));
        }
        Some(Err(why)) => return Err(Problem::new(&problem::UNAUTHENTICATED, why.clone())),
        None => {}
    }
    let now = clock::now();
    let sessions = cookies(headers).filter(|(name, _)| *name == web.cookie_name);
    sessions
        .filter_map(|(_, value)| web.config.tokens.of_session(value, now))
        .next()
        .map(|identity| (identity, Proof::Cookie))
        .ok_or_else(|| {
            Problem::new(
                &problem::UNAUTHENTICATED,
                "the request has neither a token nor a session",
            )
        })
}

/// Whether a header `Authorization` has a token.
fn is_bearer(value: &HeaderValue) -> bool {
    let scheme = value.as_bytes().split(|byte| *byte == b' ').next();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

/// The names and values of all cookies.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
}
