#!/usr/bin/env python3
"""Compares naq with other queues doing the same work, on this machine, in one run.

    benches/peers/run.py --install                                  install them, and measure nothing
    benches/peers/run.py --output FILE                              measure everything: at most 12 minutes on two cores
    benches/peers/run.py --slots 4 --rounds 1 --seconds 0.5         a smoke run: under two minutes
    benches/peers/run.py --parts functions,memory --systems naq,RQ

Rounds are interleaved, in a new order each time, and the medians are shown. README.md beside this file says what is
measured how. Exits with 1 if a system that is installed failed.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import re
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import accounting
import install
import systems
from systems import Failed

ROOT = install.ROOT
PARTS = ("commands", "functions", "memory", "visibility")
# A run is sized by the rate of the one before, within these.
COUNT_MIN, COUNT_MAX = 20, 100_000


class Run:
    """What has been measured so far, and what runs."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.running = []
        self.failed = []
        self.missing = []

    def start(self, kinds, slots):
        """Starts systems, as far as they are wanted and installed. Returns them."""
        started = []
        for kind in kinds:
            if self.options.systems and not any(kind.name.startswith(name) for name in self.options.systems):
                continue
            missing = kind.missing(self.options)
            if missing:
                self.note(self.missing, kind.name, f"{missing} is not installed")
                continue
            system = kind(self.options, self.folder, slots)
            self.running.append(system)
            begun = time.monotonic()
            if self.attempt(system, system.start) is not None:
                system.settle()
                say(f"{system.name} with {slots} slots started in {time.monotonic() - begun:.1f} s")
                started.append(system)
        return started

    def attempt(self, system, function, *arguments):
        """Calls a function of a system. Returns what it returns or True; `None` if the system failed."""
        try:
            result = function(*arguments)
            return True if result is None else result
        except (Failed, OSError, ValueError) as error:
            self.note(self.failed, f"{system.name} with {system.slots} slots", str(error))
            # it may be in a loop that takes time from the others, and fills its log
            self.running.remove(system)
            system.end()
            return None

    def note(self, where, name, why):
        if not any(noted["system"] == name for noted in where):
            where.append({"system": name, "why": why})
            say(f"{name}: {why}")

    def end_all(self):
        while self.running:
            self.running.pop().end()

    def rates(self, kinds, slots, work, minutes, extra=None):
        """Measures jobs a second in interleaved rounds. `work` names the method of a system; `extra` runs after each.
        Starts no round after these minutes, but one in any case.
        """
        until = time.monotonic() + minutes * 60
        measured = {}
        counts = {}
        for system in self.start(kinds, slots):
            count = slots * systems.CALIBRATION
            for _ in range(2):
                done = self.attempt(system, getattr(system, work), count)
                if done is None:
                    break
                rate = done[0] / done[1]
                count = round(min(max(rate * self.options.seconds / 2, COUNT_MIN), COUNT_MAX))
            else:
                counts[system] = round(min(max(rate * self.options.seconds, COUNT_MIN), COUNT_MAX))
                measured[system] = []
        for number in range(self.options.rounds):
            if number and time.monotonic() > until:
                say(f"no more than {number} rounds with {slots} slots: the time is over")
                break
            order = list(measured)
            random.shuffle(order)
            for system in order:
                one = self.attempt(system, self.one_round, system, work, counts[system])
                if one is None:
                    del measured[system]
                    continue
                counts[system] = round(min(max(one["per_s"] * self.options.seconds, COUNT_MIN), COUNT_MAX))
                if extra and (more := self.attempt(system, extra, system)):
                    one |= more
                measured[system].append(one)
                say(
                    f"round {number + 1}, {slots} slots, {system.name}: {one['per_s']:.0f}/s, {one['cpu_ms']:.2f} ms of "
                    f"processor each, others used {one['others']:.0%} of the machine"
                )
        self.end_all()
        # in the order of the list, whatever the rounds' was
        return {system: rounds for system, rounds in measured.items() if rounds}

    def one_round(self, system, work, count):
        begun, cpu, busy = time.monotonic(), system.group.cpu_s(), accounting.busy_s()
        count, seconds = getattr(system, work)(count)
        cpu = system.group.cpu_s() - cpu
        whole = (time.monotonic() - begun) * os.cpu_count()
        return {
            "jobs": count,
            "seconds": round(seconds, 4),
            "per_s": round(count / seconds, 2),
            "cpu_ms": round(cpu / count * 1e3, 4),
            "others": round(max(0.0, accounting.busy_s() - busy - cpu) / whole, 3),
        }

    def commands(self):
        rows = []
        minutes = 0.6 * self.options.minutes / len(self.options.slots)
        for slots in self.options.slots:
            for system, rounds in self.rates(systems.COMMAND_SYSTEMS, slots, "commands", minutes).items():
                rows.append({"system": system.name, "slots": slots, "is_queue": system.is_queue, **middle(rounds)})
        return rows

    def functions(self):
        def calls(system):
            return {"calls_s": system.ask("calls", self.options.calls)}

        rows = []
        slots = self.options.function_slots
        minutes = 0.2 * self.options.minutes
        for system, rounds in self.rates(systems.FUNCTION_SYSTEMS, slots, "functions", minutes, calls).items():
            times = sorted(1e3 * seconds for one in rounds for seconds in one.pop("calls_s", []))
            if times:
                p50, p99 = (round(times[min(len(times) - 1, int(len(times) * part))], 3) for part in (0.5, 0.99))
                rows.append(
                    {
                        "system": system.name,
                        "slots": slots,
                        **middle(rounds),
                        "p50_ms": p50,
                        "p99_ms": p99,
                        "calls": len(times),
                    }
                )
        return rows

    def memory(self):
        rows = []
        for kind in systems.MEMORY_SYSTEMS:
            for system in self.start([kind], self.options.memory_slots):
                if row := self.attempt(system, self.memory_of, system):
                    rows.append(row)
            self.end_all()
        return rows

    def memory_of(self, system):
        """The memory of a system after some calls, when it is idle, without the client."""
        system.functions(50 * system.slots)
        system.settle()  # the last calls' processes end
        pids = [pid for pid in system.group.pids() if pid != system.client.pid]
        brokers = {pid for pid in pids if system.is_broker(pid)}
        workers = set(pids) - brokers
        row = {
            "system": system.name,
            "slots": system.slots,
            "pss_mib": round(accounting.pss_mib(workers), 1),
            "processes": len(workers),
            "broker_pss_mib": round(accounting.pss_mib(brokers), 1),
        }
        say(f"{system.name} with {system.slots} slots: {row['pss_mib']:.0f} MiB in {len(workers)} processes")
        return row

    def visibility(self):
        """A job that runs longer than the window in which the broker waits for its acknowledgement."""
        window, job = self.options.window, self.options.window * 2 + 2
        rows, files = [], {}
        for system in self.start(systems.VISIBILITY_SYSTEMS, 2):
            files[system] = system.folder / "runs"
            if self.attempt(system, system.enqueue_slow, files[system], job) is None:
                del files[system]
        time.sleep(job + 2)
        for system, file in files.items():
            runs = len(file.read_text().splitlines()) if file.exists() else 0
            rows.append({"system": system.name, "window_s": window, "job_s": job, "runs": runs})
            say(f"{system.name}: a job of {job:g} s with a window of {window:g} s ran {runs} times")
        self.end_all()
        return rows


