"""Options of a job, and the envelope that they make."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from . import _values
from ._json import to_json
from ._values import Duration
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .jobs import Job


_As = TypedDict("_As", {"as": str}, total=False)


class Dependency(_As, total=False):
    """A job that must end first, how, and (`as`) under which name the job gets its output in `NAQ_INPUTS`."""

    job: str
    on: Literal["success", "failure", "finished"]


class Limits(TypedDict, total=False):
    """Limits on the resources of a job's processes. Sizes are bytes or texts such as `"256M"`."""

    memory: int | str
    address_space: int | str
    file_size: int | str
    output: int | str
    cpu_time: Duration
    cpus: float
    processes: int
    open_files: int
    nice: int


class UploadedFile(TypedDict, total=False):
    """A file that was uploaded (`naq enqueue --upload`), by its digest."""

    path: str
    digest: str
    bytes: int
    executable: bool


class Options(TypedDict, total=False):
    """Options of a job. `docs/protocol.md` of naq describes each; an absent one is the worker's default."""

    queue: str
    id: str
    delay: Duration
    at: dt.datetime
    retries: int
    retry_delay: Duration | Sequence[Duration]
    retry_strategy: Literal["fixed", "linear", "exponential"]
    retry_max_delay: Duration
    retry_jitter: bool
    retry_on: Sequence[int]
    fatal_on: Sequence[int]
    success_on: Sequence[int]
    timeout: Duration
    expires_at: dt.datetime
    result_ttl: Duration
    depends_on: str | Job[Any] | Sequence[str | Job[Any] | Dependency]
    inputs: Literal["named", "all", "stdin"]
    dependency_timeout: Duration
    concurrency_key: str
    concurrency_max: int
    requires: Mapping[str, str]
    labels: Mapping[str, str]
    meta: Any
    env: Mapping[str, str]
    secrets: Sequence[str]
    cwd: str | os.PathLike[str]
    files: Sequence[UploadedFile]
    artifacts: Sequence[str]
    limits: Limits
    input: Any
    stdin: str | bytes
    runner: str
    module_path: Sequence[str]
    overlap_ok: bool
    must_understand: Sequence[str]


_DURATIONS = ("retry_max_delay", "timeout", "result_ttl", "dependency_timeout")
_LISTS_OF_CODES = ("retry_on", "fatal_on", "success_on")
_MAPS_OF_TEXTS = ("labels", "requires", "env")
_BOOLEANS = ("retry_jitter", "overlap_ok")
_LISTS_OF_TEXTS = ("secrets", "must_understand", "module_path", "artifacts")
_TEXTS = ("runner", "concurrency_key")
_LIMITS = frozenset(Limits.__annotations__)
_KNOWN = frozenset(Options.__annotations__)
# the wire's name for what has a shorter one here
_RENAMED = {"max_retries": "retries", "job_id": "id"}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where and when a job is enqueued: the options that are no part of the envelope."""

    queue: str | None
    job_id: str | None
    at: dt.datetime | None
    delay: float | None


def check(options: Mapping[str, Any]) -> None:
    """Checks names and values, so that a mistake in a decorator shows where it is made."""
    placement(options)
    envelope(options)


def placement(options: Mapping[str, Any]) -> Placement:
    """Where and when to enqueue."""
    for name in options:
        if name not in _KNOWN:
            raise TypeError(_unknown(name))
    queue, chosen, at, delay = (options.get(name) for name in ("queue", "id", "at", "delay"))
    if at is not None and delay is not None:
        raise ConfigurationError("give `at` or `delay`, not both")
    return Placement(
        queue=None if queue is None else _values.queue_name(queue),
        job_id=None if chosen is None else _values.job_id(chosen),
        at=None if at is None else _values.moment(at, "at"),
        delay=None if delay is None else _values.seconds(delay, "delay"),
    )


def envelope(options: Mapping[str, Any]) -> dict[str, Any]:
    """The envelope's fields that the options set."""
    fields: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or name in ("queue", "id", "at", "delay"):
            continue
        if name in _DURATIONS:
            fields[name] = _values.duration(value, name)
        elif name in _LISTS_OF_CODES:
            fields[name] = [_code(code, name) for code in value]
        elif name in _MAPS_OF_TEXTS:
            fields[name] = _texts(value, name)
        elif name in _BOOLEANS:
            fields[name] = _typed(value, bool, name)
        elif name in _LISTS_OF_TEXTS:
            if isinstance(value, str):
                raise ConfigurationError(f"{name}: {value!r} is a text; give a list of texts")
            fields[name] = [text_option(item, name) for item in value]
        elif name in _TEXTS:
            fields[name] = text_option(value, name)
        else:
            _SPECIAL[name](fields, value)
    inputs = [name for name in ("input", "stdin", "stdin_base64") if name in fields]
    if len(inputs) > 1:
        raise ConfigurationError(f"give one of `{inputs[0]}` and `{inputs[1]}`")
    return fields


def _unknown(name: str) -> str:
    if name in _RENAMED:
        return f"unknown option `{name}`: it is called `{_RENAMED[name]}` here"
    close = difflib.get_close_matches(name, _KNOWN, 1)
    known = f"did you mean `{close[0]}`?" if close else f"the options are {', '.join(sorted(_KNOWN))}"
    return f"unknown option `{name}`; {known}"


