"""naq's shim for Python: calls one function for one job. The standard library only; Python 3.9 and newer.

`runners/README.md` describes the contract: the call is JSON in the file `$NAQ_CALL_FILE`, the result and the error
go to the control channel, and stdin, stdout and stderr are the job's.
"""

import json
import os
import signal
import sys

RETRY_EXIT_CODE = 75
# what a line of the control channel may have, unless the worker says otherwise; longer lines are dropped
LINE_MAX = 256 * 1024
# as in an envelope
DEPTH_MAX = 64
MESSAGE_MAX = 4000
TRACE_MAX = 32000

# the process that runs the job: a child that it forks must not report in its place
_job_pid = None
# a duplicate of descriptor 3, which the job does not close by mistake
_control = 3
# `fflush` of the C library, in a warm process
_flush_c = None
# what cancels the coroutine that runs, and whether that was requested
_cancel_coroutine = None
_is_cancelled = False
# how what a call names is found: by another runner than `python`, another way
_find = None


class Retry(Exception):
    """Ends the job with the exit code that means "try again".

    Args:
        message: Why.
        after: The wait before the next attempt: seconds, a text such as "30s", or a timedelta.
    """

    def __init__(self, message="", after=None):
        super().__init__(message)
        self.after = after


class Fatal(Exception):
    """Fails the job, and no attempt follows."""


class Cancelled(BaseException):
    """The job is being stopped: its time is over, it was cancelled, or its worker stops."""


class NotFound(Exception):
    """The module or the function does not exist."""


class SerializationError(Exception):
    """JSON cannot hold the result."""


for _class in (Retry, Fatal, Cancelled):
    _class.__module__ = "naq"


# --- the module `naq`, if the client is not installed ---


class _FallbackFinder:
    """Offers a small `naq` after all other finders: the client is used where it is installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in ("naq", "naq.current"):
            return None
        from importlib.machinery import ModuleSpec

        # where the client is installed, what it lacks is an ImportError as anywhere
        if name == "naq.current" and not isinstance(sys.modules["naq"].__spec__.loader, _FallbackLoader):
            return None
        return ModuleSpec(name, _FallbackLoader(), is_package=name == "naq")


class _FallbackLoader:
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if module.__name__ == "naq":
            module.__doc__ = "What a job of naq needs. The client `naq-client` has this and more."
            module.Retry, module.Fatal, module.Cancelled = Retry, Fatal, Cancelled
            import importlib

            module.current = importlib.import_module("naq.current")
            return

        def is_active():
            """Whether this process runs a job of naq."""
            return "NAQ_JOB_ID" in os.environ

        def job_id():
            """The job's id."""
            return os.environ["NAQ_JOB_ID"]

        def attempt():
            """The number of this attempt. 1 is the first."""
            return int(os.environ["NAQ_ATTEMPT"])

        def progress(percent, message=None):
            """Reports how far the job is, from 0 to 100."""
            line = {"progress": percent}
            if message is not None:
                line["message"] = message
            _report(line, "progress")

        def checkpoint(value):
            """Stores a value for the next attempt."""
            _report({"checkpoint": value}, "checkpoint")

        def last_checkpoint(default=None):
            """The checkpoint of the attempt before, or the default."""
            path = os.environ.get("NAQ_CHECKPOINT_FILE")
            if not path:
                return default
            try:
                with open(path, "rb") as file:
                    return json.loads(file.read())
            except FileNotFoundError:
                return default

        for function in (is_active, job_id, attempt, progress, checkpoint, last_checkpoint):
            function.__module__ = "naq.current"
            setattr(module, function.__name__, function)


def _report(line, what):
    if "NAQ_CONTROL_FD" not in os.environ:
        return
    data = dumps(to_json(line, what))
    if len(data) > line_max():
        raise SerializationError(f"{what}: {len(data)} bytes of JSON, and at most {line_max()} are kept; use a file")
    write_control(data)


# --- values ---


