"""The client of one system: enqueues and waits. PEER names the system. Run with the Python of target/peers.

It reads one JSON array a line: ["commands", n, argv], ["functions", n] or ["calls", n], and answers with one JSON
value: the seconds from the first enqueue until n results are stored, or, for calls, the list of the seconds that each
of n calls took, one after another, after one that is not counted.
"""

import asyncio
import json
import os
import subprocess
import sys
import time

TEXT = "the quick brown fox jumps over the lazy dog"
POLL_S = 0.01
# Between two calls, so that each finds an idle worker.
PAUSE_S = 0.01


class Rq:
    BATCH = 1000

    def __init__(self):
        import redis
        import rq

        self.rq = rq
        self.redis = redis.Redis.from_url(os.environ["PEER_REDIS"])
        self.queue = rq.Queue(connection=self.redis)
        self.finished = rq.registry.FinishedJobRegistry(queue=self.queue)

    def bulk(self, count, function, argument):
        """`enqueue_many`, one pipeline for each thousand, is RQ's bulk way."""
        stored = self.redis.zcard(self.finished.key)
        for start in range(0, count, self.BATCH):
            size = min(self.BATCH, count - start)
            self.queue.enqueue_many([rq_job(self.rq, function, argument) for _ in range(size)])
        while self.redis.zcard(self.finished.key) < stored + count:
            time.sleep(POLL_S)

    def commands(self, count, argv):
        self.bulk(count, "tasks.run_command", argv)

    def functions(self, count):
        self.bulk(count, "functions.count_words", TEXT)

    def call(self):
        job = self.queue.enqueue("functions.count_words", TEXT)
        result = job.latest_result(timeout=60)  # waits by XREAD
        assert result.return_value == 9


def rq_job(rq, function, argument):
    return rq.Queue.prepare_data(function, (argument,))


class Celery:
    def __init__(self):
        import redis
        import tasks

        self.tasks = tasks
        self.redis = redis.Redis.from_url(os.environ["PEER_REDIS"])

    def bulk(self, count, task, argument):
        """Celery has no bulk enqueue; one producer for all tasks saves the lookup of a connection for each."""
        keys = self.redis.dbsize()
        with self.tasks.app.producer_or_acquire() as producer:
            sent = [task.apply_async((argument,), producer=producer) for _ in range(count)]
        while self.redis.dbsize() < keys + count:
            time.sleep(POLL_S)
        # the queue itself is keys too, so that some results may be missing
        left = [f"celery-task-meta-{result.id}" for result in sent]
        while left:
            pipeline = self.redis.pipeline(transaction=False)
            for key in left:
                pipeline.exists(key)
            left = [key for key, exists in zip(left, pipeline.execute(), strict=True) if not exists]

    def commands(self, count, argv):
        self.bulk(count, self.tasks.celery_run_command, argv)

    def functions(self, count):
        self.bulk(count, self.tasks.celery_count_words, TEXT)

    def call(self):
        assert self.tasks.celery_count_words.delay(TEXT).get(timeout=60) == 9  # waits by SUBSCRIBE


class Huey:
    def __init__(self):
        import tasks

        self.tasks = tasks

    def bulk(self, count, task, argument):
        """huey has no bulk enqueue."""
        storage = self.tasks.huey.storage
        stored = storage.result_store_size()
        for _ in range(count):
            task(argument)
        while storage.result_store_size() < stored + count:
            time.sleep(POLL_S)

    def commands(self, count, argv):
        self.bulk(count, self.tasks.huey_run_command, argv)

    def functions(self, count):
        self.bulk(count, self.tasks.huey_count_words, TEXT)

    def call(self):
        result = self.tasks.huey_count_words(TEXT)
        # huey looks for the result again and again; every 0.1 s unless it is given less
        assert result.get(blocking=True, timeout=60, backoff=1, max_delay=0.0005) == 9


class Naq:
    """Jobs go by `naq enqueue --file`, the bulk way, in one process for each run; calls by the client for Python."""

    def __init__(self):
        import naq
        import nats

        self.program = os.environ["PEER_NAQ"]
        self.file = os.path.join(os.environ["NAQ_DATA_DIR"], "jobs")
        self.app = naq.App()
        self.function = os.environ["PEER_FUNCTION"]
        server = json.loads(self.output("server", "status", "--json"))["server"]
        self.loop = asyncio.new_event_loop()
        connecting = nats.connect(server["url"], nkeys_seed=server["nkey_file"])
        self.nats = self.loop.run_until_complete(connecting)
        self.stream = self.nats.jetstream()

    def output(self, *arguments):
        return subprocess.run([self.program, *arguments], check=True, stdout=subprocess.PIPE).stdout

    def bulk(self, count, envelope):
        with open(self.file, "w") as file:
            file.writelines([json.dumps(envelope) + "\n"] * count)
        self.output("enqueue", "--quiet", "--file", self.file)
        # a job is removed from its queue once its outcome is stored
        while self.loop.run_until_complete(self.stream.stream_info("naq_queue_default")).state.messages:
            time.sleep(POLL_S)

    def commands(self, count, argv):
        self.bulk(count, {"command": argv[0], "args": argv[1:]})

    def functions(self, count):
        self.bulk(count, {"runner": "python", "function": self.function, "args": [TEXT]})

    def call(self):
        assert self.app.enqueue(self.function, TEXT).result(timeout=60) == 9


def main():
    system = {"rq": Rq, "celery": Celery, "huey": Huey, "naq": Naq}[os.environ["PEER"]]()
    for line in sys.stdin:
        what, count, *rest = json.loads(line)
        if what == "calls":
            answer = []
            system.call()  # the first one connects
            for _ in range(count):
                begun = time.monotonic()
                system.call()
                answer.append(time.monotonic() - begun)
                time.sleep(PAUSE_S)
        else:
            begun = time.monotonic()
            getattr(system, what)(count, *rest)
            answer = time.monotonic() - begun
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
