"""
A race against an endpoint: the call of each user, the condition of a success, the replies, and the verdict.

A 202 alone is no success: the endpoint has accepted the call and may still refuse it. Such a reply is undecided until
`following` has found its outcome.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The status of a call that was accepted, and may still be refused.
ACCEPTED: Final = 202
#: The part of an answer that is read, and the part that is kept.
BODY_BYTES_MAX: Final = 64 * 1024
BODY_CHARACTERS_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class Call:
    """
    The call of each user.

    `{n}` stands for the number of the user, from 1, and each `{uuid}` for a new UUID.
    """

    url: str
    method: str
    body: str | None
    headers: Mapping[str, str]

    def of(self, user: int) -> Call:
        """Return the call of one user."""

        def fill(text: str) -> str:
            text = text.replace("{n}", str(user))
            while "{uuid}" in text:
                text = text.replace("{uuid}", str(uuid.uuid4()), 1)
            return text

        body = None if self.body is None else fill(self.body)
        headers = {name: fill(value) for name, value in self.headers.items()}
        return Call(fill(self.url), self.method, body, headers)


@dataclass(frozen=True, slots=True)
class Success:
    """The condition of a successful call: one of these statuses and, if given, this text in the answer."""

    statuses: frozenset[int]
    text: str | None = None
    #: A race is more than this number of successful calls.
    expect: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one user. `ms` counts from the release."""

    user: int
    ms: float
    status: int | None = None
    succeeded: bool = False
    #: The beginning of the answer.
    body: str = ""
    error: str | None = None
    #: Whether the call was accepted with a 202, and its outcome is not known.
    undecided: bool = False
    #: Whether it is undecided because the time was up.
    is_late: bool = False
    #: The header Location of the answer.
    location: str | None = None
    #: The answer from Location that gave the outcome, or the last one before the time was up.
    followed_status: int | None = None
    followed_body: str = ""

    def document(self) -> dict[str, Any]:
        """Return the JSON of this reply."""
        return {
            "user": self.user,
            "status": self.status,
            "ms": round(self.ms, 3),
            "succeeded": self.succeeded,
            "error": self.error,
            "body": self.body,
            "undecided": self.undecided,
            "followed_status": self.followed_status,
            "followed_body": self.followed_body,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """All answers, and the conclusion."""

    replies: list[Reply]
    expect: int

    @property
    def succeeded(self) -> int:
        """Return the number of successful calls."""
        return sum(reply.succeeded for reply in self.replies)

    @property
    def race(self) -> bool:
        """Return whether more calls succeeded than expected."""
        return self.succeeded > self.expect

    @property
    def undecided(self) -> int:
        """Return the number of calls that were accepted, and whose outcome is not known."""
        return sum(reply.undecided for reply in self.replies)

    @property
    def is_open(self) -> bool:
        """Return whether the undecided calls could make a race."""
        return not self.race and self.succeeded + self.undecided > self.expect

    @property
    def is_late(self) -> bool:
        """Return whether the undecided calls could make a race, and a longer wait could decide them."""
        return self.is_open and any(reply.is_late for reply in self.replies)

    @property
    def unanswered(self) -> int:
        """Return the number of calls without an answer."""
        return sum(reply.status is None for reply in self.replies)

    def words(self) -> str:
        """Return the verdict in one line."""
        expected = f"{self.expect} {'was' if self.expect == 1 else 'were'} expected"
        if self.race:
            return f"RACE: {self.succeeded} of {len(self.replies)} succeeded where {expected}"
        if self.is_open:
            why = next(reply.error for reply in self.replies if reply.undecided)
            return (
                f"undecided: {self.succeeded} of {len(self.replies)} succeeded where {expected}, and "
                f"{self.undecided} were only accepted (202), as {why}. "
                "--accept-text names the text of a success in the answer, or at the address in its Location"
            )
        if not self.succeeded and self.expect:
            return f"no race seen, but none of {len(self.replies)} succeeded either: this says little"
        lost = f"; {self.unanswered} got no answer" if self.unanswered else ""
        return f"no race: {self.succeeded} of {len(self.replies)} succeeded, {expected} at the most{lost}"

    def document(self) -> dict[str, Any]:
        """Return the JSON of the verdict."""
        return {
            "users": len(self.replies),
            "succeeded": self.succeeded,
            "expect": self.expect,
            "race": self.race,
            "undecided": self.undecided,
            "verdict": self.words(),
            "results": [reply.document() for reply in self.replies],
        }
