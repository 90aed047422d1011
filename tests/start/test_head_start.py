"""Tests of the head start, which runs before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker_gguf import store
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.settings import Settings
from worker_gguf.start import head_start

OURS = ("worker_gguf.gguf", "worker_gguf.store.download", "worker_gguf.store.remote")
HEAVY = ("asyncio", "fastapi", "huggingface_hub", "llama_cpp", "numpy", "pydantic")


def test_nothing_heavy_is_imported_before_the_prefetch_starts() -> None:
    code = "import sys, worker_gguf.cli, worker_gguf.start.head_start; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {name.split(".")[0] for name in said.split()} & set(HEAVY)
    assert not set(said.split()) & set(OURS)


def test_what_downloads_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, worker_gguf.worker; from importlib import import_module;"
        "from worker_gguf.start.open_model import LATE_IMPORTS; list(map(import_module, LATE_IMPORTS));"
        "print(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"worker_gguf.store.download", "worker_gguf.store.parallel_fetch", "worker_gguf.store.hub"} & set(
        said.split()
    )


def test_the_store_has_every_name_that_it_offers() -> None:
    assert all(getattr(store, name).__name__ == name for name in store.__all__)


def test_the_model_of_the_environment_is_read() -> None:
    begun = head_start.begin(None, {"Model": "embedded", "PREFETCH_READERS": "2"})
    assert begun is not None
    assert begun.paths == (MODEL_PATH,)
    assert begun.wait(60)
    assert begun.bytes_done == MODEL_PATH.stat().st_size
    begun.close()


@pytest.mark.parametrize("models", ["embedded, b=org/other:Q8_0", "a = embedded", "a=embedded,b=org/other:Q8_0"])
def test_the_first_model_of_a_list_is_read(models: str) -> None:
    started = head_start.begin(None, {"MODELS": models})
    assert started is not None
    assert started.paths == (MODEL_PATH,)
    started.close()


def test_a_model_of_the_image_is_read(tmp_path: Path) -> None:
    baked = tmp_path / "org" / "tiny-GGUF" / "tiny-Q8_0.gguf"
    baked.parent.mkdir(parents=True)
    baked.write_bytes(MODEL_PATH.read_bytes())
    begun = head_start.begin("org/tiny-GGUF:Q8_0", {"MODEL_BAKED_DIR": str(tmp_path), "MODEL_CACHE_DIR": "/nowhere"})
    assert begun is not None
    assert begun.paths == (baked,)
    begun.close()


def test_an_argument_wins_over_the_environment() -> None:
    begun = head_start.begin(str(MODEL_PATH), {"MODEL": "/nowhere/model.gguf"})
    assert begun is not None
    begun.close()


@pytest.mark.parametrize(
    "environ",
    [
        {"MODEL": "/nowhere/model.gguf"},
        {"MODEL": "org/not-here-GGUF:Q4_K_M", "MODEL_CACHE_DIR": "/nowhere"},
        {"MODEL": "no reference at all!"},
        {"MODEL": "\0"},
        {"MODELS": '[{"alias": "a", "model": "embedded"}]'},
        {"MODELS": "/nowhere/models.yaml"},
        {"PREFETCH": "off"},
        {"PREFETCH": "sideways"},
        {"PREFETCH_READERS": "many"},
        {"PREFETCH_READERS": "-1"},
        {"LOAD_MODE": "direct"},
    ],
)
def test_anything_odd_is_no_head_start_and_no_error(environ: dict[str, str]) -> None:
    assert head_start.begin(None, environ) is None


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model_cache_dir": "~/models"},
        {"hf_hub_cache": "/cache/hub"},
        {"hf_home": "/cache"},
        {"hf_home": "/cache", "hf_hub_cache": "/cache/hub", "model_cache_dir": "/models"},
    ],
)
def test_it_looks_where_the_settings_look(given: dict[str, str], tmp_path: Path) -> None:
    settings = Settings.load(given)
    for volume in (tmp_path, tmp_path / "none"):
        assert head_start.searched(given, volume) == settings.cache_dirs(volume)
