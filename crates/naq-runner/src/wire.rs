//! Messages between worker and spawner: little-endian frames, several in one
//! message. Both sides run the same binary, so a magic number replaces version
//! negotiation.

/// First bytes of a `HELLO` frame. Change it whenever the format changes.
pub(super) const MAGIC: u32 = 0x6e61_7104;

/// Maximum length of an inline request body, in bytes. A longer one is passed as a
/// memfd.
pub(super) const INLINE_BYTES_MAX: usize = 48 * 1024;

/// A `u64` field with this value means no limit.
pub(super) const UNLIMITED: u64 = u64::MAX;

/// Frames from worker to spawner.
pub(super) mod to_spawner {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const START: u8 = 2;
    pub(crate) const START_IN_MEMFD: u8 = 3;
    pub(crate) const STOP: u8 = 4;
    pub(crate) const KILL: u8 = 5;
    pub(crate) const DEADLINE: u8 = 6;
    pub(crate) const ARM: u8 = 7;
    pub(crate) const DISARM: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const REMOVE: u8 = 10;
    pub(crate) const CLOSE: u8 = 11;
    pub(crate) const WITHDRAW: u8 = 12;
}

/// Frames from spawner to worker.
pub(super) mod to_worker {
    pub(crate) const READY: u8 = 1;
    pub(crate) const STARTED: u8 = 2;
    pub(crate) const ENDED: u8 = 3;
    pub(crate) const NOT_STARTED: u8 = 4;
    pub(crate) const RESEND: u8 = 5;
    pub(crate) const SWEPT: u8 = 6;
    pub(crate) const PONG: u8 = 9;
    pub(crate) const NOT_REMOVED: u8 = 10;
    pub(crate) const WAITING: u8 = 11;
}

/// Bits of an `ENDED` frame.
pub(super) mod flag {
    pub(crate) const TIMED_OUT: u8 = 1;
    pub(crate) const OOM: u8 = 2;
    pub(crate) const LEAKED: u8 = 4;
    pub(crate) const MEMORY_EXCEEDED: u8 = 8;
    pub(crate) const PROCESSES_EXCEEDED: u8 = 16;
    pub(crate) const DEADLINE_PASSED: u8 = 32;
    pub(crate) const RESOURCE_SHORTAGE: u8 = 64;
    pub(crate) const WITHDRAWN: u8 = 128;
}

/// Writes frames.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// The frames written so far.
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Writes a length, then the bytes.
    pub(super) fn block(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Writes a NUL-terminated string. The caller has checked that it contains no
    /// NUL.
    pub(super) fn c_string(&mut self, value: &str) -> &mut Self {
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self
    }
}

/// A frame does not match its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads frames. Every read is bounds-checked.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Offset of the next read.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn block(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u32()? as usize;
        self.take(count)
    }

    /// Reads a NUL-terminated string and returns it without its NUL.
    pub(super) fn c_string(&mut self) -> Result<&'a [u8], Malformed> {
        let rest = self.bytes.get(self.at..).ok_or(Malformed)?;
        let end = rest.iter().position(|b| *b == 0).ok_or(Malformed)?;
        self.at += end + 1;
        Ok(&rest[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_frames_read_back_the_same() {
        let mut w = Writer::default();
        w.u8(7).u32(8).i32(-9).u64(10).block(b"ab").c_string("cd");
        let mut r = Reader::new(&w.bytes);
        assert_eq!(r.u8(), Ok(7));
        assert_eq!(r.u32(), Ok(8));
        assert_eq!(r.i32(), Ok(-9));
        assert_eq!(r.u64(), Ok(10));
        assert_eq!(r.block(), Ok(&b"ab"[..]));
        assert_eq!(r.c_string(), Ok(&b"cd"[..]));
        assert!(r.is_empty());
        assert_eq!(r.u8(), Err(Malformed));
    }

    #[test]
    fn a_string_without_an_end_is_malformed() {
        assert_eq!(Reader::new(b"abc").c_string(), Err(Malformed));
        assert_eq!(Reader::new(&[255, 0, 0, 0, 1]).block(), Err(Malformed));
    }
}
