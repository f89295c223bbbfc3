//! The `naq` program as a user runs it: workers in the background, verbs in the foreground, and
//! plain publishes by a client without any naq code.
//!
//! A test always waits for an event (a change of a record, a line of a worker's log), at most
//! [`TEST_TIMEOUT`]. A worker is killed when its value is dropped or the test process dies.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use naq_client::Client;
use naq_jetstream::{ConnectOptions, DeadLetter, RecordEvent};
use naq_protocol::{JobId, QueueName, Record, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::nats::{TEST_TIMEOUT, TestServer, binary, naq};
use super::raw_nats::RawNats;

/// naq with one server: a home folder, a connection for observing, and the program.
pub(crate) struct Naq {
    home: TempDir,
    url: String,
    port: u16,
    token: String,
    replicas: usize,
    handle: tokio::runtime::Handle,
    /// The runtime ends when this is dropped.
    _runtime: tokio::sync::oneshot::Sender<()>,
    client: Client,
    nats: async_nats::Client,
}

impl Naq {
    pub(crate) fn new(server: &TestServer) -> Naq {
        Naq::at(server.url(), server.port(), server.token(), 1)
    }

    /// naq against a cluster, all of whose servers keep a copy of everything.
    pub(crate) fn with_cluster(cluster: &Cluster) -> Naq {
        let (url, port) = (cluster.url(), cluster.port(0));
        Naq::at(&url, port, cluster.token(), cluster.len())
    }

    fn at(url: &str, port: u16, token: &str, replicas: usize) -> Naq {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        // connections have to be served while the test does something else
        std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        let options = ConnectOptions {
            url: url.to_owned(),
            token: Some(token.to_owned()),
            connect_timeout: connect_timeout(replicas),
            replicas,
            ..ConnectOptions::default()
        };
        let addresses: Vec<async_nats::ServerAddr> =
            url.split(',').map(|one| one.parse().unwrap()).collect();
        let (client, nats) = handle.block_on(async {
            let client = Client::connect(&options).await.unwrap();
            let nats = async_nats::ConnectOptions::with_token(token.to_owned())
                .connect(addresses)
                .await
                .unwrap();
            (client, nats)
        });
        Naq {
            home: tempfile::tempdir().unwrap(),
            url: url.to_owned(),
            port,
            token: token.to_owned(),
            replicas,
            handle,
            _runtime: stop,
            client,
            nats,
        }
    }

    /// Runs something of the library to its end, in bounded time.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle
            .block_on(async { tokio::time::timeout(TEST_TIMEOUT, future).await })
            .expect("done in time")
    }

    /// The runtime that serves the connections.
    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        &self.handle
    }

    /// The library, to observe with.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A plain NATS client.
    pub(crate) fn nats(&self) -> &async_nats::Client {
        &self.nats
    }

    /// A folder for the test's files.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file into the test's folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The environment that the program runs in.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let env = naq_client::config::environment();
        let mut environment = BTreeMap::new();
        for (name, value) in [
            ("PATH", env.get("PATH").cloned().unwrap_or_default()),
            ("HOME", self.home().display().to_string()),
            (
                "NAQ_DATA_DIR",
                self.home().join("data").display().to_string(),
            ),
            ("NAQ_NATS_SERVER", binary().path.display().to_string()),
            ("NAQ_NATS_URL", self.url.clone()),
            ("NAQ_TOKEN", self.token.clone()),
            (
                "NAQ_CONNECT_TIMEOUT",
                format!("{}s", connect_timeout(self.replicas).as_secs()),
            ),
            ("NAQ_REPLICAS", self.replicas.to_string()),
        ] {
            environment.insert(name.to_owned(), value);
        }
        environment
    }

    /// A verb of the program, not yet run.
    pub(crate) fn cli<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Cli {
        Cli {
            args: args.into_iter().map(Into::into).collect(),
            environment: self.environment(),
            home: self.home().to_owned(),
            stdin: Vec::new(),
        }
    }

    /// Enqueues by the command line and returns the id it printed.
    pub(crate) fn enqueue(&self, args: &[&str]) -> JobId {
        let done = self.cli([&["enqueue"], args].concat()).run().succeeds();
        JobId::new(done.stdout.trim_end()).unwrap()
    }

    /// A worker of these queues, not yet started.
    pub(crate) fn worker(&self, queues: &[&str]) -> WorkerOptions<'_> {
        WorkerOptions {
            naq: self,
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            args: Vec::new(),
            environment: self.environment(),
        }
    }

    /// Makes a queue, as `naq queue add` does.
    pub(crate) fn add_queue(&self, queue: &str) {
        let name = QueueName::new(queue).unwrap();
        self.block_on(self.client.broker().ensure_queue(&name))
            .unwrap();
    }

    /// Publishes as any NATS client would, and returns the id the job gets by its place.
    pub(crate) fn publish(&self, queue: &str, payload: impl Into<Vec<u8>>) -> JobId {
        self.publish_to(queue, &format!("naq.queue.{queue}"), payload.into())
    }

    /// Publishes to a subject of a queue, and returns the id by place.
    pub(crate) fn publish_to(&self, queue: &str, subject: &str, payload: Vec<u8>) -> JobId {
        let subject = subject.to_owned();
        let sequence = self.block_on(async {
            let jetstream = async_nats::jetstream::new(self.nats.clone());
            let pending = jetstream.publish(subject, payload.into()).await.unwrap();
            pending.await.unwrap().sequence
        });
        JobId::for_sequence(&QueueName::new(queue).unwrap(), sequence)
    }

    /// An authenticated connection that sends bytes of the NATS protocol.
    pub(crate) fn raw(&self) -> RawNats {
        RawNats::connect(self.port, &self.token)
    }

    /// Waits until a job's record is as asked.
    pub(crate) fn wait_for(
        &self,
        job: &JobId,
        what: &str,
        is_there: impl Fn(&Record) -> bool,
    ) -> Record {
        let broker = self.client.broker();
        let mut last = None;
        let waiting = async {
            let mut watch = broker
                .watch_records(std::slice::from_ref(job))
                .await
                .unwrap();
            loop {
                // a server that is away is part of some tests
                if let Ok((Some(record), _)) = broker.read_record(job).await {
                    if is_there(&record) {
                        return record;
                    }
                    last = Some(record);
                }
                match watch.next().await {
                    RecordEvent::Changed(stored) if is_there(&stored.record) => {
                        return stored.record;
                    }
                    RecordEvent::Changed(_) | RecordEvent::Resync | RecordEvent::Gap => {}
                }
            }
        };
        let found = self
            .handle
            .block_on(async { tokio::time::timeout(TEST_TIMEOUT, waiting).await });
        match found {
            Ok(record) => record,
            Err(_) => panic!("{job}: not {what} in time; last seen: {last:#?}"),
        }
    }

    /// Waits until a job has ended.
    pub(crate) fn wait_ended(&self, job: &JobId) -> Record {
        self.wait_for(job, "ended", |record| record.state.is_terminal())
    }

    /// Waits until a worker has claimed a job.
    pub(crate) fn wait_running(&self, job: &JobId) -> Record {
        self.wait_for(job, "running", |record| record.state == State::Running)
    }

    /// Enqueues a good job and asserts that it is run: nothing that came before has hurt.
    pub(crate) fn assert_jobs_still_run(&self, queue: &str) {
        let job = self.publish(queue, r#"{"command":"echo","args":["well"]}"#);
        let record = self.wait_ended(&job);
        assert_eq!(record.state, State::Succeeded, "{record:#?}");
        assert_eq!(text(record.stdout.as_ref()), "well\n");
    }

    /// The jobs of the failed stream.
    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        self.block_on(async {
            let mut listed = self.client.broker().list_dead_letters(None).await.unwrap();
            let mut jobs = Vec::new();
            while let Some(job) = listed.next().await.unwrap() {
                jobs.push(job);
            }
            jobs.reverse();
            jobs
        })
    }

    /// A job of the failed stream.
    pub(crate) fn dead_letter(&self, job: &JobId) -> DeadLetter {
        self.dead_letters()
            .into_iter()
            .find(|failed| failed.job_id == *job)
            .unwrap_or_else(|| panic!("{job} is not kept"))
    }

    /// How many messages a queue's stream still holds.
    pub(crate) fn stream_messages(&self, queue: &str) -> u64 {
        self.block_on(async {
            let jetstream = async_nats::jetstream::new(self.nats.clone());
            let mut stream = jetstream
                .get_stream(format!("naq_queue_{queue}"))
                .await
                .unwrap();
            stream.info().await.unwrap().state.messages
        })
    }

    /// Enqueues to `filler` until not even a small job fits, where the storage has a bound. Returns
    /// the ids that were taken.
    pub(crate) fn fill_storage(&self) -> Vec<String> {
        let mut taken = Vec::new();
        for bytes in [512 << 10, 32 << 10, 1 << 10, 1] {
            let file = self.file("filler", "x".repeat(bytes));
            let file = file.to_str().unwrap();
            loop {
                let args = ["enqueue", "-q", "filler", "--stdin", file, "--", "true"];
                let done = self.cli(args).run();
                if done.code != Some(0) {
                    done.exits(7)
                        .expect_stderr(&["storage is full", "naq purge"]);
                    break;
                }
                taken.push(done.stdout.trim_end().to_owned());
            }
        }
        taken
    }

    /// Waits until a queue's stream holds just so many messages. A job is acknowledged after its
    /// end can be read: who looks in between sees one more.
    pub(crate) fn wait_for_messages(&self, queue: &str, messages: u64) {
        eventually(&format!("{queue} holding {messages}"), || {
            self.stream_messages(queue) == messages
        });
    }

    /// Waits until a queue's stream holds no message: everything has been acknowledged.
    pub(crate) fn wait_drained(&self, queue: &str) {
        self.wait_for_messages(queue, 0);
    }
}

