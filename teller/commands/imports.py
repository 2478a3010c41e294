"""
`teller import`: many resources or deposits from a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Final, Self

import click

from processor.errors import DatabaseUnavailable, PartitionSaturated, TellerError
from processor.gateways.names import names as gateway_names
from processor.intake.intake import Submission, fingerprint
from processor.records import audit
from processor.visible import visible
from teller.imports.records import Record, read_records
from teller.printing import Command, Group, as_json, show
from teller.reach import operator, reached, temporary_intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from api.web.submission import SubmissionBody
    from processor.intake.intake import Intake

#: Requests that are sent at once.
SENT_AT_ONCE: Final = 1_000
#: The pause before requests are sent again while their partition has too many waiting, or PostgreSQL is unavailable.
RETRY_SECONDS: Final = 0.5
#: The time after which an unavailable PostgreSQL ends the command, in seconds.
UNAVAILABLE_SECONDS_MAX: Final = 30.0
#: Bytes that are copied at once.
_CHUNK_BYTES: Final = 1 << 20


class BadLines(TellerError):
    """Some lines of the file are no requests. Nothing was sent."""

    code = "bad_lines"


@click.group("import", cls=Group)
def import_() -> None:
    """
    Open many resources, or make many deposits, from a file.

    FILE is CSV with a header line, or JSON lines; `-` is standard input. Each line is one request, with the fields of
    POST /v1/resources or POST /v1/deposits. The whole file is checked first. If any line is bad, nothing is sent.

    The same file again continues where it stopped: a line of a file is one request for ever.
    """


_DRY_RUN: Final = click.option("--dry-run", is_flag=True, help="Only check the file.")
_FILE: Final = click.argument("file", metavar="FILE", type=click.File("rb"))


@import_.command(cls=Command)
@_FILE
@_DRY_RUN
def resources(file: IO[bytes], *, dry_run: bool) -> None:
    """
    Open the resources of FILE.
    """
    from api.v1.resources import Opening  # noqa: PLC0415 - only this command loads the models

    _run(file, Opening, "id", dry_run=dry_run)


@import_.command(cls=Command)
@_FILE
@_DRY_RUN
def deposits(file: IO[bytes], *, dry_run: bool) -> None:
    """
    Make the deposits of FILE.
    """
    from api.v1.deposits import Deposit  # noqa: PLC0415 - only this command loads the models

    _run(file, Deposit, None, dry_run=dry_run)


def _run(file: IO[bytes], model: type[SubmissionBody], unique: str | None, *, dry_run: bool) -> None:
    with reached() as (connection, settings), tempfile.TemporaryFile() as copy:
        digest = _copy(file, copy)
        reader = _Reader(copy, model, digest, gateway_names(settings))
        count = _check(reader, unique)
        kind = model.request_kind
        sent = replayed = 0
        if not dry_run and count:
            detail = {"kind": kind, "lines": count, "file": digest}
            audit.note(connection, operator().actor, "import", None, None, detail)
            with temporary_intake(connection, settings) as intake:
                sent, replayed = _send(reader, intake, count)
    document = {"kind": kind, "lines": count, "sent": sent, "repeated": replayed, "dry_run": dry_run}
    show(document, lambda: _summary(kind, count, replayed, dry_run=dry_run))


def _summary(kind: str, count: int, replayed: int, *, dry_run: bool) -> str:
    if dry_run:
        return f"{count:,} lines are good, and nothing was sent"
    before = f", {replayed:,} of them before" if replayed else ""
    return f"{count:,} requests of the kind {kind} are accepted{before}; they are decided in their turn"


def _copy(file: IO[bytes], copy: IO[bytes]) -> str:
    """Copy the file, so that both passes read the same, also of a pipe. Returns its SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        copy.write(chunk)
    return digest.hexdigest()


