"""Jobs through the socket of the worker that runs this job: `docs/protocol.md`, "The socket of a worker"."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from . import _values
from ._backend import REMARK_AFTER, Request, log
from ._settings import Settings
from .errors import (
    ConfigurationError,
    JobConflict,
    JobNotFound,
    NaqConnectionError,
    NaqError,
    StoreFull,
    WaitTimeout,
)
from .outcome import ENDED

# a worker answers a `wait` after 20 s at the latest
_WAIT_MAX = 20.0
_LINE_MAX = 64 << 20

_ERRORS: dict[str, type[NaqError]] = {
    "not_found": JobNotFound,
    "conflict": JobConflict,
    "refused": ConfigurationError,
    "full": StoreFull,
}


class JobSocketBackend:
    """What a worker lets its jobs do."""

    def __init__(self, settings: Settings) -> None:
        assert settings.job_socket is not None
        self.settings = settings
        self._path, self._token = settings.job_socket

    async def close(self) -> None:
        """Does nothing: each request has a connection of its own."""

    async def connect(self) -> None:
        """Does nothing: each request has a connection of its own."""

    async def enqueue(self, request: Request) -> None:
        """Enqueues a job through the worker."""
        envelope = {"job_id": request.job_id, **request.envelope}
        more: dict[str, Any] = {}
        if request.at is not None:
            more["at"] = _values.rfc3339(request.at)
        elif request.delay:
            more["in"] = request.delay
        await self._ask("enqueue", queue=request.queue, envelope=envelope, **more)

    async def status(self, job_id: str, queue: str | None) -> dict[str, Any]:
        """A job's record."""
        answer, _ = await self._ask("status", job_id=job_id)
        return dict(answer["record"])

    async def wait(self, job_id: str, queue: str | None, timeout: float | None) -> dict[str, Any]:
        """Waits until a job has ended."""
        started = time.monotonic()
        is_remarked = False
        while True:
            left = _WAIT_MAX if timeout is None else max(0.0, timeout - (time.monotonic() - started))
            bound = min(left, _WAIT_MAX if is_remarked else REMARK_AFTER)
            answer, _ = await self._ask("wait", job_id=job_id, timeout=bound)
            record = dict(answer["record"])
            if record["state"] in ENDED:
                return await self._with_output(record)
            if timeout is not None and time.monotonic() - started >= timeout:
                waits_for = (await self._ask("status", job_id=job_id))[0].get("waits_for")
                why = f"{record['state']} ({waits_for['cause']})" if waits_for else record["state"]
                raise WaitTimeout(f"job {job_id} has not ended after {timeout:g} s: it is {why}")
            if not is_remarked:
                log.info("waiting for job %s: it is %s", job_id, record["state"])
                is_remarked = True

    async def _with_output(self, record: dict[str, Any]) -> dict[str, Any]:
        for stream in ("stdout", "stderr"):
            output = record.get(stream) or {}
            if "object" in output and not output.get("truncated"):
                _, output["whole"] = await self._ask("output", job_id=record["job_id"], stream=stream)
        return record

    async def _ask(self, request: str, **fields: Any) -> tuple[dict[str, Any], bytes]:
        line = json.dumps({"token": self._token, "request": request, **fields}).encode() + b"\n"
        bound = float(fields.get("timeout") or 0) + 10
        try:
            return await asyncio.wait_for(self._exchange(line), bound)
        except NaqError:
            raise
        except (asyncio.TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            raise NaqConnectionError(f"the job's worker does not answer at {self._path}: {error!r}") from None

    async def _exchange(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_LINE_MAX)
        try:
            writer.write(line)
            await writer.drain()
            answer = json.loads(
                await reader.readline() or b'{"error": {"message": "the worker closed the connection"}}'
            )
            if "error" in answer:
                raise _error(answer["error"])
            return answer, await reader.readexactly(int(answer.get("bytes", 0)))
        finally:
            writer.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NaqConnectionError(
            f"`{name}` needs NATS, and a job has only its worker's socket; set NAQ_NATS_URL in the job's environment"
        )


def _error(error: dict[str, Any]) -> NaqError:
    text = error.get("message", "the worker refuses the request")
    if error.get("hint"):
        text = f"{text}; {error['hint']}"
    return _ERRORS.get(error.get("code", ""), NaqConnectionError)(text)
