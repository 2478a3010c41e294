"""
The timeline of a request: its states, gateway calls, actions of operators and notifications, in the order of time.

Pure: it turns the records of a request into texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from api.console.formats import age
from processor.domain.model import TELLER
from processor.domain.rules.settling import PAID_AFTER_REFUND

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from processor.reading.attempts import Attempt
    from processor.reading.request_detail import Inspection, Notification, PastState
    from processor.records.audit import AuditRecord

#: Status or stage → title and tone.
STATES: Final = {
    "awaiting_confirmation": ("Waiting for the confirmation code", "wait"),
    "awaiting_approval": ("Waiting for approval", "wait"),
    "queued": ("Waiting in the queue again", "busy"),
    "held": ("Held", "busy"),
    "settling": ("Held, waiting for the gateway", "busy"),
    "completed": ("Completed", "good"),
    "rejected": ("Rejected", ""),
    "refunded": ("Refunded", ""),
    "cancelled": ("Cancelled", ""),
    "failed": ("Failed", "bad"),
}
#: Outcome of a gateway call → title and tone.
ANSWERS: Final = {
    "done": ("done", "good"),
    "declined": ("declined", ""),
    "misconfigured": ("refused, because its address or Teller's key is wrong", "bad"),
    "unknown": ("no conclusive answer", "wait"),
}
#: Action in the audit → title.
ACTIONS: Final = {
    "replay": "Replay requested",
    "refund": "Refund requested",
    "cancel": "Cancellation requested",
    "approve": "Approved",
    "deny": "Denied",
    "confirm": "Confirmed with the code",
    "code_sent_again": "New code sent",
    "delivery_resent": "Delivery resent",
}
#: The detail of a state in which a replay retries the effect.
ASKED_AGAIN: Final = "the gateway is asked again"
#: Details that repeat the title of the state.
_REPEATED_DETAILS: Final = frozenset(
    {"accepted", "waits for its code", "waits for another client's approval", "cancelled", "completed"}
)


class Moment(NamedTuple):
    """One event of the timeline."""

    at: datetime
    #: good, busy, wait, bad or empty.
    tone: str
    title: str
    text: str | None = None
    actor: str | None = None
    code: str | None = None


def read(found: Inspection) -> list[Moment]:
    """
    Return the events of a request, oldest first.
    """
    moments = [
        *_states(found),
        *(_attempt(number, one) for number, one in enumerate(found.attempts, 1)),
        *(_action(line) for line in found.audit_lines if line.action in ACTIONS),
        *(
            _delivery(one)
            for one in found.deliveries
            if one.delivered_at is not None or one.status == "failed"
        ),
    ]
    return sorted(moments, key=lambda moment: moment.at)


def _states(found: Inspection) -> Iterator[Moment]:
    origin = found.origin
    client = found.request.client_id
    yield Moment(
        found.request.created_at,
        "good",
        "Accepted",
        None,
        client if origin.key_name is None else f"{client} (key {origin.key_name})",
    )
    for state in found.states:
        yield _state(state)


def _state(state: PastState) -> Moment:
    name = state.stage or state.status
    title, tone = STATES.get(name, (name, ""))
    detail = state.detail
    if detail == ASKED_AGAIN:
        title, detail = "Still held, waiting for the gateway again", None
    elif detail == PAID_AFTER_REFUND:
        title, tone, detail = (
            "The gateway paid after the refund",
            "bad",
            "the ledger did not change: settle this with the gateway",
        )
    elif detail in _REPEATED_DETAILS or str(detail).startswith("held; "):
        detail = None
    reference = None if state.reference is None else f"reference of the gateway: {state.reference}"
    text = "; ".join(part for part in (detail, state.reason, reference) if part) or None
    return Moment(state.at, tone, title, text, None if state.actor == TELLER else state.actor, state.code)


def _attempt(number: int, one: Attempt) -> Moment:
    if one.ended_at is None:
        return Moment(one.started_at, "busy", f"Gateway call {number}", "no answer was recorded yet")
    word, tone = ANSWERS.get(one.outcome or "", ("", "wait"))
    took = age((one.ended_at - one.started_at).total_seconds())
    status = f"answered {one.status}" if one.status is not None else "no answer"
    text = f"{status} after {took}" + (f": {one.error}" if one.error and one.error != status else "")
    return Moment(one.started_at, tone, f"Gateway call {number}: {word}", text)


def _action(line: AuditRecord) -> Moment:
    return Moment(line.at, "", ACTIONS[line.action], line.reason, line.actor)


def _delivery(one: Notification) -> Moment:
    recipient = one.email if one.email is not None else (one.url or "a deleted webhook")
    tries = "on the first try" if one.tries <= 1 else f"after {one.tries} tries"
    if one.delivered_at is not None:
        return Moment(
            one.delivered_at, "good", f"Notification delivered: {one.type}", f"{recipient}, {tries}"
        )
    return Moment(
        one.created_at, "bad", f"Notification failed: {one.type}", f"{recipient}: {one.last_error or ''}"
    )
