"""Jobs that were enqueued, and calls that can be."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from . import _loop, _options, _override, _values
from ._backend import Request
from ._decode import arguments, decoder
from ._json import to_json
from ._values import Duration
from .errors import ConfigurationError
from .outcome import ENDED, Outcome

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._options import Options
    from .app import App

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Generic[R_co]):
    """A job that was enqueued.

    The methods with an `a` in front are for `asyncio`; the others block. Of a command or a script the result is
    its :class:`Outcome`, of a function what the function returned.
    """

    def __init__(
        self,
        backend: Any,
        job_id: str,
        queue: str | None,
        decode: Callable[[Outcome], R_co],
        envelope: Any = None,
    ) -> None:
        self.job_id = job_id
        self.queue = queue
        self.envelope: dict[str, Any] | None = envelope
        self._backend = backend
        self._decode = decode

    @property
    def id(self) -> str:
        """The job's id, as `job_id`."""
        return self.job_id

    def result(self, timeout: Duration | None = None) -> R_co:
        """Waits until the job has ended, and returns its result.

        Args:
            timeout: How long to wait: seconds, or a text such as `"30s"`. None waits until the job ends; after two
                seconds the logger `naq` says what the job waits for if no worker serves its queue.

        Raises:
            JobFailed: The job ended without success.
            JobNotFound: Its record has expired.
            WaitTimeout: It has not ended in time. It is not cancelled.
            RuntimeError: Called in an event loop, which it would block; use `await job.aresult()`.
        """
        _loop.refuse_in_async("job.result()", "job.aresult()")
        return self._result(self.outcome(timeout))

    async def aresult(self, timeout: Duration | None = None) -> R_co:
        """As :meth:`result`, for `asyncio`."""
        return self._result(await self.aoutcome(timeout))

    def outcome(self, timeout: Duration | None = None) -> Outcome:
        """Waits until the job has ended, and returns how, whether it succeeded or not.

        Raises:
            JobNotFound: Its record has expired.
            WaitTimeout: It has not ended in time.
        """
        _loop.refuse_in_async("job.outcome()", "job.aoutcome()")
        return Outcome(_loop.run(self._wait(timeout)))

    async def aoutcome(self, timeout: Duration | None = None) -> Outcome:
        """As :meth:`outcome`, for `asyncio`."""
        return Outcome(await _loop.arun(self._wait(timeout)))

    def status(self) -> dict[str, Any]:
        """The job's record as it is now; of a job that no worker has claimed only its state, queue and time."""
        return dict(_loop.run(self._backend.status(self.job_id, self.queue)))

    async def astatus(self) -> dict[str, Any]:
        """As :meth:`status`, for `asyncio`."""
        return dict(await _loop.arun(self._backend.status(self.job_id, self.queue)))

    @property
    def state(self) -> str:
        """The job's state now: `scheduled`, `queued`, `waiting`, `running`, `retrying`, or how it ended."""
        return str(self.status()["state"])

    def is_ended(self) -> bool:
        """Whether the job has ended, in any way."""
        return self.state in ENDED

    def cancel(self) -> bool:
        """Cancels the job: one that runs is stopped with all its processes.

        Returns:
            Whether the job was cancelled or is being stopped. False if it had ended.
        """
        return bool(_loop.run(self._backend.cancel(self.job_id, self.queue)) in ("cancelled", "requested"))

    async def acancel(self) -> bool:
        """As :meth:`cancel`, for `asyncio`."""
        done = await _loop.arun(self._backend.cancel(self.job_id, self.queue))
        return bool(done in ("cancelled", "requested"))

    def _result(self, outcome: Outcome) -> R_co:
        return self._decode(outcome.raise_unless_succeeded())

    async def _wait(self, timeout: Duration | None) -> dict[str, Any]:
        bound = None if timeout is None else _values.seconds(timeout, "timeout")
        return dict(await self._backend.wait(self.job_id, self.queue, bound))

    def __repr__(self) -> str:
        return f"<naq.Job {self.job_id} of queue {self.queue}>"


