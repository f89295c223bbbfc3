"""The names of the first `naq` library for Python, so that its users move by changing the package.

Those without an ending are coroutines, and those with `_sync` block, as before. `docs/from-naq-python.md` says what is
kept and what differs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import functools
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec, TypeVar

from . import _loop, _values
from .app import App
from .errors import ConfigurationError, JobFailed, JobNotFinished, JobNotFound, NaqError
from .jobs import Call, Job
from .outcome import ENDED, Outcome
from .schedules import Schedule

P = ParamSpec("P")
T = TypeVar("T")

_apps: dict[str | None, App] = {}


class JOB_STATUS(str, enum.Enum):
    """States of a job under the names of the first library. The values are those of a record."""

    PENDING = "queued"
    RUNNING = "running"
    COMPLETED = "succeeded"
    FAILED = "failed"
    RETRY = "retrying"
    SCHEDULED = "scheduled"
    CANCELLED = "cancelled"


class SCHEDULED_JOB_STATUS(str, enum.Enum):
    """States of a schedule."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class WORKER_STATUS(str, enum.Enum):
    """States of a worker, as its heartbeat has them."""

    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "draining"


def default_app(nats_url: str | None = None) -> App:
    """The app of the functions of this module: one for each address, connected as `naq` does without one."""
    return _apps.setdefault(nats_url, App(nats_url))


def _call(
    what: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    nats_url: str | None,
    options: Mapping[str, Any],
) -> Call[Any]:
    # of the first library, which had a connection for each thread
    kwargs.pop("prefer_thread_local", None)
    given = {name: value for name, value in options.items() if value is not None}
    if "retries" in given and given["retries"] == 0:
        del given["retries"]
    if given.get("retry_delay") == 0:
        del given["retry_delay"]
    call = default_app(nats_url).call(what, *args, **kwargs)
    return call.with_(**given) if given else call


async def enqueue(
    func: Callable[..., Any] | str | Call[Any],
    *args: Any,
    queue_name: str | None = None,
    nats_url: str | None = None,
    max_retries: int | None = None,
    retry_delay: Any = None,
    depends_on: Any = None,
    timeout: _values.Duration | None = None,
    **kwargs: Any,
) -> Job[Any]:
    """Enqueues a function, `"module:name"`, or a call of `app.command(…)`, with its arguments."""
    return await _call(
        func,
        args,
        kwargs,
        nats_url,
        {
            "queue": queue_name,
            "retries": max_retries,
            "retry_delay": retry_delay,
            "depends_on": depends_on,
            "timeout": timeout,
        },
    ).aenqueue()


async def enqueue_at(
    dt_: dt.datetime,
    func: Callable[..., Any] | str | Call[Any],
    *args: Any,
    queue_name: str | None = None,
    nats_url: str | None = None,
    max_retries: int | None = None,
    retry_delay: Any = None,
    timeout: _values.Duration | None = None,
    **kwargs: Any,
) -> Job[Any]:
    """Enqueues a job that starts at a time. One without a zone is UTC, as it was."""
    if dt_.tzinfo is None:
        dt_ = dt_.replace(tzinfo=dt.timezone.utc)
    options = {"queue": queue_name, "retries": max_retries, "retry_delay": retry_delay, "timeout": timeout}
    return await _call(func, args, kwargs, nats_url, {**options, "at": dt_}).aenqueue()


async def enqueue_in(
    delta: dt.timedelta,
    func: Callable[..., Any] | str | Call[Any],
    *args: Any,
    queue_name: str | None = None,
    nats_url: str | None = None,
    max_retries: int | None = None,
    retry_delay: Any = None,
    timeout: _values.Duration | None = None,
    **kwargs: Any,
) -> Job[Any]:
    """Enqueues a job that starts after a delay."""
    options = {"queue": queue_name, "retries": max_retries, "retry_delay": retry_delay, "timeout": timeout}
    return await _call(func, args, kwargs, nats_url, {**options, "delay": delta}).aenqueue()


