"""The streams and buckets that a producer may have to create, as `docs/protocol.md` describes them."""

from __future__ import annotations

from typing import Any

_MARKER_TTL_NS = 600 * 1_000_000_000
_DUPLICATES_NS = 120 * 1_000_000_000


def queue(prefix: str, name: str) -> dict[str, Any]:
    """The stream of a queue."""
    return {
        "name": f"{prefix}_queue_{name}",
        "description": f"naq queue {name}",
        "subjects": [
            f"{prefix}.queue.{name}",
            f"{prefix}.queue.{name}.*",
            f"{prefix}.delayed.{name}.*",
            f"{prefix}.route.{name}.*.*",
            f"{prefix}.recheck.{name}.*",
        ],
        "retention": "workqueue",
        "storage": "file",
        "discard": "old",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "duplicate_window": _DUPLICATES_NS,
        "allow_rollup_hdrs": True,
        "allow_msg_schedules": True,
        "allow_atomic": True,
        "deny_delete": False,
        "republish": {"src": f"{prefix}.*.>", "dest": f"{prefix}.event.{{{{wildcard(1)}}}}.>"},
    }


def worker_consumer(prefix: str, name: str) -> dict[str, Any]:
    """The consumer that all workers of a queue share."""
    durable = f"{prefix}-worker"
    return {
        "name": durable,
        "durable_name": durable,
        "filter_subjects": [f"{prefix}.queue.{name}", f"{prefix}.queue.{name}.*"],
        "ack_policy": "explicit",
        "ack_wait": 30 * 1_000_000_000,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
        "max_waiting": 65_536,
        "max_ack_pending": -1,
    }


def schedules(prefix: str) -> dict[str, Any]:
    """The bucket of the schedules."""
    bucket = f"{prefix}_scheduled_jobs"
    return _bucket(bucket, "every schedule", f"{prefix}.schedule.>")


def results(prefix: str) -> dict[str, Any]:
    """The bucket of the records."""
    bucket = f"{prefix}_results"
    return _bucket(bucket, "the record of every job", f"{prefix}.event.>")


def _bucket(bucket: str, description: str, events: str) -> dict[str, Any]:
    return {
        "name": f"KV_{bucket}",
        "description": description,
        "subjects": [f"$KV.{bucket}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": 1,
        "max_msg_size": -1,
        "duplicate_window": _DUPLICATES_NS,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": _MARKER_TTL_NS,
        "deny_delete": True,
        "republish": {"src": f"$KV.{bucket}.>", "dest": events},
    }
