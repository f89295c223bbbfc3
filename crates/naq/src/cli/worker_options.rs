//! The options that make a worker, shared by `worker`, `dev` and `run`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::exit::Failure;
use super::session::Session;
use super::setting_flags::{self, WorkerSettingFlags};
use crate::languages::WarmPlan;
use crate::worker::{self, Grants, QueueOrder, SecretStore};
use naq_protocol::units::{ByteSize, WireDuration};
use naq_protocol::{QueueName, ResourceLimits};
use naq_runner::{FileAccess, Runner, WarmMode};

/// How a worker runs its jobs.
#[derive(Debug, Default, Args)]
pub(super) struct WorkerOptions {
    #[command(flatten)]
    settings: WorkerSettingFlags,
    /// Number of jobs that run at once, if the caller fixes it. `None` means the setting.
    #[arg(skip)]
    slots: Option<usize>,
    /// Worker's name in lists [default: the host's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[arg(
        short = 'l',
        long = "label",
        value_name = "KEY=VALUE",
        help = setting_flags::help_of("worker_labels")
    )]
    labels: Vec<String>,
    /// How queues share the slots: fair (in turn) or strict (in the order given) [default: fair]
    #[arg(long, value_name = "ORDER", value_parser = parse_order)]
    order: Option<QueueOrder>,
    /// Time from TERM to KILL when a job is stopped, such as 10s
    #[arg(long, value_name = "TIME")]
    kill_grace: Option<WireDuration>,
    #[arg(long, value_name = "PATH", help = setting_flags::help_of("landlock_read"))]
    landlock_read: Vec<String>,
    #[arg(long, value_name = "PATH", help = setting_flags::help_of("landlock_write"))]
    landlock_write: Vec<String>,
    #[arg(long, value_name = "NAME", help = setting_flags::help_of("allow_env"))]
    allow_env: Vec<String>,
    #[arg(long, value_name = "RIGHT[:QUEUE]", value_delimiter = ',', help = setting_flags::help_of("grant"))]
    grant: Vec<String>,
    /// Keep processes of a runner ready for its functions, such as python=4 or python:reuse=4; modes are fork,
    /// standby and reuse [default: one process for each slot, in the runner's first mode]
    #[arg(long, value_name = "RUNNER[:MODE][=COUNT]")]
    warm: Vec<String>,
    /// Module that warm processes load before their first job, those of one runner or all
    #[arg(long, value_name = "[RUNNER=]MODULE", requires = "warm")]
    preload: Vec<String>,
    /// Folder in which warm processes look for modules first; only jobs with the same module path use them
    #[arg(long, value_name = "DIR", requires = "warm")]
    warm_module_path: Vec<String>,
    /// Log no line when a job starts or ends
    #[arg(long)]
    quiet: bool,
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
            slots: Some(count),
            ..WorkerOptions::default()
        }
    }

    /// The settings that these options set, for [`Session::open`].
    pub(super) fn setting_flags(&self) -> &WorkerSettingFlags {
        &self.settings
    }

    /// Whether to log no line for each job.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn concurrency(&self, session: &Session) -> usize {
        self.slots.unwrap_or(session.settings().concurrency)
    }

    /// Returns the worker's configuration. The labels and the variables of the options add to those
    /// of the settings.
    pub(super) fn to_options(
        &self,
        session: &Session,
        queues: Vec<QueueName>,
    ) -> Result<worker::WorkerConfig, Failure> {
        let settings = session.settings();
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
        options.timeout = settings.timeout;
        if let Some(grace) = self.kill_grace {
            options.kill_grace = grace.0;
        }
        options.limits = ResourceLimits {
            memory: settings.memory.map(ByteSize),
            ..ResourceLimits::default()
        };
        options.grants = self.grants(session, &options.queues)?.unwrap_or_default();
        options.job_user = job_user(session)?.map(|user| (user.uid, user.gid));
        options.allow_env = [settings.allow_env.as_slice(), &self.allow_env].concat();
        options.languages = super::installed_runners::languages(session, None)?;
        options.warm = self.warm(&options)?;
        if let Some(folder) = &settings.secrets_dir {
            options.secrets = SecretStore::folder(folder);
        }
        options.result_ttl = settings.default_result_ttl;
        options.ack_wait = settings.ack_wait;
        options.takeover_after = settings.takeover_after;
        options.outage_grace = settings.outage_grace;
        options.max_worker_crashes = settings.max_worker_crashes;
        options.trust_refused = settings.trust_refused;
        options.heartbeat_interval = settings.worker_heartbeat_interval;
        options.heartbeat_ttl = settings.worker_ttl;
        options.drain_timeout = settings.drain_timeout;
        check_intervals(&options)?;
        Ok(options)
    }

    /// The warm processes, and how many of each.
    fn warm(&self, options: &worker::WorkerConfig) -> Result<Vec<(WarmPlan, usize)>, Failure> {
        let plan = |text: &String| {
            let (runner, count) = match text.split_once('=') {
                Some((runner, count)) => (runner, count.parse().ok().filter(|count| *count > 0)),
                None => (text.as_str(), Some(options.concurrency)),
            };
            let count = count.ok_or_else(|| {
                Failure::usage(format!("--warm {text}: write a number from 1 on"))
            })?;
            let (runner, mode) = match runner.split_once(':') {
                Some((runner, name)) => (runner, Some(name.parse::<WarmMode>())),
                None => (runner, None),
            };
            let mode = mode
                .transpose()
                .map_err(|error| Failure::usage(format!("--warm {text}: the mode {error}")))?;
            let names_runner = |module: &String| {
                let named = module.split_once('=');
                named.is_some_and(|(name, _)| options.languages.get(name).is_some())
            };
            let preload = self
                .preload
                .iter()
                .filter_map(|module| match names_runner(module) {
                    true => module.strip_prefix(runner)?.strip_prefix('='),
                    false => Some(module.as_str()),
                });
            let preload: Vec<String> = preload.map(str::to_owned).collect();
            let plan = WarmPlan::new(
                &options.languages,
                runner,
                mode,
                &preload,
                &self.warm_module_path,
            );
            plan.map(|plan| (plan, count))
                .map_err(|error| Failure::usage(format!("--warm: {error}")))
        };
        let plans: Vec<(WarmPlan, usize)> = self.warm.iter().map(plan).collect::<Result<_, _>>()?;
        let mut runners = BTreeSet::new();
        match plans
            .iter()
            .find(|(plan, _)| !runners.insert(plan.runner()))
        {
            Some((twice, _)) => Err(Failure::usage(format!(
                "--warm: the runner `{}` is given twice; give it once, with its mode and number",
                twice.runner()
            ))),
            None => Ok(plans),
        }
    }

    /// What the worker grants its jobs. `None` if nothing says so.
    fn grants(&self, session: &Session, queues: &[QueueName]) -> Result<Option<Grants>, Failure> {
        let texts = [session.settings().grant.as_slice(), &self.grant].concat();
        if texts.is_empty() {
            return Ok(None);
        }
        Grants::parse(&texts, queues)
            .map(Some)
            .map_err(|error| Failure::usage(format!("--grant: {error}")))
    }

    /// Returns the configuration of a worker for development, whose jobs may use naq for every
    /// queue unless the user says otherwise.
    pub(super) fn to_development_options(
        &self,
        session: &Session,
        queues: Vec<QueueName>,
    ) -> Result<worker::WorkerConfig, Failure> {
        let mut options = self.to_options(session, queues)?;
        let grants = self.grants(session, &options.queues)?;
        options.grants = grants.unwrap_or_else(Grants::all);
        Ok(options)
    }

    /// Starts the runner and its spawner processes.
    pub(super) async fn start_runner(&self, session: &Session) -> Result<Runner, Failure> {
        let settings = session.settings();
        let mut options = naq_runner::RunnerConfig::new(self.concurrency(session));
        options.spawners = self.spawners;
        options.containment = match settings.containment.as_str() {
            "auto" => None,
            named => Some(
                named
                    .parse()
                    .map_err(|error: naq_runner::UnknownContainment| {
                        Failure::usage(error.to_string())
                    })?,
            ),
        };
        options.work_dir = match &settings.workdir {
            Some(folder) => std::path::absolute(folder)?,
            None => std::env::current_dir()?,
        };
        if !options.work_dir.is_dir() {
            return Err(Failure::usage(format!(
                "{}: {} is not a folder",
                session.resolved.source("workdir"),
                options.work_dir.display()
            )));
        }
        if let Some(path) = session.variable("PATH") {
            options.path = path.to_owned();
        }
        options.run_as = job_user(session)?;
        let files = FileAccess {
            read: [settings.landlock_read.as_slice(), &self.landlock_read].concat(),
            write: [settings.landlock_write.as_slice(), &self.landlock_write].concat(),
        };
        if files != FileAccess::default() {
            options.files = Some(files);
        }
        if let Some(folder) = &settings.secrets_dir {
            // A job must not start in a folder that it does not see.
            let folder = folder.canonicalize().ok();
            let is_around_jobs = |folder: &PathBuf| options.work_dir.starts_with(folder);
            options
                .hidden_dirs
                .extend(folder.filter(|folder| !is_around_jobs(folder)));
        }
        options.allow_setuid = settings.allow_setuid;
        options.strict_limits = settings.strict_limits;
        options.private_tmp = settings.private_tmp;
        options.base_env = session.job_environment();
        // Jobs that run as the same user must not read naq's credentials from /proc.
        naq_runner::make_undumpable()?;
        Ok(Runner::start(options).await?)
    }
}

