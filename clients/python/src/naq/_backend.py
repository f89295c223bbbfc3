"""What a client does with jobs, over NATS. Every method runs in the background thread's loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from . import _layout, _values
from ._connection import (
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    ApiError,
    Connection,
    NoAnswer,
    NoResponders,
    StoredMessage,
    read_object,
)
from ._json import dumps
from ._settings import Settings
from .errors import JobConflict, JobNotFound, NaqConnectionError, NaqError, WaitTimeout
from .outcome import ENDED

log = logging.getLogger("naq")

# after this time a wait says what it waits for
REMARK_AFTER = 2.0
# each job of `naq run` has a consumer of its own
_RUN_QUEUE = "run"
_PAUSED_UNTIL = "2262-01-01T00:00:00.000Z"


@dataclasses.dataclass(frozen=True)
class Request:
    """A job to enqueue."""

    queue: str
    job_id: str
    # whether the user chose the id: only then can it have been used before
    is_chosen: bool
    envelope: dict[str, Any]
    at: dt.datetime | None = None
    delay: float | None = None

    @property
    def payload(self) -> bytes:
        """The envelope as it is sent."""
        return dumps(self.envelope)


class NatsBackend:
    """Jobs, records and schedules on a NATS server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.prefix = settings.prefix
        self._connection = Connection(settings)

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def connect(self) -> None:
        """Connects, if it is not connected yet."""
        await self._connection.nats()

    # -- enqueue

    async def enqueue(self, request: Request) -> None:
        """Stores a job. Returns once NATS has acknowledged it."""
        due = await self._due(request)
        if request.is_chosen and await self._is_same_as_existing(request, due):
            return
        subject, headers = self._job_subject(request.queue, request.job_id), {"Nats-Msg-Id": request.job_id}
        if due is not None:
            target, subject = subject, self._delayed_subject(request.queue, request.job_id)
            text = _values.rfc3339(due)
            headers |= {
                "Nats-Schedule": f"@at {text}",
                "Nats-Schedule-Target": target,
                "Naq-Scheduled-For": text,
                "Nats-Expected-Last-Subject-Sequence": "0",
            }
        ack = await self._store(request, subject, headers)
        if ack.get("duplicate") and request.is_chosen and not await self._is_same_as_existing(request, due):
            raise JobConflict(
                f"the job id {request.job_id!r} was used within the last two minutes and its job was removed"
            )

    async def _store(self, request: Request, subject: str, headers: dict[str, str]) -> dict[str, Any]:
        attempts_left = 3
        while True:
            attempts_left -= 1
            try:
                return await self._connection.publish(subject, request.payload, headers)
            except NoResponders:
                if attempts_left == 0:
                    raise
                await self._create_queue(request.queue)
            except ApiError as error:
                # the first of two attempts has arrived, or another producer was faster
                if error.code == WRONG_LAST_SEQUENCE:
                    return {"duplicate": True}
                raise
            except NoAnswer:
                # the same message id makes a second attempt safe
                if attempts_left == 0:
                    raise

    async def _create_queue(self, queue: str) -> None:
        config = _layout.queue(self.prefix, queue)
        removed, _ = await self._connection.value(f"{self.prefix}_removed_queues", queue)
        if isinstance(removed, int):
            # ids may be made of the sequence, and must not repeat those of earlier jobs
            config["first_seq"] = removed
        await self._connection.create_stream(config)
        if queue != _RUN_QUEUE:
            await self._connection.create_consumer(config["name"], _layout.worker_consumer(self.prefix, queue))

    async def _due(self, request: Request) -> dt.datetime | None:
        now = await self.now() if request.at or request.delay else None
        if now is None:
            return None
        due = request.at or now + dt.timedelta(seconds=request.delay or 0)
        return due if due > now else None

    async def now(self) -> dt.datetime:
        """The server's time."""
        try:
            info = await self._connection.api(f"STREAM.INFO.KV_{self.prefix}_scheduler_lock")
        except (ApiError, NaqConnectionError):
            return dt.datetime.now(dt.timezone.utc)
        return _values.parse_time(info["ts"], "the server's time")

    async def _is_same_as_existing(self, request: Request, due: dt.datetime | None) -> bool:
        """Whether the job exists already, with the same envelope.

        Raises:
            JobConflict: It exists with another one.
        """
        record, _ = await self.record(request.job_id)
        delayed = await self._connection.message(
            self._stream(request.queue), last_by_subj=self._delayed_subject(request.queue, request.job_id)
        )
        queued = None
        if record is None and delayed is None:
            queued = await self._connection.message(
                self._stream(request.queue), last_by_subj=self._job_subject(request.queue, request.job_id)
            )
        same: bool
        if record is not None:
            digest = hashlib.sha256(request.payload).hexdigest()[:16]
            same = record["queue"] == request.queue and (
                record.get("envelope_digest") == digest or record.get("envelope") == request.envelope
            )
        elif delayed is not None or queued is not None:
            message = delayed or queued
            assert message is not None
            same = _parsed(message.data) == request.envelope
            if same and request.at is not None and delayed is not None and due is not None:
                same = delayed.headers.get("Naq-Scheduled-For") == _values.rfc3339(due)
        else:
            return False
        if not same:
            raise JobConflict(f"the job id {request.job_id!r} is taken by another envelope")
        return True

    # -- read and wait

    async def record(self, job_id: str) -> tuple[dict[str, Any] | None, int]:
        """A job's record with its revision. None if no worker has claimed the job."""
        record, revision = await self._connection.value(f"{self.prefix}_results", job_id)
        if record is None or record.get("placeholder"):
            return None, revision
        return dict(record), revision

    async def status(self, job_id: str, queue: str | None) -> dict[str, Any]:
        """A job's record, or for a job that no worker has claimed what its message says.

        Raises:
            JobNotFound: The job does not exist.
        """
        for _ in range(2):
            record, _revision = await self.record(job_id)
            if record is not None:
                return record
            found = await self._find_message(job_id, queue)
            if found is not None:
                name, message = found
                is_delayed = message.subject.startswith(f"{self.prefix}.delayed.")
                unclaimed: dict[str, Any] = {
                    "job_id": job_id,
                    "queue": name,
                    "state": "scheduled" if is_delayed else "queued",
                }
                unclaimed |= {"attempt": 0, "enqueue_time": message.time}
                if "Naq-Scheduled-For" in message.headers:
                    unclaimed["scheduled_for"] = message.headers["Naq-Scheduled-For"]
                return unclaimed
            # a worker may have claimed and ended it between the two reads
        raise JobNotFound(f"there is no job {job_id!r}; its record may have expired")

    async def wait(self, job_id: str, queue: str | None, timeout: float | None) -> dict[str, Any]:
        """Waits until a job has ended, and returns its record.

        Raises:
            JobNotFound: The job does not exist, or its record expired meanwhile.
            WaitTimeout: It has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        async with self._events(job_id) as events:
            record = await self._status_after_outage(events, job_id, queue, until)
            remark_at: float | None = time.monotonic() + REMARK_AFTER
            while record["state"] not in ENDED:
                now = time.monotonic()
                if until is not None and now >= until:
                    raise WaitTimeout(f"job {job_id} has not ended after {timeout:g} s: {await self._why(record)}")
                if remark_at is not None and now >= remark_at:
                    # a warning only if it waits for something that may never come
                    level = await self._remark_level(record)
                    log.log(level, "waiting for job %s: %s", job_id, await self._why(record))
                    remark_at = None
                bounds = [bound - now for bound in (until, remark_at) if bound is not None]
                message = await events.next(min(bounds, default=None))
                if message is _RECONNECTED:
                    record = await self._status_after_outage(events, job_id, queue, until)
                elif message is not None and not message.data:
                    raise JobNotFound(f"the record of job {job_id!r} was removed or has expired")
                elif message is not None:
                    changed = json.loads(message.data)
                    record = record if changed.get("placeholder") else changed
        return await self._with_objects(record)

    async def _status_after_outage(
        self, events: _Events, job_id: str, queue: str | None, until: float | None
    ) -> dict[str, Any]:
        """A job's record, as soon as NATS answers."""
        is_remarked = False
        while True:
            try:
                return await self.status(job_id, queue)
            except NaqConnectionError as error:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise
                if not is_remarked:
                    log.warning("waiting for job %s: %s", job_id, error)
                    is_remarked = True
                await events.wait_reconnected(1.0 if left is None else min(1.0, left))

    @contextlib.asynccontextmanager
    async def _events(self, job_id: str) -> AsyncIterator[_Events]:
        # The server reads the subscription before the requests that follow on the same connection, so what a
        # read of the record misses comes as an event. After a reconnect the client subscribes again by itself.
        client = await self._connection.nats()
        events = _Events()
        subscription = await client.subscribe(f"{self.prefix}.event.{job_id}", cb=events.put)
        self._connection.reconnected.add(events.reconnected)
        try:
            yield events
        finally:
            self._connection.reconnected.discard(events.reconnected)
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _with_objects(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with what did not fit into it."""
        bucket = f"{self.prefix}_files"
        for stream in ("stdout", "stderr"):
            output = record.get(stream) or {}
            if "object" in output and not output.get("truncated"):
                output["whole"] = await read_object(self._connection, bucket, output["object"])
        if "result_object" in record and "result" not in record:
            record["result"] = json.loads(await read_object(self._connection, bucket, record["result_object"]))
        return record

    # -- what a job waits for

    async def _remark_level(self, record: dict[str, Any]) -> int:
        is_unserved = record["state"] == "queued" and not await self._serving(record["queue"])
        return logging.WARNING if is_unserved else logging.INFO

    async def _why(self, record: dict[str, Any]) -> str:
        queue, state = record["queue"], record["state"]
        if state == "running":
            return f"it runs on worker {record.get('worker_id')} since {record.get('started_at')}"
        if state == "scheduled":
            return f"it starts at {record.get('scheduled_for', 'a later time')}"
        if state == "retrying":
            at = record.get("next_attempt_at")
            return f"its last attempt failed ({record.get('reason')}), and it is retried at {at}"
        if state == "waiting":
            waits = record.get("waits", {})
            dependencies = waits.get("dependencies", [])
            others = ", ".join(one["job"] if isinstance(one, dict) else str(one) for one in dependencies)
            return f"it waits for {others}" if others else f"it waits for a slot of {waits.get('concurrency_key')!r}"
        with contextlib.suppress(NaqError):
            if not await self._serving(queue):
                return f"no worker serves queue `{queue}`; start one with `naq worker {queue}`"
            if await self._is_paused(queue):
                return f"queue `{queue}` is paused; `naq queue resume {queue}` resumes it"
        return f"it is {state} in queue `{queue}`, whose workers are busy or lack a label that it requires"

    async def _serving(self, queue: str) -> list[dict[str, Any]]:
        return [worker for worker in await self.workers() if queue in worker.get("queues", [])]

    async def _is_paused(self, queue: str) -> bool:
        try:
            info = await self._connection.api(f"CONSUMER.INFO.{self._stream(queue)}.{self.prefix}-worker")
        except ApiError:
            return False
        return bool(info.get("paused"))

    async def workers(self) -> list[dict[str, Any]]:
        """The heartbeat of every worker."""
        bucket = f"{self.prefix}_workers"
        found = []
        for subject in await self._connection.keys(f"KV_{bucket}", f"$KV.{bucket}.*"):
            worker, _ = await self._connection.value(bucket, subject.rsplit(".", 1)[-1])
            if worker is not None:
                found.append(worker)
        return found

    # -- jobs that have not started

    async def _find_message(self, job_id: str, queue: str | None) -> tuple[str, StoredMessage] | None:
        for name in [queue] if queue else await self._queues():
            stream = self._stream(name)
            for subject in (self._job_subject(name, job_id), self._delayed_subject(name, job_id)):
                message = await self._connection.message(stream, last_by_subj=subject)
                if message is not None:
                    return name, message
            routed = f"{self.prefix}.route.{name}.*.{job_id}"
            message = await self._connection.message(stream, seq=1, next_by_subj=routed)
            if message is not None:
                return name, message
        return None

    async def _queues(self) -> list[str]:
        start, names, offset = f"{self.prefix}_queue_", [], 0
        while True:
            page = await self._connection.api("STREAM.NAMES", {"offset": offset})
            streams = page.get("streams") or []
            names += [stream.removeprefix(start) for stream in streams if stream.startswith(start)]
            offset += len(streams)
            if not streams or offset >= page.get("total", 0):
                return names

    async def cancel(self, job_id: str, queue: str | None) -> str:
        """Cancels a job. Returns `cancelled`, `requested` for one that runs, or `ended`."""
        for _ in range(20):
            done = await self._try_cancel(job_id, queue)
            if done is not None:
                return done
        raise JobConflict(f"job {job_id} changed 20 times while it was to be cancelled; try again")

    async def _try_cancel(self, job_id: str, queue: str | None) -> str | None:
        bucket = f"{self.prefix}_results"
        stored, revision = await self._connection.value(bucket, job_id)
        record = None if stored is None or stored.get("placeholder") else dict(stored)
        if record is not None and record["state"] in ENDED:
            return "ended"
        if record is not None and record["state"] == "running":
            return await self._request_cancel(record, revision)
        found = await self._find_message(job_id, record["queue"] if record else queue)
        message = found[1] if found else None
        if record is not None and record["state"] == "retrying" and message is None:
            return await self._request_cancel(record, revision)
        envelope = _parsed(message.data) if message else (record or {}).get("envelope")
        if envelope is None:
            again = await self._connection.value(bucket, job_id)
            if again[1] != revision:
                return None
            raise JobNotFound(f"there is no job {job_id!r}; its record may have expired")
        name = record["queue"] if record else found[0]  # type: ignore[index]
        # Other jobs or the index of blocked jobs may refer to it. A worker that receives a message of a job
        # that has ended releases them, so it gets one, before the record says so.
        needs_worker = bool((stored or {}).get("has_dependents")) or (record or {}).get("state") == "waiting"
        if needs_worker:
            await self._connection.publish(self._job_subject(name, job_id), dumps(envelope), {})
        ended = self._cancelled(record, job_id, name, envelope, message, bool((stored or {}).get("has_dependents")))
        ttl = envelope.get("result_ttl", "7d") if isinstance(envelope, dict) else "7d"
        if not await self._write(bucket, job_id, ended, revision, _values.seconds(ttl, "result_ttl")):
            return None
        if message is not None and (not needs_worker or ".delayed." in message.subject):
            await self._remove(self._stream(name), message.sequence)
        return "cancelled"

    def _cancelled(
        self,
        record: dict[str, Any] | None,
        job_id: str,
        queue: str,
        envelope: Any,
        message: StoredMessage | None,
        has_dependents: bool,
    ) -> dict[str, Any]:
        now = _values.rfc3339(dt.datetime.now(dt.timezone.utc))
        ended = dict(record or {"job_id": job_id, "queue": queue, "attempt": 0})
        for field in ("lease", "waits", "next_attempt_at", "placeholder", "error"):
            ended.pop(field, None)
        if record is None and message is not None:
            ended["enqueue_time"] = message.headers.get("Naq-Enqueue-Time", message.time)
            if isinstance(envelope, dict) and envelope.get("labels"):
                ended["labels"] = envelope["labels"]
        ended |= {"state": "cancelled", "reason": "cancelled", "cancel_requested": True, "finished_at": now}
        ended["envelope"] = envelope
        if has_dependents:
            ended["has_dependents"] = True
        return ended

    async def _request_cancel(self, record: dict[str, Any], revision: int) -> str | None:
        """Writes the request first: the worker finds it there even if the notification is lost."""
        record["cancel_requested"] = True
        if not await self._write(f"{self.prefix}_results", record["job_id"], record, revision, None):
            return None
        worker = (record.get("lease") or {}).get("worker_id")
        if worker:
            with contextlib.suppress(NaqError):
                subject = f"{self.prefix}.control.worker.{worker}"
                await self._connection.request(subject, dumps({"cancel": record["job_id"]}))
        return "requested"

    async def change_delayed(self, job_id: str, *, at: dt.datetime | None, paused: bool | None) -> bool:
        """Reschedules, pauses or resumes a delayed job. False if no such job waits for its time."""
        for _ in range(20):
            message = None
            for name in await self._queues():
                subject = self._delayed_subject(name, job_id)
                message = await self._connection.message(self._stream(name), last_by_subj=subject)
                if message is not None:
                    break
            if message is None or "Naq-Attempt" in message.headers:
                return False
            was_paused = "Naq-Paused" in message.headers
            due = at or _values.moment(message.headers["Naq-Scheduled-For"], "Naq-Scheduled-For")
            text = _values.rfc3339(due)
            is_paused = was_paused if paused is None else paused
            kept = {name: value for name, value in message.headers.items() if not name.startswith("Nats-")}
            kept.pop("Naq-Paused", None)
            if is_paused:
                kept["Naq-Paused"] = _values.rfc3339(dt.datetime.now(dt.timezone.utc))
            headers = {
                **kept,
                "Naq-Scheduled-For": text,
                "Naq-Enqueue-Time": message.headers.get("Naq-Enqueue-Time", message.time),
                "Nats-Schedule": f"@at {_PAUSED_UNTIL if is_paused else text}",
                "Nats-Schedule-Target": self._job_subject(name, job_id),
                "Nats-Rollup": "sub",
                "Nats-Expected-Last-Subject-Sequence": str(message.sequence),
            }
            try:
                await self._connection.publish(message.subject, message.data, headers)
                return True
            except ApiError as error:
                # it has started, or another program changed it: look again
                if error.code != WRONG_LAST_SEQUENCE:
                    raise
        raise JobConflict(f"delayed job {job_id} changed 20 times meanwhile; try again")

    async def purge(self, queue: str) -> int:
        """Removes the jobs of a queue that no worker runs. Returns their number."""
        stream = self._stream(queue)
        try:
            subjects = await self._connection.keys(stream, f"{self.prefix}.*.{queue}.>")
            subjects += await self._connection.keys(stream, f"{self.prefix}.queue.{queue}")
        except ApiError as error:
            raise JobNotFound(f"there is no queue {queue!r}") from error
        removed = 0
        for subject in subjects:
            job_id = subject.rsplit(".", 1)[-1]
            record, _ = await self.record(job_id)
            if record is not None and record["state"] == "running":
                continue
            answer = await self._connection.api(f"STREAM.PURGE.{stream}", {"filter": subject})
            removed += int(answer.get("purged", 0))
        return removed

    # -- schedules

    async def put_schedule(self, schedule: dict[str, Any], *, replace: bool) -> None:
        """Stores a schedule.

        Raises:
            JobConflict: A schedule of this name exists, and `replace` is false.
        """
        name, bucket = schedule["schedule_id"], f"{self.prefix}_scheduled_jobs"
        for _ in range(20):
            _, revision = existing = await self._schedule(name)
            if existing[0] is not None and not replace:
                raise JobConflict(f"there is a schedule {name!r} already; pass replace=True to replace it")
            if await self._write(bucket, name, schedule, revision, None):
                return
        raise JobConflict(f"schedule {name} changed 20 times meanwhile; try again")

    async def _schedule(self, name: str) -> tuple[dict[str, Any] | None, int]:
        value, revision = await self._connection.value(f"{self.prefix}_scheduled_jobs", name)
        return value, revision

    async def schedule(self, name: str) -> dict[str, Any] | None:
        """A schedule. None if there is none of this name."""
        return (await self._schedule(name))[0]

    async def change_schedule(self, name: str, changes: dict[str, Any]) -> bool:
        """Changes fields of a schedule; None removes one. False if there is no such schedule."""
        for _ in range(20):
            schedule, revision = await self._schedule(name)
            if schedule is None:
                return False
            changed = {**schedule, **changes}
            changed = {field: value for field, value in changed.items() if value is not None}
            if await self._write(f"{self.prefix}_scheduled_jobs", name, changed, revision, None):
                return True
        raise JobConflict(f"schedule {name} changed 20 times meanwhile; try again")

    async def delete_schedule(self, name: str) -> bool:
        """Removes a schedule. False if there is none."""
        for _ in range(20):
            schedule, revision = await self._schedule(name)
            if schedule is None:
                return False
            headers = {"KV-Operation": "DEL", "Nats-TTL": "600s"}
            if await self._write(f"{self.prefix}_scheduled_jobs", name, None, revision, None, headers):
                return True
        raise JobConflict(f"schedule {name} changed 20 times meanwhile; try again")

    # -- writing

    async def _write(
        self,
        bucket: str,
        key: str,
        value: Any,
        revision: int,
        ttl: float | None,
        headers: dict[str, str] | None = None,
    ) -> bool:
        """Writes a value if it is still at this revision. Creates the bucket if it does not exist."""
        sent = {"Nats-Expected-Last-Subject-Sequence": str(revision), **(headers or {})}
        if ttl:
            sent["Nats-TTL"] = f"{max(600, int(ttl))}s"
        payload = b"" if value is None else dumps(value)
        for attempt in range(2):
            try:
                await self._connection.publish(f"$KV.{bucket}.{key}", payload, sent)
                return True
            except NoResponders:
                if attempt == 1:
                    raise
                layout = _layout.schedules if bucket.endswith("_scheduled_jobs") else _layout.results
                await self._connection.create_stream(layout(self.prefix))
            except ApiError as error:
                if error.code == WRONG_LAST_SEQUENCE:
                    return False
                raise
        return False

    async def _remove(self, stream: str, sequence: int) -> None:
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})
        except ApiError as error:
            # a worker has received it meanwhile, found the record, and acknowledged it
            if error.code not in (STREAM_NOT_FOUND, 10043, 10057, 10037):
                raise

    def _stream(self, queue: str) -> str:
        return f"{self.prefix}_queue_{queue}"

    def _job_subject(self, queue: str, job_id: str) -> str:
        return f"{self.prefix}.queue.{queue}.{job_id}"

    def _delayed_subject(self, queue: str, job_id: str) -> str:
        return f"{self.prefix}.delayed.{queue}.{job_id}"


_RECONNECTED = Msg(None)  # type: ignore[arg-type]


class _Events:
    """The events of one job, and reconnects, after which events may be missing."""

    def __init__(self) -> None:
        self.reconnected = asyncio.Event()
        self._queue: asyncio.Queue[Msg] = asyncio.Queue()

    async def put(self, message: Msg) -> None:
        self._queue.put_nowait(message)

    async def wait_reconnected(self, timeout: float) -> None:
        """Waits for a reconnect, at most so long."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.reconnected.wait(), timeout)
        self.reconnected.clear()

    async def next(self, timeout: float | None) -> Msg | None:
        """The next event, or None after the timeout."""
        get = asyncio.ensure_future(self._queue.get())
        reconnect = asyncio.ensure_future(self.reconnected.wait())
        try:
            done, _ = await asyncio.wait([get, reconnect], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if get in done:
                return get.result()
            if reconnect in done:
                self.reconnected.clear()
                return _RECONNECTED
            return None
        finally:
            get.cancel()
            reconnect.cancel()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
