//! Contexts of the `nats` program: the address of a server and its credentials, one JSON file per context in
//! `~/.config/nats/context/`. The format is that of the `natscontext` package of nats-io/jsm.go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::Warning;
use super::file_read;
use super::process_env::ProcessEnv;
use super::settings_table::Setting;
use super::value::{self, Value};

/// The name that refers to the selected context (`nats context select`).
const SELECTED: &str = "@selected";

/// The values of a context, by the name of the setting.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<&'static str, Value>,
    pub(super) warnings: Vec<Warning>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
    jetstream_domain: String,
    // These fields change how to connect, but naq does not support them.
    nsc: String,
    user_jwt: String,
    user_seed: String,
    socks_proxy: String,
    jetstream_api_prefix: String,
}

/// Reads a context. The error is a text for the user and names the file.
pub(super) fn read(name: &str, env: &ProcessEnv) -> Result<Context, String> {
    let folder = env
        .xdg("XDG_CONFIG_HOME", ".config")
        .ok_or("no home folder to search for it")?
        .join("nats");
    let name = if name == SELECTED {
        let path = folder.join("context.txt");
        let found = file_read::read(&path, env.uid)
            .map_err(|error| format!("no context is selected: {}: {error}", path.display()))?;
        found.text.trim().to_owned()
    } else {
        name.to_owned()
    };
    // The name becomes a part of a path.
    if name.is_empty() || name.contains(['/', '\\', '\0']) || name.contains("..") {
        return Err(format!("{name:?} is not a valid name of a context"));
    }
    let path = folder.join("context").join(format!("{name}.json"));
    let shown = path.display();
    let found = file_read::read(&path, env.uid).map_err(|error| format!("{shown}: {error}"))?;
    let content: Content =
        serde_json::from_str(&found.text).map_err(|error| format!("{shown}: {error}"))?;
    let fields = [
        ("nats_url", &content.url),
        ("token", &content.token),
        ("user", &content.user),
        ("password", &content.password),
        ("creds", &content.creds),
        ("nkey", &content.nkey),
        ("tls_cert", &content.cert),
        ("tls_key", &content.key),
        ("tls_ca", &content.ca),
        ("inbox_prefix", &content.inbox_prefix),
        ("jetstream_domain", &content.jetstream_domain),
    ];
    let mut values = BTreeMap::new();
    for (name, text) in fields {
        if let Some(setting) = Setting::by_name(name).filter(|_| !text.is_empty()) {
            let value = value::from_text(setting, &[text.as_str()], env)
                .map_err(|reason| format!("{shown}: {name}: {reason}"))?;
            values.insert(setting.name, value);
        }
    }
    let unused = [
        ("nsc", &content.nsc),
        ("user_jwt", &content.user_jwt),
        ("user_seed", &content.user_seed),
        ("socks_proxy", &content.socks_proxy),
        ("jetstream_api_prefix", &content.jetstream_api_prefix),
    ];
    let warnings = unused
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(field, _)| Warning::UnusedContextField {
            path: path.clone(),
            field,
        })
        .collect();
    Ok(Context {
        name,
        path,
        values,
        warnings,
    })
}
