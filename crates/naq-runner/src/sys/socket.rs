//! Messages with descriptors over the socket pair between worker and spawner.
#![expect(
    unsafe_code,
    reason = "nix's recvmsg leaks the descriptors of a message that was cut short"
)]

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

/// Maximum number of descriptors in one message (the kernel's maximum is 253).
pub(crate) const MESSAGE_FDS_MAX: usize = 240;

/// Maximum length of one message, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A connected pair that keeps message boundaries and reports when the other side is
/// closed.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Sends one message without waiting.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
    send_part(socket, bytes, fds).map(drop)
}

/// A connected pair without message boundaries.
pub(crate) fn stream_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    // Only the worker's end: the other process expects a blocking socket.
    nix::fcntl::fcntl(
        &ours,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    Ok((ours, theirs))
}

/// Sends a part of a stream without waiting; the descriptors go with its first byte. Returns how many
/// bytes were sent.
pub(crate) fn send_part(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[RawFd],
) -> Result<usize, Errno> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            flags,
            None,
        ) {
            Err(Errno::EINTR) => {}
            sent => return sent,
        }
    }
}

/// A message received.
#[derive(Debug)]
pub(crate) struct Message {
    /// Number of bytes it fills in the buffer; 0 means that the other side is closed.
    pub(crate) bytes: usize,
    /// The descriptors that it carried.
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether descriptors were lost because this process may open no more.
    pub(crate) fds_lost: bool,
}

/// Reusable buffers for receiving messages.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// The bytes of the last message.
    pub(crate) bytes: Vec<u8>,
    /// Space for one header and 253 descriptors, aligned for the header.
    control: Vec<u64>,
}

impl Receiver {
    /// Allocates the buffers.
    pub(crate) fn new() -> Receiver {
        Receiver {
            bytes: vec![0; MESSAGE_BYTES_MAX],
            control: vec![0; 160],
        }
    }

    /// Receives one message without waiting.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Message, Errno> {
        let mut iov = libc::iovec {
            iov_base: self.bytes.as_mut_ptr().cast(),
            iov_len: self.bytes.len(),
        };
        // SAFETY: msghdr is plain data, for which all zeroes is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut iov;
        header.msg_iovlen = 1;
        header.msg_control = self.control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(self.control.as_slice()) as _;
        let bytes = loop {
            // SAFETY: the header points to live buffers of the lengths given.
            let received = unsafe {
                libc::recvmsg(
                    socket.as_raw_fd(),
                    &raw mut header,
                    libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
                )
            };
            match Errno::result(received) {
                Ok(bytes) => break bytes as usize,
                Err(Errno::EINTR) => {}
                // The other side died with unread messages of ours.
                Err(Errno::ECONNRESET) => break 0,
                Err(errno) => return Err(errno),
            }
        };
        let mut fds = Vec::new();
        if bytes > 0 {
            // SAFETY: the kernel filled the control buffer and set its length; the macros
            // stay within it, and `data` contains as many descriptors as the length says,
            // each installed for this process alone. Owning them even if some were cut off
            // prevents leaks.
            unsafe {
                let mut next = libc::CMSG_FIRSTHDR(&raw const header);
                while let Some(control) = next.as_ref() {
                    if control.cmsg_level == libc::SOL_SOCKET
                        && control.cmsg_type == libc::SCM_RIGHTS
                    {
                        let data = libc::CMSG_DATA(control).cast::<RawFd>();
                        let room = control.cmsg_len - libc::CMSG_LEN(0) as usize;
                        for at in 0..room / size_of::<RawFd>() {
                            fds.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                        }
                    }
                    next = libc::CMSG_NXTHDR(&raw const header, control);
                }
            }
        }
        Ok(Message {
            bytes,
            fds,
            fds_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
        })
    }
}
