"""
From bytes to a checked model. Input that is not JSON is a 400, and JSON of the wrong shape is a 422.

JSON follows RFC 8259 with the limits of I-JSON (RFC 7493). A name occurs once in an object, and there are no lone
surrogates. NUL and numbers that no double can hold are refused, and the depth is limited.

The time of every check grows with the size of the input at most (tests/unit/test_linear_time.py).
"""

import itertools
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import parse_qs
from uuid import UUID

from pydantic import BaseModel, ValidationError

from api.web.problems import Invalid, Malformed, NotFound

#: The depth to which objects and arrays nest.
DEPTH_MAX = 32
#: The depth of a body that the parser reads, in levels. The parser recurses on the stack of its thread.
DEPTH_PARSED_MAX = 256
#: The values of one body. No body of a single request has more: its metadata and texts are too small for them.
VALUES_MAX = 16_384
#: The bytes of one step of counting values. Most bodies of too many values are refused after the first.
COUNTED_BYTES = 64 * 1024
#: The digits of a whole number that is certainly within the range of a double.
DIGITS_SURE_TO_FIT = 308
#: The significant digits with which each double can be written. A number of more digits must be that of a double.
DOUBLE_DIGITS = 17
#: The mistakes that one answer names.
ERRORS_MAX = 50
#: The parameters of one query.
QUERY_FIELDS_MAX = 100
#: The characters of a name from the body that an error repeats.
ECHO_CHARACTERS_MAX = 64

_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")
#: JSON whose escapes give no NUL and no lone surrogate. A surrogate pair counts as one escape.
_STORABLE_ESCAPES = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?!0000|[dD][89a-fA-F])....|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+", re.DOTALL
)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NONZERO = re.compile(r"-?[0.]*+[1-9]")
_EXPONENT = re.compile(r"[eE].*", re.DOTALL)
_BRACKETS = b"[{]}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
#: Each bracket as the change of the depth, as a signed byte.
_DEPTH_CHANGES = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")
_TOO_DEEP = f"nests deeper than {DEPTH_MAX} levels"
_NOT_STORABLE = "must hold no NUL and no lone surrogate"

Model = TypeVar("Model", bound=BaseModel)


def parse_json(raw: bytes, *, values_max: int | None = VALUES_MAX) -> Any:
    """
    Parse a body of at most `values_max` values, or of any number if that is None.

    Values are counted in the bytes, with the commas and brackets in strings. Raises Malformed if it is not JSON.
    Raises Invalid if it has too many values, or if it is JSON that cannot be stored and returned unchanged.
    """
    # Depth needs many brackets, and a surrogate needs an escape, so most bodies need no further check.
    if values_max is not None and _has_more_values(raw, values_max):
        raise Invalid.at("", f"holds more than {values_max:,} values")
    depth = _depth_of(raw) if raw.count(b"{") + raw.count(b"[") > DEPTH_MAX else 0
    try:
        text = raw.decode()
        if depth > DEPTH_PARSED_MAX:
            raise Invalid.at("", _TOO_DEEP)
        parsed = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    except json.JSONDecodeError as fault:
        raise Malformed(
            f"the body is not JSON: {fault.msg}, line {fault.lineno} column {fault.colno}"
        ) from None
    if depth > DEPTH_MAX or (b"\\u" in raw and not _STORABLE_ESCAPES.fullmatch(raw)):
        _refuse_first_fault(parsed)
    return parsed


def validate(model: type[Model], parsed: Any) -> Model:
    """Check a parsed body. Raises Invalid with a JSON pointer to each mistake."""
    try:
        return model.model_validate(_with_few_unknown(model, parsed))
    except ValidationError as fault:
        raise Invalid([explain(error) for error in fault.errors(include_url=False)[:ERRORS_MAX]]) from None


def _with_few_unknown(model: type[BaseModel], parsed: Any) -> Any:
    """Return a body with at most as many unknown names as an answer names. Each unknown name costs an error."""
    declared = model.model_fields
    if (
        not isinstance(parsed, dict)
        or len(parsed) <= len(declared) + ERRORS_MAX
        or model.model_config.get("extra") != "forbid"
    ):
        return parsed
    named = set(itertools.islice((name for name in parsed if name not in declared), ERRORS_MAX))
    return {name: value for name, value in parsed.items() if name in declared or name in named}


def read_id(text: str, noun: str) -> UUID:
    """Return the id of a noun in an address. Raises NotFound for any other text."""
    try:
        found = UUID(text)
    except ValueError:
        raise NotFound(f"there is no such {noun}") from None
    if str(found) != text.lower():
        raise NotFound(f"there is no such {noun}")
    return found


