"""What the workers of the Python systems import: one task that runs a command and returns what it printed, one that
calls a function, and one that takes its time. PEER names the system, PEER_REDIS its Redis.
"""

import os
import subprocess
import time

from functions import count_words

REDIS = os.environ["PEER_REDIS"]


def run_command(argv):
    """Both outputs are captured, as naq does, and standard input is empty."""
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return ended.stdout.decode()


def slow(path, seconds):
    """Leaves a line in a file each time that it runs."""
    with open(path, "a") as file:
        file.write("run\n")
    time.sleep(seconds)


if os.environ["PEER"] == "celery":
    from celery import Celery

    app = Celery("tasks", broker=REDIS, backend=REDIS)
    app.conf.update(
        # The documentation's advice for many short tasks is a high limit, 50 to 150, in place of 4.
        worker_prefetch_multiplier=100,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    if "PEER_VISIBILITY_S" in os.environ:
        app.conf.update(
            task_acks_late=True,
            worker_prefetch_multiplier=1,
            broker_transport_options={
                "visibility_timeout": float(os.environ["PEER_VISIBILITY_S"]),
                # With the defaults Celery looks for messages to deliver again only every 100 s. Its documentation
                # lowers these together with the timeout; only how soon the demonstration ends depends on them.
                "unacked_restore_interval": 1,
                "unacked_restore_throttle": 1,
            },
        )
    celery_run_command = app.task(run_command, name="run_command")
    celery_count_words = app.task(count_words, name="count_words")
    celery_slow = app.task(slow, name="slow")

if os.environ["PEER"] == "huey":
    from huey import RedisHuey

    huey = RedisHuey("peers", url=REDIS)
    huey_run_command = huey.task()(run_command)
    huey_count_words = huey.task()(count_words)
