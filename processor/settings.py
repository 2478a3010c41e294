"""
The settings, read from the environment and checked once, at the start.

Only the given mapping is read. An invalid value raises a SettingsError whose one line names the variable. The repr
shows no secrets, and no URLs, which may contain a password.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from processor import redis_address
from processor.errors import SettingsError
from processor.variables import Variables, is_url

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The gateway that the API itself serves under /sandbox/gateway.
SANDBOX = "sandbox"
#: The value that stands for the address of the built-in sandbox in TELLER_GATEWAYS.
BUILTIN = "builtin"

#: The largest number of partitions of a database.
PARTITIONS_MAX = 1024
#: Worker processes of one `teller up`.
WORKERS_MAX = 32
#: The largest default number of worker processes; a machine with fewer cores gets one for each core.
WORKERS_DEFAULT_MAX = 4
#: The largest number of calls of a gateway for one effect that may be set.
GATEWAY_TRIES_MAX = 100
#: The calls of one gateway under way at once, by default and at most.
GATEWAY_CALLS = 64
GATEWAY_CALLS_MAX = 1024
#: The shortest TELLER_SECRET.
SECRET_CHARACTERS_MIN = 16
#: The shortest decoded key of a `whsec_` secret.
SIGNING_KEY_BYTES_MIN = 16
#: The default time for which requests with their idempotency keys, and deliveries, stay in the database.
KEEP_DAYS = 30
#: The longest such time that may be set: a century.
KEEP_DAYS_MAX = 36_500
#: The default limit of the inbox rows of one partition; beyond it requests are answered with 503.
BACKLOG_LIMIT = 2_000_000
#: The largest backlog limit that may be set, in rows.
BACKLOG_LIMIT_MAX = 1_000_000_000
#: The default limit of requests of one key in a second, in one API process, while several clients are active. Each
#: item of a batch counts. A process accepts several times as many items.
RATE_LIMIT = 10_000
#: The sender of mails that become files, unless TELLER_MAIL_FROM names another.
MAIL_FROM = "teller@localhost"
#: The default limit of mails about requests that one client sends to one address in an hour.
MAILBOX_LIMIT = 100
#: The default limit of failed sign-ins of one address in a minute, in one API process.
SIGN_IN_LIMIT = 600
#: The largest value of these two limits that may be set.
LIMIT_MAX = 1_000_000

#: The first parts of the paths that the API serves. A prefix that begins with one of them would be ambiguous.
OWN_PATHS = frozenset(
    {"admin", "docs", "healthz", "lab", "metrics", "openapi.json", "problems", "readyz", "sandbox", "v1"}
)

_URL_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+", re.ASCII)
_GATEWAY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Address(str):
    """The address of a database, and whether it is known to lead to a pooler."""

    __slots__ = ("is_pooled",)

    is_pooled: bool

    @classmethod
    def of(cls, url: str, *, is_pooled: bool) -> Address:
        """Return a URL as an address."""
        address = cls(url)
        address.is_pooled = is_pooled
        return address


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    All settings; docs/configuration.md describes them. Durations are in seconds.

    The URLs of embedded servers, and generated secrets, are empty until `completed` fills them in.
    """

    embeds_postgres: bool
    embeds_valkey: bool
    home: Path
    host: str
    port: int
    #: The path under which a proxy publishes Teller, as in /teller; empty: none.
    url_prefix: str
    #: The port of the metrics of a worker or courier; 0: none.
    metrics_port: int
    #: The files of the metrics of a process of `teller up` begin with this name. The API reads all of its directory.
    metrics_file: Path | None
    #: The least important lines that the log has. Empty: warnings at a terminal, else all but those for debugging.
    log_level: str
    partitions: int
    workers: int
    gateway_tries: int
    gateway_backoff_seconds: float
    gateway_timeout_seconds: float
    allow_private_webhooks: bool
    code_cooldown_seconds: float
    code_ttl_seconds: float
    backlog_limit: int
    rate_limit: int
    sign_in_limit: int
    mailbox_limit: int
    #: Whether the race lab is served, at /lab.
    lab: bool
    database_url: str = field(repr=False)
    api_database_url: str = field(repr=False)
    worker_database_url: str = field(repr=False)
    courier_database_url: str = field(repr=False)
    archive_database_url: str = field(repr=False)
    #: Requests stay in the database for at least as many days after they were made; 0: they may leave at once.
    keep_days: int
    #: Couriers remove deliveries and attempts that are older, in days.
    keep_deliveries_days: int
    #: "transaction": a pooler that shares sessions is known to stand before the database.
    database_pooler: str
    redis_url: str = field(repr=False)
    secret: str = field(repr=False)
    gateway_secret: str = field(repr=False)
    #: None: mails become files in the outbox.
    smtp_url: str | None = field(repr=False)
    #: The sender of mails.
    mail_from: str
    #: Whether the certificate of the mail server is verified.
    mail_verify: bool
    #: Name → URL, or BUILTIN for the sandbox.
    gateways: Mapping[str, str] = field(repr=False)
    #: Name of a gateway → its calls under way at once. The empty name stands for all gateways without a number.
    gateway_calls: Mapping[str, int]

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """
        Check all variables and fill in the defaults. An empty variable counts as unset. Raises SettingsError.
        """
        read = Variables(environ)
        pooler = read.choice("TELLER_DATABASE_POOLER", ("transaction",))

        def role_url(name: str) -> str:
            return Address.of(_role_url(read, name, database_url), is_pooled=bool(pooler))

        database_url = Address.of(read.database_url("DATABASE_URL"), is_pooled=bool(pooler))
        redis_url = read.text("REDIS_URL")
        if redis_url:
            redis_address.parse(redis_url)
        settings = cls(
            embeds_postgres=not database_url,
            embeds_valkey=not redis_url,
            home=_home(read),
            host=read.text("TELLER_HOST") or "127.0.0.1",
            port=read.whole("TELLER_PORT", read.whole("PORT", 8000, 1, 65_535), 1, 65_535),
            url_prefix=_url_prefix(read),
            metrics_port=read.whole("TELLER_METRICS_PORT", 0, 1, 65_535),
            metrics_file=_path(read, "TELLER_METRICS_FILE"),
            log_level=read.choice("TELLER_LOG_LEVEL", ("debug", "info", "warning", "error")),
            partitions=read.whole("TELLER_PARTITIONS", 64, 1, PARTITIONS_MAX),
            workers=read.whole(
                "TELLER_WORKERS", min(os.cpu_count() or 1, WORKERS_DEFAULT_MAX), 1, WORKERS_MAX
            ),
            gateway_tries=read.whole("TELLER_GATEWAY_TRIES", 6, 1, GATEWAY_TRIES_MAX),
            gateway_backoff_seconds=read.seconds("TELLER_GATEWAY_BACKOFF_SECONDS", 2),
            gateway_timeout_seconds=read.seconds("TELLER_GATEWAY_TIMEOUT_SECONDS", 10),
            allow_private_webhooks=read.flag("TELLER_ALLOW_PRIVATE_WEBHOOKS"),
            code_cooldown_seconds=read.seconds("TELLER_CODE_COOLDOWN_SECONDS", 60),
            code_ttl_seconds=read.seconds("TELLER_CODE_TTL_SECONDS", 600),
            backlog_limit=read.whole("TELLER_BACKLOG_LIMIT", BACKLOG_LIMIT, 1, BACKLOG_LIMIT_MAX),
            rate_limit=read.whole("TELLER_RATE_LIMIT", RATE_LIMIT, 1, LIMIT_MAX),
            sign_in_limit=read.whole("TELLER_SIGN_IN_LIMIT", SIGN_IN_LIMIT, 1, LIMIT_MAX),
            mailbox_limit=read.whole("TELLER_MAILBOX_LIMIT", MAILBOX_LIMIT, 1, LIMIT_MAX),
            lab=read.flag("TELLER_LAB", default=not database_url),
            database_url=database_url,
            api_database_url=role_url("TELLER_API_DATABASE_URL"),
            worker_database_url=role_url("TELLER_WORKER_DATABASE_URL"),
            courier_database_url=role_url("TELLER_COURIER_DATABASE_URL"),
            archive_database_url=role_url("TELLER_ARCHIVE_DATABASE_URL"),
            keep_days=read.whole("TELLER_KEEP_DAYS", KEEP_DAYS, 0, KEEP_DAYS_MAX),
            keep_deliveries_days=read.whole("TELLER_KEEP_DELIVERIES_DAYS", KEEP_DAYS, 1, KEEP_DAYS_MAX),
            database_pooler=pooler,
            redis_url=redis_url,
            secret=_secret(read),
            gateway_secret=_gateway_secret(read),
            smtp_url=_smtp_url(read),
            mail_from=_mail_from(read),
            mail_verify=read.flag("TELLER_MAIL_VERIFY", default=True),
            gateways=_gateways(read),
            gateway_calls=_gateway_calls(read),
        )
        if not settings.embeds_postgres:
            settings._require_secrets(gateways_named=bool(read.text("TELLER_GATEWAYS")))
        return settings

    def _require_secrets(self, *, gateways_named: bool) -> None:
        """
        Check that the secrets are set. They are generated only for an embedded database, which keeps them.
        """
        if not self.secret:
            raise SettingsError("TELLER_SECRET is required when DATABASE_URL is set")
        if gateways_named and not self.gateway_secret:
            raise SettingsError(
                "TELLER_GATEWAY_SECRET is required when DATABASE_URL and TELLER_GATEWAYS are set"
            )

    def completed(self, found: Mapping[str, str]) -> Settings:
        """
        Return these settings with the variables that the embedded servers and the keys file add. Values that are set
        already stay.
        """
        merged = {**found, **{name: value for name, value in self.environment().items() if value}}
        return replace(
            self,
            database_url=merged["DATABASE_URL"],
            api_database_url=merged["TELLER_API_DATABASE_URL"],
            worker_database_url=merged["TELLER_WORKER_DATABASE_URL"],
            courier_database_url=merged["TELLER_COURIER_DATABASE_URL"],
            archive_database_url=merged["TELLER_ARCHIVE_DATABASE_URL"],
            redis_url=merged.get("REDIS_URL", ""),
            secret=merged["TELLER_SECRET"],
            gateway_secret=merged.get("TELLER_GATEWAY_SECRET", ""),
        )

    def environment(self) -> dict[str, str]:
        """
        Return the variables with which a child process uses the same servers and secrets as this one.
        """
        return {
            "DATABASE_URL": self.database_url,
            "TELLER_API_DATABASE_URL": self.api_database_url,
            "TELLER_WORKER_DATABASE_URL": self.worker_database_url,
            "TELLER_COURIER_DATABASE_URL": self.courier_database_url,
            "TELLER_ARCHIVE_DATABASE_URL": self.archive_database_url,
            "TELLER_KEEP_DAYS": str(self.keep_days),
            "TELLER_KEEP_DELIVERIES_DAYS": str(self.keep_deliveries_days),
            "TELLER_DATABASE_POOLER": self.database_pooler,
            "REDIS_URL": self.redis_url,
            "TELLER_SECRET": self.secret,
            "TELLER_GATEWAY_SECRET": self.gateway_secret,
            "TELLER_HOME": str(self.home),
            "TELLER_HOST": self.host,
            "TELLER_PORT": str(self.port),
            "TELLER_URL_PREFIX": self.url_prefix,
            "TELLER_LAB": "1" if self.lab else "0",
        }

    def calls_at_once(self, gateway: str) -> int:
        """
        Return the most calls of a gateway that all couriers together have under way.
        """
        return self.gateway_calls.get(gateway, self.gateway_calls[""])

    @property
    def roles_guard(self) -> bool:
        """
        Whether API, worker and courier use roles of their own. Otherwise the GRANTs of the schema have no effect.
        """
        return self.database_url not in (
            self.api_database_url,
            self.worker_database_url,
            self.courier_database_url,
        )


