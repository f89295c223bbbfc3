//! Connects to NATS and watches the state of the connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::{AuthError, ClientError, Event, ServerError};
use tokio::sync::watch;

use super::connect_failure::{ConnectFailure, classify, is_login_timeout};
use super::credentials;
use super::denial::{Denial, Denials};
use super::dialled_server::DialledServer;
use super::login::Login;
use super::options::{ConnectOptions, without_credentials};
use super::probe;
use super::read_guard::ReadGuard;
use super::server_process::FindServerProcess;
use super::server_user::{Refusal, ServerUsers};
use super::state::{ConnectionState, ConnectionWatch};
use crate::broker::{Broker, REQUEST_TIMEOUT};
use crate::error::{BrokerError, Cause};
use crate::file_read::text_of_file;
use crate::names::Names;
use crate::request_timings::RequestTimings;
use naq_core::ExponentialBackoff;

impl Broker {
    /// Connects, and checks that the server supports what naq needs.
    ///
    /// # Errors
    /// Returns [`BrokerError::Connect`] if no connection can be opened,
    /// [`BrokerError::UnsupportedServer`] if the server is too old,
    /// [`BrokerError::InsecureServer`] if it is a remote server and no credentials are given, and
    /// [`BrokerError::InvalidPrefix`] if the prefix of names is invalid.
    pub async fn connect(options: &ConnectOptions) -> Result<Broker, BrokerError> {
        // before the check for a remote host, which needs a valid address
        parse_addresses(options)?;
        if !options.has_credentials() && !options.is_local() {
            let url = without_credentials(&options.url);
            if !options.allow_insecure {
                return Err(BrokerError::InsecureServer { url });
            }
            tracing::warn!(%url, "connecting to NATS on another host without credentials");
        }
        Broker::open(options, ConnectionPurpose::General).await
    }

    /// Opens a second connection, for a watch on all events.
    pub(crate) async fn open_observer(&self) -> Result<Broker, BrokerError> {
        Broker::open(&self.options, ConnectionPurpose::Observer).await
    }

    async fn open(
        options: &ConnectOptions,
        purpose: ConnectionPurpose,
    ) -> Result<Broker, BrokerError> {
        let url = without_credentials(&options.url);
        let names = Names::new(&options.prefix).map_err(BrokerError::InvalidPrefix)?;
        let (client, link) = open(options, purpose).await?;
        if !client.is_server_compatible(2, 12, 0) {
            return Err(BrokerError::UnsupportedServer(format!(
                "{url} runs nats-server {}; naq needs 2.12 or newer (2.14 or newer recommended)",
                client.server_info().version
            )));
        }
        let api_prefix = jetstream_api_prefix(options.jetstream_domain.as_deref());
        let jetstream = async_nats::jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .max_ack_inflight(8_192)
            .backpressure_on_inflight(true)
            .api_prefix(api_prefix.clone())
            .build(client.clone());
        Ok(Broker {
            timings: RequestTimings::default(),
            client,
            jetstream,
            names: Arc::new(names),
            api_prefix: api_prefix.into(),
            link,
            layout: Arc::default(),
            options: Arc::new(options.clone()),
            slot_queues: Arc::default(),
        })
    }
}

