"""The names of the first library."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import posixpath

import pytest
import tasks

import naq
from naq.pytest_plugin import Worker

BOUND = 30

# every name that `from naq import …` had, but for those that the module says have gone
NAMES = [
    "ConfigurationError",
    "NaqConnectionError",
    "JobExecutionError",
    "JobNotFoundError",
    "NaqException",
    "SerializationError",
    "Job",
    "Queue",
    "cancel_scheduled_job",
    "cancel_scheduled_job_sync",
    "enqueue",
    "enqueue_at",
    "enqueue_at_sync",
    "enqueue_in",
    "enqueue_in_sync",
    "enqueue_sync",
    "modify_scheduled_job",
    "modify_scheduled_job_sync",
    "pause_scheduled_job",
    "pause_scheduled_job_sync",
    "purge_queue",
    "purge_queue_sync",
    "resume_scheduled_job",
    "resume_scheduled_job_sync",
    "schedule",
    "schedule_sync",
    "JOB_STATUS",
    "SCHEDULED_JOB_STATUS",
    "WORKER_STATUS",
    "connect",
    "disconnect",
    "fetch_job_result",
    "fetch_job_result_sync",
    "list_workers",
    "list_workers_sync",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists(name: str) -> None:
    assert hasattr(naq, name)
    assert name == "Job" or name in naq.__all__


def test_those_that_have_gone_say_what_replaces_them() -> None:
    for name in ("Worker", "Scheduler", "Results", "get_nats_connection"):
        with pytest.raises(AttributeError, match=f"naq has no `{name}` any more: "):
            getattr(naq, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        naq.nothing  # noqa: B018


def test_the_blocking_ones_are_no_coroutines() -> None:
    for name in NAMES:
        if name.endswith("_sync"):
            assert inspect.iscoroutinefunction(getattr(naq, name.removesuffix("_sync"))), name
            assert not inspect.iscoroutinefunction(getattr(naq, name)), name
            assert getattr(naq, name).__name__ == name


def test_the_blocking_ones(app: naq.App, naq_worker: Worker) -> None:
    job = naq.enqueue_sync(app.command("echo", "hello"), timeout=60, max_retries=0, retry_delay=0)
    job.result(BOUND)
    assert naq.fetch_job_result_sync(job.job_id) == "hello\n"
    assert naq.fetch_result_sync is naq.fetch_job_result_sync
    later = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) + dt.timedelta(hours=1)
    delayed = naq.enqueue_at_sync(later, app.command("true"))
    assert delayed.state == "scheduled"
    assert naq.pause_scheduled_job_sync(delayed.job_id)
    assert naq.resume_scheduled_job_sync(delayed.job_id)
    with pytest.raises(naq.JobNotFoundError, match="is scheduled, so it has no result yet"):
        naq.fetch_job_result_sync(delayed.job_id)
    assert naq.cancel_scheduled_job_sync(delayed.job_id)
    assert not naq.cancel_scheduled_job_sync(delayed.job_id)
    broken = naq.enqueue_sync(app.command("sh", "-c", "echo no >&2; exit 1"))
    broken.outcome(BOUND)
    with pytest.raises(naq.JobExecutionError, match="no"):
        naq.fetch_job_result_sync(broken.job_id)
    with pytest.raises(naq.JobNotFoundError):
        naq.fetch_job_result_sync("none")
    assert naq_worker.queue in [queue for worker in naq.list_workers_sync() for queue in worker["queues"]]


def test_a_function_runs_in_a_worker(naq_worker: Worker) -> None:
    job = naq.enqueue_sync(posixpath.join, "a", "b", max_retries=0)
    job.outcome(BOUND)
    assert naq.fetch_job_result_sync(job.job_id) == "a/b"


def test_the_coroutines(app: naq.App, naq_worker: Worker) -> None:
    async def main() -> None:
        await naq.connect()
        job = await naq.enqueue(app.command("true"), queue_name="any")
        after = await naq.enqueue(app.command("true"), depends_on=[job])
        assert (await after.aresult(BOUND)).ok
        soon = await naq.enqueue_in(dt.timedelta(hours=1), app.command("true"), prefer_thread_local=True)
        now = dt.datetime.now(dt.timezone.utc)
        assert await naq.modify_scheduled_job(soon.job_id, scheduled_timestamp_utc=now.timestamp() + 1)
        assert (await soon.aresult(BOUND)).ok
        schedule = await naq.schedule(app.command("true"), interval=dt.timedelta(hours=1), repeat=5)
        assert await naq.pause_scheduled_job(schedule.job_id)
        assert (await schedule.aread())["status"] == naq.SCHEDULED_JOB_STATUS.PAUSED
        assert await naq.resume_scheduled_job(schedule.job_id)
        assert await naq.modify_scheduled_job(schedule.job_id, cron="0 5 * * *")
        assert (await schedule.aread())["cron"] == "0 5 * * *"
        assert await naq.cancel_scheduled_job(schedule.job_id)
        for change in (naq.pause_scheduled_job, naq.resume_scheduled_job, naq.cancel_scheduled_job):
            assert not await change(schedule.job_id)
        with pytest.raises(naq.ConfigurationError, match="nothing to change"):
            await naq.modify_scheduled_job("any")
        with pytest.raises(RuntimeError, match=r"`enqueue_sync\(\)` would block this event loop"):
            naq.enqueue_sync("tasks:f")
        await naq.disconnect()

    asyncio.run(main())


def test_a_queue(app: naq.App, naq_worker: Worker) -> None:
    async def main() -> None:
        naq_worker.stop()
        async with naq.Queue(naq_worker.queue) as queue:
            first = await queue.enqueue(app.command("true"))
            await queue.enqueue_in(dt.timedelta(hours=1), app.command("true"))
            assert await queue.purge() == 2
            with pytest.raises(naq.JobNotFoundError):
                await first.astatus()

    asyncio.run(main())


def test_a_function_with_its_arguments(naq_inline: object) -> None:
    assert naq.enqueue_sync(tasks.plain, 1, b=5, max_retries=2).result() == 6
    assert naq.enqueue_sync(tasks.count_words, "some text", queue_name="q").queue == "q"
