//! `naq cancel`

use futures_util::{StreamExt, stream};

use super::changes::Changes;
use super::confirm::confirm;
use super::exit::Failure;
use super::json::CancelledJob;
use super::render::{self, Ending};
use super::session::Session;
use naq_client::{AuditAction, CancelOutcome, Client, ClientError, JobFilter, LabelFilter};
use naq_protocol::{JobId, QueueName, State, command_line};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Jobs' ids
    #[arg(value_name = "JOB", required_unless_present_any = ["queue", "labels"])]
    ids: Vec<String>,
    /// Cancel every job of this queue that has not ended
    #[arg(short = 'q', long, value_name = "QUEUE", conflicts_with = "ids")]
    queue: Option<String>,
    /// Cancel every job with this label that has not ended; given several times, jobs that have
    /// all of the labels
    #[arg(
        short = 'l',
        long = "label",
        value_name = "KEY[=VALUE]",
        conflicts_with = "ids"
    )]
    labels: Vec<LabelFilter>,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    /// Wait until running jobs have stopped
    #[arg(short = 'w', long)]
    wait: bool,
}

impl Args {
    /// Whether this waits for jobs to end, however long they run.
    pub(super) fn is_endless(&self) -> bool {
        self.wait
    }
}

/// Jobs read at once if a filter selects them.
const PAGE_JOBS: usize = 500;

/// Jobs cancelled at once.
const CONCURRENT_CANCELS_MAX: usize = 32;

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let ids = args
        .ids
        .iter()
        .map(JobId::new)
        .collect::<Result<Vec<_>, _>>()?;
    let filter = filter(&args)?;
    let client = session.connect().await?;
    let mut batch = CancelBatch::new(session, &client);
    let done = match &filter {
        None => batch.cancel(ids.clone()).await,
        Some(filter) => cancel_selected(&mut batch, filter, args.yes).await,
    };
    let mut changes = match &filter {
        None => Changes::new(AuditAction::JobCancel),
        Some(filter) => Changes::selected_by(AuditAction::JobCancel, filter_options(filter)),
    };
    match ids.as_slice() {
        [] => changes.add_count(batch.cancelled),
        _ if batch.cancelled == 0 => {}
        ids => changes.add_all(ids, batch.cancelled),
    }
    changes.record(&client, &done).await;
    done?;
    batch.finish(args.wait).await
}

/// Cancels every job that a filter selects, a page at a time.
async fn cancel_selected(
    batch: &mut CancelBatch<'_>,
    filter: &JobFilter,
    yes: bool,
) -> Result<(), Failure> {
    confirm(yes, &format!("cancel {}", describe_filter(filter)))?;
    let mut before = None;
    loop {
        // a cancelled job moves to the front of the list, so the next page misses none
        let page = batch.client.list_jobs(filter, None, before, PAGE_JOBS);
        let page = page.await?;
        batch
            .cancel(page.jobs.into_iter().map(|job| job.record.job_id).collect())
            .await?;
        before = page.next;
        if before.is_none() {
            return Ok(());
        }
    }
}

/// A filter as options of the verb.
fn filter_options(filter: &JobFilter) -> String {
    let mut words = Vec::new();
    if let Some(queue) = &filter.queue {
        words.extend(["--queue".to_owned(), queue.to_string()]);
    }
    for label in &filter.labels {
        let value = label.value.as_deref().map(|value| format!("={value}"));
        let label = format!("{}{}", label.key, value.unwrap_or_default());
        words.extend(["--label".to_owned(), label]);
    }
    command_line(words.iter().map(String::as_str))
}

/// The filter that selects jobs. `None` means that they are named.
fn filter(args: &Args) -> Result<Option<JobFilter>, Failure> {
    if args.queue.is_none() && args.labels.is_empty() {
        return Ok(None);
    }
    Ok(Some(JobFilter {
        queue: args.queue.as_ref().map(QueueName::new).transpose()?,
        states: State::ALL
            .into_iter()
            .filter(|state| !state.is_terminal())
            .collect(),
        labels: args.labels.clone(),
    }))
}

