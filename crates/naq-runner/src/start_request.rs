//! The encoded request to start a job.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use libc::c_char;

use super::wire::{Malformed, Reader, UNLIMITED, Writer};

/// Resource limits that the spawner sets. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ResourceLimits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) address_space_bytes: Option<u64>,
    pub(super) cpu_time_s: Option<u64>,
    /// Thousandths of a CPU.
    pub(super) cpus_milli: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) file_size_bytes: Option<u64>,
    /// Soft and hard limit of open files; always set.
    pub(super) open_files: (u64, u64),
    pub(super) nice: i32,
}

/// A file to write into the scratch folder.
pub(super) struct StartFile<'a> {
    pub(super) name: &'a str,
    pub(super) mode: u32,
    pub(super) content: &'a [u8],
}

/// A start request, as the worker builds it.
pub(super) struct StartRequest<'a> {
    pub(super) resource_limits: ResourceLimits,
    pub(super) timeout: Option<Duration>,
    pub(super) kill_grace: Duration,
    pub(super) has_stdin: bool,
    /// The scratch folder, which the worker creates and removes.
    pub(super) scratch: Option<&'a str>,
    /// Files to write into the scratch folder.
    pub(super) files: &'a [StartFile<'a>],
    /// Whether the program receives the path at which it was found as its name.
    pub(super) named_by_path: bool,
    /// Whether a socket becomes descriptor 4.
    pub(super) has_socket: bool,
    pub(super) cwd: &'a str,
    pub(super) candidates: &'a [String],
    pub(super) argv: &'a [String],
    pub(super) env: &'a [(&'a str, &'a str)],
}

impl StartRequest<'_> {
    /// The body of a `START` frame.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        let b = &self.resource_limits;
        for bound in [
            b.memory_bytes,
            b.address_space_bytes,
            b.cpu_time_s,
            b.cpus_milli,
            b.processes,
            b.file_size_bytes,
        ] {
            w.u64(bound.unwrap_or(UNLIMITED));
        }
        w.u64(b.open_files.0).u64(b.open_files.1).i32(b.nice);
        w.u64(self.timeout.map_or(UNLIMITED, millis));
        w.u64(millis(self.kill_grace));
        w.u8(u8::from(self.has_stdin));
        w.u8(u8::from(self.named_by_path));
        w.u8(u8::from(self.has_socket));
        w.u32(self.files.len() as u32);
        for file in self.files {
            w.u32(file.mode).block(file.name.as_bytes());
            w.block(file.content);
        }
        w.u32(self.candidates.len() as u32);
        w.u32(self.argv.len() as u32);
        w.u32(self.env.len() as u32);
        w.c_string(self.scratch.unwrap_or_default());
        w.c_string(self.cwd);
        for string in self.candidates.iter().chain(self.argv) {
            w.c_string(string);
        }
        for (name, value) in self.env {
            w.bytes.extend_from_slice(name.as_bytes());
            w.u8(b'=').c_string(value);
        }
        w.bytes
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(UNLIMITED - 1)
}

/// A start request, as the spawner reads it. The strings stay in the body; the fields
/// are offsets into it.
pub(super) struct StartFrame {
    pub(super) resource_limits: ResourceLimits,
    pub(super) timeout: Option<Duration>,
    pub(super) kill_grace: Duration,
    pub(super) has_stdin: bool,
    pub(super) scratch: Option<PathBuf>,
    pub(super) named_by_path: bool,
    pub(super) has_socket: bool,
    files: Vec<FileRanges>,
    cwd: usize,
    candidates: Vec<usize>,
    argv: Vec<usize>,
    env: Vec<usize>,
    body: Vec<u8>,
}

/// Omits the strings, which contain secrets.
impl fmt::Debug for StartFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartFrame")
            .field("program", &self.program())
            .finish_non_exhaustive()
    }
}

impl StartFrame {
    /// Validates a body and locates its strings.
    pub(super) fn decode(body: Vec<u8>) -> Result<StartFrame, Malformed> {
        let mut r = Reader::new(&body);
        let mut bound =
            || -> Result<Option<u64>, Malformed> { Ok(Some(r.u64()?).filter(|v| *v != UNLIMITED)) };
        let mut resource_limits = ResourceLimits {
            memory_bytes: bound()?,
            address_space_bytes: bound()?,
            cpu_time_s: bound()?,
            cpus_milli: bound()?,
            processes: bound()?,
            file_size_bytes: bound()?,
            ..ResourceLimits::default()
        };
        resource_limits.open_files = (r.u64()?, r.u64()?);
        resource_limits.nice = r.i32()?;
        let timeout = Some(r.u64()?).filter(|ms| *ms != UNLIMITED);
        let kill_grace = Duration::from_millis(r.u64()?);
        let has_stdin = r.u8()? != 0;
        let named_by_path = r.u8()? != 0;
        let has_socket = r.u8()? != 0;
        let count = r.u32()?;
        let files = (0..count).map(|_| FileRanges::read(&mut r));
        let files = files.collect::<Result<Vec<_>, Malformed>>()?;
        let counts = [r.u32()?, r.u32()?, r.u32()?];
        let scratch = std::str::from_utf8(r.c_string()?).map_err(|_| Malformed)?;
        let scratch = (!scratch.is_empty()).then(|| PathBuf::from(scratch));
        let cwd = r.position();
        r.c_string()?;
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for (list, count) in lists.iter_mut().zip(counts) {
            for _ in 0..count {
                list.push(r.position());
                r.c_string()?;
            }
        }
        if !r.is_empty() {
            return Err(Malformed);
        }
        let [candidates, argv, env] = lists;
        Ok(StartFrame {
            resource_limits,
            timeout: timeout.map(Duration::from_millis),
            kill_grace,
            has_stdin,
            scratch,
            named_by_path,
            has_socket,
            files,
            cwd,
            candidates,
            argv,
            env,
            body,
        })
    }