def to_json(value, path, depth=1):
    """The value as what `json` writes unchanged. What JSON cannot hold is an error with its path."""
    if depth > DEPTH_MAX:
        raise SerializationError(f"{path}: more than {DEPTH_MAX} levels of nesting, or a reference to itself")
    # exact types: a subclass, such as an enum, would arrive as something else
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return _text(value, path)
    if kind is int:
        if value.bit_length() > 1024:
            raise SerializationError(f"{path}: JSON cannot hold an int of {value.bit_length()} bits; return a str")
        return value
    if kind is float:
        if value != value or value in (float("inf"), float("-inf")):
            raise SerializationError(f"{path}: JSON cannot hold the number {value}")
        return value
    if kind is list or kind is tuple:
        return [to_json(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return _object(value, path, depth)
    if not isinstance(value, type):
        if hasattr(kind, "__dataclass_fields__"):
            return _object({name: getattr(value, name) for name in kind.__dataclass_fields__}, path, depth)
        if hasattr(kind, "model_dump"):  # a pydantic model
            return to_json(value.model_dump(mode="json"), path, depth)
        from collections.abc import Mapping

        if isinstance(value, Mapping):
            return _object(value, path, depth)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = _HINTS.get(kind.__name__)
    if hint is None and isinstance(value, (str, int, float)):
        hint = "return its `.value`" if hasattr(value, "value") else "return a plain str, int or float"
    raise SerializationError(f"{path}: JSON cannot hold a {name}" + (f"; {hint}" if hint else ""))


_HINTS = {
    "datetime": "return its `.isoformat()`",
    "date": "return its `.isoformat()`",
    "time": "return its `.isoformat()`",
    "timedelta": "return its `.total_seconds()`",
    "Decimal": "return a str",
    "UUID": "return a str",
    "set": "return a list",
    "frozenset": "return a list",
    "bytes": "return a str, for example of base64",
    "bytearray": "return a str, for example of base64",
    "generator": "return a list",
    "async_generator": "return a list",
}


def _object(value, path, depth):
    converted = {}
    for key, item in value.items():
        if type(key) is not str:
            raise SerializationError(f"{path}: the key {key!r} is a {type(key).__name__}; keys in JSON are str")
        inner = f"{path}.{key}" if key.isidentifier() else f"{path}[{key!r}]"
        converted[_text(key, f"a key of {path}")] = to_json(item, inner, depth + 1)
    return converted


def _text(value, path):
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SerializationError(f"{path}: the text has a lone surrogate, so it is not valid Unicode") from None
    return value


def dumps(value):
    """One line of the control channel."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


# --- the control channel ---


def line_max():
    return int(os.environ.get("NAQ_CONTROL_LINE_MAX") or LINE_MAX)


def write_control(data):
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(_control, view) :]
        except BlockingIOError:
            import select

            select.select([], [_control], [])
        except OSError:
            # the worker has gone
            return


def open_control():
    global _control
    # once in a process that runs one job after another
    if _control == 3:
        import fcntl

        _control = fcntl.fcntl(3, fcntl.F_DUPFD_CLOEXEC, 5)


def write_result(value):
    data = dumps({"result": to_json(value, "result")})
    if len(data) > line_max():
        raise SerializationError(
            f"result: {len(data)} bytes of JSON, and at most {line_max()} are kept; write it to stdout or to a file"
        )
    write_control(data)


def write_error(kind, message, trace, retry=None):
    size, message, trace = TRACE_MAX, valid(message), valid(trace)
    while True:
        error = {"type": kind, "message": shortened(message, min(size, MESSAGE_MAX)), "trace": shortened(trace, size)}
        if retry is not None:
            error["retry"] = retry
        data = dumps({"error": error})
        if len(data) <= line_max() or size < 16:
            break
        size //= 2
    write_control(data)


def valid(text):
    return text.encode("utf-8", "replace").decode("utf-8")


def shortened(text, size):
    """A text of at most about this many characters, half of them from its beginning, half from its end."""
    if len(text) <= size:
        return text
    half = size // 2
    return f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"


# --- the function ---


def set_import_path(module_path, without=()):
    """The module path, then the working directory, then what Python has. The folder of this file is removed."""
    without = {os.path.dirname(os.path.abspath(__file__)), *without}
    # what PYTHONPATH adds of the module path must not be in it twice
    first = list(dict.fromkeys([os.path.abspath(folder) for folder in module_path] + [os.getcwd()]))
    rest = [entry for entry in sys.path if entry and entry not in first and os.path.abspath(entry) not in without]
    sys.path[:] = first + rest


def find_function(call, module_path):
    module_name, _, name = call.rpartition(":")
    if not module_name or not name:
        raise NotFound(f"`{call}` is not `module:function` or `file.py:function`")
    if module_name.endswith(".py") or "/" in module_name:
        module = load_file(module_name, module_path)
    else:
        module = load_module(module_name)
    function = module
    for part in name.split("."):
        try:
            function = getattr(function, part)
        except AttributeError:
            where = getattr(module, "__file__", None) or "a built-in module"
            raise NotFound(f"module `{module_name}` has no function `{name}` ({where})") from None
    if not callable(function):
        raise NotFound(f"`{call}` is a {type(function).__name__} and not a function")
    return function


def load_module(name):
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # a module that the job's module imports is another matter: that error stays as it is
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise NotFound(f"no module `{name}` in {', '.join(sys.path) or 'an empty sys.path'}") from None
        raise


def load_file(name, module_path):
    from importlib import util

    places = [os.path.abspath(os.path.join(folder, name)) for folder in [*module_path, os.getcwd()]]
    path = next((place for place in places if os.path.isfile(place)), None)
    if path is None:
        raise NotFound(f"no file {' or '.join(dict.fromkeys(places))}")
    module_name = os.path.splitext(os.path.basename(path))[0]
    if getattr(sys.modules.get(module_name), "__file__", None) == path:  # preloaded
        return sys.modules[module_name]
    spec = util.spec_from_file_location(module_name, path)
    if spec is None:
        raise NotFound(f"{path} is not a file of Python: its name does not end in .py")
    module = util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


# --- what Celery and RQ have by a name of their own: the runners `celery` and `rq` ---


def find_celery_task(call, module_path):
    """A task of Celery: `proj.celery:proj.tasks.send`, the app as `celery --app` has it, then the task's name."""
    app_name, _, name = call.rpartition(":")
    if not app_name or not name:
        raise NotFound(f"`{call}` is not `app:task`, such as `proj.celery:proj.tasks.send`")
    load_module(app_name.partition(":")[0])
    from celery import _state, exceptions
    from celery.app.trace import task_has_custom
    from celery.app.utils import find_app

    try:
        app = find_app(app_name)
    except AttributeError:
        raise NotFound(f"`{app_name}` has no app of Celery") from None
    # as Celery's worker does, so that shared tasks and those of configured modules are there
    app.set_default()
    app.loader.import_default_modules()
    app.finalize()
    task = app.tasks.get(name)
    if task is None:
        known = ", ".join(sorted(known for known in app.tasks if not known.startswith("celery.")))
        raise NotFound(f"the app `{app_name}` has no task `{name}`; it has {known or 'none'}")

    # as Celery's worker chooses
    function = task if task_has_custom(task, "__call__") else task.run

    def run_task(*args, **kwargs):
        # for `self.request`; as an eager one, `self.retry` raises and sends nothing to a broker
        request = {"id": os.environ.get("NAQ_JOB_ID"), "retries": int(os.environ.get("NAQ_ATTEMPT") or 1) - 1}
        _state._task_stack.push(task)
        task.push_request(args=args, kwargs=kwargs, called_directly=False, is_eager=True, **request)
        try:
            return function(*args, **kwargs)
        except exceptions.Retry as error:
            raise Retry(str(error), after=celery_wait(app, error.when)) from without_shim(error)
        except exceptions.Reject as error:
            raise (Retry if error.requeue else Fatal)(str(error.reason)) from without_shim(error)
        except exceptions.Ignore:
            return None
        finally:
            task.pop_request()
            _state._task_stack.pop()

    return run_task


def without_shim(error):
    """The error without the frame of this file, which says nothing to its author."""
    return error.with_traceback(error.__traceback__.tb_next)


def celery_wait(app, when):
    """The seconds until a time of Celery: a number of seconds, a time, or None."""
    if hasattr(when, "utcoffset"):
        from celery.utils.time import maybe_make_aware

        when = (maybe_make_aware(when, app.timezone) - app.now()).total_seconds()
    return when if when is None else max(when, 0)


def find_rq_function(call, module_path):
    """A function as RQ names it: `tasks.count_words`, or `package.module.Class.method`."""
    function = find_function(call if ":" in call else split_dotted(call), module_path)
    from rq import Retry as RqRetry
    from rq.job import Job

    class NaqJob(Job):
        """What `get_current_job()` returns. `meta` is the job's checkpoint."""

        def save_meta(self):
            import naq

            naq.current.checkpoint(self.meta)

    def run_rq_function(*args, **kwargs):
        import naq

        about = {"id": os.environ.get("NAQ_JOB_ID"), "meta": naq.current.last_checkpoint({})}
        value = NaqJob.create(function, args, kwargs, connection=NoRedis(), **about).perform()
        if not isinstance(value, RqRetry):
            return value
        waits = value.intervals or [0]
        attempt = min(int(os.environ.get("NAQ_ATTEMPT") or 1), len(waits))
        raise Retry("the function returned rq.Retry", after=waits[attempt - 1])

    return run_rq_function


class NoRedis:
    """The connection of RQ's job, which is in no Redis."""

    def persist(self, key):
        """What `perform` of RQ before 3.0 does first."""

    def __getattr__(self, name):
        raise RuntimeError(f"`{name}` needs Redis, and on naq a job of RQ has `id`, `args`, `meta` and `save_meta()` only")


def split_dotted(name):
    """`package.module:Class.method` for `package.module.Class.method`."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            load_module(".".join(parts[:count]))
        except NotFound:
            continue
        return f"{'.'.join(parts[:count])}:{'.'.join(parts[count:])}"
    raise NotFound(f"no module for `{name}` in {', '.join(sys.path) or 'an empty sys.path'}")


_FINDERS = {"celery": find_celery_task, "rq": find_rq_function}


def finder():
    """How the runner finds what a call names."""
    return next((_FINDERS[word] for word in sys.argv[1:] if word in _FINDERS), find_function)


def call_function(function, args, kwargs):
    # a function of the client converts its arguments by its annotations
    value = getattr(function, "__naq_call__", function)(*args, **kwargs)
    return run_coroutine(value) if hasattr(type(value), "__await__") else value


def run_coroutine(awaitable):
    import asyncio

    async def run():
        global _cancel_coroutine
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        _cancel_coroutine = lambda: loop.call_soon_threadsafe(task.cancel)  # noqa: E731
        try:
            return await awaitable
        except asyncio.CancelledError:
            if _is_cancelled:
                raise cancelled_class()("TERM was received") from None
            raise
        finally:
            _cancel_coroutine = None

    return asyncio.run(run())


def cancelled_class():
    """`naq.Cancelled`, of the client if the job has imported that."""
    found = getattr(sys.modules.get("naq"), "Cancelled", None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else Cancelled


def on_term(number, frame):
    global _is_cancelled
    if os.getpid() != _job_pid:
        die_of_term()
    if _cancel_coroutine is not None and not _is_cancelled:
        _is_cancelled = True
        _cancel_coroutine()
        return
    _is_cancelled = True
    raise cancelled_class()("TERM was received")


def die_of_term():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def is_naq_class(error, name):
    """Whether this is `naq.Retry` or `naq.Fatal`, or a subclass: of this file or of the client."""
    return any(c.__name__ == name and c.__module__.partition(".")[0] == "naq" for c in type(error).__mro__)


def run_call(call):
    """Calls the function of a job and reports its result or its error.

    Returns the exit code; -15 means that TERM ends this process. SystemExit is raised to the caller.
    """
    global _job_pid, _is_cancelled
    _job_pid, _is_cancelled = os.getpid(), False
    open_control()
    signal.signal(signal.SIGTERM, on_term)
    try:
        module_path = call.get("module_path") or []
        function = _find(call["call"], module_path)
        value = call_function(function, call.get("args") or [], call.get("kwargs") or {})
        if os.getpid() != _job_pid:
            # a child that the function forked and that returned from it
            flush()
            os._exit(0)
        flush()
        write_result(value)
        return 0
    except SystemExit as error:
        if os.getpid() != _job_pid:
            # a child that the function forked: it must not go back into the loop of a process that is reused
            flush()
            os._exit(exit_code_of(error))
        if error.code not in (None, 0, RETRY_EXIT_CODE):
            write_error("SystemExit", str(error.code), format_trace(error))
        raise
    except BaseException as error:
        return report_error(error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def report_error(error):
    trace = format_trace(error)
    flush()
    print_trace(trace)
    if os.getpid() != _job_pid:
        os._exit(1)
    kind = type(error)
    try:
        message = str(error)
    except Exception as problem:
        message = f"its text cannot be made: {problem!r}"
    if kind in (NotFound, SerializationError):
        write_error(kind.__name__, message, trace, retry=False)
        return 1
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if getattr(sys.modules.get("naq"), kind.__name__, None) is kind:
        # not the module of the client in which it is defined
        name = f"naq.{kind.__name__}"
    if is_naq_class(error, "Retry"):
        write_retry_after(getattr(error, "after", None))
        write_error(name, message, trace)
        return RETRY_EXIT_CODE
    write_error(name, message, trace, retry=False if is_naq_class(error, "Fatal") else None)
    return -signal.SIGTERM if isinstance(error, cancelled_class()) and _is_cancelled else 1


def write_retry_after(after):
    if after is None:
        return
    if hasattr(after, "total_seconds"):
        after = after.total_seconds()
    if type(after) in (int, float, str):
        write_control(dumps({"retry_after": after}))
    else:
        print_trace(f"naq: Retry: after={after!r} is not a number of seconds, a text such as '30s' or a timedelta\n")


_BEFORE = ("run_call", "call_function", "run_coroutine", "run", "find_function", "load_module", "load_file")
_BEFORE += ("find_celery_task", "run_task", "find_rq_function", "run_rq_function", "split_dotted")
_IMPORTLIB = os.path.join("importlib", "__init__.py")


def format_trace(error):
    import traceback

    # frames before the function, of this file, of importlib and of asyncio, say nothing to its author
    trace = at = error.__traceback__
    while at is not None:
        code = at.tb_frame.f_code
        is_importlib = code.co_filename.startswith("<frozen importlib") or code.co_filename.endswith(_IMPORTLIB)
        if (code.co_filename == __file__ and code.co_name in _BEFORE) or (is_importlib and trace is at):
            trace = at.tb_next
        at = at.tb_next
    try:
        report = traceback.TracebackException(type(error), error, trace)
        # the signal's handler is not where the function was
        frames = [frame for frame in report.stack if (frame.filename, frame.name) != (__file__, "on_term")]
        report.stack = traceback.StackSummary.from_list(frames)
        return "".join(report.format())
    except Exception as problem:
        return f"{type(error).__name__}: its traceback cannot be made: {problem!r}\n"


def print_trace(text):
    try:
        sys.stderr.write(valid(text))
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        # the job closed or replaced its stderr
        pass


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass


def exit_code_of(error):
    """The exit code of a SystemExit, as Python makes it."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print_trace(f"{error.code}\n")
    return 1


def finish(status):
    """Ends this process as Python would at the end of a program, without what belongs to its parent."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()  # waits for threads that are no daemons
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:
        print_trace(format_trace(error))
    flush()
    if _flush_c is not None:
        # what C libraries have printed: `_exit` does not write it
        _flush_c(None)
    if status == -signal.SIGTERM:
        die_of_term()
    os._exit(status)


# --- the warm protocol ---

WARM_FD = 4
FRAME_MAX = 16 * 1024 * 1024


class Worker:
    """The worker's end of the socket: frames are a length of 4 bytes and a JSON object."""

    def __init__(self):
        import socket

        self.socket = socket.socket(fileno=int(os.environ["NAQ_WARM_FD"]))
        # inherited by no program that a preload starts
        self.socket.set_inheritable(False)
        self.buffer = bytearray()
        # descriptors come with the first byte of a frame `job`, and no other frame has any
        self.descriptors = []

    def send(self, **frame):
        data = json.dumps(frame).encode()
        self.socket.sendall(len(data).to_bytes(4, "big") + data)

    def receive(self):
        """Reads what has arrived, or waits for it. Returns the complete frames; None if the worker has gone."""
        import socket

        data, descriptors, flags, _ = socket.recv_fds(self.socket, 65536, 16, socket.MSG_CMSG_CLOEXEC)
        self.descriptors += descriptors
        if not data:
            return None
        if flags & socket.MSG_CTRUNC:
            raise OSError("descriptors were lost: this process may open no more")
        self.buffer += data
        frames = []
        while len(self.buffer) >= 4:
            size = int.from_bytes(self.buffer[:4], "big")
            if size > FRAME_MAX:
                raise ValueError(f"a frame of {size} bytes")
            if len(self.buffer) < 4 + size:
                break
            frames.append(json.loads(bytes(self.buffer[4 : 4 + size])))
            del self.buffer[: 4 + size]
        return frames

    def take_descriptors(self):
        taken, self.descriptors = self.descriptors[:4], self.descriptors[4:]
        return taken


def rss():
    """Memory of this process in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def count_threads():
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        import threading

        return threading.active_count()


def has_cuda():
    try:
        with open("/proc/self/maps", "rb") as file:
            return b"libcuda." in file.read()
    except OSError:
        return False


def loaded_files(folders):
    """Files of the modules that come from these folders: if one of them changes, this process is out of date."""
    prefixes = tuple(folder.rstrip("/") + "/" for folder in folders)
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(file for file in files if isinstance(file, str) and file.startswith(prefixes))[:1000]


def warm():
    global _flush_c
    worker = Worker()
    # 0 to 3 stay taken, so that no descriptor of this file is one of them
    for descriptor in range(4):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    module_path = [folder for folder in os.environ.get("NAQ_MODULE_PATH", "").split(":") if folder]
    mode = os.environ.get("NAQ_WARM_MODE", "fork")
    set_import_path(module_path)
    sys.meta_path.append(_FallbackFinder)
    # what a preload prints is no job's
    pipes = hide_pipes() if mode == "reuse" else []
    try:
        for name in json.loads(os.environ.get("NAQ_PRELOAD") or "[]"):
            if name.endswith(".py") or "/" in name:
                load_file(name, module_path)
            else:
                load_module(name)
    except BaseException as error:
        trace = format_trace(error)
        print_trace(trace)
        kind = type(error).__name__
        worker.send(t="broken", error={"type": kind, "message": valid(str(error)), "trace": shortened(valid(trace), TRACE_MAX)})
        os._exit(1)
    try:
        import ctypes

        _flush_c = ctypes.CDLL(None).fflush
        _flush_c(None)
    except (ImportError, OSError, AttributeError):
        # a Python without ctypes
        pass
    flush()
    show_pipes(pipes)
    load_what_children_need()
    threads, cuda = count_threads(), has_cuda()
    is_forkable = threads == 1 and not cuda and sys.platform != "darwin"
    import gc

    # what is loaded stays shared with the children: the collector does not write to it
    gc.collect()
    gc.freeze()
    worker.send(
        t="hello",
        protocol=1,
        pid=os.getpid(),
        version=".".join(map(str, sys.version_info[:3])),
        modes=["fork", "standby", "reuse"] if is_forkable else ["standby", "reuse"],
        threads=threads,
        cuda=cuda,
        rss=rss(),
        files=loaded_files(module_path + [os.getcwd()]),
    )
    if mode == "fork":
        Zygote(worker).run()
    elif mode == "reuse":
        Reused(worker, module_path).run()
    else:
        standby(worker)
    os._exit(0)


def hide_pipes():
    """Lets what this process prints go nowhere, until `show_pipes`. Returns what that needs."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    for descriptor, _ in kept:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return kept


def show_pipes(kept):
    for descriptor, copy in kept:
        os.dup2(copy, descriptor)
        os.close(copy)


def load_what_children_need():
    """Loads the modules that each job uses, here and once. A job that loads one searches all folders for it."""
    import atexit  # noqa: F401
    import fcntl  # noqa: F401
    import importlib
    import io  # noqa: F401
    import resource  # noqa: F401
    import select  # noqa: F401
    import time  # noqa: F401

    # this loads more at its first call, in some versions of Python
    importlib.invalidate_caches()


class Zygote:
    """Forks a child for each job, and waits. It runs no code of a job and has one thread."""

    def __init__(self, worker):
        import select

        self.worker = worker
        self.poll = select.poll()
        # by process id: the job's number and the socket to the child, until that has been given its `go`
        self.children = {}
        self.links = {}
        self.is_stopping = False
        self.wakeup, wakeup_write = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wakeup_write, False)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # TERM reaches the whole tree of a job that is stopped; it is for the job's processes
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.poll.register(worker.socket, select.POLLIN)
        self.poll.register(self.wakeup, select.POLLIN)

    def run(self):
        while not (self.is_stopping and not self.children):
            for descriptor, _ in self.poll.poll():
                if descriptor == self.worker.socket.fileno():
                    frames = self.worker.receive()
                    if frames is None:
                        # the children are the spawner's now; one that waits for its `go` sees the end of its socket
                        return
                    for frame in frames:
                        self.on_frame(frame)
                elif descriptor == self.wakeup:
                    os.read(self.wakeup, 512)
                    self.reap()
                elif descriptor in self.links:
                    self.on_ready(descriptor)

    def on_frame(self, frame):
        kind = frame.get("t")
        if kind == "job":
            self.fork(frame)
        elif kind == "go":
            pid = next((pid for pid, (n, _) in self.children.items() if n == frame.get("n")), None)
            if pid is not None and self.children[pid][1] is not None:
                link = self.children[pid][1]
                self.forget_link(pid)
                try:
                    link.send(b"g")
                except OSError:
                    # the child was killed meanwhile
                    pass
                link.close()
        elif kind == "ping":
            self.worker.send(t="pong", rss=rss())
        elif kind == "stop":
            self.is_stopping = True
        elif kind != "pong":
            self.worker.send(t="huh")

    def fork(self, frame):
        import select
        import socket

        descriptors = self.worker.take_descriptors()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                be_child(frame, descriptors, theirs)
            except BaseException as error:
                print_trace(format_trace(error))
            finally:
                # never back into the loop of the zygote
                os._exit(70)
        theirs.close()
        for descriptor in descriptors:
            os.close(descriptor)
        self.children[pid] = (frame["n"], ours)
        self.links[ours.fileno()] = pid
        self.poll.register(ours, select.POLLIN)

    def on_ready(self, descriptor):
        pid = self.links.pop(descriptor)
        self.poll.unregister(descriptor)
        number, link = self.children[pid]
        # nothing: the child died before it was ready, and `ended` follows
        if link.recv(1):
            self.worker.send(t="started", n=number, pid=pid)

    def forget_link(self, pid):
        number, link = self.children[pid]
        if self.links.pop(link.fileno(), None) is not None:
            self.poll.unregister(link)
        self.children[pid] = (number, None)

    def reap(self):
        while self.children:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self.children:
                # a process that a preload has started
                continue
            number, link = self.children[pid]
            if link is not None:
                self.forget_link(pid)
                link.close()
            del self.children[pid]
            self.worker.send(
                t="ended",
                n=number,
                status=status,
                rss=usage.ru_maxrss * 1024,
                utime=usage.ru_utime,
                stime=usage.ru_stime,
            )


def be_child(frame, descriptors, link):
    """The forked child: makes itself a process like a cold one, then waits for its `go`."""
    signal.set_wakeup_fd(-1)
    reset_signals()
    os.setsid()
    put_descriptors(descriptors)
    os.dup2(link.fileno(), WARM_FD)
    link.detach()
    os.closerange(WARM_FD + 1, max_descriptor())
    os.write(WARM_FD, b"r")
    if os.read(WARM_FD, 1) != b"g":
        # the zygote has gone
        os._exit(70)
    os.close(WARM_FD)
    run_warm_job(frame)


def standby(worker):
    """Takes one job, which ends this process."""
    job = None
    while True:
        frames = worker.receive()
        if frames is None:
            return
        for frame in frames:
            kind = frame.get("t")
            if kind == "job" and job is None:
                job = frame
                reset_signals()
                try:
                    os.setsid()
                except OSError:
                    # the leader of a session already
                    pass
                descriptors = worker.take_descriptors()
                if descriptors:
                    put_descriptors(descriptors)
                    for descriptor in descriptors:
                        os.close(descriptor)
                worker.send(t="started", n=frame["n"], pid=os.getpid())
            elif kind == "go" and job is not None:
                worker.socket.close()
                run_warm_job(job)
            elif kind == "ping":
                worker.send(t="pong", rss=rss())
            elif kind == "stop" and job is None:
                return
            elif kind not in ("pong", "go", "stop"):
                worker.send(t="huh")


class Reused:
    """Runs one job after another in this process, whose descriptors 0 to 3 are the worker's pipes all the time.

    What the modules keep, a job sees of earlier ones. What a process has is made new for each: environment,
    directory, mask of new files, arguments, `sys.path`, streams, signals.
    """

    def __init__(self, worker, module_path):
        import threading

        self.worker = worker
        booted_in = os.getcwd()
        self.module_path = [os.path.join(booted_in, folder) for folder in module_path]
        self.folders = self.module_path + [booted_in]
        self.path = list(sys.path)
        self.threads = set(threading.enumerate())
        self.modules = len(sys.modules)
        self.files = set(loaded_files(self.folders))
        self.pipes = self.open_files()
        make_streams()
        self.streams = (sys.stdin, sys.stdout, sys.stderr)
        open_control()

    def run(self):
        job, is_stopping = None, False
        while not (is_stopping and job is None):
            frames = self.worker.receive()
            if frames is None:
                return
            for frame in frames:
                kind = frame.get("t")
                if kind == "job" and job is None:
                    job = frame
                    self.worker.send(t="started", n=job["n"], pid=os.getpid())
                elif kind == "go" and job is not None and frame.get("n") == job["n"]:
                    self.worker.send(**self.run_job(job))
                    job = None
                elif kind == "ping":
                    self.worker.send(t="pong", rss=rss())
                elif kind == "stop":
                    is_stopping = True
                elif kind not in ("pong", "go"):
                    self.worker.send(t="huh")

    def run_job(self, job):
        """Runs a job. Returns the frame that says how it has ended."""
        before = self.times()
        status = 1
        try:
            self.enter(job)
            status = run_call(job)
        except SystemExit as error:
            status = exit_code_of(error)
        except BaseException as error:
            print_trace(format_trace(error))
        left = self.left_threads()
        if left:
            names = ", ".join(sorted(thread.name for thread in left))
            self.worker.send(t="leaving", n=job["n"], why=f"the job has left threads running: {shortened(valid(names), 200)}")
        if left or status == -signal.SIGTERM:
            # as a process of its own ends: what the job has left running ends first
            finish(status)
        signal.setitimer(signal.ITIMER_REAL, 0)
        flush()
        if _flush_c is not None:
            _flush_c(None)
        user, system = (after - earlier for after, earlier in zip(self.times(), before))
        ended = {"t": "ended", "n": job["n"], "ok": status == 0, "status": status << 8, "rss": rss()}
        ended.update(utime=user, stime=system, active=int(self.open_files() != self.pipes))
        if len(sys.modules) != self.modules:
            self.modules = len(sys.modules)
            loaded = set(loaded_files(self.folders))
            ended["files"] = sorted(loaded - self.files)
            self.files |= loaded
        return ended

    def enter(self, job):
        """Makes this process the job's."""
        import importlib
        import time

        self.reap()
        reset_signals()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        set_environment(job.get("env") or {})
        os.umask(job.get("umask", 0o022))
        if any(stream.closed for stream in self.streams):
            make_streams()
            self.streams = (sys.stdin, sys.stdout, sys.stderr)
        sys.stdin, sys.stdout, sys.stderr = self.streams
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = self.streams
        os.chdir(job["cwd"])
        time.tzset()
        # files that are newer than this process
        importlib.invalidate_caches()
        sys.path[:] = self.path
        if "file" in job:
            raise Fatal("a process that is reused calls functions; a script has a process of its own")
        job["module_path"] = self.module_path
        sys.argv = [job["call"]]

    @staticmethod
    def reap():
        """Forgets the processes of earlier jobs, which the worker has ended."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def left_threads(self):
        """The threads that a job has started and left running."""
        import threading

        return set(threading.enumerate()) - self.threads

    @staticmethod
    def open_files():
        """Which files descriptors 0 to 3 are: a job may have closed or replaced them."""
        found = []
        for descriptor in range(4):
            try:
                status = os.fstat(descriptor)
                found.append((status.st_dev, status.st_ino))
            except OSError:
                found.append(None)
        return found

    @staticmethod
    def times():
        """User and system time of this process and of its children, in seconds."""
        times = os.times()
        return times.user + times.children_user, times.system + times.children_system


def reset_signals():
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    # what Python itself has at the start of a program
    signal.signal(signal.SIGINT, signal.default_int_handler)


def put_descriptors(descriptors):
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)


def max_descriptor():
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if limit == resource.RLIM_INFINITY else min(limit, 1 << 20)


def run_warm_job(job):
    """Runs the job as a process of its own would, and ends this process."""
    booted_in = os.getcwd()
    module_path = [os.path.join(booted_in, folder) for folder in os.environ.get("NAQ_MODULE_PATH", "").split(":") if folder]
    set_environment(job.get("env") or {})
    os.umask(job.get("umask", 0o022))
    make_streams()
    status = 1
    try:
        os.chdir(job["cwd"])
        import importlib
        import time

        set_import_path(module_path, without=[] if booted_in in module_path else [booted_in])
        # files that are newer than this process
        importlib.invalidate_caches()
        job["module_path"] = module_path
        time.tzset()
        reseed()
        sys.argv = [job.get("file") or job["call"], *map(str, job["args"] if "file" in job else ())]
        status = run_file(job["file"]) if "file" in job else run_call(job)
    except SystemExit as error:
        status = exit_code_of(error)
    except BaseException as error:
        print_trace(format_trace(error))
    finish(status)


def set_environment(wanted):
    """Makes the environment the wanted one. Only what differs is written: each write copies memory of the parent."""
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def make_streams():
    """New streams on descriptors 0 to 2, unbuffered as with `python -u`: what is buffered dies with a KILL."""
    import io

    encoding, errors = sys.__stdout__.encoding or "utf-8", sys.__stdout__.errors or "strict"
    stdin = io.open(0, "rb", closefd=False)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(stdin, encoding, errors)
    for descriptor, name, how in ((1, "stdout", errors), (2, "stderr", "backslashreplace")):
        raw = io.open(descriptor, "wb", buffering=0, closefd=False)
        stream = io.TextIOWrapper(raw, encoding, how, write_through=True)
        stream.mode = "w"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def reseed():
    # `random` does so itself after a fork, but not in a standby; `secrets` and `uuid` ask the kernel
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


def run_file(path):
    """Runs a script as `python FILE` does."""
    import types

    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__builtins__ = __builtins__
    sys.modules["__main__"] = module
    # as `python FILE`: the folder of the file instead of the working directory
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    exec(code, module.__dict__)
    return 0


def main():
    global _find
    _find = finder()
    if "--warm" in sys.argv[1:]:
        return warm()
    with open(os.environ.pop("NAQ_CALL_FILE"), "rb") as file:
        call = json.loads(file.read())
    set_import_path(call.get("module_path") or [])
    sys.meta_path.append(_FallbackFinder)
    sys.argv = [call["call"]]
    status = run_call(call)
    if status == -signal.SIGTERM:
        finish(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
