//! The control channel.

use naq_runner::{StopReason, Termination};

use super::harness::{Bench, Witness, sh, within};

#[tokio::test]
async fn control_messages_arrive_while_the_job_runs() {
    for bench in Bench::each().await {
        let job = bench.runner.start_job(sh(
            "echo '{\"progress\":40}' >&3; read line < gate; echo '{\"result\":[1]}' >&3",
        ));
        nix::unistd::mkfifo(&bench.path("gate"), nix::sys::stat::Mode::S_IRWXU).ok();
        let message = within(job.next_control_message()).await.expect("a message");
        assert_eq!(message.value("progress").unwrap(), 40);
        std::fs::write(bench.path("gate"), "go\n").unwrap();
        let message = within(job.next_control_message()).await;
        let ended = within(job.wait()).await;
        let result = message.or(ended.control.first().cloned()).unwrap();
        assert_eq!(result.value("result").unwrap()[0], 1);
    }
}

#[tokio::test]
async fn invalid_control_lines_are_warnings_and_fail_nothing() {
    let bench = Bench::with(|options| options.control_line_bytes_max = 1000).await;
    let ended = bench
        .sh("echo nonsense >&3; echo '[1]' >&3; head -c 5000 /dev/zero >&3; echo >&3; printf '{\"a\":1}' >&3; exit 0")
        .await;
    assert_eq!(ended.end, Termination::Exited(0));
    assert_eq!(ended.control.len(), 1);
    assert_eq!(ended.warnings.len(), 3, "{:?}", ended.warnings);
}

#[tokio::test]
async fn a_flood_of_control_messages_is_bounded() {
    let bench = Bench::new().await;
    let ended = bench
        .sh("yes '{\"progress\":1}' | head -n 200000 >&3; yes bad | head -n 200000 >&3")
        .await;
    assert_eq!(ended.end, Termination::Exited(0));
    assert!(ended.control.len() <= 4096, "{}", ended.control.len());
    assert!(ended.warnings.len() <= 32, "{}", ended.warnings.len());
}

#[tokio::test]
async fn the_last_value_of_each_key_arrives_after_a_flood_of_others() {
    for bench in Bench::each().await {
        let lines = "{\"progress\":1}\n".repeat(1200);
        let last = "{\"checkpoint\":[7]}\n{\"retry_after\":\"1h\"}\n{\"result\":9}\n";
        bench.file("flood", format!("{lines}{last}").as_bytes(), 0o600);
        let ended = bench.sh("cat flood >&3").await;
        assert_eq!(ended.warnings, [""; 0]);
        let last = |key: &str| {
            let mut messages = ended.control.iter().rev();
            messages.find_map(|message| message.value(key))
        };
        assert_eq!(last("progress"), Some(1.into()));
        assert_eq!(last("checkpoint"), Some(vec![7].into()));
        assert_eq!(last("retry_after"), Some("1h".into()));
        assert_eq!(last("result"), Some(9.into()));
    }
}

#[tokio::test]
async fn messages_arrive_while_the_job_runs_although_earlier_ones_were_not_read_yet() {
    for bench in Bench::each().await {
        let witness = Witness::new(bench.path("witness"));
        let job = bench.runner.start_job(sh(&format!(
            "for n in 1 2 3; do echo \"{{\\\"checkpoint\\\":$n}}\" >&3; sleep 0.1; done; {}; sleep 1000",
            witness.open_command()
        )));
        witness.opened().await;
        for n in 1..=3 {
            let message = within(job.next_control_message()).await.expect("a message");
            assert_eq!(message.value("checkpoint").unwrap(), n);
        }
        job.kill(StopReason::Cancel);
        within(job.wait()).await;
    }
}
