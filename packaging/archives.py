"""Archives whose bytes depend on nothing but their contents."""

import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Dict, Tuple

from build_info import ROOT, BuildInfo

# A file of an archive: its bytes and its permissions.
Contents = Dict[str, Tuple[bytes, int]]


# How much is compressed, from 1 to 9.
LEVEL = 9


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stripped(binary: Path, target: Path) -> Path:
    """A copy of a program without symbols and debugging information."""
    shutil.copyfile(binary, target)
    target.chmod(0o755)
    subprocess.run(["strip", "--strip-all", target], check=True)
    return target


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=LEVEL, mtime=0)


def tar_gz(files: Contents, epoch: int) -> bytes:
    """A gzipped tar archive, in the order of its names. Everything belongs to root."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            data, mode = files[name]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, epoch
            archive.addfile(entry, io.BytesIO(data))
    return gzipped(buffer.getvalue())


def licences() -> Contents:
    notice = (
        "This package contains nats-server, copyright of the NATS authors, under the Apache License 2.0, whose text is\n"
        "in LICENSE-APACHE. naq itself is under the MIT License or the Apache License 2.0, at your option.\n"
    )
    files = {name: ((ROOT / name).read_bytes(), 0o644) for name in ("LICENSE-MIT", "LICENSE-APACHE")}
    return {**files, "NOTICE": (notice.encode(), 0o644)}


def write_program_archive(naq: Path, server: Path, pages: Path, info: BuildInfo, out: Path) -> None:
    """naq, nats-server, man pages, completions and units in one folder, for machines without a package manager."""
    top = f"naq-{info.version}-{info.machine}-linux"
    files: Contents = {
        "naq": (naq.read_bytes(), 0o755),
        "nats-server": (server.read_bytes(), 0o755),
        **{name: ((ROOT / name).read_bytes(), 0o644) for name in ("README.md", "CHANGELOG.md")},
        **licences(),
    }
    for folder, source in (("systemd", ROOT / "systemd"), ("man", pages / "man"), ("completions", pages / "completions")):
        for path in source.iterdir():
            files[f"{folder}/{path.name}"] = (path.read_bytes(), 0o644)
    placed = {f"{top}/{name}": contents for name, contents in files.items()}
    (out / f"{top}.tar.gz").write_bytes(tar_gz(placed, info.epoch))
