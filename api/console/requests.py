"""
One request: what was asked, its way, its entries, who was told; and what can be done about it, by whom.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BeforeValidator, Field

from api.console import timeline
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit, local_path
from api.web.fields import TEXT_CHARACTERS_MAX, Body, optional
from api.web.parsing import read_id
from processor.clients.keys import Caller
from processor.domain.kinds import KINDS
from processor.domain.model import MAX_QUANTITY
from processor.domain.roles import ADMINS
from processor.errors import TellerError
from processor.ids import new_id
from processor.intake.commands import Recorded
from processor.operations import approvals, failed_requests
from processor.operations import cancel as cancellations
from processor.operations.approvals import ApproverIsRequester, NotAwaitingApproval
from processor.operations.failed_requests import NotFailed
from processor.reading import request_detail, requests
from processor.reading.request_detail import Inspection
from processor.records import audit
from processor.records.audit import AuditFilter
from processor.records.documents import RequestRecord
from processor.storage.connections import Connection

#: The stages in which a command to cancel can still come in time.
CANCELLABLE_STAGES: Final = cancellations.CANCELLABLE_STAGES - {"held"}
#: Lines of the audit that are shown.
SAID_MAX: Final = 50

Verdict = Callable[[Connection, UUID, Caller, str], tuple[RequestRecord, Recorded]]

pages = Pages("")

Reason = Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX)]


def _number(value: object) -> object:
    """A field's digits as an integer, however they are grouped; anything else is left to be refused."""
    digits = value.replace(",", "").replace(" ", "") if isinstance(value, str) else ""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 16 else value  # noqa: PLR2004


class Said(Body):
    """Why, and where to go afterwards."""

    reason: Reason
    back: str = ""


