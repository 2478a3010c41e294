"""
The log: one line for each unit of work, with a static event name and its facts beside it.

Lines are for people if standard error is a terminal, and JSON objects otherwise. Records that libraries log through
the standard module take the same path. Keys and values that look like secrets are masked.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import structlog

from processor.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

#: The text in place of a secret.
MASK = "***"

_SECRET_NAME = re.compile(
    r"secret|password|passwd|token|authorization|cookie|api_key|private_key|database_url|redis_url|smtp_url",
    re.IGNORECASE,
)
#: Signing secrets, bearer headers, API keys, and the password of a URL.
_SECRET_VALUE = re.compile(
    r"(whsec_|Bearer\s+)[^\s\"',]+|(://[^/@:\s]*:)[^@\s]+(?=@)|(teller_)[A-Za-z0-9_-]{43}"
)

#: The values of TELLER_LOG_LEVEL.
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

#: Libraries that log too much at level info.
_TALKATIVE = ("werkzeug", "httpx", "httpcore", "urllib3", "dramatiq")


@functools.lru_cache(maxsize=1024)  # names are few and static; each HTTP request logs a line of them
def _names_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _may_have_secret(value: str) -> bool:
    """Return whether a match of _SECRET_VALUE is possible. That costs a tenth of the search for it."""
    return "whsec_" in value or "Bearer" in value or "://" in value or "teller_" in value


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """
    Replace values that are named like a secret or look like one, so that a caller's mistake does not end in a file.
    """
    for name, value in event.items():
        if _names_secret(name):
            event[name] = MASK
        elif isinstance(value, str) and _may_have_secret(value):
            event[name] = _SECRET_VALUE.sub(lambda found: (found[1] or found[2] or found[3]) + MASK, value)
    return event


def show_invisible(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """
    Escape invisible characters of texts, so that the text of a caller does not control the terminal.
    """
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = visible(value, lines=True)
    return event


def _serialized(event: EventDict, default: Callable[[Any], Any]) -> str:
    """Return an event as JSON. `json.dumps` would make an encoder for each line."""
    return _encoder_with(default).encode(event)


@functools.cache
def _encoder_with(default: Callable[[Any], Any]) -> json.JSONEncoder:
    return json.JSONEncoder(default=default)


def is_quiet() -> bool:
    """
    Return whether the log has no lines about what goes well.
    """
    return logging.getLogger().level > logging.INFO


def configure(level: int | None = None) -> None:
    """
    Send all logs of this process to standard error. The command line calls this once.

    Without a level, TELLER_LOG_LEVEL counts. Without that, a terminal shows warnings, and a file has all lines.
    """
    terminal = sys.stderr.isatty()
    level = level or LEVELS.get(
        os.environ.get("TELLER_LOG_LEVEL", ""), logging.WARNING if terminal else logging.INFO
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Exceptions become text before the mask, so that it sees them, too.
    ending: list[Processor] = [
        structlog.processors.format_exc_info,
        mask_secrets,
        *(
            (show_invisible, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
            if terminal
            else (structlog.processors.JSONRenderer(_serialized),)
        ),
    ]
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
