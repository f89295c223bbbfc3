//! The memory limit: it counts what a tree uses, not what it maps, and pages that its processes
//! share once.

use std::time::Duration;

use naq_runner::{Completion, MemoryLimit, Runner, RunnerError, StopCause, Termination};

use super::harness::{Bench, CONTAINMENTS, options, program, sh, skipped, stdout};

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

#[tokio::test]
async fn files_in_memory_count_although_no_process_maps_them() {
    for bench in Bench::each().await {
        let script = "import os, time\n\
            file = os.memfd_create('x')\n\
            for _ in range(200): os.write(file, bytes(1 << 20))\n\
            time.sleep(20)";
        let ended = run_within(&bench, 64 * MIB, &["python3", "-c", script]).await;
        assert!(ended.oom, "{ended:?}");
        // its input is a file in memory too, which it has not made
        let mut command = sh("sleep 0.5; wc -c");
        command.limits.memory_bytes = Some(64 * MIB);
        command.stdin = naq_runner::Stdin::Bytes(vec![b'x'; 100 << 20].into());
        let ended = bench.run(command).await;
        assert_eq!(stdout(&ended).trim(), "104857600", "{ended:?}");
    }
}

#[tokio::test]
async fn files_in_shared_memory_are_a_job_s_own_count_and_end_with_it() {
    for bench in Bench::each_with(|options| options.spawners = Some(1)).await {
        if !bench.runner.containment().has_namespace() {
            continue;
        }
        let file = format!("/dev/shm/naq-test-{}", std::process::id());
        for _ in 0..3 {
            let script = format!("ls {file}; echo secret > {file} && ls {file}");
            let ended = bench.sh(&script).await;
            assert_eq!(stdout(&ended), format!("{file}\n"), "{ended:?}");
            assert!(!std::path::Path::new(&file).exists());
        }
        // one that leaves nothing leaves its namespace too
        let seen = bench.sh("readlink /proc/self/ns/pid; echo x > /dev/shm/x; rm /dev/shm/x");
        let seen = stdout(&seen.await);
        let again = stdout(&bench.sh("readlink /proc/self/ns/pid").await);
        assert_eq!(seen, again);

        let mut command = sh("head -c 200000000 /dev/zero > /dev/shm/file; sleep 20");
        command.limits.memory_bytes = Some(64 * MIB);
        let ended = bench.run(command).await;
        assert!(ended.oom, "{ended:?}");
    }
}

#[tokio::test]
async fn a_private_tmp_has_the_working_directory_and_ends_with_its_job() {
    for containment in CONTAINMENTS {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let mut options = options(folder.path());
        options.containment = Some(containment);
        options.private_tmp = true;
        let runner = match Runner::start(options).await {
            Ok(runner) => runner,
            Err(error @ RunnerError::PrivateTmp(_)) => {
                assert!(!containment.has_namespace(), "{error}");
                continue;
            }
            Err(error @ RunnerError::Containment { .. }) => {
                skipped(&error.to_string());
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(containment.has_namespace());
        let bench = Bench { runner, folder };
        bench.file("tool", b"#!/bin/sh\necho tool\n", 0o755);
        let outside = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        let file = format!("/tmp/naq-test-{}", std::process::id());
        for _ in 0..3 {
            let mut command = sh(&format!(
                "ls {file} {}; echo x > {file}; ls /tmp/naq-test-*; ./tool; echo y > kept; \
                 echo z > $NAQ_WORK_DIR/z && cat $NAQ_WORK_DIR/z",
                outside.path().display()
            ));
            command.scratch = true;
            let ended = bench.run(command).await;
            assert_eq!(stdout(&ended), format!("{file}\ntool\nz\n"), "{ended:?}");
            assert!(!std::path::Path::new(&file).exists());
            assert!(bench.path("kept").exists());
        }
        let ended = bench
            .run(program(outside.path().to_str().unwrap(), &[]))
            .await;
        let Termination::NotStarted(failure) = ended.end else {
            panic!("{ended:?}");
        };
        assert!(failure.message.contains("a /tmp of their own"), "{failure}");
        let mut command = sh("head -c 200000000 /dev/zero > /tmp/file; sleep 20");
        command.limits.memory_bytes = Some(64 * MIB);
        assert!(bench.run(command).await.oom);
    }
}

/// A job with limits that only controllers enforce.
fn limited() -> naq_runner::Command {
    let mut command = sh("echo ran");
    command.limits.cpus = Some(0.5);
    command.limits.memory_bytes = Some(256 * MIB);
    command
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_is_a_warning() {
    for bench in Bench::each().await {
        let ended = bench.run(limited()).await;
        assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
        assert_eq!(stdout(&ended), "ran\n");
        assert_eq!(bench.sh("true").await.warnings, [""; 0]);
        if bench.runner.memory_limit() == MemoryLimit::Enforced {
            let is_about_memory = |warning: &String| warning.starts_with("limits.memory");
            assert!(!ended.warnings.iter().any(is_about_memory), "{ended:?}");
            continue;
        }
        let mut warnings = ended.warnings.into_iter();
        let cpus = warnings.next().unwrap();
        assert!(cpus.starts_with("limits.cpus is not enforced"), "{cpus}");
        let memory = warnings.next().unwrap();
        assert!(memory.starts_with("limits.memory is watched"), "{memory}");
        assert!(memory.contains("/dev/shm"), "{memory}");
        assert_eq!(warnings.next(), None);
    }
}

#[tokio::test]
async fn strict_limits_refuse_a_job_whose_limit_is_not_enforced() {
    for bench in Bench::each_with(|options| options.strict_limits = true).await {
        if bench.runner.memory_limit() == MemoryLimit::Enforced {
            let mut command = limited();
            command.limits.cpus = None;
            let ended = bench.run(command).await;
            assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
            continue;
        }
        for memory in [false, true] {
            let mut command = limited();
            match memory {
                true => command.limits.cpus = None,
                false => command.limits.memory_bytes = None,
            }
            let ended = bench.run(command).await;
            let Termination::NotStarted(failure) = ended.end else {
                panic!("{ended:?}");
            };
            assert!(failure.fatal && !failure.resource_shortage, "{failure:?}");
            assert_eq!(failure.step, "limits");
            assert!(failure.message.contains("strict limits"), "{failure}");
            assert!(ended.stdout.head.is_empty());
        }
        // other limits are held everywhere
        let mut command = sh("echo ran");
        command.limits.processes = Some(10);
        command.limits.file_size_bytes = Some(MIB);
        assert_eq!(bench.run(command).await.end, Termination::Exited(0));
    }
}
