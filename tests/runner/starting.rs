//! The start of a job, and what prevents it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use naq_runner::{
    ArgumentPiece, Command, Containment, JobFile, Program, ResourceLimits, Runner, RunnerConfig,
    RunnerError, SourceArgument, SourceProgram, SpawnFailure, Stdin, Termination,
};

use super::harness::{Bench, CONTAINMENTS, options, program, sh, skipped, stdout, within};

fn failure(end: Termination) -> SpawnFailure {
    match end {
        Termination::NotStarted(failure) => failure,
        end => panic!("it started: {end:?}"),
    }
}

#[tokio::test]
async fn a_job_runs_and_its_end_is_reported() {
    for bench in Bench::each().await {
        let ended = bench.sh("echo out; echo err >&2; exit 3").await;
        assert_eq!(ended.end, Termination::Exited(3));
        assert_eq!(ended.stdout.head, b"out\n");
        assert_eq!(ended.stderr.head, b"err\n");
        assert_eq!(ended.stdout.bytes, 4);
        assert!(!ended.leaked && !ended.oom && ended.stdout.missing_bytes == 0);
        assert!(ended.started_at.is_some() && ended.stopped.is_none());
        assert!(ended.usage.max_rss_bytes > 0);
        let ended = bench.sh("kill -USR1 $$").await;
        assert_eq!(ended.end, Termination::Signalled(10));
    }
}

#[tokio::test]
async fn the_environment_is_built_and_not_inherited() {
    let bench = Bench::new().await;
    let mut command = program("env", &[]);
    command.env = vec![("LANG".into(), "C".into()), ("A".into(), "b=c".into())];
    let ended = bench.run(command).await;
    let mut lines: Vec<_> = stdout(&ended).lines().map(str::to_owned).collect();
    lines.sort();
    let path = RunnerConfig::new(1).path;
    assert_eq!(
        lines,
        [
            "A=b=c",
            "LANG=C",
            "NAQ_CONTROL_FD=3",
            &format!("PATH={path}")
        ]
    );
}

#[tokio::test]
async fn only_descriptors_0_to_3_are_open() {
    for bench in Bench::each().await {
        let ended = bench
            .sh("for f in /proc/self/fd/*; do echo ${f##*/}; done; readlink /proc/self/fd/0")
            .await;
        let listed = stdout(&ended);
        // Only the shell itself may have the folder open.
        assert!(listed.starts_with("0\n1\n2\n3\n"), "{listed}");
        assert!(listed.ends_with("/dev/null\n"), "{listed}");
        let ended = bench.run(program("ls", &["/proc/self/fd"])).await;
        assert_eq!(
            stdout(&ended),
            "0\n1\n2\n3\n4\n",
            "4 is ls reading the folder"
        );
    }
}

#[tokio::test]
async fn signals_session_and_limits_are_the_defaults() {
    for bench in Bench::each().await {
        let script = "grep -E '^(SigBlk|SigIgn|SigCgt|NoNewPrivs)' /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$; ulimit -c";
        let ended = bench.sh(script).await;
        let text = stdout(&ended);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "SigBlk:\t0000000000000000", "{text}");
        assert_eq!(lines[1], "SigIgn:\t0000000000000000", "{text}");
        assert_eq!(lines[3], "NoNewPrivs:\t1", "{text}");
        assert_eq!(lines[4], lines[5], "it leads its session: {text}");
        assert_eq!(lines[6], "0", "{text}");
    }
}

#[tokio::test]
async fn resource_limits_are_set() {
    for bench in Bench::each().await {
        let mut command = sh("ulimit -t; ulimit -n; ulimit -f; nice");
        command.limits = ResourceLimits {
            cpu_time_s: Some(7),
            open_files: Some(55),
            file_size_bytes: Some(512 * 1024),
            nice: Some(5),
            ..ResourceLimits::default()
        };
        assert_eq!(stdout(&bench.run(command).await), "7\n55\n1024\n5\n");
        let mut command = sh("while :; do :; done");
        command.limits.cpu_time_s = Some(1);
        let ended = bench.run(command).await;
        assert_eq!(ended.end, Termination::Signalled(24), "SIGXCPU");
        let mut command = sh("head -c 1000000 /dev/zero > big");
        command.limits.file_size_bytes = Some(1000);
        let ended = bench.run(command).await;
        assert_ne!(ended.end, Termination::Exited(0));
        assert!(bench.path("big").metadata().unwrap().len() <= 1000);
    }
}

