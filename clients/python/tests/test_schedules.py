from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import time
import uuid
from typing import Any

import jsonschema
import pytest
from conftest import REPOSITORY

import naq
from naq.pytest_plugin import Worker, program


def naq_json(worker: Worker, *args: str) -> dict[str, Any]:
    done = subprocess.run([program(), *args, "--json"], env=worker.env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


def test_a_schedule_is_one_that_naq_reads(app: naq.App, naq_worker: Worker) -> None:
    name = f"s-{uuid.uuid4().hex[:8]}"
    schema = json.loads((REPOSITORY / "schemas/schedule.v1.json").read_text())
    call = app.command("./backup.sh", timeout="1h")
    schedule = app.schedule(
        call, name, cron="30 2 * * *", tz="Europe/Berlin", overlap="skip", misfire="all", repeat=3,
        start=dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc), end=dt.datetime(2031, 1, 1, tzinfo=dt.timezone.utc),
    )  # fmt: skip
    stored = schedule.read()
    jsonschema.Draft202012Validator(schema).validate(stored)
    shown = naq_json(naq_worker, "schedule", "show", name)
    assert (shown["cron"], shown["tz"], shown["status"]) == ("30 2 * * *", "Europe/Berlin", "active")
    assert shown["next_run"].startswith("2030-01-0")
    with pytest.raises(naq.JobConflict, match="pass replace=True to replace it"):
        app.schedule(call, name, every="1h")
    app.schedule(call, name, every="1h", replace=True)
    assert naq_json(naq_worker, "schedule", "show", name)["every"] == 3600
    assert schedule.pause()
    assert naq_json(naq_worker, "schedule", "show", name)["status"] == "paused"
    assert schedule.update(cron="0 3 * * *")
    assert schedule.resume()
    shown = naq_json(naq_worker, "schedule", "show", name)
    assert (shown["cron"], shown["status"]) == ("0 3 * * *", "active")
    assert "every" not in shown
    assert schedule.delete()
    assert schedule.read() is None
    assert not schedule.delete()
    assert not schedule.pause()
    # a name can be used again
    app.schedule(call, name, every="1h").delete()


def test_a_schedule_enqueues_jobs(app: naq.App, naq_worker: Worker) -> None:
    async def main() -> None:
        schedule = await app.aschedule(app.command("true"), every="300ms", repeat=2)
        until = time.monotonic() + 30
        while True:
            stored = await schedule.aread()
            assert stored is not None
            if stored.get("progress", {}).get("runs") == 2:
                break
            assert time.monotonic() < until
            await asyncio.sleep(0.1)
        outcome = await app.fetch(stored["progress"]["last_job_id"]).aresult(30)
        assert outcome.record["schedule_id"] == schedule.schedule_id
        assert await schedule.adelete()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "a schedule needs `cron` or `every`"),
        ({"cron": "* * * * *", "every": 60}, "give `cron` or `every`, not both"),
        ({"cron": "every day"}, "is not an expression such as"),
        ({"every": "50ms"}, "shorter than 100 ms"),
        ({"every": 60, "overlap": "maybe"}, "is not one of allow, skip, queue, replace"),
        ({"every": 60, "repeat": 0}, "repeat: 0 is not a number of at least 1"),
        ({"every": 60, "name": "a.b"}, "the schedule 'a.b' is not"),
        ({"every": 60, "start": dt.datetime(2030, 1, 1)}, "has no time zone"),
    ],
)
def test_a_wrong_schedule_is_refused(options: dict[str, Any], problem: str, naq_worker: Worker, app: naq.App) -> None:
    with pytest.raises(naq.ConfigurationError, match=problem):
        app.schedule(app.command("true"), **options)


def test_a_schedule_chooses_ids_and_times_itself(app: naq.App, naq_worker: Worker) -> None:
    for options in ({"id": "one"}, {"delay": 5}):
        with pytest.raises(naq.ConfigurationError, match="leave out `id`, `at` and `delay`"):
            app.schedule(app.command("true", **options), every=60)
