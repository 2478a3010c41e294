"""
Routes of the console as data. Each has an address, roles, a query model and a view.

A view gets a Visit, and returns a Page or a Redirect. A TellerError that it raises becomes a page. A live part has no
address of its own: htmx fetches the whole page again and replaces that part. So each address has one representation,
with and without scripts.
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
from processor.domain.kinds import KINDS
from processor.domain.roles import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from api.services import Services
    from processor.clients.keys import Caller
    from processor.clients.sessions import Session

#: The address of the console.
ROOT: Final = "/admin"
#: The roles of a page that needs no sign-in.
PUBLIC: Final[frozenset[str]] = frozenset()

_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")
_INSIDE = re.compile(rf"{ROOT}(?:[/?#]|$)")

Method = Literal["GET", "POST"]
NoticeKind = Literal["done", "failed"]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Notice:
    """The result of a form, which the next page shows once."""

    text: str
    kind: NoticeKind = "done"


@dataclass(frozen=True, slots=True)
class Memory:
    """The state of this process between visits. No page needs it."""

    rates: Rates = field(default_factory=Rates)
    runner: Runner = field(default_factory=Runner)


@dataclass(slots=True)
class Visit:
    """One HTTP request to the console."""

    services: Services
    memory: Memory
    environ: dict[str, Any]
    route: PageRoute
    #: None without a sign-in, on public pages.
    session: Session | None
    #: The token for the field `csrf` of each form. Empty without a session.
    csrf: str
    #: The result of the form before.
    notice: Notice | None = None
    #: The checked query, of the model of the route.
    query: Any = None
    #: The fields of the form that are not blank.
    form: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def caller(self) -> Caller:
        """The owner of the session. Only views with roles may ask."""
        assert self.session is not None, "the page has no roles"  # noqa: S101 - checked before the view
        return self.session.caller

    @property
    def address(self) -> str:
        """The address of this page, with its query."""
        query = self.environ.get("QUERY_STRING", "")
        path: str = self.environ["PATH_INFO"]
        return f"{path}?{query}" if query else path

    def may(self, *roles: str) -> bool:
        """
        Return whether the caller has one of these roles.
        """
        return self.session is not None and self.session.caller.role in roles

    def may_make(self, kind: str) -> bool:
        """
        Return whether the caller may make requests of this kind.
        """
        return self.may(*KINDS[kind].roles)

    def read(self, model: type[Model]) -> Model:
        """
        Check the form. Raises Invalid, which becomes a page that names each mistake.
        """
        return read_fields(model, self.form)


@dataclass(frozen=True, slots=True)
class Page:
    """A template of `api/templates/console/` and its variables."""

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirect to a page of the console (303), with a notice."""

    to: str
    notice: Notice | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Download:
    """A file, which the browser saves under a name."""

    name: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class PageRoute:
    """One method at one address."""

    method: Method
    path: str
    #: The name of its entry in the navigation.
    section: str
    view: Callable[..., Page | Redirect | Download]
    #: The roles that may open it. Empty: no sign-in needed.
    roles: frozenset[str]
    query: type[BaseModel]

    @property
    def name(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"


class Pages:
    """The routes of one module."""

    def __init__(self, section: str) -> None:
        self.section = section
        self.all: list[PageRoute] = []

    def get(
        self, path: str, *, roles: frozenset[str] = OPERATORS, query: type[BaseModel] = NoQuery
    ) -> Callable[[Callable[..., Page | Redirect | Download]], Callable[..., Page | Redirect | Download]]:
        """
        Declare a page, with the model of its query. Its view changes nothing.
        """
        return self._add("GET", path, roles, query)

    def post(
        self, path: str, *, roles: frozenset[str] = OPERATORS
    ) -> Callable[[Callable[..., Page | Redirect | Download]], Callable[..., Page | Redirect | Download]]:
        """
        Declare the action of a form. The token of its session is checked before the view.
        """
        return self._add("POST", path, roles, NoQuery)

    def _add(
        self, method: Method, path: str, roles: frozenset[str], query: type[BaseModel]
    ) -> Callable[[Callable[..., Page | Redirect | Download]], Callable[..., Page | Redirect | Download]]:
        def declare(
            view: Callable[..., Page | Redirect | Download],
        ) -> Callable[..., Page | Redirect | Download]:
            self.all.append(PageRoute(method, ROOT + path, self.section, view, roles, query))
            return view

        return declare


def read_fields(model: type[Model], values: Mapping[str, list[str]]) -> Model:
    """
    Check the fields of a query or a form. Raises Invalid.
    """
    for name, found in values.items():
        if _UNSTORABLE.search(name) or any(_UNSTORABLE.search(value) for value in found):
            raise Invalid.at("", "a field contains an invalid character")
    return parsing.parse_query(model, values)


def local_path(text: str | None) -> str:
    """
    Return an address from outside if it is within the console. Returns ROOT for any other text.
    """
    if text is None or not text.isascii() or not text.isprintable() or "\\" in text:
        return ROOT
    # A browser reads `//admin` as the host "admin".
    return text if _INSIDE.match(text) else ROOT
