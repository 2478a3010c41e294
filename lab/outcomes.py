"""
What came of a race: each user's steps on one clock, how many were approved, what is left, and the verdict.

Pure. Times are milliseconds since the instant at which all users were let go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: read: asks the database how many there are. check: looks whether that is enough. write: takes one and notes the
#: approval. commit: makes it so. wait: for a lock. pause: does nothing, holding a lock. accept: is told 202. queue:
#: waits for its turn.
StepName = Literal["read", "check", "write", "commit", "wait", "pause", "accept", "queue"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a user did, and when."""

    name: StepName
    start_ms: float
    end_ms: float


@dataclass(slots=True)
class UserResult:
    """What one user got, and its way there."""

    user: int
    approved: bool = False
    #: The quantity that it read; None where it did not look for itself.
    seen: int | None = None
    steps: list[Step] = field(default_factory=list)
    #: Why it was refused, where that has a name.
    code: str | None = None
    #: What went wrong, if it was neither approved nor refused.
    error: str | None = None
    #: The number of the decision within its partition, in Teller's queue.
    sequence: int | None = None

    def step(self, name: StepName) -> Step | None:
        """The first step of that name."""
        return next((step for step in self.steps if step.name == name), None)

    def document(self) -> dict[str, Any]:
        """For programs."""
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
        """What `document` made."""
        fields = {name: document[name] for name in ("user", "approved", "seen", "code", "error", "sequence")}
        steps = [Step(step["step"], step["start_ms"], step["end_ms"]) for step in document["steps"]]
        return cls(**fields, steps=steps)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a race was lost: these users read the same quantity, and each took from it."""

    value: int
    #: In the order in which they had read.
    readers: list[int]
    #: When the first of them had written: whoever read the same, did so before.
    written_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One race. `approved` and `final` are what the database says, not what the users were told."""

    strategy: str
    stock: int
    approved: int
    final: int
    results: list[UserResult]

    @property
    def users(self) -> int:
        """How many took part."""
        return len(self.results)

    @property
    def race(self) -> bool:
        """More were approved than there were, or what is left is not what was not taken."""
        return self.approved > self.stock or self.final != self.stock - self.approved

    @property
    def failed(self) -> int:
        """How many got no answer."""
        return sum(result.error is not None for result in self.results)

    @property
    def duration_ms(self) -> float:
        """From the instant at which all were let go to the end of the last step."""
        return max((step.end_ms for result in self.results for step in result.steps), default=0.0)

    def moment(self) -> Moment | None:
        """The moment of the race; None when there was none, or nobody read for himself."""
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
        """In words, one line without a full stop."""
        if self.approved > self.stock:
            return (
                f"RACE: {self.approved} approved, there {'was' if self.stock == 1 else 'were'} {self.stock}"
            )
        if self.race:
            return f"RACE: {self.approved} approved of {self.stock}, yet {self.final} left"
        lost = f", {self.failed} got no answer" if self.failed else ""
        return f"holds: {self.approved} approved, {self.final} left{lost}"

    def document(self) -> dict[str, Any]:
        """As the contract has it, and the verdict."""
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
        """What `document` made."""
        results = [UserResult.read(result) for result in document["results"]]
        fields = {name: document[name] for name in ("strategy", "stock", "approved", "final")}
        return cls(**fields, results=results)
