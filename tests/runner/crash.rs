//! After a worker or a spawner is killed, no process of its jobs is left.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use naq_runner::{Containment, Runner, RunnerError, Termination};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::harness::{Bench, CONTAINMENTS, Witness, options, sh, skipped, within};

/// The variable with the driver's containment and folder.
const DRIVER: &str = "NAQ_TEST_DRIVER";

/// A worker to be killed, which runs one endless job. The test below starts it as a process of its
/// own.
#[tokio::test]
#[ignore = "the process that another test kills"]
async fn driver() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how a test passes arguments to a process of its own"
    )]
    let Ok(variable) = std::env::var(DRIVER) else {
        return;
    };
    let [containment, folder, script] = *variable.splitn(3, ' ').collect::<Vec<_>>() else {
        panic!("{variable}");
    };
    let mut options = options(Path::new(folder));
    options.containment = Some(containment.parse().unwrap());
    // Otherwise Landlock keeps the job from stopping its spawner.
    options.allow_setuid = true;
    let runner = Runner::start(options).await.unwrap();
    let job = runner.start_job(sh(script));
    job.wait().await;
}

#[tokio::test]
async fn a_killed_worker_leaves_no_process() {
    expect_no_process_after_a_kill(
        "exec 9>witness; setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 & echo open >&9; sleep 1000",
    )
    .await;
}

#[tokio::test]
async fn a_killed_worker_leaves_no_process_of_a_job_that_stopped_its_spawner() {
    expect_no_process_after_a_kill(
        "exec 9>witness; [ $PPID = 0 ] || kill -STOP $PPID; echo open >&9; sleep 1000",
    )
    .await;
}

/// Kills a worker that runs `script`, in each containment. `script` opens `witness` and writes to
/// it.
async fn expect_no_process_after_a_kill(script: &str) {
    for containment in CONTAINMENTS {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut worker) = start_worker(containment, folder.path(), script).await else {
            continue;
        };
        let witness = Witness::new(folder.path().join("witness"));
        witness.opened().await;
        worker.kill().unwrap();
        worker.wait().unwrap();
        witness.closed().await;
    }
}

/// Starts a worker that runs `script`. `None` if this machine does not have the containment.
async fn start_worker(
    containment: Containment,
    folder: &Path,
    script: &str,
) -> Option<std::process::Child> {
    let mut probe = options(folder);
    probe.containment = Some(containment);
    probe.allow_setuid = true;
    match Runner::start(probe).await {
        Ok(runner) => runner.shutdown().await,
        Err(RunnerError::Containment { source, .. }) => {
            skipped(&format!("{containment}: {source}"));
            return None;
        }
        Err(e) => panic!("{e}"),
    }
    #[expect(clippy::disallowed_methods, reason = "the worker to be killed")]
    let worker = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::driver", "--ignored"])
        .env(
            DRIVER,
            format!("{containment} {} {script}", folder.display()),
        )
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Some(worker)
}

/// Traces a process, so that its parent does not learn that it has ended. Ends with the test.
const TRACE: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
seize = 0x4206
if libc.ptrace(seize, int(sys.argv[1]), None, None) != 0:
    sys.exit(f"ptrace: errno {ctypes.get_errno()}")
print("traced", flush=True)
sys.stdin.read()
"#;

