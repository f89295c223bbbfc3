//! The socket by which a worker's jobs use naq: the worker does for them what it grants, with its
//! own connection, so that they need no credentials.
//!
//! One socket serves all jobs of a worker. Each job has a token, which ends with it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::grants::Grants;
use super::job_requests::{JobRequests, Reply, usage};
use crate::metrics::EnqueuedJobs;
use naq_client::Client;
use naq_protocol::{JobId, JobReply, JobReplyError, JobRequest};

/// Number of connections that one job may have at once.
const JOB_CONNECTIONS_MAX: usize = 8;

/// Number of connections beyond two for each slot.
const CONNECTIONS_EXTRA: usize = 16;

/// How long a connection may take to send its first request, which says whose it is.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(5);

/// How long a connection may be idle between two requests.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a client may take to read a reply.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// The longest path that the kernel takes for a socket, in bytes, without the final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Pause after a failed accept, for example for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket of a worker, until this is dropped.
pub(super) struct JobSocket {
    path: PathBuf,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
    _folder: Folder,
}

struct Shared {
    requests: JobRequests,
    /// The user of the jobs. Others are refused, except for root.
    user: u32,
    jobs: Mutex<HashMap<String, Arc<ConnectedJob>>>,
}

/// A running job that may use the socket.
struct ConnectedJob {
    job_id: JobId,
    ended: CancellationToken,
    connections: Arc<Semaphore>,
}

/// The right of a job to use the socket, which ends when this is dropped.
pub(super) struct JobPass {
    token: String,
    shared: Arc<Shared>,
}

/// The folder of the socket. Removed on drop.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl JobSocket {
    /// Listens on a new socket below `temporary`, a folder that the jobs see. `owner` is the user and
    /// group of the jobs, if they are not this process's.
    ///
    /// # Errors
    /// Returns an I/O error if the socket cannot be created.
    pub(super) fn listen(
        client: Client,
        grants: Grants,
        enqueued: EnqueuedJobs,
        owner: Option<(u32, u32)>,
        slots: usize,
        temporary: &Path,
    ) -> io::Result<JobSocket> {
        let folder = Folder(new_folder(temporary, rand::random()));
        let path = folder.0.join("socket");
        let listener = bind(&folder.0, &path, owner).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        let shared = Arc::new(Shared {
            requests: JobRequests::new(client, grants, enqueued),
            user: owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |(user, _)| user),
            jobs: Mutex::default(),
        });
        let accepting = accept(listener, Arc::clone(&shared), slots);
        Ok(JobSocket {
            path,
            shared,
            _accepting: AbortOnDropHandle::new(tokio::spawn(accepting)),
            _folder: folder,
        })
    }

    /// The path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets a job use the socket.
    pub(super) fn admit(&self, job_id: &JobId) -> JobPass {
        let token = format!("{:032x}", rand::random::<u128>());
        let job = ConnectedJob {
            job_id: job_id.clone(),
            ended: CancellationToken::new(),
            connections: Arc::new(Semaphore::new(JOB_CONNECTIONS_MAX)),
        };
        self.shared.lock().insert(token.clone(), Arc::new(job));
        JobPass {
            token,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// The path of the folder of a new socket. The socket has a folder of its own, since the folder of
/// temporary files is shared: in its own, no other user can replace it.
fn new_folder(temporary: &Path, random: u64) -> PathBuf {
    let name = format!("naq-socket-{random:016x}");
    let folder = temporary.join(&name);
    if folder.join("socket").as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return folder;
    }
    // TMPDIR is too long for a socket, whatever the name is.
    Path::new("/tmp").join(name)
}

fn bind(folder: &Path, path: &Path, owner: Option<(u32, u32)>) -> io::Result<UnixListener> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
        // Others may enter the folder and may not connect to what is in it.
        fs::set_permissions(folder, Permissions::from_mode(0o711))?;
    }
    Ok(listener)
}

