"""Where NATS is and how to log in: arguments, then `NAQ_*`, then `naq.toml`, as the program `naq` does."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import pwd
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _values
from .errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILE_BYTES_MAX = 1 << 20
_CREDENTIALS = ("creds", "nkey", "user", "password", "token")
_ABOUT_NATS = ("nats_url", *_CREDENTIALS, "tls_ca", "tls_cert", "tls_key", "inbox_prefix", "jetstream_domain")
# what a ./naq.toml that nobody has trusted may set, of the settings that are read here
_HARMLESS = ("connect_timeout", "default_queue")
_READ = (
    *_ABOUT_NATS,
    *_HARMLESS,
    "context",
    "prefix",
    "replicas",
    "allow_insecure",
    "server_users",
    "data_dir",
)
_PATHS = ("creds", "nkey", "tls_ca", "tls_cert", "tls_key", "data_dir")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to connect."""

    servers: tuple[str, ...] = ()
    token: str | None = None
    user: str | None = None
    password: str | None = None
    creds: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    inbox_prefix: str | None = None
    jetstream_domain: str | None = None
    connect_timeout: float = 5.0
    prefix: str = "naq"
    replicas: int | None = None
    queue: str = "default"
    allow_insecure: bool = False
    server_users: tuple[str, ...] = ("nats",)
    # the name in the greeting of the managed server: another program at its port has another one
    server_name: str | None = None
    # the path of a worker's socket and the token, inside a job
    job_socket: tuple[str, str] | None = None

    def __repr__(self) -> str:
        shown = "the job's worker" if self.job_socket else ",".join(self.servers)
        return f"<naq settings: {shown}, prefix {self.prefix}>"


