"""Enqueues a job over NATS and waits for its outcome, with nats-py and no naq: see README.md."""

import asyncio
import json
import os
import sys
import uuid

import nats

ENDED = {"succeeded", "failed", "cancelled", "expired", "rejected"}


async def main() -> None:
    nc = await nats.connect(
        os.environ["NAQ_NATS_URL"], token=os.getenv("NAQ_TOKEN"), nkeys_seed=os.getenv("NAQ_NKEY")
    )
    job_id = str(uuid.uuid4())
    # subscribe before the enqueue: no change of the job's record is missed
    events = await nc.subscribe(f"naq.event.{job_id}")
    envelope = {"command": "echo", "args": ["hello from Python"], "timeout": "1m"}
    await nc.jetstream().publish(f"naq.queue.build.{job_id}", json.dumps(envelope).encode())
    record = {"state": "queued"}
    while record["state"] not in ENDED:
        record = json.loads((await events.next_msg(timeout=60)).data)
    await nc.close()
    print(record["state"], record.get("stdout", {}).get("text", record.get("error", "")).strip())
    sys.exit(record["state"] != "succeeded")


asyncio.run(main())
