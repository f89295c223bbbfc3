#!/usr/bin/env python3
"""Runs the cases of `runners/conformance/cases` against a runner, as a worker would. Python 3.11, or 3.10 with pip; Linux.

    python3 runners/conformance/run.py python            # every case, cold and in each warm mode of its manifest
    python3 runners/conformance/run.py python node --mode cold
    python3 runners/conformance/run.py python --program ~/.pyenv/versions/3.9.18/bin/python
    python3 runners/conformance/run.py --all --case retry --verbose

The exit code is 0 if all cases pass. A runner whose program is not installed is skipped, and that is printed; with
`--require` it is a failure.
"""

import argparse
import fcntl
import json
import os
import pathlib
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

try:
    import tomllib
except ImportError:  # before Python 3.11
    from pip._vendor import tomli as tomllib

RUNNERS = pathlib.Path(__file__).resolve().parent.parent
CASES = pathlib.Path(__file__).resolve().parent / "cases"
CASE_TIMEOUT_S = 60
STARTED_TIMEOUT_S = 2
PONG_TIMEOUT_S = 2


class Failed(Exception):
    """A case does not hold."""


# --- manifests ---


class Runner:
    """One folder of `runners/`, with its program found."""

    def __init__(self, name, program=None):
        self.name = name
        self.folder = RUNNERS / name
        self.manifest = tomllib.loads((self.folder / "runner.toml").read_text())
        self.program = program or self.find_program()
        named = self.manifest.get("function", {}).get("shim")
        shims = [self.folder / named] if named else sorted(self.folder.glob("shim.*"))
        self.shim = shims[0].resolve() if shims else None
        self.extension = {"node": "mjs", "deno": "mjs", "bun": "mjs"}.get(name) or (self.manifest.get("extensions") or ["txt"])[0]
        self.script_file = self.manifest.get("script", {}).get("file")
        if not self.script_file:
            self.script_file = ".".join(["script", *self.manifest.get("extensions", [])[:1]])
        self.passes_descriptors = "fork" in self.manifest.get("warm", {}).get("modes", [])

    def find_program(self):
        for candidate in self.manifest["program"]:
            if candidate.startswith("${"):
                candidate = os.environ.get(candidate[2:-1], "")
            if "{project}" in candidate or not candidate:
                continue
            if found := shutil.which(candidate):
                return found
        return None

    def argv(self, section, **values):
        """The words of a command. `{args}` becomes as many words as there are; nothing passes a shell."""
        words = []
        for word in self.manifest[section]["argv"]:
            if word == "{args}":
                words += values["args"]
            else:
                words.append(self.fill(word, values))
        return words

    def env(self, section, **values):
        return {key: self.fill(word, values) for key, word in self.manifest[section].get("env", {}).items()}

    def fill(self, word, values):
        parameter = self.manifest.get("parameter", {})
        known = {"program": self.program, "shim": self.shim, parameter.get("name"): parameter.get("default"), **values}
        return re.sub(r"\{([a-z_]+)\}", lambda found: str(known[found[1]]), word)

    def probe(self):
        """The version, or None if the program is missing, too old, or does not start."""
        if self.program is None:
            return None
        probe = self.manifest["probe"]
        try:
            done = subprocess.run(self.argv("probe"), capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            return None
        printed = done.stdout + done.stderr
        found = re.search(rb"\d+(\.\d+)+", printed) or re.search(rb"\d+", printed)
        if done.returncode != 0:
            return None
        version = found[0].decode() if found else "of an unknown version"
        if not found:
            return version
        if numbers(version) < numbers(probe.get("at_least", "0")):
            return None
        return version


def numbers(version):
    return [int(part) for part in version.split(".")]


# --- processes ---


def high(descriptor):
    """The same descriptor with a number that no job uses."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return moved


def pipe():
    read, write = os.pipe()
    return high(read), high(write)


class Pipes:
    """stdin, stdout, stderr and the control channel of one process. `theirs` are its ends."""

    def __init__(self):
        pairs = [pipe() for _ in range(4)]
        self.stdin = pairs[0][1]
        self.reads = {"stdout": pairs[1][0], "stderr": pairs[2][0], "control": pairs[3][0]}
        self.theirs = [pairs[0][0], pairs[1][1], pairs[2][1], pairs[3][1]]
        self.data = {name: bytearray() for name in self.reads}
        for descriptor in self.reads.values():
            os.set_blocking(descriptor, False)

    def started(self, stdin):
        """Closes the ends of the process and writes its input, which must fit into a pipe."""
        for descriptor in self.theirs:
            os.close(descriptor)
        self.theirs = []
        try:
            os.write(self.stdin, stdin)
        except BrokenPipeError:
            pass
        os.close(self.stdin)
        self.stdin = None

    def read(self, name):
        """Reads what has arrived. False at the end of the pipe."""
        while True:
            try:
                piece = os.read(self.reads[name], 1 << 16)
            except BlockingIOError:
                return True
            if not piece:
                return False
            self.data[name] += piece

    def take(self):
        """What has been read, which is the job's; what comes later is not."""
        for name in self.reads:
            self.read(name)
        taken, self.data = self.data, {name: bytearray() for name in self.reads}
        return {name: bytes(data) for name, data in taken.items()}

    def close(self):
        for descriptor in [*self.reads.values(), *self.theirs, *([self.stdin] if self.stdin is not None else [])]:
            os.close(descriptor)


class Frames:
    """The worker's end of the warm protocol."""

    def __init__(self, end):
        self.socket = end
        self.buffer = bytearray()

    def send(self, descriptors=(), **frame):
        data = json.dumps(frame).encode()
        data = len(data).to_bytes(4, "big") + data
        if descriptors:
            sent = socket.send_fds(self.socket, [data], list(descriptors))
            data = data[sent:]
        self.socket.sendall(data)

    def read(self):
        """The frames that have arrived. None if the process has closed its end."""
        try:
            piece = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return None
        if not piece:
            return None
        self.buffer += piece
        frames = []
        while len(self.buffer) >= 4 and len(self.buffer) >= 4 + int.from_bytes(self.buffer[:4], "big"):
            size = int.from_bytes(self.buffer[:4], "big")
            frames.append(json.loads(bytes(self.buffer[4 : 4 + size])))
            del self.buffer[: 4 + size]
        return frames


class Job:
    """One run of one call or script: what is to be run, and how it went."""

    def __init__(self, case, step, runner, mode, folder):
        self.case, self.step, self.runner, self.mode = case, step, runner, mode
        self.folder = folder
        self.cwd = folder / "cwd"
        self.modules = folder / "modules"
        self.args = json.loads(step.get("args", "[]"))
        self.kwargs = json.loads(step.get("kwargs", "{}"))
        self.stdin = step.get("stdin", "").encode()
        self.send = dict(step.get("send", {}))
        # of the worker only what every worker has
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(folder)),
            "LANG": "C.UTF-8",
            "NAQ_JOB_ID": "conformance",
            "NAQ_ATTEMPT": "1",
            "NAQ_CONTROL_FD": "3",
            **step.get("env", {}),
        }
        self.outcome = {}

    def call(self):
        if named := of_language(self.step.get("calls", {}), self.runner.name):
            return named
        return f"./job.{self.runner.extension}:{self.step['call']}"

    def ended(self, status, taken):
        self.outcome = {"status": status, **taken}
        lines = taken["control"].split(b"\n")
        if lines.pop():
            raise Failed(f"the control channel ends in the middle of a line: {taken['control'][-80:]!r}")
        try:
            self.outcome["control"] = [json.loads(line.decode()) for line in lines]
        except ValueError as error:
            raise Failed(f"not one JSON object per line on the control channel: {error}: {lines!r}"[:2000]) from None


