"""
The page /lab: it is off by default in production, protected where it is on, and shows its errors.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from api import create_app
from lab import arena, stored_results
from lab.outcomes import Outcome, Step, UserResult
from processor.storage import connections
from tests.waiting import TIMEOUT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask import Flask
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from processor.settings import Settings

FORM = {"users": "5", "stock": "1", "protection": "atomic"}
SAME_SITE = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}


def application_of(settings: Settings, *, lab: bool) -> Iterator[Flask]:
    application = create_app(replace(settings, lab=lab))
    yield application
    application.extensions["teller"].close()


@pytest.fixture
def application(settings: Settings) -> Iterator[Flask]:
    """
    A Teller with the lab, and without workers.
    """
    yield from application_of(settings, lab=True)


@pytest.fixture
def browser(application: Flask) -> FlaskClient:
    """
    A browser on the page.
    """
    return application.test_client()


def run(browser: FlaskClient, headers: Mapping[str, str] = SAME_SITE, **form: str) -> TestResponse:
    """Send the form."""
    return browser.post("/lab", data={**FORM, **form}, headers=headers)


def count_runs(settings: Settings) -> int:
    """Return the number of stored results."""
    with connections.connect(settings.database_url, application_name="test") as connection:
        return int(connection.execute("SELECT count(*) FROM lab_results").fetchall()[0][0])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/lab"), ("POST", "/lab"), ("GET", "/lab/runs/00000000-0000-7000-8000-000000000000")],
)
def test_the_lab_returns_404_when_it_is_off(settings: Settings, method: str, path: str) -> None:
    """
    A switched-off lab returns the same 404 as any unknown address.
    """
    for application in application_of(settings, lab=False):
        answer = application.test_client().open(path, method=method)

        assert answer.status_code == 404
        assert answer.content_type == "application/problem+json"


def test_a_run_leads_to_its_result(browser: FlaskClient, settings: Settings) -> None:
    """
    The form runs the race and leads to the page of its result. Loading that page again runs nothing.
    """
    answer = run(browser, users="7", stock="2")

    assert answer.status_code == 303
    page = browser.get(answer.headers["Location"]).get_data(as_text=True)
    assert "With a conditional update" in page
    assert "2 users approved, 5 refused, 0 left." in page
    assert page == browser.get(answer.headers["Location"]).get_data(as_text=True)
    assert count_runs(settings) == 1


def test_all_pages_forbid_what_they_do_not_need(browser: FlaskClient) -> None:
    """
    No page, also no error page, has inline scripts or styles, may be framed, or is cached.
    """
    answers = [
        browser.get("/lab"),
        browser.get(run(browser).headers["Location"]),
        browser.get("/lab/runs/nothing"),
        run(browser, users="0"),
    ]

    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.content_type == "text/html; charset=utf-8"
        page = answer.get_data(as_text=True)
        assert "<script" not in page
        assert " style=" not in page


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ],
)
def test_a_form_from_another_site_runs_nothing(
    browser: FlaskClient, settings: Settings, headers: dict[str, str]
) -> None:
    """
    Another site cannot start a race from a visitor's browser.
    """
    answer = run(browser, headers)

    assert answer.status_code == 403
    assert "another site" in answer.get_data(as_text=True)
    assert count_runs(settings) == 0


@pytest.mark.parametrize(
    ("form", "hint"),
    [
        ({"users": "0"}, "a whole number from 1 to 50"),
        ({"users": "51"}, "a whole number from 1 to 50"),
        ({"users": "9" * 5_000}, "a whole number from 1 to 50"),
        ({"users": "²"}, "a whole number from 1 to 50"),
        ({"users": "<script>"}, "a whole number from 1 to 50"),
        ({"stock": "-1"}, "a whole number from 1 to 50"),
        ({"stock": "1.5"}, "a whole number from 1 to 50"),
        ({"protection": "naive"}, "one of those in the list"),
        ({"protection": '"><script>'}, "one of those in the list"),
    ],
)
def test_invalid_input_is_marked_and_runs_nothing(
    browser: FlaskClient, settings: Settings, form: dict[str, str], hint: str
) -> None:
    """
    The page is shown again, marks the field, and does not repeat the input.
    """
    answer = browser.post("/lab", data={**FORM, **form}, headers=SAME_SITE)

    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert "<script>" not in page
    assert count_runs(settings) == 0
    assert hint in page


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"data": "x" * 70_000, "content_type": "application/x-www-form-urlencoded"}, 413),
        ({"json": {"users": 5}}, 415),
        ({"data": b"users=\xff", "content_type": "application/x-www-form-urlencoded"}, 400),
    ],
)
def test_a_body_that_is_not_a_form_is_refused(
    browser: FlaskClient, sent: dict[str, Any], status: int
) -> None:
    """
    The refusal is a page, because a person reads it.
    """
    answer = browser.post("/lab", headers=SAME_SITE, **sent)

    assert answer.status_code == status
    assert 'role="alert"' in answer.get_data(as_text=True)


def test_one_run_at_a_time(
    application: Flask, browser: FlaskClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A second run is refused with Retry-After until the first ends.
    """
    racing, done = threading.Event(), threading.Event()
    opened = arena.opened

    def open_slowly(*urls: str) -> Any:
        racing.set()
        assert done.wait(TIMEOUT_SECONDS)
        return opened(*urls)

    monkeypatch.setattr(arena, "opened", open_slowly)
    answers: list[TestResponse] = []
    first = threading.Thread(target=lambda: answers.append(run(application.test_client())))
    first.start()
    assert racing.wait(TIMEOUT_SECONDS)

    refused = run(browser)
    done.set()
    first.join()

    assert refused.status_code == 409
    assert refused.headers["Retry-After"] == "1"
    assert "another run is under way" in refused.get_data(as_text=True).lower()
    assert [answer.status_code for answer in answers] == [303]
    assert run(browser).status_code == 303
    assert count_runs(settings) == 2


