//! What a job inherits on Linux before 5.9, which cannot close many descriptors at once.

use std::process::{Command, Stdio};

use crate::harness::naq::Naq;
use crate::harness::nats::{TestServer, naq as program};

/// Runs a program as that kernel would: `close_range` (436 everywhere) is unknown. Leaves a descriptor open for it.
const WITHOUT_CLOSE_RANGE: &str = r#"
import ctypes, os, struct, sys
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ENOSYS = 38, 22, 2, 38
LOAD, JUMP_IF_EQUAL, RETURN, ERRNO, ALLOW = 0x20, 0x15, 0x06, 0x00050000, 0x7FFF0000
steps = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, 436), (RETURN, 0, 0, ERRNO | ENOSYS), (RETURN, 0, 0, ALLOW)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
program = Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
    sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
os.dup2(os.open("/dev/null", os.O_RDONLY), 100, inheritable=True)
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_job_inherits_no_descriptor_of_a_worker_on_an_old_kernel() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    #[expect(clippy::disallowed_methods, reason = "it is to inherit a descriptor")]
    let ended = Command::new("python3")
        .args(["-c", WITHOUT_CLOSE_RANGE])
        .arg(program())
        .args(["run", "--", "sh", "-c", "echo /proc/self/fd/*"])
        .env_clear()
        .envs(naq.environment())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8(ended.stdout).unwrap();
    let mut descriptors: Vec<u32> = printed
        .split_whitespace()
        .filter_map(|path| path.rsplit('/').next()?.parse().ok())
        .collect();
    descriptors.sort_unstable();
    // the last one is of the shell, which reads the folder
    assert_eq!(
        descriptors,
        [0, 1, 2, 3, 4],
        "{printed}: {:?}",
        ended.stderr
    );
}
