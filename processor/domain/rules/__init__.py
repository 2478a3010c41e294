"""
What Teller decides, one file for each kind of request.

Everything here is pure: no SQL, no clock (`now` is an argument), no imports but `processor.domain.model`.
A new kind of request is one file beside these, one line in `DECIDE`, and one route in `api/`.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from processor.domain.model import Decision, Request, Resource
from processor.domain.rules import amendments, closings, deposits, openings, redemptions, withdrawals

#: A rule: the request, the resource it is about (None when there is none), what the account has used of it
#: so far, and the time of the batch.
Rule = Callable[[Request, Resource | None, int, datetime], Decision]

DECIDE: Final[dict[str, Rule]] = {
    "redemption": redemptions.decide,
    "withdrawal": withdrawals.decide,
    "deposit": deposits.decide,
    "opening": openings.decide,
    "amendment": amendments.decide,
    "closing": closings.decide,
}
