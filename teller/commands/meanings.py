"""
The settings with their defaults and meanings, as docs/configuration.md has them. A test compares the two.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Setting(NamedTuple):
    """A variable of the environment."""

    name: str
    meaning: str
    default: str


SETTINGS: Final = (
    Setting("DATABASE_URL", "PostgreSQL 15 or newer, as the owner of the schema.", "unset"),
    Setting("TELLER_API_DATABASE_URL", "The same database as the role teller_api.", "as DATABASE_URL"),
    Setting("TELLER_WORKER_DATABASE_URL", "The same database as the role teller_worker.", "as DATABASE_URL"),
    Setting(
        "TELLER_COURIER_DATABASE_URL", "The same database as the role teller_courier.", "as DATABASE_URL"
    ),
    Setting(
        "TELLER_ARCHIVE_DATABASE_URL", "The same database as the role teller_archive.", "as DATABASE_URL"
    ),
    Setting(
        "TELLER_DATABASE_POOLER", "Says that the addresses lead to a pooler in transaction mode.", "unset"
    ),
    Setting("REDIS_URL", "Redis 7, Valkey 8, or newer.", "unset"),
    Setting(
        "TELLER_HOME",
        "Directory of the embedded servers, of keys.env, of logs, and of the mails that no server takes.",
        "see below",
    ),
    Setting("TELLER_HOST", "Address on which the API listens.", "127.0.0.1"),
    Setting("TELLER_PORT", "Port on which the API listens.", "8000"),
    Setting("PORT", "The same, where hosts of applications set it.", "unset"),
    Setting("TELLER_URL_PREFIX", "The path under which a proxy publishes Teller, as in /teller.", "unset"),
    Setting(
        "TELLER_LOG_LEVEL", "The least important lines that the log has.", "warning at a terminal, else info"
    ),
    Setting(
        "TELLER_METRICS_PORT",
        "Port on which a worker or courier serves its metrics, on TELLER_HOST.",
        "unset",
    ),
    Setting("TELLER_METRICS_FILE", "Where a process of teller up keeps its metrics.", "unset"),
    Setting("TELLER_WORKERS", "Worker processes that teller up starts.", "the number of cores, at most 4"),
    Setting("TELLER_PARTITIONS", "Partitions of the database.", "64"),
    Setting("TELLER_LAB", "1 serves the race lab at /lab, without a key.", "1 without DATABASE_URL, else 0"),
    Setting(
        "XDG_DATA_HOME",
        "The data directory of the user.",
        "~/.local/share, on macOS ~/Library/Application Support",
    ),
    Setting("HOME", "The home directory of the user.", "set by the system"),
    Setting(
        "TELLER_SECRET",
        "The server's own key, for one-time codes and console sessions.",
        "generated if PostgreSQL is embedded",
    ),
    Setting("TELLER_GATEWAY_SECRET", "Signs calls to gateways.", "generated if PostgreSQL is embedded"),
    Setting("TELLER_GATEWAYS", "The gateways that resources may name.", "sandbox=builtin"),
    Setting(
        "TELLER_GATEWAY_CALLS", "Calls of one gateway in flight at once, over all couriers together.", "64"
    ),
    Setting("TELLER_GATEWAY_TRIES", "Calls of one effect before its request is failed.", "6"),
    Setting("TELLER_GATEWAY_BACKOFF_SECONDS", "Upper bound of the first pause between two calls.", "2"),
    Setting("TELLER_GATEWAY_TIMEOUT_SECONDS", "Time that one call may take.", "10"),
    Setting(
        "TELLER_SMTP_URL",
        "The mail server, as smtp://user:password@host:port.",
        "unset",
    ),
    Setting(
        "TELLER_MAIL_FROM",
        "The sender of mails, as teller@example.com or Teller <teller@example.com>.",
        "teller@localhost",
    ),
    Setting("TELLER_MAIL_VERIFY", "0: the certificate of the mail server is not verified.", "1"),
    Setting(
        "TELLER_ALLOW_PRIVATE_WEBHOOKS", "1 lets webhooks go to private addresses and over plain http.", "0"
    ),
    Setting(
        "TELLER_CODE_COOLDOWN_SECONDS",
        "Pause between two codes for one destination, for all clients together.",
        "60",
    ),
    Setting("TELLER_CODE_TTL_SECONDS", "Time for which a code is valid.", "600"),
    Setting(
        "TELLER_KEEP_DAYS",
        "Requests, and with them their idempotency keys, stay in the database for at least this time.",
        "30",
    ),
    Setting(
        "TELLER_KEEP_DELIVERIES_DAYS",
        "Couriers remove deliveries that were sent or given up, and calls of gateways, after this time.",
        "30",
    ),
    Setting("TELLER_BACKLOG_LIMIT", "Inbox rows that one partition may hold.", "2000000"),
    Setting("TELLER_RATE_LIMIT", "Requests per second of one key.", "10000"),
    Setting("TELLER_SIGN_IN_LIMIT", "Failed authentications per minute from one address.", "600"),
    Setting(
        "TELLER_MAILBOX_LIMIT",
        "Mails about requests that one client sends to one address in an hour of the clock.",
        "100",
    ),
)
