"""
Pages about the API: the OpenAPI document, its page for readers, and a page for each problem.

The pages are rendered from the document, and load nothing from another address.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import pydantic_core
from flask import current_app, render_template, request
from markupsafe import Markup, escape

from api.web import problems
from api.web.problems import PROBLEMS, NotFound, path_of
from api.web.routing import Answer, AnswerDoc, Routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from api.services import Call

routes = Routes("Documentation")

HTML: Final = "text/html; charset=utf-8"
#: Pages have no scripts and load nothing. Their one style has the digest that stands here.
POLICY: Final = (
    "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PUBLIC: Final[frozenset[str]] = frozenset()

_DOCUMENTATION = "teller.docs"
_POLICY = "teller.docs.policy"
_TICKED = re.compile(r"`([^`]+)`")


class _Documentation:
    """
    The OpenAPI document and its page, which never change.

    They are made for their first reader, because they take longer than the rest of the start.
    """

    def __init__(self, document: Callable[[], dict[str, Any]]) -> None:
        self._document = document
        self._lock = threading.Lock()

    @cached_property
    def json(self) -> bytes:
        """The document."""
        return pydantic_core.to_json(self._document())

    @cached_property
    def page(self) -> str:
        """The page, rendered in the context of the application."""
        document = self._document()
        return render_template(
            "docs.html",
            document=document,
            problems=_problems(),
            resolve=lambda node: _resolve(document, node),
        )

    def read(self, name: Literal["json", "page"]) -> Any:
        """Return one of the two. Simultaneous first readers wait for one of them to make it."""
        with self._lock:
            return getattr(self, name)


def install(app: Flask, document: Callable[[], dict[str, Any]]) -> None:
    """Prepare the pages. `document` returns the OpenAPI document."""
    app.jinja_env.filters["ticks"] = _ticks
    app.jinja_env.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    app.jinja_env.globals["type_of"] = _type_of
    style = _style()
    app.jinja_env.globals["style"] = Markup(style)  # noqa: S704 - our own files
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    app.extensions[_POLICY] = POLICY.format(digest)
    app.extensions[_DOCUMENTATION] = _Documentation(document)


@routes.add(
    "GET",
    "/openapi.json",
    roles=PUBLIC,
    answers={200: AnswerDoc("OpenAPI 3.1.", content_type="application/json; charset=utf-8")},
)
def openapi_json(_call: Call) -> Answer:
    """
    Read the OpenAPI document.

    The document of all routes, in OpenAPI 3.1.
    """
    return Answer(_documentation().read("json"))


@routes.add("GET", "/docs", roles=PUBLIC, answers={200: AnswerDoc("A page.", content_type="text/html")})
def docs(_call: Call) -> Answer:
    """
    Read the documentation.

    The OpenAPI document as a page.
    """
    return Answer(_documentation().read("page"), headers=_headers(), content_type=HTML)


@routes.add(
    "GET",
    "/problems/<slug>",
    roles=PUBLIC,
    answers={200: AnswerDoc("A page, or plain text if the client prefers it.", content_type="text/html")},
    problems=(NotFound,),
)
def explain_problem(_call: Call, slug: str) -> Answer:
    """
    Read the explanation of a problem.

    The `type` of every problem is the address of its page.
    """
    code = slug.replace("-", "_")
    kind = PROBLEMS.get(code)
    if kind is None or path_of(code) != f"/problems/{slug}":
        raise NotFound("there is no such problem")
    if request.accept_mimetypes.best_match(["text/html", "text/plain"], "text/html") == "text/plain":
        text = f"{kind.status} {kind.title} ({code})\n\n{kind.explanation}\n\n{kind.remedy}\n"
        return Answer(text, content_type="text/plain; charset=utf-8")
    example = problems.document_of(code)
    page = render_template("problem.html", code=code, kind=kind, example=example)
    return Answer(page, headers=_headers(), content_type=HTML)


def _style() -> str:
    """
    Return the colours of the console, which are the first rules of its stylesheet, with the rules of `docs.css`.

    The style is inside the page, because a proxy may block /admin for the readers of this page.
    """
    folder = importlib.resources.files("api").joinpath("static")
    console = folder.joinpath("console", "console.css").read_text()
    colours, mark, _ = console.partition("/* The colours end here. */\n")
    assert mark, "console.css marks the end of its colours"  # noqa: S101 - our own file
    return colours + folder.joinpath("docs.css").read_text()


def _documentation() -> _Documentation:
    found: _Documentation = current_app.extensions[_DOCUMENTATION]
    return found


def _headers() -> dict[str, str]:
    return {"Content-Security-Policy": current_app.extensions[_POLICY]}


def _problems() -> list[dict[str, Any]]:
    return [
        {"code": code, "path": path_of(code), "status": kind.status, "title": kind.title}
        for code, kind in sorted(PROBLEMS.items(), key=lambda item: (item[1].status, item[0]))
    ]


def _ticks(text: str) -> Markup:
    """Return a text with its words in backticks as code."""
    return Markup(_TICKED.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped just before


def _resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a $ref names."""
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def _type_of(schema: dict[str, Any]) -> str:
    """Return the type of a field in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " | ".join(_type_of(one) for one in schema[several])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    words = [str(schema.get("format") or schema.get("type", "anything"))]
    least, most = (
        schema.get("minimum", schema.get("minLength")),
        schema.get("maximum", schema.get("maxLength")),
    )
    if least is not None or most is not None:
        words.append(f"{'' if least is None else least}…{'' if most is None else most}")
    return " ".join(words)
