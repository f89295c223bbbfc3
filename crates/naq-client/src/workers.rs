//! Workers: found by name, and drained.

use super::{Client, ClientError};
use naq_protocol::{JobId, WorkerInfo, WorkerState, escape};

/// A worker that was asked to drain.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DrainRequested {
    /// The worker, as of its last heartbeat.
    pub worker: WorkerInfo,
    /// Whether the worker has received the request. If not, it reads it when it is connected again.
    pub acknowledged: bool,
}

impl Client {
    /// Returns a running worker by its id, or by its name if no other worker has it.
    ///
    /// # Errors
    /// Returns [`ClientError::NoSuchWorker`] if no such worker runs, and [`ClientError::AmbiguousWorker`] if several
    /// workers have the name.
    pub async fn fetch_worker(&self, id_or_name: &str) -> Result<WorkerInfo, ClientError> {
        find(self.list_workers().await?, id_or_name)
    }

    /// Requests that a worker drains: it starts no more jobs, lets those that run finish within its drain timeout,
    /// and exits. What has started the worker may start another one.
    ///
    /// The request is stored before the worker is notified, since only what is stored counts: a message alone drains
    /// no worker.
    ///
    /// # Errors
    /// As [`Client::fetch_worker`], and [`ClientError::Broker`] if NATS refuses the request or does not answer.
    pub async fn drain_worker(&self, id_or_name: &str) -> Result<DrainRequested, ClientError> {
        let worker = self.fetch_worker(id_or_name).await?;
        // What a heartbeat says becomes a part of subjects.
        let worker_id = JobId::new(&worker.worker_id)?;
        if worker.state == WorkerState::Draining {
            return Ok(DrainRequested {
                worker,
                acknowledged: true,
            });
        }
        self.broker
            .request_drain(worker_id.as_str(), self.now())
            .await?;
        let acknowledged = self.broker.notify_drain(worker_id.as_str()).await?;
        Ok(DrainRequested {
            worker,
            acknowledged,
        })
    }
}

fn find(workers: Vec<WorkerInfo>, id_or_name: &str) -> Result<WorkerInfo, ClientError> {
    let (by_id, others): (Vec<_>, Vec<_>) = workers
        .into_iter()
        .partition(|worker| worker.worker_id == id_or_name);
    if let Some(worker) = by_id.into_iter().next() {
        return Ok(worker);
    }
    let mut by_name = others
        .into_iter()
        .filter(|worker| worker.name == id_or_name);
    match (by_name.next(), by_name.next()) {
        (Some(worker), None) => Ok(worker),
        (None, _) => Err(ClientError::NoSuchWorker(escape(id_or_name))),
        (Some(_), Some(_)) => Err(ClientError::AmbiguousWorker(escape(id_or_name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, name: &str) -> WorkerInfo {
        serde_json::from_value(serde_json::json!({
            "worker_id": id, "name": name, "hostname": "h", "pid": 1, "version": "1", "queues": [],
            "concurrency": 1, "state": "idle", "running": 0, "jobs": [], "jobs_ended": 0,
            "containment": "cgroup", "started_at": "2026-12-24T17:00:00Z",
            "last_seen": "2026-12-24T17:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn a_worker_is_found_by_its_id_or_by_a_name_of_its_own() {
        let workers = || {
            vec![
                worker("1", "anvil"),
                worker("2", "twin"),
                worker("3", "twin"),
                worker("4", "1"),
            ]
        };
        let of = |name: &str| find(workers(), name).map(|worker| worker.worker_id);
        assert_eq!(of("anvil").unwrap(), "1");
        assert_eq!(of("3").unwrap(), "3");
        // an id comes before a name
        assert_eq!(of("1").unwrap(), "1");
        assert!(matches!(of("twin"), Err(ClientError::AmbiguousWorker(_))));
        assert!(matches!(of("none"), Err(ClientError::NoSuchWorker(_))));
    }
}
