"""Inside a job: `naq.current`, and an app that goes through the worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import naq
from naq.pytest_plugin import Process, Server, Worker

BOUND = 30
SHEBANG = f"#!{sys.executable}\n"


def test_a_job_reports_through_its_control_channel(app: naq.App, naq_worker: Worker) -> None:
    source = SHEBANG + (
        "import naq\n"
        "c = naq.current\n"
        "assert c.is_active() and c.queue() and c.fence() > 0 and c.work_dir().is_dir() and c.timeout() == 60\n"
        "assert c.attempt() == 1 or c.last_checkpoint() == {'page': 7}\n"
        "assert c.scheduled_for() is None and c.schedule_id() is None\n"
        "c.progress(40, 'resizing')\n"
        "c.checkpoint({'page': 7})\n"
        "c.result({'id': c.job_id(), 'attempt': c.attempt(), 'of': c.max_attempts()})\n"
        "if c.attempt() == 1: c.retry(after='100ms')\n"
    )
    outcome = app.script(source, retries=2, retry_delay="1h", timeout=60).enqueue().result(BOUND)
    assert outcome.result == {"id": outcome.job_id, "attempt": 2, "of": 3}
    assert outcome.record["progress"] == {"percent": 40, "message": "resizing"}
    assert not outcome.warnings


def test_outside_a_job_reports_do_nothing_and_questions_raise() -> None:
    naq.current.progress(1)
    naq.current.checkpoint(1)
    naq.current.result(1)
    assert naq.current.last_checkpoint("none") == "none"
    assert not naq.current.is_active()
    for ask in (naq.current.job_id, naq.current.attempt, naq.current.timeout, naq.current.work_dir):
        with pytest.raises(naq.NotInJob, match="runs no job of naq"):
            ask()
    with pytest.raises(SystemExit) as left:
        naq.current.retry()
    assert left.value.code == 75


def test_a_report_that_naq_would_drop_is_refused() -> None:
    with pytest.raises(naq.ConfigurationError, match="101 is not a percentage"):
        naq.current.progress(101)
    with pytest.raises(naq.SerializationError, match=r"result\.a: JSON cannot hold a set"):
        naq.current.result({"a": {1}})


def test_a_result_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAQ_CONTROL_FD", "99")
    with pytest.raises(naq.ConfigurationError, match="at most 262144 are kept"):
        naq.current.result("x" * 300_000)


INSIDE = SHEBANG + (
    "import naq\n"
    "app = naq.App(queue='inside')\n"
    "job = app.command('seq', 3, labels={'from': 'a job'}).enqueue()\n"
    "outcome = job.result(20)\n"
    "try: app.command('sh', '-c', 'exit 3').enqueue().result(20)\n"
    "except naq.JobFailed as error: code = error.outcome.exit_code\n"
    "long = app.command('seq', 100000, limits={'output': '4M'}).enqueue().result(20)\n"
    "try: app.fetch('none').result(1)\n"
    "except naq.JobNotFound as error: text = str(error)\n"
    "try: app.command('sleep', 30).enqueue().result(0.5)\n"
    "except naq.WaitTimeout as error: late = str(error)\n"
    "try: app.workers()\n"
    "except naq.NaqConnectionError as error: no = str(error)\n"
    "try: app.command('true', queue='inside', requires={'no': 'one'}).enqueue().result(0.5)\n"
    "except naq.WaitTimeout as error: never = str(error)\n"
    "naq.current.result([outcome.text, code, len(long.stdout), text, late, no, never])\n"
)


def test_an_app_in_a_job_goes_through_the_worker(naq_server: Server, tmp_path: Path, app: naq.App) -> None:
    outer = naq.App(naq_server.settings.servers[0], nkey=naq_server.settings.nkey)
    # the worker of a job that waits for others needs a second slot
    env = {**naq_server.env, "NAQ_DEFAULT_QUEUE": "inside"}
    args = ["worker", "inside", "--concurrency", "4", "--grant", "enqueue,read", "--drain-timeout", "0"]
    worker = Process(args, env, tmp_path, " working ")
    try:
        call = outer.script(INSIDE, queue="inside", env={"PYTHONUNBUFFERED": "1"})
        inside = call.enqueue().result(60).result
    finally:
        worker.stop()
    assert inside[:3] == ["1\n2\n3\n", 3, 588895]
    assert "none" in inside[3]
    assert "has not ended after 0.5 s" in inside[4]
    assert "it is queued (" in inside[6], inside[6]
    assert "needs NATS, and a job has only its worker's socket" in inside[5]


def test_an_app_in_a_job_without_grants_says_what_to_do(app: naq.App, naq_worker: Worker) -> None:
    source = SHEBANG + "import naq\nnaq.App().command('true').enqueue()\n"
    with pytest.raises(naq.JobFailed, match="grants its jobs nothing; start it with `--grant enqueue,read`"):
        app.script(source).enqueue().result(BOUND)
