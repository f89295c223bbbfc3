//! The configuration file of nats-server.

use serde::{Deserialize, Serialize};

use super::data_dir::DataDir;

/// The preferred port of a managed server: NATS clients use it by default.
pub const DEFAULT_PORT: u16 = 4222;

/// The port of the server at 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    /// This port if it is free, else any free one.
    Preferred(u16),
    /// This port. If it is taken, the server does not start.
    Fixed(u16),
    /// Any free port.
    Free,
}

impl Default for Port {
    fn default() -> Port {
        Port::Preferred(DEFAULT_PORT)
    }
}

/// When JetStream forces its writes to the disk. Writes always survive the end of the server
/// process; the difference is power loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncInterval {
    /// Every second: a power loss can cost the writes of the last second.
    #[default]
    EverySecond,
    /// Before each acknowledgement: a power loss costs nothing, but every write waits for the disk.
    Always,
}

impl SyncInterval {
    fn text(self) -> &'static str {
        match self {
            SyncInterval::EverySecond => "\"1s\"",
            SyncInterval::Always => "always",
        }
    }
}

/// Limits of the server. `None` means nats-server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerLimits {
    /// Maximum size of JetStream's files, in bytes. The default is three quarters of the free disk
    /// space.
    pub max_file_store_bytes: Option<u64>,
    /// Maximum size of a message, in bytes. The default is 1 MiB.
    pub max_payload_bytes: Option<u64>,
}

/// How long a handshake may take, in seconds. nats-server's default of two is too short for a machine that
/// is busy with jobs. A connection on which nothing is sent delays the end of the server by as much.
const TLS_TIMEOUT_S: u32 = 5;

/// Who may connect to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Clients that have the key of the data folder. The server presents the certificate of the folder.
    #[default]
    Key,
    /// Clients that the further lines of the configuration admit, with TLS only if these say so.
    Configured,
}

/// The contents of the file.
pub(super) struct ConfigFile<'a> {
    pub(super) folder: &'a DataDir,
    pub(super) server_name: &'a str,
    pub(super) port: u16,
    /// The public key of the clients, whose server presents the certificate of the folder. `None` if
    /// `extra` says who may connect, and how.
    pub(super) client_key: Option<&'a str>,
    pub(super) sync: SyncInterval,
    pub(super) limits: &'a ServerLimits,
    /// Further lines in nats-server's syntax, appended unchanged.
    pub(super) extra: &'a str,
}

impl ConfigFile<'_> {
    /// The file's text.
    pub(super) fn render(&self) -> String {
        let ConfigFile {
            folder,
            server_name,
            port,
            client_key,
            sync,
            limits,
            extra,
        } = self;
        let store = quoted(&folder.store().to_string_lossy());
        let log = quoted(&folder.server_log().to_string_lossy());
        let server_name = quoted(server_name);
        // naq's clients insist on TLS. Others may do without: they sign the server's nonce and send no secret.
        // No `handshake_first`: with both ways open, the server would wait for a handshake for a fixed time
        // before it greets. Plain clients would lose that time, and a client of naq on a busy machine could
        // miss it.
        let authorization = client_key
            .map(|key| {
                format!(
                    "authorization {{\n  users: [{{ nkey: {key} }}]\n}}\n\
                     tls {{\n  cert_file: {certificate}\n  key_file: {certificate_key}\n  \
                     timeout: {TLS_TIMEOUT_S}\n}}\n\
                     allow_non_tls: true\n",
                    key = quoted(key),
                    certificate = quoted(&folder.certificate_file().to_string_lossy()),
                    certificate_key = quoted(&folder.certificate_key_file().to_string_lossy()),
                )
            })
            .unwrap_or_default();
        let sync = sync.text();
        let max_file_store = limits
            .max_file_store_bytes
            .map(|bytes| format!("  max_file_store: {bytes}\n"))
            .unwrap_or_default();
        let max_payload = limits
            .max_payload_bytes
            .map(|bytes| format!("max_payload: {bytes}\n"))
            .unwrap_or_default();
        // No cache of subscriptions by subject: each job has subjects of its own, so it never hits.
        format!(
            "# Written by naq at each start; changes are lost.\n\
             server_name: {server_name}\n\
             host: \"127.0.0.1\"\n\
             port: {port}\n\
             {authorization}jetstream {{\n  store_dir: {store}\n  sync_interval: {sync}\n{max_file_store}}}\n\
             log_file: {log}\n\
             logfile_size_limit: 10MB\n\
             logfile_max_num: 2\n\
             no_sublist_cache: true\n\
             {max_payload}{extra}\n"
        )
    }
}

/// A string in nats-server's configuration syntax.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\t', "\\t");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_text_cannot_escape_its_quotes() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
