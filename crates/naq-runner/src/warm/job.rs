//! A job in a warm process, from the call to its end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::super::command::{Command, Stdin};
use super::super::completion::{Completion, SpawnFailure, StopCause, Termination, Usage};
use super::super::job::{ExitReport, Job, Phase};
use super::super::job_handle::JobHandle;
use super::super::pipes::Pipes;
use super::super::pool::sealed_memfd;
use super::super::prepare::{build_env, file_paths};
use super::super::read_pipes::read_pipes;
use super::super::wire::flag;
use super::super::{Runner, written_files};
use super::process::{WarmMode, WarmProcess};

/// How long a process may take to start a job that it was given.
const START_MAX: Duration = Duration::from_secs(2);

/// How often a process that forks is asked whether it still works.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long it may take to answer.
const PONG_MAX: Duration = Duration::from_secs(2);

/// How long the spawner may take to remove what a job has left.
const SWEEP_MAX: Duration = Duration::from_secs(10);

/// Length of the reason for which a process ends with its job, in the log.
const REASON_CHARS_MAX: usize = 300;

/// What to call, for a warm process.
#[derive(Clone, Debug)]
pub struct WarmCall {
    /// The fields of the frame that say what to call: `call`, `args` and `kwargs`.
    pub fields: serde_json::Map<String, Value>,
    /// The mode of new files.
    pub umask: u32,
}

/// A job that a warm process has taken and not started yet.
struct Taken {
    /// The worker's ends of its pipes.
    pipes: Pipes,
}

impl Runner {
    /// Starts a job in a warm process. Returns its handle, and the process once the job is over and the
    /// process may run another; `None` is sent if it may not. `None` is returned if the process did not take the job.
    /// Nothing of the job has run then.
    pub async fn start_warm(
        &self,
        mut process: WarmProcess,
        command: Command,
        call: WarmCall,
    ) -> Option<(JobHandle, oneshot::Receiver<Option<WarmProcess>>)> {
        let pool = Arc::clone(&self.inner.pool);
        let mut scratch = pool.scratch_dirs.take(written_files(&command));
        let folder = scratch.path().display().to_string();
        let owner = pool
            .options
            .run_as
            .as_ref()
            .map(|user| (user.uid, user.gid));
        let prepared = scratch
            .create()
            .and_then(|()| write_files(&command, &folder, owner));
        prepared.ok()?;
        process.jobs += 1;
        let frame = job_frame(&pool.options, &command, &call, &folder, process.jobs);
        // A process that reads nothing must not keep the job waiting.
        let taking = take(&mut process, &command.stdin, owner, &frame);
        let taken = tokio::time::timeout(START_MAX, taking).await.ok()?.ok()?;
        let (sender, exit) = oneshot::channel();
        let job = Arc::new(self.new_job(command, Vec::new(), Some(scratch)));
        job.lock().phase = Phase::Streaming(sender);
        let (free, freed) = oneshot::channel();
        let handle = JobHandle {
            pool,
            job: Arc::clone(&job),
            warm: Some(Arc::clone(&process.outer.job)),
        };
        tokio::spawn(drive(process, job, taken, exit, free));
        Some((handle, freed))
    }
}

/// Writes the files of a job into its scratch folder.
fn write_files(command: &Command, folder: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    for file in &command.files {
        let path = format!("{folder}/{}", file.name);
        let mut opened = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::fchown(&opened, Some(user), Some(group))?;
        }
        opened.write_all(&file.content)?;
    }
    Ok(())
}

/// The frame that gives a job to a process.
fn job_frame(
    options: &super::super::RunnerConfig,
    command: &Command,
    call: &WarmCall,
    folder: &str,
    number: u64,
) -> Value {
    let paths = file_paths(command, folder);
    // a job with a folder of inputs runs in a process of its own
    let env = build_env(options, command, Some(folder), &paths, "").into_iter();
    let env: serde_json::Map<String, Value> = env
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    let cwd = command.directory_in(&options.work_dir);
    let mut frame = json!({
        "t": "job",
        "n": number,
        "env": env,
        "cwd": cwd.display().to_string(),
        "umask": call.umask,
    });
    if let Some(fields) = frame.as_object_mut() {
        fields.extend(call.fields.clone());
    }
    frame
}

