#!/usr/bin/env python3
"""Archive a tree of files with naq, kill a worker half-way, and check every result.

Each regular file becomes one job that compresses it and prints its size, the compressed size and
the SHA-256 of the compressed bytes. All jobs go into one queue from one NDJSON stream; two workers
of different concurrency run them, and the larger one is killed with SIGKILL when half of the
results are in. Then it compares every result with that of a plain loop over the same files,
and checks that the store has exactly one record for each job. `xargs -P` does the same
work for comparison.

Exits 0 only if everything agrees. Needs naq, sh, gzip, sha256sum, xargs; Python's standard
library only.
"""

import argparse
import hashlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

QUEUE = "docs"

# Jobs run at least once: a second run of the same job writes the same bytes to the same place.
JOB = """
gzip -nc <"$1" >"$2" || exit
printf '%d %d %s\\n' "$(wc -c <"$1")" "$(wc -c <"$2")" "$(sha256sum <"$2")"
"""


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tree", nargs="?", default="/usr/share/doc")
    parser.add_argument("--naq", default="naq", help="the naq program")
    parser.add_argument("--small", type=int, default=2, help="concurrency of the surviving worker")
    parser.add_argument("--large", type=int, default=6, help="concurrency of the worker that is killed")
    parser.add_argument("--ack-wait", default="3s", help="when a silent worker's jobs are redelivered")
    parser.add_argument("--no-kill", action="store_true", help="kill no worker")
    parser.add_argument("--limit", type=int, help="at most this many files")
    return parser.parse_args()


def regular_files(tree):
    """Absolute paths of all regular files as text, and how many names are not UTF-8."""
    found, skipped = [], 0
    for folder, _, names in os.walk(os.path.abspath(os.fsencode(tree))):
        for name in names:
            path = os.path.join(folder, name)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            try:
                found.append(path.decode("utf-8"))
            except UnicodeDecodeError:
                skipped += 1
    return sorted(found), skipped


def plain_loop(files):
    """What each job must print; none where the file cannot be read."""
    expected = []
    for path in files:
        try:
            with open(path, "rb") as file:
                packed = subprocess.run(["gzip", "-nc"], stdin=file, capture_output=True, check=True).stdout
                size = os.fstat(file.fileno()).st_size
        except (OSError, subprocess.CalledProcessError):
            expected.append(None)
            continue
        expected.append(f"{size} {len(packed)} {hashlib.sha256(packed).hexdigest()}  -\n")
    return expected


def with_xargs(files, folder, at_once):
    """The same work by xargs; returns the seconds it took."""
    out = folder / "xargs"
    out.mkdir()
    numbered = b"".join(
        os.fsencode(path) + b"\0" + os.fsencode(out / f"{number:06}.gz") + b"\0"
        for number, path in enumerate(files)
    )
    began = time.monotonic()
    subprocess.run(
        ["xargs", "-0", "-n", "2", "-P", str(at_once), "sh", "-c", JOB, "archive"],
        input=numbered, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )
    return time.monotonic() - began


