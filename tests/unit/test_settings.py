"""
The settings: each bad value is one line that names its variable, and secrets are never shown.
"""

from __future__ import annotations

import pytest

from processor import redis_address
from processor.errors import SettingsError
from processor.settings import Settings

EXTERNAL = {"DATABASE_URL": "postgresql://owner:hidden@db/teller", "TELLER_SECRET": "0123456789abcdef"}


def test_without_variables_all_settings_have_their_defaults() -> None:
    """
    Without any variable there are embedded servers, 64 partitions, and the sandbox alone.
    """
    settings = Settings.from_environment({"HOME": "/home/ada"})

    assert (settings.embeds_postgres, settings.embeds_valkey) == (True, True)
    assert (settings.host, settings.port, settings.partitions) == ("127.0.0.1", 8000, 64)
    assert (settings.gateway_tries, settings.gateway_backoff_seconds, settings.gateway_timeout_seconds) == (
        6,
        2,
        10,
    )
    assert (settings.code_cooldown_seconds, settings.code_ttl_seconds) == (60, 600)
    assert dict(settings.gateways) == {"sandbox": "builtin"}
    assert settings.calls_at_once("sandbox") == 64
    assert settings.smtp_url is None
    assert not settings.allow_private_webhooks


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x/y"),
        ("DATABASE_URL", "postgresql://h:port/d"),
        ("DATABASE_URL", "postgresql://h:65536/d"),
        ("DATABASE_URL", "postgresql://a:1,b:2,c:3/d?port=1,2"),
        ("DATABASE_URL", "host=h port=5432 basename=d"),
        ("DATABASE_URL", "localhost"),
        ("TELLER_DATABASE_POOLER", "session"),
        ("REDIS_URL", "localhost:6379"),
        ("TELLER_PORT", "0"),
        ("TELLER_PORT", "65536"),
        ("TELLER_PORT", "eighty"),
        ("TELLER_PORT", "8_000"),
        ("TELLER_PARTITIONS", "0"),
        ("TELLER_PARTITIONS", "1025"),
        ("TELLER_PARTITIONS", "-3"),
        ("TELLER_WORKERS", "0"),
        ("TELLER_GATEWAYS", "bank"),
        ("TELLER_GATEWAYS", "=http://x"),
        ("TELLER_GATEWAYS", "bank=ftp://x"),
        ("TELLER_GATEWAYS", "bank=http://"),
        ("TELLER_GATEWAYS", "bank=builtin"),
        ("TELLER_GATEWAYS", "a=http://x,a=http://y"),
        ("TELLER_GATEWAYS", "a=http://x,"),
        ("TELLER_GATEWAY_CALLS", "0"),
        ("TELLER_GATEWAY_CALLS", "1025"),
        ("TELLER_GATEWAY_CALLS", "bank"),
        ("TELLER_GATEWAY_CALLS", "bank=²"),
        ("TELLER_GATEWAY_CALLS", "a=1,a=2"),
        ("TELLER_GATEWAY_CALLS", "64,128"),
        ("TELLER_GATEWAY_CALLS", "bank=1,,post=2"),
        ("TELLER_GATEWAY_TRIES", "0"),
        ("TELLER_GATEWAY_BACKOFF_SECONDS", "0"),
        ("TELLER_GATEWAY_BACKOFF_SECONDS", "nan"),
        ("TELLER_GATEWAY_TIMEOUT_SECONDS", "1e9"),
        ("TELLER_GATEWAY_SECRET", "secret"),
        ("TELLER_GATEWAY_SECRET", "whsec_%%%"),
        ("TELLER_GATEWAY_SECRET", "whsec_c2hvcnQ="),
        ("TELLER_SMTP_URL", "mail.example.com"),
        ("TELLER_SMTP_URL", "smtp://"),
        ("TELLER_SMTP_URL", "smtp://mail.example.com?from=teller@example.com"),
        *(
            ("TELLER_MAIL_FROM", value)
            for value in ("teller", "a@b@c", "@example.com", "a@", "a@example.com, b@example.com", "Ada <a>")
        ),
        *(
            ("TELLER_MAIL_FROM", value)
            for value in ("a@example.com\nBcc: b@c", "a b@example.com", "ä@example.com")
        ),
        ("TELLER_MAIL_VERIFY", "no"),
        ("TELLER_ALLOW_PRIVATE_WEBHOOKS", "yes"),
        ("TELLER_LAB", "on"),
        *(
            ("TELLER_URL_PREFIX", value)
            for value in (
                *(
                    "teller",
                    "/",
                    "/teller/",
                    "//teller",
                    "/a//b",
                    "/a/../b",
                    "/.",
                    "/a b",
                    "/a%20b",
                    "/täller",
                ),
                *("https://example.com/teller", "/teller?x", "/v1", "/admin/teller", "/openapi.json"),
            )
        ),
        ("TELLER_CODE_COOLDOWN_SECONDS", "soon"),
        ("TELLER_CODE_TTL_SECONDS", "-1"),
        ("TELLER_SECRET", "short"),
        ("TELLER_BACKLOG_LIMIT", "0"),
        ("TELLER_API_DATABASE_URL", "postgresql://h/d"),
    ],
)
def test_an_invalid_value_is_one_line_that_names_the_variable(name: str, value: str) -> None:
    """
    The start stops with one line. It does not repeat the value, which may be a secret.
    """
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"HOME": "/home/ada", name: value})

    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://a:5432,b:5433/teller",
        "postgres://ada:p%40ss@a,b,c/teller?target_session_attrs=any",
        "postgresql:///teller?host=/run/postgresql&port=5433",
        "postgresql://[::1]:5432,[::2]:5432/teller",
        "postgresql://%2Frun%2Fpostgresql/teller",
        "host=a,b port=5432,5433 dbname=teller user=ada password='a b'",
    ],
)
def test_an_address_of_a_database_is_any_that_libpq_reads(address: str) -> None:
    """
    Several hosts, sockets and the form of keywords are accepted, and handed on as they are.
    """
    settings = Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, "DATABASE_URL": address})

    assert settings.database_url == address


