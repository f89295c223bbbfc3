//! The other ends of connections on this machine, each with its user and its socket. The kernel says it, and nobody can
//! forge it.

use std::io;
use std::net::SocketAddr;

#[cfg(unix)]
use rustix::io::Errno;

#[cfg(target_os = "linux")]
use super::socket_diag;
use super::socket_table::{self, ConnectionEnd};

/// The id of the user of the socket whose own address is `local`, and which is connected to `remote`. `None` if the
/// kernel does not show that, or no process has it. Blocks: it may read files.
///
/// # Errors
/// Returns an error if this process lacks a resource for the lookup, such as a descriptor.
pub fn socket_user(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    Ok(match connection_end(local, remote)? {
        ConnectionEnd::Open { uid, .. } => Some(uid),
        ConnectionEnd::Unowned | ConnectionEnd::NotShown => None,
    })
}

/// The end of a connection whose own address is `local`, and whose other end is `remote`. Blocks: it may read files.
///
/// # Errors
/// Returns an error if this process lacks a resource for the lookup, such as a descriptor.
fn connection_end(local: SocketAddr, remote: SocketAddr) -> io::Result<ConnectionEnd> {
    // The kernel answers a question about one socket at once, but takes milliseconds to list all of them. Only the
    // list shows the sockets that are bound to a device, which any program may do.
    #[cfg(target_os = "linux")]
    if let Some(end) = socket_diag::open_end(local, remote)? {
        return Ok(end);
    }
    socket_table::connection_end(local, remote)
}

/// The other ends of this process's connections to this address. Blocks: it may read files.
///
/// # Errors
/// Returns an error if this process lacks a resource for the lookup, such as a descriptor.
pub(super) fn other_ends(address: SocketAddr) -> io::Result<Vec<ConnectionEnd>> {
    match own_ends(address) {
        Ok(own) => own
            .into_iter()
            .map(|own| connection_end(address, own))
            .collect(),
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(error.into()),
        // It is not permitted. Other processes' connections to this address lead to where this one's do.
        Err(_) => socket_table::ends_at(address),
    }
}

/// The addresses of this process's own ends of its connections to this address.
#[cfg(target_os = "linux")]
fn own_ends(address: SocketAddr) -> Result<Vec<SocketAddr>, Errno> {
    use rustix::net::{SocketAddrAny, getpeername, getsockname};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    let canonical = |found: SocketAddrAny| {
        let found = SocketAddr::try_from(found).ok()?;
        Some(SocketAddr::new(found.ip().to_canonical(), found.port()))
    };
    let own_process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut ends = Vec::new();
    for number in own_sockets().map_err(|_| Errno::NOSYS)? {
        // a second descriptor of the same socket: nothing else says safely what a number stands for
        let descriptor = match pidfd_getfd(&own_process, number, PidfdGetfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            // closed meanwhile
            Err(Errno::BADF) => continue,
            Err(error) => return Err(error),
        };
        let peer = getpeername(&descriptor).map(|peer| peer.and_then(canonical));
        match peer {
            Ok(peer) if peer == Some(address) => {
                ends.extend(getsockname(&descriptor).ok().and_then(canonical));
            }
            // The number has become that of a file. To close a second descriptor of it would release the locks that
            // this process has on the file (fcntl(2), `F_SETLK`), such as those of a database.
            Err(Errno::NOTSOCK) => std::mem::forget(descriptor),
            _ => {}
        }
    }
    Ok(ends)
}

/// The numbers of this process's descriptors that are sockets.
#[cfg(target_os = "linux")]
fn own_sockets() -> io::Result<Vec<i32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // none if it is closed meanwhile
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target
            .to_str()
            .is_some_and(|text| text.starts_with("socket:["))
        {
            numbers.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<i32>().ok()),
            );
        }
    }
    Ok(numbers)
}

#[cfg(not(target_os = "linux"))]
fn own_ends(_: SocketAddr) -> Result<Vec<SocketAddr>, Errno> {
    Err(Errno::NOSYS)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// A program with a database may use this library.
    #[test]
    fn a_lookup_releases_no_lock_on_a_file() {
        use rustix::fs::{FlockOperation, fcntl_lock};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let path = std::env::temp_dir().join(format!("naq-lock-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        let is_locked = || {
            let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            let wanted = format!(":{inode} ");
            locks
                .lines()
                .any(|line| line.contains("POSIX") && line.contains(&wanted))
        };
        assert!(is_locked());
        assert_eq!(own_ends(address).unwrap().len(), 1);
        assert!(is_locked());
        std::fs::remove_file(path).unwrap();
    }

    /// For the rarer kinds of sockets as well.
    #[test]
    fn the_kernel_gives_the_same_answer_about_one_socket_as_in_its_list_of_all() {
        for (listen, host) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::]:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
        ] {
            // a machine may have no IPv6
            let Ok(listener) = TcpListener::bind(listen) else {
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let address = SocketAddr::new(host.parse().unwrap(), port);
            assert_eq!(own_ends(address).unwrap(), []);
            let client = TcpStream::connect(address).unwrap();
            let own = client.local_addr().unwrap();
            assert_eq!(own_ends(address).unwrap(), [own]);
            let shown = || {
                let listed = socket_table::connection_end(address, own).unwrap();
                assert_eq!(connection_end(address, own).unwrap(), listed, "{listen}");
                assert_eq!(other_ends(address).unwrap(), [listed]);
                listed
            };
            assert_eq!(shown(), ConnectionEnd::Unowned, "nobody has accepted it");
            let (server, _) = listener.accept().unwrap();
            let end = shown();
            assert_eq!(socket_diag::open_end(address, own).unwrap(), Some(end));
            assert_ne!(connection_end(own, address).unwrap(), end);
            let user = socket_user(address, own).unwrap();
            assert_eq!(user, Some(rustix::process::geteuid().as_raw()));
            drop(server);
            assert_eq!(shown(), ConnectionEnd::Unowned, "it is closed");
            drop(client);
            assert_eq!(own_ends(address).unwrap(), []);
        }
    }

    /// The kernel does not find such a socket when it is asked for it.
    #[tokio::test]
    async fn a_socket_that_is_bound_to_a_device_is_seen() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind_device(Some(b"lo")).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (_server, _) = listener.accept().await.unwrap();
        let own = client.local_addr().unwrap();
        assert_eq!(socket_diag::open_end(address, own).unwrap(), None);
        let ends = other_ends(address).unwrap();
        assert!(matches!(ends[..], [ConnectionEnd::Open { .. }]), "{ends:?}");
    }
}
