//! Enqueues envelopes from a file of any size: one, an array, or one after another.
//!
//! A thread reads, splits and checks the file; the runtime sends the envelopes. The channel between
//! the two is bounded, so memory does not grow with the file.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::delay::Delay;
use crate::cli::envelope_check::EnvelopeCheck;
use crate::cli::exit::{Exit, Failure};
use crate::cli::job_socket::{JobSocket, not_in_a_job};
use crate::cli::json::{CheckedFile, EnqueuedJob};
use crate::cli::render;
use crate::cli::session::Session;
use crate::cli::time_limit::{limited, verb_time_max};
use naq_client::NewJob;
use naq_client::{BulkEnqueue, Client, ClientError};
use naq_core::StartDelay;
use naq_protocol::{Envelope, Flow, JobId, QueueName, TraceContext, escape};

/// Maximum number of envelopes in a batch.
const BATCH_JOBS: usize = 256;

/// Payload size at which a batch is full, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Maximum number of batches between the reader and the sender.
const BATCHES_MAX: usize = 8;

/// A valid envelope of the file.
pub(super) struct ParsedEnvelope {
    pub(super) chosen: Option<JobId>,
    pub(super) payload: Bytes,
    pub(super) start: Option<StartDelay>,
    /// Bytes of the file up to the end of this envelope.
    pub(super) offset: u64,
}

/// An item of a file.
pub(super) enum Item {
    Envelope(ParsedEnvelope),
    /// A flow, which is the only item of its file.
    Flow(Flow),
}

type Batch = Result<Vec<Item>, Failure>;

/// Takes an item.
type Emit<'e> = dyn FnMut(Item) -> Result<(), Failure> + 'e;