async def schedule(
    func: Callable[..., Any] | str | Call[Any],
    *args: Any,
    queue_name: str | None = None,
    nats_url: str | None = None,
    cron: str | None = None,
    interval: dt.timedelta | float | None = None,
    repeat: int | None = None,
    max_retries: int | None = None,
    retry_delay: Any = None,
    timeout: _values.Duration | None = None,
    **kwargs: Any,
) -> Schedule:
    """Stores a schedule. Its `job_id` is its name, which the functions below take."""
    options = {"queue": queue_name, "retries": max_retries, "retry_delay": retry_delay, "timeout": timeout}
    call = _call(func, args, kwargs, nats_url, options)
    return await default_app(nats_url).aschedule(call, cron=cron, every=interval, repeat=repeat)


async def cancel_scheduled_job(job_id: str, nats_url: str | None = None, **_ignored: Any) -> bool:
    """Deletes a schedule, or cancels a job that has not started. False if there is neither."""
    backend = default_app(nats_url)._backend()

    async def cancel() -> bool:
        if len(job_id) <= 40 and await backend.delete_schedule(job_id):
            return True
        try:
            record = await backend.status(job_id, None)
            if record["state"] == "running" or record["state"] in ENDED:
                return False
            return str(await backend.cancel(job_id, None)) == "cancelled"
        except JobNotFound:
            return False

    return bool(await _loop.arun(cancel()))


async def pause_scheduled_job(job_id: str, nats_url: str | None = None, **_ignored: Any) -> bool:
    """Pauses a schedule or a delayed job. False if there is neither."""
    return await _change(job_id, nats_url, {"status": "paused"}, paused=True)


async def resume_scheduled_job(job_id: str, nats_url: str | None = None, **_ignored: Any) -> bool:
    """Resumes a schedule or a delayed job. False if there is neither."""
    return await _change(job_id, nats_url, {"status": "active", "paused_reason": None}, paused=False)


async def modify_scheduled_job(job_id: str, nats_url: str | None = None, **updates: Any) -> bool:
    """Changes `cron`, `interval` or `repeat` of a schedule, or the start of a delayed job.

    `scheduled_timestamp_utc` (seconds since 1970) and `next_run` (a datetime) set the next start.
    """
    from .schedules import changes

    updates.pop("prefer_thread_local", None)
    at = updates.pop("next_run", None)
    if "scheduled_timestamp_utc" in updates:
        at = dt.datetime.fromtimestamp(updates.pop("scheduled_timestamp_utc"), dt.timezone.utc)
    for old in ("interval", "interval_seconds"):
        if old in updates:
            updates["every"] = updates.pop(old)
    fields = changes({**updates, "next_run": at})
    if not fields:
        raise ConfigurationError("nothing to change; give `cron`, `interval`, `repeat` or `next_run`")
    return await _change(job_id, nats_url, fields, at=at)


async def _change(
    job_id: str,
    nats_url: str | None,
    fields: dict[str, Any],
    *,
    paused: bool | None = None,
    at: dt.datetime | None = None,
) -> bool:
    backend = default_app(nats_url)._backend()

    async def change() -> bool:
        if len(job_id) <= 40 and await backend.change_schedule(job_id, fields):
            return True
        if paused is None and at is None:
            return False
        return bool(await backend.change_delayed(job_id, at=at, paused=paused))

    return await _loop.arun(change())


async def purge_queue(queue_name: str | None = None, nats_url: str | None = None, **_ignored: Any) -> int:
    """Removes the jobs of a queue that do not run. Returns their number."""
    backend = default_app(nats_url)._backend()
    return int(await _loop.arun(backend.purge(queue_name or backend.settings.queue)))


async def fetch_job_result(job_id: str, nats_url: str | None = None) -> Any:
    """The result of a job that has ended, without waiting.

    Of a function what it returned, of a program its structured result, or the text of its standard output.

    Raises:
        JobNotFoundError: There is no such job, or (`JobNotFinished`) it has not ended.
        JobExecutionError: It ended without success.
    """
    backend = default_app(nats_url)._backend()

    async def fetch() -> dict[str, Any]:
        record = await backend.status(job_id, None)
        if record["state"] not in ENDED:
            raise JobNotFinished(f"job {job_id} is {record['state']}, so it has no result yet")
        return dict(await backend.wait(job_id, record["queue"], 5))

    outcome = Outcome(await _loop.arun(fetch())).raise_unless_succeeded()
    is_function = isinstance(outcome.record.get("envelope"), dict) and "function" in outcome.record["envelope"]
    if is_function or "result" in outcome.record:
        return outcome.result
    return outcome.text


