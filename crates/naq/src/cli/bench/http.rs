//! Requests to the dashboard that is measured: one at a time on a connection that stays open, and streams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use futures_util::StreamExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cli::exit::Failure;

/// Maximum size of an answer, in bytes. No page comes near it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Time limit for one answer. A page that takes longer has failed.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(60);

/// Where the dashboard listens, and the token for programs.
#[derive(Clone)]
pub(super) struct Site {
    pub(super) address: SocketAddr,
    pub(super) token: String,
}

/// An open connection.
pub(super) struct Connection {
    site: Site,
    sender: SendRequest<Body>,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// Time from the request to the headers of the answer, in milliseconds.
    pub(super) first_byte_ms: f64,
}

impl Connection {
    pub(super) async fn open(site: &Site) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(site.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // ends when the sender is dropped
        tokio::spawn(connection);
        Ok(Connection {
            site: site.clone(),
            sender,
        })
    }

    /// Gets a page, and requires that the answer is 200.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let answered = tokio::time::timeout(ANSWER_TIME_MAX, self.send(path, "*/*"));
        let answer = answered.await.map_err(|_| {
            let seconds = ANSWER_TIME_MAX.as_secs();
            Failure::general(format!("{path} was not answered within {seconds} s"))
        })??;
        let first_byte_ms = begun.elapsed().as_secs_f64() * 1e3;
        let body = to_bytes(Body::new(answer), ANSWER_BYTES_MAX)
            .await
            .map_err(failed)?;
        Ok(Answer {
            body,
            first_byte_ms,
        })
    }

    async fn send(&mut self, path: &str, accept: &str) -> Result<Incoming, Failure> {
        let request = Request::get(path)
            .header(HOST, self.site.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.site.token))
            .header(ACCEPT, accept)
            .body(Body::empty())
            .map_err(failed)?;
        self.sender.ready().await.map_err(failed)?;
        let answer = self.sender.send_request(request).await.map_err(failed)?;
        match answer.status().as_u16() {
            200 => Ok(answer.into_body()),
            status => Err(Failure::general(format!(
                "{path} was answered with {status}"
            ))),
        }
    }
}

/// An open page, as far as the dashboard notices: a stream whose events are read and dropped.
pub(super) struct Viewer {
    reading: tokio::task::JoinHandle<u64>,
}

impl Viewer {
    /// Opens the stream of the overview.
    pub(super) async fn open(site: &Site) -> Result<Viewer, Failure> {
        let mut connection = Connection::open(site).await?;
        let events = connection
            .send("/live?overview", "text/event-stream")
            .await?;
        let reading = tokio::spawn(async move {
            let _open = connection;
            let mut pieces = Body::new(events).into_data_stream();
            let mut bytes = 0;
            while let Some(Ok(piece)) = pieces.next().await {
                bytes += piece.len() as u64;
            }
            bytes
        });
        Ok(Viewer { reading })
    }

    /// Whether the dashboard still sends.
    pub(super) fn is_open(&self) -> bool {
        !self.reading.is_finished()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::general(format!("a request to the dashboard failed: {error}"))
}