class Call(Generic[R_co]):
    """A command, a script or a function with its arguments and options, ready to be enqueued any number of times."""

    def __init__(
        self,
        app: App,
        what: Mapping[str, Any],
        options: Mapping[str, Any],
        decode: Callable[[Outcome], R_co],
        inline: Callable[[], Any] | None = None,
    ) -> None:
        _options.check(options)
        self._app = app
        self._what = dict(what)
        self._options = dict(options)
        self._decode = decode
        self._inline = inline

    def with_(self, **options: Unpack[Options]) -> Self:
        """The same with these options too."""
        return type(self)(self._app, self._what, {**self._options, **options}, self._decode, self._inline)

    def envelope(self) -> dict[str, Any]:
        """The envelope, as it is sent."""
        return {**self._what, **_options.envelope(self._options)}

    def enqueue(self, **options: Unpack[Options]) -> Job[R_co]:
        """Enqueues it, with these options too. Returns once NATS has stored the job.

        Raises:
            ConfigurationError: An option or a setting is wrong.
            JobConflict: Another job has the id.
            NaqConnectionError: NATS cannot be reached, or does not answer within some 15 seconds.
            StoreFull: NATS has no room.
        """
        job, run = self._prepare(options)
        _loop.run(run())
        return job

    async def aenqueue(self, **options: Unpack[Options]) -> Job[R_co]:
        """As :meth:`enqueue`, for `asyncio`."""
        job, run = self._prepare(options)
        await _loop.arun(run())
        return job

    def _prepare(self, options: Mapping[str, Any]) -> tuple[Job[R_co], Callable[[], Coroutine[Any, Any, None]]]:
        call = self.with_(**options) if options else self
        return call._app._start(call, call.envelope())

    def _request(self, envelope: dict[str, Any], default_queue: str) -> Request:
        place = _options.placement(self._options)
        return Request(
            queue=_override.queue(place.queue or default_queue),
            job_id=place.job_id or _values.new_id(),
            is_chosen=place.job_id is not None,
            envelope=envelope,
            at=place.at,
            delay=place.delay,
        )

    def __repr__(self) -> str:
        kind = next(iter(self._what))
        return f"<naq.Call of {kind} {self._what[kind]!r}>"


class JobFunction(Generic[P, C, R]):
    """A function that can be enqueued. Calling it runs it here, as without the decorator."""

    def __init__(self, app: App, function: Callable[P, C], options: Mapping[str, Any]) -> None:
        _options.check(options)
        self._app = app
        self._options = dict(options)
        self._signature = inspect.signature(function)
        self._decode = decoder(function)
        self.__wrapped__ = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Runs the function here and now."""
        return self.__wrapped__(*args, **kwargs)

    def __naq_call__(self, *args: Any, **kwargs: Any) -> C:
        """Runs the function in a worker: its arguments are JSON, and become what its annotations say."""
        bound = arguments(self.__wrapped__, list(args), kwargs)
        return self.__wrapped__(*bound.args, **bound.kwargs)

    def with_(self, **options: Unpack[Options]) -> JobFunction[P, C, R]:
        """The same function with these options too: `send.with_(delay="10m").delay("a@b.c")`."""
        return JobFunction(self._app, self.__wrapped__, {**self._options, **options})

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """The function with its arguments, for `enqueue_many`, `on_commit` and schedules."""
        # a wrong argument fails here, as it would in a plain call, and not in the worker
        self._signature.bind(*args, **kwargs)
        what = _function_fields(function_name(self.__wrapped__), args, kwargs)
        inline = functools.partial(self.__wrapped__, *args, **kwargs)
        return Call(self._app, what, self._options, lambda outcome: cast(R, self._decode(outcome.result)), inline)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueues a call of the function.

        Raises:
            TypeError: The arguments do not fit the function.
            SerializationError: JSON cannot hold an argument; the text has its path.
        """
        return self.bind(*args, **kwargs).enqueue()

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """As :meth:`delay`, for `asyncio`."""
        return await self.bind(*args, **kwargs).aenqueue()

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        if instance is not None:
            raise TypeError(f"`{self.__wrapped__.__qualname__}` is a method; only functions of a module can be jobs")
        return self

    def __repr__(self) -> str:
        return f"<naq.JobFunction {self.__wrapped__.__module__}:{self.__wrapped__.__qualname__}>"


def function_name(function: Callable[..., Any]) -> str:
    """`module:name` of a function that a worker can import.

    Raises:
        ConfigurationError: It is a lambda, a method, defined in another function, or in the main program.
    """
    function = getattr(function, "__wrapped__", function)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name:
        raise ConfigurationError(f"{function!r} is not a function of a module; name it as 'module:name'")
    if name == "<lambda>" or "." in name:
        raise ConfigurationError(
            f"`{name}` of {module} is not a function at the top level of a module, so no worker can import it"
        )
    if module == "__main__":
        raise ConfigurationError(
            f"`{name}` is defined in the main program, which no worker can import; move it to a module"
        )
    return f"{module}:{name}"


def _function_fields(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"function": name, "runner": "python"}
    if args:
        fields["args"] = to_json(args, "args")
    if kwargs:
        fields["kwargs"] = to_json(kwargs, "kwargs")
    return fields


def named_call(app: App, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call[Any]:
    """A call of a function that this program need not have."""
    module, colon, function = name.partition(":")
    if not (module and colon and function) or "\0" in name:
        raise ConfigurationError(f"{name!r} does not name a function; write 'module:name'")
    return Call(app, _function_fields(name, args, kwargs), {}, lambda outcome: outcome.result)
