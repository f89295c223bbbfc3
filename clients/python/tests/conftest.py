from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import naq

REPOSITORY = Path(__file__).resolve().parents[3]

# functions that are jobs have to be in a module
sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["pytester"]


@pytest.fixture
def app() -> naq.App:
    return naq.App()


@pytest.fixture(scope="session")
def envelope_schema() -> dict[str, Any]:
    return json.loads((REPOSITORY / "schemas/envelope.v1.json").read_text())