/// Passes the items of a file on.
type Each = dyn FnOnce(&mut Emit<'_>) -> Result<(), Failure> + Send;

/// A file whose items are read once, one after another.
pub(super) struct Source {
    each: Box<Each>,
    /// Size of the file. `None` if it is a pipe.
    size: Option<u64>,
}

impl Source {
    /// A source that passes its items to `each`.
    pub(super) fn new(
        each: impl FnOnce(&mut Emit<'_>) -> Result<(), Failure> + Send + 'static,
        size: Option<u64>,
    ) -> Source {
        let each = Box::new(each);
        Source { each, size }
    }

    /// The envelopes or the flow of a file.
    pub(super) fn envelopes(
        file: &str,
        start: Option<Delay>,
        mut check: EnvelopeCheck,
    ) -> Result<Source, Failure> {
        let (reader, size) = open(file)?;
        let each = move |emit: &mut Emit<'_>| for_each_item(reader, start, &mut check, emit);
        Ok(Source::new(each, size))
    }

    /// Prints every envelope.
    pub(super) fn print(self) -> Result<(), Failure> {
        (self.each)(&mut |item| {
            if let Item::Envelope(envelope) = item {
                let text: &RawValue = serde_json::from_slice(&envelope.payload)
                    .map_err(|error| Failure::general(error.to_string()))?;
                render::print_json(&text)?;
            }
            Ok(())
        })
    }
}

/// Reads and checks every envelope, and prints their number.
pub(super) fn check(source: Source) -> Result<u8, Failure> {
    let mut count = 0_u64;
    let mut flow_jobs = None;
    (source.each)(&mut |item| {
        match item {
            Item::Envelope(_) => count += 1,
            // Any name of the length of a generated one does: ids of the jobs contain it.
            Item::Flow(flow) => flow_jobs = Some(flow.members(&generate_flow_name())?.len()),
        }
        Ok(())
    })?;
    if render::is_json() {
        let jobs = flow_jobs.map_or(count, |jobs| jobs as u64);
        render::print_json(&CheckedFile { jobs })?;
        return Ok(0);
    }
    match flow_jobs {
        Some(jobs) => render::note(format_args!(
            "the flow of {} is valid",
            render::count(jobs as u64, "job")
        )),
        None => render::note(format_args!(
            "{}, all valid",
            render::count(count, "envelope")
        )),
    }
    Ok(0)
}

/// Options for all jobs of a file.
pub(super) struct FileOptions<'w> {
    /// Queue of the jobs.
    pub(super) queue: &'w QueueName,
    /// Name of a flow. `None` generates one.
    pub(super) name: Option<&'w JobId>,
    /// Delay of each job. `None` enqueues at once.
    pub(super) start: Option<Delay>,
    /// Do not print the ids.
    pub(super) quiet: bool,
    /// Return the ids to the caller instead of printing them.
    pub(super) keep_ids: bool,
    /// The trace that the jobs belong to.
    pub(super) trace: Option<TraceContext>,
    /// The flow of jobs that have their ids already.
    pub(super) flow: Option<&'w JobId>,
}

/// What was enqueued.
pub(super) struct Enqueued {
    /// The ids, if the caller keeps them.
    pub(super) ids: Vec<JobId>,
    /// Number of envelopes.
    pub(super) jobs: u64,
}

/// Enqueues every envelope of a file, or its flow.
pub(super) async fn enqueue(
    session: &Session,
    client: &Client,
    source: Source,
    options: &FileOptions<'_>,
) -> Result<Enqueued, Failure> {
    let bar = progress(source.size);
    let mut batches = read_on_thread(source);
    let mut sender = BulkSender {
        sent: 0,
        session,
        options,
        bulk: client.bulk(),
        ids: Vec::new(),
        refused: 0,
        first_refusal: None,
        is_output_closed: false,
    };
    let mut read_failure = None;
    while let Some(batch) = batches.recv().await {
        let items = match batch {
            Ok(items) => items,
            Err(failure) => {
                // The jobs before the failure are on their way, so they are finished and counted.
                read_failure = Some(failure);
                break;
            }
        };
        // The file may be a pipe: naq waits for its writer without a limit, but not for the server.
        let sending = async {
            for item in items {
                match item {
                    Item::Envelope(envelope) => {
                        bar.set_position(envelope.offset);
                        sender.push(envelope).await?;
                    }
                    Item::Flow(flow) => {
                        bar.finish_and_clear();
                        let enqueued = enqueue_flow(session, client, &flow, options).await?;
                        return Ok(Some(enqueued));
                    }
                }
            }
            Ok(None)
        };
        if let Some(ids) = limited(verb_time_max(), &session.progress, sending).await? {
            let jobs = ids.len() as u64;
            return Ok(Enqueued { ids, jobs });
        }
        sender.report()?;
        bar.set_message(sender.bulk.enqueued().to_string());
    }
    let finishing = async { Ok(sender.bulk.finish().await?) };
    let enqueued = limited(verb_time_max(), &session.progress, finishing).await?;
    sender.report()?;
    bar.finish_and_clear();
    sender.conclude(enqueued, read_failure)
}

/// Enqueues every envelope of a file inside a job, through its worker, one after another.
pub(super) async fn enqueue_in_job(
    session: &Session,
    worker: &JobSocket,
    source: Source,
    options: &FileOptions<'_>,
) -> Result<(), Failure> {
    let mut batches = read_on_thread(source);
    let mut enqueued = 0;
    while let Some(batch) = batches.recv().await {
        let sending = async {
            for item in batch? {
                let Item::Envelope(envelope) = item else {
                    return Err(not_in_a_job("a flow"));
                };
                let mut request = worker.enqueue_request(options.queue, &envelope.payload)?;
                if let Some(start) = options.start {
                    start.set_in(&mut request);
                }
                let job_id = worker.enqueue(request).await?;
                enqueued += 1;
                if options.quiet {
                    continue;
                }
                if session.json {
                    render::print_json(&EnqueuedJob {
                        job_id: &job_id,
                        queue: options.queue,
                        scheduled_for: None,
                        name: None,
                        flow: options.flow,
                    })?;
                } else {
                    render::print_line(&job_id)?;
                }
            }
            Ok(())
        };
        sending.await.map_err(|failure| {
            let jobs = render::count(enqueued, "job");
            failure.map_message(|why| format!("{why}; {jobs} enqueued before it"))
        })?;
    }
    Ok(())
}

/// Generates a flow's name. It is short, because the ids of the flow's jobs begin with it.
pub(super) fn generate_flow_name() -> JobId {
    let generated = JobId::generate();
    // The last part of an id is random.
    let random = generated.as_str().rsplit('-').next().unwrap_or_default();
    JobId::new(format!("flow-{random}")).unwrap_or(generated)
}

async fn enqueue_flow(
    session: &Session,
    client: &Client,
    flow: &Flow,
    options: &FileOptions<'_>,
) -> Result<Vec<JobId>, Failure> {
    let name = options.name.cloned().unwrap_or_else(generate_flow_name);
    let queue = options.queue;
    // Resolved once, so that all jobs of the flow have the same due time.
    let start = options.start.map(|start| start.resolve(None)).transpose()?;
    let members = client
        .enqueue_flow_delayed(flow, &name, queue, start)
        .await
        .map_err(|error| match error {
            ClientError::NoSuchJob(job) => Failure::new(
                Exit::Refused,
                format!("the flow depends on `{job}`, which is neither in the flow nor a known job; nothing was enqueued"),
            ),
            error => error.into(),
        })?;
    if !options.quiet {
        for member in &members {
            if session.json {
                let queue = member.queue.as_ref().unwrap_or(queue);
                render::tolerate_closed_output(render::print_json(&EnqueuedJob {
                    job_id: &member.job_id,
                    queue,
                    scheduled_for: start.map(|start| start.due),
                    name: Some(&member.name),
                    flow: Some(&name),
                }))?;
            } else {
                render::tolerate_closed_output(render::print_line(&member.job_id))?;
            }
        }
        if std::io::stderr().is_terminal() && !session.json {
            render::note(format_args!(
                "{} enqueued; `naq status --tree {name}` shows the flow",
                render::count(members.len() as u64, "job")
            ));
        }
    }
    Ok(members.into_iter().map(|member| member.job_id).collect())
}

struct BulkSender<'s> {
    session: &'s Session,
    options: &'s FileOptions<'s>,
    bulk: BulkEnqueue,
    /// Number of jobs that were sent.
    sent: u64,
    ids: Vec<JobId>,
    refused: u64,
    first_refusal: Option<Failure>,
    /// Whether nobody reads the ids any more.
    is_output_closed: bool,
}

