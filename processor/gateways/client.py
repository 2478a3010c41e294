"""
The HTTP client of gateways and webhooks: POSTs to addresses exactly as they are written.

It follows no redirect, uses no proxy, keeps no cookies, and decompresses nothing. `connection.py` says which answers
count.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

from processor.gateways.connection import Connection, CountingConnection, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

#: The time for which an idle connection is kept, in seconds. It is shorter than that of servers, because a call on a
#: connection that the server closes counts as unknown.
KEEPALIVE_SECONDS: Final = 1.0
#: The time for which the addresses of a name are used, in seconds.
ADDRESSES_SECONDS: Final = 10.0
#: The time after which the next address of a name is tried beside the first one, in seconds (RFC 8305).
NEXT_ADDRESS_SECONDS: Final = 0.25
#: The addresses whose parts are kept.
URLS_KEPT: Final = 1_024

_BEFORE_PATH = re.compile(r"[a-z]+://[^/?#]*", re.IGNORECASE)
#: The characters that cannot stand in a request line.
_UNSENDABLE = re.compile(r"[^!-~]")


class ConnectFailed(OSError):
    """There was no connection, so nothing was sent. Its cause is the fault."""


class NameFailed(ConnectFailed):
    """The name of the address leads to no address that may be used."""


class Origin(NamedTuple):
    """The server of an address."""

    is_tls: bool
    host: str
    port: int


class _Target(NamedTuple):
    origin: Origin
    #: The head of a request, without the headers that differ between requests.
    head: bytes


class Client:
    """
    A client with a pool of at most `connections_max` connections. It is made inside the event loop.

    It uses TLS with the certificates of the system. `timeout_seconds` is for a whole call. An answer with more than
    `headers_max` headers counts by its status alone. `resolve` returns the addresses of a name, each time it is
    called. Without it, the system's resolver is used, and its result is kept for ADDRESSES_SECONDS. `open_socket`
    makes the socket for an address.
    """

    def __init__(
        self,
        timeout_seconds: float,
        *,
        connections_max: int,
        headers_max: int | None = None,
        resolve: Callable[[str, int], Awaitable[list[AddrInfoType]]] | None = None,
        open_socket: Callable[[AddrInfoType], socket.socket] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_seconds = timeout_seconds
        self._connections_max = connections_max
        self._headers_max = headers_max
        self._resolve = resolve or _Names().resolve
        self._open_socket = open_socket
        self._tls = ssl.create_default_context()
        #: One for each call, whose connection is in use or about to be opened.
        self._slots = asyncio.Semaphore(connections_max)
        self._calls = 0
        self._in_use: set[Connection] = set()
        #: The idle connections: of each origin, and all in the order in which they became idle.
        self._idle_of: dict[Origin, deque[Connection]] = {}
        self._idle: dict[Connection, Origin] = {}
        self._expiry: asyncio.TimerHandle | None = None

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        body_bytes_max: int,
        body_seconds: float | None = None,
    ) -> Reply:
        """
        Send a POST. Reads at most `body_bytes_max` of the answer's body, for at most `body_seconds`.

        Raises ConnectFailed, NoAnswer or another OSError, such as TimeoutError, if no status arrived. Raises
        ValueError if it is no URL.
        """
        deadline = self._loop.time() + self._timeout_seconds
        origin, head = _target(url)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = b"%b%bContent-Length: %d\r\n\r\n%b" % (head, lines.encode("latin-1"), len(body), body)
        if self._slots.locked():
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        self._calls += 1
        try:
            connection = self._take(origin) or await self._open(origin, deadline)
            self._in_use.add(connection)
            try:
                return await connection.exchange(request, deadline, body_bytes_max, body_seconds)
            finally:
                self._in_use.discard(connection)
                self._keep(origin, connection)
        finally:
            self._calls -= 1
            self._slots.release()

    async def close(self) -> None:
        """Close the connections."""
        if self._expiry is not None:
            self._expiry.cancel()
        for connection in (*self._in_use, *self._idle):
            connection.close()
        self._idle.clear()
        self._idle_of.clear()
        await asyncio.sleep(0)  # the loop closes the sockets

    # ---------------------------------------------------------------- the pool

    def _take(self, origin: Origin) -> Connection | None:
        """Return the connection of this origin that became idle last, if there is one."""
        while waiting := self._idle_of.get(origin):
            connection = waiting.pop()
            if not waiting:
                del self._idle_of[origin]
            del self._idle[connection]
            if connection.is_reusable and connection.idle_since > self._loop.time() - KEEPALIVE_SECONDS:
                return connection
            connection.close()
        return None

    def _keep(self, origin: Origin, connection: Connection) -> None:
        if not connection.is_reusable:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        self._idle_of.setdefault(origin, deque()).append(connection)
        self._idle[connection] = origin
        if self._expiry is None:
            self._expiry = self._loop.call_later(KEEPALIVE_SECONDS, self._expire)

    def _expire(self) -> None:
        """Close the connections that have been idle for long."""
        self._expiry = None
        oldest = self._loop.time() - KEEPALIVE_SECONDS
        while self._idle:
            connection = next(iter(self._idle))
            if connection.is_reusable and connection.idle_since > oldest:
                self._expiry = self._loop.call_at(connection.idle_since + KEEPALIVE_SECONDS, self._expire)
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        connection, origin = next(iter(self._idle.items()))
        del self._idle[connection]
        waiting = self._idle_of[origin]
        waiting.popleft()  # both are in the same order
        if not waiting:
            del self._idle_of[origin]
        connection.close()

    def _connection(self) -> Connection:
        return Connection() if self._headers_max is None else CountingConnection(self._headers_max)

    async def _open(self, origin: Origin, deadline: float) -> Connection:
        """Connect. Raises TimeoutError, ConnectFailed."""
        if self._idle and self._calls + len(self._idle) > self._connections_max:
            self._drop_oldest()
        async with asyncio.timeout_at(deadline):
            try:
                addresses = _literal(origin) or await self._resolve(origin.host, origin.port)
            except (OSError, UnicodeError) as fault:
                raise NameFailed(str(fault)) from fault
            try:
                opened = await start_connection(
                    addresses,
                    happy_eyeballs_delay=NEXT_ADDRESS_SECONDS,
                    interleave=1,
                    socket_factory=self._open_socket,
                )
                _, connection = await self._loop.create_connection(
                    self._connection,
                    sock=opened,
                    ssl=self._tls if origin.is_tls else None,
                    server_hostname=origin.host.rstrip(".") if origin.is_tls else None,
                )
            except TimeoutError as fault:  # the timeout of TCP, not that of the call
                raise ConnectFailed(str(fault)) from fault
            except (OSError, ValueError, RuntimeError) as fault:
                raise ConnectFailed(str(fault)) from fault
        return connection


class _Names:
    """The resolver of the system. Concurrent calls for one name share a query."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[float, asyncio.Task[list[AddrInfoType]]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of a name. Raises OSError."""
        loop = asyncio.get_running_loop()
        until, query = self._found.get((host, port), (0.0, None))
        if query is None or until <= loop.time() or (query.done() and query.exception()):
            query = loop.create_task(_addresses(host, port))
            query.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # its callers may be gone
            self._found[host, port] = (loop.time() + ADDRESSES_SECONDS, query)
        return await asyncio.shield(query)


