//! The options of a connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connect_failure::ConnectFailure;
use super::server_process::FindServerProcess;
use crate::error::{BrokerError, Cause};
use crate::file_read::read_file;

/// Maximum size of a file of credentials or certificates, in bytes. A bundle of CA certificates may
/// contain all that its organization has ever trusted.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The address of NATS and the credentials. At most one way of authentication is used.
#[derive(Clone)]
pub struct ConnectOptions {
    /// One or more server addresses, separated by commas. Empty by default: no address is used that
    /// nobody named.
    pub url: String,
    /// The prefix of all names; see [`Names`](crate::Names).
    pub prefix: String,
    /// Number of servers that keep a copy of the streams and buckets that this connection creates.
    /// `None` means as many as the cluster allows, up to three. Existing ones stay as they are.
    pub replicas: Option<usize>,
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
    /// Users, by name or id, who may run a server on this machine that this connects to without TLS,
    /// besides the user of this process and root.
    pub server_users: Vec<String>,
    /// Whether the server is the managed one of this user. It has to be the process that `own_process` finds, or to
    /// present the certificate that `tls_ca` names. Without `tls_ca`, it has to belong to the user of this process,
    /// and to nobody else, whatever `server_users` says.
    pub is_own_server: bool,
    /// The process of the managed server. If the kernel shows that a connection leads to it, the connection is used
    /// without TLS: what is sent does not leave the machine.
    pub own_process: Option<FindServerProcess>,
    /// Timeout for the first connection.
    pub connect_timeout: Duration,
    /// Whether to allow a remote NATS server that requires no credentials.
    pub allow_insecure: bool,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            url: String::new(),
            prefix: "naq".to_owned(),
            replicas: None,
            client_name: "naq".to_owned(),
            creds: None,
            nkey: None,
            user: None,
            token: None,
            tls_ca: None,
            tls_identity: None,
            inbox_prefix: None,
            jetstream_domain: None,
            server_users: vec!["nats".to_owned()],
            is_own_server: false,
            own_process: None,
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
    pub(crate) fn has_credentials(&self) -> bool {
        self.has_login() || self.tls_identity.is_some() || self.url.contains('@')
    }

    /// Whether one of `creds`, `nkey`, `user` and `token` is set: what a client presents in the NATS
    /// protocol, as opposed to a certificate or credentials within the address.
    #[must_use]
    pub fn has_login(&self) -> bool {
        self.creds.is_some() || self.nkey.is_some() || self.user.is_some() || self.token.is_some()
    }

    /// Reads a file that an option names, off the threads of the runtime: a file system may not answer.
    ///
    /// Its owner is not checked: a volume that is mounted into a container, or an administrator's file that
    /// a service's group may read, belongs to another user.
    pub(crate) async fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        if self.is_own_server {
            // The file that says where this server is was read before, from the same folder; and to start a
            // thread takes longer than a command takes to read the file.
            return Ok(read_file(path, FILE_BYTES_MAX)?.bytes);
        }
        let path = path.to_owned();
        let reading = tokio::task::spawn_blocking(move || read_file(&path, FILE_BYTES_MAX));
        match tokio::time::timeout(self.connect_timeout, reading).await {
            Ok(read) => Ok(read.map_err(io::Error::other)??.bytes),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its file system does not answer",
            )),
        }
    }

    /// The error of an option that cannot be used.
    pub(crate) fn invalid(&self, problem: String, source: Cause) -> BrokerError {
        BrokerError::Connect {
            url: without_credentials(&self.url),
            failure: ConnectFailure::Options,
            problem,
            source: Some(source),
        }
    }

    /// Whether TLS is required, whatever the scheme of an address: a CA or a certificate says that it is
    /// expected. Otherwise a server without TLS would get the rest of the credentials in clear and never
    /// see the certificate.
    pub(crate) fn requires_tls(&self) -> bool {
        self.tls_ca.is_some() || self.tls_identity.is_some()
    }

    /// The certificate that the managed server of this user has to present. `None` for any other server, and
    /// for a managed one without a certificate.
    pub(crate) fn own_certificate(&self) -> Option<&Path> {
        self.tls_ca.as_deref().filter(|_| self.is_own_server)
    }

    /// Whether every address is on this machine.
    pub(crate) fn is_local(&self) -> bool {
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

/// The URL for messages, without the credentials before the `@`.
pub(crate) fn without_credentials(url: &str) -> String {
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