def _typed(value: Any, kind: type, name: str) -> Any:
    if type(value) is not kind:
        raise ConfigurationError(f"{name}: {value!r} is not a {kind.__name__}")
    return value


def text_option(value: Any, name: str) -> str:
    """A text that a process can receive, or a path."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"{name}: {value!r} is not a text")
    if "\0" in text:
        raise ConfigurationError(f"{name}: the text has a NUL, which no process can receive")
    return text


def _texts(value: Mapping[str, str], name: str) -> dict[str, str]:
    checked = {}
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ConfigurationError(f"{name}.{key}: {text!r} is not a text; keys and values are texts")
        if name == "env" and (not key or "=" in key or "\0" in key + text or key.startswith("NAQ_")):
            raise ConfigurationError(f"env.{key}: a name has no `=`, no NUL, and does not begin with NAQ_")
        checked[key] = text
    return checked


def _code(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise ConfigurationError(f"{name}: {value!r} is not an exit code from 0 to 255")
    return value


def _retries(fields: dict[str, Any], value: Any) -> None:
    if type(value) is not int or not 0 <= value <= 10_000:
        raise ConfigurationError(f"retries: {value!r} is not a number from 0 to 10000")
    fields["max_retries"] = value


def _retry_delay(fields: dict[str, Any], value: Any) -> None:
    if isinstance(value, (list, tuple)):
        fields["retry_delay"] = [_values.duration(one, "retry_delay") for one in value]
    else:
        fields["retry_delay"] = _values.duration(value, "retry_delay")


def _retry_strategy(fields: dict[str, Any], value: Any) -> None:
    if value not in ("fixed", "linear", "exponential"):
        raise ConfigurationError(f"retry_strategy: {value!r} is not fixed, linear or exponential")
    fields["retry_strategy"] = value


def _expires_at(fields: dict[str, Any], value: Any) -> None:
    fields["expires_at"] = _values.rfc3339(_values.moment(value, "expires_at"))


def _depends_on(fields: dict[str, Any], value: Any) -> None:
    several = value if isinstance(value, (list, tuple)) else [value]
    fields["depends_on"] = [_dependency(one) for one in several]


def _dependency(value: Any) -> Any:
    if isinstance(value, Mapping):
        condition = value.get("on", "success")
        if condition not in ("success", "failure", "finished"):
            raise ConfigurationError(f"depends_on: {condition!r} is not success, failure or finished")
        dependency = {"job": _dependency(value.get("job")), "on": condition}
        if (name := value.get("as")) is not None:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ConfigurationError(f"depends_on: {name!r} is not a name of 1 to 64 of A-Z a-z 0-9 _ -")
            dependency["as"] = name
        return dependency
    text = getattr(value, "job_id", value)
    # ids that naq derives may be depended on, though not chosen
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,89}", text):
        raise ConfigurationError(f"depends_on: {text!r} is not a job or the id of one")
    return text


def _inputs(fields: dict[str, Any], value: Any) -> None:
    if value not in ("named", "all", "stdin"):
        raise ConfigurationError(f"inputs: {value!r} is not named, all or stdin")
    fields["inputs"] = value


def _concurrency_max(fields: dict[str, Any], value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"concurrency_max: {value!r} is not a number of at least 1")
    fields["concurrency_max"] = value


def _limits(fields: dict[str, Any], value: Any) -> None:
    limits = {}
    for name, limit in value.items():
        if name not in _LIMITS:
            raise ConfigurationError(f"limits.{name}: unknown; the limits are {', '.join(sorted(_LIMITS))}")
        is_time = name == "cpu_time"
        limits[name] = _values.duration(limit, "limits.cpu_time") if is_time else to_json(limit, f"limits.{name}")
    fields["limits"] = limits


def _stdin(fields: dict[str, Any], value: Any) -> None:
    if isinstance(value, bytes):
        fields["stdin_base64"] = base64.b64encode(value).decode()
    else:
        fields["stdin"] = to_json(_typed(value, str, "stdin"), "stdin")


def _input(fields: dict[str, Any], value: Any) -> None:
    fields["input"] = to_json(value, "input")


def _meta(fields: dict[str, Any], value: Any) -> None:
    fields["meta"] = to_json(value, "meta")


def _cwd(fields: dict[str, Any], value: Any) -> None:
    fields["cwd"] = text_option(value, "cwd")


def _files(fields: dict[str, Any], value: Any) -> None:
    files = []
    for number, file in enumerate(value):
        if not isinstance(file, Mapping):
            raise ConfigurationError(f"files[{number}]: {file!r} has no `path`, `digest` and `bytes`")
        for name in file:
            if name not in UploadedFile.__annotations__:
                known = ", ".join(UploadedFile.__annotations__)
                raise ConfigurationError(f"files[{number}].{name}: unknown; a file has {known}")
        files.append(to_json(dict(file), f"files[{number}]"))
    fields["files"] = files


_SPECIAL: dict[str, Any] = {
    "retries": _retries,
    "retry_delay": _retry_delay,
    "retry_strategy": _retry_strategy,
    "expires_at": _expires_at,
    "depends_on": _depends_on,
    "inputs": _inputs,
    "concurrency_max": _concurrency_max,
    "limits": _limits,
    "stdin": _stdin,
    "input": _input,
    "meta": _meta,
    "cwd": _cwd,
    "files": _files,
}
