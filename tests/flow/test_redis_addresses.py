"""
Notifications over each kind of Redis that REDIS_URL can name, and the reason where there are none.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socketserver
import subprocess
import threading
import uuid
from typing import TYPE_CHECKING, Self

import pytest
import redis

from tests import redis_servers
from tests.redis_servers import CLUSTER, REDIS, VALKEY, Servers
from tests.stack import TOP
from tests.waiting import TIMEOUT_SECONDS, eventually, free_port
from workers.doorbell import clients
from workers.doorbell.announcements import Announcements
from workers.doorbell.check import RedisCheck
from workers.doorbell.names import Names
from workers.doorbell.ring import Doorbell
from workers.worker.assignments import Assignments
from workers.worker.broker import WakingBroker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.flow.workers import WorkerStack

NAMES = Names(uuid.UUID(int=7))


@pytest.fixture(params=[VALKEY, REDIS])
def daemons(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """
    Servers of each kind that is installed.
    """
    if redis_servers.find(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    with redis_servers.running(request.param, tmp_path) as running:
        yield running


class Process:
    """The parts of a process that use Redis."""

    def __init__(self, url: str) -> None:
        self.announced: set[bytes] = set()
        self.broker = WakingBroker(url, NAMES, 64, Assignments(), lambda: None)
        self.announcements = Announcements(url, lambda: NAMES, self.announced.update, lambda: None)
        self.check = RedisCheck(url, lambda: NAMES, listener=self.announcements.listener)
        self.bell = Doorbell(url, lambda: NAMES, self.check)

    def __enter__(self) -> Self:
        self.announcements.start()
        self.check.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bell.close()
        self.check.stop()
        self.announcements.stop()

    def until_it_works(self) -> None:
        """Wait until a doorbell is taken and an announcement is received."""

        def works() -> bool:
            announced = uuid.uuid4()
            self.bell.notify(7)
            self.bell.announce([announced])
            assert self.bell.flush(TIMEOUT_SECONDS)
            self.bell.acknowledge([7])
            taken = None
            with contextlib.suppress(redis.RedisError, OSError):
                taken = self.broker.take(7)
            with contextlib.suppress(AssertionError):  # sent without a subscription
                eventually(lambda: announced.bytes in self.announced, within=0.5)
            return taken is not None and announced.bytes in self.announced and self.check.condition is None

        eventually(works)


def test_each_node_of_a_cluster_leads_to_the_one_with_the_keys(daemons: Servers) -> None:
    """
    All keys lie in one slot. A node that has it not names the one that has. Nodes are remembered when the first dies.
    """
    ports = daemons.cluster(3)
    owner = daemons.run(ports[0], "CLUSTER", "KEYSLOT", NAMES.marker(7)) * 3 // 16_384
    others = [port for port in ports if port != ports[owner]]
    for port in ports:
        with Process(f"redis://127.0.0.1:{port}") as process:
            process.until_it_works()
    url = f"redis://127.0.0.1:{others[0]}/0"
    with Process(url) as process:
        process.until_it_works()
        assert clients.is_cluster(url)
        for port in ports:
            daemons.run(port, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        daemons.kill(others[0])
        process.until_it_works()
        daemons.run(ports[owner], "CLIENT", "KILL", "TYPE", "normal")
        daemons.run(ports[owner], "CLIENT", "KILL", "TYPE", "pubsub")
        process.until_it_works()


def test_sentinel_names_the_primary_before_and_after_a_failover(daemons: Servers) -> None:
    """
    The primary is killed, and its replica is promoted: notifications go on over that one, without a new start.
    """
    primary = daemons.start()
    replica = daemons.start("--replicaof", "127.0.0.1", str(primary), "--repl-diskless-sync-delay", "0")
    sentinel = daemons.start(
        is_sentinel=True,
        configuration=f"sentinel monitor mymaster 127.0.0.1 {primary} 1\n"
        "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 2000\n",
    )
    eventually(lambda: daemons.client(replica).info("replication")["master_link_status"] == "up")
    eventually(lambda: len(daemons.client(sentinel).sentinel_slaves("mymaster")) == 1)
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel}/mymaster/0"
    with Process(url) as process:
        process.until_it_works()
        daemons.kill(primary)
        eventually(lambda: process.check.condition == "unavailable")
        process.until_it_works()
        assert daemons.client(replica).info("replication")["role"] == "master"
    unknown = RedisCheck(url.replace("mymaster", "other"), lambda: NAMES)
    assert unknown.look() == "unavailable"


def test_an_encrypted_redis_needs_the_certificate_of_its_authority(daemons: Servers, tmp_path: Path) -> None:
    """
    With the authority in the URL notifications work. Without it the reason is `certificate`.
    """
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        f" -addext subjectAltName=DNS:localhost -days 2 -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    try:
        port = daemons.start(
            "--tls-cert-file",
            str(certificate),
            "--tls-key-file",
            str(key),
            "--tls-auth-clients",
            "no",
            tls=True,
        )
        with Process(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") as process:
            process.until_it_works()
    except AssertionError:
        if "Failed finding TLS support" in "".join(path.read_text() for path in tmp_path.glob("*/log")):
            pytest.skip("this server has no TLS")
        raise

    assert RedisCheck(f"rediss://localhost:{port}/0", lambda: NAMES).look() == "certificate"
    assert (
        RedisCheck(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", lambda: NAMES).look()
        == "certificate"
    )


def test_the_smallest_rights_are_enough(daemons: Servers, installation: WorkerStack) -> None:
    """
    A worker decides without its sweep, as the user that the documentation creates.

    Without any one of the rights, the check names them.
    """
    [rule] = re.findall(
        r"^ACL SETUSER (teller .*)$", (TOP / "docs" / "configuration.md").read_text(), re.MULTILINE
    )
    words = rule.replace(">PASSWORD", ">secret").split()
    port = daemons.start()
    daemons.run(port, "ACL", "SETUSER", *words)
    url = f"redis://teller:secret@127.0.0.1:{port}"
    with Process(url) as process:
        process.until_it_works()
    installation.use_redis(url)
    [worker] = installation.start_workers(1, sweeps=False)
    for number in range(3):
        installation.until_decided(installation.submit([f"r{number}-{n}" for n in range(20)]))
    assert worker.events("swept") == []
    denied = {entry["object"] for entry in daemons.client(port).acl_log()}
    assert denied <= {"zrange", "unlink", "client|setinfo"}, (
        "the keys of earlier releases, the name of redis-py"
    )
    worker.kill()

    for right in (
        word for word in words if word in {"+evalsha", "+set", "+rpush", "+lpop", "+publish", "+hdel"}
    ):
        daemons.run(port, "ACL", "SETUSER", "teller", right.replace("+", "-"))
        assert RedisCheck(url, lambda: NAMES).look() == "rights", right
        daemons.run(port, "ACL", "SETUSER", "teller", right)
    assert RedisCheck(url, lambda: NAMES).look() is None
    for fault in ("resetkeys", "resetchannels", "off"):
        daemons.run(port, "ACL", "SETUSER", *words)
        daemons.run(port, "ACL", "SETUSER", "teller", fault)
        assert RedisCheck(url, lambda: NAMES).look() == "rights", fault


def test_a_cluster_without_slots_is_named(daemons: Servers) -> None:
    """
    A node of a cluster that was never made answers, and serves nothing.
    """
    port = daemons.start(*CLUSTER, "--cluster-port", str(free_port()))

    assert RedisCheck(f"redis://127.0.0.1:{port}", lambda: NAMES).look() == "cluster"


@pytest.mark.parametrize(
    ("answer", "condition"),
    [
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "disk"),
        ("NOREPLICAS Not enough good replicas to write.", "replica"),
        ("MASTERDOWN Link with MASTER is down", "replica"),
        ("ERR unknown command", "unavailable"),
    ],
)
def test_a_refusal_is_named(answer: str, condition: str) -> None:
    """
    Answers for states that a test cannot easily bring about.
    """

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                self.wfile.write(f"-{answer}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"redis://127.0.0.1:{server.server_address[1]}"
        assert RedisCheck(url, lambda: NAMES).look() == condition
        server.shutdown()
