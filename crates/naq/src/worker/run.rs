//! Running a job: its command from start to exit, and what its end means.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::attempt::{Attempt, Place};
use super::awaited_turn::AwaitedTurn;
use super::claim::log_suspicion;
use super::command::{self, AttemptIdentity};
use super::context::WorkerContext;
use super::control::{ControlState, RecordCheckpointer};
use super::delivery::LeasedDelivery;
use super::input_files::JobInputs;
use super::inputs::NoInputs;
use super::limit_signals::limit_end;
use super::live_output::LiveOutput;
use super::options::WorkerConfig;
use super::uploads::{FetchError, FetchedFiles};
use super::warm::Cold;
use crate::clock::now;
use naq_core::{AttemptEnd, FinishedAttempt, OnEnd, end_attempt};
use naq_jetstream::failpoint;
use naq_protocol::{CapturedOutput, Envelope, Record, ResourceUsage};
use naq_runner::{
    Captured, Command, Completion, JobHandle, LiveChunk, LiveSink, ScratchDir, StopCause,
    StopReason, Termination, Usage,
};

/// Number of chunks of live output that may wait for the network.
const LIVE_CHUNKS_MAX: usize = 128;

/// An attempt whose processes have ended.
pub(super) struct EndedRun {
    /// What follows from its end.
    pub(super) next: OnEnd,
    /// The revision of the record that the outcome replaces.
    pub(super) revision: u64,
    /// What its processes used. `None` if it did not start, or if nobody knows.
    pub(super) usage: Option<Usage>,
}

