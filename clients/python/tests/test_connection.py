"""What happens when NATS is away, and after a fork."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import naq
from naq import _connection
from naq.pytest_plugin import Server, Worker

BOUND = 30


def test_a_server_that_does_not_run_is_named_within_the_bound() -> None:
    app = naq.App("nats://user:secret@127.0.0.1:1", connect_timeout="1s")
    started = time.monotonic()
    with pytest.raises(naq.NaqConnectionError) as caught:
        app.command("true").enqueue()
    assert time.monotonic() - started < 3
    text = str(caught.value)
    assert text.startswith("cannot connect to NATS at nats://127.0.0.1:1: ")
    assert "is NATS running there?" in text
    assert "secret" not in text


def test_a_server_that_never_answers_is_named_within_the_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = naq.App(f"nats://127.0.0.1:{silent.getsockname()[1]}", connect_timeout="500ms")
        with pytest.raises(naq.NaqConnectionError, match=r"no answer within 0.5 s"):
            app.connect()


def test_wrong_credentials_are_named(naq_server: Server, tmp_path: Path) -> None:
    with pytest.raises(naq.NaqConnectionError, match="set NAQ_CREDS, NAQ_NKEY, NAQ_TOKEN"):
        naq.App(naq_server.settings.servers[0], token="wrong", connect_timeout=2).connect()
    with pytest.raises(naq.ConfigurationError, match="`nkey` names /none, which cannot be read"):
        naq.App(naq_server.settings.servers[0], nkey="/none").connect()


def test_a_server_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, naq_server: Server) -> None:
    monkeypatch.setattr(_connection, "_listener", lambda port: 54321)
    with pytest.raises(naq.NaqConnectionError, match="belongs to uid 54321, which is neither this user nor root"):
        naq.App(naq_server.settings.servers[0], nkey=naq_server.settings.nkey).connect()


def test_the_listener_of_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert _connection._listener(listening.getsockname()[1]) == os.getuid()
    assert _connection._listener(1) is None


def test_another_program_at_the_port_of_the_managed_server_is_refused(naq_server: Server) -> None:
    import dataclasses

    from naq import _override

    _override.set_settings(dataclasses.replace(naq_server.settings, server_name="another"), "queue")
    try:
        with pytest.raises(naq.NaqConnectionError, match="another program than naq"):
            naq.App().connect()
    finally:
        _override.set_settings(None, None)


def nats_server(server: Server, process: str = "pid") -> int:
    state = json.loads((server.folder / "data/server/server.json").read_text())
    return int(state[process])


def test_a_wait_continues_after_nats_was_away(app: naq.App, naq_worker: Worker, naq_server: Server) -> None:
    job = app.command("sleep", 2).enqueue()
    while job.state != "running":
        time.sleep(0.05)
    # the supervisor starts it again, at the same port
    before = nats_server(naq_server)
    os.kill(before, signal.SIGKILL)
    assert job.result(BOUND).ok
    assert nats_server(naq_server) != before
    assert app.command("true").enqueue().result(BOUND).ok


def suspend(server: Server) -> list[int]:
    """Suspends the server that is in use, and its supervisor, which would replace a server that does not answer."""
    while True:
        suspended = [nats_server(server, "supervisor_pid"), nats_server(server)]
        for pid in suspended:
            os.kill(pid, signal.SIGSTOP)
        while not all(is_suspended(pid) for pid in suspended):
            time.sleep(0.01)
        # unless the supervisor was just replacing it
        if suspended == [nats_server(server, "supervisor_pid"), nats_server(server)]:
            return suspended
        for pid in reversed(suspended):
            os.kill(pid, signal.SIGCONT)


def is_suspended(pid: int) -> bool:
    """Whether each thread of a process stands still."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state == "T" for state in states)


def test_a_request_ends_while_nats_is_suspended(app: naq.App, naq_worker: Worker, naq_server: Server) -> None:
    app.connect()
    suspended = suspend(naq_server)
    try:
        started = time.monotonic()
        with pytest.raises(naq.NaqConnectionError, match=r"did not answer within 5 s|is lost and being restored"):
            app.command("true").enqueue()
        assert time.monotonic() - started < 25
    finally:
        for pid in reversed(suspended):
            os.kill(pid, signal.SIGCONT)
    # the supervisor may replace the server all the same, so the connection may still be down
    until = time.monotonic() + 60
    while True:
        try:
            job = app.command("true").enqueue()
            break
        except naq.NaqConnectionError:
            assert time.monotonic() < until
    assert job.result(60).ok


PROGRAM = """
import os, sys, naq
app = naq.App()
job = app.command("echo", "before").enqueue()
assert job.result(20).text == "before\\n"
child = os.fork()
if child == 0:
    # a new connection, made by a new thread
    assert app.command("echo", "child").enqueue().result(20).text == "child\\n"
    os._exit(7)
assert app.command("echo", "parent").enqueue().result(20).text == "parent\\n"
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
import multiprocessing
def work(n):
    return app.command("echo", n).enqueue().result(20).text.strip()
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(work, range(6)))
"""


def test_a_child_of_a_fork_has_a_connection_of_its_own(naq_worker: Worker) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM],
        env=naq_worker.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "['0', '1', '2', '3', '4', '5']\n"), done.stderr


def test_a_program_that_closes_nothing_ends(naq_worker: Worker) -> None:
    program = "import naq; print(naq.App().command('echo', 'x').enqueue().result(20).text)"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], env=naq_worker.env, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n\n", "")
    assert time.monotonic() - started < 15


def test_an_interrupt_ends_a_wait(naq_worker: Worker) -> None:
    # a shell starts what runs in the background without it
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    program += "import naq; job = naq.App().command('sleep', 60).enqueue(); print(job.id, flush=True); job.result()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=naq_worker.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    job_id = process.stdout.readline().strip()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=15)
    assert "KeyboardInterrupt" in errors
    assert naq.App().fetch(job_id).cancel()
