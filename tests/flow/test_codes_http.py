"""
One-time codes, seen from outside: scenarios 9, 10 and 11 and the waiting withdrawals of 28 through HTTP, with real
APIs, a worker and a courier, whose mails are files.
"""

from __future__ import annotations

import email
import email.policy
import itertools
import re
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from processor.clients import keys
from processor.storage import connections
from tests.flow.conftest import ROOT, WorkerProcess, eventually
from tests.flow.courier.conftest import CourierProcess
from tests.flow.courier.outside import says, serving
from tests.flow.house import ApiProcess, House, Person, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processor.settings import Settings
    from tests.servers import Clones

#: Long enough that whoever asks at the same instant is within it, short enough to wait for, in seconds.
COOLDOWN_SECONDS = 1.5

#: Asks for codes: `host port key`; each line that it is sent names a destination, and the instant (CLOCK_MONOTONIC).
ASKER = """
import http.client, json, sys, time
host, port, key = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
print("ready", flush=True)
for line in sys.stdin:
    destination, instant = line.split()
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.connect()
    time.sleep(max(0, float(instant) - time.monotonic()))
    connection.request("POST", "/v1/codes", json.dumps({"destination": destination}), headers)
    print(connection.getresponse().status, flush=True)
    connection.close()
"""
#: How often forty ask at the same instant, each time for another destination.
ROUNDS = 10
#: How long all forty may take to get ready for it, in seconds.
READY_SECONDS = 0.3

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def house(servers: Settings, clones: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """
    One for all stories, with a short cooldown. When all is over the books must be right, and no code that was ever
    sent may be in anything that was logged or stored.
    """
    made: Clones = clones("embedded")
    with (
        pytest.MonkeyPatch.context() as environment,
        made.clone() as database_of_tests,
        serving() as outside,
    ):
        environment.setenv("TELLER_CODE_COOLDOWN_SECONDS", str(COOLDOWN_SECONDS))
        settings = replace(
            servers,
            database_url=database_of_tests.url,
            api_database_url=database_of_tests.api_url,
            worker_database_url=database_of_tests.worker_url,
            courier_database_url=database_of_tests.courier_url,
        )
        running = House(settings, outside, tmp_path_factory.mktemp("codes"))
        try:
            yield running
            running.check_books()
            _check_silence(running)
        finally:
            running.close()


def _check_silence(house: House) -> None:
    """No digits of any mail are in a log or in the database."""
    sent = {digits(mail) for mail in mails(house)}
    assert sent
    said = {path.name: path.read_text() for path in house.logs.glob("*.log")}
    assert said["courier.log"].count('"code_sent"') >= 1
    for table in ("codes", "deliveries", "audit", "decisions", "inbox", "requests", "attempts"):
        rows = house.owner.execute(f"SELECT t::text FROM {table} t".encode()).fetchall()  # noqa: S608  # above
        said[table] = "\n".join(row for (row,) in rows)
    assert [(where, code) for where, text in said.items() for code in sent if says_code(text, code)] == []


def says_code(text: str, code: str) -> bool:
    """As a word of its own: times and ids have six digits in a row by chance."""
    return re.search(rf"(?<![\w.-]){code}(?![\w-])", text) is not None


def mails(house: House, destination: str | None = None) -> list[Any]:
    """The codes in the outbox, oldest first."""
    outbox = house.settings.home / "outbox"
    paths = sorted(outbox.glob("code_*.eml"), key=lambda path: path.stat().st_mtime_ns)
    found = [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in paths]
    return [mail for mail in found if destination in (None, mail["To"])]


def digits(mail: Any) -> str:
    """What the person reads in it."""
    found = re.search(r"^Your code: (\d{6})$", mail.get_content(), re.MULTILINE)
    assert found, mail
    return found[1]


def arrived(house: House, destination: str, count: int = 1) -> str:
    """The digits of the newest of so many mails, once they are there."""
    eventually(lambda: len(mails(house, destination)) >= count)
    return digits(mails(house, destination)[-1])


def somebody(house: House, account: str) -> str:
    """The address of an account, which it is given."""
    address = f"{account}-{next(_numbers)}@example.com"
    house.client.put(f"/v1/accounts/{account}", {"email": address})
    return address


def vault(house: House, **rules: Any) -> str:
    """A balance of 1,000 that asks for a code above 100 and for approval above 500."""
    resource = f"vault-{next(_numbers)}"
    body = {"id": resource, "kind": "balance", "available": 1_000, "confirm_above": 100, "approve_above": 500}
    opened = house.admin.post("/v1/resources", {**body, **rules}, 200, wait=20)
    assert opened["status"] == "completed"
    return resource


def withdraw(house: House, resource: str, account: str, amount: int) -> str:
    """Returns the id of the request."""
    body = {"resource": resource, "account": account, "amount": amount}
    asked: str = house.client.post("/v1/withdrawals", body, 202)["id"]
    return asked


def until_stage(house: House, request: str, stage: str) -> None:
    """It waits for this now."""
    eventually(lambda: house.client.get(f"/v1/requests/{request}")["stage"] == stage)


def verify(who: Person, destination: str, code: str, *statuses: int) -> Any:
    """Type it in."""
    return who.post("/v1/codes/verify", {"destination": destination, "code": code}, *statuses)


def test_of_five_who_ask_in_a_second_one_gets_a_code(house: House) -> None:
    """
    Scenario 9: 1 code sent, 4 x 429; and once more when the cooldown is over.
    """
    body = {"destination": "five@example.com"}
    for round_number in (1, 2):
        answers = [house.client.http.post("/v1/codes", json=body) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202] + [429] * 4
        arrived(house, "five@example.com", round_number)
        house.owner.execute("SELECT pg_sleep(%s)", (COOLDOWN_SECONDS,))
    assert len(mails(house, "five@example.com")) == 2


def test_of_forty_processes_at_two_apis_one_gets_a_code(house: House) -> None:
    """
    Scenario 9: forty processes of four clients, two APIs on one database, all at the same instant, ten times.
    """
    settings = replace(house.settings, port=free_port())
    second = ApiProcess(settings, house.logs / "second.log", allow_private_webhooks=True)
    people = [house.client, house.other, house.admin, house.colleague]
    ports = [house.settings.port, settings.port]
    askers: list[subprocess.Popen[str]] = []
    destinations = [f"forty-{number}@example.com" for number in range(ROUNDS)]
    try:
        for number in range(40):
            where = ("127.0.0.1", str(ports[number % 2]), people[number % 4].key.key)
            askers.append(
                subprocess.Popen(
                    [*(sys.executable, "-S", "-E", "-c", ASKER), *where],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
            )
        assert {said(asker) for asker in askers} == {"ready"}
        for destination in destinations:
            instant = time.monotonic() + READY_SECONDS
            for asker in askers:
                assert asker.stdin is not None
                asker.stdin.write(f"{destination} {instant}\n")
                asker.stdin.flush()
            answers = [said(asker) for asker in askers]
            assert answers.count("202") == 1
            assert set(answers) <= {"202", "429", "503"}  # 503: a busy machine; they got nothing
    finally:
        for asker in askers:
            asker.communicate(timeout=30)
        second.end()

    for destination in destinations:
        arrived(house, destination)
        assert len(mails(house, destination)) == 1


def said(asker: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert asker.stdout is not None
    return asker.stdout.readline().strip()


def test_a_code_survives_the_death_of_everything(house: House) -> None:
    """
    Scenario 10: asked for while no courier lives; API and worker killed with -9, all started again; the code comes,
    all of it is killed and started once more, and the code is right, once.
    """
    house.courier.kill()
    house.client.post("/v1/codes", {"destination": "phoenix@example.com"}, 202)
    restart(house)
    code = arrived(house, "phoenix@example.com")
    restart(house)

    assert verify(house.client, "phoenix@example.com", code, 200) == {"verified": True}
    assert verify(house.client, "phoenix@example.com", code, 422)["code"] == "code_invalid"
    assert len(mails(house, "phoenix@example.com")) == 1


def restart(house: House) -> None:
    """Everything, without a word."""
    for process in (house.api, house.worker, house.courier):
        process._process.kill()
        process._process.wait()
    house.api = ApiProcess(
        house.settings, house.logs / f"api-{next(_numbers)}.log", allow_private_webhooks=True
    )
    house.worker = WorkerProcess(house.settings, house.logs / f"worker-{next(_numbers)}.log")
    house.courier = CourierProcess(house.settings, house.logs / "courier.log")


def test_the_old_code_is_invalid_once_there_is_a_new_one(house: House) -> None:
    """
    Scenario 11.
    """
    destination = "twice@example.com"
    house.client.post("/v1/codes", {"destination": destination}, 202)
    old = arrived(house, destination)
    house.owner.execute("SELECT pg_sleep(%s)", (COOLDOWN_SECONDS,))
    house.client.post("/v1/codes", {"destination": destination}, 202)
    new = arrived(house, destination, 2)

    refused = verify(house.client, destination, old, 422)
    assert (refused["code"], refused["attempts_remaining"]) == ("code_invalid", 4)
    assert verify(house.client, destination, new, 200)["verified"] is True


def test_a_large_withdrawal_is_confirmed_by_mail_and_approved_by_somebody_else(house: House) -> None:
    """
    Above both thresholds, from the mail to the money; approved by the client that made it: refused (scenario 28).
    """
    resource, address = vault(house), somebody(house, "ada")
    request = withdraw(house, resource, "ada", 600)
    code = arrived(house, address)
    assert "600" in mails(house, address)[0].get_content()
    assert house.quantities(resource) == (1_000, 0)
    house.client.post(f"/v1/requests/{request}/confirm", {"code": code}, 202)
    until_stage(house, request, "awaiting_approval")
    with connections.connect(house.settings.database_url, application_name="test") as connection:
        own_admin = keys.create_key(connection, "own admin", "admin", house.client.key.client)
    with Person(house.api.url, own_admin).http as own:
        answer = own.post(f"/v1/admin/requests/{request}/approve", json={"reason": "I want it"})

    assert (answer.status_code, answer.json()["code"]) == (403, "approver_is_requester")
    house.admin.post(f"/v1/admin/requests/{request}/approve", {"reason": "it is her"}, 202)
    assert house.until(request, "completed")["amount"] == 600
    assert house.quantities(resource) == (400, 0)


def test_unconfirmed_in_time_it_is_cancelled_by_itself(house: House) -> None:
    """
    Nobody does anything: the sweep sees that the code's lifetime is over. Nothing was taken, the account is told.
    """
    resource, address = vault(house), somebody(house, "late")
    request = withdraw(house, resource, "late", 300)
    code = arrived(house, address)
    lapse = "UPDATE codes SET expires_at = clock_timestamp() WHERE request_id = %s AND due_at IS NULL"
    eventually(lambda: house.owner.execute(lapse, (request,)).rowcount)

    document = house.until(request, "cancelled")

    assert document["error"]["code"] == "confirmation_expired"
    assert house.quantities(resource) == (1_000, 0)
    late = house.client.post(f"/v1/requests/{request}/confirm", {"code": code}, 409)
    assert late["code"] == "not_awaiting_confirmation"


def test_during_a_cooldown_its_code_comes_by_itself_when_that_is_over(house: House) -> None:
    """
    The address was just given a code; the withdrawal's own follows, and confirms it.
    """
    resource, address = vault(house), somebody(house, "busy")
    house.client.post("/v1/codes", {"destination": address}, 202)
    request = withdraw(house, resource, "busy", 300)
    until_stage(house, request, "awaiting_confirmation")
    code = arrived(house, address, 2)

    house.client.post(f"/v1/requests/{request}/confirm", {"code": code}, 202)
    assert house.until(request, "completed")["refunded"] == 0


def test_a_telephone_number_is_reached_through_the_gateway_named_sms(house: House) -> None:
    """
    A signed call of the gateway with the code in it, the same key over all tries; without such a gateway 422.
    """
    body = {"destination": "+4915112345678"}
    assert house.client.post("/v1/codes", body, 422)["code"] == "invalid"
    house.outside.behave = lambda _call, _handler: says(503 if len(calls(house)) == 1 else 200)
    settings = replace(house.settings, port=free_port(), gateways={"sms": f"{house.outside.url}/sms"})
    house.courier.kill()
    api = ApiProcess(settings, house.logs / "sms-api.log", allow_private_webhooks=True)
    courier = CourierProcess(settings, house.logs / "courier.log")
    try:
        with Person(api.url, house.client.key).http as client:
            assert client.post("/v1/codes", json=body).status_code == 202
            eventually(lambda: len(calls(house)) == 2)
            first, second = calls(house)
            order = second.document
            assert first.key == second.key
            assert (order["kind"], order["destination"]) == ("code", body["destination"])
            code = order["metadata"]["code"]
            assert client.post("/v1/codes/verify", json={**body, "code": code}).json() == {"verified": True}
    finally:
        api.end()
        courier.kill()
        house.courier = CourierProcess(house.settings, house.logs / "courier.log")
    assert not any(says_code(path.read_text(), code) for path in house.logs.glob("*.log"))


def calls(house: House) -> list[Any]:
    """What the gateway sms was asked."""
    return [call for call in house.outside.calls if call.path == "/sms"]
