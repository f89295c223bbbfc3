"""What the pages for those who come from other systems show works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import naq
from naq.pytest_plugin import Worker

BOUND = 30


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


def test_from_celery(app: naq.App, naq_worker: Worker, tmp_path: Path) -> None:
    """With a stand-in for Celery's app, whose `tasks` are callable by their names."""
    (tmp_path / "run_task.py").write_text(block("from-celery.md", "python run_task.py"))
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj/celery.py").write_text(
        "class App:\n    tasks = {'proj.tasks.send': lambda to: f'sent to {to}'}\napp = App()\n"
    )
    task = app.command(sys.executable, "run_task.py", cwd=tmp_path)
    call = {"task": "proj.tasks.send", "args": ["a@b.c"]}
    assert task.with_(input=call).enqueue().result(BOUND).result == "sent to a@b.c"
