"""The job that this process runs: `naq.current`.

    naq.current.progress(40, "resizing")
    naq.current.checkpoint({"page": 7})      # the next attempt reads it: naq.current.last_checkpoint()
    naq.current.result({"path": "out.png"})  # what `job.result()` of a function, or `outcome.result`, returns

Outside a job `progress`, `checkpoint`, `result` and `retry_after` do nothing, so that a function can be called and
tested as it is; what describes the job raises :class:`NotInJob`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from pathlib import Path
from typing import Any, NoReturn

from . import _values
from ._json import dumps, to_json
from ._values import Duration
from .errors import ConfigurationError, NaqError

# as of a line of the control channel
_LINE_MAX = 256 * 1024
_RETRY_EXIT_CODE = 75

_lock = threading.Lock()


class NotInJob(NaqError, RuntimeError):
    """This process runs no job of naq."""


def is_active() -> bool:
    """Whether this process runs a job of naq."""
    return "NAQ_JOB_ID" in os.environ


def job_id() -> str:
    """The job's id."""
    return _variable("NAQ_JOB_ID")


def queue() -> str:
    """The job's queue."""
    return _variable("NAQ_QUEUE")


def attempt() -> int:
    """The number of this attempt. 1 is the first."""
    return int(_variable("NAQ_ATTEMPT"))


def max_attempts() -> int:
    """How many attempts the job has at most."""
    return int(_variable("NAQ_MAX_ATTEMPTS"))


def fence() -> int:
    """A number that only grows over the job's attempts: pass it to a database so that it refuses a stale one."""
    return int(_variable("NAQ_FENCE"))


def timeout() -> float | None:
    """The time limit of the attempt in seconds. None if it has none."""
    job_id()
    text = os.environ.get("NAQ_TIMEOUT")
    return float(text) if text else None


def work_dir() -> Path:
    """A folder of the attempt's own, removed afterwards."""
    return Path(_variable("NAQ_WORK_DIR"))


def schedule_id() -> str | None:
    """The schedule that the job comes from."""
    job_id()
    return os.environ.get("NAQ_SCHEDULE_ID")


def scheduled_for() -> dt.datetime | None:
    """The time of the schedule that the job is for, or the time that it was delayed to."""
    job_id()
    text = os.environ.get("NAQ_SCHEDULED_FOR")
    return _values.parse_time(text, "NAQ_SCHEDULED_FOR") if text else None


def progress(percent: float, message: str | None = None) -> None:
    """Reports how far the job is. Of several reports in a second the last one is kept.

    Args:
        percent: From 0 to 100.
        message: What the job does now.
    """
    if not 0 <= percent <= 100:
        raise ConfigurationError(f"progress: {percent!r} is not a percentage from 0 to 100")
    line: dict[str, Any] = {"progress": to_json(percent, "progress")}
    if message is not None:
        line["message"] = to_json(message, "message")
    _send(line)


def checkpoint(value: Any) -> None:
    """Stores a value for the next attempt, in place of the one before. At most 256 KiB of JSON."""
    _send({"checkpoint": to_json(value, "checkpoint")})


def last_checkpoint(default: Any = None) -> Any:
    """The checkpoint of the attempt before. The default if it wrote none, or outside a job."""
    path = os.environ.get("NAQ_CHECKPOINT_FILE")
    if not path:
        return default
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        return default


def result(value: Any) -> None:
    """Sets the job's structured result, in place of the one before. At most 256 KiB of JSON."""
    _send({"result": to_json(value, "result")})


def retry_after(delay: Duration) -> None:
    """Sets the wait before the next attempt, if there is one."""
    _send({"retry_after": _values.duration(delay, "retry_after")})


def retry(after: Duration | None = None) -> NoReturn:
    """Ends this process with the exit code that means "try again", 75.

    The job is retried while it has attempts left (`retries`). Outside a job this ends the process too.
    """
    if after is not None:
        retry_after(after)
    raise SystemExit(_RETRY_EXIT_CODE)


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise NotInJob(f"this process runs no job of naq: {name} is not set") from None


def _send(line: dict[str, Any]) -> None:
    descriptor = os.environ.get("NAQ_CONTROL_FD")
    if descriptor is None:
        return
    data = dumps(line) + b"\n"
    if len(data) > _LINE_MAX:
        name = next(iter(line))
        raise ConfigurationError(f"{name}: {len(data)} bytes of JSON, and at most {_LINE_MAX} are kept; use a file")
    with _lock:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(int(descriptor), view) :]
            except OSError:
                # a child of the job that closed its descriptors, or a worker that has gone: the job continues
                return
