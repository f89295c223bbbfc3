//! `naq dashboard`: pages and the HTTP API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::exit::{Exit, Failure};
use super::private_file::read_private;
use super::render;
use super::session::Session;
use super::setting_flags;
use super::signals::stop_signals;
use crate::watchdog::WatchdogTimer;
use crate::web::{
    self, BasePath, DashboardTitle, ForwardAuth, FrameAncestor, LoginCode, Network, OtherDashboard,
    Proxies, Right, RightLimits, Token, Tokens, WebConfig,
};
use naq_client::{Client, write_private_file};
use naq_protocol::units::ByteSize;

/// Port of a dashboard unless another one is given.
const PORT_DEFAULT: u16 = 8080;

/// Name of the token that the dashboard creates.
const LOCAL_TOKEN: &str = "local";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on; every address except loopback requires --tokens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 chooses a free one
    #[arg(long, value_name = "PORT", default_value_t = PORT_DEFAULT)]
    port: u16,
    /// Further host name to accept in the header Host; may be given several times
    #[arg(long = "host-name", value_name = "NAME")]
    host_names: Vec<String>,
    /// Path of the pages behind a reverse proxy, such as /naq
    #[arg(long, value_name = "PATH", default_value = "")]
    base_path: BasePath,
    /// Site that may show the overview for a wall screen (/?kiosk) in a frame; may be given several times
    #[arg(long = "frame-ancestor", value_name = "SITE")]
    frame_ancestors: Vec<FrameAncestor>,
    /// Name of this dashboard in its pages, and its colour, such as production,red
    #[arg(long, value_name = "NAME[,COLOUR]")]
    title: Option<DashboardTitle>,
    /// Other dashboard that the pages lead to, such as staging=https://staging.example.com/naq,green; may be given several times
    #[arg(long = "also", value_name = "NAME=URL[,COLOUR]")]
    others: Vec<OtherDashboard>,
    /// Refuse every change
    #[arg(long, conflicts_with = "allow_submit")]
    read_only: bool,
    /// Allow browsers to enqueue jobs and store schedules, and so to run any command on the workers
    #[arg(long)]
    allow_submit: bool,
    /// File of tokens that only you can read; each line has view, operate or submit, a name, and a secret
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Memory for the index of records, which serves lists and filters, some 100 bytes a record; off for none
    #[arg(long, value_name = "SIZE", default_value = INDEX_DEFAULT)]
    index: IndexSize,
    #[arg(
        long = "trusted-proxy",
        value_name = "ADDRESS",
        value_delimiter = ',',
        help = setting_flags::help_of("trusted_proxies")
    )]
    trusted_proxies: Vec<String>,
    #[arg(long, value_name = "NAME", help = setting_flags::help_of("forward_auth_header"))]
    forward_auth_header: Option<String>,
    #[arg(long, value_name = "NAME", help = setting_flags::help_of("forward_auth_groups_header"))]
    forward_auth_groups_header: Option<String>,
    #[arg(
        long = "forward-auth-right",
        value_name = "USER=RIGHT",
        help = setting_flags::help_of("forward_auth_rights")
    )]
    forward_auth_rights: Vec<String>,
    #[arg(
        long = "proxy-user",
        value_name = "NAME",
        value_delimiter = ',',
        help = setting_flags::help_of("proxy_users")
    )]
    proxy_users: Vec<String>,
}

impl Args {
    /// The header that names the user, of the flag or of the settings.
    fn forward_auth_header(&self, session: &Session) -> Option<String> {
        let flag = self.forward_auth_header.clone();
        flag.or_else(|| session.settings().forward_auth_header.clone())
    }

