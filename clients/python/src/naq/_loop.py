"""One background thread with an event loop, in which all connections live: for sync and async callers alike.

An `asyncio` program awaits it without blocking its own loop, and a program without a loop waits for it. After a
fork the child makes a new one, with new connections; it never uses those of its parent.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def submit(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Runs it in the background thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, _running_loop())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it in the background thread, and waits. An interrupt of the caller cancels it."""
    future = submit(coroutine)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def arun(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs it in the background thread, and awaits it. A cancel of the caller cancels it."""
    return await asyncio.wrap_future(submit(coroutine))


def refuse_in_async(method: str, instead: str) -> None:
    """A wait that blocks the event loop of its own thread stops everything in that loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"`{method}` would block this event loop; use `await {instead}`")


def watch(owner: Any) -> None:
    """Calls `owner._forget_connections()` in each child of a fork, and `owner.close()` when the program ends."""
    _owners.add(owner)


def _close_all() -> None:
    for owner in list(_owners):
        owner.close()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            # a daemon: a program that forgets to close its app still ends
            threading.Thread(target=_loop.run_forever, name="naq", daemon=True).start()
        return _loop


def _reset_in_child() -> None:
    global _loop, _lock
    # another thread may have held the lock at the fork
    _lock = threading.Lock()
    _loop = None
    for owner in list(_owners):
        owner._forget_connections()


_register: Callable[..., None] | None = getattr(os, "register_at_fork", None)
if _register is not None:
    _register(after_in_child=_reset_in_child)
atexit.register(_close_all)
