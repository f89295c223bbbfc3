//! `naq server`: the managed local nats-server, and what naq stores on any.

mod check;

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use super::exit::{Exit, Failure};
use super::json::{ServerProgram, ServerStopped};
use super::render;
use super::session::Session;
use super::signals::Signals;
use crate::local_server::{self, Port, ServerConfig, SyncInterval};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<ServerVerb>,
}

#[derive(Debug, Subcommand)]
enum ServerVerb {
    /// Start the server, until Ctrl-C or, with --stay, until it is stopped
    Start {
        /// Leave the server running until `naq server stop`
        #[arg(long)]
        stay: bool,
        /// Port to listen on [default: 4222, or a free one]
        #[arg(long, value_name = "PORT")]
        port: Option<u16>,
        /// When writes reach the disk: 1s (a power cut may lose the last second) or always
        /// [default: 1s]
        #[arg(long, value_name = "WHEN", value_parser = parse_sync)]
        sync: Option<SyncInterval>,
        /// Data folder [default: the setting `data_dir`]
        #[arg(long, value_name = "DIR")]
        store_dir: Option<PathBuf>,
    },
    /// Stop the server
    Stop,
    /// Show whether the server runs, and where (the default)
    Status,
    /// Compare the streams, buckets and consumers with what naq needs
    ///
    /// On any server, with the connection's settings. Lists the settings that differ, and exits with 1
    /// if some do.
    Check(check::Args),
    /// Print the path of the nats-server program, which is downloaded if it is not found
    Path,
}

impl Args {
    /// Whether the verb runs until a signal ends it.
    pub(super) fn is_endless(&self) -> bool {
        matches!(self.verb, Some(ServerVerb::Start { .. }))
    }
}

/// How long the server may take to stop.
pub(super) const STOP_MAX: Duration = Duration::from_secs(20);

pub(super) fn parse_sync(text: &str) -> Result<SyncInterval, String> {
    match text {
        "always" => Ok(SyncInterval::Always),
        "1s" => Ok(SyncInterval::default()),
        _ => Err("one of 1s, always".to_owned()),
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    match args.verb.unwrap_or(ServerVerb::Status) {
        ServerVerb::Start {
            stay,
            port,
            sync,
            store_dir,
        } => {
            let folder = store_dir.unwrap_or_else(|| session.server_dir());
            let mut options = ServerConfig::new(folder, session.search());
            options.stay = stay;
            options.sync = sync.unwrap_or_default();
            if let Some(port) = port {
                options.port = Port::Fixed(port);
            }
            start(session, &options).await
        }
        ServerVerb::Stop => {
            if !local_server::stop(&session.server_dir(), STOP_MAX).await? {
                return Err(Failure::new(Exit::NotFound, "no managed server is running"));
            }
            if session.json {
                render::print_json(&ServerStopped { stopped: true })?;
            }
            Ok(0)
        }
        ServerVerb::Status => status(session),
        ServerVerb::Check(args) => check::run(session, args).await,
        ServerVerb::Path => {
            let search = session.search();
            let binary = tokio::task::spawn_blocking(move || local_server::find(&search))
                .await
                .map_err(|error| Failure::general(error.to_string()))??;
            if session.json {
                render::print_json(&ServerProgram {
                    path: &binary.path,
                    version: binary.version.to_string(),
                    origin: binary.origin,
                })?;
            } else {
                render::print_line(binary.path.display())?;
            }
            Ok(0)
        }
    }
}

async fn start(session: &Session, options: &ServerConfig) -> Result<u8, Failure> {
    let mut signals = Signals::listen()?;
    let managed = local_server::ensure(options).await?;
    if session.json {
        render::print_json(managed.state())?;
    } else {
        let verb = if managed.started() {
            "started"
        } else {
            "already running"
        };
        render::print_stderr(format_args!("{verb}: {}", managed.url()));
        render::print_stderr(format_args!("nkey:    {}", managed.nkey_file().display()));
        if let Some(certificate) = managed.certificate_file() {
            render::print_stderr(format_args!("cert:    {}", certificate.display()));
        }
    }
    if !options.stay {
        signals.next().await;
        tokio::select! {
            left = managed.leave(STOP_MAX) => left?,
            _ = signals.next() => {}
        }
    }
    Ok(0)
}

fn status(session: &Session) -> Result<u8, Failure> {
    let Some(status) = local_server::status(&session.server_dir())? else {
        return Err(Failure::new(Exit::NotFound, "no managed server is running")
            .hint("`naq dev` or `naq server start` starts one"));
    };
    if session.json {
        render::print_json(&status)?;
    } else {
        let state = &status.server;
        let certificate = state
            .certificate_file
            .as_ref()
            .map(|path| format!(", certificate in {}", path.display()));
        render::print_line(format_args!(
            "nats-server {} at {} (pid {}, nkey in {}{})",
            state.version,
            state.url,
            state.pid,
            state.nkey_file.display(),
            certificate.unwrap_or_default()
        ))?;
    }
    Ok(0)
}
