"""Estimates what it takes to compile a JSON Schema, so that one that would take too much is refused before.

llguidance compiles a schema by recursion and copies the parts that it merges: the members of allOf, and what stands
next to anyOf, oneOf or $ref. A chain of references overflows its stack, which ends the process, and a few references
that are merged with each other can have billions of copies.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from worker_gguf.protocol.schemas.ending import check_ends
from worker_gguf.protocol.schemas.fault import Refused
from worker_gguf.protocol.schemas.references import resolved

__all__ = ["MOST_COPIES", "MOST_LEVELS", "MOST_MS", "MOST_MULTIPLE", "check_cost", "digits_of"]

# A thread's stack of 8 MB was full at 1600 levels, whatever keywords they had (llguidance 1.9.1).
MOST_LEVELS = 400
# 100,000 copies of schemas take 0.3 s and 50 MB.
MOST_COPIES = 50_000
_COPY_MS = 0.003
# The automaton of multipleOf has so many states. 10,000 take 35 ms, 100,000 take 170 ms, a million 6 s.
MOST_MULTIPLE = 10_000
# The time that a schema may take to compile, by the figures of `_own_ms`.
MOST_MS = 700.0
_UNICODE = re.compile(r"\\[pPWS]|\\x\{[0-9A-F]{3}")

Schema = Mapping[str, Any]
_MAPS = frozenset({"properties", "patternProperties"})
_INSIDE = _MAPS | {"prefixItems", "items", "additionalItems", "additionalProperties"}
_ALL = _INSIDE | {"allOf", "anyOf", "oneOf"}
_SLOW = frozenset({*_MAPS, "enum", "const", "pattern", "format", "multipleOf"})


class Cost(NamedTuple):
    """What the compiled form of a schema has: alternatives, the schemas in all of them, and a multiple of them all."""

    alternatives: int = 1
    size: int = 1
    multiple: Fraction | None = None


def check_cost(root: object) -> float:
    """Return about how long a schema takes to compile, in milliseconds.

    Raises Refused if it is nested too deeply, also by its references, or takes too long, or never ends.
    """
    found = _Found(root)
    if found.levels() > MOST_LEVELS:
        raise Refused(f"leads through more than {MOST_LEVELS} levels of schemas, with all its references")
    own_ms = sum(map(_own_ms, found.schemas))
    if own_ms > MOST_MS:
        raise Refused("would take too long to compile; use fewer properties, structured constants and long patterns")
    check_ends(root, found.schemas)
    costs = _Costs(root)
    cost = _largest(costs.of(schema, merged=False) for schema in found.schemas)
    if cost.size > MOST_COPIES:
        raise Refused("is merged with too many other schemas: allOf, anyOf, oneOf and $ref multiply each other here")
    if cost.multiple is not None and digits_of(cost.multiple) > MOST_MULTIPLE:
        raise Refused(f"asks for multiples of a number with digits above {MOST_MULTIPLE}, also where it merges several")
    return own_ms + _COPY_MS * cost.size


def children(schema: Schema, names: frozenset[str] = _ALL) -> list[object]:
    """Return the schemas directly inside a schema, in these of its keywords."""
    found: list[object] = []
    for name in schema.keys() & names:
        value = schema[name]
        if isinstance(value, dict) and name in _MAPS:
            found += value.values()
        elif isinstance(value, list):
            found += value
        else:
            found.append(value)
    return found


# --- levels ----------------------------------------------------------------------------------------------------------


class _Found:
    """All schemas that the root leads to. A unit is the root, or what a reference leads to, with all inside it."""

    def __init__(self, root: object) -> None:
        self.schemas: list[Schema] = []
        self._units: dict[int, None] = {id(root): None}
        self._inside: dict[int, list[int]] = {}
        self._targets: dict[int, list[int]] = {}
        todo = [root]
        while todo:
            schema = todo.pop()
            if not isinstance(schema, dict) or id(schema) in self._inside:
                continue
            self.schemas.append(schema)
            inside = [child for child in children(schema) if isinstance(child, dict)]
            target = resolved(root, schema["$ref"]) if "$ref" in schema else None
            targets = [target] if isinstance(target, dict) else []
            self._inside[id(schema)] = list(map(id, inside))
            self._targets[id(schema)] = list(map(id, targets))
            self._units.update(dict.fromkeys(map(id, targets)))
            todo += inside + targets

    def levels(self) -> int:
        """Return a number of levels that no path through the references exceeds, if each is followed only once.

        The levels of units that refer to each other in a circle are summed up, since a path may visit all of them.
        """
        depths: dict[int, int] = {}
        for schema in _in_order(self._inside):
            depths[schema] = 1 + max((depths[child] for child in self._inside[schema]), default=0)
        # The levels behind the references of a schema and those inside it.
        behind: dict[int, int] = {}
        for schema in _in_order({schema: [*inside, *self._targets[schema]] for schema, inside in self._inside.items()}):
            through = [behind[child] for child in self._inside[schema]]
            through += [depths[target] + behind[target] for target in self._targets[schema]]
            behind[schema] = max(through, default=0)
        in_circles = sum(depths[unit] for unit in self._units if unit not in behind)
        return in_circles + max((depths[unit] + behind[unit] for unit in self._units if unit in behind), default=0)


def _in_order(edges: Mapping[int, list[int]]) -> list[int]:
    """Return the nodes of a graph, each after all that it leads to, without those that lead into a circle."""
    sources: dict[int, list[int]] = {node: [] for node in edges}
    for node, targets in edges.items():
        for target in targets:
            sources[target].append(node)
    n_left = {node: len(targets) for node, targets in edges.items()}
    ordered = [node for node, left in n_left.items() if not left]
    for node in ordered:  # which grows
        for source in sources[node]:
            n_left[source] -= 1
            if not n_left[source]:
                ordered.append(source)
    return ordered


# --- time ------------------------------------------------------------------------------------------------------------


def _own_ms(schema: Schema) -> float:
    """Return about how long a schema takes to compile, without those inside, in milliseconds.

    Figures of llguidance 1.9.1 on one core of 2.5 GHz.
    """
    if not schema.keys() & _SLOW:
        return 0.05
    n_names = len(schema.get("properties", ()))
    n_patterns = len(schema.get("patternProperties", ()))
    chooses = n_names and schema.keys() & {"minProperties", "maxProperties"}
    constants = [*schema.get("enum", ()), schema.get("const")]
    texts = [str(schema.get("pattern", "")), *schema.get("patternProperties", ())]
    return (
        0.05
        + (0.04 if chooses else 0.0002) * n_names**2
        + 0.04 * n_patterns**2
        + 0.15 * sum(len(json.dumps(value)) / 20 for value in constants if isinstance(value, dict | list))
        + sum(0.15 + 0.5 * len(_UNICODE.findall(text)) for text in texts if text)
        + (1.5 if schema.get("format") == "uri" else 0)
        + (0.005 * digits_of(Fraction(str(schema["multipleOf"]))) if "multipleOf" in schema else 0)
    )


# --- copies ----------------------------------------------------------------------------------------------------------


class _Costs:
    def __init__(self, root: object) -> None:
        self._root = root
        self._known: dict[tuple[int, bool], Cost] = {}
        self._open: set[int] = set()

    def of(self, schema: object, *, merged: bool) -> Cost:
        """Return the cost of a schema. `merged` means that a reference alone is replaced by what it refers to."""
        if not isinstance(schema, dict):
            return Cost()
        key = (id(schema), merged)
        if key not in self._known:
            if id(schema) in self._open:
                return Cost()  # a schema inside itself stays a reference
            self._open.add(id(schema))
            self._known[key] = self._of(schema, merged)
            self._open.discard(id(schema))
        return self._known[key]

    def _of(self, schema: Schema, merged: bool) -> Cost:
        is_merged = merged or len(schema.keys() - {"$defs", "definitions"}) > 1
        parts = [self._own(schema)]
        members = schema.get("allOf", ())
        parts += [self.of(member, merged=is_merged or len(members) > 1) for member in members]
        for name in ("anyOf", "oneOf"):
            if name in schema:
                options = [self.of(option, merged=is_merged) for option in schema[name]]
                parts.append(
                    Cost(
                        sum(option.alternatives for option in options),
                        sum(option.size for option in options),
                        _common(option.multiple for option in options),
                    )
                )
        if "$ref" in schema:
            parts.append(self.of(resolved(self._root, schema["$ref"]), merged=True) if is_merged else Cost())
        return _merged(parts)

    def _own(self, schema: Schema) -> Cost:
        """Return the cost of a schema without those that apply to the same value."""
        inside = sum(self.of(child, merged=False).size for child in children(schema, _INSIDE))
        n_values = len(schema["enum"]) if isinstance(schema.get("enum"), list) else 1
        multiple = Fraction(str(schema["multipleOf"])) if "multipleOf" in schema else None
        return Cost(n_values, inside + n_values, multiple)


def _largest(costs: Iterable[Cost]) -> Cost:
    """Return the largest of each figure."""
    listed = list(costs)
    multiples = {cost.multiple for cost in listed if cost.multiple is not None}
    return Cost(1, max((cost.size for cost in listed), default=0), max(multiples, key=digits_of, default=None))


def _merged(parts: list[Cost]) -> Cost:
    alternatives, size, _ = parts[0]
    for part in parts[1:]:
        size = min(size * part.alternatives + part.size * alternatives, MOST_COPIES + 1)
        alternatives = min(alternatives * part.alternatives, MOST_COPIES + 1)
    return Cost(alternatives, size, _common(part.multiple for part in parts))


def _common(multiples: Iterable[Fraction | None]) -> Fraction | None:
    """Return the least number that is a multiple of each, or None for no number."""
    found: Fraction | None = None
    for number in multiples:
        if found is None or number is None:
            found = found or number
        elif found.numerator <= MOST_MULTIPLE:  # above, its digits are as well, and stay there
            numerator = math.lcm(found.numerator, number.numerator)
            found = Fraction(numerator, math.gcd(found.denominator, number.denominator))
    return found


def digits_of(number: Fraction) -> int:
    """Return a decimal number without its point: 25 for 0.25."""
    power = 1
    while power % number.denominator:
        power *= 10
    return number.numerator * power // number.denominator
