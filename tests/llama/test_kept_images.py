"""Tests of conversations with images that lose their slot and come back, in every kind of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import projectors
from tests.image_files import png
from tests.llama.test_guessed_images import Seeing
from tests.llama.test_mtp import PARAMS, words
from tests.tiny_models import write_attention, write_hybrid, write_multi_rope, write_recurrent, write_sliding_window
from worker_gguf.engine.image_runs import IMAGE
from worker_gguf.engine.params import ContextParams, ModelParams
from worker_gguf.llama.model import Model

WINDOWED = replace(PARAMS, swa_full=False)
KINDS: dict[str, tuple[Callable[[Path], Path], str, ContextParams]] = {
    "attention": (write_attention, "mlp", PARAMS),
    "shared pool": (write_attention, "mlp", replace(PARAMS, unified=True)),
    "several positions": (write_multi_rope, "qwen2vl_merger", PARAMS),
    "several positions in a shared pool": (write_multi_rope, "qwen2vl_merger", replace(PARAMS, unified=True)),
    "window kept in full": (write_sliding_window, "gemma3", PARAMS),
    "window": (write_sliding_window, "gemma3", WINDOWED),
    "recurrent": (write_recurrent, "mlp", PARAMS),
    "hybrid": (write_hybrid, "mlp", PARAMS),
}
MAKE = Callable[[int], Seeing]


@pytest.fixture(params=list(KINDS))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MAKE]:
    """Makes engines of one kind, with so many bytes for saved states."""
    write, projector, params = KINDS[request.param]
    model = Model(write(tmp_path / "model.gguf"), ModelParams())
    mmproj = projectors.write(tmp_path / "mmproj.gguf", projectors.Projector(projector, 32))
    made: list[Seeing] = []

    def engine(cache_bytes: int) -> Seeing:
        made.append(Seeing(model, params, has_mtp=False, cache_bytes=cache_bytes).see(mmproj))
        return made[-1]

    yield engine
    for one in made:
        one.close()
    model.close()


def test_conversations_that_come_back_are_answered_as_without_a_cache(make: MAKE) -> None:
    plain, engine = make(0), make(1 << 24)
    histories = [[*words(seed, 20), IMAGE, *words(seed + 50, 20)] for seed in range(5)]
    for turn in range(3):
        for seed, history in enumerate(histories):
            images = (png(seed), *(png(100 + seed) for _ in range(turn > 1)))
            expected = plain.ask(history, *images, n=12)
            assert engine.ask(history, *images, n=12) == expected
            history += [*expected, *([IMAGE] if turn == 1 else []), *words(90 + turn, 9)]
    assert "Save" in engine.operations
    assert "Load" in engine.operations
