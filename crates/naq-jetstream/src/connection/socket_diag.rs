//! Asks the kernel about one socket (sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use super::socket_table::ConnectionEnd;

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` of `linux/netlink.h`.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const PROTOCOL_TCP: u8 = 6;
/// The state of a socket that accepts connections.
const STATE_LISTENING: u8 = 10;

/// Size of a request: the header of netlink, and `inet_diag_req_v2` of `linux/inet_diag.h`.
const REQUEST_BYTES: usize = 16 + 56;

/// Number of bytes of an answer that are read: the header, and `inet_diag_msg` up to the number of the socket.
const ANSWER_BYTES: usize = 88;

/// What the kernel answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Found(ConnectionEnd),
    /// It has no such socket, or none that a process has; or it cannot answer such questions.
    NotFound,
    /// It does not answer.
    Refused,
}

/// The end of a connection whose own address is `local`, and whose other end is `remote`. `None` if the kernel does not answer such questions.
pub(super) fn connection_end(
    local: SocketAddr,
    remote: SocketAddr,
) -> io::Result<Option<Option<ConnectionEnd>>> {
    match ask(local, remote)? {
        Answer::Found(end) => Ok(Some(Some(end))),
        // The other end is the asking process's: if the kernel finds that one, it has answered.
        Answer::NotFound => match ask(remote, local)? {
            Answer::Found(_) => Ok(Some(None)),
            Answer::NotFound | Answer::Refused => Ok(None),
        },
        Answer::Refused => Ok(None),
    }
}

fn ask(local: SocketAddr, remote: SocketAddr) -> io::Result<Answer> {
    let opened = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    );
    let socket = match opened {
        Ok(socket) => socket,
        Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
            return Err(error.into());
        }
        // a container may permit no such sockets
        Err(_) => return Ok(Answer::Refused),
    };
    let kernel = SocketAddrNetlink::new(0, 0);
    let sent = sendto(
        &socket,
        &request(local, remote),
        SendFlags::empty(),
        &kernel,
    );
    if sent.is_err() {
        return Ok(Answer::Refused);
    }
    let mut answer = [0; ANSWER_BYTES];
    // The kernel answers while it gets the request.
    match recv(&socket, &mut answer, RecvFlags::DONTWAIT) {
        Ok((length, _)) => Ok(parse(&answer[..length])),
        Err(_) => Ok(Answer::Refused),
    }
}

/// The question about the socket with this address of its own, which is connected to the other.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    // the numbers of families have one byte there
    let family = family.as_raw() as u8;
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    bytes.extend((REQUEST_BYTES as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, PROTOCOL_TCP, 0, 0]);
    // in any state
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(words(local.ip()));
    bytes.extend(words(remote.ip()));
    // any interface, any cookie
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

fn words(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut words = [0; 16];
            words[..4].copy_from_slice(&ip.octets());
            words
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn parse(answer: &[u8]) -> Answer {
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let kind = answer
        .get(4..6)
        .and_then(|bytes| Some(u16::from_ne_bytes(bytes.try_into().ok()?)));
    match kind {
        Some(BY_FAMILY) => match (answer.get(17), word(80), word(84)) {
            // A socket without a number has no user: nobody has accepted it, or everybody has closed it.
            (Some(&state), Some(uid), Some(inode)) if state != STATE_LISTENING && inode != 0 => {
                Answer::Found(ConnectionEnd {
                    uid,
                    inode: u64::from(inode),
                })
            }
            (Some(_), Some(_), Some(_)) => Answer::NotFound,
            _ => Answer::Refused,
        },
        // the negative error number
        Some(ERROR) if word(16) == Some((-Errno::NOENT.raw_os_error()).cast_unsigned()) => {
            Answer::NotFound
        }
        _ => Answer::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_doubt() {
        let answer = |kind: u16, state: u8, error: i32, uid: u32, inode: u32| {
            let mut bytes = [0; ANSWER_BYTES];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            bytes[17] = if kind == BY_FAMILY { state } else { bytes[17] };
            bytes[80..84].copy_from_slice(&uid.to_ne_bytes());
            bytes[84..88].copy_from_slice(&inode.to_ne_bytes());
            bytes
        };
        let end = ConnectionEnd { uid: 7, inode: 9 };
        let found = answer(BY_FAMILY, 1, 0, 7, 9);
        assert_eq!(parse(&found), Answer::Found(end));
        for length in 0..ANSWER_BYTES {
            assert_eq!(parse(&found[..length]), Answer::Refused, "{length}");
        }
        let listening = answer(BY_FAMILY, STATE_LISTENING, 0, 7, 9);
        assert_eq!(parse(&listening), Answer::NotFound);
        assert_eq!(parse(&answer(BY_FAMILY, 6, 0, 0, 0)), Answer::NotFound);
        assert_eq!(parse(&answer(ERROR, 0, -2, 0, 0)), Answer::NotFound);
        assert_eq!(parse(&answer(ERROR, 0, -1, 0, 0)), Answer::Refused);
        assert_eq!(parse(&answer(3, 0, 0, 0, 0)), Answer::Refused);
    }

    #[test]
    fn a_request_has_the_size_that_it_states() {
        for address in ["127.0.0.1:1", "[::1]:1"] {
            let address = address.parse().unwrap();
            assert_eq!(request(address, address).len(), REQUEST_BYTES);
        }
    }
}
