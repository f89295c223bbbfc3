//! What hardening options of systemd do to containment. Each mount is what systemd makes of the option.

use std::path::Path;

use super::run;
use super::systemd::BREAKS_CONTAINMENT;
use crate::harness::nats::naq;
use crate::harness::{find_program, is_root};

/// Options, how the worker's file system looks with them, and whether a worker has PID namespaces then.
const OPTIONS: &[(&str, &str, bool)] = &[
    ("none", "true", true),
    ("PrivateTmp", "mount -t tmpfs tmpfs /tmp", true),
    (
        "ProtectKernelTunables",
        "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys",
        false,
    ),
    (
        "ProtectKernelLogs",
        "mount --bind /dev/null /proc/kmsg",
        false,
    ),
    (
        "ProtectProc",
        "mount -t proc -o hidepid=invisible proc /proc",
        false,
    ),
];

#[test]
fn options_that_change_proc_take_the_namespace_of_jobs() {
    let needed = "the options of systemd are not tried";
    if !is_root(needed) {
        return;
    }
    let (Some(unshare), Some(_)) = (
        find_program("unshare", needed),
        find_program("setpriv", needed),
    ) else {
        return;
    };
    // where the user of a worker may execute it
    let folder = tempfile::Builder::new()
        .prefix("naq-hardening-")
        .tempdir_in("/var/tmp")
        .unwrap();
    let program = folder.path().join("naq");
    std::fs::copy(naq(), &program).unwrap();
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, open.clone()).unwrap();
    }
    let refusal = |mounts: &str| {
        let worker = format!(
            "{mounts} && cd / && exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \
             --bounding-set=-all env -i HOME=/nonexistent PATH=/usr/bin:/bin NAQ_CONNECT_TIMEOUT=1ms \
             NAQ_NATS_URL=nats://127.0.0.1:1 NAQ_CONTAINMENT=namespace {} worker",
            program.display()
        );
        let done = run(&unshare, &["--mount", "sh", "-c", &worker], Path::new("/"));
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    let unavailable = "containment `namespace` is unavailable here";
    if refusal("true").contains(unavailable) {
        crate::harness::skipped("this machine has no namespaces for users that are not root");
        return;
    }
    for (option, mounts, has_namespace) in OPTIONS {
        let text = refusal(mounts);
        assert_eq!(
            !text.contains(unavailable),
            *has_namespace,
            "{option}: {text}"
        );
        if *has_namespace {
            // it came as far as NATS, of which there is none
            assert!(text.contains("cannot connect to NATS"), "{option}: {text}");
        } else {
            assert!(BREAKS_CONTAINMENT.contains(option), "{option}");
        }
    }
}
