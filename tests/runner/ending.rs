//! How process trees end.

use std::path::Path;
use std::time::Duration;

use naq_runner::{BootInstant, Completion, Containment, StopCause, StopReason, Termination};

use super::harness::{Bench, TEST_TIMEOUT, Witness, sh, skipped, stdout, within};

/// Runs a script that prints `ready`, with a timeout that passes after that. On a busy machine the first
/// timeout may pass before the shell has set its trap.
async fn run_until_timeout(bench: &Bench, script: &str, kill_grace: Duration) -> Completion {
    for timeout_ms in [1_500, 6_000] {
        let mut command = sh(script);
        command.timeout = Some(Duration::from_millis(timeout_ms));
        command.kill_grace = kill_grace;
        let ended = bench.run(command).await;
        assert_eq!(ended.stopped, Some(StopCause::Timeout));
        assert!(ended.usage.wall_ms >= timeout_ms);
        if stdout(&ended).starts_with("ready\n") {
            return ended;
        }
    }
    panic!("the script did not start in time");
}

#[tokio::test]
async fn a_timeout_sends_term_then_kill() {
    for bench in Bench::each().await {
        let script = "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
        let ended = run_until_timeout(&bench, script, Duration::from_secs(30)).await;
        assert_eq!(ended.end, Termination::Exited(9));
        assert_eq!(stdout(&ended), "ready\nasked\n");

        let mut witness = Witness::new(bench.path("witness"));
        let script = format!(
            "trap '' TERM; {}; echo ready; sleep 1000",
            witness.open_command()
        );
        let ended = run_until_timeout(&bench, &script, Duration::from_millis(100)).await;
        assert_eq!(ended.end, Termination::Signalled(9));
        // the timeout and the grace
        assert!(ended.usage.wall_ms >= 1_600);
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn term_reaches_the_whole_tree_and_all_of_it_gets_the_grace() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        // The first process exits at once; a daemon that it started takes a while.
        let script = format!(
            "{}; setsid sh -c 'trap \"sleep 0.4; echo cleaned; exit\" TERM; echo ready; while :; do sleep 0.01; done' & wait",
            witness.open_command()
        );
        let (sender, mut chunks) = tokio::sync::mpsc::channel(8);
        let mut command = sh(&script);
        command.live = Some(naq_runner::LiveSink::new(sender, Duration::ZERO));
        let job = bench.runner.start_job(command);
        within(chunks.recv()).await.expect("ready");
        job.stop(StopReason::Cancel);
        let ended = within(job.wait()).await;
        assert_eq!(
            ended.stopped,
            Some(StopCause::Requested(StopReason::Cancel))
        );
        assert_eq!(ended.end, Termination::Signalled(15));
        assert_eq!(stdout(&ended), "ready\ncleaned\n");
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn a_lost_lease_kills_the_job_at_once() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        let mut command = sh(&format!(
            "trap '' TERM; {}; sleep 1000",
            witness.open_command()
        ));
        // A grace would not end within this test.
        command.kill_grace = 2 * TEST_TIMEOUT;
        let job = bench.runner.start_job(command);
        witness.opened().await;
        job.stop(StopReason::LeaseLost);
        let ended = within(job.wait()).await;
        assert_eq!(ended.end, Termination::Signalled(9));
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn a_job_stopped_before_it_starts_never_runs() {
    let bench = Bench::with(|options| options.concurrency = 1).await;
    let witness = Witness::new(bench.path("witness"));
    let first = bench
        .runner
        .start_job(sh(&format!("{}; sleep 1000", witness.open_command())));
    witness.opened().await;
    let second = bench.runner.start_job(sh("echo ran > ran"));
    second.stop(StopReason::Drain);
    let ended = within(second.wait()).await;
    assert!(matches!(ended.end, Termination::NotStarted(f) if !f.fatal));
    assert_eq!(ended.stopped, Some(StopCause::Requested(StopReason::Drain)));
    first.kill(StopReason::Cancel);
    within(first.wait()).await;
    assert!(!bench.path("ran").exists());
}

#[tokio::test]
async fn dropping_the_handle_kills_the_job() {
    for bench in Bench::each().await {
        let witness = Witness::new(bench.path("witness"));
        let job = bench
            .runner
            .start_job(sh(&format!("{}; sleep 1000", witness.open_command())));
        witness.opened().await;
        drop(job);
        witness.closed().await;
    }
}

#[tokio::test]
async fn processes_that_outlive_their_job_are_killed_and_reported_as_leaked() {
    for bench in Bench::each().await {
        for redirect in ["", ">/dev/null 2>&1 3>&-"] {
            let mut witness = Witness::new(bench.path("witness"));
            let script = format!(
                "{}; setsid sh -c '(sleep 1000 & echo deep; sleep 1000) & exit' {redirect}; echo done",
                witness.open_command()
            );
            let ended = bench.sh(&script).await;
            assert_eq!(ended.end, Termination::Exited(0));
            assert!(ended.leaked);
            assert!(stdout(&ended).contains("done"));
            assert_eq!(stdout(&ended).contains("deep"), redirect.is_empty());
            assert!(
                witness.is_closed(),
                "no process is left when the end is reported"
            );
            std::fs::remove_file(&witness.path).unwrap();
        }
    }
}

#[tokio::test]
async fn a_process_that_exits_within_the_grace_is_not_a_leak() {
    for bench in Bench::each().await {
        let ended = bench.sh("(sleep 0.1; echo late) & echo first").await;
        assert_eq!(stdout(&ended), "first\nlate\n");
        assert!(!ended.leaked);
    }
}

#[tokio::test]
async fn a_tree_that_keeps_forking_is_killed() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        // Each of 20 processes replaces itself by a child, endlessly, in new sessions.
        let script = format!(
            "{}; cat > hop <<'X'\n#!/bin/sh\nsetsid ./hop & exit\nX\nchmod +x hop; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ./hop & done; sleep 1000",
            witness.open_command()
        );
        let mut command = sh(&script);
        command.timeout = Some(Duration::from_millis(300));
        command.kill_grace = Duration::from_millis(100);
        let ended = bench.run(command).await;
        assert_eq!(ended.stopped, Some(StopCause::Timeout));
        assert!(witness.is_closed());
        assert_eq!(bench.sh("echo next").await.end, Termination::Exited(0));
    }
}

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_killed() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        let mut command = sh(&format!(
            "{}; i=0; while [ $i -lt 3000 ]; do sleep 1000 & i=$((i+1)); done; wait",
            witness.open_command()
        ));
        command.limits.processes = Some(100);
        command.timeout = Some(Duration::from_secs(20));
        let ended = bench.run(command).await;
        assert_ne!(ended.end, Termination::Exited(0));
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn the_memory_limit_applies_to_the_whole_tree() {
    for bench in Bench::each().await {
        // Two processes, each below the limit, together above it.
        let mut command = sh(
            "for i in 1 2; do head -c 40000000 /dev/zero | tail -c 40000000 | sleep 1000 & done; wait",
        );
        command.limits.memory_bytes = Some(60_000_000);
        command.timeout = Some(Duration::from_secs(20));
        let ended = bench.run(command).await;
        assert!(ended.oom, "{ended:?}");
        assert_eq!(bench.sh("true").await.end, Termination::Exited(0));
    }
}

