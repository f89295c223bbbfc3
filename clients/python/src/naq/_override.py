"""What the fixtures of :mod:`naq.pytest_plugin` put in place of an app's settings while a test runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._settings import Settings

if TYPE_CHECKING:
    from ._inline import Inline

_settings: Settings | None = None
_queue: str | None = None
_inline: Inline | None = None


def settings() -> Settings | None:
    """The settings that replace those of every app."""
    return _settings


def queue(wanted: str) -> str:
    """The queue of a job that is to go to this one."""
    return _queue or wanted


def inline() -> Inline | None:
    """What runs functions in place instead of enqueueing them."""
    return _inline


def set_settings(replacement: Settings | None, in_queue: str | None) -> None:
    """Replaces the settings of every app, and every queue by this one. None restores them."""
    global _settings, _queue
    _settings, _queue = replacement, in_queue


def set_inline(runner: Inline | None) -> None:
    """Runs functions in place. None restores the enqueueing."""
    global _inline
    _inline = runner
