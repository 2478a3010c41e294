"""
Clients of Redis for an address: a server, a cluster or Sentinels.

All keys of an installation lie in one slot, so one node of a cluster serves it. Each connection leads to one server,
which is looked up when the connection is made.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import MovedError, ReadOnlyError, ResponseError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from processor.redis_address import parse

if TYPE_CHECKING:
    from processor.redis_address import RedisAddress

#: The longest time for one Sentinel to answer, in seconds.
SENTINEL_SECONDS: Final = 0.5

Place = tuple[str, int]


def connect(
    redis_url: str, *, timeout_seconds: float, retries: int = 0, connections_max: int | None = None
) -> redis.Redis:
    """
    Return a client. It connects when it is first used, and opens a connection that the server has closed once more.

    A time-out is not retried. With `connections_max`, callers wait for a free connection for up to `timeout_seconds`.
    Raises SettingsError.
    """
    address = parse(redis_url)
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
    }
    if connections_max is not None:
        options |= {"max_connections": connections_max, "timeout": timeout_seconds}
    pool_class = redis.ConnectionPool if connections_max is None else redis.BlockingConnectionPool
    if address.kind == "unix":
        pool = pool_class(connection_class=UnixDomainSocketConnection, path=address.path, **options)
        return redis.Redis.from_pool(pool)
    pool = pool_class(
        connection_class=_LocatedSSL if address.is_encrypted else _Located,
        locator=_locator(redis_url),
        **(_encryption(address) if address.is_encrypted else {}),
        **options,
    )
    return _Client.from_pool(pool)


def place_of(redis_url: str) -> Place | None:
    """Return the server that the last connection of this process led to. Returns None for a socket."""
    return None if parse(redis_url).kind == "unix" else _locator(redis_url).place


def is_cluster(redis_url: str) -> bool:
    """Return whether the last connection of this process led to a node of a cluster."""
    return parse(redis_url).kind == "server" and _locator(redis_url).is_cluster


def _encryption(address: RedisAddress) -> dict[str, Any]:
    found = address.options
    return {
        "ssl_ca_certs": found.get("ssl_ca_certs"),
        "ssl_certfile": found.get("ssl_certfile"),
        "ssl_keyfile": found.get("ssl_keyfile"),
        "ssl_cert_reqs": found.get("ssl_cert_reqs", "required"),
        "ssl_check_hostname": found.get("ssl_check_hostname", "true") == "true",
    }


@functools.cache
def _locator(redis_url: str) -> _Locator:
    """Return the locator that all clients of a URL in this process share."""
    return _Locator(parse(redis_url))


class _Locator:
    """Knows the server to connect to: the last one that worked, until a fault shows that it is another one."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._lock = threading.Lock()
        #: Servers or nodes, the one to try first at the beginning.
        self._places = list(address.hosts)
        #: Whether a server may still be found to be a node of a cluster.
        self.may_be_cluster = address.kind == "server"
        self.is_cluster = False
        #: The server of the last connection.
        self.place: Place | None = None

    def locate(self) -> Place:
        """Return the server to connect to now. Raises ConnectionError."""
        if self._address.kind == "sentinel":
            return self._ask_sentinels()
        with self._lock:
            return self._places[0]

    def note_failed(self, place: Place) -> None:
        """Try another one next time."""
        with self._lock:
            if self._places[0] == place:
                self._places.append(self._places.pop(0))

    def note_nodes(self, nodes: list[Place], asked: Place) -> None:
        """Add nodes of the cluster; the first one is tried first. One without a host has that of the node asked."""
        with self._lock:
            found = [(host or asked[0], port) for host, port in nodes]
            self._places = list(dict.fromkeys([*found, *self._places]))

    def _ask_sentinels(self) -> Place:
        address = self._address
        fault: Exception | None = None
        for host, port in address.hosts:
            options: dict[str, Any] = _encryption(address) if address.is_encrypted else {}
            sentinel = redis.Redis(
                host=host,
                port=port,
                username=address.options.get("sentinel_username"),
                password=address.options.get("sentinel_password"),
                ssl=address.is_encrypted,
                socket_timeout=SENTINEL_SECONDS,
                socket_connect_timeout=SENTINEL_SECONDS,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
            try:
                with sentinel:
                    found: Any = sentinel.sentinel_get_master_addr_by_name(address.service)
            except redis.RedisError as refusal:
                fault = refusal
                continue
            if found:
                return _text(found[0]), int(found[1])
            fault = fault or MasterNotFoundError("no Sentinel knows the service of REDIS_URL")
        if isinstance(fault, redis.ConnectionError):
            raise fault
        raise MasterNotFoundError("no Sentinel answers") from fault


class _Located(Connection):
    """A connection to the server that the locator names."""

    def __init__(self, *, locator: _Locator, **options: Any) -> None:
        self._locator = locator
        super().__init__(**options)  # type: ignore[no-untyped-call] # redis-py's own, here and below

    def _connect(self) -> Any:
        self.host, self.port = self._locator.locate()
        try:
            return super()._connect()  # type: ignore[no-untyped-call]
        except OSError:
            self._locator.note_failed((self.host, self.port))
            raise

    def on_connect_check_health(self, check_health: bool = True) -> None:
        here = (self.host, self.port)
        try:
            super().on_connect_check_health(check_health)
        except (redis.ConnectionError, redis.TimeoutError):
            self._locator.note_failed(here)
            raise
        self._locator.place = here
        if not self._locator.may_be_cluster:
            return
        self.send_command("CLUSTER", "SLOTS", check_health=False)  # type: ignore[no-untyped-call]
        try:
            slots: Any = self.read_response()
        except ResponseError:  # no cluster, or no right to ask
            self._locator.may_be_cluster = False
            return
        self._locator.is_cluster = True
        nodes = [(_text(node[0]), int(node[1])) for _, _, *servers in slots for node in servers]
        self._locator.note_nodes([here, *nodes], here)


class _LocatedSSL(_Located, SSLConnection):
    """The same, with encryption."""


class _Client(redis.Redis):
    """A client that follows the primary."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command. If another node of a cluster has its keys, that one is asked from then on."""
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except MovedError as moved:
            locator: _Locator = self.connection_pool.connection_kwargs["locator"]
            locator.note_nodes([(moved.host, moved.port)], locator.place or locator.locate())
            self.connection_pool.disconnect()
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ReadOnlyError:  # it was the primary before
            locator = self.connection_pool.connection_kwargs["locator"]
            if locator.place is not None:
                locator.note_failed(locator.place)
            self.connection_pool.disconnect()
            raise


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
