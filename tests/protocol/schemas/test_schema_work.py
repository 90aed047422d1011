"""Tests of the work that hostile JSON Schemas make: it grows with their size, or the schema is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from worker_gguf.protocol.schemas.disjoint import MOST_STEPS, Prover
from worker_gguf.protocol.schemas.fault import Fault
from worker_gguf.protocol.schemas.json_schema import MAX_SCHEMAS, Refused, examine

Schema = dict[str, Any]


def lines_run(schema: Schema) -> int:
    """Return how many lines of this project run while a schema is examined."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if "worker_gguf" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(Refused):
            examine(schema)
    finally:
        sys.settrace(before)
    return count


def references(count: int, name: str = "d0") -> list[Schema]:
    return [{"$ref": f"#/$defs/{name}"} for _ in range(count)]


def doubled(keyword: str, width: int, depth: int = 6) -> Schema:
    """Return a schema with two equal options, each with `width` ** `depth` paths through it."""
    defs: Schema = {f"d{n}": {keyword: references(width, f"d{n + 1}")} for n in range(depth)}
    return {"oneOf": references(2), "$defs": {**defs, f"d{depth}": {"type": "object"}}}


def chain(length: int) -> Schema:
    links = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "string"}}}


def one_behind_the_other(length: int) -> Schema:
    """Return a schema whose properties can each be decided only after the one before."""
    link = {"type": "object", "required": ["x"]}
    links = {f"a{n}": {**link, "properties": {"x": {"$ref": f"#/properties/a{n - 1}"}}} for n in range(1, length)}
    return {"properties": {"a0": {"type": "string"}, **links}, "prefixItems": [{"$ref": f"#/properties/a{length - 1}"}]}


def units_in_each_other(length: int) -> Schema:
    """Return a schema with a reference to each of its levels, and many references at the deepest."""
    inner: Schema = {"prefixItems": references(length, "leaf")}
    for _ in range(min(length // 4, 25)):
        inner = {"properties": {"a": inner}}
    to_levels = [{"$ref": "#" + "/properties/a" * n} for n in range(1, min(length // 4, 25))]
    return {**inner, "anyOf": [{}, *to_levels], "$defs": {"leaf": {}}}


def shared_names(length: int) -> Schema:
    names = [f"k{n}" for n in range(length)]
    return {"oneOf": references(length), "$defs": {"d0": {"type": "object", "required": names}}}


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda n: doubled("allOf", n), 12),
        (lambda n: doubled("anyOf", n), 12),
        (chain, 300),
        (one_behind_the_other, 100),
        (units_in_each_other, 100),
        (lambda n: {"anyOf": [{"format": "date", "pattern": "a"} for _ in range(n)]}, 100),
        (lambda n: {"anyOf": [{"multipleOf": 5e-324} for _ in range(n)]}, 100),
        (lambda n: {"pattern": "[a-z]{1,9}" * n}, 100),
    ],
    ids=str,
)
def test_the_work_grows_with_the_size(make: Callable[[int], Schema], size: int) -> None:
    assert lines_run(make(4 * size)) < 5 * lines_run(make(size))


@pytest.mark.parametrize(
    "options",
    [
        shared_names(2000),
        {"oneOf": references(24), "$defs": doubled("allOf", 2000)["$defs"]},
        {"oneOf": references(24), "$defs": {"d0": {"type": ["string"] * MOST_STEPS}}},
    ],
    ids=["shared names", "doubled", "types"],
)
def test_options_are_compared_for_a_bounded_number_of_steps(options: Schema) -> None:
    prover = Prover(options)
    assert not prover.are_disjoint(options["oneOf"])
    assert prover.steps == MOST_STEPS
    # What is left for the other oneOfs of the schema: nothing.
    assert not prover.are_disjoint([{"type": "string"}, {"type": "null"}])
    assert prover.steps == MOST_STEPS


def test_many_options_with_a_discriminator_are_told_apart() -> None:
    kinds = [
        {"type": "object", "properties": {"kind": {"const": n}}, "required": ["kind", "a", "b"]} for n in range(1000)
    ]
    assert examine({"oneOf": kinds}).faults == ()
    kinds[-1] = kinds[0]
    assert [fault.keyword for fault in examine({"oneOf": kinds}).faults] == ["oneOf"]


def test_too_many_schemas_are_refused() -> None:
    with pytest.raises(Refused, match="schemas in it"):
        examine({"prefixItems": [{}] * MAX_SCHEMAS})


def test_a_long_name_is_not_copied_to_each_place_below() -> None:
    faults = examine({"properties": {"x" * 1000: {"anyOf": [{"not": {}}, {"not": {}}]}}}).faults
    assert len(faults) == 2
    assert faults[0].place is faults[1].place
    assert isinstance(faults[0], Fault)


def test_a_repetition_with_thousands_of_digits_is_a_fault() -> None:
    assert [str(fault) for fault in examine({"pattern": "a{" + "1" * 5000 + "}"}).faults] == [
        "'pattern' at # repeats more than 100000 times"
    ]
