//! The output of jobs.

use std::time::Duration;

use naq_runner::{LiveSink, StreamKind, Termination};
use tokio::sync::mpsc;

use super::harness::{Bench, program, sh, stdout, within};

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[tokio::test]
async fn two_gigabytes_of_output_are_counted_in_flat_memory() {
    let bench = Bench::new().await;
    let total: u64 = 2 << 30;
    // It is also a single line: it contains no line break.
    let job = bench
        .runner
        .start_job(sh(&format!("head -c {total} /dev/zero; printf end")));
    within(job.wait_started()).await;
    let before = resident();
    let ended = within(job.wait()).await;
    let grown = resident().saturating_sub(before);
    assert_eq!(ended.end, Termination::Exited(0));
    assert_eq!(ended.stdout.bytes, total + 3);
    assert!(ended.stdout.missing_bytes > 0 && ended.stdout.sha256.is_some());
    assert_eq!(ended.stdout.head.len() + ended.stdout.tail.len(), 65536);
    assert!(ended.stdout.tail.ends_with(b"\0end"));
    assert!(grown < 16 << 20, "grew by {grown} bytes");
}

#[tokio::test]
async fn head_and_tail_are_kept_up_to_the_limit() {
    let bench = Bench::new().await;
    let mut command = sh("printf 0123456789; printf abcdefghij >&2");
    command.limits.output_bytes = Some(6);
    let ended = bench.run(command).await;
    assert_eq!(ended.stdout.head, b"012");
    assert_eq!(ended.stdout.tail, b"789");
    assert_eq!(ended.stderr.tail, b"hij");
    assert!(ended.stdout.missing_bytes > 0);
    assert_eq!(ended.stdout.bytes, 10);
}

#[tokio::test]
async fn output_bytes_are_unchanged() {
    let bench = Bench::new().await;
    let all: Vec<u8> = (0..=255).cycle().take(60_000).collect();
    let path = bench.file("bytes", &all, 0o644);
    let ended = bench.run(program("cat", &[&path])).await;
    assert_eq!(ended.stdout.head, all);
    // The same for a longer job, whose pipes are read while it runs.
    let ended = bench
        .sh(&format!("sleep 0.05; cat {path}; sleep 0.05"))
        .await;
    assert_eq!(ended.stdout.head, all);
}

#[tokio::test]
async fn closing_output_early_does_not_end_the_job() {
    for bench in Bench::each().await {
        let ended = bench
            .sh("echo first; exec >&- 2>&-; sleep 0.2; exit 5")
            .await;
        assert_eq!(ended.end, Termination::Exited(5));
        assert_eq!(stdout(&ended), "first\n");
        assert!(ended.usage.wall_ms >= 200);
    }
}

#[tokio::test]
async fn secrets_are_masked_wherever_reads_cut_them() {
    let bench = Bench::new().await;
    let mut command = sh(
        "printf \"at once: $PW.\"; for c in s e s a m e; do printf $c; sleep 0.02; done; printf '. half: ses'; echo $PW >&2; printf '{\"result\":\"%s\"}\\n' $PW >&3",
    );
    command.secrets = vec![("PW".into(), "sesame".into())];
    let ended = bench.run(command).await;
    assert_eq!(stdout(&ended), "at once: ***.***. half: ses");
    assert_eq!(ended.stderr.head, b"***\n");
    assert_eq!(ended.control[0].value("result").unwrap(), "***");
    let mut command = program("/no/such/sesame", &[]);
    command.secrets = vec![("PW".into(), "sesame".into())];
    let ended = bench.run(command).await;
    assert!(!format!("{:?}", ended.end).contains("sesame"));
}

#[tokio::test]
async fn live_output_arrives_in_order_and_from_the_beginning() {
    let bench = Bench::new().await;
    let (sender, mut chunks) = mpsc::channel(64);
    let mut command = sh("echo early; sleep 0.3; echo late; echo fault >&2; sleep 0.1; echo last");
    command.live = Some(LiveSink::new(sender, Duration::from_millis(100)));
    let job = bench.runner.start_job(command);
    let mut streams = [Vec::new(), Vec::new()];
    let first = within(chunks.recv()).await.unwrap();
    assert_eq!(&first.bytes[..], b"early\n");
    let collect = async {
        streams[0].extend_from_slice(&first.bytes);
        while let Some(chunk) = chunks.recv().await {
            streams[usize::from(chunk.stream == StreamKind::Stderr)]
                .extend_from_slice(&chunk.bytes);
        }
    };
    let (ended, ()) = within(async { tokio::join!(job.wait(), collect) }).await;
    assert_eq!(ended.live_dropped_bytes, 0);
    assert_eq!(streams[0], b"early\nlate\nlast\n");
    assert_eq!(streams[1], b"fault\n");
    let (sender, mut chunks) = mpsc::channel(64);
    let mut command = sh("echo short");
    command.live = Some(LiveSink::new(sender, LiveSink::DEFAULT_START_AFTER));
    bench.run(command).await;
    assert_eq!(chunks.recv().await, None, "a short job is not live");
}

#[tokio::test]
async fn a_stuck_reader_of_live_output_blocks_nothing() {
    let bench = Bench::new().await;
    let (sender, chunks) = mpsc::channel(1);
    let mut command = sh("head -c 5000000 /dev/zero");
    command.live = Some(LiveSink::new(sender, Duration::ZERO));
    let ended = bench.run(command).await;
    assert_eq!(ended.stdout.bytes, 5_000_000);
    assert!(ended.live_dropped_bytes > 4_000_000);
    drop(chunks);
}
