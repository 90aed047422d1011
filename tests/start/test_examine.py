"""Tests of the checks on a real start of the embedded model."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from pathlib import Path

import pytest

from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import Unfit, WorkerError
from worker_gguf.gguf import read_headers
from worker_gguf.observe.metrics import Metrics
from worker_gguf.settings import Settings
from worker_gguf.worker import Worker

Checks = dict[str, dict[str, object]]


def start(**changes: object) -> tuple[Checks, WorkerError | None]:
    """Start a worker and stop it; its checks as /health shows them, and what stopped the start."""
    values: dict[str, object] = {"n_threads": 1, "n_parallel": 1, "n_ctx": 256}
    worker = Worker(Settings(**{**values, **changes}), Metrics("test"))  # type: ignore[arg-type]
    worker.start()
    try:
        asyncio.run(worker.wait_ready())
    except WorkerError:
        assert worker.status() == "failed"
    checks = {str(check["name"]): check for check in worker.health().get("checks", [])}
    worker.stop()
    return checks, worker.error


def in_cache(folder: Path, content: bytes, digest: str | None = None, name: str = "tiny") -> dict[str, object]:
    """Settings for a model in a Hub's cache, under its digest or another."""
    repo = folder / f"models--org--{name}"
    blob = repo / "blobs" / (digest or hashlib.sha256(content).hexdigest())
    blob.parent.mkdir(parents=True)
    blob.write_bytes(content)
    link = repo / "snapshots" / "abc" / f"{name}-Q8_0.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    return {"model": f"org/{name}", "model_cache_dir": folder}


def test_a_good_start_has_passed_every_check() -> None:
    checks, error = start()
    assert error is None
    assert checks.keys() == {"devices", "offload", "model", "volume", "token"}
    assert all(check["ok"] for check in checks.values())


def test_layers_that_nothing_can_take_stop_the_start_before_the_load() -> None:
    checks, error = start(n_gpu_layers=20)
    assert isinstance(error, Unfit)
    assert error.message.startswith("N_GPU_LAYERS=20")
    assert checks.keys() == {"devices"}
    assert start(n_gpu_layers=0)[1] is None


def test_reported_checks_stop_nothing() -> None:
    checks, error = start(runpod_gpu_count=1, fitness_checks="report")
    assert error is None
    assert (checks["devices"]["ok"], checks["token"]["ok"]) == (False, True)


def test_a_model_that_computes_no_numbers_stops_the_start(tmp_path: Path) -> None:
    content = bytearray(MODEL_PATH.read_bytes())
    (norm,) = (tensor for tensor in read_headers([MODEL_PATH]).tensors if tensor.name == "output_norm.weight")
    n_values = norm.size_bytes // 4
    content[norm.offset : norm.offset + norm.size_bytes] = struct.pack(f"<{n_values}f", *[float("nan")] * n_values)
    broken = tmp_path / "nan.gguf"
    broken.write_bytes(content)
    checks, error = start(model=str(broken))
    assert isinstance(error, Unfit)
    assert "no finite numbers" in error.message
    assert [name for name, check in checks.items() if not check["ok"]] == ["token"]


def test_the_digest_is_compared_when_it_is_asked_for(tmp_path: Path) -> None:
    good = in_cache(tmp_path / "good", MODEL_PATH.read_bytes())
    checks, error = start(**good, verify_model="sha256")
    assert error is None
    assert "SHA-256 as in the cache" in str(checks["model"]["reason"])
    wrong = in_cache(tmp_path / "wrong", MODEL_PATH.read_bytes(), digest="0" * 64)
    assert start(**wrong)[1] is None
    error = start(**wrong, verify_model="sha256")[1]
    assert isinstance(error, Unfit)
    assert "tiny-Q8_0.gguf has a different SHA-256" in error.message


def test_the_digest_of_the_draft_model_is_compared_too(tmp_path: Path) -> None:
    settings = in_cache(tmp_path, MODEL_PATH.read_bytes()) | {"draft_model": "org/draft"}
    in_cache(tmp_path, MODEL_PATH.read_bytes(), digest="0" * 64, name="draft")
    checks, error = start(**settings)
    assert error is None
    assert str(checks["draft_model"]["reason"]).endswith("as long as its header requires")
    checks, error = start(**settings, verify_model="sha256")
    assert isinstance(error, Unfit)
    assert error.message == (
        "The draft model's file draft-Q8_0.gguf has a different SHA-256 than the cache records. Delete it, and the "
        "next start fetches it again."
    )
    assert (checks["model"]["ok"], checks["draft_model"]["ok"]) == (True, False)


def test_a_cache_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    settings = in_cache(tmp_path, MODEL_PATH.read_bytes())
    (tmp_path / ".locks").write_text("no folder")
    error = start(**settings)[1]
    assert isinstance(error, Unfit)
    assert "The cache (MODEL_CACHE_DIR) cannot be written" in error.message
    assert str(tmp_path) not in error.message


@pytest.mark.gpu
def test_on_a_gpu_every_check_passes_with_all_layers_there() -> None:
    checks, error = start(n_gpu_layers=-1)
    assert error is None
    assert "layers" in str(checks["offload"]["reason"])
