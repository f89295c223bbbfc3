//! A small HTTP server for monitors: `GET /metrics`, and nothing else.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::registry::{Format, Metrics};

/// Maximum number of connections that are served at the same time. Further ones wait.
const CONNECTIONS_MAX: usize = 16;

/// Time limit for a client to send the headers of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Time limit of a connection. A client that keeps connections open then opens another one.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);

/// Maximum size of the headers of a request, in bytes: the minimum that the library permits.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Pause after a failed accept. Without free descriptors, the next one would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shortest token that is accepted, in characters. Shorter ones can be guessed.
const TOKEN_CHARS_MIN: usize = 20;

/// The token that a client sends in the header `Authorization`. Only its digest is stored.
#[derive(Clone)]
pub struct MetricsToken([u8; 32]);

impl fmt::Debug for MetricsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsToken(***)")
    }
}

impl MetricsToken {
    /// The token of this secret.
    ///
    /// # Errors
    /// Returns a message, for people, if the secret is shorter than 20 characters.
    pub fn new(secret: &str) -> Result<MetricsToken, String> {
        match secret.chars().count() < TOKEN_CHARS_MIN {
            true => Err(format!(
                "the token is shorter than {TOKEN_CHARS_MIN} characters"
            )),
            false => Ok(MetricsToken(Sha256::digest(secret).into())),
        }
    }

    /// Whether a request has this token. The duration reveals nothing about the token, because this compares
    /// digests, which a client cannot choose.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let value = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let secret = value.and_then(|value| value.split_once(' '));
        secret.is_some_and(|(scheme, secret)| {
            let digest: [u8; 32] = Sha256::digest(secret.trim()).into();
            scheme.eq_ignore_ascii_case("bearer") && digest == self.0
        })
    }
}

/// A socket that serves the metrics.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    token: Option<MetricsToken>,
}

impl MetricsListener {
    /// Listens on an address. Without a token, everyone who can reach the address may read the metrics.
    ///
    /// # Errors
    /// Returns an error if the address cannot be listened on.
    pub async fn bind(
        address: SocketAddr,
        token: Option<MetricsToken>,
    ) -> std::io::Result<MetricsListener> {
        Ok(MetricsListener {
            listener: TcpListener::bind(address).await?,
            token,
        })
    }

    /// The address, with the port that was taken.
    ///
    /// # Errors
    /// Returns an error if the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let token = Arc::new(self.token);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(slot) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("cannot accept a connection for metrics: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let (metrics, token) = (Arc::clone(&metrics), Arc::clone(&token));
            connections.spawn(async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (metrics, token) = (Arc::clone(&metrics), Arc::clone(&token));
                    async move {
                        Ok::<_, Infallible>(answer(request, metrics, token.as_ref().as_ref()).await)
                    }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME_MAX)
                    .max_buf_size(HEAD_BYTES_MAX)
                    .serve_connection(TokioIo::new(stream), answer);
                let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
                drop(slot);
            });
        }
    }
}

/// Answers a request. Its body is not read.
async fn answer<B>(
    request: Request<B>,
    metrics: Arc<Metrics>,
    token: Option<&MetricsToken>,
) -> Response<String> {
    let refuse = |status: StatusCode, header, value, text: &str| {
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header, HeaderValue::from_static(value));
        response
    };
    if request.uri().path() != "/metrics" {
        return refuse(
            StatusCode::NOT_FOUND,
            CONTENT_TYPE,
            "text/plain",
            "the metrics are at /metrics",
        );
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            ALLOW,
            "GET, HEAD",
            "send GET",
        );
    }
    if token.is_some_and(|token| !token.is_in(request.headers())) {
        let text = "send the token in the header Authorization";
        return refuse(StatusCode::UNAUTHORIZED, WWW_AUTHENTICATE, "Bearer", text);
    }
    let accept = request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    let mut format = Format::accepted(accept);
    // without a token every user of the machine is answered, and ids of jobs are not for all of them
    if token.is_some() {
        format = format.with_exemplars();
    }
    let mut response = Response::new(metrics.scrape(None, format).await);
    let media_type = HeaderValue::from_static(format.media_type());
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

#[cfg(test)]
mod tests {
    use super::super::table::Role;
    use super::*;

    const SECRET: &str = "0123456789abcdefghij";

    async fn status(
        method: &str,
        path: &str,
        authorization: Option<&str>,
        token: Option<&MetricsToken>,
    ) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let metrics = Arc::new(Metrics::new(&[Role::Worker]));
        let response = answer(request.body(()).unwrap(), metrics, token).await;
        response.status().as_u16()
    }

    #[tokio::test]
    async fn only_the_metrics_are_served_and_only_with_the_token() {
        let token = MetricsToken::new(SECRET).unwrap();
        let bearer = format!("Bearer {SECRET}");
        let (with, none) = (Some(&token), None);
        for (method, path, authorization, token, expected) in [
            ("GET", "/metrics", None, none, 200),
            ("HEAD", "/metrics", None, none, 200),
            ("POST", "/metrics", None, none, 405),
            ("GET", "/", None, none, 404),
            ("GET", "/metrics/", None, none, 404),
            ("GET", "/metrics", None, with, 401),
            (
                "GET",
                "/metrics",
                Some("Bearer 0123456789abcdefghiJ"),
                with,
                401,
            ),
            (
                "GET",
                "/metrics",
                Some("Basic 0123456789abcdefghij"),
                with,
                401,
            ),
            ("GET", "/metrics", Some("0123456789abcdefghij"), with, 401),
            ("GET", "/metrics", Some(&bearer), with, 200),
        ] {
            let found = status(method, path, authorization, token).await;
            assert_eq!(found, expected, "{method} {path} {authorization:?}");
        }
    }

    /// The worker's loop runs on the thread of the listener.
    #[tokio::test]
    async fn an_answer_that_takes_long_blocks_nothing_else() {
        let metrics = Arc::new(Metrics::new(&[Role::Worker]));
        let (release, gate) = std::sync::mpsc::channel();
        let (begin, mut begun) = tokio::sync::mpsc::channel(1);
        metrics.before_scrape(move || {
            let _ = begin.try_send(());
            gate.recv_timeout(Duration::from_secs(60)).unwrap();
        });
        let request = Request::builder().uri("/metrics").body(()).unwrap();
        let other = async {
            begun.recv().await.unwrap();
            release.send(()).unwrap();
        };
        let (response, ()) = tokio::join!(answer(request, metrics, None), other);
        assert!(response.body().contains("naq_build_info"));
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused() {
        assert!(MetricsToken::new("short").is_err());
        let token = MetricsToken::new(SECRET).unwrap();
        assert!(!format!("{token:?}").contains(SECRET));
    }
}
