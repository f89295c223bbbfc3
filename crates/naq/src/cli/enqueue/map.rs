//! `naq enqueue --map`: one job for each line of a file; `--join`: a job that gets the outcomes of all of
//! them.

use std::io::{BufRead, BufReader, Read};

use super::delay::Delay;
use super::file::{Item, ParsedEnvelope, Source, open};
use crate::cli::envelope_check::EnvelopeCheck;
use crate::cli::exit::{Exit, Failure};
use crate::cli::job_options::set_stdin;
use naq_client::Client;
use naq_protocol::{
    Argument, DEPENDENCIES_MAX, Dependency, DependencyCondition, Envelope, FLOW_LABEL, Inputs,
    JobId,
};

/// What stands for the line in a command.
const PLACEHOLDER: &str = "{}";

/// Maximum length of a line, in bytes: nats-server can be configured for no larger message.
const LINE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Many jobs")]
pub(super) struct MapOptions {
    /// File (- for standard input): enqueue a job for each line, as a flow whose name is --id. {} in the command is
    /// the line; without {}, each job gets its line on standard input
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(super) map: Option<String>,
    /// Flow whose jobs have to succeed first, and whose outcomes the job gets on standard input, as lines of JSON;
    /// FLOW=finished waits for any end
    #[arg(long, value_name = "FLOW[=END]", conflicts_with_all = ["file", "map"])]
    pub(super) join: Option<String>,
}

/// What the jobs of a map have in common.
pub(super) struct MapTemplate {
    envelope: Envelope,
    flow: JobId,
    /// Whether the line is a part of the command, and not its standard input.
    has_placeholder: bool,
}

impl MapTemplate {
    /// The jobs that differ from `envelope` by their lines. Their ids consist of the flow's name and the number of
    /// the line, from 0, so that enqueuing the same lines again has no effect.
    pub(super) fn new(mut envelope: Envelope, flow: JobId) -> Result<MapTemplate, Failure> {
        let command = envelope.command.as_ref();
        let has_placeholder = command.is_some_and(|text| text.contains(PLACEHOLDER))
            || envelope.args.iter().any(has_placeholder);
        let has_stdin = envelope.input.is_some()
            || envelope.stdin.is_some()
            || envelope.stdin_base64.is_some()
            || envelope.inputs == Some(Inputs::Stdin);
        if has_stdin && !has_placeholder {
            return Err(Failure::usage(
                "--map passes each line on standard input, since {} is not in the command; leave out what else \
                 sets it",
            ));
        }
        envelope.job_id = None;
        envelope
            .labels
            .insert(FLOW_LABEL.to_owned(), flow.to_string());
        Ok(MapTemplate {
            envelope,
            flow,
            has_placeholder,
        })
    }

    /// The job of a line.
    fn job(&self, index: u64, line: Vec<u8>) -> Result<Envelope, String> {
        let mut envelope = self.envelope.clone();
        let id = JobId::from_user(format!("{}-{index}", self.flow));
        envelope.job_id = Some(id.map_err(|error| error.to_string())?);
        if self.has_placeholder {
            let line = String::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
            for argument in &mut envelope.args {
                if has_placeholder(argument) {
                    *argument = argument.text().replace(PLACEHOLDER, &line).into();
                }
            }
            if let Some(command) = &mut envelope.command {
                *command = command.replace(PLACEHOLDER, &line);
            }
        } else {
            let mut line = line;
            line.push(b'\n');
            set_stdin(&mut envelope, line);
        }
        envelope.validate().map_err(|invalid| invalid.to_string())?;
        Ok(envelope)
    }
}

/// Whether the line has a place in an argument: in a text, or in place of the empty object of a function.
fn has_placeholder(argument: &Argument) -> bool {
    let json = argument.as_json();
    json == PLACEHOLDER || (json.starts_with('"') && argument.text().contains(PLACEHOLDER))
}

/// The jobs of a file's lines.
pub(super) fn lines(
    file: &str,
    template: MapTemplate,
    start: Option<Delay>,
    mut check: EnvelopeCheck,
) -> Result<Source, Failure> {
    let (reader, size) = open(file)?;
    Ok(Source::new(
        move |emit| for_each_line(reader, &template, start, &mut check, emit),
        size,
    ))
}