/// Time limit of a connection: what a loaded machine needs, but shorter with several servers, since a
/// suspended one accepts connections and never responds.
fn connect_timeout(servers: usize) -> Duration {
    match servers {
        1 => TEST_TIMEOUT / 2,
        _ => Duration::from_secs(3),
    }
}

/// A job's id.
pub(crate) fn id(text: &str) -> JobId {
    JobId::new(text).unwrap()
}

/// The kept part of an output, as text.
pub(crate) fn text(output: Option<&naq_protocol::CapturedOutput>) -> String {
    let Some(output) = output else {
        return String::new();
    };
    let mut bytes = output.head_bytes();
    bytes.extend(output.tail_bytes());
    String::from_utf8(bytes).unwrap()
}

/// Polls until a condition holds. Only for conditions without an event.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process lives and is not a zombie.
pub(crate) fn is_process_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('Z')
    })
}

/// The program under test, with pipes.
pub(crate) fn command(
    args: &[String],
    environment: &BTreeMap<String, String>,
    home: &Path,
) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the program under test is a process of its own"
    )]
    let mut command = Command::new(naq());
    command
        .args(args)
        .env_clear()
        .envs(environment)
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A nats-server that naq does not manage, with a folder of its own and these arguments, and its
/// port.
pub(crate) fn start_plain_server(naq: &Naq, args: &[&str]) -> (GuardedChild, u16) {
    let folder = naq.home().join("plain");
    std::fs::create_dir(&folder).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "naq itself starts none but its own"
    )]
    let mut command = Command::new(&binary().path);
    command
        .args(args)
        .args(["-a", "127.0.0.1", "-p", "-1", "-sd"])
        .arg(&folder)
        .arg("--ports_file_dir")
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = GuardedChild::spawn(&mut command);
    let mut port = None;
    eventually("its port", || {
        port = std::fs::read_dir(&folder)
            .unwrap()
            .flatten()
            .find_map(|entry| {
                let text = std::fs::read_to_string(entry.path()).ok()?;
                let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
                ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
            });
        port.is_some()
    });
    (server, port.unwrap())
}

