//! Which server to connect to.
//!
//! A server names others of its cluster in its greeting, and the client adds them to its list before it
//! knows whether it may trust that greeting. So a client reconnects only to the servers that were
//! configured, and to those that the last server it has logged in to has named.

use std::sync::{Mutex, PoisonError};

use async_nats::{ReconnectToServer, Server, ServerAddr, ServerInfo};
use rand::seq::SliceRandom;

/// The server that a connection is made with, or was made with last.
pub(super) struct DialledServer {
    configured: Vec<ServerAddr>,
    /// Whether an address without TLS comes before the others that have failed as often.
    prefers_plain: bool,
    /// `None` during the first connection, which tries all configured servers.
    chosen: Mutex<Option<ServerAddr>>,
}

impl DialledServer {
    pub(super) fn new(configured: Vec<ServerAddr>, prefers_plain: bool) -> DialledServer {
        DialledServer {
            configured,
            prefers_plain,
            chosen: Mutex::new(None),
        }
    }

    /// The servers one of which has just greeted.
    pub(super) fn candidates(&self) -> Vec<ServerAddr> {
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*chosen {
            Some(chosen) => vec![chosen.clone()],
            None => self.configured.clone(),
        }
    }

    /// Chooses the server of the next attempt: any of those with the fewest failures in a row. `None`
    /// lets the client try one after another for the first connection, when it has only the configured servers.
    /// If there is only one, this chooses it, because the client's own choice waits for a timer, of a millisecond.
    pub(super) fn choose(
        &self,
        mut known: Vec<Server>,
        last: &ServerInfo,
    ) -> Option<ReconnectToServer> {
        let is_first = !known.iter().any(|server| server.did_connect);
        if is_first && known.len() > 1 && !self.prefers_plain {
            return None;
        }
        let named: Vec<ServerAddr> = last
            .connect_urls
            .iter()
            .filter_map(|url| url.parse().ok())
            .collect();
        known.retain(|server| !server.is_discovered || named.contains(&server.addr));
        known.shuffle(&mut rand::rng());
        let server = known.into_iter().min_by_key(|server| {
            let comes_later = self.prefers_plain && server.addr.tls_required();
            (server.failed_attempts, comes_later)
        })?;
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.addr.clone());
        Some(ReconnectToServer {
            addr: server.addr,
            delay: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, is_discovered: bool, failed_attempts: usize) -> Server {
        Server {
            addr: address.parse().unwrap(),
            failed_attempts,
            did_connect: !is_discovered,
            is_discovered,
            last_error: None,
        }
    }

    fn info(connect_urls: &[&str]) -> ServerInfo {
        ServerInfo {
            connect_urls: connect_urls.iter().map(|&url| url.to_owned()).collect(),
            ..ServerInfo::default()
        }
    }

    #[test]
    fn a_client_reconnects_to_no_server_that_only_an_unverified_greeting_has_named() {
        let dialled = DialledServer::new(vec!["127.0.0.1:1".parse().unwrap()], false);
        // the configured server has failed often, the others never
        let known = || {
            vec![
                server("127.0.0.1:1", false, 9),
                server("127.0.0.1:2", true, 0),
                server("127.0.0.1:3", true, 1),
            ]
        };
        let chosen = |urls: &[&str]| {
            let chosen = dialled.choose(known(), &info(urls)).unwrap();
            assert_eq!(dialled.candidates(), std::slice::from_ref(&chosen.addr));
            chosen.addr.port()
        };
        assert_eq!(chosen(&[]), 1);
        assert_eq!(chosen(&["127.0.0.1:3"]), 3);
        assert_eq!(chosen(&["127.0.0.1:2", "127.0.0.1:3"]), 2);
    }

    #[test]
    fn the_managed_server_is_tried_without_tls_first_and_then_with_it() {
        let configured: Vec<ServerAddr> = ["nats://127.0.0.1:1", "tls://127.0.0.1:1"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let dialled = DialledServer::new(configured, true);
        let uses_tls = |plain_failures: usize, tls_failures: usize| {
            let known = vec![
                server("nats://127.0.0.1:1", false, plain_failures),
                server("tls://127.0.0.1:1", false, tls_failures),
            ];
            dialled
                .choose(known, &info(&[]))
                .unwrap()
                .addr
                .tls_required()
        };
        assert!(!uses_tls(0, 0));
        assert!(uses_tls(1, 0));
        assert!(!uses_tls(1, 1));
    }

    #[test]
    fn the_first_connection_may_be_to_any_configured_server() {
        let configured: Vec<ServerAddr> = vec!["a:1".parse().unwrap(), "b:1".parse().unwrap()];
        let dialled = DialledServer::new(configured.clone(), false);
        let mut known = vec![server("a:1", false, 0), server("b:1", false, 0)];
        known
            .iter_mut()
            .for_each(|server| server.did_connect = false);
        assert!(dialled.choose(known.clone(), &info(&[])).is_none());
        assert_eq!(dialled.candidates(), configured);
        let dialled = DialledServer::new(configured[..1].to_vec(), false);
        known.truncate(1);
        let only = dialled.choose(known, &info(&[])).unwrap();
        assert_eq!(only.addr, configured[0]);
    }
}
