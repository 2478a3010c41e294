"""
TELLER_URL_PREFIX: nothing that Teller writes leads out of the path under which a proxy publishes it.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest

import api
from api.web.prefix import LINK
from tests import proxies
from tests.http.teller import opened
from tests.http.visitor import Visitor
from tests.stack import NO_CERTIFICATES, Stack
from tests.waiting import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings

PREFIX = "/shop/teller"
TEMPLATES = sorted((Path(api.__file__).parent / "templates").rglob("*.html"))
#: Attributes that lead a browser to another address.
ADDRESSES = re.compile(r'\s(?:href|src|action|formaction|hx-get|hx-post|data-url|poster|cite)="([^"]*)"')
#: The addresses of forms that are sent with POST, which a crawl does not visit.
SENT = re.compile(r'<form[^>]* method="post" action="([^"]*)"|\sformaction="([^"]*)"')
#: Pages of which a crawl visits some: they are alike.
ALIKE = re.compile(r"/partitions/\d\d|/problems/[b-z]")
#: An attribute that begins with a slash in a template. The value of a field is read by Teller, not by the browser.
SLASHED = re.compile(rb'\s(?!value=)[\w-]+="/(?!/)')
#: The ways of a proxy: the path as it came, and without the prefix.
WAYS = {"unchanged": "", "removed": "/"}

NGINX = """
server {{
    listen 127.0.0.1:{port};
    location {prefix}/ {{
        proxy_pass http://127.0.0.1:{upstream}{way};
        proxy_set_header Host $http_host;
    }}
}}
"""


@dataclass(frozen=True)
class Published:
    """A Teller behind nginx, and the keys of an admin and a client."""

    url: str
    admin: str
    client: str

    def call(self, method: str, path: str, key: str, **body: object) -> httpx.Response:
        """Call the API through the proxy."""
        headers = {
            "Authorization": f"Bearer {key}",
            "Idempotency-Key": f"{path} {body}"[:255],
            "Prefer": "wait=1",
        }
        return httpx.request(
            method,
            self.url + PREFIX + path,
            headers=headers,
            json=body or None,
            timeout=60,
            verify=NO_CERTIFICATES,
            trust_env=False,
        )

    def post(self, path: str, key: str, **body: object) -> httpx.Response:
        """Make a request. Its Location is within the prefix, and leads to it."""
        answer = self.call("POST", path, key, **body)
        assert answer.status_code in (200, 202), answer.text
        location = answer.headers["Location"]
        assert location == f"{PREFIX}/v1/requests/{answer.json()['id']}"
        found = self.call("GET", location.removeprefix(PREFIX), key)
        assert found.json()["id"] == answer.json()["id"]
        return answer


@pytest.fixture(params=WAYS)
def published(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Published]:
    """A Teller behind nginx, which passes the path unchanged or without the prefix."""
    proxies.program("nginx")
    port = free_port()
    environment = {
        **settings.environment(),
        "TELLER_URL_PREFIX": PREFIX,
        "TELLER_LAB": "1",
        "TELLER_GATEWAY_TRIES": "1",
        "TELLER_ALLOW_PRIVATE_WEBHOOKS": "1",
    }
    with Stack(environment, tmp_path) as stack:
        stack.start_api()
        stack.start("worker")
        stack.start("courier")
        stack.until_shared()
        way = WAYS[request.param]
        config = NGINX.format(
            port=port, prefix=PREFIX, upstream=stack.ports[0], way=way and PREFIX.removesuffix(PREFIX) + "/"
        )
        admin, client = (stack.new_client(role).key.key for role in ("admin", "client"))
        with proxies.nginx(tmp_path / "nginx", port, config):
            yield Published(f"http://127.0.0.1:{port}", admin, client)


def test_nothing_leads_out_of_the_prefix(published: Published) -> None:
    """
    Every link, form, file and redirect of the console, the lab and the documentation stays within the prefix, and
    leads to a page. So do the addresses in the answers of the API.
    """
    fill(published)
    with httpx.Client(base_url=published.url, timeout=60, verify=NO_CERTIFICATES, trust_env=False) as browser:
        signed_in = browser.post(f"{PREFIX}/admin/sign-in", data={"key": published.admin})
        assert signed_in.headers["Location"] == f"{PREFIX}/admin"
        assert f"Path={PREFIX}/admin;" in signed_in.headers["Set-Cookie"]

        visited = crawl(browser, [f"{PREFIX}/admin", f"{PREFIX}/docs", f"{PREFIX}/lab"])

        for page in (
            "approvals",
            "audit",
            "failed",
            "keys",
            "requests",
            "reservations",
            "resources",
            "webhooks",
        ):
            assert f"{PREFIX}/admin/{page}" in visited
        assert len(visited) > 35
        token = re.findall(r'name="csrf" value="(\w+)"', browser.get(f"{PREFIX}/admin").text)[0]
        paused = browser.post(
            f"{PREFIX}/admin/partitions/3/pause",
            data={"csrf": token, "reason": "a test", "back": "/admin/partitions/3"},
        )
        assert paused.headers["Location"] == f"{PREFIX}/admin/partitions/3"
        assert "paused" in browser.get(paused.headers["Location"]).text
        signed_out = browser.post(f"{PREFIX}/admin/sign-out", data={"csrf": token})
        assert signed_out.headers["Location"] == f"{PREFIX}/admin/sign-in"
        refused = browser.get(f"{PREFIX}/admin/keys?state=valid")
        assert refused.headers["Location"].startswith(f"{PREFIX}/admin/sign-in?next=")
        back = browser.post(
            f"{PREFIX}/admin/sign-in", data={"key": published.admin, "next": "/admin/keys?state=valid"}
        )
        assert back.headers["Location"] == f"{PREFIX}/admin/keys?state=valid"


def fill(published: Published) -> None:
    """Make something for each page of the console, with the addresses of the API checked."""
    admin, client = published.admin, published.client
    published.post(
        "/v1/resources",
        admin,
        id="wallet",
        kind="balance",
        available=9_000,
        gateway="sandbox",
        approve_above=100,
    )
    published.post("/v1/resources", admin, id="sneaker", kind="stock", available=9)
    published.post("/v1/redemptions", client, resource="sneaker", account="u_42")
    published.post("/v1/reservations", client, resource="sneaker", account="u_42")
    published.post("/v1/withdrawals", client, resource="wallet", account="u_42", amount=500)
    failed = published.post(
        "/v1/withdrawals", client, resource="wallet", account="u_42", amount=5, destination="unavailable"
    ).json()
    eventually(
        lambda: published.call("GET", f"/v1/requests/{failed['id']}", admin).json()["status"] == "failed"
    )
    webhook = published.call("POST", "/v1/webhooks", client, url="http://127.0.0.1:9/hook")
    assert webhook.headers["Location"] == f"{PREFIX}/v1/webhooks/{webhook.json()['id']}"
    batch = {"requests": [{"kind": "redemption", "idempotency_key": "a", "resource": "sneaker"}]}
    refused = published.call("POST", "/v1/batches", client, **batch).json()["results"][0]["problem"]
    missing = published.call("GET", f"/v1/requests/{webhook.json()['id']}", client).json()
    for problem in (refused, missing):
        assert problem["type"].startswith(f"{PREFIX}/problems/")
        assert published.call("GET", problem["type"].removeprefix(PREFIX), client).status_code == 200
    assert published.call("GET", "/openapi.json", client).json()["servers"] == [{"url": PREFIX}]


def crawl(browser: httpx.Client, starts: list[str]) -> set[str]:
    """Visit every page that the pages lead to. Returns their paths. Fails for an address out of the prefix."""
    waiting, seen = list(starts), set(starts)
    paths = set()
    while waiting:
        place = waiting.pop()
        answer = browser.get(place)
        sent: list[str] = []
        if answer.is_redirect:
            found = [answer.headers["Location"]]
        else:
            assert answer.status_code == 200, f"{answer.status_code} {place}"
            is_page = answer.headers["Content-Type"].startswith("text/html")
            found = [html.unescape(link) for link in ADDRESSES.findall(answer.text)] if is_page else []
            sent = [html.unescape(link) for link in chain(*SENT.findall(answer.text))]
        paths.add(urlsplit(place).path)
        for link in found:
            address = urljoin(place, link).partition("#")[0]
            assert re.match(rf"{PREFIX}(/|$)", address), f"{place} leads to {link}"
            if address not in seen and link not in sent and not ALIKE.search(address):
                seen.add(address)
                waiting.append(address)
    return paths


def test_every_address_in_a_template_gets_the_prefix() -> None:
    """
    An attribute that begins with a slash is one of those that the prefix is added to.
    """
    assert len(TEMPLATES) > 20
    for template in TEMPLATES:
        source = template.read_bytes()
        addresses = SLASHED.findall(source)
        assert len(LINK.findall(source)) == len(addresses), (template.name, addresses)


def test_text_of_clients_is_not_taken_for_a_link(settings: Settings) -> None:
    """
    A name that looks like a link stays as it is, and the answer has its own length.
    """
    with opened(replace(settings, url_prefix=PREFIX)) as teller:
        name = ' href="/admin" src="/x"'
        visitor = Visitor.new(teller)
        visitor.send(f"{PREFIX}/admin/sign-in", {"key": teller.admin.key})
        page = visitor.get(f"{PREFIX}/admin/search?q={quote(name)}")

        assert html.escape(name.strip(), quote=True).replace("&quot;", "&#34;") in page.text
        assert page.headers["Content-Length"] == str(len(page.text.encode()))
        assert f'href="{PREFIX}/admin"' in page.text


def test_direct_calls_need_no_prefix(settings: Settings) -> None:
    """
    Probes of the health call the server itself. A path that only begins like the prefix is another one.
    """
    with opened(replace(settings, url_prefix=PREFIX)) as teller:
        browser = teller.application.test_client()

        assert [
            browser.get(path).status_code
            for path in (
                "/healthz",
                f"{PREFIX}/healthz",
                f"{PREFIX}x/healthz",
                f"{PREFIX}{PREFIX}/healthz",
                PREFIX,
            )
        ] == [200, 200, 404, 404, 404]
        assert browser.head(f"{PREFIX}/docs").status_code == 200
