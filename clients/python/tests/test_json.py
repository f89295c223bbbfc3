from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid

import pydantic
import pytest

import naq
from naq._json import dumps, to_json


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 1


@dataclasses.dataclass
class Point:
    x: int
    when: object = None


class Model(pydantic.BaseModel):
    when: dt.date


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"a": [1, 2.5, None, True, "ü"]}, b'{"a":[1,2.5,null,true,"\xc3\xbc"]}'),
        ((1, (2, 3)), b"[1,[2,3]]"),
        (12345678901234567890123, b"12345678901234567890123"),
        (Point(1, [Point(2)]), b'{"x":1,"when":[{"x":2,"when":null}]}'),
        (Model(when=dt.date(2030, 1, 2)), b'{"when":"2030-01-02"}'),
    ],
)
def test_a_value_becomes_json(value: object, wanted: bytes) -> None:
    assert dumps(to_json(value, "args")) == wanted


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ([{"a b": {1, 2}}], "args[0]['a b']", "JSON cannot hold a set; pass a list"),
        ([dt.datetime(2030, 1, 1)], "args[0]", "pass its `.isoformat()`"),
        ({"a": {"b": b"x"}}, "args.a.b", "JSON cannot hold a bytes"),
        ([decimal.Decimal(1)], "args[0]", "pass a str"),
        ([uuid.UUID(int=1)], "args[0]", "pass a str"),
        ([float("nan")], "args[0]", "the number nan"),
        ([float("inf")], "args[0]", "the number inf"),
        ([10**400], "args[0]", "the number 1000"),
        ([Colour.RED], "args[0]", "pass its `.value`"),
        ([Level.HIGH], "args[0]", "pass its `.value`"),
        ([{1: "a"}], "args[0]", "the key 1 is a int; keys in JSON are str"),
        ([Point(1, object())], "args[0].when", "JSON cannot hold a object"),
        (["\ud800"], "args[0]", "lone surrogate"),
        (nested(64), "args" + "[0]" * 64, "more than 64 levels"),
        ([lambda: 1], "args[0]", "JSON cannot hold a function"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(value: object, path: str, problem: str) -> None:
    with pytest.raises(naq.SerializationError) as caught:
        to_json(value, "args")
    assert caught.value.path == path
    assert problem in str(caught.value)


def test_a_reference_to_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(naq.SerializationError, match="a reference to itself"):
        to_json(value, "args")