class Nats:
    """Just enough of the NATS protocol to ask JetStream what it holds, past naq's own view."""

    def __init__(self, url, token):
        host, port = url.removeprefix("nats://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.reader = self.socket.makefile("rb")
        self.reader.readline()
        hello = json.dumps({"auth_token": token, "verbose": False, "lang": "python", "version": "1"})
        self.send(f"CONNECT {hello}\r\nSUB _INBOX.archive 1\r\n")

    def send(self, text):
        self.socket.sendall(text.encode())

    def stream(self, name, subjects=None):
        """What JetStream says of a stream, with the number of messages of each subject."""
        ask = json.dumps({"subjects_filter": subjects} if subjects else {})
        self.send(f"PUB $JS.API.STREAM.INFO.{name} _INBOX.archive {len(ask)}\r\n{ask}\r\n")
        while line := self.reader.readline():
            if line.startswith(b"MSG "):
                payload = self.reader.read(int(line.split()[-1]) + 2)
                answer = json.loads(payload)
                if "error" in answer:
                    raise SystemExit(f"archive-docs: {name}: {answer['error']['description']}")
                return answer["state"]
            if line.startswith(b"PING"):
                self.send("PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise SystemExit(f"archive-docs: NATS says {line.decode().strip()}")
        raise SystemExit("archive-docs: NATS closed the connection")


class Run:
    """The processes of one run, all ended when it ends."""

    def __init__(self, naq, ack_wait, folder):
        self.naq = naq
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("NAQ_")}
        self.environment |= {
            name: os.environ[name] for name in ("NAQ_NATS_SERVER", "NAQ_CACHE_DIR") if name in os.environ
        }
        self.environment |= {
            "NAQ_DATA_DIR": str(folder / "data"),
            "NAQ_DEFAULT_ACK_WAIT": ack_wait,
            "NAQ_LOG_LEVEL": "error",
        }
        self.folder = folder
        self.processes = []

    def start(self, *arguments, **options):
        process = subprocess.Popen(
            [self.naq, *arguments], env=self.environment, cwd=self.folder, text=True, **options
        )
        self.processes.append(process)
        return process

    def nats_server(self):
        """Starts a nats-server with a token. Returns its address and the token. (The server that naq
        manages requires a key, with which this program could not sign.)"""
        found = [self.naq, "server", "path"]
        program = subprocess.run(found, env=self.environment, capture_output=True, text=True, check=True)
        token = secrets.token_hex(16)
        conf = self.folder / "nats-server.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            f'host: "127.0.0.1"\nport: -1\nports_file_dir: "{self.folder}"\n'
            f'jetstream {{ store_dir: "{self.folder / "store"}" }}\nauthorization {{ token: "{token}" }}\n'
        )
        process = subprocess.Popen([program.stdout.strip(), "-c", str(conf)], stderr=subprocess.DEVNULL)
        self.processes.append(process)
        while not (ports := list(self.folder.glob("*.ports"))) or not (text := ports[0].read_text()):
            if process.poll() is not None:
                raise SystemExit("archive-docs: nats-server does not start")
            time.sleep(0.01)
        url = json.loads(text)["nats"][0]
        # only this run has the token, so its workers may be root's
        self.environment |= {"NAQ_NATS_URL": url, "NAQ_TOKEN": token, "NAQ_ALLOW_ROOT": "1"}
        return url, token

    def worker(self, name, concurrency):
        return self.start("worker", QUEUE, "--name", name, "--concurrency", str(concurrency))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # the newest first: workers requeue their jobs while the server still runs
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                process.wait()


def run_jobs(arguments, files, folder):
    """Enqueues and runs all jobs. Returns their records as they ended, what the store holds, and
    the times."""
    out = folder / "archive"
    out.mkdir()
    jobs = [f"doc-{number:06}" for number in range(len(files))]
    stream = "".join(
        json.dumps({
            "job_id": job,
            "command": "sh",
            "args": ["-c", JOB, "archive", path, str(out / f"{job[4:]}.gz")],
        }) + "\n"
        for job, path in zip(jobs, files)
    )
    with Run(arguments.naq, arguments.ack_wait, folder) as run:
        url, token = run.nats_server()
        small = run.worker("small", arguments.small)
        large = run.worker("large", arguments.large)
        began = time.monotonic()
        subprocess.run(
            [run.naq, "enqueue", "--queue", QUEUE, "--file", "-", "--quiet"],
            input=stream, env=run.environment, cwd=folder, text=True, check=True,
        )
        enqueued = time.monotonic() - began
        waiter = run.start("--json", "wait", *jobs, stdout=subprocess.PIPE)
        records, killed_after = [], None
        for line in waiter.stdout:
            records.append(json.loads(line))
            if killed_after is None and not arguments.no_kill and 2 * len(records) >= len(jobs):
                large.send_signal(signal.SIGKILL)
                large.wait()
                killed_after = len(records)
        took = time.monotonic() - began
        waiter.wait()
        # a drained worker's last acknowledgements are confirmed
        for worker in (small, large):
            worker.terminate()
            worker.wait()
        nats = Nats(url, token)
        held = nats.stream("KV_naq_results", "$KV.naq_results.>")["subjects"]
        left = nats.stream(f"naq_queue_{QUEUE}")["messages"]
    return jobs, records, held, left, killed_after, enqueued, took, out


