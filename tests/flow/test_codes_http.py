"""
One-time codes over HTTP: scenarios 9, 10 and 11, and the waiting withdrawals of scenario 28. APIs, a worker and a
courier run as processes, and mails are files.
"""

from __future__ import annotations

import email
import email.policy
import itertools
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from processor.clients import keys
from tests.flow.courier.outside import says, serving
from tests.flow.payments import Payments
from tests.stack import TOP, Client
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processor.settings import Settings
    from tests.servers import Clones

#: The cooldown of a destination, in seconds: longer than simultaneous calls, and short enough to wait for.
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
def stack(
    servers: Settings, clones: Callable[[str], Clones], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Payments]:
    """
    One for all tests of this module, with a short cooldown. At the end the ledger must be right, and no code that
    was sent may stand in a log or in the database.
    """
    cooldown = str(COOLDOWN_SECONDS)
    logs = tmp_path_factory.mktemp("codes")
    with (
        clones("embedded").clone() as database,
        serving() as outside,
        Payments(servers, database, outside, logs, TELLER_CODE_COOLDOWN_SECONDS=cooldown) as running,
    ):
        running.begin()
        yield running
        running.stop()
        running.check_ledger()
        check_secrecy(running)


def check_secrecy(stack: Payments) -> None:
    """No digits of any mail are in a log or in the database."""
    sent = {digits(mail) for mail in mails(stack)}
    assert sent
    said = {path.name: path.read_text() for path in stack.logs.glob("*.log")}
    assert stack.courier.events("code_sent")
    for table in ("codes", "deliveries", "audit", "decisions", "inbox", "requests", "attempts"):
        rows = stack.owner.execute(f"SELECT t::text FROM {table} t".encode()).fetchall()  # noqa: S608  # above
        said[table] = "\n".join(row for (row,) in rows)
    assert [(where, code) for where, text in said.items() for code in sent if says_code(text, code)] == []


def says_code(text: str, code: str) -> bool:
    """
    Say whether a text has the code as a word of its own. Times and ids have six digits in a row by chance.
    """
    return re.search(rf"(?<![\w.-]){code}(?![\w-])", text) is not None


def mails(stack: Payments, destination: str | None = None) -> list[Any]:
    """The codes in the outbox, oldest first."""
    outbox = stack.home / "outbox"
    paths = sorted(outbox.glob("code_*.eml"), key=lambda path: path.stat().st_mtime_ns)
    found = [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in paths]
    return [mail for mail in found if destination in (None, mail["To"])]


def digits(mail: Any) -> str:
    """
    Return the code in a mail.
    """
    found = re.search(r"^Your code: (\d{6})$", mail.get_content(), re.MULTILINE)
    assert found, mail
    return found[1]


def arrived(stack: Payments, destination: str, count: int = 1) -> str:
    """
    Wait for `count` mails. Returns the code of the newest one.
    """
    eventually(lambda: len(mails(stack, destination)) >= count)
    return digits(mails(stack, destination)[-1])


def somebody(stack: Payments, account: str) -> str:
    """The address of an account, which it is given."""
    address = f"{account}-{next(_numbers)}@example.com"
    stack.client.put(f"/v1/accounts/{account}", {"email": address})
    return address


def vault(stack: Payments, **rules: Any) -> str:
    """A balance of 1,000 that asks for a code above 100 and for approval above 500."""
    resource = f"vault-{next(_numbers)}"
    body = {"id": resource, "kind": "balance", "available": 1_000, "confirm_above": 100, "approve_above": 500}
    opened = stack.admin.post("/v1/resources", {**body, **rules}, 200, wait=20)
    assert opened["status"] == "completed"
    return resource


def withdraw(stack: Payments, resource: str, account: str, amount: int) -> str:
    """Returns the id of the request."""
    body = {"resource": resource, "account": account, "amount": amount}
    asked: str = stack.client.post("/v1/withdrawals", body, 202)["id"]
    return asked


def until_stage(stack: Payments, request: str, stage: str) -> None:
    """It waits for this now."""
    eventually(lambda: stack.client.get(f"/v1/requests/{request}")["stage"] == stage)


def verify(who: Client, destination: str, code: str, *statuses: int) -> Any:
    """Type it in."""
    return who.post("/v1/codes/verify", {"destination": destination, "code": code}, *statuses)


