//! The memory limit: it counts what a tree uses, not what it maps, and pages that its processes
//! share once.

use std::time::Duration;

use naq_runner::{Completion, MemoryLimit, StopCause, Termination};

use super::harness::{Bench, program, sh, skipped, stdout};

const MIB: u64 = 1 << 20;

async fn run_within(bench: &Bench, memory: u64, words: &[&str]) -> Completion {
    let mut command = program(words[0], &words[1..]);
    command.limits.memory_bytes = Some(memory);
    command.timeout = Some(Duration::from_secs(50));
    bench.run(command).await
}

/// Whether the kernel enforces the limit here. Otherwise says what is missing.
fn is_enforced(bench: &Bench) -> bool {
    let is_enforced = bench.runner.memory_limit() == MemoryLimit::Enforced;
    if !is_enforced {
        let containment = bench.runner.containment();
        skipped(&format!(
            "the `memory` controller, which {containment} lacks"
        ));
    }
    is_enforced
}

#[tokio::test]
async fn memory_that_processes_share_counts_once() {
    for bench in Bench::each().await {
        let script = "import os, time\n\
            shared = bytearray(b'x') * (200 << 20)\n\
            children = [os.fork() or (time.sleep(1.5), os._exit(0)) for _ in range(8)]\n\
            print([os.waitpid(child, 0)[1] for child in children])";
        let ended = run_within(&bench, 512 * MIB, &["python3", "-c", script]).await;
        assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
        assert_eq!(stdout(&ended), "[0, 0, 0, 0, 0, 0, 0, 0]\n");
    }
}

#[tokio::test]
async fn a_job_that_uses_more_than_its_limit_ends_as_out_of_memory() {
    for bench in Bench::each().await {
        let script = "import time\n\
            kept = []\n\
            for _ in range(128):\n    kept.append(bytearray(b'x') * (16 << 20)); time.sleep(0.02)\n\
            print('all of it')";
        let ended = run_within(&bench, 512 * MIB, &["python3", "-c", script]).await;
        assert!(ended.oom, "{ended:?}");
        assert_eq!(ended.end, Termination::Signalled(9));
        assert_eq!(stdout(&ended), "");
        if !is_enforced(&bench) {
            assert_eq!(ended.stopped, Some(StopCause::Memory));
        }
    }
}

#[tokio::test]
async fn runtimes_that_map_far_more_than_they_use_start_under_a_small_limit() {
    for bench in Bench::each().await {
        for words in [
            &["python3", "-c", "print(1)"][..],
            &["node", "-e", "console.log(1)"],
            &["java", "-version"],
            &["go", "version"],
        ] {
            let found = bench.sh(&format!("command -v {}", words[0])).await;
            if found.end != Termination::Exited(0) {
                skipped(&format!("{}, which is not installed", words[0]));
                continue;
            }
            let ended = run_within(&bench, 256 * MIB, words).await;
            assert_eq!(ended.end, Termination::Exited(0), "{words:?}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn the_address_space_is_limited_only_on_request() {
    let bench = Bench::new().await;
    let script = "import mmap; mmap.mmap(-1, 4 << 30); print('mapped')";
    let ended = run_within(&bench, 256 * MIB, &["python3", "-c", script]).await;
    assert_eq!(stdout(&ended), "mapped\n", "{ended:?}");
    let mut command = program("python3", &["-c", script]);
    command.limits.address_space_bytes = Some(1024 * MIB);
    let ended = bench.run(command).await;
    assert_eq!(ended.end, Termination::Exited(1), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr.head).contains("Cannot allocate memory"));
}

#[tokio::test]
async fn a_private_file_system_in_memory_counts() {
    for bench in Bench::each().await {
        if !bench.runner.containment().has_namespace() {
            continue;
        }
        let mut command = sh(
            "mkdir d && mount -t tmpfs none d || exit 77; sleep 0.3; head -c 200000000 /dev/zero > d/file; sleep 20",
        );
        command.limits.memory_bytes = Some(64 * MIB);
        let ended = bench.run(command).await;
        if ended.end == Termination::Exited(77) {
            skipped("tmpfs, since a job may not mount one");
            continue;
        }
        assert_eq!(ended.stopped, Some(StopCause::Memory), "{ended:?}");
        // a job with a limit that leaves its mounts behind: the next one does not see them
        let mut command = sh("mkdir e; mount -t tmpfs none e && touch e/file; sleep 0.3");
        command.limits.memory_bytes = Some(64 * MIB);
        assert_eq!(bench.run(command).await.end, Termination::Exited(0));
        for _ in 0..8 {
            assert_eq!(stdout(&bench.sh("ls e").await), "");
        }
    }
}
