//! Contexts of the `nats` program: the address of a server and its credentials, one JSON file per context in
//! `~/.config/nats/context/`. The format is that of the `natscontext` package of nats-io/jsm.go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::Warning;
use super::file_read::{self, Unreadable};
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

/// Why a context cannot be used.
pub(super) enum ContextError {
    /// Another user may have written the file.
    NotOwn(PathBuf, Unreadable),
    /// Anything else: a text for the user, which names the file.
    Other(String),
}

impl From<String> for ContextError {
    fn from(reason: String) -> ContextError {
        ContextError::Other(reason)
    }
}

/// Reads the file of a context, or the one that names the selected context.
fn read_file(path: PathBuf, context: &str, env: &ProcessEnv) -> Result<String, ContextError> {
    match file_read::read(&path, env.uid) {
        Ok(found) => Ok(found.text),
        Err(Unreadable::Io(error)) => {
            let path = path.display();
            Err(ContextError::Other(format!("{context}{path}: {error}")))
        }
        Err(reason) => Err(ContextError::NotOwn(path, reason)),
    }
}

/// Reads a context.
pub(super) fn read(name: &str, env: &ProcessEnv) -> Result<Context, ContextError> {
    let folder = env
        .xdg("XDG_CONFIG_HOME", ".config")
        .ok_or_else(|| "no home folder to search for it".to_owned())?
        .join("nats");
    let name = if name == SELECTED {
        let selected = read_file(folder.join("context.txt"), "no context is selected: ", env)?;
        selected.trim().to_owned()
    } else {
        name.to_owned()
    };
    // The name becomes a part of a path.
    if name.is_empty() || name.contains(['/', '\\', '\0']) || name.contains("..") {
        return Err(format!("{name:?} is not a valid name of a context").into());
    }
    let path = folder.join("context").join(format!("{name}.json"));
    let shown = path.display();
    let text = read_file(path.clone(), "", env)?;
    let content: Content =
        serde_json::from_str(&text).map_err(|error| format!("{shown}: {error}"))?;
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