@pytest.mark.parametrize(
    ("added", "missing"),
    [
        ({"TELLER_SECRET": ""}, "TELLER_SECRET"),
        ({"TELLER_GATEWAYS": "bank=https://bank.example"}, "TELLER_GATEWAY_SECRET"),
    ],
)
def test_an_external_database_requires_secrets(added: dict[str, str], missing: str) -> None:
    """
    With DATABASE_URL no secret is generated, and the message names the missing one.
    """
    with pytest.raises(SettingsError, match=f"^{missing} is required"):
        Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, **added})


def test_secrets_and_passwords_are_not_in_the_repr() -> None:
    """
    Settings may appear in a traceback or a log line.
    """
    secrets = {
        "TELLER_SECRET": "a-very-secret-value",
        "TELLER_GATEWAY_SECRET": "whsec_MDEyMzQ1Njc4OWFiY2RlZg==",
        "TELLER_SMTP_URL": "smtp://ada:hidden@mail",
        "TELLER_MAIL_FROM": "teller@example.com",
        "REDIS_URL": "redis://:hidden@cache",
        "TELLER_GATEWAYS": "bank=https://ada:hidden@bank.example",
    }

    shown = repr(Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, **secrets}))

    assert "hidden" not in shown
    assert "secret-value" not in shown
    assert "whsec_" not in shown


URLS = (
    *("DATABASE_URL", "TELLER_API_DATABASE_URL", "TELLER_WORKER_DATABASE_URL", "TELLER_COURIER_DATABASE_URL"),
    *("REDIS_URL", "TELLER_SMTP_URL"),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in URLS
            for value in ("ftp://ada:hidden@host", "redis://ada:hidden@host:99999999")
        ),
        *(
            (name, value)
            for name in URLS[:4]
            for value in (
                "postgresql://ada:hidden%zz@host/db",
                "postgresql://ada:100%hidden@host/db",
                "postgresql://ada:%00hidden@host/db",
                "postgresql://ada:a@hidden@host/db",
                "postgresql://ada:12/hidden@host/db",
                "postgresql://ada@host/db?hidden",
            )
        ),
        ("TELLER_GATEWAYS", "bank=ftp://ada:hidden@bank.example"),
        ("TELLER_SECRET", "hidden"),
        ("TELLER_SECRET", "hidden-and-long-enough\x7f"),
        ("TELLER_GATEWAY_SECRET", "whsec_hidden"),
    ],
)
def test_a_refused_value_is_not_repeated(name: str, value: str) -> None:
    """
    A refused value may be a secret with a typing error, so the line names the variable and nothing more.
    """
    with pytest.raises(SettingsError, match=name) as refusal:
        Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, name: value})

    assert "hidden" not in str(refusal.value) + repr(refusal.value)


def test_one_url_for_all_roles_is_reported_as_unguarded() -> None:
    """
    Without their own URLs, API, worker and courier connect as the owner, and the start warns of it.
    """
    alone = Settings.from_environment({"HOME": "/home/ada", **EXTERNAL})
    roles = {
        f"TELLER_{role}_DATABASE_URL": f"postgresql://{role}@db/teller"
        for role in ("API", "WORKER", "COURIER")
    }

    assert alone.worker_database_url == EXTERNAL["DATABASE_URL"]
    assert not alone.roles_guard
    assert Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, **roles}).roles_guard


