"""
Batches: up to a thousand requests in one call. Each is accepted or refused on its own; all are stored together.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, SkipValidation

from api.services import Call
from api.v1.deposits import Deposit
from api.v1.redemptions import Redemption
from api.v1.requests import Request
from api.v1.withdrawals import Withdrawal
from api.web import parsing, problems
from api.web.fields import Body, IdempotencyKey
from api.web.problems import Forbidden, IdempotencyKeyMissing, Invalid
from api.web.responses import Problem
from api.web.routing import Answer, AnswerDoc, Routes
from api.web.submission import Origin
from processor.clients.keys import Caller
from processor.domain.model import FINAL_STATUSES
from processor.domain.roles import CLIENTS, OPERATORS
from processor.errors import TellerError
from processor.intake.intake import Receipt, Submission, fingerprint
from processor.records.documents import Document

#: The requests in one batch, which intake stores as one group.
REQUESTS_MAX: Final = 1_000

routes = Routes("Batches")


class BatchResult(BaseModel):
    """The result of one item of a batch: `request`, or `problem`."""

    status: int
    request: Request | None = None
    replayed: Literal[True] | None = Field(
        default=None, description="The key was used before, with the same body."
    )
    problem: Problem | None = None


class BatchResults(BaseModel):
    """One result for each item, in order."""

    results: list[BatchResult]


class RedemptionItem(Redemption):
    """A redemption in a batch."""

    kind: Literal["redemption"]
    idempotency_key: IdempotencyKey


class WithdrawalItem(Withdrawal):
    """A withdrawal in a batch."""

    kind: Literal["withdrawal"]
    idempotency_key: IdempotencyKey


class DepositItem(Deposit):
    """A deposit in a batch."""

    kind: Literal["deposit"]
    idempotency_key: IdempotencyKey


Item = RedemptionItem | WithdrawalItem | DepositItem


@dataclass(frozen=True, slots=True)
class _Kind:
    model: type[Item]
    roles: frozenset[str]


_KINDS: Final = {
    "redemption": _Kind(RedemptionItem, CLIENTS),
    "withdrawal": _Kind(WithdrawalItem, CLIENTS),
    "deposit": _Kind(DepositItem, OPERATORS),
}


class Batch(Body):
    """A list of requests. The view checks each of them on its own."""

    requests: Annotated[
        list[SkipValidation[Annotated[Item, Field(discriminator="kind")]]],
        Field(min_length=1, max_length=REQUESTS_MAX),
    ]


@routes.add(
    "POST",
    "/v1/batches",
    body=Batch,
    answers={202: AnswerDoc("One result for each item, in order.", BatchResults)},
)
def submit_batch(call: Call) -> Answer:
    """
    Make many requests in one call.

    Each item is accepted or refused on its own. It has its own idempotency key in place of the header. The same item,
    sent alone or in another batch, is the same request.
    """
    outcomes: list[Submission | TellerError] = [_read(call.caller, item) for item in call.sent["requests"]]
    submissions = [one for one in outcomes if isinstance(one, Submission)]
    receipts = iter(call.services.accept(submissions) if submissions else [])
    results = [
        _refused(one) if isinstance(one, TellerError) else _answered(next(receipts)) for one in outcomes
    ]
    return Answer({"results": results}, 202)


def _read(caller: Caller, item: Any) -> Submission | TellerError:
    """Return the submission of one item, or the error that refuses it."""
    try:
        if not isinstance(item, dict):
            raise Invalid.at("", "must be an object")
        name = item.get("kind")
        kind = _KINDS.get(name) if isinstance(name, str) else None
        if kind is None:
            raise Invalid.at("/kind", f"must be {', '.join(_KINDS)}" if "kind" in item else "is required")
        if caller.role not in kind.roles:
            raise Forbidden(
                f"a {name} needs the role {' or '.join(sorted(kind.roles))}, yours is {caller.role}"
            )
        if "idempotency_key" not in item:
            raise IdempotencyKeyMissing("the item has no idempotency_key")
        body = parsing.validate(kind.model, item)
        alone = {field: value for field, value in item.items() if field not in ("kind", "idempotency_key")}
        return body.submission(Origin(caller, body.idempotency_key, fingerprint(body.kind, alone)))
    except TellerError as refusal:
        return refusal


def _refused(error: TellerError) -> Document:
    return {"status": problems.status_of(error), "problem": problems.document(error)}


def _answered(receipt: Receipt) -> Document:
    if receipt.request is None:
        return _refused(receipt.problem or TellerError("intake gave no reason"))
    if not receipt.replayed:
        return {"status": 202, "request": receipt.request.document()}
    status = 200 if receipt.request.status in FINAL_STATUSES else 202
    return {"status": status, "request": receipt.request.document(), "replayed": True}