impl BulkSender<'_> {
    /// Sends one job. Blocks while too many are unconfirmed.
    async fn push(&mut self, envelope: ParsedEnvelope) -> Result<(), Failure> {
        if self.options.name.is_some() {
            return Err(Failure::usage(
                "--id names one job or a flow; the envelopes of a file have ids of their own",
            ));
        }
        let queue = self.options.queue.clone();
        let mut job = match envelope.chosen {
            Some(id) => NewJob::with_id(id, queue, envelope.payload),
            None => NewJob::new(queue, envelope.payload),
        };
        job.start = envelope.start;
        job.trace = self.options.trace;
        self.bulk.push(job).await?;
        self.sent += 1;
        Ok(())
    }

    /// Reports how many jobs were enqueued, after the last confirmation. Returns the kept ids, or
    /// the failure that ended the reading, or the first refusal of the server.
    fn conclude(self, enqueued: u64, read_failure: Option<Failure>) -> Result<Enqueued, Failure> {
        let jobs = render::count(enqueued, "job");
        if let Some(failure) = read_failure {
            return Err(failure.map_message(|why| format!("{why}; {jobs} enqueued before it")));
        }
        if let Some(failure) = self.first_refusal {
            let refused = render::count(self.refused, "job");
            return Err(failure.map_message(|why| {
                format!("{refused} refused, {jobs} enqueued; the first refusal: {why}")
            }));
        }
        if self.is_output_closed || (std::io::stderr().is_terminal() && !self.session.json) {
            let repeated = match self.bulk.duplicates() {
                0 => String::new(),
                repeated => format!(", {repeated} of them before"),
            };
            render::note(format_args!("{jobs} enqueued{repeated}"));
        }
        Ok(Enqueued {
            ids: self.ids,
            jobs: self.sent,
        })
    }

    fn print_ids(&self, ids: &[JobId]) -> std::io::Result<()> {
        let mut stdout = std::io::stdout().lock();
        for id in ids {
            if self.session.json {
                let job = EnqueuedJob {
                    job_id: id,
                    queue: self.options.queue,
                    scheduled_for: None,
                    name: None,
                    flow: self.options.flow,
                };
                serde_json::to_writer(&mut stdout, &job).map_err(std::io::Error::from)?;
                writeln!(stdout)?;
            } else {
                writeln!(stdout, "{id}")?;
            }
        }
        Ok(())
    }

    /// Prints or keeps the ids that the server has confirmed, and counts what it has refused.
    fn report(&mut self) -> Result<(), Failure> {
        let mut confirmed = self.bulk.take_confirmed();
        if !self.options.quiet && !self.options.keep_ids && !self.is_output_closed {
            let printed = self.print_ids(&confirmed);
            self.is_output_closed = printed.is_err();
            // The jobs of the file belong together, even if no program reads their ids.
            render::tolerate_closed_output(printed)?;
        }
        if self.options.keep_ids {
            self.ids.append(&mut confirmed);
        }
        while let Some((job_id, error)) = self.bulk.take_rejected() {
            self.refused += 1;
            let failure = Failure::from(error);
            self.first_refusal
                .get_or_insert_with(|| failure.map_message(|why| format!("{job_id}: {why}")));
        }
        Ok(())
    }
}

