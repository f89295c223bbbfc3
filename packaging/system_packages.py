"""deb, rpm and apk, by nfpm from one description: packaging/nfpm.yaml."""

import os
import subprocess
from pathlib import Path
from typing import List

import wheel
from archives import gzipped, licences
from build_info import DEBIAN, ROOT, BuildInfo

SHELLS = ("bash", "zsh", "fish")


def pages(binary: Path, folder: Path, info: BuildInfo) -> Path:
    """What the program prints for a system that installs it: compressed man pages, and completions."""
    man, completions = folder / "man", folder / "completions"
    subprocess.run([binary, "man", "--dir", man], check=True)
    for page in list(man.iterdir()):
        (man / f"{page.name}.gz").write_bytes(gzipped(page.read_bytes()))
        page.unlink()
    completions.mkdir()
    for shell in SHELLS:
        script = subprocess.run([binary, "completions", shell], check=True, capture_output=True).stdout
        (completions / f"naq.{shell}").write_bytes(script)
    return folder


def libraries(program: bytes, libc: str, libgcc: str) -> List[str]:
    """The packages of the libraries that a program loads, quoted for YAML. A static one needs none."""
    version = wheel.glibc_version(program)
    needed = [libc.format(f"{version[0]}.{version[1]}")] if version else []
    if b"libgcc_s.so.1\0" in program:
        needed.append(libgcc)
    return [f'"{one}"' for one in needed]


def write(naq: Path, static: Path, server: Path, pages: Path, stage: Path, info: BuildInfo, out: Path, fast: bool) -> None:
    tree = stage / "tree"
    units = tree / "units"
    units.mkdir(parents=True)
    for unit in (ROOT / "systemd").glob("*.service"):
        # packages install into /usr, and leave /usr/local to the administrator
        text = unit.read_text().replace("/usr/local/bin/naq", "/usr/bin/naq")
        (units / unit.name).write_text(text)
    for name, (data, _) in licences().items():
        (tree / name).write_bytes(data)
    for source in (
        "packaging/naq.toml",
        # nfpm writes their times into the apk
        "packaging/scripts/postinstall.sh",
        "packaging/scripts/preremove.sh",
        "systemd/naq.sysusers.conf",
        "systemd/naq.tmpfiles.conf",
        "CHANGELOG.md",
    ):
        (tree / Path(source).name).write_bytes((ROOT / source).read_bytes())
    program_bytes = naq.read_bytes()
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(info.epoch),
        "NAQ_VERSION": info.version,
        "NAQ_PAGES": str(pages),
        "NAQ_TREE": str(tree),
        "NAQ_SERVER": str(server),
        "NAQ_ARCH": DEBIAN[info.machine],
        "NAQ_DEB_DEPENDS": ", ".join(libraries(program_bytes, "libc6 (>= {})", "libgcc-s1")),
        "NAQ_RPM_DEPENDS": ", ".join(libraries(program_bytes, "glibc >= {}", "libgcc")),
        "NAQ_COMPRESSION": "gzip" if fast else "xz",
    }
    # times and permissions of this machine would be in the packages
    for path in [*tree.rglob("*"), *pages.rglob("*")]:
        os.utime(path, (info.epoch, info.epoch))
        path.chmod(0o755 if path.is_dir() else 0o644)
    for kind, program in (("deb", naq), ("rpm", naq), ("apk", static)):
        description = stage / f"nfpm.{kind}.yaml"
        # nfpm replaces variables in some fields only
        text = (ROOT / "packaging/nfpm.yaml").read_text()
        for name, value in {**environment, "NAQ_PROGRAM": str(program)}.items():
            if name.startswith(("NAQ_", "SOURCE_DATE")):
                text = text.replace(f"${{{name}}}", value)
        description.write_text(text)
        command = ["nfpm", "package", "--config", description, "--packager", kind, "--target", f"{out}/"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