def split_query(text: str, *, keep_blank: bool = True) -> dict[str, list[str]]:
    """Return the values of each query parameter. Raises Invalid if there are too many."""
    if not text:
        return {}
    try:
        return parse_qs(text, keep_blank_values=keep_blank, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise Invalid.at("", f"has more than {QUERY_FIELDS_MAX} query parameters") from None


def parse_query(model: type[Model], values: Mapping[str, list[str]]) -> Model:
    """Check query parameters, each given once. Raises Invalid, which names the parameter."""
    repeated = [name for name, found in values.items() if len(found) > 1]
    if repeated:
        raise Invalid([_query_error(name, "is given more than once") for name in repeated[:ERRORS_MAX]])
    try:
        return model.model_validate({name: found[0] for name, found in values.items()})
    except ValidationError as fault:
        errors = (explain(error) for error in fault.errors(include_url=False)[:ERRORS_MAX])
        raise Invalid([_query_error(error["pointer"][1:], error["detail"]) for error in errors]) from None


def _query_error(name: str, detail: str) -> dict[str, str]:
    return {"pointer": f"/{name}", "detail": f"query parameter {name[:ECHO_CHARACTERS_MAX]} {detail}"}


def explain(error: Any) -> dict[str, str]:
    """Return a mistake that pydantic found as a pointer (RFC 6901) and a sentence."""
    pointer = "".join(f"/{_escape(part)}" for part in error["loc"])
    match error["type"]:
        case "extra_forbidden":
            detail = "is unknown"
        case "missing":
            detail = "is required"
        case "value_error":
            detail = str(error["ctx"]["error"])
        case "model_type" | "dict_type" | "model_attributes_type":
            detail = "must be an object"
        case "string_pattern_mismatch":
            detail = f"must match {error['ctx']['pattern']}"
        case _:
            detail = error["msg"].replace("Input should", "must").replace("String should", "must")
    return {"pointer": pointer, "detail": detail}


def _escape(part: int | str) -> str:
    text = str(part)[:ECHO_CHARACTERS_MAX]
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text).replace("~", "~0").replace("/", "~1")


def _has_more_values(raw: bytes, limit: int) -> bool:
    """Return whether the commas and opening brackets are more than that."""
    count = 0
    for start in range(0, len(raw) if len(raw) > limit else 0, COUNTED_BYTES):
        part = raw[start : start + COUNTED_BYTES]
        count += part.count(b",") + part.count(b"[") + part.count(b"{")
        if count > limit:
            return True
    return False


def _depth_of(raw: bytes) -> int:
    """Return the depth of a body. For a body that is not JSON, it is the depth up to its first mistake, or more."""
    changes = array("b", _STRING.sub(b"", raw).translate(_DEPTH_CHANGES, _NO_BRACKETS))
    return max(itertools.accumulate(changes), default=0)


def _refuse_first_fault(parsed: Any) -> None:
    """Raise Invalid for the first value that is too deep, or that holds NUL or a lone surrogate."""
    if fault := _find_fault([parsed], DEPTH_MAX + 1):
        detail, (*path, _) = fault
        raise Invalid.at("".join(f"/{_escape(name)}" for name in reversed(path)), detail)


def _find_fault(value: dict[str, Any] | list[Any], depth: int) -> tuple[str, list[str | int]] | None:
    """Return the sentence and the path, innermost name first. Returns None if there is no fault."""
    if depth == 0:
        return _TOO_DEEP, []
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(name, str) and _UNSTORABLE.search(name):
            return _NOT_STORABLE, [name]
        if isinstance(inner, str) and _UNSTORABLE.search(inner):
            return _NOT_STORABLE, [name]
        if isinstance(inner, (dict, list)) and (fault := _find_fault(inner, depth - 1)):
            fault[1].append(name)
            return fault
    return None


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Invalid.at("", f"names {_escape(_first_repeated(pairs))} twice in one object")
    return found


def _first_repeated(pairs: list[tuple[str, Any]]) -> str:
    """Return the first name that occurs again."""
    times = Counter(name for name, _ in pairs)
    return next(name for name, _ in pairs if times[name] > 1)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Invalid.at("", "holds a number that is too large")
    return number


def _fraction(digits: str) -> float:
    """Return a number with a point or an exponent. Raises Invalid if it would come back as another number."""
    number = _finite(digits)
    if not number and _NONZERO.match(digits):
        raise Invalid.at("", "holds a number that is too close to zero")
    if _significant(digits) > DOUBLE_DIGITS and Decimal(digits) != Decimal(repr(number)):
        raise Invalid.at(
            "",
            f"holds a number with more than {DOUBLE_DIGITS} digits and a point or exponent: send it as text",
        )
    return number


def _significant(digits: str) -> int:
    """Return the number of digits from the first to the last that is not zero. For few digits it is 0."""
    if len(digits) <= DOUBLE_DIGITS:
        return 0
    return len(_EXPONENT.sub("", digits).lstrip("-").replace(".", "").strip("0"))


def _whole(digits: str) -> int:
    if len(digits) > DIGITS_SURE_TO_FIT:
        _finite(digits)
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise Malformed(f"the body is not JSON: {name} is not a number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once_each, parse_float=_fraction, parse_int=_whole, parse_constant=_refuse_constant
)