    /// The proxies that are trusted. Lists and pairs of the flags add to those of the settings.
    fn proxies(&self, session: &Session) -> Result<Proxies, Failure> {
        let settings = session.settings();
        let wrong = |setting: &str, why: &str| Failure::usage(format!("{setting}: {why}"));
        let networks = settings.trusted_proxies.iter().chain(&self.trusted_proxies);
        let networks = networks
            .map(|text| text.parse())
            .collect::<Result<Vec<Network>, String>>()
            .map_err(|why| wrong("trusted_proxies", &why))?;
        let mut rights = settings.forward_auth_rights.clone();
        for text in &self.forward_auth_rights {
            let pair = text.split_once('=');
            let (who, right) = pair.ok_or_else(|| {
                Failure::usage(format!("--forward-auth-right {text}: write USER=RIGHT"))
            })?;
            rights.insert(who.to_owned(), right.to_owned());
        }
        let groups_header = self
            .forward_auth_groups_header
            .as_deref()
            .or(settings.forward_auth_groups_header.as_deref());
        let forward_auth = match self.forward_auth_header(session) {
            Some(_) if networks.is_empty() => {
                let missing = wrong("forward_auth_header", "no proxy is trusted to send it");
                return Err(missing.hint("name the address of the proxy with --trusted-proxy"));
            }
            Some(header) => Some(
                ForwardAuth::new(&header, groups_header, rights)
                    .map_err(|why| wrong("forward_auth_header", &why))?,
            ),
            None if groups_header.is_some() || !rights.is_empty() => {
                let missing = wrong(
                    "forward_auth_header",
                    "rights or groups need it, but it is not set",
                );
                return Err(missing.hint("name the header of the user with --forward-auth-header"));
            }
            None => None,
        };
        let users = settings.proxy_users.iter().chain(&self.proxy_users);
        Ok(Proxies::new(
            networks,
            users.cloned().collect(),
            forward_auth,
        ))
    }
}

/// Maximum size of the index unless another one is given: ten million records.
const INDEX_DEFAULT: &str = "1G";

/// Maximum size of the index, in bytes. `None` means that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IndexSize(Option<usize>);

impl std::str::FromStr for IndexSize {
    type Err = String;

    fn from_str(text: &str) -> Result<IndexSize, String> {
        if text == "off" {
            return Ok(IndexSize(None));
        }
        let size: ByteSize = text
            .parse()
            .map_err(|error: String| format!("{error}, or off"))?;
        match usize::try_from(size.0) {
            Ok(bytes) if bytes >= INDEX_BYTES_MIN => Ok(IndexSize(Some(bytes))),
            _ => Err("the smallest size is 1M; off switches the index off".to_owned()),
        }
    }
}

/// The smallest index, in bytes.
const INDEX_BYTES_MIN: usize = 1 << 20;

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let (stop, second_signal) = stop_signals()?;
    let address = SocketAddr::new(args.host, args.port);
    let proxies = args.proxies(session)?;
    let is_forward_auth = args.forward_auth_header(session).is_some();
    if args.tokens.is_none() && !is_forward_auth && !web::is_loopback(address) {
        let message = format!(
            "--host {}: other machines can reach this address",
            args.host
        );
        return Err(Failure::usage(message).hint("pass --tokens FILE with a token for each user"));
    }
    let mut tokens = Tokens::default();
    if let Some(path) = &args.tokens {
        add_tokens(&mut tokens, path)?;
    }
    let token_file = local_token_file(session);
    add_local_token(&mut tokens, &token_file)?;
    let config = WebConfig {
        tokens,
        local_token: LOCAL_TOKEN.to_owned(),
        limits: RightLimits {
            read_only: args.read_only,
            allow_submit: args.allow_submit,
        },
        host_names: args.host_names,
        base_path: args.base_path,
        proxies,
        frame_ancestors: args.frame_ancestors,
        title: args.title,
        others: args.others,
        index_bytes_max: args.index.0,
    };
    tokio::select! {
        served = serve(session, config, address, &token_file, stop) => served,
        // Returns instead of calling `exit`, which would lose the end of a log file.
        Ok(signal) = second_signal => Ok(128 + u8::try_from(signal).unwrap_or_default()),
    }
}

async fn serve(
    session: &Session,
    config: WebConfig,
    address: SocketAddr,
    token_file: &Path,
    stop: watch::Receiver<bool>,
) -> Result<u8, Failure> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| cannot_listen(address, &error))?;
    let address = listener.local_addr()?;
    let mut asked = stop.clone();
    let stopped = async move { drop(asked.wait_for(|stop| *stop).await) };
    let Some(client) = session.connect_when_reachable(stopped).await? else {
        return Ok(0);
    };
    let code = LoginCode::generate()?;
    let login = login_address(address, &config, &code);
    render::print_stderr(format_args!("dashboard  {login}"));
    render::print_stderr(format_args!("token      {}", token_file.display()));
    render::print_stderr("stop       Ctrl-C");
    super::systemd::ready();
    // The runtime has one thread, so a request that blocks it keeps the watchdog from being fed.
    let mut watchdog = WatchdogTimer::new(super::systemd::watchdog());
    watchdog
        .while_waiting(web::serve(client, config, listener, code, stop))
        .await?;
    Ok(0)
}