def read_url_prefix(environ: Mapping[str, str]) -> str:
    """
    Return TELLER_URL_PREFIX of an environment, without any other setting. Raises SettingsError.
    """
    return _url_prefix(Variables(environ))


def _url_prefix(read: Variables) -> str:
    value = read.text("TELLER_URL_PREFIX")
    if value and not _URL_PREFIX.fullmatch(value):
        raise SettingsError(
            "TELLER_URL_PREFIX must be a path such as /teller, of A-Za-z0-9._~- and without a slash at its end"
        )
    if value and value.split("/")[1] in OWN_PATHS:
        raise SettingsError(
            f"TELLER_URL_PREFIX must not begin with a path of Teller's own, which are {', '.join(sorted(OWN_PATHS))}"
        )
    return value


def _role_url(read: Variables, name: str, database_url: str) -> str:
    value = read.database_url(name)
    if value and not database_url:
        raise SettingsError(f"{name} is set, but DATABASE_URL is not")
    return value or database_url


def _path(read: Variables, name: str) -> Path | None:
    value = read.text(name)
    return Path(value).absolute() if value else None


def _home(read: Variables) -> Path:
    value = read.text("TELLER_HOME")
    if value:
        return Path(value).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/teller")
    if data := read.text("XDG_DATA_HOME"):
        return Path(data).absolute() / "teller"
    own = read.text("HOME")
    if not own:
        raise SettingsError("TELLER_HOME is not set, and neither is HOME")
    return (
        Path(own).absolute()
        / ("Library/Application Support" if sys.platform == "darwin" else ".local/share")
        / "teller"
    )


