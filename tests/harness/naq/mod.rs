//! The `naq` program as a user runs it: workers in the background (`worker`), verbs in the
//! foreground (`cli`), and jobs published by a client without any naq code (`jobs`).
//!
//! A test waits for an event (a change of a record, a line of a worker's log), at most
//! [`TEST_TIMEOUT`]. A worker is killed when its value is dropped or the test process dies.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod cli;
mod jobs;
mod process;
mod worker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use naq_client::Client;
use naq_jetstream::ConnectOptions;
use naq_protocol::QueueName;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::nats::{TEST_TIMEOUT, TestServer, binary};
use super::raw_nats::RawNats;

pub(crate) use cli::{Cli, CliOutput, FollowedCli, Terminal};
pub(crate) use jobs::{id, text};
pub(crate) use process::{GuardedChild, command, eventually, is_process_alive, start_plain_server};
pub(crate) use worker::{Worker, WorkerOptions};

/// The variable by which a worker of root takes jobs from any server. Tests may run as root.
pub(crate) const ALLOW_ROOT: &str = "NAQ_ALLOW_ROOT";

/// naq with one server or cluster: a home folder, a connection to observe with, and the program.
pub(crate) struct Naq {
    home: TempDir,
    url: String,
    port: u16,
    token: String,
    /// Number of servers.
    servers: usize,
    /// The setting of this name. `None` means the program's default.
    replicas: Option<usize>,
    handle: tokio::runtime::Handle,
    /// The runtime ends when this is dropped.
    _runtime: tokio::sync::oneshot::Sender<()>,
    client: Client,
    nats: async_nats::Client,
}

impl Naq {
    pub(crate) fn new(server: &TestServer) -> Naq {
        Naq::at(server.url(), server.port(), server.token(), 1, Some(1))
    }

    /// naq with a cluster. Each of its servers keeps a copy of every stream.
    pub(crate) fn with_cluster(cluster: &Cluster) -> Naq {
        let (url, port) = (cluster.url(), cluster.port(0));
        Naq::at(
            &url,
            port,
            cluster.token(),
            cluster.len(),
            Some(cluster.len()),
        )
    }

    /// naq with a cluster, which decides itself how many servers keep a copy of a stream.
    pub(crate) fn with_cluster_by_default(cluster: &Cluster) -> Naq {
        let (url, port) = (cluster.url(), cluster.port(0));
        Naq::at(&url, port, cluster.token(), cluster.len(), None)
    }

    fn at(url: &str, port: u16, token: &str, servers: usize, replicas: Option<usize>) -> Naq {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        // the connections have to be served while the test does something else
        std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        let options = ConnectOptions {
            url: url.to_owned(),
            token: Some(token.to_owned()),
            connect_timeout: connect_timeout(servers),
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
            servers,
            replicas,
            handle,
            _runtime: stop,
            client,
            nats,
        }
    }

    /// Waits for a future of the library, at most [`TEST_TIMEOUT`].
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle
            .block_on(async { tokio::time::timeout(TEST_TIMEOUT, future).await })
            .expect("done in time")
    }

    /// The runtime that serves the connections.
    pub(crate) fn handle(&self) -> &tokio::runtime::Handle {
        &self.handle
    }

    /// The client, to observe with.
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

    /// Adds a runner `kit` to the folder `runners`: one of shell scripts, which prepares each that has a line that begins
    /// with `# needs`, by this shell text.
    pub(crate) fn add_preparing_runner(&self, preparation: &str) {
        let folder = self.home().join("runners/kit");
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = format!(
            r##"
manifest = 1
name = "kit"
program = ["sh"]
[probe]
argv = ["{{program}}", "-c", "exit 0"]
[script]
argv = ["{{program}}", "{{file}}", "{{args}}"]
[prepare]
when = "script"
match = "^# needs"
argv = ["{{program}}", "-c", '''{preparation}''']
"##
        );
        std::fs::write(folder.join("runner.toml"), manifest).unwrap();
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
                format!("{}s", connect_timeout(self.servers).as_secs()),
            ),
            (
                "NAQ_REPLICAS",
                self.replicas
                    .map(|count| count.to_string())
                    .unwrap_or_default(),
            ),
            (ALLOW_ROOT, "1".to_owned()),
            // What a test expects does not depend on the zone of the machine.
            ("TZ", "UTC".to_owned()),
        ] {
            environment.insert(name.to_owned(), value);
        }
        environment
    }

    /// Creates a queue, as `naq queue add` does.
    pub(crate) fn add_queue(&self, queue: &str) {
        let name = QueueName::new(queue).unwrap();
        self.block_on(self.client.broker().ensure_queue(&name))
            .unwrap();
    }

    /// Whether a queue has a consumer of this name.
    pub(crate) fn has_consumer(&self, queue: &str, name: &str) -> bool {
        self.block_on(async {
            let jetstream = async_nats::jetstream::new(self.nats.clone());
            let stream = jetstream.get_stream(format!("naq_queue_{queue}")).await;
            stream.unwrap().consumer_info(name).await.is_ok()
        })
    }

    /// An authenticated connection that sends bytes of the NATS protocol.
    pub(crate) fn raw(&self) -> RawNats {
        RawNats::connect(self.port, &self.token)
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
