"""How each system is started, for run.py. Each has a control group of its own, with broker, workers and client.

Settings are those that the system's documentation recommends for many short jobs, or its defaults; comments say which.
Redis keeps nothing on disk, which is the best case of those that use it: naq's server writes every job and every
outcome to disk.
"""

import contextlib
import json
import os
import pathlib
import select
import shutil
import socket
import subprocess
import time

import install
from accounting import MARK, Group

HERE = pathlib.Path(__file__).resolve().parent
READY_S = 90
ANSWER_S = 300
# A system is idle if it uses less of a processor than this for this long.
SETTLE_S, SETTLE_STEP_S, IDLE_SHARE = 20, 0.4, 0.05
# What every job and every call is.
ECHO = [shutil.which("echo", path="/usr/bin:/bin"), "hello"]


class Failed(Exception):
    """A system did not do what it should."""


def free_port():
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class System:
    """A system with a number of slots, running until it is ended."""

    name = ""
    # It keeps no queue and no results.
    is_queue = True

    def __init__(self, options, folder, slots):
        self.options = options
        self.slots = slots
        self.folder = pathlib.Path(folder) / f"{self.name.replace(' ', '-').replace(',', '')}-{slots}"
        self.folder.mkdir(parents=True)
        self.group = Group(options.accounting)
        # Nothing of the environment that makes programs start more slowly, such as LANG, and the same for all.
        self.env = {
            "PATH": f"{install.PYTHON.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": str(HERE),
            "PYTHONPYCACHEPREFIX": str(install.FOLDER / "pycache"),
            MARK: self.group.name,
        }
        self.client = None

    @staticmethod
    def missing(_options):
        """What it needs and does not find. `None` if it can run."""
        return None

    def start(self):
        """Starts broker, workers and client, and waits until jobs have run."""

    def background(self, command, **options):
        """Starts a process of this system."""
        with open(self.folder / "log", "a") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "cwd": HERE, "env": self.env} | options
            process = subprocess.Popen(
                [str(word) for word in command],
                stderr=log,
                preexec_fn=self.group.enter,
                start_new_session=True,
                text=True,
                **options,
            )
        self.group.add(process)
        return process

    def shell(self, script):
        """Runs a script to its end. Returns what it prints."""
        process = self.background(["sh", "-c", script], stdout=subprocess.PIPE)
        try:
            printed, _ = process.communicate(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name}: no end after {ANSWER_S} s; {self.last_words()}") from None
        if process.returncode:
            raise Failed(f"{self.name}: exit code {process.returncode}; {self.last_words()}")
        return printed

    def start_client(self, command):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.client = self.background(command, **pipes)

    def ask(self, *question, patience_s=ANSWER_S):
        """Asks the client, as client.py says."""
        try:
            self.client.stdin.write(json.dumps(question) + "\n")
            self.client.stdin.flush()
            ready, _, _ = select.select([self.client.stdout], [], [], patience_s)
            line = self.client.stdout.readline() if ready else ""
        except OSError:
            line = ""
        if not line:
            raise Failed(f"{self.name}: no answer to {question[0]}; {self.last_words()}")
        return json.loads(line)

    def last_words(self):
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return f"its log ends: {' | '.join(lines[-3:])}"

    def commands(self, count):
        """Runs this many jobs. Returns how many have run, and the seconds until all results are stored."""
        return count, self.ask("commands", count, ECHO)

    def functions(self, count):
        return count, self.ask("functions", count)

    def settle(self):
        """Waits until its processes are idle, for some seconds at most: naq looks at the start which languages the
        machine has, and Celery and RQ end their start after the first jobs."""
        until = time.monotonic() + SETTLE_S
        used = None
        while time.monotonic() < until and (used is None or self.group.cpu_s() - used > IDLE_SHARE * SETTLE_STEP_S):
            used = self.group.cpu_s()
            time.sleep(SETTLE_STEP_S)

    def end(self):
        self.group.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class OnRedis(System):
    """With a Redis of its own."""

    system = ""

    @staticmethod
    def missing(_options):
        return None if install.redis_server() else "Redis"

    def start(self):
        self.port = free_port()
        url = f"redis://127.0.0.1:{self.port}/0"
        self.env |= {"PEER": self.system, "PEER_REDIS": url, "PEER_REDIS_PORT": str(self.port)}
        kept = {"none": ["--appendonly", "no"], "everysec": ["--appendonly", "yes", "--appendfsync", "everysec"]}
        self.redis = self.background(
            [install.redis_server(), "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
            + kept[self.options.redis]
        )
        until = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > until:
                    raise Failed(f"{self.name}: Redis does not start; {self.last_words()}") from None
                time.sleep(0.02)
        self.start_workers()
        self.start_client([install.PYTHON, HERE / "client.py"])
        self.ask(*self.first_question(), patience_s=READY_S)

    def first_question(self):
        return "functions", self.slots * 2

    def is_broker(self, pid):
        return pid == self.redis.pid


class PythonSystem(OnRedis):
    distribution = ""

    @classmethod
    def missing(cls, options):
        if cls.distribution not in options.versions:
            return cls.distribution
        return OnRedis.missing(options)


class Rq(PythonSystem):
    """Its default: each worker is a process that forks for each job. `worker-pool` is its way to run several."""

    name = "RQ"
    system = "rq"
    distribution = "RQ"
    worker_class = "rq.Worker"

    def start_workers(self):
        options = ["--quiet", "--url", self.env["PEER_REDIS"], "--worker-class", self.worker_class]
        command = ["worker"] if self.slots == 1 else ["worker-pool", "--num-workers", self.slots]
        self.background([install.PYTHON.parent / "rq", *command, *options])


class RqSimple(Rq):
    """Without the fork: a job that crashes or hangs takes its worker with it."""

    name = "RQ SimpleWorker"
    worker_class = "rq.SimpleWorker"


class Celery(PythonSystem):
    """Its default pool, prefork, with a process for each slot; for the prefetch see tasks.py. Gossip, mingle and
    heartbeats serve clusters and monitors; without them Celery costs less."""

    name = "Celery"
    system = "celery"
    distribution = "Celery"

    def start_workers(self, *more):
        idle = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [install.PYTHON.parent / "celery", "--app", "tasks", "worker", "--loglevel", "ERROR", *idle]
        self.background([*command, "--pool", "prefork", "--concurrency", self.slots, *more])


class CeleryWindow(Celery):
    """Each task is acknowledged after its end (`acks_late`): none is lost with its worker, as no job of naq is."""

    def __init__(self, options, folder, slots):
        super().__init__(options, folder, slots)
        self.env["PEER_VISIBILITY_S"] = str(options.window)

    def enqueue_slow(self, path, seconds):
        celery = install.PYTHON.parent / "celery"
        self.shell(f"{celery} --app tasks call slow --args '{json.dumps([str(path), seconds])}'")


class Huey(PythonSystem):
    """With workers that are processes, as its documentation says for work that needs processors. They block on Redis,
    so the settings of its polling do not matter."""

    name = "huey"
    system = "huey"
    distribution = "huey"

    def start_workers(self):
        options = ["--quiet", "--worker-type", "process", "--workers", self.slots]
        self.background([install.PYTHON.parent / "huey_consumer", "tasks.huey", *options])


class BullMq(OnRedis):
    """With several workers, as its documentation recommends: one process for each core, which share the slots. They
    wait for programs, so each runs several at once."""

    name = "BullMQ"
    system = "bullmq"

    @staticmethod
    def missing(options):
        return OnRedis.missing(options) if "BullMQ" in options.versions else "BullMQ"

    def start_workers(self):
        self.env["PEER_NODE_MODULES"] = str(install.NODE_MODULES)
        processes = min(self.slots, os.cpu_count())
        for number in range(processes):
            share = self.slots // processes + (number < self.slots % processes)
            self.background(["node", HERE / "bullmq.mjs", "worker", share])

    def start_client(self, _command):
        super().start_client(["node", HERE / "bullmq.mjs", "client"])

    def first_question(self):
        return "commands", self.slots * 2, ECHO


class TaskSpooler(System):
    """It keeps each output in a file. It has no bulk enqueue: each job is a process of its own that enqueues it."""

    name = "task-spooler"
    # In its list of jobs: those that have not ended.
    OPEN = "' (queued|running|allocating) '"

    @staticmethod
    def missing(_options):
        return None if shutil.which("tsp") else "task-spooler"

    def start(self):
        self.env |= {"TS_SOCKET": str(self.folder / "socket"), "TS_SLOTS": str(self.slots)}
        self.shell(f"tsp -S {self.slots}")
        self.commands(2)

    def commands(self, count):
        begun = time.monotonic()
        # Its list of ended jobs makes everything slower the longer it is. Its default keeps 1,000.
        loop = f"i=1; while [ $i -lt {count} ]; do tsp {' '.join(ECHO)} >/dev/null; i=$((i + 1)); done"
        ended = f"while tsp | grep -qE {self.OPEN}; do sleep 0.01; done"
        self.shell(f"tsp -C; {loop}; last=$(tsp {' '.join(ECHO)}); tsp -w $last; {ended}")
        return count, time.monotonic() - begun

    def end(self):
        with contextlib.suppress(Failed):
            self.shell("tsp -K")
        super().end()


class Xargs(System):
    """Queues nothing, and keeps one file of all outputs: what a shell can do."""

    name = "xargs -P"
    is_queue = False

    def commands(self, count):
        begun = time.monotonic()
        self.shell(f"seq {count} | xargs -P {self.slots} -n 1 {' '.join(ECHO)} >{self.folder}/outputs")
        return count, time.monotonic() - begun


class SpawnLimit(System):
    """`naq bench` has the loop: clone with shared memory, capture, reap, and nothing else."""

    name = "spawn limit"
    is_queue = False
    # In a loop for each slot, which all begin together, after all have started.
    START_S = 0.3

    def commands(self, count):
        start = time.clock_gettime(time.CLOCK_MONOTONIC) + self.START_S
        # the first run asks for some jobs, as of every system; a loop runs for some time
        seconds = self.options.seconds if count > self.slots * CALIBRATION else CALIBRATION_S
        command = [
            self.options.naq,
            "__spawn-limit",
            f"{start:.6f}",
            f"{seconds}",
            "0",  # no pause between two
            f"PATH={self.env['PATH']}",
            "--",
            *ECHO,
        ]
        loops = [self.background(command, stdout=subprocess.PIPE) for _ in range(self.slots)]
        # the first number of its line is how many it has started
        counts = [loop.communicate(timeout=ANSWER_S)[0].split()[:1] for loop in loops]
        if not all(counts):
            raise Failed(f"{self.name}: a loop has not counted; {self.last_words()}")
        return sum(int(counted) for [counted] in counts), seconds


# Jobs a slot of the first run of a system, by whose rate the others are sized, and its time for the spawn limit.
CALIBRATION = 12
CALIBRATION_S = 0.3


class Naq(System):
    """Defaults: each job in a namespace and a control group of its own, on a local server that flushes every second.

    `--quiet` as with the others. Jobs run as root only if the bench does.
    """

    name = "naq"
    function = "functions:count_words"
    worker_options = ()

    @staticmethod
    def missing(options):
        if "naq-client" not in options.versions:
            return "naq-client (run benches/peers/run.py --install)"
        return None

    def start(self):
        self.env |= {
            "PEER": "naq",
            "PEER_NAQ": str(self.options.naq),
            "PEER_FUNCTION": self.function,
            "NAQ_DATA_DIR": str(self.folder),
            "NAQ_CACHE_DIR": str(pathlib.Path(os.environ.get("NAQ_CACHE_DIR", "~/.cache/naq")).expanduser()),
            "NAQ_ALLOW_ROOT": "true",
            # the Python of the others, for a function
            "NAQ_PYTHON": str(install.PYTHON),
        }
        self.start_server()
        self.start_worker("--concurrency", self.slots)
        self.start_client([install.PYTHON, HERE / "client.py"])
        self.ask("functions", self.slots * 2, patience_s=READY_S)

    def start_server(self):
        command = [self.options.naq, "server", "start"]
        self.server = self.background(command)
        until = time.monotonic() + READY_S
        while "started: nats://" not in (self.folder / "log").read_text():
            if self.server.poll() is not None or time.monotonic() > until:
                raise Failed(f"{self.name}: its server does not start; {self.last_words()}")
            time.sleep(0.02)

    def start_worker(self, *options):
        self.background([self.options.naq, "worker", "--quiet", *options, *self.worker_options])

    def is_broker(self, pid):
        return "server" in pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:2] or pathlib.Path(
            f"/proc/{pid}/exe"
        ).resolve().name.startswith("nats-server")


