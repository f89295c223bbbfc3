//! Which scripts this worker has prepared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Number of scripts that a worker remembers as prepared. Beyond it, all are forgotten; a preparation that
/// has nothing to do is quick.
const PREPARED_MAX: usize = 1_024;

/// Whether a script is prepared. It is locked while a job prepares it.
pub(super) type Prepared = Arc<tokio::sync::Mutex<bool>>;

/// The scripts that this worker has prepared, by runner and source text.
#[derive(Default)]
pub(super) struct PreparedScripts(Mutex<HashMap<[u8; 32], Prepared>>);

impl PreparedScripts {
    /// The script with this source text, for this runner.
    pub(super) fn entry(&self, runner: &str, source: &str) -> Prepared {
        let key = Sha256::new()
            .chain_update(runner)
            .chain_update([0])
            .chain_update(source)
            .finalize();
        let mut scripts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if scripts.len() >= PREPARED_MAX {
            scripts.clear();
        }
        Arc::clone(scripts.entry(key.into()).or_default())
    }
}
