//! What every verb needs first: settings, the log, and the connection to NATS.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::{Args, FromArgMatches};

use super::exit::Failure;
use super::greeting_bound;
use super::job_socket::{JobReader, JobSocket, not_in_a_job};
use super::log_file::LogFile;
use super::render;
use super::setting_flags::{GlobalSettingFlags, WorkerSettingFlags};
use super::time_limit::Progress;
use crate::local_server::{self, ManagedServer, Search};
use naq_client::config::{self, Flags, LogFormat, ProcessEnv, Resolved, Settings, Source};
use naq_client::{BrokerError, Client, ClientError, ConnectFailure};
use naq_core::ExponentialBackoff;
use naq_protocol::TraceContext;

/// Pauses between attempts of a service to connect for the first time.
const CONNECT_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Time between two log lines of a service that waits for NATS.
const WAITING_REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Options of every verb. Each overrides a setting; `naq config` shows them all.
#[derive(Debug, Args)]
pub(super) struct GlobalOptions {
    /// Print JSON, errors included
    // after the verb's own options, as the next one
    #[arg(long, global = true, display_order = 900)]
    pub(super) json: bool,
    /// Print tables whole: every column, and nothing cut to the width of the terminal
    #[arg(long, global = true, display_order = 901)]
    pub(super) wide: bool,
    /// Settings file [default: ./naq.toml over ~/.config/naq/naq.toml over /etc/naq/naq.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Connection",
        hide_short_help = true
    )]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: GlobalSettingFlags,
}

impl GlobalOptions {
    /// The global options among the words of an incomplete command line, whose other words are
    /// skipped. `None` if a value is invalid.
    pub(super) fn from_words(words: impl Iterator<Item = String>) -> Option<GlobalOptions> {
        let command = GlobalOptions::augment_args(clap::Command::new("naq").no_binary_name(true));
        let mut known = Vec::new();
        let mut words = words.take_while(|word| word != "--");
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--") else {
                continue;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            let argument = command
                .get_arguments()
                .find(|argument| argument.get_long() == Some(name));
            let Some(argument) = argument else { continue };
            let needs_value = value.is_none() && argument.get_action().takes_values();
            known.push(word);
            if needs_value {
                known.extend(words.next());
            }
        }
        let matches = command.try_get_matches_from(known).ok()?;
        GlobalOptions::from_arg_matches(&matches).ok()
    }

    /// The settings file and the settings again, as arguments for another naq.
    fn arguments(&self) -> Vec<String> {
        let config = self.config.iter();
        config
            .flat_map(|path| ["--config".to_owned(), path.to_string_lossy().into_owned()])
            .chain(self.settings.arguments())
            .collect()
    }

    fn flags(&self) -> Flags {
        let flags = Flags::default().with_config_file(self.config.clone());
        self.settings.add_to(flags)
    }
}

/// Whether the log has lines for the start and the end of each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoggedJobs {
    Always,
    /// At the levels debug and trace.
    IfDebugging,
    Never,
}

/// What a verb logs in addition to what every verb does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Logged {
    /// The start and the end of each job.
    pub(super) jobs: LoggedJobs,
    /// What NATS denies the user. A verb that makes one request reports it as its error.
    pub(super) denials: bool,
}

/// The resolved settings and the environment of one run of naq.
pub(super) struct Session {
    pub(super) resolved: Resolved,
    pub(super) json: bool,
    /// The progress of the verb.
    pub(super) progress: Progress,
    env: ProcessEnv,
    arguments: Vec<String>,
    /// Lives as long as the session, so that the last lines of the log reach the file.
    _log_file: Option<LogFile>,
}

impl Session {
    /// Resolves the settings and starts the log. `worker` has the settings of a verb that runs a
    /// worker.
    pub(super) fn open(
        global: &GlobalOptions,
        worker: Option<&WorkerSettingFlags>,
        logged: Logged,
    ) -> Result<Session, Failure> {
        let flags = global.flags();
        let flags = match worker {
            Some(worker) => worker.add_to(flags),
            None => flags,
        };
        let mut session = Session::with_flags(global, &flags)?;
        session._log_file = start_log(session.settings(), logged)?;
        set_failpoints(&session.env)?;
        for warning in &session.resolved.warnings {
            if warning.is_shown_at_startup() {
                tracing::warn!("{warning}");
            }
        }
        Ok(session)
    }

    /// Resolves the settings, and prints nothing.
    pub(super) fn without_log(global: &GlobalOptions) -> Result<Session, Failure> {
        Session::with_flags(global, &global.flags())
    }

    fn with_flags(global: &GlobalOptions, flags: &Flags) -> Result<Session, Failure> {
        let env = ProcessEnv::read();
        let resolved = config::load(&env, flags)?;
        Ok(Session {
            resolved,
            json: global.json,
            progress: Progress::default(),
            env,
            arguments: global.arguments(),
            _log_file: None,
        })
    }

