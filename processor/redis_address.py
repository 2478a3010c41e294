"""
The address of Redis, as REDIS_URL gives it: a server, the nodes of a cluster, or Sentinels.

Pure: nothing is connected. Errors never repeat a value, because it may be secret.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import parse_qsl, unquote

from processor.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["server", "sentinel", "unix"]

#: Scheme → the kind of the address, and whether the connection is encrypted.
SCHEMES: Final[Mapping[str, tuple[Kind, bool]]] = MappingProxyType(
    {
        "redis": ("server", False),
        "rediss": ("server", True),
        "unix": ("unix", False),
        "redis+sentinel": ("sentinel", False),
        "rediss+sentinel": ("sentinel", True),
    }
)
#: The port where an address has none.
PORTS: Final[Mapping[Kind, int]] = MappingProxyType({"server": 6379, "sentinel": 26379, "unix": 0})
#: The options of each kind of address, and those of encrypted connections.
OPTIONS: Final[Mapping[Kind, tuple[str, ...]]] = MappingProxyType(
    {
        "server": ("db",),
        "unix": ("db",),
        "sentinel": ("db", "sentinel_username", "sentinel_password"),
    }
)
TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
DATABASE_MAX: Final = 1_000_000
PORT_MAX: Final = 65_535

_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/?]*)@)?(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is, and how to connect to it. `hosts` are servers, nodes of a cluster, or Sentinels."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    #: The path of a Unix socket.
    path: str
    #: The name by which Sentinels know the primary.
    service: str
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)
    database: int
    is_encrypted: bool
    #: The options that the URL sets.
    options: Mapping[str, str] = field(repr=False)


@functools.cache
def parse(url: str) -> RedisAddress:
    """Read a URL. Raises SettingsError with one line."""
    found = _URL.fullmatch(url)
    if found is None or found["scheme"] not in SCHEMES:
        begins = " or ".join(f"{scheme}://" for scheme in SCHEMES)
        raise _refused(f"must be a URL that begins with {begins}; in a password, % is written %25 and @ %40")
    kind, is_encrypted = SCHEMES[found["scheme"]]
    username, _, password = (found["user"] or "").partition(":")
    options = _options(found["query"] or "", kind, is_encrypted=is_encrypted)
    service, database = _path(found["path"] or "", kind)
    return RedisAddress(
        kind,
        _hosts(found["hosts"], kind),
        unquote(found["path"] or "") if kind == "unix" else "",
        service,
        unquote(username) or None,
        unquote(password) or None,
        _database(options.get("db", database)),
        is_encrypted,
        options,
    )


def _refused(reason: str) -> SettingsError:
    return SettingsError(f"REDIS_URL {reason}")


def _hosts(text: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    if kind == "unix":
        if text:
            raise _refused("must be unix:///path of a socket")
        return ()
    hosts = []
    for part in text.split(",") if text else ["localhost"]:
        found = _HOST.fullmatch(part)
        port = int(found["port"] or PORTS[kind]) if found else 0
        if found is None or not 1 <= port <= PORT_MAX:
            raise _refused("must name hosts as host:port, with commas between several")
        hosts.append((found["host"].strip("[]"), port))
    return tuple(hosts)


def _path(text: str, kind: Kind) -> tuple[str, str]:
    """Return the service and the database of the path."""
    parts = [unquote(part) for part in text.removeprefix("/").split("/") if part]
    if kind == "unix":
        return "", "0"
    if kind == "sentinel":
        if not parts or len(parts) > 2:  # noqa: PLR2004 - service and database
            raise _refused(
                "must end with the name of the service, as in redis+sentinel://host:26379/mymaster"
            )
        return parts[0], parts[1] if len(parts) > 1 else "0"
    if len(parts) > 1:
        raise _refused("has more than a database behind the host")
    return "", parts[0] if parts else "0"


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(DATABASE_MAX)):
        raise _refused("must name the database by its number")
    return int(text)


def _options(query: str, kind: Kind, *, is_encrypted: bool) -> Mapping[str, str]:
    allowed = (*OPTIONS[kind], *(TLS_OPTIONS if is_encrypted else ()))
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise _refused(f"has an unknown option; known are {', '.join(allowed)}")
        if name in options:
            raise _refused(f"has the option {name} twice")
        options[name] = value
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise _refused("must have ssl_cert_reqs=required or none")
    if options.get("ssl_check_hostname", "true") not in ("true", "false"):
        raise _refused("must have ssl_check_hostname=true or false")
    return MappingProxyType(options)
