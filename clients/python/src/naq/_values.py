"""Names, durations and times as the wire has them."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from typing import TypeAlias

from .errors import ConfigurationError

Duration: TypeAlias = "str | int | float | dt.timedelta"
"""Seconds, a timedelta, or a text such as ``"250ms"``, ``"90s"``, ``"5m"`` or ``"1h 30m"``."""

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DERIVED_ID = re.compile(r".+-seq-[0-9]+(-[0-9]+)?\Z")
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_SCHEDULE = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|us|s|m|h|d|w)\s*")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SECONDS_MAX = 3153600000.0


def new_id() -> str:
    """An id that no job has."""
    return str(uuid.uuid4())


def job_id(text: object) -> str:
    """Checks an id of a job."""
    if not isinstance(text, str) or not _JOB_ID.match(text):
        raise ConfigurationError(f"the job id {text!r} is not 1 to 64 of the characters A-Z a-z 0-9 _ -")
    if _DERIVED_ID.match(text):
        raise ConfigurationError(f"the job id {text!r} has the form of an id that naq derives (…-seq-NUMBER)")
    return text


def queue_name(text: object) -> str:
    """Checks the name of a queue."""
    if not isinstance(text, str) or not _QUEUE.match(text):
        raise ConfigurationError(f"the queue name {text!r} is not 1 to 64 of the characters A-Z a-z 0-9 _ -")
    return text


def schedule_name(text: object) -> str:
    """Checks the name of a schedule."""
    if not isinstance(text, str) or not _SCHEDULE.match(text):
        raise ConfigurationError(f"the schedule {text!r} is not 1 to 40 of the characters A-Z a-z 0-9 _ -")
    return text


def seconds(value: Duration, what: str) -> float:
    """A duration in seconds."""
    if isinstance(value, dt.timedelta):
        number = value.total_seconds()
    elif isinstance(value, bool):
        raise ConfigurationError(f"{what}: {value!r} is not a duration")
    elif isinstance(value, (int, float)):
        number = float(value)
    elif isinstance(value, str):
        number = _parse(value, what)
    else:
        raise ConfigurationError(f"{what}: {value!r} is not a duration; write seconds or a text such as '5m'")
    if not 0 <= number <= _SECONDS_MAX:
        raise ConfigurationError(f"{what}: {value!r} is not from 0 s to 100 years")
    return number


def duration(value: Duration, what: str) -> str | int | float:
    """A duration as an envelope has it: texts unchanged, else seconds."""
    number = seconds(value, what)
    if isinstance(value, dt.timedelta):
        return int(number) if number.is_integer() else number
    return value


def _parse(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise ConfigurationError(f"{what}: {text!r} is not a duration; write 250ms, 90s, 5m, 1h 30m or 7d")
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    if at == 0:
        raise ConfigurationError(f"{what}: the duration is empty")
    return total


def moment(value: dt.datetime | str, what: str) -> dt.datetime:
    """A time with its zone. A text is RFC 3339."""
    if isinstance(value, str):
        value = parse_time(value, what)
    if not isinstance(value, dt.datetime):
        raise ConfigurationError(f"{what}: {value!r} is not a datetime")
    if value.tzinfo is None:
        raise ConfigurationError(f"{what}: {value.isoformat()} has no time zone; use datetime.now(timezone.utc)")
    return value.astimezone(dt.timezone.utc)


def rfc3339(value: dt.datetime) -> str:
    """A time as the wire has it, in UTC with milliseconds."""
    utc = value.astimezone(dt.timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?\Z", re.ASCII)


def parse_time(text: str, what: str) -> dt.datetime:
    """A time of the wire."""
    # Python 3.10 reads neither `Z` nor nanoseconds
    parts = _RFC3339.match(text)
    if parts is None:
        raise ConfigurationError(f"{what}: {text!r} is not a time such as 2030-12-24T18:00:00Z")
    zone = "+00:00" if parts[4] in ("Z", "z") else parts[4] or ""
    fraction = (parts[3] or ".0")[1:7].ljust(6, "0")
    return dt.datetime.fromisoformat(f"{parts[1]}T{parts[2]}.{fraction}{zone}")
