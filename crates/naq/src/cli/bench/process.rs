//! Processes for the measurements: workers, schedulers, and single `naq` commands. The bench has its
//! own runner, which starts them as it would start jobs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cli::exit::Failure;
use crate::cli::session::Session;
use naq_client::{BrokerError, Client, ClientError};
use naq_protocol::{JobId, QueueName};
use naq_runner::{
    Command, Completion, Containment, JobHandle, Program, Runner, RunnerConfig, StopReason,
};

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
    /// The processes of nats-server. None if naq does not manage it.
    pub(super) server_pids: Vec<u32>,
    folder: PathBuf,
}

/// Maximum number of processes at once; no measurement starts as many.
const PROCESSES_MAX: usize = 300;

/// Maximum time until a worker is listed.
const WORKER_READY_MAX: Duration = Duration::from_secs(60);

/// Jobs a second of a worker, about, by which it is estimated how many fit into the time of a measurement.
pub(super) const JOBS_PER_S: f64 = 1_500.0;

/// Maximum number of jobs or processes of a measurement.
const COUNT_MAX: f64 = 1e6;

/// Pause before each measurement of a latency. The worker is to be idle when the next job arrives.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// Starts the runner, where possible so that the processes run as those of a shell: not in a PID namespace, and not in
/// the Landlock domain of a job. In either, naq cannot see the server's process, and so uses TLS.
async fn start_runner(options: RunnerConfig) -> Result<Runner, Failure> {
    let in_cgroups = RunnerConfig {
        containment: Some(Containment::Cgroup),
        allow_setuid: true,
        ..options.clone()
    };
    match Runner::start(in_cgroups).await {
        Ok(runner) => Ok(runner),
        Err(_) => Ok(Runner::start(options).await?),
    }
}

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
        let runner = start_runner(options).await?;
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
            server_pids: Vec::new(),
        })
    }

    /// Lets the processes see these variables of naq's, and no others: those of the user's own naq, and its
    /// options, may lead to another server.
    pub(super) fn use_only(&mut self, variables: &[(&str, String)]) {
        self.session_arguments.clear();
        self.env
            .retain(|(name, _)| !name.starts_with("NAQ_") || name == "NAQ_CACHE_DIR");
        self.add_variables(variables);
    }

    /// Adds variables to the environment of the processes.
    pub(super) fn add_variables(&mut self, variables: &[(&str, String)]) {
        let variables = variables.iter();
        self.env
            .extend(variables.map(|(name, value)| ((*name).to_owned(), value.clone())));
    }

    /// The process of a program that has been started with these arguments among others. A process in a namespace
    /// of its own, as the bench's may be, does not know its number outside.
    pub(super) fn pid_of(&self, args: &[&str]) -> Result<u32, Failure> {
        let mut pids = pids_with(args)?;
        pids.next()
            .ok_or_else(|| Failure::general(format!("naq {} does not run", args.join(" "))))
    }

    /// The process with these arguments that has this number in its own namespace. 0 if none has.
    pub(super) fn pid_outside(&self, args: &[&str], inside: u32) -> Result<u32, Failure> {
        let has_number = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let last = numbers.and_then(|numbers| numbers.split_whitespace().last());
            last.and_then(|last| last.parse().ok()) == Some(inside)
        };
        Ok(pids_with(args)?.find(has_number).unwrap_or_default())
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
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        std::fs::write(&path, content)?;
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure::general("the folder for temporary files is not UTF-8"))
    }

    /// Writes a program, as [`Bench::file`] does.
    pub(super) fn program_file(&self, name: &str, content: &[u8]) -> Result<String, Failure> {
        let path = self.file(name, content)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Starts this program with the arguments, after the options of this process that set a setting.
    pub(super) fn spawn_naq(&self, args: &[&str]) -> JobHandle {
        let words = self.naq_words(args);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.spawn(&self.program, &words)
    }

    /// Starts this program as [`Bench::spawn_naq`] does, with its standard output in a file.
    pub(super) fn spawn_naq_into(&self, file: &str, args: &[&str]) -> JobHandle {
        let script = r#"file=$1; shift; exec "$@" > "$file""#;
        let words = self.naq_words(args);
        let words = words.iter().map(String::as_str);
        let shell = ["-c", script, "sh", file, &self.program];
        let words: Vec<&str> = shell.into_iter().chain(words).collect();
        self.spawn("/bin/sh", &words)
    }

    fn naq_words(&self, args: &[&str]) -> Vec<String> {
        let session_arguments: &[String] = match args.first() {
            // The hidden subcommands have no such options.
            Some(first) if first.starts_with("__") => &[],
            _ => &self.session_arguments,
        };
        let args = args.iter().map(|arg| (*arg).to_owned());
        session_arguments.iter().cloned().chain(args).collect()
    }

    /// Starts a program.
    pub(super) fn spawn(&self, program: &str, args: &[&str]) -> JobHandle {
        let args = args.iter().map(|arg| (*arg).to_owned());
        let program = Program::Path {
            program: program.to_owned(),
            args: args.collect(),
        };
        let mut command = Command::new("bench", program);
        command.env = self.env.clone();
        self.runner.start_job(command)
    }

    /// As many jobs, or whatever else has this rate, as fit into the duration of a measurement.
    pub(super) fn count_at(&self, per_s: f64, count_min: u32) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count within its bounds"
        )]
        let count = (per_s * self.seconds).clamp(f64::from(count_min), COUNT_MAX) as u32;
        count
    }

    /// Enqueues a job and waits for its result. Returns how long that took, in milliseconds.
    pub(super) async fn enqueue_to_result(&self, payload: &Bytes) -> Result<f64, Failure> {
        let queue = self.client.queue(self.queue.as_str())?;
        let job_id = JobId::generate();
        let waiter = self.client.waiter(std::slice::from_ref(&job_id)).await?;
        let sent = Instant::now();
        queue.enqueue_new(job_id, payload.clone()).await?;
        waiter.each(|_| {}).await?;
        Ok(sent.elapsed().as_secs_f64() * 1e3)
    }

    /// Starts a worker of the bench's queue and waits until it is listed.
    pub(super) async fn worker(&self, concurrency: usize) -> Result<Worker, Failure> {
        let queue = std::slice::from_ref(&self.queue);
        self.worker_of(queue, concurrency, &[]).await
    }

    /// Starts a worker of these queues, with further options, and waits until it is listed.
    pub(super) async fn worker_of(
        &self,
        queues: &[QueueName],
        concurrency: usize,
        options: &[String],
    ) -> Result<Worker, Failure> {
        let name = JobId::generate().to_string();
        let count = concurrency.to_string();
        let mut args = vec!["worker"];
        args.extend(queues.iter().map(QueueName::as_str));
        args.extend(["--name", &name, "--concurrency", &count, "--quiet"]);
        args.extend(options.iter().map(String::as_str));
        let handle = Arc::new(self.spawn_naq(&args));
        tokio::select! {
            ended = handle.wait() => Err(Failure::general(format!(
                "the worker ended: {}",
                String::from_utf8_lossy(&ended.stderr.head)
            ))),
            listed = self.wait_until_listed(&name) => {
                listed?;
                let pid = self.pid_of(&["--name", &name])?;
                Ok(Worker { handle: Arc::clone(&handle), pid })
            }
        }
    }

    /// Waits until a worker of this name is listed.
    async fn wait_until_listed(&self, name: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last_error = None;
        while begun.elapsed() < WORKER_READY_MAX {
            match self.client.list_workers().await {
                Ok(workers) if workers.iter().any(|worker| worker.name == name) => return Ok(()),
                Ok(_) => {}
                // A cluster answers no request about a bucket that is being created.
                Err(error) => last_error = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let why = last_error.map(|error| format!(": {error}"));
        let why = why.unwrap_or_default();
        Err(Failure::general(format!("the worker did not come up{why}")))
    }
}

/// The processes of this machine with these arguments among others.
fn pids_with(args: &[&str]) -> Result<impl Iterator<Item = u32>, Failure> {
    let wanted: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    let is_wanted = move |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.windows(wanted.len()).any(|words| words == wanted)
    };
    let names = std::fs::read_dir("/proc")?.flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_wanted))
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
    pub(super) pid: u32,
}

impl Worker {
    /// Ends it.
    pub(super) async fn end(self) -> Completion {
        self.handle.stop(StopReason::Cancel);
        self.handle.wait().await
    }
}