fn describe_filter(filter: &JobFilter) -> String {
    let mut text = "every job".to_owned();
    if let Some(queue) = &filter.queue {
        text.push_str(&format!(" of the queue {queue}"));
    }
    for label in &filter.labels {
        let value = label.value.as_deref().map(|value| format!("={value}"));
        let label = format!("{}{}", label.key, value.unwrap_or_default());
        text.push_str(&format!(" with the label {}", render::escape(&label)));
    }
    text.push_str(" that has not ended");
    text
}

/// Jobs being cancelled, and what remains to be done or reported.
struct CancelBatch<'s> {
    session: &'s Session,
    client: &'s Client,
    running: Vec<JobId>,
    unknown: Option<JobId>,
    /// Jobs that were cancelled, or whose workers were asked to stop them.
    cancelled: u64,
}

impl<'s> CancelBatch<'s> {
    fn new(session: &'s Session, client: &'s Client) -> CancelBatch<'s> {
        CancelBatch {
            session,
            client,
            running: Vec::new(),
            unknown: None,
            cancelled: 0,
        }
    }

    async fn cancel(&mut self, ids: Vec<JobId>) -> Result<(), Failure> {
        let client = self.client;
        let mut cancels = stream::iter(ids)
            .map(|id| async move {
                let cancelled = client.cancel(&id).await;
                (id, cancelled)
            })
            .buffered(CONCURRENT_CANCELS_MAX);
        let (mut running, mut unknown) = (Vec::new(), None);
        while let Some((id, cancelled)) = cancels.next().await {
            match cancelled {
                Ok(cancelled) => {
                    let has_ended = matches!(cancelled, CancelOutcome::AlreadyEnded(_));
                    self.cancelled += u64::from(!has_ended);
                    if let CancelOutcome::CancelRequested { .. } = &cancelled {
                        running.push(id.clone());
                    }
                    self.print_outcome(&id, &cancelled)?;
                }
                // the other jobs are cancelled nevertheless
                Err(ClientError::NoSuchJob(id)) => {
                    unknown.get_or_insert(id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(cancels);
        self.running.append(&mut running);
        self.unknown = self.unknown.take().or(unknown);
        Ok(())
    }

    fn print_outcome(&self, id: &JobId, cancelled: &CancelOutcome) -> Result<(), Failure> {
        if self.session.json {
            let (requested, acknowledged) = match cancelled {
                CancelOutcome::CancelRequested { acknowledged, .. } => (true, *acknowledged),
                CancelOutcome::Cancelled(_) | CancelOutcome::AlreadyEnded(_) => (false, false),
            };
            render::tolerate_closed_output(render::print_json(&CancelledJob {
                job_id: id,
                state: cancelled.record().state(),
                cancel_requested: requested,
                worker_acknowledged: acknowledged,
            }))?;
            return Ok(());
        }
        let outcome = match cancelled {
            CancelOutcome::Cancelled(_) => render::state(State::Cancelled),
            CancelOutcome::CancelRequested {
                acknowledged: true, ..
            } => "stopping".to_owned(),
            CancelOutcome::CancelRequested {
                acknowledged: false,
                ..
            } => "stop requested; its worker has not answered yet".to_owned(),
            CancelOutcome::AlreadyEnded(record) => {
                format!("{} already", render::outcome(Ending::of(record)))
            }
        };
        render::tolerate_closed_output(render::print_line(format_args!("{id}  {outcome}")))?;
        Ok(())
    }

    async fn finish(self, wait: bool) -> Result<u8, Failure> {
        if wait && !self.running.is_empty() {
            let mut printed = Ok(());
            self.client
                .wait_each(&self.running, |record| {
                    if printed.is_ok() && !self.session.json {
                        let ending = render::outcome(Ending::of(&record));
                        printed = render::print_line(format_args!("{}  {ending}", record.job_id));
                    }
                })
                .await?;
            printed?;
        }
        match self.unknown {
            Some(id) => Err(ClientError::NoSuchJob(id).into()),
            None => Ok(0),
        }
    }
}
