//! Says what jobs wait for, while a verb waits for them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::exit::{Exit, Failure};
use super::job_socket::JobObserver;
use super::json::NoteBody;
use super::progress::ProgressBars;
use super::render;
use super::session::Session;
use super::signals::Signals;
pub(super) use crate::text::waiting::describe;
use naq_client::{Client, ClientError, WaitCause};
use naq_protocol::JobId;

/// How long a verb waits before it says what it waits for.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How often a verb checks what it waits for.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Maximum number of jobs that are checked: what one job of a queue waits for, the others do too.
const JOBS_LOOKED_AT_MAX: usize = 8;

/// Maximum number of job ids in a note.
const IDS_SHOWN_MAX: usize = 10;

/// Waits for a future that waits for these jobs. If that takes longer than two seconds, says on
/// standard error what they wait for, and again when that changes. `print` runs what prints, with
/// progress bars out of its way.
pub(super) async fn explain<'c, T>(
    session: &Session,
    observer: impl Into<JobObserver<'c>>,
    jobs: &[JobId],
    print: impl Fn(&mut dyn FnMut()),
    waiting: impl Future<Output = T>,
) -> T {
    let mut waiting = pin!(waiting);
    let mut explainer = Explainer {
        observer: observer.into(),
        jobs,
        heartbeat_ttl: session.settings().worker_ttl,
        reported: HashMap::new(),
        vanished: HashMap::new(),
        is_away: false,
    };
    let mut explaining = pin!(explainer.run(&print));
    tokio::select! {
        biased;
        waited = &mut waiting => waited,
        never = &mut explaining => match never {},
    }
}

struct Explainer<'c> {
    observer: JobObserver<'c>,
    jobs: &'c [JobId],
    /// TTL of a worker's heartbeat: an expired one is at least this old.
    heartbeat_ttl: Duration,
    /// The cause that was last reported for each job.
    reported: HashMap<JobId, WaitCause>,
    /// When the worker of a job was first found to have vanished.
    vanished: HashMap<JobId, Instant>,
    /// Whether it was reported that NATS does not answer.
    is_away: bool,
}

impl Explainer<'_> {
    async fn run(&mut self, print: &impl Fn(&mut dyn FnMut())) -> std::convert::Infallible {
        sleep(SILENCE_MAX).await;
        let mut open = self.jobs.to_vec();
        loop {
            let mut looked_at = 0;
            let mut ended = HashSet::new();
            for job in &open {
                if looked_at == JOBS_LOOKED_AT_MAX {
                    break;
                }
                match self.look_at(job, print).await {
                    Look::Ended => {
                        ended.insert(job.clone());
                    }
                    Look::Open => looked_at += 1,
                    Look::Away => break,
                }
            }
            open.retain(|job| !ended.contains(job));
            sleep(LOOK_INTERVAL).await;
        }
    }

    async fn look_at(&mut self, job: &JobId, print: &impl Fn(&mut dyn FnMut())) -> Look {
        let cause = match self.observer.look_at(job).await {
            Ok(looked) if looked.record.state().is_terminal() => return Look::Ended,
            Ok(looked) => looked.cause,
            Err(failure) => {
                let is_away = failure.exit == Exit::NoNats;
                if is_away && !std::mem::replace(&mut self.is_away, true) {
                    print(&mut || render::note("NATS does not answer; waiting for it"));
                }
                return if is_away { Look::Away } else { Look::Open };
            }
        };
        self.is_away = false;
        let Ok(cause) = cause else {
            return Look::Open;
        };
        let Some(cause) = cause else {
            self.reported.remove(job);
            self.vanished.remove(job);
            return Look::Open;
        };
        let mut unseen = Duration::ZERO;
        if matches!(cause, WaitCause::WorkerVanished { .. }) {
            let since = *self
                .vanished
                .entry(job.clone())
                .or_insert_with(Instant::now);
            unseen = self.heartbeat_ttl + since.elapsed();
        }
        // A cause that several jobs share is reported for one of them.
        let is_known = self.reported.values().any(|known| *known == cause);
        self.reported.insert(job.clone(), cause.clone());
        if !is_known {
            let mut sentence = describe(job, &cause, render::now(), unseen);
            if let Some(part) = self.observer.own_part(&cause) {
                sentence = format!("{sentence}; {part}");
            }
            let message = match self.jobs.len() {
                1 => format!("waiting: {sentence}"),
                _ => format!("waiting for {job}: {sentence}"),
            };
            print(&mut || {
                render::note_with(NoteBody {
                    message: message.clone(),
                    job_id: Some(job.clone()),
                    ..NoteBody::default()
                });
            });
        }
        Look::Open
    }
}

enum Look {
    /// The job has ended.
    Ended,
    /// The job has not ended.
    Open,
    /// NATS does not answer.
    Away,
}

/// Says how to wait for, or cancel, jobs for which this verb no longer waits.
pub(super) fn stopped_waiting(jobs: &[JobId]) {
    match jobs {
        [job] => render::note_with(NoteBody {
            message: format!(
                "stopped waiting for job {job}, which is not cancelled: `naq wait {job}` waits for it, `naq cancel {job}` cancels it"
            ),
            job_id: Some(job.clone()),
            ..NoteBody::default()
        }),
        jobs => {
            let count = render::count(jobs.len() as u64, "job");
            let shown: Vec<&str> = jobs.iter().take(IDS_SHOWN_MAX).map(JobId::as_str).collect();
            let more = if jobs.len() > shown.len() { " …" } else { "" };
            render::note(format_args!(
                "stopped waiting for {count}, which are not cancelled: {}{more}; `naq wait` waits for them, `naq cancel` cancels them",
                shown.join(" ")
            ));
        }
    }
}

/// Waits for jobs that this verb has enqueued, as [`explain`] does. A user who stops the verb, or
/// whose connection is lost for good, learns their ids, and the verb ends with the
/// exit code in the `Break`.
pub(super) async fn wait_for_enqueued<T>(
    session: &Session,
    client: &Client,
    jobs: &[JobId],
    bars: &RefCell<ProgressBars>,
    waiting: impl Future<Output = Result<T, ClientError>>,
) -> Result<ControlFlow<u8, T>, Failure> {
    let mut signals = Signals::listen()?;
    let print = |print: &mut dyn FnMut()| bars.borrow().suspend(print);
    tokio::select! {
        waited = explain(session, client, jobs, print, waiting) => match waited {
            Ok(waited) => Ok(ControlFlow::Continue(waited)),
            Err(error) => {
                stopped_waiting(jobs);
                Err(error.into())
            }
        },
        signal = signals.next() => {
            bars.borrow_mut().clear();
            stopped_waiting(jobs);
            Ok(ControlFlow::Break(u8::try_from(128 + signal).unwrap_or(Exit::Failed as u8)))
        }
    }
}
