//! The frames between a worker and a warm process: a length of 4 bytes, big-endian, and one JSON object.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::errno::Errno;
use serde_json::Value;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::pipes::{ReadOutcome, read_chunk};
use super::super::sys::async_fd::register;
use super::super::sys::socket::send_part;

/// The longest frame, in bytes.
pub(super) const FRAME_BYTES_MAX: usize = 16 << 20;

/// Bytes sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes read at once. What a process sends is short.
const READ_BYTES: usize = 8 << 10;

/// The worker's end of the socket.
#[derive(Debug)]
pub(super) struct FrameSocket {
    socket: AsyncFd<OwnedFd>,
    /// Bytes of frames that are not complete yet.
    unread: Vec<u8>,
    frames: VecDeque<Value>,
}

/// A frame as bytes.
///
/// # Errors
/// Returns an I/O error of kind `InvalidInput` if it is longer than [`FRAME_BYTES_MAX`].
pub(super) fn encode(frame: &Value) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame)?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the call is {length} bytes long; at most {FRAME_BYTES_MAX} can be passed"),
        ));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Moves the complete frames from the beginning of `unread` to `frames`.
fn take_frames(unread: &mut Vec<u8>, frames: &mut VecDeque<Value>) -> io::Result<()> {
    let mut at = 0;
    while let Some(head) = unread.get(at..at + 4) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other(format!(
                "it sent a frame of {length} bytes"
            )));
        }
        let Some(body) = unread.get(at + 4..at + 4 + length) else {
            break;
        };
        frames.push_back(serde_json::from_slice(body)?);
        at += 4 + length;
    }
    unread.drain(..at);
    Ok(())
}

impl FrameSocket {
    pub(super) fn new(socket: OwnedFd) -> io::Result<FrameSocket> {
        let socket =
            register(socket, Interest::READABLE | Interest::WRITABLE).map_err(|(_, e)| e)?;
        Ok(FrameSocket {
            socket,
            unread: Vec::new(),
            frames: VecDeque::new(),
        })
    }

    /// Sends a frame; `fds` go with its first byte.
    ///
    /// # Errors
    /// Returns an I/O error if the process has closed its end, or the frame is too long.
    pub(super) async fn send(&self, frame: &Value, fds: &[RawFd]) -> io::Result<()> {
        let bytes = encode(frame)?;
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + PIECE_BYTES);
            let fds = if at == 0 { fds } else { &[] };
            let mut ready = self.socket.writable().await?;
            match send_part(self.socket.get_ref().as_fd(), &bytes[at..end], fds) {
                Ok(sent) => at += sent,
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// The next frame. `None` if the process has closed its end. Cancel safe.
    ///
    /// # Errors
    /// Returns an I/O error if what it sent is no frame.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            let mut ready = self.socket.readable().await?;
            let mut piece = vec![0; READ_BYTES];
            match read_chunk(self.socket.get_ref(), &mut piece) {
                ReadOutcome::Bytes(count) => {
                    self.unread.extend_from_slice(&piece[..count]);
                    take_frames(&mut self.unread, &mut self.frames)?;
                }
                ReadOutcome::WouldBlock => ready.clear_ready(),
                ReadOutcome::Eof => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn frames_are_found_in_pieces_of_any_length() {
        let sent = [
            json!({"t": "hello"}),
            json!({"t": "ended", "n": 1, "x": "ä"}),
        ];
        let bytes: Vec<u8> = sent
            .iter()
            .flat_map(|frame| encode(frame).unwrap())
            .collect();
        for size in [1, 3, 7, 1000] {
            let (mut unread, mut frames) = (Vec::new(), VecDeque::new());
            for piece in bytes.chunks(size) {
                unread.extend_from_slice(piece);
                take_frames(&mut unread, &mut frames).unwrap();
            }
            assert_eq!(frames, sent);
            assert!(unread.is_empty());
        }
        let mut long = u32::MAX.to_be_bytes().to_vec();
        assert!(take_frames(&mut long, &mut VecDeque::new()).is_err());
    }
}
