//! The envelope of a job for its page, without the values of variables, and commands that enqueue the job
//! again.

use serde::Serialize;
use serde_json::value::RawValue;

use super::job_view::Fact;
use crate::text::excerpt;
use crate::web::enqueue_form::{Fields, pretty};
use crate::web::hidden_values::hide_values;
use naq_protocol::command_line;
use naq_protocol::units::{format_duration, format_size};
use naq_protocol::{Envelope, Record, escape, escape_json};

/// Maximum number of characters of a command, script or envelope that the page shows.
const TEXT_CHARS_MAX: usize = 32_768;

/// Fields that identify one job, so that a command to enqueue it again must not contain them.
pub(super) const OWN_FIELDS: &[&str] = &[
    "job_id",
    "rerun_of",
    "schedule_id",
    "scheduled_for",
    "enqueue_time",
    "traceparent",
];

/// The fields that the short form of the command can express.
const SIMPLE_FIELDS: &[&str] = &["command", "args", "env", "secrets", "labels", "timeout"];

/// The variables of the envelope's part of `job.html`.
#[derive(Serialize)]
pub(super) struct EnvelopeView {
    /// The command line, or the source of a script.
    text: String,
    facts: Vec<Fact>,
    /// Names of variables.
    env: Vec<String>,
    /// Names of secrets.
    secrets: Vec<String>,
    /// The whole envelope, without the values of variables.
    json: String,
    cli: String,
    curl: String,
    python: String,
    /// Whether the commands lack values of variables.
    has_hidden_values: bool,
}

/// The view of an envelope. `None` if none is stored. `address` is the address of the dashboard.
pub(super) fn envelope_view(record: &Record, address: &str) -> Option<EnvelopeView> {
    let hidden = hide_values(record.envelope.as_deref()?)?;
    let mut fields: Fields = serde_json::from_str(hidden.get()).ok()?;
    let envelope = Envelope::parse(hidden.get().as_bytes()).ok();
    let json = escape_json(&pretty(&fields)).into_owned();
    for own in OWN_FIELDS {
        fields.remove(*own);
    }
    let queue = record.queue.as_str();
    let env: Vec<String> = envelope
        .iter()
        .flat_map(|envelope| envelope.env.keys())
        .map(|name| escape(name))
        .collect();
    Some(EnvelopeView {
        text: envelope.as_ref().map(shown_text).unwrap_or_default(),
        facts: envelope.as_ref().map(facts).unwrap_or_default(),
        secrets: envelope
            .iter()
            .flat_map(|envelope| envelope.secrets.iter())
            .map(|name| escape(name))
            .collect(),
        cli: cli(queue, &fields, envelope.as_ref()),
        curl: curl(queue, &fields, address),
        python: python(queue, &fields),
        has_hidden_values: !env.is_empty(),
        env,
        json: excerpt(&json, TEXT_CHARS_MAX),
    })
}

/// The command or the source.
fn shown_text(envelope: &Envelope) -> String {
    let text = match &envelope.script {
        // lines of a script are lines on the page
        Some(script) => {
            let lines: Vec<String> = script.split('\n').map(escape).collect();
            lines.join("\n")
        }
        None => escape(&envelope.summary()),
    };
    excerpt(&text, TEXT_CHARS_MAX)
}

fn facts(envelope: &Envelope) -> Vec<Fact> {
    let limits = &envelope.limits;
    let duration = |duration: &naq_protocol::units::WireDuration| format_duration(duration.0);
    let size = |size: &naq_protocol::units::ByteSize| format_size(size.0);
    let requires: Vec<String> = envelope
        .requires
        .iter()
        .map(|(key, value)| escape(&format!("{key}={value}")))
        .collect();
    let facts = [
        ("Runner", envelope.runner.as_deref().map(escape)),
        ("Directory", envelope.cwd.as_deref().map(escape)),
        ("Timeout", envelope.timeout.as_ref().map(duration)),
        ("Retries", envelope.max_retries.map(|max| max.to_string())),
        ("Memory", limits.memory.as_ref().map(size)),
        ("CPUs", limits.cpus.map(|cpus| cpus.to_string())),
        (
            "Requires",
            (!requires.is_empty()).then(|| requires.join(", ")),
        ),
        (
            "Concurrency key",
            envelope
                .concurrency_key
                .as_deref()
                .map(|key| excerpt(&escape(key), 80)),
        ),
        ("Expires", envelope.expires_at.map(|time| time.to_string())),
        ("Kept for", envelope.result_ttl.as_ref().map(duration)),
    ];
    let facts = facts
        .into_iter()
        .filter_map(|(name, value)| Some(Fact::new(name, value?)));
    facts.collect()
}

/// An envelope with a field in each line. Empty if it is no object.
pub(super) fn envelope_text(envelope: &RawValue) -> String {
    let fields: Option<Fields> = serde_json::from_str(envelope.get()).ok();
    let text = fields.as_ref().map(pretty).unwrap_or_default();
    escape_json(&text).into_owned()
}

/// The envelope in one line, without characters that a terminal would act on.
fn compact(fields: &Fields) -> String {
    let json = serde_json::to_string(fields).unwrap_or_default();
    // line breaks between values mean nothing
    escape_json(&json).replace(['\n', '\r', '\t'], " ")
}

