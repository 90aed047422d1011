"""Tests of what a projector's header says: for which model it is, and what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench import projectors
from tests.tiny_models import write_attention
from worker_gguf.gguf import ModelHeader, read_header
from worker_gguf.gguf.projector import projector_shape, why_not_for


@pytest.fixture
def model(tmp_path: Path) -> ModelHeader:
    return read_header(write_attention(tmp_path / "model.gguf"))


def header(folder: Path, kind: str = "mlp", n_out: int = 32, **own: Any) -> ModelHeader:
    return read_header(
        projectors.write(folder / "mmproj.gguf", projectors.Projector(kind, n_out, **{"n_embd": 64, **own}))
    )


def changed(given: ModelHeader, **values: object) -> ModelHeader:
    return replace(given, metadata={**given.metadata, **{f"clip.{name}": value for name, value in values.items()}})


@pytest.mark.parametrize("kind", ["mlp", "gemma3", "qwen2vl_merger"])
def test_a_projector_fits_the_model_to_whose_width_it_projects(tmp_path: Path, model: ModelHeader, kind: str) -> None:
    assert why_not_for(header(tmp_path, kind), model) is None
    assert "another model" in (why_not_for(header(tmp_path, kind, n_out=48), model) or "")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"has_vision_encoder": False}, "sounds alone"),
        ({"projector_type": "hunyuanvl"}, "hunyuanvl"),
        ({"projector_type": "deepseek4v"}, "depend on those before them"),
    ],
)
def test_projectors_that_cannot_be_used_are_named(
    tmp_path: Path, model: ModelHeader, values: dict[str, object], why: str
) -> None:
    assert why in (why_not_for(changed(header(tmp_path), **values), model) or "")


def test_a_model_that_would_end_the_process_at_the_first_image_is_named(tmp_path: Path, model: ModelHeader) -> None:
    old = replace(model, architecture="glm4")
    assert "rope.dimension_sections" in (why_not_for(header(tmp_path), old) or "")
    new = replace(old, metadata={**model.metadata, "glm4.rope.dimension_sections": 4})
    assert why_not_for(header(tmp_path), new) is None


def test_a_model_is_no_projector(model: ModelHeader) -> None:
    assert why_not_for(model, model) == "it is no projector"


def test_the_shape_of_a_square_projector_is_that_of_its_only_size(tmp_path: Path, model: ModelHeader) -> None:
    given = header(tmp_path, image_size=56, patch_size=14)
    shape = projector_shape(given, model)
    assert (shape.n_patches, shape.n_embd, shape.n_ff, shape.most_together) == (16, 64, 64, 0)
    assert shape.weights_bytes == given.weights_bytes


def test_the_rows_of_gemma_are_computed_together(tmp_path: Path, model: ModelHeader) -> None:
    shape = projector_shape(header(tmp_path, "gemma3", image_size=56, patch_size=14, scale=2), model)
    assert shape.most_together == 4
    large = changed(header(tmp_path, "gemma3"), projector_type="gemma4v")
    assert projector_shape(large, model).most_together == 1120
    assert projector_shape(large, replace(model, n_embd=2560)).most_together == 0


def test_a_projector_of_any_size_is_planned_for_its_largest_image(tmp_path: Path, model: ModelHeader) -> None:
    assert projector_shape(header(tmp_path, "qwen2vl_merger"), model).n_patches == 4 * 4096
