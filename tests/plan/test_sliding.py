"""Tests of the layers that have a sliding window. test_plan_true.py compares the sizes with llama.cpp's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.shapes import SHAPES
from tests.shapes import write as write_shape
from worker_gguf.gguf import read_header
from worker_gguf.plan.sliding import window_of

GEMMA = replace(SHAPES["Gemma-3-12B"], n_layers=8)
PATTERN = "attention.sliding_window_pattern"


@pytest.mark.parametrize(
    ("changes", "seeing_all"),
    [
        ({}, [5]),
        ({"more": {PATTERN: 4}}, [3, 7]),
        ({"more": {PATTERN: [1, 1, 0, 1, 1, 1, 1, 0]}}, [2, 7]),
        ({"architecture": "gpt-oss"}, [1, 3, 5, 7]),
        ({"architecture": "cohere2moe"}, [0, 4]),
        ({"architecture": "unknown"}, [*range(8)]),
        ({"architecture": "unknown", "more": {PATTERN: 4}}, [*range(8)]),
        ({"architecture": "unknown", "more": {PATTERN: [1, 1, 1, 1, 1, 1, 1, 0]}}, [7]),
        ({"window": 0}, [*range(8)]),
    ],
)
def test_layers_with_a_window_are_those_of_llama_cpp(
    changes: dict[str, object], seeing_all: list[int], tmp_path: Path
) -> None:
    header = read_header(write_shape(replace(GEMMA, **changes), tmp_path / "model.gguf"))  # type: ignore[arg-type]
    windows = [window_of(header, layer) for layer in range(8)]
    assert [layer for layer, window in enumerate(windows) if not window] == seeing_all
    assert set(windows) <= {0, 1024}
