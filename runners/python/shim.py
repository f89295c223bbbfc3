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
# what cancels the coroutine that runs, and whether that was requested
_cancel_coroutine = None
_is_cancelled = False


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
            view = view[os.write(3, view) :]
        except BlockingIOError:
            import select

            select.select([], [3], [])
        except OSError:
            # the job closed the descriptor, or the worker has gone
            return


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


def set_import_path(module_path):
    """The module path, then the working directory, then what Python has. The folder of this file is removed."""
    here = os.path.dirname(os.path.abspath(__file__))
    # what PYTHONPATH adds of the module path must not be there twice
    first = list(dict.fromkeys([os.path.abspath(folder) for folder in module_path] + [os.getcwd()]))
    rest = [entry for entry in sys.path if entry and entry not in first and os.path.abspath(entry) != here]
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
    signal.signal(signal.SIGTERM, on_term)
    try:
        module_path = call.get("module_path") or []
        function = find_function(call["call"], module_path)
        value = call_function(function, call.get("args") or [], call.get("kwargs") or {})
        if os.getpid() != _job_pid:
            # a child that the function forked and that returned from it
            flush()
            os._exit(0)
        flush()
        write_result(value)
        return 0
    except SystemExit as error:
        if os.getpid() == _job_pid and error.code not in (None, 0, RETRY_EXIT_CODE):
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
        return "".join(traceback.format_exception(type(error), error, trace))
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


def main():
    with open(os.environ.pop("NAQ_CALL_FILE"), "rb") as file:
        call = json.loads(file.read())
    set_import_path(call.get("module_path") or [])
    sys.meta_path.append(_FallbackFinder)
    sys.argv = [call["call"]]
    status = run_call(call)
    if status == -signal.SIGTERM:
        import atexit

        atexit._run_exitfuncs()
        flush()
        die_of_term()
    sys.exit(status)


if __name__ == "__main__":
    main()
