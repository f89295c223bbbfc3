"""What is packed: the version, and the time that every file in a package gets."""

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


# What Debian and Node call the processors that naq is packed for. Packages are made on a machine of their kind.
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
NODE = {"x86_64": "x64", "aarch64": "arm64"}


@dataclass(frozen=True)
class BuildInfo:
    """The version of naq and of the nats-server that it pins, the time of the commit, and the processor."""

    version: str
    server_version: str
    epoch: int
    machine: str

    @classmethod
    def read(cls) -> "BuildInfo":
        manifest = (ROOT / "Cargo.toml").read_text()
        pinned = (ROOT / "crates/naq/src/local_server/version.rs").read_text()
        version = _match(r'^version = "([^"]+)"', manifest)
        server = _match(r"PINNED_VERSION: Version = Version \{([^}]+)\}", pinned)
        server = ".".join(re.findall(r"\d+", server))
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if not epoch:
            shown = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, capture_output=True, text=True)
            epoch = shown.stdout.strip()
        machine = platform.machine()
        if machine not in DEBIAN:
            raise SystemExit(f"packaging: no packages are made for {machine}")
        return cls(version, server, int(epoch), machine)

    @property
    def npm_file(self) -> str:
        return f"naq-{self.version}.tgz"

    @property
    def npm_platform_file(self) -> str:
        return f"naq-linux-{NODE[self.machine]}-{self.version}.tgz"


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise SystemExit(f"packaging: nothing matches {pattern}")
    return found[1]
