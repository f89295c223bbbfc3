//! The id under which a worker or a scheduler writes its heartbeat.
//!
//! It follows from what the kernel says about the process: the machine's boot, the namespace of process ids, the
//! number of the process and when it started. No two processes have all of them in common, so the id is as unique as
//! a random one. Another process of the same machine can compute it too: `naq health` finds the heartbeat of the
//! worker next to it by one key, without a list of all workers and without a file.

use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use naq_client::process_identity;
use naq_protocol::JobId;

/// What a process does in an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// It runs jobs.
    Worker,
    /// It enqueues the jobs of schedules.
    Scheduler,
}

impl Service {
    /// The verb that starts it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Service::Worker => "worker",
            Service::Scheduler => "scheduler",
        }
    }
}

/// The id of the worker or scheduler of this process. A second one of the same kind in this process gets a random
/// id, and so does each if `/proc` cannot be read.
pub(crate) fn new_id(service: Service) -> JobId {
    static IS_WORKER_TAKEN: AtomicBool = AtomicBool::new(false);
    static IS_SCHEDULER_TAKEN: AtomicBool = AtomicBool::new(false);
    let is_taken = match service {
        Service::Worker => &IS_WORKER_TAKEN,
        Service::Scheduler => &IS_SCHEDULER_TAKEN,
    };
    if is_taken.swap(true, Ordering::Relaxed) {
        return JobId::generate();
    }
    id_of(service, std::process::id()).unwrap_or_else(|_| JobId::generate())
}

/// The id of the worker or scheduler of another process, in the namespace of process ids of this one.
///
/// # Errors
/// Returns an error if there is no such process, or if `/proc` cannot be read.
pub(crate) fn id_of(service: Service, pid: u32) -> io::Result<JobId> {
    let number = i32::try_from(pid).map_err(io::Error::other)?;
    let text = format!("{} {pid} {}", service.name(), process_identity(number)?);
    uuid(&Sha256::digest(text)).map_err(|error| io::Error::other(error.to_string()))
}

/// A UUID of version 8, whose bits an application chooses.
fn uuid(digest: &[u8]) -> Result<JobId, naq_protocol::InvalidName> {
    let mut text = String::with_capacity(36);
    for (index, byte) in digest.iter().copied().take(16).enumerate() {
        let byte = match index {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => byte,
        };
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    JobId::new(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_belongs_to_one_process_and_one_service() {
        let own = std::process::id();
        let id = id_of(Service::Worker, own).unwrap();
        assert_eq!(id, id_of(Service::Worker, own).unwrap());
        assert_ne!(id, id_of(Service::Scheduler, own).unwrap());
        assert_ne!(id, id_of(Service::Worker, 1).unwrap());
        let text = id.to_string();
        assert_eq!((text.len(), &text[14..15]), (36, "8"), "{text}");
        assert!("89ab".contains(&text[19..20]), "{text}");
        assert!(id_of(Service::Worker, u32::MAX).is_err());
    }
}
