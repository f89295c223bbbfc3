//! Looks a socket up in the kernel's lists of all sockets, where it does not answer a question about one.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

/// An end of a connection, as the kernel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionEnd {
    /// A process has it.
    Open {
        /// The user id of the socket's owner.
        uid: u32,
        /// The number by which `/proc/PID/fd` names the socket.
        inode: u64,
    },
    /// No process has it: nobody has accepted it yet, or all have closed it. One that has greeted was accepted.
    Unowned,
    /// The kernel does not show it: it is on another machine, in another network namespace or at another address.
    NotShown,
}

impl ConnectionEnd {
    /// The end of a socket in this state (`net/tcp_states.h`).
    pub(super) fn of_socket(state: u8, uid: u32, inode: u64) -> ConnectionEnd {
        const LISTENING: u8 = 10;
        match (state, inode) {
            (LISTENING, _) => ConnectionEnd::NotShown,
            (_, 0) => ConnectionEnd::Unowned,
            // Whatever the state, a process may still read what comes.
            (_, 1..) => ConnectionEnd::Open { uid, inode },
        }
    }
}

/// The space for a table of some hundred connections, in bytes: the kernel does not say the size.
const TABLE_BYTES: usize = 64 << 10;

/// The end of a connection whose own address is `local`, and whose other end is `remote`.
pub(super) fn connection_end(local: SocketAddr, remote: SocketAddr) -> io::Result<ConnectionEnd> {
    let found = find(local, Some(remote))?.pop();
    Ok(found.unwrap_or(ConnectionEnd::NotShown))
}

/// The ends of connections whose own address is this one.
pub(super) fn ends_at(local: SocketAddr) -> io::Result<Vec<ConnectionEnd>> {
    find(local, None)
}

fn find(local: SocketAddr, remote: Option<SocketAddr>) -> io::Result<Vec<ConnectionEnd>> {
    let mut ends = Vec::new();
    // the socket is listed by its own address family, which may differ from the client's
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match read(path) {
            Ok(table) => ends.extend(parse(&table, local, remote)),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ends)
}

fn read(path: &str) -> io::Result<String> {
    let mut table = String::with_capacity(TABLE_BYTES);
    File::open(path)?.read_to_string(&mut table)?;
    Ok(table)
}

/// Whether a list of the kernel does not exist, or is permanently inaccessible to this process.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
}

/// The ends of connections in a table of the kernel (proc(5), `/proc/net/tcp`).
fn parse(
    table: &str,
    local: SocketAddr,
    remote: Option<SocketAddr>,
) -> impl Iterator<Item = ConnectionEnd> {
    let lines = table.lines().skip(1);
    lines.filter_map(move |line| parse_line(line, local, remote))
}

fn parse_line(line: &str, local: SocketAddr, remote: Option<SocketAddr>) -> Option<ConnectionEnd> {
    let mut fields = line.split_ascii_whitespace();
    let own = parse_endpoint(fields.nth(1)?)?;
    let other = parse_endpoint(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let is_wanted = own == local && remote.is_none_or(|remote| remote == other);
    // a socket that listens has the address 0.0.0.0 at its other end
    let is_connected = !other.ip().is_unspecified();
    (is_wanted && is_connected).then(|| ConnectionEnd::of_socket(state, uid, inode))
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
    fn only_the_end_of_a_connection_with_these_addresses_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
               0: 0100007F:107E 00000000:0000 0A 00000000:00000000 00:00000000 00000000   111        0 1067 1 0 100 0 0 10 0\n\
               1: 0100007F:107E 0100007F:8740 01 00000000:00000000 00:00000000 00000000   222        0 1068 1 0 100 0 0 10 0\n\
               2: 0100007F:8740 0100007F:107E 01 00000000:00000000 00:00000000 00000000   333        0 1069 1 0 100 0 0 10 0\n\
               3: 0100007F:107E 0100007F:8741 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0\n\
               4: 0100007F:107E 0100007F:8742 05 00000000:00000000 00:00000000 00000000   444        0 1070 1 0\n";
        let found = |table: &str, local: &str, remote: &str| {
            let remote = remote.parse().unwrap();
            let mut ends = parse(table, local.parse().unwrap(), Some(remote));
            ends.next()
        };
        let open = |uid, inode| Some(ConnectionEnd::Open { uid, inode });
        let server = |client: &str| found(table, "127.0.0.1:4222", client);
        assert_eq!(server("127.0.0.1:34624"), open(222, 1068));
        assert_eq!(server("127.0.0.1:34625"), Some(ConnectionEnd::Unowned));
        // an end that was closed for writing (05) can still read
        assert_eq!(server("127.0.0.1:34626"), open(444, 1070));
        assert_eq!(server("0.0.0.0:0"), None, "it listens");
        let of_all = parse(table, "127.0.0.1:4222".parse().unwrap(), None);
        let of_all: Vec<_> = of_all.map(Some).collect();
        assert_eq!(
            of_all,
            [
                open(222, 1068),
                Some(ConnectionEnd::Unowned),
                open(444, 1070)
            ]
        );
        let client = found(table, "127.0.0.1:34624", "127.0.0.1:4222");
        assert_eq!(client, open(333, 1069));
        let mapped = "  sl\n   0: 0000000000000000FFFF00000100007F:107E 0000000000000000FFFF00000100007F:8740 01 \
                      00000000:00000000 00:00000000 00000000   777        0 1068 1 0\n\
                      1: 00000000000000000000000001000000:107E 00000000000000000000000001000000:8741 01 \
                      00000000:00000000 00:00000000 00000000   888        0 1069 1 0\n";
        let found = |local: &str, remote: &str| found(mapped, local, remote);
        assert_eq!(found("127.0.0.1:4222", "127.0.0.1:34624"), open(777, 1068));
        assert_eq!(found("[::1]:4222", "[::1]:34625"), open(888, 1069));
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
