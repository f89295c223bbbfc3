//! Real nats-servers for tests.
//!
//! Each has a folder, a port and a token of its own, and goes away with the test process however
//! that ends: its supervisor waits for the lock that this process holds, and removes the folder.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use naq::local_server::{
    self, Access, Binary, ManagedServer, Port, Search, ServerConfig, ServerLimits, SyncInterval,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The bound on every wait; reached only when something is broken.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The naq program under test.
pub(crate) fn naq() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_naq"))
}

/// Where nats-server is looked for in tests: as a user's naq would.
pub(crate) fn search() -> Search {
    let environment = naq_client::config::environment();
    let folder = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let cache = folder("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| folder("HOME").map(|home| Path::new(home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    Search {
        explicit: folder("NAQ_NATS_SERVER").map(PathBuf::from),
        program_dir: None,
        path: folder("PATH").map(Into::into),
        cache_dir: cache.join("naq"),
    }
}

/// The nats-server that all tests run, found or obtained once a process; a lock in the cache
/// makes that once a machine.
pub(crate) fn binary() -> &'static Binary {
    static FOUND: OnceLock<Binary> = OnceLock::new();
    FOUND.get_or_init(|| local_server::find(&search()).unwrap_or_else(|error| panic!("{error}")))
}

/// What a test may want of its server.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestOptions {
    /// The most JetStream may store, in bytes.
    pub(crate) max_file_store_bytes: Option<u64>,
    /// The largest message, in bytes.
    pub(crate) max_payload_bytes: Option<u64>,
    /// When writes are forced to the disk.
    pub(crate) sync: SyncInterval,
    /// Further lines of nats-server's configuration.
    pub(crate) extra_config: String,
    /// Another folder for what JetStream stores.
    pub(crate) store: Option<PathBuf>,
}

/// A running nats-server with JetStream. Not restarted by itself when it is killed.
#[derive(Debug)]
pub(crate) struct TestServer {
    options: ServerConfig,
    managed: Option<ManagedServer>,
    url: String,
    port: u16,
    token: String,
}

impl TestServer {
    /// Starts one with the usual settings.
    pub(crate) fn start() -> TestServer {
        TestServer::with(&TestOptions::default())
    }

    /// Starts one with these settings.
    pub(crate) fn with(wanted: &TestOptions) -> TestServer {
        let found = binary();
        let folder = tempfile::Builder::new()
            .prefix("naq-test-")
            .tempdir()
            .unwrap()
            .keep();
        if let Some(store) = &wanted.store {
            std::os::unix::fs::symlink(store, folder.join("store")).unwrap();
        }
        let mut options = ServerConfig::new(
            &folder,
            Search {
                explicit: Some(found.path.clone()),
                ..Search::default()
            },
        );
        options.port = Port::Free;
        options.sync = wanted.sync;
        options.limits = ServerLimits {
            max_file_store_bytes: wanted.max_file_store_bytes,
            max_payload_bytes: wanted.max_payload_bytes,
        };
        // Any client of a test may connect, also one that has no keys.
        let token = format!("{:032x}", rand::random::<u128>());
        options.access = Access::Configured;
        options.extra_config = format!(
            "authorization {{ token: \"{token}\" }}\n{}",
            wanted.extra_config
        );
        options.restarts_max = 0;
        options.remove_data_dir = true;
        options.supervisor = Some(naq().to_path_buf());
        let managed =
            local_server::ensure_blocking(&options).unwrap_or_else(|error| panic!("{error}"));
        let (url, port) = (managed.url().to_owned(), managed.port());
        TestServer {
            options,
            managed: Some(managed),
            url,
            port,
            token,
        }
    }

