#!/usr/bin/env python3
"""Enqueues jobs with a plain NATS client, and reads their outcomes: no naq on the producer's side.

    pip install -r requirements.txt
    NAQ_NATS_URL=nats://127.0.0.1:4222 NAQ_NKEY=~/.local/share/naq/server/client.nk python3 produce.py

as `naq dev` prints them for its server; NAQ_TOKEN is for a server with a token. Needs a worker of the queue `build`: naq worker build
"""

import asyncio
import base64
import json
import os
import uuid

import nats

TERMINAL = {"succeeded", "failed", "cancelled", "expired", "rejected"}


def stdout(record):
    """The bytes a job wrote to standard output, from its record."""
    output = record.get("stdout", {})
    if "base64" in output:
        return base64.b64decode(output["base64"])
    return output.get("text", "").encode()


async def outcome(client, jetstream, job_id):
    """Waits for a job to end, however long ago that was."""
    # Subscribe to the events first, then read the record: no change in between is missed.
    events = await client.subscribe(f"naq.event.{job_id}")
    try:
        records = await jetstream.key_value("naq_results")
        try:
            record = json.loads((await records.get(job_id)).value)
        except nats.js.errors.KeyNotFoundError:
            record = {"state": "queued"}  # no worker has claimed it yet
        while record["state"] not in TERMINAL:
            record = json.loads((await events.next_msg(timeout=60)).data)
        return record
    finally:
        await events.unsubscribe()


async def by_jetstream(client, jetstream):
    """A JetStream publish is acknowledged once the job is stored. The message id becomes the
    job's id, so the producer knows it before it publishes, and sending it again is harmless."""
    job_id = str(uuid.uuid4())
    envelope = {
        "command": "echo",
        "args": ["from", "JetStream"],
        "timeout": "1m",
        # A worker that does not know the field rejects the job instead of running it without it.
        "must_understand": ["timeout"],
    }
    await jetstream.publish(
        "naq.queue.build", json.dumps(envelope).encode(), headers={"Nats-Msg-Id": job_id}
    )
    return await outcome(client, jetstream, job_id)


async def by_place(client, jetstream):
    """Without an id, the job is named after its queue and its sequence there, which the
    acknowledgement contains."""
    stored = await jetstream.publish("naq.queue.build", b'{"command": "echo", "args": ["no id"]}')
    return await outcome(client, jetstream, f"build-seq-{stored.seq}")


async def by_core(client, jetstream):
    """A core publish is not acknowledged: fire and forget. The id in the envelope
    identifies the job afterwards."""
    job_id = str(uuid.uuid4())
    envelope = {"job_id": job_id, "command": "sh", "args": ["-c", "echo core; exit 3"]}
    await client.publish("naq.queue.build", json.dumps(envelope).encode())
    await client.flush()
    return await outcome(client, jetstream, job_id)


async def main():
    client = await nats.connect(
        os.environ["NAQ_NATS_URL"],
        token=os.environ.get("NAQ_TOKEN"),
        nkeys_seed=os.environ.get("NAQ_NKEY"),
    )
    jetstream = client.jetstream()
    for produce in (by_jetstream, by_place, by_core):
        record = await produce(client, jetstream)
        text = stdout(record).decode().strip()
        print(f"{produce.__name__}: {record['state']} {record.get('exit_code')} {text}")
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
