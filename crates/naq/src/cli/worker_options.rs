//! The options that make a worker, shared by `worker`, `dev` and `run`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::exit::Failure;
use super::session::Session;
use crate::worker::{self, QueueOrder, SecretStore};
use naq_protocol::units::{ByteSize, WireDuration};
use naq_protocol::{QueueName, ResourceLimits};
use naq_runner::{Containment, FileAccess, Runner};

/// How a worker runs its jobs.
#[derive(Debug, Default, Args)]
pub(super) struct WorkerOptions {
    /// Number of jobs that run at once [default: one for each processor]
    #[arg(short = 'c', long, value_name = "COUNT")]
    concurrency: Option<usize>,
    /// Worker's name in lists [default: the host's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Working directory of jobs that set none [default: the current one]
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Label of this worker
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// How queues share the slots: fair (in turn) or strict (in the order given) [default: fair]
    #[arg(long, value_name = "ORDER", value_parser = parse_order)]
    order: Option<QueueOrder>,
    /// Default timeout of jobs that set none, such as 5m [default: no limit]
    #[arg(long, value_name = "TIME")]
    timeout: Option<WireDuration>,
    /// Default memory limit of jobs that set none, such as 256M [default: no limit]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Time from TERM to KILL when a job is stopped, such as 10s
    #[arg(long, value_name = "TIME")]
    kill_grace: Option<WireDuration>,
    /// Maximum time that running jobs may continue when the worker drains, such as 5m
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<WireDuration>,
    /// Containment of each job's processes: cgroup, namespace or subreaper [default: the
    /// strongest available]
    #[arg(long, value_name = "KIND")]
    containment: Option<Containment>,
    /// User that jobs run as, for a worker that runs as root
    #[arg(long, value_name = "USER[:GROUP]")]
    run_as: Option<String>,
    /// Path where jobs may read and execute, and nowhere else (by Landlock)
    #[arg(long, value_name = "PATH")]
    landlock_read: Vec<String>,
    /// Path where jobs may read and write, and nowhere else (by Landlock)
    #[arg(long, value_name = "PATH")]
    landlock_write: Vec<String>,
    /// Environment variable that envelopes may set although it can make programs run other code
    #[arg(long, value_name = "NAME")]
    allow_env: Vec<String>,
    /// Folder of secrets, one file each
    #[arg(long, value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    /// Number of spawner processes [default: processors + 2]
    #[arg(long, value_name = "COUNT", hide = true)]
    spawners: Option<usize>,
}

fn parse_order(text: &str) -> Result<QueueOrder, String> {
    match text {
        "fair" => Ok(QueueOrder::Fair),
        "strict" => Ok(QueueOrder::Strict),
        _ => Err("one of fair, strict".to_owned()),
    }
}

impl WorkerOptions {
    /// Options of a worker with one slot.
    pub(super) fn single_slot() -> WorkerOptions {
        WorkerOptions::with_slots(1)
    }

    /// Options of a worker with `count` slots.
    pub(super) fn with_slots(count: usize) -> WorkerOptions {
        WorkerOptions {
            concurrency: Some(count),
            ..WorkerOptions::default()
        }
    }

    fn concurrency(&self, session: &Session) -> usize {
        self.concurrency.unwrap_or(session.settings().concurrency)
    }

    /// Returns the worker's configuration: these options over the settings.
    pub(super) fn to_options(
        &self,
        session: &Session,
        queues: Vec<QueueName>,
    ) -> Result<worker::WorkerConfig, Failure> {
        let settings = session.settings();
        if self.concurrency(session) == 0 {
            return Err(Failure::usage("--concurrency 0: a worker needs a slot"));
        }
        let mut labels: BTreeMap<String, String> = settings.worker_labels.clone();
        for text in &self.labels {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--label {text}: write KEY=VALUE")))?;
            labels.insert(key.to_owned(), value.to_owned());
        }
        let mut options = worker::WorkerConfig::new(queues, self.concurrency(session));
        options.name.clone_from(&self.name);
        options.labels = labels;
        options.order = self.order.unwrap_or_default();
        options.timeout = self.timeout.map(|span| span.0).or(settings.timeout);
        if let Some(grace) = self.kill_grace {
            options.kill_grace = grace.0;
        }
        options.limits = ResourceLimits {
            memory: self.memory.or(settings.memory.map(ByteSize)),
            ..ResourceLimits::default()
        };
        options.allow_env = [settings.allow_env.as_slice(), &self.allow_env].concat();
        let secrets = self.secrets_dir.as_ref().or(settings.secrets_dir.as_ref());
        if let Some(folder) = secrets {
            options.secrets = SecretStore::folder(folder);
        }
        options.result_ttl = settings.default_result_ttl;
        options.ack_wait = settings.ack_wait;
        options.heartbeat_interval = settings.worker_heartbeat_interval;
        options.heartbeat_ttl = settings.worker_ttl;
        options.drain_timeout = self
            .drain_timeout
            .map_or(settings.drain_timeout, |span| span.0);
        check_intervals(&options)?;
        Ok(options)
    }

    /// Starts the runner and its spawner processes.
    pub(super) async fn start_runner(&self, session: &Session) -> Result<Runner, Failure> {
        let settings = session.settings();
        let mut options = naq_runner::RunnerConfig::new(self.concurrency(session));
        options.spawners = self.spawners;
        options.containment = match (self.containment, settings.containment.as_str()) {
            (Some(forced), _) => Some(forced),
            (None, "auto") => None,
            (None, named) => Some(named.parse().map_err(
                |error: naq_runner::UnknownContainment| Failure::usage(error.to_string()),
            )?),
        };
        let workdir = self.workdir.as_ref().or(settings.workdir.as_ref());
        options.work_dir = match workdir {
            Some(folder) => std::path::absolute(folder)?,
            None => std::env::current_dir()?,
        };
        if !options.work_dir.is_dir() {
            return Err(Failure::usage(format!(
                "--workdir {}: there is no such folder",
                options.work_dir.display()
            )));
        }
        if let Some(path) = session.variable("PATH") {
            options.path = path.to_owned();
        }
        if let Some(text) = self.run_as.as_ref().or(settings.run_as.as_ref()) {
            let user = naq_runner::JobUser::lookup(text);
            options.run_as =
                Some(user.map_err(|error| Failure::usage(format!("--run-as {error}")))?);
        }
        let files = FileAccess {
            read: [settings.landlock_read.as_slice(), &self.landlock_read].concat(),
            write: [settings.landlock_write.as_slice(), &self.landlock_write].concat(),
        };
        if files != FileAccess::default() {
            options.files = Some(files);
        }
        options.base_env = session.job_environment();
        // Jobs that run as the same user must not read naq's credentials from /proc.
        naq_runner::make_undumpable()?;
        Ok(Runner::start(options).await?)
    }
}

/// Refuses intervals that contradict each other: the worker would look dead, or jobs would run
/// twice.
fn check_intervals(options: &worker::WorkerConfig) -> Result<(), Failure> {
    if options.ack_wait < Duration::from_secs(1) {
        return Err(Failure::usage(
            "ack_wait is under a second: every hiccup would start jobs twice",
        ));
    }
    if options.heartbeat_interval.is_zero() || options.heartbeat_interval >= options.heartbeat_ttl {
        return Err(Failure::usage(
            "the heartbeat interval must be over 0 and under the workers' TTL",
        ));
    }
    Ok(())
}