    /// The settings of a file and of this process's environment.
    pub(super) fn settings_of(&self, file: &Path) -> Result<Resolved, Failure> {
        let flags = Flags::default().with_config_file(Some(file.to_owned()));
        Ok(config::load(&self.env, &flags)?)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.resolved.settings
    }

    /// The options of every verb that set a setting, as arguments for another naq.
    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// A variable of this process's environment.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env.environment.get(name).map(String::as_str)
    }

    /// The trace that this process belongs to, by its variable `TRACEPARENT`. An invalid one counts as absent.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.variable("TRACEPARENT")?.parse().ok()
    }

    /// This process's whole environment.
    pub(super) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = self.env.environment.iter();
        variables.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The variables that every job's environment begins with, besides PATH. `USER`, `LOGNAME` and
    /// `SHELL` are those of the account, as with cron and systemd, whatever this process inherited;
    /// so is `HOME`, if this process has none.
    pub(super) fn job_environment(&self) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = match naq_runner::JobUser::current() {
            Ok(user) => user.environment().into(),
            Err(error) => {
                tracing::warn!("jobs get no USER, LOGNAME and SHELL: {error}");
                Vec::new()
            }
        };
        // Later variables override earlier ones. An empty one counts as unset.
        for name in ["HOME", "LANG", "TZ", "TMPDIR"] {
            let value = self.variable(name).filter(|value| !value.is_empty());
            environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        environment
    }

    /// The environment for other naq processes, which find the same server and settings.
    pub(super) fn environment_for_children(&self) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = self
            .env
            .environment
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        // The children must use these folders, whichever layer of the settings they came from.
        for (name, path) in [
            ("NAQ_DATA_DIR", &self.settings().data_dir),
            ("NAQ_CACHE_DIR", &self.settings().cache_dir),
        ] {
            environment.retain(|(known, _)| known != name);
            environment.push((name.to_owned(), path.display().to_string()));
        }
        environment
    }

    /// The folder of the managed local server.
    pub(super) fn server_dir(&self) -> PathBuf {
        naq_client::managed_server_dir(self.settings())
    }

    /// Where to look for a nats-server program.
    pub(super) fn search(&self) -> Search {
        Search {
            explicit: self.settings().nats_server.clone(),
            program_dir: crate::local_server::program_dir(),
            path: self.variable("PATH").map(Into::into),
            cache_dir: self.settings().cache_dir.clone(),
        }
    }

    /// Connects: where the settings say, else to the managed server, which has to run.
    ///
    /// # Errors
    /// Returns an error if neither exists, and inside a job that has not been given a connection of its
    /// own: a server that happens to run on this machine need not be the one of the job's worker.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        self.check_not_in_a_job()?;
        let connecting = Client::from_settings(&self.resolved);
        Ok(greeting_bound::bounded(connecting).await??)
    }

    /// Returns an error inside a job that has not been given a connection of its own.
    fn check_not_in_a_job(&self) -> Result<(), Failure> {
        match self.job_socket() {
            Some(_) => Err(not_in_a_job("this verb")),
            None => Ok(()),
        }
    }

    /// The socket of the worker, if this process belongs to a job and nothing says where NATS is.
    pub(super) fn job_socket(&self) -> Option<JobSocket> {
        let prefix_is_set = !matches!(self.resolved.source("prefix"), Source::Default);
        if self.resolved.nats_configured || prefix_is_set {
            return None;
        }
        JobSocket::find(|name| self.variable(name))
    }

    /// What to read jobs from: inside a job its worker, otherwise as [`Session::connect`].
    pub(super) async fn job_reader(&self) -> Result<JobReader, Failure> {
        match self.job_socket() {
            Some(socket) => Ok(JobReader::Worker(socket)),
            None => Ok(JobReader::Nats(Box::new(self.connect().await?))),
        }
    }

    /// Connects as [`Session::connect`], and waits for a server that cannot be reached, as a service
    /// must that may start before NATS does. Gives up after `connect_timeout` if that is set. `None`
    /// means that `stopped` came first.
    pub(super) async fn connect_when_reachable(
        &self,
        stopped: impl Future<Output = ()>,
    ) -> Result<Option<Client>, Failure> {
        self.check_not_in_a_job()?;
        let is_bounded = !matches!(self.resolved.source("connect_timeout"), Source::Default);
        let deadline = is_bounded.then(|| Instant::now() + self.settings().connect_timeout);
        let mut stopped = pin!(stopped);
        let mut reported_at: Option<Instant> = None;
        let mut failures = 0;
        loop {
            let connected = tokio::select! {
                biased;
                () = &mut stopped => return Ok(None),
                connected = greeting_bound::bounded(Client::from_settings(&self.resolved)) => connected?,
            };
            let error = match connected {
                Ok(client) => return Ok(Some(client)),
                Err(error) if !is_unreachable(&error) => {
                    return Err(error.into());
                }
                Err(error) => error,
            };
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(error.into());
            }
            if reported_at.is_none_or(|at| at.elapsed() >= WAITING_REPORT_INTERVAL) {
                reported_at = Some(Instant::now());
                tracing::warn!("waiting for NATS: {error}");
            }
            failures += 1;
            tokio::select! {
                () = &mut stopped => return Ok(None),
                () = tokio::time::sleep(CONNECT_BACKOFF.pause(failures, rand::random())) => {}
            }
        }
    }

    /// Connects as [`Session::connect`]. If no NATS is configured (see
    /// [`Resolved::nats_configured`]), joins or starts the managed server, which runs until the returned
    /// [`ManagedServer`] is dropped.
    pub(super) async fn connect_or_start(
        &self,
    ) -> Result<(Client, Option<ManagedServer>), Failure> {
        if self.resolved.nats_configured {
            return Ok((self.connect().await?, None));
        }
        let options = local_server::ServerConfig::new(self.server_dir(), self.search());
        let (client, managed) = self.start_managed(&options).await?;
        Ok((client, Some(managed)))
    }

    /// Starts or joins a managed server and connects to it.
    pub(super) async fn start_managed(
        &self,
        options: &local_server::ServerConfig,
    ) -> Result<(Client, ManagedServer), Failure> {
        self.check_not_in_a_job()?;
        let managed = local_server::ensure(options).await?;
        let connect = self
            .settings()
            .managed_server_options(&options.data_dir, managed.state());
        let client = match Client::connect(connect).await {
            Ok(client) => client.with_settings(self.settings()),
            Err(error) => {
                return Err(match error {
                    ClientError::Broker(BrokerError::Connect {
                        problem, failure, ..
                    }) => {
                        let problem = format!(
                            "cannot connect to the managed server at {}: {problem}",
                            managed.url()
                        );
                        let failed = Failure::new(super::exit::Exit::NoNats, problem);
                        // the others are about settings, which this connection does not have
                        match (failure, super::exit::connect_hint(failure)) {
                            (
                                ConnectFailure::NotOwnServer | ConnectFailure::OwnCertificate,
                                Some(hint),
                            ) => failed.hint(hint),
                            _ => failed,
                        }
                    }
                    error => error.into(),
                });
            }
        };
        Ok((client, managed))
    }
}

