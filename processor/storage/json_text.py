"""
JSON as text for `jsonb`, which keeps all digits of a number, but neither an exponent nor the sign of zero.

1e+300 would come back as a whole number of 301 digits. With a digit behind the point it comes back as the double that
it was. Whole numbers stay whole.
"""

import json
import re
from decimal import Decimal
from typing import Any

#: A string, which is left as it is, or a number that Python writes with a positive exponent. Such a number is whole.
_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]++|\\.)*+"|-?\d[\d.]*e\+\d+')


def dumps(value: Any) -> str:
    """Return a value as JSON from which `jsonb` returns the same value, with 0.0 for -0.0."""
    text = json.dumps(value, separators=(",", ":"))
    return _STRING_OR_NUMBER.sub(_with_point, text) if "e+" in text else text


def _with_point(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith('"') else f"{Decimal(text):f}.0"