def test_a_queue_without_workers_is_reported(browser: FlaskClient, settings: Settings) -> None:
    """
    Without a worker the page reports the fact, and the next run is not blocked.
    """
    answer = run(browser, protection="queue")

    assert answer.status_code == 503
    assert "No worker is running" in answer.get_data(as_text=True)
    assert count_runs(settings) == 0
    assert run(browser).status_code == 303


@pytest.mark.parametrize("path", ["/lab/runs/nothing", "/lab/runs/00000000-0000-7000-8000-000000000000"])
def test_an_unknown_run_is_reported(browser: FlaskClient, path: str) -> None:
    """
    Only the latest runs are stored. The page of another one has the form.
    """
    answer = browser.get(path)

    assert answer.status_code == 404
    assert "only the latest are" in answer.get_data(as_text=True)
    assert "Run the race" in answer.get_data(as_text=True)


def test_an_error_of_a_run_is_shown_as_text(browser: FlaskClient, settings: Settings) -> None:
    """
    Markup in an error is escaped.
    """
    hostile = '<img src=x onerror="alert(1)">'
    result = UserResult(1, steps=[Step("read", 0, 1)], error=hostile, code=hostile)
    side = Outcome("atomic", 1, 0, 1, [result]).document()
    document = {"choice": {"users": 1, "stock": 1, "protection": "atomic"}, "sides": [side, side, side]}
    with connections.connect(settings.database_url, application_name="test") as connection:
        saved = stored_results.save(connection, document)

    page = browser.get(f"/lab/runs/{saved}").get_data(as_text=True)

    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_an_unavailable_database_is_reported_on_the_page(settings: Settings) -> None:
    """
    The page returns 503 with a message and Retry-After.
    """
    broken = replace(settings, api_database_url="postgresql://127.0.0.1:1/none", lab=True)
    application = create_app(broken)
    try:
        answer = run(application.test_client())
    finally:
        application.extensions["teller"].close()

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert 'role="alert"' in answer.get_data(as_text=True)
