"""Tests of `worker-gguf bench cold-start`: a real start on the embedded model, the picture and the figures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker_gguf.embedded import MODEL_PATH

FIGURES = (
    "file_mb",
    "from_page_cache_mb",
    "limit_s",
    "ready_s",
    "first_token_s",
    "first_token_over_limit_s",
    "first_token_per_limit",
)


def run(*arguments: str, **own: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "N_THREADS": "1", "N_CTX": "256", **own}
    command = [sys.executable, "-m", "worker_gguf", "bench", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def figures(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split() for line in printed.splitlines()[-len(FIGURES) :])}


def test_a_start_is_drawn_against_the_limit_and_its_figures_come_last(tmp_path: Path) -> None:
    model = tmp_path / "copy.gguf"
    shutil.copyfile(MODEL_PATH, model)
    os.sync()  # pages that are not on disk yet cannot be dropped
    done = run("cold-start", str(model), API_KEYS="secret", MODELS="embedded, /nowhere.gguf")
    assert done.returncode == 0, done.stderr
    found = figures(done.stdout)
    assert tuple(found) == FIGURES
    assert found["file_mb"] == pytest.approx(model.stat().st_size / 1e6, abs=0.001)
    assert 0 < found["limit_s"] < found["ready_s"] < found["first_token_s"]
    drawn = re.findall(r"^([a-z ]+?) +│", done.stdout, re.MULTILINE)
    assert drawn[0] == "limit"
    assert {"interpreter", "prefetch", "load", "context", "first answer"} <= set(drawn)


def test_a_worker_that_cannot_start_ends_it_with_the_workers_own_words(tmp_path: Path) -> None:
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    done = run("cold-start", str(model))
    assert done.returncode == 1
    assert "The worker ended with exit code" in done.stderr
    assert "broken.gguf" in done.stderr


def test_a_missing_model_is_an_error() -> None:
    done = run("cold-start", "/nowhere.gguf")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/nowhere.gguf" in done.stderr


def test_a_bad_setting_is_the_callers_error() -> None:
    done = run("cold-start", N_CTX="many")
    assert done.returncode == 2
    assert "N_CTX" in done.stderr


def test_a_list_of_models_is_not_measured_as_if_it_were_one() -> None:
    done = run("cold-start", MODELS="embedded, /nowhere.gguf")
    assert (done.returncode, done.stdout) == (2, "")
    assert "MODELS" in done.stderr
