"""The application's connection to naq: where jobs are declared and enqueued."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from . import _loop, _override, _settings, _values
from ._backend import NatsBackend
from ._job_socket import JobSocketBackend
from ._json import to_json
from ._options import check, text_option
from ._values import Duration
from .errors import BatchFailed, ConfigurationError
from .jobs import Call, Job, JobFunction, function_name, named_call
from .outcome import Outcome
from .schedules import Schedule, definition

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ._options import Options

P = ParamSpec("P")
R = TypeVar("R")

# how many jobs of `enqueue_many` are on their way at once
_IN_FLIGHT_MAX = 256


class App:
    """Enqueues jobs and waits for them, from synchronous and `asyncio` code alike.

    Without arguments it connects as the program `naq` does: by `NAQ_*` variables, by `naq.toml`, to the server of
    `naq dev`, or inside a job through the job's worker. It connects when it is first used, reconnects by itself, and
    may be used from any thread and any event loop, also after a fork.

        app = naq.App()
        job = app.command("./report.sh", "--all", timeout="5m").enqueue()
        print(job.result(timeout="10m").text)

    Args:
        url: Address of NATS, such as `nats://127.0.0.1:4222`; several are separated by commas.
        queue: The queue of jobs that name none. By default `NAQ_DEFAULT_QUEUE`, else `default`.
        prefix: The prefix of all subjects and streams.
        token: Authentication token.
        user: User name; needs a password.
        password: Password.
        creds: Path of a credentials file.
        nkey: Path of a file with an NKey seed.
        tls_ca: Path of the CA certificates to trust.
        tls_cert: Path of a client certificate; needs a key.
        tls_key: Path of its private key.
        connect_timeout: Time limit of the first connection.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        queue: str | None = None,
        prefix: str | None = None,
        token: str | None = None,
        user: str | None = None,
        password: str | None = None,
        creds: str | os.PathLike[str] | None = None,
        nkey: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        connect_timeout: Duration | None = None,
    ) -> None:
        paths = {"creds": creds, "nkey": nkey, "tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
        self._arguments: dict[str, Any] = {
            "nats_url": url,
            "default_queue": None if queue is None else _values.queue_name(queue),
            "prefix": prefix,
            "token": token,
            "user": user,
            "password": password,
            "connect_timeout": connect_timeout,
            **{name: None if path is None else os.fspath(path) for name, path in paths.items()},
        }
        self._lock = threading.Lock()
        self._backends: dict[_settings.Settings, NatsBackend | JobSocketBackend] = {}
        self._settings: _settings.Settings | None = None
        _loop.watch(self)

    # -- declare

    @overload
    def job(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> JobFunction[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def job(self, function: Callable[P, R], /) -> JobFunction[P, R, R]: ...
    @overload
    def job(self, /, **options: Unpack[Options]) -> _Decorator: ...

    def job(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Makes a function a job: `@app.job` or `@app.job(queue="mail", retries=3, timeout="5m")`.

        `f(...)` still calls it here; `f.delay(...)` enqueues a call, and `await f.adelay(...)` does so in `asyncio`.
        Type checkers know the arguments and the result of both.
        """
        if function is None:
            return _Decorator(self, options)
        if not callable(function):
            raise TypeError(f"`job` decorates a function, not {function!r}; options have names: @app.job(queue=…)")
        return JobFunction(self, function, options)

    def command(self, program: str | os.PathLike[str], *args: Any, **options: Unpack[Options]) -> Call[Outcome]:
        """Any program as a job: `app.command("./backup.sh", "--all").enqueue()`.

        Args:
            program: A path, relative to `cwd` on the worker, or a name that the worker looks up in its PATH.
            *args: Texts, numbers, booleans and paths.
            **options: See :class:`naq.Options`.
        """
        fields: dict[str, Any] = {"command": text_option(program, "command")}
        return self._program(fields, args, options)

    def script(self, source: str, *args: Any, **options: Unpack[Options]) -> Call[Outcome]:
        """A script's source as a job. Its `#!` line names the interpreter; without one it is `sh`."""
        return self._program({"script": text_option(source, "script")}, args, options)

    def _program(self, fields: dict[str, Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> Call[Outcome]:
        if args:
            fields["args"] = [_argument(arg, index) for index, arg in enumerate(args)]
        return Call(self, fields, options, lambda outcome: outcome)

    # -- enqueue

    def enqueue(self, what: Any, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Enqueues a function with its arguments: `app.enqueue("tasks:count_words", "some text", min=3)`.

        Args:
            what: `"module:name"`, a function at the top level of a module, or what `command()`, `script()` or
                `bind()` made (then without further arguments).
            *args: The function's arguments.
            **kwargs: The function's named arguments. Options of the job are set by `@app.job` and `with_`.
        """
        return self.call(what, *args, **kwargs).enqueue()

    async def aenqueue(self, what: Any, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """As :meth:`enqueue`, for `asyncio`."""
        return await self.call(what, *args, **kwargs).aenqueue()

    def call(self, what: Any, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """What :meth:`enqueue` enqueues, for options: `app.call("tasks:f", 1).with_(delay="10m").enqueue()`."""
        if isinstance(what, Call):
            if args or kwargs:
                raise TypeError(f"{what!r} has its arguments already; options are set by `with_`")
            return what
        if isinstance(what, JobFunction):
            return what.bind(*args, **kwargs)
        if isinstance(what, str):
            return named_call(self, what, args, kwargs)
        if callable(what):
            function_name(what)
            return JobFunction(self, what, {}).bind(*args, **kwargs)
        raise TypeError(f"{what!r} is neither a function nor 'module:name' nor a call; programs: app.command(…)")

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Enqueues many jobs at once, some thousands in a second. All are checked before the first is sent.

        Raises:
            BatchFailed: Some were not enqueued. It has the jobs that were, and the errors of the others.
        """
        jobs, run = self._prepare_many(calls)
        _loop.run(run)
        return jobs

    async def aenqueue_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """As :meth:`enqueue_many`, for `asyncio`."""
        jobs, run = self._prepare_many(calls)
        await _loop.arun(run)
        return jobs

    def _prepare_many(self, calls: Iterable[Call[R]]) -> tuple[list[Job[R]], Coroutine[Any, Any, None]]:
        started = [call._app._start(call, call.envelope()) for call in calls]
        jobs = [job for job, _ in started]

        async def enqueue_all() -> None:
            room = asyncio.Semaphore(_IN_FLIGHT_MAX)

            async def enqueue_one(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
                async with room:
                    await run()

            done = await asyncio.gather(*(enqueue_one(run) for _, run in started), return_exceptions=True)
            errors = {index: error for index, error in enumerate(done) if error is not None}
            if errors:
                enqueued = [None if index in errors else job for index, job in enumerate(jobs)]
                raise BatchFailed(enqueued, errors)

        return jobs, enqueue_all()

    def _start(self, call: Call[R], envelope: dict[str, Any]) -> tuple[Job[R], Callable[[], Coroutine[Any, Any, None]]]:
        """A job, and what enqueues it. Nothing is sent yet."""
        inline = _override.inline()
        if inline is not None:
            return inline.start(call, envelope)
        backend = self._backend()
        request = call._request(envelope, backend.settings.queue)
        job = Job(backend, request.job_id, request.queue, call._decode, envelope)
        return job, functools.partial(backend.enqueue, request)

    # -- read

    def fetch(self, job_id: str) -> Job[Outcome]:
        """A job by its id, such as one that another program has enqueued. Reads nothing yet."""
        if not isinstance(job_id, str):
            raise TypeError(f"{job_id!r} is not the id of a job")
        return Job(self._backend(), job_id, None, lambda outcome: outcome)

    def workers(self) -> list[dict[str, Any]]:
        """The heartbeat of each worker that runs: name, queues, state, jobs. `schemas/worker.v1.json` describes it."""
        return list(_loop.run(self._backend().workers()))

    async def aworkers(self) -> list[dict[str, Any]]:
        """As :meth:`workers`, for `asyncio`."""
        return list(await _loop.arun(self._backend().workers()))

    # -- schedules

    def schedule(
        self,
        call: Call[Any],
        name: str | None = None,
        *,
        cron: str | None = None,
        tz: str | None = None,
        every: Duration | None = None,
        repeat: int | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        overlap: str | None = None,
        misfire: str | None = None,
        replace: bool = False,
    ) -> Schedule:
        """Stores a schedule, which enqueues the call again and again. `naq scheduler` or `naq dev` has to run.

        Args:
            call: What to enqueue: `app.command(…)`, `f.bind(…)`.
            name: Its name; by default a new one.
            cron: A cron expression, such as `"30 2 * * *"`, in the zone `tz`.
            tz: An IANA time zone; by default UTC.
            every: An interval instead of a cron expression.
            repeat: The total number of jobs. None means no end.
            start: No job before this time.
            end: No job after this time.
            overlap: `allow`, `skip`, `queue` or `replace`: what to do while the job before has not ended.
            misfire: `skip`, `once` or `all`: what to do with times that no scheduler saw.
            replace: Replace a schedule of this name. Otherwise one that exists is a :class:`JobConflict`.
        """
        schedule, run = self._prepare_schedule(
            call, name, replace, cron=cron, tz=tz, every=every, repeat=repeat, start=start, end=end,
            overlap=overlap, misfire=misfire,
        )  # fmt: skip
        _loop.run(run)
        return schedule

    async def aschedule(
        self, call: Call[Any], name: str | None = None, *, replace: bool = False, **options: Any
    ) -> Schedule:
        """As :meth:`schedule`, for `asyncio`."""
        schedule, run = self._prepare_schedule(call, name, replace, **options)
        await _loop.arun(run)
        return schedule

    def _prepare_schedule(
        self, call: Call[Any], name: str | None, replace: bool, **options: Any
    ) -> tuple[Schedule, Coroutine[Any, Any, None]]:
        backend: Any = self._backend()
        name = _values.schedule_name(name or _values.new_id())
        fields = definition(name, call, backend.settings.queue, options)

        async def store() -> None:
            fields["created_at"] = _values.rfc3339(await backend.now())
            await backend.put_schedule(fields, replace=replace)

        return Schedule(backend, name), store()

    def fetch_schedule(self, name: str) -> Schedule:
        """A schedule by its name. Reads nothing yet."""
        return Schedule(self._backend(), _values.schedule_name(name))

    # -- the connection

    def connect(self) -> None:
        """Connects now instead of at the first use, so that wrong settings show at the start of a program."""
        _loop.run(self._backend().connect())

    async def aconnect(self) -> None:
        """As :meth:`connect`, for `asyncio`."""
        await _loop.arun(self._backend().connect())

    def close(self) -> None:
        """Closes the connection. A later use opens it again."""
        with self._lock:
            backends = list(self._backends.values())
            self._backends = {}
            self._settings = None
        for backend in backends:
            with contextlib.suppress(Exception):
                _loop.submit(backend.close()).result(3)

    async def aclose(self) -> None:
        """As :meth:`close`, for `asyncio`."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.aconnect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _backend(self) -> Any:
        with self._lock:
            settings = _override.settings()
            if settings is None:
                if self._settings is None:
                    self._settings = _settings.load(self._arguments)
                settings = self._settings
            backend = self._backends.get(settings)
            if backend is None:
                kind = NatsBackend if settings.job_socket is None else JobSocketBackend
                backend = self._backends[settings] = kind(settings)
            return backend

    def _forget_connections(self) -> None:
        # in the child of a fork: the parent continues to use them
        self._lock = threading.Lock()
        self._backends = {}
        self._settings = None

    def __repr__(self) -> str:
        shown = self._arguments["nats_url"] or "as `naq` connects"
        return f"<naq.App {shown}>"


class _Decorator:
    """`@app.job(…)`."""

    def __init__(self, app: App, options: Mapping[str, Any]) -> None:
        check(options)
        self._app = app
        self._options = options

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> JobFunction[P, Coroutine[Any, Any, R], R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> JobFunction[P, R, R]: ...

    def __call__(self, function: Callable[..., Any]) -> Any:
        return JobFunction(self._app, function, self._options)


def _argument(value: Any, index: int) -> str | int | float | bool:
    where = f"args[{index}]"
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if type(value) in (int, float, bool, str):
        if isinstance(value, str) and "\0" in value:
            raise ConfigurationError(f"{where}: the text has a NUL, which no process can receive")
        return to_json(value, where)  # type: ignore[no-any-return]
    raise ConfigurationError(
        f"{where}: an argument of a program is a text, a number, a boolean or a path, not a {type(value).__name__};"
        " pass other values as input=…, which the program reads as JSON from its standard input"
    )
