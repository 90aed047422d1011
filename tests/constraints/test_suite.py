"""The JSON Schema Test Suite: what is supported is held exactly, and what is not is refused by name and place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.docs.schema_table import PAGE, SUITE, Group, groups, outcome, page_with_table
from worker_gguf.protocol.schemas.json_schema import Refused, examine
from worker_gguf.protocol.schemas.keywords import UNSUPPORTED, is_neutral

pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason="the test suite (../shared/json-schema) is not here")

GROUPS = list(groups()) if SUITE.is_dir() else []
# Where instances that match are never written: the formats, which are notes in the suite, and a custom dialect.
NARROWER = {"format", "vocabulary"}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: f"{group.keyword}: {group.description}")
def test_group(group: Group) -> None:
    found = outcome(group)
    assert found != "wrong"
    assert found != "narrower" or group.keyword in NARROWER


@pytest.mark.parametrize(
    "group",
    [group for group in GROUPS if isinstance(group.schema, dict)],
    ids=lambda group: f"{group.keyword}: {group.description}",
)
def test_a_keyword_that_is_not_supported_is_named_with_its_place(group: Group) -> None:
    wanted = {(keyword, "") for keyword in UNSUPPORTED if keyword in group.schema} - {
        (keyword, "") for keyword in UNSUPPORTED if keyword in group.schema and is_neutral(keyword, dict(group.schema))
    }
    try:
        faults = {(fault.keyword, fault.place) for fault in examine(group.schema).faults}
    except Refused:
        return
    assert wanted <= faults
    assert all(_has(group.schema, place, keyword) for keyword, place in faults)


def test_the_table_on_the_page_is_true() -> None:
    written = PAGE.read_text("utf-8")
    assert page_with_table(written) == written, "run `python -m tools.docs.schema_table`"


def _has(schema: Any, place: str, keyword: str) -> bool:
    """Return whether a schema has a keyword at a place."""
    for part in _parts(place):
        schema = schema[int(part)] if isinstance(schema, list) else schema[part]
    return keyword in schema


def _parts(place: str) -> Iterator[str]:
    for part in place.split("/")[1:]:
        yield part.replace("~1", "/").replace("~0", "~").replace("%25", "%").replace("%22", '"')
