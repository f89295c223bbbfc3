//! How a client authenticates: read once from the options, and answered for each connection.

use std::sync::Arc;

use async_nats::Auth;
use nkeys::KeyPair;

use super::credentials;
use super::options::ConnectOptions;
use crate::error::BrokerError;
use crate::file_read::text_of_file;

/// What a client authenticates with.
pub(super) enum Login {
    /// Nothing.
    Anonymous,
    /// A token.
    Token(String),
    /// User name and password.
    User(String, String),
    /// An NKey, which signs the server's nonce.
    Nkey(KeyPair),
    /// The JWT of a user, and the key that signs the server's nonce.
    Credentials(String, KeyPair),
}

impl Login {
    /// The user, for people. A token is a secret, so its user has no name.
    pub(super) fn user_for_people(&self) -> String {
        let name = match self {
            Login::Anonymous | Login::Token(_) => None,
            Login::User(name, _) => Some(name.clone()),
            Login::Nkey(key) => Some(key.public_key()),
            Login::Credentials(jwt, key) => {
                Some(credentials::user_name(jwt).unwrap_or_else(|| key.public_key()))
            }
        };
        name.map_or_else(
            || "this user".to_owned(),
            |name| format!("the user `{}`", naq_protocol::escape(&name)),
        )
    }

    /// Reads what the options name.
    ///
    /// # Errors
    /// Returns [`BrokerError::Connect`] if a file cannot be read or contains no key.
    pub(super) async fn read(options: &ConnectOptions) -> Result<Login, BrokerError> {
        Ok(if let Some(path) = &options.creds {
            let problem = |problem: &dyn std::fmt::Display| {
                format!("credentials {}: {problem}", path.display())
            };
            let text = options
                .read_file(path)
                .await
                .and_then(text_of_file)
                .map_err(|error| options.invalid(problem(&error), Arc::new(error)))?;
            let (jwt, seed) = parse_credentials(&text).ok_or_else(|| {
                let reason = "it does not contain the JWT and the seed of a user";
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
                options.invalid(problem(&reason), Arc::new(error))
            })?;
            let key = KeyPair::from_seed(seed)
                .map_err(|error| options.invalid(problem(&error), Arc::new(error)))?;
            Login::Credentials(jwt.to_owned(), key)
        } else if let Some(path) = &options.nkey {
            let problem =
                |problem: &dyn std::fmt::Display| format!("nkey {}: {problem}", path.display());
            let seed = options
                .read_file(path)
                .await
                .and_then(text_of_file)
                .map_err(|error| options.invalid(problem(&error), Arc::new(error)))?;
            let key = KeyPair::from_seed(seed.trim())
                .map_err(|error| options.invalid(problem(&error), Arc::new(error)))?;
            Login::Nkey(key)
        } else if let Some((user, password)) = &options.user {
            Login::User(user.clone(), password.clone())
        } else if let Some(token) = &options.token {
            Login::Token(token.clone())
        } else {
            Login::Anonymous
        })
    }

    /// The answer to a server that has sent this nonce.
    ///
    /// # Errors
    /// Returns the error of the key if it cannot sign.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, nkeys::error::Error> {
        let mut auth = Auth::new();
        match self {
            Login::Anonymous => {}
            Login::Token(token) => auth.token = Some(token.clone()),
            Login::User(user, password) => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Login::Nkey(key) => {
                auth.nkey = Some(key.public_key());
                auth.signature = Some(key.sign(nonce)?);
            }
            Login::Credentials(jwt, key) => {
                auth.jwt = Some(jwt.clone());
                auth.signature = Some(key.sign(nonce)?);
            }
        }
        Ok(auth)
    }
}

/// The JWT and the seed of a credentials file: the first two lines that stand between two lines of
/// dashes.
fn parse_credentials(text: &str) -> Option<(&str, &str)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_border = |line: &str| line.starts_with("---");
    let mut values = lines.windows(3).filter_map(|three| {
        let [before, value, after] = three else {
            return None;
        };
        let is_value = !value.is_empty() && !is_border(value);
        (is_border(before) && is_value && is_border(after)).then_some(*value)
    });
    Some((values.next()?, values.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

    #[test]
    fn a_credentials_file_has_a_jwt_and_a_seed_between_lines_of_dashes() {
        let file = format!(
            "-----BEGIN NATS USER JWT-----\r\ne30.e30.c2ln\r\n------END NATS USER JWT------\r\n\r\n\
             ************************* IMPORTANT *************************\r\nNKEY Seed printed below.\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{SEED}\r\n------END USER NKEY SEED------\r\n"
        );
        assert_eq!(parse_credentials(&file), Some(("e30.e30.c2ln", SEED)));
        assert_eq!(parse_credentials("-----\none\n-----\n"), None);
        assert_eq!(parse_credentials(SEED), None);
    }

    #[test]
    fn a_key_signs_the_nonce_and_nothing_else_is_sent() {
        let key = KeyPair::from_seed(SEED).unwrap();
        let auth = Login::Nkey(key).answer(b"nonce").unwrap();
        let public = KeyPair::from_public_key(auth.nkey.as_deref().unwrap()).unwrap();
        public
            .verify(b"nonce", auth.signature.as_deref().unwrap())
            .unwrap();
        assert!(auth.token.is_none() && auth.password.is_none() && auth.jwt.is_none());
    }
}
