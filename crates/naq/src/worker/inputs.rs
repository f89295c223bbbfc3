//! Fetching what a job gets of the jobs that it depends on, before its attempt starts.

use std::io;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;

use super::attempt::Attempt;
use super::input_files::{
    INPUTS_BYTES_MAX, InputPiece, JobInputs, WriteError, write_folder, write_lines,
};
use naq_client::{ClientError, OutputStream, PartPosition};
use naq_core::AttemptEnd;
use naq_jetstream::BrokerError;
use naq_protocol::{InputGap, InputSource, Inputs, JobId, JobInput, Record};
use naq_runner::StopReason;

/// Number of records that are read ahead.
const RECORDS_AHEAD: usize = 8;

/// Number of pieces that may wait for the disk.
const PIECES_MAX: usize = 4;

/// Why an attempt does not start.
pub(super) enum NoInputs {
    /// Its lease was lost.
    Lost,
    /// It is to end in this way, for this reason.
    Ended(AttemptEnd, Option<String>),
}

impl NoInputs {
    fn gone(job: &JobId, why: &str) -> NoInputs {
        let error = format!("it gets the output of {job}, {why}");
        NoInputs::Ended(AttemptEnd::NoInput, Some(error))
    }
}

impl From<WriteError> for NoInputs {
    fn from(error: WriteError) -> NoInputs {
        match error {
            WriteError::TooLarge => NoInputs::Ended(
                AttemptEnd::NoInput,
                Some(format!(
                    "the outputs of its dependencies are larger than {} MiB together",
                    INPUTS_BYTES_MAX >> 20
                )),
            ),
            WriteError::Io(error) => {
                let is_shortage =
                    matches!(
                        error.kind(),
                        io::ErrorKind::StorageFull
                            | io::ErrorKind::QuotaExceeded
                            | io::ErrorKind::OutOfMemory
                    ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                let end = match is_shortage {
                    true => AttemptEnd::ResourceShortage,
                    false => AttemptEnd::NotStarted { fatal: false },
                };
                let error = format!("cannot write the outputs of its dependencies: {error}");
                NoInputs::Ended(end, Some(error))
            }
        }
    }
}

/// A dependency whose output is fetched.
struct Source {
    index: usize,
    job: JobId,
    name: String,
}

impl From<InputSource<'_>> for Source {
    fn from(source: InputSource<'_>) -> Source {
        Source {
            index: source.index,
            job: source.job.clone(),
            name: source.name.to_owned(),
        }
    }
}

