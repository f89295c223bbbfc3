"""Envelopes are what `schemas/envelope.v1.json` describes, and mistakes are refused where they are made."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tasks

import naq

app = naq.App("nats://127.0.0.1:1")
UTC = dt.timezone.utc

CALLS = {
    "command": app.command("echo", "a", 1, 2.5, True, Path("/tmp")),
    "script": app.script("echo $1", "a"),
    "function by name": app.call("tasks:f", 1, {"a": [None]}, key=[1.5]),
    "function": tasks.count_words.bind("some text", min=3),
    "plain function": app.call(tasks.plain, 1, b=2),
    "models": tasks.resize.bind(tasks.Image(path="a.png", size=(3, 4)), tasks.Size(1, 2)),
    "options": app.command(
        Path("./report.sh"),
        queue="q",
        id="one",
        delay=dt.timedelta(minutes=5),
        retries=3,
        retry_delay=["1s", 2, dt.timedelta(seconds=1.5)],
        retry_strategy="exponential",
        retry_max_delay="1h 30m",
        retry_jitter=False,
        retry_on=[1, 2],
        fatal_on=[3],
        success_on=(4,),
        timeout="250ms",
        expires_at=dt.datetime(2030, 1, 1, tzinfo=UTC),
        result_ttl=0,
        depends_on=["a", {"job": "b", "on": "failure", "as": "fetch"}, "build-seq-7"],
        inputs="all",
        dependency_timeout="1d",
        concurrency_key="key",
        concurrency_max=2,
        requires={"gpu": "yes"},
        labels={"kind": "x"},
        meta={"any": [1, None]},
        env={"REGION": "eu"},
        secrets=["TOKEN"],
        cwd=Path("/srv"),
        files=[{"path": "a/b", "digest": "sha256:" + "0" * 64, "bytes": 3, "executable": True}],
        artifacts=["out/*.csv"],
        limits={"memory": "256M", "cpu_time": dt.timedelta(minutes=1), "cpus": 0.5, "processes": 3, "nice": 5},
        stdin=b"\xff",
        overlap_ok=True,
        must_understand=["timeout", "limits.memory"],
    ),
    "input": app.command("cat", input={"a": 1}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_envelope_is_valid(name: str, envelope_schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(envelope_schema).validate(CALLS[name].envelope())


def test_a_function_travels_as_the_protocol_says() -> None:
    assert CALLS["function"].envelope() == {
        "function": "tasks:count_words",
        "runner": "python",
        "args": ["some text"],
        "kwargs": {"min": 3},
    }


def test_every_option_is_a_field_of_the_envelope_or_says_where_and_when(envelope_schema: dict[str, Any]) -> None:
    renamed = {"retries": "max_retries", "id": "job_id", "queue": None, "delay": None, "at": None}
    for option in naq.Options.__annotations__:
        field = renamed.get(option, option)
        assert field is None or field in envelope_schema["properties"], option
    # what the scheduler, a rerun and naq itself set
    unset = {"version", "job_id", "enqueue_time", "schedule_id", "scheduled_for", "rerun_of", "traceparent"}
    unset |= {"command", "script", "function", "args", "kwargs", "stdin_base64", "max_retries", "script_digest"}
    assert envelope_schema["properties"].keys() - naq.Options.__annotations__.keys() == unset


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"retrys": 3}, "unknown option `retrys`; did you mean `retries`?"),
        ({"colour": 3}, "unknown option `colour`; the options are artifacts, at, "),
        ({"max_retries": 3}, "it is called `retries` here"),
        ({"queue": "a b"}, "the queue name 'a b' is not 1 to 64"),
        ({"id": "a.b"}, "the job id 'a.b'"),
        ({"id": "build-seq-7"}, "an id that naq derives"),
        ({"timeout": "5 minutes"}, "timeout: '5 minutes' is not a duration; write 250ms, 90s"),
        ({"timeout": True}, "timeout: True is not a duration"),
        ({"delay": -1}, "delay: -1 is not from 0 s"),
        ({"at": dt.datetime(2030, 1, 1)}, "has no time zone"),
        ({"at": dt.datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "give `at` or `delay`, not both"),
        ({"retries": 10_001}, "retries: 10001 is not a number from 0 to 10000"),
        ({"retry_strategy": "random"}, "is not fixed, linear or exponential"),
        ({"env": {"NAQ_X": "1"}}, "env.NAQ_X: a name has no `=`"),
        ({"env": {"A": 1}}, "env.A: 1 is not a text"),
        ({"labels": {"a": None}}, "labels.a: None is not a text"),
        ({"limits": {"ram": 1}}, "limits.ram: unknown; the limits are address_space"),
        ({"retry_on": [256]}, "256 is not an exit code"),
        ({"depends_on": 3}, "depends_on: 3 is not a job or the id of one"),
        ({"depends_on": {"job": "a", "on": "maybe"}}, "'maybe' is not success, failure or finished"),
        ({"depends_on": {"job": "a", "as": "../x"}}, "'../x' is not a name of 1 to 64"),
        ({"inputs": "some"}, "'some' is not named, all or stdin"),
        ({"secrets": "TOKEN"}, "secrets: 'TOKEN' is a text; give a list"),
        ({"cwd": "a\0b"}, "has a NUL"),
        ({"artifacts": "out"}, "artifacts: 'out' is a text; give a list"),
        ({"files": ["a"]}, "files[0]: 'a' has no `path`"),
        ({"files": [{"mode": 1}]}, "files[0].mode: unknown; a file has path"),
        ({"input": 1, "stdin": "a"}, "give one of `input` and `stdin`"),
        ({"meta": {1, 2}}, "meta: JSON cannot hold a set"),
        ({"concurrency_max": 0}, "concurrency_max: 0 is not"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any], problem: str) -> None:
    with pytest.raises((naq.NaqError, TypeError)) as caught:
        app.command("true", **options)
    assert problem in str(caught.value)
    with pytest.raises((naq.NaqError, TypeError)):
        app.job(**options)


def test_a_program_takes_only_what_a_process_can_receive() -> None:
    with pytest.raises(naq.ConfigurationError, match=r"args\[1\]: an argument of a program .* not a dict"):
        app.command("echo", "a", {"b": 1})
    with pytest.raises(naq.ConfigurationError, match="has a NUL"):
        app.command("echo", "a\0b")
    with pytest.raises(naq.ConfigurationError, match="command: '' is not a text"):
        app.command("")


def test_only_a_function_that_a_worker_can_import_is_a_job() -> None:
    def inner() -> None: ...

    for function in (inner, lambda: 1, [].append):
        with pytest.raises(naq.ConfigurationError):
            app.call(function).envelope()
    with pytest.raises(naq.ConfigurationError, match="write 'module:name'"):
        app.call("tasks.count_words")
    # it may be a job in its module, and is called as ever
    assert app.job(inner)() is None


def test_a_function_in_the_main_program_is_refused_with_the_reason() -> None:
    program: dict[str, Any] = {"__name__": "__main__", "naq": naq}
    exec("def f(): ...\nf = naq.App('nats://x').job(f)", program)
    with pytest.raises(naq.ConfigurationError, match="defined in the main program, which no worker can import"):
        program["f"].delay()


def test_wrong_arguments_are_refused_where_they_are_passed() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'text'"):
        tasks.count_words.delay()
    with pytest.raises(TypeError, match="unexpected keyword argument 'most'"):
        tasks.count_words.delay("a", most=3)


def test_the_decorator_keeps_the_function() -> None:
    assert tasks.count_words("some text", min=5) == 0
    assert tasks.count_words.__name__ == "count_words"
    assert tasks.count_words.__doc__ == "Counts the words of a text."
    assert repr(tasks.count_words) == "<naq.JobFunction tasks:count_words>"


def test_with_makes_a_copy() -> None:
    call = app.command("true", timeout=1)
    assert call.with_(timeout=2).envelope() == {"command": "true", "timeout": 2}
    assert call.envelope() == {"command": "true", "timeout": 1}


def test_a_method_is_no_job() -> None:
    class Mailer:
        @app.job
        def send(self) -> None: ...

    with pytest.raises(TypeError, match="is a method"):
        Mailer().send  # noqa: B018