#[tokio::test]
async fn a_job_starts_in_its_working_directory() {
    let bench = Bench::new().await;
    assert_eq!(
        stdout(&bench.sh("pwd -P").await).trim(),
        bench
            .folder
            .path()
            .canonicalize()
            .unwrap()
            .to_str()
            .unwrap()
    );
    let mut command = sh("pwd");
    command.cwd = Some("/usr".into());
    assert_eq!(stdout(&bench.run(command).await), "/usr\n");
    // a relative one starts at that of the runner
    std::fs::create_dir(bench.folder.path().join("below")).unwrap();
    let mut command = sh("pwd");
    command.cwd = Some("below".into());
    let printed = stdout(&bench.run(command).await);
    assert!(printed.ends_with("/below\n"), "{printed}");
    // The path of a program may be relative to the working directory.
    bench.file("tool", b"#!/bin/sh\necho tool $1\n", 0o755);
    let ended = bench.run(program("./tool", &["x"])).await;
    assert_eq!(stdout(&ended), "tool x\n");
}

#[tokio::test]
async fn a_script_runs_by_its_shebang_or_by_sh() {
    let bench = Bench::new().await;
    let script = |source: &str| {
        let program = Program::Script {
            source: source.to_owned(),
            args: vec!["a b".to_owned()],
        };
        Command::new("script", program)
    };
    let ended = bench.run(script("echo \"sh $1\"")).await;
    assert_eq!(stdout(&ended), "sh a b\n");
    let ended = bench.run(script("#!/bin/cat\ntext")).await;
    assert!(stdout(&ended).starts_with("#!/bin/cat\ntext"));
    let failed = failure(bench.run(script("#!/bin/sh\r\necho\r\n")).await.end);
    assert!(failed.fatal && failed.message.contains("CRLF"), "{failed}");
    check_scratch_is_left_empty(bench).await;
}

#[tokio::test]
async fn a_source_file_is_run_by_the_first_program_that_exists() {
    let bench = Bench::new().await;
    bench.file("mine", b"#!/bin/sh\necho \"mine: $0 $@\"\n", 0o755);
    let source = |programs: &[&str]| {
        let mut command = Command::new(
            "source",
            Program::Source(SourceProgram {
                file_name: "job.txt".to_owned(),
                source: "text\n".into(),
                programs: programs.iter().map(|one| (*one).to_owned()).collect(),
                args: vec![
                    SourceArgument(vec![ArgumentPiece::File]),
                    SourceArgument::text("a b"),
                ],
            }),
        );
        command.files.push(JobFile {
            name: ".extra",
            variable: "EXTRA",
            content: "more\n".into(),
        });
        command
    };
    let ended = bench.run(source(&["/no/such", "./mine", "cat"])).await;
    let printed = stdout(&ended);
    assert!(printed.starts_with("mine: "), "{printed}");
    assert!(printed.ends_with("/job.txt a b\n"), "{printed}");
    let mut command = source(&["./absent", "sh"]);
    if let Program::Source(source) = &mut command.program {
        source.source = "echo $0 $1; cat $EXTRA".into();
        source.args[1] = SourceArgument::text("x");
    }
    let printed = stdout(&bench.run(command).await);
    assert!(printed.ends_with("/job.txt x\nmore\n"), "{printed}");
    let failed = failure(
        bench
            .run(source(&["/no/such", "no-such-program"]))
            .await
            .end,
    );
    assert!(
        failed.fatal
            && failed
                .message
                .contains("no-such-program (not found in PATH)"),
        "{failed}"
    );
    check_scratch_is_left_empty(bench).await;
}

