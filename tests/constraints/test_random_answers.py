"""Random schemas, and answers to each that are drawn at random: none is invalid."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tools.docs.schema_table import ByteMatcher
from worker_gguf.engine.request import Constraint
from worker_gguf.protocol.schemas.json_schema import Refused, examine

NAMES = ("a", "b", "ab", "é", "x\n", '"q"')
PATTERNS = ("^a", "b$", "^[ab]*$", "a.b", r"^\d{1,3}$", r"^\w+ \w+$", "[^a-z]", "^(a|b)c?$")
FORMATS = ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid")
NUMBERS = (-100, -2.5, -1, 0, 0.5, 1, 3, 7, 100)
TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


class Schemas:
    """Makes schemas. Most keywords stand where their type allows them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def schema(self, depth: int = 0) -> Any:
        if depth and self.random.random() < 0.05:
            return self.random.choice((True, False, {}))
        kind = self.random.choice(TYPES if depth < 3 else TYPES[1:5])
        found: dict[str, Any] = {"type": kind if self.random.random() < 0.8 else [kind, self.random.choice(TYPES[1:5])]}
        match kind:
            case "string":
                found |= self.some(minLength=lambda: self.below(4), maxLength=lambda: 4 + self.below(40))
                found |= self.some(0.2, pattern=lambda: self.random.choice(PATTERNS))
                found |= self.some(0.2, format=lambda: self.random.choice(FORMATS))
            case "integer" | "number":
                found |= self.some(minimum=self.number, maximum=self.number, exclusiveMaximum=self.number)
                found |= self.some(0.2, multipleOf=lambda: self.random.choice((1, 2, 5, 0.5)))
            case "array":
                found |= self.some(0.7, items=lambda: self.schema(depth + 1), maxItems=lambda: 1 + self.below(3))
                found |= self.some(prefixItems=lambda: [self.schema(depth + 1)], minItems=lambda: self.below(3))
            case "object":
                names = self.random.sample(NAMES, 3)
                found["properties"] = {name: self.schema(depth + 1) for name in names}
                found |= self.some(required=lambda: names[:2], patternProperties=lambda: {"^z": self.schema(depth + 1)})
                found |= self.some(0.6, additionalProperties=lambda: self.schema(depth + 2))
        if depth < 2:
            several = ("anyOf", "oneOf", "allOf")
            found |= self.some(
                0.1, **{name: lambda: [self.schema(depth + 2), self.schema(depth + 2)] for name in several}
            )
        return found

    def some(self, chance: float = 0.3, **keywords: Any) -> dict[str, Any]:
        return {name: make() for name, make in keywords.items() if self.random.random() < chance}

    def below(self, limit: int) -> int:
        return self.random.randrange(limit)

    def number(self) -> float:
        return self.random.choice(NUMBERS)


@pytest.mark.parametrize("seed", range(8))
def test_no_answer_is_invalid(seed: int) -> None:
    schemas = Schemas(seed)
    n_answers = 0
    for _ in range(60):
        schema = schemas.schema()
        try:
            examined = examine(schema)
            matcher = ByteMatcher(Constraint("json_schema", json.dumps(examined.schema)))
        except (Refused, ValueError):
            continue
        if examined.faults:
            continue
        valid = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for answer in filter(None, (matcher.draw(schemas.random) for _ in range(4))):
            n_answers += 1
            errors = [error.message for error in valid.iter_errors(json.loads(answer))]
            assert errors == [], f"{answer} for {json.dumps(schema)}"
    assert n_answers > 30