impl JobPass {
    pub(super) fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for JobPass {
    fn drop(&mut self) {
        if let Some(job) = self.shared.lock().remove(&self.token) {
            job.ended.cancel();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<ConnectedJob>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections. While as many are open as there may be, others wait in the kernel.
async fn accept(listener: UnixListener, shared: Arc<Shared>, slots: usize) {
    let connections = Arc::new(Semaphore::new(2 * slots + CONNECTIONS_EXTRA));
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept a connection of a job: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The mode of the socket keeps other users out; this does if a job has changed the mode.
        let peer = stream.peer_cred().map(|peer| peer.uid());
        match peer {
            Ok(user) if user == shared.user || user == 0 => {}
            _ => {
                tracing::warn!(?peer, "refused a connection to the socket of the jobs");
                continue;
            }
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            serve(stream, &shared).await;
            drop(permit);
        });
    }
}

/// Replies to the requests of one connection, one after another.
async fn serve(stream: UnixStream, shared: &Shared) {
    let mut stream = BufStream::new(stream);
    let mut connection = None;
    loop {
        let idle_max = match connection {
            None => FIRST_REQUEST_MAX,
            Some(_) => IDLE_MAX,
        };
        let reading = read_line(&mut stream, shared.requests.line_bytes_max());
        let Ok(Ok(line)) = timeout(idle_max, reading).await else {
            return;
        };
        let (reply, is_last) = match line {
            Line::End => return,
            Line::TooLong => (usage("the request is too long").into(), true),
            Line::Request(line) => match answer(&line, &mut connection, shared).await {
                Ok(reply) => (reply, false),
                Err(error) => (JobReply::from(error).into(), true),
            },
        };
        let writing = write(&mut stream, &reply);
        if !matches!(timeout(WRITE_MAX, writing).await, Ok(Ok(()))) || is_last {
            return;
        }
    }
}

impl From<JobReplyError> for Reply {
    fn from(error: JobReplyError) -> Reply {
        JobReply::from(error).into()
    }
}

/// The job of a connection, and its place among the job's connections.
type Connection = (Arc<ConnectedJob>, OwnedSemaphorePermit);

/// Carries out a request. An error ends the connection.
async fn answer(
    line: &[u8],
    connection: &mut Option<Connection>,
    shared: &Shared,
) -> Result<Reply, JobReplyError> {
    let request: JobRequest =
        serde_json::from_slice(line).map_err(|error| usage(&format!("request: {error}")))?;
    let job = shared.lock().get(&request.token).cloned();
    let Some(job) = job else {
        return Err(JobReplyError::new(
            "denied",
            "the token belongs to no running job of this worker",
        ));
    };
    match connection {
        Some((of, _)) if !Arc::ptr_eq(of, &job) => {
            return Err(usage(
                "the token is not that of the connection's first request",
            ));
        }
        Some(_) => {}
        None => {
            let permit = Arc::clone(&job.connections).try_acquire_owned();
            let permit = permit.map_err(|_| {
                let most = format!("a job may have {JOB_CONNECTIONS_MAX} connections at once");
                JobReplyError::new("denied", most)
            })?;
            *connection = Some((Arc::clone(&job), permit));
        }
    }
    tokio::select! {
        biased;
        () = job.ended.cancelled() => Err(JobReplyError::new("denied", "the job has ended")),
        reply = shared.requests.reply(&job.job_id, request) => Ok(reply),
    }
}

enum Line {
    Request(Vec<u8>),
    TooLong,
    End,
}

/// Reads a line of at most `bytes_max` bytes.
async fn read_line(stream: &mut BufStream<UnixStream>, bytes_max: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut bounded = stream.take(bytes_max as u64 + 1);
    bounded.read_until(b'\n', &mut line).await?;
    Ok(match line.len() {
        0 => Line::End,
        length if length > bytes_max => Line::TooLong,
        _ => Line::Request(line),
    })
}

async fn write(stream: &mut BufStream<UnixStream>, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(&reply.line)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.write_all(&reply.output).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_folder_of_temporary_files_is_avoided() {
        let short = new_folder(Path::new("/var/tmp"), 1);
        assert_eq!(short, Path::new("/var/tmp/naq-socket-0000000000000001"));
        let long = new_folder(&Path::new("/").join("x".repeat(80)), 1);
        assert_eq!(long, Path::new("/tmp/naq-socket-0000000000000001"));
    }
}