/// A verb to run.
pub(crate) struct Cli {
    args: Vec<String>,
    environment: BTreeMap<String, String>,
    home: PathBuf,
    stdin: Vec<u8>,
}

impl Cli {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Cli {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Cli {
        self.environment.remove(name);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Cli {
        self.stdin = bytes.into();
        self
    }

    /// Starts it; its output is left in the pipe until it is read.
    pub(crate) fn spawn(self) -> RunningCli {
        let mut child =
            GuardedChild::spawn(&mut command(&self.args, &self.environment, &self.home));
        drop(child.child.stdin.take());
        let stdout = child.child.stdout.take().unwrap();
        RunningCli { child, stdout }
    }

    /// Starts it; what it says and prints is read as it comes.
    pub(crate) fn follow(self) -> FollowedCli {
        let mut child =
            GuardedChild::spawn(&mut command(&self.args, &self.environment, &self.home));
        drop(child.child.stdin.take());
        let printed = CapturedLog::follow(child.child.stdout.take().unwrap());
        let stderr = CapturedLog::follow(child.child.stderr.take().unwrap());
        FollowedCli {
            child,
            printed,
            stderr,
        }
    }

    /// Starts it on a terminal of its own.
    pub(crate) fn on_terminal(self) -> Terminal {
        Terminal::start(command(&self.args, &self.environment, &self.home))
    }

