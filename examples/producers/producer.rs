//! Enqueues a job over NATS and waits for its outcome, with async-nats and no naq: see README.md.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program of a user, which has none of naq's own helpers"
)]

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| std::env::var(name).ok();
    let login = match (variable("NAQ_NKEY"), variable("NAQ_TOKEN")) {
        (Some(file), _) => async_nats::ConnectOptions::with_nkey(std::fs::read_to_string(file)?),
        (None, Some(token)) => async_nats::ConnectOptions::with_token(token),
        (None, None) => async_nats::ConnectOptions::new(),
    };
    let client = login.connect(std::env::var("NAQ_NATS_URL")?).await?;
    let id = client.new_inbox().replace("_INBOX.", "rust-");
    // subscribe before the enqueue: no change of the job's record is missed
    let mut events = client.subscribe(format!("naq.event.{id}")).await?;
    let envelope = json!({"command": "echo", "args": ["hello from Rust"], "timeout": "1m"});
    let jetstream = async_nats::jetstream::new(client);
    let stored = jetstream.publish(format!("naq.queue.build.{id}"), envelope.to_string().into());
    stored.await?.await?;

    let ended = ["succeeded", "failed", "cancelled", "expired", "rejected"];
    let mut record = Value::Null;
    while !record["state"]
        .as_str()
        .is_some_and(|state| ended.contains(&state))
    {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next()).await?;
        record = serde_json::from_slice(&event.ok_or("the connection is closed")?.payload)?;
    }
    let text = [&record["stdout"]["text"], &record["error"]].map(Value::as_str);
    println!(
        "{} {}",
        record["state"].as_str().unwrap_or_default(),
        text[0].or(text[1]).unwrap_or_default().trim()
    );
    std::process::exit(i32::from(record["state"] != "succeeded"));
}
