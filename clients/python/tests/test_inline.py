from __future__ import annotations

import asyncio

import jsonschema
import pytest
import tasks

import naq
from naq._inline import Inline


def test_a_function_runs_in_place_through_json(naq_inline: Inline) -> None:
    job = tasks.count_words.delay("some text", min=5)
    assert job.result() == 0
    assert job.state == "succeeded"
    assert naq_inline.jobs[0].envelope == {
        "function": "tasks:count_words",
        "runner": "python",
        "args": ["some text"],
        "kwargs": {"min": 5},
    }


def test_a_coroutine_is_awaited_and_classes_come_back(naq_inline: Inline) -> None:
    async def main() -> None:
        job = await tasks.resize.adelay(tasks.Image(path="a", size=(300, 20)), tasks.Size(200, 200))
        assert await job.aresult() == tasks.Size(200, 20)

    asyncio.run(main())


def test_results_come_back_as_the_annotation_says(naq_inline: Inline) -> None:
    assert tasks.tuples.delay().result() == (1, 2)


def test_what_json_cannot_hold_fails_as_in_a_worker(naq_inline: Inline) -> None:
    with pytest.raises(naq.JobFailed, match="the key 1 is a int") as caught:
        tasks.keys.delay().result()
    assert caught.value.type == "SerializationError"


def test_an_exception_has_type_message_and_trace(naq_inline: Inline) -> None:
    with pytest.raises(naq.JobFailed, match=r"failed \(exit 1\): ValueError: no") as caught:
        tasks.fail.delay("no").result()
    error = caught.value
    assert (error.type, error.message) == ("ValueError", "no")
    assert "in fail" in error.trace


def test_a_program_is_refused_with_the_reason(naq_inline: Inline, app: naq.App) -> None:
    with pytest.raises(naq.ConfigurationError, match="runs functions of this program, and not a command"):
        app.command("true").enqueue()


def test_what_is_enqueued_is_valid(naq_inline: Inline, envelope_schema: dict[str, object]) -> None:
    tasks.resize.with_(labels={"a": "b"}, delay="5m").bind(
        tasks.Image(path="a", size=(3, 2)), tasks.Size(2, 2)
    ).enqueue()
    jsonschema.Draft202012Validator(envelope_schema).validate(naq_inline.jobs[0].envelope)
    assert naq_inline.jobs[0].queue == "images"
