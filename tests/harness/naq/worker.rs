//! Workers that run in the background.

use std::collections::BTreeMap;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Naq;
use super::process::{CapturedLog, GuardedChild, command};

impl Naq {
    /// A worker of these queues, to be started by [`WorkerOptions::spawn`].
    pub(crate) fn worker(&self, queues: &[&str]) -> WorkerOptions<'_> {
        WorkerOptions {
            naq: self,
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            args: Vec::new(),
            environment: self.environment(),
        }
    }
}

/// A worker to start.
pub(crate) struct WorkerOptions<'n> {
    naq: &'n Naq,
    queues: Vec<String>,
    args: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl WorkerOptions<'_> {
    pub(crate) fn concurrency(self, count: usize) -> Self {
        self.arg("--concurrency").arg(&count.to_string())
    }

    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs jobs without a PID namespace: they see the process ids that the test sees.
    pub(crate) fn with_host_pids(self) -> Self {
        self.arg("--containment=cgroup")
    }

    /// Sets how long the server waits for the worker's answer before it redelivers a job.
    pub(crate) fn ack_wait(self, text: &str) -> Self {
        self.env("NAQ_DEFAULT_ACK_WAIT", text)
    }

    /// Starts the worker and waits until its log says that it works.
    pub(crate) fn spawn(self) -> Worker {
        for queue in &self.queues {
            self.naq.add_queue(queue);
        }
        let mut args = vec!["worker".to_owned()];
        args.extend(self.queues);
        args.extend(self.args);
        let mut child =
            GuardedChild::spawn(&mut command(&args, &self.environment, self.naq.home()));
        let log = CapturedLog::follow(child.child().stderr.take().unwrap());
        let worker = Worker { child, log };
        worker.expect_stderr("working");
        worker
    }
}

/// A running worker. Killed when dropped.
pub(crate) struct Worker {
    child: GuardedChild,
    log: CapturedLog,
}

impl Worker {
    pub(crate) fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Waits until its log contains `words`.
    #[track_caller]
    pub(crate) fn expect_stderr(&self, words: &str) {
        self.log.wait(words);
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits until it has exited.
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        self.child.wait("worker")
    }

    /// Sends TERM and waits until it has exited.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows the worker's log")]
            {
                eprintln!("--- the worker's log:\n{}---", self.log.text());
            }
        }
    }
}