/// The address that logs one browser in.
fn login_address(listen: SocketAddr, config: &WebConfig, code: &LoginCode) -> String {
    let base = config.base_path.as_str();
    format!("http://{listen}{base}/login?code={}", code.as_str())
}

/// A dashboard in a process with further tasks, such as `naq dev`.
pub(super) struct SideDashboard {
    /// The address that logs one browser in.
    pub(super) login: String,
    serving: JoinHandle<std::io::Result<()>>,
    stop: watch::Sender<bool>,
}

impl SideDashboard {
    /// Starts a dashboard on the default port, or on a free one if that is in use.
    ///
    /// # Errors
    /// Returns a [`Failure`] if the token cannot be read or stored, or if no port is free.
    pub(super) async fn start(session: &Session, client: Client) -> Result<SideDashboard, Failure> {
        let mut tokens = Tokens::default();
        add_local_token(&mut tokens, &local_token_file(session))?;
        let config = WebConfig {
            tokens,
            local_token: LOCAL_TOKEN.to_owned(),
            limits: RightLimits::default(),
            host_names: Vec::new(),
            base_path: BasePath::default(),
            proxies: Proxies::default(),
            frame_ancestors: Vec::new(),
            title: None,
            others: Vec::new(),
            index_bytes_max: INDEX_DEFAULT
                .parse::<IndexSize>()
                .ok()
                .and_then(|size| size.0),
        };
        let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT));
        let listener = match TcpListener::bind(usual).await {
            Ok(listener) => listener,
            Err(_) => {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let bound = TcpListener::bind(any).await;
                bound.map_err(|error| cannot_listen(any, &error))?
            }
        };
        let code = LoginCode::generate()?;
        let login = login_address(listener.local_addr()?, &config, &code);
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(web::serve(client, config, listener, code, stopped));
        Ok(SideDashboard {
            login,
            serving,
            stop,
        })
    }

    /// Stops the dashboard and its open streams.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(true);
        if let Ok(Err(error)) = self.serving.await {
            tracing::warn!("the dashboard ended: {error}");
        }
    }
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("cannot listen on {address}: {error}"));
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            failure.hint("choose another port with --port, or a free one with --port 0")
        }
        std::io::ErrorKind::PermissionDenied => {
            failure.hint("ports below 1024 require a privilege; choose another one with --port")
        }
        _ => failure,
    }
}

/// The file with the token for this user's programs.
fn local_token_file(session: &Session) -> PathBuf {
    session.settings().data_dir.join("dashboard.token")
}

/// Adds the token for this user's programs. The first start creates it.
fn add_local_token(tokens: &mut Tokens, path: &Path) -> Result<(), Failure> {
    let secret = match read_private(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = web::random_hex::<32>()?;
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| file_failure(folder, &error))?;
            }
            write_private_file(path, format!("{secret}\n").as_bytes())
                .map_err(|error| file_failure(path, &error))?;
            secret
        }
        Err(error) => return Err(file_failure(path, &error)),
    };
    let token = Token::new(LOCAL_TOKEN, Right::Submit, &secret);
    let added = token.and_then(|token| tokens.add(token));
    added.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Adds the tokens of a file: on each line a right, a name and a secret. Lines that begin with `#` are
/// comments.
fn add_tokens(tokens: &mut Tokens, path: &Path) -> Result<(), Failure> {
    let text = read_private(path).map_err(|error| file_failure(path, &error))?;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let added = parse_token(line).and_then(|token| tokens.add(token));
        added.map_err(|error| {
            Failure::usage(format!("{}, line {}: {error}", path.display(), at + 1))
        })?;
    }
    match tokens.is_empty() {
        true => Err(
            Failure::usage(format!("{} contains no token", path.display()))
                .hint("write a line such as: operate anna SECRET"),
        ),
        false => Ok(()),
    }
}

fn parse_token(line: &str) -> Result<Token, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [right, name, secret] => Token::new(name, right.parse()?, secret),
        // the line may contain a secret, so it is not quoted
        words => Err(format!(
            "a line needs a right, a name and a secret, but this one has {}",
            render::count(words.len() as u64, "word")
        )),
    }
}

fn file_failure(path: &Path, error: &std::io::Error) -> Failure {
    Failure::general(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_has_a_size_or_is_off() {
        for (text, expected) in [
            ("off", Some(None)),
            ("1M", Some(Some(1 << 20))),
            (INDEX_DEFAULT, Some(Some(1 << 30))),
            ("1K", None),
            ("much", None),
            ("", None),
        ] {
            let parsed = text.parse().ok().map(|IndexSize(size)| size);
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
