"""
Servers of Redis for tests: Valkey from its package, and Debian's Redis 7 where it is installed.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from teller.embedded import valkey
from tests.waiting import TIMEOUT_SECONDS, eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALKEY = "valkey"
REDIS = "redis"
#: The options of a node.
CLUSTER = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf")
#: The commands of other servers of the same protocol.
INSTALLED = {REDIS: "redis-server"}


def find(kind: str) -> str | None:
    """
    Return the path of a server, or None if it is not installed.
    """
    return str(valkey._binary()) if kind == VALKEY else shutil.which(INSTALLED[kind])  # noqa: SLF001


@dataclass
class Servers:
    """Servers that end with the test, each in a directory of its own."""

    binary: str
    directory: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(
        self, *options: str, is_sentinel: bool = False, configuration: str = "", tls: bool = False
    ) -> int:
        """
        Start a server on a free port. Returns the port when it answers.
        """
        port = free_port()
        own = self.directory / str(port)
        own.mkdir()
        path = own / "server.conf"
        listening = f"port 0\ntls-port {port}" if tls else f"port {port}"
        saving = "" if is_sentinel else 'save ""'
        path.write_text(f'{listening}\ndir "{own}"\n{saving}\n{configuration}')
        command = [self.binary, str(path), *(["--sentinel"] if is_sentinel else []), *options]
        with (own / "log").open("wb") as output:
            self.processes[port] = subprocess.Popen(command, stdout=output, stderr=output)
        eventually(lambda: self._listens(port) if tls else self._answers(port))
        return port

    def _listens(self, port: int) -> bool:
        """A server with TLS answers only to clients that have its certificate."""
        assert self.processes[port].poll() is None, (self.directory / str(port) / "log").read_text()
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        return False

    def _answers(self, port: int) -> bool:
        with contextlib.suppress(redis.ConnectionError), self.client(port) as client:
            return bool(client.ping())
        assert self.processes[port].poll() is None, (self.directory / str(port) / "log").read_text()
        return False

    def client(self, port: int) -> redis.Redis:
        """
        Return a client of the server on this port.
        """
        return redis.Redis(port=port, socket_timeout=TIMEOUT_SECONDS)

    def run(self, port: int, *command: str) -> Any:
        """
        Run a command of an administrator. Returns the answer.
        """
        with self.client(port) as client:
            return client.execute_command(*command)

    def kill(self, port: int) -> None:
        """
        End a server at once.
        """
        self.processes[port].kill()
        self.processes[port].wait()

    def cluster(self, nodes: int) -> list[int]:
        """
        Start a cluster. Returns the ports of its nodes when each of them serves its slots.
        """
        buses = [free_port() for _ in range(nodes)]
        ports = [self.start(*CLUSTER, "--cluster-port", str(bus)) for bus in buses]
        bounds = [16_384 * number // nodes for number in range(nodes + 1)]
        for number, port in enumerate(ports):
            self.run(port, "CLUSTER", "ADDSLOTSRANGE", str(bounds[number]), str(bounds[number + 1] - 1))
            self.run(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            self.run(port, "CLUSTER", "MEET", "127.0.0.1", str(ports[0]), str(buses[0]))
        eventually(
            lambda: all(b"cluster_state:ok" in _bytes(self.run(port, "CLUSTER", "INFO")) for port in ports)
        )
        return ports


def _bytes(answer: Any) -> bytes:
    """Return the text of an answer that redis-py parses."""
    if isinstance(answer, dict):
        return "\r\n".join(f"{name}:{value}" for name, value in answer.items()).encode()
    return answer if isinstance(answer, bytes) else str(answer).encode()


@contextlib.contextmanager
def running(kind: str, directory: Path) -> Iterator[Servers]:
    """
    Provide servers of a kind, which must be installed.
    """
    binary = find(kind)
    assert binary is not None
    servers = Servers(binary, directory)
    try:
        yield servers
    finally:
        for process in servers.processes.values():
            process.kill()
            process.wait()