def load(arguments: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings.

    Raises:
        ConfigurationError: A file or a value cannot be used, or nothing says where NATS is.
    """
    env = dict(os.environ if env is None else env)
    given = {name: value for name, value in arguments.items() if value is not None}
    layers = [("an argument", given), ("a variable", _variables(env)), *_files(env)]
    values: dict[str, Any] = {}
    origins: dict[str, int] = {}
    for index, (_, layer) in enumerate(layers):
        for name, value in layer.items():
            if name not in values:
                values[name], origins[name] = value, index
    if "context" in values and "nats_url" not in values:
        # a context is one place: its address with its credentials
        context = _context(str(values["context"]), env)
        values.update({name: value for name, value in context.items() if name not in values})
        origins.update({name: origins["context"] for name in context if name not in origins})
    _drop_foreign_credentials(values, origins, layers)
    if any(name in values for name in _ABOUT_NATS):
        if "nats_url" not in values:
            about = next(name for name in _ABOUT_NATS if name in values)
            raise ConfigurationError(
                f"`{about}` is set and no address of NATS is; set NAQ_NATS_URL, such as nats://127.0.0.1:4222"
            )
        return _settings(values)
    if "NAQ_JOB_SOCKET" in env:
        return _inside_a_job(values, env)
    return _managed(values, env)


def _settings(values: Mapping[str, Any], **more: Any) -> Settings:
    texts = {name: str(values[name]) for name in _ABOUT_NATS if name in values and name != "nats_url"}
    for name in _PATHS:
        if name in texts:
            texts[name] = os.path.expanduser(texts[name])
    given = (one.strip() for one in str(values.get("nats_url", "")).split(","))
    servers = tuple(one if "://" in one else f"nats://{one}" for one in given if one)
    for one, other in (("user", "password"), ("tls_cert", "tls_key")):
        if (one in texts) != (other in texts):
            raise ConfigurationError(f"`{one}` and `{other}` are set together or not at all")
    users = values.get("server_users", "nats")
    users = users.split(",") if isinstance(users, str) else users
    replicas = values.get("replicas")
    settings = {
        "servers": servers,
        "connect_timeout": _values.seconds(values.get("connect_timeout", 5), "connect_timeout"),
        "prefix": str(values.get("prefix", "naq")),
        "replicas": None if replicas is None else int(replicas),
        "queue": _values.queue_name(values.get("default_queue", "default")),
        "allow_insecure": str(values.get("allow_insecure", "")).lower() in ("true", "1", "yes", "on"),
        "server_users": tuple(str(user) for user in users),
        **texts,
        **more,
    }
    return Settings(**settings)


def _variables(env: Mapping[str, str]) -> dict[str, Any]:
    names = {name: f"NAQ_{name.upper()}" for name in _READ}
    return {name: env[variable] for name, variable in names.items() if env.get(variable)}


def _home(env: Mapping[str, str], variable: str, below: str) -> Path | None:
    if env.get(variable) and os.path.isabs(env[variable]):
        return Path(env[variable])
    home = env.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    return Path(home) / below if home else None


def _files(env: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    if env.get("NAQ_CONFIG"):
        path = Path(env["NAQ_CONFIG"]).expanduser()
        text = _read(path)
        if text is None:
            raise ConfigurationError(f"NAQ_CONFIG names {path}, which does not exist")
        return [(str(path), _parse(path, text))]
    found = []
    here = Path("naq.toml").absolute()
    folder = _home(env, "XDG_CONFIG_HOME", ".config")
    own = folder / "naq" / "naq.toml" if folder else None
    text = None if own is not None and own == here else _read(here)
    if text is not None:
        values = _parse(here, text)
        refused = [name for name in values if name not in _HARMLESS]
        if refused and not _is_trusted(here, text, env):
            raise ConfigurationError(
                f"{here} sets `{refused[0]}` and may have come with what you cloned or unpacked here;"
                " read it, then run `naq config trust`"
            )
        found.append((str(here), values))
    if own is not None and (text := _read(own)) is not None:
        found.append((str(own), _parse(own, text)))
    return found


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ConfigurationError(f"{path} is not a regular file")
            if about.st_uid not in (os.getuid(), 0):
                raise ConfigurationError(f"{path} belongs to another user (uid {about.st_uid}), so it is not read")
            if about.st_mode & 0o022:
                raise ConfigurationError(f"{path} can be written to by others, so it is not read; chmod go-w")
            content = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigurationError(f"{path} is larger than 1 MiB, so it is not read")
    return content.decode(errors="replace")


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    for name in _PATHS:
        if isinstance(values.get(name), str):
            values[name] = str(path.parent / Path(values[name]).expanduser())
    return values


def _data_home(env: Mapping[str, str]) -> Path:
    return (_home(env, "XDG_DATA_HOME", ".local/share") or Path("/nonexistent")) / "naq"


def _is_trusted(path: Path, text: str, env: Mapping[str, str]) -> bool:
    place = path.parent.resolve() / path.name
    digest = hashlib.sha256(os.fsencode(place)).hexdigest()
    entry = _read(_data_home(env) / "trusted" / digest)
    trusted = entry.splitlines()[:1] if entry else []
    return trusted == [hashlib.sha256(text.encode()).hexdigest()]


def _context(name: str, env: Mapping[str, str]) -> dict[str, Any]:
    folder = (_home(env, "XDG_CONFIG_HOME", ".config") or Path("/nonexistent")) / "nats"
    if name == "@selected":
        name = (_read(folder / "context.txt") or "").strip()
    if not name or "/" in name or ".." in name:
        raise ConfigurationError(f"{name!r} is not the name of a NATS context")
    path = folder / "context" / f"{name}.json"
    text = _read(path)
    if text is None:
        raise ConfigurationError(f"there is no NATS context {name!r}: {path} does not exist")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    fields = {"url": "nats_url", "cert": "tls_cert", "key": "tls_key", "ca": "tls_ca"}
    same = ("token", "user", "password", "creds", "nkey", "inbox_prefix", "jetstream_domain")
    fields.update({field: field for field in same})
    return {setting: content[field] for field, setting in fields.items() if content.get(field)}


def _drop_foreign_credentials(
    values: dict[str, Any], origins: dict[str, int], layers: list[tuple[str, dict[str, Any]]]
) -> None:
    """A credential of a file goes only to the address that the same file names."""
    url = origins.get("nats_url")
    if url is None:
        return
    for name in _CREDENTIALS:
        origin = origins.get(name)
        if origin is None or origin == url:
            continue
        is_of_file = origin >= 2
        is_to_folder = url >= 2 and layers[url][0] == str(Path("naq.toml").absolute())
        if is_of_file or is_to_folder:
            del values[name]


def _inside_a_job(values: Mapping[str, Any], env: Mapping[str, str]) -> Settings:
    path = env["NAQ_JOB_SOCKET"]
    if not path:
        raise ConfigurationError("the worker of this job grants its jobs nothing; start it with `--grant enqueue,read`")
    return _settings(values, job_socket=(path, env.get("NAQ_JOB_TOKEN", "")))


def _managed(values: Mapping[str, Any], env: Mapping[str, str]) -> Settings:
    """The server that `naq dev`, `naq run` or `naq server start` has started for this user."""
    folder = Path(values.get("data_dir") or _data_home(env)) / "server"
    text = _read(folder / "server.json")
    state = json.loads(text) if text else None
    if state is None or not _is_locked(folder / "lock"):
        raise ConfigurationError(
            "no server of naq runs and nothing says where NATS is; run `naq dev`, or set NAQ_NATS_URL"
        )
    return _settings(
        {**values, "nats_url": state["url"], "nkey": state["nkey_file"], "replicas": 1},
        server_name=state["server_name"],
    )


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