#[tokio::test]
async fn zombies_are_reaped() {
    for bench in Bench::each().await {
        // Orphans that exit while the job runs become children of the spawner or of the
        // first process of the namespace.
        let adopter = match bench.runner.containment().has_namespace() {
            true => "1",
            false => "$PPID",
        };
        let ended = bench
            .sh(&format!("for i in 1 2 3; do (sleep 0.01 &) ; done; sleep 0.3; cat /proc/[0-9]*/stat 2>/dev/null | awk -v p={adopter} '$3 == \"Z\" && $4 == p' | wc -l"))
            .await;
        assert_eq!(stdout(&ended), "0\n");
    }
}

#[tokio::test]
async fn a_stopped_process_is_killed_too() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        let mut command = sh(&format!("{}; kill -STOP $$", witness.open_command()));
        command.timeout = Some(Duration::from_millis(100));
        let ended = bench.run(command).await;
        assert_eq!(ended.end, Termination::Signalled(15));
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn a_shutdown_leaves_no_process() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        let job = bench.runner.start_job(sh(&format!(
            "{}; setsid sleep 1000 & sleep 1000",
            witness.open_command()
        )));
        witness.opened().await;
        within(bench.runner.clone().shutdown()).await;
        assert!(witness.is_closed());
        let ended = within(job.wait()).await;
        assert_eq!(
            ended.stopped,
            Some(StopCause::Requested(StopReason::Abandoned))
        );
        let late = bench.runner.start_job(sh("true"));
        assert!(matches!(
            within(late.wait()).await.end,
            Termination::NotStarted(_)
        ));
    }
}

/// The runners whose jobs have a namespace, as far as this machine allows them.
async fn namespaced() -> Vec<Bench> {
    let mut benches = Bench::each().await;
    benches.retain(|bench| bench.runner.containment().has_namespace());
    benches
}

