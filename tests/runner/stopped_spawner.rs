//! Jobs that stop their spawner with SIGSTOP.

use std::time::Duration;

use naq_runner::{RunnerConfig, StopCause, StopReason, Termination};

use super::harness::{Bench, TEST_TIMEOUT, Witness, sh, skipped, stdout, within};
use super::matrix::has_signal_scope;

/// One spawner, which jobs can signal: without no_new_privs there is no Landlock.
fn open_to_signals(options: &mut RunnerConfig) {
    options.spawners = Some(1);
    options.allow_setuid = true;
}

#[tokio::test]
async fn a_job_that_stops_its_spawner_is_still_ended_in_time() {
    for bench in Bench::each_with(open_to_signals).await {
        // another job of the same spawner, where they share one
        let neighbour = bench.runner.start_job(sh("sleep 2; echo done"));
        let mut witness = Witness::new(bench.path("witness"));
        let script = format!("{}; kill -STOP $PPID; sleep 1000", witness.open_command());
        let mut command = sh(&script);
        command.timeout = Some(Duration::from_secs(1));
        command.kill_grace = Duration::from_millis(100);
        let ended = bench.run(command).await;
        assert_eq!(ended.stopped, Some(StopCause::Timeout), "{ended:?}");
        assert!(witness.is_closed());
        let ended = within(neighbour.wait()).await;
        assert_eq!(ended.end, Termination::Exited(0));
        assert_eq!(stdout(&ended), "done\n");

        std::fs::remove_file(&witness.path).unwrap();
        let mut witness = Witness::new(bench.path("witness"));
        // A grace would not end within this test.
        let mut command = sh(&script);
        command.kill_grace = 2 * TEST_TIMEOUT;
        let job = bench.runner.start_job(command);
        witness.opened().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        job.stop(StopReason::LeaseLost);
        let ended = within(job.wait()).await;
        assert_eq!(ended.end, Termination::Signalled(9));
        assert!(witness.is_closed());
    }
}

#[tokio::test]
async fn a_spawner_that_a_job_stops_again_and_again_is_killed_with_its_trees() {
    for bench in Bench::each_with(open_to_signals).await {
        let mut witness = Witness::new(bench.path("witness"));
        let mut command = sh(&format!(
            "{}; [ $PPID != 0 ] || exec sleep 1000; while :; do kill -STOP $PPID; done",
            witness.open_command()
        ));
        command.timeout = Some(Duration::from_secs(1));
        let ended = bench.run(command).await;
        if ended.stopped != Some(StopCause::Timeout) {
            assert_eq!(
                ended.end,
                Termination::SpawnerDied { alone: true },
                "{ended:?}"
            );
        }
        assert!(witness.is_closed());
        assert_eq!(bench.sh("echo next").await.end, Termination::Exited(0));
    }
}

#[tokio::test]
async fn a_shutdown_ends_a_stopped_spawner() {
    for bench in Bench::each_with(open_to_signals).await {
        let mut witness = Witness::new(bench.path("witness"));
        let job = bench.runner.start_job(sh(&format!(
            "{}; kill -STOP $PPID; sleep 1000",
            witness.open_command()
        )));
        witness.opened().await;
        within(bench.runner.clone().shutdown()).await;
        assert!(witness.is_closed());
        within(job.wait()).await;
    }
}

#[tokio::test]
async fn a_job_can_signal_neither_its_spawner_nor_its_worker_but_its_own_processes() {
    for bench in Bench::each().await {
        let containment = bench.runner.containment();
        if !containment.has_namespace() && !has_signal_scope() {
            skipped(&format!("{containment}: signals, which needs Linux 6.12"));
            continue;
        }
        // a signal that does nothing, should it arrive
        let script = format!(
            "for pid in $PPID {}; do [ $pid = 0 ] || kill -URG $pid && [ $pid != 0 ] && echo signalled; done; \
             sleep 1000 & kill -TERM $!; wait $!; echo $?",
            std::process::id()
        );
        let ended = bench.sh(&script).await;
        assert_eq!(stdout(&ended), "143\n", "{ended:?}");
    }
}
