"""How a job ended."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

from . import _values
from .errors import JobCancelled, JobExpired, JobFailed, JobRejected, OutputIncomplete

ENDED = frozenset({"succeeded", "failed", "cancelled", "expired", "rejected"})


class Outcome:
    """How a job ended: a view of its record.

    ``record`` is the whole record as a dict, as `docs/protocol.md` describes it.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    @property
    def job_id(self) -> str:
        """The job's id."""
        return str(self.record["job_id"])

    @property
    def queue(self) -> str:
        """The job's queue."""
        return str(self.record["queue"])

    @property
    def state(self) -> str:
        """`succeeded`, `failed`, `cancelled`, `expired` or `rejected`."""
        return str(self.record["state"])

    @property
    def ok(self) -> bool:
        """Whether the job succeeded."""
        return self.state == "succeeded"

    @property
    def reason(self) -> str | None:
        """Why the job failed or was rejected, as a word: `exit`, `timeout`, `oom`, `invalid` …"""
        return self.record.get("reason")

    @property
    def error(self) -> str | None:
        """Why the job failed, in words."""
        return self.record.get("error")

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last attempt. None if no process exited."""
        return self.record.get("exit_code")

    @property
    def signal(self) -> int | None:
        """The signal that ended the last attempt."""
        return self.record.get("signal")

    @property
    def attempt(self) -> int:
        """The number of attempts."""
        return int(self.record.get("attempt", 0))

    @property
    def result(self) -> Any:
        """The structured result that the job wrote. None if it wrote none."""
        return self.record.get("result")

    @property
    def stdout(self) -> bytes:
        """What the job wrote to standard output.

        Raises:
            OutputIncomplete: The job wrote more than naq keeps (64 KiB by default).
        """
        return self._whole("stdout")

    @property
    def stderr(self) -> bytes:
        """What the job wrote to standard error.

        Raises:
            OutputIncomplete: As of ``stdout``.
        """
        return self._whole("stderr")

    @property
    def text(self) -> str:
        """``stdout`` as text. Bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def stdout_preview(self) -> str:
        """As much of standard output as the record has, as text."""
        return _preview(self.record.get("stdout"))

    @property
    def stderr_preview(self) -> str:
        """As much of standard error as the record has, as text."""
        return _preview(self.record.get("stderr"))

    @property
    def warnings(self) -> list[str]:
        """What naq noticed without failing the job."""
        return list(self.record.get("warnings", []))

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the envelope."""
        return dict(self.record.get("labels", {}))

    @property
    def enqueued_at(self) -> dt.datetime | None:
        """When the job was enqueued."""
        return self._time("enqueue_time")

    @property
    def started_at(self) -> dt.datetime | None:
        """When the last attempt started."""
        return self._time("started_at")

    @property
    def finished_at(self) -> dt.datetime | None:
        """When the job ended."""
        return self._time("finished_at")

    @property
    def summary(self) -> str:
        """State, reason and error in one line."""
        reason = self.reason
        if reason == "exit":
            reason = f"exit {self.exit_code}"
        elif reason == "signal":
            reason = f"signal {self.signal}"
        text = f"{self.state} ({reason})" if reason and reason != self.state else self.state
        return f"{text}: {self.error}" if self.error else text

    def raise_unless_succeeded(self) -> Outcome:
        """Returns itself, or raises :class:`JobFailed`."""
        if self.ok:
            return self
        kinds = {"cancelled": JobCancelled, "expired": JobExpired, "rejected": JobRejected}
        raise kinds.get(self.state, JobFailed)(self)

    def __repr__(self) -> str:
        return f"<naq.Outcome of {self.job_id}: {self.summary}>"

    def _time(self, field: str) -> dt.datetime | None:
        text = self.record.get(field)
        return _values.parse_time(text, field) if text else None

    def _whole(self, stream: str) -> bytes:
        output = self.record.get(stream) or {}
        missing = output.get("missing_bytes", 0)
        if output.get("truncated"):
            raise OutputIncomplete(
                f"{missing} of {output.get('bytes')} bytes that job {self.job_id} wrote to {stream} were not kept;"
                f" enqueue it with limits={{'output': '64M'}} to keep more, or read `{stream}_preview`"
            )
        if "whole" in output:
            return bytes(output["whole"])
        return _bytes(output)


def _bytes(output: dict[str, Any]) -> bytes:
    if "base64" in output:
        return base64.b64decode(output["base64"])
    return str(output.get("text", "")).encode()


def _preview(output: dict[str, Any] | None) -> str:
    if not output:
        return ""
    text = _bytes(output).decode(errors="replace")
    if "tail" in output:
        tail: Any = output["tail"]
        end = tail if isinstance(tail, str) and "text" in output else base64.b64decode(tail).decode(errors="replace")
        text += f"\n[naq: {output.get('missing_bytes')} bytes missing here]\n{end}"
    return text