#[tokio::test]
async fn a_job_in_a_namespace_sees_only_its_own_processes_and_is_not_the_first() {
    for bench in namespaced().await {
        for _ in 0..3 {
            let ended = bench
                .sh("cat /proc/1/comm; echo /proc/[0-9]*; echo /proc/$$; kill $$; echo survived")
                .await;
            assert_eq!(
                ended.end,
                Termination::Signalled(15),
                "TERM has its default"
            );
            let text = stdout(&ended);
            let lines: Vec<_> = text.lines().collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert_eq!(lines[0], "naq-init");
            assert_eq!(lines[1], format!("/proc/1 {}", lines[2]), "{text}");
        }
        // The first process ignores its signals.
        let ended = bench
            .sh("kill -KILL 1; kill -TERM 1; kill -USR1 1; kill -STOP 1; (sleep 0.01 &); sleep 0.2; echo on")
            .await;
        assert_eq!(ended.end, Termination::Exited(0));
        assert_eq!(stdout(&ended), "on\n");
    }
}

#[tokio::test]
async fn mounts_of_a_job_end_with_it() {
    for bench in namespaced().await {
        let folder = bench.path("mounted");
        std::fs::create_dir(&folder).unwrap();
        let ended = bench
            .sh("mount -t tmpfs none mounted && echo x > mounted/file && ls mounted")
            .await;
        if !nix::unistd::geteuid().is_root() {
            skipped("a mount by a job: only root can do that");
            continue;
        }
        assert_eq!(stdout(&ended), "file\n", "{ended:?}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        for _ in 0..8 {
            assert_eq!(stdout(&bench.sh("ls mounted").await), "");
        }
    }
}

/// A root job that moves itself to the root of the control groups, and has a daemon there.
const LEAVES_GROUP: &str = "group=$(awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts); \
    setsid sh -c \"echo 0 > $group/cgroup.procs && echo moved; exec sleep 1000\" & sleep 0.5";

#[tokio::test]
async fn a_job_that_leaves_its_control_group_is_over_only_when_it_is_gone() {
    if !nix::unistd::geteuid().is_root() {
        skipped("leaving a control group: only root can do that");
        return;
    }
    for bench in Bench::each_with(|options| options.spawners = Some(1)).await {
        if !bench.runner.containment().has_cgroup() {
            continue;
        }
        // another job of the same spawner, which is not disturbed
        let neighbour = bench
            .runner
            .start_job(sh("(sleep 2; echo done) & sleep 1; wait"));
        for _ in 0..2 {
            let mut witness = Witness::new(bench.path("witness"));
            let ended = bench
                .sh(&format!("{}; {LEAVES_GROUP}", witness.open_command()))
                .await;
            assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
            assert_eq!(stdout(&ended), "moved\n", "{ended:?}");
            assert!(ended.leaked);
            assert!(witness.is_closed(), "{}", bench.runner.containment());
            std::fs::remove_file(&witness.path).unwrap();
        }
        let ended = within(neighbour.wait()).await;
        assert_eq!(stdout(&ended), "done\n", "{ended:?}");

        // one that is stopped, and forks on
        let mut witness = Witness::new(bench.path("witness"));
        let mut command = sh(&format!(
            "{}; {LEAVES_GROUP}; sleep 1000",
            witness.open_command()
        ));
        command.timeout = Some(Duration::from_secs(1));
        command.kill_grace = Duration::from_millis(50);
        let ended = bench.run(command).await;
        assert_eq!(ended.stopped, Some(StopCause::Timeout), "{ended:?}");
        assert!(witness.is_closed(), "{}", bench.runner.containment());
        assert_eq!(bench.sh("echo next").await.end, Termination::Exited(0));
    }
}

#[tokio::test]
async fn a_process_with_the_spawner_as_its_parent_is_found() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        // clone(CLONE_PARENT | SIGCHLD): a child of the process that started the job.
        let script = format!(
            "{}; exec python3 -c '
import ctypes, platform, time
number = 56 if platform.machine() == \"x86_64\" else 220
if ctypes.CDLL(None).syscall(number, 0x8000 | 17, 0, 0, 0, 0) == 0:
    time.sleep(1000)
'",
            witness.open_command()
        );
        let ended = bench.sh(&script).await;
        assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
        assert!(witness.is_closed());
        assert_eq!(bench.sh("echo next").await.end, Termination::Exited(0));
    }
}