def _smtp_url(read: Variables) -> str | None:
    value = read.url("TELLER_SMTP_URL", ("smtp", "smtps"))
    parts = urlsplit(value)
    if value and (not parts.hostname or parts.query or parts.fragment):
        raise SettingsError(
            "TELLER_SMTP_URL has the form smtp://user:password@host:port: the sender is TELLER_MAIL_FROM"
        )
    return value or None


def _mail_from(read: Variables) -> str:
    value = read.text("TELLER_MAIL_FROM")
    if not value:
        if read.text("TELLER_SMTP_URL"):
            raise SettingsError("TELLER_MAIL_FROM is required when TELLER_SMTP_URL is set")
        return MAIL_FROM
    if not _is_sender(value):
        raise SettingsError(
            "TELLER_MAIL_FROM must be one e-mail address, as in teller@example.com or Teller <teller@example.com>"
        )
    return value


def _is_sender(value: str) -> bool:
    """Return whether a text is one e-mail address in ASCII, with or without a name before it."""
    mail = EmailMessage()
    try:
        mail["From"] = value
        header = mail["From"]
    except (IndexError, ValueError):  # the parser of Python 3.11 fails on some texts that are no address
        return False
    if header.defects or len(header.addresses) != 1 or not value.isascii():
        return False
    return re.fullmatch(r"[^@\s<>\"]{1,64}@[A-Za-z0-9.-]{1,253}", header.addresses[0].addr_spec) is not None


