"""
Executes the history of one resource sequentially, and compares each step with the model.

Decisions follow their numbers, and entries follow their versions. A capture or release after a gateway's
answer has no number, so its version gives its place. The same holds for a leg of a request of another partition. A
refusal has no version. It must be right at some point between the decisions before and after it. A refused request
with legs must be right for each leg up to the refused one, in some state of the resource at that time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.model import MOVES, Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.history import Entry, Resource, Stored


class Violation(NamedTuple):
    """
    One breach of a promise.

    `code` is its kind, and `subject` the request, resource or key.
    """

    code: str
    subject: str
    line: str

    def __str__(self) -> str:
        return f"{self.code} {self.subject}: {self.line}"


class LedgerWalk:
    """The decisions and entries of one resource. Iterating yields the violations."""

    def __init__(
        self,
        name: str,
        decided: Sequence[Stored],
        entries: Sequence[Entry],
        resource: Resource | None,
        requests: dict[str, Stored],
        home: int | None = None,
    ) -> None:
        self._name = name
        numbered = (one for one in decided if _is_numbered(one, home))
        self._decided = sorted(numbered, key=lambda one: one.states[0].sequence)
        self._entries = sorted(entries, key=lambda entry: entry.version)
        self._resource = resource
        self._requests = requests
        self._model = Model(requests, name)
        self._position = 0
        #: The time of the last step, in microseconds.
        self._stepped_us = 0
        self._refusals = Refusals(name, decided)
        #: The entry of each decision by request, and the decision of each such entry by version.
        self._written: dict[str, Entry] = {}
        self._decision_of: dict[int, str] = {}
        self._find_decisions()

    def __iter__(self) -> Iterator[Violation]:
        for asked in self._decided:
            if asked.failed_at_first:
                continue  # it took no part; if it was decided later, its entry has the place
            own = self._written.get(asked.id)
            if own is not None:
                yield from self._check_entry(asked, own)
            elif asked.status != "cancelled":
                yield from self._check_without_entry(asked)
        while self._position < len(self._entries):
            yield from self._apply_next()
        self._refusals.judge(self._model, self._stepped_us, None)
        yield from self._refusals
        yield from self._compare_with_resource()

    def _find_decisions(self) -> None:
        """Find the entries that decide in turn. The others settle a hold, or were decided later."""
        released = {
            asked.refund_of: asked.id
            for asked in self._decided
            if asked.kind == "refund" and asked.status == "completed"
        }
        numbered = {asked.id for asked in self._decided}
        credited = {entry.request for entry in self._entries if entry.kind == "credit"}
        for entry in self._entries:
            asked = self._requests.get(entry.request)
            name = entry.request
            if entry.kind == "release":  # by a refund, unless this gave back what was taken for good
                name = released.get(entry.request, "")
                if name in credited or not is_released_by_admin(asked):
                    continue
            elif entry.kind == "capture" or name not in numbered or self._requests[name].failed_at_first:
                continue
            if name and name not in self._written:
                self._written[name] = entry
                self._decision_of[entry.version] = name

    # ------------------------------------------------------------ one step after the other

    def _check_entry(self, asked: Stored, own: Entry) -> Iterator[Violation]:
        """Check a decision with an entry. All earlier entries of the ledger come before it."""
        if all(entry is not own for entry in self._entries[self._position :]):
            yield Violation(
                "order_broken",
                asked.id,
                f"its entry {self._name}/{own.version} is before that of an earlier number",
            )
            return
        while self._entries[self._position] is not own:
            yield from self._apply_next()
        if not asked.legs:
            yield from self._judge(asked, own)
        if asked.status == "rejected":
            yield Violation("decision_wrong", asked.id, f"it was rejected, and wrote a {own.kind}")
        original = self._requests.get(asked.refund_of or "", asked)
        if own.account != (None if asked.kind in ("opening", "deposit") else original.account):
            yield Violation("entry_wrong", asked.id, f"its entry is in the name of {own.account}")
        yield from self._apply_next()
        self._model.note(asked)

    def _judge(self, asked: Stored, own: Entry) -> Iterator[Violation]:
        """Compare the entry that comes next with the one that the model requires."""
        verdict = self._model.verdict(asked)
        if (verdict.entry, verdict.amount) != (own.kind, own.amount):
            expected = f"a {verdict.entry} of {verdict.amount}" if verdict.entry else verdict.code
            yield Violation(
                "decision_wrong",
                asked.id,
                f"a {own.kind} of {own.amount} of {self._name}, where the sequence requires {expected}",
            )

    def _check_without_entry(self, asked: Stored) -> Iterator[Violation]:
        """Check a refusal or a change of rules, at once or after some of the next settlements."""
        first = asked.states[0]
        code = first.code if first.status == "rejected" else None
        verdicts = []
        while self._next_is_settlement() and self._entries[self._position].at_us < first.decided_us:
            yield from self._apply_next()
        while True:
            verdict = self._model.verdict(asked)
            if verdict.entry is None and verdict.code == code:
                break
            if code is not None and verdict.also == code:
                break
            verdicts.append(verdict)
            if not self._next_is_settlement():
                given = ", ".join(
                    sorted({one.code or (f"a {one.entry}" if one.entry else "completed") for one in verdicts})
                )
                yield Violation(
                    "decision_wrong",
                    asked.id,
                    f"{code or asked.status} without an entry of {self._name}, where it must give {given}",
                )
                break
            yield from self._apply_next()
        if code is None:
            self._refusals.judge(self._model, self._stepped_us, first.decided_us)
            self._stepped_us = max(self._stepped_us, first.decided_us)
            self._model.note(asked)

    def _next_is_settlement(self) -> bool:
        if self._position >= len(self._entries):
            return False
        return self._entries[self._position].version not in self._decision_of

    def _apply_next(self) -> Iterator[Violation]:
        entry, model = self._entries[self._position], self._model
        self._position += 1
        subject = f"{self._name}/{entry.version}"
        if entry.version != model.version + 1:
            yield Violation("version_gap", subject, f"it follows version {model.version}")
            model.version = entry.version - 1
        if entry.kind not in MOVES or entry.amount < 1 or entry.request not in self._requests:
            yield Violation(
                "entry_unexplained", subject, f"a {entry.kind} of {entry.amount} by {entry.request}"
            )
            return
        by = self._requests[entry.request]
        if self._name not in by.resources:
            yield Violation("entry_unexplained", subject, f"{by.id} asked for {', '.join(by.resources)}")
        elif by.legs and entry.kind in ("debit", "credit"):
            yield from self._judge(by, entry)
        self._refusals.judge(model, self._stepped_us, entry.at_us)
        self._stepped_us = max(self._stepped_us, entry.at_us)
        if entry.at_us < model.last_us:
            yield Violation("time_backwards", subject, "it is older than the entry before it")
        before = model.available, model.held
        model.post(entry)
        if (entry.available, entry.held) != (model.available, model.held):
            yield Violation(
                "sum_wrong",
                subject,
                f"a {entry.kind} of {entry.amount} after {before} leaves {(entry.available, entry.held)}",
            )
            model.available, model.held = entry.available, entry.held
        if model.held < 0 or model.available < -model.rules.get("overdraft", 0):
            yield Violation("sum_wrong", subject, f"{model.available} available and {model.held} held")

    def _compare_with_resource(self) -> Iterator[Violation]:
        model, resource = self._model, self._resource
        if resource is None:
            if model.is_open or self._entries:
                yield Violation("resource_wrong", self._name, "it was opened and does not exist")
            return
        stored = (resource.available, resource.held, resource.version)
        walked = (model.available, model.held, model.version)
        if stored != walked:
            yield Violation(
                "resource_wrong",
                self._name,
                f"available, held and version are {stored}; its entries give {walked}",
            )


def _is_numbered(asked: Stored, home: int | None) -> bool:
    """Return whether the number of a decision gives its place in this resource's history."""
    return not asked.legs or (asked.partition == home and asked.states[0].status == "completed")