/// Passes the job of each line to `emit`. Empty lines have none.
fn for_each_line(
    reader: impl Read,
    template: &MapTemplate,
    start: Option<Delay>,
    check: &mut EnvelopeCheck,
    emit: &mut dyn FnMut(Item) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let (mut number, mut index, mut offset) = (0_u64, 0_u64, 0_u64);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| {
                Failure::usage(format!("cannot read the rest of the file: {error}"))
            })?;
        if read == 0 {
            break;
        }
        number += 1;
        offset += read as u64;
        let place = format!("line {number}");
        let refused = |why: String| Failure::new(Exit::Refused, format!("{place}: {why}"));
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if read as u64 > LINE_BYTES_MAX {
            return Err(refused("it is longer than 64 MiB".to_owned()));
        }
        if line.is_empty() {
            continue;
        }
        let envelope = template.job(index, line).map_err(refused)?;
        check.check(&envelope, &place)?;
        let resolved = start.map(|start| start.resolve(envelope.expires_at));
        let payload = serde_json::to_vec(&envelope).map_err(|error| refused(error.to_string()))?;
        emit(Item::Envelope(ParsedEnvelope {
            start: resolved
                .transpose()
                .map_err(|failure| refused(failure.message))?,
            chosen: envelope.job_id,
            payload: payload.into(),
            offset,
        }))?;
        index += 1;
    }
    match index {
        0 => Err(Failure::new(Exit::Refused, "there is no line in it")),
        _ => Ok(()),
    }
}

/// Makes a job wait for all jobs of a flow (`FLOW` or `FLOW=END`) and get their outcomes.
pub(super) async fn join(
    client: &Client,
    envelope: &mut Envelope,
    text: &str,
) -> Result<(), Failure> {
    let (flow, on) = match text.split_once('=') {
        Some((flow, on)) => (
            flow,
            on.parse()
                .map_err(|error: String| Failure::usage(format!("--join: {error}")))?,
        ),
        None => (text, DependencyCondition::Success),
    };
    let flow = JobId::new(flow)?;
    let Some(jobs) = client.fetch_flow_jobs(&flow).await? else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there is no flow `{flow}` of at most {DEPENDENCIES_MAX} jobs"),
        )
        .hint("`naq enqueue --map` or `--file` prints its name or takes it from --id"));
    };
    for job in jobs {
        if envelope.depends_on.iter().all(|known| known.job != job) {
            envelope.depends_on.push(Dependency::new(job, on));
        }
    }
    envelope.inputs.get_or_insert(Inputs::Stdin);
    envelope.validate()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(template: Envelope, text: &str) -> Result<Vec<Envelope>, String> {
        let template = MapTemplate::new(template, JobId::new("m").unwrap())
            .map_err(|failure| failure.message)?;
        let mut jobs = Vec::new();
        let mut check = EnvelopeCheck::default();
        for_each_line(text.as_bytes(), &template, None, &mut check, &mut |item| {
            let Item::Envelope(job) = item else {
                return Err(Failure::general("a flow"));
            };
            jobs.push(Envelope::parse(&job.payload)?);
            Ok(())
        })
        .map_err(|failure| failure.message)?;
        Ok(jobs)
    }

    #[test]
    fn a_line_stands_for_the_placeholder_or_is_the_standard_input() {
        let by_argument = jobs(Envelope::command("echo", ["x={};", "{}"]), "a b\n\n{}\n").unwrap();
        assert_eq!(by_argument.len(), 2);
        assert_eq!(by_argument[0].command_args(), ["x=a b;", "a b"]);
        // a line is not searched for the placeholder
        assert_eq!(by_argument[1].command_args(), ["x={};", "{}"]);
        let ids: Vec<String> = by_argument
            .iter()
            .map(|job| job.job_id.as_ref().unwrap().to_string())
            .collect();
        assert_eq!(ids, ["m-0", "m-1"]);
        let by_stdin = jobs(Envelope::command("cat", ["-"]), "{\"a\":1}\nlast").unwrap();
        assert_eq!(by_stdin[0].stdin.as_deref(), Some("{\"a\":1}\n"));
        assert_eq!(by_stdin[1].stdin.as_deref(), Some("last\n"));
        assert_eq!(by_stdin[1].labels["flow"], "m");
    }

    #[test]
    fn a_map_that_cannot_be_says_why() {
        let echo = || Envelope::command("echo", ["{}"]);
        assert_eq!(jobs(echo(), "\n\n").unwrap_err(), "there is no line in it");
        let error = jobs(echo(), "a\nb\0c\n").unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
        let error = jobs(Envelope::command("cat", ["-"]).with_stdin("x"), "a\n").unwrap_err();
        assert!(error.contains("standard input"), "{error}");
    }
}
