"""The JSON Schema of one tool, of whose parts grammars need to know the same things again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

from worker_gguf.errors import InvalidRequest
from worker_gguf.markup.offer import Types
from worker_gguf.markup.schema_keywords import Schema, target

__all__ = ["Bounds", "ToolSchema", "size", "too_complex"]

# References that lead to references.
_MAX_DEPTH = 16
# What all questions about one tool may cost, in keywords and texts that are looked at.
_MOST_STEPS = 200_000
# No answer has a text of more characters.
_LONGEST = 10_000_000
# Characters of JSON that cost as much as one step.
_CHARACTERS_OF_STEP = 16


T = TypeVar("T")
# By the identity of a part, which is kept so that no other can have it. None stands for an answer that is being looked
# for.
_Answers: TypeAlias = dict[int, tuple[Schema, tuple[T] | None]]


class Bounds(NamedTuple):
    """The least and the largest length of a text, None for no limit."""

    least: int
    most: int | None


class ToolSchema:
    """The schema of a tool, in which references are looked up.

    It answers each question about one part only once, so no part must change. Raises InvalidRequest if there are too
    many to answer, or a part leads to itself.
    """

    def __init__(self, root: Schema) -> None:
        self.root = root
        self._types = Types(root)
        self._n_left = _MOST_STEPS
        self._merged: _Answers[Schema] = {}
        self._texts: _Answers[tuple[str, ...] | None] = {}
        self._bounds: _Answers[Bounds | None] = {}

    def count(self, n_steps: int = 1, *, n_characters: int = 0) -> None:
        """Count what a question costs. Raises InvalidRequest if all of them cost too much."""
        self._n_left -= n_steps + n_characters // _CHARACTERS_OF_STEP
        if self._n_left < 0:
            raise too_complex()

    def types(self, schema: object) -> frozenset[str]:
        """Return the JSON types that a part allows, by the keywords that name types or values."""
        return self._types.of(schema)

    def resolved(self, schema: object) -> Schema:
        """Return the schema that a reference leads to, with the keywords beside it; {} for one of any value."""
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, Mapping) or not isinstance(reference := schema.get("$ref"), str):
                break
            found = target(reference, self.root)
            beside = {key: value for key, value in schema.items() if key != "$ref"}
            if not isinstance(found, Mapping):
                schema = beside
            elif beside:
                schema = dict(found)
                self.count(len(found))
                self._add(schema, beside)
            else:
                self.count()
                schema = found  # the same each time
        return schema if isinstance(schema, Mapping) else {}

    def merged(self, schema: object) -> Schema:
        """Return a part without references and "allOf": the keywords of all of them, the later before the earlier."""
        own = self.resolved(schema)
        if not isinstance(own.get("allOf"), list):
            return own
        return _once(self._merged, own, self._all_of)

    def _all_of(self, own: Schema) -> Schema:
        result: dict[str, Any] = {key: value for key, value in own.items() if key != "allOf"}
        for one in own["allOf"]:
            self.count()
            self._add(result, self.merged(one))
        return result

    def _add(self, result: dict[str, Any], more: Schema) -> None:
        """Add the keywords of another schema that describes the same value."""
        for key, value in more.items():
            present = result.get(key)
            self.count(1 + sum(len(one) for one in (present, value) if isinstance(one, Mapping | list)))
            if isinstance(present, Mapping) and isinstance(value, Mapping):
                result[key] = {**present, **value}
            elif key == "required" and isinstance(present, list) and isinstance(value, list):
                result[key] = list(dict.fromkeys(map(str, [*present, *value])))
            elif key == "allOf" and isinstance(present, list) and isinstance(value, list):
                result[key] = [*present, *value]
            else:
                result[key] = value

    def texts(self, schema: object) -> tuple[str, ...] | None:
        """Return all texts that a part allows if it lists them, else None. The part must allow texts."""
        return _once(self._texts, self.merged(schema), self._texts_of)

    def _texts_of(self, own: Schema) -> tuple[str, ...] | None:
        if "const" in own:
            return (own["const"],) if isinstance(own["const"], str) else ()
        if isinstance(own.get("enum"), list):
            return tuple(value for value in own["enum"] if isinstance(value, str))
        found: dict[str, None] = {}
        options = _options(own)
        for option in options or ():
            if "string" in self.types(option):
                texts = self.texts(option)
                if texts is None:
                    return None
                self.count(len(texts))
                found.update(dict.fromkeys(texts))
        return None if options is None else tuple(found)

    def text_bounds(self, schema: object) -> Bounds | None:
        """Return the bounds of a text's length, the widest of those in "anyOf" and "oneOf"; None if there are none."""
        return _once(self._bounds, self.merged(schema), self._text_bounds)

    def _text_bounds(self, own: Schema) -> Bounds | None:
        least, most = size(own.get("minLength")) or 0, size(own.get("maxLength"))
        options = _options(own)
        if options is not None:
            self.count(len(options))
            found = [self.text_bounds(one) for one in options if "string" in self.types(one)]
            bounds = [one for one in found if one is not None]
            if bounds and len(bounds) == len(found):
                least = max(least, min(one.least for one in bounds))
                mosts = [one.most for one in bounds if one.most is not None]
                if len(mosts) == len(bounds):
                    most = min(max(mosts), max(mosts) if most is None else most)
        if most is not None and most > _LONGEST:
            most = None
        return None if (least, most) == (0, None) else Bounds(least, most)


def _once(answers: _Answers[T], part: Schema, find: Callable[[Schema], T]) -> T:
    """Answer a question about a part with `find`, but only once. Raises InvalidRequest if the part leads to itself."""
    known = answers.get(id(part))
    if known is None:
        answers[id(part)] = (part, None)
        known = answers[id(part)] = (part, (find(part),))
    if known[1] is None:
        raise too_complex()
    return known[1][0]


def too_complex() -> InvalidRequest:
    return InvalidRequest("The schema of a tool is too complex: its parts use each other too often.", param="tools")


def size(value: object) -> int | None:
    """Return the value of a keyword such as "minLength"; None if it has none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _options(schema: Schema) -> list[object] | None:
    options = schema.get("anyOf", schema.get("oneOf"))
    return options if isinstance(options, list) else None
