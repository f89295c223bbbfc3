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
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
const PROTOCOL_TCP: u8 = 6;
/// Size of a request: the header of netlink, and `inet_diag_req_v2` of `linux/inet_diag.h`.
const REQUEST_BYTES: usize = 16 + 56;

/// Number of bytes of an answer that are read: the header, and `inet_diag_msg` up to the number of the socket.
const ANSWER_BYTES: usize = 88;

/// The end of a connection whose own address is `local`, and whose other end is `remote`, if a process has it. `None`
/// says nothing: the kernel may permit no such question, and finds no socket that is bound to a device.
///
/// # Errors
/// Returns an error if this process lacks a resource for the lookup, such as a descriptor.
pub(super) fn open_end(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<ConnectionEnd>> {
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
        Err(_) => return Ok(None),
    };
    let kernel = SocketAddrNetlink::new(0, 0);
    let sent = sendto(
        &socket,
        &request(local, remote),
        SendFlags::empty(),
        &kernel,
    );
    if sent.is_err() {
        return Ok(None);
    }
    let mut answer = [0; ANSWER_BYTES];
    // The kernel answers while it gets the request.
    match recv(&socket, &mut answer, RecvFlags::DONTWAIT) {
        Ok((length, _)) => Ok(parse(&answer[..length])),
        Err(_) => Ok(None),
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
    // no interface, any cookie
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

fn parse(answer: &[u8]) -> Option<ConnectionEnd> {
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY {
        return None;
    }
    let (state, uid, inode) = (*answer.get(17)?, word(80)?, word(84)?);
    let end = ConnectionEnd::of_socket(state, uid, u64::from(inode));
    matches!(end, ConnectionEnd::Open { .. }).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_a_process_has_is_an_answer() {
        let answer = |kind: u16, state: u8, inode: u32| {
            let mut bytes = [0; ANSWER_BYTES];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[17] = state;
            bytes[80..84].copy_from_slice(&7_u32.to_ne_bytes());
            bytes[84..88].copy_from_slice(&inode.to_ne_bytes());
            bytes
        };
        let found = answer(BY_FAMILY, 1, 9);
        let end = ConnectionEnd::Open { uid: 7, inode: 9 };
        assert_eq!(parse(&found), Some(end));
        for length in 0..ANSWER_BYTES {
            assert_eq!(parse(&found[..length]), None, "{length}");
        }
        const LISTENING: u8 = 10;
        const TIME_WAIT: u8 = 6;
        const ERROR: u16 = 2;
        assert_eq!(parse(&answer(BY_FAMILY, LISTENING, 9)), None);
        assert_eq!(parse(&answer(BY_FAMILY, TIME_WAIT, 0)), None);
        assert_eq!(parse(&answer(ERROR, 1, 9)), None);
    }

    #[test]
    fn a_request_has_the_size_that_it_states() {
        for address in ["127.0.0.1:1", "[::1]:1"] {
            let address = address.parse().unwrap();
            assert_eq!(request(address, address).len(), REQUEST_BYTES);
        }
    }
}
