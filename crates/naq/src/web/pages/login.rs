//! Login and logout.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;

use crate::clock;
use crate::web::access::{Proof, is_cross_site};
use crate::web::guard::sender;
use crate::web::problem::{self, Problem};
use crate::web::proxies::Source;
use crate::web::state::Web;
use crate::web::tokens::SESSION_MS;

/// What the form sends.
#[derive(Deserialize)]
pub(in crate::web) struct LoginForm {
    token: String,
}

/// The form, or a session for the code in the address.
pub(in crate::web) async fn show(
    State(web): State<Arc<Web>>,
    Extension(source): Extension<Source>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let code = query.split('&').find_map(|pair| pair.strip_prefix("code="));
    let Some(code) = code else {
        return form(&web, StatusCode::OK, "");
    };
    if let Some(pause) = web.login.pause(source.client, Instant::now()) {
        return too_often(&web, pause);
    }
    match web.login.use_code(code) {
        true => start_session(&web, &web.config.local_token, &source),
        false => {
            web.login.failed(source.client, Instant::now());
            web.metrics.auth_failures.inc();
            let message = "This address was used before, or belongs to another dashboard.";
            form(&web, StatusCode::UNAUTHORIZED, message)
        }
    }
}

/// Starts a session if the token is known.
pub(in crate::web) async fn log_in(
    State(web): State<Arc<Web>>,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    Form(LoginForm { token }): Form<LoginForm>,
) -> Response {
    if is_cross_site(sender(&headers), Proof::Cookie) {
        let detail = "the form was sent by a page of another site";
        return web.error_page(&Problem::new(&problem::CROSS_SITE, detail));
    }
    if let Some(pause) = web.login.pause(source.client, Instant::now()) {
        return too_often(&web, pause);
    }
    match web.config.tokens.of_secret(token.trim()) {
        Some(identity) => start_session(&web, &identity.name, &source),
        None => {
            web.login.failed(source.client, Instant::now());
            web.metrics.auth_failures.inc();
            form(&web, StatusCode::UNAUTHORIZED, "This token is unknown.")
        }
    }
}

/// Ends the session of this browser.
pub(in crate::web) async fn log_out(State(web): State<Arc<Web>>) -> Response {
    let path = cookie_path(&web);
    let cookie = format!(
        "{}=; Path={path}; Max-Age=0; HttpOnly; SameSite=Strict",
        web.cookie_name
    );
    let to_login = Redirect::to(&format!("{}/login", web.base_path()));
    ([(header::SET_COOKIE, cookie)], to_login).into_response()
}

fn cookie_path(web: &Web) -> &str {
    match web.base_path() {
        "" => "/",
        base => base,
    }
}

fn start_session(web: &Web, token: &str, source: &Source) -> Response {
    let Some(session) = web.config.tokens.new_session(token, clock::now()) else {
        return form(
            web,
            StatusCode::UNAUTHORIZED,
            "The token of this address no longer exists.",
        );
    };
    let secure = match source.is_https {
        true => "; Secure",
        false => "",
    };
    let cookie = format!(
        "{}={session}; Path={}; Max-Age={}; HttpOnly; SameSite=Strict{secure}",
        web.cookie_name,
        cookie_path(web),
        SESSION_MS / 1_000
    );
    let to_overview = Redirect::to(&format!("{}/", web.base_path()));
    ([(header::SET_COOKIE, cookie)], to_overview).into_response()
}

/// The page that says after how many seconds to try again, as its header does.
fn too_often(web: &Web, pause: Duration) -> Response {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    let detail = format!("several wrong tokens were sent; try again in {seconds} s");
    let page = web.error_page(&Problem::new(&problem::LOGIN_TOO_OFTEN, detail));
    ([(header::RETRY_AFTER, seconds.to_string())], page).into_response()
}

fn form(web: &Web, status: StatusCode, message: &str) -> Response {
    let mut context = tera::Context::new();
    context.insert("message", message);
    web.page(status, "login.html", &context)
}