/// What the subjects of the JetStream API begin with, in this domain. `None` is the server's own.
pub(crate) fn jetstream_api_prefix(domain: Option<&str>) -> String {
    match domain {
        Some(domain) => format!("$JS.{domain}.API"),
        None => "$JS.API".to_owned(),
    }
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionPurpose {
    /// All requests, publishes and replies of a process.
    General,
    /// The deliveries of a worker. Messages that no client can parse arrive only on this
    /// connection, so that nothing else is lost with it.
    Deliveries,
    /// The events of all jobs. They may contain unparsable messages too.
    Observer,
}

/// What a server has to prove before a client logs in to it.
#[derive(Clone)]
enum Proof {
    /// That it has the key of a trusted certificate. Whether one is required depends on the options and the address.
    Certificate { is_required: bool },
    /// That it is the process which runs the managed server, or else that it has the key of its certificate.
    Process(FindServerProcess),
}

impl Proof {
    /// Whether only TLS will do.
    fn requires_tls(&self) -> bool {
        matches!(self, Proof::Certificate { is_required: true })
    }
}

/// Opens a connection.
pub(crate) async fn open(
    options: &ConnectOptions,
    purpose: ConnectionPurpose,
) -> Result<(async_nats::Client, ConnectionWatch), BrokerError> {
    check_tls_files(options).await?;
    if let Some(process) = &options.own_process
        && options.requires_tls()
        && process.is_visible()
    {
        match open_with(options, purpose, Proof::Process(process.clone())).await {
            // It may be the server all the same.
            Err(BrokerError::Connect {
                failure: ConnectFailure::NotOwnServer,
                ..
            }) => {}
            opened => return opened,
        }
    }
    let is_required = options.requires_tls();
    open_with(options, purpose, Proof::Certificate { is_required }).await
}

async fn open_with(
    options: &ConnectOptions,
    purpose: ConnectionPurpose,
    proof: Proof,
) -> Result<(async_nats::Client, ConnectionWatch), BrokerError> {
    let addresses = match &proof {
        Proof::Certificate { .. } => parse_addresses(options)?,
        Proof::Process(_) => with_and_without_tls(options)?,
    };
    let (state, link) = watch::channel(ConnectionState::default());
    let (denials, denied) = watch::channel(Denials::default());
    let (state, denials) = (Arc::new(state), Arc::new(denials));
    let inbox_prefix = options.inbox_prefix.clone();
    let inbox_prefix = Arc::new(inbox_prefix.unwrap_or_else(|| "_INBOX".to_owned()));
    let login = Arc::new(Login::read(options).await?);
    let user: Arc<str> = login.user_for_people().into();
    let prefers_plain = matches!(proof, Proof::Process(_));
    let dialled = Arc::new(DialledServer::new(addresses.clone(), prefers_plain));
    let users = Arc::new(ServerUsers::new(options));
    let requires_tls = proof.requires_tls();
    let (dialled_first, users_checked) = (Arc::clone(&dialled), Arc::clone(&users));
    let connect = async_nats::ConnectOptions::with_auth_callback(move |nonce| {
        let login = Arc::clone(&login);
        let (dialled, users) = (Arc::clone(&dialled_first), Arc::clone(&users_checked));
        let proof = proof.clone();
        async move {
            check_server(&dialled, users, &proof).await?;
            login.answer(&nonce).map_err(AuthError::new)
        }
    })
    .reconnect_to_server_callback(move |known, last| {
        let dialled = Arc::clone(&dialled);
        async move { dialled.choose(known, &last) }
    })
    .name(&options.client_name)
    .connection_timeout(options.connect_timeout)
    .request_timeout(Some(REQUEST_TIMEOUT))
    .ping_interval(PING_INTERVAL)
    // events contain whole envelopes, which may be large
    .subscription_capacity(match purpose {
        ConnectionPurpose::Observer => 2_048,
        _ => 16_384,
    })
    .client_capacity(4_096)
    .read_buffer_capacity(READ_BUFFER_BYTES)
    .reconnect_delay_callback(reconnect_delay)
    .event_callback(move |event| {
        let (state, denials) = (Arc::clone(&state), Arc::clone(&denials));
        let (inbox_prefix, user) = (Arc::clone(&inbox_prefix), Arc::clone(&user));
        async move {
            on_denial_event(&denials, &event, &inbox_prefix, &user);
            on_connection_event(&state, &event, purpose);
        }
    });
    let connect = with_options(connect, options, requires_tls);
    let client = match connect_until_logged_in(connect, options, addresses).await {
        Ok(client) => client,
        Err(error) => return Err(from_connect(options, users.refusal(), error).await),
    };
    let mut link = ConnectionWatch::new(link, denied, ReadGuard::of(client.clone()));
    // the first `Connected` event arrives a moment after the connection: wait for it here, or a
    // watch would take it for a reconnect
    link.first_connection().await;
    Ok((client, link))
}

/// Connects, and tries again if the server ended the login because it took too long: a busy machine may
/// run neither of the two in time. Ends when the timeout of the first connection has passed.
async fn connect_until_logged_in(
    connect: async_nats::ConnectOptions,
    options: &ConnectOptions,
    addresses: Vec<async_nats::ServerAddr>,
) -> Result<async_nats::Client, async_nats::ConnectError> {
    let deadline = tokio::time::Instant::now() + options.connect_timeout;
    let mut connected = connect.clone().connect(addresses.clone()).await;
    let mut failures = 0;
    while connected.as_ref().is_err_and(is_login_timeout) {
        failures += 1;
        let pause = RECONNECT_BACKOFF.pause(failures, rand::random());
        let again = async {
            tokio::time::sleep(pause).await;
            connect.clone().connect(addresses.clone()).await
        };
        match tokio::time::timeout_at(deadline, again).await {
            Ok(next) => connected = next,
            Err(_) => break,
        }
    }
    connected
}

/// Parses the addresses of the servers.
fn parse_addresses(options: &ConnectOptions) -> Result<Vec<async_nats::ServerAddr>, BrokerError> {
    let addresses = options.url.split(',');
    addresses
        .map(|one| parse_address(options, one.trim()))
        .collect()
}

/// Parses the address of one server.
fn parse_address(
    options: &ConnectOptions,
    address: &str,
) -> Result<async_nats::ServerAddr, BrokerError> {
    let parsed = address.parse::<async_nats::ServerAddr>();
    let scheme = address.split_once("://").map(|(scheme, _)| scheme);
    let problem = match (&parsed, scheme) {
        (_, None) if address.is_empty() => "no address is given; write nats://host:port".to_owned(),
        // the client would speak plain NATS to the WebSocket port
        (_, Some("ws" | "wss")) => {
            "naq does not speak WebSocket; write nats://host:port".to_owned()
        }
        (Ok(_), _) => return parsed.map_err(BrokerError::connection_lost),
        (Err(_), Some(scheme)) if !matches!(scheme, "nats" | "tls") => {
            format!(
                "{scheme}:// is not a scheme of NATS; write nats://host:port or tls://host:port"
            )
        }
        (Err(error), _) => format!("{error}; write nats://host:port"),
    };
    Err(BrokerError::Connect {
        url: without_credentials(&options.url),
        failure: ConnectFailure::Options,
        problem,
        source: parsed.err().map(|error| Arc::new(error) as Cause),
    })
}

/// Reads the files of certificates, which the client reads only during the handshake and then reports
/// as if the server were wrong.
async fn check_tls_files(options: &ConnectOptions) -> Result<(), BrokerError> {
    let identity = options.tls_identity.as_ref();
    for (what, path) in [
        ("CA certificates", options.tls_ca.as_ref()),
        ("client certificate", identity.map(|(path, _)| path)),
        ("private key", identity.map(|(_, path)| path)),
    ] {
        let Some(path) = path else { continue };
        if let Err(error) = options.read_file(path).await {
            let problem = format!("{what} {}: {error}", path.display());
            return Err(match options.own_certificate() {
                Some(_) => BrokerError::Connect {
                    url: without_credentials(&options.url),
                    failure: ConnectFailure::OwnCertificate,
                    problem: format!(
                        "the certificate of the managed server, {}: {error}",
                        path.display()
                    ),
                    source: Some(Arc::new(error)),
                },
                None => options.invalid(problem, Arc::new(error)),
            });
        }
    }
    Ok(())
}

/// The addresses of the managed server: first without TLS, then with it.
fn with_and_without_tls(
    options: &ConnectOptions,
) -> Result<Vec<async_nats::ServerAddr>, BrokerError> {
    let mut addresses = Vec::new();
    for plain in parse_addresses(options)? {
        let with_tls = format!("tls://{}:{}", plain.host(), plain.port());
        let with_tls = parse_address(options, &with_tls)?;
        addresses.extend([plain, with_tls]);
    }
    Ok(addresses)
}

/// Checks who runs the server that has just greeted, unless the connection is inside TLS: a certificate proves
/// more, also where the kernel does not show users. This is the last moment before the client sends anything.
async fn check_server(
    dialled: &DialledServer,
    users: Arc<ServerUsers>,
    proof: &Proof,
) -> Result<(), AuthError> {
    let mut servers = dialled.candidates();
    servers.retain(|server| !proof.requires_tls() && !server.tls_required());
    if servers.is_empty() {
        return Ok(());
    }
    if let Proof::Process(process) = proof {
        return users
            .check_process(&servers, process)
            .map_err(AuthError::new);
    }
    // Without a name to resolve, only tables of the kernel are read, which does not take as long as to start a
    // thread.
    if servers.iter().all(has_literal_address) {
        return users.check(&servers).map_err(AuthError::new);
    }
    let checking = tokio::task::spawn_blocking(move || users.check(&servers));
    match checking.await {
        Ok(checked) => checked.map_err(AuthError::new),
        Err(error) => Err(AuthError::new(error)),
    }
}

/// Whether the host of a server is an address rather than a name.
fn has_literal_address(server: &async_nats::ServerAddr) -> bool {
    let host = server.host().trim_matches(['[', ']']);
    host.parse::<std::net::IpAddr>().is_ok()
}

/// Adds the certificates and the prefix of reply subjects.
fn with_options(
    mut connect: async_nats::ConnectOptions,
    options: &ConnectOptions,
    requires_tls: bool,
) -> async_nats::ConnectOptions {
    if let Some(prefix) = &options.inbox_prefix {
        connect = connect.custom_inbox_prefix(prefix);
    }
    if requires_tls {
        connect = connect.require_tls(true);
    }
    if let Some(path) = &options.tls_ca {
        connect = connect.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &options.tls_identity {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    connect
}

/// The target of the log lines about what the server denies. A program that makes one request and
/// reports its error can turn them off.
pub const DENIALS_LOG_TARGET: &str = "naq_jetstream::denials";

/// Space for what the server sends, in bytes. A larger message gets more; with more from the start, each message lies in
/// memory that the processor has not in its cache.
const READ_BUFFER_BYTES: u16 = 4 << 10;

/// How often the client pings the server. After three unanswered pings the client drops the
/// connection and tries another server of the cluster: well within `ack_wait`, so that a worker
/// whose server hangs keeps its jobs. (The client's default is a minute.)
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Pauses between attempts to open a connection.
pub(crate) const RECONNECT_BACKOFF: ExponentialBackoff =
    ExponentialBackoff::new(Duration::from_millis(40), Duration::from_secs(2));

/// No delay before the first attempt, which is also the very first connection; then short delays,
/// since most outages are restarts; at most two seconds. The delays are random, so that clients do
/// not reconnect in step.
fn reconnect_delay(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    let failures = u32::try_from(attempts).unwrap_or(u32::MAX);
    RECONNECT_BACKOFF.pause(failures, rand::random())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a connection is an edge, and the time only explains why the server refused it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

async fn from_connect(
    options: &ConnectOptions,
    refusal: Option<Refusal>,
    error: async_nats::ConnectError,
) -> BrokerError {
    let (mut failure, mut problem) = classify(&error, options.has_credentials());
    if let Some(refusal) = refusal {
        (failure, problem) = (refusal.failure(), refusal.to_string());
    }
    if failure.is_tls()
        && let Some(certificate) = options.own_certificate()
    {
        problem = format!(
            "it does not prove by the certificate {} that it is this user's managed server: {problem}",
            certificate.display()
        );
        failure = ConnectFailure::NotOwnServer;
    }
    // an HTTP server waits for a request, and some close the connection before this one gives up
    if !options.is_own_server
        && matches!(
            failure,
            ConnectFailure::TimedOut | ConnectFailure::Unreachable
        )
        && let Some((found, text)) = probe::explain_silence(&options.url).await
    {
        (failure, problem) = (found, text);
    }
    // the server reports expired credentials as refused ones
    if failure == ConnectFailure::CredentialsRefused
        && let Some(path) = &options.creds
        && let Ok(text) = options.read_file(path).await.and_then(text_of_file)
        && let Some(expired) = credentials::expired_at(&text, now())
    {
        failure = ConnectFailure::CredentialsExpired;
        problem = format!("the credentials {} expired at {expired}", path.display());
    }
    BrokerError::Connect {
        url: without_credentials(&options.url),
        failure,
        problem,
        source: Some(Arc::new(error)),
    }
}

/// Remembers and logs what the server denies the user.
fn on_denial_event(
    denials: &watch::Sender<Denials>,
    event: &Event,
    inbox_prefix: &str,
    user: &Arc<str>,
) {
    match event {
        Event::Connected => denials.send_modify(Denials::reconnected),
        Event::ServerError(ServerError::Other(message)) => {
            if let Some(denial) = Denial::parse(message, user) {
                tracing::error!(target: DENIALS_LOG_TARGET, "NATS denies {denial}");
                denials.send_modify(|denials| denials.add(denial, inbox_prefix));
            }
        }
        _ => {}
    }
}

fn on_connection_event(
    state: &watch::Sender<ConnectionState>,
    event: &Event,
    purpose: ConnectionPurpose,
) {
    match event {
        Event::Connected => {
            let is_first = state.borrow().generation == 0;
            state.send_modify(|link| {
                link.connected = true;
                link.connected_at = Some(tokio::time::Instant::now());
                link.generation += 1;
                link.connections += 1;
            });
            if !is_first && purpose == ConnectionPurpose::General {
                tracing::info!("connected to NATS again");
            } else {
                tracing::debug!("connected to NATS");
            }
        }
        Event::Disconnected => {
            let was_connected = state.borrow().connected;
            state.send_modify(|link| {
                link.connected = false;
                link.disconnects += 1;
            });
            if was_connected && purpose == ConnectionPurpose::General {
                tracing::warn!("the connection to NATS is lost; reconnecting");
            }
        }
        Event::ServerError(ServerError::Other(message)) if Denial::is_one(message) => {}
        Event::ServerError(error) => tracing::warn!("NATS: {error}"),
        Event::ClientError(ClientError::Other(message)) => tracing::debug!("NATS: {message}"),
        Event::SlowConsumer(_) => {
            tracing::debug!("messages from NATS come faster than they are read; some are dropped");
            // a watch has to resync, as after a lost connection: no later message may arrive that
            // would show the gap
            if purpose != ConnectionPurpose::Deliveries {
                state.send_modify(|link| link.generation += 1);
            }
        }
        other => tracing::debug!("NATS: {other}"),
    }
}