    /// The files to write into the scratch folder.
    pub(super) fn files(&self) -> impl Iterator<Item = StartFile<'_>> {
        self.files.iter().map(|file| StartFile {
            name: std::str::from_utf8(&self.body[file.name.clone()]).unwrap_or("file"),
            mode: file.mode,
            content: &self.body[file.content.clone()],
        })
    }

    pub(super) fn cwd(&self) -> &str {
        self.string(self.cwd)
    }

    pub(super) fn candidates(&self) -> impl ExactSizeIterator<Item = &str> {
        self.candidates.iter().map(|at| self.string(*at))
    }

    pub(super) fn program(&self) -> &str {
        self.argv.first().map_or("", |at| self.string(*at))
    }

    /// Total length of arguments and environment, in bytes.
    pub(super) fn argv_env_bytes(&self) -> usize {
        let from = self.argv.first().or(self.env.first());
        from.map_or(0, |from| self.body.len() - from)
    }

    pub(super) fn cwd_pointer(&self) -> *const c_char {
        self.pointer(self.cwd)
    }

    /// Null-terminated lists for `execve`: candidates, arguments, environment. They
    /// point into the body (on the heap) and are valid until `self` is dropped or its
    /// body is moved out.
    pub(super) fn pointers(&self) -> [Vec<*const c_char>; 3] {
        [&self.candidates, &self.argv, &self.env].map(|list| {
            let mut pointers: Vec<_> = list.iter().map(|at| self.pointer(*at)).collect();
            pointers.push(std::ptr::null());
            pointers
        })
    }

    fn pointer(&self, at: usize) -> *const c_char {
        self.body[at..].as_ptr().cast()
    }

    fn string(&self, at: usize) -> &str {
        let rest = &self.body[at..];
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or("(not UTF-8)")
    }
}

/// Where in the body a file is.
struct FileRanges {
    mode: u32,
    name: std::ops::Range<usize>,
    content: std::ops::Range<usize>,
}

impl FileRanges {
    fn read(r: &mut Reader<'_>) -> Result<FileRanges, Malformed> {
        let mode = r.u32()?;
        let mut block = || -> Result<std::ops::Range<usize>, Malformed> {
            let bytes = r.block()?.len();
            let end = r.position();
            Ok(end - bytes..end)
        };
        Ok(FileRanges {
            mode,
            name: block()?,
            content: block()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_request_decodes_to_the_same() {
        let env = [("A", "1=2")];
        let strings = ["/bin/x".to_owned(), "y z".to_owned()];
        let files = [
            StartFile {
                name: "script",
                mode: 0o700,
                content: b"#!/bin/sh\n\0x",
            },
            StartFile {
                name: "file",
                mode: 0o600,
                content: b"",
            },
        ];
        let request = StartRequest {
            resource_limits: ResourceLimits {
                memory_bytes: Some(5),
                open_files: (6, 7),
                nice: -3,
                ..ResourceLimits::default()
            },
            timeout: Some(Duration::from_millis(1500)),
            kill_grace: Duration::from_secs(2),
            has_stdin: true,
            scratch: Some("/tmp/s"),
            files: &files,
            named_by_path: true,
            has_socket: true,
            cwd: "/",
            candidates: &strings[..1],
            argv: &strings,
            env: &env,
        };
        let start = StartFrame::decode(request.encode()).unwrap();
        assert_eq!(start.resource_limits, request.resource_limits);
        assert_eq!(start.timeout, request.timeout);
        assert_eq!(start.kill_grace, request.kill_grace);
        let decoded: Vec<_> = start.files().collect();
        assert_eq!(decoded.len(), 2);
        for (decoded, file) in decoded.iter().zip(&files) {
            let parts =
                |file: &StartFile<'_>| (file.name.to_owned(), file.mode, file.content.to_vec());
            assert_eq!(parts(decoded), parts(file));
        }
        assert!(start.named_by_path && start.has_socket);
        assert_eq!(start.cwd(), "/");
        assert_eq!(start.candidates().collect::<Vec<_>>(), ["/bin/x"]);
        assert_eq!(start.program(), "/bin/x");
        assert_eq!(start.pointers().map(|p| p.len()), [2, 3, 2]);
    }
}