    /// Starts another program instead, such as a shell, on a terminal of its own.
    pub(crate) fn program_on_terminal(self, program: &Path) -> Terminal {
        #[expect(
            clippy::disallowed_methods,
            reason = "the shell that a user types into"
        )]
        let mut command = Command::new(program);
        command
            .args(&self.args)
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.home);
        Terminal::start(command)
    }

    /// Runs it to its end, in bounded time. What it prints has to be text.
    pub(crate) fn run(self) -> CliOutput {
        let (status, stdout, stderr) = self.run_bytes();
        CliOutput {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Runs it to its end, in bounded time: its end, output and errors.
    pub(crate) fn run_bytes(self) -> (ExitStatus, Vec<u8>, Vec<u8>) {
        let mut child =
            GuardedChild::spawn(&mut command(&self.args, &self.environment, &self.home));
        let mut stdin = child.child.stdin.take().unwrap();
        let input = self.stdin;
        let feeding = std::thread::spawn(move || {
            // one that does not read it all is not at fault
            let _ = stdin.write_all(&input);
        });
        let stdout = read_in_thread(child.child.stdout.take().unwrap());
        let stderr = read_in_thread(child.child.stderr.take().unwrap());
        let status = child.wait(&format!("{:?}", self.args));
        feeding.join().unwrap();
        (status, stdout.join().unwrap(), stderr.join().unwrap())
    }
}

fn read_in_thread(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// A running verb.
pub(crate) struct RunningCli {
    child: GuardedChild,
    stdout: ChildStdout,
}

impl RunningCli {
    /// Reads some of its output.
    pub(crate) fn read_some(&mut self) -> Vec<u8> {
        let mut piece = vec![0; 1024];
        let count = self.stdout.read(&mut piece).unwrap();
        piece.truncate(count);
        piece
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.pid()), signal).unwrap();
    }

    /// Reads no more, and waits for its end.
    pub(crate) fn close_stdout_and_wait(self) -> ExitStatus {
        let RunningCli { mut child, stdout } = self;
        drop(stdout);
        child.wait("a verb that nobody reads")
    }
}

/// A verb on a terminal. Killed when dropped.
pub(crate) struct Terminal {
    child: GuardedChild,
    keyboard: std::fs::File,
    screen: CapturedLog,
}

impl Terminal {
    fn start(mut command: Command) -> Terminal {
        let size = nix::pty::Winsize {
            ws_row: 40,
            ws_col: 160,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        let child = GuardedChild::spawn(&mut command);
        // The terminal stays open while anything holds the child's side.
        drop((command, pty.slave));
        let keyboard = std::fs::File::from(pty.master);
        let screen = CapturedLog::follow_bytes(keyboard.try_clone().unwrap());
        Terminal {
            child,
            keyboard,
            screen,
        }
    }

    /// Waits for words on the screen, and returns all that was written there up to now.
    #[track_caller]
    pub(crate) fn expect_screen(&self, words: &str) -> String {
        self.screen.wait(words);
        self.screen.text()
    }

    /// What was written on the screen up to now.
    pub(crate) fn screen_text(&self) -> String {
        self.screen.text()
    }

    /// Types text, without a newline.
    pub(crate) fn type_text(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, line: &str) {
        self.keyboard
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        self.child.wait("a verb on a terminal")
    }
}

/// A running verb whose output is captured. Killed when dropped.
pub(crate) struct FollowedCli {
    child: GuardedChild,
    printed: CapturedLog,
    stderr: CapturedLog,
}

impl FollowedCli {
    /// Waits for words on its standard error.
    #[track_caller]
    pub(crate) fn expect_stderr(&self, words: &str) {
        self.stderr.wait(words);
    }

    /// Waits for words on its standard output, and returns all of that up to now.
    #[track_caller]
    pub(crate) fn expect_stdout(&self, words: &str) -> String {
        self.printed.wait(words);
        self.printed.text()
    }

