//! What a job inherits on Linux before 5.9, which cannot close many descriptors at once.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::process::{Command, Stdio};

use crate::harness::naq::Naq;
use crate::harness::nats::{TestServer, naq as program};
use crate::harness::skipped;

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

/// What a job prints on such a kernel, and its errors.
fn run_job(naq: &Naq, containment: &str, script: &str) -> (String, String) {
    #[expect(clippy::disallowed_methods, reason = "it is to inherit a descriptor")]
    let ended = Command::new("python3")
        .args(["-c", WITHOUT_CLOSE_RANGE])
        .arg(program())
        .args(["run", "--", "sh", "-c", script])
        .env_clear()
        .envs(naq.environment())
        .env("NAQ_CONTAINMENT", containment)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(ended.stdout), text(ended.stderr))
}

/// The descriptors among paths such as `/proc/self/fd/3`.
fn descriptors(paths: &str) -> Vec<u32> {
    let paths = paths.split_whitespace();
    let mut descriptors: Vec<u32> = paths
        .filter_map(|path| path.rsplit('/').next()?.parse().ok())
        .collect();
    descriptors.sort_unstable();
    descriptors
}

#[test]
fn a_job_inherits_no_descriptor_of_a_worker_on_an_old_kernel() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (printed, errors) = run_job(&naq, "auto", "echo /proc/self/fd/*");
    // the last one is of the shell, which reads the folder
    assert_eq!(
        descriptors(&printed),
        [0, 1, 2, 3, 4],
        "{printed}: {errors}"
    );
}

/// The first process of a job's namespace lives as long as the job, and would keep pipes and sockets open.
#[test]
fn the_first_process_of_a_namespace_inherits_no_descriptor_on_an_old_kernel() {
    let server = TestServer::start();
    let naq = Naq::new(&server);
    let (printed, errors) = run_job(&naq, "namespace", "echo /proc/1/fd/*");
    if errors.contains("containment") {
        return skipped("this machine permits no namespaces");
    }
    // the last one tells it of signals
    assert_eq!(
        descriptors(&printed),
        [0, 1, 2, 3, 4],
        "{printed}: {errors}"
    );
}
