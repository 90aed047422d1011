"""Tests of a start from a FUSE mount: each byte is read once, whether or not an open drops pages."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench.slow_mount import Mount, mounted, served_bytes, why_not
from tests.split_model import split_model
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import NotEnoughMemory
from worker_gguf.link.messages import ContextOpened
from worker_gguf.observe.metrics import Metrics
from worker_gguf.plan import MemoryPlan
from worker_gguf.readahead.prefetch import Prefetch, drops_on_open
from worker_gguf.settings import Settings
from worker_gguf.start import open_model
from worker_gguf.start.opening import Opening, Weights
from worker_gguf.worker import Worker

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no FUSE mount: {why_not()}")

# Readahead past a block's end, and the header that llama.cpp reads again where it opens by name.
SLACK = 512 << 10
# The header is read beside the prefetch, so the kernel may ask twice for a page of it.
HEADER_SLACK = 64 << 10


@pytest.fixture(params=["keeps", "drops"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "files").mkdir()
    with mounted(tmp_path / "files", tmp_path / "mount", Mount(0.001, drops=request.param == "drops")) as at:
        yield at


def start(model: Path) -> Worker:
    worker = Worker(Settings(model=str(model), n_threads=1, n_parallel=1, n_ctx=256), Metrics("test"))
    worker.start()
    asyncio.run(worker.wait_ready())
    return worker


def test_pages_that_were_read_ahead_stay_while_the_file_is_open(volume: Path) -> None:
    shutil.copy(MODEL_PATH, volume.parent / "files" / "a.gguf")
    prefetch = Prefetch([volume / "a.gguf"]).start()
    assert prefetch.wait(60)
    with prefetch.file() as file:
        assert file.read() == MODEL_PATH.read_bytes()
    prefetch.close()
    assert served_bytes(volume) == MODEL_PATH.stat().st_size


def test_whether_opening_drops_the_pages_is_found_out(volume: Path, request: pytest.FixtureRequest) -> None:
    shutil.copy(MODEL_PATH, volume.parent / "files" / "a.gguf")
    with (volume / "a.gguf").open("rb") as file:
        assert drops_on_open(volume / "a.gguf", file.fileno()) == ("[drops]" in request.node.name)


def test_a_start_reads_the_model_once(volume: Path) -> None:
    shutil.copy(MODEL_PATH, volume.parent / "files" / "a.gguf")
    worker = start(volume / "a.gguf")
    (phase,) = (phase for phase in worker.timeline.phases if phase.name == "prefetch")
    worker.stop()
    size = MODEL_PATH.stat().st_size
    assert phase.size_bytes == size
    assert size <= served_bytes(volume) <= size + HEADER_SLACK


def test_a_start_reads_a_split_model_once(volume: Path) -> None:
    paths = split_model(MODEL_PATH, volume.parent / "files")
    size = sum(path.stat().st_size for path in paths)
    worker = start(volume / paths[0].name)
    worker.stop()
    assert size <= served_bytes(volume) <= size + 2 * SLACK


@pytest.fixture
def short_once(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Refuse the first context for lack of memory, so that the next plan places the layers differently.

    Returns the loaded models for which contexts were requested.
    """
    asked: list[object] = []
    real_open = Opening.open

    def refuse_once(opening: Opening, weights: Weights, plan: MemoryPlan) -> ContextOpened:
        asked.append(weights)
        if len(asked) == 1:
            raise NotEnoughMemory("It does not fit.")
        return real_open(opening, weights, plan)

    monkeypatch.setattr(Opening, "open", refuse_once)
    monkeypatch.setattr(
        open_model,
        "smaller_plan",
        lambda plan, *_: replace(plan, n_cpu_moe=1, degraded=(*plan.degraded, "experts moved")),
    )
    return asked


def test_a_load_that_is_tried_again_reads_the_same_open_file(volume: Path, short_once: list[object]) -> None:
    shutil.copy(MODEL_PATH, volume.parent / "files" / "a.gguf")
    worker = start(volume / "a.gguf")
    plan = worker.health()["plan"]
    phases = [phase.name for phase in worker.timeline.phases]
    worker.stop()
    assert plan["degraded"] == ("experts moved",)
    assert phases.count("load") == len(set(map(id, short_once))) == 2
    size = MODEL_PATH.stat().st_size
    assert size <= served_bytes(volume) <= size + HEADER_SLACK


def test_a_load_that_is_tried_again_opens_a_split_model_again(volume: Path, short_once: list[object]) -> None:
    paths = split_model(MODEL_PATH, volume.parent / "files")
    worker = start(volume / paths[0].name)
    worker.stop()
    assert worker.error is None
    assert len(short_once) == 2


def test_no_file_stays_open_after_the_start(volume: Path) -> None:
    shutil.copy(MODEL_PATH, volume.parent / "files" / "a.gguf")
    worker = start(volume / "a.gguf")
    held = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            held.append(link.readlink())
    worker.stop()
    assert volume / "a.gguf" not in held
