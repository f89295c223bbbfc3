"""A bill of materials in the format CycloneDX 1.5: what is compiled into naq, and the nats-server that comes with it."""

import datetime as dt
import json
import re
import subprocess
from pathlib import Path
from typing import Dict, List, Set

from archives import sha256
from build_info import ROOT, BuildInfo


def write(server: Path, info: BuildInfo, out: Path) -> None:
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform"]
    command.append(f"{info.machine}-unknown-linux-gnu")
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    metadata = json.loads(found.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = normal_dependencies(metadata)
    root = next(key for key, package in packages.items() if package["name"] == "naq")
    used = sorted(reachable(root, edges), key=lambda key: reference(packages[key]))
    checksums = lock_checksums()
    nats = f"pkg:golang/github.com/nats-io/nats-server/v2@v{info.server_version}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": dt.datetime.fromtimestamp(info.epoch, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(packages[root], checksums, "application"),
        },
        "components": [component(packages[key], checksums, "library") for key in used if key != root]
        + [
            {
                "type": "application",
                "bom-ref": nats,
                "name": "nats-server",
                "version": info.server_version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": sha256(server)}],
                "purl": nats,
            }
        ],
        "dependencies": [
            {
                "ref": reference(packages[key]),
                "dependsOn": sorted(reference(packages[other]) for other in edges[key]) + ([nats] if key == root else []),
            }
            for key in used
        ],
    }
    (out / f"naq-{info.version}.cdx.json").write_text(json.dumps(document, indent=1) + "\n")


def normal_dependencies(metadata: dict) -> Dict[str, List[str]]:
    """What each package has in the program: no tools of the build, and nothing of the tests."""
    return {
        node["id"]: [one["pkg"] for one in node["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }


def reachable(root: str, edges: Dict[str, List[str]]) -> Set[str]:
    found, waiting = {root}, [root]
    while waiting:
        for other in edges[waiting.pop()]:
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def reference(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package: dict, checksums: Dict[str, str], kind: str) -> dict:
    entry = {
        "type": kind,
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    }
    if package.get("license"):
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get(f"{package['name']} {package['version']}")
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def lock_checksums() -> Dict[str, str]:
    text = (ROOT / "Cargo.lock").read_text()
    pattern = r'name = "([^"]+)"\nversion = "([^"]+)"\nsource = "[^"]+"\nchecksum = "([0-9a-f]{64})"'
    return {f"{name} {version}": checksum for name, version, checksum in re.findall(pattern, text)}
