from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub, FakeRepo
from worker_gguf.cli.fetch import fetch
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.store import ModelRef, locate

REPO = "acme/tiny-GGUF"


def arguments(model: str | None, to: Path | None) -> argparse.Namespace:
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


def test_no_request_to_the_hub_for_a_model_on_disk(tmp_path: Path) -> None:
    with a_hub() as hub:
        fetch(arguments(f"{REPO}:Q4_K_M", tmp_path), endpoint=hub.url)
        n_asked = len(hub.requests)
        assert fetch(arguments(f"{REPO}:Q4_K_M", tmp_path), endpoint=hub.url) == 0
        assert len(hub.requests) == n_asked


def test_the_error_of_a_missing_quant_lists_the_quants_of_the_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with a_hub() as hub:
        assert fetch(arguments(f"{REPO}:Q2_K", tmp_path), endpoint=hub.url) == 1
    assert "tiny-Q8_0.gguf" in capsys.readouterr().err


def test_it_fetches_the_draft_model_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", f"{REPO}:Q4_K_M")
    monkeypatch.setenv("DRAFT_MODEL", f"{REPO}:Q8_0")
    with a_hub() as hub:
        assert fetch(arguments(None, tmp_path), endpoint=hub.url) == 0
        names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
        assert names == ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]
        assert fetch(arguments(f"{REPO}:Q4_K_M", tmp_path), endpoint=hub.url) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == ["tiny-Q4_K_M.gguf"]


def test_it_fetches_the_adapters_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", f"{REPO}:Q4_K_M")
    monkeypatch.setenv("LORA", f"style={REPO}/tiny-Q8_0.gguf:0.5")
    with a_hub() as hub:
        assert fetch(arguments(None, tmp_path), endpoint=hub.url) == 0
        names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
        assert names == ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]


def test_it_fetches_the_projector_of_the_repository_too_unless_mmproj_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_hub() as hub:
        files = {"tiny-Q4_K_M.gguf": MODEL_PATH.read_bytes(), "mmproj-F16.gguf": b"sees", "mmproj-F32.gguf": b"too"}
        hub.repos[REPO].push(files)
        assert fetch(arguments(f"{REPO}:Q4_K_M", tmp_path / "with"), endpoint=hub.url) == 0
        names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
        assert names == ["tiny-Q4_K_M.gguf", "mmproj-F16.gguf"]
        n_asked = len(hub.requests)
        assert fetch(arguments(f"{REPO}:Q4_K_M", tmp_path / "with"), endpoint=hub.url) == 0
        assert len(hub.requests) == n_asked
        assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == names
        monkeypatch.setenv("MMPROJ", "none")
        assert fetch(arguments(f"{REPO}:Q4_K_M", tmp_path / "without"), endpoint=hub.url) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == ["tiny-Q4_K_M.gguf"]


def test_it_fetches_every_model_that_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", f"a={REPO}:Q4_K_M, b={REPO}:Q8_0")
    with a_hub() as hub:
        assert fetch(arguments(None, tmp_path), endpoint=hub.url) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [
        "tiny-Q4_K_M.gguf",
        "tiny-Q8_0.gguf",
    ]


def test_it_fetches_the_adapters_of_every_model_that_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", f'[{{"model": "{REPO}:Q4_K_M", "lora": "style={REPO}/tiny-Q8_0.gguf:0.5"}}]')
    with a_hub() as hub:
        assert fetch(arguments(None, tmp_path), endpoint=hub.url) == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"]


def test_it_fetches_the_projectors_of_the_models_that_are_listed_unless_an_entry_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = f"[{{model: {REPO}:Q4_K_M}}, {{model: {REPO}:Q8_0, mmproj: {REPO}/mmproj-F32.gguf}}]"
    with a_hub() as hub:
        tiny = {"tiny-Q4_K_M.gguf": MODEL_PATH.read_bytes(), "tiny-Q8_0.gguf": b"another"}
        hub.repos[REPO].push({**tiny, "mmproj-F16.gguf": b"sees", "mmproj-F32.gguf": b"too"})
        monkeypatch.setenv("MODELS", models)
        assert fetch(arguments(None, tmp_path / "with"), endpoint=hub.url) == 0
        names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
        assert names == ["tiny-Q4_K_M.gguf", "mmproj-F16.gguf", "tiny-Q8_0.gguf", "mmproj-F32.gguf"]
        monkeypatch.setenv("MODELS", f"[{{model: {REPO}:Q4_K_M, mmproj: none}}]")
        assert fetch(arguments(None, tmp_path / "without"), endpoint=hub.url) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == ["tiny-Q4_K_M.gguf"]


def test_models_that_are_listed_do_not_make_room_for_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MODEL_CACHE_MAX_GB", str(MODEL_PATH.stat().st_size * 1.1 / 2**30))
    monkeypatch.setenv("MODELS", f"a={REPO}:Q4_K_M, b=acme/twin-GGUF:Q4_K_M")
    with a_hub() as hub:
        hub.repos["acme/twin-GGUF"] = FakeRepo()
        hub.repos["acme/twin-GGUF"].push({"twin-Q4_K_M.gguf": MODEL_PATH.read_bytes()[:-1] + b"x"})
        assert fetch(arguments(None, None), endpoint=hub.url) == 1
    said = capsys.readouterr()
    assert Path(said.out.strip()).exists()
    assert "Raise it" in said.err


def test_a_model_that_is_named_is_fetched_whatever_the_environment_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS", f"a={REPO}:Q4_K_M")
    with a_hub() as hub:
        assert fetch(arguments(f"{REPO}:Q8_0", tmp_path), endpoint=hub.url) == 0
    assert Path(capsys.readouterr().out.strip()).name == "tiny-Q8_0.gguf"
