//! Explains why a program could not be started. The kernel reports the same errno
//! for a missing command and a missing interpreter, so this module inspects the
//! file.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::super::start_request::StartFrame;
use super::super::sys::child::{ChildPlan, ChildStep};

/// The explanation of a failed start.
#[derive(Debug)]
pub(super) struct Diagnosis {
    /// The failed step, as shown in the job's record.
    pub(super) step: &'static str,
    /// The error of the system.
    pub(super) errno: Errno,
    /// What failed and why, as a sentence.
    pub(super) message: String,
    /// Whether a retry cannot help.
    pub(super) fatal: bool,
}

/// Explains the error that the child left in its plan.
pub(super) fn diagnose(start: &StartFrame, plan: &ChildPlan) -> Diagnosis {
    let errno = Errno::from_raw(plan.failed_errno);
    let cwd = start.cwd();
    let step = plan.failed_step;
    let (step, message, fatal) = if step == ChildStep::WorkDir as u8 {
        let (message, fatal) = work_dir(cwd, errno);
        ("cwd", message, fatal)
    } else if step == ChildStep::Exec as u8 {
        let (message, fatal) = exec(start, plan.failed_candidate, errno);
        ("exec", message, fatal)
    } else if step == ChildStep::Limit as u8 {
        let message = format!("a resource limit cannot be set: {}", errno.desc());
        ("limits", message, errno == Errno::EPERM)
    } else if step == ChildStep::Nice as u8 {
        let message = format!(
            "the nice value {} cannot be set: {}",
            start.resource_limits.nice,
            errno.desc()
        );
        (
            "nice",
            message,
            matches!(errno, Errno::EPERM | Errno::EACCES),
        )
    } else {
        let name = if step == ChildStep::User as u8 {
            "user"
        } else if step == ChildStep::Landlock as u8 {
            "landlock"
        } else if step == ChildStep::Session as u8 {
            "session"
        } else if step == ChildStep::Cgroup as u8 {
            "cgroup"
        } else if step == ChildStep::Descriptors as u8 {
            "descriptors"
        } else if step == ChildStep::Mounts as u8 {
            "namespace"
        } else {
            "orphaned"
        };
        (name, format!("{name}: {}", errno.desc()), false)
    };
    Diagnosis {
        step,
        errno,
        message,
        fatal,
    }
}

fn work_dir(cwd: &str, errno: Errno) -> (String, bool) {
    match errno {
        Errno::ENOENT => (format!("no such working directory: {cwd}"), true),
        Errno::ENOTDIR => (
            format!("the working directory is not a directory: {cwd}"),
            true,
        ),
        Errno::EACCES => (
            format!("the working directory may not be entered: {cwd}"),
            true,
        ),
        _ => (
            format!("the working directory {cwd}: {}", errno.desc()),
            false,
        ),
    }
}

fn exec(start: &StartFrame, candidate: usize, errno: Errno) -> (String, bool) {
    let program = start.program();
    let candidates: Vec<&str> = start.candidates().collect();
    // Relative to the child's working directory.
    let at = |path: &str| -> PathBuf { Path::new(start.cwd()).join(path) };
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            // If the file exists, ENOENT refers to its interpreter.
            for path in &candidates {
                if let Ok(found) = fs::metadata(at(path))
                    && found.is_file()
                {
                    return interpreter(path, &at(path));
                }
            }
            let searched = !program.contains('/');
            if searched {
                (
                    format!("no such command: {program} (not found in PATH)"),
                    true,
                )
            } else if errno == Errno::ENOTDIR {
                (
                    format!("no such command: {program} (a part of the path is not a directory)"),
                    true,
                )
            } else {
                (format!("no such command: {program}"), true)
            }
        }
        Errno::EACCES => {
            let path = candidates.get(candidate).copied().unwrap_or(program);
            match fs::metadata(at(path)) {
                Ok(found) => (explain_eacces(path, &at(path), &found), true),
                Err(_) => (
                    format!("{path}: a directory on the way may not be entered"),
                    true,
                ),
            }
        }
        Errno::ENOEXEC => {
            let path = candidates.get(candidate).copied().unwrap_or(program);
            (not_executable_format(path, &at(path)), true)
        }
        Errno::ELIBBAD | Errno::EINVAL => (
            format!("{program}: bad ELF file or interpreter ({})", errno.desc()),
            true,
        ),
        Errno::ELOOP => (
            format!("{program}: too many symbolic links, or #! lines that name each other"),
            true,
        ),
        Errno::ENAMETOOLONG => (format!("the program's path is too long: {program}"), true),
        Errno::E2BIG => (
            format!(
                "arguments and environment are too big: {} bytes together (the system allows one argument 128 KiB, and all of them a quarter of the stack limit)",
                start.argv_env_bytes()
            ),
            true,
        ),
        Errno::ETXTBSY => (format!("{program} is being written to"), false),
        Errno::EPERM => (format!("{program}: not permitted by the system"), true),
        _ => (format!("{program}: {}", errno.desc()), false),
    }
}

