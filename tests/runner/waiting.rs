//! Jobs that wait at their spawner for another one's end.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::time::Duration;

use naq_runner::{Command, StopCause, StopReason, Termination};

use super::harness::{Bench, sh, stdout, within};

/// A job that may wait at its spawner.
fn waiting(script: &str) -> Command {
    let mut command = sh(script);
    command.waits = true;
    command
}

/// A script that runs until the file exists.
fn until(file: &Path) -> String {
    format!("until test -e '{}'; do sleep 0.01; done", file.display())
}

#[tokio::test]
async fn a_job_that_waits_starts_when_another_one_ends_and_not_before() {
    for bench in Bench::each_with(|options| options.concurrency = 2).await {
        let [first, second, mark] = ["first", "second", "mark"].map(|name| bench.path(name));
        let running = [&first, &second].map(|file| bench.runner.start_job(sh(&until(file))));
        for job in &running {
            within(job.wait_started()).await;
        }
        let script = format!("echo ran >> '{}'; {}", mark.display(), until(&second));
        let next = [0, 1, 2].map(|_| bench.runner.start_job(waiting(&script)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!mark.exists(), "no slot is free");

        fs::write(&first, "").unwrap();
        within(running[0].wait()).await;
        let count = || fs::read_to_string(&mark).map_or(0, |text| text.lines().count());
        within(async {
            while count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(count(), 1, "one slot was free");
        fs::write(&second, "").unwrap();
        for job in next {
            assert_eq!(within(job.wait()).await.end, Termination::Exited(0));
        }
        assert_eq!(count(), 3);
    }
}

#[tokio::test]
async fn a_job_that_waits_can_be_withdrawn_or_stopped_and_one_that_runs_continues() {
    for bench in Bench::each_with(|options| options.concurrency = 1).await {
        let file = bench.path("end");
        let script = format!("{}; echo whole", until(&file));
        let running = bench.runner.start_job(waiting(&script));
        within(running.wait_started()).await;
        running.withdraw();
        let withdrawn = bench.runner.start_job(waiting("echo never"));
        let stopped = bench.runner.start_job(waiting("echo never"));
        let last = bench.runner.start_job(waiting("echo last"));
        withdrawn.withdraw();
        stopped.stop(StopReason::Cancel);
        let ended = within(withdrawn.wait()).await;
        assert_eq!(ended.stopped, Some(StopCause::Withdrawn), "{ended:?}");
        assert!(matches!(ended.end, Termination::NotStarted(_)), "{ended:?}");
        let ended = within(stopped.wait()).await;
        let cancelled = StopCause::Requested(StopReason::Cancel);
        assert_eq!(ended.stopped, Some(cancelled), "{ended:?}");
        fs::write(&file, "").unwrap();
        let ended = within(running.wait()).await;
        assert_eq!((ended.stopped, stdout(&ended).as_str()), (None, "whole\n"));
        assert_eq!(stdout(&within(last.wait()).await), "last\n");
    }
}

/// Whatever waits where: never do more jobs run than there are slots, and each of them runs.
#[tokio::test]
async fn jobs_that_wait_never_run_beyond_the_slots() {
    let slots = 5;
    for bench in Bench::each_with(|options| options.concurrency = slots).await {
        let folder = bench.path("running");
        fs::create_dir(&folder).unwrap();
        let script = format!(
            "cd '{}' && : > $$.$NAQ_NUMBER && ls | wc -l; sleep 0.005; rm $$.$NAQ_NUMBER",
            folder.display()
        );
        let jobs: Vec<_> = (0..60)
            .map(|number| {
                let mut command = sh(&script);
                command.waits = number % 3 != 0;
                command.alone = number % 20 == 3;
                command
                    .env
                    .push(("NAQ_NUMBER".to_owned(), number.to_string()));
                bench.runner.start_job(command)
            })
            .collect();
        for job in jobs {
            let ended = within(job.wait()).await;
            assert_eq!(ended.end, Termination::Exited(0), "{ended:?}");
            let running: usize = stdout(&ended).trim().parse().unwrap();
            assert!(running <= slots, "{running} jobs ran at once");
        }
    }
}

/// A job that is sent first does not get the slot of one that is still being prepared.
#[tokio::test]
async fn a_slot_is_kept_free_for_its_holder() {
    for bench in Bench::each_with(|options| options.concurrency = 1).await {
        let [file, next_file] = ["end", "next"].map(|name| bench.path(name));
        let slot = bench.runner.try_slot().expect("a free slot");
        assert!(bench.runner.try_slot().is_none());
        let [next, plain] = [waiting(&until(&next_file)), sh("exit 3")]
            .map(|command| bench.runner.start_job(command));
        let prepared = within(bench.runner.start_without_slot(sh("echo prepared")).wait()).await;
        assert_eq!(stdout(&prepared), "prepared\n");
        let holder = bench
            .runner
            .start_job_in(sh(&until(&file)), Some(&slot), None);
        within(holder.wait_started()).await;
        assert_eq!(bench.runner.slots_taken(), 1);
        fs::write(&file, "").unwrap();
        within(holder.wait()).await;
        drop(slot);
        within(next.wait_started()).await;
        assert_eq!(bench.runner.slots_taken(), 1);
        let again = bench.runner.slot();
        let mut again = std::pin::pin!(again);
        let is_pending = tokio::time::timeout(Duration::from_millis(20), &mut again).await;
        assert!(is_pending.is_err());
        fs::write(&next_file, "").unwrap();
        assert_eq!(within(plain.wait()).await.end, Termination::Exited(3));
        let slot = within(again).await;
        assert_eq!(bench.runner.slots_taken(), 1);
        drop(slot);
        assert_eq!(bench.runner.slots_taken(), 0);
    }
}

/// Jobs that wait at a spawner start without a look at those who wait for a slot, and there may always be one more.
#[tokio::test]
async fn one_who_waits_for_a_slot_is_not_overtaken_by_later_jobs() {
    for bench in Bench::each_with(|options| options.concurrency = 1).await {
        let mut jobs: VecDeque<_> = (0..4)
            .map(|_| bench.runner.start_job(waiting("true")))
            .collect();
        let slot = bench.runner.slot();
        let mut slot = std::pin::pin!(slot);
        let mut later = 0;
        // as a worker does that claims the next short job for each that ends
        let slot = within(async {
            loop {
                tokio::select! {
                    biased;
                    slot = &mut slot => break slot,
                    _ = jobs[0].wait() => {
                        jobs.pop_front();
                        jobs.push_back(bench.runner.start_job(waiting("true")));
                        later += 1;
                    }
                }
            }
        })
        .await;
        assert!(later <= 4, "{later}");
        drop(slot);
        for job in jobs {
            assert_eq!(within(job.wait()).await.end, Termination::Exited(0));
        }
    }
}

/// One who no longer waits for a slot leaves it to the next.
#[tokio::test]
async fn a_slot_that_nobody_waits_for_any_more_is_free() {
    for bench in Bench::each_with(|options| options.concurrency = 1).await {
        let slot = bench.runner.try_slot().expect("a free slot");
        let waiting =
            async { tokio::time::timeout(Duration::from_millis(5), bench.runner.slot()).await };
        assert!(waiting.await.is_err());
        let (next, ()) = tokio::join!(bench.runner.slot(), async { drop(slot) });
        drop(next);
        assert_eq!(bench.runner.slots_taken(), 0);
    }
}