class Refunding(Said):
    """Why, how much, and the key that the form was given: sent twice, it is one refund."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    amount: Annotated[int | None, Field(ge=1, le=MAX_QUANTITY), BeforeValidator(_number)] = optional()


@dataclass(frozen=True, slots=True)
class Possible:
    """What can be done about a request now; None or False: that cannot."""

    replay: bool
    #: How much can be given back.
    refund: int | None
    #: Only the whole of it.
    refund_whole: bool
    #: Why it cannot be given back, where somebody may wonder.
    why_no_refund: str | None
    cancel: bool
    judge: bool
    #: It waits for approval, by somebody of another client.
    is_own: bool

    @property
    def anything(self) -> bool:
        """Whether there is a form."""
        return self.replay or self.refund is not None or self.cancel or self.judge


def possible(found: Inspection, client: str, *, may_refund: bool) -> Possible:
    """What somebody of this client can do about it."""
    one, on_its_way = found.request, found.on_its_way
    left, why = _left(found) if may_refund else (None, None)
    awaits = one.stage == "awaiting_approval" and not on_its_way & {"approve", "deny"}
    return Possible(
        replay=one.status == "failed" and "replay" not in on_its_way,
        refund=left,
        refund_whole=one.status == "failed",
        why_no_refund=why,
        cancel=one.status == "processing"
        and one.stage in CANCELLABLE_STAGES
        and not on_its_way & {"cancel", "approve", "deny", "confirm"},
        judge=awaits and one.client_id != client,
        is_own=awaits and one.client_id == client,
    )


def _left(found: Inspection) -> tuple[int | None, str | None]:
    """How much can be given back; or why not, where somebody may wonder."""
    one, effect = found.request, found.effect
    if not KINDS[one.kind].refundable or one.status not in ("completed", "failed"):
        return None, None
    if any(refund.status == "processing" for refund in found.refunds):
        return None, "A refund of this request is already waiting."
    if one.status == "completed":
        left = (one.amount or 0) - one.refunded
        return (left, None) if left > 0 else (None, None)
    if "replay" in found.on_its_way:
        return (
            None,
            "A replay is waiting in the queue. A refund may be possible after it is decided.",
        )
    if not found.is_holding:
        return None, "Nothing is held, so there is nothing to refund. A replay decides the request again."
    if effect is not None and effect.is_calling:
        return None, "A gateway call is in progress, and the gateway may be paying now."
    if effect is not None and effect.outcome == "done":
        return None, "The gateway has confirmed the payment. A replay takes the held amount."
    return one.amount, None


@pages.get("/requests/<request>")
def one_request(visit: Visit, request: str) -> Page:
    """All about one."""
    found = _inspect(visit, request)
    original = None
    if found.request.refund_of is not None:
        with visit.services.connection() as connection:
            original, _ = requests.read_request(connection, found.request.refund_of, None)
    can = possible(found, visit.caller.client, may_refund=visit.may("admin"))
    is_moving = found.request.status == "processing" or bool(found.words) or _is_being_refunded(found)
    context: dict[str, Any] = {
        "found": found,
        "request": found.request,
        "kind": KINDS[found.request.kind],
        "unit": None if found.resource is None else found.resource.unit,
        "original": original,
        "timeline": timeline.read(found),
        "can": can,
        "is_live": is_moving,
        "refund_key": new_id(),
    }
    return Page("request.html", context)


@pages.post("/requests/<request>/replay")
def replay(visit: Visit, request: str) -> Redirect:
    """To the end of its queue, tried as if it were new."""
    named, sent = read_id(request, "request"), visit.read(Said)
    try:
        with visit.services.connection() as connection:
            _, replayed = failed_requests.replay(connection, named, visit.caller, sent.reason)
    except NotFailed:
        if visit.services.request(named).status == "processing":  # a second click, or another operator's
            return Redirect(_back(sent, named), Notice("The request is already processing."))
        raise
    visit.services.doorbell.notify_all(replayed.partitions)
    text = "The request is at the end of its queue." if replayed.sent else "A replay was already waiting."
    return Redirect(_back(sent, named), Notice(text))


@pages.post("/requests/<request>/refund", roles=ADMINS)
def refund(visit: Visit, request: str) -> Redirect:
    """A request of kind refund, decided in its turn."""
    named, sent = read_id(request, "request"), visit.read(Refunding)
    with visit.services.connection() as connection:
        submission = failed_requests.refund(
            connection, named, sent.amount, sent.reason, visit.caller, f"console-{sent.key}"
        )
    [receipt] = visit.services.accept([submission])
    if receipt.request is None:
        raise receipt.problem or TellerError("intake gave no reason")
    return Redirect(_back(sent, named), Notice("The refund is accepted and waits in its queue."))


@pages.post("/requests/<request>/cancel")
def cancel(visit: Visit, request: str) -> Redirect:
    """Withdrawn, unless it is decided first."""
    named, sent = read_id(request, "request"), visit.read(Said)
    with visit.services.connection() as connection:
        _, command = cancellations.cancel(connection, named, visit.caller, sent.reason)
    visit.services.doorbell.notify(command.partition)
    return Redirect(
        _back(sent, named),
        Notice("The cancel command waits in the queue. It may come too late: check the status."),
    )


@pages.post("/requests/<request>/approve")
def approve(visit: Visit, request: str) -> Redirect:
    """Decided like a new one, in the place that it gets now."""
    return _judge(visit, request, approvals.approve, "Approved. The request waits in its queue.")


@pages.post("/requests/<request>/deny")
def deny(visit: Visit, request: str) -> Redirect:
    """Rejected, with the reason."""
    return _judge(visit, request, approvals.deny, "Denied. The rejection waits in the queue.")


def _judge(visit: Visit, request: str, verdict: Verdict, said: str) -> Redirect:
    named, sent = read_id(request, "request"), visit.read(Said)
    try:
        with visit.services.connection() as connection:
            _, command = verdict(connection, named, visit.caller, sent.reason)
    except NotAwaitingApproval:
        return Redirect(_back(sent, named), Notice("The request no longer waits for approval.", "failed"))
    except ApproverIsRequester:
        own = "Your own client made this request. An operator of another client must approve or deny it."
        return Redirect(_back(sent, named), Notice(own, "failed"))
    visit.services.doorbell.notify(command.partition)
    return Redirect(_back(sent, named), Notice(said))


def _inspect(visit: Visit, request: str) -> Inspection:
    named = read_id(request, "request")
    with visit.services.connection() as connection:
        said = audit.list_audit(connection, AuditFilter(request=named), SAID_MAX, None).rows
        return request_detail.inspect(connection, named, said)


def _is_being_refunded(found: Inspection) -> bool:
    return any(refund.status == "processing" for refund in found.refunds)


def _back(sent: Said, named: UUID) -> str:
    """The page of ours that the form was on."""
    return local_path(sent.back) if sent.back else f"{ROOT}/requests/{named}"
