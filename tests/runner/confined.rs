//! Jobs with fewer rights than their worker: another user, restricted files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use naq_runner::{
    Command, FileAccess, JobUser, Program, Runner, RunnerConfig, RunnerError, Termination,
};

use super::harness::{Bench, CONTAINMENTS, options, program, sh, skipped, stdout};

const NOBODY: u32 = 65534;

/// Runners whose jobs run as the user nobody, one per containment; none if the tests do not run as
/// root.
async fn as_nobody() -> Vec<Bench> {
    if !nix::unistd::geteuid().is_root() {
        skipped("jobs of another user: only root can do that");
        return Vec::new();
    }
    let change = |options: &mut RunnerConfig| {
        options.run_as = Some(JobUser::lookup("65534:65534").unwrap());
    };
    let benches = Bench::each_with(change).await;
    for bench in &benches {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bench.folder.path(), open).unwrap();
    }
    benches
}

#[tokio::test]
async fn a_job_runs_as_the_configured_user_with_its_groups_and_home() {
    for bench in as_nobody().await {
        let user = JobUser::lookup("65534:65534").unwrap();
        let ended = bench
            .sh("grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status; echo $HOME $USER $LOGNAME")
            .await;
        let text = stdout(&ended);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines[0], "Uid:\t65534\t65534\t65534\t65534", "{text}");
        assert_eq!(lines[1], "Gid:\t65534\t65534\t65534\t65534", "{text}");
        let groups: Vec<u32> = lines[2]["Groups:".len()..]
            .split_whitespace()
            .map(|group| group.parse().unwrap())
            .collect();
        assert_eq!(groups, user.groups, "{text}");
        assert_eq!(lines[3], "CapEff:\t0000000000000000", "{text}");
        let who = format!("{} {name} {name}", user.home.display(), name = user.name);
        assert_eq!(lines[4], who);
    }
}

#[tokio::test]
async fn a_job_of_another_user_cannot_touch_worker_and_spawner() {
    for bench in as_nobody().await {
        let this = std::process::id();
        let ended = bench
            .sh(&format!(
                "kill -KILL {this} && echo killed; [ $PPID = 0 ] || kill -KILL $PPID && [ $PPID != 0 ] && echo killed; \
                 kill -KILL 1 && echo killed; cat /proc/{this}/environ /proc/1/environ && echo read; echo done"
            ))
            .await;
        assert_eq!(stdout(&ended), "done\n", "{ended:?}");
    }
}

#[tokio::test]
async fn scratch_folder_script_and_pipes_belong_to_the_job_user() {
    for bench in as_nobody().await {
        for _ in 0..2 {
            let mut command = Command::new(
                "script",
                Program::Script {
                    source: "cd $NAQ_WORK_DIR && echo mine > file && echo out > /dev/stdout && echo err > /dev/stderr && echo '{}' > /dev/fd/3"
                        .to_owned(),
                    args: Vec::new(),
                },
            );
            command.scratch = true;
            let ended = bench.run(command).await;
            assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
            assert_eq!(stdout(&ended), "out\n");
            assert_eq!(ended.control.len(), 1);
            let scratch = ended.scratch.unwrap();
            let found = std::fs::metadata(scratch.path().join("file")).unwrap();
            assert_eq!((found.uid(), found.gid()), (NOBODY, NOBODY));
            let mode = scratch.path().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "it is its own alone");
            drop(scratch);
        }
        // A folder that a job leaves empty is reused by the next one.
        for _ in 0..3 {
            let mut command = sh("[ -w $NAQ_WORK_DIR ]");
            command.scratch = true;
            assert_eq!(bench.run(command).await.end, Termination::Exited(0));
        }
    }
}

#[tokio::test]
async fn directories_closed_to_the_job_user_stay_closed() {
    for bench in as_nobody().await {
        let inner = bench.path("closed/inner");
        std::fs::create_dir_all(&inner).unwrap();
        let closed = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(bench.path("closed"), closed).unwrap();
        let mut command = sh("pwd");
        command.cwd = Some(inner);
        match bench.run(command).await.end {
            Termination::NotStarted(failure) => {
                assert_eq!(failure.step, "cwd");
                assert_eq!(failure.errno.as_deref(), Some("EACCES"));
            }
            end => panic!("{end:?}"),
        }
    }
}

#[tokio::test]
async fn the_tree_of_another_users_job_is_killed() {
    for bench in as_nobody().await {
        let mut command =
            sh("setsid sh -c 'trap \"\" TERM; sleep 1000' & trap 'exit 9' TERM; sleep 1000 & wait");
        command.timeout = Some(std::time::Duration::from_millis(200));
        command.kill_grace = std::time::Duration::from_millis(100);
        let ended = bench.run(command).await;
        assert_eq!(ended.end, Termination::Exited(9), "{ended:?}");
        let left = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == NOBODY))
            .filter(|entry| {
                std::fs::read_link(entry.path().join("cwd"))
                    .is_ok_and(|cwd| cwd == bench.folder.path())
            })
            .count();
        assert_eq!(left, 0);
    }
}

