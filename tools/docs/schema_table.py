"""The table of docs/structured-output.md: what of the JSON Schema Test Suite is guaranteed, and what is refused.

`python -m tools.docs.schema_table` runs the suite, which lies beside the repository, and writes the table.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice, permutations, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tools.docs.markdown import table
from worker_gguf.constraints.grammar import compiled_text
from worker_gguf.engine.request import Constraint
from worker_gguf.protocol.schemas.json_schema import Refused, examine

__all__ = ["PAGE", "SUITE", "ByteMatcher", "Group", "groups", "outcome", "page_with_table"]

SUITE = Path(__file__).parents[3] / "shared" / "json-schema"
PAGE = Path(__file__).parents[2] / "docs" / "structured-output.md"
_MARK, _END = "<!-- table: suite -->\n", "<!-- end -->\n"
_MOST_WRITINGS = 200

Outcome = Literal["held", "narrower", "refused", "wrong"]

NOTES = {
    "anchor": "references are paths such as `#/$defs/item`",
    "boolean_schema": "a schema that is `false` matches nothing and is refused",
    "const": "numbers up to 2^53, no control characters",
    "enum": "numbers up to 2^53, no control characters",
    "format": "the formats below, which are held here and mere notes in the tests",
    "maxProperties": "where all named properties are required, or as a choice of one",
    "minProperties": "up to one property more than the required ones",
    "multipleOf": "up to 10000, without counting zeros and the point",
    "oneOf": "where types, constants or a required property show that at most one option can match",
    "patternProperties": "where no name can match two of the patterns",
    "pattern": "without looking ahead or behind, `\\b`, and references to groups",
    "ref": "paths into the same schema, also recursive",
    "vocabulary": "`$schema` is ignored: keywords have the meaning of draft 2020-12",
}


class Group(NamedTuple):
    """A group of the suite: a schema, and instances that match it or not."""

    keyword: str
    description: str
    schema: Any
    tests: list[dict[str, Any]]


class ByteMatcher:
    """Tells whether a text matches a constraint, with a vocabulary in which each byte is a token."""

    def __init__(self, constraint: Constraint) -> None:
        """Raises ValueError with llguidance's message if the constraint cannot be used."""
        from llguidance import LLMatcher, LLParserLimits

        self._native = LLMatcher(
            _tokenizer(), compiled_text(constraint), log_level=0, limits=LLParserLimits(verbose_errors=False)
        )
        if self._native.is_error():
            raise ValueError(self._native.get_error())

    def matches(self, text: str) -> bool:
        matcher = self._native.deep_copy()
        data = list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting() and not matcher.is_error()

    def starts(self) -> bool:
        """Return whether any byte can come first."""
        matcher = self._native.deep_copy()
        mask = matcher.compute_bitmask()
        return not matcher.is_error() and any(mask)

    def draw(self, chance: random.Random, most: int = 300) -> str | None:
        """Draw a text that matches, byte by byte, or return None if it would be too long."""
        matcher = self._native.deep_copy()
        drawn: list[int] = []
        while len(drawn) < most:
            mask = int.from_bytes(matcher.compute_bitmask(), "little")
            allowed = [byte for byte in range(256) if mask >> byte & 1]
            if matcher.is_accepting() and (not allowed or chance.random() < 0.3):
                return bytes(drawn).decode()
            # Brackets and quotes end a text early, and plain characters are more often a whole character.
            closing = [byte for byte in allowed if byte in b'"]}']
            plain = [byte for byte in allowed if 32 <= byte < 127]
            drawn.append(chance.choice(closing if closing and chance.random() < 0.3 else plain or allowed))
            if not matcher.consume_token(drawn[-1]):
                raise ValueError(matcher.get_error())
        return None


def groups(suite: Path = SUITE) -> Iterator[Group]:
    for path in sorted(suite.glob("*.json"), key=lambda path: path.stem.lower()):
        for group in json.loads(path.read_text("utf-8")):
            yield Group(path.stem, group["description"], group["schema"], group["tests"])


def outcome(group: Group) -> Outcome:
    """Hold the instances of a group to its schema.

    They match as a text, so each is tried in all orders of its keys, and with whole numbers written with and without a
    point. "narrower" means that none of these is allowed for some instance that matches.
    """
    try:
        examined = examine(group.schema)
        if examined.faults:
            return "refused"
        matcher = ByteMatcher(Constraint("json_schema", json.dumps(examined.schema)))
    except (Refused, ValueError):
        return "refused"
    found: dict[bool, list[bool]] = {True: [], False: []}
    for test in group.tests:
        found[test["valid"]].append(any(map(matcher.matches, islice(_writings(test["data"]), _MOST_WRITINGS))))
    if any(found[False]):
        return "wrong"
    return "held" if all(found[True]) else "narrower"


def page_with_table(written: str) -> str:
    """Return the page with its table made anew."""
    before, _, rest = written.partition(_MARK)
    _, _, after = rest.partition(_END)
    return f"{before}{_MARK}\n{_table()}\n{_END}{after}"


def _table() -> str:
    counts: dict[str, Counter[str]] = {}
    for group in groups():
        counts.setdefault(group.keyword, Counter())[outcome(group)] += 1
    head = ("Group of tests", "Held", "Narrower", "Refused", "Wrong", "As far as")
    rows = [
        (f"`{name}`", *(str(count[key] or "") for key in ("held", "narrower", "refused", "wrong")), NOTES.get(name, ""))
        for name, count in counts.items()
    ]
    total: Counter[str] = sum(counts.values(), Counter())
    sums = ("all", *(str(total[key]) for key in ("held", "narrower", "refused", "wrong")), "")
    return table(head, [*rows, sums])


def _writings(value: Any) -> Iterator[str]:
    """Yield the texts of a value."""
    if isinstance(value, dict):
        for keys in permutations(value):
            for parts in product(*(list(islice(_writings(value[key]), _MOST_WRITINGS)) for key in keys)):
                pairs = (
                    f"{json.dumps(key, ensure_ascii=False)}: {part}" for key, part in zip(keys, parts, strict=True)
                )
                yield "{" + ", ".join(pairs) + "}"
    elif isinstance(value, list):
        for parts in product(*(list(islice(_writings(item), _MOST_WRITINGS)) for item in value)):
            yield "[" + ", ".join(parts) + "]"
    else:
        yield json.dumps(value, ensure_ascii=False)
        if isinstance(value, float) and value.is_integer():
            yield str(int(value))


def _tokenizer() -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


class _Bytes:
    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text("utf-8")), "utf-8")