/// A command that enqueues the same envelope again.
pub(super) fn cli(queue: &str, fields: &Fields, envelope: Option<&Envelope>) -> String {
    let is_simple = fields
        .keys()
        .all(|field| SIMPLE_FIELDS.contains(&field.as_str()));
    if let Some(envelope) = envelope.filter(|envelope| is_simple && envelope.command.is_some()) {
        let line = command_line(simple_words(queue, envelope).iter().map(String::as_str));
        // JSON can express what a command line cannot contain
        if escape(&line) == line {
            return excerpt(&line, TEXT_CHARS_MAX);
        }
    }
    let words = ["naq", "enqueue", "-q", queue, "-f", "-"];
    let command = format!("{} <<'END'\n{}\nEND", command_line(words), compact(fields));
    excerpt(&command, TEXT_CHARS_MAX)
}

fn simple_words(queue: &str, envelope: &Envelope) -> Vec<String> {
    let mut words = ["naq", "enqueue", "-q", queue].map(str::to_owned).to_vec();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    // without a value, `naq enqueue` passes the caller's variable
    for name in envelope.env.keys() {
        option("-e", name.clone());
    }
    for name in &envelope.secrets {
        option("--secret", name.clone());
    }
    for (key, value) in &envelope.labels {
        option("-l", format!("{key}={value}"));
    }
    if let Some(timeout) = &envelope.timeout {
        option("--timeout", format_duration(timeout.0));
    }
    words.push("--".to_owned());
    words.extend(envelope.command.clone());
    words.extend(envelope.command_args());
    words
}

/// A request that enqueues the same envelope again.
fn curl(queue: &str, fields: &Fields, address: &str) -> String {
    let json = compact(fields);
    let url = format!("{address}/api/queues/{queue}/jobs");
    let words = ["--json", json.as_str(), url.as_str()];
    let command = format!(
        "curl --header \"Authorization: Bearer $(cat ~/.local/share/naq/dashboard.token)\" {}",
        command_line(words)
    );
    excerpt(&escape(&command), TEXT_CHARS_MAX)
}

/// A program that enqueues the same envelope again, with a plain NATS client.
fn python(queue: &str, fields: &Fields) -> String {
    // within the quotes of the program only these quotes end the text, and JSON has another form for them
    let json = escape_json(&pretty(fields)).replace("'''", r"\u0027\u0027\u0027");
    let program = format!(
        r#"# pip install nats-py
import asyncio, os, uuid
import nats

ENVELOPE = r'''
{json}
'''

async def main():
    client = await nats.connect(
        os.environ.get("NAQ_NATS_URL", "nats://127.0.0.1:4222"),
        token=os.environ.get("NAQ_TOKEN"),
        nkeys_seed=os.environ.get("NAQ_NKEY"),
    )
    job_id = str(uuid.uuid4())
    headers = {{"Nats-Msg-Id": job_id}}
    await client.jetstream().publish("naq.queue.{queue}", ENVELOPE.encode(), headers=headers)
    print(job_id)
    await client.close()

asyncio.run(main())"#
    );
    excerpt(&program, TEXT_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naq_protocol::{JobId, Phase, QueueName, Timestamp};

    fn view(envelope: &str) -> EnvelopeView {
        let mut record = Record::new(
            JobId::new("a").unwrap(),
            QueueName::new("build").unwrap(),
            Phase::Queued,
            Timestamp::from_unix_ms(0).unwrap(),
        );
        record.envelope = Some(RawValue::from_string(envelope.to_owned()).unwrap());
        envelope_view(&record, "http://h:1/naq").unwrap()
    }

    #[test]
    fn a_plain_command_becomes_a_command_line() {
        let view = view(
            r#"{"job_id":"a","command":"echo","args":["it's",1],"env":{"TOKEN":"hunter2"},"labels":{"team":"x"},"timeout":90}"#,
        );
        assert_eq!(view.text, r"echo 'it'\''s' 1");
        assert_eq!(
            view.cli,
            r"naq enqueue -q build -e TOKEN -l team=x --timeout 90s -- echo 'it'\''s' 1"
        );
        assert_eq!(view.env, ["TOKEN"]);
        assert!(view.json.contains("\"TOKEN\":\"***\""), "{}", view.json);
        assert!(
            view.curl.ends_with("http://h:1/naq/api/queues/build/jobs"),
            "{}",
            view.curl
        );
        let lines: Vec<&str> = view.python.lines().collect();
        assert_eq!(lines[4..6], ["ENVELOPE = r'''", "{"], "{}", view.python);
        for text in [&view.json, &view.cli, &view.curl, &view.python] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert!(!view.curl.contains("job_id"), "{}", view.curl);
    }

    #[test]
    fn what_has_no_short_form_is_an_envelope() {
        let script = view(r##"{"script":"#!/bin/sh\necho \u001b[31m\n","max_retries":2}"##);
        assert_eq!(script.text, "#!/bin/sh\necho \\u{1b}[31m\n");
        assert!(
            script
                .cli
                .starts_with("naq enqueue -q build -f - <<'END'\n{"),
            "{}",
            script.cli
        );
        assert!(script.cli.ends_with("}\nEND"), "{}", script.cli);
        let hostile = view("{\"command\":\"a\u{202e}b\"}");
        assert!(hostile.cli.contains(r"a\u202eb"), "{}", hostile.cli);
        assert!(!hostile.curl.contains('\u{202e}'), "{}", hostile.curl);
        let quotes = view("{\"command\":\"a'''\\nb\"}");
        assert_eq!(quotes.python.matches("'''").count(), 2, "{}", quotes.python);
        // an envelope that is no envelope is shown as it is
        let invalid = view(r#"{"args":[{}]}"#);
        assert_eq!(
            (invalid.text.as_str(), invalid.json.as_str()),
            ("", "{\n  \"args\": [{}]\n}")
        );
    }
}