/// Starts the log. Returns the file that it is written to, which must live as long as the log does.
fn start_log(settings: &Settings, logged: Logged) -> Result<Option<LogFile>, Failure> {
    use tracing_subscriber::fmt::writer::BoxMakeWriter;
    use tracing_subscriber::prelude::*;
    let level = &settings.log_level;
    let is_debugging = matches!(level.as_str(), "debug" | "trace");
    let jobs = match logged.jobs {
        LoggedJobs::Always => level,
        LoggedJobs::IfDebugging if is_debugging => level,
        LoggedJobs::IfDebugging | LoggedJobs::Never => "warn",
    };
    let denials = if logged.denials { level } else { "off" };
    let filter = tracing_subscriber::EnvFilter::try_new(format!(
        "warn,naq={level},{jobs_target}={jobs},{denials_target}={denials},async_nats=off",
        jobs_target = crate::worker::JOBS_LOG_TARGET,
        denials_target = naq_client::DENIALS_LOG_TARGET,
    ))
    .map_err(|error| Failure::usage(format!("log level `{}`: {error}", settings.log_level)))?;
    let (writer, log_file) = if settings.log_to_file_enabled {
        let path = &settings.log_file_path;
        let (writer, log_file) = LogFile::open(path).map_err(|error| {
            Failure::usage(format!(
                "cannot write the log to {}: {error}",
                path.display()
            ))
        })?;
        (BoxMakeWriter::new(writer), Some(log_file))
    } else {
        (BoxMakeWriter::new(std::io::stderr), None)
    };
    // Without a terminal the lines are made without escape codes. To strip them on the way takes a dozen writes for
    // a line, and a dozen buffers of a socket: a reader that pauses would soon block the process.
    let is_colored =
        anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(writer)
        .with_ansi(is_colored && !settings.log_to_file_enabled);
    let registry = tracing_subscriber::registry().with(filter);
    match settings.log_format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        render::note(format_args!("internal error, please report it: {panic}"));
    }));
    Ok(log_file)
}

/// Sets the failpoints that the environment names. Only builds for tests have failpoints.
fn set_failpoints(env: &ProcessEnv) -> Result<(), Failure> {
    let named = env.environment.get("FAILPOINTS");
    for point in named.iter().flat_map(|points| points.split(';')) {
        if let (true, Some((name, actions))) = (fail::has_failpoints(), point.split_once('=')) {
            fail::cfg(name, actions)
                .map_err(|error| Failure::usage(format!("failpoint {name}: {error}")))?;
        }
    }
    Ok(())
}

/// Whether nobody listens at the address, or nobody answers: a server may do so later.
fn is_unreachable(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Broker(BrokerError::Connect { failure, .. }) if failure.may_pass()
    )
}
