"""
How a POST makes a request, the same for every noun: key, fingerprint, intake, wait, answer.

This is the hot path of the API. The body of a noun converts itself into a Submission; all other steps are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from api.web import deadline, idempotency, long_poll, problems
from api.web.fields import Body
from api.web.problems import RETRY_AFTER_SECONDS, IdempotencyKeyMissing
from api.web.routing import REQUEST, Answer, Call, ServicesT
from processor.domain.model import FINAL_STATUSES
from processor.errors import IdempotencyKeyReused, PartitionSaturated
from processor.ids import new_id
from processor.intake.intake import Submission, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from processor.clients.keys import Caller
    from processor.reading.requests import Place
    from processor.records.documents import RequestRecord

#: The problems of a route that makes a request, and the request headers that it reads.
PROBLEMS: Final = (IdempotencyKeyMissing, IdempotencyKeyReused, PartitionSaturated)
REQUEST_HEADERS: Final = ("IdempotencyKey", "Prefer")

problems.declare(
    IdempotencyKeyReused.code,
    status=422,
    title="The idempotency key was used for another request",
    explanation="Your client used this Idempotency-Key before, with another body.",
    remedy="Send the same body with a retry, and another key with another request.",
)
problems.declare(
    PartitionSaturated.code,
    status=503,
    title="Too many requests are queued",
    explanation="The queue of this resource's partition is full. Nothing was stored.",
    remedy="Try again after Retry-After seconds, with the same Idempotency-Key.",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The caller, its idempotency key, and the digest of the body."""

    caller: Caller
    idempotency_key: str
    fingerprint: bytes

    def submission(
        self,
        kind: str,
        resource: str,
        *,
        account: str | None = None,
        amount: int | None = None,
        apply_before: datetime | None = None,
        details: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Submission:
        """Return the submission for intake."""
        return Submission(
            client_id=self.caller.client,
            key_id=self.caller.key_id,
            idempotency_key=self.idempotency_key,
            fingerprint=self.fingerprint,
            kind=kind,
            resource_id=resource,
            account=account,
            amount=amount,
            apply_before=apply_before,
            details=details,
            metadata=metadata,
        )


class SubmissionBody(Body):
    """The body of a POST that makes a request of one kind, from the fields of a noun."""

    #: The kind of the request, as `processor.domain.kinds` names it.
    request_kind: ClassVar[str]
    #: The name of the field `kind` in an item of a batch, whose own `kind` is that of the request.
    kind_in_items: ClassVar[str | None] = None

    def check(self, gateways: frozenset[str]) -> None:
        """Refuse a gateway that is not among those of this installation. Raises Invalid."""

    def submission(self, origin: Origin) -> Submission:
        """Return the submission for intake."""
        raise NotImplementedError


def accept(
    call: Call[ServicesT],
    kind: str,
    *,
    resource: str | None = None,
    make: Callable[[Origin], Submission] | None = None,
) -> Answer:
    """
    Make the request of the call's body, and return the answer with it.

    A route with the resource in its path passes `resource`, for the fingerprint, and `make`, which returns the
    submission.
    """
    key = read_key(call)
    sent = call.sent if resource is None else {**call.sent, "resource": resource}
    origin = Origin(call.caller, key, fingerprint(kind, sent))
    submission = make(origin) if make is not None else call.body.submission(origin)
    [receipt] = call.services.accept([submission])
    return accepted(call, receipt.record(), is_replayed=receipt.replayed)


def read_key(call: Call[ServicesT]) -> str:
    """
    Return the idempotency key of a call. A PATCH needs no key; without one, each call makes a new request.

    Raises IdempotencyKeyMissing and the errors of a key with the wrong form.
    """
    header = call.header("HTTP_IDEMPOTENCY_KEY")
    if header is None and call.environ["REQUEST_METHOD"] == "PATCH":
        return f"patch-{new_id()}"
    return idempotency.read_key(header)


def accepted(call: Call[ServicesT], record: RequestRecord, *, is_replayed: bool) -> Answer:
    """
    Return the answer with a request that intake accepted, after the wait that the call prefers.
    """
    call.environ[REQUEST] = str(record.id)
    headers = {"Idempotency-Replayed": "true"} if is_replayed else {}
    seconds = long_poll.read_preference(call.header("HTTP_PREFER"))
    if seconds is not None:
        record = wait_for(call, record, seconds, headers)
    final = record.status in FINAL_STATUSES and (is_replayed or seconds is not None)
    headers["Location"] = f"/v1/requests/{record.id}"
    headers["ETag"] = etag(record, None)
    if not final:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Answer(record.document(), 200 if final else 202, headers)


def recorded(record: RequestRecord) -> Answer:
    """Return the answer of a route that has recorded a command about a request."""
    headers = {
        "Location": f"/v1/requests/{record.id}",
        "Retry-After": str(RETRY_AFTER_SECONDS),
        "ETag": etag(record, None),
    }
    return Answer(record.document(), 202, headers)


def wait_for(
    call: Call[ServicesT], record: RequestRecord, seconds: int, headers: dict[str, str]
) -> RequestRecord:
    """
    Wait until the request is final or a reservation is held, or until the time is up.

    Returns the request as it was last read.

    Adds a header if the wait was granted. Raises DatabaseUnavailable.
    """
    applied = True
    if not record.is_settled:
        with call.services.views.aside():
            record, applied = call.services.waiters.wait(record.id, call.caller.client, seconds, record)
        deadline.begin()  # the wait until now was asked for
    if applied:
        headers["Preference-Applied"] = f"wait={seconds}"
    return record


def etag(record: RequestRecord, place: Place | None) -> str:
    """Return the ETag of one representation. A place changes while the version stays."""
    return f'"{record.version}"' if place is None else f'"{record.version}-{place.tag}"'