impl Attempt<'_> {
    /// Runs a claimed job to its end. `None` if the lease was lost: another worker records the
    /// outcome.
    pub(super) async fn run(
        &self,
        mut record: Box<Record>,
        mut revision: u64,
        place: &Place<'_>,
    ) -> Option<EndedRun> {
        let context = self.delivery.context;
        if place.slot().is_some() {
            context.metrics.on_started(&record.queue);
        }
        let mut usage = None;
        let finished = match self.gather(&record).await {
            Err(NoInputs::Lost) => return None,
            Err(NoInputs::Ended(end, error)) => self.without_start(end, error),
            Ok((secrets, inputs)) => {
                let fetched = match self.needs_files() {
                    true => match Box::pin(self.fetch_files()).await {
                        Ok(fetched) => fetched,
                        Err(error) => return self.end_unfetched(record, revision, error),
                    },
                    false => FetchedFiles::default(),
                };
                let running =
                    self.run_fetched(&mut record, &mut revision, place, secrets, inputs, fetched);
                let (finished, used) = Box::pin(running).await?;
                usage = used;
                finished
            }
        };
        let shared_crashes = record.shared_crashes;
        let next = end_attempt(record, self.envelope, &finished);
        if let OnEnd::Requeue { record } = &next {
            log_suspicion(shared_crashes, record);
        }
        Some(EndedRun {
            next,
            revision,
            usage,
        })
    }

    /// Gathers what the job needs besides its envelope: its secrets, and the outputs of its dependencies. Neither
    /// counts towards its timeout.
    async fn gather(
        &self,
        record: &Record,
    ) -> Result<(Vec<(String, String)>, Option<JobInputs>), NoInputs> {
        let secrets = &self.delivery.context.options.secrets;
        let secrets = secrets.read(&record.queue, &self.envelope.secrets).await;
        let secrets = secrets.map_err(|error| {
            let end = AttemptEnd::NotStarted { fatal: true };
            NoInputs::Ended(end, Some(error.to_string()))
        })?;
        Ok((secrets, self.fetch_inputs().await?))
    }

    /// Runs a job whose files were fetched, and fills its record. Returns how it ended and what its processes
    /// used. `None` if the lease was lost.
    async fn run_fetched(
        &self,
        record: &mut Record,
        revision: &mut u64,
        place: &Place<'_>,
        secrets: Vec<(String, String)>,
        inputs: Option<JobInputs>,
        fetched: FetchedFiles,
    ) -> Option<(FinishedAttempt, Option<Usage>)> {
        let context = self.delivery.context;
        let with_script = fetched
            .script
            .map(|script| with_script(self.envelope, script));
        let attempt = Attempt {
            envelope: with_script.as_deref().unwrap_or(self.envelope),
            ..*self
        };
        let running =
            attempt.run_command(record, revision, place, secrets, inputs, fetched.scratch);
        let (mut completion, control_state) = running.await;
        if completion.stopped == Some(StopCause::Withdrawn) {
            failpoint("ahead.withdrawn");
        }
        if matches!(
            completion.stopped,
            Some(StopCause::Requested(StopReason::LeaseLost) | StopCause::Deadline)
        ) {
            return None;
        }
        context.metrics.on_completed(&record.queue, &completion);
        let usage = has_run(&completion).then_some(completion.usage);
        let finished = classify_end(context, self.envelope, &completion, &control_state);
        let hint = match self.may_lack_rights(&completion) {
            true => Box::pin(self.withheld_rights_hint(&completion)).await,
            false => None,
        };
        let scratch = completion.scratch.take();
        let scratch = scratch.filter(|_| has_ended_by_itself(&completion));
        fill_record(record, completion);
        record
            .warnings
            .extend(hint.filter(|hint| !record.warnings.contains(hint)));
        let named = control_state.artifacts;
        if !named.is_empty() || !self.envelope.artifacts.is_empty() {
            Box::pin(self.keep_artifacts(record, scratch, named)).await;
        }
        Some((finished, usage))
    }

    /// Ends an attempt whose files could not be fetched. `None` if the lease was lost.
    fn end_unfetched(
        &self,
        record: Box<Record>,
        revision: u64,
        error: FetchError,
    ) -> Option<EndedRun> {
        let lease = self.delivery.lease;
        if lease.is_lost() {
            return None;
        }
        let (end, error) = match error {
            FetchError::Stopped => match lease.stop_requested() {
                Some(StopReason::Cancel) => (AttemptEnd::Cancelled, None),
                _ => (AttemptEnd::Drained, None),
            },
            FetchError::Refused(why) => (AttemptEnd::NotStarted { fatal: true }, Some(why)),
            FetchError::ShortOfResources(why) => (AttemptEnd::ResourceShortage, Some(why)),
            FetchError::DamagedCache => (AttemptEnd::ResourceShortage, None),
        };
        let finished = self.without_start(end, error);
        Some(EndedRun {
            next: end_attempt(record, self.envelope, &finished),
            revision,
            usage: None,
        })
    }

    /// The end of an attempt that has not started.
    fn without_start(&self, end: AttemptEnd, error: Option<String>) -> FinishedAttempt {
        FinishedAttempt {
            end,
            error,
            retry_after: None,
            now: now(),
            random: rand::random(),
            max_worker_crashes: self.delivery.context.options.max_worker_crashes,
        }
    }

    /// Whether a job has failed by itself where programs gain no rights.
    fn may_lack_rights(&self, completion: &Completion) -> bool {
        let has_failed = !matches!(completion.end, Termination::Exited(0));
        has_failed
            && completion.stopped.is_none()
            && self.delivery.context.runner.withholds_rights()
    }

    /// A warning if a job that may lack rights may have failed because `no_new_privs` kept one of its
    /// programs from gaining them.
    async fn withheld_rights_hint(&self, completion: &Completion) -> Option<String> {
        let runner = &self.delivery.context.runner;
        let cwd = self.envelope.cwd.as_deref().map(Path::new);
        let program = match &self.envelope.command {
            Some(program) if runner.withholds_rights_of(program, cwd).await => {
                format!("`{program}`")
            }
            _ if complains_of_rights(&completion.stderr) => "a program of the job".to_owned(),
            _ => return None,
        };
        Some(format!(
            "{program} cannot gain rights by its set-user-ID bit or capabilities, since jobs run with no_new_privs; run the job on a worker with `--allow-setuid`"
        ))
    }

    /// Sets how long the command may run, and when it may start.
    fn limit_command(&self, command: &mut Command, record: &Record, place: &Place<'_>) {
        let LeasedDelivery { context, lease, .. } = self.delivery;
        // kept by the spawner, which acts although this process may be stopped by then
        if self.envelope.overlap_ok == Some(true) {
            lease.set_grace(context.options.outage_grace);
        }
        command.deadline = Some(lease.deadline());
        command.alone = record.lease().is_some_and(|lease| lease.alone);
        command.waits = place.slot().is_none();
    }

    /// Counts and logs the start of a job whose turn had not come when it was sent to its spawner.
    fn announce_awaited_start(&self, record: &Record) {
        self.delivery.context.metrics.on_started(&record.queue);
        self.announce_start(record);
    }

    /// Logs the start of the job, and begins its trace.
    fn announce_start(&self, record: &Record) {
        let context = self.delivery.context;
        context.job_log.started(record, self.envelope);
        context.options.traces.on_started(record);
    }

    /// Starts the command, in a warm process if there is one for it. A job whose files lie in a scratch folder
    /// already gets a process of its own.
    async fn start(
        &self,
        record: &mut Record,
        command: Command,
        place: &Place<'_>,
        scratch: Option<ScratchDir>,
    ) -> JobHandle {
        let context = self.delivery.context;
        if context.options.warm.is_empty() || scratch.is_some() {
            // a program takes longer to start than anyone should wait awake
            context.awake.end();
            return context.runner.start_job_in(command, place.slot(), scratch);
        }
        context.awake.on_call();
        let started = Box::pin(
            context
                .warm
                .start_job(self.envelope, record.suspect, command),
        );
        match started.await {
            Ok(handle) => handle,
            Err((command, cold)) => {
                context.awake.end();
                if let Cold::Because(why) = cold {
                    let warning =
                        format!("it ran in a process of its own, and not in a warm one: {why}");
                    record.warnings.push(warning);
                }
                context.runner.start_job_in(*command, place.slot(), None)
            }
        }
    }

    /// Runs the command, publishes its live output, and applies its control messages to the
    /// record.
    async fn run_command(
        &self,
        record: &mut Record,
        revision: &mut u64,
        place: &Place<'_>,
        secrets: Vec<(String, String)>,
        inputs: Option<JobInputs>,
        scratch: Option<ScratchDir>,
    ) -> (Completion, ControlState) {
        let LeasedDelivery { context, lease, .. } = self.delivery;
        let options = &context.options;
        let (sink, mut chunks) = live_sink(options);
        // until this returns: the job's processes are gone by then
        let socket = context.job_socket.as_ref();
        let pass = socket.map(|socket| (socket, socket.admit(&record.job_id)));
        let identity = AttemptIdentity {
            worker_id: &context.worker_id,
            record: &*record,
            socket: pass
                .as_ref()
                .map(|(socket, pass)| (socket.path(), pass.token())),
        };
        let mut command =
            command::build_command(self.envelope, options, &identity, secrets, Some(sink));
        command::pass_inputs(&mut command, inputs);
        command.work_folder = scratch.is_some();
        self.limit_command(&mut command, record, place);
        let mut turn = AwaitedTurn::of(&command);
        if !turn.is_awaited() {
            self.announce_start(record);
        }
        if let Err(ended) = Box::pin(self.prepare_script(record, &command)).await {
            let control_state = ControlState::new(context.broker.message_bytes_max());
            return (with_runner(*ended, self.envelope), control_state);
        }
        let handle = Arc::new(self.start(record, command, place, scratch).await);
        lease.set_handle(Arc::clone(&handle));
        failpoint("run.started");
        let (job_id, attempt) = (record.job_id.clone(), record.attempt);
        let mut live = LiveOutput::new(context, &job_id, attempt);
        let mut control_state = ControlState::new(context.broker.message_bytes_max());
        let mut checkpointer = RecordCheckpointer::new(context, lease);
        let mut control_open = true;
        let completion = loop {
            tokio::select! {
                biased;
                completion = handle.wait() => break completion,
                () = turn.come(&handle), if turn.is_awaited() => self.announce_awaited_start(record),
                Some(chunk) = chunks.recv() => live.publish(chunk).await,
                message = handle.next_control_message(), if control_open => match message {
                    Some(message) => {
                        control_state.apply(record, &message);
                        checkpointer.mark_dirty();
                        live.publish_progress(record.progress.as_ref());
                    }
                    None => control_open = false,
                },
                () = checkpointer.advance(record, revision) => {}
            }
        };
        context.awake.end();
        failpoint("run.ended");
        let completion = with_runner(completion, self.envelope);
        if turn.is_awaited() && has_run(&completion) {
            self.announce_awaited_start(record);
        }
        // A checkpoint that is still being written replaces the same revision as the outcome. If
        // it wins, the outcome meets a conflict and merges.
        drop(checkpointer);
        while let Ok(chunk) = chunks.try_recv() {
            live.publish(chunk).await;
        }
        for message in &completion.control {
            control_state.apply(record, message);
        }
        live.publish_end(&completion).await;
        record.warnings.extend(live.warning());
        (completion, control_state)
    }
}