/// Runs a test of this binary as the user nobody. Returns whether it passed.
fn passes_as_nobody(test: &str) -> bool {
    use std::os::unix::process::CommandExt;
    // That user may not reach the binary, so copy it to a place that it can reach.
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let copy = |from: &std::path::Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let binary = copy(&std::env::current_exe().unwrap(), "tests");
    let naq = copy(std::path::Path::new(env!("CARGO_BIN_EXE_naq")), "naq");
    #[expect(clippy::disallowed_methods, reason = "a test as another user")]
    let status = std::process::Command::new(binary)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env_clear()
        .env("NAQ_TEST_PROGRAM", naq)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    status.success()
}

#[tokio::test]
#[ignore = "run as another user by the test after it"]
async fn unprivileged() {
    assert!(!nix::unistd::geteuid().is_root());
    let folder = tempfile::tempdir().unwrap();
    let mut refused = options(folder.path());
    refused.run_as = Some(JobUser::lookup("root").unwrap());
    let error = Runner::start(refused).await.unwrap_err();
    assert!(matches!(error, RunnerError::NotRoot { .. }), "{error}");
    for containment in CONTAINMENTS {
        let mut options = options(folder.path());
        options.containment = Some(containment);
        let runner = match Runner::start(options).await {
            Ok(runner) => runner,
            Err(error @ RunnerError::Containment { .. }) => {
                skipped(&error.to_string());
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        println!("tested here: {containment}");
        let bench = Bench {
            runner,
            folder: tempfile::tempdir().unwrap(),
        };
        let ended = bench
            .sh("setsid sleep 1000 >/dev/null 2>&1 3>&- & id -u; grep CapEff /proc/self/status; kill -TERM $$")
            .await;
        let text = stdout(&ended);
        assert_eq!(text, "65534\nCapEff:\t0000000000000000\n", "{ended:?}");
        assert_eq!(ended.end, Termination::Signalled(15));
        assert!(ended.leaked);
        for _ in 0..5 {
            assert_eq!(bench.sh("exit 3").await.end, Termination::Exited(3));
        }
        bench.runner.shutdown().await;
    }
}

#[test]
fn a_worker_that_is_not_root_falls_back_to_what_it_may_use() {
    if !nix::unistd::geteuid().is_root() {
        skipped("a worker of another user: only root can start one");
        return;
    }
    assert!(passes_as_nobody("confined::unprivileged"));
}

/// Runners whose jobs may read the folders of programs and write to `open`.
async fn restricted_to_files() -> Vec<Bench> {
    let benches = Bench::each_with(|options| {
        let all = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc"];
        let place = &options.work_dir;
        std::fs::create_dir(place.join("open")).unwrap();
        std::fs::write(place.join("secret"), "secret\n").unwrap();
        options.files = Some(FileAccess {
            read: all
                .into_iter()
                .filter(|path| std::path::Path::new(path).exists())
                .map(str::to_owned)
                .collect(),
            write: vec![place.join("open").to_str().unwrap().to_owned()],
        });
    });
    benches.await
}

#[tokio::test]
async fn landlock_restricts_a_job_to_the_configured_files() {
    for bench in restricted_to_files().await {
        let mut command = sh(
            "cat /etc/passwd >/dev/null && echo read; cat secret; echo x > here; ls; \
             echo y > open/file && cat open/file; echo z > $NAQ_WORK_DIR/file && echo scratch; \
             grep -q NoNewPrivs /proc/self/status && echo proc; \
             setsid sh -c 'cat secret; cp /bin/true open/true && open/true && echo ran'",
        );
        command.scratch = true;
        let ended = bench.run(command).await;
        assert_eq!(stdout(&ended), "read\ny\nscratch\nproc\nran\n", "{ended:?}");
    }
}

#[tokio::test]
async fn a_program_outside_of_the_allowed_files_is_not_started() {
    for bench in restricted_to_files().await {
        let tool = bench.file("tool", b"#!/bin/sh\necho ran\n", 0o755);
        match bench.run(program(&tool, &[])).await.end {
            Termination::NotStarted(failure) => {
                assert_eq!(failure.errno.as_deref(), Some("EACCES"));
                assert!(failure.message.contains("allows its jobs"), "{failure}");
            }
            end => panic!("{end:?}"),
        }
        assert_eq!(bench.sh("exit 4").await.end, Termination::Exited(4));
    }
}

#[tokio::test]
async fn landlock_paths_that_are_missing_or_relative_are_rejected() {
    for path in ["/no/such/folder", "relative"] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        options.files = Some(FileAccess {
            read: vec![path.to_owned()],
            write: Vec::new(),
        });
        let refused = Runner::start(options).await.unwrap_err();
        assert!(matches!(refused, RunnerError::Landlock(_)), "{refused}");
        assert!(refused.to_string().contains(path), "{refused}");
    }
}
