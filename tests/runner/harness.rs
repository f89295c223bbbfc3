//! Helpers of the runner's tests.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use naq_runner::{Command, Completion, Containment, Program, Runner, RunnerConfig, RunnerError};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tempfile::TempDir;

/// All containments.
pub(super) const CONTAINMENTS: [Containment; 4] = [
    Containment::NamespaceAndCgroup,
    Containment::Namespace,
    Containment::Cgroup,
    Containment::Subreaper,
];

/// The longest wait of any test.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Says that the test of this thread leaves something out, and why. Written to standard error itself: what
/// a test prints is shown only if it fails.
pub(super) fn skipped(what: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped in {test}: {what}");
}

/// A runner and its folder, which is removed with it.
pub(super) struct Bench {
    pub(super) runner: Runner,
    pub(super) folder: TempDir,
}

impl Bench {
    pub(super) async fn new() -> Bench {
        Bench::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut RunnerConfig)) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        change(&mut options);
        let runner = Runner::start(options).await.unwrap();
        Bench { runner, folder }
    }

    /// One per containment that this machine supports.
    pub(super) async fn each() -> Vec<Bench> {
        Bench::each_with(|_| {}).await
    }

    pub(super) async fn each_with(change: impl Fn(&mut RunnerConfig)) -> Vec<Bench> {
        let mut benches = Vec::new();
        for containment in CONTAINMENTS {
            let folder = tempfile::tempdir().unwrap();
            let mut options = options(folder.path());
            options.containment = Some(containment);
            change(&mut options);
            match Runner::start(options).await {
                Ok(runner) => {
                    assert_eq!(runner.containment(), containment);
                    benches.push(Bench { runner, folder });
                }
                Err(RunnerError::Containment { source, .. }) => {
                    skipped(&format!("{containment}: {source}"));
                }
                Err(e) => panic!("{e}"),
            }
        }
        benches
    }

    pub(super) async fn run(&self, command: Command) -> Completion {
        let job = self.runner.start_job(command);
        within(job.wait()).await
    }

    pub(super) async fn sh(&self, script: &str) -> Completion {
        self.run(sh(script)).await
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates a file in the folder.
    pub(super) fn file(&self, name: &str, content: &[u8], mode: u32) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

pub(super) fn options(folder: &Path) -> RunnerConfig {
    // A test that fails shows why a spawner was ended.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_test_writer()
        .try_init();
    let mut options = RunnerConfig::new(4);
    // Another path if this process runs as a user that cannot reach the original.
    #[expect(
        clippy::disallowed_methods,
        reason = "how a test tells a process of its own what to do"
    )]
    let copy = std::env::var_os("NAQ_TEST_PROGRAM");
    options.spawner_program =
        Some(copy.map_or_else(|| env!("CARGO_BIN_EXE_naq").into(), PathBuf::from));
    options.scratch_dir = folder.join("scratch");
    options.work_dir = folder.to_owned();
    options.base_env = vec![("LANG".to_owned(), "C.UTF-8".to_owned())];
    options
}

pub(super) fn program(program: &str, args: &[&str]) -> Command {
    let program = Program::Path {
        program: program.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    };
    Command::new("test", program)
}

pub(super) fn sh(script: &str) -> Command {
    program("sh", &["-c", script])
}

pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, what)
        .await
        .expect("in time")
}

pub(super) fn stdout(ended: &Completion) -> String {
    String::from_utf8(ended.stdout.head.clone()).unwrap()
}

/// A named pipe that processes of a job keep open for writing. It is closed when the last of them
/// ends.
pub(super) struct Witness {
    pub(super) path: PathBuf,
    reader: File,
}

impl Witness {
    pub(super) fn new(path: PathBuf) -> Witness {
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let reader = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&path)
            .unwrap();
        Witness { path, reader }
    }

    /// The shell command that opens it.
    pub(super) fn open_command(&self) -> String {
        format!("exec 9>'{}'; echo open >&9", self.path.display())
    }

    /// Waits until a process has opened it.
    pub(super) async fn opened(&self) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut byte = [0];
            File::open(path).unwrap().read_exact(&mut byte).unwrap();
        });
        within(read).await.unwrap();
    }

    /// Whether no process has it open at this moment.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Waits until no process has it open.
    pub(super) async fn closed(self) {
        let path = self.path.clone();
        // A writer of this process bridges the moment between the two readers.
        let bridge = File::options().write(true).open(&path).unwrap();
        let mut reader = File::open(&path).unwrap();
        drop(bridge);
        let read = tokio::task::spawn_blocking(move || {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).unwrap();
        });
        within(read).await.unwrap();
    }
}