/// Where the runner sends output while the job runs, and where it arrives.
fn live_sink(options: &WorkerConfig) -> (LiveSink, mpsc::Receiver<LiveChunk>) {
    let (sender, chunks) = mpsc::channel(LIVE_CHUNKS_MAX);
    let sink = match options.output_tap {
        Some(_) => LiveSink::lossless(sender),
        None => LiveSink::new(sender, options.live_output_after),
    };
    (sink, chunks)
}

/// The envelope with the source of a script that travelled by its digest.
fn with_script(envelope: &Envelope, script: String) -> Box<Envelope> {
    Box::new(Envelope {
        script: Some(script),
        script_digest: None,
        ..envelope.clone()
    })
}

/// Whether the attempt ended as the job's own, and its files are what it left.
fn has_ended_by_itself(completion: &Completion) -> bool {
    let was_interrupted = matches!(
        completion.stopped,
        Some(StopCause::Requested(
            StopReason::Drain | StopReason::Abandoned
        ))
    );
    has_run(completion) && !was_interrupted
}

/// Whether the job's program was started.
fn has_run(completion: &Completion) -> bool {
    matches!(
        completion.end,
        Termination::Exited(_) | Termination::Signalled(_)
    )
}

/// How many bytes of the beginning and of the end of standard error are searched for a complaint. All of
/// it may be 64 MiB, and this is the worker's only thread.
const COMPLAINT_BYTES_MAX: usize = 4 << 10;

