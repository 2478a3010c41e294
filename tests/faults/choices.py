"""
The requests of the load of a run, chosen at random, and the resources that they are about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random

SHOP, CASH, SAND, LIMITED, SCARCE, TRADE = "shop", "cash", "sand", "limited", "scarce", "trade"
#: The resources that exchanges are about, in as many partitions: one of them with a limit for each account.
TRADES: Final = tuple(f"{TRADE}-{number}" for number in range(12))
#: The longest time for which a reservation of the load is held, in seconds.
TTL_SECONDS_MAX: Final = 3
#: The resources of a run: kind, first quantity, and rules.
RESOURCES: Final[dict[str, tuple[str, int, dict[str, Any]]]] = {
    f"{SHOP}-1": ("stock", 10**9, {}),
    f"{SHOP}-2": ("stock", 10**9, {}),
    f"{CASH}-1": ("balance", 10**6, {"gateway": "bank"}),
    f"{CASH}-2": ("pool", 2_000, {"gateway": "bank", "overdraft": 500}),
    f"{SAND}-1": ("balance", 10**6, {"gateway": "sandbox"}),
    f"{LIMITED}-1": ("points", 10**6, {"per_account_limit": 20}),
    f"{SCARCE}-1": ("coupon", 5, {}),
    f"{SCARCE}-2": ("balance", 5, {}),
    **{
        name: (
            ("stock", "points", "seat")[number % 3],
            60,
            {"per_account_limit": 500} if number == 5 else {},
        )
        for number, name in enumerate(TRADES)
    },
}


def choose(chance: random.Random) -> tuple[str, dict[str, Any]]:
    """Return a kind of request and its body."""
    if chance.random() < 0.25:
        return "exchange", exchange(chance)
    resource = chance.choice(
        [name for name in RESOURCES if not name.startswith(TRADE)] + chance.sample(TRADES, 3)
    )
    account = f"u{chance.randrange(12)}"
    body: dict[str, Any] = {"resource": resource, "account": account, "amount": chance.randint(1, 3)}
    if chance.random() < 0.02:
        body["resource"] = "nothing"
    if RESOURCES[resource][0] not in ("balance", "pool"):
        return "redemption", body
    if resource.startswith(SAND):
        # Few of them never get an answer, because their breaker would delay all others.
        [body["destination"]] = chance.choices(["ok", "decline", "flaky", "unavailable"], [60, 15, 15, 1])
    return "withdrawal", body


def exchange(chance: random.Random) -> dict[str, Any]:
    """Return an exchange: mostly of two legs, and of up to ten, in all directions."""
    count = chance.choice([2, 2, 2, 3, 4, 10])
    account = f"u{chance.randrange(12)}"
    amount = chance.randint(1, 9)
    legs: list[dict[str, Any]] = [{"resource": name} for name in chance.sample(TRADES, count)]
    for place, leg in enumerate(legs):
        leg["take" if (place + amount) % 2 else "give"] = amount
    if chance.random() < 0.03:  # a resource with a gateway, or none
        legs[-1]["resource"] = chance.choice([f"{CASH}-1", "nothing"])
    return {"account": account, "legs": legs}
