"""
A `teller worker` with a fault in a rule. It raises for redemptions of the account `poison`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from processor.domain.kinds import KINDS
from processor.domain.rules import redemptions
from teller.root import main

if TYPE_CHECKING:
    from datetime import datetime

    from processor.domain.decisions import Decision
    from processor.domain.model import Request, Resource

#: The account for which the rule raises.
POISON = "poison"


def decide(request: Request, resource: Resource | None, used: int, now: datetime) -> Decision:
    """Decide as the rule does, except for one account."""
    if request.account == POISON:
        raise RuntimeError("this rule has a fault")
    return redemptions.decide(request, resource, used, now)


if __name__ == "__main__":
    KINDS["redemption"] = replace(KINDS["redemption"], rule=decide)
    main()
