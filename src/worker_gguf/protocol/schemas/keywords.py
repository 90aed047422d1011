"""What a keyword of JSON Schema may hold here, apart from the schemas in it: one function for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from worker_gguf.protocol.schemas.cost import MOST_MULTIPLE, digits_of
from worker_gguf.protocol.schemas.fault import Refused
from worker_gguf.protocol.schemas.patterns import FORMATS, SAME_AS_ANY, PatternFault, rewritten

__all__ = ["CHECKS", "UNSUPPORTED", "is_neutral"]

Schema = dict[str, Any]

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
# Above this, neighbouring integers are the same number for a parser that reads all numbers as floats.
_MOST_EXACT = 2**53
# Each decimal number with so many digits is another float.
_FLOAT_DIGITS = 15
_MOST_LENGTH = 1_000_000
_MOST_OPTIONAL = 50
_LEAST_MULTIPLE = 1e-6
_ESCAPED = frozenset("\b\f\n\r\t")
_OWN_FORMATS = frozenset({"duration", "ipv4", "ipv6", "uri", "uuid"})

UNSUPPORTED: Mapping[str, str] = {
    "$dynamicRef": "is not supported; use $ref",
    "$recursiveRef": "is not supported; use $ref",
    "contains": "is not supported",
    "dependencies": "is not supported; use anyOf",
    "dependentRequired": "is not supported; use anyOf",
    "dependentSchemas": "is not supported; use anyOf",
    "else": "is not supported; use anyOf",
    "if": "is not supported; use anyOf",
    "maxContains": "is not supported",
    "minContains": "is not supported",
    "not": "is not supported; list what is allowed",
    "propertyNames": "is not supported; use patternProperties with additionalProperties false",
    "then": "is not supported; use anyOf",
    "unevaluatedItems": "is not supported; use items",
    "unevaluatedProperties": "is not supported; use additionalProperties",
    "uniqueItems": "is not supported",
}


def is_neutral(keyword: str, schema: Schema) -> bool:
    """Return whether an unsupported keyword allows every value where it stands, so that it can be left out."""
    value = schema[keyword]
    match keyword:
        case "unevaluatedItems" | "unevaluatedProperties" | "propertyNames":
            return value is True or bool(value == {})
        case "not" | "uniqueItems":
            return value is False
        case "minContains" | "maxContains":
            return "contains" not in schema
        case "dependencies" | "dependentRequired" | "dependentSchemas":
            return bool(value == {})
        case "if":
            return not schema.keys() & {"then", "else"}
        case "then" | "else":
            return "if" not in schema
    return False


def _type(schema: Schema) -> None:
    names = schema["type"]
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list) or not listed or any(name not in _TYPES for name in listed):
        raise Refused(f"must be one or a list of {', '.join(_TYPES)}")


def _enum(schema: Schema) -> None:
    if not isinstance(schema["enum"], list) or not schema["enum"]:
        raise Refused("must be a list that is not empty")
    for value in schema["enum"]:
        _check_constant(value)


def _const(schema: Schema) -> None:
    _check_constant(schema["const"])


def _check_constant(value: object) -> None:
    for part in _leaves(value):
        if isinstance(part, str) and any((char < " " and char not in _ESCAPED) or char == "\x7f" for char in part):
            raise Refused("has a control character that answers never contain")
        if isinstance(part, int | float) and not isinstance(part, bool):
            _check_exact(part)


def _leaves(value: object) -> Iterator[object]:
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, dict | list):
            todo += part.values() if isinstance(part, dict) else part
        else:
            yield part


def _check_exact(number: float) -> None:
    if abs(number) > _MOST_EXACT:
        raise Refused("has a number above 2^53, which not every parser keeps")


def _bound(name: str) -> Callable[[Schema], None]:
    """A bound beyond 2^53 becomes 2^53, because larger numbers are not written exactly."""

    def check(schema: Schema) -> None:
        number = _number(schema[name])
        outward = number if "max" in name.lower() else -number
        if outward < -_MOST_EXACT:
            raise Refused("leaves only numbers beyond 2^53, which not every parser keeps")
        if outward > _MOST_EXACT:
            schema[name] = _MOST_EXACT if "max" in name.lower() else -_MOST_EXACT

    return check


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused("must be a number")
    if isinstance(value, int) and abs(value) >= 10**300:
        raise Refused("is too large a number")
    return value


def _multiple_of(schema: Schema) -> None:
    number = _number(schema["multipleOf"])
    if number <= 0:
        raise Refused("must be more than 0")
    exact = Fraction(str(number)) if number >= _LEAST_MULTIPLE else None
    if exact is None or (digits := digits_of(exact)) > MOST_MULTIPLE:
        raise Refused(f"has digits above {MOST_MULTIPLE}, which takes too long to compile")
    # A number with more digits than a float has is read as a neighbour of it, which need not be a multiple.
    most = _MOST_EXACT if exact.denominator == 1 else 10**_FLOAT_DIGITS * exact // digits
    if not schema.keys() & {"maximum", "exclusiveMaximum"}:
        schema["maximum"] = int(most)
    if not schema.keys() & {"minimum", "exclusiveMinimum"}:
        schema["minimum"] = -int(most)


def _count(name: str) -> Callable[[Schema], None]:
    def check(schema: Schema) -> None:
        value = schema[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise Refused("must be a whole number that is not negative")
        if value > _MOST_LENGTH and name.startswith("min"):
            raise Refused(f"is more than {_MOST_LENGTH}")
        # No answer is that long, so a higher limit forbids nothing more.
        schema[name] = min(value, _MOST_LENGTH)

    return check


def _properties_count(name: str) -> Callable[[Schema], None]:
    """Keys of properties that are not named may repeat in an answer, and then count once."""
    count = _count(name)

    def check(schema: Schema) -> None:
        count(schema)
        names = schema.get("properties")
        named = set(names) if isinstance(names, dict) else set()
        listed = schema.get("required")
        required = set(listed) if isinstance(listed, list) and all(isinstance(item, str) for item in listed) else set()
        is_open = schema.get("additionalProperties") is not False or bool(schema.get("patternProperties"))
        more = schema[name] - len(required)
        n_optional = len(named - required)
        if more <= 0 if name == "minProperties" else not is_open and more >= n_optional:
            del schema[name]  # it is always so
        elif name == "minProperties" and more > 1:
            raise Refused("asks for more than one property beside the required ones; name them in required")
        elif n_optional and (is_open or more != 1):
            raise Refused("is only supported when all named properties are required")
        elif n_optional > _MOST_OPTIONAL:
            raise Refused(f"chooses from more than {_MOST_OPTIONAL} optional properties")

    return check


def _pattern(schema: Schema) -> None:
    if not isinstance(schema["pattern"], str):
        raise Refused("must be a text")
    try:
        schema["pattern"] = rewritten(schema["pattern"])
    except PatternFault as fault:
        raise Refused(str(fault)) from None


def _format(schema: Schema) -> None:
    name = schema["format"]
    if not isinstance(name, str):
        raise Refused("must be a text")
    types = schema.get("type", "string")
    if types != "string" and (not isinstance(types, list) or "string" not in types):
        return  # a format such as int64 restricts no text
    if name in SAME_AS_ANY:
        del schema["format"]
    elif name in FORMATS:
        del schema["format"]
        if "pattern" in schema:
            # Both must match, and a schema has only one pattern.
            schema["allOf"] = [*schema.get("allOf", ()), {"pattern": FORMATS[name]}]
        else:
            schema["pattern"] = FORMATS[name]
    elif name not in _OWN_FORMATS:
        raise Refused(f"is none of {', '.join(sorted({*_OWN_FORMATS, *FORMATS}))}; use pattern")


def _required(schema: Schema) -> None:
    names = schema["required"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Refused("must be a list of texts")


# In the order in which they are applied: a format may become a pattern, which is then not rewritten again.
CHECKS: Mapping[str, Callable[[Schema], None]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minimum": _bound("minimum"),
    "maximum": _bound("maximum"),
    "exclusiveMinimum": _bound("exclusiveMinimum"),
    "exclusiveMaximum": _bound("exclusiveMaximum"),
    "multipleOf": _multiple_of,
    "minLength": _count("minLength"),
    "maxLength": _count("maxLength"),
    "minItems": _count("minItems"),
    "maxItems": _count("maxItems"),
    "required": _required,
    "minProperties": _properties_count("minProperties"),
    "maxProperties": _properties_count("maxProperties"),
    "pattern": _pattern,
    "format": _format,
}
