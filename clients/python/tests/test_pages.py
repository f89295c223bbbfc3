"""What the pages for those who come from other systems show works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from test_in_worker import write_celery_app

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
