"""Tests of a model's abilities, read from its header."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shapes
from tests.tiny_models import write_encoder, write_reranker
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.gguf import Abilities, abilities_of, read_header


def test_a_chat_model_generates() -> None:
    abilities = abilities_of(read_header(MODEL_PATH))
    assert abilities == Abilities(generates=True)
    assert abilities.names == ("completion",)


def test_an_encoder_pools_and_generates_nothing(tmp_path: Path) -> None:
    abilities = abilities_of(read_header(write_encoder(tmp_path / "encoder.gguf")))
    assert abilities == Abilities(generates=False, pools="mean")
    assert abilities.names == ("embedding",)


def test_a_reranker_ranks(tmp_path: Path) -> None:
    assert abilities_of(read_header(write_reranker(tmp_path / "reranker.gguf"))).names == ("rerank",)


@pytest.mark.parametrize(
    ("architecture", "more", "names"),
    [
        ("qwen3", {"pooling_type": 3}, ("completion", "embedding")),
        ("qwen3", {"pooling_type": 4}, ("rerank",)),
        ("qwen3", {"pooling_type": 0}, ("completion",)),
        ("bert", {}, ("embedding",)),
        ("gemma-embedding", {}, ("embedding",)),
        ("clip", {}, ("vision",)),
    ],
)
def test_architecture_and_pooling_decide(
    architecture: str, more: dict[str, shapes.Value], names: tuple[str, ...], tmp_path: Path
) -> None:
    shape = shapes.Shape(architecture, 1, 32, 64, 2, 1, 16, 64, 128, shapes.Q8_0, more=more)
    assert abilities_of(read_header(shapes.write(shape, tmp_path / "m.gguf"))).names == names
