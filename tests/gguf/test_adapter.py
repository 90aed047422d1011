"""Tests of what the headers of a model and an adapter tell: whether the adapter is one for this model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from bench import adapters as writer
from bench.gguf_file import Value
from tests import tiny_models
from worker_gguf.gguf import ModelHeader, TensorInfo, changed_matrix, read_header, why_no_adapter_of


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_models.write_attention(tmp_path / "model.gguf")


def why(base: Path, model: Path | None = None, metadata: dict[str, Value] | None = None) -> str | None:
    path = writer.write(base.parent / "adapter.gguf", base, metadata=metadata)
    return why_no_adapter_of(read_header(model or base), read_header(path))


def test_an_adapter_of_the_model_is_one(base: Path) -> None:
    assert why(base) is None


def test_an_adapter_of_experts_is_one_only_for_as_many_experts(base: Path) -> None:
    mixture = tiny_models.write_mixture(base.parent / "mixture.gguf")
    assert why(mixture) is None
    path = writer.write(base.parent / "experts.gguf", mixture)
    header = read_header(path)
    fewer = replace(header, tensors=tuple(_with_experts(tensor, 3) for tensor in header.tensors))
    assert "in another shape than the model has" in (why_no_adapter_of(read_header(mixture), fewer) or "")


def _with_experts(tensor: TensorInfo, n: int) -> TensorInfo:
    return replace(tensor, shape=(*tensor.shape[:2], n)) if len(tensor.shape) == 3 else tensor


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({"general.type": "model"}, "is not an adapter: its general.type is 'model'"),
        ({"adapter.type": "control_vector"}, "is not a LoRA adapter: its adapter.type is 'control_vector'"),
        ({"general.architecture": "gemma3"}, "is for the architecture 'gemma3', and the model has 'llama'"),
        ({"adapter.lora.alpha": float("nan")}, "has the adapter.lora.alpha nan, which is not a number"),
        ({"adapter.lora.alpha": "16"}, "has the adapter.lora.alpha '16', which is not a number"),
        ({"adapter.alora.invocation_tokens": np.array([1, 2], np.int32)}, "is an activated LoRA (aLoRA)"),
    ],
)
def test_keys_that_make_it_unusable_are_named(base: Path, metadata: dict[str, Value], wanted: str) -> None:
    assert (why(base, metadata=metadata) or "").startswith(wanted)


def test_a_model_is_not_an_adapter(base: Path) -> None:
    header = read_header(base)
    assert why_no_adapter_of(header, header) == "is not an adapter: its general.type is missing"


def test_an_adapter_of_another_model_is_told_by_its_tensors(base: Path) -> None:
    mixture = tiny_models.write_mixture(base.parent / "mixture.gguf")
    other = why(base, model=mixture) or ""
    assert other.startswith("changes 'blk.0.ffn_gate.weight', which the model does not have: it is for another model")


Change = Callable[[tuple[TensorInfo, ...]], tuple[TensorInfo, ...]]


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda tensors: (), "has no tensors"),
        (lambda tensors: tensors[1:], "has only one of the two tensors that change 'blk.0.attn_q.weight'"),
        (
            lambda tensors: (replace(tensors[0], shape=(33, 4)), *tensors[1:]),
            "changes 'blk.0.attn_q.weight' in another shape than the model has",
        ),
        (
            lambda tensors: (tensors[0], replace(tensors[1], shape=(4, 33)), *tensors[2:]),
            "changes 'blk.0.attn_q.weight' in another shape than the model has",
        ),
        (
            lambda tensors: (tensors[0], replace(tensors[1], shape=(5, 32)), *tensors[2:]),
            "has two tensors of different ranks that change 'blk.0.attn_q.weight'",
        ),
        (lambda tensors: (replace(tensors[0], type="I32"), *tensors[1:]), "of the type I32, which cannot be computed"),
        (
            lambda tensors: (replace(tensors[0], name="blk.0.attn_q.weight"), *tensors[1:]),
            "has the tensor 'blk.0.attn_q.weight', which is not part of a LoRA",
        ),
    ],
)
def test_damaged_tensors_are_named(base: Path, change: Change, wanted: str) -> None:
    header = read_header(writer.write(base.parent / "adapter.gguf", base))
    damaged = replace(header, tensors=change(header.tensors))
    assert wanted in (why_no_adapter_of(read_header(base), damaged) or "")


def test_a_pair_that_changes_a_vector_is_refused(base: Path) -> None:
    adapter = read_header(writer.write(base.parent / "adapter.gguf", base))
    pair = tuple(TensorInfo(f"output_norm.weight.lora_{kind}", (32, 4), "F32", 0, 0) for kind in "ab")
    why = why_no_adapter_of(read_header(base), replace(adapter, tensors=pair))
    assert why == "changes 'output_norm.weight', which is a vector, and llama.cpp applies a LoRA to matrices only"


def test_vectors_of_norms_are_no_reason_to_refuse(base: Path) -> None:
    header = read_header(writer.write(base.parent / "adapter.gguf", base))
    norm = TensorInfo("blk.0.attn_norm.weight", (32,), "F32", 128, 0)
    assert changed_matrix(norm) is None
    assert why_no_adapter_of(read_header(base), replace(header, tensors=(*header.tensors, norm))) is None


def embedding_adapter(model: ModelHeader, rank: int = 4) -> tuple[TensorInfo, ...]:
    (embeddings,) = (tensor for tensor in model.tensors if tensor.name == "token_embd.weight")
    n_embd, n_vocab = embeddings.shape
    return (
        TensorInfo("token_embd.weight.lora_a", (rank, n_vocab), "F32", 0, 0),
        TensorInfo("token_embd.weight.lora_b", (rank, n_embd), "F32", 0, 0),
    )


def test_an_adapter_of_the_embeddings_has_both_tensors_the_other_way_round(base: Path) -> None:
    model = read_header(base)
    adapter = read_header(writer.write(base.parent / "adapter.gguf", base))
    assert why_no_adapter_of(model, replace(adapter, tensors=embedding_adapter(model))) is None
    wrong = (embedding_adapter(model)[0], embedding_adapter(model, rank=5)[1])
    assert "different ranks" in (why_no_adapter_of(model, replace(adapter, tensors=wrong)) or "")


def test_an_adapter_of_embeddings_that_are_the_output_too_is_refused(base: Path) -> None:
    model = read_header(base)
    adapter = replace(read_header(writer.write(base.parent / "a.gguf", base)), tensors=embedding_adapter(model))
    tied = replace(model, tensors=tuple(tensor for tensor in model.tensors if tensor.name != "output.weight"))
    assert "which are the output of this model, too" in (why_no_adapter_of(tied, adapter) or "")
