"""The examples of the README run, and the package is what it says."""

from __future__ import annotations

import importlib.metadata
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import naq
from naq.pytest_plugin import Worker

ROOT = Path(__file__).resolve().parents[1]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_readme_run(naq_worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    found = blocks("python run")
    assert len(found) >= 8
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "8\n9\n10\n" in printed
    assert "there is no job 'no-such-job'; its record may have expired" in printed
    assert "kwargs.meta.sent[0]: JSON cannot hold a datetime.datetime; pass its `.isoformat()`" in printed


def test_the_other_examples_of_the_readme_are_python() -> None:
    for block in blocks("python"):
        # some have an `await` at the top
        compile(block, "README.md", "exec", flags=0x2000)


def test_types(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(naq.__file__).parent / "py.typed").is_file()


def test_style() -> None:
    for command in ("check", "format --check"):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command.split()], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_has_a_description() -> None:
    for name in naq.__all__:
        if name == "Duration":
            continue
        public = getattr(naq, name)
        assert public.__doc__, name
        for attribute, value in vars(public).items() if isinstance(public, type) else ():
            if not attribute.startswith("_") and callable(value):
                assert value.__doc__, f"{name}.{attribute}"
    assert "app.command(" in pydoc.render_doc(naq)


def test_the_distribution() -> None:
    about = importlib.metadata.metadata("naq-client")
    assert about["Version"] == naq.__version__
    needed = importlib.metadata.requires("naq-client") or []
    assert [re.match(r"[a-z-]+", need)[0] for need in needed] == ["nats-py", "tomli"]