    /// `nats://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The port at 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The token to connect with.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The server's folder.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.options.data_dir
    }

    /// nats-server's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.managed.as_ref().expect("the server is running").pid()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the server takes a signal");
    }

    /// Kills nats-server and waits until it is gone. Its files stay.
    pub(crate) fn kill9(&self) {
        self.signal(Signal::SIGKILL);
        local_server::wait_until_gone(self.data_dir(), TEST_TIMEOUT).expect("the server goes");
    }

    /// Stops nats-server in order and waits until it is gone. Its files stay.
    pub(crate) fn stop_gracefully(&self) {
        assert!(
            local_server::stop_blocking(self.data_dir(), TEST_TIMEOUT).expect("the server stops")
        );
    }

    /// Starts it again at the same port with the same files. Stops it first if it still runs.
    pub(crate) fn restart(&mut self) {
        if local_server::running(self.data_dir()).is_some() {
            self.stop_gracefully();
        }
        self.options.port = Port::Fixed(self.port);
        // The new use begins before the old one ends: the folder must not be removed in between.
        let managed =
            local_server::ensure_blocking(&self.options).unwrap_or_else(|error| panic!("{error}"));
        self.managed = Some(managed);
    }

    fn stream_dir(&self, stream: &str) -> PathBuf {
        let streams = self.data_dir().join("store/jetstream/$G/streams");
        streams.join(stream)
    }

    /// Makes a stopped server forget the unacknowledged deliveries of a consumer, as it does in a crash
    /// before it has stored them.
    pub(crate) fn drop_consumer_state(&self, stream: &str, consumer: &str) {
        let folder = self.stream_dir(stream).join("obs").join(consumer);
        let state = folder.join("o.dat");
        // a state that was never stored is forgotten already
        if let Err(error) = std::fs::remove_file(&state) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{state:?}");
            assert!(folder.exists(), "{folder:?}");
        }
    }

    /// Makes a stopped server forget a stream and its messages, as a power cut does before they have
    /// reached the disk. The states of its consumers stay, as they may in a power cut.
    pub(crate) fn forget_stream(&self, stream: &str) {
        self.forget_settings(stream);
        std::fs::remove_dir_all(self.stream_dir(stream).join("msgs")).unwrap();
    }

    /// Makes a stopped server forget that a stream exists, and leaves its messages on the disk. The server
    /// never flushes the settings of a stream, so a power cut may take them long after the messages were
    /// flushed.
    pub(crate) fn forget_settings(&self, stream: &str) {
        std::fs::remove_file(self.stream_dir(stream).join("meta.inf")).unwrap();
    }

    /// Makes the states of all consumers of a stream zeros, as a power cut may leave them. The server is stopped.
    pub(crate) fn erase_consumer_states(&self, stream: &str) {
        let consumers = std::fs::read_dir(self.stream_dir(stream).join("obs")).unwrap();
        for consumer in consumers.flatten() {
            std::fs::write(consumer.path().join("o.dat"), [0; 8]).unwrap();
        }
    }

    /// The messages of a stream, as a stopped server has them on the disk.
    pub(crate) fn messages(&self, stream: &str) -> BTreeMap<OsString, Vec<u8>> {
        let folder = self.stream_dir(stream).join("msgs");
        let files = std::fs::read_dir(folder).unwrap().flatten();
        files
            .map(|file| (file.file_name(), std::fs::read(file.path()).unwrap()))
            .collect()
    }

    /// Restores earlier messages of a stopped server, as a crash may.
    pub(crate) fn restore_messages(&self, stream: &str, messages: &BTreeMap<OsString, Vec<u8>>) {
        let folder = self.stream_dir(stream).join("msgs");
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in messages {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }

    /// Suspends it (SIGSTOP): connections stay open, and it answers nothing.
    pub(crate) fn pause(&self) {
        suspend(self.pid());
    }

    /// Resumes it.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }
}

/// Suspends a process (SIGSTOP), and waits until each of its threads has stopped: the signal is only
/// sent, and a thread stops when it comes to it.
pub(crate) fn suspend(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let tasks = format!("/proc/{pid}/task");
    let has_stopped = || {
        std::fs::read_dir(&tasks).unwrap().flatten().all(|task| {
            std::fs::read_to_string(task.path().join("stat"))
                .is_ok_and(|stat| stat.contains(") T "))
        })
    };
    let start = Instant::now();
    while !has_stopped() {
        assert!(
            start.elapsed() < TEST_TIMEOUT,
            "process {pid} is not suspended"
        );
        std::thread::yield_now();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // A killed server has no supervisor that would remove the folder.
        let abandoned = local_server::running(self.data_dir()).is_none();
        self.managed = None;
        if abandoned {
            let _left_in_the_temporary_folder = std::fs::remove_dir_all(self.data_dir());
        }
    }
}