/// Gives a job to a process, and waits until it has taken it.
async fn take(
    process: &mut WarmProcess,
    stdin: &Stdin,
    owner: Option<(u32, u32)>,
    frame: &Value,
) -> io::Result<Taken> {
    let (pipes, fds) = match process.pipes.take() {
        Some(own) => (own, Vec::new()),
        None => {
            let mut fds = vec![open_stdin(stdin)?];
            let pipes = Pipes::open(&mut fds)?;
            if let Some((user, group)) = owner {
                // Otherwise the job could not open them again through `/dev/stdout`.
                for pipe in &fds[1..] {
                    std::os::unix::fs::fchown(pipe, Some(user), Some(group))?;
                }
            }
            (pipes, fds)
        }
    };
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    process.socket.send(frame, &raw).await?;
    drop(fds);
    let number = process.jobs;
    loop {
        let next = tokio::select! {
            biased;
            next = process.socket.receive() => next?,
            () = process.outer.wait_over() => None,
        };
        let frame = next.ok_or_else(|| io::Error::other("it has ended"))?;
        match frame["t"].as_str() {
            Some("started") if frame["n"].as_u64() == Some(number) => return Ok(Taken { pipes }),
            Some("ended" | "huh") => return Err(io::Error::other("it did not start the job")),
            _ => {}
        }
    }
}

fn open_stdin(stdin: &Stdin) -> io::Result<OwnedFd> {
    match stdin {
        Stdin::Empty => Ok(std::fs::File::open("/dev/null")?.into()),
        Stdin::Bytes(bytes) => Ok(sealed_memfd(c"stdin", bytes)?),
        Stdin::File(file) => Ok(file.try_clone()?.into()),
    }
}

/// Runs the job, and frees the process.
async fn drive(
    mut process: WarmProcess,
    job: Arc<Job>,
    taken: Taken,
    exit: oneshot::Receiver<ExitReport>,
    free: oneshot::Sender<Option<WarmProcess>>,
) {
    let mode = process.mode;
    if mode == WarmMode::Reuse {
        // Its pipes stay with the process: the reader gets copies.
        process.pipes = taken.pipes.try_clone().ok();
    }
    let reading = tokio::spawn(read_pipes(Arc::clone(&job), taken.pipes, exit));
    let began = Instant::now();
    let report = run(&mut process, &job).await;
    let (mut report, is_reusable) = match report {
        Ok(report) => (report, mode != WarmMode::Standby),
        Err(_) => {
            // Whatever went wrong: the process goes, and what it says of its end is the job's.
            process.outer.kill(super::super::StopReason::Abandoned);
            (report_of(&process.outer.wait().await), false)
        }
    };
    // not since the start of the process
    report.usage.wall_ms = began.elapsed().as_millis() as u64;
    let phase = std::mem::replace(&mut job.lock().phase, Phase::Pending);
    if let Phase::Streaming(sender) = phase {
        let _ = sender.send(report);
    }
    let _ = reading.await;
    let is_reusable = is_reusable && (mode != WarmMode::Reuse || process.pipes.is_some());
    let _ = free.send(is_reusable.then_some(process));
}

/// Starts the job that its process has taken, and waits for its end.
async fn run(process: &mut WarmProcess, job: &Arc<Job>) -> io::Result<ExitReport> {
    let outer = Arc::clone(&process.outer.job);
    process.pool.arm(&outer, job);
    // Only now: a request to stop the job before this had no effect, and any later one has.
    if job.lock().stop.is_some() {
        // Nothing of the job has run, and its process still waits for `go`.
        process.is_dirty = true;
        return Ok(ExitReport::not_started(SpawnFailure::new(
            "stopped",
            "stopped before it started".to_owned(),
            false,
        )));
    }
    let started_ns = started_now();
    let start = json!({"t": "go", "n": process.jobs});
    process.socket.send(&start, &[]).await?;
    job.mark_started(started_ns);
    if process.mode == WarmMode::Standby {
        let ended = process.outer.wait().await;
        return Ok(ExitReport {
            started_ns,
            ..report_of(&ended)
        });
    }
    let ended = ended_frame(process).await?;
    let flags = sweep(process, &outer).await?;
    let rss = ended["rss"].as_u64().unwrap_or(0);
    if process.mode == WarmMode::Reuse {
        process.is_dirty |= ended["active"].as_u64().unwrap_or(0) > 0;
        process.add_files(&ended);
        process.rss_last = rss;
        process.rss_first.get_or_insert(rss);
    }
    let ms = |field: &str| (ended[field].as_f64().unwrap_or(0.0) * 1000.0).ceil() as u64;
    Ok(ExitReport {
        end: end_of(&ended),
        flags,
        usage: Usage {
            max_rss_bytes: rss,
            cpu_user_ms: ms("utime"),
            cpu_system_ms: ms("stime"),
            wall_ms: 0,
        },
        started_ns,
    })
}

