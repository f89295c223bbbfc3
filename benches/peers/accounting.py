"""Groups of processes whose processor time and memory can be read, whatever the processes are and however they end.

A control group counts exactly, daemons and double forks included: cpuacct of version 1 if the machine has it, else
cpu.stat of version 2. Where neither can be written, a group is what descends from the processes that it has started
or has its variable, and their time is read from /proc (in ticks of 10 ms, without what none of these has reaped).
"""

import contextlib
import os
import pathlib
import resource
import signal
import time

# The variable by which processes are found that have left their parents. Its value is the group's name.
MARK = "NAQ_PEERS_GROUP"
TICKS = os.sysconf("SC_CLK_TCK")


def folder_of(kind):
    """The control group of this process in the hierarchy of a kind, `cgroup1` or `cgroup2`; `None` without it."""
    try:
        lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for _, mount, system, options, *_ in mounts:
            version1 = kind == "cgroup1" and system == "cgroup" and "cpuacct" in controllers.split(",")
            if (version1 and "cpuacct" in options.split(",")) or (
                kind == "cgroup2" and system == "cgroup2" and controllers == ""
            ):
                for folder in (pathlib.Path(mount + path), pathlib.Path(mount)):
                    if os.access(folder, os.W_OK) and folder.is_dir():
                        return folder
    return None


def choose(wanted):
    """The kind of accounting to use: the wanted one, or the most exact one."""
    kinds = ["cgroup1", "cgroup2", "proc"] if wanted == "auto" else [wanted]
    for kind in kinds:
        if kind == "proc":
            return kind
        parent = folder_of(kind)
        if parent is None:
            continue
        probe = parent / f"peers-{os.getpid()}-probe"
        try:
            probe.mkdir()
            probe.rmdir()
            return kind
        except OSError:
            continue
    raise SystemExit(f"accounting by {wanted} is not possible on this machine")


class Group:
    """The processes of one system."""

    number = 0

    def __init__(self, kind):
        self.kind = kind
        self.started = []
        self.folder = None
        Group.number += 1
        self.name = f"peers-{os.getpid()}-{Group.number}"
        if kind != "proc":
            self.folder = folder_of(kind) / self.name
            self.folder.mkdir()

    def enter(self):
        """Moves this process into the group: for `preexec_fn`."""
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def add(self, process):
        """Counts a process that was started with `enter`."""
        self.started.append(process)

    def pids(self):
        """The processes that run now."""
        if self.folder:
            found = []
            for procs in [self.folder / "cgroup.procs", *self.folder.glob("**/*/cgroup.procs")]:
                try:
                    found += [int(line) for line in procs.read_text().split()]
                except OSError:
                    continue
            return found
        children, found = {}, set()
        mark = f"{MARK}={self.name}".encode()
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            fields = stat_fields(stat)
            if fields and fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
                if is_marked(stat.parent, mark):
                    found.add(int(stat.parent.name))
        left = [process.pid for process in self.started if process.poll() is None] + list(found)
        while left:
            pid = left.pop()
            found.add(pid)
            left += [child for child in children.get(pid, []) if child not in found]
        return list(found)

    def cpu_s(self):
        """Processor time that the group has used so far, in seconds."""
        if self.kind == "cgroup1":
            return int((self.folder / "cpuacct.usage").read_text()) / 1e9
        if self.kind == "cgroup2":
            fields = dict(line.split() for line in (self.folder / "cpu.stat").read_text().splitlines())
            return int(fields["usage_usec"]) / 1e6
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = ended.ru_utime + ended.ru_stime
        for pid in self.pids():
            fields = stat_fields(pathlib.Path(f"/proc/{pid}/stat"))
            if fields:
                total += sum(int(field) for field in fields[11:15]) / TICKS
        return total

    def end(self):
        """Ends what the group still has. Nothing but what this program has started is in it."""
        for sign, patience_s in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
            until = time.monotonic() + patience_s
            for pid in self.pids():
                send(pid, sign)
            while self.pids() and time.monotonic() < until:
                for process in self.started:
                    process.poll()
                if sign == signal.SIGKILL:
                    for pid in self.pids():
                        send(pid, sign)
                time.sleep(0.02)
        for process in self.started:
            process.poll()
        if self.folder:
            remove(self.folder)


def pss_mib(pids):
    """Memory of processes, with each page that several share counted once in all, in MiB."""
    total = 0
    for pid in pids:
        try:
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def stat_fields(path):
    """The fields of a process's stat file from its state on; `None` if it has ended."""
    try:
        return path.read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None


def is_marked(process, mark):
    try:
        return mark in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def send(pid, sign):
    with contextlib.suppress(OSError):
        os.kill(pid, sign)


def remove(folder):
    """Removes a control group and those below it, which the kernel empties with some delay."""
    until = time.monotonic() + 3
    while folder.exists() and time.monotonic() < until:
        for below in [*sorted(folder.glob("**/"), reverse=True), folder]:
            try:
                below.rmdir()
            except OSError:
                continue
        time.sleep(0.02)


def busy_s():
    """Processor time that the whole machine has used so far, in seconds."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + softirq) / TICKS
