"""Enqueued after the commit, and never after a rollback."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import sqlalchemy
import tasks
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import naq
from naq._inline import Inline

CALL = tasks.count_words.bind("some text")


@pytest.fixture
def engine(tmp_path: Path) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(f"sqlite:///{tmp_path}/db")


def test_sqlalchemy_enqueues_after_the_commit(engine: sqlalchemy.Engine, naq_inline: Inline) -> None:
    with Session(engine) as session:
        naq.on_commit(CALL, session=session)
        assert not naq_inline.jobs
        session.commit()
        assert len(naq_inline.jobs) == 1
        session.execute(sqlalchemy.text("select 1"))
        session.commit()
        assert len(naq_inline.jobs) == 1, "once"


def test_sqlalchemy_enqueues_nothing_after_a_rollback(engine: sqlalchemy.Engine, naq_inline: Inline) -> None:
    with Session(engine) as session:
        naq.on_commit(CALL, session=session)
        session.rollback()
        session.execute(sqlalchemy.text("select 1"))
        session.commit()
    assert not naq_inline.jobs


def test_sqlalchemy_knows_savepoints(engine: sqlalchemy.Engine, naq_inline: Inline) -> None:
    with Session(engine) as session:
        naq.on_commit(CALL, session=session)
        outer = session.begin_nested()
        inner = session.begin_nested()
        naq.on_commit(CALL, session=session)
        inner.commit()
        outer.rollback()
        assert not naq_inline.jobs
        kept = session.begin_nested()
        naq.on_commit(CALL, session=session)
        kept.commit()
        session.commit()
    assert len(naq_inline.jobs) == 2, "of the savepoint that was rolled back none"


def test_sqlalchemy_scoped_session(engine: sqlalchemy.Engine, naq_inline: Inline) -> None:
    scoped = scoped_session(sessionmaker(engine))
    naq.on_commit(CALL, session=scoped)
    scoped.commit()
    assert len(naq_inline.jobs) == 1
    scoped.remove()


DJANGO = """
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
django.setup()
from django.db import transaction
import naq, tasks
from naq import _override
from naq._inline import Inline

inline = Inline()
_override.set_inline(inline)
call = tasks.count_words.bind("some text")
with transaction.atomic():
    naq.on_commit(call)
    assert not inline.jobs
assert len(inline.jobs) == 1
try:
    with transaction.atomic():
        naq.on_commit(call)
        raise KeyError
except KeyError:
    pass
assert len(inline.jobs) == 1
naq.on_commit(call)
assert len(inline.jobs) == 2, "at once without a transaction"
"""


def test_django(tmp_path: Path) -> None:
    import subprocess

    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{DJANGO}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_either_it_says_what_it_needs() -> None:
    with pytest.raises(naq.ConfigurationError, match="needs a configured Django, or `session=` of SQLAlchemy"):
        naq.on_commit(CALL)
    with pytest.raises(TypeError, match="neither a call nor a function"):
        naq.on_commit("tasks:f", session=object())  # type: ignore[arg-type]


def test_an_async_session_is_unwrapped(engine: sqlalchemy.Engine, naq_inline: Inline) -> None:
    class AsyncSession:
        def __init__(self, session: Session) -> None:
            self.sync_session = session

    async def main() -> None:
        with Session(engine) as session:
            naq.on_commit(CALL, session=AsyncSession(session))
            session.commit()

    asyncio.run(main())
    assert len(naq_inline.jobs) == 1
