"""What type checkers know. `mypy --strict` reads this file; `test_types.py` checks what it reveals and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import naq

if TYPE_CHECKING:
    from typing_extensions import assert_type

app = naq.App()


@app.job
def bare(text: str, *, least: int = 1) -> int:
    return len(text) + least


@app.job(queue="mail", retries=3, timeout="5m")
def send(to: str) -> list[str]:
    return [to]


@app.job(timeout=5)
async def resize(width: int) -> dict[str, int]:
    return {"width": width}


def blocking() -> None:
    if TYPE_CHECKING:
        assert_type(bare("a", least=2), int)
        assert_type(bare.delay("a"), naq.Job[int])
        assert_type(bare.delay("a").result(timeout="3s"), int)
        assert_type(bare.with_(queue="x", delay="5m").delay("a"), naq.Job[int])
        assert_type(send.bind("a"), naq.Call[list[str]])
        assert_type(app.enqueue_many([send.bind("a")]), list[naq.Job[list[str]]])
        assert_type(resize.delay(3).result(), dict[str, int])
        assert_type(app.command("true", timeout="5m").enqueue().result(), naq.Outcome)


async def awaiting() -> None:
    if TYPE_CHECKING:
        assert_type(await resize(3), dict[str, int])
        assert_type(await resize.adelay(3), naq.Job[dict[str, int]])
        assert_type(await (await send.adelay("a")).aresult(3), list[str])


def refused() -> None:
    bare.delay(3)  # type: ignore[arg-type]
    bare.delay("a", most=3)  # type: ignore[call-arg]
    bare.delay()  # type: ignore[call-arg]
    send.with_(retrys=3)  # type: ignore[call-arg]
    app.command("true", timeout=[1])  # type: ignore[arg-type]
