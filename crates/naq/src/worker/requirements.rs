//! Jobs that require labels: which sets of them this worker serves, and handing on what it does
//! not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::attempt::{AttemptContext, Done, acknowledge, persist};
use super::hold::Hold;
use super::{Options, Report};
use naq_jetstream::{
    Broker, BrokerError, Delivery, Requirement, RequirementEvent, requirement_key, step,
};
use naq_protocol::{Envelope, QueueName, Record};

/// How many sets of labels a worker remembers to have registered; then it registers them anew.
const REGISTERED_MAX: usize = 1_024;

/// How many sets of labels a worker serves in one queue. Each costs a request every few seconds.
const SERVED_MAX: usize = 256;

/// Waits between attempts at what the server would not.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The sets this worker has registered, by queue and key.
#[derive(Default)]
pub(super) struct Registered(Mutex<HashSet<(QueueName, String)>>);

impl Registered {
    fn has(&self, requirement: &Requirement) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&(requirement.queue.clone(), requirement.key.clone()))
    }

    fn add(&self, requirement: &Requirement) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REGISTERED_MAX {
            known.clear();
        }
        known.insert((requirement.queue.clone(), requirement.key.clone()));
    }
}

/// A job's record as it was decided upon.
pub(super) struct Before {
    pub(super) present: Option<Box<Record>>,
    pub(super) revision: u64,
}

/// Hands a job on to workers that have the labels it requires: keeps what is to be kept of the
/// record, registers the set, publishes the envelope to it, acknowledges. `running` is the record
/// that would be written if it ran here.
///
/// None where the record has changed meanwhile: decide again.
pub(super) async fn hand_on(
    context: &AttemptContext,
    hold: &Hold,
    delivery: &Delivery,
    envelope: &Envelope,
    before: Before,
    running: Box<Record>,
) -> Option<Done> {
    let job_id = running.job_id.clone();
    if let Some(record) = naq_core::hand_on(before.present.as_deref(), running) {
        let revision = before.revision;
        match persist(hold, || {
            context.broker.write_record(&record, revision, None)
        })
        .await
        {
            Ok(_) => {}
            Err(BrokerError::Conflict) => return None,
            Err(_) => return Some(Done::Lost),
        }
    }
    let requirement = Requirement {
        queue: delivery.queue.clone(),
        key: requirement_key(&envelope.requires),
        labels: envelope.requires.clone(),
    };
    let broker = &context.broker;
    if !context.registered.has(&requirement) {
        if persist(hold, || broker.register_requirement(&requirement))
            .await
            .is_err()
        {
            return Some(Done::Lost);
        }
        context.registered.add(&requirement);
        step("handed_on.registered");
    }
    if persist(hold, || broker.hand_on(delivery, &job_id, &requirement.key))
        .await
        .is_err()
    {
        return Some(Done::Lost);
    }
    step("handed_on.published");
    tracing::debug!(%job_id, queue = %delivery.queue, "handed on to a worker that has the labels it requires");
    Some(acknowledge(hold, Done::Absorbed).await)
}

/// Whether this worker has to look for jobs that require labels at all.
pub(super) fn serves_any(options: &Options) -> bool {
    !options.labels.is_empty() && options.only_job.is_none()
}

/// Finds the sets of labels that this worker has, now and as they are registered, and tells the
/// loop of the consumers to pull from.
pub(super) async fn follow(context: Arc<AttemptContext>, reports: mpsc::Sender<Report>) {
    let mut served = HashSet::new();
    let mut pause = PAUSE_FIRST;
    loop {
        match follow_once(&context, &reports, &mut served).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!("cannot look for jobs that require labels: {error}");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Ends without an error only where the loop is gone.
async fn follow_once(
    context: &AttemptContext,
    reports: &mpsc::Sender<Report>,
    served: &mut HashSet<(QueueName, String)>,
) -> Result<(), BrokerError> {
    let broker = &context.broker;
    // the watch first, so that nothing is registered unseen between the two
    let mut watch = broker.watch_requirements().await?;
    let mut news = RequirementEvent::Reread;
    loop {
        let registered = match news {
            RequirementEvent::Registered(requirement) => vec![requirement],
            RequirementEvent::Reread => broker.list_requirements().await?,
        };
        for requirement in registered {
            if !is_ours(&context.options, &requirement) {
                continue;
            }
            let place = (requirement.queue.clone(), requirement.key.clone());
            if served.contains(&place) {
                continue;
            }
            let of_queue = served
                .iter()
                .filter(|(queue, _)| *queue == requirement.queue);
            if of_queue.count() >= SERVED_MAX {
                tracing::warn!(
                    queue = %requirement.queue,
                    "jobs require over {SERVED_MAX} different sets of this worker's labels; it takes no more of them"
                );
                continue;
            }
            let consumer = broker
                .ensure_need_consumer(&requirement.queue, &requirement.key)
                .await?;
            served.insert(place);
            let line = Report::Line {
                queue: requirement.queue,
                consumer,
            };
            if reports.send(line).await.is_err() {
                return Ok(());
            }
        }
        news = watch.next().await;
    }
}

/// Whether this worker serves the queue and has the labels.
fn is_ours(options: &Options, requirement: &Requirement) -> bool {
    options.queues.contains(&requirement.queue)
        && naq_core::satisfies(&options.labels, &requirement.labels)
}

/// Makes a queue and one of its consumers again where they were removed.
pub(super) async fn make_again(
    broker: &Broker,
    queue: &QueueName,
    consumer: &str,
    ack_wait: Duration,
) -> Result<(), BrokerError> {
    broker.ensure_queue(queue).await?;
    broker.ensure_worker_consumer(queue, ack_wait).await?;
    if let Some(set) = broker.names().set_of_consumer(consumer) {
        broker.ensure_need_consumer(queue, set).await?;
    }
    Ok(())
}
