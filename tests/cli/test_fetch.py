from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub, FakeRepo
from worker_gguf.cli.fetch import fetch
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.store import ModelRef, locate

REPO = "acme/tiny-GGUF"


def arguments(model: str, to: Path) -> argparse.Namespace:
    return argparse.Namespace(model=model, to=to)


def a_hub() -> FakeHub:
    hub = FakeHub()
    hub.repos[REPO] = FakeRepo()
    hub.repos[REPO].push({"tiny-Q4_K_M.gguf": MODEL_PATH.read_bytes(), "tiny-Q8_0.gguf": b"another"})
    return hub


def test_it_puts_the_usual_quant_where_an_image_has_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_hub() as hub:
        assert fetch(arguments(REPO, tmp_path), endpoint=hub.url) == 0
    printed = Path(capsys.readouterr().out.strip())
    found = locate(ModelRef.parse(REPO), [], baked_dir=tmp_path)
    assert found is not None
    assert found.path == printed
    assert printed.read_bytes() == MODEL_PATH.read_bytes()


def test_it_asks_the_hub_nothing_for_what_is_there(tmp_path: Path) -> None:
    with a_hub() as hub:
        fetch(arguments(f"{REPO}:Q4_K_M", tmp_path), endpoint=hub.url)
        n_asked = len(hub.requests)
        assert fetch(arguments(f"{REPO}:Q4_K_M", tmp_path), endpoint=hub.url) == 0
        assert len(hub.requests) == n_asked


def test_it_says_what_a_repository_has_when_the_quant_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_hub() as hub:
        assert fetch(arguments(f"{REPO}:Q2_K", tmp_path), endpoint=hub.url) == 1
    assert "tiny-Q8_0.gguf" in capsys.readouterr().err
