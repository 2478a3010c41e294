"""
One-time codes: a client has one sent to a person, who enters it once.

The code itself appears in no answer, address or log. It is sent to its destination alone.
"""

from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, Field

from api.services import Call
from api.v1.accounts import EMAIL_CHARACTERS_MAX, EMAIL_PATTERN, LOCAL_CHARACTERS_MAX
from api.web import problems
from api.web.fields import Body, optional
from api.web.problems import Invalid
from api.web.routing import Answer, AnswerDoc, Routes
from processor.clients import codes
from processor.clients.codes import CodeCooldown, CodeInvalid, CodeLocked
from processor.domain.roles import CLIENTS

routes = Routes("Codes")

problems.declare(
    CodeInvalid.code,
    status=422,
    title="The code is not valid",
    explanation="The code is wrong, used or expired, or a newer one has replaced it.",
    remedy="attempts_remaining is how often the current code may still be tried. At 0, ask for a new one.",
    members=("attempts_remaining",),
)
problems.declare(
    CodeCooldown.code,
    status=429,
    title="A code was sent a moment ago",
    explanation="Each destination gets at most one code in TELLER_CODE_COOLDOWN_SECONDS, from all clients together. "
    "Nothing was sent.",
    remedy="Use the code that was sent, or try again after Retry-After seconds.",
)
problems.declare(
    CodeLocked.code,
    status=429,
    title="Locked for today",
    explanation="There were too many wrong codes for this destination today (UTC), or for this request. Until "
    "tomorrow your client can neither verify a code there nor ask for one. A request is cancelled when its last code "
    "expires.",
    remedy="Try again after Retry-After seconds.",
)


class CodeSent(BaseModel):
    """A one-time code that will be sent."""

    destination: str = Field(description="The destination in lower case, as the code is sent to it.")
    expires_at: AwareDatetime
    resend_after: AwareDatetime = Field(
        description="The time from which the destination can get the next one."
    )


class CodeVerified(BaseModel):
    """A one-time code that was right."""

    verified: Literal[True]


#: A telephone number in the form of E.164.
PHONE_PATTERN: Final = r"\+[1-9][0-9]{6,14}"
#: A purpose has no control characters.
PURPOSE_PATTERN: Final = r"^[^\x00-\x1f\x7f]{1,128}$"
#: The name of the gateway that sends text messages, if one is set up.
SMS: Final = "sms"

Destination = Annotated[
    str,
    Field(
        min_length=3,
        max_length=EMAIL_CHARACTERS_MAX,
        pattern=f"^({EMAIL_PATTERN[1:-1]}|{PHONE_PATTERN})$",
        examples=["ada@example.com"],
        description=f"An e-mail address, or a telephone number (E.164) where there is a gateway named `{SMS}`.",
    ),
]
Purpose = Annotated[str, Field(pattern=PURPOSE_PATTERN, examples=["sign-in"])]
Code = Annotated[str, Field(pattern=r"^[0-9]{6}$", examples=["493817"])]


class CodeDestination(Body):
    """The destination of a one-time code."""

    destination: Destination
    purpose: Purpose = optional(
        "Codes of different purposes are independent. Left out: a purpose without a name."
    )


class CodeAttempt(Body):
    """The code that a person entered."""

    destination: Destination
    purpose: Purpose = optional("The purpose for which the code was sent.")
    code: Code


@routes.add(
    "POST",
    "/v1/codes",
    roles=CLIENTS,
    body=CodeDestination,
    answers={202: AnswerDoc("The code will be sent.", CodeSent)},
    problems=(CodeCooldown, CodeLocked),
)
def ask_for_code(call: Call) -> Answer:
    """
    Send a one-time code.

    The code has six digits. Each destination gets at most one code in `TELLER_CODE_COOLDOWN_SECONDS`, from all
    clients together. The new code replaces your client's last one for the same destination and purpose.
    """
    body: CodeDestination = call.body
    _refuse_unreachable(call, body.destination)
    with call.services.connection() as connection:
        code = codes.request_code(
            connection, call.services.settings, call.caller.client, body.destination, body.purpose or ""
        )
    call.services.doorbell.notify_couriers()
    return Answer(code.document(), 202)


@routes.add(
    "POST",
    "/v1/codes/verify",
    roles=CLIENTS,
    body=CodeAttempt,
    answers={200: AnswerDoc("The code was right, and is used now.", CodeVerified)},
    problems=(CodeInvalid, CodeLocked),
)
def verify_code(call: Call) -> Answer:
    """
    Verify a one-time code.

    A code can be verified once. After that it is invalid, like a code that is wrong, expired or replaced. Wrong
    codes are counted.
    """
    body: CodeAttempt = call.body
    _refuse_unreachable(call, body.destination)
    with call.services.connection() as connection:
        codes.verify(
            connection,
            call.services.settings,
            call.caller.client,
            body.destination,
            body.purpose or "",
            body.code,
        )
    return Answer({"verified": True})


def _refuse_unreachable(call: Call, destination: str) -> None:
    if "@" not in destination:
        if SMS not in call.services.gateways:
            raise Invalid.at("/destination", f"is not an e-mail address, and there is no gateway named {SMS}")
    elif destination.index("@") > LOCAL_CHARACTERS_MAX:
        raise Invalid.at("/destination", f"must have at most {LOCAL_CHARACTERS_MAX} characters before the @")
