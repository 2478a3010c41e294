"""
Batches: up to a thousand requests in one call. Each is accepted or refused on its own.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import pydantic_core
from pydantic import BaseModel, Field, SkipValidation, create_model

from api.services import Call
from api.v1.requests import Request
from api.web import parsing, problems
from api.web.fields import Body, IdempotencyKey, OneOf
from api.web.problems import IdempotencyKeyMissing, Invalid
from api.web.responses import Problem
from api.web.routing import Answer, AnswerDoc, Route, Routes
from api.web.submission import Origin, SubmissionBody
from processor.domain.kinds import KINDS
from processor.domain.model import FINAL_STATUSES
from processor.errors import Forbidden, TellerError
from processor.intake.intake import Receipt, Submission, fingerprint
from processor.records.documents import Document

#: The requests in one batch.
REQUESTS_MAX: Final = 1_000

#: The items that are checked without a pause for other clients: work of less than a millisecond.
ITEMS_AT_ONCE: Final = 20

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


#: The models of the items, by kind. `offer` fills it.
_ITEMS: Final[dict[str, type[SubmissionBody]]] = {}


def offer(others: Iterable[Route]) -> None:
    """
    Declare the route of batches. Its items have the bodies of the other routes, for kinds that may come in a batch.
    """
    for route in others:
        body = route.body
        if body is not None and issubclass(body, SubmissionBody) and KINDS[body.request_kind].in_batches:
            _ITEMS[body.request_kind] = _item_of(body)
    item: Any = Annotated[functools.reduce(operator.or_, _ITEMS.values()), Field(discriminator="kind")]
    items: Any = Annotated[list[SkipValidation[item]], Field(min_length=1, max_length=REQUESTS_MAX)]
    batch = create_model(
        "Batch",
        __base__=Body,
        __doc__="A list of requests, each of which is checked on its own.",
        requests=(items, ...),
    )
    answers = {202: AnswerDoc("One result for each item, in order.", BatchResults)}
    routes.add("POST", "/v1/batches", body=batch, answers=answers, values_max=None)(submit_batch)


def _item_of(body: type[SubmissionBody]) -> type[SubmissionBody]:
    """Return the model of an item with the fields of `body`."""
    kind = body.request_kind
    renamed: Any = {}
    if body.kind_in_items is not None:
        renamed = {body.kind_in_items: (body.model_fields["kind"].annotation, ...)}
    article = "An" if kind[0] in "aeiou" else "A"
    return create_model(
        f"{body.__name__}Item",
        __base__=body,
        __doc__=f"{article} {kind} in a batch.",
        kind=(Annotated[str, OneOf([kind])], ...),
        idempotency_key=(IdempotencyKey, ...),
        **renamed,
    )


def submit_batch(call: Call) -> Answer:
    """
    Make many requests in one call.

    Each item is accepted or refused on its own. It has its own idempotency key in place of the header. The same item,
    sent alone or in another batch, is the same request. An opening names the kind of its resource `resource_kind`.
    """
    call.services.keys.count_items(call.environ, len(call.sent["requests"]))
    with call.turn():
        outcomes: list[Submission | TellerError] = []
        for number, item in enumerate(call.sent["requests"], start=1):
            outcomes.append(_read(call, item))
            if number % ITEMS_AT_ONCE == 0:
                call.services.views.make_way()
    call.confirm()
    submissions = [one for one in outcomes if isinstance(one, Submission)]
    receipts = iter(call.services.accept(submissions) if submissions else [])
    results = []
    for start in range(0, len(outcomes), ITEMS_AT_ONCE):
        part = [
            _refused(one) if isinstance(one, TellerError) else _answered(next(receipts))
            for one in outcomes[start : start + ITEMS_AT_ONCE]
        ]
        results.append(pydantic_core.to_json(part)[1:-1])
        call.services.views.make_way()
    return Answer(b'{"results":[%b]}' % b",".join(results), 202)


def _read(call: Call, item: Any) -> Submission | TellerError:
    """Return the submission of one item, or the error that refuses it."""
    caller = call.caller
    try:
        if not isinstance(item, dict):
            raise Invalid.at("", "must be an object")
        name = item.get("kind")
        model = _ITEMS.get(name) if isinstance(name, str) else None
        if model is None:
            raise Invalid.at("/kind", f"must be {', '.join(_ITEMS)}" if "kind" in item else "is required")
        roles = KINDS[model.request_kind].roles
        if caller.role not in roles:
            raise Forbidden(f"a {name} needs the role {' or '.join(sorted(roles))}, yours is {caller.role}")
        if "idempotency_key" not in item:
            raise IdempotencyKeyMissing("the item has no idempotency_key")
        body = parsing.validate(model, item)
        alone = {field: value for field, value in item.items() if field not in ("kind", "idempotency_key")}
        if model.kind_in_items is not None:
            alone["kind"] = alone.pop(model.kind_in_items)
            body = body.model_copy(update={"kind": alone["kind"]})
        body.check(call.services.gateways)
        return body.submission(
            Origin(caller, item["idempotency_key"], fingerprint(model.request_kind, alone))
        )
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
