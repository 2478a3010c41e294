"""
Arguments that several commands take.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from typing import Any


class _Identifier(click.ParamType):
    """The id of a resource, an account or a client."""

    name = "id"
    _form = re.compile(r"[A-Za-z0-9._:~@-]{1,128}", re.ASCII)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        if not self._form.fullmatch(str(value)):
            self.fail("an id has 1 to 128 of A-Za-z0-9._:~@-", parameter, context)
        return str(value)


class _Reason(click.ParamType):
    """Why; kept in the audit."""

    name = "text"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        text = str(value).strip()
        if not 1 <= len(text) <= REASON_CHARACTERS_MAX or not text.isprintable():
            self.fail(f"a reason has 1 to {REASON_CHARACTERS_MAX} printable characters", parameter, context)
        return text


#: A reason has at most so many characters.
REASON_CHARACTERS_MAX: Final = 1_024

IDENTIFIER: Final = _Identifier()
REASON: Final = _Reason()
