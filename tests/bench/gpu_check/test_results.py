"""Tests of the results: what is kept, printed and begun anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.gpu_check import results as module
from bench.gpu_check.card import Cards
from bench.gpu_check.outcome import Outcome
from bench.gpu_check.results import Results

CARD = Cards(("NVIDIA H200",), "580.1", 143771, 4)


def outcome(tmp_path: Path, *, ok: bool, **figures: float) -> Outcome:
    made = Outcome(tmp_path / "outcome.json")
    made.add(figures)
    made.check("layers", ok, "17 of 17 layers")
    return made


def test_the_last_lines_are_name_and_value_and_a_summary_names_what_failed(tmp_path: Path) -> None:
    results = Results.open(tmp_path, CARD)
    results.keep("plan", outcome(tmp_path, ok=False, plan_1b_error_percent=-7.25), 21.04)
    results.keep("offload", outcome(tmp_path, ok=True, offload_layers=17), 5)
    text = results.text()
    assert "FAILED plan, layers: 17 of 17 layers" in text
    assert "\nFailed: plan.\nNot run: prompts, crash, bench-dense, bench-experts, memory.\n" in text
    assert text.split("\n\n")[-1].splitlines() == [
        "offload_layers 17",
        "plan_1b_error_percent -7.25",
        "offload_ok 1",
        "plan_ok 0",
        "offload_s 5",
        "plan_s 21",
        "checks_hold 1",
        "checks_failed 1",
    ]
    assert not results.all_hold


def test_the_file_has_card_driver_and_date_and_every_check(tmp_path: Path) -> None:
    results = Results.open(tmp_path, CARD)
    results.keep("offload", outcome(tmp_path, ok=True, offload_layers=17), 5)
    (path,) = tmp_path.glob("gpu-nvidia-h200-20??-??-??.json")
    written = json.loads(path.read_text())
    assert written["machine"]["card"] == "NVIDIA H200"
    assert written["machine"]["driver"] == "580.1"
    assert written["machine"]["date"][:10] in path.name
    assert written["figures"]["offload_layers"] == 17
    assert written["parts"]["offload"]["checks"] == [{"name": "layers", "ok": True, "reason": "17 of 17 layers"}]
    assert path.with_suffix(".txt").read_text() == results.text() + "\n"


def test_a_later_run_goes_on_with_the_results_of_the_day(tmp_path: Path) -> None:
    first = Results.open(tmp_path, CARD)
    first.keep("offload", outcome(tmp_path, ok=True), 5)
    first.keep("plan", outcome(tmp_path, ok=False), 5)
    later = Results.open(tmp_path, CARD._replace(used_mib=900))
    assert later.holds("offload")
    assert not later.holds("plan")
    assert not later.holds("crash")
    later.keep("plan", outcome(tmp_path, ok=True), 5)
    assert later.all_hold


def test_other_sources_or_another_driver_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Results.open(tmp_path, CARD).keep("offload", outcome(tmp_path, ok=True), 5)
    assert not Results.open(tmp_path, CARD._replace(driver="590.2")).parts
    assert Results.open(tmp_path, CARD).parts
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert not Results.open(tmp_path, CARD).parts


def test_a_part_that_is_killed_keeps_what_it_found(tmp_path: Path) -> None:
    made = outcome(tmp_path, ok=True, offload_layers=17)
    read = Outcome.read(made.path)
    assert (read.checks, read.figures) == (made.checks, made.figures)
    assert Outcome.read(tmp_path / "nothing.json").checks == []
