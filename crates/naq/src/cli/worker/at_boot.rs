//! `--at-boot`: jobs that are enqueued once after a start of the machine, as a crontab's `@reboot`.

use naq_client::{BrokerError, Client, ClientError};
use naq_protocol::units::WireDuration;
use naq_protocol::{Envelope, JobId, ScheduleId};

use crate::cli::exit::Failure;
use crate::worker::WorkerConfig;

/// A new random number of each start of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Enqueues the commands to the worker's first queue. The id of each job is made of the boot, the
/// host, the queue and the command, so that other workers of the machine, and this one when it is
/// started again, create no second job.
pub(super) async fn enqueue_boot_jobs(
    client: &Client,
    options: &WorkerConfig,
    commands: &[String],
) -> Result<(), Failure> {
    let Some(queue) = options.queues.first().filter(|_| !commands.is_empty()) else {
        return Ok(());
    };
    let boot_id = std::fs::read_to_string(BOOT_ID)
        .map_err(|error| Failure::general(format!("--at-boot: {BOOT_ID}: {error}")))?;
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    for command in commands {
        let job_id = boot_job_id(boot_id.trim(), &[&host, queue.as_str(), command])?;
        let mut envelope = Envelope::command("/bin/sh", ["-c", command]);
        envelope.job_id = Some(job_id.clone());
        envelope.requires.clone_from(&options.labels);
        // The record is what the next start of a worker finds, so it stays for as long as the boot
        // may last.
        envelope.result_ttl = Some(WireDuration::from_secs(0));
        match client.queue(queue.as_str())?.enqueue(&envelope).await {
            Ok(_) => tracing::info!(%job_id, command, "enqueued for this start of the machine"),
            // The labels of the worker have changed since.
            Err(ClientError::Broker(BrokerError::JobIdConflict(_))) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn boot_job_id(boot_id: &str, of: &[&str]) -> Result<JobId, Failure> {
    let name = ScheduleId::derived("boot", of.join("\0").as_bytes());
    Ok(JobId::new(format!("{name}-{boot_id}"))?)
}
