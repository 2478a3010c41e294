"""
Pages as data: what the console offers at which address, who may, and what a view gets and gives.

As in `api/web/routing`, but for people: a view gets a Visit and returns a Page or a Redirect. It raises
a TellerError, which becomes a page. A part of a page that is fetched anew while it is looked at is the
same page again, of which htmx takes the part it wants: each address has one representation, with scripts or without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic import BaseModel

from api.console.bulk_runner import Runner
from api.console.rates import Rates
from api.web import parsing
from api.web.fields import NoQuery
from api.web.problems import Invalid
from processor.domain.roles import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from api.services import Services
    from processor.clients.keys import Caller
    from processor.clients.sessions import Session

#: Where the console is.
ROOT: Final = "/admin"
#: Pages that anybody may see.
PUBLIC: Final[frozenset[str]] = frozenset()

_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")
_INSIDE = re.compile(rf"{ROOT}(?:[/?#]|$)")

Method = Literal["GET", "POST"]
NoticeKind = Literal["done", "failed"]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Notice:
    """What came of a form: shown once, on the next page."""

    text: str
    kind: NoticeKind = "done"


@dataclass(frozen=True, slots=True)
class Memory:
    """What the pages of this process remember between visits; it may be lost at any time."""

    rates: Rates = field(default_factory=Rates)
    #: Does what was begun to many requests at once.
    runner: Runner = field(default_factory=Runner)


@dataclass(slots=True)
class Visit:
    """Somebody asks for a page, or sends a form; checked as its route says."""

    services: Services
    #: What the pages of this process remember between visits.
    memory: Memory
    environ: dict[str, Any]
    route: PageRoute
    #: None on public pages, for whoever is not signed in.
    session: Session | None
    #: Goes into each form, as its field `csrf`; empty without a session.
    csrf: str
    #: What came of the form before.
    notice: Notice | None = None
    #: The checked query, of the type that the route names.
    query: Any = None
    #: The fields of the form as they were sent; those left empty or blank are not there.
    form: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def caller(self) -> Caller:
        """Who is signed in."""
        assert self.session is not None, "only pages with roles ask"  # noqa: S101 - the doors saw to it
        return self.session.caller

    @property
    def address(self) -> str:
        """The address of this page, with its query."""
        query = self.environ.get("QUERY_STRING", "")
        path: str = self.environ["PATH_INFO"]
        return f"{path}?{query}" if query else path

    def may(self, *roles: str) -> bool:
        """Whether who is signed in has one of these roles."""
        return self.session is not None and self.session.caller.role in roles

    def read(self, model: type[Model]) -> Model:
        """The form, checked. Raises Invalid, which becomes a page that names each mistake."""
        return read_fields(model, self.form)


@dataclass(frozen=True, slots=True)
class Page:
    """A template of `api/templates/console/`, and what it shows."""

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True)
class Redirect:
    """To another page of the console (303), with a word about what was done."""

    to: str
    notice: Notice | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PageRoute:
    """One method at one address."""

    method: Method
    path: str
    #: Which entry of the navigation it belongs to.
    section: str
    view: Callable[..., Page | Redirect]
    #: Who may; empty: everybody.
    roles: frozenset[str]
    query: type[BaseModel]

    @property
    def name(self) -> str:
        """Method and path, as tests and Flask call it."""
        return f"{self.method} {self.path}"


class Pages:
    """The pages of one file."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.all: list[PageRoute] = []

    def get(
        self, path: str, *, roles: frozenset[str] = OPERATORS, query: type[BaseModel] = NoQuery
    ) -> Callable[[Callable[..., Page | Redirect]], Callable[..., Page | Redirect]]:
        """Declare a page; `query`: what may follow the question mark. It changes nothing."""
        return self._add("GET", path, roles, query)

    def post(
        self, path: str, *, roles: frozenset[str] = OPERATORS
    ) -> Callable[[Callable[..., Page | Redirect]], Callable[..., Page | Redirect]]:
        """Declare what a form does; it came from a page of ours, in this session."""
        return self._add("POST", path, roles, NoQuery)

    def _add(
        self, method: Method, path: str, roles: frozenset[str], query: type[BaseModel]
    ) -> Callable[[Callable[..., Page | Redirect]], Callable[..., Page | Redirect]]:
        def declare(view: Callable[..., Page | Redirect]) -> Callable[..., Page | Redirect]:
            self.all.append(PageRoute(method, ROOT + path, self.section, view, roles, query))
            return view

        return declare


def read_fields(model: type[Model], values: Mapping[str, list[str]]) -> Model:
    """Fields of a query or a form, checked. Raises Invalid."""
    for name, found in values.items():
        if _UNSTORABLE.search(name) or any(_UNSTORABLE.search(value) for value in found):
            raise Invalid.at("", "a field contains an invalid character")
    return parsing.parse_query(model, values)


def local_path(text: str | None) -> str:
    """An address within the console that somebody named, or its first page: never one of somebody else's."""
    if text is None or not text.isascii() or not text.isprintable() or "\\" in text:
        return ROOT
    # One slash, and our name: to a browser, `///admin` is the server "admin".
    return text if _INSIDE.match(text) else ROOT
