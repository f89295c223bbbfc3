"""Commands and scripts on a real server with a real worker."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import threading
import time

import pytest

import naq
from naq.pytest_plugin import Server, Worker

BOUND = 30


def test_a_command_returns_what_it_wrote(app: naq.App, naq_worker: Worker) -> None:
    outcome = app.command("sh", "-c", "cat; echo log >&2", stdin="text", labels={"a": "b"}).enqueue().result(BOUND)
    assert (outcome.stdout, outcome.stderr, outcome.text) == (b"text", b"log\n", "text")
    assert (outcome.ok, outcome.state, outcome.exit_code, outcome.attempt) == (True, "succeeded", 0, 1)
    assert outcome.labels == {"a": "b"}
    assert outcome.queue == naq_worker.queue
    assert None not in (outcome.enqueued_at, outcome.started_at, outcome.finished_at)
    assert outcome.enqueued_at <= outcome.started_at <= outcome.finished_at


def test_a_script_gets_its_arguments_and_writes_a_result(app: naq.App, naq_worker: Worker) -> None:
    source = (
        "#!/usr/bin/env python3\nimport json, os, sys\nos.write(3, json.dumps({'result': sys.argv[1:]}).encode())\n"
    )
    assert app.script(source, "a", 1, True).enqueue().result(BOUND).result == ["a", "1", "true"]


def test_a_failure_says_why(app: naq.App, naq_worker: Worker) -> None:
    with pytest.raises(naq.JobFailed) as caught:
        app.command("sh", "-c", "echo 'Error: no disk' >&2; exit 3").enqueue().result(BOUND)
    error = caught.value
    assert str(error).endswith("failed (exit 3): Error: no disk")
    assert (error.outcome.exit_code, error.type, error.message) == (3, "exit", "Error: no disk")
    assert error.trace == "Error: no disk\n"


def test_a_job_that_the_worker_refuses_is_rejected(app: naq.App, naq_worker: Worker) -> None:
    with pytest.raises(naq.JobRejected, match="LD_PRELOAD"):
        app.command("true", env={"LD_PRELOAD": "x"}).enqueue().result(BOUND)


def test_a_function_returns_its_result_or_raises(app: naq.App, naq_worker: Worker) -> None:
    assert app.enqueue("posixpath:join", "a", "b").result(BOUND) == "a/b"
    assert app.enqueue("textwrap:shorten", "one two three", width=9, placeholder="").result(BOUND) == "one two"
    with pytest.raises(naq.JobFailed) as caught:
        app.enqueue("json:loads", "{").result(BOUND)
    error = caught.value
    assert error.type == "json.decoder.JSONDecodeError"
    assert error.message.startswith("Expecting property name")
    assert "raw_decode" in error.trace


def test_a_function_that_no_worker_finds_says_where_it_was_looked_for(app: naq.App, naq_worker: Worker) -> None:
    with pytest.raises(naq.JobFailed) as caught:
        app.call("no_such_module:f").with_(retries=3).enqueue().result(BOUND)
    assert caught.value.type == "NotFound"
    assert caught.value.message.startswith("no module `no_such_module` in /")
    assert caught.value.outcome.attempt == 1


def test_output_is_whole_or_an_error(app: naq.App, naq_worker: Worker) -> None:
    # in the object store
    long = app.command("seq", 200_000, limits={"output": "4M"}).enqueue().result(BOUND)
    assert long.stdout == "".join(f"{n}\n" for n in range(1, 200_001)).encode()
    cut = app.command("seq", 200_000).enqueue().result(BOUND)
    with pytest.raises(naq.OutputIncomplete, match="limits="):
        _ = cut.stdout
    assert cut.stdout_preview.startswith("1\n2\n")
    assert cut.stdout_preview.endswith("200000\n")
    assert "bytes missing here" in cut.stdout_preview


def test_an_id_runs_once(app: naq.App, naq_worker: Worker) -> None:
    call = app.command("date", "+%N", id=f"id-{naq_worker.queue[:40]}")
    first = call.enqueue().result(BOUND)
    assert call.enqueue().result(BOUND).record == first.record
    with pytest.raises(naq.JobConflict, match="is taken by another envelope"):
        app.command("true", id=first.job_id).enqueue()


def test_an_id_that_waits_runs_once(app: naq.App, naq_server: Server) -> None:
    other = naq.App(naq_server.settings.servers[0], nkey=naq_server.settings.nkey, queue="unserved")
    for options in ({}, {"delay": "1h"}):
        call = other.command("true", id=f"wait-{len(options)}", **options)
        assert call.enqueue().state == call.enqueue().state
        with pytest.raises(naq.JobConflict):
            other.command("false", id=f"wait-{len(options)}", **options).enqueue()
    at = dt.datetime(2031, 1, 1, tzinfo=dt.timezone.utc)
    other.command("true", id="at", at=at).enqueue()
    other.command("true", id="at", at=at).enqueue()
    with pytest.raises(naq.JobConflict):
        other.command("true", id="at", at=at + dt.timedelta(1)).enqueue()


def test_a_delayed_job_starts_in_time(app: naq.App, naq_worker: Worker) -> None:
    started = time.monotonic()
    job = app.command("true", delay="1s").enqueue()
    assert job.state == "scheduled"
    job.result(BOUND)
    assert time.monotonic() - started >= 1
    past = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    assert app.command("true", at=past).enqueue().result(BOUND).ok


def test_dependencies(app: naq.App, naq_worker: Worker) -> None:
    broken = app.command("false").enqueue()
    after = app.command("true", depends_on=broken).enqueue()
    alarm = app.command("echo", "alarm", depends_on=[{"job": broken.id, "on": "failure"}]).enqueue()
    assert alarm.result(BOUND).text == "alarm\n"
    assert after.outcome(BOUND).reason == "dependency"


def test_a_retry_gets_the_checkpoint(app: naq.App, naq_worker: Worker) -> None:
    source = 'echo "attempt $NAQ_ATTEMPT $NAQ_CHECKPOINT"; echo "{\\"checkpoint\\": 7}" >&3; [ "$NAQ_ATTEMPT" = 2 ]'
    outcome = app.script(source, retries=1, retry_delay=0).enqueue().result(BOUND)
    assert outcome.text == "attempt 2 7\n"
    assert outcome.attempt == 2


def test_a_timeout_of_a_job(app: naq.App, naq_worker: Worker) -> None:
    outcome = app.command("sleep", 60, timeout="200ms").enqueue().outcome(BOUND)
    assert (outcome.state, outcome.reason) == ("failed", "timeout")


def test_cancel_in_every_state(app: naq.App, naq_worker: Worker) -> None:
    running = app.command("sleep", 600).enqueue()
    while running.state != "running":
        time.sleep(0.02)
    waiting = app.command("true", depends_on=running).enqueue()
    while waiting.state != "waiting":
        time.sleep(0.02)
    after_waiting = app.command("true", depends_on=waiting).enqueue()
    while after_waiting.state != "waiting":
        time.sleep(0.02)
    delayed = app.command("true", delay="1h").enqueue()
    after_delayed = app.command("true", depends_on=delayed).enqueue()
    while after_delayed.state != "waiting":
        time.sleep(0.02)
    retrying = app.command("false", retries=3, retry_delay="1h", retry_jitter=False).enqueue()
    while retrying.state != "retrying":
        time.sleep(0.02)
    for job in (waiting, delayed, retrying, running):
        assert job.cancel(), job
        with pytest.raises(naq.JobCancelled):
            job.result(BOUND)
        assert not job.cancel(), "it has ended"
    # the worker releases what depended on them
    assert after_waiting.outcome(BOUND).reason == "dependency"
    assert after_delayed.outcome(BOUND).reason == "dependency"
    with pytest.raises(naq.JobNotFound, match="there is no job 'none'"):
        app.fetch("none").cancel()


def test_a_cancelled_job_is_a_valid_record(app: naq.App, naq_worker: Worker) -> None:
    import json

    import jsonschema
    from conftest import REPOSITORY

    schema = json.loads((REPOSITORY / "schemas/record.v1.json").read_text())
    job = app.command("true", delay="1h", labels={"a": "b"}).enqueue()
    job.cancel()
    record = job.outcome(BOUND).record
    jsonschema.Draft202012Validator(schema).validate(record)
    assert record["labels"] == {"a": "b"}
    assert record["envelope"]["command"] == "true"


def test_a_wait_ends_in_time_and_says_what_the_job_waits_for(app: naq.App, naq_worker: Worker) -> None:
    job = app.command("sleep", 5).enqueue()
    while job.state != "running":
        time.sleep(0.02)
    with pytest.raises(naq.WaitTimeout, match=r"has not ended after 0.2 s: it runs on worker"):
        job.result("200ms")
    with pytest.raises(naq.WaitTimeout, match=r"it starts at 20"):
        app.command("true", delay="1h").enqueue().result(0.1)
    naq_worker.stop()
    with pytest.raises(naq.WaitTimeout, match=r"no worker serves queue `test-.*`; start one with `naq worker test-"):
        app.command("true").enqueue().result(0.1)


def test_a_wait_without_a_bound_says_what_it_waits_for(naq_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    other = naq.App(naq_server.settings.servers[0], nkey=naq_server.settings.nkey, queue="nobody")
    job = other.command("true").enqueue()
    waiting = threading.Thread(target=lambda: job.outcome())
    with caplog.at_level(logging.WARNING, "naq"):
        waiting.start()
        waiting.join(3)
        assert "no worker serves queue `nobody`; start one with `naq worker nobody`" in caplog.text
        job.cancel()
        waiting.join(BOUND)
    assert not waiting.is_alive()


def test_many_jobs_and_many_threads(app: naq.App, naq_worker: Worker) -> None:
    jobs = app.enqueue_many(app.command("echo", number) for number in range(300))
    assert len({job.id for job in jobs}) == 300
    results: list[str] = []

    def wait(mine: list[naq.Job[naq.Outcome]]) -> None:
        results.extend(job.result(BOUND).text.strip() for job in mine)

    threads = [threading.Thread(target=wait, args=(jobs[start::10],)) for start in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(map(int, results)) == list(range(300))


def test_a_batch_enqueues_nothing_if_one_is_wrong_and_names_those_that_failed(app: naq.App, naq_worker: Worker) -> None:
    def calls():
        yield app.command("true", id="batch-1")
        yield app.command("true", timeout="never")

    with pytest.raises(naq.ConfigurationError):
        app.enqueue_many(calls())
    with pytest.raises(naq.JobNotFound):
        app.fetch("batch-1").status()
    app.command("true", id="batch-2").enqueue()
    with pytest.raises(
        naq.BatchFailed, match="1 of 2 jobs were not enqueued; the first is number 1: the job id"
    ) as error:
        app.enqueue_many([app.command("true", id="batch-1"), app.command("false", id="batch-2")])
    assert error.value.jobs[0].id == "batch-1"
    assert error.value.jobs[1] is None


def test_asyncio_in_any_number_of_loops(app: naq.App, naq_worker: Worker) -> None:
    async def one(number: int) -> str:
        async with naq.App() as own:
            assert (await own.command("true").aenqueue()).id
        job = await app.command("echo", number).aenqueue()
        others = 0

        async def count() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0.001)

        counting = asyncio.create_task(count())
        outcome = await job.aresult(BOUND)
        counting.cancel()
        assert others > 1, "the loop ran meanwhile"
        return outcome.text

    assert [asyncio.run(one(number)) for number in range(3)] == ["0\n", "1\n", "2\n"]


def test_a_blocking_wait_in_a_loop_is_refused(app: naq.App, naq_worker: Worker) -> None:
    async def main() -> None:
        job = app.command("true").enqueue()
        with pytest.raises(RuntimeError, match=r"use `await job.aresult\(\)`"):
            job.result()
        await job.aresult(BOUND)

    asyncio.run(main())


def test_a_cancelled_await_stops_waiting(app: naq.App, naq_worker: Worker) -> None:
    async def main() -> None:
        job = await app.command("sleep", 30).aenqueue()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(job.aresult(), 0.3)
        assert await job.acancel()
        assert (await job.aoutcome(BOUND)).state == "cancelled"

    asyncio.run(main())


def test_the_payload_is_limited_by_the_server(app: naq.App, naq_worker: Worker) -> None:
    with pytest.raises(naq.StoreFull, match="bytes, and the server takes at most"):
        app.command("cat", input="x" * 2_000_000).enqueue()
