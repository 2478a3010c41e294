"""
One request: its timeline, entries, gateway calls and notifications, and the actions that are possible.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field

from api.console import timeline
from api.console.fields import ReasonBackForm
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.web.fields import optional
from api.web.parsing import read_id
from api.web.problems import Invalid
from processor.clients.keys import Caller
from processor.domain.amounts import NO_UNIT, Unit, format_amount, read_amount
from processor.domain.kinds import KINDS
from processor.domain.model import MAX_QUANTITY
from processor.ids import new_id
from processor.intake.commands import Recorded
from processor.operations import approvals, failed_requests
from processor.operations import cancel as cancellations
from processor.operations.approvals import ApproverIsRequester, NotAwaitingApproval
from processor.operations.failed_requests import NotFailed
from processor.reading import request_detail, requests
from processor.reading.request_detail import Inspection
from processor.reading.request_lists import RequestFilter, list_all
from processor.reading.units import read_units_of_requests
from processor.records import audit
from processor.records.audit import AuditFilter
from processor.records.documents import RequestRecord
from processor.storage.connections import Connection

#: The rules of a resource that are amounts.
AMOUNT_RULES: Final = frozenset(
    {"overdraft", "per_account_limit", "per_account_daily_limit", "confirm_above", "approve_above"}
)
#: How long the answer to an act waits for the decision, so that the next page shows what came of it.
DECISION_SECONDS: float = 1.0
#: Audit lines in the timeline.
AUDIT_LINES_MAX: Final = 50

Verdict = Callable[[Connection, UUID, Caller, str], tuple[RequestRecord, Recorded]]

pages = Pages("")


class RefundForm(ReasonBackForm):
    """A refund. The page made its key, so that a form that is sent twice makes one refund."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    #: As people write it, such as 1,234.50.
    amount: str | None = optional()

    def read_amount(self, unit: Unit) -> int | None:
        """
        Return the amount, or None for all that is left. Raises Invalid.
        """
        if self.amount is None:
            return None
        read = read_amount(self.amount, unit.decimals)
        if read is None or not 1 <= read <= MAX_QUANTITY:
            example = format_amount(1234 * 10**unit.decimals, unit._replace(name=None))
            raise Invalid.at("/amount", f"must be an amount above zero, such as {example}")
        return read


@dataclass(frozen=True, slots=True)
class Possible:
    """The actions that are possible for a request now."""

    replay: bool
    #: The largest amount of a refund, or None.
    refund: int | None
    #: Whether only the whole amount can be refunded.
    refund_whole: bool
    #: The reason why no refund is possible, if an admin may expect one.
    why_no_refund: str | None
    cancel: bool
    #: Whether it is held, and neither a capture nor a release was accepted.
    release: bool
    judge: bool
    #: Whether it waits for approval, but not by the caller's own client.
    is_own: bool

    @property
    def anything(self) -> bool:
        """
        Return whether the page has a form.
        """
        return self.replay or self.refund is not None or self.cancel or self.release or self.judge


def possible(found: Inspection, client: str, *, may_refund: bool) -> Possible:
    """
    Return the actions that an operator of this client may take.
    """
    one, pending = found.request, found.pending_verbs
    left, why = _left(found) if may_refund else (None, None)
    awaits = one.stage == "awaiting_approval" and not pending & {"approve", "deny"}
    return Possible(
        replay=one.status == "failed" and "replay" not in pending,
        refund=left,
        refund_whole=one.status == "failed",
        why_no_refund=why,
        cancel=one.status == "processing"
        and one.stage in cancellations.CANCELLABLE_STAGES
        and not pending & {"cancel", "approve", "deny", "confirm"},
        release=one.stage == "held" and one.command is None,
        judge=awaits and one.client_id != client,
        is_own=awaits and one.client_id == client,
    )


def _left(found: Inspection) -> tuple[int | None, str | None]:
    """
    Return the largest amount of a refund, 0 for a request with legs, or the reason why none is possible.
    """
    one, effect = found.request, found.effect
    if not KINDS[one.kind].refundable or one.status not in ("completed", "failed"):
        return None, None
    if any(refund.status == "processing" for refund in found.refunds):
        return None, "A refund of this request is already waiting."
    if one.legs and one.status == "completed":
        return 0, None  # all of them together
    if one.status == "completed":
        taken = (one.amount or 0) if one.captured is None else one.captured
        left = taken - one.refunded
        return (left, None) if left > 0 else (None, None)
    if "replay" in found.pending_verbs:
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
    return 0 if one.legs else one.amount, None


@pages.get("/requests/<request>")
def one_request(visit: Visit, request: str) -> Page:
    """
    Show a request, its records and the possible actions.
    """
    request_id, original = read_id(request, "request"), None
    with visit.services.connection() as connection:
        found = _inspect(connection, request_id)
        if found.request.refund_of is not None:
            original, _ = requests.read_request(connection, found.request.refund_of, None)
    can = possible(found, visit.caller.client, may_refund=visit.may_make("refund"))
    is_moving = found.request.status == "processing" or bool(found.pending) or _is_being_refunded(found)
    context: dict[str, Any] = {
        "found": found,
        "request": found.request,
        "kind": KINDS[found.request.kind],
        "unit": found.unit,
        "amounts": AMOUNT_RULES,
        "original": original,
        "timeline": timeline.read(found),
        "can": can,
        "is_live": is_moving,
        "refund_key": new_id(),
    }
    return Page("request.html", context)


