"""
Accounts: the e-mail address of each. An account belongs to its client.
"""

import re
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, Field

from api.services import Call
from api.web.fields import ID_PATTERN, Body
from api.web.problems import Invalid, NotFound
from api.web.routing import Answer, AnswerDoc, Routes
from processor.clients import accounts
from processor.domain.roles import CLIENTS

#: An address that every mail system accepts: a dot-atom (RFC 5322, 3.2.3), and the name of a host.
EMAIL_PATTERN: Final = (
    r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$"
)
#: The longest address in mail (RFC 5321, 4.5.3.1.3, without the brackets).
EMAIL_CHARACTERS_MAX: Final = 254
#: The longest part before the @ (RFC 5321, 4.5.3.1.1).
LOCAL_CHARACTERS_MAX: Final = 64

_ID = re.compile(ID_PATTERN)

routes = Routes("Accounts")


class Account(BaseModel):
    """The e-mail address of an account."""

    account: str
    email: str | None
    updated_at: AwareDatetime
    codes_to_previous_until: AwareDatetime | None = Field(
        description="Until then, codes that confirm requests go to the address before the last changes."
    )


class Contact(Body):
    """The address for notifications about the requests of an account."""

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
    ) = Field(description="Receives an e-mail when a request of the account is final; null: no e-mails.")


@routes.add(
    "PUT",
    "/v1/accounts/<account>",
    roles=CLIENTS,
    body=Contact,
    answers={200: AnswerDoc("The account with its new address.", Account)},
)
def put_account(call: Call, account: str) -> Answer:
    """
    Set the e-mail address of an account.

    Applies to your client's account of that name; other clients may have accounts of the same name. A previous
    address is notified of the change by e-mail, in which the new address is masked. For a day after a change, codes
    that confirm requests still go to the address before. Further changes within the day prolong it.
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
    answers={200: AnswerDoc("The account.", Account)},
    problems=(NotFound,),
)
def get_account(call: Call, account: str) -> Answer:
    """
    Read the e-mail address of an account.

    Applies to your client's account of that name, if its address was ever set.
    """
    found = None
    if _ID.fullmatch(account):
        with call.services.connection() as connection:
            found = accounts.read(connection, call.caller.client, account)
    if found is None:
        raise NotFound("there is no such account, or its address was never set")
    return Answer(found.document())