def test_of_five_who_ask_in_a_second_one_gets_a_code(stack: Payments) -> None:
    """
    Scenario 9: 1 code sent, 4 x 429; and once more when the cooldown is over.
    """
    body = {"destination": "five@example.com"}
    for round_number in (1, 2):
        answers = [stack.client.http.post("/v1/codes", json=body) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [202] + [429] * 4
        arrived(stack, "five@example.com", round_number)
        stack.owner.execute("SELECT pg_sleep(%s)", (COOLDOWN_SECONDS,))
    assert len(mails(stack, "five@example.com")) == 2


def test_of_forty_processes_at_two_apis_one_gets_a_code(stack: Payments) -> None:
    """
    Scenario 9: forty processes of four clients, two APIs on one database, all at the same instant, ten times.
    """
    second = stack.start_api()
    people = [stack.client, stack.other, stack.admin, stack.colleague]
    ports = [stack.ports[0], stack.ports.pop()]
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
                    cwd=TOP,
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
        second.stop()

    for destination in destinations:
        arrived(stack, destination)
        assert len(mails(stack, destination)) == 1


def said(asker: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert asker.stdout is not None
    return asker.stdout.readline().strip()


def test_a_code_survives_the_death_of_everything(stack: Payments) -> None:
    """
    Scenario 10: a code is requested while no courier runs. Everything is killed with -9 and started again, twice.
    The code arrives, and is accepted once.
    """
    stack.courier.kill()
    stack.client.post("/v1/codes", {"destination": "phoenix@example.com"}, 202)
    restart(stack)
    code = arrived(stack, "phoenix@example.com")
    restart(stack)

    assert verify(stack.client, "phoenix@example.com", code, 200) == {"verified": True}
    assert verify(stack.client, "phoenix@example.com", code, 422)["code"] == "code_invalid"
    assert len(mails(stack, "phoenix@example.com")) == 1


def restart(stack: Payments) -> None:
    """
    Kill API, worker and courier, and start them again.
    """
    for process in (stack.api, stack.worker, stack.courier):
        process.kill()
        process.start()
    stack.until_ready(stack.api)


def test_the_old_code_is_invalid_once_there_is_a_new_one(stack: Payments) -> None:
    """
    Scenario 11.
    """
    destination = "twice@example.com"
    stack.client.post("/v1/codes", {"destination": destination}, 202)
    old = arrived(stack, destination)
    stack.owner.execute("SELECT pg_sleep(%s)", (COOLDOWN_SECONDS,))
    stack.client.post("/v1/codes", {"destination": destination}, 202)
    new = arrived(stack, destination, 2)

    refused = verify(stack.client, destination, old, 422)
    assert (refused["code"], refused["attempts_remaining"]) == ("code_invalid", 4)
    assert verify(stack.client, destination, new, 200)["verified"] is True


def test_a_large_withdrawal_is_confirmed_by_mail_and_approved_by_somebody_else(stack: Payments) -> None:
    """
    Above both thresholds, from the mail to the money; approved by the client that made it: refused (scenario 28).
    """
    resource, address = vault(stack), somebody(stack, "ada")
    request = withdraw(stack, resource, "ada", 600)
    code = arrived(stack, address)
    assert "600" in mails(stack, address)[0].get_content()
    assert stack.quantities(resource) == (1_000, 0)
    stack.client.post(f"/v1/requests/{request}/confirm", {"code": code}, 202)
    until_stage(stack, request, "awaiting_approval")
    with stack.connect() as connection:
        own_admin = keys.create_key(connection, "own admin", "admin", stack.client.key.client)
    with Client(stack.url, own_admin).http as own:
        answer = own.post(f"/v1/admin/requests/{request}/approve", json={"reason": "I want it"})

    assert (answer.status_code, answer.json()["code"]) == (403, "approver_is_requester")
    stack.admin.post(f"/v1/admin/requests/{request}/approve", {"reason": "it is her"}, 202)
    assert stack.until(request, "completed")["amount"] == 600
    assert stack.quantities(resource) == (400, 0)


def test_unconfirmed_in_time_it_is_cancelled_by_itself(stack: Payments) -> None:
    """
    The sweep cancels the withdrawal when its code expires. Nothing was taken, and the account is notified.
    """
    resource, address = vault(stack), somebody(stack, "late")
    request = withdraw(stack, resource, "late", 300)
    code = arrived(stack, address)
    lapse = "UPDATE codes SET expires_at = clock_timestamp() WHERE request_id = %s AND due_at IS NULL"
    eventually(lambda: stack.owner.execute(lapse, (request,)).rowcount)

    document = stack.until(request, "cancelled")

    assert document["error"]["code"] == "confirmation_expired"
    assert stack.quantities(resource) == (1_000, 0)
    late = stack.client.post(f"/v1/requests/{request}/confirm", {"code": code}, 409)
    assert late["code"] == "not_awaiting_confirmation"


def test_during_a_cooldown_its_code_comes_by_itself_when_that_is_over(stack: Payments) -> None:
    """
    The address was just given a code; the withdrawal's own follows, and confirms it.
    """
    resource, address = vault(stack), somebody(stack, "busy")
    stack.client.post("/v1/codes", {"destination": address}, 202)
    request = withdraw(stack, resource, "busy", 300)
    until_stage(stack, request, "awaiting_confirmation")
    code = arrived(stack, address, 2)

    stack.client.post(f"/v1/requests/{request}/confirm", {"code": code}, 202)
    assert stack.until(request, "completed")["refunded"] == 0


def test_a_telephone_number_is_reached_through_the_gateway_named_sms(stack: Payments) -> None:
    """
    A signed call of the gateway with the code in it, the same key over all tries; without such a gateway 422.
    """
    body = {"destination": "+4915112345678"}
    assert stack.client.post("/v1/codes", body, 422)["code"] == "invalid"
    stack.outside.behave = lambda _call, _handler: says(503 if len(calls(stack)) == 1 else 200)
    gateways = f"sms={stack.outside.url}/sms"
    stack.courier.kill()
    api = stack.start_api(TELLER_GATEWAYS=gateways)
    url = f"http://127.0.0.1:{stack.ports.pop()}"
    courier = stack.start_courier(TELLER_GATEWAYS=gateways)
    try:
        with Client(url, stack.client.key).http as client:
            assert client.post("/v1/codes", json=body).status_code == 202
            eventually(lambda: len(calls(stack)) == 2)
            first, second = calls(stack)
            order = second.document
            assert first.key == second.key
            assert (order["kind"], order["destination"]) == ("code", body["destination"])
            code = order["metadata"]["code"]
            assert client.post("/v1/codes/verify", json={**body, "code": code}).json() == {"verified": True}
    finally:
        api.stop()
        courier.kill()
        stack.restart_courier()
    assert not any(says_code(path.read_text(), code) for path in stack.logs.glob("*.log"))


def calls(stack: Payments) -> list[Any]:
    """
    Return the calls of the gateway `sms`.
    """
    return [call for call in stack.outside.calls if call.path == "/sms"]
