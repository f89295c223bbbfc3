"""Schedules: what enqueues a job again and again."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _loop, _values
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .jobs import Call

_CRON_FIELD = re.compile(r"[A-Za-z0-9*?,/#-]+\Z")
_CRON_NAMES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_OVERLAPS = ("allow", "skip", "queue", "replace")
_MISFIRES = ("skip", "once", "all")


class Schedule:
    """A schedule that was stored."""

    def __init__(self, backend: Any, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        self._backend = backend

    @property
    def job_id(self) -> str:
        """Its name, as the first library called it."""
        return self.schedule_id

    def read(self) -> dict[str, Any] | None:
        """The stored schedule, as `docs/protocol.md` describes it. None if it was deleted."""
        value = _loop.run(self._backend.schedule(self.schedule_id))
        return None if value is None else dict(value)

    async def aread(self) -> dict[str, Any] | None:
        """As :meth:`read`, for `asyncio`."""
        value = await _loop.arun(self._backend.schedule(self.schedule_id))
        return None if value is None else dict(value)

    def pause(self) -> bool:
        """Pauses it. False if there is no such schedule."""
        return bool(_loop.run(self._backend.change_schedule(self.schedule_id, {"status": "paused"})))

    async def apause(self) -> bool:
        """As :meth:`pause`, for `asyncio`."""
        return bool(await _loop.arun(self._backend.change_schedule(self.schedule_id, {"status": "paused"})))

    def resume(self) -> bool:
        """Resumes it. False if there is no such schedule."""
        return bool(_loop.run(self._backend.change_schedule(self.schedule_id, _RESUMED)))

    async def aresume(self) -> bool:
        """As :meth:`resume`, for `asyncio`."""
        return bool(await _loop.arun(self._backend.change_schedule(self.schedule_id, _RESUMED)))

    def update(self, **options: Any) -> bool:
        """Changes options of :meth:`naq.App.schedule`, such as `cron` or `every`. False if it does not exist."""
        return bool(_loop.run(self._backend.change_schedule(self.schedule_id, changes(options))))

    async def aupdate(self, **options: Any) -> bool:
        """As :meth:`update`, for `asyncio`."""
        return bool(await _loop.arun(self._backend.change_schedule(self.schedule_id, changes(options))))

    def delete(self) -> bool:
        """Deletes it. Jobs that it has enqueued stay. False if there is no such schedule."""
        return bool(_loop.run(self._backend.delete_schedule(self.schedule_id)))

    async def adelete(self) -> bool:
        """As :meth:`delete`, for `asyncio`."""
        return bool(await _loop.arun(self._backend.delete_schedule(self.schedule_id)))

    def __repr__(self) -> str:
        return f"<naq.Schedule {self.schedule_id}>"


_RESUMED = {"status": "active", "paused_reason": None}


def definition(name: str, call: Call[Any], default_queue: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule as it is stored, but for the time of its creation."""
    request = call._request(call.envelope(), default_queue)
    if request.is_chosen or request.at or request.delay:
        raise ConfigurationError("a schedule chooses the ids and times of its jobs; leave out `id`, `at` and `delay`")
    if "expires_at" in request.envelope:
        raise ConfigurationError("`expires_at` belongs to one job, not to a schedule")
    if options.get("cron") is None and options.get("every") is None:
        raise ConfigurationError("a schedule needs `cron` or `every`")
    return {
        "schedule_id": name,
        "queue": request.queue,
        "envelope": request.envelope,
        **{field: value for field, value in changes(options).items() if value is not None},
        "status": "active",
    }


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a stored schedule. `None` removes one."""
    given = {name: value for name, value in options.items() if value is not None}
    unknown = given.keys() - {
        "cron",
        "tz",
        "every",
        "repeat",
        "start",
        "end",
        "overlap",
        "misfire",
        "next_run",
    }
    if unknown:
        raise TypeError(f"unknown option `{min(unknown)}` of a schedule")
    if "cron" in given and "every" in given:
        raise ConfigurationError("give `cron` or `every`, not both")
    fields: dict[str, Any] = {}
    if "cron" in given:
        fields |= {"cron": _cron(given["cron"]), "every": None, "anchor": None}
    if "every" in given:
        if _values.seconds(given["every"], "every") < 0.1:
            raise ConfigurationError(f"every: {given['every']!r} is shorter than 100 ms")
        fields |= {"every": _values.duration(given["every"], "every"), "cron": None, "tz": None}
    if "tz" in given:
        fields["tz"] = str(given["tz"])
    if "repeat" in given:
        if type(given["repeat"]) is not int or given["repeat"] < 1:
            raise ConfigurationError(f"repeat: {given['repeat']!r} is not a number of at least 1")
        fields["repeat"] = given["repeat"]
    for name, words in (("overlap", _OVERLAPS), ("misfire", _MISFIRES)):
        if name in given:
            if given[name] not in words:
                raise ConfigurationError(f"{name}: {given[name]!r} is not one of {', '.join(words)}")
            fields[name] = given[name]
    for name in ("start", "end", "next_run"):
        if name in given:
            moment: dt.datetime = _values.moment(given[name], name)
            fields[name] = _values.rfc3339(moment)
    return fields


def _cron(text: Any) -> str:
    """A first look at a cron expression; the scheduler reads it."""
    fields = text.split() if isinstance(text, str) else []
    is_expression = len(fields) in (5, 6) and all(_CRON_FIELD.match(field) for field in fields)
    if not is_expression and text not in _CRON_NAMES:
        raise ConfigurationError(
            f"cron: {text!r} is not an expression such as '30 2 * * *'; `naq cron explain` reads one"
        )
    return str(text)
