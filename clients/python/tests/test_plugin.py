"""The fixtures, as a user's tests have them."""

from __future__ import annotations

import pytest

TESTS = """
import subprocess
import naq

app = naq.App("nats://127.0.0.1:1")     # replaced while a fixture is used

@app.job(queue="mail")
def send(to):
    return 1

def test_report(naq_worker):
    job = app.command("echo", "hi", queue="reports").enqueue()
    assert job.queue == naq_worker.queue
    assert job.result(timeout=30).text == "hi\\n"

def test_another(naq_worker):
    assert app.command("true").enqueue().result(timeout=30).ok

def test_a_program_of_the_test(naq_worker):
    command = [PROGRAM, "enqueue", "--wait", "--", "echo", "cli"]
    done = subprocess.run(command, env=naq_worker.env, capture_output=True, text=True)
    assert done.stdout == "cli\\n", done.stderr

def test_mail(naq_inline):
    assert send.delay("a@b.c").result() == 1
    assert naq_inline.jobs[0].envelope["args"] == ["a@b.c"]

def test_without_a_fixture():
    try:
        app.command("true").enqueue()
    except naq.NaqConnectionError:
        return
    assert False
"""


def test_the_fixtures_of_a_user(pytester: pytest.Pytester) -> None:
    from naq.pytest_plugin import program

    pytester.makepyfile(f"PROGRAM = {program()!r}\n{TESTS}")
    # in a process of its own, as a user runs it
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", timeout=120)
    result.assert_outcomes(passed=5)


def test_a_missing_program_is_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAQ_PROGRAM")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    pytester.makepyfile("def test_it(naq_worker): pass")
    result = pytester.runpytest_subprocess("-q", timeout=60)
    result.stdout.fnmatch_lines(["*needs the program `naq`; install it, or name it by NAQ_PROGRAM*"])
    result.assert_outcomes(errors=1)


def test_a_program_that_does_not_start_is_shown(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = pytester.makefile(".sh", "#!/bin/sh\necho 'no disk' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv("NAQ_PROGRAM", str(broken))
    pytester.makepyfile("def test_it(naq_worker): pass")
    result = pytester.runpytest_subprocess("-q", timeout=60)
    result.stdout.fnmatch_lines(["*`naq dev --concurrency 1` did not start:", "*no disk*"])
