#!/usr/bin/env python3
"""A worker of naq's queues that has no code of naq: docs/worker-protocol.md in Python.

    pip install -r requirements.txt
    NAQ_NATS_URL=nats://127.0.0.1:4222 python3 worker.py QUEUE [--others]

It runs one job at a time. It is a partial worker: a job with a field that is not in HONOURED it rejects, or, with
--others, leaves to the other workers of the queue.
"""

import asyncio
import base64
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from datetime import datetime, timezone

import nats
from nats.js.errors import APIError

HONOURED = {
    "version",
    "job_id",
    "command",
    "args",
    "env",
    "cwd",
    "stdin",
    "timeout",
    "success_on",
    "labels",
    "meta",
    "enqueue_time",
    "traceparent",
}
TERMINAL = {"succeeded", "failed", "cancelled", "expired", "rejected"}
COPIED = ("labels", "rerun_of", "schedule_id", "traceparent")
OF_AN_ATTEMPT = (
    "reason",
    "error",
    "exit_code",
    "signal",
    "stdout",
    "stderr",
    "result",
    "result_object",
    "progress",
    "usage",
    "leaked",
    "warnings",
    "waits",
    "next_attempt_at",
    "finished_at",
    "superseded_sequence",
)
OUTPUT_BYTES = 64 << 10
RESULT_TTL = "604800s"
ENTRY_TTL = "604860s"
MAX_CRASHES = 3
TAKEOVER_AFTER = 10  # seconds
RETURNED_MAX = 3  # times at once; after that the server delivers the message again when `ack_wait` is over
WRONG_LAST_SEQUENCE = 10071
LAYOUT = pathlib.Path(__file__).parents[2] / "docs/layout.json"


def now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def output(data):
    """Captured bytes as a record keeps them: head and tail if they are many."""
    half, kept = OUTPUT_BYTES // 2, {"bytes": len(data)}
    parts = {"text": data} if len(data) <= OUTPUT_BYTES else {"text": data[:half], "tail": data[-half:]}
    if "tail" in parts:
        kept |= {"truncated": True, "missing_bytes": len(data) - 2 * half}
    try:
        return kept | {name: part.decode() for name, part in parts.items()}
    except UnicodeDecodeError:
        encoded = {name: base64.b64encode(part).decode() for name, part in parts.items()}
        return kept | {"base64" if name == "text" else name: part for name, part in encoded.items()}


