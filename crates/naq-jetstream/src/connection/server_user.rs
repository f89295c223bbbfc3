//! Who runs a server on this machine.
//!
//! Any user may listen at a free port of the machine, and a greeting proves nothing: a server sends it
//! to everybody. What cannot be forged is the user of the socket at the other end of a connection, which
//! the kernel lists. It is looked up when the server has greeted, so it has accepted the connection, and
//! before anything is sent to it. TLS proves more, so nothing is looked up where TLS is required.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use async_nats::ServerAddr;

use super::connect_failure::ConnectFailure;
use super::connection_ends::other_ends;
use super::options::ConnectOptions;
use super::server_process::FindServerProcess;
use super::socket_table::ConnectionEnd;
use crate::user_database::accounts;

/// Whether this process has warned that it cannot see who runs a server.
static WARNED: AtomicBool = AtomicBool::new(false);

/// The users who may run a server on this machine.
pub(super) struct ServerUsers {
    /// Names or ids of those besides this process's user and root.
    named: Vec<String>,
    /// Whether only this process's user may, and the kernel has to show it.
    is_own: bool,
    /// The last server that was refused, until one is accepted.
    refusal: Mutex<Option<Refusal>>,
    /// Whether a server was accepted before.
    was_accepted: AtomicBool,
}

/// A server that may not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its user may not run one.
    User {
        address: SocketAddr,
        /// `None` if the kernel does not show it.
        uid: Option<u32>,
        is_own: bool,
    },
    /// The kernel does not show that it is the process of the managed server.
    Process,
}

impl Refusal {
    pub(super) fn failure(&self) -> ConnectFailure {
        match self {
            Refusal::User { is_own: false, .. } => ConnectFailure::OtherUser,
            Refusal::User { is_own: true, .. } | Refusal::Process => ConnectFailure::NotOwnServer,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (address, uid, is_own) = match self {
            Refusal::User {
                address,
                uid: Some(uid),
                is_own,
            } => (address, uid, is_own),
            Refusal::User { address, .. } => {
                return write!(f, "cannot see which user runs the server at {address}");
            }
            Refusal::Process => {
                return f
                    .write_str("cannot see that it is the process of this user's managed server");
            }
        };
        write!(
            f,
            "the server at {address} belongs to user id {uid}, who is "
        )?;
        f.write_str(if *is_own {
            "not this user, whose managed server it was"
        } else {
            "neither this user nor root nor named by `server_users`"
        })
    }
}

/// Who has the other end of the connections to an address.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Allowed,
    Other(u32),
    /// The kernel lists no such connection: it leads to another machine or another network namespace.
    Unknown,
    /// This process lacks a resource for the lookup, such as a descriptor.
    NotLookedUp,
}

impl ServerUsers {
    pub(super) fn new(options: &ConnectOptions) -> ServerUsers {
        ServerUsers {
            named: options.server_users.clone(),
            is_own: options.is_own_server,
            refusal: Mutex::new(None),
            was_accepted: AtomicBool::new(false),
        }
    }

