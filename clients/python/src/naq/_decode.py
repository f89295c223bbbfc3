"""Arguments and results as a function's annotations describe them: dataclasses and pydantic models stay such."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Coroutine
from typing import Any, Union

from .errors import SerializationError


def decoder(function: Callable[..., Any]) -> Callable[[Any], Any]:
    """What makes a value of the function's return annotation of its JSON."""
    hint: Any = None
    resolved = False

    def decode(value: Any) -> Any:
        # late, because the annotation may name what is defined after the function
        nonlocal hint, resolved
        if not resolved:
            try:
                hint = typing.get_type_hints(function).get("return")
            except Exception:
                # a name that exists only for type checkers: the JSON value is the result
                hint = None
            if typing.get_origin(hint) is Coroutine:
                hint = typing.get_args(hint)[-1]
            resolved = True
        return convert(value, hint, "result")

    return decode


def arguments(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments of a call, made of JSON by the function's annotations."""
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    hints = typing.get_type_hints(function)
    for name, value in bound.arguments.items():
        kind, hint = signature.parameters[name].kind, hints.get(name)
        if kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(convert(item, hint, f"{name}[{at}]") for at, item in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: convert(item, hint, f"{name}.{key}") for key, item in value.items()}
        else:
            bound.arguments[name] = convert(value, hint, name)
    return bound


def convert(value: Any, hint: Any, path: str) -> Any:
    """A value of JSON as a value of the annotation, where that is a class with fields or contains one."""
    if value is None or hint is None or hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, getattr(types, "UnionType", Union)):
        inner = [argument for argument in arguments if argument is not type(None)]
        return convert(value, inner[0], path) if len(inner) == 1 else value
    if origin is list and isinstance(value, list):
        return [convert(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(value)]
    if (hint is tuple or origin is tuple) and isinstance(value, list):
        kinds = arguments if arguments and arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        if not kinds:
            return tuple(value)
        pairs = enumerate(zip(value, kinds, strict=False))
        return tuple(convert(item, kind, f"{path}[{index}]") for index, (item, kind) in pairs)
    if origin is dict and isinstance(value, dict):
        return {key: convert(item, arguments[1], f"{path}.{key}") for key, item in value.items()}
    if hasattr(hint, "model_validate"):
        return hint.model_validate(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(value, hint, path)
    return value


def _dataclass(value: Any, kind: type, path: str) -> Any:
    if not isinstance(value, dict):
        raise SerializationError(path, f"a {type(value).__name__} is no {kind.__qualname__}")
    hints = typing.get_type_hints(kind)
    fields = {name: convert(item, hints.get(name), f"{path}.{name}") for name, item in value.items()}
    try:
        return kind(**fields)
    except TypeError as error:
        raise SerializationError(path, str(error)) from None
