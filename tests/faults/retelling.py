"""
Retells what happened to one resource, one thing after the other, and compares each with the model.

Decisions go in the order of their numbers; entries in the order of their versions. What a gateway's answer wrote
(capture, release) has no number: it is put where its version says. A "no" has no version: it must be right at some
point between the decisions before and after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.faults.model import MOVES, Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.history import Entry, Resource, Stored


class Violation(NamedTuple):
    """
    One thing that must never happen. `code`: what kind; `subject`: the request, resource or key it happened to.
    """

    code: str
    subject: str
    line: str

    def __str__(self) -> str:
        return f"{self.code} {self.subject}: {self.line}"


class Retelling:
    """The decisions and entries of one resource; iterate over what is wrong."""

    def __init__(
        self,
        name: str,
        decided: Sequence[Stored],
        entries: Sequence[Entry],
        resource: Resource | None,
        requests: dict[str, Stored],
    ) -> None:
        self._name = name
        self._decided = sorted(decided, key=lambda one: one.states[0].sequence)
        self._entries = sorted(entries, key=lambda entry: entry.version)
        self._resource = resource
        self._requests = requests
        self._model = Model(requests)
        self._position = 0
        #: The entry that each decision wrote, by the request; and whose decision each such entry was, by its version.
        self._written: dict[str, Entry] = {}
        self._decision_of: dict[int, str] = {}
        self._find_decisions()

    def __iter__(self) -> Iterator[Violation]:
        for asked in self._decided:
            if asked.parked_at_first:
                continue  # it took no part, and if it was decided later, its entry says when
            own = self._written.get(asked.id)
            if own is not None:
                yield from self._tell_entry(asked, own)
            elif asked.status != "cancelled":
                yield from self._tell_without_entry(asked)
        while self._position < len(self._entries):
            yield from self._post_next()
        yield from self._compare_with_resource()

    def _find_decisions(self) -> None:
        """Which entries are decisions in their turn; the others settle what was held, or were decided later."""
        released = {
            asked.refund_of: asked.id
            for asked in self._decided
            if asked.kind == "refund" and asked.status == "completed"
        }
        credited = {entry.request for entry in self._entries if entry.kind == "credit"}
        for entry in self._entries:
            asked = self._requests.get(entry.request)
            name = entry.request
            if (
                entry.kind == "release"
            ):  # a refund's decision, unless the refund gave back what was taken for good
                name = released.get(entry.request, "")
                if name in credited or not is_released_by_admin(asked):
                    continue
            elif entry.kind == "capture" or asked is None or asked.parked_at_first:
                continue
            if name and name not in self._written:
                self._written[name] = entry
                self._decision_of[entry.version] = name

    # ------------------------------------------------------------ one thing after the other

    def _tell_entry(self, asked: Stored, own: Entry) -> Iterator[Violation]:
        """A decision that wrote an entry: what comes before it in the ledger was before it."""
        if all(entry is not own for entry in self._entries[self._position :]):
            yield Violation(
                "order_broken",
                asked.id,
                f"its entry {self._name}/{own.version} is before that of an earlier number",
            )
            return
        while self._entries[self._position] is not own:
            yield from self._post_next()
        verdict = self._model.verdict(asked)
        if (verdict.entry, verdict.amount) != (own.kind, own.amount):
            expected = f"a {verdict.entry} of {verdict.amount}" if verdict.entry else verdict.code
            yield Violation(
                "decision_wrong",
                asked.id,
                f"a {own.kind} of {own.amount} of {self._name}, where one after the other gives {expected}",
            )
        if asked.status == "rejected":
            yield Violation("decision_wrong", asked.id, f"it was rejected, and wrote a {own.kind}")
        original = self._requests.get(asked.refund_of or "", asked)
        if own.account != (None if asked.kind in ("opening", "deposit") else original.account):
            yield Violation("entry_wrong", asked.id, f"its entry is in the name of {own.account}")
        yield from self._post_next()
        self._model.note(asked)

    def _tell_without_entry(self, asked: Stored) -> Iterator[Violation]:
        """A no, or a change of rules: right now, or after some of the settlements that come next."""
        first = asked.states[0]
        code = first.code if first.status == "rejected" else None
        verdicts = []
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
            yield from self._post_next()
        if code is None:
            self._model.note(asked)

    def _next_is_settlement(self) -> bool:
        if self._position >= len(self._entries):
            return False
        return self._entries[self._position].version not in self._decision_of

    def _post_next(self) -> Iterator[Violation]:
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
        if by.resource != self._name:
            yield Violation("entry_unexplained", subject, f"{by.id} asked for {by.resource}")
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
                yield Violation("resource_wrong", self._name, "it was opened and is not there")
            return
        stored = (resource.available, resource.held, resource.version)
        told = (model.available, model.held, model.version)
        if stored != told:
            yield Violation(
                "resource_wrong",
                self._name,
                f"available, held and version are {stored}; its entries say {told}",
            )


def is_released_by_admin(asked: Stored | None) -> bool:
    """Whether an admin refunded it."""
    return asked is not None and any(state.code == "refunded_by_admin" for state in asked.states)