@pages.post("/requests/<request>/replay")
def replay(visit: Visit, request: str) -> Redirect:
    """
    Replay a failed request.
    """
    request_id, form = read_id(request, "request"), visit.read(ReasonBackForm)
    try:
        with visit.services.connection() as connection:
            _, replayed = failed_requests.replay(connection, request_id, visit.caller, form.reason)
    except NotFailed:
        if visit.services.request(request_id).status == "processing":  # a second click, or another operator's
            return Redirect(_back(form, request_id), Notice("The request is already processing."))
        raise
    visit.services.doorbell.notify_all(replayed.partitions)
    await_decision(visit, request_id)
    text = "The request is at the end of its queue." if replayed.sent else "A replay was already waiting."
    return Redirect(_back(form, request_id), Notice(text))


@pages.post("/requests/<request>/refund", roles=KINDS["refund"].roles)
def refund(visit: Visit, request: str) -> Redirect:
    """
    Make a refund of a request.
    """
    request_id, form = read_id(request, "request"), visit.read(RefundForm)
    with visit.services.connection() as connection:
        units = read_units_of_requests(connection, [request_id])
        unit = units.get(request_id, NO_UNIT)
        if (wrong := _refusal(visit, connection, request_id, form, unit)) is not None:
            return Redirect(_back(form, request_id), Notice(wrong, "failed"))
        made, _ = failed_requests.refund(
            visit.services.accept,
            connection,
            request_id,
            form.read_amount(unit),
            form.reason,
            visit.caller,
            f"console-{form.key}",
        )
    await_decision(visit, made.id)
    return Redirect(_back(form, request_id), Notice("The refund is accepted, and is decided in its turn."))


def _refusal(
    visit: Visit, connection: Connection, request_id: UUID, form: RefundForm, unit: Unit
) -> str | None:
    """
    Return the reason why a refund is refused before it becomes a request: more than is left. A form that is sent
    again is not refused, because its refund exists.
    """
    amount = form.read_amount(unit)
    sent = RequestFilter(client=visit.caller.client, key=f"console-{form.key}")
    if amount is None or list_all(connection, None, sent, 1):
        return None
    found = _inspect(connection, request_id)
    left = possible(found, visit.caller.client, may_refund=True).refund
    if found.request.legs or left is None or amount <= left:
        return None  # intake or the decision refuses it, and says why
    asked, rest = format_amount(amount, unit), format_amount(left, unit)
    return f"{asked} is more than the {rest} that is left. Nothing was done."


@pages.post("/requests/<request>/cancel")
def cancel(visit: Visit, request: str) -> Redirect:
    """
    Cancel a request, if it is not decided first.
    """
    request_id, form = read_id(request, "request"), visit.read(ReasonBackForm)
    with visit.services.connection() as connection:
        _, command = cancellations.cancel(connection, request_id, visit.caller, form.reason)
    visit.services.doorbell.notify(command.partition)
    await_decision(visit, request_id)
    return Redirect(
        _back(form, request_id),
        Notice("The cancel command is accepted. It may come too late: check the status."),
    )


@pages.post("/requests/<request>/approve")
def approve(visit: Visit, request: str) -> Redirect:
    """
    Approve a request that waits for it.
    """
    return _judge(visit, request, approvals.approve, "Approved. The request is decided in its turn.")


@pages.post("/requests/<request>/deny")
def deny(visit: Visit, request: str) -> Redirect:
    """
    Deny a request that waits for approval.
    """
    return _judge(visit, request, approvals.deny, "Denied. The request is rejected in its turn.")


def _judge(visit: Visit, request: str, verdict: Verdict, text: str) -> Redirect:
    request_id, form = read_id(request, "request"), visit.read(ReasonBackForm)
    try:
        with visit.services.connection() as connection:
            _, command = verdict(connection, request_id, visit.caller, form.reason)
    except NotAwaitingApproval:
        return Redirect(
            _back(form, request_id), Notice("The request no longer waits for approval.", "failed")
        )
    except ApproverIsRequester:
        own = "Your own client made this request. An operator of another client must approve or deny it."
        return Redirect(_back(form, request_id), Notice(own, "failed"))
    visit.services.doorbell.notify(command.partition)
    await_decision(visit, request_id)
    return Redirect(_back(form, request_id), Notice(text))


def await_decision(visit: Visit, request_id: UUID) -> None:
    """
    Wait until a request is in a state that stays, or until DECISION_SECONDS are over.
    """
    services = visit.services
    record = services.request(request_id)
    if DECISION_SECONDS and record.status == "processing":
        with services.views.aside():
            services.waiters.wait(request_id, visit.caller.client, DECISION_SECONDS, record)


def _inspect(connection: Connection, request_id: UUID) -> Inspection:
    audit_lines = audit.list_audit(connection, AuditFilter(request=request_id), AUDIT_LINES_MAX, None).rows
    return request_detail.inspect(connection, request_id, audit_lines)


def _is_being_refunded(found: Inspection) -> bool:
    return any(refund.status == "processing" for refund in found.refunds)


def _back(form: ReasonBackForm, request_id: UUID) -> str:
    return form.page_or(f"{ROOT}/requests/{request_id}")