def test_the_lab_is_on_only_with_embedded_servers() -> None:
    """
    The lab is off with an external database, unless it is switched on. Child processes inherit the choice.
    """

    def lab(**environ: str) -> bool:
        return Settings.from_environment({"HOME": "/home/ada", **environ}).lab

    assert (lab(), lab(TELLER_LAB="0"), lab(TELLER_LAB="1")) == (True, False, True)
    assert (lab(**EXTERNAL), lab(**EXTERNAL, TELLER_LAB="0"), lab(**EXTERNAL, TELLER_LAB="1")) == (
        False,
        False,
        True,
    )
    embedded = Settings.from_environment({"HOME": "/home/ada"})
    assert Settings.from_environment({**embedded.environment(), **EXTERNAL}).lab


def test_a_child_gets_the_same_servers_and_secrets() -> None:
    """
    The environment that `teller up` gives to its child processes makes the same settings again.
    """
    settings = Settings.from_environment({"HOME": "/home/ada", "REDIS_URL": "redis://cache", **EXTERNAL})

    assert Settings.from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("value", "bank", "post"),
    [("128", 128, 128), ("bank=256", 256, 64), ("8, bank = 256", 256, 8), ("bank=1,post=1024", 1, 1024)],
)
def test_the_calls_at_once_are_set_for_one_gateway_or_for_all(value: str, bank: int, post: int) -> None:
    """
    A number without a name holds for all gateways that are not named.
    """
    settings = Settings.from_environment({"HOME": "/home/ada", "TELLER_GATEWAY_CALLS": value})

    assert (settings.calls_at_once("bank"), settings.calls_at_once("post")) == (bank, post)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", ("server", (("cache", 6379),), "", 0)),
        ("rediss://ada:p%40ss@cache:1/3", ("server", (("cache", 1),), "", 3)),
        ("redis://a:1,b:2,[::1]", ("server", (("a", 1), ("b", 2), ("::1", 6379)), "", 0)),
        ("unix:///run/my%20redis.sock?db=2", ("unix", (), "", 2)),
        ("redis+sentinel://ada:pw@a:1,b/main/2", ("sentinel", (("a", 1), ("b", 26379)), "main", 2)),
        ("rediss+sentinel://a/main?ssl_ca_certs=/ca.pem", ("sentinel", (("a", 26379),), "main", 0)),
    ],
)
def test_an_address_of_redis_is_read(url: str, expected: tuple[object, ...]) -> None:
    """
    A server, nodes of a cluster, a socket, or Sentinels with their service.
    """
    found = redis_address.parse(url)

    assert (found.kind, found.hosts, found.service, found.database) == expected
    assert Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, "REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://cache?socket_timeout=hidden", "unknown option; known are db"),
        ("redis://cache?ssl_ca_certs=hidden", "unknown option"),
        ("redis+sentinel://cache:26379", "name of the service"),
        ("redis://cache/hidden", "database by its number"),
        ("redis://cache/1/hidden", "more than a database"),
        ("redis://cache:hidden", "host:port"),
        ("redis://ada:hid?hidden@cache", "unknown option"),
        ("redis://cache?db=1&db=2", "twice"),
        ("rediss://cache?ssl_cert_reqs=hidden", "required or none"),
        ("unix://hidden", "unix:///path"),
    ],
)
def test_an_address_of_redis_is_refused_with_one_line(url: str, reason: str) -> None:
    """
    At the start, because a wrong option would end a thread later. The line repeats no value.
    """
    with pytest.raises(SettingsError, match=reason) as refusal:
        Settings.from_environment({"HOME": "/home/ada", **EXTERNAL, "REDIS_URL": url})

    assert str(refusal.value).startswith("REDIS_URL ")
    assert "hidden" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_mail_server_needs_a_sender() -> None:
    """
    Without TELLER_MAIL_FROM the start stops with one line. Its `+` and its name stay.
    """
    server = {"HOME": "/home/ada", "TELLER_SMTP_URL": "smtp://mail.example.com"}
    with pytest.raises(SettingsError, match="TELLER_MAIL_FROM is required when TELLER_SMTP_URL is set"):
        Settings.from_environment(server)

    for sender in ("orders+eu@example.com", "Teller <orders+eu@example.com>"):
        assert Settings.from_environment({**server, "TELLER_MAIL_FROM": sender}).mail_from == sender