/// Opens a file; `-` is standard input. Returns its size too, unless it has none.
pub(super) fn open(file: &str) -> Result<(Box<dyn Read + Send>, Option<u64>), Failure> {
    if file == "-" {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let opened = std::fs::File::open(file)
        .map_err(|error| Failure::usage(format!("cannot read {file}: {error}")))?;
    let size = opened.metadata().ok().map(|metadata| metadata.len());
    Ok((Box::new(opened), size))
}

fn progress(size: Option<u64>) -> ProgressBar {
    let bar = match size {
        Some(size) => ProgressBar::new(size),
        None => ProgressBar::no_length(),
    };
    // indicatif draws only if standard error is a terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    let template = "{bar:30} {bytes}/{total_bytes}  {msg} jobs  {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Reads a source on a thread of its own.
fn read_on_thread(source: Source) -> mpsc::Receiver<Batch> {
    let (sender, batches) = mpsc::channel::<Batch>(BATCHES_MAX);
    std::thread::spawn(move || read(source, &sender));
    batches
}

fn read(source: Source, sender: &mpsc::Sender<Batch>) {
    let mut batch = Vec::with_capacity(BATCH_JOBS);
    let mut batch_bytes = 0;
    let read = (source.each)(&mut |item| {
        if let Item::Envelope(checked) = &item {
            batch_bytes += checked.payload.len();
        }
        batch.push(item);
        if batch.len() == BATCH_JOBS || batch_bytes >= BATCH_BYTES {
            batch_bytes = 0;
            let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_JOBS));
            return sender
                .blocking_send(Ok(full))
                .map_err(|_| Failure::general("interrupted"));
        }
        Ok(())
    });
    let _ = sender.blocking_send(Ok(batch));
    if let Err(failure) = read {
        let _ = sender.blocking_send(Err(failure));
    }
}

/// Splits a file into envelopes, checks each, and passes it to `emit`.
fn for_each_item(
    reader: Box<dyn Read + Send>,
    start: Option<Delay>,
    check: &mut EnvelopeCheck,
    mut emit: impl FnMut(Item) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = BufReader::with_capacity(256 << 10, reader);
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read the rest of the file: {error}"))
    };
    let first = loop {
        let buffer = reader.fill_buf().map_err(unreadable)?;
        if buffer.is_empty() {
            return Err(Failure::new(Exit::Refused, "there is no envelope in it"));
        }
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => break buffer[at],
            None => {
                let blank = buffer.len();
                reader.consume(blank);
            }
        }
    };
    if first == b'[' {
        return for_each_in_array(reader, start, check, &mut emit);
    }
    let mut text = Vec::new();
    let (mut line, mut item_line, mut first_line, mut offset) = (0_u64, 1_u64, 1_u64, 0_u64);
    loop {
        let read = reader.read_until(b'\n', &mut text).map_err(unreadable)?;
        line += 1;
        offset += read as u64;
        let at_end = read == 0;
        if text.iter().all(u8::is_ascii_whitespace) {
            if at_end {
                return Ok(());
            }
            text.clear();
            if item_line == first_line {
                first_line = line + 1;
            }
            item_line = line + 1;
            continue;
        }
        // An envelope may be spread over several lines: keep reading until its JSON is complete.
        if !at_end && is_incomplete(&text) {
            continue;
        }
        let trimmed = text.trim_ascii();
        if item_line == first_line && Flow::is_flow(trimmed) {
            let flow = Flow::parse(trimmed).map_err(|invalid| {
                let text = invalid.to_string().replacen("envelope", "flow", 1);
                Failure::new(Exit::Refused, text)
            })?;
            expect_end_of_file(reader)?;
            check_flow(&flow, check)?;
            return emit(Item::Flow(flow));
        }
        let checked = parse_envelope(trimmed, start, offset, check, || {
            format!("line {item_line}")
        })?;
        emit(Item::Envelope(checked))?;
        text.clear();
        item_line = line + 1;
        if at_end {
            return Ok(());
        }
    }
}

