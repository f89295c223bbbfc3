"""What can go wrong. Every exception of this package is a :class:`NaqError`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._values import Duration
    from .outcome import Outcome

__all__ = [
    "BatchFailed",
    "Cancelled",
    "ConfigurationError",
    "Fatal",
    "JobCancelled",
    "JobConflict",
    "JobExpired",
    "JobFailed",
    "JobNotFinished",
    "JobNotFound",
    "JobRejected",
    "NaqConnectionError",
    "NaqError",
    "OutputIncomplete",
    "Retry",
    "SerializationError",
    "StoreFull",
    "WaitTimeout",
]


class NaqError(Exception):
    """The base of all exceptions of this package."""


class Retry(NaqError):
    """Raised by a job's function: it ends the attempt, and the job is tried again while it has attempts left.

    Args:
        message: Why.
        after: The wait before the next attempt: seconds, a text such as `"30s"`, or a `timedelta`. By default the one
            that the job's options say.
    """

    def __init__(self, message: str = "", after: Duration | None = None) -> None:
        super().__init__(message)
        self.after = after


class Fatal(NaqError):
    """Raised by a job's function: the job fails, and is not tried again."""


class Cancelled(BaseException):
    """Raised in a job's function when the job is stopped: it was cancelled, its time is over, or its worker stops.

    No `Exception`, so that `except Exception` does not catch it. What the function does afterwards has to be short: the
    worker kills the job after its grace period.
    """


class ConfigurationError(NaqError, ValueError):
    """A setting, an option or an argument is wrong. The text names it and says what it may be."""


class NaqConnectionError(NaqError, ConnectionError):
    """NATS cannot be reached, refuses the credentials, or does not answer."""


class SerializationError(NaqError, TypeError):
    """A value cannot be held by JSON. Nothing was enqueued.

    Attributes:
        path: Where the value is, such as ``args[0].when``.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class JobNotFound(NaqError, LookupError):
    """There is no such job: it was never enqueued, or its record has expired."""


class JobNotFinished(JobNotFound):
    """The job exists and has not ended, so it has no result yet."""


class JobConflict(NaqError):
    """The id belongs to a job with another envelope, or the job's state does not allow the change."""


class StoreFull(NaqError):
    """NATS has no room for the job, or the message is larger than the server takes."""


class WaitTimeout(NaqError, TimeoutError):
    """The job has not ended in time. It is not cancelled. The text says what it waits for."""


class OutputIncomplete(NaqError):
    """The job wrote more than naq keeps, so what is kept is not the output."""


class BatchFailed(NaqError):
    """Some jobs of :meth:`naq.App.enqueue_many` were not enqueued; the others were.

    Attributes:
        jobs: For each call its job, or ``None`` if it was not enqueued.
        errors: The errors, by the position of the call.
    """

    def __init__(self, jobs: list[Any], errors: dict[int, BaseException]) -> None:
        position, first = next(iter(errors.items()))
        super().__init__(
            f"{len(errors)} of {len(jobs)} jobs were not enqueued; the first is number {position}: {first}"
        )
        self.jobs = jobs
        self.errors = errors


class JobFailed(NaqError):
    """The job has ended without success.

    Attributes:
        outcome: How it ended: state, reason, exit code, output.
        type: The name of the exception that the job's function raised, or the reason why the job failed.
        message: What the exception said, or the error of the job's record.
        trace: The traceback of the job's function, or what the job wrote to standard error.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        error = outcome.record.get("exception")
        error = error if isinstance(error, dict) else {}
        self.type: str = error.get("type") or outcome.reason or outcome.state
        self.message: str = error.get("message") or outcome.error or ""
        self.trace: str = error.get("trace") or outcome.stderr_preview
        super().__init__(f"job {outcome.job_id} {outcome.summary}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.outcome,))


class JobCancelled(JobFailed):
    """The job was cancelled."""


class JobExpired(JobFailed):
    """The job did not start before its ``expires_at``."""


class JobRejected(JobFailed):
    """The worker refused the envelope: it is invalid, or its policy does not allow it."""