#[tokio::test]
async fn an_exponential_fork_bomb_is_bounded_and_killed() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        // Each generation has twice as many processes, in sessions of their own. If nothing
        // killed it, it would end at 8192 and after a while.
        bench.file(
            "bomb",
            b"#!/bin/sh\n[ $1 -gt 0 ] || exec sleep 60\nsetsid ./bomb $(($1-1)) & setsid ./bomb $(($1-1)) &\nexec sleep 60\n",
            0o755,
        );
        let mut command = sh(&format!("{}; exec ./bomb 12", witness.open_command()));
        command.limits.processes = Some(64);
        command.timeout = Some(Duration::from_secs(40));
        let ended = bench.run(command).await;
        if ended.end != Termination::Signalled(9) {
            // If a controller denies more processes, the present ones keep sleeping.
            assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
        } else {
            assert_eq!(ended.stopped, Some(StopCause::Processes), "{ended:?}");
        }
        assert!(witness.is_closed());
        assert_eq!(bench.sh("echo next").await.end, Termination::Exited(0));
    }
}

/// Sets a deadline that a live worker keeps moving, then lets it pass.
#[tokio::test]
async fn a_deadline_kills_the_tree_without_a_grace_once_it_is_not_moved_any_more() {
    for bench in Bench::each().await {
        let mut witness = Witness::new(bench.path("witness"));
        let mut command = sh(&format!(
            "trap '' TERM; {}; sleep 1000 & wait",
            witness.open_command()
        ));
        let span = Duration::from_millis(400);
        command.deadline = Some(BootInstant::now() + span);
        let started = BootInstant::now();
        let job = bench.runner.start_job(command);
        witness.opened().await;
        for _ in 0..5 {
            tokio::time::sleep(span / 2).await;
            job.set_deadline(BootInstant::now() + span);
        }
        let moved = BootInstant::now();
        let ended = within(job.wait()).await;
        assert!(started.elapsed() > span * 3);
        assert!(moved.elapsed() >= span - Duration::from_millis(1));
        assert_eq!(ended.end, Termination::Signalled(9));
        assert_eq!(ended.stopped, Some(StopCause::Deadline));
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn a_job_whose_deadline_has_passed_is_not_started() {
    let bench = Bench::new().await;
    let mut command = sh("touch started; sleep 1000");
    command.deadline = Some(BootInstant::now() - Duration::from_secs(1));
    let ended = bench.run(command).await;
    assert_eq!(ended.stopped, Some(StopCause::Deadline));
    assert!(matches!(ended.end, Termination::NotStarted(_)), "{ended:?}");
    assert!(!bench.path("started").exists());
}

/// A process id is free again once its process was reaped, while the rest of the job's tree still runs. Here
/// the next job of the same spawner gets it.
#[tokio::test]
async fn a_reused_process_id_changes_no_result() {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    // alone on a spawner or in a namespace, jobs share no numbers
    let is_shared = |bench: &Bench| bench.runner.containment() == Containment::Cgroup;
    let benches = Bench::each_with(|options| options.spawners = Some(1)).await;
    let Some(bench) = benches.iter().find(|bench| is_shared(bench)) else {
        skipped("jobs that share a spawner");
        return;
    };
    let mut witness = Witness::new(bench.path("witness"));
    // in a session of its own, for the id of a session is not free
    let mut command = sh(&format!(
        "trap 'exit 7' TERM; echo $$ > first; \
         setsid sh -c \"trap '' TERM; {}; exec sleep 1000\" & while :; do wait; done",
        witness.open_command()
    ));
    command.kill_grace = TEST_TIMEOUT;
    let first = bench.runner.start_job(command);
    witness.opened().await;
    let pid = std::fs::read_to_string(bench.path("first")).unwrap();
    let number: i32 = pid.trim().parse().unwrap();
    first.stop(StopReason::Cancel);
    while Path::new("/proc").join(pid.trim()).exists() {
        tokio::task::yield_now().await;
    }
    let mut reused = false;
    while !reused {
        assert!(!witness.is_closed(), "the tree of the first job has ended");
        if let Err(error) = std::fs::write(LAST_PID, (number - 1).to_string()) {
            skipped(&format!("a chosen process id: {error}"));
            break;
        }
        let next = bench.sh("echo $$; exit 3").await;
        assert_eq!(next.end, Termination::Exited(3), "{next:?}");
        // other programs of the machine may have taken the number
        reused = stdout(&next) == pid;
    }
    first.kill(StopReason::Cancel);
    assert_eq!(within(first.wait()).await.end, Termination::Exited(7));
}
