//! A job in the worker's process: its state, and how it ends.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};

use super::boot_instant::BootInstant;
use super::collect::Collector;
use super::command::Stdin;
use super::completion::{
    Captured, Completion, SpawnFailure, StopCause, StopReason, Termination, Usage,
};
use super::control::ControlQueue;
use super::live_output::LiveSink;
use super::mask::Mask;
use super::pipes::{PipeKind, Pipes};
use super::scratch::ScratchDir;
use super::slots::SlotId;
use super::staged_folder::StagedFolder;
use super::wire::flag;

/// How a job ended, as its spawner reports it or, without a spawner, the pool.
#[derive(Clone, Debug)]
pub(super) struct ExitReport {
    pub(super) end: Termination,
    /// Bits of [`flag`].
    pub(super) flags: u8,
    pub(super) usage: Usage,
    /// Nanoseconds since the epoch; 0 if the job never started.
    pub(super) started_ns: u64,
}

impl ExitReport {
    /// An end without resource usage.
    pub(super) fn without_usage(end: Termination) -> ExitReport {
        ExitReport {
            end,
            flags: 0,
            usage: Usage::default(),
            started_ns: 0,
        }
    }

    pub(super) fn not_started(failure: SpawnFailure) -> ExitReport {
        ExitReport::without_usage(Termination::NotStarted(failure))
    }
}

/// The phase of a job.
#[derive(Debug)]
pub(super) enum Phase {
    /// No spawner has received the job yet.
    Pending,
    /// A spawner has the job. Its pipes are read once it is reported as started or
    /// finished.
    Dispatched(Pipes),
    /// A task reads its pipes. The sender tells that task how the job ended.
    Streaming(oneshot::Sender<ExitReport>),
    /// The job is over.
    Done(Box<Completion>),
    /// The job is over and `wait` has returned its completion.
    Collected,
}

/// What a start needs besides the command: that of a warm process, of a program without a slot, and of a job that has
/// its slot already. Empty for any other job.
#[derive(Debug, Default)]
pub(super) struct JobParts {
    /// The process's end of the socket to its worker, which becomes descriptor 4.
    pub(super) socket: Option<OwnedFd>,
    /// What becomes standard output, standard error and the control channel, in place of pipes of the
    /// job's own. Empty, or three.
    pub(super) given: Vec<OwnedFd>,
    /// Whether it runs although all slots are taken, and takes none.
    pub(super) is_extra: bool,
    /// The slot that is kept free for it.
    pub(super) slot: Option<SlotId>,
}

#[derive(Debug)]
pub(super) struct JobState {
    pub(super) phase: Phase,
    pub(super) stop: Option<StopReason>,
    /// When the spawner kills the job. `None` means never.
    pub(super) deadline: Option<BootInstant>,
    /// When its spawner first returned it because descriptors were lost on the way.
    pub(super) first_resend: Option<Instant>,
    /// When its spawner must have killed the job, or have been asked to signal it. `None` if
    /// nothing is due.
    pub(super) act_by: Option<Instant>,
    /// The scratch folder, if the job has one; `None` once the job is over.
    pub(super) scratch: Option<ScratchDir>,
    /// Moved into the collector, whose drop ends the stream for the reader.
    pub(super) live: Option<LiveSink>,
    pub(super) started: Option<SystemTime>,
    /// Whether it is a warm process that runs a job.
    pub(super) is_armed: bool,
    /// The flags of the last job of a warm process, once its spawner has removed what that job left.
    pub(super) swept: Option<u8>,
    /// Control messages that the handle has not returned yet.
    pub(super) control: ControlQueue,
}

/// A job, shared by its handle, the pool and the task that reads its output.
pub(super) struct Job {
    pub(super) id: u32,
    pub(super) job_id: String,
    /// The encoded start request.
    pub(super) body: Vec<u8>,
    pub(super) stdin: Stdin,
    /// The folder that moves into its scratch folder.
    pub(super) folder: Option<Arc<StagedFolder>>,
    pub(super) submitted: Instant,
    pub(super) timeout: Option<Duration>,
    pub(super) kill_grace: Duration,
    pub(super) output_bytes: u64,
    pub(super) control_line_bytes_max: usize,
    pub(super) mask: Mask,
    /// Whether no other job may run in its spawner.
    pub(super) alone: bool,
    /// Whether it may wait at its spawner for another job's end.
    pub(super) waits: bool,
    /// The limits that are not enforced, each as a sentence for the completion's warnings.
    pub(super) unheld_limits: Vec<&'static str>,
    /// What its start needs besides the request.
    pub(super) parts: JobParts,
    /// Whether the completion contains the scratch folder.
    pub(super) keep_scratch: bool,
    pub(super) state: Mutex<JobState>,
    pub(super) changed: Notify,
}

