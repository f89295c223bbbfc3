from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest

import naq
from naq import _settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return tmp_path


def load(home: Path, /, *, arguments: dict[str, object] | None = None, **env: str) -> _settings.Settings:
    return _settings.load(arguments or {}, {"HOME": str(home), **env})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_an_argument_overrides_a_variable_which_overrides_a_file(home: Path) -> None:
    write(home / ".config/naq/naq.toml", 'nats_url = "nats://file:1"\nprefix = "file"\ndefault_queue = "file"\n')
    assert load(home).servers == ("nats://file:1",)
    found = load(home, NAQ_NATS_URL="a:1, nats://b:2", NAQ_PREFIX="variable")
    assert found.servers == ("nats://a:1", "nats://b:2")
    assert (found.prefix, found.queue) == ("variable", "file")
    assert load(home, arguments={"prefix": "argument"}, NAQ_PREFIX="variable").prefix == "argument"
    assert load(home, NAQ_CONNECT_TIMEOUT="250ms").connect_timeout == 0.25


def test_a_file_of_this_folder_needs_trust(home: Path) -> None:
    here = write(Path("naq.toml").absolute(), 'nats_url = "nats://here:1"\n')
    with pytest.raises(naq.ConfigurationError, match=r"sets `nats_url` and may have come .* `naq config trust`"):
        load(home)
    digest = hashlib.sha256(os.fsencode(here)).hexdigest()
    write(home / ".local/share/naq/trusted" / digest, hashlib.sha256(here.read_bytes()).hexdigest() + "\n")
    assert load(home).servers == ("nats://here:1",)
    # a changed file is trusted no more
    write(here, 'nats_url = "nats://elsewhere:1"\n')
    with pytest.raises(naq.ConfigurationError, match="naq config trust"):
        load(home)
    write(here, 'default_queue = "harmless"\n')
    assert load(home, NAQ_NATS_URL="nats://a:1").queue == "harmless"


def test_a_file_that_others_may_write_is_refused(home: Path) -> None:
    file = write(home / ".config/naq/naq.toml", "")
    file.chmod(0o666)
    with pytest.raises(naq.ConfigurationError, match="can be written to by others"):
        load(home)
    with pytest.raises(naq.ConfigurationError, match="which does not exist"):
        load(home, NAQ_CONFIG=str(home / "none.toml"))
    write(home / "bad.toml", "nats_url = ")
    with pytest.raises(naq.ConfigurationError, match=r"bad\.toml: "):
        load(home, NAQ_CONFIG=str(home / "bad.toml"))


def test_a_credential_of_a_file_goes_only_to_its_own_address(home: Path) -> None:
    write(home / ".config/naq/naq.toml", 'nats_url = "nats://own:1"\ntoken = "secret"\n')
    assert load(home).token == "secret"
    assert load(home, NAQ_NATS_URL="nats://other:1").token is None
    assert load(home, NAQ_NATS_URL="nats://other:1", NAQ_TOKEN="mine").token == "mine"


def test_a_context_of_nats(home: Path) -> None:
    write(home / ".config/nats/context/prod.json", json.dumps({"url": "nats://prod:1", "creds": "/c", "ca": "/ca"}))
    write(home / ".config/nats/context.txt", "prod\n")
    for name in ("prod", "@selected"):
        found = load(home, NAQ_CONTEXT=name)
        assert (found.servers, found.creds, found.tls_ca) == (("nats://prod:1",), "/c", "/ca")
    with pytest.raises(naq.ConfigurationError, match="there is no NATS context 'none'"):
        load(home, NAQ_CONTEXT="none")


def test_an_address_is_never_guessed(home: Path) -> None:
    with pytest.raises(naq.ConfigurationError, match="run `naq dev`, or set NAQ_NATS_URL"):
        load(home)
    with pytest.raises(naq.ConfigurationError, match="`token` is set and no address of NATS is"):
        load(home, NAQ_TOKEN="x")
    with pytest.raises(naq.ConfigurationError, match="`user` and `password` are set together"):
        load(home, NAQ_NATS_URL="nats://a:1", NAQ_USER="x")


def test_the_managed_server_is_used_while_it_runs(home: Path) -> None:
    folder = home / ".local/share/naq/server"
    state = {"url": "nats://127.0.0.1:4333", "nkey_file": "/key", "server_name": "one"}
    write(folder / "server.json", json.dumps(state))
    lock = write(folder / "lock", "")
    with pytest.raises(naq.ConfigurationError, match="no server of naq runs"):
        load(home)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = load(home)
    assert (found.servers, found.nkey, found.server_name) == (("nats://127.0.0.1:4333",), "/key", "one")


def test_inside_a_job_the_worker_is_used_unless_nats_is_set(home: Path) -> None:
    job = {"NAQ_JOB_SOCKET": "/run/naq.sock", "NAQ_JOB_TOKEN": "t"}
    assert load(home, **job).job_socket == ("/run/naq.sock", "t")
    assert load(home, NAQ_NATS_URL="nats://a:1", **job).job_socket is None
    with pytest.raises(naq.ConfigurationError, match="grants its jobs nothing; start it with `--grant enqueue,read`"):
        load(home, NAQ_JOB_SOCKET="")


def test_a_password_is_not_shown(home: Path) -> None:
    found = load(home, NAQ_NATS_URL="nats://a:1", NAQ_TOKEN="secret")
    assert "secret" not in repr(found)
