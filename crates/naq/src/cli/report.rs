//! `naq progress`, `naq checkpoint` and `naq result --set`: what a job reports to its worker, through its control
//! channel. They need no settings, no server and no grant.

use std::io::Write;

use serde_json::value::RawValue;

use super::exit::{Exit, Failure};
use super::job_options::read_bytes;

/// The variable of a job that has the number of the descriptor.
const VARIABLE: &str = "NAQ_CONTROL_FD";

#[derive(Debug, clap::Args)]
pub(super) struct ProgressArgs {
    /// How far the job is, from 0 to 100
    #[arg(value_name = "PERCENT", required_unless_present = "message")]
    percent: Option<f64>,
    /// What the job does
    #[arg(short = 'm', long, value_name = "TEXT")]
    message: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckpointArgs {
    /// Value for the next attempt, as JSON (- for standard input)
    #[arg(value_name = "JSON")]
    value: String,
    /// The value is a text instead of JSON
    #[arg(long)]
    text: bool,
}

/// Reports how far the job is.
pub(super) fn progress(args: &ProgressArgs) -> Result<u8, Failure> {
    let mut fields = Vec::new();
    if let Some(percent) = args.percent {
        let percent = serde_json::Number::from_f64(percent);
        let percent = percent.ok_or_else(|| Failure::usage("the percentage is not a number"))?;
        fields.push(format!("\"progress\":{percent}"));
    }
    if let Some(message) = &args.message {
        fields.push(format!(
            "\"message\":{}",
            serde_json::Value::from(message.as_str())
        ));
    }
    send("progress", &fields.join(","))
}

/// Stores a value for the next attempt.
pub(super) fn checkpoint(args: &CheckpointArgs) -> Result<u8, Failure> {
    let value = json(&args.value, args.text)?;
    send("checkpoint", &format!("\"checkpoint\":{value}"))
}

/// Sets the job's structured result.
pub(super) fn result(value: &str, is_text: bool) -> Result<u8, Failure> {
    let value = json(value, is_text)?;
    send("result --set", &format!("\"result\":{value}"))
}

/// A value as JSON in one line; `-` is standard input.
fn json(value: &str, is_text: bool) -> Result<String, Failure> {
    let text = match value {
        "-" => {
            let read = String::from_utf8(read_bytes("-", "the value")?);
            read.map_err(|_| Failure::usage("the value on standard input is not UTF-8"))?
        }
        value => value.to_owned(),
    };
    if is_text {
        return Ok(serde_json::Value::from(text).to_string());
    }
    let value = RawValue::from_string(text.trim().to_owned()).map_err(|error| {
        Failure::usage(format!("the value is not JSON: {error}")).hint("--text passes a text")
    })?;
    // A report is a line. In JSON a line break can only be between two tokens.
    Ok(value.get().replace(['\n', '\r'], " "))
}

/// Writes a line with these fields.
fn send(verb: &str, fields: &str) -> Result<u8, Failure> {
    let number = naq_client::config::environment().remove(VARIABLE);
    let Some(number) = number.and_then(|number| number.parse().ok()) else {
        return Err(Failure::usage(format!(
            "`naq {verb}` is for the inside of a job: {VARIABLE} is not set"
        )));
    };
    let line = format!("{{{fields}}}\n");
    let written = naq_runner::open_control_channel(number)
        .and_then(|mut channel| channel.write_all(line.as_bytes()));
    written.map(|()| 0).map_err(|error| {
        let message =
            format!("cannot write to the job's control channel, descriptor {number}: {error}");
        Failure::new(Exit::Failed, message)
            .hint("the program that starts naq has to pass the descriptor on")
    })
}
