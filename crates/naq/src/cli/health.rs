//! `naq health`

use std::path::Path;

use clap::ValueEnum;

use super::exit::{Exit, Failure};
use super::json::HealthReport;
use super::render;
use super::session::Session;
use crate::process_id::{self, Service};
use naq_client::Client;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What has to be alive on this machine too [default: only NATS is checked]
    #[arg(value_name = "SERVICE")]
    service: Option<CheckedService>,
    /// Process to check instead of each one on this machine that runs the service
    #[arg(long, value_name = "PID", requires = "service")]
    pid: Option<u32>,
}

/// What has a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckedService {
    Worker,
    Scheduler,
}

/// Checks that NATS can be reached and used, and that the heartbeat of each worker or scheduler that this process can
/// see is stored. `verbs` makes the program's verbs and their options, by which naq reads the command lines of others.
pub(super) async fn run(
    session: &Session,
    args: &Args,
    verbs: fn() -> clap::Command,
) -> Result<u8, Failure> {
    let client = session.connect().await?;
    let server = client.server();
    let Some(checked) = args.service else {
        // A connection alone does not show that JetStream answers.
        client.worker_heartbeat_exists("health-check").await?;
        return report(&server, &[]);
    };
    let service = match checked {
        CheckedService::Worker => Service::Worker,
        CheckedService::Scheduler => Service::Scheduler,
    };
    let pids = match args.pid {
        Some(pid) => vec![pid],
        None => processes_of(service, &verbs())?,
    };
    if pids.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no `naq {}` runs here", service.name()),
        ));
    }
    for pid in &pids {
        check_heartbeat(&client, service, *pid).await?;
    }
    report(&server, &pids)
}

fn report(server: &str, pids: &[u32]) -> Result<u8, Failure> {
    if render::is_json() {
        render::print_json(&HealthReport { server, pids })?;
    } else {
        render::print_line(format_args!("healthy: {server}"))?;
    }
    Ok(0)
}

/// The server removes a heartbeat that is not written again in time, by its own clock: one that is stored is fresh.
async fn check_heartbeat(client: &Client, service: Service, pid: u32) -> Result<(), Failure> {
    let id = process_id::id_of(service, pid)
        .map_err(|error| Failure::general(format!("cannot find process {pid}: {error}")))?;
    let is_stored = match service {
        Service::Worker => client.worker_heartbeat_exists(id.as_str()).await?,
        Service::Scheduler => client.scheduler_heartbeat_exists(&id).await?,
    };
    if is_stored {
        return Ok(());
    }
    let message = format!(
        "the heartbeat of `naq {}` (process {pid}) is not stored in NATS",
        service.name()
    );
    Err(Failure::new(Exit::NoNats, message).hint("its log says why; it may have just started"))
}

/// The processes that run a verb of naq, by their command lines.
fn processes_of(service: Service, verbs: &clap::Command) -> Result<Vec<u32>, Failure> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // The process may have ended meanwhile.
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if verb_of(&words, verbs).as_deref() == Some(service.name()) {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// The verb of a command line of naq, as the kernel has it. `None` for other programs, and for a verb that ends at
/// once, such as `naq scheduler list`.
pub(super) fn verb_of(command_line: &[u8], verbs: &clap::Command) -> Option<String> {
    let words = command_line.strip_suffix(b"\0").unwrap_or(command_line);
    let words: Vec<&str> = std::str::from_utf8(words).ok()?.split('\0').collect();
    let program = Path::new(words.first()?).file_name()?;
    if program != "naq" {
        return None;
    }
    let matches = verbs.clone().try_get_matches_from(words).ok()?;
    let (verb, rest) = matches.subcommand()?;
    rest.subcommand_name().is_none().then(|| verb.to_owned())
}
