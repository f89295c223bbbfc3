"""Values as JSON, and nothing else: what JSON cannot hold is refused with its path."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from .errors import SerializationError

# as in an envelope, see docs/protocol.md
DEPTH_MAX = 64

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_HINTS = {
    "datetime": "pass its `.isoformat()`",
    "date": "pass its `.isoformat()`",
    "time": "pass its `.isoformat()`",
    "timedelta": "pass its `.total_seconds()`",
    "Decimal": "pass a str",
    "UUID": "pass a str",
    "set": "pass a list",
    "frozenset": "pass a list",
    "bytes": "pass a str, for example of base64",
    "bytearray": "pass a str, for example of base64",
    "complex": "pass a list of two numbers",
    "coroutine": "await it first",
}


def to_json(value: object, path: str) -> Any:
    """The value as what :mod:`json` writes unchanged. Dataclasses and pydantic models become objects."""
    return _convert(value, path, 1)


def dumps(value: object) -> bytes:
    """The text of a value of :func:`to_json`: the same bytes for the same value."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _convert(value: object, path: str, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise SerializationError(path, f"more than {DEPTH_MAX} levels of nesting, or a reference to itself")
    # exact types: a subclass, such as an enum, would come back as something else
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return _text(value, path)  # type: ignore[arg-type]
    if kind is int or kind is float:
        return _number(value, path)  # type: ignore[arg-type]
    if kind is list or kind is tuple:
        items: Any = value
        return [_convert(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(items)]
    if isinstance(value, Mapping):
        return _object(value, path, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _object(fields, path, depth)
    dump = getattr(kind, "model_dump", None)
    if dump is not None:  # a pydantic model
        return _convert(dump(value, mode="json"), path, depth)
    hint = _HINTS.get(kind.__name__)
    if hint is None and isinstance(value, (str, int, float)):
        hint = "pass its `.value`" if hasattr(value, "value") else f"pass a plain {kind.__mro__[1].__name__}"
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise SerializationError(path, f"JSON cannot hold a {name}" + (f"; {hint}" if hint else ""))


def _object(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    converted = {}
    for key, item in value.items():
        if type(key) is not str:
            raise SerializationError(path, f"the key {key!r} is a {type(key).__name__}; keys in JSON are str")
        inner = f"{path}.{key}" if _NAME.match(key) else f"{path}[{key!r}]"
        converted[_text(key, f"a key of {path}")] = _convert(item, inner, depth + 1)
    return converted


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SerializationError(path, "the text has a lone surrogate, so it is not valid Unicode") from None
    return value


def _number(value: int | float, path: str) -> int | float:
    try:
        is_finite = math.isfinite(value)
    except OverflowError:
        is_finite = False
    if not is_finite:
        raise SerializationError(path, f"JSON cannot hold the number {str(value)[:20]}")
    return value