    /// The last refused server, if none was accepted since.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Checks the servers at these addresses, one of which has just greeted. Blocks: it reads files, and
    /// may resolve names.
    ///
    /// # Errors
    /// Returns the refusal if another user has the server's end of a connection to one of them, or if the
    /// server has to be this user's and that cannot be seen.
    pub(super) fn check(&self, servers: &[ServerAddr]) -> Result<(), Refusal> {
        let mut unknown = Vec::new();
        let mut is_any_known = false;
        for address in addresses(servers) {
            match self.owner(address) {
                Owner::Allowed => is_any_known = true,
                Owner::Other(uid) => return Err(self.refuse(address, Some(uid))),
                Owner::NotLookedUp => return Err(self.refuse(address, None)),
                Owner::Unknown if self.is_own => return Err(self.refuse(address, None)),
                Owner::Unknown if address.ip().is_loopback() => unknown.push(address),
                // on another machine
                Owner::Unknown => is_any_known = true,
            }
        }
        if let Some(address) = unknown.first()
            && !is_any_known
            && !WARNED.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %address,
                "cannot see which user runs the NATS server, which gets the envelopes and whose jobs run as this user; tls:// verifies it"
            );
        }
        self.accept();
        Ok(())
    }

    /// Checks that the server at these addresses, which has just greeted, is the process of the managed server. Blocks:
    /// it reads files.
    ///
    /// # Errors
    /// Returns the refusal if the kernel does not show that.
    pub(super) fn check_process(
        &self,
        servers: &[ServerAddr],
        process: &FindServerProcess,
    ) -> Result<(), Refusal> {
        let mut reached = addresses(servers).peekable();
        if reached.peek().is_some() && reached.all(|address| process.is_reached_at(address)) {
            self.accept();
            return Ok(());
        }
        // Not a warning: the state file does not name a server that has just started again, and the client's next
        // attempt uses TLS.
        tracing::debug!("{}", Refusal::Process);
        let mut last = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Refusal::Process);
        Err(Refusal::Process)
    }

    fn accept(&self) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.was_accepted.store(true, Ordering::Relaxed);
    }

    fn refuse(&self, address: SocketAddr, uid: Option<u32>) -> Refusal {
        let refusal = Refusal::User {
            address,
            uid,
            is_own: self.is_own,
        };
        let mut last = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.replace(refusal.clone()).as_ref() != Some(&refusal);
        // a first connection fails, and its error says the same
        if is_new && self.was_accepted.load(Ordering::Relaxed) {
            tracing::warn!("not connecting to NATS again: {refusal}");
        }
        refusal
    }

    fn owner(&self, address: SocketAddr) -> Owner {
        let Ok(ends) = other_ends(address) else {
            return Owner::NotLookedUp;
        };
        self.owner_of(&ends)
    }

    /// Who has these ends. A user who may not run a server counts most, then an end that the kernel does not show.
    fn owner_of(&self, ends: &[ConnectionEnd]) -> Owner {
        let mut owner = match ends.is_empty() {
            true => Owner::Unknown,
            false => Owner::Allowed,
        };
        for end in ends {
            match *end {
                ConnectionEnd::Open { uid, .. } if !self.allows(uid) => return Owner::Other(uid),
                // nobody reads what is sent to one without an owner
                ConnectionEnd::Open { .. } | ConnectionEnd::Unowned => {}
                ConnectionEnd::NotShown => owner = Owner::Unknown,
            }
        }
        owner
    }

    fn allows(&self, uid: u32) -> bool {
        uid == own_uid() || !self.is_own && (uid == 0 || self.is_named(uid))
    }

    fn is_named(&self, uid: u32) -> bool {
        let is_id = |name: &String| name.parse() == Ok(uid);
        self.named.iter().any(is_id)
            || accounts()
                .iter()
                .any(|account| account.uid == uid && self.named.contains(&account.name))
    }
}

#[cfg(unix)]
fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(not(unix))]
fn own_uid() -> u32 {
    0
}

/// The addresses of these servers, as the kernel lists them.
fn addresses(servers: &[ServerAddr]) -> impl Iterator<Item = SocketAddr> + '_ {
    let found = servers.iter().filter_map(|server| {
        let host = server.host().trim_matches(['[', ']']);
        (host, server.port()).to_socket_addrs().ok()
    });
    found.flatten().map(reached)
}

/// The address as the kernel lists it. An unspecified one leads to this machine.
fn reached(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    // without the scope of a link-local address, which the kernel does not list
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn users(named: &[&str], is_own_server: bool) -> ServerUsers {
        ServerUsers::new(&ConnectOptions {
            server_users: named.iter().map(|&name| name.to_owned()).collect(),
            is_own_server,
            ..ConnectOptions::default()
        })
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_of_this_user_is_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let users = users(&[], true);
        assert_eq!(users.owner(address), Owner::Unknown);
        let _client = TcpStream::connect(address).unwrap();
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(users.owner(address), Owner::Allowed);
    }

    /// One of a client's connections says nothing about another one.
    #[test]
    fn each_end_counts() {
        let users = users(&[], false);
        let own = ConnectionEnd::Open {
            uid: own_uid(),
            inode: 1,
        };
        let other = ConnectionEnd::Open {
            uid: 61_234,
            inode: 2,
        };
        let (unowned, hidden) = (ConnectionEnd::Unowned, ConnectionEnd::NotShown);
        for (ends, expected) in [
            (vec![], Owner::Unknown),
            (vec![own], Owner::Allowed),
            (vec![own, unowned], Owner::Allowed),
            (vec![own, hidden], Owner::Unknown),
            (vec![own, other], Owner::Other(61_234)),
            (vec![hidden, other], Owner::Other(61_234)),
        ] {
            assert_eq!(users.owner_of(&ends), expected, "{ends:?}");
        }
    }

    #[test]
    fn an_unspecified_address_is_this_machine() {
        for (given, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("[::ffff:10.0.0.1]:1", "10.0.0.1:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            let reached = reached(given.parse().unwrap());
            assert_eq!(reached, expected.parse().unwrap(), "{given}");
        }
    }

    #[test]
    fn users_are_named_by_account_or_id() {
        let named = |names: &[&str]| users(names, false);
        assert!(named(&["nats", "61234"]).allows(61_234));
        assert!(!named(&["nats", "6123"]).allows(61_234));
        assert!(!named(&["root:x"]).is_named(0));
        assert_eq!(
            named(&["root"]).is_named(0),
            std::fs::read_to_string("/etc/passwd").is_ok_and(|text| text.starts_with("root:x:0:"))
        );
        // a managed server is this user's or another
        assert!(!users(&["61234"], true).allows(61_234));
        assert!(users(&[], true).allows(own_uid()));
    }
}
