"""
From bytes to a checked model. Input that is not JSON is a 400, and JSON of the wrong shape is a 422.

JSON follows RFC 8259 with the limits of I-JSON (RFC 7493). A name occurs once in an object, and there are no lone
surrogates. NUL and numbers beyond the range of a double are refused, and the depth is limited.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from api.web.problems import Invalid, Malformed, NotFound

#: The depth to which objects and arrays nest.
DEPTH_MAX = 32
#: The digits of a whole number that is certainly within the range of a double.
DIGITS_SURE_TO_FIT = 308
#: The mistakes that one answer names.
ERRORS_MAX = 50
#: The characters of a name from the body that an error repeats.
ECHO_CHARACTERS_MAX = 64

_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")

Model = TypeVar("Model", bound=BaseModel)


def parse_json(raw: bytes) -> Any:
    """
    Parse a body.

    Raises Malformed if it is not JSON, and Invalid if it is JSON that cannot be stored and returned unchanged.
    """
    try:
        parsed = _DECODER.decode(raw.decode())
    except UnicodeDecodeError:
        raise Malformed("the body is not UTF-8") from None
    except json.JSONDecodeError as fault:
        raise Malformed(
            f"the body is not JSON: {fault.msg}, line {fault.lineno} column {fault.colno}"
        ) from None
    except RecursionError:
        raise Invalid.at("", f"nests deeper than {DEPTH_MAX} levels") from None
    # Most bodies can have neither: a surrogate needs an escape, and depth needs many brackets.
    if b"\\u" in raw or (raw.count(b"{") + raw.count(b"[") > DEPTH_MAX and _is_deeper(parsed, DEPTH_MAX)):
        _inspect(parsed, "", DEPTH_MAX)
    return parsed


def validate(model: type[Model], parsed: Any) -> Model:
    """Check a parsed body. Raises Invalid with a JSON pointer to each mistake."""
    try:
        return model.model_validate(parsed)
    except ValidationError as fault:
        raise Invalid([explain(error) for error in fault.errors(include_url=False)[:ERRORS_MAX]]) from None


def read_id(text: str, noun: str) -> UUID:
    """Return the id of a noun in an address. Raises NotFound for any other text."""
    try:
        found = UUID(text)
    except ValueError:
        raise NotFound(f"there is no such {noun}") from None
    if str(found) != text.lower():
        raise NotFound(f"there is no such {noun}")
    return found


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


def _is_deeper(value: Any, depth: int) -> bool:
    """
    Return whether a value nests deeper than that.

    It does not return the place, so that a long list costs little.
    """
    if depth == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_is_deeper(one, depth - 1) for one in inner if isinstance(one, (dict, list)))


def _inspect(value: Any, pointer: str, depth: int) -> None:
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            raise Invalid.at(pointer, "must hold no NUL and no lone surrogate")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise Invalid.at(pointer, f"nests deeper than {DEPTH_MAX} levels")
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            inside = f"{pointer}/{_escape(name)}"
            if isinstance(name, str):
                _inspect(name, inside, depth)
            _inspect(inner, inside, depth - 1)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid.at("", f"names {_escape(twice)} twice in one object")
    return found


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Invalid.at("", "holds a number that is too large")
    return number


def _whole(digits: str) -> int:
    if len(digits) > DIGITS_SURE_TO_FIT:
        _finite(digits)
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise Malformed(f"the body is not JSON: {name} is not a number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once_each, parse_float=_finite, parse_int=_whole, parse_constant=_refuse_constant
)
