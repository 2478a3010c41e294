"""
One table of odd input for every route: limits, amounts, doubled names, repeated parameters, ids, cursors.

The routes come from the application, so a new route is tested without a new line here. A refusal names the place of
the mistake, and stores nothing.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from api.app import ROUTES
from api.web.pagination import Page
from processor.domain.model import MAX_QUANTITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from api.web.routing import Route
    from tests.http.teller import Client, Reply, Teller

#: The routes that need a key. Every key of an admin may use them.
KEYED = [route for route in ROUTES if route.roles]
LISTS = [route for route in KEYED if issubclass(route.query, Page)]
WITH_BODY = [route for route in KEYED if route.body is not None]
#: The names in addresses that stand for numbers.
NUMBERED = ("<delivery>", "<partition>")
IDEMPOTENT = {"Idempotency-Key": "k", "Content-Type": "application/json"}


def unlike(found: dict[str, tuple[int, str, str]], expected: tuple[int | str, ...]) -> dict[str, object]:
    """Return the calls whose answer does not begin with the expected values."""
    return {call: answer for call, answer in found.items() if answer[: len(expected)] != expected}


@pytest.fixture(autouse=True)
def _nothing_is_stored(teller: Teller) -> Iterator[None]:
    """
    A refused request leaves no request behind.
    """
    yield
    assert teller.operator.get("/v1/requests").json["data"] == []


def path_of(route: Route, name: str = "a", number: str = "0") -> str:
    """Return the path of a route with these names in it."""
    path = route.path
    for placeholder in NUMBERED:
        path = path.replace(placeholder, number)
    return "/".join(name if part.startswith("<") else part for part in path.split("/"))


def ask(client: Client, route: Route, path: str, body: str = "{}") -> Reply:
    """Call a route with a body as it is written."""
    sent: dict[str, Any] = {} if route.body is None else {"data": body, "headers": IDEMPOTENT}
    return client.call(route.method, path, **sent)


def answers(client: Client, asked: Iterable[tuple[Route, str, str]]) -> dict[str, tuple[int, str, str]]:
    """Return status, code and first pointer of each call."""
    found = {}
    for route, path, body in asked:
        reply = ask(client, route, path, body)
        assert reply.headers["Content-Type"] == "application/problem+json", (route.path, path, body)
        [first, *_] = reply.json.get("errors") or [{"pointer": ""}]
        found[f"{route.method} {path[:80]} {body[:60]}"] = (
            reply.status_code,
            reply.json["code"],
            first["pointer"],
        )
    return found


LIMITS = (
    *("0", "-1", "101", "1.0", "1e2", "Infinity", "NaN", "", "%201", "%2B1", "0x10", "1_0", "%D9%A1", "true"),
    *("9" * 10, "9" * 5_000),
)


def test_a_limit_is_a_whole_number_from_1_to_100(teller: Teller) -> None:
    """
    Every list refuses any other limit by its name.
    """
    asked = [(route, f"{path_of(route)}?limit={limit}", "") for route in LISTS for limit in LIMITS]

    assert unlike(answers(teller.admin, asked), (422, "invalid", "/limit")) == {}


def test_a_query_parameter_is_declared_and_given_once(teller: Teller) -> None:
    """
    A parameter that is unknown or repeated is refused at every route, also where no parameter is known.
    """
    queries = ("limit=1&limit=1", "x=1", "at=2026-01-01T00:00:00Z&at=", "%00=1", "=1")
    asked = [(route, f"{path_of(route)}?{query}", "{}") for route in KEYED for query in queries]

    assert unlike(answers(teller.admin, asked), (422, "invalid")) == {}


#: Bodies, with the status of each.
BODIES = {
    '{"x":1,"x":1}': 422,
    '{"amount":1,"amount":2}': 422,
    '{"x":1,"\\u0078":2}': 422,
    '{"metadata":{"x":[{"y":1,"y":2}]}}': 422,
    '{"amount":1e400}': 422,
    '{"amount":1e-400}': 422,
    '{"amount":1' + "0" * 400 + "}": 422,
    '{"amount":NaN}': 400,
    '{"amount":Infinity}': 400,
    '{"amount":-Infinity}': 400,
    '{"amount":01}': 400,
    '{"amount":+1}': 400,
    '{"amount":1.}': 400,
    '{"amount":.5}': 400,
    '{"amount":0x1}': 400,
    '{"amount":1}{}': 400,
    "{'amount':1}": 400,
    "[]": 422,
    "null": 422,
    '"x"': 422,
    "1": 422,
}


def test_a_body_is_an_object_whose_names_occur_once(teller: Teller) -> None:
    """
    A name that occurs twice, a number beyond JSON and a body that is no object are refused at every route.
    """
    for body, status in BODIES.items():
        found = answers(teller.admin, [(route, path_of(route), body) for route in WITH_BODY])
        code = {400: "malformed", 422: "invalid"}[status]
        assert unlike(found, (status, code)) == {}


def whole_numbers(route: Route) -> list[str]:
    """Return the fields of a route's body that are whole numbers."""
    assert route.body is not None
    properties: dict[str, Any] = (
        route.body.model_json_schema()["properties"] if route.body.model_fields else {}
    )
    return [
        name
        for name, schema in properties.items()
        if "integer" in (schema.get("type"), *(one.get("type") for one in schema.get("anyOf", ())))
    ]