impl Attempt<'_> {
    /// Fetches the outputs that the job gets. `None` if it gets none, which costs nothing.
    pub(super) async fn fetch_inputs(&self) -> Result<Option<JobInputs>, NoInputs> {
        if !self.envelope.has_inputs() {
            return Ok(None);
        }
        // boxed, since few jobs have inputs, and the future of each attempt contains those that it may await
        self.fetch_and_write().boxed().await.map(Some)
    }

    async fn fetch_and_write(&self) -> Result<JobInputs, NoInputs> {
        let is_stream = self.envelope.inputs == Some(Inputs::Stdin);
        let runner = self.delivery.context.runner.clone();
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let writing = tokio::task::spawn_blocking(move || {
            let folder = runner.stage_folder()?;
            match is_stream {
                true => write_lines(&folder, pieces),
                false => write_folder(folder, pieces),
            }
        });
        let fetched = self.send_inputs(&sender).await;
        drop(sender);
        let written = writing.await;
        match (fetched, written) {
            (Err(Some(no_inputs)), _) => Err(no_inputs),
            (_, Ok(Err(error))) => Err(error.into()),
            (Ok(()), Ok(Ok(inputs))) => Ok(inputs),
            (_, Err(panicked)) => Err(WriteError::Io(io::Error::other(panicked)).into()),
            (Err(None), Ok(Ok(_))) => Err(NoInputs::Lost),
        }
    }

    /// Reads the records and outputs and sends them. `Err(None)` means that nothing takes them any more.
    async fn send_inputs(&self, sender: &mpsc::Sender<InputPiece>) -> Result<(), Option<NoInputs>> {
        let sources: Vec<Source> = self.envelope.input_sources().map(Source::from).collect();
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let mut records = stream::iter(sources)
            .map(|source| {
                async move {
                    let reading = || broker.read_record(&source.job);
                    let (record, _) = delivery.persist(reading).await.map_err(|error| {
                        self.cannot_read(&source.job, error)
                    })?;
                    let ended = record.filter(|record| record.state().is_terminal());
                    let record = ended.ok_or_else(|| {
                        let why = "whose record has expired or was removed; a longer `result_ttl` of that job keeps it";
                        NoInputs::gone(&source.job, why)
                    })?;
                    Ok::<_, NoInputs>((source, record))
                }
                .boxed()
            })
            .buffered(RECORDS_AHEAD);
        while let Some(read) = records.next().await {
            let (source, record) = read?;
            self.send_input(&source, &record, sender).await?;
        }
        Ok(())
    }

    async fn send_input(
        &self,
        source: &Source,
        record: &Record,
        sender: &mpsc::Sender<InputPiece>,
    ) -> Result<(), Option<NoInputs>> {
        let client = &self.delivery.context.client;
        let opening = || async {
            let opened = client.open_output(record, OutputStream::Stdout).await;
            opened.map_err(broker_error)
        };
        let opened = self.delivery.persist(opening).await;
        let output = opened.map_err(|error| self.cannot_read(&source.job, error))?;
        let gap = output.gap().map(|gap| InputGap {
            offset: gap.offset,
            missing_bytes: gap.missing_bytes,
        });
        let input = self.describe(source, record, gap);
        self.send(
            sender,
            InputPiece::Begin(Box::new(input), source.name.clone()),
        )
        .await?;
        self.send_result(source, record, sender).await?;
        let mut position = PartPosition::default();
        loop {
            let reading = || async {
                let read = client.read_output_part(&output, position).await;
                read.map_err(broker_error)
            };
            let read = self.delivery.persist(reading).await;
            match read.map_err(|error| self.cannot_read(&source.job, error))? {
                Some((bytes, next)) => {
                    self.send(sender, InputPiece::Stdout(bytes)).await?;
                    position = next;
                }
                None => return self.send(sender, InputPiece::End).await,
            }
        }
    }

    /// Sends the structured result of a dependency, if it has one.
    async fn send_result(
        &self,
        source: &Source,
        record: &Record,
        sender: &mpsc::Sender<InputPiece>,
    ) -> Result<(), Option<NoInputs>> {
        let (delivery, broker) = (&self.delivery, self.delivery.broker());
        let Some(object) = &record.result_object else {
            let Some(result) = &record.result else {
                return Ok(());
            };
            let text = result.get().as_bytes().to_vec();
            return self.send(sender, InputPiece::Result(text.into())).await;
        };
        let cannot_read = |error| self.cannot_read(&source.job, error);
        let opening = delivery.persist(|| broker.open_object(object)).await;
        let object = opening.map_err(cannot_read)?;
        let (mut sequence, mut offset) = (1, 0);
        while offset < object.size_bytes {
            let reading = || broker.read_object_chunk(&object, sequence, offset);
            let chunk = delivery.persist(reading).await.map_err(cannot_read)?;
            sequence = chunk.sequence + 1;
            offset += chunk.bytes.len() as u64;
            self.send(sender, InputPiece::Result(chunk.bytes)).await?;
        }
        Ok(())
    }

    /// Sends a piece, unless the job must not start any more.
    async fn send(
        &self,
        sender: &mpsc::Sender<InputPiece>,
        piece: InputPiece,
    ) -> Result<(), Option<NoInputs>> {
        let lease = self.delivery.lease;
        if lease.is_lost() {
            return Err(Some(NoInputs::Lost));
        }
        if let Some(reason) = lease.stop_requested() {
            let end = match reason {
                StopReason::Cancel => AttemptEnd::Cancelled,
                _ => AttemptEnd::Drained,
            };
            return Err(Some(NoInputs::Ended(end, None)));
        }
        sender.send(piece).await.map_err(|_| None)
    }

    fn cannot_read(&self, job: &JobId, error: BrokerError) -> NoInputs {
        match error {
            _ if self.delivery.lease.is_lost() => NoInputs::Lost,
            BrokerError::NotFound(what) => {
                NoInputs::gone(job, &format!("which is gone: {what} does not exist"))
            }
            BrokerError::InvalidData(_) => NoInputs::gone(job, &format!("and {error}")),
            error => {
                let error = format!("cannot read the output of {job}: {error}");
                NoInputs::Ended(AttemptEnd::NotStarted { fatal: false }, Some(error))
            }
        }
    }

    fn describe(&self, source: &Source, record: &Record, stdout_gap: Option<InputGap>) -> JobInput {
        JobInput {
            job_id: record.job_id.clone(),
            index: source.index as u64,
            as_name: self.envelope.depends_on[source.index].as_name.clone(),
            queue: record.queue.clone(),
            state: record.state(),
            reason: record.reason(),
            error: record.error.clone(),
            exit_code: record.exit_code,
            signal: record.signal,
            attempt: record.attempt,
            finished_at: record.finished_at(),
            labels: record.labels.clone(),
            stdout_bytes: record.stdout.as_ref().map_or(0, |stdout| stdout.bytes),
            stdout_gap,
            result: None,
            stdout: None,
            stdout_base64: None,
        }
    }
}

/// The error of the server, by which a request is repeated or not.
fn broker_error(error: ClientError) -> BrokerError {
    match error {
        ClientError::Broker(error) => error,
        other => BrokerError::NotFound(other.to_string()),
    }
}
