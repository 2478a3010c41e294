"""
Code messages: one-time codes, by e-mail, or through the gateway named `sms` if the destination is a telephone number.

Digits are in no log, no error and no record. A log line names a code by its id, and only TELLER_SECRET leads from an
id to its digits.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from processor.domain.amounts import format_amount
from processor.gateways.protocol import Order
from processor.outbox import code_messages, tries
from processor.outbox.code_messages import PAUSES_SECONDS, CodeMessage
from processor.outbox.tries import BEFORE_FIRST, CLIENTS_PER_LOOK, DueClient, SendResult
from processor.tracing import correlation
from workers.courier import mailer as mails
from workers.courier.database_thread import in_thread
from workers.courier.mailer import compose
from workers.courier.sender import (
    BLOCKED_SECONDS,
    GATHER_SECONDS,
    MAILS_PER_CONNECTION,
    TurnSender,
    log_result,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import EmailMessage

    from processor.gateways.protocol import Gateway
    from processor.settings import Settings
    from workers.courier.database_thread import DatabaseThread
    from workers.courier.mailer import Mailer

#: The lease of the codes that are sent together, in seconds. It is short because people wait for codes, and harmless
#: because a second copy has the same digits.
LEASE_SECONDS: Final = 15.0
#: The name of the gateway that sends text messages.
SMS: Final = "sms"


class CodeMessages(TurnSender[CodeMessage]):
    """Sends one-time codes to the people that clients ask for a code."""

    def __init__(
        self,
        settings: Settings,
        mailer: Mailer,
        gateways: Mapping[str, Gateway],
        claims: DatabaseThread,
        records: DatabaseThread,
    ) -> None:
        super().__init__(claims, records)
        self._settings = settings
        self._mailer = mailer
        self._sms = gateways.get(SMS)
        #: The last client whose waiting codes were read, and the last destination of each that has more of them.
        self._last_waiting = BEFORE_FIRST
        self._last_destinations: dict[str, str] = {}

    async def _look(self) -> float:
        seconds = await self._take_turns()
        return min(seconds, await super()._look())

    async def _take_turns(self) -> float:
        """Give the turn to waiting codes. Returns the seconds until the next look may find another."""
        clients = await self._claims.run(code_messages.waiting_clients, self._last_waiting)
        is_whole = self._last_waiting == BEFORE_FIRST and len(clients) < CLIENTS_PER_LOOK
        self._last_waiting = clients[-1] if len(clients) == CLIENTS_PER_LOOK else BEFORE_FIRST
        soonest = math.inf if is_whole else GATHER_SECONDS
        if not clients:
            return soonest
        afters = {client: self._last_destinations.pop(client, BEFORE_FIRST) for client in clients}
        for turns in await self._claims.run(code_messages.take_turns, self._settings, afters):
            if turns.destinations == code_messages.DESTINATIONS_PER_LOOK:
                self._last_destinations[turns.client] = turns.last
            elif turns.seconds is not None:
                soonest = min(soonest, max(turns.seconds, BLOCKED_SECONDS))
            if turns.destinations == code_messages.DESTINATIONS_PER_LOOK or afters[turns.client]:
                soonest = GATHER_SECONDS
        return soonest

    async def _due(self, after: str) -> list[DueClient]:
        return await self._claims.run(code_messages.due, after)

    async def _claim(self, client: str) -> list[CodeMessage]:
        return await self._claims.run(
            code_messages.claim, self._settings, client, MAILS_PER_CONNECTION, LEASE_SECONDS
        )

    async def _send_all(self, claimed: list[CodeMessage]) -> list[SendResult[CodeMessage]]:
        valid = [message for message in claimed if not message.is_expired]
        by_mail = [message for message in valid if "@" in message.destination]
        results = [
            tries.given_up(message, "expired before it was sent") for message in claimed if message.is_expired
        ]
        if by_mail:
            results += map(
                self._wait_for_server,
                await in_thread(lambda: mails.send_all(self._mailer, by_mail, mail_for, PAUSES_SECONDS)),
            )
        results += await asyncio.gather(
            *(self._send_text(message) for message in valid if "@" not in message.destination)
        )
        return results

    def _wait_for_server(self, result: SendResult[CodeMessage]) -> SendResult[CodeMessage]:
        """Let a code wait for the end of a pause, since the looks for codes go on during an outage."""
        if result.is_counted:
            return result
        return result._replace(pause_seconds=max(self._mailer.outage.seconds_left(), PAUSES_SECONDS[0]))

    def _log(self, result: SendResult[CodeMessage]) -> None:
        confirms = result.item.confirms
        log_result(
            "code",
            result,
            id=str(result.item.id),
            request=None if confirms is None else str(confirms.request_id),
            **({} if confirms is None else confirms.correlation.log_fields()),
        )

    async def _send_text(self, message: CodeMessage) -> SendResult[CodeMessage]:
        if self._sms is None:
            return tries.failed(message, f"there is no gateway named {SMS}", PAUSES_SECONDS)
        order = Order(
            message.id,
            "code",
            message.confirms.account if message.confirms else None,
            message.confirms.resource_id if message.confirms else "code",
            message.confirms.amount if message.confirms else None,
            message.destination,
            {"code": message.digits},
            correlation.NONE if message.confirms is None else message.confirms.correlation,
        )
        try:
            async with asyncio.timeout(self._settings.gateway_timeout_seconds):
                answer = await self._sms.perform(order)
        except Exception as fault:  # noqa: BLE001 - any fault of a gateway; its text may contain the digits
            return tries.failed(message, f"the gateway {SMS}: {type(fault).__name__}", PAUSES_SECONDS)
        if answer.outcome == "done":
            return tries.sent(message)
        error = f"the gateway {SMS}: {answer.outcome}"
        if answer.outcome == "declined":
            return tries.given_up(message, error)
        return tries.failed(message, error, PAUSES_SECONDS)

    async def _record(self, results: list[SendResult[CodeMessage]]) -> None:
        await self._records.run(code_messages.record, self._settings, results)


def mail_for(message: CodeMessage, sender: str) -> EmailMessage:
    """
    Build the mail with a code. Raises ValueError if its address cannot stand in a header.

    The code is not in the subject, because mail servers log subjects.
    """
    lines = [f"Your code: {message.digits}", ""]
    if (confirms := message.confirms) is not None:
        amount = "" if confirms.amount is None else f" of {format_amount(confirms.amount, confirms.unit)}"
        lines += [
            f"It confirms your {confirms.kind}{amount} from {confirms.resource_id}.",
            "",
            f"Account:   {confirms.account}",
            f"Request:   {confirms.request_id}",
        ]
    lines += [
        f"Valid until {message.expires_at:%Y-%m-%d %H:%M} UTC.",
        "If you did not ask for this code, do not pass it on.",
    ]
    return compose(sender, message.destination, "Your code", message.message_id, message.created_at, lines)
