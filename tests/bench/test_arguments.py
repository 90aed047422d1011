"""Tests of the benchmark's arguments, and of the requests that they mean."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench.__main__ import Bench, arguments


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> argparse.Namespace:
    monkeypatch.setattr("sys.argv", ["bench", *words])
    return arguments()


@pytest.mark.parametrize(
    ("words", "requests"),
    [
        ([], {1: 48, 8: 48, 32: 96}),
        (["--waves", "2"], {1: 2, 8: 16, 32: 64}),
        (["--waves", "8,4,3"], {1: 8, 8: 32, 32: 96}),
        (["--waves", "6,2", "--concurrency", "2,64"], {2: 12, 64: 128}),
    ],
)
def test_waves_are_one_number_or_one_for_each_concurrency(
    monkeypatch: pytest.MonkeyPatch, words: list[str], requests: dict[int, int]
) -> None:
    bench = Bench(parsed(monkeypatch, *words), Path("model.gguf"))
    assert bench.record.settings["requests"] == requests


def test_other_numbers_of_waves_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--waves", "1,2")
    assert "--waves needs one number, or as many as --concurrency" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_it_has_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = Bench(parsed(monkeypatch, "--concurrency", "1,8", "--results", str(tmp_path), "--quick"), Path("m.gguf"))

    def measure_limits(concurrency: int) -> None:
        if concurrency == 8:
            raise KeyboardInterrupt
        bench.record.add(concurrency, "limit, one KV memory", {"tokens_per_s": 100.0, "peak_memory_mb": 10.0})

    monkeypatch.setattr(bench, "measure_limits", measure_limits)
    monkeypatch.setattr(bench, "measure_worker", lambda concurrency: None)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert (tmp_path / "last.txt").read_text().endswith("limit_tokens_per_s_c1 100.0\n")