class Refusals:
    """The refused requests with legs of one resource. Iterating yields those that no state of it can explain."""

    def __init__(self, name: str, decided: Sequence[Stored]) -> None:
        self._name = name
        self._open = sorted(
            ((one.states[0].decided_us, one) for one in decided if _depends_on(one, name)),
            key=itemgetter(0),
        )
        self._times = [at for at, _ in self._open]
        self._explained: set[str] = set()

    def judge(self, model: Model, since_us: int, until_us: int | None) -> None:
        """Compare with the model the refusals of the time in which the resource was in this state."""
        first = bisect_left(self._times, since_us)
        last = len(self._times) if until_us is None else bisect_right(self._times, until_us)
        for _, asked in self._open[first:last]:
            if asked.id not in self._explained and model.verdict(asked).code == _code_of(asked, self._name):
                self._explained.add(asked.id)

    def __iter__(self) -> Iterator[Violation]:
        for _, asked in self._open:
            if asked.id not in self._explained:
                code = _code_of(asked, self._name) or "no refusal by this leg"
                yield Violation("decision_wrong", asked.id, f"{code} of {self._name}, which was never right")


def _depends_on(asked: Stored, name: str) -> bool:
    """Return whether a refusal was decided by the leg of this resource or by one after it."""
    first = asked.states[0]
    return (
        bool(asked.legs)
        and first.status == "rejected"
        and first.leg is not None
        and asked.resources.index(name) <= first.leg
    )


def _code_of(asked: Stored, name: str) -> str | None:
    """Return the code with which this leg was refused, or None if a later one was."""
    first = asked.states[0]
    return first.code if asked.resources.index(name) == first.leg else None


def is_released_by_admin(asked: Stored | None) -> bool:
    """Return whether an admin refunded the request."""
    return asked is not None and any(state.code == "refunded_by_admin" for state in asked.states)
