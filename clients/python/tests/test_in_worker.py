"""What the runner for Python makes of a function of an app: as a worker starts it, without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
SHIM = HERE.parents[2] / "runners" / "python" / "shim.py"


def write_celery_app(folder: Path) -> None:
    """An app of Celery whose broker does not exist."""
    (folder / "proj").mkdir()
    (folder / "proj/__init__.py").write_text("")
    (folder / "proj/celery.py").write_text(
        "from celery import Celery\napp = Celery('proj', broker='redis://127.0.0.1:1', include=['proj.tasks'])\n"
    )
    (folder / "proj/tasks.py").write_text(
        "from celery import shared_task\n"
        "from celery.exceptions import Ignore, Reject\n"
        "from .celery import app\n"
        "@app.task\n"
        "def send(to): return f'sent to {to}'\n"
        "@app.task(bind=True, max_retries=2)\n"
        "def busy(self):\n"
        "    if self.request.retries in (0, 2): raise self.retry(countdown=0.5)\n"
        "    return f'retries: {self.request.retries}'\n"
        "@app.task(autoretry_for=(KeyError,), retry_backoff=4, retry_jitter=False, max_retries=2)\n"
        "def auto(): return {}['a']\n"
        "@shared_task\n"
        "def fail(): raise ValueError('no such account')\n"
        "@app.task\n"
        "def reject(requeue): raise Reject('not now', requeue=requeue)\n"
        "@app.task\n"
        "def ignore(): raise Ignore()\n"
    )


def call(
    folder: Path, name: str, *args: Any, runner: str = "python", attempt: int = 1, checkpoint: Any = None, **kwargs: Any
) -> tuple[int, list[Any], str]:
    """Calls a function as the worker does: the exit code, the lines of the control channel, and stderr."""
    file = folder / "call.json"
    file.write_text(json.dumps({"call": name, "args": args, "kwargs": kwargs, "module_path": [str(HERE)]}))
    env = {
        **os.environ,
        "NAQ_CALL_FILE": str(file),
        "NAQ_CONTROL_FD": "3",
        "NAQ_JOB_ID": "j-1",
        "NAQ_ATTEMPT": str(attempt),
    }
    if checkpoint is not None:
        (folder / "checkpoint.json").write_text(json.dumps(checkpoint))
        env["NAQ_CHECKPOINT_FILE"] = str(folder / "checkpoint.json")
    read, write = os.pipe()
    done = subprocess.run(
        [sys.executable, "-u", str(SHIM), runner],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        close_fds=False,
        preexec_fn=lambda: os.dup2(write, 3),
    )
    os.close(write)
    with os.fdopen(read) as control:
        return done.returncode, [json.loads(line) for line in control], done.stderr


def test_arguments_become_what_the_annotations_say(tmp_path: Path) -> None:
    image = {"path": "a.png", "size": [800, 600]}
    code, lines, stderr = call(tmp_path, "tasks:resize", image, size={"width": 200, "height": 100})
    assert (code, lines, stderr) == (0, [{"result": {"width": 200, "height": 100}}], "")


def test_an_argument_that_does_not_fit_names_its_path(tmp_path: Path) -> None:
    code, (line,), _ = call(tmp_path, "tasks:resize", {"path": "a.png", "size": [1, 2]}, size={"width": 200})
    assert code == 1
    assert line["error"]["type"] == "naq.SerializationError"
    assert line["error"]["message"].startswith("size: ")


def test_the_exceptions_of_the_client_are_those_of_the_runner(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import datetime, naq\n"
        "class Busy(naq.Retry): pass\n"
        "def busy(): raise Busy('later', after=datetime.timedelta(minutes=1))\n"
        "def fatal(): raise naq.Fatal('no such account')\n"
    )
    code, lines, _ = call(tmp_path, "mine:busy")
    assert code == 75
    assert lines[0] == {"retry_after": 60.0}
    assert lines[1]["error"]["message"] == "later"
    code, (line,), _ = call(tmp_path, "mine:fatal")
    assert (code, line["error"]["type"], line["error"]["retry"]) == (1, "naq.Fatal", False)


def test_tasks_of_celery_run_by_their_names(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    write_celery_app(tmp_path)

    def run(task: str, *args: Any, attempt: int = 1) -> tuple[int, list[Any], str]:
        return call(tmp_path, f"proj.celery:{task}", *args, runner="celery", attempt=attempt)

    assert run("proj.tasks.send", "a@b.c") == (0, [{"result": "sent to a@b.c"}], "")
    assert run("app:proj.tasks.send", "a@b.c")[1] == [{"result": "sent to a@b.c"}]
    assert run("proj.tasks.ignore")[:2] == (0, [{"result": None}])

    code, lines, _ = run("proj.tasks.busy")
    assert (code, lines[0], lines[1]["error"]["type"]) == (75, {"retry_after": 0.5}, "naq.Retry")
    assert run("proj.tasks.busy", attempt=2)[1] == [{"result": "retries: 1"}]
    assert run("proj.tasks.auto", attempt=2)[:1] == (75,)
    assert run("proj.tasks.auto", attempt=2)[1][0] == {"retry_after": 8}
    # Celery's own limit is reached: the task's error is the job's
    code, (line,), _ = run("proj.tasks.auto", attempt=3)
    assert (code, line["error"]["type"]) == (1, "KeyError")

    code, (line,), stderr = run("proj.tasks.fail")
    assert (code, line["error"]["type"], line["error"]["message"]) == (1, "ValueError", "no such account")
    assert "in fail" in stderr
    assert "shim" not in stderr
    assert run("proj.tasks.reject", True)[0] == 75
    code, (line,), _ = run("proj.tasks.reject", False)
    assert (code, line["error"]["message"], line["error"]["retry"]) == (1, "not now", False)

    code, (line,), _ = run("proj.tasks.nothing")
    assert (code, line["error"]["type"], line["error"]["retry"]) == (1, "NotFound", False)
    assert "has no task `proj.tasks.nothing`; it has proj.tasks.auto, proj.tasks.busy" in line["error"]["message"]
    code, (line,), _ = call(tmp_path, "json:proj.tasks.send", runner="celery")
    assert (code, line["error"]["message"]) == (1, "`json` has no app of Celery")


def test_functions_of_rq_run_by_their_names(tmp_path: Path) -> None:
    pytest.importorskip("rq")
    (tmp_path / "work.py").write_text(
        "from rq import Retry, get_current_job\n"
        "def count_words(text, least=1): return len(text.split()) + least\n"
        "class Mail:\n"
        "    @staticmethod\n"
        "    async def send(to): return to\n"
        "def meta(x):\n"
        "    job = get_current_job()\n"
        "    job.meta['seen'] = job.meta.get('seen', 0) + 1\n"
        "    job.save_meta()\n"
        "    return [job.id, job.func_name, list(job.args)]\n"
        "def again(): return Retry(max=3, interval=[10, 20])\n"
        "def redis(): return get_current_job().get_status()\n"
    )

    def run(name: str, *args: Any, **kwargs: Any) -> tuple[int, list[Any], str]:
        return call(tmp_path, name, *args, runner="rq", **kwargs)

    assert run("work.count_words", "some text", least=5) == (0, [{"result": 7}], "")
    assert run("work:count_words", "some text")[1] == [{"result": 3}]
    assert run("work.Mail.send", "a@b.c")[1] == [{"result": "a@b.c"}]
    code, lines, _ = run("work.meta", 1, attempt=2, checkpoint={"seen": 1})
    assert (code, lines) == (0, [{"checkpoint": {"seen": 2}}, {"result": ["j-1", "work.meta", [1]]}])
    code, lines, _ = run("work.again", attempt=2)
    assert (code, lines[0], lines[1]["error"]["type"]) == (75, {"retry_after": 20}, "naq.Retry")
    code, (line,), _ = run("work.redis")
    assert code == 1
    assert "needs Redis, and on naq a job of RQ has `id`" in line["error"]["message"]
    for name in ("work.nothing", "nothing.work"):
        code, (line,), _ = run(name)
        assert (code, line["error"]["type"], line["error"]["retry"]) == (1, "NotFound", False)
