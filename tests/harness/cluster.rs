//! A cluster of nats-servers on loopback, each with a folder of its own.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use async_nats::jetstream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::naq::{GuardedChild, eventually};
use super::nats::binary;

const TOKEN: &str = "cluster";

/// Servers that know one another. Each goes away with the value, and with the test process.
pub(crate) struct Cluster {
    folder: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    port: u16,
    process: Option<GuardedChild>,
}

impl Cluster {
    /// Starts so many, and waits until JetStream has a leader.
    pub(crate) fn start(count: usize) -> Cluster {
        let folder = tempfile::Builder::new()
            .prefix("naq-cluster-")
            .tempdir()
            .unwrap();
        // all are held until all are known, so that none is given twice
        let held: Vec<TcpListener> = (0..2 * count)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap())
            .collect();
        let ports: Vec<u16> = held
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        drop(held);
        let (clients, routes) = ports.split_at(count);
        let all_routes = routes
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect::<Vec<_>>()
            .join(", ");
        for index in 0..count {
            let store = folder.path().join(format!("n{index}"));
            let text = format!(
                "server_name: n{index}\nlisten: 127.0.0.1:{}\nauthorization {{ token: {TOKEN} }}\n\
                 jetstream {{ store_dir: {:?}, sync_interval: 1s }}\nlog_file: {:?}\n\
                 cluster {{ name: naq, listen: 127.0.0.1:{}, no_advertise: true, routes: [{all_routes}] }}\n",
                clients[index],
                store.display().to_string(),
                folder
                    .path()
                    .join(format!("n{index}.log"))
                    .display()
                    .to_string(),
                routes[index],
            );
            std::fs::write(folder.path().join(format!("n{index}.conf")), text).unwrap();
        }
        let nodes = clients
            .iter()
            .map(|port| Node {
                port: *port,
                process: None,
            })
            .collect();
        let mut cluster = Cluster { folder, nodes };
        for index in 0..count {
            cluster.restart_node(index);
        }
        for node in &cluster.nodes {
            // a client gives up at the first connection that all servers refuse
            eventually("the server accepts connections", || {
                TcpStream::connect(("127.0.0.1", node.port)).is_ok()
            });
        }
        cluster
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The addresses of all servers, separated by commas.
    pub(crate) fn url(&self) -> String {
        self.nodes
            .iter()
            .map(|node| format!("nats://127.0.0.1:{}", node.port))
            .collect::<Vec<_>>()
            .join(",")
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.nodes[index].port
    }

    pub(crate) fn token(&self) -> &str {
        TOKEN
    }

    /// Starts a server that is not running, with its existing files.
    pub(crate) fn restart_node(&mut self, index: usize) {
        #[expect(clippy::disallowed_methods, reason = "a server of the test's own")]
        let mut command = Command::new(&binary().path);
        command
            .arg("-c")
            .arg(self.folder.path().join(format!("n{index}.conf")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.nodes[index].process = Some(GuardedChild::spawn(&mut command));
    }

    fn signal(&self, index: usize, signal: Signal) {
        if let Some(process) = &self.nodes[index].process {
            kill(Pid::from_raw(process.pid()), signal).unwrap();
        }
    }

    /// Kills a server. Its files stay.
    pub(crate) fn kill9(&mut self, index: usize) {
        self.signal(index, Signal::SIGKILL);
        if let Some(mut process) = self.nodes[index].process.take() {
            process.child().wait().unwrap();
        }
    }

    /// Suspends one server: its connections stay open, and it answers nothing.
    pub(crate) fn pause(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
    }

    /// Resumes a suspended server.
    pub(crate) fn resume(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    /// The server that leads a stream. `None` if no leader is known.
    pub(crate) async fn leader(nats: &async_nats::Client, stream: &str) -> Option<usize> {
        let jetstream = jetstream::new(nats.clone());
        let stream = jetstream.get_stream(stream).await.ok()?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        leader.strip_prefix('n')?.parse().ok()
    }

    /// Waits until every stream has a leader and every replica is up to date.
    pub(crate) fn wait_replicated(handle: &tokio::runtime::Handle, nats: &async_nats::Client) {
        eventually("every replica is up to date", || {
            handle.block_on(is_replicated(nats)).unwrap_or(false)
        });
    }
}

async fn is_replicated(nats: &async_nats::Client) -> Option<bool> {
    use futures_util::TryStreamExt;
    let jetstream = jetstream::new(nats.clone());
    let streams: Vec<_> = jetstream.streams().try_collect().await.ok()?;
    Some(streams.iter().all(|info| {
        info.cluster.as_ref().is_some_and(|cluster| {
            cluster.leader.is_some()
                && cluster.replicas.len() + 1 == info.config.num_replicas
                && cluster
                    .replicas
                    .iter()
                    .all(|copy| copy.current && !copy.offline)
        })
    }))
}
