"""Enqueueing once a database transaction has committed: a job must not run before its row exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import ConfigurationError
from .jobs import Call

_PENDING = "naq.on_commit"


def on_commit(action: Call[Any] | Callable[[], object], *, session: Any = None, using: str | None = None) -> None:
    """Enqueues a call once the current transaction has committed, and never if it is rolled back.

        naq.on_commit(send.bind("a@b.c"))                     # Django: the transaction of the default database
        naq.on_commit(send.bind("a@b.c"), session=session)    # SQLAlchemy: the transaction of this session

    Args:
        action: What to enqueue, or a function without arguments to call.
        session: A SQLAlchemy `Session`, `scoped_session` or `AsyncSession`. In its transaction, also of a savepoint.
        using: The alias of Django's database.

    Raises:
        ConfigurationError: There is neither a session nor a configured Django.

    If the process dies between the commit and the enqueue, the job is lost: where that matters, enqueue under an id
    that is derived from the row, and enqueue again what has no job.
    """
    run = action.enqueue if isinstance(action, Call) else action
    if not callable(run):
        raise TypeError(f"{action!r} is neither a call nor a function")
    if session is not None:
        _sqlalchemy(session, run)
    else:
        _django(run, using)


def _django(run: Callable[[], object], using: str | None) -> None:
    try:
        from django.conf import settings
        from django.db import transaction
    except ImportError:
        raise ConfigurationError("`on_commit` needs Django, or `session=` of SQLAlchemy") from None
    if not settings.configured:
        raise ConfigurationError("`on_commit` needs a configured Django, or `session=` of SQLAlchemy")
    transaction.on_commit(lambda: run(), using=using)


def _sqlalchemy(session: Any, run: Callable[[], object]) -> None:
    from sqlalchemy import event

    # an AsyncSession has the events of the session that it wraps, and a scoped_session those of its current one
    session = getattr(session, "sync_session", session)
    if callable(session) and not hasattr(session, "get_transaction"):
        session = session()
    if not session.in_transaction():
        session.begin()
    # one pair of listeners for each session: a long-lived one has many transactions
    if _PENDING not in session.info:
        session.info[_PENDING] = []
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
    within = session.get_nested_transaction() or session.get_transaction()
    session.info[_PENDING].append((within, run))


def _committed(session: Any) -> None:
    # a savepoint that is released is no commit
    if session.in_nested_transaction():
        return
    pending, session.info[_PENDING] = session.info[_PENDING], []
    for _, run in pending:
        run()


def _rolled_back(session: Any, transaction: Any) -> None:
    """Forgets what was asked for in the transaction, and keeps what was before its savepoint."""
    session.info[_PENDING] = [one for one in session.info[_PENDING] if not _is_within(one[0], transaction)]


def _is_within(inner: Any, transaction: Any) -> bool:
    while inner is not None and inner is not transaction:
        inner = inner.parent
    return inner is transaction