/// How a job ended, by the frame of its process: a raw status of `wait4`, or whether the call succeeded.
fn end_of(ended: &Value) -> Termination {
    match (ended["status"].as_i64(), ended["ok"].as_bool()) {
        (Some(status), _) => {
            let status = status as i32;
            match libc::WIFSIGNALED(status) {
                true => Termination::Signalled(libc::WTERMSIG(status)),
                false => Termination::Exited(libc::WEXITSTATUS(status)),
            }
        }
        (None, Some(true)) => Termination::Exited(0),
        (None, _) => Termination::Exited(ended["code"].as_i64().unwrap_or(1) as i32),
    }
}

/// Waits for the end of the job. A process that forks has to answer meanwhile.
async fn ended_frame(process: &mut WarmProcess) -> io::Result<Value> {
    let number = process.jobs;
    let mut pong_due: Option<Instant> = None;
    let mut next_ping = Instant::now() + PING_INTERVAL;
    let pings = process.mode == WarmMode::Fork;
    let mut is_leaving = false;
    loop {
        let wake = pong_due.unwrap_or(next_ping);
        tokio::select! {
            biased;
            frame = process.socket.receive() => {
                let frame = frame?.ok_or_else(|| io::Error::other("it has ended"))?;
                match frame["t"].as_str() {
                    Some("ended") if frame["n"].as_u64() == Some(number) => return Ok(frame),
                    // once: what the job's own code sends must not fill the log
                    Some("leaving") if !is_leaving => {
                        is_leaving = true;
                        let why = frame["why"].as_str().unwrap_or_default();
                        let why: String = why.chars().take(REASON_CHARS_MAX).collect();
                        tracing::warn!(why, "a warm process ends with its job, and another one is started");
                    }
                    Some("pong") => {
                        pong_due = None;
                        if process.mode == WarmMode::Fork {
                            let rss = frame["rss"].as_u64().unwrap_or(process.rss_last);
                            process.rss_last = rss;
                        }
                    }
                    _ => {}
                }
            }
            // The socket does not say so: this process holds its other end too.
            () = process.outer.wait_over() => return Err(io::Error::other("it has ended")),
            () = tokio::time::sleep_until(wake.into()), if pings => {
                if pong_due.is_some() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                process.socket.send(&json!({"t": "ping"}), &[]).await?;
                pong_due = Some(Instant::now() + PONG_MAX);
                next_ping = Instant::now() + PING_INTERVAL;
            }
        }
    }
}

/// Has the spawner end the job: it kills what is left of it. Returns the flags of the job.
async fn sweep(process: &WarmProcess, outer: &Arc<Job>) -> io::Result<u8> {
    process.pool.disarm(outer);
    let swept = process.outer.wait_swept();
    match tokio::time::timeout(SWEEP_MAX, swept).await {
        Ok(Some(flags)) => Ok(flags),
        Ok(None) => Err(io::Error::other("it has ended")),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The end of the process as the end of the job that it ran.
fn report_of(ended: &Completion) -> ExitReport {
    let mut flags = match ended.stopped {
        Some(StopCause::Deadline) => flag::DEADLINE_PASSED,
        Some(StopCause::Timeout) => flag::TIMED_OUT,
        Some(StopCause::Memory) => flag::MEMORY_EXCEEDED,
        Some(StopCause::Processes) => flag::PROCESSES_EXCEEDED,
        Some(StopCause::Requested(_) | StopCause::Withdrawn) | None => 0,
    };
    if ended.oom {
        flags |= flag::OOM;
    }
    if ended.leaked {
        flags |= flag::LEAKED;
    }
    ExitReport {
        end: ended.end.clone(),
        flags,
        usage: ended.usage,
        started_ns: 0,
    }
}

fn started_now() -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "no spawner observes the moment of the start, and the time is reported, never compared"
    )]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_status_or_a_success() {
        for (frame, end) in [
            (json!({"status": 0}), Termination::Exited(0)),
            (json!({"status": 75 << 8}), Termination::Exited(75)),
            (json!({"status": 9}), Termination::Signalled(9)),
            (json!({"ok": true, "active": 0}), Termination::Exited(0)),
            (json!({"ok": false}), Termination::Exited(1)),
            (json!({"ok": false, "code": 75}), Termination::Exited(75)),
        ] {
            assert_eq!(end_of(&frame), end, "{frame}");
        }
    }
}
