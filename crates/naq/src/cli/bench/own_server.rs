//! Servers of a measurement's own: nobody wants its records among their own, or their load in it.
//!
//! Their files are in the data folder of the settings, on the disk that the managed server writes to.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Args;
use super::process::Bench;
use crate::cli::exit::Failure;
use crate::cli::session::Session;
use crate::local_server::{self, Access, ManagedServer, Port, ServerConfig, SyncInterval};
use naq_client::{Client, ConnectOptions, QueueSettings, write_private_file};
use naq_protocol::JobId;

/// Time limit for a server to be gone.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// Time limit for the servers of a cluster to agree on a leader.
const LEADER_TIME_MAX: Duration = Duration::from_secs(60);

/// A server, or a cluster of some, and a bench that uses it.
pub(super) struct OwnServer {
    pub(super) bench: Bench,
    /// The folder of all files.
    pub(super) folder: PathBuf,
    options: ConnectOptions,
    servers: Vec<ManagedServer>,
}

impl OwnServer {
    /// Starts a managed server.
    pub(super) async fn start(
        session: &Session,
        args: &Args,
        name: &str,
        sync: SyncInterval,
    ) -> Result<OwnServer, Failure> {
        let folder = new_folder(session, name)?;
        // where a process with this data folder looks for it
        let mut config = ServerConfig::new(folder.join("server"), session.search());
        config.remove_data_dir = true;
        config.port = Port::Free;
        config.sync = sync;
        let (client, managed) = session.start_managed(&config).await?;
        let settings = session.settings();
        let options = settings.managed_server_options(&config.data_dir, managed.state());
        OwnServer::with(session, args, client, options, vec![managed], folder, &[]).await
    }

    /// Starts a cluster of so many servers, each of which keeps a copy of everything.
    pub(super) async fn start_cluster(
        session: &Session,
        args: &Args,
        name: &str,
        count: usize,
    ) -> Result<OwnServer, Failure> {
        let folder = new_folder(session, name)?;
        let started = OwnServer::cluster_in(session, args, &folder, count).await;
        if started.is_err() {
            let _ = std::fs::remove_dir_all(&folder);
        }
        started
    }

    async fn cluster_in(
        session: &Session,
        args: &Args,
        folder: &Path,
        count: usize,
    ) -> Result<OwnServer, Failure> {
        let token = JobId::generate().to_string();
        let routes = free_addresses(count)?;
        let mut servers = Vec::new();
        for (at, address) in routes.iter().enumerate() {
            let data_dir = folder.join(format!("server-{at}"));
            let mut config = ServerConfig::new(data_dir, session.search());
            config.remove_data_dir = true;
            config.port = Port::Free;
            config.access = Access::Configured;
            config.extra_config = format!("authorization {{ token: {token:?} }}\n");
            if count > 1 {
                let all: Vec<String> = routes.iter().map(|one| format!("nats://{one}")).collect();
                config.extra_config += &format!(
                    "cluster {{ name: naq, listen: \"{address}\", no_advertise: true, routes: {all:?} }}\n"
                );
            }
            servers.push(local_server::ensure(&config).await?);
        }
        let urls: Vec<&str> = servers.iter().map(ManagedServer::url).collect();
        let url = urls.join(",");
        let options = ConnectOptions {
            url: url.clone(),
            token: Some(token.clone()),
            replicas: Some(count),
            connect_timeout: Duration::from_secs(30),
            ..ConnectOptions::default()
        };
        let client = Client::connect(&options).await?;
        wait_for_leader(&client).await?;
        let variables = [
            ("NAQ_NATS_URL", url),
            ("NAQ_TOKEN", token),
            ("NAQ_REPLICAS", count.to_string()),
            ("NAQ_CONNECT_TIMEOUT", "30s".to_owned()),
            // only this process and those that it starts have the token
            ("NAQ_ALLOW_ROOT", "1".to_owned()),
        ];
        let folder = folder.to_owned();
        OwnServer::with(session, args, client, options, servers, folder, &variables).await
    }

    async fn with(
        session: &Session,
        args: &Args,
        client: Client,
        options: ConnectOptions,
        servers: Vec<ManagedServer>,
        folder: PathBuf,
        variables: &[(&str, String)],
    ) -> Result<OwnServer, Failure> {
        let mut bench = Bench::start(session, client, args.rounds, args.seconds).await?;
        let no_settings = folder.join("naq.toml");
        write_private_file(&no_settings, b"")?;
        bench.use_only(&[
            ("NAQ_DATA_DIR", path_text(&folder)),
            ("NAQ_CONFIG", path_text(&no_settings)),
        ]);
        bench.add_variables(variables);
        let pids = servers.iter().map(ManagedServer::pid);
        bench.server_pids = pids.filter_map(|pid| u32::try_from(pid).ok()).collect();
        Ok(OwnServer {
            bench,
            folder,
            options,
            servers,
        })
    }

    /// Opens another connection.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.options).await?)
    }

    /// Stops everything and removes the files. Returns what was measured.
    pub(super) async fn end<T>(self, measured: Result<T, Failure>) -> Result<T, Failure> {
        let ended = self.bench.end().await;
        for server in self.servers {
            server.leave(STOP_TIME_MAX).await?;
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        let measured = measured?;
        ended?;
        Ok(measured)
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn new_folder(session: &Session, name: &str) -> Result<PathBuf, Failure> {
    let name = format!("bench-{name}-{}", std::process::id());
    let folder = session.settings().data_dir.join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Addresses that are free at this moment, which is enough on the loopback address of one machine. All are
/// held until all are known, so that none is given twice.
fn free_addresses(count: usize) -> Result<Vec<String>, Failure> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    Ok(addresses
        .map(|address| address.map(|address| address.to_string()))
        .collect::<Result<_, _>>()?)
}

/// Waits until a queue can be created: the servers have to agree on a leader first, and all have to join.
async fn wait_for_leader(client: &Client) -> Result<(), Failure> {
    let probe = client.queue("bench-probe")?;
    let begun = Instant::now();
    loop {
        match probe.add(&QueueSettings::default()).await {
            Ok(()) => break,
            Err(error) if begun.elapsed() >= LEADER_TIME_MAX => return Err(error.into()),
            // the server sends no message when a leader is elected
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Ok(probe.remove().await?)
}
