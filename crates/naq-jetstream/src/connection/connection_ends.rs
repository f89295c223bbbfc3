//! The connections of this machine, each with its user and its socket. The kernel lists them, and nobody can forge it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

/// The space for a table of some hundred connections, in bytes.
const TABLE_BYTES: usize = 64 << 10;

/// One end of a connection, whose process is on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionEnd {
    /// The address of this end.
    pub(super) local: SocketAddr,
    /// The address of the other end.
    pub(super) remote: SocketAddr,
    /// Whether both ends are open.
    pub(super) is_established: bool,
    /// The user id of the socket's owner.
    pub(super) uid: u32,
    /// The number by which `/proc/PID/fd` names the socket.
    pub(super) inode: u64,
}

/// The ids of the users of the connected sockets whose own address is this one, so of the process at the other end of
/// a connection with this address. `remote` is this end of the connection; `None` means any. Empty if the kernel lists
/// no such socket: it is on another machine or in another network namespace, or this process may not read the list.
/// Blocks: it reads files.
///
/// # Errors
/// Returns an error if this process lacks a resource for the lookup, such as a descriptor.
pub fn socket_users(address: SocketAddr, remote: Option<SocketAddr>) -> io::Result<Vec<u32>> {
    let ends = connection_ends()?.into_iter();
    Ok(users_of(ends, address, remote))
}

fn users_of(
    ends: impl Iterator<Item = ConnectionEnd>,
    address: SocketAddr,
    remote: Option<SocketAddr>,
) -> Vec<u32> {
    let is_wanted = |end: &ConnectionEnd| {
        end.local == address && remote.is_none_or(|remote| remote == end.remote)
    };
    ends.filter(is_wanted).map(|end| end.uid).collect()
}

/// The ends of all connections in this network namespace. Empty if this process may not read the list. Blocks: it
/// reads files.
///
/// # Errors
/// Returns an error if this process lacks a resource for the lookup, such as a descriptor.
pub(super) fn connection_ends() -> io::Result<Vec<ConnectionEnd>> {
    let mut ends = Vec::new();
    // the socket is listed by its own address family, which may differ from the client's
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match read_table(path) {
            Ok(table) => ends.extend(parse_table(&table)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ends)
}

/// Reads a table, whose size the kernel does not say, by few system calls.
fn read_table(path: &str) -> io::Result<String> {
    let mut table = String::with_capacity(TABLE_BYTES);
    File::open(path)?.read_to_string(&mut table)?;
    Ok(table)
}

/// Whether a table of the kernel does not exist, or is permanently inaccessible to this process.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// The ends of connections in a table of the kernel (proc(5), `/proc/net/tcp`).
fn parse_table(table: &str) -> impl Iterator<Item = ConnectionEnd> + '_ {
    table.lines().skip(1).filter_map(parse_line)
}

/// `None` for a socket that listens, and for one that no process has.
fn parse_line(line: &str) -> Option<ConnectionEnd> {
    const ESTABLISHED: &str = "01";
    const LISTENING: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = parse_endpoint(fields.nth(1)?)?;
    let remote = parse_endpoint(fields.next()?)?;
    let state = fields.next()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    // A socket without an inode has no user: nobody has accepted it, or everybody has closed it. In any
    // other state but this one a process may still read what comes.
    (state != LISTENING && inode != 0).then_some(ConnectionEnd {
        local,
        remote,
        is_established: state == ESTABLISHED,
        uid,
        inode,
    })
}

/// Parses `0100007F:107E`: words of the address in the byte order of the machine, and the port.
fn parse_endpoint(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = words.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match words.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn only_the_end_of_a_connection_with_this_address_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               0: 0100007F:107E 00000000:0000 0A 00000000:00000000 00:00000000 00000000   111        0 1067 1 0 100 0 0 10 0\n\
               1: 0100007F:107E 0100007F:8740 01 00000000:00000000 00:00000000 00000000   222        0 1068 1 0 100 0 0 10 0\n\
               2: 0100007F:8740 0100007F:107E 01 00000000:00000000 00:00000000 00000000   333        0 1069 1 0 100 0 0 10 0\n\
               3: 0100007F:107E 0100007F:8741 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0\n\
               4: 0100007F:107E 0100007F:8742 05 00000000:00000000 00:00000000 00000000   444        0 1070 1 0\n\
               5: 0200007F:107E 0100007F:8743 01 00000000:00000000 00:00000000 00000000   555        0 1071 1 0\n\
               6: 0100007F:107F 0100007F:8744 01 00000000:00000000 00:00000000 00000000   666        0 1072 1 0\n";
        let at = |address: &str| users_of(parse_table(table), address.parse().unwrap(), None);
        // an end that was closed for writing (05) can still read
        assert_eq!(at("127.0.0.1:4222"), [222, 444]);
        assert_eq!(at("127.0.0.2:4222"), [555]);
        let remote = "127.0.0.1:34626".parse().unwrap();
        let address = "127.0.0.1:4222".parse().unwrap();
        assert_eq!(users_of(parse_table(table), address, Some(remote)), [444]);
        let mapped = "  sl\n   0: 0000000000000000FFFF00000100007F:107E 0000000000000000FFFF00000100007F:8740 01 \
                      00000000:00000000 00:00000000 00000000   777        0 1068 1 0\n\
                      1: 00000000000000000000000001000000:107E 00000000000000000000000001000000:8741 01 \
                      00000000:00000000 00:00000000 00000000   888        0 1069 1 0\n";
        let at = |address: &str| users_of(parse_table(mapped), address.parse().unwrap(), None);
        assert_eq!(at("127.0.0.1:4222"), [777]);
        assert_eq!(at("[::1]:4222"), [888]);
    }

    #[cfg(unix)]
    #[test]
    fn a_table_that_cannot_be_read_for_now_is_not_absent() {
        use rustix::io::Errno;
        for (errno, absent) in [
            (Errno::NOENT, true),
            (Errno::ACCESS, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOMEM, false),
        ] {
            assert_eq!(is_absent(&errno.into()), absent, "{errno}");
        }
    }
}