class NaqCold(Naq):
    name = "naq, cold"


class NaqFork(Naq):
    """One process has loaded the module and forks for each call."""

    name = "naq, warm (fork)"
    worker_options = ("--warm", "python", "--preload", "functions")


class NaqReuse(Naq):
    """Each slot's process runs one call after another, as those of Celery and huey do."""

    name = "naq, warm (reuse)"
    worker_options = ("--warm", "python:reuse", "--preload", "functions")


class NaqStandby(Naq):
    """For modules that start threads: a process for each slot waits, runs one call and is replaced."""

    name = "naq, warm (standby)"
    function = "functions_with_thread:count_words"
    worker_options = ("--warm", "python", "--preload", "functions_with_thread")


class NaqWindow(Naq):
    """With two workers: the second one would get the message if the first one's window passed."""

    def __init__(self, options, folder, slots):
        super().__init__(options, folder, slots)
        self.env["NAQ_DEFAULT_ACK_WAIT"] = f"{options.window:g}s"

    def start(self):
        super().start()
        self.start_worker("--concurrency", self.slots)

    def enqueue_slow(self, path, seconds):
        self.shell(f"{self.options.naq} enqueue -- sh -c 'echo run >>{path}; sleep {seconds:g}'")


COMMAND_SYSTEMS = [SpawnLimit, Xargs, Naq, TaskSpooler, Huey, BullMq, Celery, RqSimple, Rq]
FUNCTION_SYSTEMS = [NaqReuse, NaqFork, NaqStandby, NaqCold, Huey, Celery, RqSimple, Rq]
MEMORY_SYSTEMS = [NaqFork, NaqReuse, Celery, Huey, Rq]
VISIBILITY_SYSTEMS = [NaqWindow, CeleryWindow]