def middle(rounds):
    """The medians of the rounds, and the rounds."""
    return {
        "per_s": round(statistics.median(one["per_s"] for one in rounds), 1),
        "cpu_ms": round(statistics.median(one["cpu_ms"] for one in rounds), 3),
        "rounds": rounds,
    }


def say(line):
    print(line, file=sys.stderr, flush=True)


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return {
        "cpu": " ".join(model[1].split()) if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1),
        "kernel": platform.release(),
    }


def naq_versions(naq):
    """The versions of naq and of its nats-server."""
    found = install.output([naq, "version", "--json"])
    version = json.loads(found)["version"] if found else "unknown"
    server = install.output([naq, "server", "path"]).strip()
    words = install.output([server, "--version"]).split() if server else []
    return {"naq": version, "nats-server": words[-1].lstrip("v") if words else "unknown"}


def table(title, rows, columns):
    """Prints rows: for each column its name, and a function that makes its text."""
    if not rows:
        return
    lines = [list(columns)] + [[show(row) for show in columns.values()] for row in rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        first, *rest = (
            word.ljust(width) if not at else word.rjust(width)
            for at, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *rest]))


def show(result):
    rate = {
        "system": lambda row: row["system"],
        "slots": lambda row: str(row["slots"]),
        "per_s": lambda row: f"{row['per_s']:,.0f}",
        "cpu_ms": lambda row: f"{row['cpu_ms']:.2f}",
        "others": lambda row: f"{max(one['others'] for one in row['rounds']):.0%}",
    }
    table(f"jobs a second: {' '.join(systems.ECHO)}, its output stored", result["commands"], rate)
    latency = {name: lambda row, name=name: f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms")}
    table("calls of a Python function a second, and one call at a time", result["functions"], rate | latency)
    pss = {name: lambda row, name=name: f"{row[name]:.0f}" for name in ("pss_mib", "processes", "broker_pss_mib")}
    slots = {name: rate[name] for name in ("system", "slots")}
    table("memory after some calls, idle", result["memory"], slots | pss)
    runs = {name: lambda row, name=name: f"{row[name]:g}" for name in ("window_s", "job_s", "runs")}
    table("runs of a job that is longer than the window", result["visibility"], {"system": slots["system"]} | runs)
    for row in result["missing"] + result["failed"]:
        print(f"\nnot measured: {row['system']}: {row['why']}")


def options():
    def numbers(text):
        return [int(word) for word in text.split(",")]

    def parts(text):
        words = text.split(",")
        if unknown := set(words) - set(PARTS):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such part; there are {', '.join(PARTS)}")
        return words

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the newest release of each system, and exit")
    parser.add_argument("--naq", default=ROOT / "target/release/naq", type=pathlib.Path, help="program [%(default)s]")
    parser.add_argument("--parts", default=list(PARTS), type=parts, metavar="NAMES", help=f"of {','.join(PARTS)} [all]")
    parser.add_argument(
        "--systems",
        default=[],
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="first words of their names [all]",
    )
    parser.add_argument("--slots", default=[1, 4, 16], type=numbers, metavar="COUNTS", help="jobs at once [1,4,16]")
    parser.add_argument("--function-slots", default=4, type=int, metavar="COUNT", help="calls at once [%(default)s]")
    parser.add_argument("--memory-slots", default=8, type=int, metavar="COUNT", help="[%(default)s]")
    parser.add_argument("--rounds", default=5, type=int, metavar="COUNT", help="[%(default)s]")
    parser.add_argument(
        "--seconds", default=1.5, type=float, metavar="TIME", help="approximate time of one measurement [%(default)s]"
    )
    parser.add_argument(
        "--minutes", default=12.0, type=float, metavar="TIME", help="start no more rounds when it is over [%(default)s]"
    )
    parser.add_argument(
        "--calls", default=40, type=int, metavar="COUNT", help="calls one at a time, each round [%(default)s]"
    )
    parser.add_argument(
        "--window", default=3.0, type=float, metavar="TIME", help="of part visibility, in seconds [%(default)s]"
    )
    parser.add_argument(
        "--redis", default="none", choices=["none", "everysec"], help="what Redis writes to disk [%(default)s]"
    )
    parser.add_argument(
        "--accounting",
        default="auto",
        choices=["auto", "cgroup1", "cgroup2", "proc"],
        help="of processor time [%(default)s]",
    )
    parser.add_argument("--output", type=pathlib.Path, metavar="FILE", help="file for the results, as JSON")
    return parser.parse_args()


def main():
    chosen = options()
    if chosen.install:
        install.install()
        return 0
    chosen.naq = chosen.naq.resolve()
    if not os.access(chosen.naq, os.X_OK):
        say(f"{chosen.naq}: no such program; build it, or name another one with --naq")
        return 2
    chosen.accounting = accounting.choose(chosen.accounting)
    chosen.versions = install.versions()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say(install.FAKTORY)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="naq-peers-") as folder:
        run = Run(chosen, folder)
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": naq_versions(chosen.naq) | chosen.versions,
            "settings": {
                "command": systems.ECHO,
                "rounds": chosen.rounds,
                "seconds": chosen.seconds,
                "redis_disk": chosen.redis,
                "accounting": chosen.accounting,
            },
        }
        try:
            for part in PARTS:
                result[part] = getattr(run, part)() if part in chosen.parts else []
        finally:
            run.end_all()
    result |= {
        "missing": [{"system": "Faktory", "why": install.FAKTORY.split(": not measured. ")[1]}, *run.missing],
        "failed": run.failed,
    }
    result["settings"]["took_s"] = round(time.monotonic() - begun)
    show(result)
    if chosen.output:
        chosen.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
