//! Connecting as the `naq` command does: settings first, then a running local server.

use std::path::{Path, PathBuf};

use super::server_state::ServerState;
use super::{Client, ClientError, ConnectOptions, server_state};
use crate::config::{self, Flags, ProcessEnv, Resolved, Settings};

impl Client {
    /// Connects as the `naq` command without flags does.
    ///
    /// The address and the credentials come from `NAQ_*` variables, from `naq.toml` and from the
    /// NATS context that either names. If no setting is about NATS, this connects to the managed
    /// local server, which has to run. It never starts a server, and never uses an address that
    /// nobody configured: any user of the machine may listen at the default port of NATS.
    ///
    /// ```no_run
    /// # use naq_client::{Client, ClientError};
    /// # async fn example() -> Result<(), ClientError> {
    /// let client = Client::from_env().await?;
    /// println!("{} queues", client.list_queues().await?.len());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ClientError::Config`] if a setting is invalid, [`ClientError::EarlierServer`] if an
    /// earlier version of naq has started the managed local server, [`ClientError::NoServer`] if no
    /// setting is about NATS and no managed local server runs, [`ClientError::AddressMissing`] if
    /// settings are about NATS and none is its address, and otherwise the errors of
    /// [`Client::connect`].
    pub async fn from_env() -> Result<Client, ClientError> {
        let resolved = config::load(&ProcessEnv::read(), &Flags::default())?;
        Client::from_settings(&resolved).await
    }

    /// Connects as [`Client::from_env`] does, by settings that the caller has resolved.
    ///
    /// # Errors
    /// As [`Client::from_env`].
    pub async fn from_settings(resolved: &Resolved) -> Result<Client, ClientError> {
        let settings = &resolved.settings;
        let options = if resolved.nats_configured {
            if resolved.is_address_missing() {
                return Err(ClientError::AddressMissing);
            }
            ConnectOptions::from(settings)
        } else {
            let data_dir = managed_server_dir(settings);
            let state = server_state::running(&data_dir).ok_or(ClientError::NoServer)?;
            if state.nkey_file.as_os_str().is_empty() {
                return Err(ClientError::EarlierServer);
            }
            settings.managed_server_options(&data_dir, &state)
        };
        Ok(Client::connect(options).await?.with_settings(settings))
    }

    /// Takes over the settings that are about jobs rather than about the connection: `ack_wait` and
    /// `default_result_ttl`.
    #[must_use]
    pub fn with_settings(self, settings: &Settings) -> Client {
        self.with_ack_wait(settings.ack_wait)
            .with_result_ttl(settings.default_result_ttl)
    }
}

/// Returns the data folder of the managed local server.
#[must_use]
pub fn managed_server_dir(settings: &Settings) -> PathBuf {
    settings.data_dir.join("server")
}

impl Settings {
    /// Returns how to connect to the managed local server of this data folder: with the key of its clients, without any
    /// other credentials, and with one replica, since it is a single server. The server has to be the process that
    /// the data folder names, or to present the certificate of that folder. One that an earlier version of naq has
    /// started has no certificate; it has to belong to this user.
    #[must_use]
    pub fn managed_server_options(&self, data_dir: &Path, server: &ServerState) -> ConnectOptions {
        ConnectOptions {
            url: server.url.clone(),
            nkey: Some(server.nkey_file.clone()),
            token: None,
            user: None,
            creds: None,
            tls_ca: server.certificate_file.clone(),
            tls_identity: None,
            replicas: Some(1),
            is_own_server: true,
            own_process: Some(server_state::find_process(data_dir)),
            ..ConnectOptions::from(self)
        }
    }
}

impl From<&Settings> for ConnectOptions {
    /// The options for the configured address. Without one, the address is empty and no connection
    /// can be made.
    fn from(settings: &Settings) -> ConnectOptions {
        ConnectOptions {
            url: settings.nats_url.clone().unwrap_or_default(),
            prefix: settings.prefix.clone(),
            replicas: settings.replicas,
            client_name: "naq".to_owned(),
            creds: settings.creds.clone(),
            nkey: settings.nkey.clone(),
            user: settings.user.clone().map(|user| {
                let password = settings
                    .password
                    .as_ref()
                    .map(|password| password.expose().to_owned());
                (user, password.unwrap_or_default())
            }),
            token: settings
                .token
                .as_ref()
                .map(|token| token.expose().to_owned()),
            tls_ca: settings.tls_ca.clone(),
            tls_identity: settings.tls_cert.clone().zip(settings.tls_key.clone()),
            inbox_prefix: settings.inbox_prefix.clone(),
            jetstream_domain: settings.jetstream_domain.clone(),
            server_users: settings.server_users.clone(),
            is_own_server: false,
            own_process: None,
            connect_timeout: settings.connect_timeout,
            allow_insecure: settings.allow_insecure,
        }
    }
}
