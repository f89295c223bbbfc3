//! Enqueues a second, beside bare publishes of the same bytes.

use std::time::{Duration, Instant};

use super::process::Bench;
use super::{median, show};
use crate::cli::exit::Failure;
use naq_client::NewJob;
use naq_protocol::Envelope;

pub(super) async fn run(bench: &Bench) -> Result<(), Failure> {
    let broker = bench.client.broker();
    broker.ensure_queue(&bench.queue).await?;
    let payload = bytes::Bytes::from_static(br#"{"command":"./script.sh","args":["one","two"]}"#);
    let queue = bench.client.queue(bench.queue.as_str())?;
    let time = Duration::from_secs_f64(bench.seconds / 2.0);
    let mut rates = [const { Vec::new() }; 6];
    for _ in 0..bench.rounds {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < time {
            broker.publish_unchecked(&bench.queue, &payload).await?;
            count += 1;
        }
        rates[0].push(rate(count, begun));
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < time {
            let envelope = Envelope::parse(&payload)?;
            queue.enqueue(&envelope).await?;
            count += 1;
        }
        rates[1].push(rate(count, begun));
        queue.purge().await?;
        // as many as the pipelined rate brings in the time, so that both fill alike
        let (begun, count) = (Instant::now(), 50_000_u32);
        broker
            .publish_unchecked_pipelined(&bench.queue, &payload, count, false)
            .await?;
        rates[2].push(rate(count, begun));
        queue.purge().await?;
        let begun = Instant::now();
        broker
            .publish_unchecked_pipelined(&bench.queue, &payload, count, true)
            .await?;
        rates[5].push(rate(count, begun));
        queue.purge().await?;
        let begun = Instant::now();
        let mut bulk = bench.client.bulk();
        for _ in 0..count {
            bulk.push(NewJob::new(bench.queue.clone(), payload.clone()))
                .await?;
            bulk.take_confirmed();
        }
        bulk.finish().await?;
        rates[3].push(rate(count, begun));
        queue.purge().await?;
        // the command line, from start to end: reading, checking, sending, confirming
        let file = bench.file(
            "envelopes.ndjson",
            &[&payload[..], b"\n"].concat().repeat(count as usize),
        )?;
        let begun = Instant::now();
        let enqueue = [
            "enqueue",
            "--queue",
            queue.name().as_str(),
            "--quiet",
            "--file",
            &file,
        ];
        if bench.spawn_naq(&enqueue).wait().await.end != naq_runner::Termination::Exited(0) {
            return Err(Failure::general("naq enqueue --file failed"));
        }
        rates[4].push(rate(count, begun));
        queue.purge().await?;
    }
    let [
        bare,
        one,
        bare_pipelined,
        pipelined,
        command_line,
        with_subjects,
    ] = rates.map(median);
    let rows = [
        ("one by one", bare, one),
        ("pipelined: bare to one subject", bare_pipelined, pipelined),
        (
            "pipelined: bare to a subject each",
            with_subjects,
            pipelined,
        ),
        (
            "naq enqueue --file: bare to a subject each",
            with_subjects,
            command_line,
        ),
    ]
    .map(|(name, bare, naq)| {
        vec![
            name.to_owned(),
            format!("{bare:.0}"),
            format!("{naq:.0}"),
            format!("{:.2}", naq / bare),
        ]
    });
    show(
        bench.json,
        "enqueue",
        &["enqueue", "bare_per_s", "naq_per_s", "of_bare"],
        &rows,
    )
}

fn rate(count: u32, begun: Instant) -> f64 {
    f64::from(count) / begun.elapsed().as_secs_f64()
}