/// Whether a program says on standard error that it could not gain rights: `sudo`, `su` and those of
/// busybox.
fn complains_of_rights(stderr: &Captured) -> bool {
    const COMPLAINTS: [&[u8]; 5] = [
        b"no new privileges",
        b"effective uid is not 0",
        b"must be suid",
        b"must be setuid",
        b"must be installed setuid",
    ];
    let contains = |text: &[u8], words: &[u8]| text.windows(words.len()).any(|part| part == words);
    let last = match stderr.tail.is_empty() {
        true => &stderr.head,
        false => &stderr.tail,
    };
    let beginning = &stderr.head[..stderr.head.len().min(COMPLAINT_BYTES_MAX)];
    let end = &last[last.len().saturating_sub(COMPLAINT_BYTES_MAX)..];
    let parts = [beginning, end];
    COMPLAINTS
        .iter()
        .any(|words| parts.iter().any(|text| contains(text, words)))
}

/// Translates the end of a job's processes into the event that the lifecycle decides by.
fn classify_end(
    context: &WorkerContext,
    envelope: &Envelope,
    completion: &Completion,
    control_state: &ControlState,
) -> FinishedAttempt {
    let limits = command::limits(envelope, &context.options);
    // unless the kernel enforced a limit by a signal
    let by_itself = |end| match limit_end(&completion.end, &limits, &completion.usage) {
        Some((end, why)) => (end, Some(why)),
        None => (end, None),
    };
    let (end, error) = match (&completion.end, completion.stopped) {
        // a job that succeeded before the signal reached it has succeeded
        (
            Termination::Exited(0),
            Some(StopCause::Requested(StopReason::Drain | StopReason::Abandoned)),
        ) => (AttemptEnd::Exited(0), None),
        (_, Some(StopCause::Requested(StopReason::Drain | StopReason::Abandoned))) => {
            (AttemptEnd::Drained, None)
        }
        // Success wins over a cancel request too; for any other exit code, the record's cancel
        // request decides.
        (Termination::Exited(code), Some(StopCause::Requested(StopReason::Cancel))) => {
            (AttemptEnd::Exited(*code), None)
        }
        (_, Some(StopCause::Requested(StopReason::Cancel))) => (AttemptEnd::Cancelled, None),
        (_, Some(StopCause::Withdrawn)) => (AttemptEnd::Drained, None),
        // such an attempt has no outcome: see `run`
        (_, Some(StopCause::Requested(StopReason::LeaseLost) | StopCause::Deadline)) => {
            (AttemptEnd::Drained, None)
        }
        (_, Some(StopCause::Timeout)) => (AttemptEnd::TimedOut, Some(TIMED_OUT.to_owned())),
        (_, Some(StopCause::Memory)) => (AttemptEnd::OutOfMemory, Some(OVER_MEMORY.to_owned())),
        (_, Some(StopCause::Processes)) => (
            AttemptEnd::Signalled(libc::SIGKILL),
            Some(OVER_PROCESSES.to_owned()),
        ),
        (_, _) if completion.oom => (AttemptEnd::OutOfMemory, Some(OOM_KILLED.to_owned())),
        (Termination::NotStarted(failure), _) => (
            match failure.resource_shortage {
                true => AttemptEnd::ResourceShortage,
                false => AttemptEnd::NotStarted {
                    fatal: failure.fatal,
                },
            },
            Some(match &failure.errno {
                Some(errno) => format!("{} ({errno})", failure.message),
                None => failure.message.clone(),
            }),
        ),
        (Termination::SpawnerDied { alone }, _) => (
            AttemptEnd::SpawnerDied { alone: *alone },
            Some(SPAWNER_DIED.to_owned()),
        ),
        (Termination::Exited(code), _) => by_itself(AttemptEnd::Exited(*code)),
        (Termination::Signalled(signal), _) => by_itself(AttemptEnd::Signalled(*signal)),
    };
    FinishedAttempt {
        end,
        error,
        retry_after: control_state.retry_after,
        now: now(),
        random: rand::random(),
        max_worker_crashes: context.options.max_worker_crashes,
    }
}

