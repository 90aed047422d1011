"""Tests of docs/ollama.md: its tables have every field and option, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.pages import broken_links
from worker_gguf.protocol.ollama.bodies import OllamaChat, OllamaGenerate, OllamaRequest
from worker_gguf.protocol.ollama.names import IGNORED_OPTIONS, OPTIONS
from worker_gguf.protocol.routes import ROUTES

PATH = Path(__file__).parents[2] / "docs" / "ollama.md"
PAGE = PATH.read_text("utf-8")


def rows(table: str) -> list[str]:
    text = PAGE.partition(f"<!-- table: {table} -->")[2].partition("<!-- end -->")[0]
    return [line for line in text.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize(
    ("table", "body"), [("both", OllamaRequest), ("chat", OllamaChat), ("generate", OllamaGenerate)]
)
def test_every_field_has_a_row_with_a_description(table: str, body: type[BaseModel]) -> None:
    assert [row.split("`")[1] for row in rows(table)] == list(body.__annotations__)
    assert [row for row in rows(table) if len(row.split(" | ")[-1]) < 10] == []


def test_every_option_has_its_place() -> None:
    assert [row.split("`")[1] for row in rows("options")] == list(OPTIONS)
    ignored = [name for row in rows("ignored") for name in re.findall(r"`(\w+)`", row)]
    assert sorted(ignored) == sorted(IGNORED_OPTIONS)


def test_every_route_is_listed() -> None:
    for route in ROUTES:
        if route.dialect.name == "ollama":
            assert f"| `{route.method} {route.path}` |" in PAGE


def test_its_links_lead_to_headings_and_files() -> None:
    assert broken_links(PATH) == []