/// Warns of secrets that jobs can read without having been given them.
pub(super) fn warn_of_readable_secrets(
    session: &Session,
    options: &worker::WorkerConfig,
    runner: &Runner,
) -> Result<(), Failure> {
    let user = match job_user(session)? {
        Some(user) => user,
        None => match naq_runner::JobUser::current() {
            Ok(user) => user,
            Err(_) => return Ok(()),
        },
    };
    let is_hidden = runner.hides_dirs() && user.uid != 0;
    if !is_hidden && !runner.restricts_files() && options.secrets.is_readable_by(&user) {
        tracing::warn!(
            "a job can read the secrets of every other job, since its user may read the files in the folder of secrets; \
             use --run-as and files of mode 600, --containment namespace, or --landlock-read"
        );
    }
    Ok(())
}

/// The user that jobs run as. `None` means the user of this process.
pub(super) fn job_user(session: &Session) -> Result<Option<naq_runner::JobUser>, Failure> {
    let Some(text) = &session.settings().run_as else {
        return Ok(None);
    };
    naq_runner::JobUser::lookup(text)
        .map(Some)
        .map_err(|error| {
            let source = session.resolved.source("run_as");
            Failure::usage(format!("{source}: {error}"))
        })
}

/// Refuses intervals that contradict each other: the worker would look dead, or jobs would run
/// twice.
fn check_intervals(options: &worker::WorkerConfig) -> Result<(), Failure> {
    if options.ack_wait < Duration::from_secs(1) {
        return Err(Failure::usage(
            "ack_wait is under a second: every hiccup would start jobs twice",
        ));
    }
    if options.takeover_after < worker::TAKEOVER_AFTER_MIN {
        return Err(Failure::usage(format!(
            "takeover_after is under {} s: a worker that reconnects after an outage needs that long to keep its jobs",
            worker::TAKEOVER_AFTER_MIN.as_secs()
        )));
    }
    if options.heartbeat_interval.is_zero() || options.heartbeat_interval >= options.heartbeat_ttl {
        return Err(Failure::usage(
            "the heartbeat interval must be over 0 and under the workers' TTL",
        ));
    }
    Ok(())
}
