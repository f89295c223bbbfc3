"""Enqueue jobs of naq, the job runner on NATS JetStream, and wait for their outcomes.

    import naq

    app = naq.App()                                       # connects as the program `naq` does

    job = app.command("./report.sh", "--all", timeout="5m").enqueue()
    print(job.result(timeout="10m").text)                 # or naq.JobFailed, naq.WaitTimeout

    @app.job(queue="mail", retries=3)
    def send(to: str, *, subject: str = "") -> int: ...

    send.delay("a@b.c", subject="hi")                     # enqueues a call of the function

In `asyncio` the same methods have an `a` in front: `await call.aenqueue()`, `await job.aresult()`. Inside a job,
`naq.current` reports progress, checkpoints and a result.

The names of the first `naq` library for Python (`enqueue`, `enqueue_sync`, `fetch_job_result` …) are here too, see
`naq.compat`.
"""

from __future__ import annotations

from . import current
from ._options import Dependency, Limits, Options, UploadedFile
from ._values import Duration
from .app import App
from .compat import (
    JOB_STATUS,
    SCHEDULED_JOB_STATUS,
    WORKER_STATUS,
    JobExecutionError,
    JobNotFoundError,
    NaqException,
    Queue,
    cancel_scheduled_job,
    cancel_scheduled_job_sync,
    close_sync_connections,
    connect,
    default_app,
    disconnect,
    enqueue,
    enqueue_at,
    enqueue_at_sync,
    enqueue_in,
    enqueue_in_sync,
    enqueue_sync,
    fetch_job_result,
    fetch_job_result_sync,
    fetch_result,
    fetch_result_sync,
    list_workers,
    list_workers_sync,
    modify_scheduled_job,
    modify_scheduled_job_sync,
    pause_scheduled_job,
    pause_scheduled_job_sync,
    purge_queue,
    purge_queue_sync,
    resume_scheduled_job,
    resume_scheduled_job_sync,
    schedule,
    schedule_sync,
)
from .current import NotInJob
from .errors import (
    BatchFailed,
    Cancelled,
    ConfigurationError,
    Fatal,
    JobCancelled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFinished,
    JobNotFound,
    JobRejected,
    NaqConnectionError,
    NaqError,
    OutputIncomplete,
    Retry,
    SerializationError,
    StoreFull,
    WaitTimeout,
)
from .jobs import Call, Job, JobFunction
from .outcome import Outcome
from .schedules import Schedule
from .transactions import on_commit

__version__ = "0.1.0"

__all__ = [
    "JOB_STATUS",
    "SCHEDULED_JOB_STATUS",
    "WORKER_STATUS",
    "App",
    "BatchFailed",
    "Call",
    "Cancelled",
    "ConfigurationError",
    "Dependency",
    "Duration",
    "Fatal",
    "Job",
    "JobCancelled",
    "JobConflict",
    "JobExecutionError",
    "JobExpired",
    "JobFailed",
    "JobFunction",
    "JobNotFinished",
    "JobNotFound",
    "JobNotFoundError",
    "JobRejected",
    "Limits",
    "NaqConnectionError",
    "NaqError",
    "NaqException",
    "NotInJob",
    "Options",
    "Outcome",
    "OutputIncomplete",
    "Queue",
    "Retry",
    "Schedule",
    "SerializationError",
    "StoreFull",
    "UploadedFile",
    "WaitTimeout",
    "cancel_scheduled_job",
    "cancel_scheduled_job_sync",
    "close_sync_connections",
    "connect",
    "current",
    "default_app",
    "disconnect",
    "enqueue",
    "enqueue_at",
    "enqueue_at_sync",
    "enqueue_in",
    "enqueue_in_sync",
    "enqueue_sync",
    "fetch_job_result",
    "fetch_job_result_sync",
    "fetch_result",
    "fetch_result_sync",
    "list_workers",
    "list_workers_sync",
    "modify_scheduled_job",
    "modify_scheduled_job_sync",
    "on_commit",
    "pause_scheduled_job",
    "pause_scheduled_job_sync",
    "purge_queue",
    "purge_queue_sync",
    "resume_scheduled_job",
    "resume_scheduled_job_sync",
    "schedule",
    "schedule_sync",
]

_REPLACED = {
    "Worker": "workers are the program `naq worker QUEUE`",
    "Scheduler": "schedulers are the program `naq scheduler`, or `naq dev`",
    "Results": "results are read by `naq.App().fetch(JOB_ID)` or `naq.fetch_job_result(JOB_ID)`",
    "get_nats_connection": "`naq.App` has the connection; `naq.connect()` opens it",
    "get_jetstream_context": "`naq.App` has the connection; `naq.connect()` opens it",
    "close_nats_connection": "use `naq.disconnect()`",
}


def __getattr__(name: str) -> object:
    if name in _REPLACED:
        raise AttributeError(f"naq has no `{name}` any more: {_REPLACED[name]}")
    raise AttributeError(f"module 'naq' has no attribute {name!r}")