def status_of(code):
    """An exit code, or the name of a signal."""
    return code if code >= 0 else signal.Signals(-code).name.removeprefix("SIG")


class Watch:
    """Reads a job's pipes until something ends, and sends what the case sends."""

    def __init__(self, job, pipes, group):
        self.job, self.pipes, self.group = job, pipes, group
        self.selector = selectors.DefaultSelector()
        self.deadline = time.monotonic() + CASE_TIMEOUT_S
        self.kill_at = None
        # of mode fork
        self.shim = None
        for name, descriptor in pipes.reads.items():
            self.selector.register(descriptor, selectors.EVENT_READ, name)

    def add(self, descriptor, what):
        self.selector.register(descriptor, selectors.EVENT_READ, what)

    def wait(self, what, timeout=None, other=None):
        """Waits until the descriptor of that name, or of the other, has something to read. Returns their names."""
        until = self.deadline if timeout is None else min(self.deadline, time.monotonic() + timeout)
        while True:
            # also for what an earlier wait has read
            self.send_signal()
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at:
                os.killpg(self.group, signal.SIGKILL)
                self.kill_at = None
            if now >= until:
                raise Failed(f"waited in vain for {what}; stdout {bytes(self.pipes.data['stdout'])[-300:]!r}, "
                             f"stderr {bytes(self.pipes.data['stderr'])[-1500:].decode(errors='replace')}")
            bound = until if self.kill_at is None else min(until, self.kill_at)
            there = set()
            for key, _ in self.selector.select(bound - now):
                there |= {key.data} & {what, other}
                if key.data in self.pipes.reads and not self.pipes.read(key.data):
                    self.selector.unregister(key.fd)
            if there:
                return there

    def send_signal(self):
        """Sends what the case sends, if its text is on stdout."""
        send = self.job.send
        if not send or send["when"].encode() not in self.pipes.data["stdout"]:
            return
        self.job.send = {}
        os.killpg(self.group, signal.Signals["SIG" + send["signal"]])
        if self.shim is not None and send["signal"] == "TERM":
            # the worker sends it to the whole tree; a shim that forks ignores it
            os.kill(self.shim, signal.SIGTERM)
        if "grace_ms" in send:
            self.kill_at = time.monotonic() + send["grace_ms"] / 1000

    def close(self):
        self.selector.close()