def _secret(read: Variables) -> str:
    value = read.text("TELLER_SECRET")
    if value and len(value) < SECRET_CHARACTERS_MIN:
        raise SettingsError(f"TELLER_SECRET must have at least {SECRET_CHARACTERS_MIN} characters")
    return value


def _gateway_secret(read: Variables) -> str:
    value = read.text("TELLER_GATEWAY_SECRET")
    if not value:
        return ""
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not value.startswith("whsec_") or len(key) < SIGNING_KEY_BYTES_MIN:
        raise SettingsError(
            f"TELLER_GATEWAY_SECRET must be whsec_ and the base64 of at least {SIGNING_KEY_BYTES_MIN} bytes"
        )
    return value


def _gateways(read: Variables) -> Mapping[str, str]:
    value = read.text("TELLER_GATEWAYS")
    if not value:
        return MappingProxyType({SANDBOX: BUILTIN})
    gateways: dict[str, str] = {}
    for pair in value.split(","):
        name, _, url = (part.strip() for part in pair.partition("="))
        if not _GATEWAY_NAME.fullmatch(name):
            raise SettingsError("TELLER_GATEWAYS must be name=url pairs, separated by commas")
        if name in gateways:
            raise SettingsError(f"TELLER_GATEWAYS names {name} twice")
        if (url == BUILTIN) != (name == SANDBOX and url == BUILTIN):
            raise SettingsError(f"TELLER_GATEWAYS: only {SANDBOX} can be {BUILTIN}, {name} needs a URL")
        if url != BUILTIN and not (is_url(url, ("http", "https")) and urlsplit(url).hostname):
            raise SettingsError(f"TELLER_GATEWAYS: the address of {name} must begin with http:// or https://")
        gateways[name] = url
    return MappingProxyType(gateways)


def _gateway_calls(read: Variables) -> Mapping[str, int]:
    """
    Read `n` for all gateways, or `name=n` pairs, or both.
    """
    calls = {"": GATEWAY_CALLS}
    named: set[str] = set()
    value = read.text("TELLER_GATEWAY_CALLS")
    for part in value.split(",") if value else ():
        name, _, number = (text.strip() for text in part.rpartition("="))
        if name and not _GATEWAY_NAME.fullmatch(name):
            raise SettingsError(
                "TELLER_GATEWAY_CALLS must be a number, or name=number pairs with commas between"
            )
        if name in named:
            raise SettingsError(f"TELLER_GATEWAY_CALLS names {name or 'the default'} twice")
        named.add(name)
        if not (number.isascii() and number.isdigit()) or not 1 <= int(number) <= GATEWAY_CALLS_MAX:
            raise SettingsError(f"TELLER_GATEWAY_CALLS: each number must be from 1 to {GATEWAY_CALLS_MAX}")
        calls[name] = int(number)
    return MappingProxyType(calls)