    /// What it has said so far on standard error.
    pub(crate) fn stderr_text(&self) -> String {
        self.stderr.text()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.pid()), signal).unwrap();
    }

    /// Kills it on the spot.
    pub(crate) fn kill9(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait("a killed verb");
    }

    /// Waits for its end.
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        self.child.wait("a verb that was asked to end")
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }
}

/// The output of a verb and its exit code.
#[derive(Debug)]
pub(crate) struct CliOutput {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CliOutput {
    #[track_caller]
    pub(crate) fn succeeds(self) -> CliOutput {
        self.exits(0)
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> CliOutput {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts what stands on standard output.
    pub(crate) fn expect_stdout(self, words: &str) -> CliOutput {
        assert!(self.stdout.contains(words), "no {words:?} in {self:#?}");
        self
    }

    /// That its standard error has each of these.
    #[track_caller]
    pub(crate) fn expect_stderr(self, words: &[&str]) -> CliOutput {
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:#?}");
        }
        self
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

    /// How long the server waits for word of a running job.
    pub(crate) fn ack_wait(self, text: &str) -> Self {
        self.env("NAQ_DEFAULT_ACK_WAIT", text)
    }

    /// Starts it. Its queues are there when this returns; it may still be connecting.
    pub(crate) fn spawn(self) -> Worker {
        for queue in &self.queues {
            self.naq.add_queue(queue);
        }
        let mut args = vec!["worker".to_owned()];
        args.extend(self.queues);
        args.extend(self.args);
        let mut child =
            GuardedChild::spawn(&mut command(&args, &self.environment, self.naq.home()));
        let log = CapturedLog::follow(child.child.stderr.take().unwrap());
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

    /// Waits for words in its log.
    #[track_caller]
    pub(crate) fn expect_stderr(&self, words: &str) {
        self.log.wait(words);
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait_exit(mut self) -> ExitStatus {
        self.child.wait("worker")
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(
                clippy::print_stderr,
                reason = "a failed test shows what the worker said"
            )]
            {
                eprintln!("--- the worker's log:\n{}---", self.log.text());
            }
        }
    }
}

/// A log that is captured while it is written.
#[derive(Clone)]
struct CapturedLog(Arc<(Mutex<String>, Condvar)>);

impl CapturedLog {
    fn follow(from: impl Read + Send + 'static) -> CapturedLog {
        let log = CapturedLog(Arc::new((Mutex::new(String::new()), Condvar::new())));
        let ours = log.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let (text, changed) = &*ours.0;
                text.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                changed.notify_all();
                line.clear();
            }
        });
        log
    }

    /// Reads without waiting for the end of a line, as a terminal shows what is typed.
    fn follow_bytes(mut from: impl Read + Send + 'static) -> CapturedLog {
        let log = CapturedLog(Arc::new((Mutex::new(String::new()), Condvar::new())));
        let ours = log.clone();
        std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                all.extend_from_slice(&piece[..count]);
                let (text, changed) = &*ours.0;
                *text.lock().unwrap() = String::from_utf8_lossy(&all).into_owned();
                changed.notify_all();
            }
        });
        log
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait(&self, words: &str) {
        let (text, changed) = &*self.0;
        let (text, timeout) = changed
            .wait_timeout_while(text.lock().unwrap(), TEST_TIMEOUT, |text| {
                !text.contains(words)
            })
            .unwrap();
        assert!(!timeout.timed_out(), "no {words:?} in:\n{}", *text);
    }
}

/// A child that is killed when it is dropped or this process dies, even by SIGKILL.
pub(crate) struct GuardedChild {
    child: Child,
    watch: Child,
    /// Open while this process lives.
    _alive: ChildStdin,
}

impl GuardedChild {
    pub(crate) fn spawn(command: &mut Command) -> GuardedChild {
        let child = command.spawn().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own watchdog")]
        let mut watch = Command::new("sh")
            .args([
                "-c",
                "read -r line || kill -9 \"$0\"",
                &child.id().to_string(),
            ])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let _alive = watch.stdin.take().unwrap();
        GuardedChild {
            child,
            watch,
            _alive,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// The process itself.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn wait(&mut self, what: &str) -> ExitStatus {
        let mut status = None;
        eventually(&format!("{what} ended"), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for GuardedChild {
    fn drop(&mut self) {
        // The watch first: it must not kill a process that reuses the id.
        let _ = self.watch.kill();
        let _ = self.watch.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