def start(argv, env, cwd, descriptors):
    """A process in a session of its own, with exactly these descriptors, from 0."""

    def before_exec():
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        # as a worker starts a job; nohup, for example, leaves SIGHUP ignored
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    return subprocess.Popen(
        argv, env=env, cwd=cwd, start_new_session=True, preexec_fn=before_exec, pass_fds=range(3, len(descriptors))
    )


def kill_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def run_cold(job):
    runner = job.runner
    pipes = Pipes()
    if job.case["kind"] == "script":
        file, args = job.folder / "scratch" / runner.script_file, [str(arg) for arg in job.args]
        if "prepare" in runner.manifest:
            done = subprocess.run(runner.argv("prepare", file=file, folder=file.parent), capture_output=True)
            if done.returncode != 0:
                raise Failed(f"prepare: {done.stderr.decode()[-1500:]}")
        argv = runner.argv("script", file=file, folder=file.parent, args=args, module_path="")
        section = "script"
    else:
        call_file = job.folder / "call.json"
        call = {"call": job.call(), "args": job.args, "kwargs": job.kwargs, "module_path": [str(job.modules)]}
        call_file.write_text(json.dumps(call, ensure_ascii=False))
        job.environ["NAQ_CALL_FILE"] = str(call_file)
        argv, section = runner.argv("function", module_path=job.modules), "function"
    job.environ |= runner.env(section, module_path=job.modules)
    process = start(argv, job.environ, job.cwd, pipes.theirs)
    pipes.started(job.stdin)
    watch = Watch(job, pipes, process.pid)
    exited = os.pidfd_open(process.pid)
    watch.add(exited, "the end of the process")
    try:
        watch.wait("the end of the process")
        job.ended(status_of(process.wait()), pipes.take())
    finally:
        kill_group(process.pid)
        process.wait()
        os.close(exited)
        watch.close()
        pipes.close()


# --- warm ---