fn explain_eacces(path: &str, file: &Path, found: &Metadata) -> String {
    if found.is_dir() {
        return format!("{path} is a directory, not a program");
    }
    if !found.is_file() {
        return format!("{path} is not a regular file");
    }
    if found.permissions().mode() & 0o111 == 0 {
        return format!("{path} is not executable (chmod +x would make it so)");
    }
    // The missing permission may be that of the interpreter.
    if let Ok(FileKind::Script { interpreter, .. }) = file_kind(file) {
        return format!(
            "{path} may not be executed, or its interpreter {interpreter} may not (or is a directory)"
        );
    }
    format!("{path} may not be executed by this user, or its file system is mounted noexec")
}

/// The format of a file, by its first bytes.
enum FileKind {
    Script { interpreter: String, crlf: bool },
    Elf { interpreter: Option<String> },
    Empty,
    Other,
}

fn file_kind(file: &Path) -> io::Result<FileKind> {
    // A job may have replaced the program by a FIFO, and the spawner would wait for its writer.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(file)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(FileKind::Empty);
    }
    if let Some(rest) = bytes.strip_prefix(b"#!") {
        let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
        let crlf = line.ends_with(b"\r");
        let line = String::from_utf8_lossy(line);
        let interpreter = line
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        return Ok(FileKind::Script { interpreter, crlf });
    }
    if bytes.starts_with(b"\x7fELF") {
        return Ok(FileKind::Elf {
            interpreter: elf_interpreter(&bytes),
        });
    }
    Ok(FileKind::Other)
}

/// The dynamic loader that a 64-bit ELF file names, if its entry is near the start.
fn elf_interpreter(bytes: &[u8]) -> Option<String> {
    const PT_INTERP: u32 = 3;
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let half = |at: usize| -> Option<u16> {
        Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
    };
    let headers = usize::try_from(word(32)?).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    for index in 0..count.min(64) {
        let at = headers.checked_add(index * size)?;
        let kind = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        if kind == PT_INTERP {
            let from = usize::try_from(word(at + 8)?).ok()?;
            let length = usize::try_from(word(at + 32)?).ok()?;
            let name = bytes.get(from..from.checked_add(length)?)?;
            let name = name.split(|b| *b == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    None
}

fn interpreter(path: &str, file: &Path) -> (String, bool) {
    let message = match file_kind(file) {
        Ok(FileKind::Script { crlf: true, .. }) => format!(
            "the #! line of {path} ends in CRLF (Windows line endings): the system looks for an interpreter whose name ends in a carriage return"
        ),
        Ok(FileKind::Script { interpreter, .. }) => {
            format!("the #! line of {path} names an interpreter that does not exist: {interpreter}")
        }
        Ok(FileKind::Elf {
            interpreter: Some(interpreter),
        }) => format!("the dynamic loader that {path} asks for does not exist: {interpreter}"),
        _ => format!("{path} exists, but something it needs to run does not"),
    };
    (message, true)
}

fn not_executable_format(path: &str, file: &Path) -> String {
    match file_kind(file) {
        Ok(FileKind::Elf { .. }) => {
            format!("{path} is a bad ELF file, or made for another kind of machine")
        }
        Ok(FileKind::Empty) => format!("{path} is empty: it has no #! line and is not a program"),
        Ok(FileKind::Script { interpreter, .. }) if interpreter.is_empty() => {
            format!("the #! line of {path} names no interpreter")
        }
        Ok(FileKind::Script { .. }) => format!("the interpreter of {path} is not a program"),
        _ => format!("{path} has no #! line and is not a program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_has_become_a_fifo_or_a_device_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [
            fifo.as_path(),
            Path::new("/dev/tty"),
            Path::new("/dev/zero"),
        ] {
            assert!(file_kind(path).is_err(), "{}", path.display());
        }
        assert!(file_kind(Path::new("/proc/self/exe")).is_ok());
    }
}