AMOUNTS = [(route, name) for route in WITH_BODY for name in whole_numbers(route)]


def test_the_amounts_of_the_table_are_those_of_the_routes() -> None:
    """
    The table finds the fields that are known today. None of them is lost by a change of their type.
    """
    assert {name for _, name in AMOUNTS} >= {"amount", "available", "overdraft", "per_account_limit"}
    assert len(AMOUNTS) >= 10


WRONG_AMOUNTS = [
    "1.0",
    "1e2",
    "1E0",
    "10.5",
    '"1"',
    "true",
    "[1]",
    "{}",
    "-1",
    f"{MAX_QUANTITY + 1}",
    "1e16",
    "1" + "0" * 30,
]


def test_an_amount_is_a_whole_number(teller: Teller) -> None:
    """
    A number with a point or an exponent is refused, also if its value is whole. So is one beyond 2^53-1.
    """
    unnamed = []
    for route, name in AMOUNTS:
        for amount in WRONG_AMOUNTS:
            reply = ask(teller.admin, route, path_of(route), f'{{"{name}": {amount}}}')
            pointers = {error["pointer"].split("/")[1] for error in reply.json.get("errors", ())}
            if reply.status_code != 422 or name not in pointers:
                unnamed.append((route.path, name, amount, reply.status_code))

    assert unnamed == []


def test_an_amount_of_an_item_is_a_whole_number(teller: Teller) -> None:
    """
    Each item of a batch is refused on its own, with the pointer of its amount.
    """
    amounts = ["1.0", "1e2", '"1"', "true", "null", "0", "-1", str(MAX_QUANTITY + 1)]
    items = ",".join(
        f'{{"kind":"redemption","idempotency_key":"{number}","resource":"a","account":"u","amount":{amount}}}'
        for number, amount in enumerate(amounts)
    )

    reply = teller.client.call(
        "POST", "/v1/batches", data=f'{{"requests":[{items}]}}', headers={"Content-Type": "application/json"}
    )

    assert reply.status_code == 202
    assert [one["status"] for one in reply.json["results"]] == [422] * len(amounts)
    assert {one["problem"]["errors"][0]["pointer"].rpartition("/")[2] for one in reply.json["results"]} == {
        "amount"
    }


IMPOSSIBLE = (
    *(
        "a%2Fb",
        "a%2fb",
        "%2F",
        "%2Fv1",
        "a%2F..%2Fb",
        ".%2F.",
        "a%5Cb",
        "a%00b",
        "%FF",
        "a%20b",
        "%C3%BC",
        "a;b",
    ),
    *("a%3Fb", "a%23b", "a%25", "a" * 129, "%0A", "a%0D%0A", "*", "%7B%7D"),
)


def test_an_id_that_cannot_exist_is_not_found(teller: Teller) -> None:
    """
    An encoded slash leads to no other route. Nothing is opened, closed or changed under such a name.
    """
    named = [route for route in KEYED if "<" in route.path]
    asked = [(route, path_of(route, name, name), "{}") for route in named for name in IMPOSSIBLE]
    found = answers(teller.admin, asked)

    others = {call: answer for call, answer in found.items() if answer[0] not in (404, 422)}
    assert others == {}
    reads = {call: answer for call, answer in found.items() if call.startswith("GET")}
    assert unlike(reads, (404, "not_found")) == {}


