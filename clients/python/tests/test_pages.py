"""What the pages for those who come from other systems show works."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from test_in_worker import write_celery_app

import naq
from naq.pytest_plugin import Process, Server, Worker, program

BOUND = 30


def command(page: Path, start: str) -> str:
    """The command line of a page that starts like this, without its comment."""
    found = re.search(rf"^{re.escape(start)}.*?(?=\s+#|$)", page.read_text(), re.MULTILINE)
    assert found is not None, f"{page} has no line {start}"
    return found[0]


def block(page: str, kind: str) -> str:
    found = re.search(rf"^```{kind}\n(.*?)^```", (REPOSITORY / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_from_rq(app: naq.App, naq_worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("def count_words(text, least=1):\n    return len(text.split()) + least\n")
    assert 'app.call("tasks:count_words", "some text", least=5).with_(' in block("from-rq.md", "python")
    task = app.call("tasks:count_words", "some text", least=5).with_(cwd=tmp_path, timeout="3m")
    assert task.enqueue().result(BOUND) == 7
    with pytest.raises(naq.JobFailed) as caught:
        app.call("tasks:count_words").with_(cwd=tmp_path).enqueue().result(BOUND)
    assert caught.value.type == "TypeError"
    assert "missing 1 required positional argument: 'text'" in caught.value.message
    assert "shim" not in caught.value.trace


def test_from_celery(naq_worker: Worker, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    write_celery_app(tmp_path)
    # where the runner looks for a Python that has Celery
    (tmp_path / ".venv").symlink_to(sys.prefix)
    page = block("from-celery.md", "python")
    here = page.replace('timeout="10m"', f'timeout="10m", cwd={str(tmp_path)!r}')
    assert here != page
    names: dict[str, Any] = {}
    exec(here, names)
    assert names["n"] == "sent to a@b.c"
    busy = names["queue"].call("proj.celery:proj.tasks.busy").with_(runner="celery", retries=1, cwd=tmp_path)
    assert busy.enqueue().result(BOUND) == "retries: 1"


def test_the_worker_of_the_celery_page(naq_server: Server, tmp_path: Path) -> None:
    pytest.importorskip("celery")
    write_celery_app(tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    line = command(REPOSITORY / "docs/from-celery.md", "naq worker mail")
    worker = Process(shlex.split(line)[1:], naq_server.env, tmp_path, " working ")
    call = ["--runner", "celery", "--call", "proj.celery:proj.tasks.send", "--", '"c@d.e"']
    enqueue = [program(), "enqueue", "--queue", "mail", "--wait", "--json", *call]

    def run() -> Any:
        return json.loads(subprocess.check_output(enqueue, env=naq_server.env, timeout=BOUND))

    try:
        deadline = time.monotonic() + BOUND
        # until a warm process is ready, a job runs in one of its own, with a warning
        while (record := run()).get("warnings"):
            assert time.monotonic() < deadline, record
        assert record["result"] == "sent to c@d.e"
    finally:
        worker.stop()


def test_installation(tmp_path: Path) -> None:
    """What the pages say to type installs the package, in an environment with nothing else."""
    install = command(REPOSITORY / "clients/python/README.md", "pip install ./clients/python")
    line = command(REPOSITORY / "docs/from-naq-python.md", "pip uninstall naq")
    assert line.split(" && ") == ["pip uninstall naq", install]
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", line], env={**os.environ, "PATH": path}, cwd=REPOSITORY, check=True, timeout=300)
    source = (
        "import naq, sys; print(naq.__version__);"
        " assert not {'pytest', 'django', 'sqlalchemy', 'pydantic'} & set(sys.modules)"
    )
    python = tmp_path / "bin/python"
    done = subprocess.run([python, "-c", source], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"{naq.__version__}\n", done.stderr
    files = subprocess.run([python, "-m", "pip", "show", "-f", "naq-client"], capture_output=True, text=True).stdout
    assert "naq/py.typed" in files
    assert "tests" not in files
