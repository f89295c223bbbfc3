//! Whether the managed server's process is at the other end of this process's connections, by what the kernel lists.
//!
//! The server's certificate proves that as well, but the handshake of TLS takes a command as long as all else that it
//! does. Clients use TLS where the kernel does not show the process, for example in another namespace of process ids.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::connection_ends::other_ends;
use super::socket_table::ConnectionEnd;

/// A process of this machine, which no other process is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProcess {
    /// Its number.
    pub pid: i32,
    /// What no other process with this number has: see [`process_identity`].
    pub identity: String,
}

/// Finds the process of the managed server, which is another one after each restart. Calling it blocks while it reads
/// a file.
#[derive(Clone)]
pub struct FindServerProcess(Arc<dyn Fn() -> Option<ServerProcess> + Send + Sync>);

impl FindServerProcess {
    /// `find` returns `None` if it cannot be known which process is the server, for example while none runs.
    pub fn new(
        find: impl Fn() -> Option<ServerProcess> + Send + Sync + 'static,
    ) -> FindServerProcess {
        FindServerProcess(Arc::new(find))
    }

    /// Whether the kernel shows the server's process and its sockets. It does not in another namespace of process ids,
    /// nor to a job, which Landlock keeps from other processes.
    pub(super) fn is_visible(&self) -> bool {
        let has_sockets = |process: &ServerProcess| {
            sockets_of(&process.descriptors()).is_ok_and(|sockets| !sockets.is_empty())
        };
        (self.0)().is_some_and(|process| process.is_running() && has_sockets(&process))
    }

    /// Whether all connections of this process to this address are to the server, and there is one.
    pub(super) fn is_reached_at(&self, address: SocketAddr) -> bool {
        (self.0)().is_some_and(|process| process.serves(address))
    }
}

impl ServerProcess {
    /// The process with this number. `None` if the kernel does not show it.
    #[must_use]
    pub fn of_pid(pid: i32) -> Option<ServerProcess> {
        let identity = process_identity(pid).ok()?;
        Some(ServerProcess { pid, identity })
    }

    /// The kernel's folder of its descriptors.
    fn descriptors(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd", self.pid))
    }

    /// Whether the kernel shows this process, and no other one with its number.
    fn is_running(&self) -> bool {
        process_identity(self.pid).is_ok_and(|identity| identity == self.identity)
    }

    /// Whether this process has the other end of all connections from the calling process to this address, and there
    /// is one. Blocks: it reads files of the kernel.
    #[must_use]
    pub fn serves(&self, address: SocketAddr) -> bool {
        let lookup = || -> io::Result<bool> {
            let ends = other_ends(address)?;
            let sockets = sockets_of(&self.descriptors())?;
            // after its sockets were read: they were those of this very process
            Ok(self.is_running() && has_all(&sockets, &ends))
        };
        lookup().unwrap_or(false)
    }
}

/// Whether all ends that may be read from are among these sockets, and there is one.
fn has_all(sockets: &HashSet<u64>, ends: &[ConnectionEnd]) -> bool {
    let is_served = |end: &ConnectionEnd| match end {
        ConnectionEnd::Open { inode, .. } => sockets.contains(inode),
        ConnectionEnd::Unowned => true,
        ConnectionEnd::NotShown => false,
    };
    let is_open = |end: &ConnectionEnd| matches!(end, ConnectionEnd::Open { .. });
    ends.iter().all(is_served) && ends.iter().any(is_open)
}

/// The numbers of the sockets in a folder of descriptors (proc(5), `/proc/PID/fd`).
fn sockets_of(folder: &Path) -> io::Result<HashSet<u64>> {
    let mut sockets = HashSet::new();
    for entry in fs::read_dir(folder)? {
        // a descriptor may be closed meanwhile
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let number = target
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        sockets.extend(number.and_then(|text| text.parse::<u64>().ok()));
    }
    Ok(sockets)
}

/// What two processes with the same number do not have in common: the machine's boot, the namespace of process ids, and
/// when the process started, in clock ticks since the boot (proc(5), `/proc/PID/stat`, field 22).
///
/// # Errors
/// Returns an error if there is no such process, or if `/proc` cannot be read.
pub fn process_identity(pid: i32) -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = fs::read_link("/proc/self/ns/pid")?;
    let started = parse_start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
    Ok(format!("{} {} {started}", boot.trim(), namespace.display()))
}

/// The name of the program, field 2, may contain anything, and ends with the last parenthesis.
fn parse_start_ticks(stat: &str) -> io::Result<u64> {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let field = fields.and_then(|fields| fields.split_whitespace().nth(19));
    field
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/PID/stat has no start time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_serves_what_it_has_accepted() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = ServerProcess::of_pid(pid).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!own.serves(address), "no connection");
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert!(own.serves(address));
        let later = ServerProcess {
            identity: format!("{}0", own.identity),
            ..own.clone()
        };
        assert!(!later.serves(address), "another process with this number");
        let init = ServerProcess::of_pid(1).unwrap();
        assert!(!init.serves(address), "another process");
        let waiting = TcpStream::connect(address).unwrap();
        assert!(own.serves(address), "another one is not accepted yet");
        drop(waiting);
        drop(server);
        assert!(!own.serves(address), "the server has closed it");
    }

    /// One of a client's connections may lead to the server, and another one to a program that has taken its port.
    #[test]
    fn each_end_has_to_be_shown() {
        let sockets = HashSet::from([1, 2]);
        let open = |inode| ConnectionEnd::Open { uid: 0, inode };
        let (unowned, hidden) = (ConnectionEnd::Unowned, ConnectionEnd::NotShown);
        for (ends, expected) in [
            (vec![open(1), open(2)], true),
            (vec![open(1), unowned], true),
            (vec![open(1), open(3)], false),
            (vec![open(1), hidden], false),
            (vec![unowned], false),
            (vec![], false),
        ] {
            assert_eq!(has_all(&sockets, &ends), expected, "{ends:?}");
        }
    }

    #[test]
    fn the_name_of_a_program_does_not_shift_the_fields() {
        let fields: Vec<String> = (3..=30).map(|field| field.to_string()).collect();
        let stat = format!("7 (a ) b) {}", fields.join(" "));
        assert_eq!(parse_start_ticks(&stat).unwrap(), 22);
        assert!(parse_start_ticks("7 (a").is_err());
    }
}
