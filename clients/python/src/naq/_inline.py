"""Functions in place of jobs, through JSON: for tests without a server."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ._decode import arguments
from ._json import dumps, to_json
from .errors import ConfigurationError
from .jobs import Call, Job


@dataclasses.dataclass
class InlineJob:
    """A job that was run in place."""

    job_id: str
    queue: str
    envelope: dict[str, Any]
    record: dict[str, Any]


class Inline:
    """Runs a function when it is enqueued, and keeps what was enqueued in `jobs`."""

    def __init__(self) -> None:
        self.jobs: list[InlineJob] = []

    def start(
        self, call: Call[Any], envelope: dict[str, Any]
    ) -> tuple[Job[Any], Callable[[], Coroutine[Any, Any, None]]]:
        """Runs it now. The job that is returned has ended."""
        if call._inline is None:
            what = next(iter(call._what))
            raise ConfigurationError(
                f"`naq_inline` runs functions of this program, and not a {what}; use the fixture `naq_worker`"
            )
        request = call._request(envelope, "default")
        # what a worker would get: a value that JSON changes shows here
        sent = json.loads(dumps(envelope))
        record: dict[str, Any] = {
            "job_id": request.job_id,
            "queue": request.queue,
            "attempt": 1,
            "envelope": sent,
        }
        record |= _run(call._inline.func, sent)  # type: ignore[attr-defined]
        job = InlineJob(request.job_id, request.queue, sent, record)
        self.jobs.append(job)
        return Job(_Ended(job), request.job_id, request.queue, call._decode, envelope), _nothing


class _Ended:
    """The backend of a job that was run in place."""

    def __init__(self, job: InlineJob) -> None:
        self._job = job

    async def wait(self, job_id: str, queue: str | None, timeout: float | None) -> dict[str, Any]:
        return self._job.record

    async def status(self, job_id: str, queue: str | None) -> dict[str, Any]:
        return self._job.record

    async def cancel(self, job_id: str, queue: str | None) -> str:
        return str(self._job.record["state"])


async def _nothing() -> None:
    pass


def _run(function: Callable[..., Any], envelope: dict[str, Any]) -> dict[str, Any]:
    try:
        bound = arguments(function, envelope.get("args", []), envelope.get("kwargs", {}))
        value = function(*bound.args, **bound.kwargs)
        if inspect.iscoroutine(value):
            value = _finish(value)
        result = json.loads(dumps(to_json(value, "result")))
    except Exception as error:
        exception = {"type": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        return {
            "state": "failed",
            "reason": "exit",
            "exit_code": 1,
            "error": f"{type(error).__name__}: {error}",
            "exception": exception,
        }
    return {"state": "succeeded", "exit_code": 0, "result": result}


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end, also if this thread has a running loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
