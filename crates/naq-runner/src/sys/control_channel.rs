//! The control channel of the job to which this process belongs.
#![expect(
    unsafe_code,
    reason = "taking over a descriptor by its number cannot be checked"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

/// Opens the control channel of the job to which this process belongs: a copy of the descriptor `fd`, which it has
/// inherited.
///
/// # Errors
///
/// Returns an I/O error if the descriptor is not open, or is not a pipe to write to.
pub fn open_control_channel(fd: RawFd) -> io::Result<File> {
    // SAFETY: the call only copies a descriptor, of whatever number; the copy is new, so nothing else owns it.
    let copy = unsafe {
        let copy = Errno::result(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 4))?;
        OwnedFd::from_raw_fd(copy)
    };
    let is_pipe =
        SFlag::from_bits_truncate(fstat(copy.as_fd())?.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO;
    let mode = OFlag::from_bits_truncate(fcntl(&copy, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    if !is_pipe || mode != OFlag::O_WRONLY {
        return Err(io::Error::other("it is not a pipe to write to"));
    }
    Ok(File::from(copy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn only_the_end_of_a_pipe_for_writing_is_a_control_channel() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut channel = open_control_channel(writer.as_raw_fd()).unwrap();
        drop(writer);
        channel.write_all(b"{}\n").unwrap();
        drop(channel);
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "{}\n");
        assert!(open_control_channel(reader.as_raw_fd()).is_err());
        let null = File::options().write(true).open("/dev/null").unwrap();
        assert!(open_control_channel(null.as_raw_fd()).is_err());
        assert!(open_control_channel(-1).is_err());
    }
}
