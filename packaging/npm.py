"""The npm packages: `naq`, a shim, and `@naq/linux-x64` or `@naq/linux-arm64`, the program with nats-server.

Neither has an install script: npm, pnpm and others block them, and nothing is downloaded.
"""

import json
from pathlib import Path

from archives import Contents, licences, tar_gz
from build_info import NODE, ROOT, BuildInfo

# What npm itself gives each file of a package: the time of a release would differ between two of the same contents.
EPOCH = 499_162_500


def write(naq: Path, server: Path, info: BuildInfo, out: Path) -> None:
    cpu = NODE[info.machine]
    shared = {"version": info.version, "license": "MIT OR Apache-2.0"}
    shim = {
        "name": "naq",
        **shared,
        "description": "A language-agnostic, distributed job runner on NATS JetStream",
        "keywords": ["queue", "jobs", "nats", "scheduler", "worker"],
        "bin": {"naq": "bin/naq.cjs"},
        "files": ["bin"],
        "engines": {"node": ">=18"},
        "optionalDependencies": {f"@naq/linux-{cpu}": info.version for cpu in NODE.values()},
    }
    platform = {
        "name": f"@naq/linux-{cpu}",
        **shared,
        "description": f"naq and nats-server for Linux on {info.machine}",
        "os": ["linux"],
        "cpu": [cpu],
        "files": ["bin"],
        # programs cannot be run from an archive
        "preferUnplugged": True,
    }
    readme = ((ROOT / "packaging/npm/README.md").read_bytes(), 0o644)
    pack(out / info.npm_file, shim, {
        "bin/naq.cjs": ((ROOT / "packaging/npm/bin/naq.cjs").read_bytes(), 0o755),
        "README.md": readme,
    })
    pack(out / info.npm_platform_file, platform, {
        "bin/naq": (naq.read_bytes(), 0o755),
        "bin/nats-server": (server.read_bytes(), 0o755),
        "README.md": readme,
    })


def pack(path: Path, manifest: dict, files: Contents) -> None:
    text = json.dumps(manifest, indent=2) + "\n"
    files = {"package.json": (text.encode(), 0o644), **licences(), **files}
    path.write_bytes(tar_gz({f"package/{name}": contents for name, contents in files.items()}, EPOCH))