/// Checks that naq leaves nothing in the scratch folders, and that they are gone in the end.
async fn check_scratch_is_left_empty(bench: Bench) {
    let root = std::fs::read_dir(bench.path("scratch"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    for folder in std::fs::read_dir(root.path()).unwrap() {
        let left = std::fs::read_dir(folder.unwrap().path()).unwrap().count();
        assert_eq!(left, 0, "nothing is left for the next job");
    }
    let scratch = bench.path("scratch");
    bench.runner.shutdown().await;
    let left = std::fs::read_dir(scratch).unwrap().count();
    assert_eq!(left, 0, "their folders are gone");
}

#[tokio::test]
async fn a_scratch_folder_lives_as_long_as_its_guard() {
    let bench = Bench::new().await;
    let mut command = sh("cd $NAQ_WORK_DIR && echo made > artifact && mkdir d && chmod 0 d; pwd");
    command.scratch = true;
    let ended = bench.run(command).await;
    let scratch = ended.scratch.as_ref().unwrap();
    let path = scratch.path().to_owned();
    assert_eq!(stdout(&ended).trim(), path.to_str().unwrap());
    let artifact = std::fs::read_to_string(path.join("artifact")).unwrap();
    assert_eq!(artifact, "made\n");
    std::thread::spawn(move || drop(ended)).join().unwrap();
    removed(&path).await;
}

/// Waits until a spawner has removed a folder.
async fn removed(path: &Path) {
    super::harness::within(async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_reason_not_to_start_has_its_own_message() {
    for bench in Bench::each().await {
        let folder = bench.folder.path().to_str().unwrap().to_owned();
        let plain = bench.file("plain", b"#!/bin/sh\n", 0o644);
        let text = bench.file("text", b"no first line\n", 0o755);
        let empty = bench.file("empty", b"", 0o755);
        let crlf = bench.file("crlf", b"#!/bin/sh\r\necho\r\n", 0o755);
        let lost = bench.file("lost", b"#!/no/such/interpreter -x\n", 0o755);
        let elf = bench.file("elf", b"\x7fELF and then nothing of the kind", 0o755);
        let below = format!("{plain}/x");
        let cases: &[(&str, &str, &str, &str)] = &[
            ("no-such-command", "exec", "ENOENT", "not found in PATH"),
            ("/no/such/command", "exec", "ENOENT", "no such command"),
            (&below, "exec", "ENOTDIR", "not a directory"),
            (&plain, "exec", "EACCES", "not executable"),
            (&folder, "exec", "EACCES", "is a directory"),
            (&text, "exec", "ENOEXEC", "no #! line"),
            (&empty, "exec", "ENOEXEC", "is empty"),
            (&crlf, "exec", "ENOENT", "CRLF"),
            (
                &lost,
                "exec",
                "ENOENT",
                "does not exist: /no/such/interpreter",
            ),
            (&elf, "exec", "ENOEXEC", "bad ELF"),
        ];
        for (name, step, errno, words) in cases {
            let failed = failure(bench.run(program(name, &[])).await.end);
            assert_eq!(failed.step, *step, "{failed:?}");
            assert_eq!(failed.errno.as_deref(), Some(*errno), "{failed:?}");
            assert!(failed.message.contains(words), "{words}: {failed:?}");
            assert!(failed.fatal, "{failed:?}");
        }
        for (cwd, errno, words) in [
            (
                "/no/such/folder".to_owned(),
                "ENOENT",
                "no such working directory",
            ),
            (plain, "ENOTDIR", "is not a directory"),
        ] {
            let mut command = sh("true");
            command.cwd = Some(cwd.into());
            let failed = failure(bench.run(command).await.end);
            assert_eq!(failed.step, "cwd");
            assert_eq!(failed.errno.as_deref(), Some(errno));
            assert!(failed.fatal && failed.message.contains(words), "{failed:?}");
        }
        assert_eq!(
            bench.sh("true").await.end,
            Termination::Exited(0),
            "and continues"
        );
    }
}

#[tokio::test]
async fn arguments_that_are_too_big_are_reported() {
    let bench = Bench::new().await;
    let long = "x".repeat(128 * 1024);
    let failed = failure(bench.run(program("true", &[&long])).await.end);
    assert_eq!(failed.errno.as_deref(), Some("E2BIG"));
    assert!(
        failed.fatal && failed.message.contains("too big"),
        "{failed}"
    );
    let many = vec!["0123456789abcdef"; 140_000];
    let failed = failure(bench.run(program("true", &many)).await.end);
    assert_eq!(failed.errno.as_deref(), Some("E2BIG"));
    // Arguments up to the limit pass, although they need far more than one message.
    let most = "y".repeat(128 * 1024 - 1);
    let ended = bench.run(program("printf", &["%s", &most])).await;
    assert_eq!(ended.stdout.bytes, most.len() as u64);
}

#[tokio::test]
async fn nul_and_equals_signs_are_rejected() {
    let bench = Bench::new().await;
    let mut bad_name = sh("true");
    bad_name.env = vec![("A=B".into(), "c".into())];
    let mut bad_value = sh("true");
    bad_value.env = vec![("A".into(), "c\0d".into())];
    let mut bad_cwd = sh("true");
    bad_cwd.cwd = Some("/a\0b".into());
    let cases = [
        program("tr\0ue", &[]),
        program("", &[]),
        program("true", &["a\0b"]),
        bad_name,
        bad_value,
        bad_cwd,
    ];
    for command in cases {
        let failed = failure(bench.run(command).await.end);
        assert!(failed.fatal && failed.step == "request", "{failed:?}");
    }
}

#[tokio::test]
async fn standard_input_may_be_read_or_ignored() {
    for bench in Bench::each().await {
        let text: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
        let mut command = program("sha256sum", &[]);
        command.stdin = Stdin::Bytes(Bytes::from(text.clone()));
        let ended = bench.run(command).await;
        use sha2::Digest;
        let expected: String = sha2::Sha256::digest(&text)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert!(stdout(&ended).starts_with(&expected));
        let mut never = sh("exit 4");
        never.stdin = Stdin::Bytes(Bytes::from(text));
        assert_eq!(bench.run(never).await.end, Termination::Exited(4));
        let ended = bench.run(program("cat", &[])).await;
        assert_eq!((ended.end, ended.stdout.bytes), (Termination::Exited(0), 0));
    }
}

#[tokio::test]
async fn many_jobs_share_few_slots() {
    for bench in Bench::each().await {
        let jobs: Vec<_> = (0..100)
            .map(|n| bench.runner.start_job(sh(&format!("echo {n}"))))
            .collect();
        for (n, job) in jobs.iter().enumerate() {
            let ended = super::harness::within(job.wait()).await;
            assert_eq!(stdout(&ended), format!("{n}\n"));
        }
    }
}

#[tokio::test]
async fn a_concurrency_beyond_the_descriptor_limit_is_rejected() {
    let mut options = super::harness::options(std::path::Path::new("/tmp"));
    options.concurrency = 100_000_000;
    let refused = Runner::start(options).await.unwrap_err();
    assert!(matches!(refused, RunnerError::FdLimitTooLow { .. }));
    let mut options = super::harness::options(std::path::Path::new("/tmp"));
    options.concurrency = 0;
    let refused = Runner::start(options).await.unwrap_err();
    assert!(matches!(refused, RunnerError::NoSlots));
}

#[test]
fn containments_parse_from_their_names() {
    for containment in CONTAINMENTS {
        assert_eq!(containment.to_string().parse(), Ok(containment));
    }
    assert!("chroot".parse::<Containment>().is_err());
}

#[test]
fn debug_output_hides_values() {
    let mut command = sh("true");
    command.env = vec![("TOKEN".into(), "hunter2".into())];
    command.secrets = vec![("PASSWORD".into(), "hunter3".into())];
    let shown = format!("{command:?}");
    assert!(shown.contains("TOKEN") && shown.contains("PASSWORD"));
    assert!(!shown.contains("hunter"), "{shown}");
}

/// A file system of 64 KiB. `None` if this process may not mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf) -> Option<SmallDisk> {
        std::fs::create_dir_all(&path).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a disk that is soon full")]
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "none"])
            .arg(&path)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            skipped("a full disk, since this process may mount none");
        }
        mounted.then_some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "as above")]
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