def end_with_the_worker():
    """The job, which is about to start, is killed when the worker dies, in whatever way (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def honoured_envelope(data):
    """The envelope, and why this worker cannot honour it; empty if it can."""
    try:
        envelope = {name: value for name, value in json.loads(data).items() if value is not None}
    except (ValueError, AttributeError):
        return {}, "not a JSON object"
    others = sorted(set(envelope) - HONOURED)
    if others:
        return envelope, f"this worker does not know {others[0]}"
    if not isinstance(envelope.get("command"), str):
        return envelope, "it has no command"
    if not all(isinstance(arg, str) for arg in envelope.get("args", [])):
        return envelope, "this worker passes on only texts as arguments"
    if not isinstance(envelope.get("timeout", 1), (int, float)):
        return envelope, "this worker reads a timeout only as a number of seconds"
    return envelope, ""


class Conflict(Exception):
    """The record has changed since it was read."""


class LeaseLost(Exception):
    """Another worker has the job, or may have it soon: write nothing, and acknowledge nothing."""


class Worker:
    def __init__(self, client, queue, others):
        self.client, self.jetstream = client, client.jetstream()
        self.queue, self.others = queue, others
        self.stream, self.id = f"naq_queue_{queue}", str(uuid.uuid4())
        self.job, self.sequence, self.delivery = None, 0, 0  # of the lease that this worker holds
        self.started_at, self.ended = now(), 0
        self.look, self.stop = asyncio.Event(), asyncio.Event()
        self.connected_at = time.monotonic()  # without a break since then

    async def request(self, subject, body=b"", timeout=5):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return (await self.client.request(subject, body, timeout=timeout)).data

    async def api(self, what, body):
        return json.loads(await self.request(f"$JS.API.{what}", body))

    async def read(self, job):
        """The record and its revision, from the leader. None if there is no record."""
        subject = f"$KV.naq_results.{job}"
        message = (await self.api("STREAM.MSG.GET.KV_naq_results", {"last_by_subj": subject})).get("message")
        if not message:
            return None, 0
        headers = base64.b64decode(message.get("hdrs", ""))
        is_marker = b"KV-Operation" in headers or b"Nats-Marker-Reason" in headers
        data = base64.b64decode(message.get("data", ""))
        return (json.loads(data) if data and not is_marker else None), message["seq"]

    async def write(self, record, revision):
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        if record["state"] in TERMINAL:
            headers["Nats-TTL"] = RESULT_TTL
            await self.index(record)
        subject, data = f"$KV.naq_results.{record['job_id']}", json.dumps(record).encode()
        try:
            return (await self.jetstream.publish(subject, data, headers=headers)).seq
        except APIError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                raise Conflict from error
            raise

    async def index(self, record):
        """The entry by which lists find an unsuccessful job: before its record, and kept for longer."""
        if record["state"] != "succeeded":
            key = f"$KV.naq_dependents.unsuccessful.{record['state']}.{record['queue']}.{record['job_id']}"
            await self.jetstream.publish(key, b"{}", headers={"Nats-TTL": ENTRY_TTL})

    async def prepare(self):
        """Creates what is missing, and subscribes to the questions of other programs."""
        layout = json.loads(
            LAYOUT.read_text().replace("queue_build", f"queue_{self.queue}").replace(".build", f".{self.queue}")
        )
        for config in layout["streams"]:
            await self.api(f"STREAM.CREATE.{config['name']}", config)
        await self.api(f"CONSUMER.CREATE.{self.stream}.naq-worker", layout["consumers"][0])
        info = await self.api(f"CONSUMER.INFO.{self.stream}.naq-worker", {})
        self.ack_wait = info["config"]["ack_wait"] / 1e9
        await self.client.subscribe(f"naq.lease.{self.id}", cb=self.on_lease_question)
        await self.client.subscribe(f"naq.control.worker.{self.id}", cb=self.on_control)

    async def on_lease_question(self, question):
        asked = json.loads(question.data)
        mine = (self.job, self.sequence, self.delivery) == (asked["holds"], asked["sequence"], asked["delivery"])
        await question.respond(json.dumps({"state": "running" if mine else "released"}).encode())

    async def on_control(self, request):
        job = json.loads(request.data)
        mine = isinstance(job, dict) and job.get("cancel") == self.job
        if mine:
            self.look.set()  # the record says whether the job is to be cancelled
        await request.respond(json.dumps({"ok": mine}).encode())

    async def heartbeat(self):
        while True:
            running = [self.job] if self.job else []
            info = {
                "worker_id": self.id,
                "name": "foreign",
                "hostname": socket.gethostname(),
                "pid": os.getpid(),
                "version": "0",
                "queues": [self.queue],
                "concurrency": 1,
                "state": "busy" if running else "idle",
                "running": len(running),
                "jobs": running,
                "jobs_ended": self.ended,
                "containment": "none",
                "started_at": self.started_at,
                "last_seen": now(),
            }
            subject, headers = f"$KV.naq_workers.{self.id}", {"Nats-TTL": "15s"}
            with contextlib.suppress(nats.errors.Error):  # the next one is due soon
                await self.jetstream.publish(subject, json.dumps(info).encode(), headers=headers)
            await asyncio.sleep(5)

    async def serve(self):
        pulls = await self.jetstream.pull_subscribe_bind(consumer="naq-worker", stream=self.stream)
        while not self.stop.is_set():
            try:
                (message,) = await pulls.fetch(1, timeout=5)
            except (nats.errors.TimeoutError, nats.js.errors.FetchTimeoutError):
                continue
            self.requested_at = time.monotonic() - 5  # the server sent it no earlier than that
            try:
                if not await self.handle(message):
                    await asyncio.sleep(1)  # so that another worker gets it
            except (LeaseLost, Conflict, nats.errors.Error) as why:
                print(f"left a message to be delivered again: {why!r}", flush=True)
            finally:
                self.job = None

    async def handle(self, message):
        """Deals with a message. False if it was returned to the queue for another worker."""
        meta, headers = message.metadata, message.headers or {}
        if "Naq-Recheck" in headers:
            return await self.give_away(message)
        envelope, problem = honoured_envelope(message.data)
        tokens = message.subject.split(".")
        job = tokens[3] if len(tokens) == 4 else envelope.get("job_id") or headers.get("Nats-Msg-Id", "")
        if not re.fullmatch("[A-Za-z0-9_-]{1,64}", job):
            job = f"{self.queue}-seq-{meta.sequence.stream}"
        digest = hashlib.sha256(message.data.strip()).hexdigest()[:16]
        record, revision = await self.read(job)
        marks = {"has_dependents": True} if record and record.get("has_dependents") else {}
        record = None if record and record.get("placeholder") else record
        if record and record.get("envelope_digest", digest) != digest and record.get("envelope") != envelope:
            if record["state"] not in TERMINAL:
                raise LeaseLost  # what that envelope is shows at its end
            job, marks, problem = f"{self.queue}-seq-{meta.sequence.stream}", {}, f"the job id `{job}` is taken"
            record, revision = await self.read(job)
        if record and record["state"] in TERMINAL:
            await self.index(record)
            await self.after_end(record)
            return await self.acknowledge(message)
        if problem and self.others:
            return await self.give_away(message)
        if record and record["state"] == "running":
            record = await self.take_over(record, message)
        elif record and (record["state"] != "queued" or record.get("cancel_requested")):
            return await self.give_away(message)
        first = {
            "job_id": job,
            "queue": self.queue,
            "enqueue_time": meta.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "envelope_digest": digest,
            "attempt": 0,
            **{name: envelope[name] for name in COPIED if name in envelope},
            **marks,
        }
        record = {k: v for k, v in (record or first).items() if k not in OF_AN_ATTEMPT}
        record.pop("lease", None)
        reason = "not_allowed"
        if record.get("crashes", 0) >= MAX_CRASHES:
            reason, problem = "crashed", "its workers crashed too often"
        if problem:
            state = "failed" if record["attempt"] else "rejected"
            record |= {"state": state, "reason": reason, "error": problem, "finished_at": now()}
            await self.dead_letter(record, message)
            await self.write(record, revision)
            await self.after_end(record)
            return await self.acknowledge(message)
        # The claim. Its answer names the revision that the outcome follows.
        self.job, self.sequence, self.delivery = job, meta.sequence.stream, meta.num_delivered
        record |= {
            "state": "running",
            "attempt": record["attempt"] + 1,
            "worker_id": self.id,
            "started_at": now(),
            "fence": max(int(time.time() * 1000), record.get("fence", 0) + 1),
            "lease": {"worker_id": self.id, "sequence": self.sequence, "delivery": self.delivery, "alone": True},
        }
        revision = await self.write(record, revision)
        outcome = await self.run(record, envelope, message)
        await self.finish(outcome, envelope, revision, message)
        return await self.acknowledge(message)

    async def take_over(self, record, message):
        """The record of a job whose lease has ended, with how it ended. Asks the holder until that is certain."""
        lease, silent = record["lease"], 0
        if lease["sequence"] != message.metadata.sequence.stream:
            stored = await self.api(f"STREAM.MSG.GET.{self.stream}", {"seq": lease["sequence"]})
            if "message" in stored:
                await self.acknowledge(message)  # the job runs by its other message
                raise LeaseLost
        question = {"holds": record["job_id"], "sequence": lease["sequence"], "delivery": lease["delivery"]}
        while True:
            try:
                state = json.loads(await self.request(f"naq.lease.{lease['worker_id']}", question, timeout=1))["state"]
            except nats.errors.NoRespondersError:
                state, silent = "absent", 3
            except nats.errors.TimeoutError:
                state, silent = "absent", silent + 1
            if state == "absent" and silent >= 3 and time.monotonic() - self.connected_at >= TAKEOVER_AFTER:
                break
            if state == "released":
                break
            if state not in ("stopping", "absent"):
                raise LeaseLost  # it runs
            await self.renew(message)
            await asyncio.sleep(1)
        crashed = state == "absent"
        alone = lease.get("alone") or record.get("suspect")
        count = ("crashes" if alone else "shared_crashes") if crashed else "lost_leases"
        record[count] = record.get(count, 0) + 1
        if count == "shared_crashes":
            record["suspect"] = True
        ended = {
            "worker_id": record["worker_id"],
            "at": now(),
            "attempt": record["attempt"],
            "crashed": crashed,
            "shared": count == "shared_crashes",
        }
        record["interruptions"] = (record.get("interruptions", []) + [ended])[-16:]
        return record

    async def renew(self, message):
        """Reports the job as in progress. The lease counts from when this was sent."""
        sent = time.monotonic()
        try:
            await self.request(message.reply, b"+WPI", timeout=2)
            self.requested_at = sent
        except nats.errors.Error:
            pass
        if time.monotonic() - self.requested_at > 0.9 * self.ack_wait:
            raise LeaseLost

    async def run(self, record, envelope, message):
        """Runs the job and returns the record of its outcome. Kills it if the lease ends."""
        record = dict(record)
        variables = {
            "JOB_ID": record["job_id"],
            "QUEUE": self.queue,
            "WORKER_ID": self.id,
            "ATTEMPT": record["attempt"],
            "MAX_ATTEMPTS": record["attempt"],
            "FENCE": record["fence"],
        }
        env = (
            {"PATH": os.environ["PATH"]} | envelope.get("env", {}) | {f"NAQ_{k}": str(v) for k, v in variables.items()}
        )
        command, timeout = [envelope["command"], *map(str, envelope.get("args", []))], envelope.get("timeout")
        try:
            process = subprocess.Popen(
                command,
                env=env,
                cwd=envelope.get("cwd"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=end_with_the_worker,
            )
        except OSError as error:
            return record | {"state": "failed", "reason": "spawn", "error": str(error)}
        reading = asyncio.ensure_future(asyncio.to_thread(process.communicate, envelope.get("stdin", "").encode()))
        deadline = time.monotonic() + timeout if timeout else None
        stopped = None
        try:
            while not reading.done():
                pause = (
                    self.ack_wait / 3
                    if deadline is None
                    else min(self.ack_wait / 3, max(deadline - time.monotonic(), 0))
                )
                looking = asyncio.ensure_future(self.look.wait())
                await asyncio.wait([reading, looking], timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                looking.cancel()
                self.look.clear()
                if reading.done():
                    break
                await self.renew(message)
                present, _ = await self.read(record["job_id"])
                if not present or present.get("lease") != record["lease"]:
                    raise LeaseLost
                if present.get("cancel_requested"):
                    stopped = "cancelled"
                elif deadline and time.monotonic() >= deadline:
                    stopped = "timeout"
                if stopped:
                    os.killpg(process.pid, signal.SIGKILL)
                    await reading
        finally:
            if not reading.done():
                os.killpg(process.pid, signal.SIGKILL)
                await reading
        out, err = reading.result()
        record |= {"stdout": output(out), "stderr": output(err)}
        code = process.returncode
        record |= {"exit_code": code} if code >= 0 else {"signal": -code}
        if stopped == "cancelled":
            return record | {"state": "cancelled", "reason": "cancelled"}
        if code == 0 or code in envelope.get("success_on", []):
            return record | {"state": "succeeded"}
        return record | {"state": "failed", "reason": stopped or ("exit" if code > 0 else "signal")}

    async def finish(self, record, envelope, revision, message):
        """Dead letter, record, dependents: in this order."""
        lease = record.pop("lease")
        record |= {"finished_at": now(), "envelope": envelope}
        record.pop("suspect", None)
        if record["state"] == "failed":
            await self.dead_letter(record, message)
        while True:
            try:
                await self.write(record, revision)
                break
            except Conflict:
                present, revision = await self.read(record["job_id"])
                if not present or present.get("lease") != lease:
                    raise LeaseLost from None
                for mark in ("cancel_requested", "has_dependents"):
                    if present.get(mark):
                        record[mark] = True
        self.ended += 1
        await self.after_end(record)

    async def dead_letter(self, record, message):
        headers = {
            "Naq-Job-Id": record["job_id"],
            "Naq-State": record["state"],
            "Naq-Reason": record["reason"],
            "Naq-Error": record.get("error", ""),
            "Naq-Attempt": str(record["attempt"]),
            "Naq-Enqueue-Time": record["enqueue_time"],
        }
        await self.jetstream.publish(f"naq.failed.{self.queue}.{record['job_id']}", message.data, headers=headers)

    async def after_end(self, record):
        """Puts the jobs that wait for this one back into their queues. What they do is for their workers."""
        if not record.get("has_dependents"):
            return
        keys = {"subjects_filter": f"$KV.naq_dependents.{record['job_id']}.*"}
        info = await self.api("STREAM.INFO.KV_naq_dependents", keys)
        for key in info["state"].get("subjects") or []:
            dependent, _ = await self.read(key.rsplit(".", 1)[1])
            if dependent and dependent["state"] == "waiting":
                if "envelope" not in dependent:
                    continue  # in the object store: the leading scheduler releases it
                subject = f"naq.queue.{dependent['queue']}.{dependent['job_id']}"
                await self.jetstream.publish(subject, json.dumps(dependent["envelope"]).encode())
            await self.api("STREAM.PURGE.KV_naq_dependents", {"filter": key})

    async def acknowledge(self, message):
        await self.request(message.reply, b"+ACK")
        return True

    async def give_away(self, message):
        """Returns a message for another worker. One that nobody wants must not keep the others waiting."""
        if message.metadata.num_delivered <= RETURNED_MAX:
            await self.request(message.reply, b"-NAK")
        return False


async def main():
    async def reconnected():
        worker.connected_at = time.monotonic()
        worker.look.set()  # the record says whether the job is still this worker's

    client = await nats.connect(
        os.environ["NAQ_NATS_URL"],
        token=os.environ.get("NAQ_TOKEN"),
        reconnected_cb=reconnected,
        max_reconnect_attempts=-1,
    )
    worker = Worker(client, sys.argv[1], "--others" in sys.argv)
    await worker.prepare()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop.set)
    beating = asyncio.ensure_future(worker.heartbeat())
    print(f"serving {worker.queue} as {worker.id}", flush=True)
    await worker.serve()
    beating.cancel()
    await worker.jetstream.publish(f"$KV.naq_workers.{worker.id}", b"", headers={"KV-Operation": "DEL"})
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
