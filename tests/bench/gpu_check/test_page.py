"""Tests of docs/gpu.md: its links, and the names of parts, variables and codes."""

from __future__ import annotations

import re

from bench.gpu_check import __main__ as entry
from bench.gpu_check.arguments import PARTS, parse
from bench.gpu_check.environment import ROOT
from bench.gpu_check.part import MEASURES
from bench.gpu_check.profile import PARTS as MEASURED
from tests.pages import broken_links

PAGE = ROOT / "docs" / "gpu.md"
TEXT = PAGE.read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def test_its_links_lead_to_headings_and_files() -> None:
    assert broken_links(PAGE) == []
    assert broken_links(ROOT / "bench" / "README.md") == []


def test_it_describes_every_part() -> None:
    first_column = " ".join(re.findall(r"^\| (`[a-z][^|]*) \|", TEXT, re.MULTILINE))
    assert set(PARTS) <= set(re.findall(r"`([a-z-]+)`", first_column))
    assert [*MEASURES, "memory"] == [part.name for part in MEASURED] + ["memory"] == list(PARTS)


def test_make_has_every_variable() -> None:
    variables = re.findall(r"^\| `([A-Z_]+)` \|", TEXT, re.MULTILINE)
    assert len(variables) == 5
    for name in variables:
        assert f"\n{name} ?=" in MAKEFILE


def test_every_option_and_code_that_it_names_exists() -> None:
    assert f"| {entry.WRONG_USE} | the arguments or the bundle are wrong" in TEXT
    assert f"| {entry.NO_GPU} | the machine has no GPU |" in TEXT
    parse(["--only", "bench", "--resume", "--cpu", "--limit-s", "10", "--results", "a", "--work", "b", "--models", "c"])
    assert parse(["--only", "bench"]).only == ("bench-dense", "bench-experts")


def test_the_parts_fit_into_the_limit() -> None:
    """Their budgets are more than they are expected to take: what one leaves, the next may use."""
    assert max(part.budget_s for part in MEASURED) < parse([]).limit_s <= 360