def test_a_number_in_an_address_is_digits(teller: Teller) -> None:
    """
    A partition or delivery of any other name does not exist.
    """
    numbers = (
        "1.0",
        "1e0",
        "+1",
        "-1",
        "%201",
        "0x1",
        "%D9%A1",
        "1_0",
        "Infinity",
        "9" * 20,
        "9" * 5_000,
        "a",
    )
    numbered = [route for route in KEYED if any(placeholder in route.path for placeholder in NUMBERED)]
    asked = [(route, path_of(route, number=number), "{}") for route in numbered for number in numbers]

    assert len(numbered) == 3
    assert unlike(answers(teller.admin, asked), (404, "not_found")) == {}


def cursor_of(*parts: object) -> str:
    """Return the cursor with these parts."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


NOW = "2026-11-28T12:00:00+00:00"
ID = str(uuid.UUID(int=7))
#: The cursors of the lists, by the parts that they have.
CURSORS = {
    "id": cursor_of(ID),
    "number": cursor_of("5"),
    "time, id": cursor_of(NOW, ID),
    "time, name": cursor_of(NOW, "a"),
    "time, number": cursor_of(NOW, "5"),
    "time, name, number": cursor_of(NOW, "a", "5"),
}
ALTERED = [
    *("x", "_", "-", "A" * 512, CURSORS["id"][:-1], CURSORS["id"][1:], CURSORS["id"] + "A", cursor_of()),
    *(
        cursor_of(one)
        for one in (5, None, True, [ID], {"a": 1}, "", "a b", "\0", "-1", "1.0", "1e2", "9" * 30)
    ),
    *(cursor_of(NOW, one) for one in ("", "\0", 5, "a" * 129)),
    *(cursor_of(one, ID) for one in ("now", "infinity", "-infinity", "2026-02-30T00:00:00+00:00", "", "0")),
    cursor_of(ID, ID, ID, ID),
]


def test_a_cursor_has_the_form_of_its_list(teller: Teller) -> None:
    """
    A list refuses cursors of lists of another form by name. One of the same form is a position in this list.
    """
    for route in LISTS:
        replies = {
            form: ask(teller.admin, route, f"{path_of(route, ID)}?cursor={cursor}")
            for form, cursor in CURSORS.items()
        }
        taken = {form for form, reply in replies.items() if reply.status_code == 200}
        refused = [reply for reply in replies.values() if reply.status_code == 422]
        assert {reply.json["errors"][0]["pointer"] for reply in refused} <= {"/cursor"}, route.path
        if "<" in route.path:  # the object does not exist
            assert taken == set(), route.path
            assert {reply.status_code for reply in replies.values()} <= {404, 422}, route.path
        else:
            assert 1 <= len(taken) <= 3, route.path
            assert len(refused) == len(CURSORS) - len(taken), route.path


def test_an_altered_cursor_is_refused(teller: Teller) -> None:
    """
    It is never a fault of the server. Each list refuses it, or has no such object.
    """
    found = {}
    for route in LISTS:
        for cursor in ALTERED:
            reply = ask(teller.admin, route, f"{path_of(route, ID)}?cursor={cursor}")
            pointer = (reply.json.get("errors") or [{}])[0].get("pointer")
            found[route.path, cursor] = (reply.status_code, pointer)

    assert {call: one for call, one in found.items() if one not in ((422, "/cursor"), (404, None))} == {}


def test_an_id_has_one_form(teller: Teller) -> None:
    """
    Other ways to write a UUID, as Python reads them, do not exist.
    """
    forms = (ID.replace("-", ""), f"%7B{ID}%7D", f"urn:uuid:{ID}", f"{ID}%20", ID[:-1])
    reads = [route for route in KEYED if "<request>" in route.path and route.method == "GET"]
    asked = [(route, path_of(route, form), "") for route in reads for form in forms]

    assert unlike(answers(teller.admin, asked), (404, "not_found")) == {}