/// Checks the envelopes of a flow.
fn check_flow(flow: &Flow, check: &mut EnvelopeCheck) -> Result<(), Failure> {
    for member in flow.members(&generate_flow_name()).into_iter().flatten() {
        if let Ok(envelope) = Envelope::parse(&member.payload) {
            check.check(&envelope, &format!("jobs.{}", escape(&member.name)))?;
        }
    }
    Ok(())
}

/// Returns an error if anything but white space follows a flow.
fn expect_end_of_file(mut reader: impl BufRead) -> Result<(), Failure> {
    let mut rest = Vec::new();
    reader
        .read_to_end(&mut rest)
        .map_err(|error| Failure::usage(format!("cannot read the rest of the file: {error}")))?;
    if rest.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        "there is more text after the flow; a file has one flow and nothing else",
    ))
}

fn is_incomplete(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_err_and(|error| error.is_eof())
}

fn parse_envelope(
    text: &[u8],
    start: Option<Delay>,
    offset: u64,
    check: &mut EnvelopeCheck,
    place: impl Fn() -> String,
) -> Result<ParsedEnvelope, Failure> {
    let refused = |why: String| Failure::new(Exit::Refused, format!("{}: {why}", place()));
    let envelope = Envelope::parse(text).map_err(|invalid| refused(invalid.to_string()))?;
    check.check(&envelope, &place())?;
    // A delay counts from each envelope's own enqueue, so that the jobs of a long file do not all
    // become due at once.
    let start = start
        .map(|start| start.resolve(envelope.expires_at))
        .transpose()
        .map_err(|failure| refused(failure.message))?;
    Ok(ParsedEnvelope {
        chosen: envelope.job_id,
        start,
        payload: Bytes::copy_from_slice(text),
        offset,
    })
}

fn for_each_in_array(
    reader: impl Read,
    start: Option<Delay>,
    check: &mut EnvelopeCheck,
    emit: &mut dyn FnMut(Item) -> Result<(), Failure>,
) -> Result<(), Failure> {
    struct Items<'h> {
        start: Option<Delay>,
        check: &'h mut EnvelopeCheck,
        emit: &'h mut dyn FnMut(Item) -> Result<(), Failure>,
        failure: &'h mut Option<Failure>,
    }
    impl<'de> Visitor<'de> for Items<'_> {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an array of envelopes")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
            let (mut index, mut offset) = (0_u64, 0_u64);
            while let Some(item) = items.next_element::<Box<RawValue>>()? {
                let text = item.get().as_bytes();
                offset += text.len() as u64;
                let emitted = parse_envelope(text, self.start, offset, self.check, || {
                    format!("[{index}]")
                })
                .and_then(|checked| (self.emit)(Item::Envelope(checked)));
                if let Err(failure) = emitted {
                    *self.failure = Some(failure);
                    return Err(serde::de::Error::custom("stopped"));
                }
                index += 1;
            }
            Ok(())
        }
    }
    let mut failure = None;
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let read = serde::Deserializer::deserialize_seq(
        &mut deserializer,
        Items {
            start,
            check,
            emit,
            failure: &mut failure,
        },
    )
    .and_then(|()| deserializer.end());
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, Err(error)) => Err(Failure::new(Exit::Refused, format!("not JSON: {error}"))),
        (None, Ok(())) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &'static str) -> Result<Vec<String>, String> {
        let mut commands = Vec::new();
        let mut check = EnvelopeCheck::default();
        for_each_item(Box::new(text.as_bytes()), None, &mut check, |item| {
            let Item::Envelope(checked) = item else {
                return Err(Failure::general("a flow"));
            };
            let envelope = Envelope::parse(&checked.payload)?;
            commands.push(envelope.command.unwrap_or_default());
            Ok(())
        })
        .map_err(|failure| failure.message)?;
        Ok(commands)
    }

    #[test]
    fn every_form_is_read() {
        for text in [
            "{\"command\":\"a\"}\n{\"command\":\"b\"}",
            "{\"command\":\"a\"}\n\n  {\n\"command\":\n\"b\"}\n\n",
            "\n [ {\"command\":\"a\"},\n{\"command\":\"b\"} ]\n",
        ] {
            assert_eq!(commands(text), Ok(vec!["a".into(), "b".into()]), "{text}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (text, word) in [
            ("", "no envelope"),
            ("{\"command\":\"a\"}\n{\"args\":[]}\n", "line 2"),
            ("[{\"command\":\"a\"},{\"command\":3}]", "[1]"),
            ("{\"command\":\"a\"", "line 1"),
            ("[{\"command\":\"a\"}", "EOF"),
        ] {
            let error = commands(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
