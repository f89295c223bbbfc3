//! The event stream of an open page of a job that has not ended: the page after each change, and the output.
//!
//! Its events are `job` with the markup of the page's upper part, `output-start` before output from its
//! beginning, `output` with the markup of lines, and `end` after the last event. Each has data, because
//! browsers ignore an event without data.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::job::body;
use super::job_view::JobReading;
use crate::web::access::Right;
use crate::web::live_output::LiveOutput;
use crate::web::state::Web;
use naq_client::{ClientError, Logs};
use naq_protocol::JobId;

/// Shortest time between two versions of the page.
const PAGE_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Longest time between two versions: ages grow, and queues and workers change without an event of the job.
const PAGE_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Time for which output is collected before it is sent.
const OUTPUT_INTERVAL: Duration = Duration::from_millis(200);

/// Maximum number of events that wait for a slow viewer. Meanwhile, further output is collected, within the
/// bound of [`LiveOutput`].
const EVENTS_WAITING_MAX: usize = 4;

/// The events of a job for one viewer with this right, until the job ends, the viewer leaves, or the dashboard
/// stops.
pub(super) fn job_events(
    web: Arc<Web>,
    right: Right,
    job: JobId,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let (sender, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    tokio::spawn(async move {
        let mut stop = web.stop.clone();
        let viewer = sender.clone();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = viewer.closed() => {}
            () = send_all(&web, right, &job, &sender) => {}
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let event = receiver.recv().await?;
        Some((Ok(event), receiver))
    })
}

async fn send_all(web: &Web, right: Right, job: &JobId, sender: &mpsc::Sender<Event>) {
    let sent = tokio::try_join!(
        send_page(web, right, job, sender),
        send_output(web, job, sender)
    );
    match sent {
        Ok(_) | Err(ClientError::NoSuchJob(_)) => {}
        Err(error) => {
            // the browser connects again after a while
            tracing::debug!("a viewer of the job {job} is disconnected: {error}");
            return;
        }
    }
    // the page then reads itself again, with the whole output
    let end = Event::default().event("end").data("the job has ended");
    let _ = sender.send(end).await;
}

/// Sends the page after each change, until the job has ended.
async fn send_page(
    web: &Web,
    right: Right,
    job: &JobId,
    sender: &mpsc::Sender<Event>,
) -> Result<(), ClientError> {
    // watched before the first read, so that no change is missed
    let waiter = web.client.waiter(std::slice::from_ref(job)).await?;
    let changed = Notify::new();
    let mut watching = std::pin::pin!(waiter.each_change(|_| changed.notify_one()));
    let mut has_ended = false;
    let mut last = String::new();
    loop {
        let read_at = Instant::now();
        let reading = JobReading::read(&web.client, job, right).await?;
        let Ok(page) = body(web, right, &reading, web.base_path()) else {
            return Ok(());
        };
        if page != last {
            let event = Event::default().event("job").data(&page);
            if sender.send(event).await.is_err() {
                return Ok(());
            }
            last = page;
        }
        if has_ended || reading.record.state().is_terminal() {
            return Ok(());
        }
        sleep_until(read_at + PAGE_INTERVAL_MIN).await;
        tokio::select! {
            watched = &mut watching => {
                watched?;
                has_ended = true;
            }
            () = changed.notified() => {}
            () = sleep_until(read_at + PAGE_INTERVAL_MAX) => {}
        }
    }
}

/// Sends the output as the job writes it, until its end.
async fn send_output(
    web: &Web,
    job: &JobId,
    sender: &mpsc::Sender<Event>,
) -> Result<(), ClientError> {
    let mut logs = web.client.follow_logs(job).await?;
    let start = Event::default()
        .event("output-start")
        .data("from the beginning");
    if sender.send(start).await.is_err() {
        return Ok(());
    }
    let mut output = LiveOutput::default();
    loop {
        let has_more = collect(&mut logs, &mut output).await?;
        if !output.is_empty() {
            let event = Event::default().event("output").data(output.markup());
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
        if !has_more {
            return Ok(());
        }
    }
}

/// Waits for output, then collects the output of the following moment. Returns whether more may follow.
async fn collect(logs: &mut Logs, output: &mut LiveOutput) -> Result<bool, ClientError> {
    match logs.next().await? {
        Some(chunk) => output.push(chunk),
        None => return Ok(false),
    }
    let until = Instant::now() + OUTPUT_INTERVAL;
    while Instant::now() < until {
        match timeout_at(until, logs.next()).await {
            Ok(next) => match next? {
                Some(chunk) => output.push(chunk),
                None => return Ok(false),
            },
            Err(_) => break,
        }
    }
    Ok(true)
}
