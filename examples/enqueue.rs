//! Enqueues a job and waits for its outcome.
//!
//!     cargo run -p naq-client --example enqueue                                   # as `naq` connects
//!     cargo run -p naq-client --example enqueue -- nats://nats.example.com:4222 [TOKEN]
//!
//! Needs a worker of the queue `default`: `naq worker default`.

use std::io::Write;
use std::time::Duration;

use naq_client::{Client, ConnectOptions, Envelope, State};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let client = match arguments.next() {
        Some(url) => {
            let mut options = ConnectOptions::from(url);
            options.token = arguments.next();
            Client::connect(options).await?
        }
        None => Client::from_env().await?,
    };

    let envelope = Envelope::command("sort", ["-n"])
        .with_stdin("10\n9\n8\n")
        .with_timeout(Duration::from_secs(60))
        .with_label("producer", "rust");
    let job = client.queue("default")?.enqueue(&envelope).await?;

    let record = client.wait(&job).await?;
    let text = client.read_stdout(&record).await?;
    std::io::stdout().write_all(&text)?;
    anyhow::ensure!(
        record.state() == State::Succeeded,
        "the job is {}",
        record.state()
    );
    Ok(())
}