class _Reader:
    """The requests of a file. Each pass reads it from the beginning."""

    def __init__(
        self, copy: IO[bytes], model: type[SubmissionBody], digest: str, gateways: frozenset[str]
    ) -> None:
        self._copy = copy
        self._model = model
        self._digest = digest
        self._gateways = gateways
        self._caller = operator()
        schema = model.model_json_schema()
        self._types = {name: one.get("type", "string") for name, one in schema["properties"].items()}
        self._required = frozenset(schema["required"])
        copy.seek(0, 2)
        self.size = copy.tell()

    def position(self) -> int:
        """Return the number of bytes that were read."""
        return self._copy.tell()

    def records(self) -> Iterator[Record]:
        """Read all lines."""
        return read_records(self._copy, self._types, self._required)

    def submission(self, record: Record) -> Submission:
        """Return the request of a record. Raises TellerError with the problem of the line."""
        from api.web import parsing  # noqa: PLC0415 - as the models
        from api.web.problems import Invalid  # noqa: PLC0415
        from api.web.submission import Origin  # noqa: PLC0415

        if record.problem is not None:
            raise TellerError(record.problem)
        kind = self._model.request_kind
        try:
            # As a body of the API, so that what it refuses is refused here: NUL, depth, lone surrogates.
            document = parsing.parse_json(json.dumps(record.fields).encode())
            body = parsing.validate(self._model, document)
            body.check(self._gateways)
        except Invalid as refused:
            first = refused.errors[0]
            raise TellerError(
                f"{first['pointer'].removeprefix('/')}: {first['detail']}".lstrip(": ")
            ) from None
        key = f"import-{kind}-{self._digest[:32]}-{record.line}"
        return body.submission(Origin(self._caller, key, fingerprint(kind, document)))


def _check(reader: _Reader, unique: str | None) -> int:
    """
    Check all lines, and print one line for each that is bad. Returns the number of requests.

    Raises BadLines.
    """
    count = bad = 0
    with _Seen() as seen, _progress("checking", reader.size) as advance:
        for record in reader.records():
            try:
                reader.submission(record)
                if unique is not None:
                    before = seen.line_of(str(record.fields[unique]), record.line)
                    if before is not None:
                        raise TellerError(f"{unique}: is that of line {before}, too")
            except TellerError as problem:
                bad += 1
                _complain(record.line, str(problem))
            else:
                count += 1
            advance(reader.position())
    if bad:
        raise BadLines(f"{bad:,} bad {'line' if bad == 1 else 'lines'}: nothing was sent")
    return count


def _complain(line: int, problem: str) -> None:
    text = json.dumps({"line": line, "detail": problem}) if as_json() else visible(f"line {line}: {problem}")
    click.echo(text, err=True)


def _send(reader: _Reader, intake: Intake, count: int) -> tuple[int, int]:
    """Send all requests in order. Returns the numbers of those that were accepted now, and before."""
    sent = replayed = done = 0
    with _progress("sending", count) as advance:
        group: list[Submission] = []
        for number, record in enumerate(reader.records(), start=1):
            group.append(reader.submission(record))
            if len(group) == SENT_AT_ONCE or number == count:
                before = _send_group(intake, group)
                replayed += before
                sent += len(group) - before
                done += len(group)
                group = []
                advance(done)
    return sent, replayed


def _send_group(intake: Intake, group: list[Submission]) -> int:
    """
    Send requests until all are accepted. Returns how many were accepted before.

    Raises DatabaseUnavailable after UNAVAILABLE_SECONDS_MAX, and the problem of a request that intake refuses.
    """
    replayed = 0
    gives_up_at = time.monotonic() + UNAVAILABLE_SECONDS_MAX
    while group:
        try:
            receipts = intake.accept(group)
        except DatabaseUnavailable as fault:
            if time.monotonic() >= gives_up_at:
                raise DatabaseUnavailable(f"{fault}; run the command again to continue") from fault
            time.sleep(RETRY_SECONDS)
            continue
        gives_up_at = time.monotonic() + UNAVAILABLE_SECONDS_MAX
        waiting = []
        for submission, receipt in zip(group, receipts, strict=True):
            if isinstance(receipt.problem, PartitionSaturated):
                waiting.append(submission)
            else:
                receipt.record()
                replayed += receipt.replayed
        group = waiting
        if group:
            time.sleep(RETRY_SECONDS)
    return replayed


class _Seen:
    """The values of a field that were read so far, on disk."""

    def __enter__(self) -> Self:
        self._database = sqlite3.connect("")  # a temporary file
        self._database.execute("CREATE TABLE seen (value TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def line_of(self, value: str, line: int) -> int | None:
        """Return the line that has the value already. Otherwise note it, and return None."""
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (value, line)).rowcount
        if added:
            return None
        [(before,)] = self._database.execute("SELECT line FROM seen WHERE value = ?", (value,)).fetchall()
        return int(before)


@contextlib.contextmanager
def _progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, if it is a terminal. The function takes what is done so far."""
    if not sys.stderr.isatty() or as_json():
        yield lambda _: None
        return
    shown = 0
    with click.progressbar(length=max(1, length), label=label, file=sys.stderr) as bar:

        def advance(done: int) -> None:
            nonlocal shown
            if done - shown >= length // 200 or done >= length:
                bar.update(done - shown)
                shown = done

        yield advance
