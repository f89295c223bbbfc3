"""A connection to NATS: requests with a bound, messages of streams, and errors that say what to do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import ipaddress
import json
import logging
import os
import pwd
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ._settings import Settings
from .errors import ConfigurationError, NaqConnectionError, NaqError, StoreFull

log = logging.getLogger("naq")

REQUEST_TIMEOUT = 5.0
STREAM_NOT_FOUND, MESSAGE_NOT_FOUND, WRONG_LAST_SEQUENCE = 10059, 10037, 10071
_NO_REPLICAS = (10074, 10052)  # not a cluster; too few servers


class NoResponders(NaqError):
    """Nothing answers at the subject: the stream does not exist."""


class NoAnswer(NaqConnectionError):
    """A request was not answered in time. It may have arrived."""


class ApiError(NaqError):
    """JetStream refuses a request."""

    def __init__(self, subject: str, error: Mapping[str, Any]) -> None:
        super().__init__(f"NATS refuses a request to {subject}: {error.get('description', error)}")
        self.code = int(error.get("err_code", 0))


@dataclasses.dataclass(frozen=True)
class StoredMessage:
    """A message of a stream."""

    subject: str
    sequence: int
    data: bytes
    headers: dict[str, str]
    time: str

    @property
    def is_removed(self) -> bool:
        """Whether it marks a key of a bucket as removed or expired."""
        return not self.data and ("KV-Operation" in self.headers or "Nats-Marker-Reason" in self.headers)


class Connection:
    """A connection to NATS, in the background thread's loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reconnected: set[asyncio.Event] = set()
        self._nats: Client | None = None
        self._connecting = asyncio.Lock()
        self._last_error: Exception | None = None
        domain = settings.jetstream_domain
        self._api = f"$JS.{domain}.API" if domain else "$JS.API"

    async def nats(self) -> Client:
        """The client, connected."""
        if self._nats is None:
            async with self._connecting:
                if self._nats is None:
                    self._nats = await self._connect()
        return self._nats

    async def close(self) -> None:
        """Closes the connection."""
        client, self._nats = self._nats, None
        if client is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), 2)

    async def request(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> Msg:
        """A request and its answer, at most REQUEST_TIMEOUT."""
        client = await self.nats()
        try:
            return await client.request(subject, payload, REQUEST_TIMEOUT, headers=headers)
        except nats.errors.NoRespondersError:
            raise NoResponders(f"nothing answers at {subject}") from None
        except nats.errors.MaxPayloadError:
            raise StoreFull(
                f"the message has {len(payload)} bytes, and the server takes at most {client.max_payload}"
            ) from None
        except (nats.errors.TimeoutError, asyncio.TimeoutError):
            raise NoAnswer(self._silence(subject)) from None
        except nats.errors.Error as error:
            raise NaqConnectionError(f"NATS at {self._shown()}: {_text(error)}") from error

    async def api(self, verb: str, body: Any = None) -> dict[str, Any]:
        """A request of the JetStream API."""
        subject = f"{self._api}.{verb}"
        payload = b"" if body is None else json.dumps(body).encode()
        try:
            answer = json.loads((await self.request(subject, payload)).data)
        except NoResponders:
            raise NaqConnectionError(
                f"NATS at {self._shown()} has no JetStream for this user; start nats-server with `-js`"
            ) from None
        if "error" in answer:
            raise ApiError(subject, answer["error"])
        return dict(answer)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> dict[str, Any]:
        """Stores a message. Returns the acknowledgement.

        Raises:
            NoResponders: No stream has the subject.
            ApiError: The stream refuses the message.
            StoreFull: The storage is full.
        """
        answer = json.loads((await self.request(subject, payload, headers)).data)
        if "error" in answer:
            error = ApiError(subject, answer["error"])
            text = str(answer["error"].get("description", ""))
            if "insufficient" in text or "maximum" in text or "exceeded" in text:
                raise StoreFull(f"NATS has no room for the message: {text}")
            raise error
        return dict(answer)

    async def message(self, stream: str, **selector: Any) -> StoredMessage | None:
        """Reads a message of a stream. None if it or the stream does not exist."""
        try:
            answer = (await self.api(f"STREAM.MSG.GET.{stream}", selector))["message"]
        except ApiError as error:
            if error.code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
                return None
            raise
        return StoredMessage(
            subject=answer["subject"],
            sequence=answer["seq"],
            data=base64.b64decode(answer.get("data", "")),
            headers=_headers(base64.b64decode(answer.get("hdrs", ""))),
            time=answer.get("time", ""),
        )

    async def value(self, bucket: str, key: str) -> tuple[Any, int]:
        """A value of a bucket with its revision. None and a revision if it was removed, or None and 0."""
        found = await self.message(f"KV_{bucket}", last_by_subj=f"$KV.{bucket}.{key}")
        if found is None:
            return None, 0
        if found.is_removed:
            return None, found.sequence
        return json.loads(found.data), found.sequence

    async def keys(self, stream: str, subjects: str) -> list[str]:
        """The subjects of a stream that match, at most 10,000."""
        try:
            info = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": subjects})
        except ApiError as error:
            if error.code == STREAM_NOT_FOUND:
                return []
            raise
        return sorted((info.get("state", {}).get("subjects") or {}).keys())

    async def create_stream(self, config: dict[str, Any]) -> None:
        """Creates a stream with as many replicas as the settings or the cluster say."""
        wanted = self.settings.replicas
        for replicas in [wanted] if wanted else [3, 2, 1]:
            try:
                await self.api(f"STREAM.CREATE.{config['name']}", {**config, "num_replicas": replicas})
                return
            except ApiError as error:
                if error.code == 10058:  # it exists with other settings, which are the operator's
                    return
                if wanted or replicas == 1 or error.code not in _NO_REPLICAS:
                    raise

    async def create_consumer(self, stream: str, config: dict[str, Any]) -> None:
        """Creates a durable consumer, unless it exists or this user may not: the first worker creates it then."""
        request = {"stream_name": stream, "config": config, "action": "create"}
        try:
            await self.api(f"CONSUMER.CREATE.{stream}.{config['name']}", request)
        except NaqError:
            return

    async def _connect(self) -> Client:
        settings = self.settings
        for server in settings.servers:
            self._check_server_user(server)

        async def on_error(error: Exception) -> None:
            self._last_error = error

        async def on_reconnect() -> None:
            # what was published meanwhile is missing, so every wait reads again
            for event in self.reconnected:
                event.set()

        options: dict[str, Any] = {
            "servers": list(settings.servers),
            "name": "naq-client (Python)",
            "token": settings.token,
            "user": settings.user,
            "password": settings.password,
            "user_credentials": settings.creds,
            "nkeys_seed": settings.nkey,
            "tls": _tls(settings),
            "error_cb": on_error,
            "reconnected_cb": on_reconnect,
            "connect_timeout": settings.connect_timeout,
            "reconnect_time_wait": 0.5,
            "max_reconnect_attempts": -1,
        }
        if settings.inbox_prefix:
            options["inbox_prefix"] = settings.inbox_prefix
        for name in ("creds", "nkey"):
            path = getattr(settings, name)
            if path and not os.access(path, os.R_OK):
                raise ConfigurationError(f"`{name}` names {path}, which cannot be read")
        try:
            client = await asyncio.wait_for(nats.connect(**options), settings.connect_timeout)
        except (asyncio.TimeoutError, OSError, nats.errors.Error, ssl.SSLError) as error:
            raise NaqConnectionError(self._unreachable(error)) from None
        self._check_greeting(client)
        return client

    def _unreachable(self, error: Exception) -> str:
        cause = self._last_error if isinstance(error, (asyncio.TimeoutError, nats.errors.NoServersError)) else error
        text = _text(cause) if cause else f"no answer within {self.settings.connect_timeout:g} s"
        advice = "is NATS running there?"
        if "uthorization" in text:
            advice = "set NAQ_CREDS, NAQ_NKEY, NAQ_TOKEN, or NAQ_USER and NAQ_PASSWORD"
        return f"cannot connect to NATS at {self._shown()}: {text}; {advice}"

    def _silence(self, subject: str) -> str:
        if self._nats is not None and not self._nats.is_connected:
            return f"the connection to NATS at {self._shown()} is lost and being restored"
        # NATS denies a publish by a message of its own, and never answers the request
        denied = self._last_error
        if denied is not None and subject in str(denied):
            return f"NATS at {self._shown()} denies a publish to {subject}"
        return f"NATS at {self._shown()} did not answer within {REQUEST_TIMEOUT:g} s (a request to {subject})"

    def _shown(self) -> str:
        # an address may contain a password
        return ", ".join(urlsplit(server)._replace(netloc=_host(server)).geturl() for server in self.settings.servers)

    def _check_server_user(self, server: str) -> None:
        """Another user of this machine who listens there would receive the jobs: see docs/settings.md."""
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        if parts.scheme == "tls" or self.settings.tls_ca or not _is_loopback(parts.hostname or ""):
            return
        owner = _listener(parts.port or 4222)
        if owner is None or owner in (os.getuid(), 0):
            return
        with contextlib.suppress(KeyError):
            if pwd.getpwuid(owner).pw_name in self.settings.server_users:
                return
        if str(owner) in self.settings.server_users:
            return
        raise NaqConnectionError(
            f"the server at {self._shown()} belongs to uid {owner}, which is neither this user nor root nor named"
            " by `server_users`"
        )

    def _check_greeting(self, client: Client) -> None:
        wanted = self.settings.server_name
        found = getattr(client, "_server_info", {}).get("server_name")
        if wanted and found != wanted:
            raise NaqConnectionError(f"another program than naq's server answers at {self._shown()}: {found}")


def _host(server: str) -> str:
    parts = urlsplit(server)
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or server


def _text(error: Exception) -> str:
    text = str(error).removeprefix("nats: ")
    return text or type(error).__name__


def _tls(settings: Settings) -> ssl.SSLContext | None:
    is_tls = any(server.startswith("tls://") for server in settings.servers)
    if not (is_tls or settings.tls_ca or settings.tls_cert):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        if settings.tls_cert:
            context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"`tls_ca`, `tls_cert` or `tls_key` cannot be used: {error}") from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listener(port: int) -> int | None:
    """The user of the process that listens at a port of this machine. None if the kernel does not say."""
    for table, loopback in (("tcp", "0100007F"), ("tcp6", None)):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            is_local = loopback is None or address in (loopback, "00000000")
            if fields[3] == "0A" and int(number, 16) == port and is_local:
                return int(fields[7])
    return None


def _headers(block: bytes) -> dict[str, str]:
    headers = {}
    for line in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


async def read_object(connection: Connection, bucket: str, name: str) -> bytes:
    """The bytes of an object of an object store, which may be as large as 64 MiB."""
    encoded = base64.urlsafe_b64encode(name.encode()).decode()
    meta = await connection.message(f"OBJ_{bucket}", last_by_subj=f"$O.{bucket}.M.{encoded}")
    about = json.loads(meta.data) if meta and meta.data else {}
    if not about or about.get("deleted"):
        raise NaqError(f"the object {name} of {bucket} does not exist; it has expired or was removed")
    subject, sequence, chunks = f"$O.{bucket}.C.{about['nuid']}", 1, []
    for _ in range(about.get("chunks", 0)):
        chunk = await connection.message(f"OBJ_{bucket}", seq=sequence, next_by_subj=subject)
        if chunk is None:
            raise NaqError(f"the object {name} of {bucket} is incomplete")
        chunks.append(chunk.data)
        sequence = chunk.sequence + 1
    return b"".join(chunks)
