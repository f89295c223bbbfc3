//! Connects to NATS and watches the state of the connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ClientError, Event, ServerError};
use tokio::sync::watch;

use super::names::Names;
use super::{Broker, BrokerError, REQUEST_TIMEOUT};
use naq_core::ExponentialBackoff;

/// The address of NATS and the credentials. At most one way of authentication is used.
#[derive(Clone)]
pub struct ConnectOptions {
    /// One or more server addresses, separated by commas.
    pub url: String,
    /// The prefix of all names; see [`Names`].
    pub prefix: String,
    /// Number of servers that keep a copy of the streams and buckets that this connection creates.
    /// Existing ones stay as they are.
    pub replicas: usize,
    /// The client's name in the server's lists.
    pub client_name: String,
    /// Path of a credentials file with a JWT and a seed.
    pub creds: Option<PathBuf>,
    /// Path of a file with an NKey seed.
    pub nkey: Option<PathBuf>,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// An authentication token.
    pub token: Option<String>,
    /// Path of a file with the CA certificates to trust.
    pub tls_ca: Option<PathBuf>,
    /// Paths of the client certificate and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// Prefix of reply subjects, for accounts whose permissions require one. `None` means NATS'
    /// `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// The JetStream domain. `None` means the account's own.
    pub jetstream_domain: Option<String>,
    /// Timeout for the first connection.
    pub connect_timeout: Duration,
    /// Whether to allow a remote NATS server that requires no credentials.
    pub allow_insecure: bool,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            url: "nats://127.0.0.1:4222".to_owned(),
            prefix: "naq".to_owned(),
            replicas: 1,
            client_name: "naq".to_owned(),
            creds: None,
            nkey: None,
            user: None,
            token: None,
            tls_ca: None,
            tls_identity: None,
            inbox_prefix: None,
            jetstream_domain: None,
            connect_timeout: Duration::from_secs(5),
            allow_insecure: false,
        }
    }
}

impl From<&str> for ConnectOptions {
    /// The default options with this address: `nats://host:port`, or several, comma-separated.
    fn from(url: &str) -> ConnectOptions {
        ConnectOptions {
            url: url.to_owned(),
            ..ConnectOptions::default()
        }
    }
}

impl From<String> for ConnectOptions {
    fn from(url: String) -> ConnectOptions {
        ConnectOptions::from(url.as_str())
    }
}

impl From<&ConnectOptions> for ConnectOptions {
    fn from(options: &ConnectOptions) -> ConnectOptions {
        options.clone()
    }
}

impl std::fmt::Debug for ConnectOptions {
    /// Shows the address and never the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("url", &without_credentials(&self.url))
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl ConnectOptions {
    fn has_credentials(&self) -> bool {
        self.creds.is_some()
            || self.nkey.is_some()
            || self.user.is_some()
            || self.token.is_some()
            || self.tls_identity.is_some()
            || self.url.contains('@')
    }

    /// Whether every address is on this machine.
    fn is_local(&self) -> bool {
        self.url.split(',').all(|url| {
            url.trim()
                .parse::<async_nats::ServerAddr>()
                .is_ok_and(|address| {
                    let host = address.host();
                    host == "localhost"
                        || host
                            .trim_matches(['[', ']'])
                            .parse::<std::net::IpAddr>()
                            .is_ok_and(|ip| ip.is_loopback())
                })
        })
    }
}

/// The state of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether the connection is open now.
    pub connected: bool,
    /// Number of connections so far, plus the number of times that messages were dropped because
    /// they arrived faster than they were read. After a change, messages may have been lost.
    pub generation: u64,
    /// The last permission error that the server reported, in the server's words.
    pub denied: Option<String>,
    /// Number of times that the connection was lost without an error from the server.
    pub disconnects: u64,
}

/// A watch on the state of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionWatch(watch::Receiver<ConnectionState>);

