//! Both output streams of a job, as lines of JSON, or as server-sent events while the job runs.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::routing::on;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::events::event_stream;
use super::jobs::JOB;
use super::parameters::Query;
use crate::web::access::Right;
use crate::web::job_rows;
use crate::web::log_pieces::{LogPieces, LogPosition, Piece, PieceKind};
use crate::web::problem::{self, Problem};
use crate::web::route::{Route, other, query};
use crate::web::state::Web;
use naq_client::{ClientError, LogChunk, OutputStream};
use naq_protocol::{JobId, Record};

/// Maximum number of pieces that wait for a slow client.
const PIECES_WAITING_MAX: usize = 4;

pub(super) const ROUTES: &[Route] = &[Route::get(
    "/api/jobs/{job}/logs",
    Right::View,
    "Read the output of a job so far, or follow it: pieces with stream, attempt, offset and text",
    |method| on(method, logs),
)
.parameters(&[
    JOB,
    query(
        "follow",
        "Send the output as the job writes it, until the job has ended: an event for each piece, `gap` where bytes are missing, and `end`",
        "true",
    ),
    query(
        "last_event_id",
        "The id of an event, after which to begin. The header `Last-Event-ID` does the same",
        "1.120.0",
    ),
])
.answers(&[
    other(200, "A line for each piece", job_rows::NDJSON),
    other(200, "A stream of events, with `follow`", "text/event-stream"),
])
.problems(&[&problem::BAD_REQUEST, &problem::NOT_FOUND])
.endless()];

type Sender = mpsc::Sender<Result<Piece, ClientError>>;

async fn logs(
    State(web): State<Arc<Web>>,
    Path(job): Path<String>,
    Extension(query): Extension<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = JobId::new(&job)?;
    let follow = query.is_on("follow")?;
    let after = match query.parsed("last_event_id", str::parse::<LogPosition>)? {
        Some(after) => Some(after),
        None => headers
            .get("last-event-id")
            .and_then(|id| id.to_str().ok())
            .and_then(|id| id.parse().ok()),
    };
    let record = web.client.fetch_job(&job).await?;
    let pieces = pieces(web, job, record, follow, after.unwrap_or_default());
    Ok(match follow {
        true => event_stream(pieces.filter_map(|piece| std::future::ready(event(piece)))),
        false => {
            let lines = pieces.map(|piece| piece.map(|piece| Bytes::from(piece.json + "\n")));
            let media_type = HeaderValue::from_static(job_rows::NDJSON);
            (
                [(header::CONTENT_TYPE, media_type)],
                Body::from_stream(lines),
            )
                .into_response()
        }
    })
}

/// The event of a piece. `None` after an error: the stream then ends without `end`, and the client connects
/// again.
fn event(piece: Result<Piece, ClientError>) -> Option<Result<Event, Infallible>> {
    let piece = piece.ok()?;
    let event = Event::default().data(piece.json).id(piece.id);
    Some(Ok(match piece.kind {
        PieceKind::Text => event,
        PieceKind::Gap => event.event("gap"),
        PieceKind::End => event.event("end"),
    }))
}

/// The output of a job after a position, until its end, the client leaves, or the dashboard stops.
fn pieces(
    web: Arc<Web>,
    job: JobId,
    record: Record,
    follow: bool,
    after: LogPosition,
) -> impl Stream<Item = Result<Piece, ClientError>> + Send {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::spawn(async move {
        let mut stop = web.stop.clone();
        let client = sender.clone();
        let mut pieces = LogPieces::new(after);
        let sending = async {
            let sent = match record.state().is_terminal() {
                true => send_recorded(&web, &record, &mut pieces, &sender).await,
                false => send_live(&web, &job, follow, &mut pieces, &sender).await,
            };
            let last = match sent {
                Ok(()) => {
                    let rest = pieces.flush();
                    let end = follow.then(|| pieces.end());
                    rest.into_iter().chain(end).map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            };
            for piece in last {
                // the client may have left
                let _ = sender.send(piece).await;
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = client.closed() => {}
            () = sending => {}
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
}

async fn send_live(
    web: &Web,
    job: &JobId,
    follow: bool,
    pieces: &mut LogPieces,
    sender: &Sender,
) -> Result<(), ClientError> {
    let mut logs = match follow {
        true => web.client.follow_logs(job).await?,
        false => web.client.read_logs(job).await?,
    };
    while let Some(chunk) = logs.next().await? {
        send(pieces, chunk, sender).await;
    }
    Ok(())
}

/// Sends what is stored of an ended job: first standard output, then standard error, since their order is not
/// stored.
async fn send_recorded(
    web: &Web,
    record: &Record,
    pieces: &mut LogPieces,
    sender: &Sender,
) -> Result<(), ClientError> {
    let attempt = record.attempt;
    for stdio in [OutputStream::Stdout, OutputStream::Stderr] {
        let output = web.outputs.open(&web.client, record, stdio).await?;
        let (length, gap) = (output.length(), output.gap());
        let head_bytes = gap.map_or(length, |gap| gap.offset);
        let head = output
            .clone()
            .stream(web.outputs.bytes(&output, 0..head_bytes).await?);
        let tail = output
            .clone()
            .stream(web.outputs.bytes(&output, head_bytes..length).await?);
        let bytes = |part: Bytes| LogChunk::Bytes {
            stdio,
            attempt,
            bytes: part,
        };
        let mut head = std::pin::pin!(head);
        while let Some(part) = head.next().await {
            send(pieces, bytes(part?), sender).await;
        }
        if let Some(gap) = gap {
            let missing = LogChunk::Missing {
                stdio,
                attempt,
                bytes: gap.missing_bytes,
                is_live: false,
            };
            send(pieces, missing, sender).await;
        }
        let mut tail = std::pin::pin!(tail);
        while let Some(part) = tail.next().await {
            send(pieces, bytes(part?), sender).await;
        }
    }
    Ok(())
}

/// Sends the pieces of a chunk. If the client has left, the task that sends is dropped at this point.
async fn send(pieces: &mut LogPieces, chunk: LogChunk, sender: &Sender) {
    for piece in pieces.push(chunk) {
        let _ = sender.send(Ok(piece)).await;
    }
}
