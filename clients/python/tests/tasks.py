"""Functions that are jobs."""

from __future__ import annotations

import dataclasses

import pydantic

import naq

app = naq.App()


@dataclasses.dataclass
class Size:
    width: int
    height: int


class Image(pydantic.BaseModel):
    path: str
    size: tuple[int, int]


@app.job
def count_words(text: str, *, min: int = 1) -> int:
    """Counts the words of a text."""
    return sum(1 for word in text.split() if len(word) >= min)


@app.job(queue="images", retries=3, timeout="5m")
async def resize(image: Image, size: Size) -> Size:
    return Size(min(image.size[0], size.width), min(image.size[1], size.height))


@app.job
def fail(message: str) -> None:
    raise ValueError(message)


@app.job
def tuples() -> tuple[int, int]:
    return (1, 2)


@app.job
def keys() -> dict[int, str]:
    return {1: "a"}


def plain(a: int, b: int = 2) -> int:
    return a + b
