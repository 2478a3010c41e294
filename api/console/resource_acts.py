"""
Open, top up, change and close a resource. Each is a request like any other, and is decided in its turn.

Forms carry an idempotency key that their page made, so a form that is sent twice makes one request. The audit has the
reason, and the resource shows the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator, Field

from api.console.fields import ReasonForm, read_digits
from api.console.pages import ROOT, Notice, Page, Pages, Redirect, Visit
from api.console.requests import await_decision
from api.web.fields import Id, Text, optional
from api.web.problems import Invalid, NotFound
from processor.domain.amounts import DECIMALS_MAX, Unit, read_amount
from processor.domain.kinds import KINDS
from processor.domain.model import MAX_QUANTITY, ResourceKind
from processor.ids import new_id
from processor.intake.intake import Submission, fingerprint
from processor.reading import requests
from processor.records.audit import AuditLine

if TYPE_CHECKING:
    from processor.records.documents import ResourceRecord

#: The rules that the forms set, each an amount. An empty field is no rule.
LIMITS: Final = ("per_account_limit", "confirm_above", "approve_above")

pages = Pages("resources")


class ActForm(ReasonForm):
    """An act and its reason, with the key that the page made."""

    key: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]


class TopUpForm(ActForm):
    """An amount as people write it."""

    amount: str


class RulesForm(ActForm):
    """The rules of a resource. Amounts are as people write them."""

    per_account_limit: str | None = optional()
    confirm_above: str | None = optional()
    approve_above: str | None = optional()


class OpeningForm(RulesForm):
    """A new resource."""

    id: Id
    kind: ResourceKind
    unit: Text | None = optional()
    decimals: Annotated[
        int, BeforeValidator(lambda value: read_digits(value, 1)), Field(ge=0, le=DECIMALS_MAX)
    ] = 0
    available: str
    gateway: Text | None = optional()


@pages.get("/resources-new", roles=KINDS["opening"].roles)
def new_resource(visit: Visit) -> Page:
    """
    Show the form for a new resource.
    """
    context = {"key": new_id(), "gateways": sorted(visit.services.gateways), "decimals_max": DECIMALS_MAX}
    return Page("resource_new.html", context)


@pages.post("/resources-new", roles=KINDS["opening"].roles)
def open_resource(visit: Visit) -> Redirect:
    """
    Open a resource.
    """
    form = visit.read(OpeningForm)
    if form.gateway is not None and form.gateway not in visit.services.gateways:
        raise Invalid.at("/gateway", "is not the name of a configured gateway")
    unit = Unit(form.unit, form.decimals)
    details: dict[str, Any] = {"kind": form.kind} | _limits(form, unit)
    details |= {"unit": form.unit} if form.unit else {}
    details |= {"decimals": form.decimals} if form.decimals else {}
    details |= {"gateway": form.gateway} if form.gateway else {}
    available = _amount("available", form.available, unit, least=0)
    return _make(visit, "opening", form.id, form, available, details)


@pages.post("/resources/<resource>/deposit", roles=KINDS["deposit"].roles)
def top_up(visit: Visit, resource: str) -> Redirect:
    """
    Put more into a resource.
    """
    form = visit.read(TopUpForm)
    found = _read(visit, resource)
    return _make(
        visit, "deposit", found.id, form, _amount("amount", form.amount, found.written_unit, least=1)
    )


@pages.post("/resources/<resource>/amend", roles=KINDS["amendment"].roles)
def amend(visit: Visit, resource: str) -> Redirect:
    """
    Change the limits of a resource. Only those that differ are part of the request.
    """
    form = visit.read(RulesForm)
    found = _read(visit, resource)
    wanted = dict.fromkeys(LIMITS) | _limits(form, found.written_unit)
    changed = {name: value for name, value in wanted.items() if value != getattr(found, name)}
    if not changed:
        return Redirect(
            _address(found.id), Notice("These are the rules already. Nothing was done.", "failed")
        )
    return _make(visit, "amendment", found.id, form, None, changed)


@pages.post("/resources/<resource>/close", roles=KINDS["closing"].roles)
def close(visit: Visit, resource: str) -> Redirect:
    """
    Close a resource.
    """
    form = visit.read(ActForm)
    return _make(visit, "closing", _read(visit, resource).id, form)


def _make(
    visit: Visit,
    kind: str,
    resource: str,
    form: ActForm,
    amount: int | None = None,
    details: dict[str, Any] | None = None,
) -> Redirect:
    """
    Make the request with its audit line, and wait for its decision.
    """
    by = visit.caller
    sent = {"resource": resource, "amount": amount, "details": details, "reason": form.reason}
    audit = AuditLine(
        by.actor, kind, None, form.reason, {"resource": resource} | ({"amount": amount} if amount else {})
    )
    submission = Submission(
        by.client,
        by.key_id,
        f"console-{form.key}",
        fingerprint(kind, sent),
        kind,
        resource,
        None,
        amount,
        details=details,
        audit=audit,
    )
    [receipt] = visit.services.accept([submission])
    made = receipt.record()
    await_decision(visit, made.id)
    state = visit.services.request(made.id)
    if state.status == "rejected":
        text = f"The {kind} was rejected: {(state.code or '').replace('_', ' ')}."
        return Redirect(f"{ROOT}/requests/{made.id}", Notice(text, "failed"))
    if state.status == "completed":
        return Redirect(_address(resource), Notice(f"The {kind} is completed."))
    return Redirect(
        f"{ROOT}/requests/{made.id}", Notice(f"The {kind} is accepted, and is decided in its turn.")
    )


def _address(resource: str) -> str:
    return f"{ROOT}/resources/{resource}"


def _read(visit: Visit, resource: str) -> ResourceRecord:
    with visit.services.connection() as connection:
        found = requests.read_resource(connection, resource, None)
    if found is None:
        raise NotFound("there is no such resource")
    return found


def _limits(form: RulesForm, unit: Unit) -> dict[str, int]:
    written = {name: getattr(form, name) for name in LIMITS}
    return {
        name: _amount(name, value, unit, least=1 if name == "per_account_limit" else 0)
        for name, value in written.items()
        if value is not None
    }


def _amount(field: str, text: str, unit: Unit, least: int) -> int:
    """
    Return an amount that a person wrote. Raises Invalid.
    """
    found = read_amount(text, unit.decimals)
    if found is None or not least <= found <= MAX_QUANTITY:
        raise Invalid.at(f"/{field}", f"{field.replace('_', ' ')} must be an amount, such as 250 or 250.00")
    return found
