//! Key pairs of NATS users. The server has the public key; the client proves that it has the seed.

use nkeys::KeyPair;

/// The text is not the seed of an NKey, or the key pair has no seed.
#[derive(Debug, thiserror::Error)]
#[error("not an NKey seed: {0}")]
pub struct InvalidSeed(String);

/// A key pair of a NATS user.
pub struct UserKey(KeyPair);

impl UserKey {
    /// Creates a random key pair.
    #[must_use]
    pub fn generate() -> UserKey {
        UserKey(KeyPair::new_user())
    }

    /// The key pair of a seed, as the file of the setting `nkey` contains it.
    ///
    /// # Errors
    /// Returns [`InvalidSeed`] if the text is no seed.
    pub fn from_seed(seed: &str) -> Result<UserKey, InvalidSeed> {
        let pair = KeyPair::from_seed(seed.trim());
        pair.map(UserKey)
            .map_err(|error| InvalidSeed(error.to_string()))
    }

    /// The public key, for the configuration of the server.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.0.public_key()
    }

    /// The seed, which is a secret.
    ///
    /// # Errors
    /// Returns [`InvalidSeed`] if the key pair has none.
    pub fn seed(&self) -> Result<String, InvalidSeed> {
        let seed = self.0.seed();
        seed.map_err(|error| InvalidSeed(error.to_string()))
    }
}

impl std::fmt::Debug for UserKey {
    /// Shows the public key and never the seed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UserKey").field(&self.public_key()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_public_key_and_stays_out_of_messages() {
        let key = UserKey::generate();
        let seed = key.seed().unwrap();
        assert!(key.public_key().starts_with('U') && seed.starts_with("SU"));
        let again = UserKey::from_seed(&format!("{seed}\n")).unwrap();
        assert_eq!(again.public_key(), key.public_key());
        assert!(!format!("{key:?}").contains(&seed));
        assert!(UserKey::from_seed("SUNONSENSE").is_err());
    }
}