def main():
    arguments = parse_arguments()
    naq = shutil.which(arguments.naq) or sys.exit(f"archive-docs: there is no {arguments.naq}")
    arguments.naq = os.path.abspath(naq)
    files, skipped = regular_files(arguments.tree)
    files = files[: arguments.limit]
    if len(files) < 2:
        sys.exit(f"archive-docs: {arguments.tree} has no two regular files")
    expected = plain_loop(files)
    at_once = arguments.small + arguments.large
    wrong = []
    with tempfile.TemporaryDirectory(prefix="archive-docs-") as name:
        folder = pathlib.Path(name)
        xargs_took = with_xargs(files, folder, at_once)
        jobs, records, held, left, killed_after, enqueued, took, out = run_jobs(arguments, files, folder)

        outcome = {record["job_id"]: record for record in records}
        if len(outcome) != len(records):
            wrong.append(f"{len(records) - len(outcome)} outcomes were told twice")
        agree = 0
        for number, (job, path) in enumerate(zip(jobs, files)):
            record = outcome.get(job)
            if record is None:
                wrong.append(f"{job} ({path!r}): no outcome")
            elif expected[number] is None:
                if record["state"] == "failed":
                    agree += 1
                else:
                    wrong.append(f"{job} ({path!r}): {record['state']}, but the file cannot be read")
            else:
                got = record.get("stdout", {}).get("text")
                packed = out / f"{number:06}.gz"
                stored = hashlib.sha256(packed.read_bytes()).hexdigest() if packed.exists() else None
                if record["state"] != "succeeded":
                    wrong.append(f"{job} ({path!r}): {record['state']}: {record.get('error')}")
                elif got != expected[number]:
                    wrong.append(f"{job} ({path!r}): {got!r} instead of {expected[number]!r}")
                elif stored != got.split()[2]:
                    wrong.append(f"{job} ({path!r}): the archive holds other bytes")
                else:
                    agree += 1
        keys = {f"$KV.naq_results.{job}" for job in jobs}
        if set(held) != keys:
            wrong.append(f"records: {len(keys - set(held))} missing, {len(set(held) - keys)} unexpected")
        if any(count != 1 for count in held.values()):
            wrong.append("records: some are there twice")
        if left:
            wrong.append(f"{left} jobs are still in the queue")
        if not arguments.no_kill and killed_after is None:
            wrong.append("no worker was killed")

    taken_over = sum(record.get("attempt", 0) > 1 or record.get("crashes", 0) > 0 for record in records)
    size = sum(int(line.split()[0]) for line in expected if line)
    packed = sum(int(line.split()[1]) for line in expected if line)
    unreadable = expected.count(None)
    print(f"files      {len(files)} in {arguments.tree}, {size / 1e6:.1f} MB, {packed / 1e6:.1f} MB compressed")
    print(f"skipped    {skipped} with names that are not UTF-8" + (f"; {unreadable} cannot be read" if unreadable else ""))
    print(f"enqueued   {len(jobs)} jobs from one stream in {enqueued:.2f} s")
    if killed_after is None:
        print(f"workers    2, running {arguments.small} and {arguments.large} jobs at once")
    else:
        print(
            f"workers    2, running {arguments.small} and {arguments.large} jobs at once; "
            f"the larger killed (SIGKILL) after {killed_after} results"
        )
        print(f"taken over {taken_over} jobs that it was running")
    print(f"results    {agree} of {len(files)} agree with a plain loop over the files")
    print(f"records    {len(held)}, one for each job; {left} jobs left in the queue")
    included = "enqueueing included" if killed_after is None else "enqueueing, kill and take-over included"
    print(f"rate       naq {len(files) / took:.0f}/s ({took:.1f} s, {included})")
    print(f"           xargs -P {at_once} {len(files) / xargs_took:.0f}/s ({xargs_took:.1f} s)")
    for line in wrong[:20]:
        print(f"WRONG      {line}")
    if wrong:
        sys.exit(f"archive-docs: {len(wrong)} things do not agree")
    print("everything agrees")


if __name__ == "__main__":
    main()
