"""
The kinds of requests, each described once.

No other code has a list of kinds: the batch, the API, the console and the command line read KINDS.
Constraints and statements of `verify` read the table `request_kinds` of schema.sql, which repeats some fields. A test
compares the two.
`docs/adding-a-kind.md` adds a kind step by step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from processor.domain.decisions import Decision
from processor.domain.model import Request, Resource
from processor.domain.roles import ADMINS, CLIENTS, OPERATORS
from processor.domain.rules import (
    amendments,
    closings,
    deposits,
    exchanges,
    openings,
    redemptions,
    reservations,
    withdrawals,
)

#: Decides a request. The arguments after it are its resource, if there is one, and the quantity of the resource that
#: its account has used so far. Without an account, this is the most that any account has used. The last argument is
#: the time of the batch.
Rule = Callable[[Request, Resource | None, int, datetime], Decision]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request."""

    #: None for a kind that no route makes yet, and for refunds: `rules.refunds` needs the original request, too.
    rule: Rule | None
    #: The roles whose keys may make such a request.
    roles: frozenset[str]

    # Effect on the resource. A kind without any of these moves nothing. The rule has the effect, and a test compares
    # it with these fields. Statements read `takes` from `request_kinds`; in Python, only texts read it.
    #: Debits the resource, or holds and then captures, the amount that its account takes. `rules.waiting` guards
    #: every such decision: above `confirm_above` it waits for a code, and above `approve_above` for an approval.
    takes: bool = False
    #: Only holds the amount, until a capture takes it for good or it is given back.
    reserves: bool = False
    #: Credits the resource with its amount.
    gives: bool = False
    #: Gives back what another request took: the original, which it must name.
    gives_back: bool = False
    #: Creates the resource, changes its rules, or closes it. The index `requests_of_rules` has the first two.
    opens: bool = False
    amends: bool = False
    closes: bool = False

    # Required fields. PostgreSQL refuses a request without them, and a test compares them with the bodies of the API.
    # Legs are in place of the amount.
    requires_account: bool = False
    #: None: no amount is required.
    least_amount: int | None = None
    #: Has several resources, its legs, in place of one resource and an amount. Each takes or gives.
    requires_legs: bool = False
    #: Decides a leg that takes: the kind may have legs. It gets the request as if it had this leg alone.
    leg_rule: Rule | None = None
    #: Decides a leg that gives, in the same way. None: no leg may give.
    give_rule: Rule | None = None

    # Later steps.
    #: Only holds while the gateway of its resource is called. Its rule makes the hold, and `verify` expects it.
    asks_gateway: bool = False
    #: A refund can give back what it took.
    refundable: bool = False

    #: May be an item of `POST /v1/batches`.
    in_batches: bool = False


KINDS: Final[dict[str, Kind]] = {
    "redemption": Kind(
        redemptions.decide,
        CLIENTS,
        takes=True,
        requires_account=True,
        least_amount=1,
        asks_gateway=True,
        refundable=True,
        in_batches=True,
    ),
    "withdrawal": Kind(
        withdrawals.decide,
        CLIENTS,
        takes=True,
        requires_account=True,
        least_amount=1,
        asks_gateway=True,
        refundable=True,
        in_batches=True,
    ),
    "deposit": Kind(deposits.decide, OPERATORS, gives=True, least_amount=1, in_batches=True),
    "exchange": Kind(
        exchanges.take,
        CLIENTS,
        requires_account=True,
        requires_legs=True,
        leg_rule=exchanges.take,
        give_rule=exchanges.give,
        refundable=True,
        in_batches=True,
    ),
    "reservation": Kind(
        reservations.decide,
        CLIENTS,
        takes=True,
        reserves=True,
        requires_account=True,
        least_amount=1,
        leg_rule=reservations.decide_leg,
        refundable=True,
        in_batches=True,
    ),
    "refund": Kind(None, ADMINS, gives_back=True),
    "opening": Kind(openings.decide, ADMINS, gives=True, opens=True, least_amount=0, in_batches=True),
    "amendment": Kind(amendments.decide, ADMINS, amends=True),
    "closing": Kind(closings.decide, ADMINS, closes=True),
}