async def list_workers(nats_url: str | None = None) -> list[dict[str, Any]]:
    """The heartbeat of each worker that runs."""
    return await default_app(nats_url).aworkers()


async def connect(url: str | None = None) -> App:
    """Connects now, instead of at the first use."""
    app = default_app(url)
    await app.aconnect()
    return app


async def disconnect() -> None:
    """Closes the connections of the functions of this module."""
    for app in list(_apps.values()):
        await app.aclose()


def close_sync_connections(nats_url: str | None = None) -> None:
    """Closes the connection. The blocking functions share it with the coroutines."""
    if nats_url in _apps:
        _apps[nats_url].close()


def _sync(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The function that blocks, for code without an event loop."""

    @functools.wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> T:
        _loop.refuse_in_async(f"{function.__name__}_sync()", f"{function.__name__}()")
        # the coroutine awaits what the background thread does, so it needs a loop of its own for a moment
        return asyncio.run(function(*args, **kwargs))

    blocking.__name__ = blocking.__qualname__ = f"{function.__name__}_sync"
    blocking.__doc__ = f"As :func:`{function.__name__}`, but it blocks."
    return blocking


enqueue_sync = _sync(enqueue)
enqueue_at_sync = _sync(enqueue_at)
enqueue_in_sync = _sync(enqueue_in)
schedule_sync = _sync(schedule)
cancel_scheduled_job_sync = _sync(cancel_scheduled_job)
pause_scheduled_job_sync = _sync(pause_scheduled_job)
resume_scheduled_job_sync = _sync(resume_scheduled_job)
modify_scheduled_job_sync = _sync(modify_scheduled_job)
purge_queue_sync = _sync(purge_queue)
fetch_job_result_sync = _sync(fetch_job_result)
list_workers_sync = _sync(list_workers)
fetch_result = fetch_job_result
fetch_result_sync = fetch_job_result_sync


class Queue:
    """A queue by its name, with the methods of the first library."""

    def __init__(self, name: str | None = None, nats_url: str | None = None, **_ignored: Any) -> None:
        self.name = name
        self._where: dict[str, Any] = {"queue_name": name, "nats_url": nats_url}
        self._url = nats_url

    async def __aenter__(self) -> Queue:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def enqueue(self, func: Any, *args: Any, **kwargs: Any) -> Job[Any]:
        """As :func:`naq.enqueue`, in this queue."""
        return await enqueue(func, *args, **self._where, **kwargs)

    async def enqueue_at(self, dt_: dt.datetime, func: Any, *args: Any, **kwargs: Any) -> Job[Any]:
        """As :func:`naq.enqueue_at`, in this queue."""
        return await enqueue_at(dt_, func, *args, **self._where, **kwargs)

    async def enqueue_in(self, delta: dt.timedelta, func: Any, *args: Any, **kwargs: Any) -> Job[Any]:
        """As :func:`naq.enqueue_in`, in this queue."""
        return await enqueue_in(delta, func, *args, **self._where, **kwargs)

    async def schedule(self, func: Any, *args: Any, **kwargs: Any) -> Schedule:
        """As :func:`naq.schedule`, in this queue."""
        return await schedule(func, *args, **self._where, **kwargs)

    async def purge(self) -> int:
        """As :func:`naq.purge_queue`, of this queue."""
        return await purge_queue(**self._where)

    async def cancel_scheduled_job(self, job_id: str) -> bool:
        """As :func:`naq.cancel_scheduled_job`."""
        return await cancel_scheduled_job(job_id, self._url)

    async def pause_scheduled_job(self, job_id: str) -> bool:
        """As :func:`naq.pause_scheduled_job`."""
        return await pause_scheduled_job(job_id, self._url)

    async def resume_scheduled_job(self, job_id: str) -> bool:
        """As :func:`naq.resume_scheduled_job`."""
        return await resume_scheduled_job(job_id, self._url)

    async def modify_scheduled_job(self, job_id: str, **updates: Any) -> bool:
        """As :func:`naq.modify_scheduled_job`."""
        return await modify_scheduled_job(job_id, self._url, **updates)

    async def close(self) -> None:
        """Closes the connection. A later use opens it again."""
        await default_app(self._url).aclose()


NaqException = NaqError
JobNotFoundError = JobNotFound
JobExecutionError = JobFailed
