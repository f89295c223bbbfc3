"""Fixtures for pytest: `naq_worker`, `naq_inline` and `naq_server`.

A test that asks for `naq_worker` runs its jobs on a real server with a real worker, in a queue of its own:

    def test_report(naq_worker):
        assert app.command("./report.sh").enqueue().result(timeout=10).ok

They need the program `naq`: on the PATH, next to Python, or named by `NAQ_PROGRAM`.
"""

from __future__ import annotations

import collections
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from . import _override, _settings, _values
from ._inline import Inline

_START_MAX = 60.0
_STOP_MAX = 15.0
_PR_SET_PDEATHSIG = 1


class Process:
    """A `naq` that runs in the background, and what it logs."""

    def __init__(self, args: Sequence[str], env: dict[str, str], cwd: str | os.PathLike[str], ready: str) -> None:
        self.log: collections.deque[str] = collections.deque(maxlen=1000)
        self._has_started = False
        self._decided = threading.Event()
        self._pattern = re.compile(ready)
        self._name = "naq " + " ".join(args)
        self._process = subprocess.Popen(
            [program(), *args],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=_end_with_parent,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._decided.wait(_START_MAX)
        if not self._has_started:
            self.stop()
            pytest.fail(f"`{self._name}` did not start:\n{''.join(self.log)}", pytrace=False)

    def stop(self) -> None:
        """Stops it: first TERM, after some seconds KILL."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if self._pattern.search(line):
                self._has_started = True
                self._decided.set()
        # it has ended
        self._decided.set()


class Server:
    """The server of a test run: `naq dev` in a folder of its own, with a scheduler."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("NAQ_")}
        if "NAQ_NATS_SERVER" in os.environ:
            self.env["NAQ_NATS_SERVER"] = os.environ["NAQ_NATS_SERVER"]
        self.env["NAQ_DATA_DIR"] = str(folder / "data")
        self.env["NAQ_CONFIG"] = str(folder / "naq.toml")
        (folder / "naq.toml").write_text("")
        os.chmod(folder / "naq.toml", 0o600)
        self.process = Process(["dev", "--concurrency", "1"], self.env, folder, "^stop ")
        self.settings = _settings.load({}, self.env)


class Worker:
    """A worker of a queue that only this test uses."""

    def __init__(self, server: Server, queue: str, cwd: Path) -> None:
        self.queue = queue
        self.url = server.settings.servers[0]
        # for programs that the test starts: they reach the same server, and `naq` finds it too
        self.env = {**server.env, "NAQ_DEFAULT_QUEUE": queue}
        args = ["worker", queue, "--concurrency", "4", "--drain-timeout", "0"]
        self._process = Process(args, self.env, cwd, " working ")

    @property
    def log(self) -> str:
        """What the worker has logged."""
        return "".join(self._process.log)

    def stop(self) -> None:
        """Stops the worker. Jobs that it ran go back to the queue."""
        self._process.stop()


def program() -> str:
    """The path of the program `naq`."""
    named = os.environ.get("NAQ_PROGRAM")
    if named:
        return named
    sibling = Path(sys.executable).with_name("naq")
    found = str(sibling) if sibling.is_file() else shutil.which("naq")
    if found is None:
        pytest.fail("this fixture needs the program `naq`; install it, or name it by NAQ_PROGRAM", pytrace=False)
    return found


@pytest.fixture(scope="session")
def naq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of naq for the whole test run, with a scheduler. It is stopped afterwards."""
    server = Server(tmp_path_factory.mktemp("naq"))
    yield server
    server.process.stop()


@pytest.fixture
def naq_worker(naq_server: Server, pytestconfig: pytest.Config) -> Iterator[Worker]:
    """A worker. Every job that the test enqueues, through any `App` and in whichever queue, goes to it."""
    worker = Worker(naq_server, f"test-{_values.new_id()}", pytestconfig.rootpath)
    _override.set_settings(naq_server.settings, worker.queue)
    yield worker
    _override.set_settings(None, None)
    worker.stop()
    # shown by pytest if the test fails
    sys.stderr.write(worker.log)


@pytest.fixture
def naq_inline() -> Iterator[Inline]:
    """Runs functions in place when they are enqueued, through JSON as a worker would get it. No server is needed."""
    inline = Inline()
    _override.set_inline(inline)
    yield inline
    _override.set_inline(None)


def _end_with_parent() -> None:
    """Even if pytest is killed, nothing stays."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