impl ConnectionWatch {
    /// The current state.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.0.borrow().clone()
    }

    /// The current state, marked as seen: [`changed`](Self::changed) reports only later changes.
    pub fn mark_seen(&mut self) -> ConnectionState {
        self.0.borrow_and_update().clone()
    }

    /// Waits until the state differs from the last one seen through this watch. Cancel safe.
    pub async fn changed(&mut self) -> ConnectionState {
        if self.0.changed().await.is_err() {
            // the client is closed: the state never changes again
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

/// The URL for messages, without the credentials before the `@`.
fn without_credentials(url: &str) -> String {
    url.split(',')
        .map(|one| match (one.find("://"), one.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => {
                format!("{}{}", &one[..scheme + 3], &one[at + 1..])
            }
            _ => one.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

impl Broker {
    /// Connects, and checks that the server supports what naq needs.
    ///
    /// # Errors
    /// Returns [`BrokerError::Connect`] if no connection can be opened, and
    /// [`BrokerError::UnsupportedServer`] if the server is too old, has no JetStream, or is a
    /// remote server that requires no credentials.
    pub async fn connect(options: &ConnectOptions) -> Result<Broker, BrokerError> {
        if !options.has_credentials() && !options.is_local() {
            let url = without_credentials(&options.url);
            if !options.allow_insecure {
                return Err(BrokerError::UnsupportedServer(format!(
                    "{url} is another host and no credentials are given: whoever reaches that server can run commands on its workers; give --creds, --nkey, --user, --token or a client certificate, or say --allow-insecure"
                )));
            }
            tracing::warn!(%url, "connecting to NATS on another host without credentials");
        }
        Broker::open(options, ConnectionPurpose::General).await
    }

    /// Opens a second connection, for a watch on all events.
    pub(super) async fn open_observer(&self) -> Result<Broker, BrokerError> {
        Broker::open(&self.options, ConnectionPurpose::Observer).await
    }

    async fn open(
        options: &ConnectOptions,
        purpose: ConnectionPurpose,
    ) -> Result<Broker, BrokerError> {
        let url = without_credentials(&options.url);
        let names = Names::new(&options.prefix)
            .map_err(|error| BrokerError::UnsupportedServer(format!("prefix: {error}")))?;
        let (client, link) = open(options, purpose).await?;
        if !client.is_server_compatible(2, 12, 0) {
            return Err(BrokerError::UnsupportedServer(format!(
                "{url} runs nats-server {}; naq needs 2.12 or newer (2.14 or newer recommended)",
                client.server_info().version
            )));
        }
        let api_prefix = match &options.jetstream_domain {
            Some(domain) => format!("$JS.{domain}.API"),
            None => "$JS.API".to_owned(),
        };
        let jetstream = async_nats::jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .ack_timeout(REQUEST_TIMEOUT)
            .max_ack_inflight(8_192)
            .backpressure_on_inflight(true)
            .api_prefix(api_prefix.clone())
            .build(client.clone());
        Ok(Broker {
            client,
            jetstream,
            names: Arc::new(names),
            api_prefix: api_prefix.into(),
            link,
            options: Arc::new(options.clone()),
        })
    }
}

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPurpose {
    /// All requests, publishes and replies of a process.
    General,
    /// The deliveries of a worker. Messages that no client can parse arrive only on this
    /// connection, so that nothing else is lost with it.
    Deliveries,
    /// The events of all jobs. They may contain unparsable messages too.
    Observer,
}

/// Opens a connection.
pub(super) async fn open(
    options: &ConnectOptions,
    purpose: ConnectionPurpose,
) -> Result<(async_nats::Client, ConnectionWatch), BrokerError> {
    let url = without_credentials(&options.url);
    let failed = |problem: String| BrokerError::Connect {
        url: url.clone(),
        problem,
    };
    let addresses = options
        .url
        .split(',')
        .map(|one| {
            one.trim()
                .parse::<async_nats::ServerAddr>()
                .map_err(|error| failed(format!("{error}; write nats://host:port")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (state, link) = watch::channel(ConnectionState::default());
    let state = Arc::new(state);
    let mut connect = async_nats::ConnectOptions::new()
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
        .read_buffer_capacity(u16::MAX)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let state = Arc::clone(&state);
            async move { on_connection_event(&state, &event, purpose) }
        });
    if let Some(path) = &options.creds {
        connect = connect
            .credentials_file(path)
            .await
            .map_err(|error| failed(format!("credentials {}: {error}", path.display())))?;
    } else if let Some(path) = &options.nkey {
        let seed = tokio::fs::read_to_string(path)
            .await
            .map_err(|error| failed(format!("nkey {}: {error}", path.display())))?;
        connect = connect.nkey(seed.trim().to_owned());
    } else if let Some((user, password)) = &options.user {
        connect = connect.user_and_password(user.clone(), password.clone());
    } else if let Some(token) = &options.token {
        connect = connect.token(token.clone());
    }
    if let Some(prefix) = &options.inbox_prefix {
        connect = connect.custom_inbox_prefix(prefix);
    }
    if let Some(path) = &options.tls_ca {
        connect = connect.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &options.tls_identity {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    let client = connect
        .connect(addresses)
        .await
        .map_err(|error| failed(explain(&error)))?;
    let mut link = ConnectionWatch(link);
    // the first `Connected` event arrives a moment after the connection: wait for it here, or a
    // watch would take it for a reconnect
    drop(link.0.wait_for(|state| state.generation > 0).await);
    Ok((client, link))
}

/// How often the client pings the server. After three unanswered pings the client drops the
/// connection and tries another server of the cluster: well within `ack_wait`, so that a worker
/// whose server hangs keeps its jobs. (The client's default is a minute.)
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Pauses between attempts to open a connection.
pub(super) const RECONNECT_BACKOFF: ExponentialBackoff =
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

fn explain(error: &async_nats::ConnectError) -> String {
    use async_nats::ConnectErrorKind;
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "it refuses these credentials; check --creds, --nkey, --user or --token".to_owned()
        }
        ConnectErrorKind::TimedOut => {
            "no answer in time; check the address, or raise --connect-timeout".to_owned()
        }
        ConnectErrorKind::Tls => {
            format!("TLS failed ({error}); check --tls-ca, --tls-cert, --tls-key")
        }
        _ => format!(
            "{error}; is it running? `naq dev` starts a local one, --nats-url names another"
        ),
    }
}

fn on_connection_event(
    state: &watch::Sender<ConnectionState>,
    event: &Event,
    purpose: ConnectionPurpose,
) {
    match event {
        Event::Connected => {
            state.send_modify(|link| {
                link.connected = true;
                link.generation += 1;
            });
            tracing::debug!("connected to NATS");
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
        Event::ServerError(ServerError::Other(message))
            if message.to_lowercase().contains("permissions violation") =>
        {
            tracing::error!("NATS denies this user: {message}");
            state.send_modify(|link| link.denied = Some(message.clone()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_out_of_messages() {
        assert_eq!(
            without_credentials("nats://u:p@a:1,nats://b:2"),
            "nats://a:1,nats://b:2"
        );
        let options = ConnectOptions {
            url: "nats://user:hunter2@host".into(),
            token: Some("hunter2".into()),
            ..ConnectOptions::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn only_loopback_is_local() {
        for (url, local) in [
            ("nats://127.0.0.1:4222", true),
            ("localhost", true),
            ("nats://[::1]:4222", true),
            ("nats://10.0.0.1:4222", false),
            ("nats://127.0.0.1,nats://example.org", false),
        ] {
            let options = ConnectOptions {
                url: url.into(),
                ..ConnectOptions::default()
            };
            assert_eq!(options.is_local(), local, "{url}");
        }
    }
}
