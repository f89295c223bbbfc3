//! Processes for the measurements: workers, schedulers, and single `naq` commands. The bench has its
//! own runner, which starts them as it would start jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Args;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use naq_client::{BrokerError, Client, ClientError, write_private_file};
use naq_protocol::{JobId, QueueName, WorkerInfo};
use naq_runner::{Command, Completion, JobHandle, Program, Runner, RunnerConfig, StopReason};

/// Connection, queue and runner, which all measurements share.
pub(super) struct Bench {
    pub(super) client: Client,
    pub(super) queue: QueueName,
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) json: bool,
    runner: Runner,
    program: String,
    /// The options of this process that set a setting, which the processes that it starts get too.
    session_arguments: Vec<String>,
    env: Vec<(String, String)>,
    /// Environment of a worker's jobs, each as `NAME=VALUE`.
    pub(super) job_env: Vec<String>,
    folder: PathBuf,
}

/// Maximum number of processes at once; no measurement starts as many.
const PROCESSES_MAX: usize = 300;

/// Maximum time until a worker is listed.
const WORKER_READY_MAX: Duration = Duration::from_secs(20);

impl Bench {
    pub(super) async fn start(
        session: &Session,
        client: Client,
        rounds: usize,
        seconds: f64,
    ) -> Result<Bench, Failure> {
        let mut options = RunnerConfig::new(PROCESSES_MAX);
        // The spawners only watch their processes; more of them would disturb the measurement.
        options.spawners = Some(2);
        if let Some(path) = session.variable("PATH") {
            options.path = path.to_owned();
        }
        let runner = Runner::start(options).await?;
        let program = std::env::current_exe()
            .ok()
            .and_then(|path: PathBuf| path.to_str().map(str::to_owned))
            .ok_or_else(|| Failure::general("cannot find the path of this program"))?;
        let queue = QueueName::new(format!("bench-{}", std::process::id()))?;
        let folder = std::env::temp_dir().join(format!("naq-{queue}"));
        Ok(Bench {
            client,
            queue,
            rounds,
            seconds,
            json: session.json,
            runner,
            program,
            session_arguments: session.arguments().to_vec(),
            folder,
            env: session.environment_for_children(),
            job_env: job_env(session),
        })
    }

    /// A bench whose processes use the managed server of this data folder, whatever the settings say.
    pub(super) async fn on_own_server(
        session: &Session,
        client: Client,
        args: &Args,
        data_dir: &Path,
    ) -> Result<Bench, Failure> {
        let mut bench = Bench::start(session, client, args.rounds, args.seconds).await?;
        bench.session_arguments.clear();
        // the variables and files of the user's own naq may lead to another server
        bench
            .env
            .retain(|(name, _)| !name.starts_with("NAQ_") || name == "NAQ_CACHE_DIR");
        let no_settings = data_dir.join("naq.toml");
        write_private_file(&no_settings, b"")?;
        for (name, path) in [("NAQ_DATA_DIR", data_dir), ("NAQ_CONFIG", &no_settings)] {
            bench
                .env
                .push((name.to_owned(), path.display().to_string()));
        }
        Ok(bench)
    }

    /// The process of a program that has been started.
    pub(super) fn pid_of(&self, args: &[&str]) -> Result<u32, Failure> {
        let wanted: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let is_wanted = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.windows(wanted.len()).any(|words| words == wanted)
        };
        let names = std::fs::read_dir("/proc")?.flatten();
        let mut pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(is_wanted)
            .ok_or_else(|| Failure::general(format!("naq {} does not run", args.join(" "))))
    }

    /// Stops the processes, and removes the files and the queue.
    pub(super) async fn end(self) -> Result<(), Failure> {
        self.runner.shutdown().await;
        let _ = std::fs::remove_dir_all(&self.folder);
        match self.client.queue(self.queue.as_str())?.remove().await {
            Ok(()) | Err(ClientError::Broker(BrokerError::QueueNotFound(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file for a measurement to read. Returns its path. [`Bench::end`] removes it.
    pub(super) fn file(&self, name: &str, content: &[u8]) -> Result<String, Failure> {
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure::general("the folder for temporary files is not UTF-8"))
    }

    /// Starts this program with the arguments, after the options of this process that set a setting.
    pub(super) fn spawn_naq(&self, args: &[&str]) -> JobHandle {
        let session_arguments: &[String] = match args.first() {
            // The hidden subcommands have no such options.
            Some(first) if first.starts_with("__") => &[],
            _ => &self.session_arguments,
        };
        let mut command = Command::new(
            "bench",
            Program::Path {
                program: self.program.clone(),
                args: session_arguments
                    .iter()
                    .cloned()
                    .chain(args.iter().map(|arg| (*arg).to_owned()))
                    .collect(),
            },
        );
        command.env = self.env.clone();
        self.runner.start_job(command)
    }

    /// Starts a worker of the bench's queue and waits until it is listed.
    pub(super) async fn worker(&self, concurrency: usize) -> Result<Worker, Failure> {
        let name = JobId::generate().to_string();
        let count = concurrency.to_string();
        let args = [
            "worker",
            self.queue.as_str(),
            "--name",
            &name,
            "--concurrency",
            &count,
            "--quiet",
        ];
        let handle = Arc::new(self.spawn_naq(&args));
        let seen = async {
            loop {
                let workers = self.client.list_workers().await?;
                if let Some(info) = workers.into_iter().find(|worker| worker.name == name) {
                    return Ok::<_, Failure>(info);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ended = handle.wait() => Err(Failure::general(format!(
                "the worker ended: {}",
                String::from_utf8_lossy(&ended.stderr.head)
            ))),
            seen = tokio::time::timeout(WORKER_READY_MAX, seen) => match seen {
                Ok(info) => Ok(Worker { handle: Arc::clone(&handle), info: info? }),
                Err(_) => Err(Failure::general("the worker did not come up")),
            },
        }
    }
}

fn job_env(session: &Session) -> Vec<String> {
    let path = session.variable("PATH").map(|path| format!("PATH={path}"));
    let rest = session.job_environment();
    path.into_iter()
        .chain(rest.iter().map(|(name, value)| format!("{name}={value}")))
        .collect()
}

/// A worker of the bench's.
pub(super) struct Worker {
    handle: Arc<JobHandle>,
    pub(super) info: WorkerInfo,
}

impl Worker {
    /// Ends it.
    pub(super) async fn end(self) -> Completion {
        self.handle.stop(StopReason::Cancel);
        self.handle.wait().await
    }
}
