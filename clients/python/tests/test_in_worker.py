"""What the runner for Python makes of a function of an app: as a worker starts it, without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHIM = HERE.parents[2] / "runners" / "python" / "shim.py"


def call(folder: Path, name: str, *args: Any, **kwargs: Any) -> tuple[int, list[Any], str]:
    """Calls a function as the worker does: the exit code, the lines of the control channel, and stderr."""
    file = folder / "call.json"
    file.write_text(json.dumps({"call": name, "args": args, "kwargs": kwargs, "module_path": [str(HERE)]}))
    read, write = os.pipe()
    done = subprocess.run(
        [sys.executable, "-u", str(SHIM)],
        env={**os.environ, "NAQ_CALL_FILE": str(file)},
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