fn large_script() -> Command {
    let program = Program::Script {
        source: format!("#!/bin/sh\n# {}\n", "x".repeat(100_000)),
        args: Vec::new(),
    };
    Command::new("large", program)
}

#[tokio::test]
async fn a_script_that_does_not_fit_the_scratch_folder_fails_in_words_after_a_bounded_wait() {
    const RESOURCE_WAIT_MAX: Duration = Duration::from_secs(2);
    for containment in CONTAINMENTS {
        let folder = tempfile::tempdir().unwrap();
        // before the runner starts: a spawner may be in a mount namespace of its own
        let Some(_disk) = SmallDisk::mount(folder.path().join("scratch")) else {
            return;
        };
        let mut options = super::harness::options(folder.path());
        options.containment = Some(containment);
        options.resource_wait_max = RESOURCE_WAIT_MAX;
        options.spawners = Some(1);
        let runner = match Runner::start(options).await {
            Ok(runner) => runner,
            Err(RunnerError::Containment { source, .. }) => {
                skipped(&format!("{containment}: {source}"));
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let bench = Bench { runner, folder };
        let began = std::time::Instant::now();
        let large = bench.runner.start_job(large_script());
        // others start meanwhile, also on the same spawner
        tokio::select! {
            ended = large.wait() => panic!("{ended:?}"),
            other = bench.sh("true") => assert_eq!(other.end, Termination::Exited(0)),
        }
        let failed = failure(super::harness::within(large.wait()).await.end);
        assert!(failed.resource_shortage && !failed.fatal, "{failed:?}");
        assert_eq!(failed.errno.as_deref(), Some("ENOSPC"));
        assert!(failed.message.contains("cannot write 100"), "{failed}");
        assert!(began.elapsed() >= RESOURCE_WAIT_MAX);
        // a shorter timeout bounds the wait
        let mut command = large_script();
        command.timeout = Some(Duration::from_millis(1));
        let began = std::time::Instant::now();
        assert!(failure(bench.run(command).await.end).resource_shortage);
        assert!(began.elapsed() < RESOURCE_WAIT_MAX);
        assert_eq!(bench.sh("true").await.end, Termination::Exited(0));
        bench.runner.shutdown().await;
    }
}

/// The spawners of this process.
fn spawners() -> Vec<String> {
    let children = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    let children = std::fs::read_to_string(children).unwrap();
    children.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_spawner_without_descriptors_returns_its_jobs_after_a_bounded_wait() {
    for containment in CONTAINMENTS {
        let before = spawners();
        let folder = tempfile::tempdir().unwrap();
        let mut options = super::harness::options(folder.path());
        options.containment = Some(containment);
        options.concurrency = 1;
        options.resource_wait_max = Duration::from_millis(400);
        let Ok(runner) = Runner::start(options).await else {
            continue;
        };
        let limit = |files: &str| {
            for spawner in spawners().iter().filter(|pid| !before.contains(pid)) {
                #[expect(clippy::disallowed_methods, reason = "limits another process")]
                let limited = std::process::Command::new("prlimit")
                    .args(["--pid", spawner, &format!("--nofile={files}")])
                    .status();
                assert!(limited.unwrap().success());
            }
        };
        // the spawner has opened what it needs itself
        let first = runner.start_job(sh("true"));
        super::harness::within(first.wait()).await;
        limit("4:");
        let job = runner.start_job(sh("true"));
        let failed = failure(super::harness::within(job.wait()).await.end);
        assert!(failed.resource_shortage, "{failed:?}");
        limit("1024:");
        let job = runner.start_job(sh("true"));
        let ended = super::harness::within(job.wait()).await;
        assert_eq!(ended.end, Termination::Exited(0));
        runner.shutdown().await;
    }
}

#[tokio::test]
async fn a_file_for_the_job_is_in_its_scratch_folder_and_in_a_variable() {
    for bench in Bench::each().await {
        let mut command = sh("cat $MY_FILE | wc -c; ls -l $MY_FILE; ls -A $NAQ_WORK_DIR");
        command.scratch = true;
        command.files.push(JobFile {
            name: "my-file",
            variable: "MY_FILE",
            content: Bytes::from(vec![b'x'; 300_000]),
        });
        let ended = bench.run(command).await;
        let text = stdout(&ended);
        assert!(text.starts_with("300000\n-rw------- "), "{text}");
        assert!(text.ends_with("\nmy-file\n"), "{text}");
        let mut command = sh("ls -A $NAQ_WORK_DIR");
        command.scratch = true;
        drop(ended);
        assert_eq!(stdout(&bench.run(command).await), "");
    }
}

/// Runs a spawner, notes when, and ends it soon after.
const SHORT_LIVED: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
date +%s%3N >> STARTS
(sleep 0.1; kill -9 $$) &
exec PROGRAM "$@"
"#;

/// Without pauses a machine that ends each spawner, as one without memory does, would soon have no process
/// ids left.
#[tokio::test]
async fn spawners_that_die_soon_after_their_start_are_started_with_growing_pauses() {
    let bench = tempfile::tempdir().unwrap();
    let mut options = options(bench.path());
    let starts = bench.path().join("starts");
    let program = bench.path().join("spawner");
    let real = options.spawner_program.take().unwrap();
    let script = SHORT_LIVED
        .replace("STARTS", starts.to_str().unwrap())
        .replace("PROGRAM", real.to_str().unwrap());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    options.spawner_program = Some(program);
    options.concurrency = 1;
    options.spawners = Some(1);
    let runner = Runner::start(options).await.unwrap();
    // fifty milliseconds after the fourth one, and each time twice as long
    let pause_ms = within(async {
        loop {
            let text = tokio::fs::read_to_string(&starts).await.unwrap_or_default();
            let times: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
            if times.len() >= 9 {
                break times.windows(2).map(|two| two[1] - two[0]).max();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(pause_ms >= Some(800), "{pause_ms:?}");
    runner.shutdown().await;
}