async def _addresses(host: str, port: int) -> list[AddrInfoType]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(found)


def _literal(origin: Origin) -> list[AddrInfoType]:
    """Return the address if the host is one, without a query."""
    try:
        ipaddress.ip_address(origin.host)
    except ValueError:
        return []
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return list(socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM, flags=numeric))


@lru_cache(maxsize=URLS_KEPT)
def _target(url: str) -> _Target:
    exact = exact_url(url)
    if exact.scheme not in ("http", "https") or not exact.raw_host or exact.port is None:
        raise ValueError("a URL begins with http:// or https://")
    lines = [
        f"POST {exact.raw_path_qs} HTTP/1.1",
        f"Host: {exact.host_port_subcomponent}",
        "User-Agent: teller",
        "Content-Type: application/json",
        "Accept: */*",
        "Accept-Encoding: identity",
    ]
    if exact.user is not None or exact.password is not None:
        credentials = f"{exact.user or ''}:{exact.password or ''}".encode()
        lines.append(f"Authorization: Basic {base64.b64encode(credentials).decode()}")
    head = "".join(f"{line}\r\n" for line in lines).encode("ascii")
    return _Target(Origin(exact.scheme == "https", exact.raw_host, exact.port), head)


@lru_cache(maxsize=URLS_KEPT)
def exact_url(url: str) -> URL:
    """
    Return a URL whose path and query are sent exactly as they are written.

    Spaces, control characters and those beyond ASCII are percent-encoded, since HTTP cannot carry them. Raises
    ValueError if it is no URL.
    """
    found = _BEFORE_PATH.match(url)
    if found is None:
        raise ValueError("a URL begins with http:// or https://")
    base = URL(found[0])
    target = _UNSENDABLE.sub(lambda character: quote(character[0]), url[found.end() :].partition("#")[0])
    if not target.startswith("/"):
        target = f"/{target}"
    # The query stands in the path, because a query of its own would lose an empty one.
    return URL.build(scheme=base.scheme, authority=base.raw_authority, path=target, encoded=True)
