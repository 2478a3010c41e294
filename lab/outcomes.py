"""
The outcome of a race: the steps of each user on one clock, the approvals, the rest of the stock, and the verdict.

Pure. Times are milliseconds since the release of all users.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: read     read the quantity from the database
#: check    compare it with the piece that is asked for
#: write    take a piece and store the approval
#: commit   commit the transaction
#: wait     wait for a lock
#: pause    do nothing while holding a lock
#: accept   wait for the 202
#: queue    wait for the decision
StepName = Literal["read", "check", "write", "commit", "wait", "pause", "accept", "queue"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a user, with its times."""

    name: StepName
    start_ms: float
    end_ms: float


@dataclass(slots=True)
class UserResult:
    """The result of one user, and its steps."""

    user: int
    approved: bool = False
    #: The quantity that it read. None if its strategy does not read.
    seen: int | None = None
    steps: list[Step] = field(default_factory=list)
    #: The code of the refusal, if there is one.
    code: str | None = None
    #: The fault, if it was neither approved nor refused.
    error: str | None = None
    #: In Teller's queue, the number of the decision within its partition.
    sequence: int | None = None

    def step(self, name: StepName) -> Step | None:
        """Return the first step of that name, or None."""
        return next((step for step in self.steps if step.name == name), None)

    def document(self) -> dict[str, Any]:
        """Return the JSON of this result."""
        return {
            "user": self.user,
            "approved": self.approved,
            "seen": self.seen,
            "code": self.code,
            "error": self.error,
            "sequence": self.sequence,
            "steps": [
                {"step": step.name, "start_ms": round(step.start_ms, 3), "end_ms": round(step.end_ms, 3)}
                for step in self.steps
            ],
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> UserResult:
        """Return the result from the JSON of `document`."""
        fields = {name: document[name] for name in ("user", "approved", "seen", "code", "error", "sequence")}
        steps = [Step(step["step"], step["start_ms"], step["end_ms"]) for step in document["steps"]]
        return cls(**fields, steps=steps)


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of a race: these users read the same quantity, and each took a piece of it."""

    value: int
    #: In the order of their reads.
    readers: list[int]
    #: The first commit of them. All of them had read before it.
    written_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One race. `approved` and `final` are read from the database, not from the users' answers."""

    strategy: str
    stock: int
    approved: int
    final: int
    results: list[UserResult]

    @property
    def users(self) -> int:
        """Return the number of users."""
        return len(self.results)

    @property
    def race(self) -> bool:
        """Return whether more pieces were approved than there were, or the rest of the stock is wrong."""
        return self.approved > self.stock or self.final != self.stock - self.approved

    @property
    def failed(self) -> int:
        """Return the number of users without an answer."""
        return sum(result.error is not None for result in self.results)

    @property
    def duration_ms(self) -> float:
        """Return the time from the release to the end of the last step."""
        return max((step.end_ms for result in self.results for step in result.steps), default=0.0)

    def moment(self) -> Moment | None:
        """Return the moment of the race, or None if there was no race or no user read the quantity."""
        readers: dict[int, list[tuple[float, int]]] = {}
        written: dict[int, float] = {}
        for result in self.results:
            read, commit = result.step("read"), result.step("commit")
            if result.approved and result.seen is not None and read and commit:
                readers.setdefault(result.seen, []).append((read.end_ms, result.user))
                written[result.seen] = min(commit.end_ms, written.get(result.seen, commit.end_ms))
        value = max(readers, key=lambda seen: (len(readers[seen]), seen), default=None)
        if not self.race or value is None or len(readers[value]) == 1:
            return None
        return Moment(value, [user for _, user in sorted(readers[value])], written[value])

    def verdict(self) -> str:
        """Return the verdict in one line, without a full stop."""
        if self.approved > self.stock:
            return (
                f"RACE: {self.approved} approved, there {'was' if self.stock == 1 else 'were'} {self.stock}"
            )
        if self.race:
            return f"RACE: {self.approved} approved of {self.stock}, yet {self.final} left"
        lost = f", {self.failed} got no answer" if self.failed else ""
        return f"holds: {self.approved} approved, {self.final} left{lost}"

    def document(self) -> dict[str, Any]:
        """Return the JSON of this outcome."""
        return {
            "strategy": self.strategy,
            "users": self.users,
            "stock": self.stock,
            "approved": self.approved,
            "final": self.final,
            "race": self.race,
            "verdict": self.verdict(),
            "duration_ms": round(self.duration_ms, 3),
            "results": [result.document() for result in self.results],
        }

    @classmethod
    def read(cls, document: dict[str, Any]) -> Outcome:
        """Return the outcome from the JSON of `document`."""
        results = [UserResult.read(result) for result in document["results"]]
        fields = {name: document[name] for name in ("strategy", "stock", "approved", "final")}
        return cls(**fields, results=results)