/// Omits the request and the input, which contain secrets.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("job_id", &self.job_id)
            .finish_non_exhaustive()
    }
}

impl Job {
    /// Whether it is a warm process, which runs jobs.
    pub(super) fn is_warm(&self) -> bool {
        self.parts.socket.is_some()
    }

    /// Whether it is one of the jobs that share the slots. Warm processes, probes and preparations are not.
    pub(super) fn takes_slot(&self) -> bool {
        !self.parts.is_extra
    }

    /// Whether it needs a slot, and none is kept free for it.
    pub(super) fn competes(&self) -> bool {
        self.takes_slot() && self.parts.slot.is_none()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, JobState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn collector(&self) -> Collector {
        Collector::new(
            self.output_bytes,
            self.control_line_bytes_max,
            &self.mask,
            self.lock().live.take(),
        )
    }

    /// The spawner has reported the job as started.
    pub(super) fn mark_started(&self, started_ns: u64) {
        self.lock().started = since_epoch(started_ns);
        self.changed.notify_waiters();
    }

    /// The process tree is gone: drains the pipes and finishes the job.
    pub(super) fn drain_and_finish(
        &self,
        pipes: Option<Pipes>,
        exit: ExitReport,
        buffer: &mut [u8],
    ) {
        let mut collector = self.collector();
        if let Some(pipes) = pipes {
            collector.drain(PipeKind::Stdout, &pipes.stdout, buffer);
            collector.drain(PipeKind::Stderr, &pipes.stderr, buffer);
            collector.drain(PipeKind::Control, &pipes.control, buffer);
        }
        self.finish(collector, exit);
    }

    /// Completes the job, whose output has been collected, and wakes its waiters.
    pub(super) fn finish(&self, mut collector: Collector, exit: ExitReport) {
        let [stdout, stderr]: [Captured; 2] = collector.finish();
        let mut state = self.lock();
        let scratch = state.scratch.take();
        let mut end = exit.end;
        if let Termination::NotStarted(failure) = &mut end {
            failure.message = self.mask.text(&failure.message);
        }
        let stopped = match state.stop {
            Some(reason) => Some(StopCause::Requested(reason)),
            None if exit.flags & flag::DEADLINE_PASSED != 0 => Some(StopCause::Deadline),
            None if exit.flags & flag::TIMED_OUT != 0 => Some(StopCause::Timeout),
            None if exit.flags & flag::MEMORY_EXCEEDED != 0 => Some(StopCause::Memory),
            None if exit.flags & flag::PROCESSES_EXCEEDED != 0 => Some(StopCause::Processes),
            None if exit.flags & flag::WITHDRAWN != 0 => Some(StopCause::Withdrawn),
            None => None,
        };
        let mut control = std::mem::take(&mut state.control);
        control.append(collector.control.take_messages());
        let (control, dropped) = control.finish();
        let unheld = self.unheld_limits.iter().map(|limit| (*limit).to_owned());
        let mut warnings: Vec<String> = unheld.collect();
        warnings.extend(collector.control.take_warnings());
        warnings.extend(dropped);
        let ended = Completion {
            stopped,
            oom: exit.flags & flag::OOM != 0,
            leaked: exit.flags & flag::LEAKED != 0,
            stdout,
            stderr,
            usage: exit.usage,
            control,
            warnings,
            live_dropped_bytes: collector.live_dropped_bytes,
            started_at: since_epoch(exit.started_ns).or(state.started),
            scratch: scratch.filter(|_| self.keep_scratch),
            end,
        };
        state.started = ended.started_at;
        state.phase = Phase::Done(Box::new(ended));
        drop(state);
        self.changed.notify_waiters();
    }
}

fn since_epoch(ns: u64) -> Option<SystemTime> {
    (ns > 0).then(|| UNIX_EPOCH + Duration::from_nanos(ns))
}
