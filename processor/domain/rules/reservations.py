"""
Reservations: an account has some of a resource set aside, and its client captures or releases it later.

A capture or release counts if it was accepted before the time was over, however late it is decided. The first one is
recorded in the row of the open hold (`operations.reservations`), and no second one is accepted.
"""

from datetime import datetime

from processor.domain import ledger
from processor.domain.decisions import (
    AskGateway,
    Capture,
    Decision,
    EndHold,
    KeepHeld,
    Nothing,
    Rejected,
    Reserve,
)
from processor.domain.model import Request, Reservation, Resource, State
from processor.domain.rules import taking

#: The error codes of a reservation that was cancelled.
RELEASED = "released"
EXPIRED = "reservation_expired"


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Hold the amount, or refuse with the first reason of `taking.refusal` that applies, or as too large to hold."""
    refused = taking.refusal(request, resource, used, now)
    if refused is not None or resource is None:
        return refused or Rejected("resource_not_found")
    if not ledger.can_hold(resource, request.quantity):
        return Rejected("too_large")
    return Reserve(request.quantity, seconds_of(request))


def decide_leg(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Hold one of several legs, or refuse: as `taking.leg_refusal` does, then as `decide`."""
    return taking.leg_refusal(request, resource) or decide(request, resource, used, now)


def seconds_of(request: Request) -> int:
    """Return the time for which a reservation is held. Raises LookupError if intake wrote none."""
    seconds: int = (request.details or {})["ttl_seconds"]
    return seconds


def end(
    verb: str, state: State | None, reservation: Reservation | None, resource: Resource | None, now: datetime
) -> Decision:
    """
    Return the step that ends a hold: the command that was accepted, or the expiry if there is none.

    A command that comes too late changes nothing. It was accepted, so the hold has ended in another way: by an
    admin's refund. `resource` is None for a reservation with legs, because no gateway is asked about them.
    """
    if state is None or state.stage != "held" or reservation is None:
        return Nothing()
    if verb == "expire":
        if reservation.command is None and reservation.expires_at <= now:
            return EndHold(EXPIRED, "not captured in time")
        return Nothing()
    return Nothing() if reservation.command != verb else _carry_out(reservation, resource)


def replay(reservation: Reservation, resource: Resource | None) -> Decision:
    """
    Return the next step of a failed reservation whose hold is open and has no effect.

    Its command is carried out. Without a command it is held again.
    """
    return KeepHeld() if reservation.command is None else _carry_out(reservation, resource)


def _carry_out(reservation: Reservation, resource: Resource | None) -> Decision:
    if reservation.command == "release":
        return EndHold(RELEASED, "released before it was captured")
    if resource is not None and resource.gateway is not None:
        return AskGateway(resource.gateway)
    return Capture(None)