/// The spawner does not see the end of a job that is traced, nor of one that is blocked in the kernel, even
/// after a SIGKILL.
#[tokio::test]
async fn a_spawner_whose_worker_was_killed_ends_although_a_job_does_not() {
    for containment in [Containment::Cgroup, Containment::Namespace] {
        let folder = tempfile::tempdir().unwrap();
        let script = "exec 9>witness; echo open >&9; exec sleep 1000";
        let Some(mut worker) = start_worker(containment, folder.path(), script).await else {
            continue;
        };
        let witness = Witness::new(folder.path().join("witness"));
        witness.opened().await;
        let job = with_open(&witness.path).unwrap();
        let spawner = spawner_above(&witness.path);
        #[expect(clippy::disallowed_methods, reason = "a debugger")]
        let mut tracer = std::process::Command::new("python3")
            .args(["-c", TRACE, &job.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        if std::io::Read::read_exact(tracer.stdout.as_mut().unwrap(), &mut said).is_err() {
            skipped(&format!("a debugger: {:?}", tracer.wait_with_output()));
            worker.kill().unwrap();
            worker.wait().unwrap();
            return;
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
        let is_over = || {
            let stat = std::fs::read_to_string(format!("/proc/{spawner}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        within(async {
            while !is_over() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        tracer.kill().unwrap();
        tracer.wait().unwrap();
    }
}

/// Another process that has a file open, whatever id it has in its own namespace.
fn with_open(file: &Path) -> Option<i32> {
    let has_open = |pid: i32| {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == file))
    };
    let this = std::process::id() as i32;
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| *pid != this && has_open(*pid))
}

/// The spawner that is an ancestor of the process with this open file.
fn spawner_above(file: &Path) -> Pid {
    let field = |pid: i32, name: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let mut pid = with_open(file).unwrap();
    while field(pid, "Name:") != "naq-spawner" {
        pid = field(pid, "PPid:").parse().unwrap();
    }
    Pid::from_raw(pid)
}

#[tokio::test]
async fn a_killed_spawner_ends_its_jobs_and_is_replaced() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        let job = bench.runner.start_job(sh(
            "exec 9>witness; setsid sh -c 'sleep 1000 & sleep 1000' & echo open >&9; sleep 1000",
        ));
        witness.opened().await;
        kill(spawner_above(&witness.path), Signal::SIGKILL).unwrap();
        let ended = within(job.wait()).await;
        assert_eq!(ended.end, Termination::SpawnerDied { alone: true });
        assert!(
            witness.is_closed(),
            "the tree is gone when the end is reported"
        );
        for _ in 0..20 {
            assert_eq!(bench.sh("true").await.end, Termination::Exited(0));
        }
    }
}

/// The folders of workers in our control group.
fn worker_folders() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"))
        .map(|line| line.split(' ').nth(1).unwrap().to_owned());
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let group = group
        .lines()
        .find_map(|l| l.strip_prefix("0::/").map(str::to_owned));
    let (Some(mount), Some(group)) = (mount, group) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(Path::new(&mount).join(group)) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn a_starting_worker_removes_only_the_groups_of_dead_workers() {
    let benches = Bench::each().await;
    let is_cgroup = |bench: &Bench| bench.runner.containment() == Containment::Cgroup;
    let Some(bench) = benches.into_iter().find(is_cgroup) else {
        return;
    };
    let own = worker_folders().into_iter().find(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("naq-worker-")
    });
    let dead = own.unwrap().with_file_name("naq-worker-999999999-0");
    std::fs::create_dir_all(dead.join("spawner-0/slot-0")).unwrap();
    let other = Bench::with(|options| options.containment = Some(Containment::Cgroup)).await;
    assert!(!dead.exists(), "a dead worker's folder goes");
    assert_eq!(
        bench.sh("true").await.end,
        Termination::Exited(0),
        "a live one's stays"
    );
    assert_eq!(other.sh("true").await.end, Termination::Exited(0));
}

#[tokio::test]
async fn a_job_that_runs_alone_shares_its_spawner_with_no_other() {
    for bench in Bench::each_with(|options| options.spawners = Some(1)).await {
        let is_shared = bench.runner.containment() != Containment::Subreaper;
        let start = |name: &str, alone: bool| {
            let witness = Witness::new(bench.path(name));
            let mut command = sh(&format!("{}; sleep 1000", witness.open_command()));
            command.alone = alone;
            (witness, bench.runner.start_job(command))
        };
        let mut shared = [start("first", false), start("second", false)];
        let (witness, alone) = start("alone", true);
        for (witness, _) in &mut shared {
            witness.opened().await;
        }
        witness.opened().await;
        let spawner = spawner_above(&witness.path);
        let others = shared
            .each_ref()
            .map(|(witness, _)| spawner_above(&witness.path));
        assert!(!others.contains(&spawner));
        assert_eq!(others[0] == others[1], is_shared);

        kill(spawner, Signal::SIGKILL).unwrap();
        let ended = within(alone.wait()).await;
        assert_eq!(ended.end, Termination::SpawnerDied { alone: true });
        assert!(shared.iter_mut().all(|(witness, _)| !witness.is_closed()));
        let mut next = sh("true");
        next.alone = true;
        assert_eq!(bench.run(next).await.end, Termination::Exited(0));

        for spawner in others {
            // the second time it may be gone
            let _ = kill(spawner, Signal::SIGKILL);
        }
        for (_, job) in &shared {
            let ended = within(job.wait()).await;
            assert_eq!(ended.end, Termination::SpawnerDied { alone: !is_shared });
        }
    }
}
