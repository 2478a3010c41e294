"""
Accounts: how to reach the person behind one. Each client has its own.
"""

import re
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, Field

from api.services import Call
from api.web.auth import CLIENTS
from api.web.fields import ID_PATTERN, Body
from api.web.problems import Invalid, NotFound
from api.web.routing import Answer, AnswerDoc, Routes
from processor.clients import accounts

#: An address as mail can carry it anywhere: a dot-atom (RFC 5322, 3.2.3), and the name of a host.
EMAIL_PATTERN: Final = (
    r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
)
#: The longest address that mail can carry (RFC 5321, 4.5.3.1.3 without its brackets), in characters.
EMAIL_CHARACTERS_MAX: Final = 254
#: The longest part before the @ (RFC 5321, 4.5.3.1.1), in characters.
LOCAL_CHARACTERS_MAX: Final = 64

_ID = re.compile(ID_PATTERN)

routes = Routes("Accounts")


class Account(BaseModel):
    """The e-mail address of an account."""

    account: str
    email: str | None
    updated_at: AwareDatetime


class Contact(Body):
    """How to reach the person behind an account."""

    email: (
        Annotated[
            str,
            Field(
                min_length=3,
                max_length=EMAIL_CHARACTERS_MAX,
                pattern=EMAIL_PATTERN,
                examples=["ada@example.com"],
            ),
        ]
        | None
    ) = Field(description="Also told by e-mail what becomes of its requests; null: no more.")


@routes.add(
    "PUT",
    "/v1/accounts/<account>",
    roles=CLIENTS,
    body=Contact,
    answers={200: AnswerDoc("As it is now.", Account)},
)
def put_account(call: Call, account: str) -> Answer:
    """
    Set the e-mail address of an account.

    Of your own client's account of that name: another client's is another one. The address before, if it was
    another, is told of the change by e-mail, with the new one masked.
    """
    if not _ID.fullmatch(account):
        raise Invalid.at("", f"the name of the account must match {ID_PATTERN}")
    body: Contact = call.body
    if body.email is not None and body.email.index("@") > LOCAL_CHARACTERS_MAX:
        raise Invalid.at("/email", f"must have at most {LOCAL_CHARACTERS_MAX} characters before the @")
    with call.services.connection() as connection:
        changed = accounts.set_email(connection, account, body.email, call.caller)
    call.services.doorbell.notify_couriers()
    return Answer(changed.document())


@routes.add(
    "GET",
    "/v1/accounts/<account>",
    roles=CLIENTS,
    answers={200: AnswerDoc("As it is now.", Account)},
    problems=(NotFound,),
)
def get_account(call: Call, account: str) -> Answer:
    """
    Read the e-mail address of an account.

    Of your own client's account of that name, once one was set.
    """
    found = None
    if _ID.fullmatch(account):
        with call.services.connection() as connection:
            found = accounts.read(connection, call.caller.client, account)
    if found is None:
        raise NotFound("nothing is known of this account")
    return Answer(found.document())
