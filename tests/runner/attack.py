"""A job that tries to outlive itself: attack.py TECHNIQUE FOLDER MARK.

Every process of it has the mark among its arguments, so that a test finds the survivors. A
survivor creates FOLDER/TECHNIQUE.alive; the first process waits for that and ends.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import time

technique, folder, mark = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
alive = os.path.join(folder, technique + ".alive")


def survive():
    """Protects this process from the usual ways to end it."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    open(alive, "w").close()
    while True:
        time.sleep(100)


def child(then):
    """Runs a function in a child, which does not return."""
    if os.fork() == 0:
        try:
            then()
        finally:
            os._exit(0)


def daemon(then):
    """Runs a function in a grandchild in a session of its own, whose parent has ended."""

    def first():
        os.setsid()
        child(then)

    child(first)


def attempt(what, *args):
    """Calls a function. An attack tries everything, and most of it is refused."""
    try:
        return what(*args)
    except OSError:
        return None


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def parents():
    """The spawner and the worker, if this job can see them."""

    def field(pid, name):
        with open(f"/proc/{pid}/status") as status:
            return next(line.split()[1] for line in status if line.startswith(name))

    try:
        spawner = os.getppid()
        if spawner <= 1 or field(spawner, "Name:") != "naq-spawner":
            return []
        return [int(field(spawner, "PPid:")), spawner]
    except OSError:
        return []


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def groups():
    """The control group of this process and those above it, and where v2 is mounted."""
    with open("/proc/mounts") as mounts:
        mount = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
    with open("/proc/self/cgroup") as own:
        path = [line.strip()[3:] for line in own if line.startswith("0::")]
    if not mount or not path:
        return []
    found = []
    while True:
        found.append(mount[0] + path[0].rstrip("/"))
        if path[0] in ("/", ""):
            return found
        path[0] = os.path.dirname(path[0])


def leave_group():
    """Moves this process to the highest group that takes it, or to a new one there."""
    for group in reversed(groups()):
        own = os.path.join(group, mark)
        attempt(os.mkdir, own)
        for place in (group, own):
            if os.path.isdir(place) and attempt(write, place + "/cgroup.procs", "0") is None:
                with open("/proc/self/cgroup") as now:
                    moved = place.endswith(next(l.strip()[3:].rstrip("/") for l in now if l[0] == "0"))
                if moved:
                    return


def double_fork():
    daemon(survive)


def new_session():
    child(lambda: (os.setsid(), survive()))


def orphaned_grandchild():
    def link(depth):
        child((lambda: link(depth - 1)) if depth else survive)

    link(5)


def closed_descriptors():
    def detach():
        os.chdir("/")
        os.closerange(0, 256)
        survive()

    daemon(detach)


def child_subreaper():
    def adopt():
        os.setsid()
        libc.prctl(36, 1, 0, 0, 0)
        daemon(survive)
        survive()

    child(adopt)


def clone_parent():
    number = 56 if os.uname().machine == "x86_64" else 220
    if libc.syscall(number, 0x8000 | 17, 0, 0, 0, 0) == 0:
        survive()


def memfd_exec():
    def execute():
        file = os.memfd_create("x")
        with open("/bin/sleep", "rb") as program:
            os.write(file, program.read())
        open(alive, "w").close()
        os.execve(f"/proc/self/fd/{file}", [mark, "1000"], {})

    daemon(execute)


def own_pid_namespace():
    def isolate():
        # a user namespace first: without root, nothing else allows it
        if libc.unshare(0x10000000 | 0x20000000) != 0:
            libc.unshare(0x20000000)
        child(survive)
        survive()

    daemon(isolate)


def fork_without_end():
    def hop():
        os.setsid()
        open(alive, "w").close()
        while True:
            if os.fork():
                os._exit(0)

    for _ in range(8):
        child(hop)


def cgroup_procs():
    daemon(lambda: (leave_group(), survive()))


def cgroup_kill():
    targets = parents()

    def kill():
        leave_group()
        for group in groups():
            grave = os.path.join(group, mark + "-grave")
            attempt(os.mkdir, grave)
            for pid in targets:
                attempt(write, grave + "/cgroup.procs", str(pid))
            attempt(write, grave + "/cgroup.kill", "1")
        survive()

    daemon(kill)


def setuid_helper():
    def gain():
        os.setsid()
        open(alive, "w").close()
        os.execv(os.path.join(folder, "setuid-sleep"), [mark, "1000"])

    child(gain)


def ptrace():
    targets = parents()

    def trace():
        for pid in targets:
            if libc.ptrace(16, pid, 0, 0) == 0:
                attempt(os.waitpid, pid, 0x40000000)
        for pid in targets:
            libc.ptrace(8, pid, 0, 0)
        survive()

    daemon(trace)


def stop_and_kill():
    targets = parents() or [1]

    def kill():
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in targets:
                attempt(os.kill, pid, number)
        survive()

    daemon(kill)


def prlimit():
    targets = parents()

    def limit():
        # A worker without descriptors finds no process to kill. The spawner ends at the next tick
        # of the clock that finds it running, so give it orphans to reap.
        limits = (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)
        done = [attempt(resource.prlimit, pid, what, (0, 0)) for pid, what in zip(targets, limits)]
        until = time.monotonic() + 20
        while any(done) and is_alive(targets[1]) and time.monotonic() < until:
            child(lambda: child(lambda: None))
            attempt(os.wait)
        # Now the worker, as soon as it does something.
        if targets:
            attempt(resource.prlimit, targets[0], resource.RLIMIT_CPU, (0, 0))
        survive()

    daemon(limit)


def handover():
    with socket.socket(socket.AF_UNIX) as service:
        service.connect(os.path.join(folder, "service"))
        service.sendall(mark.encode())
        service.recv(1)
    open(alive, "w").close()


globals()[technique]()
until = time.monotonic() + 30
while not os.path.exists(alive) and time.monotonic() < until:
    time.sleep(0.01)
