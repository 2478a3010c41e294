"""
Generated calls with each role: the answers must be those of the OpenAPI document.

schemathesis generates valid and invalid calls from the document and runs all its checks. An answer must not be a 500,
and must not have a status or header that the document lacks. Valid calls must be accepted and invalid ones refused.
Calls without a key must be refused.

The seed is fixed. FUZZ_EXAMPLES (calls for each route and phase) and FUZZ_SEED change it, see `make fuzz`. Without
FUZZ_EXAMPLES, only one role makes the systematic calls of the phase "coverage", which take most of the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
import schemathesis
from schemathesis.config import CacheConfig, SchemathesisConfig
from schemathesis.engine import StopReason, events, from_schema
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wsgi import get_input_stream

from api.web import long_poll

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

    from flask import Flask

    from tests.http.teller import Teller

EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "2"))
SEED: Final = int(os.environ.get("FUZZ_SEED", "20261122"))
#: Refusals that depend on stored data, which no schema describes.
REFUSED_FOR_STORED_DATA: Final = {"idempotency_key_reused", "code_invalid", "webhook_address_refused"}
#: Endings of the details of mistakes that JSON Schema cannot express.
NOT_IN_JSON_SCHEMA: Final = (
    "is no cursor of this list",
    "no NUL and no lone surrogate",
    "holds a number that is too large",
    "characters before the @",
    "is not a time that exists",
    "bytes of JSON, this is",
    "starts_at must be before ends_at",
    "there is no gateway named sms",
    "must be a valid integer",  # 5.0, which is an integer in JSON Schema
    "must name each resource once",
    "so it has no amount",  # a request with legs is refunded or captured as a whole
    "only operators and admins give a reason",  # one schema describes the body for all roles
)


class Quiet(WSGIRequestHandler):
    """Keeps connections open and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - as werkzeug has it
        """Log nothing."""


@contextlib.contextmanager
def served(application: Flask) -> Iterator[str]:
    """Serve the application at an address."""

    def bounded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # The real server ends the stream with the body; this one leaves that to the application.
        environ["wsgi.input"] = get_input_stream(environ)
        return application(environ, start_response)

    server = make_server("127.0.0.1", 0, bounded, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def is_false_alarm(check: str, status: int, content: bytes, key: str) -> bool:
    """Return whether a failed check demands more than the document promises. `key` is the idempotency key as sent."""
    if check == "negative_data_rejection" and "," in key and len(set(key.split(","))) == 1:
        return True  # for a list, such as [null, null], it sends the same key twice, which is one key
    with contextlib.suppress(ValueError):
        document = json.loads(content)
        if check == "positive_data_acceptance" and status == 422:
            return document["code"] in REFUSED_FOR_STORED_DATA or all(
                any(words in error["detail"] for words in NOT_IN_JSON_SCHEMA) for error in document["errors"]
            )
        if check == "negative_data_rejection" and status == 202 and "results" in document:
            return any(
                result["status"] >= 400 for result in document["results"]
            )  # an item of the batch is refused
    return False


def fuzz(url: str, key: str, *, systematic: bool) -> Iterator[tuple[int, str | None]]:
    """Yield the number of checks of each scenario, and the message of each failed check."""
    config = SchemathesisConfig(seed=SEED, cache=CacheConfig(enabled=False))
    config.projects.override.update(headers={"Authorization": f"Bearer {key}"})
    config.projects.override.generation.update(
        max_examples=EXAMPLES, deterministic="FUZZ_SEED" not in os.environ
    )
    if not systematic:
        config.projects.override.phases.update(phases=["examples", "fuzzing", "stateful"])
    ended: StopReason | None = None
    for event in from_schema(schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)).execute():
        match event:
            case events.ScenarioFinished(recorder=recorder):
                for call, checks in recorder.checks.items():
                    yield len(checks), None
                    interaction = recorder.interactions[call]
                    response, keys = (
                        interaction.response,
                        interaction.request.headers.get("Idempotency-Key", []),
                    )
                    status, content = (
                        (response.status_code, response.content or b"") if response else (0, b"")
                    )
                    for check in checks:
                        found = check.failure_info
                        if found is not None and not is_false_alarm(
                            check.name, status, content, ",".join(keys)
                        ):
                            message = f"{recorder.label}: {check.name}: {found.failure.message}"
                            yield 0, f"{message}\n{status} {content[:300]!r}\n{found.code_sample}"
            case events.NonFatalError(value=fault) | events.FatalError(exception=fault):
                yield 0, f"{event}: {fault!r}"
            case events.EngineFinished():
                ended = event.stop_reason
    if ended is not StopReason.COMPLETED:
        yield 0, f"it ended before its time: {ended}"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The name service answers at once, with one address for all names.
    """
    ask = socket.getaddrinfo

    def answer(host: str, *rest: Any, **more: Any) -> Any:
        return ask(host if host == "127.0.0.1" else "8.8.8.8", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize("role", ["client", "operator", "admin"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_each_answer_to_a_generated_call_conforms_to_the_document(
    teller: Teller, role: str, names: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    For each role, all checks of all answers pass.
    """
    monkeypatch.setattr(long_poll, "WAITERS_MAX", 0)  # without a worker, a wait would only time out
    with served(teller.application) as url:
        systematic = role == "client" or "FUZZ_EXAMPLES" in os.environ
        checked, messages = zip(*fuzz(url, getattr(teller, role).key, systematic=systematic), strict=True)

    wrong = [one for one in dict.fromkeys(messages) if one is not None]
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)
    assert sum(checked) > 1000
