"""Tests of whether a model pools, from its header and the setting POOLING."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import shapes, tiny_models
from worker_gguf.embedded import MODEL_PATH
from worker_gguf.errors import ModelInvalid
from worker_gguf.gguf import ModelHeader, read_header
from worker_gguf.gguf.pooling import PoolingChoice, Pools, pools_of, served_abilities


def header_of(path: Path, architecture: str, **more: shapes.Value) -> ModelHeader:
    shape = shapes.Shape(architecture, 1, 32, 64, 2, 1, 16, 64, 128, shapes.Q8_0, more=more)
    return read_header(shapes.write(shape, path / "m.gguf"))


@pytest.mark.parametrize(
    ("architecture", "more", "choice", "expected"),
    [
        ("llama", {}, "auto", None),
        ("llama", {}, "last", Pools("last", is_whole=False, has_memory=True)),
        ("llama", {}, "mean", Pools("mean", is_whole=True, has_memory=True)),
        ("qwen3", {"pooling_type": 3}, "auto", Pools("last", is_whole=False, has_memory=True)),
        ("qwen3", {"pooling_type": 3}, "none", None),
        ("bert", {}, "auto", Pools("mean", is_whole=True, has_memory=False)),
        ("bert", {"pooling_type": 2}, "auto", Pools("cls", is_whole=True, has_memory=False)),
        ("bert", {"pooling_type": 2}, "mean", Pools("mean", is_whole=True, has_memory=False)),
        ("gemma-embedding", {"pooling_type": 1}, "auto", Pools("mean", is_whole=True, has_memory=False)),
        ("clip", {}, "last", None),
    ],
)
def test_the_file_or_the_setting_decides(
    architecture: str, more: dict[str, shapes.Value], choice: PoolingChoice, expected: Pools | None, tmp_path: Path
) -> None:
    header = header_of(tmp_path, architecture, **more)
    assert pools_of(header, choice, "it") == expected
    assert served_abilities(header, choice).pools == (expected and expected.pooling)


def test_a_model_either_generates_or_pools(tmp_path: Path) -> None:
    assert served_abilities(read_header(MODEL_PATH), "auto").names == ("completion",)
    assert served_abilities(read_header(MODEL_PATH), "last").names == ("embedding",)
    both = header_of(tmp_path, "qwen3", pooling_type=3)
    assert served_abilities(both, "auto").names == ("embedding",)
    assert served_abilities(both, "none").names == ("completion",)


def test_an_encoder_cannot_generate(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"bge cannot generate text, because it is an encoder\. Unset POOLING\."):
        pools_of(header_of(tmp_path, "bert"), "none", "bge")


def test_a_ranker_has_a_head(tmp_path: Path) -> None:
    header = read_header(tiny_models.write_reranker(tmp_path / "reranker.gguf"))
    assert pools_of(header, "auto", "it") == Pools("rank", is_whole=True, has_memory=False)
    assert pools_of(header, "cls", "it") == Pools("cls", is_whole=True, has_memory=False)


def test_an_encoder_with_a_head_ranks_unless_its_file_says_otherwise(tmp_path: Path) -> None:
    unnamed = read_header(tiny_models.write_reranker(tmp_path / "unnamed.gguf", pooling=None))
    assert served_abilities(unnamed, "auto").names == ("rerank",)
    cls = read_header(tiny_models.write_reranker(tmp_path / "cls.gguf", pooling=2))
    assert served_abilities(cls, "auto").names == ("embedding",)


@pytest.mark.parametrize(("choice", "says"), [("auto", "Its file says"), ("rank", "POOLING=rank asks")])
def test_a_ranker_without_a_head_is_refused(choice: PoolingChoice, says: str, tmp_path: Path) -> None:
    header = header_of(tmp_path, "qwen3", pooling_type=4)
    with pytest.raises(ModelInvalid, match=rf"Ranker cannot rank\. {says}.* has no class head"):
        pools_of(header, choice, "Ranker")


def test_a_head_whose_scores_are_not_the_labels_of_the_file_is_refused(tmp_path: Path) -> None:
    path = tiny_models.write_reranker(tmp_path / "reranker.gguf", classes=2)
    with pytest.raises(
        ModelInvalid, match=r"its class head \(cls\.output\.weight\) gives 2 scores, but its file names 1"
    ):
        pools_of(read_header(path), "auto", "Ranker")
    labelled = tiny_models.write_reranker(tmp_path / "labelled.gguf", classes=2, labels=["no", "yes"])
    assert pools_of(read_header(labelled), "auto", "Ranker") is not None