/// Names the runner in the failure of a job whose runner's program is not on this machine.
fn with_runner(mut completion: Completion, envelope: &Envelope) -> Completion {
    if let Termination::NotStarted(failure) = &mut completion.end
        && let Some(runner) = envelope.runner.as_deref()
        && failure.step == "exec"
    {
        let (runner, _) = runner.split_once(':').unwrap_or((runner, ""));
        failure.message = format!(
            "the runner `{runner}` does not work on this worker: {}; `naq runner check {runner}` says more",
            failure.message
        );
    }
    completion
}

// Errors that records show for ends without an exit code of the job's own.
const TIMED_OUT: &str = "it ran out of time and was stopped";
const OVER_MEMORY: &str = "it used more memory than its limit, which is watched here (it may overshoot between samples), and was stopped";
const OVER_PROCESSES: &str = "it started more processes than its limit and was stopped";
const OOM_KILLED: &str = "the kernel killed it because memory ran out";
const SPAWNER_DIED: &str = "its spawner process died";

/// Fills the results of an attempt into its record.
fn fill_record(record: &mut Record, completion: Completion) {
    record.cancel_requested |= completion.stopped == Some(StopCause::Requested(StopReason::Cancel));
    match completion.end {
        Termination::Exited(code) => record.exit_code = Some(code),
        Termination::Signalled(signal) => record.signal = Some(signal),
        Termination::NotStarted(_) | Termination::SpawnerDied { .. } => {}
    }
    let kept = |captured: Captured| {
        (captured.bytes > 0).then(|| {
            CapturedOutput::new(
                captured.head,
                captured.tail,
                captured.bytes,
                captured.missing_bytes,
            )
        })
    };
    record.stdout = kept(completion.stdout);
    record.stderr = kept(completion.stderr);
    record.leaked = completion.leaked;
    if let Some(started_at) = completion.started_at {
        record.started_at = Some(started_at.into());
    }
    record.warnings.extend(completion.warnings);
    if completion.live_dropped_bytes > 0 {
        record.warnings.push(format!(
            "{} bytes of live output were dropped, since the network was too slow; the stored output is not affected",
            completion.live_dropped_bytes
        ));
    }
    record.usage = Some(ResourceUsage {
        max_rss_bytes: completion.usage.max_rss_bytes,
        cpu_user_ms: completion.usage.cpu_user_ms,
        cpu_system_ms: completion.usage.cpu_system_ms,
        wall_ms: completion.usage.wall_ms,
        unknown: naq_protocol::UnknownFields::default(),
    });
}
