//! Requests for slots between workers: a worker whose job finds a concurrency key full asks the workers
//! that have taken slots ahead, and takes the slots of one that stays silent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::slot_lumps::SlotLumps;
use naq_core::{HolderReply, LumpSilence, OnSilence};
use naq_jetstream::{Broker, BrokerError, SlotsWantedSubscription};
use naq_protocol::SlotLump;

/// Pause before a silent worker is asked again.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Number of workers that are asked at once.
const CONCURRENT_QUESTIONS_MAX: usize = 32;

/// Answers the requests for the slots of this worker until it is aborted. Before that the worker must take
/// none ahead.
///
/// # Errors
/// Returns an error if the connection is closed.
pub(super) async fn serve(
    broker: &Broker,
    lumps: &Arc<SlotLumps>,
) -> Result<AbortOnDropHandle<()>, BrokerError> {
    let requests = broker.subscribe_slots_wanted(lumps.worker_id()).await?;
    let answering = answer(broker.clone(), Arc::clone(lumps), requests);
    Ok(AbortOnDropHandle::new(tokio::spawn(answering)))
}

async fn answer(broker: Broker, lumps: Arc<SlotLumps>, mut requests: SlotsWantedSubscription) {
    loop {
        let request = requests.next().await;
        let (broker, lumps) = (broker.clone(), Arc::clone(&lumps));
        tokio::spawn(async move {
            let slots = lumps.on_wanted(&broker, &request.request.key).await;
            request.reply(slots).await;
        });
    }
}

/// Asks each worker that has slots of a key for those that it does not use. They are returned when this
/// has completed, and every further one as soon as its job ends. A worker that does not reply is observed
/// from now on. Returns whether any worker has slots taken ahead.
///
/// # Errors
/// Returns an error if the server does not answer.
pub(super) async fn ask_for_slots(
    broker: &Broker,
    lumps: &Arc<SlotLumps>,
    key: &str,
) -> Result<bool, BrokerError> {
    let slots = lumps.of_key(key);
    let asked = {
        let requested_at = Instant::now();
        let mut last = slots.asking.lock().await;
        // a round that was begun after this request serves it too
        if last.is_some_and(|begun_at| begun_at >= requested_at) {
            Ok(true)
        } else {
            let begun_at = Instant::now();
            let asked = ask_all(broker, lumps, key).await;
            if asked.is_ok() {
                *last = Some(begun_at);
            }
            asked
        }
    };
    lumps.forget_if_unused(slots);
    asked
}

async fn ask_all(broker: &Broker, lumps: &Arc<SlotLumps>, key: &str) -> Result<bool, BrokerError> {
    let (stored, _) = broker.read_slots(key).await?;
    if stored.lumps.is_empty() {
        return Ok(false);
    }
    let (own, others): (Vec<_>, Vec<_>) = stored
        .lumps
        .into_iter()
        .partition(|lump| lump.worker_id == lumps.worker_id());
    if !own.is_empty() {
        // the job has a lower limit than those for which they were taken, or waits for any of them
        lumps.on_wanted(broker, key).await;
    }
    stream::iter(others)
        .map(|lump| async move {
            let reply = broker.ask_for_slots(&lump.worker_id, key, 0).await?;
            if reply != HolderReply::Running {
                observe(broker, lumps, key, lump, reply);
            }
            Ok::<_, BrokerError>(())
        })
        .buffer_unordered(CONCURRENT_QUESTIONS_MAX)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(true)
}

/// Observes a silent worker, unless that is done already.
fn observe(broker: &Broker, lumps: &Arc<SlotLumps>, key: &str, lump: SlotLump, reply: HolderReply) {
    if !lumps.begin_observing(key, &lump.worker_id) {
        return;
    }
    let (broker, lumps, key) = (broker.clone(), Arc::clone(lumps), key.to_owned());
    tokio::spawn(async move {
        let worker_id = lump.worker_id.clone();
        let takeover_after = lumps.takeover_after();
        let observed = take_when_silent(&broker, takeover_after, &key, lump, reply).await;
        if let Err(error) = observed {
            tracing::warn!(
                key,
                worker = worker_id,
                "cannot take the slots of a worker that does not answer; the next job without a slot tries again: {error}"
            );
        }
        lumps.end_observing(&key, &worker_id);
    });
}

/// Asks a silent worker until it replies, or its slots are free.
async fn take_when_silent(
    broker: &Broker,
    takeover_after: Duration,
    key: &str,
    mut lump: SlotLump,
    mut reply: HolderReply,
) -> Result<(), BrokerError> {
    let begun_at = Instant::now();
    let mut silence = LumpSilence::new(&lump);
    let mut silent = 0;
    loop {
        match silence.on_reply(&lump, reply, takeover_after, begun_at.elapsed()) {
            OnSilence::LeaveToWorker => return Ok(()),
            OnSilence::AskAgain => {}
            OnSilence::Remove => break,
        }
        tokio::time::sleep(ASK_INTERVAL).await;
        let Some(stored) = stored_lump(broker, key, &lump.worker_id).await else {
            return Ok(());
        };
        lump = stored;
        // no answer of the server either is a break of the connection
        reply = broker
            .ask_for_slots(&lump.worker_id, key, silent)
            .await
            .unwrap_or(HolderReply::Silent {
                connected_for: Duration::ZERO,
                times: 0,
            });
        if let HolderReply::Silent { times, .. } = reply {
            silent = times;
        }
    }
    let remove = |slots: &mut _| silence.remove(&lump.worker_id, slots).then_some(());
    let (removed, free) = broker.change_slots(key, remove).await?;
    if removed.is_some() {
        tracing::warn!(
            key,
            worker = lump.worker_id,
            slots = lump.slots,
            "a worker that does not answer had slots of a concurrency key; they are free now"
        );
        broker.release_slot_waiters(key, free).await?;
    }
    Ok(())
}

/// The lump of a worker as it is stored. Waits while the server does not answer.
async fn stored_lump(broker: &Broker, key: &str, worker_id: &str) -> Option<SlotLump> {
    loop {
        match broker.read_slots(key).await {
            Ok((stored, _)) => return stored.lump_of(worker_id).cloned(),
            Err(BrokerError::InvalidData(_)) => return None,
            Err(error) => {
                tracing::debug!(key, "cannot read slots, retrying: {error}");
                tokio::time::sleep(ASK_INTERVAL).await;
            }
        }
    }
}