class Warm:
    """A booted shim."""

    def __init__(self, runner, mode, folder, preload):
        self.runner, self.mode, self.number = runner, mode, 0
        self.pipes = Pipes()
        ours, theirs = socket.socketpair()
        ours, theirs = (socket.socket(fileno=high(end.detach())) for end in (ours, theirs))
        self.frames = Frames(ours)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(folder)),
            "LANG": "C.UTF-8",
            "NAQ_WARM_FD": "4",
            "NAQ_WARM_MODE": mode,
            "NAQ_PRELOAD": json.dumps(preload),
            "NAQ_MODULE_PATH": str(folder / "modules"),
            **runner.env("warm", module_path=folder / "modules"),
        }
        boot = folder / "boot"
        boot.mkdir(exist_ok=True)
        self.process = start(
            runner.argv("warm", module_path=folder / "modules"), env, boot, [*self.pipes.theirs, theirs.fileno()]
        )
        theirs.close()
        self.runs_in_place = mode == "reuse" or (mode == "standby" and not runner.passes_descriptors)
        if not (self.runs_in_place and mode == "standby"):
            self.pipes.started(b"")
        self.exited = high(os.pidfd_open(self.process.pid))
        self.is_stopped = False

    def boot(self):
        """Waits for `hello` or `broken`."""
        self.frames.socket.settimeout(30)
        frames = self.frames.read()
        if not frames:
            raise Failed(f"no hello: {self.pipes.take()}")
        (frame,) = frames
        self.frames.socket.settimeout(None)
        if frame["t"] == "hello":
            for field in ("protocol", "pid", "version", "modes", "threads", "rss"):
                if field not in frame:
                    raise Failed(f"`hello` without `{field}`: {frame}")
            if (frame["protocol"], frame["pid"]) != (1, self.process.pid):
                raise Failed(f"`hello` of another process or protocol: {frame}")
        elif frame["t"] == "broken":
            if not {"type", "message"} <= set(frame["error"]):
                raise Failed(f"`broken` without the error: {frame}")
            if self.process.wait(10) == 0:
                raise Failed("a shim that is broken exits with 0")
        else:
            raise Failed(f"not `hello` and not `broken`: {frame}")
        return frame

    def wait_frame(self, watch, kind, timeout=None):
        """Waits for a frame of that kind; a `pong` is noted."""
        while True:
            for at, frame in enumerate(self.waiting):
                if frame["t"] == kind:
                    return self.waiting.pop(at)
                if frame["t"] == "huh":
                    raise Failed("the shim answered `huh`")
            watch.wait("a frame", timeout)
            frames = self.frames.read()
            if frames is None:
                raise Failed(f"the shim has gone; it wrote {self.pipes.take()}")
            self.waiting += frames

    def run(self, job):
        self.number += 1
        self.waiting = []
        runs_in_place = self.runs_in_place
        pipes = self.pipes if runs_in_place else Pipes()
        frame = {
            "t": "job",
            "n": self.number,
            "args": job.args,
            "kwargs": job.kwargs,
            "env": job.environ,
            "cwd": str(job.cwd),
            "umask": 0o022,
        }
        if job.case["kind"] == "script":
            frame["file"] = str(job.folder / "scratch" / self.runner.script_file)
        else:
            frame["call"] = job.call()
        watch = Watch(job, pipes, self.process.pid)
        watch.shim = self.process.pid if self.mode == "fork" else None
        watch.add(self.frames.socket, "a frame")
        try:
            self.frames.send(() if runs_in_place else pipes.theirs, **frame)
            if pipes.stdin is not None:
                pipes.started(job.stdin)
            started = self.wait_frame(watch, "started", STARTED_TIMEOUT_S)
            if started["n"] != self.number or not isinstance(started["pid"], int):
                raise Failed(f"`started` of another job, or without the number of a process: {started}")
            watch.group = started["pid"]
            getattr(self, f"run_{self.mode}")(job, pipes, watch, started["pid"])
        finally:
            if self.mode != "reuse":
                kill_group(watch.group)
            watch.close()
            if not runs_in_place:
                pipes.close()

    def run_fork(self, job, pipes, watch, pid):
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if int(stat[1]) != self.process.pid or int(stat[3]) != pid:
            raise Failed(f"the child {pid} is no session leader, or no child of the shim: {stat[:5]}")
        links = {int(link.name): os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
        # what a language has for itself, such as an epoll, is not seen by what the job executes
        links = {number: link for number, link in links.items() if not link.startswith("anon_inode:")}
        if len(links) > 5 or not {0, 1, 2, 3} <= set(links):
            raise Failed(f"the child has other descriptors than 0 to 3 and the one it waits on: {links}")
        self.frames.send(t="go", n=self.number)
        self.frames.send(t="ping")
        self.wait_frame(watch, "pong", PONG_TIMEOUT_S)
        ended = self.wait_frame(watch, "ended")
        if ended["n"] != self.number or not {"utime", "stime"} <= set(ended):
            raise Failed(f"`ended` of another job, or without its usage: {ended}")
        job.ended(status_of(os.waitstatus_to_exitcode(ended["status"])), pipes.take())
        self.frames.send(t="ping")
        job.outcome["rss_after_mb"] = self.wait_frame(watch, "pong", PONG_TIMEOUT_S)["rss"] / 2**20

    def run_standby(self, job, pipes, watch, pid):
        if pid != self.process.pid:
            raise Failed(f"a standby runs its job itself, and {pid} is another process")
        watch.add(self.exited, "the end of the process")
        self.frames.send(t="go", n=self.number)
        # the shim may close the socket from here on
        watch.selector.unregister(self.frames.socket)
        watch.wait("the end of the process")
        job.ended(status_of(self.process.wait()), pipes.take())
        self.is_stopped = True

    def run_reuse(self, job, pipes, watch, pid):
        watch.add(self.exited, "the end of the process")
        self.frames.send(t="go", n=self.number)
        ended = None
        while ended is None:
            # a job that exits, or is killed, takes the process with it
            ready = watch.wait("a frame", other="the end of the process")
            if "a frame" in ready:
                frames = self.frames.read()
                ended = next((frame for frame in frames or [] if frame["t"] == "ended"), None)
            if ended is None and "the end of the process" in ready:
                job.ended(status_of(self.process.wait()), pipes.take())
                self.is_stopped = True
                return
        if ended["n"] != self.number or "active" not in ended:
            raise Failed(f"`ended` of another job, or without `active`: {ended}")
        if ended["ok"] != (ended["status"] == 0):
            raise Failed(f"`ok` and `status` differ: {ended}")
        job.ended(status_of(os.waitstatus_to_exitcode(ended["status"])), pipes.take())
        job.outcome["active"] = ended["active"]
        if ended["active"]:
            # the worker replaces a process in which something is left
            self.stop()

    def stop(self):
        if not self.is_stopped:
            self.is_stopped = True
            try:
                self.frames.send(t="stop")
                self.process.wait(10)
            except (BrokenPipeError, subprocess.TimeoutExpired) as error:
                kill_group(self.process.pid)
                self.process.wait()
                raise Failed(f"does not end on `stop`: {error}") from None

    def close(self):
        kill_group(self.process.pid)
        self.process.wait()
        self.frames.socket.close()
        os.close(self.exited)
        self.pipes.close()


# --- cases ---


def load_cases():
    for path in sorted(CASES.glob("*.toml")):
        case = tomllib.loads(path.read_text())
        case["file"] = path.stem
        case.setdefault("kind", "function")
        yield case


# runners whose jobs are in the language of another
SAME_AS = {"deno": "node", "bun": "node"}


def of_language(table, language):
    """The entry of a language, or of the one that it shares its jobs with."""
    return table.get(language, table.get(SAME_AS.get(language)))


def merge(expect, language):
    """What is expected of a language: its own table counts more."""
    own = of_language(expect, language) or {}
    return {**{key: value for key, value in expect.items() if key not in LANGUAGES}, **own}


LANGUAGES = {folder.parent.name for folder in RUNNERS.glob("*/runner.toml")}


def check(expect, job):
    """Compares an outcome with what is expected of it."""
    outcome, problems = job.outcome, []

    def require(holds, text):
        if not holds:
            problems.append(text)

    control = outcome["control"]
    results = [line["result"] for line in control if "result" in line]
    errors = [line["error"] for line in control if "error" in line]
    status = expect.get("signal", expect.get("exit", 0))
    require(outcome["status"] == status, f"ended with {outcome['status']}, not {status}")
    if "result" in expect:
        require(results == [json.loads(expect["result"])] or results[-1:] == [json.loads(expect["result"])],
                f"the result is {str(results)[:500]}, not {expect['result']}")
    elif "error" in expect or expect.get("no_result"):
        require(not results, f"a result: {results}")
    if "error" in expect:
        wanted = expect["error"]
        if require(len(errors) == 1, f"{len(errors)} errors, not 1: {errors}") or errors:
            error = errors[-1]
            require(set(error) <= {"type", "message", "trace", "retry"}, f"unknown fields in {error}")
            for key in ("type", "retry"):
                if key in wanted:
                    require(error.get(key) == wanted[key], f"the error's {key} is {error.get(key)!r}, not {wanted[key]!r}")
            for key in ("message", "trace"):
                if key in wanted:
                    require(wanted[key] in error[key], f"not in the error's {key}: {wanted[key]!r}: {error[key][:1500]!r}")
                require(isinstance(error[key], str), f"the error's {key} is no text")
            if "trace_lacks" in wanted:
                require(wanted["trace_lacks"] not in error["trace"], f"in the trace: {wanted['trace_lacks']!r}")
    else:
        require(not errors or expect.get("any_error"), f"an error: {str(errors)[:3000]}")
    for line in expect.get("control", []):
        require(json.loads(line) in control, f"not on the control channel: {line}: {str(control)[:500]}")
    for name in ("stdout", "stderr"):
        text = outcome[name].decode(errors="replace")
        if name in expect:
            require(text == expect[name], f"{name} is {text[:1500]!r}, not {expect[name]!r}")
        for part in expect.get(f"{name}_has", []):
            require(part in text, f"not in {name}: {part!r}: {text[:1500]!r}")
        for part in expect.get(f"{name}_lacks", []):
            require(part not in text, f"in {name}: {part!r}: {text[:1500]!r}")
    if "stdout_bytes" in expect:
        require(len(outcome["stdout"]) == expect["stdout_bytes"], f"{len(outcome['stdout'])} bytes on stdout")
    if "control_line_max" in expect:
        longest = max((len(json.dumps(line, ensure_ascii=False).encode()) for line in control), default=0)
        require(longest <= expect["control_line_max"], f"a control line of {longest} bytes")
    if "rss_after_max_mb" in expect and "rss_after_mb" in outcome:
        require(outcome["rss_after_mb"] <= expect["rss_after_max_mb"], f"the shim has {outcome['rss_after_mb']:.0f} MiB")
    if "active_min" in expect and "active" in outcome:
        require(outcome["active"] >= expect["active_min"], f"`active` is {outcome['active']}")
    if problems:
        raise Failed("; ".join(problems) + f"\n    stderr: {outcome['stderr'][-1500:].decode(errors='replace')}")


def write_files(case, runner, folder):
    for name in ("cwd", "modules", "scratch"):
        (folder / name).mkdir()
    source = of_language(case.get("job", {}), runner.name) or ""
    if case["kind"] == "script":
        file = folder / "scratch" / runner.script_file
    else:
        file = folder / "modules" / f"job.{runner.extension}"
    file.write_text(source)
    for name, text in (of_language(case.get("files", {}), runner.name) or {}).items():
        path = folder / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def steps_of(case):
    yield case
    for step in case.get("then", []):
        yield step


def run_case(case, runner, mode):
    """Runs a case in a mode. Returns a text if it does not apply."""
    preload = of_language(case.get("preload", {}), runner.name) or []
    with tempfile.TemporaryDirectory(prefix="naq-conformance-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        write_files(case, runner, folder)
        warm = None
        try:
            for step in steps_of(case):
                job = Job(case, step, runner, mode, folder)
                expect = merge(step.get("expect", {}), runner.name)
                if mode == "cold":
                    run_cold(job)
                else:
                    if warm is None or warm.is_stopped:
                        if warm is not None:
                            warm.close()
                        warm = boot(runner, mode, folder, preload, case.get("hello", {}))
                        if warm is None:
                            return None
                    warm.run(job)
                check(expect, job)
            if warm is not None:
                warm.stop()
        finally:
            if warm is not None:
                warm.close()
    return None


def boot(runner, mode, folder, preload, expect):
    """A booted shim, in standby if it says that it cannot fork. None if it is broken, as expected."""
    warm = Warm(runner, mode, folder, preload)
    try:
        hello = warm.boot()
        if "broken" in expect:
            if hello["t"] != "broken" or expect["broken"] not in hello["error"]["message"]:
                raise Failed(f"`broken` with {expect['broken']!r} was expected: {hello}")
            warm.close()
            return None
        if hello["t"] == "broken":
            raise Failed(f"broken: {hello['error']}")
        if "threads" in expect and hello["threads"] != expect["threads"]:
            raise Failed(f"{hello['threads']} threads in `hello`, not {expect['threads']}")
        if mode not in hello["modes"]:
            if not expect.get("unsafe") or mode != "fork":
                raise Failed(f"`hello` says that {mode} is not safe: {hello}")
            warm.close()
            warm = Warm(runner, "standby", folder, preload)
            warm.boot()
        elif expect.get("unsafe") and mode == "fork":
            raise Failed(f"`hello` says that fork is safe: {hello}")
        return warm
    except BaseException:
        warm.close()
        raise


def applies(case, runner, mode):
    language = runner.name
    if case["kind"] == "script":
        if "script" not in runner.manifest or language not in case.get("job", {}):
            return False
    elif "function" not in runner.manifest or of_language(case.get("job", {}), language) is None:
        return False
    if mode in (of_language(case.get("not_modes", {}), language) or ()):
        return False
    return mode in case.get("modes", ["cold", "fork", "standby", "reuse"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runner", nargs="*", help="names of folders of `runners/`")
    parser.add_argument("--all", action="store_true", help="all runners")
    parser.add_argument("--mode", action="append", help="cold, fork, standby or reuse; all by default")
    parser.add_argument("--case", action="append", help="only cases whose file name contains this")
    parser.add_argument("--program", help="the program, in place of the first that exists")
    parser.add_argument("--require", action="store_true", help="fail if a program is not installed")
    parser.add_argument("--verbose", action="store_true", help="print each case with its time")
    options = parser.parse_args()
    names = sorted(LANGUAGES) if options.all else options.runner
    if not names:
        parser.error("which runner? Name one, or use --all")
    # numbers that the children get are free in none of them
    while high_enough := os.open(os.devnull, os.O_RDONLY):
        if high_enough >= 10:
            break
    cases, failures, passed = list(load_cases()), 0, 0
    for name in names:
        runner = Runner(name, options.program)
        if options.all and not any(applies(case, runner, "cold") for case in cases):
            continue
        version = runner.probe()
        if version is None:
            print(f"{name}: skipped, no program that is new enough: {', '.join(runner.manifest['program'])}")
            failures += options.require
            continue
        warm = runner.manifest.get("warm", {})
        modes = ["cold", *warm.get("modes", [])]
        count = 0
        began = time.monotonic()
        for mode in modes:
            if options.mode and mode not in options.mode:
                continue
            for case in cases:
                if not applies(case, runner, mode) or not (
                    not options.case or any(part in case["file"] for part in options.case)
                ):
                    continue
                case_began = time.monotonic()
                try:
                    run_case(case, runner, mode)
                    count += 1
                    if options.verbose:
                        print(f"{name} {mode} {case['file']}: {(time.monotonic() - case_began) * 1000:.0f} ms")
                except (Failed, subprocess.TimeoutExpired, TimeoutError, OSError) as error:
                    failures += 1
                    print(f"{name} {mode} {case['file']}: FAILED: {type(error).__name__}: {error}")
        passed += count
        print(f"{name} {version}: {count} passed in {time.monotonic() - began:.1f} s")
    if failures:
        print(f"{failures} failed")
    elif not passed:
        print("no case applies")
        failures = 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
